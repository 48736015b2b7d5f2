"""Every array that was recorded from published code is read by a test, or dropped for a reason."""

import fnmatch
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

TESTS = Path(__file__).parent
STORED = TESTS / "oracles"
SHARED = [p / "shared" / "oracles" for p in TESTS.parents if (p / "shared" / "oracles").is_dir()]
RECORDED = Path(os.environ.get("ABE_ORACLES", *SHARED[:1] or [TESTS / "absent"]))
"""Where the recordings came from, on machines that have it; a clone has what is in `oracles`."""

RENAMED = {
    "x": ("image", "x_u8"),
    "references": ("references_u8",),
    "baseline": ("baseline_u8",),
    "feature_mask": ("regions",),
    "segments": ("regions",),
    "points_minus_x_over_alpha": ("points",),
    "draw_log": ("meta", "small_draws", "classes", "draws"),
    "draw_0*": ("draws",),
}
"""Under what other names arrays are stored: inputs by number or byte, one plane, draws in one array."""

DROPPED = {
    ("gradcam_features", "*"): "what the eight maps of that package are made of; the maps are compared",
    ("rollout_vit_formula", "*"): "a formula's, not a publication's; test_attention.py works it out itself",
    ("inputs", "x224_u8"): "in attexplore_224 as x_u8",
    ("captum_*", "logits"): "kept in the backward cases, which compare the score; the networks are the same",
    ("captum_ig_*", "f_baseline"): "the score of a black image, kept in captum_deeplift_zero",
    ("captum_ig_prob", "probs"): "worked out in its test",
    ("captum_gradcam_*", "relu"): "max(raw, 0)",
    ("captum_gradcam_*", "activation"): "of the network, not of the method",
    ("fig_h", "f"): "worked out in its test",
    ("gig_*", "f_*"): "the ends of the path, which completeness reads",
    ("mfaba_*", "points"): "the map compared is their sum",
    ("mfaba_*", "step_sign"): "the map compared is their sum",
    ("mfaba_*", "last_point"): "the map compared is of the way there",
    ("agi_*", "last_point"): "the maps compared are of the way there",
    ("attack_tim", "kernel"): "the attacked inputs compared went through it",
    ("attexplore_224", "last_point"): "the last of points",
    ("attexplore_224", "grad_step0"): "a factor of the map",
    ("gradcam_eigencam", "out"): "the raw map, scaled to [0, 1]",
    ("rise", "masks"): "made of grid and shift",
    ("quantus_*", "x"): "not read by metrics of the map; kept where the model runs",
    ("quantus_*", "label"): "not read by metrics of the map; kept where the model runs",
    ("quantus_pixelflipping_1ch_auc", "attribution"): "that of quantus_pixelflipping_1ch",
    ("quantus_faithfulnesscorrelation", "meta"): "settings, in its test",
}
"""Why an array is not stored."""


def arrays(folder: Path) -> dict[str, set[str]]:
    """Names of arrays by file; those of one log of draws are one."""
    found: dict[str, set[str]] = {}
    for path in sorted(folder.glob("*.npz")):
        with np.load(path, allow_pickle=False) as file:
            found[path.stem] = {"draw_0*" if k.startswith("draw_0") else k for k in file.files}
    return found


def why(name: str, key: str) -> str:
    """The reason why an array is not stored, or ""."""
    fits = (v for (n, k), v in DROPPED.items() if fnmatch.fnmatch(name, n) and fnmatch.fnmatch(key, k))
    return next(fits, "")


@pytest.mark.skipif(not RECORDED.is_dir(), reason="the recordings are not on this machine")
def test_every_recorded_array_is_stored_or_dropped_for_a_reason() -> None:
    stored, recorded = arrays(STORED), arrays(RECORDED)
    lost = [
        (name, key)
        for name, keys in recorded.items()
        for key in keys - stored.get(name, set())
        if not why(name, key) and not stored.get(name, set()) & set(RENAMED.get(key, ()))
    ]
    assert lost == []
    known = {(name, key) for name, keys in recorded.items() for key in keys}
    idle = [one for one in DROPPED if not any(all(map(fnmatch.fnmatch, k, one)) for k in known)]
    assert idle == []


def unread(stored: dict[str, set[str]], read: dict[str, set[str]]) -> list[tuple[str, str]]:
    """Arrays that no test has read, but for settings, draws that settings name, and inputs of all."""
    return [
        (name, key)
        for name, keys in stored.items()
        for key in sorted(keys - {"meta", "draw_0*"})
        if name != "inputs" and ("x" if key == "image" else key.removesuffix("_u8")) not in read.get(name, ())
    ]


def test_an_array_that_nobody_reads_is_found() -> None:
    stored = {"inputs": {"x32_u8"}, "a": {"meta", "out", "image"}, "b": {"draw_0*", "out", "base"}}
    assert unread(stored, {"a": {"out", "x"}, "b": {"out"}}) == [("b", "base")]
    assert unread(stored, {"b": {"out", "base"}}) == [("a", "image"), ("a", "out")]


@pytest.mark.slow
def test_every_stored_array_is_read(tmp_path: Path) -> None:
    """All tests with recordings in one process, which notes what they read."""
    files = [
        str(p) for p in TESTS.rglob("test_*.py") if "oracle(" in p.read_text() or "recorded(" in p.read_text()
    ]
    files = [f for f in files if Path(f) != Path(__file__) and "peers" not in f and "studies" not in f]
    written = tmp_path / "read.json"
    environment = {
        **os.environ,
        "ABE_READ": str(written),
        "PYTHONPATH": f"{TESTS.parent / 'src'}:{TESTS.parent}",
    }
    chosen = ["-n", "0", "-q", "-p", "no:cacheprovider", "-m", "not slow and not peers"]
    command = [sys.executable, "-m", "pytest", "-p", "tests.reading", *chosen, *files]
    done = subprocess.run(command, cwd=TESTS.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    read = {name: set(keys) for name, keys in json.loads(written.read_text()).items()}
    assert unread(arrays(STORED), read) == []

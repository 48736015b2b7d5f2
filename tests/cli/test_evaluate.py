"""``abe evaluate`` on saved explanations, on files of others, and what it refuses."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.cli.runner import invoke
from tests.cli.test_cli import TINY

from abe.cli import exits
from abe.errors import Code
from abe.task import zoo

Run = Callable[..., Any]
PHOTOS = ("chelsea", "coffee")
MODEL = ("-m", "tiny_net:task", "--step", "25%")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in a folder with a small model and maps of two photographs by two methods."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tiny_net", raising=False)
    (tmp_path / "tiny_net.py").write_text(TINY)
    for name, photo in zoo.photographs(list(PHOTOS)).items():
        photo.save(tmp_path / f"{name}.png")
    for method in ("gradient", "fast_ig"):
        photos = [f"{name}.png" for name in PHOTOS]
        made = invoke("explain", *photos, "-k", method, "-m", "tiny_net:task", "--save", "-o", "maps")
        assert made.exit_code == 0, made.output
    return invoke


def saved(method: str) -> list[str]:
    return [f"maps/{name}-{method}" for name in PHOTOS]


def test_saved_folders_of_one_method_belong_together(run: Run, tmp_path: Path) -> None:
    words = (*saved("gradient"), *reversed(saved("fast_ig")), "--metrics", "ins,del,passes", *MODEL)
    result = run("evaluate", *words, "-o", "here")
    assert result.exit_code == 0, result.output
    for piece in ("gradient", "fast_ig", "INS", "±", "Means over 2 samples", "too few samples"):
        assert piece in " ".join(result.stdout.split())
    assert (tmp_path / "here/scores.png").read_bytes().startswith(b"\x89PNG")
    import abe

    assert set(abe.Comparison.load("here").methods) == {"gradient", "fast_ig"}


def test_json_is_json_and_equals_compare(run: Run) -> None:
    words = ("--metrics", "ins,kl_del", "--json")
    found = json.loads(run("evaluate", *saved("gradient"), *saved("fast_ig"), *MODEL, *words).stdout)
    photos = [f"{name}.png" for name in PHOTOS]
    compared = json.loads(run("compare", *photos, "--methods", "gradient,fast_ig", *MODEL, *words).stdout)
    mine, theirs = (
        {e["method"]: {n: s["values"] for n, s in e["scores"].items()} for e in d["ranking"]}
        for d in (found, compared)
    )
    for method, scores in theirs.items():
        for name, values in scores.items():
            assert mine[method][name] == pytest.approx(values, rel=1e-5, abs=1e-6)
    assert Path(found["saved"]).is_file()
    assert len(found["tests"]) == 2


def test_files_of_others_need_photographs(run: Run) -> None:
    maps = np.random.default_rng(0).normal(size=(2, 16, 16, 3))
    np.save("theirs.npy", maps)
    np.save("masks.npy", np.arange(256).reshape(1, 16, 16).repeat(2, 0) < 100)
    result = run("evaluate", "theirs.npy", *MODEL)
    assert result.exit_code == exits.INPUT
    assert "--photo" in result.stderr
    photos = [word for name in PHOTOS for word in ("-f", f"{name}.png")]
    words = ("--metrics", "ins,relevance_mass", "--masks", "masks.npy", "--json")
    result = run("evaluate", "shap=theirs.npy", *saved("gradient"), *photos, *MODEL, *words)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert {e["method"] for e in found["ranking"]} == {"shap", "gradient"}
    mass = next(e for e in found["ranking"] if e["method"] == "shap")["scores"]["relevance_mass"]
    heat = maps.sum(3).clip(0).reshape(2, -1)
    assert mass["values"] == pytest.approx(heat[:, :100].sum(1) / heat.sum(1), rel=1e-5)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("nowhere",), exits.STORAGE, Code.FOREIGN_FILE),
        (("chelsea.png", "-f", "chelsea.png"), exits.STORAGE, Code.FOREIGN_FILE),
        (("maps",), exits.STORAGE, Code.FOREIGN_FILE),
        (("maps/chelsea-gradient", "maps/coffee-fast_ig"), exits.INPUT, Code.SAMPLES),
        (("maps/chelsea-gradient", "-f", "coffee.png"), exits.INPUT, Code.SAMPLES),
        (("maps/chelsea-gradient", "--metrics", "nothing"), exits.INPUT, Code.UNKNOWN_NAME),
        (("maps/chelsea-gradient", "--metrics", "relevance_mass"), exits.INPUT, Code.MASK),
        (("maps/chelsea-gradient", "--step", "x"), exits.INPUT, Code.BAD_PARAMETER),
        (("maps/chelsea-gradient", "-t", "c"), exits.INPUT, Code.TARGET_RANGE),
    ],
)
def test_refusals(run: Run, words: tuple[str, ...], code: int, says: Code) -> None:
    step = () if "--step" in words else ("--step", "25%")
    result = run("evaluate", *words, "-m", "tiny_net:task", *step)
    assert result.exit_code == code, result.output
    assert says.value in result.stderr
    assert result.stdout == ""


def test_without_maps_it_is_a_usage_error(run: Run) -> None:
    assert run("evaluate").exit_code == exits.USAGE
    help_text = run("evaluate", "--help").stdout
    for piece in ("--photo", "--masks", "Examples", "Exit codes"):
        assert piece in help_text

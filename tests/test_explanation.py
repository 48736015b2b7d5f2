"""The result: what it says, its parts, and that what is saved comes back or is refused."""

import errno
import json
import os
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import config
from safetensors.torch import load_file, save_file
from tests.ids import shown
from torch import Tensor, nn

import abe
from abe.draws import Ids
from abe.errors import Code, InputError, StorageError
from abe.explanation import Explanation, check_map, versions
from abe.types import Cost

MANIFEST = "explanation.json"


def _explanation(b: int = 3, seed: int = 0, **changes) -> Explanation:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    shape = changes.get("attribution", changes.get("x", torch.empty(b, 3, 4, 5))).shape
    given = {
        "attribution": draw(*shape),
        "x": draw(*shape),
        "target": torch.arange(b),
        "target_names": ["tench", "goldfish", "großer Hai"][:b],
        "names": ["a.png", "b/ü.png", "sample 2"][:b],
        "method": "expected_gradients",
        "spec": {"method": "expected_gradients", "params": {"samples": 50, "list": [1, [2]], "none": None}},
        "objective": "Margin(a=None, b=3)",
        "score": draw(b),
        "delta": draw(b),
        "standard_error": draw(*shape).abs(),
        "top": [[("tench", 0.1 + 0.2), ("goldfish", 1e-12)] for _ in range(b)],
        "cost": Cost(forward_rows=7, backward_rows=5, seconds=0.1 + 0.2, chunk=4, execution="folded"),
        "warnings": ["Something. [ABE-ZERO-MAP]"],
        "seed": 2**62 + 1,
        "ids": [2**63 - 1, 5, 0][:b],
        "versions": versions(),
        "diagnostics": {
            "nodes": torch.arange(b), "flat": draw(b, 2, dtype=torch.float64), "won": torch.ones(b).bool(),
        },
        "modality": "image",
    }  # fmt: skip
    return Explanation(**{**given, **changes})


def _same(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[k], other[k]) for k in one)
    one, other = (list(o) if isinstance(o, Ids) else o for o in (one, other))  # found when asked for
    return type(one) is type(other) and one == other


def assert_same(one: Explanation, other: Explanation) -> None:
    for field in fields(Explanation):
        assert _same(getattr(one, field.name), getattr(other, field.name)), field.name


# -- what it says ------------------------------------------------------------------------------------------


def test_residual_is_what_is_missed_of_the_change():
    made = _explanation(3, delta=torch.tensor([2.0, -4.0, 0.5]))
    made.attribution = torch.tensor([1.5, -5.0, 0.5]).view(3, 1, 1, 1)
    assert made.residual_absolute.tolist() == [0.5, 1.0, 0.0]
    assert made.residual.tolist() == [0.25, 0.25, 0.0]
    assert made.residual.dtype == torch.float64


def test_residual_without_change():
    made = _explanation(3, delta=torch.zeros(3))
    made.attribution = torch.tensor([0.0, 1e-3, -2.0]).view(3, 1, 1, 1)
    assert made.residual.tolist() == [0.0, -float("inf"), float("inf")]


def test_no_claim_no_residual():
    made = _explanation(delta=None)
    assert made.residual is None
    assert made.residual_absolute is None


def test_residual_is_summed_in_double_precision():
    made = _explanation(1, delta=torch.tensor([1e8]))
    made.attribution = torch.tensor([1e8, 1.0, -1.0, 0.5], dtype=torch.float32).view(1, 1, 2, 2)
    assert made.residual_absolute.tolist() == [-0.5]


def test_maps_per_position():
    made = _explanation(1)
    made.attribution = torch.tensor([[[[1.0, -2.0]], [[-3.0, 1.0]], [[0.5, 0.0]]]])
    assert made.map().tolist() == [[[-1.5, -1.0]]]
    assert made.map("sum").tolist() == [[[-1.5, -1.0]]]
    assert made.map("abs").tolist() == [[[4.5, 3.0]]]
    assert made.map("max").tolist() == [[[3.0, 2.0]]]


def test_maps_of_other_shapes():
    flat = torch.randn(2, 7)
    assert torch.equal(_explanation(2, attribution=flat, x=flat).map(), flat)
    series = torch.randn(2, 3, 9)
    assert torch.equal(_explanation(2, attribution=series, x=series).map("abs"), series.abs().sum(1))


@pytest.mark.parametrize("index", [0, 1, 2, -1])
def test_one_sample_of_many(index):
    made = _explanation(3)
    one, i = made[index], index % 3
    assert len(one) == 1
    for name in ("attribution", "x", "target", "score", "delta", "standard_error", "residual"):
        assert torch.equal(getattr(one, name), getattr(made, name)[i : i + 1]), name
    for name in ("names", "target_names", "top", "ids"):
        assert getattr(one, name) == [getattr(made, name)[i]], name
    for name, kept in made.diagnostics.items():
        assert torch.equal(one.diagnostics[name], kept[i : i + 1])
    for name in ("method", "spec", "objective", "cost", "warnings", "seed", "versions", "modality"):
        assert getattr(one, name) == getattr(made, name), name


def test_a_loop_over_samples_ends():
    assert [one.names[0] for one in _explanation(3)] == ["a.png", "b/ü.png", "sample 2"]
    with pytest.raises(IndexError, match="sample 3 of 3"):
        _explanation(3)[3]
    with pytest.raises(IndexError, match="sample -4 of 3"):
        _explanation(3)[-4]


def test_as_an_array():
    made = _explanation(2)
    assert made.shape == (2, 3, 4, 5)
    assert np.array_equal(np.asarray(made), made.attribution.numpy())
    assert np.asarray(made, dtype=np.float64).dtype == np.float64


def test_maps_that_methods_may_not_return():
    x = torch.zeros(1, 3, 2, 2)
    for found, code in ((x[:, :1], Code.MAP_SHAPE), (x / 0, Code.MAP_NOT_FINITE)):
        with pytest.raises(InputError) as caught:
            check_map(found, x)
        assert caught.value.code is code


# -- saved and read again ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"delta": None, "standard_error": None, "diagnostics": {}, "top": [], "ids": [], "warnings": []},
        {"target": torch.tensor([[1, 2], [3, 4], [5, 6]])},
        {"score": torch.randn(3).bfloat16(), "attribution": torch.randn(3, 1, 2, 2).double()},
        {"attribution": torch.randn(3, 4, 5, 6).transpose(1, 3)},
    ],
    ids=["all", "least", "axes", "types", "strides"],
)
def test_round_trip(tmp_path, changes):
    made = _explanation(3, **changes)
    assert made.save(tmp_path / "deep" / "er") == tmp_path / "deep" / "er"
    assert_same(Explanation.load(tmp_path / "deep" / "er"), made)
    assert_same(Explanation.load(str(tmp_path / "deep" / "er")), made)


def test_round_trip_of_a_real_one(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).eval()
    task = abe.image_task(model, labels=["a", "b", "c"])
    for method in ("ig", "eg", "gig", "smoothgrad", "gradient"):
        made = abe.explain(task, torch.rand(2, 3, 2, 2), method, progress=False)
        made.save(tmp_path)
        assert_same(Explanation.load(tmp_path), made)
        assert_same(Explanation.load(made[1].save(tmp_path)), made[1])
    assert len(list(tmp_path.iterdir())) == 2


def test_an_explanation_keeps_what_it_explained_when_the_tensor_is_filled_anew():
    task = abe.image_task(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).eval())
    x = torch.rand(2, 3, 2, 2)
    before, expected = x.clone(), abe.explain(task, x.clone(), "gradient")
    made = abe.explain(task, x, "gradient")
    x.zero_()
    assert torch.equal(made.x, before)
    assert made.ids == list(expected.ids)


def test_tensors_that_share_memory_are_saved(tmp_path):
    x = torch.randn(2, 3, 4, 5)
    made = _explanation(2, attribution=x, x=x)
    assert_same(Explanation.load(made.save(tmp_path)), made)


def test_nothing_is_pickled(tmp_path):
    _explanation().save(tmp_path)
    tensors, manifest = sorted(tmp_path.iterdir(), key=lambda path: path.suffix, reverse=True)
    assert set(load_file(tensors)) >= {"attribution", "x", "target", "diagnostic.nodes"}
    written = json.loads(manifest.read_text(encoding="utf-8"))
    assert written["format"] == "abe-explanation"
    assert written["versions"]["torch"] == torch.__version__
    assert written["seed"] == 2**62 + 1
    assert written["residual"] == _explanation().residual.tolist()


def test_infinite_residual_is_valid_json(tmp_path):
    made = _explanation(delta=torch.zeros(3))
    made.save(tmp_path)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads((tmp_path / MANIFEST).read_text(), parse_constant=refuse)


def test_saving_again_replaces(tmp_path):
    first, second = _explanation(seed=0), _explanation(seed=1)
    first.save(tmp_path)
    second.save(tmp_path)
    assert_same(Explanation.load(tmp_path), second)
    second.save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert os.stat(tmp_path / MANIFEST).st_mode & 0o777 == 0o644


# -- what cannot be read -----------------------------------------------------------------------------------


def _refused(folder: Path, code: Code, *says: str) -> None:
    with pytest.raises(StorageError) as caught:
        Explanation.load(folder)
    assert caught.value.code is code
    assert str(caught.value).endswith(f"[{code.value}]")
    for text in says:
        assert text in str(caught.value), str(caught.value)


@pytest.fixture
def saved(tmp_path) -> Path:
    return _explanation().save(tmp_path / "saved")


def _tensors(folder: Path) -> Path:
    (path,) = folder.glob("*.safetensors")
    return path


def _edit(folder: Path, **changes) -> None:
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    manifest.update(changes)
    (folder / MANIFEST).write_text(
        json.dumps({k: v for k, v in manifest.items() if v != "gone"}), encoding="utf-8"
    )


def test_missing(tmp_path):
    _refused(tmp_path / "nowhere", Code.FOREIGN_FILE, "nowhere", MANIFEST)
    _refused(tmp_path, Code.FOREIGN_FILE, MANIFEST)
    (tmp_path / "file").write_text("x")
    _refused(tmp_path / "file", Code.CORRUPT_FILE, "file")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"not json", b"\xff\xfe\x00", b"[" * 100_000, b'{"format": "abe-expl'],
    ids=range(6),
)
def test_manifest_that_is_no_json(saved, content):
    (saved / MANIFEST).write_bytes(content)
    _refused(saved, Code.CORRUPT_FILE, MANIFEST)


@pytest.mark.parametrize(
    "content", ["[]", "3", "{}", '{"format": "captum"}', '{"format": null, "sha256": 3}']
)
def test_manifest_of_something_else(saved, content):
    (saved / MANIFEST).write_text(content)
    _refused(saved, Code.FOREIGN_FILE, "not written by ABE")


@pytest.mark.parametrize("version", [2, 0, None, "1"])
def test_manifest_of_another_version(saved, version):
    _edit(saved, format_version=version)
    _refused(saved, Code.FOREIGN_FILE, f"format version {version}", "Expected 1")


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.999])
def test_truncated_tensors(saved, share):
    content = _tensors(saved).read_bytes()
    _tensors(saved).write_bytes(content[: int(len(content) * share)])
    _refused(saved, Code.CORRUPT_FILE, "damaged")


@pytest.mark.parametrize("at", [0, 9, -1])
def test_one_changed_bit(saved, at):
    content = bytearray(_tensors(saved).read_bytes())
    content[at] ^= 1
    _tensors(saved).write_bytes(bytes(content))
    _refused(saved, Code.CORRUPT_FILE, "digest")


def test_tensors_of_another_explanation(saved, tmp_path):
    other = _explanation(seed=7).save(tmp_path / "other")
    shutil.copyfile(_tensors(other), _tensors(saved))
    _refused(saved, Code.CORRUPT_FILE, "exchanged")


def test_missing_tensors(saved):
    _tensors(saved).unlink()
    _refused(saved, Code.CORRUPT_FILE, "missing")


@pytest.mark.parametrize(
    "name",
    ["../secret.safetensors", "/etc/passwd", "..", "", ".", "a\0b", 3, None, ["x"], "explanation.json"],
)
def test_manifest_that_names_another_file(saved, name):
    (saved.parent / "secret.safetensors").write_bytes(_tensors(saved).read_bytes())
    _edit(saved, tensors=name)
    _refused(saved, Code.CORRUPT_FILE, "names no file")


@pytest.mark.parametrize(
    "changes",
    [{name: "gone"} for name in ("names", "method", "cost", "top", "spec", "seed", "target_names")]
    + [
        {"cost": {"unheard": 1}},
        {"cost": None},
        {"top": [[1, 2]]},
        {"top": [["a"]]},
        {"names": ["only one"]},
        {"target_names": None},
        {"ids": [1, 2]},
    ],
    ids=shown,
)
def test_manifest_with_parts_missing_or_wrong(saved, changes):
    _edit(saved, **changes)
    _refused(saved, Code.CORRUPT_FILE, "damaged")


@pytest.mark.parametrize(
    "tensors", [{}, {"attribution": torch.zeros(1)}, {"stranger": torch.zeros(1)}], ids=shown
)
def test_tensors_with_parts_missing(saved, tensors):
    import hashlib

    path = _tensors(saved)
    save_file(tensors, path)
    _edit(saved, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    _refused(saved, Code.CORRUPT_FILE, "damaged")


def test_pickle_instead_of_tensors_is_never_loaded(saved):
    import hashlib

    path = _tensors(saved)
    path.write_bytes(b"\x80\x04cbuiltins\neval\n(S'1/0'\ntR.")
    _edit(saved, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    _refused(saved, Code.CORRUPT_FILE, "damaged")


# -- what cannot be written --------------------------------------------------------------------------------


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def _fails(monkeypatch: pytest.MonkeyPatch, step: str, call: int) -> None:
    """The given call of a step finds the disk full."""
    module, name = {
        "write": (os, "fdopen"),
        "fsync": (os, "fsync"),
        "rename": (os, "replace"),
        "open": (os, "open"),
    }[step]
    real, left = getattr(module, name), [call]

    def full(*args, **kwargs):
        left[0] -= step != "open" or bool(args[1] & os.O_CREAT)
        if left[0] == 0:
            left[0] = -1
            if step == "write":
                os.close(args[0])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*args, **kwargs)

    monkeypatch.setattr(module, name, full)


@pytest.mark.parametrize("step", ["open", "write", "fsync", "rename"])
@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize("there", [True, False])
def test_full_disk_at_every_step(tmp_path, monkeypatch, step, call, there):
    folder = tmp_path / "saved"
    if there:
        _explanation(seed=0).save(folder)
    before = _contents(folder)
    _fails(monkeypatch, step, call)
    with pytest.raises(StorageError) as caught:
        _explanation(seed=1).save(folder)
    monkeypatch.undo()
    assert caught.value.code is Code.NOT_WRITTEN
    assert "No space left on device" in str(caught.value)
    assert "unchanged" in str(caught.value)
    assert _contents(folder) == before
    if there:
        assert_same(Explanation.load(folder), _explanation(seed=0))
    _explanation(seed=1).save(folder)
    assert_same(Explanation.load(folder), _explanation(seed=1))


def test_full_disk_when_only_the_words_change(tmp_path, monkeypatch):
    """The same tensors have the same file; a failure must not take it away."""
    _explanation().save(tmp_path)
    _fails(monkeypatch, "rename", 2)
    with pytest.raises(StorageError):
        _explanation(objective="Logit").save(tmp_path)
    monkeypatch.undo()
    assert_same(Explanation.load(tmp_path), _explanation())


def test_interruption_leaves_the_old_one(tmp_path, monkeypatch):
    _explanation(seed=0).save(tmp_path)
    before = _contents(tmp_path)

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        _explanation(seed=1).save(tmp_path)
    assert _contents(tmp_path) == before


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 200 kB, where the test may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_disk_that_is_really_full(small_disk):
    small, large = _explanation(seed=0), _explanation(2, x=torch.randn(2, 3, 100, 100))
    small.save(small_disk)
    before = _contents(small_disk)
    for _ in range(3):
        with pytest.raises(StorageError) as caught:
            large.save(small_disk)
        assert caught.value.code is Code.NOT_WRITTEN
        assert "No space left on device" in str(caught.value)
    assert _contents(small_disk) == before
    assert_same(Explanation.load(small_disk), small)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"names": ["one"]}, "1 names for 3 samples"),
        ({"names": None}, "names is None"),
        ({"target_names": []}, "0 target_names"),
        ({"target": torch.tensor([-1, 0, 1])}, "a target is negative"),
        ({"target": torch.zeros(3)}, "no integers"),
        ({"score": torch.zeros(2)}, "score is"),
        ({"delta": torch.zeros(5)}, "size of tensor"),
        ({"attribution": torch.full((3, 3, 4, 5), torch.nan)}, "NaN"),
        ({"x": torch.zeros(3, 3, 4, 4)}, "of inputs"),
        ({"diagnostics": {"n": torch.tensor(1)}}, "diagnostic.n"),
        ({"ids": ["a", "b", "c"]}, "an integer"),
        ({"spec": {"model": object()}}, "JSON cannot say"),
        ({"cost": None}, "asdict"),
        ({"top": [[("a", float("nan"))]] * 3}, "finite"),
    ],
    ids=shown,
)
def test_what_could_not_be_read_again_is_not_written(tmp_path, changes, said):
    made = _explanation()
    vars(made).update(changes)
    with pytest.raises(StorageError, match=said) as caught:
        made.save(tmp_path / "new")
    assert caught.value.code is Code.NOT_WRITTEN
    assert not (tmp_path / "new").exists()


def test_numbers_of_numpy_and_paths_come_back_as_plain_ones(tmp_path):
    made = _explanation()
    vars(made).update(top=[[("a", np.float32(0.5))]] * 3, ids=np.arange(3), seed=np.int64(4))
    made.names = [Path("a"), Path("b"), os.fsdecode(b"c\xff")]
    back = Explanation.load(made.save(tmp_path))
    assert back.top == [[("a", 0.5)]] * 3
    assert back.ids == [0, 1, 2]
    assert type(back.seed) is int
    assert back.names == ["a", "b", os.fsdecode(b"c\xff")]
    assert len(Explanation.load(_explanation()[0:0].save(tmp_path))) == 0


@pytest.fixture
def _as_users_call():
    """Without the tests' check of annotations."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("_as_users_call")
@pytest.mark.parametrize("path", [None, 3, b"bytes", ["a"]])
def test_what_is_no_path(path):
    for call in (Explanation.load, _explanation().save, abe.load_fitted, abe.Comparison.load):
        with pytest.raises(abe.AbeError, match="no path"):
            call(path)


def test_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("precious")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StorageError) as caught:
            _explanation().save(folder)
        assert caught.value.code is Code.NOT_WRITTEN
    assert (tmp_path / "file").read_text() == "precious"


def test_manifest_of_something_else_is_not_overwritten(tmp_path):
    """Nor is a file removed that a foreign manifest happens to name."""
    (tmp_path / MANIFEST).write_text('{"format": "notes", "tensors": "precious.txt"}')
    (tmp_path / "precious.txt").write_text("precious")
    before = _contents(tmp_path)
    with pytest.raises(StorageError) as caught:
        _explanation().save(tmp_path)
    assert caught.value.code is Code.FOREIGN_FILE
    assert _contents(tmp_path) == before
    (tmp_path / MANIFEST).write_text(
        '{"format": "abe-explanation", "format_version": 1, "tensors": "precious.txt"}'
    )
    _explanation().save(tmp_path)
    assert (tmp_path / "precious.txt").read_text() == "precious"


def test_damaged_manifest_is_replaced(tmp_path):
    (tmp_path / MANIFEST).write_text("{")
    _explanation().save(tmp_path)
    assert_same(Explanation.load(tmp_path), _explanation())

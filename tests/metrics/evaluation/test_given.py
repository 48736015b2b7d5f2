"""Maps, samples and regions that users hand in: every layout, list, file and path, or a refusal."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.cli.runner import invoke
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import abe
from abe.errors import AbeError, Code
from abe.metrics import agreement

SIDE = 10
X = torch.rand(5, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
MAPS = torch.rand(5, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 1, 2, 0, 1])
MASKS = torch.zeros(5, SIDE, SIDE, dtype=torch.bool)
MASKS[:, 2:5, 3:7] = True


def task() -> abe.Task:
    torch.manual_seed(0)
    return abe.image_task(nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 3)).eval())


def values(maps: Any, data: Any = X, metric: str = "insertion", **how: Any) -> Tensor:
    how = {"step": 0.2, "progress": False, "target": 1, **how}
    found = abe.evaluate(task(), {"m": maps}, [metric], data=data, **how)
    return found.scores["m"][metric].values


def refused(*args: Any, **how: Any) -> AbeError:
    with pytest.raises(AbeError) as caught:
        values(*args, **how)
    return caught.value


# -- maps --------------------------------------------------------------------------------------------------

SHAPES: dict[str, Callable[[Tensor], Tensor]] = {
    "channels first": lambda m: m,
    "one channel": lambda m: m.sum(1, keepdim=True),
    "no channel": lambda m: m.sum(1),
    "channels last": lambda m: m.movedim(1, -1),
    "one channel last": lambda m: m.sum(1)[..., None],
}
FORMS: dict[str, Callable[[Tensor], Any]] = {
    "tensor": lambda m: m,
    "array": lambda m: m.numpy(),
    "big-endian": lambda m: m.numpy().astype(">f8"),
    "long double": lambda m: m.numpy().astype(np.longdouble),
    "list of batches": lambda m: [m[:2], m[2:]],
    "list of maps": lambda m: [*m.numpy()],
    "mixed": lambda m: (m[0], m[1:4], m[4]),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_maps_of_every_layout_in_every_container(shape: str, form: str) -> None:
    given = FORMS[form](SHAPES[shape](MAPS))
    right = values(MAPS if shape.startswith("channels") else MAPS.sum(1))
    torch.testing.assert_close(values(given), right, rtol=1e-4, atol=1e-5)
    for size in (2, 5):
        data = DataLoader(TensorDataset(X), batch_size=size)
        if size == 2 and shape == "channels first" and form == "list of maps":  # or three samples per class
            assert "not clear" in str(refused(given, data))
        else:
            torch.testing.assert_close(values(given, data), right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_one_map_without_a_batch(shape: str, tmp_path: Path) -> None:
    whole = SHAPES[shape](MAPS[:1])
    right = values(whole, X[:1])
    np.save(tmp_path / "one.npy", whole[0].numpy())
    np.savez(tmp_path / "one.npz", maps=whole[0].numpy(), x=X[0].numpy())
    for given in (whole[0], whole[0].numpy(), [whole[0]], tmp_path / "one.npy", str(tmp_path / "one.npz")):
        torch.testing.assert_close(values(given, X[:1]), right)
        torch.testing.assert_close(values(given, X[0]), right)


@pytest.mark.parametrize(
    "given", [MAPS[:4], MAPS[0, 0], [*MAPS[:4]], [MAPS[:2], MAPS[2:4]], [*MAPS, MAPS[0]]]
)
def test_other_numbers_of_maps_are_refused(given: Any) -> None:
    for data in (X, DataLoader(TensorDataset(X), batch_size=2)):
        assert refused(given, data).code in (Code.SAMPLES, Code.MAP_SHAPE, Code.TARGET_RANGE)


@pytest.mark.parametrize("held", [1, 2, 3, 4, 5, 6, 9])
def test_a_refusal_counts_maps_and_samples(held: int) -> None:
    """As many as there are of both, or as have been read when it shows."""
    maps, found = MAPS[:1].expand(held, *MAPS.shape[1:]), len(X)
    if held == found:
        values(maps, X)
        return
    for given in (maps, maps.numpy()):
        together, batches = (
            str(refused(given, data)) for data in (X, DataLoader(TensorDataset(X), batch_size=2))
        )
        assert f"{held} maps for" in together
        assert f"{held} maps for" in batches
        assert f"{found} samples" in together
        assert held > found or "at least" in batches


def test_lists_that_can_be_read_in_two_ways_are_refused() -> None:
    """Three arrays (3, h, w) for three samples: a map each, or a map of all for each class."""
    three = [*MAPS[:3]]
    assert "not clear" in str(refused(three, X[:3]))
    assert "not clear" in str(refused(three, DataLoader(TensorDataset(X[:3]))))
    torch.testing.assert_close(values(torch.stack(three), X[:3]), values(MAPS[:3], X[:3]))
    each = [torch.zeros_like(MAPS), MAPS, torch.zeros_like(MAPS)]
    for data in (X, DataLoader(TensorDataset(X), batch_size=2)):
        torch.testing.assert_close(values(each, data), values(MAPS))


def test_explanations_in_a_list_are_joined() -> None:
    whole = abe.explain(task(), X, "gradient", target=1, progress=False)
    found = abe.evaluate(task(), {"m": [whole[:2], whole[2:]]}, ["insertion"], step=0.2, progress=False)
    torch.testing.assert_close(found.scores["m"]["insertion"].values, values(whole))


def test_bfloat16_maps_and_results_are_arrays_too() -> None:
    torch.testing.assert_close(values(MAPS.bfloat16()), values(MAPS.bfloat16().float()))
    model = nn.Sequential(nn.Flatten(), nn.Linear(300, 3)).bfloat16().eval()
    made = abe.explain(abe.image_task(model), X.bfloat16(), "gradient", progress=False)
    assert np.asarray(made).dtype == np.float32
    np.testing.assert_array_equal(np.asarray(made), made.attribution.float().numpy())


# -- paths -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_is_one_as_text_too(kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = abe.explain(task(), X, "gradient", target=1, progress=False)
    made.save(tmp_path / "folder")
    made.save(tmp_path / "ig")
    np.save(tmp_path / "maps.npy", MAPS.numpy())
    right = values(made)
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / "folder", Path("folder")):
        torch.testing.assert_close(values(kind(path)), right)
    for path in (tmp_path / "maps.npy", Path("maps.npy")):
        torch.testing.assert_close(values(kind(path)), values(MAPS))
    listed = abe.evaluate(
        task(), [kind("folder"), kind("maps.npy"), "ig"], ["complexity"], data=X, target=1, progress=False
    )
    assert set(listed.methods) == {"folder", "maps", "integrated_gradients"}
    made[:2].save(tmp_path / "first")
    made[2:].save(tmp_path / "second")
    np.savez(tmp_path / "first.npz", maps=MAPS[:2].numpy(), x=X[:2].numpy())
    np.savez(tmp_path / "second.npz", maps=MAPS[2:].numpy(), x=X[2:].numpy())
    torch.testing.assert_close(values([kind("first"), kind("second")]), right)
    torch.testing.assert_close(values((kind("first.npz"), kind("second.npz"))), values(MAPS))
    assert refused((kind("second.npz"), kind("first.npz"))).code is Code.SAMPLES
    assert refused((kind("first"), kind("second.npz"))).code is Code.BAD_PARAMETER
    for name, code in (
        ("nowhere.npy", Code.FOREIGN_FILE),
        ("out/ig", Code.FOREIGN_FILE),
        ("ige", Code.UNKNOWN_NAME),
    ):
        with pytest.raises(AbeError) as caught:
            values(name)
        assert caught.value.code is code


def test_an_archive_that_grows_beyond_measure_is_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "bomb.npz", maps=np.zeros((20, 10**6), np.float32))
    error = refused(str(tmp_path / "bomb.npz"))
    assert error.code is Code.CORRUPT_FILE
    assert "grow" in str(error)
    np.savez_compressed(tmp_path / "fine.npz", maps=MAPS.numpy())
    torch.testing.assert_close(values(str(tmp_path / "fine.npz")), values(MAPS))


def test_the_command_line_reads_one_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("one_map_net.py").write_text(
        "import torch\nfrom torch import nn\n\ndef make():\n    torch.manual_seed(0)\n"
        f"    return nn.Sequential(nn.Flatten(), nn.Linear({3 * SIDE * SIDE}, 2))\n"
    )
    Image.fromarray((X[0].movedim(0, -1).numpy() * 255).astype(np.uint8)).save("cat.png")
    np.save("one.npy", MAPS[0, 0].numpy())
    np.save("batch.npy", MAPS[:1, 0].numpy())
    found = []
    for name in ("one", "batch"):
        words = ["evaluate", f"m={name}.npy", "--photo", "cat.png", "--metrics", "insertion", "--json"]
        result = invoke(*words, "--model", "one_map_net:make")
        assert result.exit_code == 0, result.output
        (entry,) = json.loads(result.stdout)["ranking"]
        found.append(entry["scores"]["insertion"])
    values = [score.pop("values") for score in found]
    assert values[0] == pytest.approx(values[1])
    assert found[0]["cost"] == found[1]["cost"] == {"forward_rows": 101, "backward_rows": 0}


# -- samples -----------------------------------------------------------------------------------------------


class Samples(Dataset):
    def __getitem__(self, i: int) -> Any:
        return X[i], int(LABELS[i])

    def __len__(self) -> int:
        return len(X)


LOADERS: dict[str, Callable[[], Any]] = {
    "loader": lambda: DataLoader(TensorDataset(X, LABELS), batch_size=2),
    "list of its batches": lambda: list(DataLoader(TensorDataset(X, LABELS), batch_size=2)),
    "list of samples": lambda: [(x, int(y)) for x, y in zip(X, LABELS, strict=True)],
    "loader of samples": lambda: DataLoader(Samples(), batch_size=None),
    "generator of samples": lambda: ((x, y) for x, y in zip(X.numpy(), LABELS.numpy(), strict=True)),
    "mappings": lambda: [{"inputs": X[:3], "labels": LABELS[:3]}, {"inputs": X[3:], "labels": LABELS[3:]}],
    "mappings of samples": lambda: [{"inputs": X[i], "labels": int(LABELS[i])} for i in range(5)],
    "arrays": lambda: iter([(X[:3].numpy(), LABELS[:3].numpy().astype(">i8")), (X[3:].numpy(), LABELS[3:])]),
}


@pytest.mark.parametrize("name", LOADERS)
def test_batches_with_labels(name: str) -> None:
    right = values(MAPS, X, "average_drop", labels=LABELS)
    torch.testing.assert_close(values(MAPS, LOADERS[name](), "average_drop"), right)
    road = values(MAPS, X, "relevance_mass", masks=MASKS)
    masked = [(*batch, MASKS[i : i + 1]) for i, batch in enumerate(DataLoader(TensorDataset(X, LABELS)))]
    torch.testing.assert_close(values(MAPS, masked, "relevance_mass"), road)


def test_lists_and_streams_of_photographs(tmp_path: Path) -> None:
    paths = []
    for i, x in enumerate(X):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray((x.movedim(0, -1).numpy() * 255).round().astype(np.uint8)).save(paths[-1])
    right = values(MAPS, paths)
    opened = [Image.open(path) for path in paths]
    for data in (
        map(str, paths),
        opened,
        iter(opened),
        ([p] for p in paths),
        [(paths[:2]), tuple(paths[2:])],
    ):
        torch.testing.assert_close(values(MAPS, data), right)
    labelled = [([str(p) for p in paths[:3]], LABELS[:3]), (paths[3:], LABELS[3:])]
    torch.testing.assert_close(values(MAPS, labelled), right)
    single = [(path, int(y)) for path, y in zip(opened, LABELS, strict=True)]
    torch.testing.assert_close(values(MAPS, single), right)


@pytest.mark.parametrize(
    "data",
    [
        DataLoader(TensorDataset(X, LABELS, torch.arange(5)), batch_size=2),
        [{"pixel_values": X, "labels": LABELS}],
        [{"labels": LABELS}],
        [(X, LABELS, MASKS, LABELS, LABELS)],
        [(X, 0.5)],
        Samples(),
    ],
    ids=["x, y, index", "other names", "no inputs", "too much", "no label", "data set"],
)
def test_batches_of_something_else_are_refused(data: Any) -> None:
    assert refused(MAPS, data, "relevance_mass").code in (
        Code.MASK,
        Code.SHAPE,
        Code.LABELS,
        Code.UNREADABLE_IMAGE,
    )


# -- regions -----------------------------------------------------------------------------------------------

REGIONS: dict[str, Callable[[Tensor], Any]] = {
    "booleans": lambda m: m,
    "an array": lambda m: m.numpy(),
    "integers": lambda m: m.long(),
    "numbers": lambda m: m.double(),
    "bytes of a mask file": lambda m: m.byte().numpy() * 255,
    "one channel": lambda m: m[:, None],
    "one channel last": lambda m: m[..., None],
    "a list": lambda m: [*m],
    "a list of arrays": lambda m: [*m.numpy()],
    "nested lists": lambda m: m.tolist(),
    "pictures": lambda m: [Image.fromarray(one.byte().numpy() * 255) for one in m],
    "pictures of one bit": lambda m: [Image.fromarray(one.numpy()) for one in m],
    "batches": lambda m: [m[:2], m[2:]],
    "big-endian": lambda m: m.numpy().astype(">f8"),
}


@pytest.mark.parametrize("form", REGIONS)
def test_masks_of_every_kind(form: str) -> None:
    right = values(MAPS, metric="relevance_mass", masks=MASKS)
    torch.testing.assert_close(values(MAPS, metric="relevance_mass", masks=REGIONS[form](MASKS)), right)
    if form != "batches":
        given = REGIONS[form](MASKS[:1])
        for masks in (given, given[0]):
            torch.testing.assert_close(values(MAPS[:1], X[:1], "relevance_mass", masks=masks), right[:1])


def test_masks_in_files(tmp_path: Path) -> None:
    right = values(MAPS, metric="relevance_mass", masks=MASKS)
    np.save(tmp_path / "m.npy", MASKS.numpy())
    paths = []
    for i, mask in enumerate(MASKS):
        paths.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(mask.byte().numpy() * 255).save(paths[-1])
    for masks in (tmp_path / "m.npy", str(tmp_path / "m.npy"), paths):
        torch.testing.assert_close(values(MAPS, metric="relevance_mass", masks=masks), right)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: torch.where(m, 1.0, 0.2), "soft edges"),
        (lambda m: m.double() * 0.7, "soft edges"),
        (lambda m: torch.where(m, 1, 255), "255"),
        (lambda m: m.long() + 255 * (torch.arange(SIDE) == 0), "255"),
        (lambda m: m.long() * 7, "class"),
        (lambda m: m.long() - 1, "-1"),
        (lambda m: torch.where(m, torch.nan, 0.0), "nan"),
        (lambda m: m.to(torch.complex64), "real"),
        (lambda m: m[:4], "fit"),
        (lambda m: m[:, :5], "fit"),
        (lambda m: [m[0], m[1, :5]], "differ"),
        (lambda m: "nowhere.png", "no such file"),
    ],
)
def test_masks_that_do_not_say_what_counts_are_refused(change: Any, says: str) -> None:
    error = refused(MAPS, metric="relevance_mass", masks=change(MASKS))
    assert says in str(error)
    assert error.code in (Code.MASK, Code.DTYPE, Code.UNREADABLE_IMAGE)


# -- agreement ---------------------------------------------------------------------------------------------


def test_agreement_of_arrays(tmp_path: Path) -> None:
    made = {n: abe.explain(task(), X, n, target=0, progress=False) for n in ("gradient", "ig", "occlusion")}
    right = agreement(made)
    np.savez(tmp_path / "ig.npz", maps=made["ig"].attribution.numpy(), x=X.numpy())
    for form in FORMS.values():
        given = {name: form(e.attribution) for name, e in made.items()}
        for found in (agreement(given, x=X), agreement(given, x=X.numpy().astype(">f4"))):
            torch.testing.assert_close(found.rank, right.rank)
            torch.testing.assert_close(found.top, right.top)
        mixed = agreement({**given, "gradient": made["gradient"]})
        torch.testing.assert_close(mixed.sign, right.sign)
    files = {
        "gradient": made["gradient"].attribution,
        "ig": str(tmp_path / "ig.npz"),
        "occlusion": made["occlusion"],
    }
    torch.testing.assert_close(agreement(files).rank, right.rank)
    listed = agreement(list(made.values()))
    torch.testing.assert_close(listed.rank, right.rank)
    assert listed.methods == tuple(e.method for e in made.values())


def test_agreement_of_arrays_alone_says_what_is_missing() -> None:
    for given, code in (
        ({"a": MAPS, "b": MAPS}, Code.SAMPLES),
        ({"a": "gradient"}, Code.BAD_PARAMETER),
        ({"a": lambda x, y: x}, Code.BAD_PARAMETER),
        (3, Code.BAD_PARAMETER),
    ):
        with pytest.raises(AbeError) as caught:
            agreement(given)
        assert caught.value.code is code
        if code is Code.SAMPLES:
            assert "from_array" in str(caught.value)

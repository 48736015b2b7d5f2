"""Maps of other libraries and of files: every layout, every refusal."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import abe
from abe.arrays import as_map, read
from abe.errors import AbeError, Code
from abe.explanation import Explanation

X = torch.rand(2, 3, 5, 6, generator=torch.Generator().manual_seed(0))
MAPS = torch.rand(2, 3, 5, 6, generator=torch.Generator().manual_seed(1)) - 0.5
TARGET = torch.tensor([1, 3])


def classes(maps: torch.Tensor) -> list[torch.Tensor]:
    """Four maps per sample, of which the target's are the given ones."""
    found = [torch.full_like(maps, 9.0) for _ in range(4)]
    found[1][0], found[3][1] = maps[0], maps[1]
    return found


LAYOUTS = {
    "as the input": (MAPS, MAPS),
    "numpy": (MAPS.numpy(), MAPS),
    "captum's tuple": ((MAPS,), MAPS),
    "channels last": (MAPS.movedim(1, -1).numpy(), MAPS),
    "one channel": (MAPS[:, :1], MAPS[:, :1]),
    "one channel last": (MAPS[:, 0, :, :, None].numpy(), MAPS[:, :1]),
    "no channel": (MAPS[:, 0].numpy(), MAPS[:, :1]),
    "double": (MAPS.double().numpy(), MAPS),
    "shap's list per class": ([m.movedim(1, -1).numpy() for m in classes(MAPS)], MAPS),
    "list per class, no channel": ([m[:, 0].numpy() for m in classes(MAPS)], MAPS[:, :1]),
    "shap's classes last": (torch.stack([m.movedim(1, -1) for m in classes(MAPS)], -1).numpy(), MAPS),
    "classes last, channels first": (torch.stack(classes(MAPS), -1).numpy(), MAPS),
    "shap.Explanation": (
        SimpleNamespace(values=MAPS.movedim(1, -1).numpy(), base_values=np.zeros(2)),
        MAPS,
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout):
    given, wanted = LAYOUTS[layout]
    torch.testing.assert_close(as_map(given, X, target=TARGET), wanted)
    if "class" not in layout and layout not in ("captum's tuple", "shap.Explanation"):
        alone = as_map(given[0], X[:1], target=TARGET[:1])
        torch.testing.assert_close(alone, wanted[:1])


def test_a_layout_settles_what_a_shape_leaves_open():
    x, maps = torch.rand(1, 3, 3, 3), torch.rand(1, 3, 3, 3)
    torch.testing.assert_close(as_map(maps, x), maps)
    torch.testing.assert_close(as_map(maps, x, layout="channels_last"), maps.movedim(-1, 1))


def test_features_without_space():
    x, maps = torch.rand(4, 7), torch.rand(4, 7)
    torch.testing.assert_close(as_map(maps.numpy(), x), maps)
    several = torch.stack([torch.zeros(4, 7), maps], -1)
    torch.testing.assert_close(as_map(several, x, target=torch.ones(4, dtype=torch.long)), maps)


def test_inseq_outputs_give_the_generated_tokens_map():
    """As inseq 0.6 holds them: per sequence, (source tokens, generated tokens, embedding)."""
    x, steps = torch.rand(2, 5, 8), torch.rand(2, 5, 3, 8)
    output = SimpleNamespace(
        sequence_attributions=[
            SimpleNamespace(source_attributions=s, target_attributions=None) for s in steps
        ]
    )
    found = as_map(output, x, target=torch.tensor([0, 2]))
    torch.testing.assert_close(found, torch.stack([steps[0, :, 0], steps[1, :, 2]]))


@pytest.mark.parametrize(
    ("maps", "code"),
    [
        (MAPS[..., :-1], Code.MAP_SHAPE),
        (MAPS[:1], Code.MAP_SHAPE),
        (torch.rand(2, 2, 5, 6), Code.MAP_SHAPE),
        ([MAPS, MAPS[..., :-1]], Code.MAP_SHAPE),
        (torch.where(MAPS > 0, MAPS, torch.nan), Code.MAP_NOT_FINITE),
        (MAPS / 0, Code.MAP_NOT_FINITE),
        (MAPS.to(torch.complex64), Code.DTYPE),
        (np.array([[object()] * 3] * 2), Code.DTYPE),
        ("a" * 3, Code.FOREIGN_FILE),
        ({"maps": 1}, Code.DTYPE),
        ([MAPS] * 3, Code.TARGET_RANGE),
    ],
)
def test_what_does_not_fit_is_refused(maps, code):
    with pytest.raises(AbeError) as caught:
        as_map(maps, X, target=TARGET)
    assert caught.value.code is code


def test_classes_need_a_target():
    with pytest.raises(AbeError) as caught:
        as_map(classes(MAPS), X)
    assert caught.value.code is Code.TARGET_MISSING


def test_files(tmp_path):
    np.save(tmp_path / "a.npy", MAPS.numpy())
    np.savez(tmp_path / "b.npz", attributions=MAPS.movedim(1, -1).numpy(), x=X.numpy())
    np.savez(tmp_path / "c.npz", whatever=MAPS.numpy())
    save_file({"maps": MAPS.contiguous(), "inputs": X.contiguous()}, tmp_path / "d.safetensors")
    for name in ("a.npy", "b.npz", "c.npz", "d.safetensors"):
        found = Explanation.from_array(tmp_path / name, X, target=TARGET)
        torch.testing.assert_close(found.attribution, MAPS)
    for name in ("b.npz", "d.safetensors"):
        with pytest.raises(AbeError) as caught:
            Explanation.from_array(tmp_path / name, X.flip(0), target=TARGET)
        assert caught.value.code is Code.SAMPLES
        assert "sample" in str(caught.value)


def test_files_that_are_not_opened(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    torch.save(MAPS, tmp_path / "maps.pt")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 no archive")
    (tmp_path / "broken.safetensors").write_bytes(b"\xff" * 20)
    np.savez(tmp_path / "two.npz", one=MAPS.numpy(), other=MAPS.numpy())
    for name, code in (
        ("objects.npy", Code.CORRUPT_FILE),
        ("maps.pt", Code.FOREIGN_FILE),
        ("broken.npz", Code.CORRUPT_FILE),
        ("broken.safetensors", Code.CORRUPT_FILE),
        ("two.npz", Code.FOREIGN_FILE),
        ("nowhere.npy", Code.FOREIGN_FILE),
    ):
        with pytest.raises(AbeError) as caught:
            read(tmp_path / name)
        assert caught.value.code is code, name
        assert name in str(caught.value)


def test_a_foreign_explanation_is_saved_sliced_and_joined(tmp_path):
    made = Explanation.from_array(MAPS, X, target=TARGET, name="theirs", ids=[7, 8])
    assert made.residual is None
    back = Explanation.load(made.save(tmp_path))
    torch.testing.assert_close(back.attribution, MAPS)
    assert back.spec == {"foreign": "theirs"}
    assert made[1:].ids == [8]
    again = Explanation.join([made[1], made[0]])
    torch.testing.assert_close(again.attribution, MAPS.flip(0))
    assert again.ids == [8, 7]
    assert again.target.tolist() == [3, 1]
    with pytest.raises(AbeError) as caught:
        Explanation.join([made, Explanation.from_array(MAPS, X, target=TARGET, name="others")])
    assert caught.value.code is Code.SHAPE


SCORES = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(90, 4)).eval()
GAPS = {
    "inputs": lambda hidden: {"data": hidden(X.numpy())},
    "targets": lambda hidden: {"target": hidden(TARGET.numpy())},
    "regions": lambda hidden: {"units": hidden(np.arange(30).reshape(5, 6) // 6)},
    "regions as masks": lambda hidden: {"units": hidden(np.stack([np.eye(5, 6) > 0, np.eye(5, 6) == 0]))},
}


@pytest.mark.parametrize("place", GAPS)
def test_what_lies_behind_masked_entries_is_never_read(place):
    """Wherever an array of numbers goes, besides maps and masks; an array that hides nothing is an array."""

    def explained(hidden):
        how = {"data": X, "target": TARGET, "units": "pixel"} | GAPS[place](hidden)
        data = how.pop("data")
        return abe.explain(SCORES, data, "occlusion", progress=False, **how).attribution

    whole = explained(np.ma.array)
    torch.testing.assert_close(whole, explained(lambda array: array))
    with pytest.raises(AbeError, match="masked entries") as caught:
        explained(lambda array: np.ma.array(array, mask=np.arange(array.size).reshape(array.shape) == 1))
    assert caught.value.code is Code.DTYPE


@pytest.mark.parametrize("kind", ["float", "mixed"])
def test_a_masked_cell_of_a_table_is_missing(kind):
    rows = np.arange(12.0).reshape(4, 3)
    rows = rows.astype(object) if kind == "mixed" else rows
    task = abe.table_task(torch.nn.Linear(3, 2), background=rows.astype(float))
    with pytest.raises(AbeError, match=r"missing.*row 1"):
        abe.explain(task, np.ma.array(rows, mask=rows == 4), "gradient", target=1, progress=False)


def test_a_buffer_of_numbers_is_their_array():
    found = [
        abe.explain(SCORES, data, "gradient", target=1, progress=False).attribution
        for data in (X.numpy(), memoryview(X.numpy()))
    ]
    torch.testing.assert_close(found[0], found[1])

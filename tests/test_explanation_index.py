"""Explanations are indexed as NumPy indexes an array of one axis, and say of themselves what they hold."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import config
from torch import Tensor, nn

import abe
from abe.draws import Ids
from abe.errors import AbeError, Code, SampleError
from abe.explanation import PER_SAMPLE, Explanation
from abe.types import Cost

B = 5
LABELS = ["red", "green", "blue"]


@pytest.fixture(autouse=True)
def _no_checks_of_types():
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


def whole(b: int = B, **changes: Any) -> Explanation:
    """Every field holds something that tells its samples apart."""
    number = torch.arange(b, dtype=torch.float32)
    maps = number[:, None, None, None].expand(b, 3, 2, 2).clone()
    given = {
        "attribution": maps,
        "x": maps + 100,
        "target": torch.arange(b),
        "target_names": [f"class {i}" for i in range(b)],
        "names": [f"{i}.png" for i in range(b)],
        "method": "ig",
        "spec": {"method": "ig", "params": {"steps": 4}},
        "objective": "Logit()",
        "score": number + 10,
        "delta": number + 20,
        "standard_error": maps + 30,
        "unit": "unit",
        "labels": torch.arange(maps[0, :1].numel())
        .view(1, 1, *maps.shape[2:])
        .expand(len(maps), 1, *maps.shape[2:]),
        "unit_names": [[f"{row}: {n}" for n in range(maps[0, :1].numel())] for row in range(len(maps))],
        "token_labels": torch.arange(maps[0, :1].numel())
        .view(1, 1, *maps.shape[2:])
        .expand(len(maps), 1, *maps.shape[2:]),
        "token_names": [[f"{row}; {n}" for n in range(maps[0, :1].numel())] for row in range(len(maps))],
        "shown": [f"sample {row}" for row in range(len(maps))],
        "top": [[(f"class {i}", 0.5)] for i in range(b)],
        "cost": Cost(forward_rows=7),
        "warnings": ["Something. [ABE-ZERO-MAP]"],
        "seed": 3,
        "ids": list(range(50, 50 + b)),
        "versions": {"abe": "0"},
        "diagnostics": {
            "nodes": torch.arange(b),
            "pairs": torch.arange(2 * b).view(b, 2),
            "all": torch.ones(()),
        },
        "modality": "image",
    }
    return Explanation(**{**given, **changes})


def assert_follows(found: Explanation, rows: list[int], made: Explanation) -> None:
    """Every field of the dataclass holds the picked samples, or what all samples share."""
    for field in fields(Explanation):
        got, had = getattr(found, field.name), getattr(made, field.name)
        if field.name == "diagnostics":
            assert got.keys() == had.keys()
            for name, held in had.items():
                assert torch.equal(got[name], held[rows] if held.ndim else held), name
        elif field.name not in PER_SAMPLE:
            assert got == had, field.name
        elif isinstance(had, Tensor):
            assert torch.equal(got, had[rows]), field.name
        else:
            assert list(got) == [had[row] for row in rows], field.name
    assert len(found) == len(rows)


def forms_of(rows: list[int]) -> list[Any]:
    """The same samples as every library would name them."""
    mask = np.isin(np.arange(B), rows)
    forms = [rows, np.array(rows, int), np.array(rows, np.int16), torch.tensor(rows, dtype=torch.long)]
    forms += [
        [np.int64(row) for row in rows],
        [row - B for row in rows],
        torch.tensor(rows, dtype=torch.int32),
    ]
    return [*forms, mask, mask.tolist(), torch.from_numpy(mask)] if rows == sorted(set(rows)) else forms


@given(st.lists(st.integers(0, B - 1), max_size=7))
def test_some_samples(rows):
    made = whole()
    for form in forms_of(rows):
        assert_follows(made[form], rows, made)


@given(st.slices(B))
def test_slices(index):
    made = whole()
    assert_follows(made[index], list(range(B))[index], made)


@pytest.mark.parametrize("row", range(-B, B))
def test_one_sample_keeps_its_batch_axis(row):
    made = whole()
    forms = [row, np.int64(row), np.int8(row), np.array(row), torch.tensor(row), (row,)]
    for form in [*forms, *([np.uint8(row), torch.tensor(row, dtype=torch.uint8)] if row >= 0 else [])]:
        assert_follows(made[form], [row % B], made)


@pytest.mark.parametrize("index", [..., (), slice(None), (...,), (slice(None),)], ids=repr)
def test_everything(index):
    made = whole()
    assert_follows(made[index], list(range(B)), made)


NOT_THERE = {
    "past the end": B,
    "before the start": -B - 1,
    "NumPy past the end": np.int64(B),
    "list past the end": [0, 9],
    "array past the end": np.array([0, -9]),
    "tensor": torch.tensor(-9),
    "short mask": [True, False],
    "long mask": np.ones(B + 1, bool),
    "True": True,
    "tensor True": torch.tensor(True),
    "None": None,
    "text": "0.png",
    "float": 1.0,
    "floats": [0.0, 1.0],
    "half precision": torch.tensor([0.5], dtype=torch.bfloat16),
    "two axes": np.zeros((2, 2), int),
    "nested": [[0, 1]],
    "pair": (0, 1),
    "mapping": {0: 1},
    "object": object(),
}


@pytest.mark.parametrize("index", NOT_THERE.values(), ids=NOT_THERE)
def test_samples_that_are_not_there(index):
    with pytest.raises(SampleError, match=f"of {B}") as caught:
        whole()[index]
    assert isinstance(caught.value, IndexError)
    assert caught.value.code is Code.SAMPLES


def test_a_loop_ends_and_an_empty_one_is_empty():
    assert [one.names for one in whole()] == [[f"{i}.png"] for i in range(B)]
    empty = whole()[[]]
    assert len(empty) == 0
    assert list(empty) == []
    assert empty.residual.shape == (0,)
    assert "0 samples" in repr(empty)


def test_what_is_not_held_stays_so_and_identities_wait():
    bare = whole(delta=None, standard_error=None, top=[], ids=[])[[1, 2]]
    assert (bare.delta, bare.standard_error, bare.top, bare.ids) == (None, None, [], [])
    lazy = whole(ids=Ids(lambda: range(50, 50 + B), B))
    assert list(lazy[[3, 1]].ids) == [53, 51]


def test_changes_of_a_part_leave_the_whole():
    made = whole()
    part = made[[0]]
    part.warnings.append("more")
    part.versions["x"] = "y"
    assert made.warnings == whole().warnings
    assert made.versions == whole().versions
    assert len(whole(delta=torch.ones(B))[2].residual) == 1


@given(st.lists(st.lists(st.integers(0, B - 1), max_size=3), min_size=1, max_size=3))
def test_join_undoes_indexing(parts):
    made, rows = whole(), [row for part in parts for row in part]
    found = Explanation.join(made[part] for part in parts)
    cost = Cost()
    for _ in parts:
        cost.add(made.cost)
    assert found.cost == cost
    held = {**made.diagnostics}
    held.pop("all")  # one of each part
    assert "all" not in found.diagnostics
    assert_follows(replace(found, cost=made.cost), rows, replace(made, diagnostics=held))


def test_join_of_parts_that_hold_different_things():
    full, bare = whole(2), whole(3, delta=None, top=[], ids=[], diagnostics={"nodes": torch.ones(3, 4)})
    found = Explanation.join([full, bare])
    assert (found.delta, found.top, found.ids, found.diagnostics) == (None, [], [], {})
    assert len(found.names) == len(found) == 5
    for other in (
        replace(bare, attribution=bare.attribution[:, :1]),
        replace(bare, target=torch.zeros(3, 2, dtype=torch.long)),
        replace(bare, objective="Margin()"),
    ):
        with pytest.raises(AbeError, match=r"one kind.*another (shape of the map|number of targets|score)"):
            Explanation.join([full, other])
    with pytest.raises(AbeError, match="one kind"):
        Explanation.join([])


# -- what they say of themselves ---------------------------------------------------------------------------


def task() -> Any:
    torch.manual_seed(0)
    return abe.image_task(nn.Sequential(nn.Flatten(), nn.Linear(108, 3)).eval(), labels=LABELS)


X = torch.rand(9, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def short(text: str) -> bool:
    return len(text.splitlines()) <= 10 and all(len(line) <= 110 for line in text.splitlines())


@pytest.mark.parametrize("b", [1, 2, 9])
def test_an_explanation_says_what_it_is(b):
    made = abe.explain(task(), X[:b], "ig", steps=4, progress=False)
    said = repr(made)
    assert short(said)
    wanted = (
        "integrated_gradients(",
        "steps=4",
        "sample 0",
        made.target_names[0],
        f"{tuple(made.shape)}",
        "residual",
    )
    assert all(word in said for word in (*wanted, f"{made.score[0]:.4g}", f"{made.residual[0]:.4g}"))
    made.warnings = [f"Note {i}, {'long ' * 50}. [ABE-NO-CHANGE]" for i in range(20)]
    assert short(repr(made))
    assert "and 19 more" in repr(made)
    made.delta = None
    assert "not claimed" in repr(replace(made))


def test_an_attack_says_what_it_found():
    made = abe.attack(task(), X, "pgd", eps=0.2, progress=False)
    said = repr(made)
    assert short(said)
    assert f"{int(made.success.sum())} of 9" in said
    wanted = ("pgd(eps=0.2)", "sample 0", made.class_name(int(made.label_before[0])), "linf", "queries")
    assert all(word in said for word in wanted)


def test_a_comparison_says_who_is_best():
    made = abe.evaluate(task(), ["ig", "gradient"], ["insertion", "deletion"], data=X[:2], progress=False)
    said = repr(made)
    assert short(said)
    assert said.index(made.methods[0]) < said.index(made.methods[1])
    assert all(word in said for word in ("insertion", "sample 1", "2 samples", "baseline zero"))

"""Targets and labels mean the same in every spelling, at every door."""

import numpy as np
import pytest
import torch
from torch import nn

import abe
from abe.errors import AbeError, Code
from abe.task.targets import fitted

X = torch.rand(3, 3, 6, 6, generator=torch.Generator().manual_seed(0))
NAMES = ["ant", "bee", "cat", "dog"]
HOW = {"ids": [0, 1, 2], "progress": False}


def task() -> abe.Task:
    torch.manual_seed(0)
    return abe.image_task(nn.Sequential(nn.Flatten(), nn.Linear(108, 4)).eval(), labels=NAMES)


Y = task().model(X).argmax(1)


class Column:
    """As a column of a table: an array by ``__array__`` only."""

    def __init__(self, values: object) -> None:
        self.values = values

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        return np.asarray(self.values)


SPELLINGS = {
    "column": lambda y: y[:, None],
    "numpy": lambda y: y.numpy(),
    "numpy column": lambda y: y[:, None].numpy(),
    "list": lambda y: y.tolist(),
    "tuple": lambda y: tuple(y.tolist()),
    "nested list": lambda y: y[:, None].tolist(),
    "NumPy numbers": lambda y: list(y.numpy()),
    "tensors": lambda y: list(y),
    "tensors of one": lambda y: list(y[:, None]),
    "names": lambda y: [NAMES[i] for i in y],
    "names in an array": lambda y: np.array([NAMES[i] for i in y]),
    "column of a table": lambda y: Column(y.tolist()),
    "names of a table": lambda y: Column(np.array([NAMES[i] for i in y], dtype=object)),
    **{
        str(t): (lambda y, t=t: y.to(t))
        for t in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16)
    },
    **{t: (lambda y, t=t: y.numpy().astype(t)) for t in ("uint64", "uint32", "int16", ">i4")},
}
EVERY_SPELLING = pytest.mark.parametrize("spelling", SPELLINGS)
DOORS = {
    "explain": lambda y: abe.explain(task(), X, "gradient", target=y, **HOW).attribution,
    "agi": lambda y: abe.explain(task(), X, "agi", target=y, steps=2, **HOW).attribution,
    "explain_game": lambda y: (
        abe.explain_game(task(), X, ["shapley"], units="patch", target=y, **HOW)[0].attribution
    ),
    "attack": lambda y: abe.attack(task(), X, "pgd", label=y, **HOW).x_adv,
    "targeted attack": lambda y: abe.attack(task(), X.flip(0) * 0 + 0.5, "fgsm", target=y, **HOW).x_adv,
    "robustness": lambda y: torch.tensor(
        abe.evaluate_robustness(task(), X, "fgsm", epsilons=[0.02, 0.1], label=y, **HOW).robust_accuracy
    ),
    "evaluate": lambda y: (
        abe.evaluate(
            task(), {"g": "gradient"}, ["average_drop", "random_logit", "deletion"], data=X, target=y, **HOW
        )
        .scores["g"]["deletion"]
        .values
    ),
    "labels": lambda y: (
        abe.evaluate(task(), {"g": "gradient"}, ["soundness"], data=X, labels=y, **HOW)
        .scores["g"]["soundness"]
        .values
    ),
    "explanation and target": lambda y: (
        abe.evaluate(
            task(),
            abe.explain(task(), X, "gradient", target=Y, **HOW),
            ["insertion"],
            data=X,
            target=y,
            progress=False,
        )
        .scores["gradient"]["insertion"]
        .values
    ),
}


FEW = ("column", "numpy column", "names", "column of a table")


@pytest.mark.parametrize(
    ("door", "spelling"),
    [
        pytest.param(door, spelling, marks=() if door == "explain" or spelling in FEW else pytest.mark.slow)
        for door in DOORS
        for spelling in SPELLINGS
    ],
)
def test_every_spelling_at_every_door(door, spelling):
    y = Y if door != "targeted attack" else (task().model(X * 0 + 0.5).argmax(1) + 1) % 4
    right, got = DOORS[door](y), DOORS[door](SPELLINGS[spelling](y))
    torch.testing.assert_close(got, right)


@EVERY_SPELLING
def test_a_map_made_elsewhere(spelling):
    if "names" in spelling:
        return
    found = abe.Explanation.from_array(X, X, target=SPELLINGS[spelling](Y))
    assert found.target.tolist() == Y.tolist()


@pytest.mark.parametrize(
    "one", [2, np.int64(2), torch.tensor(2), np.array(2), "cat", "CAT", np.str_("cat")], ids=repr
)
def test_one_for_all(one):
    found = abe.explain(task(), X, "gradient", target=one, **HOW)
    assert (found.target.tolist(), found.target_names) == ([2, 2, 2], ["cat"] * 3)


WRONG = {
    "floats": [0.0, 1.0, 2.0],
    "truth values": [True, False, True],
    "a truth value": True,
    "mixed": [0, "bee", 2.5],
    "too few": [0, 1],
    "one in a list": [1],
    "one-hot": torch.eye(4, dtype=torch.long)[:3],
    "a row": [[0, 1, 2]],
    "ragged": [[0], [1, 2], [3]],
    "deep": torch.zeros(3, 1, 1, dtype=torch.long),
    "nothing": [],
    "None": [None, 1, 2],
    "a dict": {0: 1, 1: 1, 2: 1},
    "a set": {0, 1, 2},
    "an object": object(),
    "negative": [-1, 0, 1],
    "beyond": [0, 1, 4],
    "no such name": ["ant", "bee", "cow"],
}


@pytest.mark.parametrize("given", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("door", ["explain", "attack", "labels"])
def test_what_is_no_target(door, given):
    with pytest.raises(AbeError) as caught:
        DOORS[door](given)
    assert caught.value.code in (Code.TARGET_TYPE, Code.TARGET_RANGE, Code.LABELS)


def test_labels_of_sage():
    how = {"data": X, "units": "patch", "evaluations": 400}
    right, got = (
        abe.explain(task(), X[:1], "sage", labels=y, progress=False, **how).attribution
        for y in (Y, Y[:, None].numpy())
    )
    torch.testing.assert_close(got, right)


# -- numbers that could be one entry or one each -----------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("entry", [False, True])
def test_three_numbers_for_outputs_of_three_axes(n: int, free: bool, entry: bool) -> None:
    """One entry of all samples, but for an objective of one's own that may read one number per sample."""
    given = torch.tensor([1, 2, 3])
    found = fitted(given, n, (4, 5, 6), free=free, entry=entry)
    each = free and not entry and n == 3
    assert found.tolist() == ([1, 2, 3] if each else [[1, 2, 3]] * n)

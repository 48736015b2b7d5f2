"""Orders, coalitions and rows that somebody hands in, against the numbers that they make by hand."""

from itertools import permutations, product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import abe
from abe.errors import AbeError, Code

QUIET: dict[str, Any] = {"progress": False, "target": 0}
UNITS = {"units": "column", "removal": "zero"}
ROWS = {
    "age": [20.0, 30.0, 40.0, 61.0, 35.0],
    "income": [1.0, 2.0, 3.0, 4.0, 0.5],
    "score": [0.1, 0.2, 0.5, 0.9, 0.3],
}


class Net(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        a, b, c = x.unbind(1)
        return torch.stack([a * b + c, a - b * c], 1) / 10


def task() -> abe.Task:
    return abe.table_task(Net(), background=ROWS)


X = torch.tensor([[2.0, 3.0, 5.0]], dtype=torch.float64)


def value(present: Any) -> float:
    return float(Net()(X * torch.tensor(present, dtype=X.dtype))[0, 0])


@settings(max_examples=15, deadline=None)
@given(st.lists(st.permutations(range(3)), min_size=1, max_size=5))
def test_values_along_given_orders(orders: list[list[int]]) -> None:
    wanted = np.zeros(3)
    for order in orders:
        there = [0, 0, 0]
        for unit in order:
            before = value(there)
            there[unit] = 1
            wanted[unit] += (value(there) - before) / len(orders)
    found = abe.explain(task(), X, "shapley", orders=orders, **UNITS, **QUIET)
    assert found.attribution[0].tolist() == pytest.approx(wanted.tolist())
    assert found.residual is not None
    assert float(found.residual.abs()) < 1e-6


def test_all_orders_are_the_shapley_value() -> None:
    every = np.array(list(permutations(range(3))))
    found = abe.explain(task(), X, "shapley", orders=every, **UNITS, **QUIET)
    exact = abe.explain(task(), X, "shapley", estimator="exact", **UNITS, **QUIET)
    assert torch.allclose(found.attribution, exact.attribution)
    again = abe.explain(task(), X, "shapley", orders=torch.from_numpy(every), **UNITS, **QUIET)
    assert torch.equal(found.attribution, again.attribution)


def test_one_unit_has_one_order() -> None:
    one = abe.table_task(nn.Linear(1, 1), background=torch.rand(5, 1), output_kind="regression")
    found = abe.explain(one, torch.rand(1, 1), "shapley", orders=[[0]], progress=False)
    assert found.residual is not None
    assert float(found.residual.abs()) < 1e-6


def test_a_fit_to_given_coalitions() -> None:
    """Plain least squares where the kernel is wide and nothing is penalised."""
    every = np.array(list(product([0, 1], repeat=3)))
    how: dict[str, Any] = {"coalitions": every, "width": 1e9, "penalty": 0, "variant": "published"}
    found = abe.explain(task(), X, "lime", **how, **UNITS, **QUIET)
    y = np.array([value(one) for one in every])
    wanted = np.linalg.lstsq(np.c_[np.ones(8), every], y, rcond=None)[0]
    assert found.diagnostics["unit_values"][0].tolist() == pytest.approx(wanted[1:].tolist())
    assert float(found.diagnostics["intercept"]) == pytest.approx(wanted[0])
    assert found.attribution[0].tolist() == pytest.approx(wanted[1:].tolist())
    assert int(found.diagnostics["evaluations"]) == 7


@pytest.mark.parametrize("design", ["rows", "bins"])
def test_a_fit_to_given_rows(design: str) -> None:
    background = np.array(list(ROWS.values())).T
    near = np.concatenate([X.numpy(), np.random.default_rng(3).normal(size=(40, 3)) * 20])
    how: dict[str, Any] = {"neighbours": design, "rows": near, "width": 2.0, "penalty": 0.5}
    found = abe.explain(task(), X, "lime", **how, **QUIET)
    if design == "rows":
        z = (near - background.mean(0)) / background.std(0)
    else:
        edges = np.percentile(background, (25, 50, 75), axis=0)
        bins = np.stack([np.searchsorted(edges[:, i], near[:, i]) for i in range(3)], 1)
        z = (bins == bins[0]).astype(float)
    weight = np.exp(-((z - z[0]) ** 2).sum(1) / 4)
    y = Net()(torch.from_numpy(near))[:, 0].numpy()
    centred, answers = z - weight @ z / weight.sum(), y - weight @ y / weight.sum()
    gram = (centred.T * weight) @ centred + 0.5 * np.eye(3)
    slope = np.linalg.solve(gram, (centred.T * weight) @ answers)
    assert found.diagnostics["unit_values"][0].tolist() == pytest.approx(slope.tolist())


def test_drawn_rows_keep_one_hot_codes_whole() -> None:
    seen = list[Tensor]()

    class Watched(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.detach())
            return x @ torch.arange(8.0, dtype=x.dtype).view(4, 2)

    hot = {"a": [1, 0, 0, 1.0], "b": [0, 1, 0, 0.0], "c": [0, 0, 1, 0.0], "n": [0.1, 0.2, 0.3, 0.4]}
    of = abe.table_task(Watched(), background=hot, groups={"hot": ["a", "b", "c"]})
    row = {name: values[:1] for name, values in hot.items()}
    found = abe.explain(of, row, "lime", neighbours="rows", evaluations=60, **QUIET)
    assert [name for name, _ in found.by_unit()[0]] == ["hot", "n"]
    assert {float(one) for x in seen for one in x[:, :3].sum(1)} == {1.0}
    again = abe.explain(of, row, "lime", neighbours="rows", evaluations=60, **QUIET)
    assert torch.equal(found.attribution, again.attribution)


ORDERS: tuple[Any, ...] = ([[0, 1, 1]], [[1, 2, 3]], [[0.5, 1.5, 2]], [], [[]], "abc", 5, [[0, 1], [0]])
COALITIONS: tuple[Any, ...] = ([[0, 1, 2]], [[0.5, 1, 1]], [], "abc", torch.ones(3), [[True], [1, 0]])
REFUSED: dict[str, tuple[str, dict[str, Any], Code, str]] = {
    **{f"orders {o!r}": ("shapley", {"orders": o}, Code.BAD_PARAMETER, "orders") for o in ORDERS},
    "orders of others": ("shapley", {"orders": [[1, 0]]}, Code.UNITS, "2 units"),
    "no orders": ("shapley", {"orders": [[0, 1, 2]], "estimator": "kernel"}, Code.BAD_PARAMETER, "kernel"),
    "few rows": ("shapley", {"orders": [[0, 1, 2]], "evaluations": 1}, Code.EVALUATIONS, "at least 15"),
    **{f"masks {c!r}": ("lime", {"coalitions": c}, Code.BAD_PARAMETER, "coalitions") for c in COALITIONS},
    "masks of others": ("lime", {"coalitions": [[1, 0]] * 9}, Code.UNITS, "2 units"),
    "few masks": ("lime", {"coalitions": [[1, 0, 1]] * 3}, Code.EVALUATIONS, "at least 4"),
    "rows alone": ("lime", {"rows": X}, Code.BAD_PARAMETER, "rows="),
    "both": ("lime", {"neighbours": "rows", "coalitions": [[1, 0, 1]]}, Code.BAD_PARAMETER, "rows="),
    "another name": ("lime", {"neighbours": "columns"}, Code.BAD_PARAMETER, "bins"),
    "few neighbours": ("lime", {"neighbours": "rows", "evaluations": 4}, Code.EVALUATIONS, "at least 5"),
    "one row": ("lime", {"neighbours": "bins", "rows": X}, Code.EVALUATIONS, "at least 5"),
    "other columns": ("lime", {"neighbours": "rows", "rows": np.zeros((9, 2))}, Code.SHAPE, "(rows, 3)"),
    "gaps": ("lime", {"neighbours": "rows", "rows": np.full((9, 3), np.nan)}, Code.MISSING_VALUE, "age"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    method, how, code, said = REFUSED[name]
    with pytest.raises(AbeError) as caught:
        abe.explain(task(), X, method, **how, **QUIET)
    assert caught.value.code is code, caught.value
    assert said in str(caught.value)


def test_rows_are_neighbours_in_tables_alone() -> None:
    picture = abe.image_task(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)))
    bare = abe.table_task(nn.Linear(3, 2).double())
    for of, x, code in (
        (picture, torch.rand(1, 3, 2, 2), Code.UNSUPPORTED),
        (bare, X, Code.BACKGROUND),
    ):
        with pytest.raises(AbeError) as caught:
            abe.explain(of, x, "lime", neighbours="rows", **QUIET)
        assert caught.value.code is code, caught.value

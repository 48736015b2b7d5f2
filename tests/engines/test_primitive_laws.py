"""Laws of the parts that methods are made of, on numbers that hypothesis draws.

Weights of quadratures are in path/test_quadrature.py, how a chunk settles is in runtime/test_evaluator.py.
"""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import abe
from abe.baselines import Constant
from abe.engines.backward.lrp_weighted import AlphaBeta, Epsilon, Flat, Gamma, WSquare, ZBox
from abe.engines.path.curves import BlurLine, StraightLine, UserPath
from abe.engines.path.steps.parts import Ball
from abe.engines.removal.removals import Absent
from abe.engines.removal.segments import segments_of
from abe.engines.runtime.chunk_size import ChunkPlan
from abe.registry import removals
from abe.testing import problem_of
from abe.units import Grid

FEW = settings(max_examples=15)
seeds, sides = st.integers(0, 10**6), st.integers(1, 7)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Total(nn.Module):
    """A score of inputs of any size."""

    def forward(self, x: Tensor) -> Tensor:
        total = x.flatten(1).sum(1)
        return torch.stack([total, 2 * total], dim=1)


# ---------------------------------------------------------------- paths


def bent(x: Tensor, alpha: Tensor) -> Tensor:
    share = alpha.view(-1, *[1] * (x.ndim - 1))
    return share * x + share * (1 - share)


@FEW
@given(seed=seeds, height=sides, width=sides, value=st.floats(-2, 2), sigma=st.floats(0.1, 20))
def test_paths_start_at_the_reference_and_end_at_the_input(
    seed: int, height: int, width: int, value: float, sigma: float
) -> None:
    x = drawn(seed, 2, 3, height, width)
    references = {
        StraightLine(baseline=Constant(value=value)): torch.full_like(x, value),
        BlurLine(max_sigma=sigma): None,
        UserPath(path=bent): torch.zeros_like(x),
    }
    rows = torch.arange(2)
    for path, reference in references.items():
        bound = path.bind(problem_of(Total(), x))
        start, end = (bound.point(rows, torch.full((2,), alpha, dtype=x.dtype)) for alpha in (0.0, 1.0))
        torch.testing.assert_close(end, x, rtol=0, atol=1e-12)
        torch.testing.assert_close(start, bound.reference, rtol=0, atol=1e-12)
        if reference is not None:
            torch.testing.assert_close(start, reference, rtol=0, atol=1e-12)


# ---------------------------------------------------------------- removals


@pytest.mark.parametrize("name", ["replace", "segment_mean", "marginal", "conditional"])
@FEW
@given(seed=seeds, cells=st.integers(1, 3), height=st.integers(4, 7), width=st.integers(4, 7))
def test_keeping_all_units_is_the_identity_and_keeping_none_is_not(
    name: str, seed: int, cells: int, height: int, width: int
) -> None:
    x, background = drawn(seed, 2, 3, height, width), 2 + drawn(seed + 1, 3, 3, height, width)
    params: dict[str, Any] = {
        "replace": {"baseline": Constant(value=-1.0)},
        "segment_mean": {},
    }.get(name, {"samples": background})
    problem, layout = problem_of(Total(), x), segments_of(Grid(n=cells), x)
    bound = removals.make(name, **params).bind(problem, layout)
    owner = torch.tensor([0, 1, 1])
    for all_stay in (True, False):
        coalition = torch.full((3, cells * cells), all_stay)
        absent = Absent(owner, torch.zeros_like(owner), layout.keep(owner, coalition), coalition)
        assert torch.equal(bound.rows(absent), x[owner]) == all_stay


# ---------------------------------------------------------------- rules

RULES = [Epsilon(), Epsilon(epsilon=0.3), Gamma(), AlphaBeta(), Flat(), WSquare(), ZBox()]


class TwoLayers(nn.Module):
    def __init__(self, seed: int, size: int, stride: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(drawn(seed, 4, 3, size, size) - 0.5)
        self.bias = nn.Parameter(drawn(seed + 1, 4) - 0.5)
        self.head = nn.Parameter(drawn(seed + 2, 2, 4) - 0.5)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.conv2d(x, self.kernel, self.bias, stride=self.stride).relu()
        return F.linear(hidden.mean((2, 3)), self.head)


@pytest.mark.parametrize("rule", RULES, ids=repr)
@settings(max_examples=5)
@given(seed=seeds, size=st.integers(1, 3), stride=st.integers(1, 2))
def test_a_rule_leaves_the_forward_value_as_it_is(rule: Any, seed: int, size: int, stride: int) -> None:
    net, x = TwoLayers(seed, size, stride), drawn(seed + 3, 2, 3, 5, 5)
    task = abe.image_task(net, output_kind="logits")
    rules = (("conv2d", rule),)
    found = abe.explain(task, x, "lrp_epsilon", rules=rules, target=1, progress=False)
    torch.testing.assert_close(found.score, net(x)[:, 1].detach(), rtol=0, atol=1e-12)
    assert bool(found.attribution.isfinite().all())


# ---------------------------------------------------------------- projections


@given(seed=seeds, norm=st.sampled_from(["linf", "l2"]), eps=st.floats(1e-6, 10), reach=st.floats(0, 1e3))
def test_a_projection_ends_in_the_ball_and_moves_nothing_that_is_in_it(
    seed: int, norm: Any, eps: float, reach: float
) -> None:
    ball, difference = Ball(eps=eps, norm=norm), reach * (drawn(seed, 4, 2, 3) - 0.5)
    order = torch.inf if norm == "linf" else 2
    cut = ball.cut(difference)
    assert float(cut.flatten(1).norm(order, dim=1).max()) <= eps * (1 + 1e-12)
    inside = difference.flatten(1).norm(order, dim=1) <= eps
    assert torch.equal(cut[inside], difference[inside])
    torch.testing.assert_close(ball.cut(cut), cut, rtol=1e-12, atol=0)
    cosine = torch.cosine_similarity(cut.flatten(1), difference.flatten(1))
    assert norm == "linf" or reach < 1e-3 or float(cosine.min()) > 1 - 1e-12


# ---------------------------------------------------------------- chunks


@given(
    start=st.integers(1, 5000),
    budget=st.integers(1, 10**6),
    row=st.integers(1, 10**5),
    events=st.lists(st.one_of(st.none(), st.floats(1e-6, 1e3)), max_size=60),
)
def test_a_plan_never_offers_more_than_its_limit(
    start: int, budget: int, row: int, events: list[float | None]
) -> None:
    """Whatever chunks take (a number) and whichever do not fit (None); what did not fit never returns."""
    plan, refused = ChunkPlan(start=start, budget=budget), 10**9
    plan.fit(row)
    for seconds in events:
        size = plan.size
        assert 1 <= size <= plan.limit
        assert size * row <= max(budget, row)
        assert size < refused or size == 1
        if seconds is None:
            refused = min(refused, size)
            plan.shrink(size)
        else:
            plan.record(size, seconds)

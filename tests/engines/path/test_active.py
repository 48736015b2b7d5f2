"""Rows that leave when they are done, and the lengths and limits that steps are made of."""

from dataclasses import dataclass

import torch

from abe.engines.path.active import Active, take
from abe.engines.path.geometry import clipped, in_ball, lengths, shortened, unit


@dataclass(frozen=True)
class _Carried:
    moments: torch.Tensor
    width: int


def test_rows_leave_with_what_they_carry_and_the_loop_ends_with_the_last() -> None:
    numbers = torch.arange(4)
    active = Active(numbers, ({"momentum": numbers * 1.0}, _Carried(numbers * 10, 3), None))
    seen: list[list[int]] = []
    for step in active.steps(10):
        seen.append(active.rows.tolist())
        active.keep(active.rows > step)
        state, carried, nothing = active.carried
        assert torch.equal(state["momentum"], active.rows * 1.0)
        assert torch.equal(carried.moments, active.rows * 10)
        assert (carried.width, nothing) == (3, None)
    assert seen == [[0, 1, 2, 3], [1, 2, 3], [2, 3], [3]]
    assert torch.equal(take(numbers, torch.tensor([2, 0])), torch.tensor([2, 0]))


def test_lengths_directions_and_limits() -> None:
    rows = torch.tensor([[[3.0, 4.0]], [[0.0, 0.0]], [[0.3, 0.4]]], dtype=torch.float64)
    assert torch.allclose(lengths(rows), torch.tensor([5.0, 0.0, 0.5], dtype=torch.float64))
    assert torch.allclose(lengths(unit(rows)), torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64))
    assert torch.allclose(lengths(shortened(rows, 1.0)), torch.tensor([1.0, 0.0, 0.5], dtype=torch.float64))
    share = torch.tensor([0.25, 0.5, 1.0], dtype=torch.float64)
    inside = in_ball(torch.ones_like(rows), share, 2.0)  # two features: r u^(1/2)
    assert torch.allclose(lengths(inside), 2.0 * share.sqrt())
    bounds = (torch.zeros(1, 2, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64))
    assert torch.equal(clipped(rows, bounds), rows.clamp(0, 1))
    assert clipped(rows, None) is rows

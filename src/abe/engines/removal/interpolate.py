"""Removal of a stretch of a series: a straight line from what stays before it to what stays behind."""

import torch
from torch import Tensor

from abe.engines.removal.removals import Absent, BoundRemoval, Layout
from abe.engines.runtime.problem import Problem
from abe.errors import Code, SpecError
from abe.registry import removals
from abe.spec import value
from abe.task.lifted import LENGTH
from abe.types import Card


@removals.register(
    Card(
        name="interpolate",
        title="Linear interpolation",
        source="covert2021",
        features=("positions",),
        pitfalls=("What is as straight as a line is not removed at all.",),
    )
)
@value
class Interpolate:
    """Absent stretches are straight lines along the first axis of positions, channel by channel.

    A line goes from the last place that stays before the gap to the first behind it; a gap at an end shows
    the nearest place that stays, and a channel of which nothing stays its mean.
    """

    def bind(self, problem: Problem, layout: Layout) -> BoundRemoval:
        if problem.x.ndim < 3:
            raise SpecError(
                Code.UNSUPPORTED,
                "Interpolation needs neighbouring positions",
                got=f"inputs of shape {tuple(problem.x.shape[1:])}",
                expected="channels and at least one axis of positions",
                fix='Choose removal="zero", "mean" or a background set',
            )
        return _Interpolated(problem)


class _Interpolated:
    draws = 1

    def __init__(self, problem: Problem) -> None:
        x = self._x = problem.x
        lengths = problem.context.about.get(LENGTH)
        places = torch.arange(x.shape[2], device=x.device)
        self._there = torch.ones((len(x), x.shape[2]), dtype=torch.bool, device=x.device)
        if lengths is not None:
            self._there = places < lengths.to(x.device)[:, None]
        there = self._there.view(len(x), 1, -1, *[1] * (x.ndim - 3)).to(x)
        self._mean = (x * there).sum(2, keepdim=True) / there.sum(2, keepdim=True)

    def rows(self, absent: Absent) -> Tensor:
        x = self._x[absent.owner]
        there = self._there[absent.owner].view(len(x), 1, -1, *[1] * (x.ndim - 3))
        stays = absent.keep.expand_as(x)
        known = stays & there
        t = x.shape[2]
        place = torch.arange(t, device=x.device).view(1, 1, -1, *[1] * (x.ndim - 3)).expand_as(x)
        before = torch.where(known, place, -1).cummax(2).values
        behind = torch.where(known, place, t).flip(2).cummin(2).values.flip(2)
        left, right = x.gather(2, before.clamp_min(0)), x.gather(2, behind.clamp_max(t - 1))
        share = (place - before).to(x) / (behind - before).clamp_min(1).to(x)
        line = torch.where(before < 0, right, torch.where(behind >= t, left, left + share * (right - left)))
        nothing = (before < 0) & (behind >= t)
        return torch.where(stays, x, torch.where(nothing, self._mean[absent.owner].expand_as(x), line))

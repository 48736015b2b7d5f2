"""The step of Guided IG: move the features with the smallest gradients first, within a band."""

from dataclasses import dataclass

import torch
from torch import Tensor

from abe.engines.refine import along
from abe.engines.update import Point, State
from abe.errors import Code, SpecError
from abe.spec import value


@value
class GuidedStep:
    """Shrink the L1 distance to the input by 1/T of the total, least sensitive features first.

    Features may run at most ``max_dist`` ahead of or behind the straight line.

    Args:
        fraction: share of features that is moved together.
        max_dist: width of the band around the straight line, in path length.
    """

    fraction: float = 0.25
    max_dist: float = 0.02

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1 or self.max_dist < 0:
            raise SpecError(
                Code.BAD_PARAMETER,
                "Guided IG needs 0 < fraction ≤ 1 and max_dist ≥ 0",
                got=f"fraction {self.fraction}, max_dist {self.max_dist}",
            )

    def step(self, point: Point, state: State) -> tuple[Tensor, State]:
        """The points after one step; every row stops when it has shrunk its distance enough."""
        band = _Band.of(point, self.max_dist)
        x = point.x.clone()
        magnitude = point.gradient.abs()
        open_ = torch.arange(len(x), device=x.device)
        while len(open_):
            x[open_], done = self._move(band.rows(open_), x[open_], magnitude[open_])
            open_ = open_[~done]
        return x, state

    def _move(self, band: "_Band", x: Tensor, magnitude: Tensor) -> tuple[Tensor, Tensor]:
        """One inner move of the given rows: stragglers to the band, then the quiet features ahead."""
        place = band.place(x)
        x = torch.where(place < band.low, band.slowest, x)
        place = torch.where(place < band.low, band.low, place)
        left = (x - band.goal).abs().flatten(1).sum(1)
        arrived = torch.isclose(band.target, left, rtol=1e-9, atol=1e-9)
        magnitude = torch.where(place == band.high, torch.inf, magnitude)
        quiet = (magnitude <= along(_lower_quantile(magnitude, self.fraction), x)) & magnitude.isfinite()
        available = torch.where(quiet, (x - band.fastest).abs(), 0).flatten(1).sum(1)
        share = torch.where(available > 0, (left - band.target) / available, torch.inf)
        part = along(share.clamp_max(1.0), x)
        ahead = torch.where(along(share, x) > 1, band.fastest, torch.lerp(x, band.fastest, part))
        moved = torch.where(quiet & ~along(arrived, x).bool(), ahead, x)
        stuck = ~quiet.flatten(1).any(1)
        return moved, arrived | (share <= 1) | stuck


@dataclass(frozen=True)
class _Band:
    """Where features may be after the current step."""

    origin: Tensor
    goal: Tensor
    low: float
    high: float
    slowest: Tensor
    fastest: Tensor
    target: Tensor

    @classmethod
    def of(cls, point: Point, max_dist: float) -> "_Band":
        alpha = (point.step + 1.0) / point.steps
        low, high = max(alpha - max_dist, 0.0), min(alpha + max_dist, 1.0)
        origin, goal = point.start, point.sample
        way = goal - origin
        whole = way.abs().flatten(1).sum(1)
        return cls(origin, goal, low, high, origin + way * low, origin + way * high, whole * (1 - alpha))

    def rows(self, chosen: Tensor) -> "_Band":
        parts = (self.origin, self.goal, self.slowest, self.fastest, self.target)
        origin, goal, slowest, fastest, target = (t[chosen] for t in parts)
        return _Band(origin, goal, self.low, self.high, slowest, fastest, target)

    def place(self, x: Tensor) -> Tensor:
        """Each feature's share of its way; features without a way are as far as allowed."""
        way = self.goal - self.origin
        return torch.where(way == 0, self.high, (x - self.origin) / torch.where(way == 0, 1, way))


def _lower_quantile(values: Tensor, fraction: float) -> Tensor:
    """(n,) the largest value at or below the given share of each row's entries."""
    flat = values.flatten(1)
    return flat.kthvalue(int(fraction * (flat.shape[1] - 1)) + 1, dim=1).values

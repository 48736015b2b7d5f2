"""What a mask pays for: area, roughness, order."""

import math
from typing import Annotated

import torch
from torch import Tensor

from abe.checks import Between, Count, NotNegative, Positive, Probability
from abe.engines.mask.optimise import At, BoundPenalty
from abe.engines.runtime.problem import Problem
from abe.errors import Code, SpecError
from abe.spec import value

Power = Annotated[float, Between(1, math.inf, "[)")]
"""Below 1 the slope at equal neighbours is not finite."""


@value
class Removed:
    """weight · mean(1 − m): as little as possible is removed.

    Args:
        weight: price of removing everything.
    """

    weight: NotNegative

    def bind(self, problem: Problem) -> BoundPenalty:
        def penalty(mask: Tensor, at: At) -> Tensor:
            return self.weight * (1 - mask).flatten(1).mean(1)

        return penalty


@value
class Variation:
    """weight · Σ_axes mean |m(u + 1) − m(u)|^power: neighbours are kept or removed together.

    Args:
        weight: price of a step of 1 everywhere.
        power: larger forgives gentle slopes.
        cells: the step is one from cell to cell of a grid of so many along each axis, whatever the
            number of positions that the mask was interpolated to; None is from position to position.
    """

    weight: NotNegative
    power: Power = 3.0
    cells: Count | None = None

    def bind(self, problem: Problem) -> BoundPenalty:
        def penalty(mask: Tensor, at: At) -> Tensor:
            total = mask.new_zeros(len(mask))
            for axis in range(2, mask.ndim):
                side = mask.shape[axis]
                if side > 1:
                    step = 1.0 if self.cells is None else side / min(self.cells, side)
                    total = total + (step * mask.diff(dim=axis)).abs().pow(self.power).flatten(1).mean(1)
            return self.weight * total

        return penalty


@value
class SortedArea:
    """weight · growth^(t / steps) · mean (sort(m) − r_a)², r_a zero but for its last share a of ones.

    Args:
        areas: share of positions to keep, one per variant.
        weight: at the first step; small enough that the score decides which positions are sorted first.
        growth: factor from the first step to the last.
        steps: of the optimisation.
    """

    areas: tuple[Probability, ...]
    weight: NotNegative
    growth: Positive
    steps: Count

    def __post_init__(self) -> None:
        if not self.areas:
            raise SpecError(
                Code.BAD_PARAMETER,
                "areas are shares of the input between 0 and 1",
                got=repr(self.areas),
                expected="for example (0.05, 0.1, 0.2)",
            )

    def bind(self, problem: Problem) -> BoundPenalty:
        def penalty(mask: Tensor, at: At) -> Tensor:
            flat = mask.flatten(1)
            n = flat.shape[1]
            rank = torch.arange(n, device=mask.device)
            zeros = torch.tensor([n - max(1, round(a * n)) for a in self.areas], device=mask.device)
            wanted = (rank >= zeros[at.variant][:, None]).to(flat)
            # The first mask is symmetric: values that are equal but for rounding keep the order of places.
            digits = int(-math.log10(torch.finfo(flat.dtype).eps)) - 1
            order = flat.detach().round(decimals=max(digits, 1)).argsort(dim=1, stable=True)
            miss = (flat.gather(1, order) - wanted).square().mean(1)
            return self.weight * self.growth ** (at.step / self.steps) * miss

        return penalty

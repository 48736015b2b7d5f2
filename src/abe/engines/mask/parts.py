"""Parts of mask optimisations: masks on a grid, fading and blurring, penalties, optimisers."""

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from abe.checks import AtLeast, Count, CountFrom0, Positive, need_places
from abe.engines.path.curves import BlurLine
from abe.engines.runtime.problem import Problem
from abe.engines.runtime.reference import reference_of
from abe.engines.runtime.shapes import stretch
from abe.spec import value
from abe.types import Baseline

REACH = 1.75
"""Distance, in σ, up to which the smooth maximum looks; the kernel is 0.044 there."""


# --- which masks there are ------------------------------------------------------------------------


@value
class CellGrid:
    """One number per cell of a grid, interpolated linearly to the positions; 1 to begin with.

    Inputs without positions (tabular) have one number per feature.

    Args:
        cells: cells along each axis; never more than there are positions.
    """

    cells: Count = 28

    def bind(self, problem: Problem) -> "_Cells":
        return _Cells(problem.x, self.cells)


class _Cells:
    def __init__(self, x: Tensor, cells: int) -> None:
        self._like, self._space = x, tuple(x.shape[2:])
        self._shape = (1, *(min(cells, side) for side in self._space)) if self._space else tuple(x.shape[1:])

    def start(self, n: int) -> Tensor:
        return torch.ones((n, *self._shape), dtype=self._like.dtype, device=self._like.device)

    def mask(self, numbers: Tensor) -> Tensor:
        return stretch(numbers, self._space) if self._space else numbers

    def clip(self, numbers: Tensor) -> Tensor:
        return numbers.clamp(0, 1)


@value
class SmoothMaxGrid:
    """m(u) = smax_v k(‖u − v‖/σ) p(v) over the points v of a grid: smooth masks of any area.

    k(z) = exp(−2 max(z − ½, 0)²), smax the mean weighted by exp(T ·). The maximum is taken at the
    points of the grid and interpolated linearly between them (they are a third of σ apart).

    Args:
        cells: points of the grid along the longer axis.
        sigma: reach of a point as a share of the longer axis.
        temperature: T; larger is closer to the maximum.
    """

    cells: Count = 32
    sigma: Positive = 21 / 224
    temperature: Positive = 20.0

    def bind(self, problem: Problem) -> "_SmoothMax":
        need_places(
            "A smooth mask needs neighbouring positions",
            problem.x,
            fix="For tabular inputs use meaningful_perturbation",
        )
        return _SmoothMax(problem.x, self)


class _SmoothMax:
    def __init__(self, x: Tensor, spec: SmoothMaxGrid) -> None:
        self._like, self._space = x, tuple(x.shape[2:])
        sides = self._space if len(self._space) == 2 else (1, *self._space)
        longest, cells = max(sides), min(spec.cells, max(sides))
        self._grid = [math.ceil(side * cells / longest) for side in sides]
        spacing = [side / n for side, n in zip(sides, self._grid, strict=True)]
        sigma = spec.sigma * longest
        self._reach = [
            min(math.ceil(REACH * sigma / s), n - 1) for s, n in zip(spacing, self._grid, strict=True)
        ]
        axes = [
            torch.arange(-r, r + 1, dtype=torch.float64) * s / sigma
            for r, s in zip(self._reach, spacing, strict=True)
        ]
        distance = (axes[0][:, None].square() + axes[1][None, :].square()).sqrt()
        kernel = torch.exp(-2 * (distance - 0.5).clamp_min(0).square())
        self._kernel = kernel.flatten().to(x)[:, None]
        self._temperature = spec.temperature

    def start(self, n: int) -> Tensor:
        return torch.ones((n, 1, *self._grid), dtype=self._like.dtype, device=self._like.device)

    def mask(self, numbers: Tensor) -> Tensor:
        ry, rx = self._reach
        window = F.unfold(numbers, (2 * ry + 1, 2 * rx + 1), padding=(ry, rx))
        near = window * self._kernel  # (n, window, points)
        weight = torch.softmax(self._temperature * near, dim=1)
        coarse = (weight * near).sum(1).view(-1, 1, *self._grid)
        return stretch(coarse if len(self._space) == 2 else coarse[:, :, 0], self._space)

    def clip(self, numbers: Tensor) -> Tensor:
        return numbers.clamp(0, 1)


# --- what a mask does -----------------------------------------------------------------------------


@value
class FadeTo:
    """Φ(x; m) = m x + (1 − m) x′, x′ from a baseline.

    Args:
        baseline: where removed parts fade to.
    """

    baseline: Baseline

    def bind(self, problem: Problem) -> "_Fade":
        return _Fade(problem.x, reference_of(self.baseline, problem))


class _Fade:
    def __init__(self, x: Tensor, reference: Tensor) -> None:
        self._reference, self._difference = reference, x - reference

    def rows(self, mask: Tensor, owner: Tensor, draw: Tensor) -> Tensor:
        return self._reference[owner] + mask * self._difference[owner]


@value
class FadeByBlur:
    """Every position blurred the more the less of it is kept: σ = (1 − m) σ_max, linear between levels.

    Args:
        levels: blurred copies, from σ_max to none.
        sigma: σ_max as a share of the longer axis.
    """

    levels: Annotated[int, AtLeast(2)] = 8
    sigma: Positive = 20 / 224

    def bind(self, problem: Problem) -> "_Pyramid":
        blur = BlurLine(max_sigma=self.sigma * max(problem.x.shape[2:], default=1)).bind(problem)
        alphas = torch.linspace(0, 1, self.levels, dtype=problem.x.dtype, device=problem.x.device)
        everyone = problem.everyone
        copies = [blur.point(everyone, alpha.expand(len(everyone))) for alpha in alphas]
        return _Pyramid(torch.stack(copies, dim=1))


class _Pyramid:
    def __init__(self, copies: Tensor) -> None:
        self._copies = copies
        self._level = torch.arange(copies.shape[1], dtype=copies.dtype, device=copies.device)

    def rows(self, mask: Tensor, owner: Tensor, draw: Tensor) -> Tensor:
        height = mask[:, None] * (len(self._level) - 1)
        level = self._level.view(1, -1, *[1] * (mask.ndim - 1))
        return ((1 - (height - level).abs()).clamp_min(0) * self._copies[owner]).sum(1)


# --- what a mask must not depend on ---------------------------------------------------------------


@value
class ShiftRows:
    """Rows moved by up to ``pixels`` positions along every axis, drawn anew at every step.

    Args:
        pixels: largest move; the border is continued.
    """

    pixels: CountFrom0 = 4

    def rows(self, problem: Problem, rows: Tensor, owner: Tensor, draw: Tensor, step: int) -> Tensor:
        if self.pixels == 0 or rows.ndim < 3:
            return rows
        axes = rows.ndim - 2
        drawn = problem.draws.integers(
            "mask.shift", problem.keys(owner, draw), 2 * self.pixels + 1, (axes,)
        ).to(rows.device)
        for i in range(axes):
            side = rows.shape[2 + i]
            index = torch.arange(side, device=rows.device) + drawn[:, i : i + 1] - self.pixels
            shape = [len(rows), 1, *[1] * axes]
            shape[2 + i] = side
            rows = rows.gather(2 + i, index.clamp(0, side - 1).view(shape).expand_as(rows))
        return rows


@value
class FlipRows:
    """Images mirrored along their last axis at every second step."""

    def rows(self, problem: Problem, rows: Tensor, owner: Tensor, draw: Tensor, step: int) -> Tensor:
        return rows.flip(-1) if rows.ndim == 4 and step % 2 == 0 else rows


# --- what is not wanted of a mask -----------------------------------------------------------------


# --- how the numbers move -------------------------------------------------------------------------

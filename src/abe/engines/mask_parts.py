"""Parts of mask optimisations: masks on a grid, fading and blurring, penalties, optimisers."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from abe.engines.mask import At, BoundPenalty, State
from abe.engines.path import BlurLine, check_count, reference_of
from abe.engines.problem import Problem
from abe.errors import Code, SpecError
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

    cells: int = 28

    def __post_init__(self) -> None:
        check_count("cells", self.cells)

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

    cells: int = 32
    sigma: float = 21 / 224
    temperature: float = 20.0

    def __post_init__(self) -> None:
        check_count("cells", self.cells)
        if not (self.sigma > 0 and self.temperature > 0):
            raise SpecError(Code.BAD_PARAMETER, "sigma and temperature must be positive", got=repr(self))

    def bind(self, problem: Problem) -> "_SmoothMax":
        if problem.x.ndim not in (3, 4):
            raise SpecError(
                Code.UNSUPPORTED,
                "A smooth mask needs neighbouring positions",
                got=f"inputs of shape {tuple(problem.x.shape[1:])}",
                expected="(c, h, w) or (c, t)",
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


def stretch(maps: Tensor, space: tuple[int, ...]) -> Tensor:
    """(n, c, *space) maps interpolated linearly to one or two axes of positions."""
    if tuple(maps.shape[2:]) == space:
        return maps
    mode = {1: "linear", 2: "bilinear"}.get(len(space))
    if mode is None:
        raise SpecError(
            Code.UNSUPPORTED,
            "Masks cover one or two axes of positions",
            got=f"inputs with {len(space)}",
            expected="(c, h, w), (c, t) or (d,)",
        )
    return F.interpolate(maps, size=space, mode=mode, align_corners=False)


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

    levels: int = 8
    sigma: float = 20 / 224

    def __post_init__(self) -> None:
        check_count("levels", self.levels)
        if self.levels < 2 or not self.sigma > 0:
            raise SpecError(
                Code.BAD_PARAMETER, "Blurring needs two levels and a positive sigma", got=repr(self)
            )

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

    pixels: int = 4

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


@value
class Removed:
    """weight · mean(1 − m): as little as possible is removed.

    Args:
        weight: price of removing everything.
    """

    weight: float

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

    weight: float
    power: float = 3.0
    cells: int | None = None

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

    areas: tuple[float, ...]
    weight: float
    growth: float
    steps: int

    def __post_init__(self) -> None:
        if not self.areas or not all(isinstance(a, int | float) and 0 < a < 1 for a in self.areas):
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
            miss = (flat.sort(dim=1, stable=True).values - wanted).square().mean(1)
            return self.weight * self.growth ** (at.step / self.steps) * miss

        return penalty


# --- how the numbers move -------------------------------------------------------------------------


@value
class AdamStep:
    """Adam, with the usual β.

    Args:
        rate: step size.
        soft: ε is 1e-8 and this divided by the count of numbers. Where the score counts in shares, a
            number's slope is about a share by their count; those far below it would move by rounding.
    """

    rate: float
    soft: float = 0.0

    def step(self, numbers: Tensor, gradient: Tensor, state: State, number: int) -> tuple[Tensor, State]:
        first = 0.9 * state["first"] + 0.1 * gradient if state else 0.1 * gradient
        square = gradient.square()
        second = 0.999 * state["second"] + 0.001 * square if state else 0.001 * square
        size = (second / (1 - 0.999 ** (number + 1))).sqrt() + 1e-8 + self.soft / numbers[0].numel()
        moved = numbers - self.rate * first / (1 - 0.9 ** (number + 1)) / size
        return moved, {"first": first, "second": second}


@value
class MomentumStep:
    """Gradient descent along v ← μ v + (1 − d) g, v = g at the first step.

    Args:
        rate: step size, per number: slopes of means shrink with the count of numbers.
        momentum: μ.
        dampening: d.
    """

    rate: float
    momentum: float = 0.9
    dampening: float = 0.9

    def step(self, numbers: Tensor, gradient: Tensor, state: State, number: int) -> tuple[Tensor, State]:
        speed = self.momentum * state["speed"] + (1 - self.dampening) * gradient if state else gradient
        return numbers - self.rate * numbers[0].numel() * speed, {"speed": speed}

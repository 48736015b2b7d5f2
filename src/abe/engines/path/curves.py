"""Static paths: a straight line, a fading blur, the user's own."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from abe.checks import Positive, need_places
from abe.engines.runtime.problem import Problem
from abe.engines.runtime.reference import reference_of
from abe.engines.runtime.shapes import along
from abe.errors import AbeError, Code, SpecError
from abe.registry import baselines, paths
from abe.spec import resolved, value
from abe.types import Baseline, Card


@paths.register(
    Card(
        name="straight",
        title="Straight line",
        source="sundararajan2017",
        formula="γ(α) = x′ + α (x − x′)",
        example={"baseline": "zero"},
    )
)
@value
class StraightLine:
    """From a baseline to the input in a straight line."""

    baseline: Baseline = resolved(converter=baselines.resolve)

    def bind(self, problem: Problem) -> "_Line":
        """The lines of a batch."""
        return _Line(reference_of(self.baseline, problem), problem.x)


class _Line:
    has_velocity = True

    def __init__(self, reference: Tensor, x: Tensor) -> None:
        self.reference = reference
        self._difference = x - reference

    def point(self, owner: Tensor, alpha: Tensor) -> Tensor:
        step = self._difference[owner].mul_(along(alpha, self._difference))
        return step.add_(self.reference[owner])

    def velocity(self, owner: Tensor, alpha: Tensor) -> Tensor:
        return self._difference[owner]


@paths.register(
    Card(
        name="blur",
        title="Blur path",
        source="xu2020",
        formula="γ(α) = x blurred by a Gaussian of σ = (1 − α) σ_max, reflecting at the border",
    )
)
@value
class BlurLine:
    """From the blurred input to the sharp one.

    The blur is a diagonal in the cosine basis, exp(−σ²ω²/2), so points and velocities are exact.

    Args:
        max_sigma: standard deviation at the reference, in pixels.
    """

    max_sigma: Positive = 50.0

    def bind(self, problem: Problem) -> "_Blur":
        """The blurred copies of a batch."""
        need_places("A blur path needs inputs with space or time", problem.x)
        return _Blur(problem.x, self.max_sigma)


class _Blur:
    has_velocity = True
    CUTOFF = 40.0
    """exp(−40) is below the rounding of float64: higher frequencies are left out."""

    def __init__(self, x: Tensor, max_sigma: float) -> None:
        self._max_sigma = max_sigma
        self._image = x if x.ndim == 4 else x[:, :, None, :]
        self._shape = x.shape[1:]
        self._bases = [_cosines(n, x) for n in self._image.shape[2:]]
        rows, columns = self._bases
        self._spectrum = rows @ self._image @ columns.T
        zero = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        self.reference = self.point(torch.arange(len(x), device=x.device), zero)

    def point(self, owner: Tensor, alpha: Tensor) -> Tensor:
        sigma = (1 - alpha) * self._max_sigma
        blurred = self._synthesise(owner, sigma, derivative=False)
        exact = sigma == 0
        if bool(exact.any()):
            blurred[exact] = self._image[owner[exact]].reshape(-1, *self._shape)
        return blurred

    def velocity(self, owner: Tensor, alpha: Tensor) -> Tensor:
        return self._synthesise(owner, (1 - alpha) * self._max_sigma, derivative=True)

    def _synthesise(self, owner: Tensor, sigma: Tensor, *, derivative: bool) -> Tensor:
        """Blurred images, or their derivative by α: σ_max σ ω² exp(−σ²ω²/2) in the cosine basis.

        How many frequencies are summed depends on a row's own σ alone, or its rounding would depend on
        its neighbours; it is rounded up to a power of two so that few groups remain.
        """
        out = self._image.new_empty((len(owner), *self._shape))
        levels = [_level(max(self._image.shape[2:]), s, self.CUTOFF) for s in sigma.tolist()]
        for level in set(levels):
            rows = torch.tensor([i for i, other in enumerate(levels) if other == level], device=owner.device)
            out[rows] = self._sum(owner[rows], sigma[rows].view(-1, 1, 1, 1), level, derivative)
        return out

    def _sum(self, owner: Tensor, sigma: Tensor, level: int, derivative: bool) -> Tensor:
        """The first ``level`` frequencies of each axis (of the longer one; in proportion on the other)."""
        longest = max(self._image.shape[2:])
        cut = [max(1, min(len(b), math.ceil(level * len(b) / longest))) for b in self._bases]
        rows, columns = (basis[:k] for basis, k in zip(self._bases, cut, strict=True))
        squares = [_frequencies(len(b), k, b).square() for b, k in zip(self._bases, cut, strict=True)]
        square = squares[0][:, None] + squares[1][None, :]
        gain = torch.exp(-0.5 * sigma.square() * square)
        if derivative:
            gain = gain * square * sigma * self._max_sigma
        spectrum = self._spectrum[owner, :, : cut[0], : cut[1]] * gain
        return (rows.T @ (spectrum @ columns)).reshape(len(owner), *self._shape)


@value
class UserPath:
    """A path of one's own.

    Args:
        path: a function ``(x, alpha) -> points`` of rows x (n, *f) and alpha (n,) that is x itself at
            alpha 1; or points (k, *f) or (b, k, *f) from the reference to the input, joined by chords.
    """

    path: Callable[[Tensor, Tensor], Tensor] | Tensor

    def bind(self, problem: Problem) -> "_Function | _Polyline":
        """The path of a batch, checked to end at the inputs."""
        if isinstance(self.path, Tensor):
            return _Polyline(_points(self.path, problem.x))
        return _Function(self.path, problem.x)


class _Function:
    has_velocity = False

    def __init__(self, path: Callable[[Tensor, Tensor], Tensor], x: Tensor) -> None:
        self._path = path
        self._x = x
        everyone = torch.arange(len(x), device=x.device)
        self.reference = self.point(everyone, torch.zeros(len(x), dtype=x.dtype, device=x.device))
        end = self.point(everyone, torch.ones(len(x), dtype=x.dtype, device=x.device))
        _check_end(end, x)

    def point(self, owner: Tensor, alpha: Tensor) -> Tensor:
        x = self._x[owner]
        try:
            made = self._path(x, alpha)
        except AbeError:
            raise
        except Exception as problem:
            raise SpecError(
                Code.PATH,
                "The path function raised an exception",
                got=f"{type(problem).__name__}: {problem}",
                expected="a function (x (n, *f), alpha (n,)) -> points (n, *f)",
            ) from problem
        return _check_points(made, x)

    def velocity(self, owner: Tensor, alpha: Tensor) -> Tensor:
        raise NotImplementedError("chords are used")


class _Polyline:
    has_velocity = False

    def __init__(self, points: Tensor) -> None:
        self._points = points
        self.reference = points[:, 0]
        self.segments = points.shape[1] - 1

    def point(self, owner: Tensor, alpha: Tensor) -> Tensor:
        last = self._points.shape[1] - 1
        place = alpha.double() * last
        left = place.floor().clamp(0, max(last - 1, 0)).long()
        share = along((place - left).to(self._points), self._points[:, 0])
        return torch.lerp(self._points[owner, left], self._points[owner, (left + 1).clamp_max(last)], share)

    def velocity(self, owner: Tensor, alpha: Tensor) -> Tensor:
        raise NotImplementedError("chords are used")


def _cosines(n: int, like: Tensor) -> Tensor:
    """(n, n) orthonormal cosine basis: rows are frequencies."""
    k = torch.arange(n, dtype=torch.float64)
    basis = torch.cos(math.pi / n * k[:, None] * (k[None, :] + 0.5)) * math.sqrt(2 / n)
    basis[0] /= math.sqrt(2)
    return basis.to(like)


def _frequencies(n: int, kept: int, like: Tensor) -> Tensor:
    return math.pi / n * torch.arange(kept, dtype=like.dtype, device=like.device)


def _level(n: int, sigma: float, cutoff: float) -> int:
    """Number of frequencies ω with σ²ω²/2 below the cutoff, rounded up to a power of two."""
    needed = n if sigma <= 0 else min(n, math.ceil(n / math.pi * math.sqrt(2 * cutoff) / sigma) + 1)
    return min(n, 1 << (needed - 1).bit_length())


def _points(points: Tensor, x: Tensor) -> Tensor:
    points = points.to(x)
    if points.ndim == x.ndim:
        points = points[None].expand(len(x), *points.shape)
    if points.ndim != x.ndim + 1 or points.shape[2:] != x.shape[1:] or points.shape[0] != len(x):
        raise SpecError(
            Code.PATH,
            "The points of the path do not fit the input",
            got=str(tuple(points.shape)),
            expected=f"(k, {', '.join(map(str, x.shape[1:]))}) or one list per sample",
        )
    if points.shape[1] < 2:
        raise SpecError(Code.PATH, "A path needs at least two points", got=points.shape[1])
    _check_end(points[:, -1], x)
    return points


def _check_points(made: Any, x: Tensor) -> Tensor:
    if not isinstance(made, Tensor) or made.shape != x.shape:
        raise SpecError(
            Code.PATH,
            "The path must return one point per row",
            got=str(tuple(made.shape)) if isinstance(made, Tensor) else type(made).__name__,
            expected=str(tuple(x.shape)),
        )
    if not bool(torch.isfinite(made).all()):
        raise SpecError(Code.PATH, "The path returned NaN or infinity")
    return made


def _check_end(end: Tensor, x: Tensor) -> None:
    if not torch.allclose(end, x, rtol=1e-4, atol=1e-5):
        raise SpecError(
            Code.PATH,
            "The path must end at the input (alpha = 1)",
            got=f"a point up to {float((end - x).abs().max()):.3g} away",
            fix="Run it from the reference to the input",
        )

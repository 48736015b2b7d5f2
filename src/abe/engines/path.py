"""Static paths: A = ∫ ∇s(γ(α)) ⊙ γ′(α) dα from a reference (α = 0) to the input (α = 1).

All samples and nodes are flattened into rows. With `tolerance` the nodes are placed where they are
needed: the path is cut into panels whose exact score change is known, and the panels that miss most
of theirs are halved until the sum over all is within the tolerance.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from abe.engines.batching import Chunk
from abe.engines.problem import Problem
from abe.engines.quadrature import GaussLegendre
from abe.engines.refine import Pieces, along, refine
from abe.errors import AbeError, Code, InputError, SpecError, note
from abe.registry import baselines, paths
from abe.spec import value
from abe.types import Baseline, BoundPath, Card, Path, Quadrature, Result

PANELS = 8
"""Panels of the adaptive rule: enough to find where the score changes, few enough to keep in memory."""
BLOCK_BYTES = 256 * 2**20
"""Memory that the panels of the samples refined together may take."""


@value
class PathIntegral:
    """A = ∫ ∇s(γ) ⊙ dγ along a static path.

    Args:
        path: where to integrate.
        quadrature: nodes and weights; used where the path has a velocity.
        steps: number of nodes (for a path without velocity: of segments).
        tolerance: largest |residual| relative to the score change; places nodes adaptively.
        max_steps: most nodes per sample that the adaptive rule may use.
    """

    path: Path
    quadrature: Quadrature = GaussLegendre()
    steps: int = 50
    tolerance: float | None = None
    max_steps: int = 1024

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        check_tolerance(self.tolerance)
        self.quadrature.nodes(self.steps)

    def run(self, problem: Problem) -> Result:
        """Integrate for every sample of the problem."""
        bound = self.path.bind(problem)
        start = problem.scores(bound.reference, problem.everyone)
        delta = problem.score - start
        if self.tolerance is not None and bound.has_velocity:
            return self._adaptive(problem, bound, start, delta)
        if self.tolerance is not None:
            return self._doubling(problem, bound, delta)
        nodes, weights = self._nodes(bound, self.steps)
        attribution = integrate(problem, bound, nodes, weights)
        return Result(attribution, delta, diagnostics={"nodes": _constant(problem, len(nodes))})

    def _nodes(self, bound: BoundPath, steps: int) -> tuple[Tensor, Tensor]:
        if bound.has_velocity:
            return self.quadrature.nodes(steps)
        corners = getattr(bound, "segments", 1)
        k = 1 + corners * math.ceil(steps / corners)  # every corner of a polyline is a node
        return torch.linspace(0, 1, k, dtype=torch.float64), torch.ones(k, dtype=torch.float64)

    def _adaptive(self, problem: Problem, bound: BoundPath, start: Tensor, delta: Tensor) -> Result:
        out = torch.empty_like(problem.x)
        nodes = torch.zeros(len(out), dtype=torch.long, device=out.device)
        allowed = (self.tolerance or 0.0) * delta.abs()
        per_sample = PANELS * problem.x[0].numel() * problem.x.element_size()
        size = max(1, BLOCK_BYTES // per_sample)
        for block in problem.everyone.split(size):
            pieces = panels(problem, bound, block, start[block], problem.score[block])
            nodes[block] = refine(problem, bound, pieces, allowed[block], self.max_steps) + PANELS + 1
            out[block] = pieces.sum(len(block))
        missed = (delta - out.flatten(1).sum(1)).abs() > allowed * (1 + 1e-6) + 1e-12
        return Result(out, delta, warnings=_missed(missed, self), diagnostics={"nodes": nodes})

    def _doubling(self, problem: Problem, bound: BoundPath, delta: Tensor) -> Result:
        """Chords have no velocity to reuse, so the number of segments is doubled from scratch."""
        steps, out = min(self.steps, self.max_steps), torch.zeros_like(problem.x)
        todo = torch.ones(len(out), dtype=torch.bool, device=out.device)
        nodes = torch.zeros(len(out), dtype=torch.long, device=out.device)
        while True:
            who = todo.nonzero().flatten()
            alpha, weight = self._nodes(bound, steps)
            out[who] = integrate(problem, bound, alpha, weight, samples=who)
            nodes[who] += len(alpha)
            todo = (delta - out.flatten(1).sum(1)).abs() > (self.tolerance or 0.0) * delta.abs()
            if not bool(todo.any()) or 2 * steps > self.max_steps:
                return Result(out, delta, warnings=_missed(todo, self), diagnostics={"nodes": nodes})
            steps *= 2


def integrate(
    problem: Problem, bound: BoundPath, alpha: Tensor, weight: Tensor, *, samples: Tensor | None = None
) -> Tensor:
    """(b, *f) Σ_k w_k ∇s(γ(α_k)) ⊙ γ′(α_k); chords between neighbouring nodes stand in for a missing γ′.

    Args:
        problem: whose score is integrated.
        bound: the path of the batch.
        alpha: (k,) nodes in [0, 1].
        weight: (k,) their weights.
        samples: which samples; all by default.
    """
    who = problem.everyone if samples is None else samples
    alpha, weight = alpha.to(problem.x), weight.to(problem.x)
    k = len(alpha)
    owner = who.repeat_interleave(k)
    slot = torch.arange(len(who), device=who.device).repeat_interleave(k)
    total = torch.zeros_like(problem.x[who])

    def make(rows: Tensor) -> Tensor:
        return bound.point(owner[rows], alpha[rows % k])

    def consume(chunk: Chunk) -> None:
        node = chunk.rows % k
        if bound.has_velocity:
            change = bound.velocity(chunk.owner, alpha[node]) * along(weight[node], chunk.gradients)
        else:
            after = bound.point(chunk.owner, alpha[(node + 1).clamp_max(k - 1)])
            before = bound.point(chunk.owner, alpha[(node - 1).clamp_min(0)])
            change = (after - before) * 0.5
        total.index_add_(0, slot[chunk.rows], change.mul_(chunk.gradients))

    problem.gradient(len(owner), make, owner, consume)
    return total


def panels(problem: Problem, bound: BoundPath, block: Tensor, start: Tensor, end: Tensor) -> Pieces:
    """The path of each sample in ``block`` cut into `PANELS` pieces with one trapezoid each.

    Scores at the ends of the path are known already; those at the joints come with the gradients.
    """
    joints = PANELS + 1
    alpha = torch.linspace(0, 1, joints, dtype=problem.x.dtype, device=problem.x.device)
    owner = block.repeat_interleave(joints)
    total = problem.x.new_zeros((len(block), PANELS, *problem.x.shape[1:]))
    score = problem.x.new_zeros((len(block), joints))

    def make(rows: Tensor) -> Tensor:
        return bound.point(owner[rows], alpha[rows % joints])

    def consume(chunk: Chunk) -> None:
        sample, joint = chunk.rows // joints, chunk.rows % joints
        score[sample, joint] = chunk.scores.to(score.dtype)
        half = bound.velocity(chunk.owner, alpha[joint]).mul(chunk.gradients).mul_(0.5 / PANELS)
        flat = total.view(-1, *total.shape[2:])
        right, left = joint < PANELS, joint > 0
        flat.index_add_(0, (sample * PANELS + joint)[right], half[right])
        flat.index_add_(0, (sample * PANELS + joint - 1)[left], half[left])

    problem.gradient(len(owner), make, owner, consume)
    score[:, 0], score[:, -1] = start.to(score.dtype), end.to(score.dtype)
    return Pieces(
        owner=block.repeat_interleave(PANELS),
        group=torch.arange(len(block), device=block.device).repeat_interleave(PANELS),
        start=alpha[:-1].repeat(len(block)),
        length=torch.full_like(alpha[:-1], 1.0 / PANELS).repeat(len(block)),
        gain=score.diff(dim=1).flatten(),
        total=total.flatten(0, 1),
    )


@paths.register(
    Card(
        name="straight",
        title="Straight line",
        summary="From a baseline to the input in a straight line.",
        source="sundararajan2017",
        formula="γ(α) = x′ + α (x − x′)",
        example={"baseline": "zero"},
    )
)
@value
class StraightLine:
    """γ(α) = x′ + α (x − x′), x′ from a baseline.

    Args:
        baseline: a baseline, or the name of one.
    """

    baseline: Baseline | str

    def __post_init__(self) -> None:
        object.__setattr__(self, "baseline", baselines.resolve(self.baseline))

    def bind(self, problem: Problem) -> "_Line":
        """The lines of a batch."""
        return _Line(reference_of(baselines.resolve(self.baseline), problem), problem.x)


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
        summary="From the blurred input to the sharp one.",
        source="xu2020",
        formula="γ(α) = x blurred by σ = (1 − α) σ_max",
    )
)
@value
class BlurLine:
    """γ(α) = x blurred by a Gaussian of σ = (1 − α) · max_sigma, reflecting at the border.

    The blur is a diagonal in the cosine basis, exp(−σ²ω²/2), so points and velocities are exact.

    Args:
        max_sigma: standard deviation at the reference, in pixels.
    """

    max_sigma: float = 50.0

    def bind(self, problem: Problem) -> "_Blur":
        """The blurred copies of a batch."""
        if problem.x.ndim not in (3, 4):
            raise SpecError(
                Code.UNSUPPORTED,
                "A blur path needs inputs with space or time",
                got=f"shape {tuple(problem.x.shape)}",
                expected="(b, c, h, w) or (b, c, t)",
            )
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


def reference_of(baseline: Baseline, problem: Problem) -> Tensor:
    """(b, *f) one reference per sample, checked.

    Raises:
        InputError: the baseline has another shape or is not finite.
    """
    everyone = problem.everyone
    reference = baseline.rows(problem, everyone, torch.zeros_like(everyone))
    return check_reference(reference, problem.x)


def check_reference(reference: Tensor, x: Tensor) -> Tensor:
    """``reference`` if it has the shape of ``x`` and is finite."""
    if reference.shape != x.shape:
        raise InputError(
            Code.BASELINE_SHAPE,
            "The baseline has another shape than the input",
            got=str(tuple(reference.shape)),
            expected=str(tuple(x.shape)),
            fix="Give one reference per sample, or one for all that broadcasts",
        )
    if not bool(torch.isfinite(reference).all()):
        raise InputError(Code.NOT_FINITE_INPUT, "The baseline holds NaN or infinity")
    return reference.to(x)


def check_count(name: str, number: Any) -> None:
    """Refuse anything but an integer of at least 1."""
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise SpecError(Code.BAD_PARAMETER, f"{name} must be a positive integer", got=repr(number))


def check_tolerance(tolerance: float | None) -> None:
    """Refuse a tolerance that is not a positive number."""
    if tolerance is not None and not (isinstance(tolerance, int | float) and tolerance > 0):
        raise SpecError(
            Code.BAD_PARAMETER,
            "tolerance must be a positive number",
            got=repr(tolerance),
            expected="for example 0.02 for a residual of 2 %",
        )


def _missed(missed: Tensor, engine: PathIntegral) -> list[str]:
    if not bool(missed.any()):
        return []
    who = ", ".join(str(i) for i in missed.nonzero().flatten().tolist()[:8])
    return [
        note(
            Code.TOLERANCE_NOT_REACHED,
            f"Sample {who} did not reach tolerance {engine.tolerance} within {engine.max_steps} nodes",
        )
    ]


def _constant(problem: Problem, number: int) -> Tensor:
    return torch.full((len(problem.x),), number, dtype=torch.long, device=problem.x.device)


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

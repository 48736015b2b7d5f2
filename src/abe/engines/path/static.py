"""Static paths: A = ∫ ∇s(γ(α)) ⊙ γ′(α) dα from a reference (α = 0) to the input (α = 1).

All samples and nodes are flattened into rows. With `tolerance` the nodes are placed where they are
needed: the path is cut into panels whose exact score change is known, and the panels that miss most
of theirs are halved until the sum over all is within the tolerance.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor

from abe.checks import AtLeast, Count, Tolerance, listed
from abe.engines.path.ends import end_at, end_at_input, told
from abe.engines.path.quadrature import GaussLegendre
from abe.engines.path.refine import Pieces, refine
from abe.engines.runtime.problem import Problem
from abe.engines.runtime.shapes import along
from abe.errors import Code, SpecError, note
from abe.spec import value
from abe.types import BoundPath, Path, Quadrature, Result

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
    steps: Count = 50
    tolerance: Tolerance | None = None
    max_steps: Count = 1024
    has_ends: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.quadrature.nodes(self.steps)
        if self.tolerance is not None:
            AtLeast(2).check("max_steps", self.max_steps)

    def run(self, problem: Problem) -> Result:
        """Integrate for every sample of the problem."""
        bound = self.path.bind(problem)
        start = end_at(problem, bound.reference)
        result = self._integral(problem, bound, start.score)
        result.diagnostics |= told(problem, start, end_at_input(problem))
        return result

    def _integral(self, problem: Problem, bound: BoundPath, start: Tensor) -> Result:
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
        count = min(PANELS, self.max_steps - 1)
        per_sample = count * problem.x[0].numel() * problem.x.element_size()
        size = max(1, BLOCK_BYTES // per_sample)
        for block in problem.everyone.split(size):
            pieces = panels(problem, bound, block, start[block], problem.score[block], count)
            left = self.max_steps - count - 1
            nodes[block] = refine(problem, bound, pieces, allowed[block], left) + count + 1
            out[block] = pieces.sum(len(block))
        missed = (delta - out.flatten(1).sum(1)).abs() > allowed * (1 + 1e-6) + 1e-12
        return Result(out, delta, warnings=_missed(missed, self), diagnostics={"nodes": nodes})

    def _doubling(self, problem: Problem, bound: BoundPath, delta: Tensor) -> Result:
        """Chords have no velocity to reuse, so the number of segments is doubled from scratch."""
        steps, out = self._first_steps(bound), torch.zeros_like(problem.x)
        todo = torch.ones(len(out), dtype=torch.bool, device=out.device)
        nodes = torch.zeros(len(out), dtype=torch.long, device=out.device)
        while True:
            who = todo.nonzero().flatten()
            alpha, weight = self._nodes(bound, steps)
            out[who] = integrate(problem, bound, alpha, weight, samples=who)
            nodes[who] += len(alpha)
            todo = (delta - out.flatten(1).sum(1)).abs() > (self.tolerance or 0.0) * delta.abs()
            steps *= 2
            most = int(nodes.max()) + len(self._nodes(bound, steps)[0])
            if not bool(todo.any()) or most > self.max_steps:
                return Result(out, delta, warnings=_missed(todo, self), diagnostics={"nodes": nodes})

    def _first_steps(self, bound: BoundPath) -> int:
        """As many as asked for, or as their nodes leave room for."""
        corners = getattr(bound, "segments", 1)
        room = (self.max_steps - 1) // corners * corners
        if room < 1:
            raise SpecError(
                Code.BAD_PARAMETER,
                "max_steps is less than the path's own points",
                got=f"max_steps={self.max_steps}",
                expected=f"at least {corners + 1}",
            )
        return min(self.steps, room)


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

    for chunk in problem.gradient(make, owner):
        node = chunk.rows % k
        if bound.has_velocity:
            change = bound.velocity(chunk.owner, alpha[node]) * along(weight[node], chunk.gradients)
        else:
            after = bound.point(chunk.owner, alpha[(node + 1).clamp_max(k - 1)])
            before = bound.point(chunk.owner, alpha[(node - 1).clamp_min(0)])
            change = (after - before) * 0.5
        total.index_add_(0, slot[chunk.rows], change.mul_(chunk.gradients))
    return total


def panels(
    problem: Problem, bound: BoundPath, block: Tensor, start: Tensor, end: Tensor, count: int = PANELS
) -> Pieces:
    """The path of each sample in ``block`` cut into ``count`` pieces with one trapezoid each.

    Scores at the ends of the path are known already; those at the joints come with the gradients.
    """
    joints = count + 1
    alpha = torch.linspace(0, 1, joints, dtype=problem.x.dtype, device=problem.x.device)
    owner = block.repeat_interleave(joints)
    total = problem.x.new_zeros((len(block), count, *problem.x.shape[1:]))
    score = problem.x.new_zeros((len(block), joints))

    def make(rows: Tensor) -> Tensor:
        return bound.point(owner[rows], alpha[rows % joints])

    for chunk in problem.gradient(make, owner):
        sample, joint = chunk.rows // joints, chunk.rows % joints
        score[sample, joint] = chunk.scores.to(score.dtype)
        half = bound.velocity(chunk.owner, alpha[joint]).mul(chunk.gradients).mul_(0.5 / count)
        flat = total.view(-1, *total.shape[2:])
        right, left = joint < count, joint > 0
        flat.index_add_(0, (sample * count + joint)[right], half[right])
        flat.index_add_(0, (sample * count + joint - 1)[left], half[left])
    score[:, 0], score[:, -1] = start.to(score.dtype), end.to(score.dtype)
    return Pieces(
        owner=block.repeat_interleave(count),
        group=torch.arange(len(block), device=block.device).repeat_interleave(count),
        start=alpha[:-1].repeat(len(block)),
        length=torch.full_like(alpha[:-1], 1.0 / count).repeat(len(block)),
        gain=score.diff(dim=1).flatten(),
        total=total.flatten(0, 1),
    )


def _missed(missed: Tensor, engine: PathIntegral) -> list[str]:
    if not bool(missed.any()):
        return []
    who = listed(missed)
    return [
        note(
            Code.TOLERANCE_NOT_REACHED,
            f"Sample {who} did not reach tolerance {engine.tolerance} within {engine.max_steps} nodes",
        )
    ]


def _constant(problem: Problem, number: int) -> Tensor:
    return torch.full((len(problem.x),), number, dtype=torch.long, device=problem.x.device)

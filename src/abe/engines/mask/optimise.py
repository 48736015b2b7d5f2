"""Optimised masks: argmin over m of ± score(Φ(x; m)) + Σ penalties(m), every sample on its own, in lockstep.

A method picks a parametrisation (numbers → mask), a perturbation (mask, input → row the model sees),
penalties, and an optimiser. The model gives the gradient at each row; it is pulled back to the mask
through the perturbation's own small graph, chunk by chunk, so that memory does not grow with steps,
draws or areas. Masks that stand still are done where a tolerance is given.

A method's masks are optimised sample by sample, row by row: where two parts of an input are nearly as good,
hundreds of steps take one or the other by the last digit, which batched kernels round by the batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from abe.checks import Count, Tolerance, listed
from abe.engines.path.active import Active
from abe.engines.runtime.problem import Problem
from abe.engines.runtime.shapes import along, spread
from abe.errors import Code, note
from abe.spec import value
from abe.types import Result

State = dict[str, Tensor]


class At(NamedTuple):
    """Which masks a penalty looks at.

    Attributes:
        owner: (n,) sample of each mask.
        variant: (n,) number of the mask among its sample's.
        step: number of the step, from 0.
    """

    owner: Tensor
    variant: Tensor
    step: int


@runtime_checkable
class BoundParametrisation(Protocol):
    """Free numbers of a given problem's masks."""

    def start(self, n: int) -> Tensor:
        """(n, *p) numbers to begin with."""
        ...

    def mask(self, numbers: Tensor) -> Tensor:
        """(n, *m) masks in [0, 1], differentiable."""
        ...

    def clip(self, numbers: Tensor) -> Tensor:
        """(n, *p) numbers brought back to where they are allowed."""
        ...


@runtime_checkable
class Parametrisation(Protocol):
    """Which masks there are."""

    def bind(self, problem: Problem) -> BoundParametrisation: ...


@runtime_checkable
class BoundMasking(Protocol):
    """What a mask does to the inputs of a given problem."""

    def rows(self, mask: Tensor, owner: Tensor, draw: Tensor) -> Tensor:
        """(n, *f) rows of samples ``owner`` under ``mask``, differentiable; 1 keeps, 0 removes."""
        ...


@runtime_checkable
class Masking(Protocol):
    """What a mask does."""

    def bind(self, problem: Problem) -> BoundMasking: ...


BoundPenalty = Callable[[Tensor, At], Tensor]
"""(n, *m) masks to (n,) penalties, differentiable."""


@runtime_checkable
class Penalty(Protocol):
    """What is not wanted of a mask."""

    def bind(self, problem: Problem) -> BoundPenalty: ...


@runtime_checkable
class Augment(Protocol):
    """A change of the rows that the mask must not depend on."""

    def rows(self, problem: Problem, rows: Tensor, owner: Tensor, draw: Tensor, step: int) -> Tensor: ...


@runtime_checkable
class Optimiser(Protocol):
    """Moves numbers down a gradient, element by element."""

    def step(self, numbers: Tensor, gradient: Tensor, state: State, number: int) -> tuple[Tensor, State]: ...


@dataclass
class Masks:
    """What an optimisation found.

    Attributes:
        mask: (b, v, *m) the last mask of every variant.
        steps: (b,) how many steps were made, the most of the variants'.
        score: (b,) mean score of the last rows that the model saw.
        still: (b,) whether removing everything changes nothing.
    """

    mask: Tensor
    steps: Tensor
    score: Tensor
    still: Tensor


@value
class MaskOptimisation:
    """Masks that keep, or remove, as much of the score as the penalties allow.

    Args:
        parametrisation: which masks there are.
        perturbation: what a mask does.
        penalties: terms added to the score.
        optimiser: how the numbers move.
        keep: True looks for masks that keep the score, False for masks that remove it.
        steps: how often the numbers move.
        samples: rows per step, averaged; more than one only where the perturbation or the augmentation draws.
        augment: a change of the rows that the mask must not depend on.
        share: count the score as a share of what removing everything changes, so that weights of
            penalties mean the same for every objective.
        variants: masks per sample.
        tolerance: a mask whose numbers all move less than this in a step is done; None moves all to the end.
    """

    parametrisation: Parametrisation
    perturbation: Masking
    penalties: tuple[Penalty, ...]
    optimiser: Optimiser
    keep: bool
    steps: Count
    samples: Count = 1
    augment: Augment | None = None
    share: bool = True
    variants: Count = 1
    tolerance: Tolerance | None = None

    def run(self, problem: Problem) -> Result:
        """The mean of a sample's masks, what they keep where `keep`, else what they remove."""
        parts = [self.optimise(one, one.score if self.share else None) for one in problem.apart()]
        mask = torch.cat([p.mask.mean(1) for p in parts])
        diagnostics = {
            "steps": torch.cat([p.steps for p in parts]),
            "kept": mask.flatten(1).mean(1),
            "last_score": torch.cat([p.score for p in parts]),
        }
        shown = spread(mask if self.keep else 1 - mask, problem.x)
        still = torch.cat([p.still for p in parts]).nonzero().flatten().tolist()
        return Result(shown, warnings=_still(still), diagnostics=diagnostics)

    def optimise(self, problem: Problem, score: Tensor | None = None) -> Masks:
        """The masks of all samples together; ``score`` (b,) theirs, where shares of it are counted."""
        return _Lockstep(self, problem, score).run()


class _Lockstep:
    """One block of samples under one optimisation; number r is variant r % v of sample r // v."""

    def __init__(self, engine: MaskOptimisation, problem: Problem, score: Tensor | None) -> None:
        self.engine, self.problem = engine, problem
        self.numbers_of = engine.parametrisation.bind(problem)
        self.perturbed = engine.perturbation.bind(problem)
        self.penalties = [p.bind(problem) for p in engine.penalties]
        everyone, v = problem.everyone, engine.variants
        self.owner = everyone.repeat_interleave(v)
        self.variant = torch.arange(v, device=everyone.device).repeat(len(everyone))
        self.numbers = self.numbers_of.start(len(self.owner))
        self.taken = torch.zeros_like(self.owner)
        self.score = problem.x.new_zeros(len(self.owner))
        self.scale = torch.ones_like(self.score[: len(everyone)])
        self.still = torch.zeros_like(everyone, dtype=torch.bool)
        if score is not None:
            self.scale, self.still = self._change(score)

    def run(self) -> Masks:
        """All steps."""
        active = Active(torch.arange(len(self.owner), device=self.owner.device), State())
        for step in active.steps(self.engine.steps):
            before = self.numbers[active.rows]
            gradient = self._gradient(before, active.rows, step)
            after, active.carried = self.engine.optimiser.step(before, gradient, active.carried, step)
            after = self.numbers_of.clip(after)
            self.numbers[active.rows] = after
            self.taken[active.rows] += 1
            if self.engine.tolerance is not None:
                active.keep((after - before).abs().flatten(1).amax(1) >= self.engine.tolerance)
        mask, v = self.numbers_of.mask(self.numbers).detach(), self.engine.variants
        return Masks(
            mask.view(-1, v, *mask.shape[1:]),
            self.taken.view(-1, v).amax(1),
            self.score.view(-1, v).mean(1),
            self.still,
        )

    def _gradient(self, numbers: Tensor, active: Tensor, step: int) -> Tensor:
        """(n, *p) slope of score and penalties at the numbers."""
        leaf = numbers.detach().requires_grad_(True)
        mask = self.numbers_of.mask(leaf)
        at = At(self.owner[active], self.variant[active], step)
        total = (mask * self._pulled(mask.detach(), active, at)).sum()
        for penalty in self.penalties:
            total = total + penalty(mask, at).sum()
        (gradient,) = torch.autograd.grad(total, leaf)
        return gradient

    def _pulled(self, mask: Tensor, active: Tensor, at: At) -> Tensor:
        """(n, *m) slope of ± the mean score at the masks."""
        k, v = self.engine.samples, self.engine.variants
        place = torch.arange(len(mask), device=mask.device).repeat_interleave(k)
        owner = at.owner[place]
        draw = (at.step * v + at.variant[place]) * k + torch.arange(k, device=mask.device).repeat(len(mask))
        sign = -1.0 if self.engine.keep else 1.0
        factor = sign / (k * self.scale[at.owner])

        def row(masks: Tensor, rows: Tensor) -> Tensor:
            made = self.perturbed.rows(masks, owner[rows], draw[rows])
            change = self.engine.augment
            if change is None:
                return made
            return change.rows(self.problem, made, owner[rows], draw[rows], at.step)

        scores, pulled = pull(self.problem, mask, row, place, owner)
        self.score[active] = scores.view(-1, k).mean(1).to(self.score)
        return pulled * along(factor, pulled)

    def _change(self, score: Tensor) -> tuple[Tensor, Tensor]:
        """(b,) what removing everything changes, and for whom that is nothing."""
        everyone = self.problem.everyone
        nothing = torch.zeros_like(self.numbers_of.mask(self.numbers[:1]).detach())

        def make(rows: Tensor) -> Tensor:
            masks = nothing.expand(len(rows), *nothing.shape[1:])
            return self.perturbed.rows(masks, rows, torch.zeros_like(rows)).detach()

        change = (score - self.problem.scores(make, everyone).to(score)).abs()
        least = 1e-6 * score.abs().clamp_min(1e-6)
        return torch.maximum(change, least), change < least


def pull(
    problem: Problem,
    mask: Tensor,
    row: Callable[[Tensor, Tensor], Tensor],
    place: Tensor,
    owner: Tensor,
    slope: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Scores of masked rows and the slope of their sum with respect to the masks.

    Args:
        problem: whose score.
        mask: (n, *m) masks.
        row: (masks (k, *m), row numbers (k,)) to (k, *f) rows, differentiable in the masks.
        place: (r,) the mask of each row.
        owner: (r,) the sample of each row.
        slope: scores (k,) to the slope of what is wanted with respect to them; None wants the scores.

    Returns:
        (r,) scores, (n, *m) slopes.
    """
    out = torch.zeros_like(mask)
    scores = torch.empty(len(place), dtype=mask.dtype, device=mask.device)

    def make(rows: Tensor) -> Tensor:
        return row(mask[place[rows]], rows).detach()

    for chunk in problem.gradient(make, owner):
        leaf = mask[place[chunk.rows]].requires_grad_(True)
        gradients = chunk.gradients
        if slope is not None:
            gradients = gradients * along(slope(chunk.scores).to(gradients), gradients)
        with torch.enable_grad():
            (back,) = torch.autograd.grad(row(leaf, chunk.rows), leaf, gradients)
        out.index_add_(0, place[chunk.rows], back)
        scores[chunk.rows] = chunk.scores.to(scores)
    return scores, out


def _still(who: list[int]) -> list[str]:
    if not who:
        return []
    names = listed(who)
    return [note(Code.NO_CHANGE, f"Removing everything does not change the score of sample {names}")]

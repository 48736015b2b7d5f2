"""What an attack wants, and the gradients it asks for on the way."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from abe.engines.path.step import Point
from abe.engines.runtime.problem import Problem
from abe.engines.runtime.work import Chunk
from abe.objectives import Logit, LogProbability, Loss, Margin, Probability, gather
from abe.spec import value
from abe.types import Objective


@value
class FlooredMargin:
    """f_y − max(0, max_{j≠y} f_j): the published margin, whose masked class counts as 0."""

    reads_logits: ClassVar[bool] = True

    @property
    def layers(self) -> tuple[str, ...]:
        """None: class scores are read from the output."""
        return ()

    def __call__(self, outputs: Tensor, target: Tensor) -> Tensor:
        others = outputs.scatter(1, target[:, None], 0.0)
        return gather(outputs, target) - others.amax(1)


LossName = Annotated[
    Literal["cross_entropy", "probability", "logit", "margin", "floored_margin"], "loss of an attack"
]
SCORES: dict[str, Objective] = {
    "cross_entropy": LogProbability(),
    "probability": Probability(),
    "logit": Logit(),
    "margin": Margin(),
    "floored_margin": FlooredMargin(),
}
"""Loss of an attack -> the score of a class that it lowers (untargeted) or raises (targeted)."""

Transform = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(m, *f) points, (m,) row numbers, (m,) copy numbers -> (m, *f) transformed points, differentiable."""


@value
class Goal:
    """The score an attack descends: of the true class, or minus that of the class it aims for.

    Descending it is the attack in both cases: −log p_y falls away from the label, −log p_t falls
    towards a target, so a plain descent step of any kind is a step of the attack.

    Args:
        loss: ``"cross_entropy"`` (log-probability), ``"probability"``, ``"logit"``, ``"margin"`` or
            ``"floored_margin"``.
        targeted: aim for the problem's target instead of away from it.
    """

    loss: LossName = "cross_entropy"
    targeted: bool = False
    reads_logits: ClassVar[bool] = True

    @property
    def needs_classes(self) -> bool:
        """Whether the loss is one of probabilities."""
        return bool(getattr(SCORES[self.loss], "needs_classes", False))

    @property
    def alone(self) -> bool:
        """Whether the loss reads the score of one class only."""
        return bool(getattr(SCORES[self.loss], "alone", False))

    @property
    def layers(self) -> tuple[str, ...]:
        """None: class scores are read from the output."""
        return ()

    def __call__(self, outputs: Tensor, target: Tensor) -> Tensor:
        score: Tensor = SCORES[self.loss](outputs, target)
        return -score if self.targeted else score

    def is_gradient_of(self, objective: Any) -> bool:
        """Whether a gradient of ``objective`` is one of this goal already."""
        same = self.loss == "cross_entropy" and objective in (Loss(), LogProbability())
        return objective == self or (not self.targeted and (same or objective == SCORES[self.loss]))


@dataclass(frozen=True)
class Aim:
    """Rows of a dynamic path, the goal, and counted gradients of it at any points.

    Attributes:
        point: what the update was given.
        goal: the score to descend.
        x: (n, *f) where gradients are asked for; ``point.x`` unless a part looks elsewhere.
        target: (n,) the class of each row's goal.
    """

    point: Point
    goal: Goal
    x: Tensor
    target: Tensor

    @classmethod
    def of(cls, point: Point, loss: LossName, targeted: bool, target: int | None) -> "Aim":
        """The aim of an update: that of the attack being run, or its own inside an attribution path."""
        asked = point.problem.objective
        if isinstance(asked, Goal):
            targeted, target = asked.targeted, None
        classes = point.problem.target[point.owner]
        if target is not None:
            classes = torch.full_like(classes, target)
        return cls(point, Goal(loss=loss, targeted=targeted), point.x, classes)

    def at(self, x: Tensor) -> "Aim":
        """The same aim with gradients asked for at ``x``."""
        return replace(self, x=x)

    def with_loss(self, loss: LossName) -> "Aim":
        """The same aim by another loss."""
        return replace(self, goal=replace(self.goal, loss=loss))

    @property
    def sign(self) -> float:
        """1 where the score of the class is to fall, −1 where it is to rise."""
        return -1.0 if self.goal.targeted else 1.0

    @cached_property
    def rows(self) -> Problem:
        """The rows as samples of a problem of their own, with the goal as score."""
        return self.problem(self.goal)

    def problem(self, objective: Objective, *, target: Tensor | None = None) -> Problem:
        """The rows as samples of a problem with another score."""
        return self.point.problem.with_(
            x=self.point.x,
            owner=self.point.owner,
            objective=objective,
            target=self.target if target is None else target,
        )

    @property
    def known(self) -> bool:
        """Whether the gradient of the goal at ``x`` came with the point."""
        same_class = torch.equal(self.target, self.point.problem.target[self.point.owner])
        here = self.x is self.point.x and self.point.gradient.shape == self.x.shape
        return here and same_class and self.goal.is_gradient_of(self.point.problem.objective)

    def ascent(self) -> Tensor:
        """(n, *f) the direction in which the attack's loss grows fastest: minus the goal's gradient."""
        if self.x is self.point.x and self.point.guide is not None:
            return self.point.guide
        if self.known:
            return -self.point.gradient
        out = torch.empty_like(self.x)

        rows = self.rows
        for chunk in rows.gradient(self.x, rows.everyone):
            out[chunk.rows] = -chunk.gradients
        return out

    def mean_ascent(self, copies: int, transform: Transform) -> Tensor:
        """(n, *f) mean over copies of the ascent direction through ``transform``, pulled back to ``x``."""
        total = torch.zeros_like(self.x)
        owner = torch.arange(len(self.x), device=self.x.device).repeat_interleave(copies)

        def make(index: Tensor) -> Tensor:
            with torch.no_grad():
                return transform(self.x[owner[index]], owner[index], index % copies)

        for chunk in self.rows.gradient(make, owner):
            total.index_add_(0, chunk.owner, self._pull(transform, chunk, copies), alpha=-1.0 / copies)
        return total

    def _pull(self, transform: Transform, chunk: Chunk, copies: int) -> Tensor:
        """Gradients at transformed points as gradients at the points: Jᵀ g, the transform run again."""
        with torch.enable_grad():
            x = self.x[chunk.owner].detach().requires_grad_(True)
            moved = transform(x, chunk.owner, chunk.rows % copies)
            return torch.autograd.grad(moved, x, chunk.gradients)[0]

    def normal(self, purpose: str, who: Tensor, copy: Tensor, copies: int, shape: Any) -> Tensor:
        """(m, *shape) standard normal draws of this step for the given rows and copies."""
        return self._draw("normal", purpose, who, copy, copies, shape)

    def uniform(self, purpose: str, who: Tensor, copy: Tensor, copies: int, shape: Any) -> Tensor:
        """(m, *shape) uniform draws on [0, 1) of this step for the given rows and copies."""
        return self._draw("uniform", purpose, who, copy, copies, shape)

    def orders(self, purpose: str, who: Tensor, copy: Tensor, copies: int, size: int) -> Tensor:
        """(m, size) random orders of this step for the given rows and copies."""
        keys = self._keys(who, copy, copies)
        return self.point.problem.draws.permutation(purpose, keys, size)

    def integers(self, purpose: str, who: Tensor, copy: Tensor, copies: int, high: int, shape: Any) -> Tensor:
        """(m, *shape) integers below ``high`` of this step for the given rows and copies."""
        keys = self._keys(who, copy, copies)
        return self.point.problem.draws.integers(purpose, keys, high, shape)

    def _draw(self, kind: str, purpose: str, who: Tensor, copy: Tensor, copies: int, shape: Any) -> Tensor:
        draw = getattr(self.point.problem.draws, kind)
        return draw(purpose, self._keys(who, copy, copies), shape).to(self.x)

    def _keys(self, who: Tensor, copy: Tensor, copies: int) -> list[tuple[int, int]]:
        number = self.point.step * copies + copy
        if self.point.run is not None:
            number = number + self.point.run[who] * self.point.steps * copies
        return self.point.problem.keys(self.point.owner[who], number)


@runtime_checkable
class ImageTransform(Protocol):
    """A random map of points; differentiable where the gradient is to pass through it."""

    def apply(self, x: Tensor, aim: Aim, who: Tensor, copy: Tensor, copies: int) -> Tensor:
        """(m, *f) points of rows ``who`` (m,) for copy numbers ``copy`` (m,) of ``copies``."""
        ...

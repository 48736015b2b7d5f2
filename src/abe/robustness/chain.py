"""`chain`: gradient estimator × direction × scale × projection, one step of an attack or of a path."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from abe.checks import (
    Count,
    Norm,
    Size,
    check_count,
    check_norm,
    check_positive,
    check_reach,
    checked_arguments,
)
from abe.engines.path.step import Point, State
from abe.engines.path.steps.aim import Aim, LossName
from abe.engines.path.steps.estimators import Estimator, Plain
from abe.engines.path.steps.parts import (
    Ball,
    Bounds,
    Momentum,
    Normalised,
    Projection,
    Sign,
    Stage,
    UniformStart,
)
from abe.errors import Code, SpecError
from abe.sizes import Limits, OfRange, in_units, per_range, plain
from abe.spec import value
from abe.task.outputs import OF_LABELS

WHITE_BOX = {"linf": OfRange(8 / 255), "l2": OfRange(0.5)}
"""Radius of FGSM, BIM and PGD unless told otherwise."""
TRANSFER = {"linf": OfRange(16 / 255), "l2": OfRange(1.0)}
"""The same for attacks made to transfer to other models."""


@value
class Chain:
    """x ← project(x + α · direction(estimate of the attack's gradient)).

    Inside `abe.attack` it pursues the attack's goal; as the update of a path it attacks the explained
    class (or aims for ``target``), whatever score is integrated.

    Args:
        estimator: how the gradient is estimated.
        directions: what is made of it, in order.
        alpha: length of a step in input units.
        projection: where points may go.
        start: where the first step begins; None begins at the input.
        loss: whose gradient is estimated.
        target: class to aim for when used as a path; None moves away from the explained class.
        steps: how many steps `abe.attack` takes unless told otherwise.
    """

    estimator: Estimator
    directions: tuple[Stage, ...]
    alpha: Size
    projection: Projection
    start: UniformStart | None = None
    loss: LossName = "cross_entropy"
    target: int | None = None
    steps: Count = 10

    @property
    def stochastic(self) -> bool:
        """Whether two runs with different draws can differ."""
        return self.start is not None or bool(getattr(self.estimator, "stochastic", False))

    def reads_gradient(self, step: int) -> bool:
        """Whether the given step uses the gradient at the point itself; without, it need not be computed."""
        here = getattr(self.estimator, "reads_gradient", False)
        return bool(here) and (step > 0 or self.start is None)

    def step(self, point: Point, state: State) -> tuple[Tensor, State]:
        """One step of every row."""
        if point.step == 0:
            self.check(point)
        aim = Aim.of(point, self.loss, self.target is not None, self.target)
        if self.start is not None and point.step == 0:
            aim = aim.at(self.start.move(aim))
        begun = aim.x
        direction, state = self.estimator.estimate(aim, state)
        direction = per_range(direction, self.alpha, point.bounds)
        for stage in self.directions:
            direction, state = stage.turn(direction, aim, state)
        return self.projection.keep(begun + in_units(self.alpha, point.bounds) * direction, aim), state

    def check(self, point: Point) -> None:
        """Refuse sizes that do not fit the task, and a class that does not exist."""
        bounds, shape = point.bounds, point.x.shape[1:]
        if isinstance(self.projection, Ball):
            ball = self.projection
            check_reach(bounds, shape, ball.norm, alpha=self.alpha, eps=ball.eps)
        else:
            check_reach(bounds, shape, alpha=self.alpha)
        if self.start is not None:
            check_reach(bounds, shape, self.start.norm, eps=self.start.eps)
        if not isinstance(point.outputs, Tensor) or point.outputs.ndim != 2:
            return
        task = point.problem.task
        classes = task.classes(point.outputs) or point.outputs.shape[1]
        if classes < 2 and self.loss != "logit" and task.output_kind not in OF_LABELS:
            raise SpecError(
                Code.UNSUPPORTED,
                "An attack changes the decision between classes, and this model has one output",
                fix='Say what it is by output_kind= of the task, or attack the score itself: loss="logit"',
            )
        if self.target is not None and not 0 <= self.target < classes:
            raise SpecError(
                Code.BAD_PARAMETER,
                f"There is no class {self.target} to aim for",
                expected=f"0 to {classes - 1}",
            )


@checked_arguments
def chain(
    estimator: Estimator | None = None,
    *parts: Any,
    alpha: Size,
    loss: LossName = "cross_entropy",
    target: int | None = None,
    steps: Count = 10,
) -> Chain:
    """A step from its parts: an estimator, directions in order, at most one start and one projection.

    Args:
        estimator: how the gradient is estimated; the plain gradient by default.
        *parts: `Sign`, `Momentum`, `TranslationKernel`, …, a `UniformStart`, a `Ball` or `Bounds`.
        alpha: length of a step in input units.
        loss: whose gradient is followed.
        target: class to aim for when used as a path.
        steps: how many steps an attack takes unless told otherwise.

    Raises:
        SpecError: something is no part, or there are two of a kind.

    Example:
        >>> from abe.robustness import Ball, Momentum, Plain, Sign, chain
        >>> mim = chain(Plain(), Momentum(), Sign(), Ball(eps=8 / 255), alpha=2 / 255)
        >>> mim.projection
        Ball(eps=0.03137254901960784, norm='linf')
    """
    starts = [p for p in parts if isinstance(p, UniformStart)]
    projections = [p for p in parts if isinstance(p, Projection)]
    stages = [p for p in parts if isinstance(p, Stage)]
    known = len(starts) + len(projections) + len(stages)
    if known != len(parts) or len(starts) > 1 or len(projections) > 1:
        raise SpecError(
            Code.UPDATE,
            "A step is an estimator, directions, at most one start and at most one projection",
            got=", ".join(type(p).__name__ for p in parts),
        )
    return Chain(
        estimator=estimator or Plain(),
        directions=tuple(stages),
        alpha=alpha,
        projection=projections[0] if projections else Bounds(),
        start=starts[0] if starts else None,
        loss=loss,
        target=target,
        steps=steps,
    )


def resized(update: Any, *, eps: float, bounds: Limits = None) -> Any:
    """A chain with another radius, its step and start in proportion; anything else unchanged.

    Args:
        update: the chain.
        eps: the radius, which says how all sizes count: in input units, or as shares of the range.
        bounds: of valid inputs; None for a chain whose sizes count as the radius does.
    """
    if not isinstance(update, Chain) or not isinstance(update.projection, Ball):
        return update
    kind = OfRange if isinstance(eps, OfRange) else float
    old = plain(update.projection.eps, bounds)

    def scaled(size: float) -> float:
        return kind(plain(size, bounds) * float(eps) / old)

    start = None if update.start is None else replace(update.start, eps=scaled(update.start.eps))
    return replace(
        update, projection=replace(update.projection, eps=eps), start=start, alpha=scaled(update.alpha)
    )


def sizes(
    eps: float | None, alpha: float | None, norm: Norm, table: Mapping[str, float], share: float
) -> tuple[float, float]:
    """Radius and step of an attack: what was asked for, else the table's radius and a ``share``-th of it."""
    check_norm(norm)
    radius = table[norm] if eps is None else eps
    check_positive(eps=radius)
    step = radius / share if alpha is None else alpha
    check_positive(alpha=step)
    return radius, step


def steepest(norm: Norm) -> Stage:
    """The direction of steepest ascent in a norm."""
    return Sign() if norm == "linf" else Normalised()


def transferable(
    estimator: Estimator,
    *before: Stage,
    eps: float | None,
    alpha: float | None,
    decay: float,
    norm: Norm,
    steps: int,
    after: tuple[Stage, ...] = (),
) -> Chain:
    """Momentum, steepest step and ball around an estimator: what all transferable attacks share."""
    check_count("steps", steps)
    radius, length = sizes(eps, alpha, norm, TRANSFER, steps)
    stages = (*before, Momentum(decay=decay), steepest(norm), *after)
    return chain(estimator, *stages, Ball(eps=radius, norm=norm), alpha=length, steps=steps)

"""One step of a dynamic path: what an update is shown, what it returns, and how that is checked."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from abe.checks import outline
from abe.engines.path.geometry import clipped
from abe.engines.runtime.problem import Problem
from abe.engines.runtime.work import Head
from abe.errors import AbeError, Code, SpecError
from abe.registry import updates
from abe.sizes import ranges
from abe.spec import value
from abe.types import Card

State = Mapping[str, Tensor]
"""Per-row tensors an update carries from step to step; rows that leave are dropped from each.

An entry named ``integrand`` (n, *f) is added up instead of the gradient of the explained score."""
INTEGRAND = "integrand"


@dataclass(frozen=True)
class Point:
    """Where the rows of a dynamic path are; what an update may look at.

    Attributes:
        x: (n, *f) current points.
        start: (n, *f) where the paths began.
        sample: (n, *f) the explained inputs.
        gradient: (n, *f) of the explained score at ``x``, each row's own.
        score: (n,) that score.
        outputs: (n, C) the model's output at ``x``; None where it is no tensor.
        owner: (n,) number of each row's sample.
        step, steps: the current step, from 0, and how many there are.
        problem: the whole request: objective, targets, draws, bounds.
        run: (n,) number of each row's run where a sample has several.
        guide: (n, *f) where a guided path is drawn: up its guide, or down where it is to leave.
    """

    x: Tensor
    start: Tensor
    sample: Tensor
    gradient: Tensor
    score: Tensor
    outputs: Any
    owner: Tensor
    step: int
    steps: int
    problem: Problem
    run: Tensor | None = None
    guide: Tensor | None = None

    @property
    def bounds(self) -> tuple[Tensor, Tensor] | None:
        """(low, high) of valid inputs, or None."""
        return self.problem.limits

    @property
    def guided(self) -> Tensor:
        """(n, *f) where each row is drawn: its guide, or down the explained score where there is none."""
        return -self.gradient if self.guide is None else self.guide

    def clip(self, x: Tensor) -> Tensor:
        """``x`` inside the bounds."""
        return clipped(x, self.bounds)

    def normal(self, purpose: str) -> Tensor:
        """(n, *f) standard normal draws of this step."""
        return self._draw("normal", purpose)

    def uniform(self, purpose: str) -> Tensor:
        """(n, *f) uniform draws on [0, 1) of this step."""
        return self._draw("uniform", purpose)

    def _draw(self, kind: str, purpose: str) -> Tensor:
        number = torch.full_like(self.owner, self.step)
        if self.run is not None:
            number = number + self.steps * self.run
        draw = getattr(self.problem.draws, kind)
        return draw(purpose, self.problem.keys(self.owner, number), self.x.shape[1:]).to(self.x)


@runtime_checkable
class Update(Protocol):
    """One step of a dynamic path. A user's update needs only this."""

    def step(self, point: Point, state: State) -> tuple[Tensor, State]:
        """The next points (n, *f) and the state to carry on (``{}`` to begin with)."""
        ...


@value
class UserUpdate:
    """A function ``point -> next points (n, *f)`` as an update without state."""

    function: Callable[[Point], Tensor]

    def step(self, point: Point, state: State) -> tuple[Tensor, State]:
        """Call the function."""
        return self.function(point), state


@updates.register(
    Card(
        name="descent",
        title="Signed descent",
        source="madry2018",
        formula="x ← clip(x − α r sign ∇s(x)), r the bounds' range (1 without bounds)",
    )
)
@value
class Descent:
    """A signed step down the explained score's gradient, inside the bounds.

    Args:
        alpha: step as a share of the range.
    """

    alpha: float = 2 / 255

    def step(self, point: Point, state: State) -> tuple[Tensor, State]:
        """One signed step."""
        span = 1.0 if point.bounds is None else ranges(point.bounds)
        return point.clip(point.x - self.alpha * span * point.gradient.sign()), state


@runtime_checkable
class Look(Protocol):
    """What a path reads at its points instead of the plain gradient."""

    def gradients(
        self, problem: Problem, x: Tensor, owner: Tensor, draw: Tensor, heads: Sequence[Head]
    ) -> Tensor:
        """(m, n, *f) of each head around rows ``x`` (n, *f) of samples ``owner``; ``draw`` (n,) numbers."""
        ...


def as_update(given: Any) -> Update:
    """The update behind a registered name, a pair of name and parameters, a value, or a function.

    Raises:
        SpecError: it cannot move points.
    """
    found: Any = updates.resolve(given)
    if isinstance(found, Update) and not isinstance(found, type):
        return found
    if callable(found) and not isinstance(found, type):
        return UserUpdate(function=cast("Callable[[Point], Tensor]", found))
    raise SpecError(
        Code.UPDATE,
        "This is not an update",
        got=type(given).__name__,
        expected=f"one of {', '.join(updates.names())}, a function (point) -> next points, or an object with "
        "step(point, state)",
    )


def reads_gradient(update: Any, step: int) -> bool:
    """Whether a step uses the gradient at the point; an update that does not say so gets it."""
    asks = getattr(update, "reads_gradient", None)
    return bool(asks(step)) if callable(asks) else True


def take_step(update: Update, point: Point, state: State) -> tuple[Tensor, State]:
    """Ask an update for the next points (n, *f) and its state, and refuse what cannot be used.

    Raises:
        SpecError: the update raised, wrote into what it was given, or returned points of another shape,
            not finite, or outside the bounds.
    """
    versions = _versions(point)
    try:
        stepped = update.step(point, state)
    except AbeError:
        raise
    except Exception as problem:
        raise SpecError(
            Code.UPDATE,
            "The update raised an exception",
            got=f"{type(problem).__name__}: {problem}",
            expected="step(point, state) -> (next points, state)",
        ) from problem
    if not isinstance(stepped, tuple) or len(stepped) != 2:
        raise SpecError(
            Code.UPDATE,
            "The update must return its next points and its state",
            got=type(stepped).__name__,
            expected="a tuple (next points, state); the state is {} where there is none",
        )
    if versions != _versions(point):
        raise SpecError(
            Code.UPDATE,
            "The update wrote into what it was given, so the step it took is lost",
            fix="Return new tensors: x + change instead of x.add_(change)",
        )
    return _checked(stepped[0], point), stepped[1]


def _versions(point: Point) -> tuple[int, ...]:
    """Counters of in-place writes into what an update may look at."""
    seen = (point.x, point.start, point.sample, point.gradient, point.score, point.guide)
    return tuple(t._version for t in seen if t is not None)


def _checked(moved: Any, point: Point) -> Tensor:
    """The update's points, refused when they have another shape, are not finite or leave the bounds."""
    if not isinstance(moved, Tensor) or moved.shape != point.x.shape:
        raise SpecError(
            Code.UPDATE,
            "The update must return the next point of every row",
            got=outline(moved),
            expected=str(tuple(point.x.shape)),
            fix="Return x + change, not the change",
        )
    moved = moved.detach().to(point.x)
    if not bool(torch.isfinite(moved).all()):
        raise SpecError(Code.UPDATE, "The update returned NaN or infinity", got=f"at step {point.step}")
    if point.bounds is not None:
        low, high = point.bounds
        slack = 1e-4 * (high - low)
        if bool(((moved < low - slack) | (moved > high + slack)).any()):
            raise SpecError(
                Code.UPDATE,
                "The update left the task's bounds",
                got=f"values from {float(moved.min()):.4g} to {float(moved.max()):.4g}",
                fix="End it with point.clip(…)",
            )
    fixed = point.problem.fixed
    return moved if fixed is None else torch.where(fixed[point.owner].to(moved.device), point.sample, moved)

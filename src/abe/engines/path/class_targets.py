"""Several paths from one sample: which runs there are and which class each is drawn to."""

from dataclasses import dataclass
from typing import Annotated, Protocol, runtime_checkable

import torch
from torch import Tensor

from abe.checks import AtLeast, Count
from abe.engines.runtime.problem import Problem
from abe.errors import Code, SpecError, TargetError
from abe.spec import value


@dataclass(frozen=True)
class ClassRuns:
    """All runs of a batch, flattened into rows.

    Attributes:
        owner: (n,) the sample each run starts from.
        run: (n,) its number within the sample, from 0.
        goal: (n,) the class its guide reads; (n, m) for outputs with several axes.
        toward: (n,) 1 where the guide is ascended, −1 where it is descended.
        width: the largest number of runs that a sample can have.
    """

    owner: Tensor
    run: Tensor
    goal: Tensor
    toward: Tensor
    width: Count = 1


@runtime_checkable
class Runs(Protocol):
    """Chooses the runs of every sample."""

    def plan(self, problem: Problem) -> ClassRuns:
        """The runs of all samples of the problem."""
        ...


def single(problem: Problem) -> ClassRuns:
    """One run per sample, down its own class."""
    everyone = problem.everyone
    return ClassRuns(everyone, torch.zeros_like(everyone), problem.target, -torch.ones_like(everyone))


@value
class FalseClasses:
    """Runs towards classes other than the explained one, drawn per sample without repetition.

    A model with fewer other classes gets one run for each. ``classes`` names them instead, the same for
    all samples; a sample's own class is left out of its list.

    Args:
        count: random classes per sample.
        classes: these classes instead.
        untargeted: further runs that leave the explained class, wherever they lead.
    """

    count: Annotated[int, AtLeast(0)] = 20
    classes: tuple[int, ...] | None = None
    untargeted: Annotated[int, AtLeast(0)] = 0

    def __post_init__(self) -> None:
        if self.classes is not None:
            object.__setattr__(self, "classes", tuple(int(c) for c in self.classes))
        if self.count + self.untargeted == 0 or self.classes == ():
            raise SpecError(Code.BAD_PARAMETER, "At least one run is needed", got=repr(self))

    def plan(self, problem: Problem) -> ClassRuns:
        """Every sample's classes, from its own draws."""
        total = class_count(problem)
        chosen = self._drawn(problem, total) if self.classes is None else self._given(problem, total)
        extra = problem.target[:, None].expand(-1, self.untargeted)
        goal = torch.cat([chosen, extra], 1)
        toward = torch.cat([torch.ones_like(chosen), -torch.ones_like(extra)], 1)
        owner = problem.everyone[:, None].expand_as(goal)
        run = torch.arange(goal.shape[1], device=goal.device).expand_as(goal)
        sensible = (goal != problem.target[:, None]) | (toward < 0)
        return ClassRuns(owner[sensible], run[sensible], goal[sensible], toward[sensible], goal.shape[1])

    def _drawn(self, problem: Problem, total: int) -> Tensor:
        everyone = problem.everyone
        keys = problem.keys(everyone, torch.zeros_like(everyone))
        order = problem.draws.permutation("runs.classes", keys, total - 1)[:, : self.count]
        order = order.to(problem.target)
        return order + (order >= problem.target[:, None]).to(order)

    def _given(self, problem: Problem, total: int) -> Tensor:
        classes = self.classes or ()
        wrong = [c for c in classes if not 0 <= c < total]
        if wrong:
            raise TargetError(
                Code.TARGET_RANGE, f"There is no class {wrong[0]}", got=wrong, expected=f"0 to {total - 1}"
            )
        own = [int(t) for t in problem.target if set(classes) == {int(t)} and not self.untargeted]
        if own:
            raise TargetError(
                Code.TARGET_RANGE,
                "A targeted run cannot lead to the explained class itself",
                got=f"class {own[0]}",
                fix="Name another class",
            )
        return torch.tensor(classes, device=problem.target.device).expand(len(problem.x), -1)


def class_count(problem: Problem) -> int:
    """How many classes the model tells apart.

    Raises:
        SpecError: fewer than two, or no classes at all.
    """
    outputs = problem.known_outputs
    if outputs is None:
        outputs = problem.outputs(problem.x[:1], problem.everyone[:1])
    classes = problem.task.classes(outputs)
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or classes < 2:
        got = (
            f"output shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
        )
        raise SpecError(
            Code.UNSUPPORTED,
            "This method needs a classifier with at least two classes",
            got=got,
            expected="(n, C) with C ≥ 2",
            fix="Say what a single output is by output_kind= of the task, or use method='mfaba'",
        )
    return classes

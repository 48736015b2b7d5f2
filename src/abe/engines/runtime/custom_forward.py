"""Rows that run their own way: under an instrument, beside a reference, from a layer on.

An engine that has to do something around the model's forward gives a function from rows to scores. It is
run as a task whose output is the score, so the planner chunks, counts and differentiates it like any other.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from abe.engines.instrument.capture import capturing
from abe.engines.runtime.chunk_size import ChunkPlan
from abe.engines.runtime.evaluator import (
    Consume,
    Evaluator,
    Kind,
    Make,
    state_of,
)
from abe.engines.runtime.problem import Problem
from abe.objectives import Captured
from abe.task.base import Context, Task


@dataclass(frozen=True)
class Rows(Context):
    """The context of some rows of a request, which know their numbers.

    Attributes:
        base: context of all samples.
        owner: (n,) the sample of each row.
        number: (n,) the number of each row in the request.
    """

    base: Context = field(default_factory=Context)
    owner: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    number: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))

    def take(self, owner: Tensor) -> "Rows":
        """The given rows."""
        who = self.owner[owner]
        return Rows(self.base.take(who).values, base=self.base, owner=who, number=self.number[owner])


Way = Callable[[Tensor, Rows], Tensor]
"""Rows (n, *f) and what is known of them -> (n,) scores."""
_PLANS: "WeakKeyDictionary[Task, dict[str, dict[tuple[Any, ...], ChunkPlan]]]" = WeakKeyDictionary()


class ScoreTask(Task):
    """A task whose output is the score that ``way`` computes, (n, 1)."""

    def __init__(self, base: Task, way: Way) -> None:
        super().__init__(base.model, base.modality, base.lifter, output_kind="regression")
        self.way = way

    def forward(self, x: Tensor, context: Context | None = None, model: nn.Module | None = None) -> Tensor:
        """The scores as a column."""
        if not isinstance(context, Rows):
            raise TypeError("rows that run their own way come with their numbers")
        return self.way(x, context)[:, None]


class _Column:
    """The score that a `ScoreTask` returns."""

    layers: tuple[str, ...] = ()

    def __call__(self, outputs: Tensor, target: Tensor) -> Tensor:
        return outputs[:, 0]


def derived(problem: Problem, task: Task, purpose: str, chunk: int | None = None) -> Evaluator:
    """An evaluator of another task over the same model, with the request's cost, chunk and progress.

    Args:
        problem: the request.
        task: what to run.
        purpose: runs of one purpose share what the planner learns about chunks.
        chunk: rows at a time; the request's by default.
    """
    outer = problem.evaluator
    state_of(task).plans = _PLANS.setdefault(problem.task, {}).setdefault(purpose, {})
    evaluator = Evaluator(task, execution="model", chunk=chunk or outer.chunk, advance=outer._advance)
    evaluator.cost = outer.cost
    return evaluator


def run_scored(
    problem: Problem,
    n: int,
    make: Make,
    owner: Tensor,
    way: Way,
    consume: Consume,
    *,
    purpose: str,
    kind: Kind = "gradient",
    chunk: int | None = None,
) -> None:
    """Rows 0 … n − 1 whose scores come from ``way``.

    Args:
        problem: the request.
        n: how many rows there are.
        make: (k,) row numbers to (k, *f) rows.
        owner: (n,) the sample each row belongs to.
        way: rows to scores; rows it sends through the model beyond its own are its own to count.
        consume: gets each `Chunk`; its ``owner`` is the sample, its ``outputs`` are the scores.
        purpose: see `derived`.
        kind: ``"forward"`` takes no gradients.
        chunk: see `derived`.
    """
    number = torch.arange(n, device=owner.device)
    derived(problem, ScoreTask(problem.task, way), purpose, chunk).run(
        kind,
        n,
        make,
        owner=number,
        target=owner,
        context=Rows(base=problem.context, owner=owner, number=number),
        objective=_Column(),
        consume=lambda chunk: consume(chunk._replace(owner=owner[chunk.rows])),
    )


def outputs_of(problem: Problem, x: Tensor, context: Context, model: nn.Module) -> Any:
    """The model's outputs for rows ``x``, with the layers that the objective reads."""
    layers = problem.objective.layers
    with capturing(model, layers) if layers else nullcontext({}) as captured:
        outputs = problem.task.forward(x, context, model)
    return Captured(outputs, captured) if layers else outputs


def score_of(problem: Problem, outputs: Any, owner: Tensor) -> Tensor:
    """(n,) scores of what `outputs_of` found, for the targets of samples ``owner``."""
    if getattr(problem.objective, "reads_logits", False):
        readable = problem.task.logits(plain_outputs(outputs))
        outputs = Captured(readable, outputs.layers) if isinstance(outputs, Captured) else readable
    return problem.objective(outputs, problem.target[owner])


def plain_outputs(outputs: Any) -> Any:
    """The outputs without captured layers."""
    return outputs.outputs if isinstance(outputs, Captured) else outputs

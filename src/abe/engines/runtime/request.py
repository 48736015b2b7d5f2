"""One opening of every request: lift, check, eager evaluation mode, progress, and what is to be explained."""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch

from abe.draws import SeededDraws, as_draws, check_ids
from abe.engines.runtime.evaluator import Evaluator, Execution
from abe.engines.runtime.problem import Problem
from abe.engines.runtime.targets import Decision
from abe.errors import Code, ModelError, SpecError, note
from abe.instrument.model_check import check_kept, check_model, check_weights, holding
from abe.instrument.model_state import as_found
from abe.instrument.modes import eager
from abe.objectives import Logit, UserObjective, as_objective, objective_name
from abe.progress import Progress
from abe.task.base import Lifted, Task
from abe.task.lengths import identities
from abe.types import Cost, Draws, Objective

Advance = bool | Callable[[int], None]
"""True shows a bar after two seconds; a function is called with the rows done."""
REPLACED = (
    "target= replaces the class that the question is about, and the region stays that of the question; "
    "label= of a segmentation asks about a class over its own region"
)

ASKED_OTHERWISE = "target= replaces what the question is about; the rest of the question stays"


@contextmanager
def running(task: Task) -> Generator[None]:
    """The task's model in evaluation mode, eager, with gradients on; as it was found afterwards.

    Where NaN comes out, weights are looked at again, as writing through ``.data`` leaves no trace, and
    with them all that the model keeps.
    """
    with as_found(task.model), torch.enable_grad(), eager(task.model):
        try:
            yield
        except ModelError as problem:
            if problem.code in (Code.NOT_FINITE_OUTPUT, Code.NOT_FINITE_GRADIENT):
                check_weights(task.model)
                check_kept(task.model)
            raise


@contextmanager
def open_request(
    task: Task,
    raw: Any,
    *,
    target: Any = None,
    objective: Any = None,
    seed: int = 0,
    ids: Sequence[int | str] | None = None,
    draws: Draws | None = None,
    execution: Execution = "auto",
    chunk: int | None = None,
    progress: Advance = False,
    label: str = "",
    rows: Callable[[int], float | None] = lambda n: None,
    asked: Mapping[str, Any] | None = None,
    nothing: bool = False,
) -> Generator[Problem]:
    """The problem of explaining ``task`` on ``raw``, while the model is ready to be run.

    The model is predicted by the first pass that runs the samples, so errors about the target come then.

    Args:
        task: the model and how to read it.
        raw: what `Task.lift` takes.
        target: class number or name, one or per sample; the prediction by default.
        objective: the explained score; the task's usual one by default.
        seed: of all random draws.
        ids: identities the draws depend on; by default each sample's content.
        draws: another source of randomness than the seed.
        execution: what to run.
        chunk: rows at a time.
        progress: whether to show a bar, or a function called with rows done.
        label: what the bar says.
        rows: how many rows are expected for a number of samples.
        asked: what of each sample is asked about, for `Task.lift`.
        nothing: whether no sample is an answer, where nothing of what is asked about is there.

    Raises:
        AbeError: anything unusable; the model is left as found.
    """
    began = time.perf_counter()
    score = as_objective(task.scored(objective))
    source = as_draws(draws, seed)
    evaluator = Evaluator(task, execution=execution, chunk=chunk)
    with holding(task.model):
        warnings = check_model(task.model)
        lifted = task.lift(raw, **task.told(score), **(asked or {}))
        if lifted.names or lifted.blank is None or not nothing:
            task.check(lifted.x)
        shown = progress is True
        expected = rows(len(lifted.x)) if shown else None
        with running(task), Progress(label, expected, enabled=shown) as bar:
            evaluator.advance = progress if callable(progress) else bar.advance if shown else None
            yield pose(evaluator, lifted, target, score, source, ids, warnings)
    evaluator.cost.seconds = time.perf_counter() - began


def pose(
    evaluator: Evaluator,
    lifted: Lifted,
    target: Any = None,
    objective: Objective | None = None,
    draws: Draws | None = None,
    ids: Sequence[int | str] | None = None,
    warnings: list[str] | None = None,
) -> Problem:
    """A problem about lifted samples, whose class score is explained where no other score is given.

    Raises:
        SpecError: another score is given than the question asks for.
    """
    check_ids(ids, len(lifted.x))
    notes = list(lifted.notes)
    if lifted.target is not None and target is not None:
        notes.append(
            note(Code.OTHER_TARGET, REPLACED if "region" in evaluator.task.asks else ASKED_OTHERWISE)
        )
        lifted = replace(lifted, called=[])
    target = lifted.target if target is None else target
    if lifted.objective is not None:
        told = "objective" in evaluator.task.asks
        if not told and objective not in (None, Logit(), lifted.objective):
            raise SpecError(
                Code.OBJECTIVE,
                "The question asks for a score of its own, and another is to be followed",
                got=objective_name(objective),
                expected=objective_name(lifted.objective),
                fix="Leave one of them out; attacks and trust follow scores of their own",
            )
        objective = lifted.objective
    if target is None and isinstance(objective, UserObjective):
        predicts = evaluator.task.output_kind != "regression"
        objective = replace(objective, given=False, predicts=predicts)
    if lifted.parts or lifted.held or lifted.settles:
        evaluator.task = evaluator.task.reading(parts=lifted.parts, held=lifted.held, settles=lifted.settles)
    if lifted.rows:
        evaluator.cost.add(Cost(forward_rows=lifted.rows, forward_calls=1))
    warnings = [*(warnings or ()), *notes]
    evaluator.warnings = warnings
    return Problem(
        evaluator=evaluator,
        x=lifted.x,
        context=lifted.context,
        decision=Decision(asked=target),
        objective=objective or Logit(),
        draws=draws or SeededDraws(seed=0),
        identify=cache(partial(identities, ids, lifted)),
        warnings=warnings,
        names=lifted.names,
        lifted=lifted,
    )

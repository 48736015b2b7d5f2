"""Which way of running two functions is right, and whether their loss is a class score: told on a few rows.

Every row is run alone, as the functions are, and the first way that gives the same numbers is taken.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from abe.engines.runtime.work import out_of_memory
from abe.engines.runtime.work import score as score_of
from abe.errors import AbeError, Code, ModelError
from abe.explainers.found import free_name
from abe.explainers.model import Functions, Held, Way, failed, keeps
from abe.explainers.rows import Batch, Record, called, one_number
from abe.objectives import as_objective
from abe.task.base import Task

ALIKE = {torch.float64: 1e-7, torch.float32: 1e-4}
"""Share of the largest number up to which rows run together and alone are the same; a hundredth for less
precise numbers, and a thousandth where a GPU may round the factors of its products."""
KNOWN = ("logit", "log_probability")
"""Scores that a loss may be the negative of; they need no call of the loss."""
SCALES = (1.0, 5.0, 40.0)
"""Sizes of the outputs on which a loss is compared with these."""
MOST_CLASSES = 5000
"""Classes up to which that is compared."""


class UnknownModuleError(ModelError):
    """The functions run a module that was not found by looking at them."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(
            Code.MODEL_FAILED,
            "The functions run a module that cannot be found by looking at them",
            got=type(module).__name__,
            fix="Let the functions refer to it by a name of their own, and make it outside them",
        )
        self.module = module


def settle(functions: Functions, batch: Batch) -> tuple[Way, Tensor | None]:
    """The way of running that gives what each row gives alone, and the outputs for the rows.

    Args:
        functions: in evaluation mode.
        batch: two rows that differ.

    Raises:
        ModelError: the functions fail on a single row, or give no loss.
        UnknownModuleError: they run a module that is not among those that were found.
    """
    held, task = functions.held, functions.held.task()
    outputs: list[Any] = []
    with _refusing_unknown(functions):
        for row in batch.rows():
            raw = None if held.forward is None else _tried("forward_fn", held.forward, row)
            outputs.append(_picked(task, raw))
        losses = [one_number(_tried("loss_fn", held.loss, row)) for row in batch.rows()]
    scores = -torch.stack(losses)
    scored = any(one is None for one in outputs)
    answers = None if scored else outputs
    for apart in (False, True):
        for own in (False, True):
            way = Way(apart=apart, own=own, scored=scored)
            if (own or held.forward is not None) and _gives(functions, batch, way, answers, scores):
                return way, None if answers is None else torch.cat(answers)
    return Way(apart=True, own=True, scored=scored), None if answers is None else torch.cat(answers)


def _picked(task: Task, raw: Any) -> Tensor | None:
    """The output for one row, as the task reads it; None where there is none."""
    if raw is None:
        return None
    try:
        found = task.pick(raw, 1)
    except ModelError as problem:
        if problem.code is not Code.OUTPUT_TYPE or task.output is not None:
            raise
        return None
    return found if isinstance(found, Tensor) else None


def _gives(
    functions: Functions, batch: Batch, way: Way, answers: list[Tensor] | None, scores: Tensor
) -> bool:
    """Whether a way of running gives these outputs and scores."""
    try:
        records = functions.held.record(batch, way)
        found = torch.cat([one.scores() for one in records])
    except Exception as problem:  # what works for one row alone may fail for two
        if out_of_memory(problem):
            raise
        return False
    alike = _alike(found, scores)
    if answers is None or not alike:
        return alike
    given = [one.answer for one in records]
    if any(one is None or one.shape[1:] != answers[0].shape[1:] for one in given):
        return False
    return _alike(torch.cat([one for one in given if one is not None]), torch.cat(answers))


def _alike(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    limit = ALIKE.get(other.dtype, 1e-2)
    limit = max(limit, 1e-3) if other.is_cuda else limit
    one, other = one.double(), other.double()
    return bool((one - other).abs().max() <= limit * other.abs().max().clamp(min=1e-6))


def _tried(name: str, function: Callable[[Any], Any], row: Batch) -> Any:
    try:
        return called(function, row)
    except AbeError:
        raise
    except Exception as problem:
        if out_of_memory(problem):
            raise
        raise failed(name, problem) from problem


@contextmanager
def _refusing_unknown(functions: Functions) -> Generator[None]:
    """Raise UnknownModuleError before a module with weights runs that is not part of the functions."""
    known, thread = {id(module) for module in functions.modules()}, get_ident()

    def before(module: nn.Module, args: Any) -> None:  # the hook is global, so other threads' modules meet it
        if id(module) not in known and get_ident() == thread and keeps(module):
            raise UnknownModuleError(module)

    handle = register_module_forward_pre_hook(before)
    try:
        yield
    finally:
        handle.remove()


def with_module(means: dict[str, nn.Module], module: nn.Module) -> dict[str, nn.Module]:
    """The modules with one more, named after its class; what is part of it is left out."""
    parts = {id(part) for part in module.modules()}
    kept = {name: one for name, one in means.items() if id(one) not in parts}
    return {**kept, free_name(type(module).__name__.lower(), kept): module}


def recognised(held: Held, row: Batch, outputs: Tensor, classes: str | None) -> str | None:
    """The name of the class score that the loss is the negative of, whatever the outputs and classes.

    Compared for every class on random outputs of several sizes. A single output is its own score.

    Args:
        held: the functions, settled.
        row: one sample.
        outputs: (1, C) of the sample.
        classes: name of the entry of the batch with a class per sample.
    """
    count = outputs.shape[1] if outputs.ndim == 2 else 0
    if held.way.own or not 1 <= count <= MOST_CLASSES or (count > 1 and (held.way.apart or classes is None)):
        return None
    (record,) = held.record(row, held.way)
    trial = Trial(record, outputs, classes if count > 1 else None)
    names = KNOWN[: None if count > 1 else 1]
    for number in range(max(count, 2 * len(SCALES))):
        names = trial.agreeing(row, number % count, number, names, held.task())
        if not names:
            return None
    held.trial = trial
    return names[0]


@dataclass
class Trial:
    """A sample on which a loss is compared with class scores.

    Attributes:
        record: of the sample.
        outputs: (1, C) of the sample.
        classes: name of the entry with the class; None where the output is a single one.
    """

    record: Record
    outputs: Tensor
    classes: str | None

    def agreeing(
        self, row: Batch, target: int, number: int, names: Sequence[str], task: Task
    ) -> tuple[str, ...]:
        """Those of the class scores that say the same as the loss of a sample, for another output.

        Args:
            row: the sample.
            target: the class that the loss is asked for.
            number: of the output, which is random.
            names: of the scores.
            task: reads them.
        """
        draws = torch.Generator().manual_seed(number)
        made = torch.randn(self.outputs.shape, generator=draws, dtype=torch.float64).to(self.outputs)
        made = made * SCALES[number % len(SCALES)]
        leaves = dict(row.leaves)
        if self.classes is not None:
            leaves[self.classes] = torch.full_like(leaves[self.classes], target)
        try:
            found = replace(self.record, batch=replace(row, leaves=leaves)).scores(made)
        except Exception:  # a loss may insist on some classes; it is called as it is, then
            return ()
        reading, asked = task.reading(output_kind="logits"), torch.tensor([target], device=made.device)
        scores = {name: score_of(reading, made, as_objective(name), asked) for name in names}
        return tuple(n for n in names if torch.allclose(found, scores[n], rtol=1e-5, atol=1e-6))


def holds(held: Held, name: str, batch: Batch) -> bool:
    """Whether the loss is the negative of this class score for every sample with its own entries."""
    trial = held.trial
    if trial is None:
        return False
    for number, row in enumerate(batch.rows()):
        given = 0 if trial.classes is None else int(row.leaves[trial.classes].reshape(()))
        target = min(max(given, 0), trial.outputs.shape[1] - 1)
        if not trial.agreeing(row, target, number, (name,), held.task()):
            return False
    return True


def mirrored(rows: Iterable[Tensor]) -> list[Tensor]:
    """(2, …) the first sample of each, and itself back to front: two rows of valid numbers that differ."""
    found: list[Tensor] = []
    for one in rows:
        first = one[:1]
        other = (
            first.flatten(1).flip(1).view_as(first) if first.is_floating_point() and first.ndim > 1 else first
        )
        found.append(torch.cat([first, other]))
    return found

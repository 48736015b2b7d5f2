"""Which way of running two functions is right, and whether their loss is a class score: told on a few rows.

Every row is run alone, as the functions are, and the first way that gives the same numbers is taken.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from abe.engines.runtime.work import out_of_memory
from abe.errors import Code, ModelError
from abe.explainers.found import free_name
from abe.explainers.model import Held, keeps, naming
from abe.explainers.rows import Batch, Record, called, one_number
from abe.objectives import as_objective

ALIKE = {torch.float64: 1e-7, torch.float32: 1e-4}
"""Share of the largest number up to which rows run together and alone are the same; a hundredth for less
precise numbers, and a thousandth where a GPU may round the factors of its products."""
WAYS = ((False, False), (False, True), (True, False), (True, True))
"""Rows apart, and the loss with runs of its own: what is tried, in order."""
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

    def beside(self, means: dict[str, nn.Module]) -> dict[str, nn.Module]:
        """The modules with this one more, named after its class; what is part of it is left out."""
        parts = {id(part) for part in self.module.modules()}
        kept = {name: one for name, one in means.items() if id(one) not in parts}
        return {**kept, free_name(type(self.module).__name__.lower(), kept): self.module}


def settle(held: Held, batch: Batch) -> Tensor | None:
    """Settle the way of running that gives what each row gives alone; the outputs for the rows, if any.

    Args:
        held: the functions, whose modules are in evaluation mode.
        batch: rows that differ.

    Raises:
        ModelError: the functions fail on a single row, or give no loss.
        UnknownModuleError: they run a module that is not among those that were found.
    """
    losses, answers = list[Tensor](), list[Tensor]()
    with _refusing_unknown(held):
        for row in batch.rows() if held.forward is not None else ():
            with naming("forward_fn"):
                answers += _tensor_in(held, called(held.forward, row))
        for row in batch.rows():
            with naming("loss_fn"):
                losses.append(one_number(called(held.loss, row)))
    held.classes = len(answers) == len(losses)
    outputs = torch.cat(answers) if held.classes else None
    for held.apart, held.own in WAYS:
        if (held.own or held.classes) and _gives(held, batch, outputs, -torch.stack(losses)):
            break
    return outputs


def _tensor_in(held: Held, raw: Any) -> list[Tensor]:
    """The output for one row, as the task reads it; nothing where there is no tensor."""
    try:
        found = held.pick(raw, 1)
    except ModelError as problem:
        if problem.code is not Code.OUTPUT_TYPE:
            raise
        return []
    return [found] if isinstance(found, Tensor) else []


def _gives(held: Held, batch: Batch, outputs: Tensor | None, scores: Tensor) -> bool:
    """Whether the functions, run as they are now, give these outputs and scores."""
    try:
        records = held.run(batch)
        answers = [one.answer for one in records if one.answer is not None]
        pairs = [
            (held.scores(records), scores),
            *([] if outputs is None else [(torch.cat(answers), outputs)]),
        ]
    except Exception as problem:  # what works for one row alone may fail for two
        if out_of_memory(problem):
            raise
        return False
    limit = max(ALIKE.get(scores.dtype, 1e-2), 1e-3 if scores.is_cuda else 0)
    return all(
        one.shape == other.shape
        and bool((one - other).abs().max() <= limit * other.abs().max().clamp(min=1e-6))
        for one, other in ((one.double(), other.double()) for one, other in pairs)
    )


@contextmanager
def _refusing_unknown(held: Held) -> Generator[None]:
    """Raise UnknownModuleError before a module with weights runs that is not part of the functions."""
    known, thread = {id(module) for module in held.modules()}, get_ident()

    def before(module: nn.Module, args: Any) -> None:  # the hook is global, so other threads' modules meet it
        if id(module) not in known and get_ident() == thread and keeps(module):
            raise UnknownModuleError(module)

    handle = register_module_forward_pre_hook(before)
    try:
        yield
    finally:
        handle.remove()


@dataclass(frozen=True)
class Trial:
    """A sample on which a loss is compared with class scores.

    Attributes:
        held: the functions.
        record: of the sample.
        outputs: (1, C) of the sample.
        classes: name of the entry with the class; None where the output is a single one.
        names: of the class scores that the loss agreed with.
    """

    held: Held
    record: Record
    outputs: Tensor
    classes: str | None
    names: Sequence[str]

    def agreeing(self, row: Batch, target: int, number: int) -> Sequence[str]:
        """Those of the class scores that say the same as the loss of a sample, for another output.

        Args:
            row: the sample.
            target: the class that the loss is asked for.
            number: of the output, which is random.
        """
        draws = torch.Generator().manual_seed(number)
        made = torch.randn(self.outputs.shape, generator=draws, dtype=torch.float64).to(self.outputs)
        made, asked = made * SCALES[number % len(SCALES)], torch.tensor([target], device=made.device)
        leaves = dict(row.leaves)
        if self.classes is not None:
            leaves[self.classes] = torch.full_like(leaves[self.classes], target)
        record = replace(self.record, batch=replace(row, leaves=leaves))
        try:
            found = record.scores(self.held.loss, self.held.modules(), made)
        except Exception:  # a loss may insist on some classes; it is called as it is, then
            return ()
        scores: dict[str, Any] = {name: as_objective(name)(made, asked) for name in self.names}
        return [name for name in self.names if torch.allclose(found, scores[name], rtol=1e-5, atol=1e-6)]

    def score_of(self, batch: Batch) -> str | None:
        """The class score that the loss is the negative of for every sample with its own entries."""
        most = self.outputs.shape[1] - 1
        for number, row in enumerate(batch.rows()):
            given = 0 if self.classes is None else int(row.leaves[self.classes].reshape(()))
            if not self.agreeing(row, min(max(given, 0), most), number):
                return None
        return self.names[0]


def recognised(held: Held, row: Batch, outputs: Tensor, classes: str | None) -> Trial | None:
    """The class score that the loss is the negative of, whatever the outputs and classes; None for none.

    Compared for every class on random outputs of several sizes. A single output is its own score.

    Args:
        held: the functions, settled.
        row: one sample.
        outputs: (1, C) of the sample.
        classes: name of the entry of the batch with a class per sample.
    """
    count = outputs.shape[1] if outputs.ndim == 2 else 0
    if held.own or not 1 <= count <= MOST_CLASSES or (count > 1 and (held.apart or classes is None)):
        return None
    trial = Trial(held, *held.run(row), outputs, *((None, KNOWN[:1]) if count == 1 else (classes, KNOWN)))
    for number in range(max(count, 2 * len(SCALES))):
        trial = replace(trial, names=trial.agreeing(row, number % count, number))
        if not trial.names:
            return None
    return trial

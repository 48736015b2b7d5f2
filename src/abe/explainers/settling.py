"""Which way of running two functions is right, and whether their loss is a class score: told on a few rows.

Every row is run alone, as the functions are, and the first way that gives the same numbers is taken.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from abe.engines.runtime.work import out_of_memory
from abe.errors import Code, ModelError
from abe.explainers.model import Held, keeps, naming
from abe.explainers.rows import called, one_number
from abe.objectives import as_objective
from abe.task.entries import Entries

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


def settle(held: Held, batch: Entries) -> Tensor | None:
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


def _gives(held: Held, batch: Entries, outputs: Tensor | None, scores: Tensor) -> bool:
    """Whether the functions, run as they are now, give these outputs and scores."""
    try:
        records = held.run(batch)
        pairs = [(held.scores(records), scores)]
        if outputs is not None:
            answers = [one.answer for one in records if one.answer is not None]
            pairs.append((torch.cat(answers), outputs))
    except Exception as problem:  # what works for one row alone may fail for two
        if out_of_memory(problem):
            raise
        return False
    for one, other in pairs:
        limit = max(ALIKE.get(other.dtype, 1e-2), 1e-3 if other.is_cuda else 0)
        most = limit * other.double().abs().max().clamp(min=1e-6)
        if one.shape != other.shape or not bool((one.double() - other.double()).abs().max() <= most):
            return False
    return True


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


def recognised(held: Held, row: Entries, outputs: Tensor) -> Sequence[str]:
    """The class scores that the loss is the negative of, whatever the outputs and the class.

    Args:
        held: the functions, settled; they keep the sample on which losses are compared.
        row: that sample, which is asked for every class.
        outputs: (1, C) of the sample; a single one is its own score.
    """
    count = outputs.shape[1] if outputs.ndim == 2 else 0
    if held.own or not 1 <= count <= MOST_CLASSES or (count > 1 and (held.apart or held.target is None)):
        return ()
    (held.sample,) = held.run(row)
    entries, rows = dict(row.leaves), list[Entries]()
    for number in range(max(count, 2 * len(SCALES))):
        if count > 1 and held.target is not None:
            entries[held.target] = torch.full_like(entries[held.target], number % count)
        rows.append(Entries(row.tree, dict(entries)))
    return agreeing(held, rows, KNOWN if count > 1 else KNOWN[:1])


def agreeing(held: Held, rows: Sequence[Entries], names: Sequence[str]) -> Sequence[str]:
    """Those of the class scores that say the same as the loss of every sample, on random outputs."""
    for number, row in enumerate(rows):
        answer = None if held.sample is None else held.sample.answer
        if not names or held.sample is None or answer is None:
            return ()
        draws, leaves = torch.Generator().manual_seed(number), dict(row.leaves)
        made = torch.randn(answer.shape, generator=draws, dtype=torch.float64).to(answer)
        made, asked = made * SCALES[number % len(SCALES)], torch.zeros(1, dtype=torch.long).to(answer.device)
        if held.target is not None and answer.shape[1] > 1:
            leaves[held.target] = leaves[held.target].clamp(0, answer.shape[1] - 1)
            asked = leaves[held.target].reshape(1).long()
        record = replace(held.sample, batch=Entries(row.tree, leaves))
        try:
            found = record.scores(held.loss, held.modules(), made)
        except Exception:  # a loss may insist on some classes; it is called as it is, then
            return ()
        scores: dict[str, Any] = {name: as_objective(name)(made, asked) for name in names}
        names = [one for one in names if torch.allclose(found, scores[one].to(found), rtol=1e-5, atol=1e-6)]
    return names

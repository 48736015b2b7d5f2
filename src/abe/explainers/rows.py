"""A loss read row by row while its model runs once on all rows.

The modules that a function calls are recorded on the whole batch. For every row the loss is then called on
that row alone, and where it calls one of these modules again it is given the row's part of what the module
returned. So sums, means and blocks inside the loss cannot mix samples, and no module runs twice.
"""

import copy
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from abe.checks import outline
from abe.errors import Code, ModelError
from abe.instrument.whose import calling

_CALL = "_compiled_call_impl"
"""What ``nn.Module.__call__`` looks for first: what stands there runs in place of forward and hooks."""
Handler = Callable[..., Any]
"""``(module, call, *args, **kwargs)``: runs ``call(*args, **kwargs)``, or returns something else."""
Instead = tuple[Tensor, Tensor]
"""A tensor, and what stands in its place."""


class NoMatchError(Exception):
    """A function calls its modules in another way than was recorded."""


@contextmanager
def intercepting(modules: Iterable[nn.Module], handler: Handler) -> Generator[None]:
    """Calls of modules go to ``handler``; the modules are as found afterwards."""
    tables = [(module, vars(module)) for module in modules]
    before = [table.get(_CALL) for _, table in tables]
    try:
        for (module, table), was in zip(tables, before, strict=True):
            table[_CALL] = partial(handler, module, was or module._call_impl)
        yield
    finally:
        for (_, table), was in zip(tables, before, strict=True):
            if was is None:
                table.pop(_CALL, None)
            else:
                table[_CALL] = was


class Recorder:
    """Runs modules and keeps what the outermost of them returned, in order."""

    def __init__(self) -> None:
        self.calls: list[tuple[nn.Module, Any]] = []
        self._inside = False

    @calling
    def __call__(self, module: nn.Module, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._inside:
            return call(*args, **kwargs)
        self._inside = True
        try:
            output = call(*args, **kwargs)
        finally:
            self._inside = False
        self.calls.append((module, output))
        return output


class Player:
    """Gives modules that were recorded one row of what they returned; others run.

    Args:
        calls: of a `Recorder`.
        n: rows.
        instead: a recorded tensor and what is read in its place.
    """

    def __init__(
        self, calls: Sequence[tuple[nn.Module, Any]], n: int, instead: Instead | None = None
    ) -> None:
        self._n, self._instead = n, instead
        self._outputs: dict[int, list[Any]] = {}
        self._weights: set[int] = set()
        for module, output in calls:
            self._outputs.setdefault(id(module), []).append(output)
            self._weights |= {id(one) for one in module.parameters()}
        self._at: dict[int, int] = {}
        self._row = 0

    def turn(self, row: int) -> None:
        """From now on it is this row's turn."""
        self._row, self._at = row, {}

    @calling
    def __call__(self, module: nn.Module, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        outputs = self._outputs.get(id(module))
        if outputs is None:
            if any(id(one) in self._weights for one in module.parameters()):
                raise NoMatchError(
                    "a part of a module was called that ran as a whole, or the other way round"
                )
            return call(*args, **kwargs)
        at = self._at.get(id(module), 0)
        if at >= len(outputs):
            raise NoMatchError("a module was called more often")
        self._at[id(module)] = at + 1
        output, split = row_of(outputs[at], self._row, self._n, self._instead)
        return output if split else call(*args, **kwargs)


def row_of(output: Any, row: int, n: int, instead: Instead | None = None) -> tuple[Any, bool]:
    """A row of every tensor with n rows in an output, and whether there was one; the rest is as it is."""
    if isinstance(output, Tensor):
        held = instead[1] if instead is not None and output is instead[0] else output
        split = held.ndim > 0 and len(held) == n
        return (held[row : row + 1] if split else held), split
    if isinstance(output, Mapping):
        return _rebuilt(output, list(output), row, n, instead)
    if type(output) is list and len(output) == n and not any(isinstance(one, Tensor) for one in output):
        return [output[row]], True  # one entry per sample, as detectors return
    if isinstance(output, list | tuple):
        found = [row_of(one, row, n, instead) for one in output]
        return like(output, [one for one, _ in found]), any(split for _, split in found)
    if is_dataclass(output) and not isinstance(output, type):
        return _rebuilt(output, [field.name for field in fields(output)], row, n, instead)
    return output, False


def like(given: list[Any] | tuple[Any, ...], items: list[Any]) -> Any:
    """Items as a list or tuple of the same kind."""
    made: Any = type(given)
    return made(*items) if hasattr(given, "_fields") else made(items)


def _rebuilt(output: Any, names: list[Any], row: int, n: int, instead: Instead | None) -> tuple[Any, bool]:
    """A copy of a mapping or dataclass with a row of every entry."""
    table = isinstance(output, Mapping)
    made, any_split = copy.copy(output), False
    for name in names:
        found, split = row_of(output[name] if table else getattr(output, name), row, n, instead)
        any_split |= split
        if not split:
            continue
        if table:
            made[name] = found
        else:
            object.__setattr__(made, name, found)
    return made, any_split


# --- batches ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Leaf:
    """The place of one tensor, or of one list with an object per sample, in a batch."""

    name: str


@dataclass
class Batch:
    """A batch as the user's functions take it.

    Attributes:
        tree: lists, tuples and dicts as in the user's batch, with a `Leaf` in the place of every entry.
        leaves: name -> (n, …) tensor, or a list of n objects.
        n: samples.
    """

    tree: Any
    leaves: Mapping[str, Any]
    n: int

    def whole(self) -> Any:
        """The user's batch, in memory of its own: a function may write into it."""
        own = {name: one.clone() if isinstance(one, Tensor) else one for name, one in self.leaves.items()}
        return _filled(self.tree, own)

    def row(self, number: int) -> "Batch":
        """One sample as a batch of its own."""
        return Batch(self.tree, {name: one[number : number + 1] for name, one in self.leaves.items()}, 1)

    def rows(self) -> list["Batch"]:
        """Every sample as a batch of its own."""
        return [self.row(number) for number in range(self.n)]


def _filled(tree: Any, leaves: Mapping[str, Any]) -> Any:
    if tree is None:
        return None
    if isinstance(tree, Leaf):
        return leaves[tree.name]
    if isinstance(tree, dict):
        return {key: _filled(one, leaves) for key, one in tree.items()}
    return like(tree, [_filled(one, leaves) for one in tree])


# --- records ------------------------------------------------------------------------------------------


@dataclass
class Record:
    """What modules returned for the rows of a batch, from which the score of every row follows.

    Attributes:
        batch: the rows.
        calls: what modules returned for them.
        answer: the tensor that stands for the model's output; None where there is none.
        modules: all modules whose calls are looked at.
        loss: the user's loss function.
    """

    batch: Batch
    calls: Sequence[tuple[nn.Module, Any]]
    answer: Tensor | None
    modules: Sequence[nn.Module]
    loss: Callable[[Any], Any]

    def scores(self, outputs: Tensor | None = None) -> Tensor:
        """(n,) −loss of each row on its own.

        Args:
            outputs: what stands in the place of the answer, of the same size.
        """
        instead = None
        if outputs is not None and self.answer is not None and outputs.numel() == self.answer.numel():
            instead = self.answer, outputs.reshape(self.answer.shape)
        player = Player(self.calls, self.batch.n, instead)
        losses: list[Tensor] = []
        with intercepting(self.modules, player):
            for number, row in enumerate(self.batch.rows()):
                player.turn(number)
                losses.append(one_number(called(self.loss, row)))
        return -torch.stack(losses)


@calling
def called(function: Callable[[Any], Any], batch: Batch) -> Any:
    """What the user's function gives for a batch."""
    return function(batch.whole())


def one_number(loss: Any) -> Tensor:
    """() the loss of one row.

    Raises:
        ModelError: OUTPUT_SHAPE for anything but one number.
    """
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise ModelError(
            Code.OUTPUT_SHAPE,
            "loss_fn must return one number",
            got=outline(loss),
            expected="a scalar tensor",
        )
    return loss.reshape(())

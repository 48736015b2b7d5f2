"""A loss read row by row while its model runs once on all rows.

The modules that a function calls are recorded on the whole batch. For every row the loss is then called on
that row alone, and where it calls one of these modules again it is given the row's part of what the module
returned. So sums, means and blocks inside the loss cannot mix samples, and no module runs twice.
"""

import copy
from collections import Counter
from collections.abc import Callable, Generator, Mapping, MutableMapping, Sequence
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
Calls = list[tuple[nn.Module, Any]]
"""Modules that ran, in order, with what they returned."""


class NoMatchError(ModelError):
    """A loss calls its modules in another way than was recorded."""

    def __init__(self, how: str) -> None:
        super().__init__(
            Code.MODEL_FAILED,
            "loss_fn calls the model in another way for one row than for the rows it was tried on",
            got=how,
            fix="Let loss_fn call its modules alike for every batch",
        )


def rebuilt(given: Any, change: Callable[[str, Any], Any], path: str = "") -> Any:
    """A copy of dicts, lists, tuples and dataclasses inside each other.

    Args:
        given: the outermost.
        change: ``(path, what is there) -> what takes its place``; what it gives back is gone through itself.
        path: of what is given, as in ``"0.image"``.
    """
    made = change(path, given)
    if made is not given:
        return made
    if isinstance(given, list | tuple):
        items = [rebuilt(one, change, f"{path}.{i}" if path else str(i)) for i, one in enumerate(given)]
        kind: Any = type(given)
        return kind(*items) if hasattr(given, "_fields") else kind(items)
    if isinstance(given, Mapping):
        twin: Any = copy.copy(given) if isinstance(given, MutableMapping) else dict(given)
        for key, one in given.items():
            twin[key] = rebuilt(one, change, f"{path}.{key}" if path else str(key))
        return twin
    if is_dataclass(given) and not isinstance(given, type):
        twin = copy.copy(given)
        for field in fields(given):
            object.__setattr__(twin, field.name, rebuilt(getattr(given, field.name), change, field.name))
        return twin
    return given


class Leaf(str):
    """The place of one tensor, or of one list with an object per sample, in a batch."""


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
        return rebuilt(self.tree, lambda path, one: own[one] if isinstance(one, Leaf) else one)

    def rows(self) -> list["Batch"]:
        """Every sample as a batch of its own."""
        return [
            Batch(self.tree, {name: one[i : i + 1] for name, one in self.leaves.items()}, 1)
            for i in range(self.n)
        ]


@calling
def called(function: Callable[[Any], Any], batch: Batch) -> Any:
    """What the user's function gives for a batch."""
    return function(batch.whole())


@contextmanager
def _intercepting(modules: Sequence[nn.Module], handler: Callable[..., Any]) -> Generator[None]:
    """Calls of modules go to ``handler(module, call, *args, **kwargs)``; modules are as found afterwards."""
    tables = [(module, vars(module), vars(module).get(_CALL)) for module in modules]
    try:
        for module, table, was in tables:
            table[_CALL] = partial(handler, module, was or module._call_impl)
        yield
    finally:
        for _, table, was in tables:
            if was is None:
                table.pop(_CALL, None)
            else:
                table[_CALL] = was


@contextmanager
def recording(modules: Sequence[nn.Module]) -> Generator[Calls]:
    """What the outermost of these modules return inside the ``with`` block."""
    calls, inside = Calls(), False

    @calling
    def run(module: nn.Module, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        nonlocal inside
        if inside:
            return call(*args, **kwargs)
        inside = True
        try:
            output = call(*args, **kwargs)
        finally:
            inside = False
        calls.append((module, output))
        return output

    with _intercepting(modules, run):
        yield calls


@dataclass
class Record:
    """What modules returned for the rows of a batch, from which the score of every row follows.

    Attributes:
        batch: the rows.
        calls: what modules returned for them.
        answer: the tensor that stands for the model's output; None where there is none.
    """

    batch: Batch
    calls: Calls
    answer: Tensor | None = None

    def scores(
        self, loss: Callable[[Any], Any], modules: Sequence[nn.Module], outputs: Tensor | None = None
    ) -> Tensor:
        """(n,) −loss of each row on its own.

        Args:
            loss: the user's function.
            modules: whose calls are looked at.
            outputs: what stands in the place of the answer, of the same size.

        Raises:
            NoMatchError: the loss calls modules in another way than they were called.
        """
        held, at = dict[int, list[Any]](), Counter[int]()
        same = outputs is not None and self.answer is not None and outputs.numel() == self.answer.numel()
        for module, output in self.calls:
            held.setdefault(id(module), []).append(output)
        weights = {id(one) for module, _ in self.calls for one in module.parameters()}
        row, parts = 0, 0

        def cut(path: str, one: Any) -> Any:
            """The row's part of what has an entry per row; detectors return a list of such."""
            nonlocal parts
            if outputs is not None and same and one is self.answer:
                one = outputs.reshape(one.shape)
            listed = type(one) is list and not any(isinstance(item, Tensor) for item in one)
            if not (listed or (isinstance(one, Tensor) and one.ndim)) or len(one) != self.batch.n:
                return one
            parts += 1
            return one[row : row + 1]

        @calling
        def play(module: nn.Module, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            if id(module) not in held:
                if any(id(one) in weights for one in module.parameters()):
                    raise NoMatchError("a part of a module was called that ran whole, or the other way round")
                return call(*args, **kwargs)
            at[id(module)] += 1
            if at[id(module)] > len(held[id(module)]):
                raise NoMatchError("a module was called more often")
            before, part = parts, rebuilt(held[id(module)][at[id(module)] - 1], cut)
            return part if parts > before else call(*args, **kwargs)

        losses = list[Tensor]()
        with _intercepting(modules, play):
            for row, one in enumerate(self.batch.rows()):
                at.clear()
                losses.append(one_number(called(loss, one)))
        return -torch.stack(losses)


def one_number(loss: Any) -> Tensor:
    """() the loss of one row.

    Raises:
        ModelError: OUTPUT_SHAPE for anything but one number.
    """
    if isinstance(loss, Tensor) and loss.numel() == 1:
        return loss.reshape(())
    raise ModelError(
        Code.OUTPUT_SHAPE,
        "loss_fn must return one number",
        got=outline(loss),
        expected="a scalar tensor",
    )

"""A loss read row by row while its model runs once on all rows.

The modules that a function calls are recorded on the whole batch. For every row the loss is then called on
that row alone, and where it calls one of these modules again it is given the row's part of what the module
returned. So sums, means and blocks inside the loss cannot mix samples, and no module runs twice.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from abe.checks import outline
from abe.errors import Code, ModelError
from abe.instrument.whose import calling
from abe.task.entries import Entries, rebuilt

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


@calling
def called(function: Callable[[Any], Any], batch: Entries) -> Any:
    """What the user's function gives for a batch."""
    return function(batch.whole())


@contextmanager
def _intercepting(modules: Sequence[nn.Module], handler: Callable[..., Any]) -> Generator[None]:
    """Calls of modules go to ``handler(module, call, *args, **kwargs)``; modules are as found afterwards."""
    tables = [(vars(module), vars(module).get(_CALL), module) for module in modules]
    try:
        for table, was, module in tables:
            table[_CALL] = partial(handler, module, was or module._call_impl)
        yield
    finally:
        for table, was, _ in tables:
            table[_CALL] = was
            if was is None:
                del table[_CALL]


def recorded(
    function: Callable[[Any], Any], batch: Entries, modules: Sequence[nn.Module]
) -> tuple[Any, Calls]:
    """What a function gives for a batch, and what the outermost of these modules returned in it."""
    calls, inside = Calls(), 0

    @calling
    def run(module: nn.Module, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        nonlocal inside
        inside += 1
        try:
            output = call(*args, **kwargs)
        finally:
            inside -= 1
        if not inside:
            calls.append((module, output))
        return output

    with _intercepting(modules, run):
        return called(function, batch), calls


@dataclass
class Record:
    """What modules returned for the rows of a batch, from which the score of every row follows.

    Attributes:
        batch: the rows.
        calls: what modules returned for them.
        answer: the tensor that stands for the model's output; None where there is none.
    """

    batch: Entries
    calls: Calls
    answer: Tensor | None

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
        weights = {id(one) for module, _ in self.calls for one in module.parameters()}
        left, row, parts = dict[int, list[Any]](), 0, 0

        def cut(path: str, one: Any) -> Any:
            """The row's part of what has an entry per row; detectors return a list of such."""
            nonlocal parts
            if outputs is not None and one is self.answer and outputs.numel() == one.numel():
                one = outputs.reshape(one.shape)
            listed = type(one) is list and not any(isinstance(item, Tensor) for item in one)
            if not (listed or (isinstance(one, Tensor) and one.ndim)) or len(one) != len(self.batch):
                return one
            parts += 1
            return one[row : row + 1]

        @calling
        def play(module: nn.Module, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            if id(module) in left:
                if not left[id(module)]:
                    raise NoMatchError("a module was called more often")
                before, part = parts, rebuilt(left[id(module)].pop(0), cut)
                return part if parts > before else call(*args, **kwargs)
            if any(id(one) in weights for one in module.parameters()):
                raise NoMatchError("a part of a module was called that ran whole, or the other way round")
            return call(*args, **kwargs)

        losses = list[Tensor]()
        with _intercepting(modules, play):
            for row, one in enumerate(self.batch.rows()):  # noqa: B007 - `cut` reads it
                left.clear()
                for module, output in self.calls:
                    left.setdefault(id(module), []).append(output)
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
        Code.OUTPUT_SHAPE, "loss_fn must return one number", got=outline(loss), expected="a scalar tensor"
    )

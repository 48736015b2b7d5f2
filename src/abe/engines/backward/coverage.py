"""Which operations a model runs, and what kind of thing each does: the ground a backward rule stands on."""

# torch leaves part of its own interface untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor, nn

from abe.instrument.modes import Instrument, Seen
from abe.instrument.operations import (
    KINDS,
    SHAPE_ONLY,
    Kind,
    kind_of,
    tensors,
)

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Operation:
    """One operation in one module.

    Attributes:
        name: canonical name.
        module: dotted name of the module whose forward ran it, ``""`` for the model itself.
        count: how often.
        kind: what it does to the part of its arguments that depends on the input.
    """

    name: str
    module: str
    count: int
    kind: Kind


@dataclass(frozen=True)
class Coverage(Sequence[Operation]):
    """The operations of one run, in order of first appearance; prints as a table with rich."""

    operations: tuple[Operation, ...]

    @overload
    def __getitem__(self, index: int) -> Operation: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Operation]: ...
    def __getitem__(self, index: int | slice) -> Operation | Sequence[Operation]:
        return self.operations[index]

    def __len__(self) -> int:
        return len(self.operations)

    def __iter__(self) -> Iterator[Operation]:
        return iter(self.operations)

    def counts(self) -> dict[Kind, int]:
        """Calls by kind, every kind listed."""
        found: Counter[str] = Counter()
        for operation in self.operations:
            found[operation.kind] += operation.count
        return {kind: found[kind] for kind in KINDS}

    @property
    def unknown(self) -> tuple[Operation, ...]:
        """Operations of kind ``other``: no rule may pass over them silently."""
        return tuple(operation for operation in self.operations if operation.kind == "other")

    def to_table(self) -> "Table":
        """One line per operation and kind, with the modules that run it."""
        from rich.table import Table

        groups: dict[tuple[Kind, str], list[Operation]] = {}
        for operation in self.operations:
            groups.setdefault((operation.kind, operation.name), []).append(operation)
        table = Table(title="Operations")
        table.add_column("kind")
        table.add_column("operation")
        table.add_column("calls", justify="right")
        table.add_column("in")
        for (kind, name), found in sorted(groups.items(), key=_by_kind):
            first = found[0].module or "(model)"
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            table.add_row(kind, name, str(sum(operation.count for operation in found)), first + more)
        return table

    def __rich__(self) -> "Table":
        return self.to_table()


def _by_kind(entry: tuple[tuple[Kind, str], list[Operation]]) -> tuple[int, str]:
    (kind, name), _ = entry
    return KINDS.index(kind), name


def coverage(model: nn.Module, run: Callable[[nn.Module], Any]) -> Coverage:
    """List every operation of the model in one ``run(model)``.

    Whether an argument depends on the input is followed from the tensors the model is called with, so
    ``x * weight`` is linear and ``x * sigmoid(x)`` a product. Keeps every intermediate tensor of the run:
    give it a small batch.

    Raises:
        ModelError: OPAQUE_MODEL for scripted or traced modules.
    """
    tracer = _Tracer()
    instrument = Instrument(model, observe=tracer)
    enter = model.register_forward_pre_hook(tracer.enter, with_kwargs=True)
    leave = model.register_forward_hook(tracer.leave, always_call=True)
    try:
        with instrument, torch.no_grad():
            run(model)
    finally:
        enter.remove()
        leave.remove()
    return Coverage(tuple(Operation(*key[:2], count, key[2]) for key, count in tracer.found.items()))


class _Tracer:
    """Counts operations inside the model and follows which tensors depend on its input."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str, Kind], int] = {}
        self._dependent: dict[int, Tensor] = {}  # held, so that no identity is reused
        self._inside = 0

    def enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._inside += 1
        self._mark((args, kwargs))

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self._inside -= 1

    def _mark(self, value: Any) -> None:
        self._dependent.update((id(tensor), tensor) for tensor in tensors(value))

    def __call__(self, seen: Seen, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if not self._inside:
            return
        depends = tuple(id(tensor) in self._dependent for tensor in tensors((args, kwargs)))
        if any(depends) and seen.name not in SHAPE_ONLY:
            self._mark(output)
            if seen.in_place:
                self._mark(args[:1])
        key = (seen.name, seen.module or "", kind_of(seen.name, depends))
        self.found[key] = self.found.get(key, 0) + 1

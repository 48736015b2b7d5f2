"""Rows that work in lockstep and leave when they are done, with what each of them carries."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Generic, TypeVar, cast

from torch import Tensor

Carried = TypeVar("Carried")


@dataclass
class Active(Generic[Carried]):
    """The rows of a loop that go on.

    Attributes:
        rows: (n,) their numbers.
        carried: what each of them takes along, see `take`.
    """

    rows: Tensor
    carried: Carried

    def steps(self, count: int) -> Iterator[int]:
        """The numbers of at most ``count`` steps, until no row is left."""
        for step in range(count):
            if len(self.rows) == 0:
                return
            yield step

    def keep(self, going: Tensor) -> None:
        """Let the rows go where ``going`` (n,) is false."""
        if not bool(going.all()):
            self.rows, self.carried = self.rows[going], take(self.carried, going)


def take(carried: Carried, rows: Tensor) -> Carried:
    """Some rows of every tensor in tuples, mappings and dataclasses; what is no tensor stays as it is."""
    return cast("Carried", _take(carried, rows))


def _take(carried: Any, rows: Tensor) -> Any:
    if isinstance(carried, Tensor):
        return carried[rows]
    if isinstance(carried, tuple):
        return tuple(_take(part, rows) for part in cast("tuple[Any, ...]", carried))
    if isinstance(carried, Mapping):
        return {name: _take(part, rows) for name, part in cast("Mapping[str, Any]", carried).items()}
    if is_dataclass(carried) and not isinstance(carried, type):
        return type(carried)(**{f.name: _take(getattr(carried, f.name), rows) for f in fields(carried)})
    return carried

"""What stands in the attributes, tables and hooks of modules: the objects themselves, met in one walk.

Models have hundreds of modules with twenty attributes each, and every call looks at them several times,
so all loops here run inside the interpreter.
"""

# torch leaves part of its own interface untyped:
# pyright: reportPrivateUsage=false

from collections.abc import Iterable, Iterator
from itertools import chain
from operator import is_, methodcaller
from typing import Any, NamedTuple

from torch import nn

from abe.instrument.inspection import HOOKS

TABLES = ("_parameters", "_buffers", "_modules")
KINDS = ("attributes", "parameters", "buffers", "modules")


class Row(NamedTuple):
    """The entries of several tables, one after the other."""

    sizes: list[int]
    names: list[str]
    held: list[Any]

    @classmethod
    def of(cls, tables: list[Any]) -> "Row":
        """The entries now; tables of scripted modules have keys and values, and are no mappings."""
        keys, values = map(methodcaller("keys"), tables), map(methodcaller("values"), tables)
        return cls(list(map(len, tables)), [*chain.from_iterable(keys)], [*chain.from_iterable(values)])

    def alike(self, sizes: list[int], names: list[str]) -> bool:
        """Whether the entries have these names, in tables of these sizes."""
        return self.sizes == sizes and self.names == names

    def at(self, places: list[int]) -> list[Any]:
        """What stands in some of the places."""
        return list(map(self.held.__getitem__, places))

    def parts(self) -> Iterator[dict[str, Any]]:
        """The tables as they were."""
        at = 0
        for size in self.sizes:
            yield dict(zip(self.names[at : at + size], self.held[at : at + size], strict=True))
            at += size


class Standing:
    """Everything that modules hold at one moment besides the numbers in their tensors.

    Attributes:
        modules: the modules.
        attributes: what stands in each of them, the tables and the training flag too.
        inner: their tables of parameters, buffers and children that hold something.
        tables: what these tables hold.
        hooks: the numbers of all hooks, which torch never gives twice.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self.modules = list(modules)
        owns = list(map(vars, self.modules))
        held = chain.from_iterable(map(dict.values, owns))
        self.attributes = Row([*map(len, owns)], [*chain.from_iterable(owns)], [*held])
        self.inner = [table for own in owns for name in TABLES if (table := own.get(name))]
        self.tables = Row.of(self.inner)
        self.hooks = [
            number for own in owns for kind in HOOKS if (table := own.get(kind)) for number in table
        ]

    def same(self, other: "Standing", places: list[int] | None = None) -> bool:
        """Whether the very same objects stand there, hooks aside.

        Args:
            other: the same modules at another moment.
            places: the attributes that count; all where None.
        """
        for one, two, some in (
            (self.attributes, other.attributes, places),
            (self.tables, other.tables, None),
        ):
            if not one.alike(two.sizes, two.names):
                return False
            pair = (one.held, two.held) if some is None else (one.at(some), two.at(some))
            if not all(map(is_, *pair)):
                return False
        return True

    def entries(self) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
        """Every table with its kind, and what it held at that moment."""
        held = {id(t): was for t, was in zip(self.inner, self.tables.parts(), strict=True)}
        for module, own in zip(self.modules, self.attributes.parts(), strict=True):
            yield KINDS[0], vars(module), own
            for kind, name in zip(KINDS[1:], TABLES, strict=True):
                if isinstance(table := own.get(name), dict):  # those of scripted modules are none
                    yield kind, table, held.get(id(table), {})

"""Inputs that come together: entries of dicts, lists and tuples in each other, and which are explained."""

import copy
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from abe import arrays
from abe.errors import Code, InputError


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
    at = f"{path}." if path else ""
    if isinstance(given, list | tuple):
        items = [rebuilt(one, change, f"{at}{i}") for i, one in enumerate(given)]
        kind: Any = type(given)
        return kind(*items) if hasattr(given, "_fields") else kind(items)
    if isinstance(given, Mapping):
        twin: Any = copy.copy(given) if isinstance(given, MutableMapping) else dict(given)
        for key, one in given.items():
            twin[key] = rebuilt(one, change, f"{at}{key}")
        return twin
    if is_dataclass(given) and not isinstance(given, type):
        twin = copy.copy(given)
        for name in (field.name for field in fields(given)):
            object.__setattr__(twin, name, rebuilt(getattr(given, name), change, f"{at}{name}"))
        return twin
    return given


class Leaf(str):
    """The place of one entry in a batch."""


@dataclass(frozen=True)
class Entries:
    """A batch by its entries.

    Attributes:
        tree: lists, tuples and dicts as in the batch, with a `Leaf` in the place of every entry.
        leaves: path -> (n, …) tensor, or a list of n objects; anything else is kept as it came.
    """

    tree: Any
    leaves: Mapping[str, Any]

    @classmethod
    def read(cls, raw: Any) -> "Entries":
        """The entries of a dict, list or tuple; arrays and lists of numbers become tensors.

        Lists inside are entries, of one object per sample; dicts and other tuples hold entries.

        Raises:
            InputError: DTYPE for an array of anything but numbers.
        """
        leaves: dict[str, Any] = {}

        def entry(path: str, one: Any) -> Any:
            listed = isinstance(one, list | tuple)
            numbers = listed and all(isinstance(item, int | float | np.number) for item in one)
            if (
                one is None
                or not path
                or isinstance(one, Mapping)
                or (isinstance(one, tuple) and not numbers)
            ):
                return one
            if numbers or isinstance(one, int | float):
                one = torch.as_tensor(one)
            elif hasattr(one, "__array__") and not isinstance(one, Tensor):
                one = arrays.from_numpy(np.asarray(one), f"Entry {path} of the batch")
            leaves[path] = one
            return Leaf(path)

        return cls(rebuilt(raw, entry), leaves)

    def __len__(self) -> int:
        return len(next(iter(self.leaves.values())))

    def whole(self) -> Any:
        """The batch again, in memory of its own."""
        own = {name: one.clone() if isinstance(one, Tensor) else one for name, one in self.leaves.items()}
        return rebuilt(self.tree, lambda path, one: own[one] if isinstance(one, Leaf) else one)

    def rows(self) -> list["Entries"]:
        """Every sample as a batch of its own."""
        cuts = (slice(i, i + 1) for i in range(len(self)))
        return [Entries(self.tree, {name: one[cut] for name, one in self.leaves.items()}) for cut in cuts]

    def named(self, name: str | int) -> str:
        """The path of the entry that a user means: at the top, or inside one entry.

        Raises:
            InputError: SHAPE where there is none, or several.
        """
        found = [leaf for leaf in self.leaves if leaf == str(name)]
        found = found or [leaf for leaf in self.leaves if leaf.endswith(f".{name}")]
        if len(found) == 1:
            return found[0]
        there = f"The entry to explain, {name!r}, is not there"
        raise InputError(
            Code.SHAPE,
            f"Several entries are called {name!r}" if found else there,
            got=f"entries {', '.join(self.leaves)}",
            fix="Pass explained=… with keys or positions of entries of the batch",
        )


def inputs_of(raw: Any) -> dict[str | int, Any]:
    """The inputs of a dict or tuple by key or position."""
    pairs = raw.items() if isinstance(raw, Mapping) else enumerate(raw)
    return dict(pairs)


def explained_of(
    inputs: Mapping[str | int, Any], names: Sequence[str | int], fits: Callable[[Any], bool]
) -> Sequence[str | int]:
    """Which of several inputs are explained: those named, or the only one that can be.

    Args:
        inputs: by key or position.
        names: as the task has them; none where nobody said.
        fits: whether an input can be explained.

    Raises:
        InputError: SHAPE where one was not given, or where it is not clear which is meant.
    """
    chosen = names or [name for name, one in inputs.items() if fits(one)]
    missing = [name for name in chosen if name not in inputs]
    if missing:
        raise InputError(
            Code.SHAPE,
            f"The input to explain, {missing[0]!r}, was not given",
            got=f"inputs {list(inputs)}",
            fix="Pass a dict or tuple that holds it",
        )
    if names or len(chosen) == 1:
        return chosen
    raise InputError(
        Code.SHAPE,
        "It is not clear which input to explain",
        got=f"inputs {list(inputs)}",
        fix="Pass explained=… to the task, a key or position",
    )

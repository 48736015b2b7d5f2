"""Batches as users hand them to their own functions, read as features and context."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from abe import arrays
from abe.errors import Code, InputError
from abe.explainers.rows import Batch, Leaf, like
from abe.task.base import Context, Lifted
from abe.types import Part

Name = str | int
_ENTRY = "entry "
"""Begins the keywords of entries that are passed along."""
EXPECTED = "[x (b, *f), y (b,), …], or a dict of such entries"


@dataclass(frozen=True)
class Layout:
    """How a batch is built, and which of its entries are explained.

    Attributes:
        tree: lists, tuples and dicts, with a `Leaf` in the place of every entry.
        explained: leaves that are explained.
        names: what these are called in a result.
        shapes: of one sample of them, as the user has them.
        objects: leaves that are lists with one object per sample.
        last: whether the channels of the explained entry are its last axis.
    """

    tree: Any
    explained: tuple[str, ...]
    names: tuple[Name, ...]
    shapes: tuple[tuple[int, ...], ...]
    objects: frozenset[str]
    last: bool

    @property
    def kind(self) -> tuple[Any, ...]:
        """What tells layouts apart whose batches run alike."""
        return repr(self.tree), self.explained, self.objects, tuple(map(len, self.shapes))

    def batch(self, held: Any, args: Sequence[Tensor], kwargs: Mapping[str, Tensor]) -> Batch:
        """The user's batch from what a task passes to its model.

        Args:
            held: where the objects are kept.
            args: explained inputs whose names are numbers, or the only one.
            kwargs: the others by name, and what is passed along.
        """
        given: dict[Name, Tensor] = {}
        given.update(zip(sorted(n for n in self.names if isinstance(n, int)), args, strict=True))
        given |= {name: kwargs[name] for name in self.names if isinstance(name, str)}
        if self.last:
            given = {name: one.movedim(1, -1) for name, one in given.items()}
        leaves: dict[str, Any] = {
            leaf: given[name] for leaf, name in zip(self.explained, self.names, strict=True)
        }
        for key, value in kwargs.items():
            if not key.startswith(_ENTRY):
                continue
            leaf = key.removeprefix(_ENTRY)
            leaves[leaf] = [held.objects[i] for i in value.tolist()] if leaf in self.objects else value
        missing = [leaf for leaf in _leaves_of(self.tree) if leaf not in leaves]
        if missing:
            raise InputError(
                Code.SHAPE,
                "The functions take entries of the batch that were not passed along",
                got=f"no {', '.join(missing)}",
                fix="Pass the whole batch, as a list or dict, or what ExplanationTask.prepare gives",
            )
        return Batch(self.tree, leaves, len(next(iter(given.values()))))

    def _parts(self, shape: tuple[int, ...]) -> tuple[Part, ...]:
        """The only explained entry, where it has a name, as something that methods can be told about."""
        (name,) = self.names
        return (Part(name, 0, shape[0], shape),) if isinstance(name, str) else ()

    def shown(self) -> tuple[Part, ...]:
        """`_parts` with the axes of the user's batch."""
        return self._parts(self.shapes[0]) if len(self.names) == 1 else ()

    def features(self, leaves: Mapping[str, Any]) -> tuple[Tensor, tuple[Part, ...]]:
        """(b, *f) the explained entries as features: channels first; several of them flat, side by side."""
        given = [leaves[name].detach() for name in self.explained]
        if len(given) == 1:
            placed = given[0].movedim(-1, 1) if self.last else given[0]
            return placed.clone(memory_format=torch.contiguous_format), self._parts(tuple(placed.shape[1:]))
        parts, start = list[Part](), 0
        for name, one, shape in zip(self.names, given, self.shapes, strict=True):
            size = one[0].numel()
            parts.append(Part(name, start, start + size, shape))
            start += size
        return torch.cat([one.flatten(1) for one in given], 1), tuple(parts)


def read(
    raw: Any, explained: Sequence[Name] | None, *, last: bool, several: bool
) -> tuple[Layout, dict[str, Any], int]:
    """The layout of a batch, its entries by name, and the number of samples.

    Args:
        raw: a list or tuple ``[x, y, …]``, or a dict.
        explained: keys or positions of what is explained; by default the first entry, or the only one of a
            dict that can be.
        last: whether channels are the last axis of the explained entry.
        several: whether several entries are likely to be meant, so that the first is not taken by itself.

    Raises:
        InputError: SHAPE for entries that are not one per sample, or where it is not clear what to explain;
            EMPTY_BATCH; DTYPE for whole numbers.
    """
    if not isinstance(raw, Mapping | list | tuple) or not raw:
        raise InputError(
            Code.SHAPE,
            "Give a batch [x, y, …] that starts with a tensor",
            got=type(raw).__name__
            if raw is None or not isinstance(raw, Mapping | list | tuple)
            else "nothing",
            expected=EXPECTED,
        )
    leaves: dict[str, Any] = {}
    tree = _parsed(raw, "", leaves)
    chosen = _chosen(tree, leaves, explained, several)
    for name in chosen:
        _check_features(name, leaves[name])
    n = len(leaves[chosen[0]])
    for name, one in leaves.items():
        if (isinstance(one, Tensor) and one.ndim == 0) or len(one) != n:
            shape = tuple(one.shape) if isinstance(one, Tensor) else f"a list of {len(one)}"
            raise InputError(
                Code.SHAPE,
                f"Entry {name} of the batch needs one value per sample",
                got=str(shape),
                expected=f"({n}, …)",
            )
    shapes = tuple(tuple(leaves[name].shape[1:]) for name in chosen)
    objects = frozenset(name for name, one in leaves.items() if isinstance(one, list))
    moved = last and len(chosen) == 1 and len(shapes[0]) > 1
    return Layout(tree, chosen, _names(chosen), shapes, objects, moved), leaves, n


def context_of(layout: Layout, leaves: Mapping[str, Any], held: Any, device: torch.device) -> Context:
    """What is passed along, one entry per sample; objects by their numbers."""
    rest = {name: one for name, one in leaves.items() if name not in layout.explained}
    found: dict[Name, Tensor] = {
        _ENTRY + name: torch.tensor(list(held.keep(one)))
        if isinstance(one, list)
        else one.detach().to(device)
        for name, one in rest.items()
    }
    return Context(found)


def lifted(layout: Layout, leaves: Mapping[str, Any], held: Any, notes: Sequence[str] = ()) -> Lifted:
    """A batch as a task takes it."""
    x, parts = layout.features(leaves)
    names = [f"sample {i}" for i in range(len(x))]
    return Lifted(x, context_of(layout, leaves, held, x.device), names, parts, tuple(notes))


def _parsed(given: Any, path: str, leaves: dict[str, Any]) -> Any:
    """The tree of a batch; its entries are put into ``leaves``."""
    top = not path
    if given is None:
        return None
    if (
        isinstance(given, tuple)
        and not top
        and all(isinstance(one, int | float | np.number) for one in given)
    ):
        given = list(given)
    if isinstance(given, Mapping | tuple) or (top and isinstance(given, list)):
        keyed = given.items() if isinstance(given, Mapping) else enumerate(given)
        inner = {key: _parsed(one, f"{path}.{key}" if path else str(key), leaves) for key, one in keyed}
        return inner if isinstance(given, Mapping) else like(given, list(inner.values()))
    leaves[path] = _entry(given, path)
    return Leaf(path)


def _entry(given: Any, path: str) -> Any:
    """An entry as a tensor, or as a list of one object per sample."""
    if isinstance(given, Tensor):
        return given
    if isinstance(given, np.ndarray) or hasattr(given, "__array__"):
        return arrays.from_numpy(np.asarray(given), f"Entry {path} of the batch")
    if isinstance(given, list):
        numbers = all(isinstance(one, int | float | np.number) for one in given)
        return torch.as_tensor(given) if numbers else given
    if isinstance(given, int | float):
        return torch.as_tensor(given)
    raise InputError(
        Code.SHAPE,
        f"Entry {path} of the batch needs one value per sample",
        got=type(given).__name__,
        expected="a tensor or array, or a list of one object per sample",
    )


def _leaves_of(tree: Any) -> Iterator[str]:
    if isinstance(tree, Leaf):
        yield tree.name
    elif tree is not None:
        for one in tree.values() if isinstance(tree, dict) else tree:
            yield from _leaves_of(one)


def _chosen(
    tree: Any, leaves: Mapping[str, Any], explained: Sequence[Name] | None, several: bool
) -> tuple[str, ...]:
    """The leaves that are explained."""
    fit = [name for name, one in leaves.items() if isinstance(one, Tensor) and one.is_floating_point()]
    fit = [name for name in fit if leaves[name].ndim > 1]
    if explained is not None:
        return tuple(_named(name, leaves) for name in explained)
    if not isinstance(tree, dict):
        inside = list(_leaves_of(tree[0]))
        if isinstance(tree[0], Leaf) and not (several and len(fit) > 1):
            return (inside[0],)
        found = [name for name in inside if name in fit]
        if found and not isinstance(tree[0], Leaf):
            return tuple(found)
    elif len(fit) == 1:
        return (fit[0],)
    raise InputError(
        Code.SHAPE,
        "It is not clear which entries of the batch to explain",
        got=f"entries {', '.join(leaves)}, of which {', '.join(fit) or 'none'} can be",
        fix="Pass explained=… to ExplanationTask, keys or positions of the entries",
    )


def _named(name: Name, leaves: Mapping[str, Any]) -> str:
    """The leaf that a user means: at the top, or inside one entry."""
    found = [leaf for leaf in leaves if leaf == str(name)] or [
        leaf for leaf in leaves if leaf.endswith(f".{name}")
    ]
    if len(found) == 1:
        return found[0]
    raise InputError(
        Code.SHAPE,
        f"The entry to explain, {name!r}, is not there"
        if not found
        else f"Several entries are called {name!r}",
        got=f"entries {', '.join(leaves)}",
        fix="Pass explained=… with keys or positions of entries of the batch",
    )


def _names(chosen: tuple[str, ...]) -> tuple[Name, ...]:
    """The ends of the leaves' names, numbers as numbers; whole names where the ends are the same."""
    ends = [name.rpartition(".")[2] for name in chosen]
    if len(set(ends)) < len(ends):
        return chosen
    return tuple(int(end) if end.isdigit() else end for end in ends)


def _check_features(name: str, given: Any) -> None:
    if not isinstance(given, Tensor):
        raise InputError(
            Code.SHAPE,
            f"Entry {name} of the batch is to be explained, so it must be a tensor",
            got=f"a list of {type(given[0]).__name__}" if given else "an empty list",
            expected=EXPECTED,
            fix="Stack the samples to one tensor (b, *f)",
        )
    if given.ndim and len(given) == 0:
        raise InputError(Code.EMPTY_BATCH, "There is nothing to explain", got=f"shape {tuple(given.shape)}")
    if given.ndim < 2:
        raise InputError(
            Code.SHAPE,
            f"Entry {name} of the batch is to be explained, so it needs a batch axis and features",
            got=f"shape {tuple(given.shape)}",
            expected=EXPECTED,
        )
    if not given.is_floating_point():
        raise InputError(
            Code.DTYPE,
            "Whole numbers such as tokens cannot be moved a little, so they cannot be explained themselves",
            got=f"{given.dtype} in entry {name}",
            expected="floating-point numbers",
            fix="Pass their embeddings, such as model.embedding(ids), to functions that go on from there; of "
            "pictures pass x.float() / 255",
        )

"""Batches as users hand them to their own functions, read as features and context."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from abe import arrays
from abe.errors import Code, InputError
from abe.explainers.rows import Batch, Leaf, rebuilt
from abe.task.base import Context, Lifted
from abe.task.lifted import pack
from abe.types import Part

Name = str | int
EXPECTED = "[x (b, *f), y (b,), …], or a dict of such entries"


@dataclass(frozen=True)
class Layout:
    """How a batch is built, and which of its entries are explained.

    Attributes:
        tree: as in `Batch`.
        explained: leaf -> what it is called in a result; numbers are places.
        objects: leaves that are lists with one object per sample.
        last: whether the channels of the explained entry are its last axis.
    """

    tree: Any
    explained: Mapping[str, Name]
    objects: frozenset[str]
    last: bool

    def batch(self, args: Sequence[Tensor], kwargs: Mapping[str, Tensor], objects: Mapping[int, Any]) -> Batch:
        """The user's batch from what a task passes to its model, and numbered objects."""
        numbers = sorted(name for name in self.explained.values() if isinstance(name, int))
        given = {**dict(zip(numbers, args, strict=True)), **kwargs}
        leaves: dict[str, Any] = {}

        def fill(path: str, one: Any) -> Any:
            if isinstance(one, Leaf):
                leaves[one] = given.get(self.explained.get(one, str(one)))
                if one in self.objects and leaves[one] is not None:
                    leaves[one] = [objects[number] for number in leaves[one].tolist()]
            return one

        rebuilt(self.tree, fill)
        missing = [leaf for leaf, one in leaves.items() if one is None]
        if missing:
            raise InputError(
                Code.SHAPE,
                "The functions take entries of the batch that were not passed along",
                got=f"no {', '.join(missing)}",
                fix="Pass the whole batch, as a list or dict, or what ExplanationTask.prepare gives",
            )
        return Batch(self.tree, leaves, len(next(iter(given.values()))))

    def lifted(self, batch: Batch, held: Any, device: torch.device) -> Lifted:
        """A batch as a task takes it: explained entries packed, the others along with them.

        Args:
            batch: of this layout.
            held: gives numbers to objects.
            device: of the model.
        """
        blocks = {name: batch.leaves[leaf].detach() for leaf, name in self.explained.items()}
        settings: dict[Name, dict[str, Any]] = {}
        if self.last:
            blocks = {name: block.movedim(-1, 1) for name, block in blocks.items()}
            settings = {name: {"channels": -1} for name in blocks}
        x, parts = pack(blocks, settings)
        if not self.last and all(isinstance(name, int) for name in blocks) and len(blocks) == 1:  # has no name
            parts = ()
        values: dict[Name, Tensor] = {}
        for leaf, one in batch.leaves.items():
            if leaf not in self.explained:
                values[leaf] = held.keep(one) if leaf in self.objects else one.detach().to(device)
        return Lifted(x.contiguous(), Context(values), [f"sample {i}" for i in range(batch.n)], parts)


def turned(parts: Sequence[Part], shape: tuple[int, ...]) -> tuple[Part, ...]:
    """The only part of features whose channels come last in a result of this shape."""
    (part,) = parts
    return (Part(part.name, 0, shape[0], shape),)


def read(
    raw: Any, explained: Sequence[Name] | None, *, last: bool, several: bool
) -> tuple[Layout, Batch]:
    """The layout of a batch, and its entries.

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
            got=type(raw).__name__,
            expected=EXPECTED,
        )
    leaves: dict[str, Any] = {}

    def entry(path: str, one: Any) -> Any:
        inside = isinstance(one, Mapping) or (isinstance(one, tuple) and not _numbers(one))
        if one is None or not path or inside:
            return one
        leaves[path] = _entry(one, path)
        return Leaf(path)

    tree = rebuilt(raw, entry)
    names = _chosen(tree, leaves, explained, several)
    for leaf in names:
        _check_features(leaf, leaves[leaf])
    n = len(leaves[next(iter(names))])
    for name, one in leaves.items():
        shape = tuple(one.shape) if isinstance(one, Tensor) else (len(one),)
        if shape[:1] != (n,):
            raise InputError(
                Code.SHAPE,
                f"Entry {name} of the batch needs one value per sample",
                got=f"{type(one).__name__} of shape {shape}",
                expected=f"({n}, …)",
            )
    objects = frozenset(name for name, one in leaves.items() if isinstance(one, list))
    moved = last and len(names) == 1 and all(leaves[leaf].ndim > 2 for leaf in names)
    return Layout(tree, names, objects, moved), Batch(tree, leaves, n)


def _numbers(given: Sequence[Any]) -> bool:
    return all(isinstance(one, int | float | np.number) for one in given)


def _entry(given: Any, path: str) -> Any:
    """An entry as a tensor, or as a list of one object per sample."""
    if isinstance(given, Tensor):
        return given
    if isinstance(given, np.ndarray) or hasattr(given, "__array__"):
        return arrays.from_numpy(np.asarray(given), f"Entry {path} of the batch")
    if isinstance(given, list | tuple):
        return torch.as_tensor(given) if _numbers(given) else given
    if isinstance(given, int | float):
        return torch.as_tensor(given)
    raise InputError(
        Code.SHAPE,
        f"Entry {path} of the batch needs one value per sample",
        got=type(given).__name__,
        expected="a tensor or array, or a list of one object per sample",
    )


def _chosen(
    tree: Any, leaves: Mapping[str, Any], explained: Sequence[Name] | None, several: bool
) -> dict[str, Name]:
    """The leaves that are explained, with their names: the ends of theirs where these differ."""
    fit = [
        name
        for name, one in leaves.items()
        if isinstance(one, Tensor) and one.is_floating_point() and one.ndim > 1
    ]
    if explained is not None:
        found = [_named(name, leaves) for name in explained]
    elif isinstance(tree, Mapping):
        found = fit if len(fit) == 1 else []
    elif isinstance(tree[0], Leaf):
        found = [] if several and len(fit) > 1 else [tree[0]]
    else:
        found = [name for name in fit if name.startswith("0.")]
    if not found:
        raise InputError(
            Code.SHAPE,
            "It is not clear which entries of the batch to explain",
            got=f"entries {', '.join(leaves)}, of which {', '.join(fit) or 'none'} can be",
            fix="Pass explained=… to ExplanationTask, keys or positions of the entries",
        )
    ends = [name.rpartition(".")[2] for name in found]
    taken = [end for leaf, end in zip(found, ends, strict=True) if end in leaves and end != leaf]
    if len(set(ends)) < len(ends) or not all(end.isdigit() for end in taken):
        ends = found
    return {leaf: int(end) if end.isdigit() else end for leaf, end in zip(found, ends, strict=True)}


def _named(name: Name, leaves: Mapping[str, Any]) -> str:
    """The leaf that a user means: at the top, or inside one entry."""
    found = [leaf for leaf in leaves if leaf == str(name)]
    found = found or [leaf for leaf in leaves if leaf.endswith(f".{name}")]
    if len(found) == 1:
        return found[0]
    raise InputError(
        Code.SHAPE,
        f"Several entries are called {name!r}" if found else f"The entry to explain, {name!r}, is not there",
        got=f"entries {', '.join(leaves)}",
        fix="Pass explained=… with keys or positions of entries of the batch",
    )


def _check_features(name: str, given: Any) -> None:
    """What `Task.check` refuses of features in words that fit entries of a batch."""
    axes = given.ndim if isinstance(given, Tensor) else 0
    if axes < 2:
        raise InputError(
            Code.SHAPE,
            f"Entry {name} of the batch is to be explained, so it needs a batch axis and features",
            got=f"shape {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__,
            expected=EXPECTED,
            fix=None if isinstance(given, Tensor) else "Stack the samples to one tensor (b, *f)",
        )
    if len(given) and not given.is_floating_point():
        raise InputError(
            Code.DTYPE,
            "Whole numbers such as tokens cannot be moved a little, so they cannot be explained themselves",
            got=f"{given.dtype} in entry {name}",
            expected="floating-point numbers",
            fix="Pass their embeddings, such as model.embedding(ids), to functions that go on from there; of "
            "pictures pass x.float() / 255",
        )

"""Batches as users hand them to their own functions, read as features and context."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from abe.checks import outline
from abe.errors import Code, InputError
from abe.task.base import Context, Lifted
from abe.task.entries import Entries, Leaf
from abe.task.lifted import pack

Name = str | int
EXPECTED = "[x (b, *f), y (b,), …], or a dict of such entries"


@dataclass(frozen=True)
class Layout:
    """How a batch is built, and which of its entries are explained.

    Attributes:
        tree: as in `Entries`.
        names: leaf -> what a task calls it; explained ones as results call them, numbers are places.
        explained: leaves that are explained.
        objects: leaves that are lists with one object per sample.
        last: whether the channels of the explained entry are its last axis.
    """

    tree: Any
    names: Mapping[str, Name]
    explained: tuple[str, ...]
    objects: frozenset[str]
    last: bool

    def batch(self, args: Sequence[Tensor], kwargs: dict[str, Tensor], objects: dict[int, Any]) -> Entries:
        """The user's batch from what a task passes to its model, and numbered objects.

        Raises:
            InputError: SHAPE where an entry is not among them.
        """
        places = sorted(name for name in self.names.values() if isinstance(name, int))
        given = {**dict(zip(places, args, strict=True)), **kwargs}
        missing = [leaf for leaf, name in self.names.items() if name not in given]
        if missing:
            raise InputError(
                Code.SHAPE,
                "The functions take entries of the batch that were not passed along",
                got=f"no {', '.join(missing)}",
                fix="Pass the whole batch, as a list or dict, or what ExplanationTask.prepare gives",
            )
        leaves: dict[str, Any] = {leaf: given[name] for leaf, name in self.names.items()}
        for leaf in self.objects:
            leaves[leaf] = [objects[number] for number in leaves[leaf].tolist()]
        return Entries(self.tree, leaves)

    def lifted(self, batch: Entries, held: Any, device: torch.device) -> Lifted:
        """A batch as a task takes it: explained entries packed, the others along with them.

        Args:
            batch: of this layout.
            held: gives numbers to objects.
            device: of the model.
        """
        blocks, values = dict[Name, Tensor](), dict[Name, Tensor]()
        for leaf, name in self.names.items():
            one = batch.leaves[leaf]
            if leaf in self.explained:
                blocks[name] = one.detach().movedim(-1, 1) if self.last else one.detach()
            else:
                values[name] = held.keep(one) if leaf in self.objects else one.detach().to(device)
        x, parts = pack(blocks, {name: {"channels": -1} for name in blocks if self.last})
        unnamed = len(parts) == 1 and isinstance(parts[0].name, int) and not self.last
        names = [f"sample {i}" for i in range(len(x))]
        return Lifted(x.contiguous(), Context(values), names, () if unnamed else parts)


def read(raw: Any, explained: Sequence[Name] | None, *, last: bool, several: bool) -> tuple[Layout, Entries]:
    """The layout of a batch, and its entries.

    Args:
        raw: a list or tuple ``[x, y, …]``, or a dict.
        explained: keys or positions of what is explained; by default the first entry, or the only one of a
            dict that can be.
        last: whether channels are the last axis of the explained entry.
        several: whether several entries are likely to be meant, so that the first is not taken by itself.

    Raises:
        InputError: SHAPE for entries that are not one per sample, or where it is not clear what to explain;
            DTYPE for whole numbers.
    """
    if not isinstance(raw, Mapping | list | tuple) or not raw:
        raise _refused("Give a batch [x, y, …] that starts with a tensor", type(raw).__name__, EXPECTED)
    batch = Entries.read(raw)
    leaves, chosen = batch.leaves, _chosen(batch, explained, several)
    for leaf in chosen:
        _check_features(leaf, leaves[leaf])
    n, objects = len(leaves[chosen[0]]), {name for name, one in leaves.items() if isinstance(one, list)}
    for name, one in leaves.items():
        if not (name in objects or (isinstance(one, Tensor) and one.ndim)) or len(one) != n:
            got = f"a list of {len(one)}" if name in objects else outline(one)
            expected = f"{n} of them in a tensor or array, or a list of {n} objects"
            raise _refused(f"Entry {name} of the batch needs one value per sample", got, expected)
    ends = [leaf.rpartition(".")[2] for leaf in chosen]
    taken = [end for end, leaf in zip(ends, chosen, strict=True) if end in leaves and end != leaf]
    if len(set(ends)) < len(ends) or not all(map(str.isdigit, taken)):
        ends = chosen
    called = {leaf: int(end) if end.isdigit() else end for leaf, end in zip(chosen, ends, strict=True)}
    moved = last and len(chosen) == 1 and leaves[chosen[0]].ndim > 2
    names = {leaf: called.get(leaf, leaf) for leaf in leaves}
    return Layout(batch.tree, names, tuple(chosen), frozenset(objects), moved), batch


def _chosen(batch: Entries, explained: Sequence[Name] | None, several: bool) -> Sequence[str]:
    """The leaves that are explained."""
    leaves, tree = batch.leaves, batch.tree
    fit = [k for k, one in leaves.items() if isinstance(one, Tensor) and one.is_floating_point()]
    fit = [k for k in fit if leaves[k].ndim > 1]
    if explained is not None:
        found = [batch.named(name) for name in explained]
    elif isinstance(tree, Mapping):
        found = fit if len(fit) == 1 else []
    elif isinstance(tree[0], Leaf):
        found = [] if several and len(fit) > 1 else [str(tree[0])]
    else:
        found = [name for name in fit if name.startswith("0.")]
    if found:
        return found
    raise _refused(
        "It is not clear which entries of the batch to explain",
        f"entries {', '.join(leaves)}, of which {', '.join(fit) or 'none'} can be",
        fix="Pass explained=… to ExplanationTask, keys or positions of the entries",
    )


def _check_features(name: str, given: Any) -> None:
    """What `Task.check` refuses of features, in words that fit entries of a batch."""
    if not isinstance(given, Tensor) or given.ndim < 2:
        what = f"Entry {name} of the batch is to be explained, so it needs a batch axis and features"
        raise _refused(what, outline(given), EXPECTED, "Stack the samples to one tensor (b, *f)")
    if len(given) and not (given.is_floating_point() or given.is_complex()):
        raise InputError(
            Code.DTYPE,
            "Whole numbers such as tokens cannot be moved a little, so they cannot be explained themselves",
            got=f"{given.dtype} in entry {name}",
            expected="floating-point numbers",
            fix="Pass their embeddings, such as model.embedding(ids), to functions that go on from there; of "
            "pictures pass x.float() / 255",
        )


def _refused(what: str, got: str, expected: str | None = None, fix: str | None = None) -> InputError:
    return InputError(Code.SHAPE, what, got=got, expected=expected, fix=fix)

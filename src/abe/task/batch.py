"""Arrays, tables and lists of them as one batch of features, channels first."""

import os
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from numbers import Number
from typing import Any

import numpy as np
import torch
from torch import Tensor

from abe import arrays
from abe.errors import Code, InputError
from abe.task.base import Task
from abe.task.letters import MEANING, Axes


@dataclass(frozen=True)
class Batch:
    """Samples of arrays whose axes are known.

    Attributes:
        x: (b, c, *positions) features; shorter samples go on with their last place.
        lengths: how many places each has along the first axis of positions, or None where all have as many.
        places: per sample, names of those places, or None where they are numbered.
        channels: names of the channels, where a table has them.
    """

    x: Tensor
    lengths: list[int] | None = None
    places: list[list[str] | None] = field(default_factory=list[list[str] | None])
    channels: list[str] | None = None


def batch_of(task: Task, axes: Axes, raw: Any, channels: Sequence[str] | None = None) -> Batch:
    """The samples of an array, a table, or a list or loader of them.

    Args:
        task: its type and device are those of arrays that are no tensors.
        axes: how arrays lie.
        raw: (b, …) an array of samples, one sample without that axis, a table of one sample (its rows are
            time), or several of these.
        channels: names of the channels, by which columns of a table are put in order.

    Raises:
        InputError: nothing, no real numbers, or axes that are not those said.
    """
    blocks = [_block(task, axes, item, channels) for item in _items(raw)]
    need_some(raw, sum(len(block.x) for block in blocks))
    need_one_type(task, [block.x for block in blocks])
    if not all(block.x.numel() for block in blocks):
        empty = next(block.x for block in blocks if not block.x.numel())
        raise InputError(
            Code.EMPTY_BATCH,
            "A sample has no places",
            got=f"shape {tuple(empty.shape)}, channels first",
            expected="at least one along every axis",
        )
    named = [block.channels for block in blocks if block.channels is not None]
    if any(one != named[0] for one in named[1:]):
        raise InputError(
            Code.SHAPE,
            "Tables in one call must have the same columns",
            got=f"{named[0]} and {next(one for one in named if one != named[0])}",
            fix="Give channels= their names, then they are put in that order",
        )
    places = [one for block in blocks for one in block.places]
    x, lengths = _joined(axes, [block.x for block in blocks])
    return Batch(x, lengths, places, named[0] if named else None)


def context_of(task: Task, item: Any, n: int, name: str | int) -> Tensor:
    """(n, …) a further input of the model, one entry per sample, or one for all.

    Raises:
        InputError: no numbers, or another number of entries.
    """
    tensor = item if isinstance(item, Tensor) else arrays.from_numpy(item, f"The input {name!r}")
    if not isinstance(item, Tensor) and tensor.is_floating_point():
        tensor = tensor.to(task.dtype)
    return one_each(tensor.to(task.device), n, name)


def one_each(tensor: Tensor, n: int, name: str | int) -> Tensor:
    """(n, …) a further input's entries, of which one may stand for all.

    Raises:
        InputError: another number of entries.
    """
    if tensor.ndim == 0 or len(tensor) == 1:
        tensor = tensor.expand(n, *tensor.shape[1:])
    if len(tensor) != n:
        raise InputError(
            Code.SHAPE,
            f"Input {name!r} needs one entry per sample",
            got=f"shape {tuple(tensor.shape)}",
            expected=f"{n} entries, or one for all",
            fix="Give it a leading axis of length 1 where it is the same for all samples",
        )
    return tensor.detach()


def need_some(raw: Any, samples: int) -> None:
    """Refuse what holds no sample.

    Raises:
        InputError: there is none.
    """
    if not samples:
        raise InputError(
            Code.EMPTY_BATCH,
            "There is nothing to explain",
            got=f"an empty {type(raw).__name__}",
            expected="at least one sample",
        )


def need_one_type(task: Task, tensors: Sequence[Tensor]) -> None:
    """Refuse samples of several types, or on several devices.

    Raises:
        InputError: they differ.
    """
    kinds = {f"{one.dtype} on {one.device}" for one in tensors}
    if len(kinds) > 1:
        raise InputError(
            Code.DTYPE,
            "Samples in one call must be numbers of one type",
            got=", ".join(sorted(kinds)),
            expected=str(task.dtype),
            fix=f"Convert all with x.to({task.dtype})",
        )


def _items(raw: Any) -> list[Any]:
    """The arrays and tables in what was given; lists of numbers, at any depth, are arrays."""
    raw = np.asarray(raw) if isinstance(raw, memoryview) else raw
    if arrays.is_array(raw) or _is_table(raw):
        return [raw]
    if isinstance(raw, str | bytes | Mapping | Set | Number) or not isinstance(raw, Iterable):
        raise InputError(
            Code.SHAPE,
            "This is no array of samples",
            got=type(raw).__name__,
            expected="a tensor, an array, a table, or a list of them",
            fix="Read it first, for example by numpy.load or pandas.read_csv"
            if isinstance(raw, str | os.PathLike)
            else None,
        )
    items = list(raw)
    if items and not any(_holds_arrays(one) for one in items):
        try:
            return [np.asarray(items)]
        except ValueError:  # samples of different lengths
            return [_nested(one) for one in items]
    found: list[Any] = []
    for item in items:
        if isinstance(item, list | tuple) and len(item) > 1 and any(arrays.is_array(part) for part in item):
            raise InputError(
                Code.SHAPE,
                "A batch holds more than inputs",
                got=f"a {type(item).__name__} of {', '.join(type(part).__name__ for part in item[:4])}",
                expected="inputs alone, as arrays, tensors or tables",
                fix="Pass the inputs alone, such as [batch[0] for batch in loader], and labels apart",
            )
        found.append(item[0] if isinstance(item, list | tuple) and len(item) == 1 else item)
    return found


def _holds_arrays(item: Any) -> bool:
    """Whether this is an array or a table, or begins a tuple or list of them."""
    if isinstance(item, list | tuple):
        return any(arrays.is_array(part) or _is_table(part) for part in item)
    return arrays.is_array(item) or _is_table(item)


def _nested(item: Any) -> np.ndarray:
    """An array of nested lists.

    Raises:
        InputError: they are ragged.
    """
    try:
        return np.asarray(item)
    except ValueError as problem:
        raise InputError(
            Code.SHAPE,
            "Nested lists of one sample have different lengths",
            got=type(item).__name__,
            fix="Pass arrays, one for each sample",
        ) from problem


def _is_table(obj: Any) -> bool:
    """Whether this is a table or a column of one, of pandas or its kin."""
    return hasattr(obj, "to_numpy") and hasattr(obj, "index") and hasattr(obj, "iloc")


def _block(task: Task, axes: Axes, item: Any, channels: Sequence[str] | None) -> Batch:
    if _is_table(item):
        return _table(task, axes, item, channels)
    tensor = isinstance(item, Tensor)
    x = item.detach() if tensor else arrays.from_numpy(item, "A sample")
    x = x if x.layout is torch.strided else x.to_dense()
    if x.is_complex():
        raise InputError(
            Code.DTYPE,
            "A sample is an array of real numbers",
            got=str(x.dtype),
            fix="Pass magnitude and phase, or real and imaginary parts, as channels",
        )
    laid = axes.batch(x)
    if x.ndim == len(axes.letters) and len(x) == 0:
        return Batch(laid)
    # whose tensor it is may fill it anew before the explanation is read
    numbers = laid.clone() if tensor and x.is_floating_point() else laid.to(task.device, task.dtype)
    return Batch(numbers.contiguous(), places=[None] * len(numbers))


def _table(task: Task, axes: Axes, item: Any, channels: Sequence[str] | None) -> Batch:
    """One sample of which the rows are time and the columns channels."""
    if axes.positions not in ("t", "n"):
        raise InputError(
            Code.SHAPE,
            "A table has rows and columns, and these samples more axes",
            got=f"a {type(item).__name__} for axes {axes.words}",
            fix="Pass an array",
        )
    columns = [str(one) for one in getattr(item, "columns", [getattr(item, "name", None) or "0"])]
    values = arrays.from_numpy(item.to_numpy(), "A table").reshape(len(item), len(columns))
    if axes.channels is None and len(columns) != 1:
        raise InputError(
            Code.SHAPE,
            "The table has several columns, and the axes no channels",
            got=f"columns {', '.join(columns)}",
            expected="one column, or axes= with the letter 'c'",
        )
    if channels is not None and columns != list(channels) and axes.channels is not None:
        if sorted(columns) != sorted(channels):
            raise InputError(
                Code.SHAPE,
                "The table has other columns than the task has channels",
                got=", ".join(columns),
                expected=", ".join(channels),
            )
        values, columns = values[:, [columns.index(name) for name in channels]], list(channels)
    index = item.index
    plain = type(index).__name__ == "RangeIndex"
    places = None if plain else [str(one) for one in index]
    x = values.T[None].to(task.device, task.dtype).contiguous()
    return Batch(x, places=[places], channels=columns)


def _joined(axes: Axes, blocks: list[Tensor]) -> tuple[Tensor, list[int] | None]:
    """One tensor, and the lengths of samples where they differ."""
    shapes = {tuple(block.shape[1:]) for block in blocks}
    if len(shapes) == 1:
        return (blocks[0] if len(blocks) == 1 else torch.cat(blocks)), None
    others = {(shape[0], *shape[2:]) for shape in shapes}
    letter = axes.positions[0]
    if len(others) > 1 or letter not in "tn":
        raise InputError(
            Code.SHAPE,
            "Samples in one call must have one shape",
            got=f"shapes {sorted(shapes)}, channels first",
            expected=f"differences in the number of {MEANING[letter]} alone" if letter in "tn" else None,
            fix="Explain them one by one",
        )
    longest = max(shape[1] for shape in shapes)
    lengths = [block.shape[2] for block in blocks for _ in range(len(block))]
    padded = [
        torch.cat([block, block[:, :, -1:].expand(-1, -1, longest - block.shape[2], *block.shape[3:])], 2)
        for block in blocks
    ]
    return torch.cat(padded), lengths

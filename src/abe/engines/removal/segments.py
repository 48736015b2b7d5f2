"""Which unit every number of an input belongs to, windows over it, and maps made of one value for each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from abe.checks import Count
from abe.errors import Code, InputError, SpecError
from abe.types import RowIndex
from abe.units import Partition, Unit

Units = Unit | str | tuple[str, Any]
"""A unit, its name, or its name with parameters."""
Spread = Literal["share", "whole"]
"""Whether the positions of a unit share its value, so that the map sums to the units' sum, or each carries
all of it, as published code shows it."""


@dataclass(frozen=True)
class Segments:
    """The units of a batch.

    Attributes:
        labels: (b, 1 or c, *space) the unit of each position; -1 for none, which always stays.
        counts: number of units of each sample.
        shape: of one sample's features.
    """

    labels: Tensor
    counts: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def most(self) -> int:
        """The largest number of units."""
        return max(self.counts)

    def keep(self, owner: RowIndex, coalition: Bool[Tensor, "n u"]) -> Bool[Tensor, "n *f"]:
        """(n, 1 or c, *space) whether each position's unit is in the row's coalition."""
        labels = self.labels[owner]
        return coalition.gather(1, labels.flatten(1).clamp_min(0)).view(labels.shape) | (labels < 0)

    def is_unit(self, owner: RowIndex, unit: RowIndex) -> Bool[Tensor, "n *f"]:
        """(n, 1 or c, *space) where unit ``unit[i]`` lies."""
        labels = self.labels[owner]
        return labels == unit.view(-1, *[1] * (labels.ndim - 1))

    def sizes(self, sample: int) -> Float[Tensor, "u"]:
        """(u,) how many numbers of the input each unit holds."""
        labels = self.labels[sample].flatten()
        repeat = torch.Size(self.shape).numel() // len(labels)
        return repeat * torch.bincount(labels[labels >= 0], minlength=self.counts[sample]).double()

    def sums(self, rows: Tensor) -> list[Tensor]:
        """(u,) per sample, the sum of a map (b, *f) over each unit, in float64."""
        dense = rows.double()
        found: list[Tensor] = []
        for labels, one, count in zip(self.labels, dense, self.counts, strict=True):
            where = labels.expand_as(one).flatten()
            inside = where >= 0
            found.append(one.new_zeros(count).index_add_(0, where[inside], one.flatten()[inside]))
        return found

    def map(self, values: Sequence[Tensor], like: Tensor, spread: Spread = "share") -> Tensor:
        """(b, *f) one value per unit laid over the input.

        Args:
            values: (u,) per sample.
            like: (b, *f) the features.
            spread: divided among the unit's numbers, or each carries all of it.
        """
        out = torch.empty_like(like)
        for sample, own in enumerate(values):
            each = own.double() if spread == "whole" else own.double() / self.sizes(sample)
            labels = self.labels[sample]
            laid = torch.where(labels < 0, 0.0, each[labels.clamp_min(0)])
            out[sample] = laid.to(like).expand(self.shape)
        return out


@dataclass(frozen=True)
class Windows:
    """Equal windows over the positions of an input, moved by a stride; the last ones end at the border.

    Attributes:
        starts: (w, axes) first position of each.
        size: along every axis.
        space: number of positions along every axis.
        flat: the input has no axis of channels, or channels have windows of their own.
    """

    starts: Tensor
    size: tuple[int, ...]
    space: tuple[int, ...]
    flat: bool

    def slices(self, window: int) -> tuple[slice, ...]:
        """The positions of one window."""
        first = self.starts[window].tolist()
        return tuple(slice(a, min(a + s, n)) for a, s, n in zip(first, self.size, self.space, strict=True))

    def outside(self, window: RowIndex) -> Bool[Tensor, "n *f"]:
        """(n, 1, *space) what lies outside each row's window ((n, d) for flat inputs)."""
        inside = torch.ones((len(window), *[1] * len(self.space)), dtype=torch.bool, device=window.device)
        starts = self.starts.to(window.device)[window]
        for axis, (size, n) in enumerate(zip(self.size, self.space, strict=True)):
            shape = [-1 if i == axis else 1 for i in range(len(self.space))]
            at = torch.arange(n, device=window.device).view(1, *shape)
            first = starts[:, axis].view(-1, *[1] * len(self.space))
            inside = inside & (at >= first) & (at < first + size)
        return ~inside if self.flat else ~inside[:, None]

    def average(self, values: Float[Tensor, "b w"], like: Tensor) -> Tensor:
        """(b, *f) at every position the mean over the windows that cover it."""
        total = torch.zeros((len(values), *self.space), dtype=torch.float64, device=like.device)
        count = torch.zeros(self.space, dtype=torch.float64, device=like.device)
        lift = (slice(None), *[None] * len(self.space))
        for window, each in enumerate(values.double().unbind(1)):
            where = self.slices(window)
            total[(slice(None), *where)] += each[lift]
            count[where] += 1
        mean = (total / count).to(like)
        return mean if self.flat else mean[:, None].expand_as(like).clone()


Lengths = Count | tuple[Count, ...] | None
"""Positions along every axis: one number for all, or one for each."""


def windows_of(x: Tensor, size: Lengths, stride: Lengths, *, per_channel: bool = False) -> Windows:
    """Windows over the positions of ``x``; by default a fourteenth of its side, half of that apart.

    Args:
        x: (b, *f) inputs.
        size: of a window along every axis.
        stride: how far they are apart along every axis.
        per_channel: each channel has windows of its own.

    Raises:
        InputError: they are larger than the input, leave positions out or are of other axes.
    """
    flat = x.ndim == 2
    space = tuple(x.shape[1:]) if flat else tuple(x.shape[2:])
    sizes = _along(max(1, min(space) // 14) if size is None else size, space)
    strides = _along(tuple(max(1, one // 2) for one in sizes) if stride is None else stride, space)
    along = list(zip(sizes, strides, space, strict=True))
    if any(one > n or step > one for one, step, n in along):
        raise _uncovered(sizes, strides, space)
    if per_channel and not flat:
        flat, space = True, tuple(x.shape[1:])
        along = [(1, 1, space[0]), *along]
    axes = [torch.arange(max(0, -(-(n - one) // step)) + 1) * step for one, step, n in along]
    starts = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, len(space))
    return Windows(starts, tuple(one for one, _, _ in along), space, flat)


def _along(length: int | tuple[int, ...], space: tuple[int, ...]) -> tuple[int, ...]:
    """One length per axis."""
    lengths = (length,) * len(space) if isinstance(length, int) else tuple(length)
    if len(lengths) != len(space):
        raise _uncovered(lengths, lengths, space)
    return lengths


def _uncovered(sizes: tuple[int, ...], strides: tuple[int, ...], space: tuple[int, ...]) -> InputError:
    size, stride = (
        str(one[0]) if len(set(one)) == 1 else " × ".join(map(str, one)) for one in (sizes, strides)
    )
    return InputError(
        Code.UNITS,
        "The windows do not cover the input",
        got=f"windows of {size} every {stride} positions on {' × '.join(map(str, space))}",
        expected="windows no larger than the input and no further apart than their size, a number or one for "
        "each axis of positions",
    )


def segments_of(unit: Unit, x: Tensor) -> Segments:
    """The units of a batch, checked to tile it; those that come with samples are bound first.

    Raises:
        SpecError: the unit cannot say where its units lie.
        InputError: they do not tile the input.
    """
    if not isinstance(unit, Partition):
        raise SpecError(
            Code.UNSUPPORTED,
            "This unit does not say which positions belong together",
            got=type(unit).__name__,
            expected="a unit with partition(x), such as grid, patch, superpixel, pixel or regions",
        )
    labels = unit.partition(x)
    fits = labels.ndim == x.ndim and len(labels) == len(x) and labels.shape[1] in (1, x.shape[1])
    if not fits or labels.shape[2:] != x.shape[2:] or (x.ndim == 2 and labels.shape != x.shape):
        raise InputError(
            Code.UNITS,
            "The units do not tile the input",
            got=f"labels of shape {tuple(labels.shape)}",
            expected=f"one label per position of {tuple(x.shape)}",
        )
    counts = tuple(int(row.max()) + 1 for row in labels)
    return Segments(labels, counts, tuple(x.shape[1:]))

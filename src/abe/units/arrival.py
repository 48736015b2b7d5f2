"""The order in which units arrive, what a unit and a partition are, and the numbers of regions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from abe.arrays import refuse_masked
from abe.checks import MOST, need_finite_maps, outline, plain, refused
from abe.errors import Code, InputError
from abe.types import Draws, Features, RowIndex

Map = Float[Tensor, "*m"]
"""An attribution: the input's shape, one channel, or no axis of channels."""


@dataclass(frozen=True)
class Arrival:
    """The order in which units are changed.

    Attributes:
        order: (b, 1 or c, *space) place of each position's unit, 0 = most important.
        counts: (b,) number of units of each sample.
        nominal: number of units the unit promises for this input shape; fixes the number of steps.
    """

    order: Int[Tensor, "b *f"]
    counts: Int[Tensor, "b"]
    nominal: int

    def thresholds(self, step: int) -> Int[Tensor, "b k"]:
        """(b, n + 1) how many units have arrived after step k = 0 … n, n = ceil(U / step).

        Where a sample has another number of units than promised, its steps are the same
        fractions of its own units, so that all curves have the same axis.
        """
        n = number_of_steps(self.nominal, step)
        k = torch.arange(n + 1, device=self.order.device)
        counts = self.counts.to(self.order.device)[:, None]
        even = torch.minimum(k * step, counts)
        own = -((-k * counts) // n)  # ceil(k U / n) in integers
        return torch.where(counts == self.nominal, even, own)

    def reached(self, owner: RowIndex, threshold: RowIndex) -> Bool[Tensor, "n *f"]:
        """(n, 1 or c, *space) whether a position's unit is among the first ``threshold[i]``."""
        order = self.order[owner]
        return order < threshold.view(-1, *[1] * (order.ndim - 1))


@runtime_checkable
class Unit(Protocol):
    """What is inserted or removed together."""

    def count(self, shape: Sequence[int]) -> int:
        """Number of units of an input of ``shape`` (without the batch axis)."""
        ...

    def ranks(self, attribution: Map, x: Features, *, draws: Draws, ids: Sequence[int]) -> Arrival:
        """The order of arrival, most important first; ties are broken by a seeded shuffle."""
        ...


@runtime_checkable
class Partition(Protocol):
    """Units that tile the input: every number of it belongs to exactly one."""

    def partition(self, x: Features) -> Int[Tensor, "b *p"]:
        """(b, 1 or c, *space) the unit of each position, numbered from 0 without gaps per sample."""
        ...


def number_of_steps(nominal: int, step: int) -> int:
    """ceil(U / step)."""
    return -(-nominal // step)


class _Amount:
    """What says how many of the units: a number of them, or a fraction below 1."""

    def check(self, name: str, given: Any) -> int | float | None:
        """The number as Python's own; None is kept."""
        number = plain(given)
        real = isinstance(number, int | float) and not isinstance(number, bool)
        if number is None or (real and (0 < number < 1 or (1 <= number <= MOST and number % 1 == 0))):
            return number
        must = "is a number of units or a fraction of them"
        raise refused(name, must, given, "an integer of at least 1, or a fraction between 0 and 1")


_AMOUNT = _Amount()
Step = Annotated[int | float | None, _AMOUNT]
"""Units per step of a curve, or a fraction of them; None for one per cent."""


def step_size(step: Step, nominal: int) -> int:
    """Units changed per step: given, a fraction of the units, or one per cent; at least 1.

    Raises:
        SpecError: not a positive number of units and not a fraction.
    """
    number = _AMOUNT.check("step", 0.01 if step is None else step) or 1
    if number < 1:
        return max(1, -int(-number * nominal // 1))
    return min(int(number), nominal)


def check_map(attribution: Tensor, x: Tensor) -> Tensor:
    """The attribution with an axis of channels (c or 1), on the device of ``x``.

    Raises:
        InputError: its shape does not fit ``x``, or it holds NaN or infinity.
    """
    shape, wanted = tuple(attribution.shape), tuple(x.shape)
    flat = (wanted[0], *wanted[2:]) if len(wanted) > 2 else wanted
    single = (wanted[0], 1, *wanted[2:]) if len(wanted) > 2 else wanted
    if shape not in (wanted, single, flat):
        raise InputError(
            Code.MAP_SHAPE,
            "The map does not fit the input",
            got=f"a map of shape {shape} for an input of shape {wanted}",
            expected=f"{wanted}, {single} or {flat}",
        )
    need_finite_maps(attribution, "Look at the model's gradients for these samples")
    attribution = attribution.detach().to(x.device)
    if len(wanted) == 2:
        return attribution[:, None]
    return attribution[:, None] if shape == flat != wanted else attribution


def rank(
    score: Float[Tensor, "b u"], *, draws: Draws, ids: Sequence[int], draw: int = 0
) -> Int[Tensor, "b u"]:
    """(b, u) place of each unit, highest score first, ties in an order drawn per sample."""
    keys = [(sample, draw) for sample in ids]
    shuffle = draws.permutation("ties", keys, score.shape[1]).to(score.device)
    best = score.gather(1, shuffle).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(score.shape[1], device=score.device, dtype=torch.int32)
    order = torch.empty_like(shuffle, dtype=torch.int32)
    return order.scatter_(1, shuffle.gather(1, best), places.expand_as(order))


def arrival_of(order: Tensor, x: Tensor, count: int) -> Arrival:
    """The arrival of as many units in every sample."""
    counts = torch.full((len(x),), count, dtype=torch.long)
    return Arrival(order=order.reshape(len(x), *order.shape[1:]), counts=counts, nominal=count)


def axes_of(shape: Sequence[int]) -> tuple[int, ...]:
    """Axes over which positions lie: everything but the channels."""
    return tuple(shape[1:]) if len(shape) > 1 else tuple(shape)


def size_of(space: Sequence[int]) -> int:
    """The number of positions."""
    return int(torch.Size(space).numel())


def placed(order: Tensor, x: Tensor) -> Tensor:
    """(b, channels, positions) to the axes of ``x``."""
    space = axes_of(x.shape[1:])
    order = order.reshape(len(x), -1, *space)
    return order[:, 0] if x.ndim == 2 else order


def numbered(space: Sequence[int], x: Tensor) -> Tensor:
    """Every position a unit of its own."""
    numbers = torch.arange(size_of(space), device=x.device)
    return placed(numbers.expand(len(x), 1, -1), x)


def ranked_regions(
    labels: Tensor, attribution: Tensor, x: Tensor, *, draws: Draws, ids: Sequence[int]
) -> Arrival:
    """The order of units by the sum of the map over each."""
    dense = check_map(attribution, x)
    dense = dense.expand_as(x) if x.ndim > 2 else dense[:, 0]
    where, flat = labels.expand_as(x).flatten(1), dense.flatten(1)
    counts = where.amax(1) + 1
    if outside := bool((labels < 0).any()):
        flat, where = torch.where(where < 0, torch.zeros_like(flat), flat), where.clamp_min(0)
    total = dense.new_zeros((len(x), int(counts.max()))).scatter_add_(1, where, flat)
    total[torch.arange(total.shape[1], device=x.device) >= counts[:, None]] = -torch.inf
    order = rank(total, draws=draws, ids=ids).gather(1, labels.flatten(1).clamp_min(0)).view(labels.shape)
    if outside:  # what is in no unit never arrives
        order = torch.where(labels < 0, torch.full_like(order, total.shape[1]), order)
    return Arrival(order=order, counts=counts.cpu(), nominal=int(counts.max()))


def as_regions(given: Any) -> Tensor:
    """Region numbers (int64) or masks (bool) from a tensor, an array, an image of labels or nested lists.

    Raises:
        InputError: ragged lists, or anything but whole numbers and truth values.
    """
    try:
        tensor = isinstance(given, Tensor)
        found = given.detach().clone() if tensor else torch.from_numpy(_integers(np.array(given)))
    except (TypeError, ValueError, RuntimeError) as problem:
        raise _not_regions(outline(given)) from problem
    refuse_masked(given, "An array of regions")
    if found.dtype != torch.bool and not found.is_complex():
        whole = found.long()
        if not found.is_floating_point() or bool((whole == found).all()):
            found = whole
    if found.ndim == 0 or found.numel() == 0 or found.dtype not in (torch.bool, torch.int64):
        raise _not_regions(f"{found.dtype} of shape {tuple(found.shape)}")
    return found


def _integers(array: Any) -> Any:
    """The array in a type that PyTorch has, in memory of its own."""
    return array.astype(np.int64) if array.dtype.kind in "iu" else array


def _not_regions(got: str) -> InputError:
    return InputError(
        Code.UNITS,
        "Regions are whole numbers, one per position, or masks of truth values",
        got=got,
        expected="for example an array (h, w) of integers, or (u, h, w) of booleans",
        fix="For masks of other numbers write masks > 0",
    )


def placed_regions(regions: Tensor, shape: Sequence[int], b: int | None = None) -> Int[Tensor, "m *p"]:
    """(1 or b, 1 or c, *space) regions numbered from 0 without gaps, in the order of their numbers.

    Args:
        regions: as `as_regions` makes them: numbers (*space), (1 or c, *space), (b, *space) or
            (b, 1 or c, *space), or masks (u, *space) or (b, u, *space).
        shape: of one sample.
        b: number of samples; None takes any.

    Raises:
        InputError: they do not fit the input, or leave a position out.
    """
    space = axes_of(shape)
    if regions.dtype == torch.bool and tuple(regions.shape) != space:
        regions = tiled(regions, space)[:, None]
        regions = regions if len(shape) > 1 else regions[:, 0]
    rows = _batched(regions.long(), tuple(shape), b)
    if bool((rows < 0).any()):
        raise not_tiling(
            f"region numbers from {int(rows.min())} on",
            "numbers from 0 on",
            "If positions of a negative number are one region, give them a number of their own",
        )
    return torch.stack([torch.unique(own, return_inverse=True)[1] for own in rows])


def freed_regions(regions: Tensor, fixed: Tensor, x: Tensor) -> Int[Tensor, "b *p"]:
    """(b, 1 or c, *space) regions as `placed_regions` has them, but -1 at positions that never change.

    Args:
        regions: as of `placed_regions`; what stands at fixed positions does not matter.
        fixed: (b, 1 or c, *space) true where positions never change.
        x: (b, *f) the samples.
    """
    shape = tuple(x.shape[1:])
    if regions.dtype == torch.bool and tuple(regions.shape) != axes_of(shape):
        rows = placed_regions(regions, shape, len(x))
    else:
        rows = _batched(regions.long(), shape, len(x))
    rows, fixed = torch.broadcast_tensors(rows, fixed)
    placed_regions(rows.masked_fill(fixed, 0), shape, len(x))
    found = torch.full_like(rows, -1)
    for own, given, free in zip(found, rows, ~fixed, strict=True):
        own[free] = torch.unique(given[free], return_inverse=True)[1]
    return found


def _batched(regions: Tensor, shape: tuple[int, ...], b: int | None) -> Tensor:
    """(1 or b, 1 or c, *space) the same numbers with the axes of samples and channels."""
    space, given = axes_of(shape), tuple(regions.shape)
    each = (1, given[0]) if b is None else (1, b)
    if len(shape) == 1:
        rows = regions[None] if given == space else regions
        fits = tuple(rows.shape[1:]) == space and len(rows) in each
    else:
        channels, rows = (1, shape[0]), regions
        if given == space:
            rows = regions[None, None]
        elif given[1:] == space:
            if given[0] in channels and given[0] == b != 1:
                raise not_tiling(
                    f"regions of shape {given}, one per sample or one per channel",
                    f"{(b, 1, *space)} for samples, {(1, *given)} for channels",
                    "Add the axis that says which: regions[:, None] or regions[None]",
                )
            rows = regions[None] if given[0] in channels else regions[:, None]
        fits = rows.ndim == len(shape) + 1 and tuple(rows.shape[2:]) == space
        fits = fits and rows.shape[1] in channels and len(rows) in each
    if not fits:
        raise not_tiling(
            f"regions of shape {given}",
            f"shape {space} of the input, or one such map for each sample",
            "Masks, one per region, are booleans: masks > 0",
        )
    return rows


def tiled(masks: Tensor, space: Sequence[int]) -> Tensor:
    """(1 or b, *space) the number of the one mask (u, *space) or (b, u, *space) that is true there."""
    rows = masks if masks.ndim == len(space) + 2 else masks[None]
    if tuple(rows.shape[2:]) != tuple(space):
        raise not_tiling(f"masks of shape {tuple(masks.shape)}", f"(regions, {', '.join(map(str, space))})")
    covered = rows.sum(1)
    if bool((covered != 1).any()):
        none, several = int((covered == 0).sum()), int((covered > 1).sum())
        raise not_tiling(
            f"{none} positions in no mask and {several} in several",
            "each in exactly one",
            "Give each position to one mask, and what is left to a mask of its own",
        )
    return rows.long().argmax(1)


def not_tiling(
    got: str, expected: str, fix: str = "Give every position of the input exactly one unit"
) -> InputError:
    """The error for units that leave a position out, or give it to two."""
    return InputError(Code.UNITS, "The units do not tile the input", got=got, expected=expected, fix=fix)


def sums_over(labels: Int[Tensor, "b *p"], maps: Tensor) -> list[tuple[Tensor, float]]:
    """Per sample, the sum (u,) of a map (b, *f) over every unit in float64, and that over positions in none.

    Args:
        labels: (b, 1 or c, *positions) the unit of every position, -1 for none.
        maps: (b, *f) of the inputs' shape, or with one channel.
    """
    found: list[tuple[Tensor, float]] = []
    for own, one in zip(labels.to(maps.device), maps.double(), strict=True):
        where = (own[:1] if one.ndim > 1 and len(one) == 1 else own).expand_as(one).flatten() + 1
        total = one.new_zeros(int(own.max()) + 2).index_add_(0, where, one.flatten())
        found.append((total[1:], float(total[0])))
    return found

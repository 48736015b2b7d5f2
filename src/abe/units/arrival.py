"""The order in which units arrive, what a unit and a partition are, and the numbers of regions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from abe.checks import need_finite_maps
from abe.errors import Code, InputError, SpecError
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


def step_size(step: int | float | None, nominal: int) -> int:
    """Units changed per step: given, a fraction of the units, or one per cent; at least 1.

    Raises:
        SpecError: not a positive number of units and not a fraction.
    """
    if step is None:
        step = 0.01
    if isinstance(step, float) and 0 < step < 1:
        return max(1, -int(-step * nominal // 1))
    if isinstance(step, bool) or step != int(step) or step < 1:
        raise SpecError(
            Code.BAD_PARAMETER,
            "The step of a curve is a number of units or a fraction of them",
            got=repr(step),
            expected="an integer of at least 1, or a fraction between 0 and 1",
        )
    return min(int(step), nominal)


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
    where = labels.expand_as(x).flatten(1)
    counts = where.amax(1) + 1
    total = dense.new_zeros((len(x), int(counts.max()))).scatter_add_(1, where, dense.flatten(1))
    total[torch.arange(total.shape[1], device=x.device) >= counts[:, None]] = -torch.inf
    order = rank(total, draws=draws, ids=ids).gather(1, labels.flatten(1)).view(labels.shape)
    return Arrival(order=order, counts=counts.cpu(), nominal=int(counts.max()))


def tiled(masks: Tensor, space: Sequence[int]) -> Tensor:
    """(*space) the number of the one mask that is true at each position."""
    if tuple(masks.shape[1:]) != tuple(space):
        raise not_tiling(f"masks of shape {tuple(masks.shape[1:])}", f"{tuple(space)}")
    covered = masks.sum(0)
    if bool((covered != 1).any()):
        none, several = int((covered == 0).sum()), int((covered > 1).sum())
        raise not_tiling(f"{none} positions in no mask and {several} in several", "each in exactly one")
    return masks.long().argmax(0)


def fitted(regions: Tensor, x: Tensor) -> Tensor:
    """(b, 1 or c, *space) region numbers of each sample, checked to have no gaps."""
    space, tail = axes_of(x.shape[1:]), x.ndim > 2
    if regions.ndim < x.ndim and tuple(regions.shape) == tuple(space) and tail:
        regions = regions[None]
    if regions.ndim < x.ndim:
        regions = regions[None]
    channels = (1, x.shape[1]) if tail else (len(space) and space[0],)
    fits = regions.ndim == x.ndim and len(regions) in (1, len(x)) and regions.shape[1] in channels
    if not fits or (tail and tuple(regions.shape[2:]) != tuple(space)):
        raise not_tiling(f"regions of shape {tuple(regions.shape)}", f"shape {tuple(space)} of the input")
    for own in regions:
        found = torch.unique(own)
        if int(found[0]) != 0 or int(found[-1]) != len(found) - 1:
            raise not_tiling(
                f"region numbers from {int(found[0])} to {int(found[-1])}, {len(found)} different",
                "0 to u − 1, each used, so that every position belongs to one region",
            )
    return regions.expand(len(x), *regions.shape[1:])


def not_tiling(got: str, expected: str) -> InputError:
    """The error for units that leave a position out, or give it to two."""
    return InputError(
        Code.UNITS,
        "The units do not tile the input",
        got=got,
        expected=expected,
        fix="Give every position of the input exactly one unit",
    )

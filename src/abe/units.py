"""What an attribution is about: pixel, union, element, patch, grid cell, superpixel, given regions.

A unit turns an attribution into an `Arrival`: for each position of the input, the place of its unit
in the order from most to least important. A perturbed row is then one comparison on the device.
A unit that is a `Partition` also says which unit each position belongs to, for removal methods.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from abe.checks import Count, need_finite_maps
from abe.errors import Code, InputError, PackageError, SpecError
from abe.registry import units
from abe.spec import value
from abe.types import Card, Draws, Features, RowIndex

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


def _arrival(order: Tensor, x: Tensor, count: int) -> Arrival:
    counts = torch.full((len(x),), count, dtype=torch.long)
    return Arrival(order=order.reshape(len(x), *order.shape[1:]), counts=counts, nominal=count)


def _space(shape: Sequence[int]) -> tuple[int, ...]:
    """Axes over which positions lie: everything but the channels."""
    return tuple(shape[1:]) if len(shape) > 1 else tuple(shape)


def _size(space: Sequence[int]) -> int:
    return int(torch.Size(space).numel())


def _place(order: Tensor, x: Tensor) -> Tensor:
    """(b, channels, positions) to the axes of ``x``."""
    space = _space(x.shape[1:])
    order = order.reshape(len(x), -1, *space)
    return order[:, 0] if x.ndim == 2 else order


@units.register(
    Card(
        name="pixel",
        title="Pixel",
        source="petsiuk2018",
        pitfalls=("A map whose channels cancel ranks as if it were zero there.",),
    )
)
@value
class Pixel:
    """All channels of a position together, ranked by the sum of the map over channels (RISE)."""

    def count(self, shape: Sequence[int]) -> int:
        return _size(_space(shape))

    def ranks(self, attribution: Map, x: Features, *, draws: Draws, ids: Sequence[int]) -> Arrival:
        score = check_map(attribution, x).sum(1).flatten(1)
        order = rank(score, draws=draws, ids=ids)
        return _arrival(_place(order[:, None], x), x, score.shape[1])

    def partition(self, x: Features) -> Int[Tensor, "b *p"]:
        return _numbered(_space(x.shape[1:]), x)


@units.register(
    Card(
        name="union",
        title="Union of channels",
        source="zhu2024mfaba",
        pitfalls=("Up to c times as many positions change per step as the step says.",),
    )
)
@value
class Union:
    """A position changes in all channels when the first of its channels arrives."""

    def count(self, shape: Sequence[int]) -> int:
        return _size(_space(shape))

    def ranks(self, attribution: Map, x: Features, *, draws: Draws, ids: Sequence[int]) -> Arrival:
        score = check_map(attribution, x).flatten(2)
        each = [rank(s, draws=draws, ids=ids, draw=c) for c, s in enumerate(score.unbind(1))]
        order = torch.stack(each).amin(0)
        return _arrival(_place(order[:, None], x), x, score.shape[2])


@units.register(
    Card(
        name="element",
        title="Element",
        source="zhu2024la",
        differs=("The step counts elements; the published code's step counts positions (c elements).",),
        pitfalls=("A changed channel makes colours no photograph has.",),
    )
)
@value
class Element:
    """Every channel of every position by itself.

    All numbers of the input are ranked together.
    """

    def count(self, shape: Sequence[int]) -> int:
        return _size(shape)

    def ranks(self, attribution: Map, x: Features, *, draws: Draws, ids: Sequence[int]) -> Arrival:
        score = check_map(attribution, x)
        if x.ndim > 2:
            score = score.expand_as(x)
        score = score.flatten(1)
        return _arrival(_place(rank(score, draws=draws, ids=ids), x), x, score.shape[1])

    def partition(self, x: Features) -> Int[Tensor, "b *p"]:
        numbers = torch.arange(x[0].numel(), device=x.device).view(1, *x.shape[1:])
        return numbers.expand(x.shape)


@units.register(
    Card(
        name="patch",
        title="Patch grid",
        source="samek2017",
    )
)
@value
class Patch:
    """Squares of a regular grid; a patch's attribution is the sum over its positions.

    The grid starts at the first position; border patches may be smaller.

    Args:
        size: side of a patch in positions.
    """

    size: int = 16

    def __post_init__(self) -> None:
        if isinstance(self.size, bool) or int(self.size) != self.size or self.size < 1:
            raise SpecError(
                Code.BAD_PARAMETER, "A patch has a side of at least one position", got=repr(self.size)
            )

    def count(self, shape: Sequence[int]) -> int:
        return _size(self._grid(_space(shape)))

    def ranks(self, attribution: Map, x: Features, *, draws: Draws, ids: Sequence[int]) -> Arrival:
        space = _space(x.shape[1:])
        grid = self._grid(space)
        dense = check_map(attribution, x).sum(1)
        pad = [
            side
            for n, g in zip(reversed(space), reversed(grid), strict=True)
            for side in (0, g * self.size - n)
        ]
        blocks = functional.pad(dense, pad).reshape(len(x), *[n for g in grid for n in (g, self.size)])
        score = blocks.sum(dim=tuple(range(2, blocks.ndim, 2))).flatten(1)
        order = rank(score, draws=draws, ids=ids).gather(1, self._labels(space, grid, x).expand(len(x), -1))
        return _arrival(_place(order[:, None], x), x, score.shape[1])

    def partition(self, x: Features) -> Int[Tensor, "b *p"]:
        space = _space(x.shape[1:])
        labels = self._labels(space, self._grid(space), x)
        return _place(labels.expand(len(x), -1)[:, None], x)

    def _grid(self, space: Sequence[int]) -> tuple[int, ...]:
        return tuple(-(-n // self.size) for n in space)

    def _labels(self, space: Sequence[int], grid: Sequence[int], x: Tensor) -> Tensor:
        label = torch.zeros((), dtype=torch.long, device=x.device)
        for axis, (n, g) in enumerate(zip(space, grid, strict=True)):
            along = torch.arange(n, device=x.device) // self.size
            label = label * g + along.view(*[-1 if i == axis else 1 for i in range(len(space))])
        return label.reshape(1, -1)


@units.register(
    Card(
        name="grid",
        title="Grid of n × n cells",
        source="lundberg2017",
        pitfalls=("A cell that mixes an object and its background has one value for both.",),
    )
)
@value
class Grid:
    """The same number of cells whatever the size of the input.

    n cells along each of two axes; n² runs of neighbours (or fewer) where there is one axis.

    Args:
        n: cells along each axis; where an axis is shorter, one position each.
    """

    n: Count = 3

    def count(self, shape: Sequence[int]) -> int:
        return _size(self._cells(_space(shape)))

    def ranks(self, attribution: Map, x: Features, *, draws: Draws, ids: Sequence[int]) -> Arrival:
        return _ranks(self.partition(x), attribution, x, draws=draws, ids=ids)

    def partition(self, x: Features) -> Int[Tensor, "b *p"]:
        space = _space(x.shape[1:])
        label = torch.zeros((), dtype=torch.long, device=x.device)
        for axis, (size, cells) in enumerate(zip(space, self._cells(space), strict=True)):
            along = torch.arange(size, device=x.device) * cells // size
            label = label * cells + along.view(*[-1 if i == axis else 1 for i in range(len(space))])
        return _place(label.reshape(1, 1, -1).expand(len(x), -1, -1), x)

    def _cells(self, space: Sequence[int]) -> tuple[int, ...]:
        along = self.n if len(space) > 1 else self.n**2
        return tuple(min(along, size) for size in space)


@units.register(
    Card(
        name="regions",
        title="Regions of one's own",
        source="ribeiro2016",
        example={"regions": torch.zeros((1, 1), dtype=torch.long)},
    )
)
@dataclass(frozen=True, kw_only=True, eq=False)
class Regions:
    """Regions given as numbers per position or as a stack of masks.

    Holds a tensor, so a specification only describes it.

    Attributes:
        regions: integers (*space), (1 or c, *space) or (b, 1 or c, *space) from 0 without gaps; or
            booleans (u, *space) of which exactly one is true at every position.
    """

    regions: Tensor

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, Regions) and other.regions.dtype == self.regions.dtype
        return same and torch.equal(other.regions, self.regions)  # type: ignore[union-attr]

    def __hash__(self) -> int:
        return hash((tuple(self.regions.shape), int(self.regions.sum())))

    def __spec__(self) -> dict[str, str]:
        return {"opaque": f"Regions{tuple(self.regions.shape)}"}

    def count(self, shape: Sequence[int]) -> int:
        boolean = self.regions.dtype == torch.bool
        return len(self.regions) if boolean else int(self.regions.max()) + 1

    def ranks(self, attribution: Map, x: Features, *, draws: Draws, ids: Sequence[int]) -> Arrival:
        return _ranks(self.partition(x), attribution, x, draws=draws, ids=ids)

    def partition(self, x: Features) -> Int[Tensor, "b *p"]:
        regions = self.regions.to(x.device)
        if regions.dtype == torch.bool:
            regions = _tiled(regions, _space(x.shape[1:]))
        if regions.is_floating_point() or regions.is_complex():
            raise _not_tiling(f"{regions.dtype}", "region numbers as integers, or masks as booleans")
        return _fitted(regions.long(), x)


@units.register(
    Card(
        name="superpixel",
        title="SLIC superpixel",
        source="achanta2012",
        modalities=("image",),
        pitfalls=("Samples differ in their number of regions; the curve's axis is the fraction of them.",),
    )
)
@value
class Superpixel:
    """Regions of similar colour; a region's attribution is the sum over its positions.

    They are found by SLIC on the input itself, which needs scikit-image.

    Args:
        n: number of regions asked for; SLIC returns about as many.
        compactness: weight of position against colour.
    """

    n: int = 100
    compactness: float = 10.0

    def count(self, shape: Sequence[int]) -> int:
        return min(self.n, _size(_space(shape)))

    def ranks(self, attribution: Map, x: Features, *, draws: Draws, ids: Sequence[int]) -> Arrival:
        dense = check_map(attribution, x).sum(1).flatten(1).double().cpu()
        orders, counts = [], []
        for score, image, sample in zip(dense, x, ids, strict=True):
            label = self.labels(image).flatten()
            total = torch.bincount(label, weights=score)
            orders.append(rank(total[None], draws=draws, ids=[sample])[0][label])
            counts.append(len(total))
        order = _place(torch.stack(orders)[:, None].to(x.device), x)
        return Arrival(order=order, counts=torch.tensor(counts), nominal=self.count(x.shape[1:]))

    def partition(self, x: Features) -> Int[Tensor, "b *p"]:
        return torch.stack([self.labels(image) for image in x])[:, None].to(x.device)

    def labels(self, image: Float[Tensor, "c h w"]) -> Int[Tensor, "h w"]:
        """The region of each position, numbered from 0 without gaps."""
        slic = _slic()
        if image.ndim != 3:
            raise InputError(
                Code.SHAPE,
                "Superpixels need an image",
                got=f"axes {tuple(image.shape)}",
                expected="(c, h, w)",
            )
        low, high = image.min(), image.max()
        scaled = ((image - low) / (high - low).clamp_min(1e-12)).double().permute(1, 2, 0).cpu().numpy()
        found = slic(
            scaled,
            n_segments=self.n,
            compactness=self.compactness,
            start_label=0,
            channel_axis=2,
            convert2lab=image.shape[0] == 3,
        )
        return torch.unique(torch.from_numpy(found).long(), return_inverse=True)[1]


def _numbered(space: Sequence[int], x: Tensor) -> Tensor:
    """Every position a unit of its own."""
    numbers = torch.arange(_size(space), device=x.device)
    return _place(numbers.expand(len(x), 1, -1), x)


def _ranks(labels: Tensor, attribution: Tensor, x: Tensor, *, draws: Draws, ids: Sequence[int]) -> Arrival:
    """The order of units by the sum of the map over each."""
    dense = check_map(attribution, x)
    dense = dense.expand_as(x) if x.ndim > 2 else dense[:, 0]
    where = labels.expand_as(x).flatten(1)
    counts = where.amax(1) + 1
    total = dense.new_zeros((len(x), int(counts.max()))).scatter_add_(1, where, dense.flatten(1))
    total[torch.arange(total.shape[1], device=x.device) >= counts[:, None]] = -torch.inf
    order = rank(total, draws=draws, ids=ids).gather(1, labels.flatten(1)).view(labels.shape)
    return Arrival(order=order, counts=counts.cpu(), nominal=int(counts.max()))


def _tiled(masks: Tensor, space: Sequence[int]) -> Tensor:
    """(*space) the number of the one mask that is true at each position."""
    if tuple(masks.shape[1:]) != tuple(space):
        raise _not_tiling(f"masks of shape {tuple(masks.shape[1:])}", f"{tuple(space)}")
    covered = masks.sum(0)
    if bool((covered != 1).any()):
        none, several = int((covered == 0).sum()), int((covered > 1).sum())
        raise _not_tiling(f"{none} positions in no mask and {several} in several", "each in exactly one")
    return masks.long().argmax(0)


def _fitted(regions: Tensor, x: Tensor) -> Tensor:
    """(b, 1 or c, *space) region numbers of each sample, checked to have no gaps."""
    space, tail = _space(x.shape[1:]), x.ndim > 2
    if regions.ndim < x.ndim and tuple(regions.shape) == tuple(space) and tail:
        regions = regions[None]
    if regions.ndim < x.ndim:
        regions = regions[None]
    channels = (1, x.shape[1]) if tail else (len(space) and space[0],)
    fits = regions.ndim == x.ndim and len(regions) in (1, len(x)) and regions.shape[1] in channels
    if not fits or (tail and tuple(regions.shape[2:]) != tuple(space)):
        raise _not_tiling(f"regions of shape {tuple(regions.shape)}", f"shape {tuple(space)} of the input")
    for own in regions:
        found = torch.unique(own)
        if int(found[0]) != 0 or int(found[-1]) != len(found) - 1:
            raise _not_tiling(
                f"region numbers from {int(found[0])} to {int(found[-1])}, {len(found)} different",
                "0 to u − 1, each used, so that every position belongs to one region",
            )
    return regions.expand(len(x), *regions.shape[1:])


def _not_tiling(got: str, expected: str) -> InputError:
    return InputError(
        Code.UNITS,
        "The units do not tile the input",
        got=got,
        expected=expected,
        fix="Give every position of the input exactly one unit",
    )


def _slic() -> Any:
    try:
        from skimage.segmentation import slic
    except ImportError as missing:
        raise PackageError(
            Code.MISSING_PACKAGE, "Superpixels need scikit-image", fix="Run: pip install 'abe-xai[vision]'"
        ) from missing
    return slic

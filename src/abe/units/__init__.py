"""What an attribution is about: pixel, union, element, patch, grid cell, superpixel, given regions.

A unit turns an attribution into an `Arrival`: for each position of the input, the place of its unit
in the order from most to least important. A perturbed row is then one comparison on the device.
A unit that is a `Partition` also says which unit each position belongs to, for removal methods.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from abe.checks import Count, Positive, shown
from abe.errors import Code, InputError, PackageError, SpecError
from abe.registry import units
from abe.spec import value
from abe.types import Card, Draws, Features
from abe.units.arrival import (
    Arrival,
    Map,
    arrival_of,
    as_regions,
    axes_of,
    check_map,
    freed_regions,
    numbered,
    placed,
    placed_regions,
    rank,
    ranked_regions,
    size_of,
)
from abe.units.arrival import Partition as Partition
from abe.units.arrival import Step as Step
from abe.units.arrival import Unit as Unit
from abe.units.arrival import number_of_steps as number_of_steps
from abe.units.arrival import step_size as step_size


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
        return size_of(axes_of(shape))

    def ranks(self, attribution: Map, x: Features, *, draws: Draws, ids: Sequence[int]) -> Arrival:
        score = check_map(attribution, x).sum(1).flatten(1)
        order = rank(score, draws=draws, ids=ids)
        return arrival_of(placed(order[:, None], x), x, score.shape[1])

    def partition(self, x: Features) -> Int[Tensor, "b *p"]:
        return numbered(axes_of(x.shape[1:]), x)


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
        return size_of(axes_of(shape))

    def ranks(self, attribution: Map, x: Features, *, draws: Draws, ids: Sequence[int]) -> Arrival:
        score = check_map(attribution, x).flatten(2)
        each = [rank(s, draws=draws, ids=ids, draw=c) for c, s in enumerate(score.unbind(1))]
        order = torch.stack(each).amin(0)
        return arrival_of(placed(order[:, None], x), x, score.shape[2])


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
        return size_of(shape)

    def ranks(self, attribution: Map, x: Features, *, draws: Draws, ids: Sequence[int]) -> Arrival:
        score = check_map(attribution, x)
        if x.ndim > 2:
            score = score.expand_as(x)
        score = score.flatten(1)
        return arrival_of(placed(rank(score, draws=draws, ids=ids), x), x, score.shape[1])

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

    size: Count = 16

    def count(self, shape: Sequence[int]) -> int:
        return size_of(self._grid(axes_of(shape)))

    def ranks(self, attribution: Map, x: Features, *, draws: Draws, ids: Sequence[int]) -> Arrival:
        space = axes_of(x.shape[1:])
        grid = self._grid(space)
        dense = check_map(attribution, x).sum(1)
        pad = [
            side
            for n, g in zip(reversed(space), reversed(grid), strict=True)
            for side in (0, g * min(self.size, max(space)) - n)
        ]
        blocks = functional.pad(dense, pad)
        blocks = blocks.reshape(len(x), *[n for g in grid for n in (g, min(self.size, max(space)))])
        score = blocks.sum(dim=tuple(range(2, blocks.ndim, 2))).flatten(1)
        order = rank(score, draws=draws, ids=ids).gather(1, self._labels(space, grid, x).expand(len(x), -1))
        return arrival_of(placed(order[:, None], x), x, score.shape[1])

    def partition(self, x: Features) -> Int[Tensor, "b *p"]:
        space = axes_of(x.shape[1:])
        labels = self._labels(space, self._grid(space), x)
        return placed(labels.expand(len(x), -1)[:, None], x)

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
        return size_of(self._cells(axes_of(shape)))

    def ranks(self, attribution: Map, x: Features, *, draws: Draws, ids: Sequence[int]) -> Arrival:
        return ranked_regions(self.partition(x), attribution, x, draws=draws, ids=ids)

    def partition(self, x: Features) -> Int[Tensor, "b *p"]:
        space = axes_of(x.shape[1:])
        label = torch.zeros((), dtype=torch.long, device=x.device)
        for axis, (size, cells) in enumerate(zip(space, self._cells(space), strict=True)):
            along = torch.arange(size, device=x.device) * cells // size
            label = label * cells + along.view(*[-1 if i == axis else 1 for i in range(len(space))])
        return placed(label.reshape(1, 1, -1).expand(len(x), -1, -1), x)

    def _cells(self, space: Sequence[int]) -> tuple[int, ...]:
        along = self.n if len(space) > 1 else self.n**2
        return tuple(min(along, size) for size in space)


@units.register(
    Card(
        name="regions",
        title="Given regions",
        source="ribeiro2016",
        example={"regions": torch.zeros((1, 1), dtype=torch.long)},
    )
)
@dataclass(frozen=True, kw_only=True, eq=False)
class Regions:
    """Regions given as numbers per position or as a stack of masks; also what a bare array as a unit means.

    Positions of one number are one region; regions count in the order of their numbers, which may begin
    anywhere and have gaps. Positions that never change, such as special tokens of a text, are in none,
    whatever their number is. Holds a tensor, so a specification only describes it.

    Attributes:
        regions: a tensor, an array or nested lists: whole numbers (*space), (1 or c, *space), (b, *space) or
            (b, 1 or c, *space); or booleans (u, *space) or (b, u, *space), of which exactly one is true at
            every position.
    """

    regions: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "regions", as_regions(self.regions))

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, Regions) and other.regions.dtype == self.regions.dtype
        return same and torch.equal(other.regions, self.regions)  # type: ignore[union-attr]

    def __hash__(self) -> int:
        return hash((tuple(self.regions.shape), int(self.regions.sum())))

    def __repr__(self) -> str:
        return f"Regions{tuple(self.regions.shape)}"

    def __spec__(self) -> dict[str, str]:
        return {"opaque": repr(self)}

    @classmethod
    def read(cls, obj: Any) -> Any:
        """Regions from an array, a tensor or nested lists; anything else as it is."""
        listed = isinstance(obj, list | tuple) and len(obj) > 0 and not isinstance(obj[0], str)
        return cls(regions=obj) if listed or isinstance(obj, np.ndarray | Tensor) else obj

    def bind(self, problem: Any) -> Any:
        """The regions of a problem's samples, in none of which a position lies that never changes."""
        x, fixed = problem.x, problem.fixed
        if fixed is None or fixed.ndim != x.ndim or fixed.shape[2:] != x.shape[2:]:
            return self
        return Labelled(freed_regions(self.regions.to(x.device), fixed.to(x.device), x))

    def of(self, samples: Int[Tensor, "m"], x: Features) -> "Regions":
        """The regions of some of the samples ``x``, where each has its own."""
        rows = placed_regions(self.regions.to(x.device), x.shape[1:], len(x))
        return self if len(rows) == 1 else Regions(regions=rows[samples.to(x.device)])

    def count(self, shape: Sequence[int]) -> int:
        return int(placed_regions(self.regions, shape).max()) + 1

    def ranks(self, attribution: Map, x: Features, *, draws: Draws, ids: Sequence[int]) -> Arrival:
        return ranked_regions(self.partition(x), attribution, x, draws=draws, ids=ids)

    def partition(self, x: Features) -> Int[Tensor, "b *p"]:
        rows = placed_regions(self.regions.to(x.device), x.shape[1:], len(x))
        return rows.expand(len(x), *rows.shape[1:])


units.reads(Regions.read)
from abe.units.known import Known as Known  # noqa: E402 -- registered in this order
from abe.units.known import Labelled as Labelled  # noqa: E402
from abe.units.known import Unrun as Unrun  # noqa: E402
from abe.units.known import counts_in as counts_in  # noqa: E402
from abe.units.known import settled as settled  # noqa: E402


def as_unit(obj: Any) -> Unit:
    """A unit from its name, a (name, parameters) pair, an array of regions, or a unit.

    Raises:
        SpecError: it is none of these, or no unit has that name.
    """
    found = units.resolve(obj)
    if isinstance(found, Unit) and not isinstance(found, type):
        return found
    raise SpecError(
        Code.UNKNOWN_NAME,
        "This is not a unit",
        got=shown(obj),
        expected=f"one of {', '.join(units.names())}, an array of region numbers, or a unit value",
    )


@units.register(
    Card(
        name="superpixel",
        title="SLIC superpixel",
        source="achanta2012",
        features=("image",),
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

    n: Count = 100
    compactness: Positive = 10.0

    def count(self, shape: Sequence[int]) -> int:
        return min(self.n, size_of(axes_of(shape)))

    def ranks(self, attribution: Map, x: Features, *, draws: Draws, ids: Sequence[int]) -> Arrival:
        dense = check_map(attribution, x).sum(1).flatten(1).double().cpu()
        orders, counts = [], []
        for score, image, sample in zip(dense, x, ids, strict=True):
            label = self.labels(image).flatten()
            total = torch.bincount(label, weights=score)
            orders.append(rank(total[None], draws=draws, ids=[sample])[0][label])
            counts.append(len(total))
        order = placed(torch.stack(orders)[:, None].to(x.device), x)
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


def _slic() -> Any:
    try:
        from skimage.segmentation import slic
    except ImportError as missing:
        raise PackageError(
            Code.MISSING_PACKAGE, "Superpixels need scikit-image", fix="Run: pip install 'abe-xai[vision]'"
        ) from missing
    return slic

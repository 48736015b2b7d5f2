"""What an attribution is about: pixel, union, element, patch, grid cell, superpixel, given regions.

A unit turns an attribution into an `Arrival`: for each position of the input, the place of its unit
in the order from most to least important. A perturbed row is then one comparison on the device.
A unit that is a `Partition` also says which unit each position belongs to, for removal methods.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from abe.checks import Count
from abe.errors import Code, InputError, PackageError, SpecError
from abe.registry import units
from abe.spec import value
from abe.types import Card, Draws, Features
from abe.units.arrival import (
    Arrival,
    Map,
    arrival_of,
    axes_of,
    check_map,
    fitted,
    not_tiling,
    numbered,
    placed,
    rank,
    ranked_regions,
    size_of,
    tiled,
)
from abe.units.arrival import Partition as Partition
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

    size: int = 16

    def __post_init__(self) -> None:
        if isinstance(self.size, bool) or int(self.size) != self.size or self.size < 1:
            raise SpecError(
                Code.BAD_PARAMETER, "A patch has a side of at least one position", got=repr(self.size)
            )

    def count(self, shape: Sequence[int]) -> int:
        return size_of(self._grid(axes_of(shape)))

    def ranks(self, attribution: Map, x: Features, *, draws: Draws, ids: Sequence[int]) -> Arrival:
        space = axes_of(x.shape[1:])
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
        return ranked_regions(self.partition(x), attribution, x, draws=draws, ids=ids)

    def partition(self, x: Features) -> Int[Tensor, "b *p"]:
        regions = self.regions.to(x.device)
        if regions.dtype == torch.bool:
            regions = tiled(regions, axes_of(x.shape[1:]))
        if regions.is_floating_point() or regions.is_complex():
            raise not_tiling(f"{regions.dtype}", "region numbers as integers, or masks as booleans")
        return fitted(regions.long(), x)


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

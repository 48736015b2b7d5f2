"""Localisation: how much of the map lies in the region where the evidence is known to be."""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from abe.checks import CountFrom0
from abe.engines.runtime.problem import Problem
from abe.errors import Code, SpecError
from abe.metrics.evaluation.truth import Processing, heat, region
from abe.metrics.subsets import places
from abe.registry import metrics
from abe.spec import value
from abe.types import Card, Passes
from abe.units import rank


@value
class Inside:
    """One number comparing a map with a region; NaN where the region is empty or everything.

    Args:
        what: which number.
        of: post-processing of the map: clip at 0, absolute, or as it is.
        k: positions of `top_k`.
    """

    what: Literal["point", "mass", "rank", "top_k", "auc", "box"]
    of: Processing | str = "positive"
    k: CountFrom0 = 0
    missing: ClassVar[str] = "its region is empty, or everything"

    def __post_init__(self) -> None:
        if self.what == "top_k" and self.k < 1:
            raise SpecError(Code.BAD_PARAMETER, "At least one position is needed", got=f"k={self.k}")
        if self.what in ("mass", "box") and self.of == "signed":
            raise SpecError(
                Code.BAD_PARAMETER,
                "A share needs a map without negative values: of a signed one it can be any number",
                got="of='signed'",
                expected="'positive', 'absolute' or 'minmax'",
            )

    def measure(self, problem: Problem, explanation: Any) -> Tensor:
        if self.what == "box" and problem.x.ndim < 3:
            raise SpecError(
                Code.UNSUPPORTED,
                "The metric 'energy_in_box' needs positions to put a box around",
                got=f"features of shape {tuple(problem.x.shape)}",
                expected="(b, channels, *positions)",
                fix="Use relevance_mass, which counts the region itself",
            )
        mask = region(problem, explanation)
        mask = _boxed(mask, problem.x.shape[2:]) if self.what == "box" else mask
        found = heat(problem, explanation, self.of)
        decided = mask.any(1) & ~mask.all(1)
        empty = ~heat(problem, explanation, "absolute").any(1)
        return torch.where(decided, self._numbers(problem, found, mask, empty), torch.nan)

    def _numbers(self, problem: Problem, found: Tensor, mask: Tensor, empty: Tensor) -> Tensor:
        if self.what == "point":
            top = found == found.amax(1, keepdim=True)  # several maxima share the point
            return (top & mask).sum(1) / top.sum(1).double()
        if self.what in ("mass", "box"):
            total, inside = found.sum(1), (found * mask).sum(1)
            # a zero map is as good as a constant one; a map without positive values is nowhere
            nowhere = torch.where(empty, mask.double().mean(1), 0.0)
            return torch.where(total > 0, inside / total.clamp_min(1e-300), nowhere)
        if self.what == "auc":
            positives, size = mask.sum(1).double(), mask.shape[1]
            ranks = (places(found) * mask).sum(1) - positives * (positives - 1) / 2
            return ranks / (positives * (size - positives)).clamp_min(1)
        order = rank(found, draws=problem.draws, ids=problem.ids)
        k = mask.sum(1) if self.what == "rank" else torch.full_like(order[:, 0], min(self.k, mask.shape[1]))
        return ((order < k[:, None]) & mask).sum(1) / k.double().clamp_min(1)


def _boxed(mask: Tensor, space: Any) -> Tensor:
    """The smallest box around each region."""
    shape = (len(mask), *space)
    box = torch.ones(shape, dtype=torch.bool, device=mask.device)
    grid = mask.view(shape)
    for axis in range(1, len(shape)):
        others = [a for a in range(1, len(shape)) if a != axis]
        line = grid.amax(others) if others else grid
        after = line.int().cumsum(1) > 0
        before = line.int().flip(1).cumsum(1).flip(1) > 0
        box &= (after & before).view(len(mask), *[-1 if a == axis else 1 for a in range(1, len(shape))])
    return box.flatten(1)


_ZERO = Passes(forward="0", backward="0")
_NEEDS = ("mask",)
_EMPTY = "NaN for a sample whose region is empty or the whole input."


@metrics.register(
    Card(
        name="pointing_game",
        title="POINT",
        source="zhang2018",
        direction="higher",
        range="[0, 1], or NaN where the region is empty or everything",
        formula="1 where the largest attribution lies in the region, else 0; equal maxima share the point",
        passes=_ZERO,
        needs=_NEEDS,
        pitfalls=(_EMPTY, "Rewards a single right pixel."),
    )
)
def pointing_game(*, of: str = "signed") -> Inside:
    """Whether the largest attribution lies in the region."""
    return Inside(what="point", of=of)


@metrics.register(
    Card(
        name="relevance_mass",
        title="MASS",
        source="arras2022",
        direction="higher",
        range="[0, 1], or NaN where the region is empty or everything",
        formula="sum of A in the mask / sum of A",
        passes=_ZERO,
        needs=_NEEDS,
        pitfalls=(_EMPTY,),
    ),
    aliases=("relevance_mass_accuracy",),
)
def relevance_mass(*, of: str = "positive") -> Inside:
    """Share of the attribution that lies in the region.

    Args:
        of: post-processing of the map summed over channels: ``"positive"``, ``"absolute"`` or ``"minmax"``;
            a signed map has no shares.
    """
    return Inside(what="mass", of=of)


@metrics.register(
    Card(
        name="relevance_rank",
        title="RANK",
        source="arras2022",
        direction="higher",
        range="[0, 1], or NaN where the region is empty or everything",
        formula="|top K of A in the mask| / K, K = |mask|",
        passes=_ZERO,
        needs=_NEEDS,
        pitfalls=(_EMPTY,),
    ),
    aliases=("relevance_rank_accuracy",),
)
def relevance_rank(*, of: str = "signed") -> Inside:
    """Share of the top K positions that lie in the region, K being its size."""
    return Inside(what="rank", of=of)


@metrics.register(
    Card(
        name="top_k_intersection",
        title="TOP-K",
        source="theiner2022",
        direction="higher",
        range="[0, 1], or NaN where the region is empty or everything",
        formula="|top k of A in the mask| / k",
        passes=_ZERO,
        needs=_NEEDS,
        pitfalls=(_EMPTY,),
    )
)
def top_k_intersection(*, k: int = 100, of: str = "signed") -> Inside:
    """Share of the k largest attributions that lie in the region.

    Args:
        k: how many positions.
    """
    return Inside(what="top_k", of=of, k=k)


@metrics.register(
    Card(
        name="attribution_percentage",
        title="ATTR%",
        source="zhou2022",
        direction="higher",
        range="[0, 1], or NaN where the region is empty or everything",
        formula="sum of |A| in the mask / sum of |A|",
        passes=_ZERO,
        needs=_NEEDS,
        pitfalls=(_EMPTY, "Blind to sign; compare with the region's share of the area."),
    ),
    aliases=("attr_percent",),
)
def attribution_percentage() -> Inside:
    """Share of the absolute attribution in a region that was made decisive."""
    return Inside(what="mass", of="absolute")


@metrics.register(
    Card(
        name="localisation_auc",
        title="LOC AUC",
        source="theiner2022",
        direction="higher",
        range="[0, 1], or NaN where the region is empty or everything",
        formula="area under the ROC of A as a detector of the mask; equal values count half",
        passes=_ZERO,
        needs=_NEEDS,
        pitfalls=(_EMPTY,),
    )
)
def localisation_auc(*, of: str = "signed") -> Inside:
    """Probability that a position inside the region has a larger attribution than one outside."""
    return Inside(what="auc", of=of)


@metrics.register(
    Card(
        name="focus",
        title="FOCUS",
        source="ariasduart2022",
        direction="higher",
        range="[0, 1], or NaN where the region is empty or everything",
        formula="sum of max(A, 0) on the class's tiles / sum of max(A, 0)",
        passes=_ZERO,
        needs=_NEEDS,
        pitfalls=(_EMPTY, "Means something on mosaics only; the mask marks the tiles of the class."),
    )
)
def focus() -> Inside:
    """Share of the positive attribution on the tiles of a mosaic that show the class."""
    return Inside(what="mass", of="positive")


@metrics.register(
    Card(
        name="energy_in_box",
        title="ENERGY",
        source="wang2020",
        direction="higher",
        range="[0, 1], or NaN where the region is empty or everything",
        formula="sum of max(A, 0) in the box around the mask / sum of max(A, 0)",
        passes=_ZERO,
        needs=_NEEDS,
        pitfalls=(_EMPTY, "A box holds background too."),
    )
)
def energy_in_box() -> Inside:
    """Share of the positive attribution in the bounding box of the region."""
    return Inside(what="box", of="positive")

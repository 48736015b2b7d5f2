"""Plausibility: whether a map marks what people marked, unit by unit, such as the words of a rationale."""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from abe.engines.runtime.problem import Problem
from abe.metrics.evaluation.truth import region
from abe.registry import metrics
from abe.spec import value
from abe.types import Card, Passes
from abe.units.arrival import check_map, numbered, rank, sums_over


@value
class Rationale:
    """One number comparing the sums of a map over units with the units that people marked.

    NaN where they marked nothing, or everything.

    Args:
        what: average precision of the ranking, or agreement of as many units as were marked.
    """

    what: Literal["precision", "f1", "iou"]
    processing: ClassVar[str] = "signed, summed over each unit"
    missing: ClassVar[str] = "its marked region is empty, or everything"

    def measure(self, problem: Problem, explanation: Any) -> Tensor:
        x = problem.x
        marked = region(problem, explanation)
        labels = problem.labels()
        labels = numbered(x.shape[2:] if x.ndim > 2 else x.shape[1:], x) if labels is None else labels
        places = labels.flatten(1) if x.ndim == 2 else labels[:, 0].flatten(1)
        found = []
        maps = check_map(explanation.attribution, x)
        sums = sums_over(labels, maps[:, 0] if x.ndim == 2 else maps)
        for (own, _), where, mask, sample in zip(sums, places, marked, problem.ids, strict=True):
            truth = torch.zeros(len(own), dtype=torch.bool, device=mask.device)
            truth[where[mask & (where >= 0)].to(mask.device)] = True
            decided = bool(truth.any()) and not bool(truth.all())
            place = rank(own[None], draws=problem.draws, ids=[sample])[0].to(mask.device)
            found.append(self._number(place, truth) if decided else float("nan"))
        return torch.tensor(found, dtype=torch.float64)

    def _number(self, place: Tensor, truth: Tensor) -> float:
        """Of the places (u,) of units in the order of the map, 0 for the highest."""
        if self.what == "precision":
            return average_precision(place, truth)
        k = int(truth.sum())
        hits = int((truth & (place < k)).sum())
        return hits / k if self.what == "f1" else hits / (2 * k - hits)


def average_precision(place: Tensor, truth: Tensor) -> float:
    """The mean, over the units that are marked, of the precision down to each.

    Args:
        place: (u,) of every unit in the order, 0 for the highest.
        truth: (u,) booleans, at least one of them true.
    """
    ordered = truth[place.argsort()]
    precision = ordered.cumsum(0) / torch.arange(1, len(place) + 1, device=place.device)
    return float(precision.double()[ordered].mean())


_PASSES = Passes(forward="0", backward="0")
_NOTE = (
    "People mark what convinces people; a model may decide by something else, and a map saying so is right.",
)


@metrics.register(
    Card(
        name="plausibility",
        formula="Σ_k (R_k − R_{k−1}) P_k, P and R precision and recall of the k highest units",
        title="Plausibility, AUPRC",
        source="deyoung2020",
        direction="higher",
        range="[0, 1]",
        needs=("mask",),
        passes=_PASSES,
        pitfalls=_NOTE,
    ),
    aliases=("rationale_auprc",),
)
def plausibility() -> Rationale:
    """Average precision of the ranking of units against those that people marked.

    Masks are flags per unit, such as one per word, or per position.
    """
    return Rationale(what="precision")


@metrics.register(
    Card(
        name="rationale_f1",
        formula="|top_k ∩ M| / k, M the marked units, k = |M|",
        title="Plausibility, F1",
        source="deyoung2020",
        direction="higher",
        range="[0, 1]",
        needs=("mask",),
        passes=_PASSES,
        pitfalls=_NOTE,
    )
)
def rationale_f1() -> Rationale:
    """F1 of the highest units against those that people marked, as many of the ones as of the others."""
    return Rationale(what="f1")


@metrics.register(
    Card(
        name="rationale_iou",
        formula="|top_k ∩ M| / |top_k ∪ M|, M the marked units, k = |M|",
        title="Plausibility, IoU",
        source="deyoung2020",
        direction="higher",
        range="[0, 1]",
        needs=("mask",),
        passes=_PASSES,
        pitfalls=_NOTE,
    )
)
def rationale_iou() -> Rationale:
    """Intersection over union of the highest units and those that people marked, as many of both."""
    return Rationale(what="iou")

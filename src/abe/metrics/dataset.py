"""Numbers about a data set: whether samples that are explained alike are predicted alike."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from abe.checks import Count, NotNegative
from abe.engines.runtime.problem import Problem
from abe.metrics.evaluation.truth import heat
from abe.metrics.subsets import grid
from abe.registry import metrics
from abe.spec import value
from abe.types import Card, Passes
from abe.units import rank


@value
class Sufficiency:
    """Share of the other samples with a similar map that are predicted alike.

    Args:
        threshold: largest distance of unit-norm maps that are similar.
    """

    threshold: NotNegative
    missing: ClassVar[str] = "no other sample has a similar map"

    def measure(self, problem: Problem, explanation: Any) -> Tensor:
        return self.conclude(self.collect(problem, explanation))

    def collect(self, problem: Problem, explanation: Any) -> dict[str, Tensor]:
        """(b,) the predicted class, and (b, positions) the map scaled to unit norm."""
        flat = heat(problem, explanation, "signed")
        unit = flat / flat.square().sum(1, keepdim=True).sqrt().clamp_min(1e-300)
        return {"predicted": _predicted(problem), "unit": unit.cpu()}

    def conclude(self, kept: Mapping[str, Tensor]) -> Float[Tensor, "n"]:
        """(n,) the share of each sample; NaN where no other map is similar."""
        return _alike(kept["predicted"], torch.cdist(kept["unit"], kept["unit"]) <= self.threshold)


@value
class Consistency:
    """Share of the other samples with the same leading patches that are predicted alike.

    Args:
        patches: along each axis.
        top: how many patches lead.
    """

    patches: Count
    top: Count
    missing: ClassVar[str] = "no other sample has the same leading patches"

    def measure(self, problem: Problem, explanation: Any) -> Tensor:
        return self.conclude(self.collect(problem, explanation))

    def collect(self, problem: Problem, explanation: Any) -> dict[str, Tensor]:
        """(b,) the predicted class, and (b, top) the leading patches in ascending order."""
        label = grid(problem.x, self.patches)
        flat = heat(problem, explanation, "signed")
        sums = flat.new_zeros(len(flat), int(label.max()) + 1).index_add_(1, label, flat)
        order = rank(sums, draws=problem.draws, ids=problem.ids)
        first = order.argsort(1)[:, : self.top].sort(1).values
        return {"predicted": _predicted(problem), "first": first.cpu()}

    def conclude(self, kept: Mapping[str, Tensor]) -> Float[Tensor, "n"]:
        """(n,) the share of each sample; NaN where no other has the same leading patches."""
        first = kept["first"]
        return _alike(kept["predicted"], (first[:, None] == first[None]).all(2))


def _predicted(problem: Problem) -> Int[Tensor, "b"]:
    """(b,) the class each sample is predicted to be."""
    found = torch.zeros(len(problem.x), dtype=torch.long)

    for chunk in problem.forward(problem.x, problem.everyone):
        problem.task.check_classes(chunk.outputs, "predictions of samples with similar maps")
        found[chunk.rows.cpu()] = problem.task.predicted(chunk.outputs).cpu()
    return found


def _alike(predicted: Int[Tensor, "n"], near: Bool[Tensor, "n n"]) -> Float[Tensor, "n"]:
    """(n,) share of the near samples that are predicted like the sample itself."""
    near = near & ~torch.eye(len(near), dtype=torch.bool, device=near.device)
    alike, count = predicted[:, None] == predicted[None], near.sum(1)
    return torch.where(count > 0, (near & alike).sum(1) / count.clamp_min(1).double(), torch.nan)


_SET = "A number about the data set: it depends on which samples are evaluated together."
_RANKING = {"ranking": "compares maps with each other, not with the model"}


@metrics.register(
    Card(
        name="sufficiency",
        title="SUFF SET",
        source="dasgupta2022",
        direction="higher",
        range="[0, 1], or NaN where no other map is similar",
        formula="share of j != i with ||A_j - A_i|| <= threshold whose prediction is that of i",
        passes=Passes(forward="b", backward="0"),
        pitfalls=(_SET,),
        expected_failures=_RANKING,
    )
)
def sufficiency(*, threshold: float = 0.6) -> Sufficiency:
    """Whether samples with similar maps are predicted alike.

    Args:
        threshold: largest Euclidean distance between maps of unit norm that are called similar.
    """
    return Sufficiency(threshold=threshold)


@metrics.register(
    Card(
        name="consistency",
        title="CONSIST",
        source="dasgupta2022",
        direction="higher",
        range="[0, 1], or NaN where no other sample has the same leading patches",
        formula="share of j != i with top patches of A_j equal to those of A_i whose prediction is that of i",
        passes=Passes(forward="b", backward="0"),
        differs=("Maps are the same if the same patches lead; the paper leaves open what the same is.",),
        pitfalls=(_SET,),
        expected_failures={**_RANKING, "batch": "it compares the samples of a batch with each other"},
    )
)
def consistency(*, patches: int = 4, top: int = 1) -> Consistency:
    """Whether samples that are explained by the same patches are predicted alike.

    Args:
        top: how many patches lead, in any order.
    """
    return Consistency(patches=patches, top=top)

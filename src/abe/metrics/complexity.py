"""Complexity: over how many positions a map spreads; they do not say whether it is right."""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from abe.checks import Below1
from abe.engines.runtime.problem import Problem
from abe.registry import metrics
from abe.spec import value
from abe.types import Card, Passes
from abe.units import check_map

ALIKE = 1e-6
"""Largest difference of magnitudes that are equal but for rounding, as a share of the largest."""


@value
class Spread:
    """One number of the magnitudes of a map.

    Args:
        what: which number.
        threshold: of `effective`, as a share of the largest magnitude.
    """

    what: Literal["entropy", "gini", "effective"]
    threshold: Below1 = 0.0
    processing: ClassVar[str] = "magnitude of every element"

    def measure(self, problem: Problem, explanation: Any) -> Tensor:
        size = _one_of_equal(check_map(explanation.attribution, problem.x).double().abs()).flatten(1)
        if self.what == "effective":
            return (size > self.threshold * size.amax(1, keepdim=True)).double().mean(1)
        total = size.sum(1, keepdim=True)
        share = torch.where(total > 0, size / total.clamp_min(1e-300), 1 / size.shape[1])
        if self.what == "entropy":
            return -(share * share.clamp_min(1e-300).log()).sum(1)
        n = size.shape[1]
        weight = 2 * torch.arange(1, n + 1, device=size.device, dtype=size.dtype) - n - 1
        return (share.sort(1).values * weight).sum(1) / n


def _one_of_equal(size: Tensor) -> Tensor:
    """Magnitudes (b, c, …); a channel of them (b, 1, …) where a map of positions is repeated over channels.

    A map of positions may be held in one channel, or a share of it in each: its elements are the positions.
    """
    first = size[:, :1]
    most = ALIKE * size.flatten(1).amax(1).view(-1, *[1] * (size.ndim - 1))
    return first if bool(((size - first).abs() <= most).all()) else size


_NOT_TRUTH = {"ranking": "reads how a map is spread, which moving its values does not change"}
_ZERO = Passes(forward="0", backward="0")


@metrics.register(
    Card(
        name="complexity",
        title="ENTROPY",
        source="bhatt2020, Definition 3",
        direction="lower",
        range="[0, ln of the number of elements]",
        formula="-sum_i q_i ln q_i, q = |A| / sum |A|",
        passes=_ZERO,
        pitfalls=("A wrong map with one bright pixel is the simplest of all.",),
        expected_failures=_NOT_TRUTH,
    )
)
def complexity() -> Spread:
    """Entropy of the shares of magnitude.

    A zero map counts as uniform.
    """
    return Spread(what="entropy")


@metrics.register(
    Card(
        name="sparseness",
        title="GINI",
        source="chalasani2020",
        direction="higher",
        range="[0, 1)",
        formula="sum_k (2k - n - 1) |A|_(k) / (n sum |A|), magnitudes in ascending order",
        passes=_ZERO,
        pitfalls=("A wrong map with one bright pixel is the sparsest of all.",),
        expected_failures=_NOT_TRUTH,
    ),
    aliases=("gini",),
)
def sparseness() -> Spread:
    """Gini index of the magnitudes.

    It is 0 for a constant or zero map.
    """
    return Spread(what="gini")


@metrics.register(
    Card(
        name="effective_complexity",
        title="EFF CPLX",
        source="nguyen2020",
        direction="lower",
        pitfalls=("Says how many elements matter to the map, not whether they matter to the model.",),
        range="[0, 1]",
        formula="share of i with |A_i| > threshold max |A|",
        passes=_ZERO,
        differs=("A share, and a threshold relative to the maximum, so that maps of any scale compare.",),
        expected_failures=_NOT_TRUTH,
    )
)
def effective_complexity(*, threshold: float = 0.01) -> Spread:
    """Share of the elements whose magnitude is above a threshold.

    Args:
        threshold: share of the largest magnitude.
    """
    return Spread(what="effective", threshold=threshold)

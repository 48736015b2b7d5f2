"""Average drop and increase: the map as a soft mask on the input."""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from abe.baselines import as_baseline
from abe.engines.runtime.problem import Problem
from abe.metrics.evaluation.rows import probabilities, remembered
from abe.metrics.evaluation.truth import soft_mask
from abe.registry import metrics
from abe.spec import value
from abe.types import Baseline, Card, Passes


@value
class SoftMask:
    """Confidence when the input is multiplied by its map.

    Args:
        what: ``"drop"`` or ``"increase"``.
        baseline: what shows through where the map is 0.
    """

    what: Literal["drop", "increase"]
    baseline: Baseline
    processing: ClassVar[str] = "positive part over its maximum, channels summed"
    removes: ClassVar[bool] = True

    def measure(self, problem: Problem, explanation: Any) -> Tensor:
        whole, kept = remembered(
            problem, explanation, ("soft mask", self.baseline), lambda: self._both(problem, explanation)
        )
        if self.what == "drop":
            return 100 * (whole - kept).clamp_min(0) / whole.clamp_min(1e-300)
        return 100 * (kept > whole).double()

    def _both(self, problem: Problem, explanation: Any) -> tuple[Tensor, Tensor]:
        x = problem.x
        mask = soft_mask(problem, explanation)
        b = len(x)

        def make(rows: Tensor) -> Tensor:
            sample = rows % b
            reference = problem.reference(self.baseline, sample, torch.zeros_like(sample))
            soft = reference + mask[sample] * (x[sample] - reference)
            return torch.where((rows < b).view(-1, *[1] * (x.ndim - 1)), x[sample], soft)

        found = probabilities(problem, make, problem.everyone.repeat(2))
        return found[:b], found[b:]


_DIFFERS = "The mask is the positive part of the map over its maximum; the paper's maps are Grad-CAM's."


@metrics.register(
    Card(
        name="average_drop",
        title="AVG DROP",
        source="chattopadhay2018",
        direction="lower",
        range="[0, 100]",
        formula="100 max(0, p_y(x) - p_y(m * x)) / p_y(x), m = max(A, 0) / max A",
        passes=Passes(forward="2 * b", backward="0"),
        differs=(_DIFFERS,),
        pitfalls=("A map that is 1 everywhere is perfect: read it with a measure of complexity.",),
    )
)
def average_drop(*, baseline: Any = "zero") -> SoftMask:
    """Relative loss of confidence, in per cent, when only what the map shows is kept.

    Args:
        baseline: what shows through where the map is 0.
    """
    return SoftMask(what="drop", baseline=as_baseline(baseline))


@metrics.register(
    Card(
        name="average_increase",
        title="AVG INC",
        source="chattopadhay2018",
        direction="higher",
        pitfalls=("Counts samples and not how much; a sure model leaves nothing to rise.",),
        range="{0, 100}",
        formula="100 [p_y(m * x) > p_y(x)], m = max(A, 0) / max A",
        passes=Passes(forward="2 * b", backward="0"),
        differs=(_DIFFERS,),
        expected_failures={
            "ranking": "sometimes, within 1e-12: masking evidence that is all positive never raises a score"
        },
    )
)
def average_increase(*, baseline: Any = "zero") -> SoftMask:
    """Share of samples, in per cent, whose confidence rises when only what the map shows is kept.

    Args:
        baseline: what shows through where the map is 0.
    """
    return SoftMask(what="increase", baseline=as_baseline(baseline))

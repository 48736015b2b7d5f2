"""Average drop, increase and gain: the map as a soft mask on the input; data-set level sufficiency."""

from typing import Any, Literal

import torch
from torch import Tensor

from abe.baselines import as_baseline
from abe.engines.batching import Chunk
from abe.metrics.shared import heat, probabilities, remembered
from abe.registry import metrics
from abe.spec import value
from abe.types import Baseline, Card, Passes


@value
class SoftMask:
    """Confidence when the input is multiplied by its map.

    Args:
        what: which number.
        baseline: what shows through where the map is 0.
    """

    what: Literal["drop", "increase", "gain"]
    baseline: Baseline

    def measure(self, problem: Any, explanation: Any) -> Tensor:
        whole, kept = remembered(
            problem, explanation, ("soft mask", self.baseline), lambda: self._both(problem, explanation)
        )
        if self.what == "drop":
            return 100 * (whole - kept).clamp_min(0) / whole.clamp_min(1e-300)
        if self.what == "increase":
            return 100 * (kept > whole).double()
        return 100 * (kept - whole).clamp_min(0) / (1 - whole).clamp_min(1e-12)

    def _both(self, problem: Any, explanation: Any) -> tuple[Tensor, Tensor]:
        x = problem.x
        strength = heat(problem, explanation, "positive")
        top = strength.amax(1, keepdim=True)
        mask = torch.where(top > 0, strength / top.clamp_min(1e-300), torch.zeros_like(strength)).to(x)
        mask = mask.reshape(len(x), *((1, *x.shape[2:]) if x.ndim > 2 else x.shape[1:]))
        b = len(x)

        def make(rows: Tensor) -> Tensor:
            sample = rows % b
            reference = self.baseline.rows(problem, sample, torch.zeros_like(sample))
            soft = reference + mask[sample] * (x[sample] - reference)
            return torch.where((rows < b).view(-1, *[1] * (x.ndim - 1)), x[sample], soft)

        found = probabilities(problem, 2 * b, make, problem.everyone.repeat(2))
        return found[:b], found[b:]


_DIFFERS = "The mask is the positive part of the map over its maximum; the paper's maps are Grad-CAM's."


@metrics.register(
    Card(
        name="average_drop",
        title="AVG DROP",
        summary="Relative loss of confidence, in per cent, when only what the map shows is kept.",
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
    """Per cent of confidence lost under the map as a mask; lower is better.

    Args:
        baseline: what shows through where the map is 0.

    Differs from the paper:
        The mask is the positive part of the map over its maximum; the paper's maps are Grad-CAM's.
    """
    return SoftMask(what="drop", baseline=as_baseline(baseline))


@metrics.register(
    Card(
        name="average_increase",
        title="AVG INC",
        summary="Share of samples, in per cent, whose confidence rises when only what the map shows is kept.",
        source="chattopadhay2018",
        direction="higher",
        range="{0, 100}",
        formula="100 [p_y(m * x) > p_y(x)], m = max(A, 0) / max A",
        passes=Passes(forward="2 * b", backward="0"),
        differs=(_DIFFERS,),
        expected_failures={
            "ranking": "sometimes: masking evidence that is all positive never raises a score"
        },
    )
)
def average_increase(*, baseline: Any = "zero") -> SoftMask:
    """100 where confidence rises under the map as a mask, else 0; higher is better.

    Args:
        baseline: what shows through where the map is 0.

    Differs from the paper:
        The mask is the positive part of the map over its maximum; the paper's maps are Grad-CAM's.
    """
    return SoftMask(what="increase", baseline=as_baseline(baseline))


@value
class SharedPredictions:
    """Share of the other samples with a similar map that are predicted alike.

    Args:
        threshold: largest distance of unit-norm maps that are similar.
    """

    threshold: float

    def measure(self, problem: Any, explanation: Any) -> Tensor:
        flat = heat(problem, explanation, "signed")
        unit = flat / flat.square().sum(1, keepdim=True).sqrt().clamp_min(1e-300)
        near = torch.cdist(unit, unit) <= self.threshold
        near.fill_diagonal_(False)
        kept: list[Tensor] = []

        def keep(chunk: Chunk) -> None:
            kept.append(chunk.outputs.argmax(1))

        problem.forward(len(flat), problem.x.__getitem__, problem.everyone, keep)
        predicted = torch.cat(kept)
        alike = predicted[:, None] == predicted[None]
        count = near.sum(1)
        return torch.where(count > 0, (near & alike).sum(1) / count.clamp_min(1), torch.nan).double()


@metrics.register(
    Card(
        name="sufficiency",
        title="SUFF SET",
        summary="Whether samples with similar maps are predicted alike.",
        source="dasgupta2022",
        direction="higher",
        range="[0, 1], or NaN where no other map is similar",
        formula="share of j != i with ||A_j - A_i|| <= threshold whose prediction is that of i",
        passes=Passes(forward="b", backward="0"),
        pitfalls=("A number about the data set: it depends on which samples are evaluated together.",),
        expected_failures={
            "batch": "sometimes: it compares the samples of a batch with each other",
            "ranking": "compares maps with each other, not with the model",
        },
    )
)
def sufficiency(*, threshold: float = 0.6) -> SharedPredictions:
    """Share of samples with similar maps that share the prediction; higher is better.

    Args:
        threshold: largest Euclidean distance between maps of unit norm that are called similar.
    """
    return SharedPredictions(threshold=threshold)

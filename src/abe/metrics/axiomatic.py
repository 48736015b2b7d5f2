"""Axioms measured: completeness for a stated baseline, non-sensitivity, invariance to input shifts."""

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from abe.baselines import as_baseline
from abe.checks import Below1, Count
from abe.engines.runtime.problem import Problem
from abe.metrics.evaluation.reexplain import again, elsewhere
from abe.metrics.subsets import grid, losses
from abe.registry import metrics
from abe.sizes import OfRange, in_units
from abe.spec import value
from abe.types import Baseline, Card, Part, Passes
from abe.units import check_map


@value
class CompletenessGap:
    """|Σ A − (s(x) − s(baseline))| / |s(x) − s(baseline)|; NaN where the score does not change."""

    baseline: Baseline
    processing: ClassVar[str] = "signed, summed over everything"
    missing: ClassVar[str] = "its score at the baseline is that at the input"
    removes: ClassVar[bool] = True

    def measure(self, problem: Problem, explanation: Any) -> Tensor:
        everyone = problem.everyone
        maps = check_map(explanation.attribution, problem.x).double().flatten(1).sum(1)
        reference = problem.reference(self.baseline, everyone, torch.zeros_like(everyone))
        change = problem.score.double() - problem.scores(reference, everyone).double()
        return torch.where(change == 0, torch.nan, (maps - change).abs() / change.abs())


@value
class NonSensitivity:
    """Share of patches whose attribution is zero while the score moves, or the other way round."""

    patches: Count
    threshold: Below1
    baseline: Baseline
    removes: ClassVar[bool] = True

    def measure(self, problem: Problem, explanation: Any) -> Tensor:
        label = grid(problem.x, self.patches)
        sets = int(label.max()) + 1

        def members(sample: Tensor, number: Tensor) -> Tensor:
            return label[None] == number[:, None]

        inside, lost = losses(problem, explanation.attribution, self.baseline, sets, members)
        silent = [v.abs() <= self.threshold * v.abs().amax(1, keepdim=True) for v in (inside, lost)]
        return (silent[0] ^ silent[1]).double().mean(1)


ENDS = ("low", "high")


def _shifted(part: Part, offset: Tensor, x: Tensor) -> Part:
    """The part of features that are moved by ``offset``, which it takes back before the model reads it."""
    channels = part.shape[0] if part.shape else 1
    own = part.of(offset.expand(1, *x.shape[1:])).reshape(channels, -1)[:, 0]
    moved = {k: getattr(part, k) for k in ENDS if getattr(part, k) is not None} | {
        "mean": part.mean or (0.0,)
    }
    each = {
        k: own.new_tensor(numbers, dtype=torch.float64).expand(channels) + own for k, numbers in moved.items()
    }
    return replace(part, **{k: tuple(numbers.tolist()) for k, numbers in each.items()})


@value
class InputInvariance:
    """‖A − A′‖ / ‖A‖, A′ explaining the shifted input of a model that takes the shift back."""

    shift: float
    processing: ClassVar[str] = "not read: the method explains again, its map as it is"

    def measure(self, problem: Problem, explanation: Any) -> Tensor:
        task, x = problem.task, problem.x
        shift = torch.as_tensor(in_units(self.shift, problem.limits), dtype=x.dtype, device=x.device)
        offset = shift if shift.ndim else shift.expand(1, *[1] * (x.ndim - 1))
        changes: dict[str, Any] = {k: v.to(x) + offset for k in ENDS if (v := getattr(task, k)) is not None}
        if task.at_layers or len(task.parts) > 1:  # each input takes its own shift back
            changes["parts"] = tuple(_shifted(part, offset, x) for part in task.parts)
        else:
            changes["mean"] = offset if task.mean is None else task.mean.to(x) + offset
        moved = elsewhere(problem, replace(task, **changes), x=x + offset)
        before, after = again(problem, explanation).double(), again(moved, explanation).double()
        size = before.flatten(1).square().sum(1).sqrt()
        gap = (after - before).flatten(1).square().sum(1).sqrt()
        return gap / torch.where(size > 0, size, torch.ones_like(size))


@metrics.register(
    Card(
        name="completeness_gap",
        title="COMPL GAP",
        source="sundararajan2017",
        direction="lower",
        range="[0, inf), or NaN where the score does not change",
        formula="|sum A - (s(x) - s(b))| / |s(x) - s(b)|",
        passes=Passes(forward="2 * b", backward="0"),
        pitfalls=("Small is necessary, not sufficient: any map can be rescaled to fit.",),
        expected_failures={
            "ranking": "sometimes, within 1e-12: reads the sum of a map, which moving its values does not "
            "change"
        },
    )
)
def completeness_gap(*, baseline: Any = "zero") -> CompletenessGap:
    """What the map's sum misses of the score change from a stated baseline, relative to it.

    It is measured whatever the method claims.
    """
    return CompletenessGap(baseline=as_baseline(baseline))


@metrics.register(
    Card(
        name="non_sensitivity",
        title="NON-SENS",
        source="nguyen2020",
        direction="lower",
        range="[0, 1]",
        formula="mean over patches of [|A_P| ~ 0] xor [|s(x) - s(x without P)| ~ 0]",
        differs=("Patches instead of pixels, and zero is relative to the largest value.",),
        pitfalls=("Blind to sign and size.",),
    )
)
def non_sensitivity(*, patches: int = 8, threshold: float = 0.01, baseline: Any = "zero") -> NonSensitivity:
    """Share of patches where attribution and influence disagree about being zero.

    Args:
        threshold: what counts as zero, as a share of the largest magnitude.

    Cost: b · (patches² + 1) forward rows for images.
    """
    return NonSensitivity(patches=patches, threshold=threshold, baseline=as_baseline(baseline))


@metrics.register(
    Card(
        name="input_invariance",
        title="INP INV",
        source="kindermans2019",
        direction="lower",
        range="[0, inf)",
        formula="||A(f, x) - A(f', x + c)|| / ||A(f, x)||, f'(x + c) = f(x)",
        needs=("method",),
        pitfalls=("Methods with a fixed baseline change by design; plain gradients do not.",),
    )
)
def input_invariance(*, shift: float = OfRange(0.1)) -> InputInvariance:
    """How much the map changes when the input is shifted and the model takes the shift back.

    Args:
        shift: added to every element, in input units; by default a share of the range.

    Cost: Twice the rows of the method.
    """
    return InputInvariance(shift=shift)

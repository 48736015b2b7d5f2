"""Soundness and completeness of maps over a data set: curves against accuracy and against thresholds.

Soundness adds the most important positions step by step (all others imputed). A step that adds no
accuracy marks the attribution it added as false; the curve is the share of the attribution so far that
is not false, against the accuracy reached. Completeness removes what lies above a threshold and reads
the accuracy that is lost. Both need a set of samples: what each contributes is collected batch by batch,
and the curve is drawn once for all, so it does not depend on the batches.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import comb
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from abe.baselines import as_baseline
from abe.checks import Fraction, NotNegative
from abe.engines.runtime.problem import Problem
from abe.errors import Code, InputError, SpecError
from abe.imputation import positions, without
from abe.metrics.evaluation.truth import Processing, heat, labels
from abe.registry import metrics
from abe.spec import value
from abe.types import Baseline, Card
from abe.units import rank

Variant = Literal["corrected", "published"]
Gain = Literal["epsilon", "flips"]
START = 0.04
"""Accuracy up to which the published code flags nothing."""
SMALL = 1e-6
"""Added to the published denominators."""
STEP = 0.01
"""Share of the positions per step to which ε belongs."""
FLIPS = 5
"""Samples that a one-sided sign test at .05 needs: 2⁻⁴ is too much."""
RATIOS = tuple(round(0.98 - 0.01 * k, 5) for k in range(96))
THRESHOLDS = tuple(round(0.9 - 0.1 * k, 5) for k in range(9))


@dataclass(frozen=True)
class SoundnessCurve:
    """A soundness curve.

    Attributes:
        ratios: (k,) share of positions removed at each step, least important first.
        accuracy: (k,) of the model on what is left.
        shares: (n, k) of each sample's attribution that is left, what is not false; NaN where none is left.
        false_steps: (k,) whether a step was flagged.
    """

    ratios: Float[Tensor, "k"]
    accuracy: Float[Tensor, "k"]
    shares: Float[Tensor, "n k"] = field(repr=False)
    false_steps: Bool[Tensor, "k"]

    @property
    def sound(self) -> Float[Tensor, "k"]:
        """(k,) mean share over the samples that have one."""
        return self.shares.nanmean(0)

    def at_levels(self, levels: Sequence[float]) -> list[float | None]:
        """The mean share at the first step that reaches each accuracy; None past the covered range."""
        steps = [self.step(level) for level in levels]
        return [None if k is None else float(self.sound[k]) for k in steps]

    def step(self, level: float) -> int | None:
        """The first step that reaches an accuracy, or None."""
        reached = (self.accuracy >= level).nonzero().flatten()
        return int(reached[0]) if len(reached) else None

    @property
    def covered(self) -> tuple[float, float]:
        """Lowest and highest accuracy of the curve; outside it says nothing."""
        return float(self.accuracy.min()), float(self.accuracy.max())


@value
class Soundness:
    """The share of the attribution that is sound where an accuracy is first reached.

    Args:
        level: that accuracy.
        ratios: shares of positions removed, falling.
        epsilon: accuracy a step of one per cent must add.
        gain: ``"epsilon"``, or ``"flips"`` for a sign test.
        variant: ``"corrected"`` or ``"published"``.
        of: post-processing that makes maps non-negative.
        removal: what stands for "absent".
    """

    level: Fraction
    ratios: tuple[float, ...]
    epsilon: NotNegative
    gain: Gain | str
    variant: Variant | str
    of: Processing | str
    removal: Baseline
    removes: ClassVar[bool] = True

    @property
    def missing(self) -> str:
        return f"the accuracy does not reach {self.level:g}, or the map has nothing positive"

    @property
    def fewest(self) -> int:
        return FLIPS if self.gain == "flips" else 1

    def __post_init__(self) -> None:
        _check_maps(self.of)
        _check_shares("ratios", self.ratios)

    def measure(self, problem: Problem, explanation: Any) -> Tensor:
        return self.conclude(self.collect(problem, explanation))

    def collect(self, problem: Problem, explanation: Any) -> dict[str, Tensor]:
        """(b, steps) whether each sample is right after each step, and the attribution that is left."""
        truth, maps = labels(problem, explanation), heat(problem, explanation, self.of)
        order = rank(maps, draws=problem.draws, ids=problem.ids)
        size = maps.shape[1]
        kept = torch.tensor([size - int(size * r) for r in self.ratios], device=maps.device)
        ordered = torch.zeros_like(maps).scatter_(1, order.long(), maps)
        sums = torch.cat([torch.zeros_like(maps[:, :1]), ordered.cumsum(1)], 1)[:, kept]

        def removed(sample: Tensor, number: Tensor) -> Tensor:
            return order[sample] >= kept[number][:, None]

        right = _right(problem, self.removal, truth, len(kept), removed)
        return {"right": right.cpu(), "sums": sums.cpu()}

    def conclude(self, kept: Mapping[str, Tensor]) -> Float[Tensor, "n"]:
        """(n,) the share of each sample at the level; NaN where the level is not reached."""
        curve = self.curve(kept)
        step = curve.step(self.level)
        return torch.full_like(kept["sums"][:, 0], torch.nan) if step is None else curve.shares[:, step]

    def curve(self, kept: Mapping[str, Tensor]) -> SoundnessCurve:
        """The whole curve from what was collected of all samples.

        Raises:
            InputError: too few samples for the test of flips.
        """
        right, sums = kept["right"], kept["sums"]
        published = self.variant == "published"
        accuracy = right.double().sum(0) / (len(right) + (SMALL if published else 0.0))
        flags = self._flags(right, accuracy)
        added = sums.diff(dim=1, prepend=torch.zeros_like(sums[:, :1]))
        false = (added * flags).cumsum(1)
        if published:  # the flag of a step shows from the next one on
            false = torch.cat([torch.zeros_like(false[:, :1]), false[:, :-1]], 1)
            shares = (sums - false) / (sums + SMALL)
        else:
            shares = torch.where(sums > 0, (sums - false) / sums.clamp_min(1e-300), torch.nan)
        ratios = torch.tensor(self.ratios, dtype=torch.float64)
        return SoundnessCurve(ratios=ratios, accuracy=accuracy, shares=shares, false_steps=flags)

    def _flags(self, right: Bool[Tensor, "n k"], accuracy: Float[Tensor, "k"]) -> Bool[Tensor, "k"]:
        """(k,) whether a step added no accuracy."""
        start = torch.zeros_like(accuracy[:1])
        risen = accuracy.diff(prepend=start)
        if self.variant == "published":
            return (accuracy > START) & (risen <= self.epsilon)
        if self.gain == "epsilon":
            width = -torch.tensor([1.0, *self.ratios], dtype=torch.float64).diff()
            return risen < self.epsilon * width / STEP
        if len(right) < FLIPS:
            raise InputError(
                Code.SAMPLES,
                "The test of flips needs more samples",
                got=f"{len(right)}",
                expected=f"at least {FLIPS}",
                fix='Take gain="epsilon", or more samples',
            )
        before = torch.cat([torch.zeros_like(right[:, :1]), right[:, :-1]], 1)
        return torch.tensor([not _gained(b, a) for b, a in zip(before.T, right.T, strict=True)])


@dataclass(frozen=True)
class CompletenessCurve:
    """Accuracy lost when the attribution above each threshold is removed.

    Attributes:
        thresholds: (k,) of the maps.
        lost: (n, k) what each sample lost: 1 where it became wrong, −1 where it became right, else 0.
        accuracy: of the model on whole inputs.
    """

    thresholds: Float[Tensor, "k"]
    lost: Float[Tensor, "n k"] = field(repr=False)
    accuracy: float

    @property
    def complete(self) -> Float[Tensor, "k"]:
        """(k,) accuracy lost."""
        return self.lost.mean(0)


@value
class Completeness:
    """Accuracy lost when what lies above a threshold is removed, averaged over thresholds.

    Args:
        thresholds: values strictly above which positions are removed.
        relative: thresholds are shares of each map's maximum.
        of: post-processing that makes maps non-negative.
        removal: what stands for "absent".
    """

    thresholds: tuple[float, ...]
    relative: bool
    of: Processing | str
    removal: Baseline
    removes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_maps(self.of)
        _check_shares("thresholds", self.thresholds)

    def measure(self, problem: Problem, explanation: Any) -> Tensor:
        return self.curve(problem, explanation).lost.mean(1)

    def curve(self, problem: Problem, explanation: Any) -> CompletenessCurve:
        """The whole curve of the samples."""
        truth, maps = labels(problem, explanation), heat(problem, explanation, self.of)
        bound = torch.tensor([*self.thresholds, torch.inf], dtype=maps.dtype, device=maps.device)
        top = maps.amax(1, keepdim=True).clamp_min(1e-300) if self.relative else torch.ones_like(maps[:, :1])

        def removed(sample: Tensor, number: Tensor) -> Tensor:
            return maps[sample] > bound[number][:, None] * top[sample]

        right = _right(problem, self.removal, truth, len(bound), removed).double().cpu()
        return CompletenessCurve(
            thresholds=bound[:-1].cpu(),
            lost=right[:, -1:] - right[:, :-1],
            accuracy=float(right[:, -1].mean()),
        )


def hausdorff(one: Float[Tensor, "n d"], other: Float[Tensor, "m d"]) -> float:
    """Symmetric Hausdorff distance of two sets of points, axes unscaled."""
    gaps = torch.cdist(one.double(), other.double())
    return float(torch.maximum(gaps.amin(1).amax(), gaps.amin(0).amax()))


def _right(
    problem: Problem,
    removal: Baseline,
    truth: Tensor,
    steps: int,
    removed: Callable[[Tensor, Tensor], Tensor],
) -> Bool[Tensor, "b k"]:
    """(b, steps) whether the prediction is right when what ``removed`` says is absent.

    All steps of a sample share their draws: a step is judged by what it adds, not by other noise.
    """
    x = problem.x
    found = torch.zeros(len(x) * steps, dtype=torch.bool, device=x.device)

    def make(rows: Tensor) -> Tensor:
        sample, number = rows // steps, rows % steps
        mask = positions(removed(sample, number), x)
        return without(problem, removal, sample, torch.zeros_like(number), mask)

    for chunk in problem.forward(make, problem.everyone.repeat_interleave(steps)):
        problem.task.check_classes(chunk.outputs, "whether the prediction is right", apart=True)
        _check_classes(truth, problem.task.classes(chunk.outputs))
        found[chunk.rows] = problem.task.says(chunk.outputs, truth[chunk.owner])
    return found.view(-1, steps)


def _check_classes(truth: Tensor, classes: int) -> None:
    """Refuse labels that no prediction can equal."""
    wrong = ((truth < 0) | (truth >= classes)).nonzero().flatten().tolist()
    if wrong:
        raise InputError(
            Code.LABELS,
            "A label is no class of the model",
            got=f"{int(truth[wrong[0]])} for sample {wrong[0]}, of {classes} classes",
            expected=f"class numbers from 0 to {classes - 1}",
        )


def _gained(before: Tensor, after: Tensor) -> bool:
    """Whether significantly more samples became right than wrong: P(X >= gained), X binomial at 1/2."""
    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    n = gained + lost
    return n > 0 and sum(comb(n, k) for k in range(gained, n + 1)) / 2**n < 0.05


def _check_maps(of: str) -> None:
    if of == "signed":
        raise SpecError(
            Code.BAD_PARAMETER,
            "Soundness and completeness need non-negative maps",
            got=repr(of),
            expected="'positive', 'absolute' or 'minmax'",
        )


def _check_shares(name: str, numbers: Sequence[float]) -> None:
    if not numbers or not all(0 <= r <= 1 for r in numbers):
        raise SpecError(
            Code.BAD_PARAMETER,
            "Ratios and thresholds lie between 0 and 1",
            got=f"{name} = {list(numbers)[:3]}",
            expected="at least one number from 0 to 1",
        )


_SET = "A number about a set of samples: each one's share depends on the steps that all of them flag."


@metrics.register(
    Card(
        name="soundness",
        title="SOUND",
        source="li2024, Algorithm 3",
        direction="higher",
        range="[0, 1], or NaN where the level is not reached",
        formula="(sum of A kept - sum of A of steps that added less than epsilon) / sum of A kept",
        needs=("label",),
        features=(),
        differs=(
            'A flagged step counts at once and ε scales with the step; `variant="published"` has the lag '
            "of one step, `<=`, nothing flagged up to an accuracy of .04, and 1e-6 in the denominators.",
            "All steps of a sample share the noise of the imputation.",
        ),
        pitfalls=(
            _SET,
            "After saturation every step counts as false, so it is read at the first step of the level.",
        ),
        expected_failures={
            "batch": "steps are flagged for all samples of a batch together",
            "ranking": "sometimes, within 1e-12: any pixel decides the kit's samples, so the level is "
            "reached at once",
        },
    )
)
def soundness(
    *,
    level: float = 0.5,
    ratios: tuple[float, ...] = RATIOS,
    epsilon: float = 0.01,
    gain: Gain | str = "epsilon",
    variant: Variant | str = "corrected",
    of: str = "positive",
    removal: Any = "noisy_linear",
) -> Soundness:
    """Share of the attribution that raised the accuracy, where the accuracy reaches a level.

    Args:
        level: the accuracy at which the curve is read, at the first step that reaches it.
        ratios: shares of positions removed, falling.
        epsilon: accuracy that a step of one per cent must add; scaled with the step unless published.
        gain: ``"epsilon"``, or ``"flips"``: a step counts if significantly more samples become right than
            wrong (one-sided sign test at .05).
        variant: ``"corrected"`` flags a step before it is read; ``"published"`` reads first, compares with
            ``<=``, flags nothing up to an accuracy of .04 and adds 1e-6 to the denominators.
        of: post-processing of the maps: ``"positive"``, ``"absolute"`` or ``"minmax"``.

    Cost: b · len(ratios) forward rows.
    """
    return Soundness(
        level=level,
        ratios=tuple(ratios),
        epsilon=epsilon,
        gain=gain,
        variant=variant,
        of=of,
        removal=as_baseline(removal),
    )


@metrics.register(
    Card(
        name="completeness",
        title="COMPLETE",
        source="li2024, Algorithm 4",
        direction="higher",
        range="[-1, 1]",
        formula="mean over t of [f(x) = y] - [f(x without A > t max A) = y]",
        needs=("label",),
        differs=("The curve is averaged over thresholds to one number; `Completeness.curve` has all of it.",),
        pitfalls=(
            "Not the axiom of that name, which `residual` and `completeness_gap` measure.",
            "A map that is the same everywhere removes everything and is as complete as can be: read it "
            "beside soundness.",
        ),
        expected_failures={
            "ranking": "sometimes, within 1e-12: imputation restores the kit's noise well enough to decide it"
        },
    )
)
def completeness(
    *,
    thresholds: tuple[float, ...] = THRESHOLDS,
    relative: bool = True,
    of: str = "positive",
    removal: Any = "noisy_linear",
) -> Completeness:
    """Accuracy lost when everything above a threshold is removed, averaged over thresholds.

    Args:
        thresholds: values strictly above which positions are removed.
        relative: thresholds are shares of each map's maximum, as the published code has them; False takes
            them as they are, as the paper does.
        of: post-processing of the maps: ``"positive"``, ``"absolute"`` or ``"minmax"``.

    Cost: b · (len(thresholds) + 1) forward rows.
    """
    return Completeness(thresholds=tuple(thresholds), relative=relative, of=of, removal=as_baseline(removal))

"""Faithfulness metrics that read perturbation runs: AOPC, pixel flipping, IROF, ROAD, selectivity.

Each is a short composition; metrics with the same direction, unit, baseline, step and order share a run.
"""

from collections.abc import Sequence
from math import ceil
from typing import Any

from torch import Tensor

from abe.checks import Fraction, NotNegative
from abe.errors import Code, SpecError
from abe.metrics.curves import (
    RUN,
    UNIT,
    AreaUnderCurve,
    Followed,
    MeanDrop,
    Step,
    run_of,
)
from abe.metrics.evaluation.perturbation import (
    CurveKind,
    Perturbation,
    PerturbationRun,
    area,
)
from abe.registry import metrics
from abe.sizes import OfRange
from abe.spec import value
from abe.types import Card

Levels = tuple[Fraction, ...]


@value
class LevelMean:
    """Mean of a curve over given fractions of units, or of what it has lost since the whole input.

    Args:
        run: what to perturb.
        levels: fractions of the units; each is read at the first step that reaches it.
        curve: which number to follow.
        lost: report the whole input's number minus the mean.
    """

    run: PerturbationRun
    levels: tuple[Fraction, ...]
    curve: CurveKind = "probability"
    lost: bool = False

    def __post_init__(self) -> None:
        if not self.levels:
            raise SpecError(
                Code.BAD_PARAMETER,
                "Levels are fractions of the units",
                got=f"levels = {self.levels}",
                expected="numbers from 0 to 1",
            )

    @property
    def runs(self) -> tuple[PerturbationRun, ...]:
        return (self.run,)

    def line(self, perturbations: Sequence[Perturbation]) -> Tensor:
        """(b, n + 1) the curve itself."""
        return perturbations[0].curve(self.curve)

    def summary(self, perturbations: Sequence[Perturbation]) -> Tensor:
        curve = self.line(perturbations).double()
        n = curve.shape[1] - 1
        kept = curve[:, [ceil(round(level * n, 9)) for level in self.levels]].mean(1)
        whole = curve[:, 0] if self.run.direction == "deletion" else curve[:, n]
        return whole - kept if self.lost else kept


@value
class Flipping:
    """Area under a deletion curve from the first change on, steps equally wide, over [0, 1]."""

    run: PerturbationRun
    curve: CurveKind = "probability"

    @property
    def runs(self) -> tuple[PerturbationRun, ...]:
        return (self.run,)

    def line(self, perturbations: Sequence[Perturbation]) -> Tensor:
        """(b, n) the curve without its start, which no map can change."""
        return perturbations[0].curve(self.curve)[:, 1:]

    def summary(self, perturbations: Sequence[Perturbation]) -> Tensor:
        curve = self.line(perturbations).double()
        return curve[:, 0] if curve.shape[1] == 1 else area(curve)


@value
class RelativeLoss:
    """Area over the deletion curve relative to its start: mean of 1 − p_k / p_0 (trapezoid)."""

    run: PerturbationRun

    @property
    def runs(self) -> tuple[PerturbationRun, ...]:
        return (self.run,)

    def summary(self, perturbations: Sequence[Perturbation]) -> Tensor:
        log_p = perturbations[0].curve("log_probability").double()
        return 1 - area((log_p - log_p[:, :1]).exp())


@value
class Rises:
    """Share of the steps of a run after which the probability is no lower than before."""

    run: PerturbationRun

    @property
    def runs(self) -> tuple[PerturbationRun, ...]:
        return (self.run,)

    def summary(self, perturbations: Sequence[Perturbation]) -> Tensor:
        return (perturbations[0].curve("log_probability").double().diff(dim=1) >= 0).double().mean(1)


AOPC_LEVELS = (0.01, 0.05, 0.1, 0.2, 0.5)
ROAD_LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@metrics.register(
    Card(
        name="comprehensiveness",
        title="COMP",
        source="deyoung2020, Eq. 3",
        direction="higher",
        range="[-1, 1]",
        passes=RUN,
        formula="mean over levels q of p_y(x) - p_y(x without the top q)",
        pitfalls=("Removal leaves the data's distribution; read the baseline in the label.",),
    ),
    aliases=("aopc_comprehensiveness",),
)
def comprehensiveness(
    *, unit: Any = "pixel", baseline: Any = "zero", step: Step = None, levels: Levels = AOPC_LEVELS
) -> LevelMean:
    """What the decision loses on average when the most important units are removed (AOPC).

    Args:
        levels: fractions of units that are removed.
    """
    return LevelMean(run=run_of("deletion", unit, baseline, step), levels=levels, lost=True)


@metrics.register(
    Card(
        name="sufficiency_aopc",
        title="SUFF",
        source="deyoung2020, Eq. 4",
        direction="lower",
        range="[-1, 1]",
        passes=RUN,
        formula="mean over levels q of p_y(x) - p_y(the top q alone)",
        pitfalls=("Not the data-set metric of the same name, which is `sufficiency`.",),
    ),
    aliases=("aopc_sufficiency",),
)
def sufficiency_aopc(
    *, unit: Any = "pixel", baseline: Any = "zero", step: Step = None, levels: Levels = AOPC_LEVELS
) -> LevelMean:
    """What the decision loses on average when only the most important units are kept (AOPC).

    Args:
        levels: fractions of units that are kept.
    """
    return LevelMean(run=run_of("insertion", unit, baseline, step), levels=levels, lost=True)


@metrics.register(
    Card(
        name="pixel_flipping",
        title="PIX FLIP",
        source="bach2015",
        direction="lower",
        range=UNIT,
        passes=RUN,
        formula="AUC of p_y(x_k), k = 1 ... n, over [0, 1]",
        pitfalls=("Differs from deletion only by leaving out the start.",),
    )
)
def pixel_flipping(
    *, unit: Any = "pixel", baseline: Any = "zero", step: Step = None, curve: Followed = "probability"
) -> Flipping:
    """The decision while units are removed, best first, from the first removal on."""
    return Flipping(run=run_of("deletion", unit, baseline, step), curve=curve)


@metrics.register(
    Card(
        name="region_perturbation",
        title="REGION",
        source="samek2017, Eq. 12",
        direction="higher",
        range="[-1, 1]",
        passes=RUN,
        formula="(1/(n+1)) sum_k (p_y(x) - p_y(x_k)), regions of 9 x 9 replaced by uniform noise",
        pitfalls=("A region is ranked by the sum of its attributions.",),
        expected_failures={
            "ranking": "sometimes, within 2e-3: the kit's samples are noise, and noise in its place removes "
            "nothing; with the baseline zero it holds"
        },
    )
)
def region_perturbation(
    *, unit: Any = ("patch", {"size": 9}), baseline: Any = "uniform", step: Step = 1
) -> MeanDrop:
    """Mean loss of probability while square regions are replaced by noise, best first."""
    return MeanDrop(run=run_of("deletion", unit, baseline, step))


@metrics.register(
    Card(
        name="irof",
        title="IROF",
        source="rieger2020",
        direction="higher",
        range="(-inf, 1]",
        passes=RUN,
        formula="mean over steps of 1 - p_y(x_k) / p_y(x), superpixels replaced by the channel mean",
        features=("image",),
        differs=("Superpixels are ranked by the sum of their attributions; the paper takes the mean.",),
        pitfalls=("Depends on the segmentation; needs scikit-image.",),
        expected_failures={
            "ranking": "sometimes, within 1e-3: the kit's answer is relative to zero, and the mean removes "
            "little of it; with the baseline zero it holds"
        },
    )
)
def irof(*, unit: Any = "superpixel", baseline: Any = "mean", step: Step = 1) -> RelativeLoss:
    """Relative loss of the decision while superpixels are replaced by the mean, best first."""
    return RelativeLoss(run=run_of("deletion", unit, baseline, step))


@metrics.register(
    Card(
        name="selectivity",
        title="SELECT",
        source="montavon2018",
        direction="lower",
        pitfalls=("Patches cut objects; compare maps at one patch size only.",),
        range="[0, 1]",
        passes=RUN,
        formula="AUC of p_y while patches of 4 x 4 are removed",
    )
)
def selectivity(
    *, unit: Any = ("patch", {"size": 4}), baseline: Any = "zero", step: Step = 1
) -> AreaUnderCurve:
    """How fast the decision falls while patches are removed, best first."""
    return AreaUnderCurve(run=run_of("deletion", unit, baseline, step))


@metrics.register(
    Card(
        name="monotonicity",
        title="MONO",
        source="arya2019",
        direction="higher",
        range="[0, 1]",
        passes=RUN,
        formula="share of steps with p_y(x_k+1) >= p_y(x_k), least important inserted first",
        pitfalls=("Any order is monotone where all evidence has one sign.",),
        expected_failures={
            "ranking": "sometimes, within 1e-12: where all evidence is positive every order is monotone"
        },
    )
)
def monotonicity(*, unit: Any = "pixel", baseline: Any = "zero", step: Step = None) -> Rises:
    """Whether adding units from least to most important never lowers the decision."""
    return Rises(run=run_of("insertion", unit, baseline, step, "least"))


@metrics.register(
    Card(
        name="road_morf",
        title="ROAD-M",
        source="rong2022",
        direction="lower",
        range="[0, 1] for probability and accuracy",
        passes=RUN,
        formula="mean over p = .1 ... .9 of p_y(x with the top p imputed)",
        features=("image",),
        differs=(
            "Follows the target's probability; `curve=\"accuracy\"` is the paper's.",
            "Ties are broken by a seeded shuffle per sample, not by noise shared by all images.",
        ),
        pitfalls=("Imputation restores smooth images from scattered pixels, which favours scattered maps.",),
    ),
    aliases=("road",),
)
def road_morf(
    *,
    step: Step = 0.1,
    noise: NotNegative = OfRange(0.01),
    levels: Levels = ROAD_LEVELS,
    curve: CurveKind = "probability",
) -> LevelMean:
    """The decision after the most important pixels became noisy means of their neighbours.

    Args:
        levels: fractions of pixels that are imputed.
        curve: the number to follow: ``"probability"``, the paper's ``"accuracy"``, or another of a run's.
    """
    baseline = ("noisy_linear", {"noise": noise})
    return LevelMean(run=run_of("deletion", "pixel", baseline, step), levels=levels, curve=curve)


@metrics.register(
    Card(
        name="road_lerf",
        title="ROAD-L",
        source="rong2022",
        direction="higher",
        range="[0, 1] for probability and accuracy",
        passes=RUN,
        formula="mean over p = .1 ... .9 of p_y(x with the bottom p imputed)",
        features=("image",),
        differs=(
            "p is the fraction removed; in the published code's LeRF it is the fraction kept.",
            "Follows the target's probability; `curve=\"accuracy\"` is the paper's.",
        ),
        pitfalls=("Imputation restores smooth images from scattered pixels, which favours scattered maps.",),
    )
)
def road_lerf(
    *,
    step: Step = 0.1,
    noise: NotNegative = OfRange(0.01),
    levels: Levels = ROAD_LEVELS,
    curve: CurveKind = "probability",
) -> LevelMean:
    """The decision after the least important pixels became noisy means of their neighbours.

    Args:
        levels: fractions of pixels that are imputed.
        curve: the number to follow: ``"probability"``, the paper's ``"accuracy"``, or another of a run's.
    """
    baseline = ("noisy_linear", {"noise": noise})
    return LevelMean(run=run_of("deletion", "pixel", baseline, step, "least"), levels=levels, curve=curve)

"""Insertion and deletion and their kin: areas under perturbation curves, and completeness.

Every metric here is a short composition; the numbers come from `PerturbationRun`, and metrics with
the same unit, baseline and step read the same run.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from abe.engines.runtime.problem import Problem
from abe.metrics.evaluation.perturbation import (
    CurveKind,
    Perturbation,
    PerturbationRun,
    area,
    as_absent,
)
from abe.registry import metrics
from abe.spec import value
from abe.types import Card, Passes
from abe.units import Step, as_unit

RUN = Passes(
    forward="adaptive",
    backward="0",
    words="b · (n + 1) forward rows per run, n = ceil(U / step) for U units; metrics share runs.",
)

UNIT, SIGNED = (f"{ends}; (-inf, inf) with curve='logit'" for ends in ("[0, 1]", "[-1, 1]"))


Followed = Literal["probability", "log_probability", "logit"]
"""What insertion and deletion follow: the target's probability, or its raw score before softmax."""


@value
class AreaUnderCurve:
    """Area under one curve of one run, by the trapezoid rule on [0, 1].

    Args:
        run: what to perturb.
        curve: which number to follow.
    """

    run: PerturbationRun
    curve: CurveKind = "probability"

    @property
    def runs(self) -> tuple[PerturbationRun, ...]:
        return (self.run,)

    def line(self, perturbations: Sequence[Perturbation]) -> Tensor:
        """(b, n + 1) the curve itself."""
        return perturbations[0].curve(self.curve)

    def summary(self, perturbations: Sequence[Perturbation]) -> Tensor:
        return area(self.line(perturbations).double())


@value
class Gap:
    """Area under the insertion curve minus area under the deletion curve."""

    insertion: PerturbationRun
    deletion: PerturbationRun
    curve: CurveKind = "probability"

    @property
    def runs(self) -> tuple[PerturbationRun, ...]:
        return (self.insertion, self.deletion)

    def summary(self, perturbations: Sequence[Perturbation]) -> Tensor:
        gained, kept = (area(p.curve(self.curve).double()) for p in perturbations)
        return gained - kept


@value
class MeanDrop:
    """Mean over the steps of a deletion of what the curve has lost (AOPC).

    Args:
        run: what to perturb.
        curve: which number to follow.
    """

    run: PerturbationRun
    curve: CurveKind = "probability"

    @property
    def runs(self) -> tuple[PerturbationRun, ...]:
        return (self.run,)

    def summary(self, perturbations: Sequence[Perturbation]) -> Tensor:
        line = perturbations[0].curve(self.curve).double()
        return (line[:, :1] - line).mean(1)


@value
class Residual:
    """|score(x) − score(reference) − Σ map| relative to the score change."""

    processing: ClassVar[str] = "signed, summed over everything"

    def measure(self, problem: Problem, explanation: Any) -> Tensor:
        if explanation.residual is None:
            return torch.full((len(problem.x),), torch.nan)
        return explanation.residual.abs()


def run_of(
    direction: Literal["insertion", "deletion"],
    unit: Any,
    baseline: Any,
    step: Step,
    first: Literal["most", "least"] = "most",
) -> PerturbationRun:
    """A run from what a metric's factory was given."""
    return PerturbationRun(
        direction=direction,
        unit=as_unit(unit),
        baseline=as_absent(baseline),
        step=step,
        first=first,
    )


def _gap(unit: Any, baseline: Any, step: Step, curve: CurveKind) -> Gap:
    insertion, deletion = (run_of(d, unit, baseline, step) for d in ("insertion", "deletion"))
    return Gap(insertion=insertion, deletion=deletion, curve=curve)


@metrics.register(
    Card(
        name="insertion",
        title="INS",
        source="petsiuk2018",
        direction="higher",
        range=UNIT,
        passes=RUN,
        formula="AUC of p_y along the insertion curve",
        differs=("Inserts into black, as the ABE family does; RISE's code inserts into a blur.",),
        pitfalls=("Depends on unit, baseline and step; they are part of the result's label.",),
    ),
    aliases=("ins",),
)
def insertion(
    *, unit: Any = "pixel", baseline: Any = "zero", step: Step = None, curve: Followed = "probability"
) -> AreaUnderCurve:
    """How soon the decision appears when units are inserted into the baseline, best first."""
    return AreaUnderCurve(run=run_of("insertion", unit, baseline, step), curve=curve)


@metrics.register(
    Card(
        name="deletion",
        title="DEL",
        source="petsiuk2018",
        direction="lower",
        range=UNIT,
        passes=RUN,
        formula="AUC of p_y along the deletion curve",
        pitfalls=("Rewards maps that find adversarial pixels; read it together with insertion.",),
    ),
    aliases=("del",),
)
def deletion(
    *, unit: Any = "pixel", baseline: Any = "zero", step: Step = None, curve: Followed = "probability"
) -> AreaUnderCurve:
    """How soon the decision goes when units are removed, best first."""
    return AreaUnderCurve(run=run_of("deletion", unit, baseline, step), curve=curve)


@metrics.register(
    Card(
        name="gap",
        title="GAP",
        source="laai, Table 1",
        direction="higher",
        pitfalls=("A map can gain as much by insertion as it loses by deletion; read both beside it.",),
        range=SIGNED,
        passes=RUN,
        formula="GAP = INS - DEL",
    ),
    aliases=("ins_gap",),
)
def gap(
    *, unit: Any = "pixel", baseline: Any = "zero", step: Step = None, curve: Followed = "probability"
) -> Gap:
    """Insertion minus deletion.

    It is 0 for a random order on average.
    """
    return _gap(unit, baseline, step, curve)


@metrics.register(
    Card(
        name="kl_insertion",
        title="KL-INS",
        source="laai, Table 2",
        direction="higher",
        range="[0, inf)",
        passes=RUN,
        formula="AUC of KL(U||P) = -(1/C) sum_j log P_j - ln C along the insertion curve",
        differs=("Uses U as reference and ↑, as the tables do; §4.3 and Appendix E contradict them.",),
        pitfalls=("Dominated by the least likely classes; not comparable between numbers of classes.",),
    ),
    aliases=("kl_ins",),
)
def kl_insertion(*, unit: Any = "pixel", baseline: Any = "zero", step: Step = None) -> AreaUnderCurve:
    """How soon the prediction becomes decided, whatever the class, when units are inserted."""
    return AreaUnderCurve(run=run_of("insertion", unit, baseline, step), curve="kl")


@metrics.register(
    Card(
        name="kl_deletion",
        title="KL-DEL",
        source="laai, Table 2",
        direction="lower",
        pitfalls=("Dominated by the least likely classes; not comparable between numbers of classes.",),
        range="[0, inf)",
        passes=RUN,
        formula="AUC of KL(U||P) along the deletion curve",
        differs=("Uses U as reference and ↓, as the tables do; §4.3 and Appendix E contradict them.",),
    ),
    aliases=("kl_del",),
)
def kl_deletion(*, unit: Any = "pixel", baseline: Any = "zero", step: Step = None) -> AreaUnderCurve:
    """How soon the prediction becomes undecided when units are removed."""
    return AreaUnderCurve(run=run_of("deletion", unit, baseline, step), curve="kl")


@metrics.register(
    Card(
        name="kl_gap",
        title="KL-GAP",
        source="laai, Table 2",
        direction="higher",
        pitfalls=("Blind to which class is decided: a map for another class can score well.",),
        range="(-inf, inf)",
        passes=RUN,
        formula="KL-GAP = KL-INS - KL-DEL",
    )
)
def kl_gap(*, unit: Any = "pixel", baseline: Any = "zero", step: Step = None) -> Gap:
    """KL insertion minus KL deletion."""
    return _gap(unit, baseline, step, "kl")


@metrics.register(
    Card(
        name="f_insertion",
        title="F-INS",
        source="laai, §3.4",
        direction="higher",
        pitfalls=("The colour is fair on average; for a photograph that holds it, it is not absent.",),
        range=UNIT,
        passes=RUN,
        formula="INS with the confusion feature as baseline",
    ),
    aliases=("f_ins",),
)
def f_insertion(
    *, unit: Any = "pixel", feature: Any = "confusion", step: Step = None, curve: Followed = "probability"
) -> AreaUnderCurve:
    """Insertion into the colour that leaves the model least decided (fair insertion)."""
    return AreaUnderCurve(run=run_of("insertion", unit, feature, step), curve=curve)


@metrics.register(
    Card(
        name="f_deletion",
        title="F-DEL",
        source="laai, §3.4",
        direction="lower",
        pitfalls=("The colour is fair on average; for a photograph that holds it, it is not absent.",),
        range=UNIT,
        passes=RUN,
        formula="DEL with the confusion feature as baseline",
    ),
    aliases=("f_del",),
)
def f_deletion(
    *, unit: Any = "pixel", feature: Any = "confusion", step: Step = None, curve: Followed = "probability"
) -> AreaUnderCurve:
    """Deletion by the colour that leaves the model least decided (fair deletion)."""
    return AreaUnderCurve(run=run_of("deletion", unit, feature, step), curve=curve)


@metrics.register(
    Card(
        name="f_gap",
        title="F-GAP",
        source="laai, §3.4",
        direction="higher",
        pitfalls=(
            "A model may be decided about every plain colour; look at H / ln C of the confusion feature.",
        ),
        range=SIGNED,
        passes=RUN,
        formula="F-GAP = F-INS - F-DEL",
    )
)
def f_gap(
    *, unit: Any = "pixel", feature: Any = "confusion", step: Step = None, curve: Followed = "probability"
) -> Gap:
    """Fair insertion minus fair deletion."""
    return _gap(unit, feature, step, curve)


@metrics.register(
    Card(
        name="log_odds_insertion",
        title="LO-INS",
        source="shrikumar2017",
        direction="higher",
        pitfalls=("Unbounded: one very sure sample can outweigh all others in the mean.",),
        range="(-inf, inf)",
        passes=RUN,
        formula="AUC of ln p_y - ln(1 - p_y) along the insertion curve",
    ),
    aliases=("lo_ins",),
)
def log_odds_insertion(*, unit: Any = "pixel", baseline: Any = "zero", step: Step = None) -> AreaUnderCurve:
    """Insertion followed on the log-odds, which do not saturate."""
    return AreaUnderCurve(run=run_of("insertion", unit, baseline, step), curve="log_odds")


@metrics.register(
    Card(
        name="log_odds_deletion",
        title="LO-DEL",
        source="shrikumar2017",
        direction="lower",
        pitfalls=("Unbounded: one very sure sample can outweigh all others in the mean.",),
        range="(-inf, inf)",
        passes=RUN,
        formula="AUC of ln p_y - ln(1 - p_y) along the deletion curve",
    ),
    aliases=("lo_del",),
)
def log_odds_deletion(*, unit: Any = "pixel", baseline: Any = "zero", step: Step = None) -> AreaUnderCurve:
    """Deletion followed on the log-odds, which do not saturate."""
    return AreaUnderCurve(run=run_of("deletion", unit, baseline, step), curve="log_odds")


@metrics.register(
    Card(
        name="aopc",
        title="AOPC",
        source="samek2017, Eq. 12",
        direction="higher",
        pitfalls=("Grows with the share of units removed; compare runs of the same steps only.",),
        range=SIGNED,
        passes=RUN,
        formula="(1/(n+1)) sum_k (p_y(x) - p_y(x_k))",
    )
)
def aopc(
    *, unit: Any = "pixel", baseline: Any = "zero", step: Step = None, curve: Followed = "probability"
) -> MeanDrop:
    """Mean loss of probability over the steps of a deletion."""
    return MeanDrop(run=run_of("deletion", unit, baseline, step), curve=curve)


@metrics.register(
    Card(
        name="residual",
        title="RESID",
        source="zhu2025abe, Alg. 1",
        direction="lower",
        passes=Passes(forward="0", backward="0"),
        range="[0, inf), or NaN where no completeness is claimed",
        formula="|delta - sum A| / |delta|",
        pitfalls=("NaN for methods that claim no completeness; small is necessary, not sufficient.",),
        expected_failures={
            "ranking": "sometimes, within 1e-12: reads the sum of a map, which moving its values does not "
            "change"
        },
    )
)
def residual() -> Residual:
    """What the map's sum misses of the score change it claims, relative to that change.

    NaN where the method claims none.
    """
    return Residual()

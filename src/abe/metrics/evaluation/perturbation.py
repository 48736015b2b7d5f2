"""The perturbation engine: one run along a curve, from which many metrics read.

A run changes units from most to least important and stores the model's log-probabilities at every
step. Insertion starts at the baseline and puts the input in; deletion starts at the input and puts
the baseline in. Row k of a sample is made when its turn comes, from the input, the reference and
the order of arrival, so memory does not grow with the number of steps.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from abe.baselines import Zero, as_baseline
from abe.engines.removal.removals import Absent, BoundRemoval, Removal
from abe.engines.removal.segments import segments_of
from abe.engines.runtime.problem import Problem
from abe.engines.runtime.sharing import in_order
from abe.engines.runtime.work import score
from abe.errors import Code, SpecError, note
from abe.imputation import Imputation
from abe.objectives import Logit
from abe.registry import removals
from abe.spec import value
from abe.types import Baseline, Fed
from abe.units import (
    Arrival,
    Known,
    Labelled,
    Pixel,
    Regions,
    Step,
    Unit,
    check_map,
    number_of_steps,
    settled,
    step_size,
)

CurveKind = Literal["probability", "log_probability", "log_odds", "logit", "kl", "accuracy"]
Curve = Float[Tensor, "b k"]


@value
class PerturbationRun:
    """What to change, by what, in which direction and how finely.

    Args:
        direction: ``"insertion"`` of the input into the baseline, or ``"deletion"`` by it.
        unit: what is changed together.
        baseline: what stands for "absent", in input space; one with ``fill`` is asked at every step, and so
            is a removal, such as the deletion of tokens.
        step: units per step, or a fraction of the units; None for one per cent, at least one unit.
        first: which units change first, the ``"most"`` or the ``"least"`` important.

    Cost:
        b · (n + 1) forward rows, n = ceil(U / step), plus what the baseline needs.
    """

    direction: Literal["insertion", "deletion"] | str
    unit: Unit = Pixel()
    baseline: Baseline | Removal = Zero()
    step: Step = None
    first: Literal["most", "least"] | str = "most"

    def units_per_step(self, units: int) -> int:
        """Units changed per step where there are so many of them."""
        return step_size(self.step, units)

    def points(self, units: int) -> int:
        """n + 1, the rows a sample of so many units needs."""
        return number_of_steps(units, self.units_per_step(units)) + 1

    def order(self, problem: Problem, attribution: Tensor, samples: Tensor) -> Arrival:
        """The order in which the units of some samples change."""
        ids = [problem.ids[i] for i in samples.tolist()]
        maps = attribution[samples.to(attribution.device)]
        maps = maps if self.first == "most" else -maps
        x, draws, unit = problem.x[samples], problem.draws, settled(self.unit, problem)
        if isinstance(unit, Labelled):
            return unit.of(samples, problem.x).ranks(maps, x, draws=draws, ids=ids)
        if not isinstance(unit, Regions):
            return unit.ranks(maps, x, draws=draws, ids=ids)
        found = unit.of(samples, problem.x).ranks(maps, x, draws=draws, ids=ids)
        return replace(found, nominal=unit.count(x.shape[1:]))

    def alike(self, problem: Problem) -> list[Tensor]:
        """(m,) samples that have as many units each, so that their curves have the same points."""
        unit = settled(self.unit, problem)
        if not isinstance(unit, Labelled):
            return [problem.everyone]
        counts = unit.counts().to(problem.x.device)
        return [(counts == count).nonzero().flatten() for count in counts.unique()]

    def perform(
        self,
        problem: Problem,
        attribution: Tensor,
        *,
        samples: Tensor | None = None,
        arrival: Arrival | None = None,
    ) -> "Perturbation":
        """Run the model along the curve of each sample.

        Args:
            problem: the samples, their targets, draws and counted access to the model.
            attribution: the map, of the input's shape, with one channel, or without channels.
            samples: (m,) which of the problem's samples to run; all by default.
            arrival: the order of these samples' units, where another run of the map made it already.
        """
        who = problem.everyone if samples is None else samples
        check_map(attribution, problem.x)
        order = self.order(problem, attribution, who) if arrival is None else arrival
        known = isinstance(self.unit, Known)
        step = self.units_per_step(order.nominal if known else self.unit.count(problem.x.shape[1:]))
        x, filler = problem.x[who], None
        if isinstance(self.baseline, Removal):
            reference, filler = x, _Absence(bound_removal(self.baseline, problem, self.unit), problem, who)
        elif isinstance(self.baseline, Imputation):
            reference, filler = x, _Filler(self.baseline, problem, who)
        else:
            reference = problem.reference(self.baseline, who, torch.zeros_like(who))
        curve = _Curve(order, order.thresholds(step), x, reference, self.direction, filler)
        log_p, target, logits, remarks = _chances(problem, curve, who)
        return Perturbation(
            run=self,
            log_probabilities=log_p,
            target=target,
            step=step,
            logits=logits,
            warnings=zero_maps(attribution, who) + remarks,
        )


@dataclass(frozen=True)
class _Filler:
    """A removal for the samples of a run; each step has noise of its own."""

    removal: Imputation
    problem: Problem
    who: Tensor

    def __call__(self, sample: Tensor, step: Tensor, removed: Tensor) -> Tensor:
        return self.removal.fill(self.problem, self.who[sample], step, removed)


@dataclass(frozen=True)
class _Absence:
    """What a removal makes of the samples of a run."""

    removal: BoundRemoval
    problem: Problem
    who: Tensor

    def __call__(self, sample: Tensor, step: Tensor, removed: Tensor) -> Tensor | Fed:
        owner, fixed = self.who[sample], self.problem.fixed
        keep = ~removed if fixed is None else ~removed | fixed[owner].to(removed.device)
        return self.removal.rows(Absent(owner, torch.zeros_like(owner), keep))


def bound_removal(removal: Removal, problem: Problem, unit: Unit) -> BoundRemoval:
    """A removal for the samples of a problem.

    Raises:
        SpecError: it completes what is left in several ways.
    """
    bound = removal.bind(problem, segments_of(settled(unit, problem), problem.x))
    if bound.draws > 1:
        raise SpecError(
            Code.UNSUPPORTED,
            "A curve has one row per step, and this removal several completions",
            got=f"{type(removal).__name__} with {bound.draws}",
            fix="Choose a baseline, or a removal with one completion",
        )
    return bound


def as_absent(obj: Any) -> Baseline | Removal:
    """A removal by its name, or a baseline as `abe.baselines.as_baseline` reads it."""
    name = obj[0] if isinstance(obj, tuple) and len(obj) == 2 else obj
    if isinstance(name, str) and name in removals.names():
        return removals.resolve(obj)
    return obj if isinstance(obj, Removal) and not isinstance(obj, type) else as_baseline(obj)


@dataclass(frozen=True)
class _Curve:
    """Makes the rows of a run when their turn comes; row i is step i mod (n + 1) of sample i // (n + 1)."""

    arrival: Arrival
    thresholds: Tensor
    x: Tensor
    reference: Tensor
    direction: str
    filler: _Filler | _Absence | None = None

    @property
    def points(self) -> int:
        return self.thresholds.shape[1]

    def __call__(self, rows: Tensor) -> Tensor | Fed:
        sample = rows // self.points
        reached = self.arrival.reached(sample, self.thresholds[sample, rows % self.points])
        if self.filler is not None:
            removed = ~reached if self.direction == "insertion" else reached
            return self.filler(sample, rows % self.points, removed)
        x, reference = self.x[sample], self.reference[sample]
        return (
            torch.where(reached, x, reference)
            if self.direction == "insertion"
            else torch.where(reached, reference, x)
        )


@dataclass(frozen=True)
class Perturbation:
    """A finished run.

    Attributes:
        run: what was done.
        log_probabilities: (b, n + 1, C) after step k = 0 … n, of the classes that the explained one is among;
            none, C = 0, of a regression.
        target: (b,) its entry among them.
        step: units per step.
        logits: (b, n + 1) the target's raw score, as the objective ``"logit"`` reads it; None where the model
            gives probabilities.
        warnings: notes, such as maps that are zero everywhere.
    """

    run: PerturbationRun
    log_probabilities: Float[Tensor, "b k classes"]
    target: Int[Tensor, "b"]
    step: int
    logits: Curve | None = None
    warnings: list[str] = field(default_factory=list)

    @property
    def fraction(self) -> Float[Tensor, "k"]:
        """(n + 1,) the curve's axis: steps done, from 0 to 1."""
        return torch.linspace(0, 1, self.log_probabilities.shape[1], dtype=torch.float64)

    def curve(self, kind: CurveKind | str) -> Curve:
        """(b, n + 1) one number per step, read from the stored log-probabilities and logits."""
        log_p = self.log_probabilities
        if kind == "logit":
            return _need_logits(self.logits, "This run")
        if not log_p.shape[2]:
            raise SpecError(
                Code.UNSUPPORTED,
                "A regression has no class probabilities",
                got=f"the curve {kind!r}",
                fix="Follow curve='logit', the score itself",
            )
        if kind == "kl":
            return kl_from_uniform(log_p)
        if kind == "accuracy":
            return (log_p.argmax(2) == self.target.to(log_p.device)[:, None]).to(log_p.dtype)
        target = self.target.to(log_p.device).view(-1, 1, 1).expand(-1, log_p.shape[1], 1)
        chosen = log_p.gather(2, target)[:, :, 0]
        if kind == "log_probability":
            return chosen
        if kind == "probability":
            return chosen.exp()
        if kind == "log_odds":
            # ln p − ln(1 − p), with 1 − p summed over the other classes to keep its digits
            return chosen - log_p.scatter(2, target, -torch.inf).logsumexp(2)
        raise SpecError(
            Code.BAD_PARAMETER,
            "A run has no such curve",
            got=repr(kind),
            expected="'probability', 'log_probability', 'log_odds', 'logit', 'kl' or 'accuracy'",
        )


def kl_from_uniform(log_p: Float[Tensor, "*b classes"]) -> Float[Tensor, "*b"]:
    """KL(U‖P) = −(1/C) Σ_j log P_j − ln C: 0 for a uniform prediction, large for a decided one.

    Args:
        log_p: (…, C) log-probabilities.
    """
    classes = torch.tensor(float(log_p.shape[-1]), dtype=log_p.dtype, device=log_p.device)
    return -log_p.mean(-1) - classes.log()


def area(curve: Curve) -> Float[Tensor, "b"]:
    """(b,) area under the curve over [0, 1] by the trapezoid rule, steps equally wide.

    Args:
        curve: (b, n + 1) its points.
    """
    ends = (curve[:, 0] + curve[:, -1]) / 2
    return (curve[:, 1:-1].sum(1) + ends) / (curve.shape[1] - 1)


def zero_maps(attribution: Tensor, samples: Tensor) -> list[str]:
    """A note where a sample's map is zero everywhere and its order therefore random."""
    empty = [i for i in samples.tolist() if not bool(attribution[i].any())]
    if not empty:
        return []
    who = ", ".join(map(str, empty[:5])) + (" …" if len(empty) > 5 else "")
    return [
        note(Code.ZERO_MAP, f"The map is zero everywhere, so its units come in random order (sample {who})")
    ]


def follows_score(metric: Any) -> bool:
    """Whether a metric of runs reads the raw score only, so that it needs no classes."""
    return getattr(metric.value, "curve", None) == "logit"


def check_curve(metric: Any, problem: Problem) -> None:
    """Refuse a metric of runs that follows what the outputs of a problem, which are known, do not have.

    Args:
        metric: the metric.
        problem: the explained samples.

    Raises:
        SpecError: it reads probabilities of a regression, or logits of a model that gives probabilities.
    """
    if not follows_score(metric):
        problem.task.check_classes(problem.decision.outputs, f"the metric {metric.name!r}")
    else:
        _need_logits(
            None if problem.task.output_kind == "probabilities" else problem.x, f"The metric {metric.name!r}"
        )


def _need_logits(logits: Tensor | None, what: str) -> Tensor:
    if logits is None:
        raise SpecError(
            Code.UNSUPPORTED,
            f"{what} follows the logit, and this model has none",
            got='outputs that are probabilities (output_kind="probabilities")',
            fix="Follow curve='probability' or log-odds (log_odds_insertion), or give the task the model "
            "without its last softmax or sigmoid",
        )
    return logits


def _chances(
    problem: Problem, curve: _Curve, samples: Tensor
) -> tuple[Tensor, Tensor, Tensor | None, list[str]]:
    """Of m samples: (m, n + 1, C) log-probabilities, (m,) targets among C, (m, n + 1) logits, and notes.

    Of a regression C is 0.
    """
    kept: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    remarks: list[str] = []
    logit = Logit()
    for chunk in problem.forward(curve, samples.repeat_interleave(curve.points), scored=False):
        outputs, target = chunk.outputs, problem.target[chunk.owner]
        named = 1 if target.ndim == 1 else target.shape[1]
        if not isinstance(outputs, Tensor) or outputs.ndim != named + 1:
            shape = (
                f"output shape {tuple(outputs.shape)}"
                if isinstance(outputs, Tensor)
                else type(outputs).__name__
            )
            raise SpecError(
                Code.UNSUPPORTED, "Perturbation curves need class scores", got=shape, expected="(n, classes)"
            )
        logits = score(problem.task, outputs, logit, target)
        if problem.task.output_kind == "regression":  # no classes: only the score can be followed
            chances = outputs.new_zeros((len(outputs), 0)), target.new_zeros(len(outputs))
        else:
            chances = problem.task.chances(outputs, target)
        kept.append((*chances, logits, chunk.rows))
        remarks = problem.task.remarks(outputs)
    rows = [part[-1] for part in kept]
    log_p, target, logits = (
        in_order(list(zip(rows, column, strict=True))) for column in list(zip(*kept, strict=True))[:3]
    )
    lines = None if problem.task.output_kind == "probabilities" else logits.unflatten(0, (-1, curve.points))
    return log_p.unflatten(0, (-1, curve.points)), target[:: curve.points], lines, remarks

"""How metrics share perturbation runs, and collect what lots of samples gave."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from abe.checks import outline
from abe.engines.runtime.problem import Problem
from abe.errors import Code, SpecError
from abe.metrics.evaluation.base import DataSetMetric, Metric, Score, named, named_absent
from abe.metrics.evaluation.drawing import drawing
from abe.metrics.evaluation.notes import blamed, no_reaction, without_number
from abe.metrics.evaluation.perturbation import Perturbation, PerturbationRun
from abe.metrics.evaluation.reaction import still, watched
from abe.metrics.evaluation.sided import grouped
from abe.metrics.evaluation.truth import check_asked
from abe.registry import units
from abe.types import Cost, Draws
from abe.units import Arrival, counts_in

BLOCK = 32
"""Samples whose log-probabilities are held at once."""


def measure(
    problem: Problem, explanation: Any, chosen: Sequence[Metric], *, seed: int = 0
) -> dict[str, Score]:
    """Scores of one explanation by metric name; equal runs are performed once.

    Args:
        problem: the explained samples with counted access to the model.
        explanation: its maps.
        chosen: metrics with different names.
        seed: noted in the scores; the draws are the problem's.
    """
    sheets = ScoreBook(chosen, seed=seed)
    sheets.add(problem, explanation)
    return sheets.scores()


class ScoreBook:
    """The scores of one explanation, collected lot by lot of a data set.

    Args:
        chosen: metrics with different names.
        seed: noted in the scores.
        curves: keep the curves, which take n + 1 numbers per sample.
        draws: by metric, where it draws from; by default from the problem's. Runs that metrics read are
            shared where their draws are.
    """

    def __init__(
        self,
        chosen: Sequence[Metric],
        *,
        seed: int = 0,
        curves: bool = True,
        draws: Mapping[str, Draws] | None = None,
    ) -> None:
        self._chosen = tuple(chosen)
        self._curves = curves
        self._seed = seed
        self._draws = dict(draws or {})
        read = [(run, self._draws.get(metric.name)) for metric in chosen for run in metric.runs]
        self._runs = [job for place, job in enumerate(read) if job not in read[:place]]
        self._costs = [Cost() for _ in self._runs]
        self._sheets = {metric.name: _Sheet() for metric in chosen}
        self._most: dict[str, int] = {}
        self._seen = 0

    def add(self, problem: Problem, explanation: Any) -> None:
        """Measure the samples of a problem; runs that several metrics read are performed once."""
        for chosen, own, told in grouped(self._chosen, problem, explanation):
            check_asked(own, told, [m.card for m in chosen if m.card is not None], problem.task.modality)
            self._add(own, told, chosen)
        self._seen += len(problem.x)

    def _add(self, problem: Problem, explanation: Any, chosen: Sequence[Metric]) -> None:
        """Measure by metrics that read the same request."""
        curves = [metric for metric in chosen if metric.runs]
        for metric in curves:
            most = max(counts_in(metric.runs[0].unit, problem))
            self._most[metric.name] = max(most, self._most.get(metric.name, 0))
        places = sorted({place for metric in curves for place in self._places(metric)})
        runs, costs = [self._runs[place] for place in places], [self._costs[place] for place in places]
        blocks = self._blocks(problem, runs) if curves else []
        for samples in blocks:
            done = _perform(problem, explanation.attribution, runs, samples, costs)
            for metric in curves:
                read = [done[places.index(place)] for place in self._places(metric)]
                self._sheets[metric.name].read(metric, read, curves=self._curves)
        for metric in curves if len(blocks) > 1 else ():
            self._sheets[metric.name].in_order(torch.cat(blocks).cpu())
        for metric in chosen:
            if not metric.runs:
                own = drawing(problem, self._draws.get(metric.name))
                self._sheets[metric.name].measure(metric, own, explanation)

    def _blocks(self, problem: Problem, runs: Sequence[tuple[PerturbationRun, Any]]) -> list[Tensor]:
        """Samples that are run together: those whose curves have the same points, so many at a time."""
        apart = max((run.alike(problem) for run, _ in runs), key=len)
        return [block for group in apart for block in group.split(BLOCK)]

    def _places(self, metric: Metric) -> list[int]:
        """Which of the runs a metric reads."""
        return [self._runs.index((run, self._draws.get(metric.name))) for run in metric.runs]

    def scores(self) -> dict[str, Score]:
        """What the lots gave together."""
        found = {}
        for metric in self._chosen:
            sheet = self._sheets[metric.name]
            spent = [self._costs[place] for place in self._places(metric)]
            values = sheet.result(metric, self._seen)
            found[metric.name] = Score(
                name=metric.name,
                label=label(metric, self._most.get(metric.name, 0), self._seed),
                direction=metric.direction,
                values=values,
                processing=metric.processing,
                step=sheet.step,
                seed=self._seed,
                cost=_total(spent) if spent else sheet.cost,
                curve=one_axis(sheet.curves) if sheet.curves else None,
                spec=metric.describe(),
                warnings=[
                    *sheet.warnings,
                    *without_number(metric.name, values, metric.missing),
                    *no_reaction(metric.name, sheet.still),
                ],
            )
        return found


@dataclass
class _Sheet:
    """Collects one metric's values over blocks of samples."""

    values: list[Tensor] = field(default_factory=list)
    still: list[int] = field(default_factory=list)
    curves: list[Tensor] = field(default_factory=list)
    kept: list[Mapping[str, Tensor]] = field(default_factory=list)
    step: int | None = None
    seen: int = 0
    cost: Cost = field(default_factory=Cost)
    warnings: list[str] = field(default_factory=list)

    def read(self, metric: Metric, perturbations: Sequence[Perturbation], *, curves: bool) -> None:
        b, seen = len(perturbations[0].target), sum(map(len, self.values))
        with blamed(metric.name):
            self.values.append(_checked(metric, metric.value.summary(perturbations), b))
            if curves and hasattr(metric.value, "line"):
                self.curves.append(metric.value.line(perturbations).double().cpu())
        kind = getattr(metric.value, "curve", None)
        kind = kind if isinstance(kind, str) else "probability"
        level = [set(still(p.curve(kind))) for p in perturbations]
        self.still += sorted(seen + i for i in set.intersection(*level))
        self.step = perturbations[0].step
        self.warnings.extend(w for p in perturbations for w in p.warnings if w not in self.warnings)

    def in_order(self, samples: Tensor) -> None:
        """Put what the last blocks gave, which came in the order of ``samples``, in that of their numbers."""
        taken, blocks = 0, 0
        while taken < len(samples):
            blocks += 1
            taken += len(self.values[-blocks])
        place = samples.argsort()
        self.values[-blocks:] = [torch.cat(self.values[-blocks:])[place]]
        if self.curves:
            self.curves[-blocks:] = [one_axis(self.curves[-blocks:])[place]]

    def measure(self, metric: Metric, problem: Problem, explanation: Any) -> None:
        before, began = replace(problem.evaluator.cost), time.perf_counter()
        with blamed(metric.name), watched(problem) as reaction:
            if isinstance(metric.value, DataSetMetric):
                kept = metric.value.collect(problem, explanation)
                self.kept.append({name: part.detach().cpu() for name, part in kept.items()})
            else:
                found = metric.value.measure(problem, explanation)
                self.values.append(_checked(metric, found, len(problem.x)))
        if metric.removes:
            self.still += [self.seen + i for i in reaction.none]
        self.seen += len(problem.x)
        spent = _spent(before, problem.evaluator.cost)
        spent.seconds = time.perf_counter() - began
        self.cost.add(spent)

    def result(self, metric: Metric, b: int) -> Tensor:
        if not self.kept:
            return torch.cat(self.values)
        whole = {name: torch.cat([part[name] for part in self.kept]) for name in self.kept[0]}
        with blamed(metric.name):
            return _checked(metric, metric.value.conclude(whole), b)


def _checked(metric: Metric, values: Any, b: int) -> Tensor:
    """The values as float64 on the CPU, if there is one per sample."""
    if not isinstance(values, Tensor) or values.shape != (b,):
        raise SpecError(
            Code.SHAPE,
            f"The metric {metric.name!r} must give one number per sample",
            got=outline(values),
            expected=f"({b},)",
        )
    return values.detach().double().cpu()


def _perform(
    problem: Problem,
    attribution: Tensor,
    runs: Sequence[tuple[PerturbationRun, Draws | None]],
    samples: Tensor,
    costs: Sequence[Cost],
) -> list[Perturbation]:
    """The runs for some samples; runs over the same unit share the order of arrival."""
    orders: list[tuple[tuple[Any, ...], Arrival]] = []
    done = []
    for (run, draws), cost in zip(runs, costs, strict=True):
        before, began = replace(problem.evaluator.cost), time.perf_counter()
        key, asked = (run.unit, run.first, draws), drawing(problem, draws)
        known = next((arrival for other, arrival in orders if other == key), None)
        arrival = known or run.order(asked, attribution, samples)
        if known is None:
            orders.append((key, arrival))
        done.append(run.perform(asked, attribution, samples=samples, arrival=arrival))
        after = _spent(before, problem.evaluator.cost)
        after.seconds = time.perf_counter() - began
        cost.add(after)
    return done


def label(metric: Metric, most: int, seed: int) -> str:
    """The metric's name with everything its number depends on.

    Args:
        metric: what was measured.
        most: units of the sample that has most of them.
        seed: of all draws.
    """
    if not metric.runs:
        inner = ", ".join(f"{k}={v!r}" for k, v in metric.params)
        return f"{metric.name}[{inner}, seed={seed}]" if inner else metric.name
    run = metric.runs[0]
    step = f"{run.units_per_step(most)}/{most}"
    curve = dict(metric.params).get("curve", "probability")
    first = "" if run.first == "most" else ", least first"
    first += "" if curve == "probability" else f", curve={curve}"
    return (
        f"{metric.name}[unit={named(run.unit, units)}, baseline={named_absent(run.baseline)}, "
        f"step={step}{first}, seed={seed}]"
    )


def _spent(before: Cost, after: Cost) -> Cost:
    """What was added to a running cost but for the seconds; chunk and execution as they are now."""
    counted = ("forward_rows", "backward_rows", "forward_calls", "backward_calls", "model_seconds")
    added = {name: getattr(after, name) - getattr(before, name) for name in counted}
    return Cost(**added, chunk=after.chunk, execution=after.execution)


def _total(costs: Sequence[Cost]) -> Cost:
    total = Cost()
    for cost in costs:
        total.add(cost)
    return total


def one_axis(curves: Sequence[Tensor]) -> Tensor:
    """(b, k) curves over [0, 1] in one tensor; those with fewer points are drawn through more of them."""
    most = max(curve.shape[1] for curve in curves)
    drawn = [
        curve
        if curve.shape[1] == most
        else interpolate(curve[:, None], most, mode="linear", align_corners=True)[:, 0]
        for curve in curves
    ]
    return torch.cat(drawn)

"""What a metric is, and how metrics share perturbation runs.

A metric value either declares the runs it reads (``runs`` and ``summary``), which are performed
once for all metrics that ask for them, or computes from the problem and the explanation
(``measure``), or keeps something of every sample and concludes from all of them (``collect`` and
``conclude``). All give one number per sample.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from abe.checks import outline
from abe.engines.runtime.problem import Problem
from abe.errors import Code, SpecError
from abe.metrics.evaluation.drawing import drawing
from abe.metrics.evaluation.notes import blamed, no_reaction, without_number
from abe.metrics.evaluation.perturbation import Perturbation, PerturbationRun
from abe.metrics.evaluation.reaction import still, watched
from abe.metrics.evaluation.statistics import Interval
from abe.metrics.evaluation.truth import check_asked
from abe.registry import Registry, baselines, freeze, identity, is_pair, metrics, units
from abe.spec import describe
from abe.types import Card, Cost, Direction, Draws
from abe.units import Arrival

PROCESSED = {
    "signed": "signed, channels summed",
    "positive": "positive part, channels summed",
    "absolute": "absolute value, channels summed",
    "minmax": "scaled from 0 to 1 per sample, channels summed",
}
BLOCK = 32
"""Samples whose log-probabilities are held at once."""


@runtime_checkable
class CurveMetric(Protocol):
    """A metric that reads perturbation runs."""

    @property
    def runs(self) -> tuple[PerturbationRun, ...]:
        """The runs it needs, in the order `summary` gets them."""
        ...

    def summary(self, perturbations: Sequence[Perturbation]) -> Tensor:
        """(b,) one number per sample of the runs."""
        ...


@runtime_checkable
class DirectMetric(Protocol):
    """A metric that computes what it needs."""

    def measure(self, problem: Problem, explanation: Any) -> Tensor:
        """(b,) one number per sample; NaN where it does not apply."""
        ...


@runtime_checkable
class DataSetMetric(Protocol):
    """A metric of a data set: it compares samples with each other, so it waits until all were seen."""

    def collect(self, problem: Problem, explanation: Any) -> Mapping[str, Tensor]:
        """Tensors with one entry per sample of the problem."""
        ...

    def conclude(self, kept: Mapping[str, Tensor]) -> Tensor:
        """(b,) one number per sample, from what was kept of all samples in order."""
        ...


Kinds = CurveMetric | DirectMetric | DataSetMetric


@dataclass(frozen=True, eq=False)
class Metric:
    """A metric with its name, parameters and direction; made by `as_metric`."""

    name: str
    params: tuple[tuple[str, Any], ...]
    direction: Direction
    value: Any = field(repr=False, compare=False)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Metric) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[Any, ...]:
        return self.name, identity(self.params), self.direction

    def __str__(self) -> str:
        inner = ", ".join(f"{k}={v!r}" for k, v in self.params)
        return f"{self.name}({inner})"

    @property
    def runs(self) -> tuple[PerturbationRun, ...]:
        """The perturbation runs it reads."""
        return tuple(self.value.runs) if isinstance(self.value, CurveMetric) else ()

    @property
    def card(self) -> Card | None:
        """What is known about it, if it is registered."""
        return metrics.get(self.name).card if self.name in metrics.names() else None

    @property
    def sampled(self) -> bool:
        """Whether every sample has a number of its own; else neither interval nor test means anything."""
        return getattr(self.value, "sampled", True)

    @property
    def fewest(self) -> int:
        """Samples it needs at least."""
        return getattr(self.value, "fewest", 1)

    @property
    def removes(self) -> bool:
        """Whether it reads what the model makes of samples of which parts are removed."""
        return bool(self.runs) or getattr(self.value, "removes", False)

    @property
    def missing(self) -> str:
        """Why a sample may have no number; nothing where the metric does not say."""
        return getattr(self.value, "missing", "")

    @property
    def processing(self) -> str:
        """What it reads of a map."""
        of = PROCESSED.get(getattr(self.value, "of", ""))
        usual = "signed, summed over each unit" if self.runs else PROCESSED["signed"]
        return of or getattr(self.value, "processing", usual)

    def describe(self) -> dict[str, Any]:
        """JSON-able name and parameters."""
        return {"metric": self.name, "params": {k: describe(v) for k, v in self.params}}


@dataclass(kw_only=True)
class Score:
    """One metric of one explanation.

    Attributes:
        name: of the metric.
        label: the name with everything the number depends on: unit, baseline, step, seed.
        direction: which way is better.
        values: (b,) per sample, float64; NaN where the metric does not apply.
        interval: of the mean, by the bootstrap; None where none was computed or none makes sense.
        processing: what the metric reads of a map.
        step: units per step of its runs, or None.
        seed: of the draws (ties, stochastic baselines).
        cost: model rows of its runs; metrics that read the same runs report the same rows.
        curve: (b, n + 1) the curve whose area the metric is, or None; its axis runs from 0 to 1.
        spec: metric and parameters, JSON-able.
        warnings: notes with codes.
    """

    name: str
    label: str
    direction: Direction
    values: Float[Tensor, "b"]
    interval: Interval | None = None
    processing: str = ""
    step: int | None = None
    seed: int = 0
    cost: Cost = field(default_factory=Cost)
    curve: Float[Tensor, "b k"] | None = None
    spec: Mapping[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def mean(self) -> float:
        """Mean over the samples to which the metric applies; NaN where there is none."""
        return float(self.values.nanmean())

    def to_dict(self, *, timings: bool = False) -> dict[str, Any]:
        """JSON-able form without the curve.

        Args:
            timings: the whole cost, with seconds, calls, chunk and execution; without them equal scores are
                equal texts.
        """
        rows = [f.name for f in fields(Cost)] if timings else ["forward_rows", "backward_rows"]
        return {
            "name": self.name,
            "label": self.label,
            "direction": self.direction,
            "mean": number(self.mean),
            "interval": None if self.interval is None else [number(end) for end in self.interval],
            "processing": self.processing,
            "values": [number(v) for v in self.values.tolist()],
            "step": self.step,
            "seed": self.seed,
            "cost": {name: getattr(self.cost, name) for name in rows},
            "spec": dict(self.spec),
            "warnings": list(self.warnings),
        }


def as_metric(obj: Any, *, defaults: Mapping[str, Any] | None = None) -> Metric:
    """A metric from a name, a (name, parameters) pair, a value, or a `Metric`.

    Args:
        obj: what to resolve.
        defaults: parameters used where the metric has them and ``obj`` does not set them.

    Raises:
        SpecError: unknown name or parameter, or not a metric.
    """
    if defaults is not None and not isinstance(defaults, Mapping):
        raise SpecError(Code.BAD_PARAMETER, "defaults= are parameters by name", got=type(defaults).__name__)
    if isinstance(obj, Metric):
        return obj
    if isinstance(obj, str):
        return _registered(obj, {}, defaults or {})
    if is_pair(obj):
        return _registered(obj[0], dict(obj[1]), defaults or {})
    if isinstance(obj, Kinds) and not isinstance(obj, type):
        return Metric(name=type(obj).__name__, params=(("value", obj),), direction=_direction(obj), value=obj)
    raise SpecError(
        Code.UNKNOWN_NAME,
        "This is not a metric",
        got=type(obj).__name__,
        expected='a name such as "ins", a pair ("ins", {"step": 100}), or a value with runs and summary, '
        "or with measure",
    )


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
        self._shape: tuple[int, ...] = ()
        self._seen = 0

    def add(self, problem: Problem, explanation: Any) -> None:
        """Measure the samples of a problem; runs that several metrics read are performed once."""
        check_asked(problem, explanation, [m.card for m in self._chosen if m.card is not None])
        self._shape = tuple(problem.x.shape[1:])
        curves = [metric for metric in self._chosen if metric.runs]
        for samples in problem.everyone.split(BLOCK) if curves else ():
            done = _perform(problem, explanation.attribution, self._runs, samples, self._costs)
            for metric in curves:
                read = [done[place] for place in self._places(metric)]
                self._sheets[metric.name].read(metric, read, curves=self._curves)
        for metric in self._chosen:
            if not metric.runs:
                own = drawing(problem, self._draws.get(metric.name))
                self._sheets[metric.name].measure(metric, own, explanation)
        self._seen += len(problem.x)

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
                label=label(metric, self._shape, self._seed),
                direction=metric.direction,
                values=values,
                processing=metric.processing,
                step=sheet.step,
                seed=self._seed,
                cost=_total(spent) if spent else sheet.cost,
                curve=torch.cat(sheet.curves) if sheet.curves else None,
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


def label(metric: Metric, shape: tuple[int, ...], seed: int) -> str:
    """The metric's name with everything its number depends on."""
    if not metric.runs:
        inner = ", ".join(f"{k}={v!r}" for k, v in metric.params)
        return f"{metric.name}[{inner}, seed={seed}]" if inner else metric.name
    run = metric.runs[0]
    step = f"{run.units_per_step(shape)}/{run.unit.count(shape)}"
    curve = dict(metric.params).get("curve", "probability")
    first = "" if run.first == "most" else ", least first"
    first += "" if curve == "probability" else f", curve={curve}"
    return (
        f"{metric.name}[unit={named(run.unit, units)}, baseline={named(run.baseline, baselines)}, "
        f"step={step}{first}, seed={seed}]"
    )


def named(obj: Any, registry: Registry) -> str:
    """Registered name of a value, with the parameters that differ from their defaults."""
    name = next((e.name for e in registry.entries() if e.factory is type(obj)), None)
    if name is None or not hasattr(type(obj), "__dataclass_fields__") or hasattr(obj, "__spec__"):
        return repr(obj)
    given = [f"{f.name}={getattr(obj, f.name)!r}" for f in fields(obj) if getattr(obj, f.name) != f.default]
    return f"{name}({', '.join(given)})" if given else name


def number(x: float) -> float | None:
    """A JSON number, or None where there is none (NaN, infinity)."""
    return x if x == x and abs(x) != float("inf") else None


def _registered(name: str, params: dict[str, Any], defaults: Mapping[str, Any]) -> Metric:
    entry = metrics.get(name)
    known = entry.parameters()
    bound = entry.bind({**{k: v for k, v in defaults.items() if k in known}, **params})
    with blamed(entry.name):
        value = entry.factory(**bound)
    if not isinstance(value, Kinds):
        raise SpecError(
            Code.NOT_A_VALUE,
            f"The factory of the metric {entry.name!r} does not return a metric",
            got=type(value).__name__,
            expected="a value with runs and summary, or with measure",
        )
    direction = entry.card.direction or _direction(value)
    return Metric(
        name=entry.name,
        params=tuple((k, freeze(v)) for k, v in bound.items()),
        direction=direction,
        value=value,
    )


def _direction(value: Any) -> Direction:
    """The ``direction`` of a metric value, which is needed where no card states it."""
    found = getattr(value, "direction", None)
    if found not in ("higher", "lower"):
        raise SpecError(
            Code.NOT_A_VALUE,
            "A metric must say which way is better",
            got=f"{type(value).__name__} with direction {found!r}",
            expected="'higher' or 'lower', on the card or as an attribute of the value",
        )
    return found


def runs_of(chosen: Iterable[Metric]) -> list[PerturbationRun]:
    """The different runs that metrics read, in the order of the first that does."""
    found: list[PerturbationRun] = []
    for run in (run for metric in chosen for run in metric.runs):
        if run not in found:
            found.append(run)
    return found


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

"""What a metric is, and how metrics share perturbation runs.

A metric value either declares the runs it reads (``runs`` and ``summary``), which are performed
once for all metrics that ask for them, or computes from the problem and the explanation
(``measure``), or keeps something of every sample and concludes from all of them (``collect`` and
``conclude``). All give one number per sample.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from abe.engines.removal.removals import Removal
from abe.engines.runtime.problem import Problem
from abe.errors import Code, SpecError
from abe.metrics.evaluation.notes import blamed
from abe.metrics.evaluation.perturbation import Perturbation, PerturbationRun
from abe.metrics.evaluation.statistics import Interval
from abe.registry import Registry, baselines, freeze, identity, is_pair, metrics, removals
from abe.spec import describe
from abe.types import Card, Cost, Direction

PROCESSED = {
    "signed": "signed, channels summed",
    "positive": "positive part, channels summed",
    "absolute": "absolute value, channels summed",
    "minmax": "scaled from 0 to 1 per sample, channels summed",
}


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


def named(obj: Any, registry: Registry) -> str:
    """Registered name of a value, with the parameters that differ from their defaults."""
    name = next((e.name for e in registry.entries() if e.factory is type(obj)), None)
    if name is None or not hasattr(type(obj), "__dataclass_fields__") or hasattr(obj, "__spec__"):
        return repr(obj)
    given = [f"{f.name}={getattr(obj, f.name)!r}" for f in fields(obj) if getattr(obj, f.name) != f.default]
    return f"{name}({', '.join(given)})" if given else name


def named_absent(obj: Any) -> str:
    """Registered name of what stands for "absent": a removal or a baseline."""
    return named(obj, removals if isinstance(obj, Removal) else baselines)


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

"""How many rows a comparison will run, said before it runs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import torch

from abe.baselines import Confusion
from abe.engines.removal.segments import windows_of
from abe.errors import AbeError
from abe.formulas import evaluate
from abe.metrics.evaluation.base import Metric, runs_of
from abe.metrics.evaluation.perturbation import PerturbationRun
from abe.registry import Method
from abe.units import Unrun, as_unit, counts_in

GUESS = 100.0
"""Rows of a sample by a method of which nothing is known."""
GAMES = {"summary", "estimator", "max_units", "groups", "width"}
"""Parameters of methods that run coalitions of units, not every unit once."""
GAME = 11
"""Units of which every coalition is run, at most; of more, as many coalitions as that makes are taken for."""


@dataclass(frozen=True)
class Rows:
    """Rows through the model.

    Attributes:
        forward: all that go forward.
        backward: those of them that go backward too.
    """

    forward: float = 0.0
    backward: float = 0.0

    @property
    def total(self) -> float:
        """Passes, as a cost counts them."""
        return self.forward + self.backward

    def __add__(self, other: "Rows") -> "Rows":
        return Rows(self.forward + other.forward, self.backward + other.backward)

    def __mul__(self, times: float) -> "Rows":
        return Rows(self.forward * times, self.backward * times)

    def seconds(self, forward: float, gradient: float) -> float:
        """How long they take.

        Args:
            forward: seconds of a row that goes forward only.
            gradient: seconds of a row that goes forward and backward.
        """
        return max(0.0, self.forward - self.backward) * forward + self.backward * gradient


def rows_of_method(method: Method, samples: Unrun) -> Rows:
    """Rows for one sample: promised by the card, or else counted from the parameters as far as they tell.

    Args:
        method: what explains.
        samples: such ones.
    """
    promised = method.passes(1)
    if promised is not None:
        return Rows(*promised)
    params = dict(method.params)
    units, most, times = _units(params, samples), params.get("evaluations"), float(params.get("samples") or 1)
    if units is not None:
        single = most is None and not GAMES & set(params)
        games = units * times if single else float(2 ** min(units, GAME))
        return Rows(min(games, most or games) + 1)
    if most:
        return Rows(most + 1.0)
    if "stride" in params:
        return Rows(_windows(params, samples.shape) * times + 1)
    if params.get("steps"):
        return Rows(params["steps"] * times + 2, params["steps"] * times)
    return Rows(GUESS)


def rows_of_metrics(chosen: Iterable[Metric], method: Rows, samples: Unrun) -> Rows:
    """Rows that metrics run for the map of one sample; runs that several read count once.

    Args:
        chosen: the metrics.
        method: rows of the method, which some metrics run again.
        samples: such ones.
    """
    chosen = list(chosen)
    found = Rows(sum(_points(run, samples) for run in runs_of(chosen)))
    for metric in chosen:
        card, params = metric.card, dict(metric.params)
        if metric.runs or card is None:
            continue
        if "method" in card.needs:
            found += method * (1.0 + (params.get("samples") or 1))
        elif card.passes is not None:
            names = {**params, "b": 1}
            parts = [evaluate(text, names) for text in (card.passes.forward, card.passes.backward)]
            found += Rows(*(GUESS if part is None else part for part in parts))
    return found


def rows_shared(chosen: Iterable[Metric], samples: int) -> Rows:
    """Rows that all methods share: the predictions, and the search for the confusion feature."""
    found = Rows(float(samples))
    features = {run.baseline for run in runs_of(chosen) if isinstance(run.baseline, Confusion)}
    for feature in features:
        found += Rows(1.0, 1.0) * (feature.starts * feature.steps)
    return found


def rows_of(methods: Iterable[Method], chosen: Sequence[Metric], samples: Unrun, number: int) -> Rows:
    """Rows of a whole comparison.

    Args:
        methods: what explains.
        chosen: what measures.
        samples: some of them, which stand for all.
        number: how many there are.
    """
    found = rows_shared(chosen, number)
    for method in methods:
        own = rows_of_method(method, samples)
        found += (own + rows_of_metrics(chosen, own, samples)) * number
    return found


def _points(run: PerturbationRun, samples: Unrun) -> float:
    """Rows of a curve, as a mean over the samples, which may have different numbers of units."""
    return mean(run.points(units) for units in counts_in(run.unit, samples))


def _units(params: dict[str, Any], samples: Unrun) -> int | None:
    """How many units a method removes by turns; None where it has none, or only the sample tells."""
    if params.get("units") is None:
        return None
    try:
        return round(mean(counts_in(as_unit(params["units"]), samples)))
    except (AbeError, NotImplementedError):
        return None


def _windows(params: dict[str, Any], shape: Sequence[int]) -> float:
    """How many windows lie on the sample."""
    try:
        x = torch.zeros(1, *shape)
        apart = bool(params.get("per_channel", False))
        return float(len(windows_of(x, params.get("size"), params["stride"], per_channel=apart).starts))
    except AbeError:
        return GUESS

"""What `abe.evaluate` and `abe.compare` return: scores with intervals, tests, ranks and origins."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from abe import schema, storage, words
from abe.errors import Code, SpecError, suggest
from abe.explanation import Explanation, versions
from abe.metrics.evaluation import statistics
from abe.metrics.evaluation.base import Metric, Score
from abe.metrics.evaluation.statistics import PairedTest
from abe.registry import freeze
from abe.types import Cost, Direction

KIND = "comparison"
EQUAL = 1e-6
"""Relative difference below which two means share a rank: the noise of float32 and of chunking."""
OF_A_SCORE = ("label", "direction", "interval", "processing", "step", "seed", "spec", "warnings")
"""Fields of a score that its record holds as they are."""
OF_A_COMPARISON = (
    *("objective", "seed", "confidence", "unit", "baseline", "step", "count", "confusion", "ranks"),
    *("rank_by", "origins", "tests", "failures", "setup"),
)
"""Fields of a comparison that its manifest holds under their names."""
SHOWN = 5
"""Names listed in a sentence before it says how many more there are."""


@dataclass(frozen=True)
class Failure:
    """A method that did not finish: the error's code and message."""

    code: str
    message: str


@dataclass(frozen=True)
class Origin:
    """Where a method's maps come from: its specification, what they cost, and its notes."""

    spec: Mapping[str, Any]
    cost: Cost = field(default_factory=Cost)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Measured:
    """A metric as a manifest names it."""

    metric: str
    params: Mapping[str, Any]
    direction: Direction


@dataclass(kw_only=True, repr=False)
class Comparison:
    """Methods scored on the same samples, ranked.

    Attributes:
        scores: per method (best first), scores by metric name with per-sample values and intervals.
        tests: every pair of methods by every metric, corrected together.
        origins: per method, its specification, cost and notes.
        explanations: per method, its `Explanation`; empty where the samples came as a stream.
        failures: methods that did not finish.
        metrics: what was measured.
        ranks: mean rank per method over ``rank_by``; 1 is best.
        rank_by: names of the metrics that rank.
        names: of the samples.
        target_names: of the explained classes, per sample.
        objective: the explained score, shared by all methods.
        seed: of all draws.
        confidence: of the intervals and tests.
        unit, baseline: names, as in the scores' labels.
        step: units per step; ``count`` units in all.
        count: number of units of a sample.
        setup: cost shared by all methods: predictions and the search for the confusion feature.
        confusion: H / ln C of the confusion feature, or None where it was not used.
    """

    scores: dict[str, dict[str, Score]]
    explanations: dict[str, Explanation]
    failures: dict[str, Failure]
    metrics: list[Metric]
    ranks: dict[str, float]
    rank_by: tuple[str, ...]
    names: list[str]
    target_names: list[str]
    objective: str
    seed: int
    unit: str
    baseline: str
    step: int
    count: int
    origins: dict[str, Origin] = field(default_factory=dict)
    tests: list[PairedTest] = field(default_factory=list)
    confidence: float = 0.95
    setup: Cost = field(default_factory=Cost)
    confusion: float | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        b, failed = len(self.names), [f"{name} ({one.code})" for name, one in self.failures.items()]
        told = [
            ("methods, best first", words.some(f"{m} (mean rank {self.ranks[m]:.3g})" for m in self.methods)),
            ("metrics", words.some(metric.name for metric in self.metrics)),
            ("samples", words.some(self.names)),
            ("targets", words.some(self.target_names)),
            ("settings", f"unit {self.unit}, baseline {self.baseline}, objective {self.objective}"),
            ("failed", words.some(failed)),
        ]
        notes = [note for origin in self.origins.values() for note in origin.warnings]
        title = f"Comparison of {len(self)} method{'' if len(self) == 1 else 's'} on {b} samples"
        return words.card(title, told, notes)

    @property
    def methods(self) -> list[str]:
        """Methods that finished, best first."""
        return list(self.scores)

    @property
    def curves(self) -> dict[str, dict[str, Tensor]]:
        """Per method and metric, (b, n + 1) the curve whose area was taken; its axis runs from 0 to 1."""
        return {
            method: {name: s.curve for name, s in scores.items() if s.curve is not None}
            for method, scores in self.scores.items()
        }

    def test(self, first: str, second: str, metric: str) -> PairedTest:
        """The paired test of two methods by one metric, seen from the first.

        Raises:
            SpecError: there is no such test.
        """
        for test in self.tests:
            if test.metric == metric and {test.first, test.second} == {first, second} and first != second:
                return test if test.first == first else test.reversed()
        tested = list(dict.fromkeys(t.metric for t in self.tests))
        raise SpecError(
            Code.UNKNOWN_NAME,
            "There is no such test",
            got=f"{first!r} against {second!r} by {metric!r}",
            expected=f"two of {', '.join(self.methods)}, by one of {', '.join(tested) or 'no metric'}",
            fix=suggest(metric, tested),
        )

    def leaders(self, metric: str) -> list[str]:
        """The method with the best mean, and those that are said not to differ from it."""
        best = self._best(metric)
        if best is None:
            return []
        others = [m for m in self.methods if m != best and self._against(best, m, metric) == "no difference"]
        return [best, *others]

    @property
    def conclusions(self) -> list[str]:
        """One sentence per metric that ranks: who is first, who does not differ, and who is behind."""
        return [text for metric in self.rank_by if (text := self._conclusion(metric))]

    @property
    def undecided(self) -> bool:
        """Whether no test told two methods apart, and some could not for lack of samples."""
        verdicts = {test.verdict for test in self.tests}
        return "too few samples" in verdicts and not verdicts & {"better", "worse"}

    @property
    def needs(self) -> str:
        """How many samples the tests need before they can tell anything."""
        tests = "a test needs" if len(self.tests) == 1 else f"{len(self.tests)} tests need"
        return f"{tests} at least {statistics.needed(len(self.tests), self.confidence)}"

    @property
    def caption(self) -> str:
        """What the table shows and how it is ranked."""
        b = len(self.names)
        by = " and ".join(filter(None, [", ".join(self.rank_by[:-1]), *self.rank_by[-1:]]))
        how = f"mean rank over the means of {by}" if len(self.rank_by) > 1 else f"the mean of {by}"
        steps = -(-self.count // self.step)
        cfa = "" if self.confusion is None else f" Confusion feature: H/ln C = {self.confusion:.4f}."
        return (
            f"Means over {b} sample{'s' if b > 1 else ''} {self._spread}; ranked by {how}. Unit {self.unit}, "
            f"baseline {self.baseline} in input space, {self.step} of {self.count} units per step "
            f"({steps} steps), objective {self.objective}, seed {self.seed}.{cfa}"
        )

    @property
    def _spread(self) -> str:
        if len(self.names) < 2:
            return "(one sample has no interval)"
        return f"± half of their {100 * self.confidence:g} % bootstrap interval"

    def table(self) -> Any:
        """A `rich.table.Table`, stacked where the terminal is narrow; best of each column in bold."""
        from abe.metrics.evaluation.table import build

        return build(self)

    def plot(self, path: str | Path | None = None) -> Any:
        """A figure of all means with their intervals, one panel per metric; also written to ``path``."""
        from abe.report.figures import plot_scores

        return plot_scores(self, path=path)

    def to_dict(self, *, curves: bool = False, timings: bool = False) -> dict[str, Any]:
        """JSON-able form: ranking with means, intervals and per-sample values, tests, failures, settings.

        Args:
            curves: the curves too.
            timings: of every score the seconds, calls and chunk too, which differ from run to run.
        """
        return {
            "format": "abe-comparison",
            "caption": self.caption,
            "conclusions": self.conclusions,
            **self._settings(),
            "step": {"units_per_step": self.step, "units": self.count},
            "metrics": [{**m.describe(), "direction": m.direction} for m in self.metrics],
            "ranking": [
                self._entry(place, method, curves, timings) for place, method in enumerate(self.methods, 1)
            ],
            "tests": [storage.without_gaps(asdict(test)) for test in self.tests],
            "failures": [
                {"method": m, "code": f.code, "message": f.message} for m, f in self.failures.items()
            ],
        }

    def save(self, folder: str | Path) -> Path:
        """Write scores, curves, intervals and tests (JSON and safetensors); maps are saved by themselves.

        Raises:
            StorageError: the folder cannot be written, or holds a ``comparison.json`` of something else.
        """
        return storage.save(folder, KIND, self._stored, _restored)

    @classmethod
    def load(cls, folder: str | Path) -> "Comparison":
        """Read what `save` wrote, without the maps. Nothing is unpickled.

        Raises:
            StorageError: missing, damaged, or written by something else.
        """
        return storage.load(folder, KIND, _restored)

    def _stored(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        tensors: dict[str, Tensor] = {}
        for method, scores in self.scores.items():
            for name, score in scores.items():
                tensors[_key("values", method, name)] = score.values
                if score.curve is not None:
                    tensors[_key("curve", method, name)] = score.curve
        manifest = {
            **self._settings(),
            "step": self.step,
            "count": self.count,
            "metrics": [{**m.describe(), "direction": m.direction} for m in self.metrics],
            "ranks": self.ranks,
            "origins": {m: storage.without_gaps(asdict(origin)) for m, origin in self.origins.items()},
            "scores": {m: {n: _record(s) for n, s in scores.items()} for m, scores in self.scores.items()},
            "tests": [storage.without_gaps(asdict(test)) for test in self.tests],
            "failures": {m: asdict(f) for m, f in self.failures.items()},
            "versions": versions(),
        }
        return manifest, tensors

    def _settings(self) -> dict[str, Any]:
        return {
            "samples": list(self.names),
            "targets": list(self.target_names),
            "objective": self.objective,
            "seed": self.seed,
            "confidence": self.confidence,
            "unit": self.unit,
            "baseline": self.baseline,
            "rank_by": list(self.rank_by),
            "confusion": self.confusion,
            "setup": asdict(self.setup),
        }

    def _entry(self, place: int, method: str, curves: bool, timings: bool) -> dict[str, Any]:
        origin, scores = self.origins[method], self.scores[method]
        drawn = {
            n: [[round(v, 6) for v in row] for row in c.tolist()] for n, c in self.curves[method].items()
        }
        return {
            "place": place,
            "mean_rank": self.ranks[method],
            "method": method,
            "spec": dict(origin.spec),
            "cost": asdict(origin.cost),
            "warnings": list(origin.warnings),
            "scores": {name: score.to_dict(timings=timings) for name, score in scores.items()},
            **({"curves": drawn} if curves else {}),
        }

    def _best(self, metric: str) -> str | None:
        means = {m: s[metric].mean for m, s in self.scores.items() if not math.isnan(s[metric].mean)}
        if not means:
            return None
        direction = next(m.direction for m in self.metrics if m.name == metric)
        return (max if direction == "higher" else min)(means, key=means.__getitem__)

    def _against(self, first: str, second: str, metric: str) -> str:
        try:
            return self.test(first, second, metric).verdict
        except SpecError:
            return "not tested"

    def _conclusion(self, metric: str) -> str:
        best = self._best(metric)
        verdicts = {m: self._against(str(best), m, metric) for m in self.methods if m != best}
        title = next(m for m in self.metrics if m.name == metric)
        title = title.name if title.card is None else title.card.title
        if best is None or not verdicts or set(verdicts.values()) == {"not tested"}:
            return ""
        few = [m for m, v in verdicts.items() if v == "too few samples"]
        same = [m for m, v in verdicts.items() if v == "no difference"]
        behind = [m for m, v in verdicts.items() if v == "better"]
        said = [f"{_listed(same)} {'do' if len(same) > 1 else 'does'} not differ from it"] if same else []
        said += [f"{_listed(behind)} {'are' if len(behind) > 1 else 'is'} worse"] if behind else []
        if few:
            against = "" if len(few) == len(verdicts) else f" against {_listed(few)}"
            said += [f"too few samples to tell{against} ({self.needs})"]
        return f"{title}: {best} has the best mean; {'; '.join(said)}."


def mean_ranks(scores: Mapping[str, Mapping[str, Score]], by: Sequence[Metric]) -> dict[str, float]:
    """Rank 1 for the best mean of each metric, equal means sharing their ranks, averaged over metrics."""
    found: dict[str, list[float]] = {name: [] for name in scores}
    for metric in by:
        sign = -1.0 if metric.direction == "higher" else 1.0
        keys = {name: sign * s[metric.name].mean for name, s in scores.items()}
        keys = {name: math.inf if math.isnan(key) else key for name, key in keys.items()}
        for name, key in keys.items():
            same = sum(math.isclose(key, other, rel_tol=EQUAL) for other in keys.values())
            better = sum(
                other < key and not math.isclose(key, other, rel_tol=EQUAL) for other in keys.values()
            )
            found[name].append(better + (same + 1) / 2)
    return {name: sum(r) / len(r) if r else 1.0 for name, r in found.items()}


def with_statistics(
    scores: Mapping[str, Mapping[str, Score]], metrics: Sequence[Metric], *, seed: int, confidence: float
) -> list[PairedTest]:
    """Give every score its interval, and return the tests of every pair of methods.

    Metrics that measure a batch as a whole, such as seconds, get neither.
    """
    sampled = [m for m in metrics if m.sampled]
    asked = [scores[name][m.name] for name in scores for m in sampled]
    if asked:
        columns = torch.stack([score.values for score in asked], 1)
        spans = statistics.intervals(columns, seed=seed, confidence=confidence)
        for score, span in zip(asked, spans, strict=True):
            score.interval = None if math.isnan(span[0]) else span
    values = {name: {m.name: s[m.name].values for m in sampled} for name, s in scores.items()}
    directions: dict[str, Direction] = {m.name: m.direction for m in sampled}
    return statistics.paired_tests(values, directions, seed=seed, confidence=confidence)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _record(score: Score) -> dict[str, Any]:
    """Everything of a score but its tensors."""
    return storage.without_gaps(
        {**{name: getattr(score, name) for name in OF_A_SCORE}, "cost": asdict(score.cost)}
    )


def _key(what: str, method: str, metric: str) -> str:
    """The name of a tensor; a method may be called after a file whose name is no text."""
    return f"{what}/{method}/{metric}".encode("utf-8", "backslashreplace").decode()


def _restored(manifest: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Comparison:
    """The comparison of a manifest and its tensors; refuses parts that do not belong together."""
    held = schema.members(Comparison, manifest, names=OF_A_COMPARISON)
    for name, told in (("names", "samples"), ("target_names", "targets")):
        held[name] = schema.read(list[str], manifest.get(told), told)
    measured = schema.read(list[_Measured], manifest.get("metrics"), "metrics")
    metrics = [
        Metric(
            name=m.metric,
            params=tuple((k, freeze(v)) for k, v in m.params.items()),
            direction=m.direction,
            value=None,
        )
        for m in measured
    ]
    _check_settings(held, [m.name for m in metrics])
    records = schema.read(dict[str, dict[str, dict[str, Any]]], manifest.get("scores"), "scores")
    scores: dict[str, dict[str, Score]] = {method: {} for method in records}
    left = set(tensors)
    for method, row in records.items():
        schema.need(set(row) == {m.name for m in metrics}, f"scores[{method!r}] has other metrics")
        for name, record in row.items():
            told = schema.members(Score, record, f"scores[{method!r}][{name!r}]", (*OF_A_SCORE, "cost"))
            keys = [_key(what, method, name) for what in ("values", "curve")]
            values, curve = tensors[keys[0]], tensors.get(keys[1])
            schema.need_tensor(f"the values of {method}", values, (len(held["names"]),), bounded=False)
            if curve is not None:
                schema.need_tensor(f"the curve of {method}", curve, None, bounded=False)
                fits = curve.ndim == 2 and len(curve) == len(held["names"]) and curve.shape[1] > 0
                schema.need(fits, f"the curve of {method} is {tuple(curve.shape)}")
            left -= set(keys)
            scores[method][name] = Score(**told, name=name, values=values, curve=curve)
    schema.need(not left, f"{len(left)} tensors belong to no score")
    for name in ("ranks", "origins"):
        schema.need(set(held[name]) == set(scores), f"{name} are of other methods than the scores")
    known = {(m, name) for m, row in scores.items() for name in row}
    for test in held["tests"]:
        pair = {(test.first, test.metric), (test.second, test.metric)}
        schema.need(
            len(pair) == 2 and pair <= known, f"a test of {test.first} and {test.second} is of nothing"
        )
        schema.need(0 <= test.n <= len(held["names"]), f"a test has {test.n} samples")
    return Comparison(**held, scores=scores, explanations={}, metrics=metrics)


def _check_settings(held: Mapping[str, Any], metrics: Sequence[str]) -> None:
    """Refuse settings that cannot be those of any comparison."""
    b = len(held["names"])
    schema.need(
        b > 0 and len(held["target_names"]) == b, f"{len(held['target_names'])} targets of {b} samples"
    )
    schema.need(held["step"] > 0 and held["count"] > 0, "step and count must be positive")
    schema.need(0.5 <= held.get("confidence", 0.95) < 1, "confidence is no level of confidence")
    schema.need(len(set(metrics)) == len(metrics), "two metrics have one name")
    schema.need(set(held["rank_by"]) <= set(metrics), "rank_by names metrics that are not there")

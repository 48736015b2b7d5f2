"""Methods race over shared samples: all survivors see the same next block, and who cannot lead drops out.

A race looks at most six times. Each look spends a part of the allowed chance of error, so that over all looks
together the best method is dropped with at most that chance (error spending; F-Race, Birattari et al. 2002).
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from abe.api import explain
from abe.engines.runtime.request import running
from abe.errors import AbeError, Code, SpecError
from abe.metrics.evaluation.base import Metric, as_metric
from abe.metrics.evaluation.batches import Batch, Samples
from abe.metrics.evaluation.evaluate import Evaluation
from abe.metrics.evaluation.foresight import rows_of_method, rows_of_metrics
from abe.metrics.evaluation.sources import MethodMaps, SavedMaps, named
from abe.registry import Method
from abe.task.base import Lifted, Task
from abe.theory import controls
from abe.theory.criteria import Criterion
from abe.theory.flips import Flips
from abe.theory.ranking import set_of_best, units_of
from abe.units import Unrun

FIRST = 16
"""Samples before the first look: fewer leave no protection against skewed scores."""
LOOKS = 6
PILOT = 2
"""Samples that tell what a method costs."""
LOT = 4
"""Samples explained together; what is measured of a whole batch, such as seconds, counts once a lot."""
FEWEST = 6
"""Samples without which no two methods can be told apart at 95 %."""


@dataclass
class Runner:
    """A candidate or control in the race.

    Attributes:
        name: of the method, told apart from namesakes.
        method: what is run; None for a control.
        maps: of a control, from features.
        optimises: metrics that it maximises itself.
        seconds: per sample, as far as measured.
        failed: code and message, where it did not finish.
        dropped: samples after which it could no longer lead by any criterion.
        aside: why it was not run to the end, where the budget did not allow it.
        notes: what its explanations said of themselves.
    """

    name: str
    method: Method | None = None
    maps: Callable[[Tensor], Tensor] | None = None
    optimises: tuple[str, ...] = ()
    seconds: float = math.nan
    failed: tuple[str, str] | None = None
    dropped: int | None = None
    aside: str = ""
    notes: list[str] = field(default_factory=list[str])

    @property
    def runs(self) -> bool:
        """Whether it goes on."""
        return self.failed is None and self.dropped is None and not self.aside


@dataclass(kw_only=True)
class Race:
    """What is raced over, and what has been seen so far.

    Attributes:
        task, samples, objective, seed: as for `abe.compare`.
        target, labels, masks: of all samples, or None.
        runners: candidates and controls.
        criteria: the one that decides first first.
        settings: by name, what each criterion is measured under; the first is the usual one.
        confidence: that the best is never dropped.
        ends: `time.perf_counter` at which the budget is spent.
        scores: (criterion, setting, runner) -> scores per sample; NaN where it failed.
        seen: samples so far.
        lots: of every sample so far, the lot in which it was explained.
        levels: the chance of error that each look spent.
        looked: samples at every look.
        advance, relabel: of a progress bar.
    """

    task: Task
    samples: Lifted
    objective: Any
    seed: int
    runners: list[Runner]
    criteria: Sequence[Criterion]
    settings: Mapping[str, Mapping[str, Any]]
    confidence: float
    ends: float
    target: Any = None
    labels: Tensor | None = None
    masks: Tensor | None = None
    units: Sequence[Any] | None = None
    scores: dict[tuple[str, str, str], list[float]] = field(default_factory=dict)
    seen: int = 0
    lots: list[int] = field(default_factory=list[int])
    levels: list[float] = field(default_factory=list[float])
    looked: list[int] = field(default_factory=list[int])
    interrupted: bool = False
    advance: Callable[[float], None] = lambda _: None
    relabel: Callable[[str], None] = lambda _: None

    @property
    def usual(self) -> str:
        """The setting that decides."""
        return next(iter(self.settings))

    def run(self) -> None:
        """Run blocks and looks until the samples or the budget are used up, or the user interrupts."""
        try:
            self._pilot()
            for size in self._plan():
                self._block(size - self.seen)
                self.looked.append(self.seen)
                self._drop()
                if self.decided or not self._affordable(1):
                    break
        except KeyboardInterrupt:
            if self.seen == 0:
                raise
            self.interrupted = True

    def table(self, criterion: Criterion, setting: str, names: Sequence[str]) -> Float[Tensor, "n k"]:
        """Scores of some runners on the samples that all of them have seen, as they were measured."""
        columns = [self.scores.get((criterion.name, setting, name), []) for name in names]
        n = min(map(len, columns), default=0)
        return torch.tensor([column[:n] for column in columns], dtype=torch.float64).reshape(len(names), n).T

    def measured(self, criterion: Criterion, *, whole: bool = True) -> list[str]:
        """Names of runners with scores by a criterion; of those that saw all samples, or of any."""
        found = []
        for one in self.runners:
            have = len(self.scores.get((criterion.name, self.usual, one.name), []))
            if one.failed is None and have and (have == self.seen or not whole):
                found.append(one.name)
        return found

    def together(self, criterion: Criterion) -> Sequence[Any] | None:
        """What counts as one unit: groups of samples, or lots for what is measured of a whole lot."""
        if not criterion.metric.sampled:
            return self.lots
        return None if self.units is None else self.units[: self.seen]

    # --- blocks -------------------------------------------------------------------------------------------

    def _pilot(self) -> None:
        """What every runner costs, by the first samples; what cannot reach the first look is set aside."""
        self._foresee()
        self._block(min(PILOT, len(self.samples.x)))
        candidates = [one for one in self.runners if one.runs and one.method is not None]
        least = min(FEWEST, len(self.samples.x)) - self.seen
        left = self.ends - time.perf_counter()
        if candidates and least > 0:
            cheapest = min(candidates, key=lambda one: one.seconds)
            if cheapest.seconds * least > left:
                wanted = (cheapest.seconds * (least + self.seen)) * 1.2 + 1
                raise SpecError(
                    Code.BUDGET,
                    "The budget is too small for any method",
                    got=f"{max(left, 0):.1f} s left after {self.seen} samples",
                    fix=f'budget="{math.ceil(wanted)}s" lets {cheapest.name} run on '
                    f"{least + self.seen} samples",
                )
        first = min(FIRST, len(self.samples.x)) - self.seen
        for one in sorted(candidates, key=lambda one: -one.seconds):
            running_now = sum(other.seconds for other in self.runners if other.runs)
            if running_now * first <= left:
                break
            others = [o for o in candidates if o.runs and o is not one]
            if not others:
                break
            one.aside = f"{one.seconds:.2g} s per sample"

    def _foresee(self) -> None:
        """Set aside, before it runs, what is foretold to take more than the budget up to the first look."""
        rows = torch.arange(min(PILOT, len(self.samples.x)))
        lifted = self.samples.take(rows)
        try:
            cost = explain(self.task, lifted, "gradient", progress=False).cost
        except AbeError:  # without a gradient; then the first samples tell what rows cost
            return
        pace, seen = cost.model_seconds / max(cost.passes, 1), Unrun(lifted.x, lifted.context, self.task)
        left = self.ends - time.perf_counter()
        first = min(FIRST, len(self.samples.x))
        found = dict[str, float]()
        for one in self.runners:
            if one.method is not None:
                own = rows_of_method(one.method, seen)
                total = own
                for changed in self.settings.values():
                    total += rows_of_metrics([under(c.metric, changed) for c in self.criteria], own, seen)
                found[one.name] = total.total * pace
        for one in self.runners:
            if one.name in found and found[one.name] * first > left:
                one.aside = f"about {found[one.name]:.2g} s per sample, as foretold"
        if found and all(one.aside for one in self.runners if one.method is not None):
            name, least = min(found.items(), key=lambda one: one[1])
            raise SpecError(
                Code.BUDGET,
                "The budget is too small for any method",
                got=f"{max(left, 0):.1f} s",
                fix=f'budget="{math.ceil(least * first * 1.2) + 1}s" lets {name} run on {first} samples',
            )

    def _affordable(self, n: int) -> bool:
        cost = sum(one.seconds for one in self.runners if one.runs)
        return self.ends - time.perf_counter() >= cost * n

    def _plan(self) -> list[int]:
        """Samples at every look: 16, 32, 64, ... up to what samples and budget allow."""
        cost = sum(one.seconds for one in self.runners if one.runs)
        left = self.ends - time.perf_counter()
        most = len(self.samples.x)
        if cost > 0:
            most = min(most, self.seen + max(1, int(left / cost)))
        if any(one.runs for one in self.runners) and most < len(self.samples.x):
            most = min(len(self.samples.x), 2 * most)  # later blocks are cheaper where methods drop out
        sizes = []
        size = FIRST
        while size < most and len(sizes) < LOOKS - 1:
            sizes.append(size)
            size *= 2
        return [*(one for one in sizes if one > self.seen), *([most] if most > self.seen else [])]

    def _block(self, n: int) -> None:
        """Explain and measure the next samples by every runner, as many as fit the budget."""
        cost = sum(one.seconds for one in self.runners if one.runs)
        if cost == cost and cost > 0 and self.seen:
            n = min(n, max(1, int((self.ends - time.perf_counter()) / cost)))
        rows = torch.arange(self.seen, min(self.seen + n, len(self.samples.x)))
        found: dict[tuple[str, str, str], list[float]] = {}
        for one in [one for one in self.runners if one.runs]:
            self.relabel(one.name)
            began = time.perf_counter()
            found |= self._measure(one, rows)
            spent = (time.perf_counter() - began) / len(rows)
            one.seconds = spent if one.seconds != one.seconds else min(max(spent, 1e-6), 2 * one.seconds)
            self.advance(len(rows))
        for key, values in found.items():  # whole blocks only: an interruption loses no more than its own
            self.scores.setdefault(key, []).extend(values)
        self.seen += len(rows)
        first = self.lots[-1] + 1 if self.lots else 0
        self.lots += [first + i // LOT for i in range(len(rows))]

    def _measure(self, one: Runner, rows: Tensor) -> dict[tuple[str, str, str], list[float]]:
        """Scores of one runner on some samples, lot by lot; nothing where it failed."""
        found: dict[tuple[str, str, str], list[float]] = {}
        for lot in rows.split(LOT):
            for key, values in self._of_lot(one, lot).items():
                found.setdefault(key, []).extend(values)
            if one.failed is not None:
                return {}
        return found

    def _of_lot(self, one: Runner, rows: Tensor) -> dict[tuple[str, str, str], list[float]]:
        """Scores of one runner on a lot under every setting; maps are made once where that is enough."""
        usable = [c for c in self.criteria if one.method is not None or c.of_maps]
        found: dict[tuple[str, str, str], list[float]] = {}
        source: Any = MethodMaps(one.method) if one.method is not None else None
        for name, changed in self.settings.items():
            metrics = [under(c.metric, changed) for c in usable]
            if name != self.usual:
                metrics = [m for m, c in zip(metrics, usable, strict=True) if m != c.metric]
            if not metrics:
                continue
            scores, again = self._evaluated(one, source, metrics, rows)
            if scores is None:
                return {}
            if again is not None and one.method is not None and all(c.of_maps for c in usable):
                source = again
            for metric, values in scores.items():
                found[metric, name, one.name] = values
        return found

    def _evaluated(
        self, one: Runner, source: Any, metrics: list[Metric], rows: Tensor
    ) -> tuple[dict[str, list[float]] | None, Any]:
        lifted = self.samples.take(rows)
        if source is None:
            maps = one.maps(lifted.x) if one.maps is not None else lifted.x
            source = next(iter(named({one.name: maps}).values()))
        plan = Evaluation(
            task=self.task,
            sources={one.name: source},
            metrics=metrics,
            objective=self.objective,
            seed=self.seed,
        )
        samples = Samples(
            task=self.task,
            data=lifted,
            target=None if self.target is None else self.target[rows],
            labels=None if self.labels is None else self.labels[rows],
            masks=None if self.masks is None else self.masks[rows],
        )
        with running(self.task):
            lot: Batch | None = None
            for lot in samples:
                plan.measure(lot, lambda _: None)
        if one.name in plan.failures:
            failure = plan.failures[one.name]
            one.failed = (failure.code, failure.message)
            return None, None
        told = plan.origins[one.name].warnings
        one.notes += [note for note in told if note not in one.notes]
        scores = plan.scores()[one.name]
        kept = plan.explanations.get(one.name)
        values = {name: score.values.double().tolist() for name, score in scores.items()}
        return values, None if kept is None else SavedMaps(one.name, kept)

    # --- looks --------------------------------------------------------------------------------------------

    @property
    def left(self) -> float:
        """The chance of error that no look has spent, which is for what is said at the end."""
        return max(1 - self.confidence - sum(self.levels), 0.0)

    def spent(self) -> float:
        """The chance of error that the last look may spend: as large a share as it added samples."""
        before = self.looked[-2] if len(self.looked) > 1 else 0
        return (1 - self.confidence) * (self.seen - before) / max(len(self.samples.x), self.seen)

    def _drop(self) -> None:
        """Drop candidates that cannot be the best by any criterion; controls run along."""
        if self.seen < FEWEST or self.seen == len(self.samples.x):
            return
        level, leading = self.spent(), set[str]()
        self.levels.append(level)
        for criterion in self.criteria:
            names = self.measured(criterion)
            if len(names) < 2:
                return
            table = larger_is_better(self.table(criterion, self.usual, names), criterion)
            units, _ = units_of(table, self.together(criterion))
            _, _, p = set_of_best(units, Flips.of(len(units), self.seed))
            leading |= {name for name, one in zip(names, p, strict=True) if one > level}
        for one in self.runners:
            if one.runs and one.method is not None and one.name not in leading:
                one.dropped = self.seen

    @property
    def decided(self) -> bool:
        """Whether fewer than two candidates are left."""
        return sum(one.runs and one.method is not None for one in self.runners) < 2


def larger_is_better(table: Float[Tensor, "n k"], criterion: Criterion) -> Float[Tensor, "n k"]:
    """Scores turned so that larger ones are better; a NaN becomes the worst that was seen."""
    turned = table if criterion.metric.direction == "higher" else -table
    gap = ~turned.isfinite()
    worst = turned[~gap].min() if bool((~gap).any()) else torch.tensor(0.0, dtype=turned.dtype)
    return torch.where(gap, worst, turned)


def under(metric: Metric, changed: Mapping[str, Any]) -> Metric:
    """The metric with other settings, of those that it has; itself where it has none of them."""
    if metric.card is None:
        return metric
    own = {key: value for key, value in metric.params if key not in changed}
    return as_metric((metric.name, own), defaults=changed)


def control_runners(task: Task, x: Tensor, seed: int) -> list[Runner]:
    """A random explainer, and an edge detector where the samples are pictures."""
    found = [Runner(controls.RANDOM, maps=lambda x: controls.random_maps(x, seed))]
    if x.ndim == 4 and task.modality in ("image", "segmentation"):
        found.append(Runner(controls.EDGES, maps=controls.edges))
    return found

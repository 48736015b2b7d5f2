"""`evaluate`: many explanations by many metrics in one plan; `compare` and `score` run the same plan.

For every lot of samples the model predicts once; then each source gives its maps, and equal perturbation
runs are performed once for all metrics that read them.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from torch import Tensor

from abe.baselines import Confusion
from abe.draws import Sources
from abe.engines.runtime.evaluator import Evaluator
from abe.engines.runtime.problem import Problem
from abe.engines.runtime.request import pose, running
from abe.engines.runtime.targets import Decision
from abe.errors import AbeError, Code, InputError, SpecError
from abe.explanation import Explanation
from abe.metrics.evaluation.base import (
    Metric,
    Score,
    as_metric,
    named,
    named_absent,
    runs_of,
)
from abe.metrics.evaluation.batches import Batch, Samples
from abe.metrics.evaluation.book import ScoreBook
from abe.metrics.evaluation.comparison import (
    Comparison,
    Failure,
    Origin,
    mean_ranks,
    with_statistics,
)
from abe.metrics.evaluation.defaults import chosen_metrics, defaults_of
from abe.metrics.evaluation.drawing import Drawing
from abe.metrics.evaluation.foresight import Rows, rows_of_method, rows_of_metrics, rows_shared
from abe.metrics.evaluation.notes import asked, unsteady
from abe.metrics.evaluation.perturbation import PerturbationRun, as_absent, check_curve, follows_score
from abe.metrics.evaluation.reexplain import objective_of
from abe.metrics.evaluation.sources import Explaining, MethodMaps, SavedMaps, Source, explained_by
from abe.metrics.evaluation.sources import named as named_sources
from abe.metrics.evaluation.statistics import check_confidence
from abe.metrics.evaluation.truth import with_truth
from abe.objectives import as_objective, objective_name
from abe.progress import Progress
from abe.registry import items_of, units
from abe.task.base import Task
from abe.task.lifted import Units
from abe.task.start import Given, entrance
from abe.types import Cost, Objective
from abe.units import Step, Unrun, as_unit, counts_in

Execution = Literal["auto", "model"]
PAIRS = ("gap", "kl_gap", "f_gap")
"""Metrics that rank methods unless told otherwise."""

NOTES = 20  # of one method, that are kept of a stream


@entrance
def evaluate(
    task: Given,
    explanations: Any,
    metrics: Sequence[Any] | None = None,
    *,
    data: Any = None,
    target: Any = None,
    labels: Any = None,
    masks: Any = None,
    objective: Any = None,
    unit: Any = None,
    baseline: Any = None,
    step: Step = None,
    rank_by: str | Sequence[str] | None = None,
    seed: int = 0,
    ids: Sequence[int | str] | None = None,
    draws: Sources = None,
    confidence: float = 0.95,
    execution: Execution = "auto",
    chunk: int | None = None,
    progress: bool | Callable[[float], None] = True,
    **asked: Any,
) -> Comparison:
    """Score many explanations of the same samples by many metrics, with intervals and paired tests.

    Args:
        task: the model that was explained.
        explanations: by name, or a list: finished explanations, arrays of maps from elsewhere (as
            `abe.Explanation.from_array` reads them), paths of either, functions ``(inputs, targets) ->
            maps``, or methods, which explain as they go.
        metrics: names, (name, parameters) pairs or values; the same defaults as `abe.compare`.
        data: the explained inputs, as for `abe.explain`; the explanations' own by default. Anything else
            that can be iterated, such as a data loader, is a stream of batches: inputs, (inputs, labels,
            masks), or mappings with inputs, labels, masks, targets; so is a list of those with labels or
            masks. Only one batch is held at a time.
        target: the explained classes; those of the explanations, else the predictions.
        labels: (b,) true classes, for metrics that need them.
        masks: (b, h, w) true regions, likewise: booleans, 0 and 1 or 0 and 255, as arrays or pictures.
        objective: the explained score; that of the explanations, else the logit.
        unit: what is changed together, for every metric that does not bring its own; by default what suits
            the task, a pixel of images.
        baseline: what stands for "absent", likewise, zero in images; F-INS and F-DEL keep the confusion
            feature.
        step: units per step or a fraction of them, likewise; 1 % by default.
        rank_by: metrics whose ranks are averaged; by default the three gaps where measured, else all.
        seed: of all draws: ties, stochastic baselines, resamples.
        ids: identities the draws depend on; by default the explanations' or each sample's content.
        draws: another source of maps' and metrics' randomness than the seed, such as recorded draws
            (`abe.testing.ReplayedDraws`): one for all, or a mapping from names of methods and metrics, the
            others keeping to the seed. Resamples of intervals keep to it always.
        confidence: of intervals and tests.
        execution: ``"auto"`` may run a verified faster copy of the model; ``"model"`` never does.
        chunk: rows at a time; found by timing when None.
        progress: show a bar after two seconds, or a function called with rows done.
        **asked: what of the samples in ``data`` is asked about, such as a region, where the task asks for it.

    Returns:
        Scores per method and metric with per-sample values, direction, processing, cost and interval, a
        test of every pair of methods, corrected for their number, and a ranking.

    Raises:
        AbeError: a map of another shape, NaN, maps of other samples, missing labels or masks, a metric
            that does not apply: all said before the model runs where they can be seen. Recorded draws of
            another shape, and such as nobody asked for.

    Cost:
        b forward rows for all, and per explanation b · (n + 1) for each different run its metrics read,
        plus what metrics without a run need.

    Example:
        >>> import torch, abe
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2, bias=False))
        >>> task, x = abe.image_task(model), torch.rand(3, 3, 2, 2)
        >>> maps = {"all": torch.ones_like(x), "exact": abe.explain(task, x, "gradient_x_input")}
        >>> found = abe.evaluate(task, maps, ["insertion", "deletion"], data=x)
        >>> sorted(found.methods)
        ['all', 'exact']
    """
    sources = named_sources(explanations)
    finished = [s.explanation for s in sources.values() if isinstance(s, SavedMaps)]
    shared = defaults_of(task, unit, baseline, step)
    plan = Evaluation(
        task=task,
        sources=sources,
        metrics=chosen_metrics(metrics, shared, task),
        objective=_objective(objective, finished, task.usual[1]),
        target=explained_by(task, target, finished),
        seed=seed,
        draws=draws,
        confidence=confidence,
        execution=execution,
        chunk=chunk,
        title="evaluate",
    )
    samples = Samples(
        task=task,
        data=data,
        explanations=finished,
        target=target,
        labels=labels,
        masks=masks,
        ids=ids,
        asked=asked if data is None else {**asked, **task.told(plan.objective)},
    )
    return plan.run(samples, shared, rank_by, progress)


@dataclass(kw_only=True)
class Evaluation:
    """One evaluation: what to measure of which maps, and what all of them share.

    Attributes:
        task: the model and how to read it.
        sources: of the maps, by name.
        metrics: what to measure.
        objective: the explained score.
        target: the explained classes of all samples, where they are known before the model runs.
        seed, draws, confidence, execution, chunk: see `evaluate`.
        title: what the progress bar says first.
        tell: called with a source's name and scores, or its failure, as soon as it is done, where all
            samples are one lot.
    """

    task: Task
    sources: Mapping[str, Source]
    metrics: list[Metric]
    objective: Objective
    target: Tensor | None = None
    seed: int = 0
    draws: Any = None
    confidence: float = 0.95
    execution: Execution = "auto"
    chunk: int | None = None
    title: str = "evaluate"
    tell: Callable[[str, Mapping[str, Score] | Failure], None] | None = None
    setup: Cost = field(default_factory=Cost)
    failures: dict[str, Failure] = field(default_factory=dict)
    explanations: dict[str, Explanation] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    target_names: list[str] = field(default_factory=list)
    confusion: float | None = None
    _sheets: dict[str, ScoreBook] = field(default_factory=dict)
    _first_problem: Exception | None = None

    @cached_property
    def drawing(self) -> Drawing:
        """Where random numbers come from."""
        explaining = [name for name, source in self.sources.items() if isinstance(source, MethodMaps)]
        return Drawing(self.draws, self.seed, explaining, [metric.name for metric in self.metrics])

    def run(
        self,
        samples: Samples,
        settings: Mapping[str, Any],
        rank_by: str | Sequence[str] | None,
        progress: bool | Callable[[float], None],
    ) -> Comparison:
        """Measure every source on every lot, and draw the conclusions."""
        ranking = _rank_by(rank_by, self.metrics)
        check_confidence(self.confidence)
        self._check_metrics()
        with (
            running(self.task),
            Progress(self.title, enabled=progress is True) as bar,
        ):
            advance = progress if callable(progress) else bar.advance
            lot: Batch | None = None
            unit, most = as_unit(settings["unit"]), 0
            for lot in samples:
                if lot.alone:
                    self._check_number(len(lot))
                bar.total = bar.total or self._rows(lot, samples.expected)
                self.measure(lot, advance, keep=lot.alone, relabel=bar.relabel)
                most = max(most, *counts_in(unit, Unrun(lot.lifted.x, lot.lifted.context, self.task)))
            if lot is not None:  # samples are refused where there is none
                self.finish(lot)
        return self._comparison(most, settings, ranking, lot.lifted.units if lot else ())

    def finish(self, last: Batch) -> None:
        """Refuse maps and recorded draws beyond those of the samples there were."""
        for source in self.sources.values():
            source.finish(last)
        self.drawing.check_used(self.failures)

    def measure(
        self,
        lot: Batch,
        advance: Callable[[int], None],
        *,
        keep: bool = True,
        relabel: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Score every source on one lot; one that fails is noted and left out of later lots."""
        self._check_truth(lot)
        for source in self.sources.values():
            source.check(lot)
        problem = self._settle(lot, advance)
        for metric in self.metrics:
            if metric.runs:
                check_curve(metric, problem)
        request = Explaining(
            task=self.task,
            objective=self.objective,
            seed=self.seed,
            draws=self.drawing.of(),
            execution=self.execution,
            chunk=self.chunk,
            advance=advance,
        )
        for name, source in self.sources.items():
            relabel(name)
            if name not in self.failures:
                self._measure(name, source, lot, problem, request, keep)
                if keep and self.tell is not None:
                    failed = self.failures.get(name)
                    self.tell(name, self._sheets[name].scores() if failed is None else failed)
        self._note_confusion(problem)

    def scores(self) -> dict[str, dict[str, Score]]:
        """Scores of the sources that did not fail, with intervals still to come."""
        return {name: s.scores() for name, s in self._sheets.items() if name not in self.failures}

    def _measure(
        self, name: str, source: Source, lot: Batch, problem: Problem, request: Explaining, keep: bool
    ) -> None:
        try:
            own = replace(request, draws=self.drawing.of(name))
            explanation = source.explain(lot, problem.target, own)
            evaluator = self._evaluator(request.advance)
            evaluator.warnings = problem.warnings
            sheets = self._sheets.setdefault(name, self._book(keep))
            sheets.add(replace(problem, evaluator=evaluator), with_truth(explanation, lot.masks, lot.labels))
        except Exception as error:  # a third party's method may raise anything; the others go on
            if source.given:
                raise
            code = error.code.value if isinstance(error, AbeError) else type(error).__name__
            self.failures[name] = Failure(code, str(error))
            self._first_problem = self._first_problem or error
            return
        self._note(name, explanation, lot.start, unsteady(problem.warnings) + asked(self.metrics, lot))
        if keep:
            self.explanations[name] = explanation

    def _book(self, keep: bool) -> ScoreBook:
        draws = {metric.name: self.drawing.of(metric.name) for metric in self.metrics}
        return ScoreBook(self.metrics, seed=self.seed, curves=keep, draws=draws)

    def _settle(self, lot: Batch, advance: Callable[[int], None]) -> Problem:
        """Predict once and settle what every source explains; find what all of them share."""
        evaluator, x = self._evaluator(advance), lot.lifted.x
        began = time.perf_counter()
        target: Any = lot.target if self.target is None else self.target[lot.rows]
        problem = pose(evaluator, lot.lifted, target, self.objective, self.drawing.of(), lot.ids)
        if lot.lifted.objective is not None:
            self.objective = problem.objective
        if self.target is not None and self.task.output_kind != "auto" and len(self.sources) == 1:
            problem.decision = Decision(target.to(x.device))
        self.task = problem.predicted().task
        if len(self.sources) > 1:  # what one source alone needs counts as its metrics' own
            for feature in self._confusions():
                feature.feature(problem)
        evaluator.cost.seconds = time.perf_counter() - began
        self.setup.add(evaluator.cost)
        self.names += lot.lifted.names
        self.target_names += problem.target_names
        return problem

    def _confusions(self) -> list[Confusion]:
        return [r.baseline for r in runs_of(self.metrics) if isinstance(r.baseline, Confusion)]

    def _note_confusion(self, problem: Problem) -> None:
        """Keep how undecided the model is at the confusion features that were used."""
        found = [f.confusion for f in (c.remembered(problem) for c in self._confusions()) if f is not None]
        self.confusion = min([*found, *filter(None, [self.confusion])], default=None)

    def _check_metrics(self) -> None:
        """Say before computing which metric cannot be measured here, and who is named that draws nothing."""
        self.drawing.of()
        for metric in self.metrics:
            card = metric.card
            if card is not None and self.task.modality not in card.modalities:
                raise SpecError(
                    Code.UNSUPPORTED,
                    f"The metric {metric.name!r} does not apply to this kind of input",
                    got=f"a task of the modality {self.task.modality!r}",
                    expected=" or ".join(card.modalities),
                    fix="Leave it out, or set another unit and metric",
                )
            if metric.runs and self.task.output_kind == "regression" and not follows_score(metric):
                raise SpecError(
                    Code.UNSUPPORTED,
                    f"The metric {metric.name!r} follows class probabilities, and a regression has none",
                    fix='Choose metrics that read the score: ("insertion", {"curve": "logit"}), '
                    '"faithfulness_correlation"',
                )
            silent = [n for n, s in self.sources.items() if not s.explains]
            if card is not None and "method" in card.needs and silent:
                raise SpecError(
                    Code.UNSUPPORTED,
                    f"The metric {metric.name!r} explains again, so it needs a method of ABE",
                    got=f"the maps {silent[0]!r}, which were made elsewhere",
                    fix="Leave out that metric or those maps",
                )

    def _check_number(self, samples: int) -> None:
        """Say before computing which metric needs more samples than there are."""
        for metric in self.metrics:
            if samples < metric.fewest:
                raise InputError(
                    Code.SAMPLES,
                    f"The metric {metric.name!r} needs more samples",
                    got=str(samples),
                    expected=f"at least {metric.fewest}",
                )

    def _check_truth(self, lot: Batch) -> None:
        for metric in self.metrics:
            needs = () if metric.card is None else metric.card.needs
            for name, given, code in (("mask", lot.masks, Code.MASK), ("label", lot.labels, Code.LABELS)):
                if name in needs and given is None:
                    raise InputError(
                        code,
                        f"The metric {metric.name!r} needs the true "
                        f"{'region' if name == 'mask' else 'class'} of every sample",
                        got=f"no {name}s",
                        fix=f"Pass {name}s=, or put them into the batches of the stream",
                    )

    def _evaluator(self, advance: Callable[[int], None]) -> Evaluator:
        return Evaluator(self.task, execution=self.execution, chunk=self.chunk, advance=advance)

    def _note(self, name: str, explanation: Explanation, start: int, of_model: list[str]) -> None:
        """Add a lot's specification, cost and notes to what is known of a source."""
        known = self.origins.setdefault(name, Origin(dict(explanation.spec)))
        known.cost.add(explanation.cost)
        told = list(explanation.warnings)
        told += [] if unsteady([*told, *known.warnings]) else of_model
        said = {w.split(": ", 1)[-1] if w.startswith("From sample ") else w for w in known.warnings}
        known.warnings.extend(f"From sample {start}: {w}" if start else w for w in told if w not in said)
        if len(known.warnings) > NOTES:
            known.warnings[NOTES:] = ["Later samples gave further notes, which are left out"]

    def _rows(self, lot: Batch, lots: int | None) -> float | None:
        """Rows that are to be expected in all, for the progress bar."""
        if lots is None:
            return None
        b, samples = len(lot), Unrun(lot.lifted.x, lot.lifted.context, self.task)
        found = rows_shared(self.metrics, b)
        for source in self.sources.values():
            own = rows_of_method(source.method, samples) if isinstance(source, MethodMaps) else Rows()
            found += (own + rows_of_metrics(self.metrics, own, samples)) * b
        return lots * found.total

    def _comparison(
        self,
        count: int,
        settings: Mapping[str, Any],
        ranking: tuple[str, ...],
        natural: Sequence[Units],
    ) -> Comparison:
        scores = self.scores()
        if self._first_problem is not None and not scores:
            raise self._first_problem
        ranks = mean_ranks(scores, [m for m in self.metrics if m.name in ranking])
        order = sorted(scores, key=ranks.__getitem__)
        run = PerturbationRun(direction="insertion", unit=as_unit(settings["unit"]), step=settings["step"])
        unit = named(run.unit, units)
        return Comparison(
            scores={name: scores[name] for name in order},
            tests=with_statistics(
                {n: scores[n] for n in order}, self.metrics, seed=self.seed, confidence=self.confidence
            ),
            origins={name: self.origins[name] for name in order},
            explanations={n: self.explanations[n] for n in order if n in self.explanations},
            failures=self.failures,
            metrics=self.metrics,
            ranks={name: ranks[name] for name in order},
            rank_by=ranking,
            names=self.names,
            target_names=self.target_names,
            objective=objective_name(self.objective),
            seed=self.seed,
            confidence=self.confidence,
            unit=natural[0].kind if natural and unit == "natural" else unit,
            baseline=named_absent(as_absent(settings["baseline"])),
            step=run.units_per_step(count),
            count=count,
            setup=self.setup,
            confusion=self.confusion,
        )


def _rank_by(given: str | Sequence[str] | None, chosen: Sequence[Metric]) -> tuple[str, ...]:
    """Canonical names of the metrics that rank."""
    measured = [metric.name for metric in chosen]
    if given is None:
        pairs = tuple(name for name in PAIRS if name in measured)
        return pairs or tuple(measured)
    wanted = tuple(as_metric(name).name for name in items_of("rank_by", given, Metric))
    missing = [name for name in wanted if name not in measured]
    if missing or not wanted:
        raise SpecError(
            Code.BAD_PARAMETER,
            "rank_by must name metrics that are measured",
            got=repr(missing[0]) if missing else "none",
            expected=f"among {', '.join(measured)}",
        )
    return wanted


def _objective(given: Any, finished: Sequence[Explanation], usual: str) -> Objective:
    """The objective as given, else the one that the finished explanations share, else the usual one."""
    if given is not None:
        return as_objective(given)
    told = {e.objective: e.method for e in finished if e.objective}
    if len(told) > 1:
        (one, first), (other, second) = list(told.items())[:2]
        raise SpecError(
            Code.OBJECTIVE,
            "The explanations explain different scores",
            got=f"{first!r} explains {one}, {second!r} {other}",
            fix="Evaluate them apart, or pass objective= to say by which score to measure",
        )
    known = next((e for e in finished if e.objective), None)
    return as_objective(usual) if known is None else objective_of(known)

"""Which method explains this model best, by which metrics: `compare`, and `score` for one metric."""

from collections.abc import Callable, Sequence
from typing import Any

from abe.draws import Sources
from abe.engines.runtime.request import running
from abe.errors import Code, SpecError
from abe.explanation import Explanation
from abe.metrics.evaluation.base import Metric, Score, as_metric
from abe.metrics.evaluation.batches import Batch, Samples
from abe.metrics.evaluation.comparison import with_statistics
from abe.metrics.evaluation.defaults import chosen_metrics, defaults_of
from abe.metrics.evaluation.evaluate import (
    Comparison,
    Evaluation,
    Execution,
)
from abe.metrics.evaluation.notes import unsteady
from abe.metrics.evaluation.reexplain import objective_of
from abe.metrics.evaluation.sources import MethodMaps, SavedMaps
from abe.objectives import as_objective
from abe.registry import Method, items_of, methods, suiting
from abe.task.base import Task
from abe.task.start import Given, entrance
from abe.units import Step

PARTS_OF_SOME = frozenset({"layer", "attention", "cross_attention", "training", "optimisation"})
"""What only some models have, or takes minutes per sample; such methods are compared when named."""


@entrance
def compare(
    task: Given,
    photos: Any,
    methods: Sequence[Any] | None = None,
    metrics: Sequence[Any] | None = None,
    *,
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
    """Explain the same samples by several methods, score every map, and rank the methods.

    Args:
        task: the model and how to read it.
        photos: raw inputs, as for `abe.explain`, or a stream of batches, as for `abe.evaluate`.
        methods: names, (name, parameters) pairs or `abe.method` values; by default every registered
            method that needs no further argument.
        metrics: the same for metrics; by default INS, DEL, their KL and fair forms, gaps, residual,
            passes and seconds.
        target: class per sample or for all; the prediction by default.
        labels: (b,) true classes, for metrics that need them.
        masks: (b, h, w) true regions, likewise.
        objective: the explained score, one for all methods.
        unit: what is changed together, for every metric that does not bring its own; by default what suits
            the task, a pixel of images.
        baseline: what stands for "absent", likewise, zero in images; F-INS and F-DEL keep the confusion
            feature.
        step: units per step or a fraction of them, likewise; 1 % by default.
        rank_by: metrics whose ranks are averaged; by default the three gaps where measured, else
            every metric given.
        seed: of all random draws.
        ids: identities the draws depend on; by default each sample's content.
        draws: another source of randomness than the seed, as for `abe.evaluate`.
        confidence: of intervals and tests.
        execution: ``"auto"`` may run a verified faster copy of the model; ``"model"`` never does.
        chunk: rows at a time; found by timing when None.
        progress: show a bar after two seconds, or a function called with rows done.
        **asked: what of the samples is asked about, such as a region, where the task asks for it.

    Returns:
        Per-sample scores with intervals, tests of every pair, the ranking, maps and curves. A method that
        fails is listed with its error code and does not stop the others.

    Raises:
        AbeError: the input, a name or a parameter is unusable, or no method finished.

    Cost:
        Per method its own rows, plus b · (n + 1) forward rows for each different run its metrics read
        (four by default).
    """
    shared = defaults_of(task, unit, baseline, step)
    score = as_objective(task.scored(objective))
    plan = plan_of(
        task,
        methods,
        chosen_metrics(metrics, shared, task),
        objective=score,
        seed=seed,
        draws=draws,
        confidence=confidence,
        execution=execution,
        chunk=chunk,
    )
    asked = {**asked, **task.told(score)}
    samples = Samples(task=task, data=photos, target=target, labels=labels, masks=masks, ids=ids, asked=asked)
    return plan.run(samples, shared, rank_by, progress)


def plan_of(
    task: Task, methods: Sequence[Any] | None, metrics: list[Metric], *, objective: Any, **settings: Any
) -> Evaluation:
    """The plan of a comparison, which `compare` runs at once.

    Args:
        task: the model and how to read it.
        methods: as for `compare`.
        metrics: what to measure.
        objective: the explained score.
        **settings: of `Evaluation`.
    """
    sources = {name: MethodMaps(method) for name, method in methods_of(methods, task).items()}
    return Evaluation(
        task=task,
        sources=sources,
        metrics=metrics,
        objective=as_objective(objective),
        title="compare",
        **settings,
    )


@entrance
def score(
    explanation: Explanation,
    task: Given,
    *,
    metric: Any = "insertion",
    seed: int | None = None,
    draws: Sources = None,
    raw: Any = None,
    execution: Execution = "auto",
    chunk: int | None = None,
    masks: Any = None,
    labels: Any = None,
    **params: Any,
) -> Score:
    """One metric of a finished explanation, of any origin.

    Args:
        explanation: maps with their inputs and targets.
        task: the model that was explained.
        metric: a registered name, a (name, parameters) pair, or a metric value.
        seed: of the draws (ties, stochastic baselines); the explanation's own by default.
        draws: another source of randomness than the seed, as for `abe.evaluate`; drawn under the
            explanation's ``ids``.
        raw: the raw input again, where the model has further inputs beside the explained one.
        execution: ``"auto"`` may run a verified faster copy of the model; ``"model"`` never does.
        chunk: rows at a time; found by timing when None.
        masks: (b, h, w) true regions, for metrics that need them.
        labels: (b,) true classes, likewise.
        **params: parameters of the metric, when ``metric`` is a name.

    Raises:
        AbeError: unknown metric, a map that is not finite or does not fit the input, or recorded draws
            that do not fit.
    """
    with suiting(task.suits):
        chosen = as_metric((metric, params) if params else metric)
    seed = explanation.seed if seed is None else seed
    plan = Evaluation(
        task=task,
        sources={chosen.name: SavedMaps(chosen.name, explanation)},
        metrics=[chosen],
        objective=objective_of(explanation),
        target=explanation.target,
        seed=seed,
        draws=draws,
        execution=execution,
        chunk=chunk,
    )
    samples = Samples(
        task=task,
        data=raw,
        explanations=[explanation],
        labels=labels,
        masks=masks,
        ids=explanation.ids or None,
    )
    with running(task):
        lot: Batch | None = None
        for lot in samples:
            plan.measure(lot, lambda _: None)
        if lot is not None:  # samples are refused where there is none
            plan.finish(lot)
    scores = plan.scores()
    with_statistics(scores, [chosen], seed=seed, confidence=plan.confidence)
    found = scores[chosen.name][chosen.name]
    found.warnings += unsteady(plan.origins[chosen.name].warnings)
    return found


def methods_of(given: Sequence[Any] | None, task: Task) -> dict[str, Method]:
    """Methods by a label that tells equal names apart.

    Args:
        given: as for `compare`.
        task: what they explain.
    """
    if given is None:
        entries = [e for e in methods.entries() if not e.required() and task.modality in e.card.modalities]
        given = [e.name for e in entries if not PARTS_OF_SOME.intersection(e.card.needs)]
    listed = items_of("methods", given, Method, of="methods")
    chosen = list(dict.fromkeys(methods.resolve(item).suited(task.suits) for item in listed))
    if not chosen:
        raise SpecError(Code.BAD_PARAMETER, "There is no method to compare", fix="Name at least one")
    names = [method.name for method in chosen]
    return {m.name if names.count(m.name) == 1 else _distinct(m, chosen): m for m in chosen}


def _distinct(method: Method, others: Sequence[Method]) -> str:
    """The method's name with the parameters in which its namesakes differ."""
    rivals = [dict(o.params) for o in others if o.name == method.name]
    differing = [k for k, v in method.params if any(r.get(k) != v for r in rivals)]
    return f"{method.name}({', '.join(f'{k}={dict(method.params)[k]!r}' for k in differing)})"

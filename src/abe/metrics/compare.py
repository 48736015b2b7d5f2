"""Which method explains this model best, by which metrics: `compare`, and `score` for one metric."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from abe.baselines import Confusion, as_baseline
from abe.draws import SeededDraws, as_ids
from abe.engines.batching import Evaluator
from abe.engines.problem import Problem, predict, settle_output_kind, settle_target
from abe.engines.state import as_found, eager
from abe.errors import AbeError, Code, SpecError
from abe.explain import explain
from abe.explanation import Explanation
from abe.metrics.base import Metric, Score, as_metric, evaluate, named
from abe.metrics.perturbation import PerturbationRun
from abe.metrics.shared import objective_of, with_truth
from abe.objectives import as_objective, objective_name
from abe.progress import Progress
from abe.registry import Method, baselines, methods, units
from abe.task.base import Context, Lifted, Task
from abe.types import Cost

Execution = Literal["auto", "model"]
PAIRS = ("gap", "kl_gap", "f_gap")
"""Metrics that rank methods unless told otherwise."""

GUESS = 100.0
"""Rows per sample of a method that promises none, for the progress bar."""
EQUAL = 1e-6
"""Relative difference below which two means share a rank: the noise of float32 and of chunking."""

PARTS_OF_SOME = frozenset({"layer", "attention", "cross_attention"})
"""What methods may need of a model and some models lack; such methods are compared when named."""

DEFAULT_METRICS = (
    *("insertion", "deletion", "gap"),
    *("kl_insertion", "kl_deletion", "kl_gap"),
    *("f_insertion", "f_deletion", "f_gap"),
    *("residual", "passes", "seconds"),
)


@dataclass(frozen=True)
class Failure:
    """A method that did not finish: the error's code and message."""

    code: str
    message: str


@dataclass(kw_only=True)
class Comparison:
    """Methods scored on the same samples, ranked.

    Attributes:
        scores: per method (best first), scores by metric name with per-sample values.
        explanations: per method, its `Explanation`.
        failures: methods that did not finish.
        metrics: what was measured.
        ranks: mean rank per method over ``rank_by``; 1 is best.
        rank_by: names of the metrics that rank.
        names: of the samples.
        target_names: of the explained classes, per sample.
        objective: the explained score, shared by all methods.
        seed: of all draws.
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
    setup: Cost = field(default_factory=Cost)
    confusion: float | None = None

    def __len__(self) -> int:
        return len(self.scores)

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

    @property
    def caption(self) -> str:
        """What the table shows and how it is ranked."""
        b = len(self.names)
        by = " and ".join(filter(None, [", ".join(self.rank_by[:-1]), *self.rank_by[-1:]]))
        how = f"mean rank over the means of {by}" if len(self.rank_by) > 1 else f"the mean of {by}"
        steps = -(-self.count // self.step)
        cfa = "" if self.confusion is None else f" Confusion feature: H/ln C = {self.confusion:.4f}."
        return (
            f"Means over {b} sample{'s' if b > 1 else ''}; ranked by {how}; no interval was computed, so "
            f"small differences may be chance. Unit {self.unit}, baseline {self.baseline} in input space, "
            f"{self.step} of {self.count} units per step ({steps} steps), objective {self.objective}, "
            f"seed {self.seed}.{cfa}"
        )

    def table(self) -> Any:
        """A `rich.table.Table` that fits a terminal of 100 columns; best of each column in bold."""
        from abe.metrics.table import build

        return build(self)

    def to_dict(self, *, curves: bool = False) -> dict[str, Any]:
        """JSON-able form: ranking with means and per-sample values, failures, and how it was made."""
        return {
            "format": "abe-comparison",
            "caption": self.caption,
            "samples": list(self.names),
            "targets": list(self.target_names),
            "objective": self.objective,
            "seed": self.seed,
            "unit": self.unit,
            "baseline": self.baseline,
            "step": {"units_per_step": self.step, "units": self.count},
            "rank_by": list(self.rank_by),
            "confusion": self.confusion,
            "setup": asdict(self.setup),
            "metrics": [{**m.describe(), "direction": m.direction} for m in self.metrics],
            "ranking": [self._entry(place, method, curves) for place, method in enumerate(self.methods, 1)],
            "failures": [
                {"method": m, "code": f.code, "message": f.message} for m, f in self.failures.items()
            ],
        }

    def _entry(self, place: int, method: str, curves: bool) -> dict[str, Any]:
        explanation, scores = self.explanations[method], self.scores[method]
        drawn = {
            n: [[round(v, 6) for v in row] for row in c.tolist()] for n, c in self.curves[method].items()
        }
        return {
            "place": place,
            "mean_rank": self.ranks[method],
            "method": method,
            "spec": dict(explanation.spec),
            "cost": asdict(explanation.cost),
            "warnings": list(explanation.warnings),
            "scores": {name: score.to_dict() for name, score in scores.items()},
            **({"curves": drawn} if curves else {}),
        }


def score(
    explanation: Explanation,
    task: Task,
    *,
    metric: Any = "insertion",
    seed: int | None = None,
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
        raw: the raw input again, where the model has further inputs beside the explained one.
        execution: ``"auto"`` may run a verified faster copy of the model; ``"model"`` never does.
        chunk: rows at a time; found by timing when None.
        masks: (b, h, w) true regions, for metrics that need them.
        labels: (b,) true classes, likewise.
        **params: parameters of the metric, when ``metric`` is a name.

    Raises:
        AbeError: unknown metric, or a map that is not finite or does not fit the input.
    """
    chosen = as_metric((metric, params) if params else metric)
    explanation = with_truth(explanation, masks, labels)
    seed = explanation.seed if seed is None else seed
    context = Context() if raw is None else task.lift(raw).context
    x = explanation.x.to(task.device)
    task.check(x)
    with as_found(task.model), eager(task.model), torch.enable_grad():
        evaluator = Evaluator(task, execution=execution, chunk=chunk)
        if task.output_kind == "auto":
            settle_output_kind(task, predict(evaluator, x, context), [])
        problem = Problem(
            evaluator=evaluator,
            x=x,
            context=context,
            target=explanation.target.to(x.device),
            objective=objective_of(explanation),
            draws=SeededDraws(seed=seed),
            ids=explanation.ids or as_ids(None, x),
        )
        return evaluate(problem, explanation, [chosen], seed=seed)[chosen.name]


def compare(
    task: Task,
    photos: Any,
    methods: Sequence[Any] | None = None,
    metrics: Sequence[Any] | None = None,
    *,
    target: Any = None,
    objective: Any = "logit",
    unit: Any = "pixel",
    baseline: Any = "zero",
    step: int | float | None = None,
    rank_by: str | Sequence[str] | None = None,
    seed: int = 0,
    ids: Sequence[int | str] | None = None,
    execution: Execution = "auto",
    chunk: int | None = None,
    progress: bool | Callable[[float], None] = True,
) -> Comparison:
    """Explain the same samples by several methods, score every map, and rank the methods.

    Args:
        task: the model and how to read it.
        photos: raw inputs, as for `abe.explain`.
        methods: names, (name, parameters) pairs or `abe.method` values; by default every registered
            method that needs no further argument.
        metrics: the same for metrics; by default INS, DEL, their KL and fair forms, gaps, residual,
            passes and seconds.
        target: class per sample or for all; the prediction by default.
        objective: the explained score, one for all methods.
        unit: what is changed together, for every metric that does not bring its own.
        baseline: what stands for "absent", likewise; F-INS and F-DEL keep the confusion feature.
        step: units per step or a fraction of them, likewise; 1 % by default.
        rank_by: metrics whose ranks are averaged; by default the three gaps where measured, else
            every metric given.
        seed: of all random draws.
        ids: identities the draws depend on; by default each sample's content.
        execution: ``"auto"`` may run a verified faster copy of the model; ``"model"`` never does.
        chunk: rows at a time; found by timing when None.
        progress: show a bar after two seconds, or a function called with rows done.

    Returns:
        Per-sample scores, the ranking, maps and curves. A method that fails is listed with its error
        code and does not stop the others.

    Raises:
        AbeError: the input, a name or a parameter is unusable, or no method finished.

    Cost:
        Per method its own rows, plus b · (n + 1) forward rows for each different run its metrics read
        (four by default).
    """
    chosen = _metrics(metrics, {"unit": unit, "baseline": baseline, "step": step})
    ranking = _rank_by(rank_by, chosen)
    contenders = _methods(methods, task)
    shared = _Shared(task, objective, seed, execution, chunk)
    lifted = task.lift(photos)
    task.check(lifted.x)
    total = sum(m.rows(len(lifted.x)) or GUESS * len(lifted.x) for m in contenders.values())
    total += len(contenders) * sum(len(lifted.x) * r.points(lifted.x.shape[1:]) for r in _runs(chosen))
    with (
        as_found(task.model),
        eager(task.model),
        torch.enable_grad(),
        Progress("compare", total, enabled=progress is True) as bar,
    ):
        shared.begin(lifted, target, ids, progress if callable(progress) else bar.advance)
        confusion = shared.prepare(_runs(chosen))
        for name, method in contenders.items():
            bar.relabel(name)
            shared.measure(name, method, chosen)
    return _comparison(shared, chosen, ranking, lifted, confusion, (unit, baseline, step))


class _Shared:
    """What all methods of one comparison have in common, and their results so far."""

    def __init__(
        self, task: Task, objective: Any, seed: int, execution: Execution, chunk: int | None
    ) -> None:
        self.task = task
        self.objective = as_objective(objective)
        self.seed = seed
        self.execution: Execution = execution
        self.chunk = chunk
        self.scores: dict[str, dict[str, Score]] = {}
        self.explanations: dict[str, Explanation] = {}
        self.failures: dict[str, Failure] = {}
        self.first_problem: Exception | None = None

    def begin(self, lifted: Lifted, target: Any, ids: Any, advance: Callable[[int], None]) -> None:
        """Predict once and settle what every method explains."""
        self.lifted, self.advance = lifted, advance
        self.ids = as_ids(ids, lifted.x)
        evaluator = self._evaluator()
        outputs = predict(evaluator, lifted.x, lifted.context)
        settle_output_kind(self.task, outputs, [])
        x = lifted.x
        self.target = settle_target(self.task, outputs, target, len(x), x.device)
        self.start = self._problem(evaluator)

    def prepare(self, runs: Sequence[PerturbationRun]) -> float | None:
        """Find confusion features before any method runs, so that none of them pays for it."""
        features = [r.baseline for r in runs if isinstance(r.baseline, Confusion)]
        return min((f.feature(self.start).confusion for f in features), default=None)

    def measure(self, name: str, method: Method, chosen: Sequence[Metric]) -> None:
        """Explain by one method and score its maps; note it where it fails."""
        try:
            explanation = self._explain(method)
            scores = evaluate(self._problem(self._evaluator()), explanation, chosen, seed=self.seed)
        except Exception as problem:  # a third party's method may raise anything; the others go on
            code = problem.code.value if isinstance(problem, AbeError) else type(problem).__name__
            self.failures[name] = Failure(code, str(problem))
            self.first_problem = self.first_problem or problem
            return
        self.explanations[name], self.scores[name] = explanation, scores

    def _explain(self, method: Method) -> Explanation:
        lifted = self.lifted
        alone = not lifted.context.values and not self.task.explained
        explanation = explain(
            self.task,
            lifted.x if alone else self._again(),
            method,
            target=self.target,
            objective=self.objective,
            seed=self.seed,
            ids=self.ids,
            execution=self.execution,
            chunk=self.chunk,
            progress=self.advance,
        )
        explanation.names = list(lifted.names)
        return explanation

    def _again(self) -> dict[str | int, Tensor] | tuple[Tensor, ...]:
        """The lifted inputs of a model with several, in the form the task lifts."""
        items = {**self.lifted.context.values, **self.task.unpack(self.lifted.x)}
        if all(isinstance(k, int) for k in items):
            return tuple(items[k] for k in sorted(items, key=int))
        return items

    def _evaluator(self) -> Evaluator:
        return Evaluator(self.task, execution=self.execution, chunk=self.chunk, advance=self.advance)

    def _problem(self, evaluator: Evaluator) -> Problem:
        return Problem(
            evaluator=evaluator,
            x=self.lifted.x,
            context=self.lifted.context,
            target=self.target,
            objective=self.objective,
            draws=SeededDraws(seed=self.seed),
            ids=self.ids,
        )


def _comparison(
    shared: _Shared,
    chosen: list[Metric],
    ranking: tuple[str, ...],
    lifted: Lifted,
    confusion: float | None,
    settings: tuple[Any, Any, int | float | None],
) -> Comparison:
    if shared.first_problem is not None and not shared.scores:
        raise shared.first_problem
    ranks = mean_ranks(shared.scores, [m for m in chosen if m.name in ranking])
    order = sorted(shared.scores, key=ranks.__getitem__)
    run = PerturbationRun(direction="insertion", unit=units.resolve(settings[0]), step=settings[2])
    shape = lifted.x.shape[1:]
    return Comparison(
        scores={name: shared.scores[name] for name in order},
        explanations={name: shared.explanations[name] for name in order},
        failures=shared.failures,
        metrics=chosen,
        ranks={name: ranks[name] for name in order},
        rank_by=ranking,
        names=list(lifted.names),
        target_names=shared.explanations[order[0]].target_names,
        objective=objective_name(shared.objective),
        seed=shared.seed,
        unit=named(run.unit, units),
        baseline=named(as_baseline(settings[1]), baselines),
        step=run.units_per_step(shape),
        count=run.unit.count(shape),
        setup=shared.start.evaluator.cost,
        confusion=confusion,
    )


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


def _metrics(given: Sequence[Any] | None, defaults: Mapping[str, Any]) -> list[Metric]:
    """Metrics by unique name."""
    found: dict[str, Metric] = {}
    for item in _listed(DEFAULT_METRICS if given is None else given):
        metric = as_metric(item, defaults=defaults)
        if metric.name in found and found[metric.name] != metric:
            raise SpecError(
                Code.DUPLICATE_NAME,
                f"The metric {metric.name!r} is asked for twice with different parameters",
                fix="Compare twice, once with each",
            )
        found[metric.name] = metric
    return list(found.values())


def _methods(given: Sequence[Any] | None, task: Task) -> dict[str, Method]:
    """Methods by a label that tells equal names apart."""
    if given is None:
        entries = [e for e in methods.entries() if not e.required() and task.modality in e.card.modalities]
        given = [e.name for e in entries if not PARTS_OF_SOME.intersection(e.card.needs)]
    chosen = list(dict.fromkeys(methods.resolve(item) for item in _listed(given)))
    if not chosen:
        raise SpecError(Code.BAD_PARAMETER, "There is no method to compare", fix="Name at least one")
    names = [method.name for method in chosen]
    return {m.name if names.count(m.name) == 1 else _distinct(m, chosen): m for m in chosen}


def _distinct(method: Method, others: Sequence[Method]) -> str:
    """The method's name with the parameters in which its namesakes differ."""
    rivals = [dict(o.params) for o in others if o.name == method.name]
    differing = [k for k, v in method.params if any(r.get(k) != v for r in rivals)]
    return f"{method.name}({', '.join(f'{k}={dict(method.params)[k]!r}' for k in differing)})"


def _listed(given: Any) -> list[Any]:
    """A list of items; one name alone is a list of one."""
    return [given] if isinstance(given, str | Method | Metric) else list(given)


def _rank_by(given: str | Sequence[str] | None, chosen: Sequence[Metric]) -> tuple[str, ...]:
    """Canonical names of the metrics that rank."""
    measured = [metric.name for metric in chosen]
    if given is None:
        pairs = tuple(name for name in PAIRS if name in measured)
        return pairs or tuple(measured)
    wanted = tuple(as_metric(name).name for name in _listed(given))
    missing = [name for name in wanted if name not in measured]
    if missing or not wanted:
        raise SpecError(
            Code.BAD_PARAMETER,
            "rank_by must name metrics that are measured",
            got=repr(missing[0]) if missing else "none",
            expected=f"among {', '.join(measured)}",
        )
    return wanted


def _runs(chosen: Sequence[Metric]) -> list[PerturbationRun]:
    found: list[PerturbationRun] = []
    for run in (run for metric in chosen for run in metric.runs):
        if run not in found:
            found.append(run)
    return found

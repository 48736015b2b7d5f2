"""`explain`: from a raw input to an `Explanation`; `explain_game`: several from one run of a game."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from abe.checks import Count
from abe.draws import Ids, Source
from abe.engines import sides
from abe.engines.backward.run import Covered, HasRules, coverage_of
from abe.engines.removal.game import run_all
from abe.engines.runtime import completeness
from abe.engines.runtime.evaluator import Execution
from abe.engines.runtime.problem import Problem
from abe.engines.runtime.request import open_request
from abe.errors import Code, SpecError, note
from abe.explanation import Explanation, check_map, versions
from abe.objectives import objective_name
from abe.registry import Method, items_of, methods, suiting
from abe.task.base import Task
from abe.task.start import Given, entrance
from abe.types import Result

TOP = 5
"""Highest classes kept with every explanation."""


def method(name: str, **params: Any) -> Method:
    """A method as a value: ``method("ig", steps=100)``.

    Args:
        name: registered, or an alias.
        **params: of the method.

    Raises:
        SpecError: unknown name or parameter; the nearest is suggested.
    """
    return methods.build(name, **params)


@entrance
def explain(
    task: Given,
    raw: Any,
    method: Any = None,
    *,
    target: Any = None,
    objective: Any = None,
    seed: int = 0,
    ids: Sequence[int | str] | None = None,
    draws: Source = None,
    execution: Execution = "auto",
    chunk: int | None = None,
    progress: bool | Callable[[int], None] = True,
    path_ends: bool = False,
    **params: Any,
) -> Explanation:
    """Which inputs drove the decision of ``task`` on ``raw``.

    Args:
        task: the model and how to read it, from `abe.image_task` and its kin.
        raw: photographs, paths, arrays or a tensor (b, c, h, w) in the task's bounds.
        method: a registered name, `abe.method` value, or composition; by default what is usual for the task,
            integrated gradients for most.
        target: class number or name, one or per sample; the prediction by default.
        objective: the explained score: a name, value, or function ``(outputs, target) -> (n,)``; by default
            what is usual for the task: the class score (``"logit"``) for most.
        seed: of all random draws.
        ids: identities the draws depend on; by default each sample's content.
        draws: another source of randomness than the seed.
        execution: ``"auto"`` may run a verified faster copy of the model, ``"model"`` never does;
            ``"bfloat16"`` trades precision for speed (errors of per cent) and is never chosen by itself.
        chunk: rows at a time; found by timing when None.
        progress: show a bar after two seconds, or a function called with rows done.
        path_ends: keep in ``diagnostics`` where the path of a method that follows one begins and ends:
            inputs ``path_start`` and ``path_end`` (b, *f), the model's ``path_start_outputs`` and
            ``path_end_outputs`` (b, …), each with an axis of runs behind the first where a sample has
            several. Scores there, ``path_start_score`` and ``path_end_score``, are kept always.
        **params: parameters of the method, when ``method`` is a name, and what of the samples is asked about,
            such as a region, where the task asks for it.

    Returns:
        One `Explanation` for the batch.

    Raises:
        AbeError: anything unusable, before computing where possible; the model is left as found.

    Example:
        >>> import torch, abe
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2, bias=False))
        >>> task = abe.image_task(model)
        >>> explanation = abe.explain(task, torch.rand(1, 3, 2, 2), "ig", steps=4)
        >>> bool(explanation.residual_absolute.abs() < 1e-5)
        True
    """
    asked, params = task.asked(params)
    chosen = _method(task, task.usual[0] if method is None else method, params)
    if path_ends and not getattr(chosen.engine, "has_ends", False):
        raise SpecError(
            Code.UNSUPPORTED,
            "path_ends= keeps the ends of a path, and this method follows none",
            got=chosen.name,
            expected="a method such as ig, blur_ig, guided_ig, mfaba, agi or big",
        )
    with open_request(
        task,
        raw,
        target=target,
        objective=objective,
        seed=seed,
        ids=ids,
        draws=draws,
        execution=execution,
        chunk=chunk,
        progress=progress,
        label=chosen.name,
        rows=chosen.rows,
        asked=asked,
        nothing=True,
    ) as problem:
        problem.path_ends = path_ends
        if not len(problem.x):
            return _nothing(problem, chosen, seed)
        return _finish(problem, sides.run(chosen, problem), chosen, seed)


@entrance
def explain_game(
    task: Given,
    raw: Any,
    summaries: Sequence[Any],
    *,
    units: Any = None,
    removal: Any = None,
    evaluations: Count | None = None,
    target: Any = None,
    objective: Any = None,
    seed: int = 0,
    ids: Sequence[int | str] | None = None,
    draws: Source = None,
    execution: Execution = "auto",
    chunk: int | None = None,
    progress: bool | Callable[[int], None] = True,
    **asked: Any,
) -> list[Explanation]:
    """Several summaries of one game of units: every coalition is evaluated once for all of them.

    Args:
        task: the model and how to read it.
        raw: what `explain` takes.
        summaries: names, (name, parameters) pairs or values, such as ``["shapley", "banzhaf",
            ("interactions", {"order": 2})]``.
        units: what is removed together; by default what suits the task, a grid of images.
        removal: what absent units show: a baseline, a background set (a tensor), or a removal; by default
            what suits the task, zero of images.
        evaluations: most rows per sample and summary.
        target: as for `explain`, and so the following.
        objective: the explained score.
        seed: of all random draws.
        ids: identities the draws depend on.
        draws: another source of randomness than the seed.
        execution: what to run.
        chunk: rows at a time.
        progress: show a bar, or a function called with rows done.
        **asked: what of the samples is asked about, where the task asks for it.

    Returns:
        One `Explanation` per summary; ``cost`` is that of the whole run in each.

    Example:
        >>> import torch, abe
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
        >>> task = abe.image_task(model)
        >>> both = abe.explain_game(task, torch.rand(1, 3, 2, 2), ["shapley", "banzhaf"], units="pixel")
        >>> [one.cost.forward_rows for one in both]
        [16, 16]
    """
    settings = {"units": units, "removal": removal, "evaluations": evaluations}
    shared = {name: given for name, given in settings.items() if given is not None}
    listed = items_of("summaries", summaries)
    with suiting(task.suits):
        chosen = [methods.build("removal", summary=summary, **shared) for summary in listed]
    if not chosen:
        raise SpecError(Code.BAD_PARAMETER, "Name at least one summary", got="none")
    with open_request(
        task,
        raw,
        target=target,
        objective=objective,
        seed=seed,
        ids=ids,
        draws=draws,
        execution=execution,
        chunk=chunk,
        progress=progress,
        label=chosen[0].name,
        rows=chosen[0].rows,
        asked=asked,
        nothing=True,
    ) as problem:
        if not len(problem.x):
            return [_nothing(problem, one, seed) for one in chosen]
        results = run_all(problem, [method.engine for method in chosen])
        return [_finish(problem, r, m, seed) for m, r in zip(chosen, results, strict=True)]


@entrance
def rule_coverage(
    task: Given, raw: Any, method: Any = "lrp_epsilon", *, target: Any = None, **asked: Any
) -> list[Covered]:
    """Every operation that depends on the input, and the backward rule it gets from ``method``.

    What happens outside the model, such as taking the explained score, has None for a module.

    Args:
        task: the model and how to read it.
        raw: inputs, of which the first is run.
        method: one with backward rules, by name or as a value.
        target: the explained class; the prediction by default.
        **asked: what of the samples is asked about, where the task asks for it.

    Raises:
        SpecError: the method has no backward rules.
        ModelError: an operation has no rule, unless the method has a policy for it.

    Example:
        >>> import torch, abe
        >>> task = abe.image_task(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2)))
        >>> lines = abe.rule_coverage(task, torch.rand(1, 3, 2, 2), "deeplift")
        >>> [(line.name, line.rule) for line in lines if line.module is not None]
        [('flatten', 'Rescale()'), ('linear', 'Rescale()')]
    """
    chosen = _method(task, method, {})
    if not isinstance(chosen.engine, HasRules):
        raise SpecError(
            Code.UNSUPPORTED,
            "This method has no backward rules",
            got=chosen.name,
            expected="a method such as lrp_epsilon, guided_backprop or deeplift",
        )
    with open_request(task, raw, target=target, execution="model", asked=asked) as problem:
        return coverage_of(chosen.engine, problem)


def _method(task: Task, method: Any, params: dict[str, Any]) -> Method:
    """The method that is meant, with the task's defaults."""
    if isinstance(method, str):
        with suiting(task.suits):
            return methods.build(method, **params)
    if params:
        raise SpecError(
            Code.UNKNOWN_PARAMETER,
            "Parameters go with a method's name",
            got=f"{next(iter(params))}= beside a finished method",
            fix="Write abe.method(name, …) with them",
        )
    return methods.resolve(method).suited(task.suits)


def _finish(problem: Problem, result: Result, method: Method, seed: int) -> Explanation:
    features = problem.x if result.features is None else result.features
    check_map(result.attribution, features)
    warnings = [*problem.warnings, *result.warnings]
    flat = result.attribution.detach().flatten(1)
    # A sum that is not 0 tells; else every value is looked at.
    if not all(flat.sum(1).tolist()) and not bool((influenced := flat.any(1)).all()):
        who = ", ".join(str(i) for i in (~influenced).nonzero().flatten().tolist()[:8])
        warnings.append(
            note(Code.ZERO_MAP, f"The map of sample {who} is zero everywhere: the method found no influence")
        )
    target, summed = problem.target, problem.task.summed and result.features is None
    explained = problem if result.objective is None else problem.with_(objective=result.objective)
    parts = problem.task.parts if features is problem.x else ()
    if result.delta is not None:
        warnings += completeness.remarks(result.attribution.detach(), result.delta, explained.score, parts)
    return Explanation(
        attribution=_summed(result.attribution.detach()) if summed else result.attribution.detach(),
        x=features.detach(),
        target=target,
        target_names=problem.target_names,
        names=problem.names,
        method=method.name,
        spec=method.describe(),
        objective=objective_name(explained.objective),
        score=explained.score,
        delta=result.delta,
        standard_error=_together(result.standard_error) if summed else result.standard_error,
        top=_top(problem),
        cost=problem.evaluator.cost,
        warnings=list(dict.fromkeys(warnings)),
        seed=seed,
        ids=Ids(problem.identify, len(problem.x)),
        versions=versions(),
        diagnostics={**_kept(problem), **result.diagnostics},
        modality=problem.task.modality,
        parts=() if summed else parts,
        **(_named(problem) if features is problem.x else {}),
    )


def _summed(attribution: Tensor) -> Tensor:
    """(b, 1, *positions) what belongs to each position."""
    return attribution.sum(1, keepdim=True)


def _together(error: Tensor | None) -> Tensor | None:
    """(b, 1, *positions) standard errors of sums over channels, where units are removed as a whole.

    Their numbers then have one error, and move together; elsewhere nothing tells how errors of several
    numbers go together, and there is None.
    """
    if error is None or not torch.equal(error.amin(1), error.amax(1)):
        return None
    return error.sum(1, keepdim=True)


def _nothing(problem: Problem, method: Method, seed: int) -> Explanation:
    """The explanation of no sample, where nothing of what was asked about is there."""
    x, none = problem.x, problem.x.new_zeros(0)
    return Explanation(
        attribution=torch.zeros_like(x),
        x=x,
        target=torch.zeros(0, dtype=torch.long, device=x.device),
        target_names=[],
        names=[],
        method=method.name,
        spec=method.describe(),
        objective=objective_name(problem.objective),
        score=none,
        cost=problem.evaluator.cost,
        warnings=list(dict.fromkeys(problem.warnings)),
        seed=seed,
        versions=versions(),
        diagnostics=_kept(problem),
        modality=problem.task.modality,
        **_named(problem),
    )


def _kept(problem: Problem) -> dict[str, Any]:
    """What the task keeps of what was asked about the samples, and tells of their outputs."""
    about, reads = problem.context.about, problem.task.reads
    found = {name: about[name].detach() for name in problem.task.keeps if name in about}
    told: Any = getattr(reads, "told", None)
    if told is not None and isinstance(problem.known_outputs, Tensor):
        found |= told(problem.task, problem.known_outputs, problem.target)
    return found


def _named(problem: Problem) -> dict[str, Any]:
    """What the natural units of the samples are called, and what a person sees."""
    lifted = problem.lifted
    if lifted is None:
        return {}
    found: dict[str, Any] = {"shown": list(lifted.shown)}
    if lifted.blank is not None:
        found |= {"blank": lifted.blank.x.detach(), "blank_names": list(lifted.blank.names)}
    if lifted.units:
        natural = lifted.units[0]
        found |= {"unit": natural.kind, "labels": natural.labels, "unit_names": list(natural.names)}
    for one in lifted.units:
        if one.kind == "token":
            found |= {"token_labels": one.labels, "token_names": list(one.names)}
    return found


def _top(problem: Problem) -> list[list[tuple[str, float]]]:
    outputs, task = problem.known_outputs, problem.task
    classes = getattr(problem.objective, "of_classes", True) and task.classes(outputs)
    if not classes or outputs.ndim != 2:
        return [[] for _ in range(len(problem.x))]
    probabilities = task.log_probabilities(outputs).exp()
    best = probabilities.topk(min(TOP, probabilities.shape[1]), dim=1)
    return [
        [(task.told_apart(i), p) for i, p in zip(row, values, strict=True)]
        for row, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]

"""`explain`: from a raw input to an `Explanation`; `explain_game`: several from one run of a game."""

import cmath
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from abe.draws import SeededDraws, as_ids
from abe.engines.backward.run import Covered, HasRules, coverage_of
from abe.engines.instrument.inspection import clean_name, compiled, coupling
from abe.engines.instrument.model_state import as_found, eager
from abe.engines.removal.game import run_all
from abe.engines.runtime.evaluator import Evaluator, Execution
from abe.engines.runtime.problem import Problem
from abe.engines.runtime.targets import predict, settle_output_kind, settle_target
from abe.errors import Code, ModelError, SpecError, note
from abe.explanation import Explanation, check_map, versions
from abe.objectives import as_objective, objective_name
from abe.progress import Progress
from abe.registry import Method, methods
from abe.task.base import Lifted, Task
from abe.types import Draws, Result

TOP = 5
"""Highest classes kept with every explanation."""


def method(name: str, **params: Any) -> Method:
    """A method as a value: ``method("ig", steps=100)``.

    Raises:
        SpecError: unknown name or parameter; the nearest is suggested.
    """
    return methods.build(name, **params)


def explain(
    task: Task,
    raw: Any,
    method: Any = "integrated_gradients",
    *,
    target: Any = None,
    objective: Any = "logit",
    seed: int = 0,
    ids: Sequence[int | str] | None = None,
    draws: Draws | None = None,
    execution: Execution = "auto",
    chunk: int | None = None,
    progress: bool | Callable[[int], None] = True,
    **params: Any,
) -> Explanation:
    """Which inputs drove the decision of ``task`` on ``raw``.

    Args:
        task: the model and how to read it, from `abe.image_task` and its kin.
        raw: photographs, paths, arrays or a tensor (b, c, h, w) in the task's bounds.
        method: a registered name, `abe.method` value, or composition.
        target: class number or name, one or per sample; the prediction by default.
        objective: the explained score: a name, value, or function ``(outputs, target) -> (n,)``.
        seed: of all random draws.
        ids: identities the draws depend on; by default each sample's content.
        draws: another source of randomness than the seed.
        execution: ``"auto"`` may run a verified faster copy of the model, ``"model"`` never does;
            ``"bfloat16"`` trades precision for speed (errors of per cent) and is never chosen by itself.
        chunk: rows at a time; found by timing when None.
        progress: show a bar after two seconds, or a function called with rows done.
        **params: parameters of the method, when ``method`` is a name.

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
    chosen = _method(method, params)

    def run(problem: Problem) -> list[Result]:
        return [chosen.engine.run(problem)]

    request = _Request(target, objective, seed, ids, draws, execution, chunk, progress)
    return _explain(task, raw, [chosen], run, request)[0]


def explain_game(
    task: Task,
    raw: Any,
    summaries: Sequence[Any],
    *,
    units: Any = "grid",
    removal: Any = "zero",
    evaluations: int | None = None,
    target: Any = None,
    objective: Any = "logit",
    seed: int = 0,
    ids: Sequence[int | str] | None = None,
    draws: Draws | None = None,
    execution: Execution = "auto",
    chunk: int | None = None,
    progress: bool | Callable[[int], None] = True,
) -> list[Explanation]:
    """Several summaries of one game of units: every coalition is evaluated once for all of them.

    Args:
        task: the model and how to read it.
        raw: what `explain` takes.
        summaries: names, (name, parameters) pairs or values, such as ``["shapley", "banzhaf",
            ("interactions", {"order": 2})]``.
        units: what is removed together.
        removal: what absent units show: a baseline, a background set (a tensor), or a removal.
        evaluations: most rows per sample and summary.
        target: as for `explain`, and so the following.
        objective: the explained score.
        seed: of all random draws.
        ids: identities the draws depend on.
        draws: another source of randomness than the seed.
        execution: what to run.
        chunk: rows at a time.
        progress: show a bar, or a function called with rows done.

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
    shared = {"units": units, "removal": removal, "evaluations": evaluations}
    chosen = [methods.build("removal", summary=summary, **shared) for summary in summaries]
    if not chosen:
        raise SpecError(Code.BAD_PARAMETER, "Name at least one summary", got="none")
    engines = [method.engine for method in chosen]

    def run(problem: Problem) -> list[Result]:
        return run_all(problem, engines)

    request = _Request(target, objective, seed, ids, draws, execution, chunk, progress)
    return _explain(task, raw, chosen, run, request)


@dataclass(frozen=True)
class _Request:
    """What `explain` and `explain_game` have in common."""

    target: Any
    objective: Any
    seed: int
    ids: Sequence[int | str] | None
    draws: Draws | None
    execution: Execution
    chunk: int | None
    progress: bool | Callable[[int], None]


def _explain(
    task: Task,
    raw: Any,
    chosen: Sequence[Method],
    run: Callable[[Problem], list[Result]],
    request: _Request,
) -> list[Explanation]:
    """One explanation per method, from one run."""
    score = as_objective(request.objective)
    execution, chunk, progress = request.execution, request.chunk, request.progress
    _refuse_inference_mode(task.model)
    if execution not in ("auto", "model", "bfloat16"):
        raise SpecError(
            Code.BAD_PARAMETER, "No such execution", got=repr(execution), expected="auto, model or bfloat16"
        )
    if chunk is not None and chunk < 1:
        raise SpecError(Code.BAD_PARAMETER, "chunk must be at least 1", got=chunk)
    began = time.perf_counter()
    warnings = _remarks(task.model)
    lifted = task.lift(raw)
    task.check(lifted.x)
    with (
        as_found(task.model),
        torch.enable_grad(),
        eager(task.model),
        Progress(chosen[0].name, chosen[0].rows(len(lifted.x)), enabled=progress is True) as bar,
    ):
        advance = progress if callable(progress) else bar.advance
        evaluator = Evaluator(task, execution=execution, chunk=chunk, advance=advance)
        draws = request.draws or SeededDraws(seed=request.seed)
        problem = _problem(evaluator, lifted, request.target, score, draws, request.ids, warnings)
        found = [
            _finish(problem, result, method, lifted, request.seed)
            for method, result in zip(chosen, run(problem), strict=True)
        ]
    for explanation in found:
        explanation.cost.seconds = time.perf_counter() - began
    return found


def rule_coverage(task: Task, raw: Any, method: Any = "lrp_epsilon", *, target: Any = None) -> list[Covered]:
    """Every operation that depends on the input, and the backward rule it gets from ``method``.

    What happens outside the model, such as taking the explained score, has None for a module.

    Args:
        task: the model and how to read it.
        raw: inputs, of which the first is run.
        method: one with backward rules, by name or as a value.
        target: the explained class; the prediction by default.

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
    chosen = _method(method, {})
    if not isinstance(chosen.engine, HasRules):
        raise SpecError(
            Code.UNSUPPORTED,
            "This method has no backward rules",
            got=chosen.name,
            expected="a method such as lrp_epsilon, guided_backprop or deeplift",
        )
    lifted = task.lift(raw)
    task.check(lifted.x)
    with as_found(task.model), torch.enable_grad(), eager(task.model):
        evaluator = Evaluator(task, execution="model")
        problem = _problem(evaluator, lifted, target, as_objective("logit"), SeededDraws(seed=0), None, [])
        return coverage_of(chosen.engine, problem)


def _method(method: Any, params: dict[str, Any]) -> Method:
    if isinstance(method, str):
        return methods.build(method, **params)
    if params:
        raise SpecError(
            Code.UNKNOWN_PARAMETER,
            "Parameters go with a method's name",
            got=f"{next(iter(params))}= beside a finished method",
            fix="Write abe.method(name, …) with them",
        )
    return methods.resolve(method)


def _problem(
    evaluator: Evaluator,
    lifted: Lifted,
    target: Any,
    objective: Any,
    draws: Draws,
    ids: Sequence[int | str] | None,
    warnings: list[str],
) -> Problem:
    """Predict, settle what the output means and which decision is explained."""
    task, x = evaluator.task, lifted.x
    identities = as_ids(ids, x)
    outputs = predict(evaluator, x, lifted.context)
    settle_output_kind(task, outputs, warnings)
    if task.output_kind == "regression" and getattr(objective, "needs_classes", False):
        raise SpecError(
            Code.UNSUPPORTED,
            "A regression has no class probabilities",
            got=f"the objective {objective_name(objective)}",
            fix='Choose an objective that reads the output, such as "logit"',
        )
    return Problem(
        evaluator=evaluator,
        x=x,
        context=lifted.context,
        target=settle_target(task, outputs, target, len(x), x.device),
        objective=objective,
        draws=draws,
        ids=identities,
        warnings=warnings,
        known_outputs=outputs,
    )


def _finish(problem: Problem, result: Result, method: Method, lifted: Lifted, seed: int) -> Explanation:
    features = problem.x if result.features is None else result.features
    check_map(result.attribution, features)
    warnings = [*problem.warnings, *result.warnings]
    empty = (result.attribution.flatten(1) == 0).all(1)
    if bool(empty.any()):
        who = ", ".join(str(i) for i in empty.nonzero().flatten().tolist()[:8])
        warnings.append(
            note(Code.ZERO_MAP, f"The map of sample {who} is zero everywhere: the method found no influence")
        )
    target = problem.target
    explained = problem if result.objective is None else problem.with_(objective=result.objective)
    return Explanation(
        attribution=result.attribution.detach(),
        x=features.detach(),
        target=target,
        target_names=[problem.task.name(_index(t)) for t in target],
        names=lifted.names,
        method=method.name,
        spec=method.describe(),
        objective=objective_name(explained.objective),
        score=explained.score,
        delta=result.delta,
        standard_error=result.standard_error,
        top=_top(problem),
        cost=problem.evaluator.cost,
        warnings=list(dict.fromkeys(warnings)),
        seed=seed,
        ids=list(problem.ids),
        versions=versions(),
        diagnostics=result.diagnostics,
        modality=problem.task.modality,
    )


def _index(target: Tensor) -> int | list[int]:
    return int(target) if target.ndim == 0 else target.tolist()


def _top(problem: Problem) -> list[list[tuple[str, float]]]:
    outputs, task = problem.known_outputs, problem.task
    if task.output_kind == "regression" or not isinstance(outputs, Tensor) or outputs.ndim != 2:
        return [[] for _ in range(len(problem.x))]
    probabilities = task.log_probabilities(outputs)[:, : outputs.shape[1]].exp()
    best = probabilities.topk(min(TOP, outputs.shape[1]), dim=1)
    return [
        [(task.name(int(i)), float(p)) for i, p in zip(row, values, strict=True)]
        for row, values in zip(best.indices, best.values, strict=True)
    ]


def _remarks(model: nn.Module) -> list[str]:
    """What is worth saying about the model before it runs."""
    remarks: list[str] = []
    if any(module.training for module in model.modules()):
        remarks.append(
            note(
                Code.TRAINING_MODE,
                "The model was in training mode; it was explained in evaluation mode and set back",
            )
        )
    if compiled(model):
        remarks.append(
            note(Code.COMPILED_MODEL, "The model is compiled; it was explained in eager mode, uncompiled")
        )
    if coupled := coupling(model):
        remarks.append(
            note(
                Code.COUPLED_ROWS,
                f"Layer {clean_name(coupled[0])!r} normalises by the batch at hand, so samples influence "
                "one another and the chunk size matters",
            )
        )
    _check_weights(model)
    return remarks


def _check_weights(model: nn.Module) -> None:
    """Raise where weights are missing, NaN or infinite; a sum is read once per weight, a value only then."""
    weights = dict(model.named_parameters())
    for name, parameter in weights.items():
        if parameter.is_meta:
            raise ModelError(
                Code.DEVICE,
                "The model has no weights",
                got=f"{name!r} on the meta device",
                fix="Load weights with model.to_empty(device=…) and load_state_dict(…)",
            )
    if all(cmath.isfinite(parameter.detach().sum().item()) for parameter in weights.values()):
        return
    for name, parameter in weights.items():
        if not bool(torch.isfinite(parameter).all()):
            raise ModelError(
                Code.NOT_FINITE_WEIGHTS,
                "The model's weights hold NaN or infinity",
                got=f"in {name!r}",
                fix="Load a sound checkpoint; an explanation of NaN means nothing",
            )


def _refuse_inference_mode(model: nn.Module) -> None:
    if torch.is_inference_mode_enabled():
        raise ModelError(
            Code.INFERENCE_MODE,
            "Gradients cannot be taken inside torch.inference_mode()",
            fix="Call abe.explain outside that block; torch.no_grad() is fine",
        )
    for name, parameter in model.named_parameters():
        if parameter.is_inference():
            raise ModelError(
                Code.INFERENCE_MODE,
                "The model was built inside torch.inference_mode(), so it cannot be differentiated",
                got=f"inference tensor {name!r}",
                fix="Build or load the model outside that block, or copy.deepcopy it outside",
            )

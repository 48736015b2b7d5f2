"""What direct metrics share: remembered work, truth about the samples, and explaining again."""

from collections.abc import Callable, Hashable, Sequence
from copy import copy
from dataclasses import replace
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from abe.engines.batching import Chunk, Evaluator
from abe.engines.problem import Problem
from abe.errors import Code, InputError, SpecError
from abe.imputation import positions
from abe.objectives import as_objective
from abe.registry import Method, methods, objectives
from abe.spec import from_spec
from abe.task.base import Task
from abe.types import Card, Objective
from abe.units import check_map

MASK = "truth.mask"
"""Where `Explanation.diagnostics` holds the true region of each sample."""
LABEL = "truth.label"
"""Where it holds the true class of each sample."""

_T = TypeVar("_T")


def remembered(problem: Any, explanation: Any, key: Hashable, compute: Callable[[], _T]) -> _T:
    """``compute()``, once per problem, map and key, so that metrics with the same settings share rows."""
    store: dict[Any, Any] = vars(problem).setdefault("_remembered", {})
    whole = (id(explanation.attribution), key)
    if whole not in store:
        store[whole] = (explanation.attribution, compute())  # held, so that the id stays taken
    return store[whole][1]


def probabilities(problem: Any, n: int, make: Any, owner: Tensor) -> Float[Tensor, "n"]:
    """(n,) probability of the owner's target for rows that are made when their turn comes."""
    found = torch.zeros(n, dtype=torch.float64, device=problem.x.device)

    def keep(chunk: Chunk) -> None:
        log_p = problem.task.log_probabilities(chunk.outputs)
        chosen = log_p.gather(1, problem.target[chunk.owner][:, None].to(log_p.device))[:, 0]
        found[chunk.rows] = chosen.exp().double()

    problem.forward(n, make, owner, keep)
    return found


def with_truth(explanation: Any, masks: Any, labels: Any) -> Any:
    """The explanation with what is known about its samples; itself where nothing is given."""
    given = {MASK: masks, LABEL: labels}
    known = {name: torch.as_tensor(value) for name, value in given.items() if value is not None}
    if not known:
        return explanation
    other = copy(explanation)
    other.diagnostics = {**explanation.diagnostics, **known}
    return other


def region(problem: Any, explanation: Any) -> Bool[Tensor, "b p"]:
    """(b, positions) the true region of each sample.

    Raises:
        InputError: no masks were given, or they do not fit the samples.
    """
    x = problem.x
    given = getattr(explanation, "diagnostics", {}).get(MASK)
    if given is None:
        raise InputError(
            Code.MASK,
            "This metric needs the true region of every sample",
            got="no masks",
            fix="Pass masks=(b, h, w) of booleans to score or evaluate",
        )
    mask = torch.as_tensor(given).to(x.device).bool()
    wanted = (len(x), *x.shape[2:]) if x.ndim > 2 else tuple(x.shape)
    if mask.ndim == x.ndim and x.ndim > 2 and mask.shape[1] == 1:
        mask = mask[:, 0]
    if tuple(mask.shape) != wanted:
        raise InputError(
            Code.MASK, "The masks do not fit the samples", got=str(tuple(mask.shape)), expected=str(wanted)
        )
    return mask.flatten(1)


def labels(problem: Any, explanation: Any) -> Tensor:
    """(b,) the true class of each sample.

    Raises:
        InputError: none were given, or not one class number per sample.
    """
    given = getattr(explanation, "diagnostics", {}).get(LABEL)
    found = None if given is None else torch.as_tensor(given)
    if found is None or found.shape != (len(problem.x),) or found.is_floating_point():
        raise InputError(
            Code.LABELS,
            "This metric needs the true class of every sample",
            got="no labels" if found is None else f"labels of shape {tuple(found.shape)}, {found.dtype}",
            expected=f"({len(problem.x)},) class numbers",
            fix="Pass labels= with one class number per sample",
        )
    return found.to(problem.x.device).long()


def check_asked(problem: Any, explanation: Any, cards: Sequence[Card]) -> None:
    """Refuse what cannot be measured before anything is computed.

    Raises:
        InputError: maps of other samples, or no masks or labels where a metric needs them.
        SpecError: a metric that does not apply to the modality, or needs the method of a foreign map.
    """
    check_map(explanation.attribution, problem.x)
    x = getattr(explanation, "x", None)
    if x is not None and (x.shape != problem.x.shape or not torch.equal(x.to(problem.x), problem.x)):
        raise InputError(
            Code.SAMPLES,
            "The maps explain other samples than these",
            fix="Explain the same inputs, in the same order",
        )
    checks = {
        "mask": lambda: region(problem, explanation),
        "label": lambda: labels(problem, explanation),
        "method": lambda: method_of(explanation),
    }
    modality = problem.task.modality
    for card in cards:
        if modality not in card.modalities:
            raise SpecError(
                Code.UNSUPPORTED,
                f"The metric {card.name!r} does not apply to this modality",
                got=repr(modality),
                expected=" or ".join(map(repr, card.modalities)),
            )
        for need in card.needs:
            if need in checks:
                checks[need]()


PROCESSING = ("positive", "absolute", "minmax", "signed")


def heat(problem: Any, explanation: Any, of: str) -> Float[Tensor, "b p"]:
    """(b, positions) float64: the map summed over channels, then post-processed.

    Clipped at 0 (``"positive"``), ``"absolute"``, from 0 for the smallest to 1 for the largest value
    (``"minmax"``; a constant map is 0), or as it is (``"signed"``).
    """
    flat = check_map(explanation.attribution, problem.x).double()
    flat = flat.sum(1).flatten(1) if problem.x.ndim > 2 else flat[:, 0]
    if of == "minmax":
        low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
        return (flat - low) / torch.where(high > low, high - low, torch.ones_like(low))
    return {"positive": flat.clamp_min(0), "absolute": flat.abs(), "signed": flat}[of]


def soft_mask(problem: Any, explanation: Any) -> Tensor:
    """(b, 1, *space) or (b, d) the positive part of the map over its maximum; 0 where there is none."""
    strength = heat(problem, explanation, "positive")
    return positions(strength / strength.amax(1, keepdim=True).clamp_min(1e-300), problem.x).to(problem.x)


def check_processing(of: str) -> None:
    """Refuse an unknown post-processing."""
    if of not in PROCESSING:
        raise SpecError(
            Code.BAD_PARAMETER,
            "There is no such post-processing of a map",
            got=repr(of),
            expected=" or ".join(map(repr, PROCESSING)),
        )


def method_of(explanation: Any) -> Method:
    """The method that made an explanation, from its specification.

    Raises:
        SpecError: it was made elsewhere, or its specification only describes it.
    """
    spec = dict(getattr(explanation, "spec", {}) or {})
    if spec.get("method") not in methods.names():
        raise SpecError(
            Code.UNSUPPORTED,
            "This metric explains again, so it needs the method, not only its map",
            got=f"a map of {spec.get('method', 'unknown origin')!r}",
            fix="Explain with a registered method, or choose metrics of the map alone",
        )
    return from_spec({"method": spec["method"], "params": spec.get("params", {})})


def objective_of(explanation: Any) -> Objective:
    """The score an explanation explains, where its name stands for one; else the class score."""
    name = getattr(explanation, "objective", "")
    found = next((e for e in objectives.entries() if getattr(e.factory, "__name__", "") == name), None)
    return as_objective("logit" if found is None or found.required() else found.name)


def again(problem: Problem, explanation: Any) -> Tensor:
    """(b, *f) the map of the explanation's method for another problem."""
    return method_of(explanation).engine.run(problem).attribution.detach()


def elsewhere(problem: Problem, task: Task, x: Tensor | None = None) -> Problem:
    """The same request for another model; its rows are counted with the rest."""
    evaluator = Evaluator(task, execution="model", chunk=problem.evaluator.chunk)
    evaluator.cost = problem.evaluator.cost
    changes: dict[str, Any] = {} if x is None else {"x": x}
    return replace(problem, evaluator=evaluator, known_outputs=None, **changes)


def layers(model: nn.Module) -> list[str]:
    """Names of the modules that hold parameters of their own, in order of registration."""
    return [
        name
        for name, module in model.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    ]

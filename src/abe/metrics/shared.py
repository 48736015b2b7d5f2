"""What direct metrics share: remembered work, truth about the samples, and explaining again."""

from collections.abc import Callable, Hashable
from copy import copy
from dataclasses import replace
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from abe.engines.batching import Chunk, Evaluator
from abe.engines.problem import Problem
from abe.errors import Code, InputError, SpecError
from abe.registry import Method, methods, objectives
from abe.spec import from_spec
from abe.task.base import Task
from abe.units import check_map

MASK = "mask"
"""Where `Explanation.diagnostics` holds the true region of each sample."""
LABEL = "label"
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
        InputError: none were given, or not one per sample.
    """
    given = getattr(explanation, "diagnostics", {}).get(LABEL)
    if given is None or len(given) != len(problem.x):
        raise InputError(
            Code.LABELS,
            "This metric needs the true class of every sample",
            got="no labels" if given is None else f"{len(given)} labels for {len(problem.x)} samples",
            fix="Pass labels= with one class number per sample",
        )
    return torch.as_tensor(given).to(problem.x.device).long()


PROCESSING = ("positive", "absolute", "signed")


def heat(problem: Any, explanation: Any, of: str) -> Float[Tensor, "b p"]:
    """(b, positions) float64: the map summed over channels, then clipped at 0, absolute, or as it is."""
    flat = check_map(explanation.attribution, problem.x).double()
    flat = flat.sum(1).flatten(1) if problem.x.ndim > 2 else flat[:, 0]
    return {"positive": flat.clamp_min(0), "absolute": flat.abs(), "signed": flat}[of]


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


def again(problem: Problem, explanation: Any, method: Method | None = None) -> Tensor:
    """(b, *f) the map of the explanation's method for another problem."""
    chosen = method or method_of(explanation)
    name = getattr(explanation, "objective", "")
    known = next((e.factory for e in objectives.entries() if e.factory.__name__ == name), None)
    score = problem.objective if known is None or type(problem.objective) is known else _made(known)
    return chosen.engine.run(problem.with_(objective=score or problem.objective)).attribution.detach()


def _made(factory: Any) -> Any:
    try:
        return factory()
    except TypeError:
        return None


def elsewhere(problem: Problem, task: Task, x: Tensor | None = None) -> Problem:
    """The same request for another model; its rows are counted with the rest."""
    evaluator = Evaluator(task, execution="model", chunk=problem.evaluator.chunk)
    evaluator.cost = problem.evaluator.cost
    changes: dict[str, Any] = {} if x is None else {"x": x}
    return replace(problem, evaluator=evaluator, known_outputs=None, **changes)

"""Explaining again, as an explanation was made."""

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from abe.engines import sides
from abe.engines.runtime.evaluator import Evaluator
from abe.engines.runtime.problem import Problem
from abe.engines.runtime.targets import Decision
from abe.errors import Code, SpecError
from abe.objectives import as_objective
from abe.registry import Method, methods, objectives
from abe.spec import from_spec
from abe.task.base import Task
from abe.types import Objective


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
    return sides.run(method_of(explanation), problem).attribution.detach()


def elsewhere(problem: Problem, task: Task, x: Tensor | None = None) -> Problem:
    """The same request for another model; its rows are counted with the rest."""
    evaluator = Evaluator(task, execution="model", chunk=problem.evaluator.chunk)
    evaluator.cost = problem.evaluator.cost
    changes: dict[str, Any] = {} if x is None else {"x": x}
    return replace(problem, evaluator=evaluator, decision=Decision(problem.target), **changes)


def layers(model: nn.Module) -> list[str]:
    """Names of the modules that hold parameters of their own, in order of registration."""
    return [
        name
        for name, module in model.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    ]

"""Rows that direct metrics run, remembered where several read the same."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from jaxtyping import Float
from torch import Tensor

from abe.engines.runtime.problem import Problem
from abe.objectives import gather

_T = TypeVar("_T")


def remembered(problem: Problem, explanation: Any, key: Hashable, compute: Callable[[], _T]) -> _T:
    """``compute()``, once per problem, map and key, so that metrics with the same settings share rows."""
    store: dict[Any, Any] = vars(problem).setdefault("_remembered", {})
    whole = (id(explanation.attribution), key)
    if whole not in store:
        store[whole] = (explanation.attribution, compute())  # held, so that the id stays taken
    return store[whole][1]


def probabilities(problem: Problem, make: Any, owner: Tensor) -> Float[Tensor, "n"]:
    """(n,) probability of the owner's target for rows that are made when their turn comes."""
    outputs = problem.outputs(make, owner)
    return gather(*problem.task.chances(outputs, problem.target[owner].to(outputs.device))).exp().double()

"""Metrics that look at one of several packed inputs: a picture, a text, or that of a true region."""

from collections.abc import Sequence
from copy import copy
from typing import Any

import torch

from abe.engines.runtime.problem import Problem
from abe.engines.sides import NEIGHBOURS, is_flat, side
from abe.errors import Code, SpecError
from abe.metrics.evaluation.base import Metric
from abe.metrics.evaluation.truth import MASK
from abe.types import OFFERS, Card
from abe.units import check_map


def grouped(
    chosen: Sequence[Metric], problem: Problem, explanation: Any
) -> list[tuple[list[Metric], Problem, Any]]:
    """Metrics with the request and the maps that they read: all inputs', or those of the one they look at."""
    groups: dict[str | int | None, list[Metric]] = {}
    for metric in chosen:
        groups.setdefault(name_of(metric.card, problem, explanation), []).append(metric)
    return [(own, *of_side(problem, explanation, name)) for name, own in groups.items()]


def of_side(problem: Problem, explanation: Any, name: str | int | None) -> tuple[Problem, Any]:
    """The request about one input, and its part of the maps; what was given where no input is named."""
    if name is None:
        return problem, explanation
    part = next(one for one in problem.task.parts if one.name == name)
    views: dict[Any, Problem] = vars(problem).setdefault("_sides", {})
    view = views.get(name) or views.setdefault(name, side(problem, name))
    told = copy(explanation)
    told.attribution = part.of(check_map(explanation.attribution, problem.x).reshape(problem.x.shape))
    told.x, told.parts = view.x, ()
    return view, told


def name_of(card: Card | None, problem: Problem, explanation: Any) -> str | int | None:
    """The one of several packed inputs that a metric looks at; None for all of them.

    Raises:
        SpecError: it needs positions, and several inputs have such.
    """
    if card is None or not is_flat(problem):
        return None
    needs, masked = NEIGHBOURS & set(card.features), "mask" in card.needs
    if not needs and not masked:
        return None
    tasks = problem.task.lifter.tasks
    able = [one for one in problem.task.parts if needs <= set(OFFERS.get(tasks[one.name].modality, ()))]
    mask = getattr(explanation, "diagnostics", {}).get(MASK)
    if masked and mask is not None:
        able = [one for one in able if tuple(one.shape[1:]) == tuple(torch.as_tensor(mask).shape[1:])]
    if len(able) == 1:
        return able[0].name
    raise SpecError(
        Code.UNSUPPORTED,
        f"The metric {card.name!r} looks at one input, and {'several' if able else 'none'} would do",
        got=f"inputs {', '.join(repr(one.name) for one in problem.task.parts)}",
        fix="Explain and measure one input alone, the others beside it",
    )

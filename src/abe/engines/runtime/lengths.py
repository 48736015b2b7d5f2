"""Samples of different lengths, each as it is alone: without the padding behind it."""

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from abe.engines.runtime.problem import Problem
from abe.task.lengths import Group, groups, lengths_of
from abe.task.lifted import HELD
from abe.types import Engine, Result


def run(engine: Engine, problem: Problem, params: Mapping[str, Any]) -> Result:
    """The result of an engine in which every sample is as long as it is alone.

    Windows, draws, maps of layers and whatever else looks at a sample as a whole never sees padding. Where a
    parameter holds numbers for every position of the batch, samples stay as long as the longest.

    Args:
        engine: what explains.
        problem: samples of different lengths, or of one.
        params: parameters of the method.
    """
    task, lengths = problem.task, lengths_of(problem.context, problem.task.parts, own=True)
    if lengths is None or problem.x.ndim < 2 or bool((lengths == _full(problem)).all()):
        return engine.run(problem)
    flat = problem.x.ndim == 2
    full = problem.x.shape[1] if flat else problem.x.shape[2]
    if (not flat and not _along(problem, full)) or _holds(params, full):
        return engine.run(problem)
    problem = problem.predicted()
    found = list[tuple[Group, Result]]()
    for group in groups(problem.x, problem.context, task.parts, own=True):
        group = replace(group, rows=group.rows.to(problem.x.device))
        found.append((group, engine.run(_cut(problem, group, full))))
    return _together(problem, found)


def _full(problem: Problem) -> Tensor:
    """(k,) positions of the longest sample, for each input that has them."""
    x, parts = problem.x, problem.task.parts
    if x.ndim > 2:
        return torch.tensor([x.shape[2]], device=x.device)
    return torch.tensor([part.shape[1] if len(part.shape) > 1 else 0 for part in parts], device=x.device)


def _along(problem: Problem, full: int) -> bool:
    """Whether further inputs have positions along their second axis only, where they can be cut."""
    return all(full not in value.shape[2:] for value in problem.context.values.values())


def _holds(given: Any, full: int) -> bool:
    """Whether a parameter holds an array with an axis of this length, or rows that are as long."""
    if isinstance(given, Mapping):
        return any(_holds(one, full) for one in given.values())
    if isinstance(given, list | tuple):
        rows = [one for one in given if isinstance(one, list | tuple)]
        as_long = any(len(row) == full and all(isinstance(i, int | float) for i in row) for row in rows)
        return as_long or any(_holds(one, full) for one in given)
    if hasattr(given, "__dataclass_fields__"):
        return any(_holds(getattr(given, name, None), full) for name in given.__dataclass_fields__)
    shape: Any = getattr(given, "shape", ())
    return full in tuple(shape)


def _cut(problem: Problem, group: Group, full: int) -> Problem:
    known = problem.known_outputs
    part = problem.with_(x=group.x, owner=group.rows)
    part.decision.outputs = known[group.rows] if isinstance(known, Tensor) else None
    part.context = group.context
    if group.kept is None:
        end = group.x.shape[2]
        about = {
            key: value[:, :, :end]
            if value.ndim > 2 and value.shape[2] == full and not key.startswith(HELD)
            else value
            for key, value in group.context.about.items()
        }
        part.context = replace(group.context, about=about)
        return part
    part.evaluator = copy(problem.evaluator)
    part.evaluator.task = problem.task.reading(parts=group.parts)
    return part


def _together(problem: Problem, found: Sequence[tuple[Group, Result]]) -> Result:
    """One result of several; behind what belongs to a shorter sample stand zeros."""
    results = [one for _, one in found]
    rows = [group.rows for group, _ in found]

    def laid(values: Iterable[Tensor | None]) -> Tensor | None:
        kept = [one for one in values if one is not None]
        return _laid(rows, kept, 0.0) if len(kept) == len(rows) else None

    def placed(values: Sequence[Tensor | None]) -> list[Tensor | None]:
        """What has an entry for each of flat features, where these lie among all."""
        return [_placed(group, one, problem.x) for (group, _), one in zip(found, values, strict=True)]

    attribution = _laid(
        rows, [one for one in placed([one.attribution for one in results]) if one is not None], 0.0
    )
    names = [n for n in results[0].diagnostics if all(n in one.diagnostics for one in results)]
    return Result(
        _behind(attribution, problem.x),
        laid(one.delta for one in results),
        standard_error=laid(placed([one.standard_error for one in results])),
        warnings=list(dict.fromkeys(note for one in results for note in one.warnings)),
        diagnostics={n: _laid(rows, [one.diagnostics[n] for one in results], torch.nan) for n in names},
        objective=results[0].objective,
        features=laid(placed([one.features for one in results])),
    )


def _placed(group: Group, given: Tensor | None, x: Tensor) -> Tensor | None:
    if given is None or group.kept is None or given.shape[1:] != group.x.shape[1:]:
        return given
    out = given.new_zeros(len(given), x.shape[1])
    out[:, group.kept.to(given.device)] = given
    return out


def _laid(rows: Sequence[Tensor], values: Sequence[Tensor], fill: float) -> Tensor:
    """(b, …) values of the samples in ``rows``, as large as the largest along each axis.

    Where a sample has less stands ``fill``; -1 in whole numbers.
    """
    sizes = [max(one.shape[axis] for one in values) for axis in range(1, values[0].ndim)]
    filler = fill if values[0].is_floating_point() else -1
    out = values[0].new_full((sum(len(one) for one in rows), *sizes), filler)
    for own, one in zip(rows, values, strict=True):
        out[(own.to(out.device), *(slice(size) for size in one.shape[1:]))] = one
    return out


def _behind(found: Tensor, x: Tensor) -> Tensor:
    """Maps of inputs as long as the inputs are; those of a layer have a length of their own."""
    if x.ndim == 2 or found.ndim < 3:
        return found
    more = x.shape[2] - found.shape[2]
    if more <= 0 or found.shape[3:] != x.shape[3:]:
        return found
    return torch.cat([found, found.new_zeros(*found.shape[:2], more, *found.shape[3:])], 2)

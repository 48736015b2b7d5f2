"""Samples of different lengths, each as it is alone: without the padding behind it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from abe.engines.runtime.problem import Problem
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
    full, lengths = _positions(problem), problem.context.lengths
    if lengths is None or not full or bool((lengths == full).all()):
        return engine.run(problem)
    if not _along(problem, full) or _holds(params, full):
        return engine.run(problem)
    problem = problem.predicted()
    parts = [((lengths == n).nonzero().flatten().to(problem.x.device), n) for n in lengths.unique().tolist()]
    return _together(problem, [(rows, engine.run(_cut(problem, rows, n, full))) for rows, n in parts])


def _positions(problem: Problem) -> int:
    """Positions of the longest sample; 0 where features have none, or belong to several inputs."""
    return problem.x.shape[2] if problem.x.ndim > 2 and len(problem.task.parts) <= 1 else 0


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


def _cut(problem: Problem, rows: Tensor, length: int, full: int) -> Problem:
    known = problem.known_outputs
    part = problem.with_(x=problem.x[rows, :, :length], owner=rows)
    part.decision.outputs = known[rows] if isinstance(known, Tensor) else None
    context = part.context.cut(length, full)
    about = {
        key: value[:, :, :length]
        if value.ndim > 2 and value.shape[2] == full and not key.startswith(HELD)
        else value
        for key, value in context.about.items()
    }
    part.context = replace(context, about=about)
    return part


def _together(problem: Problem, found: Sequence[tuple[Tensor, Result]]) -> Result:
    """One result of several; behind what belongs to a shorter sample stand zeros."""
    results = [one for _, one in found]
    rows = [rows for rows, _ in found]

    def laid(values: Iterable[Tensor | None]) -> Tensor | None:
        kept = [one for one in values if one is not None]
        return _laid(rows, kept, 0.0) if len(kept) == len(rows) else None

    attribution = _laid(rows, [one.attribution for one in results], 0.0)
    names = [n for n in results[0].diagnostics if all(n in one.diagnostics for one in results)]
    return Result(
        _behind(attribution, problem.x),
        laid(one.delta for one in results),
        standard_error=laid(one.standard_error for one in results),
        warnings=list(dict.fromkeys(note for one in results for note in one.warnings)),
        diagnostics={n: _laid(rows, [one.diagnostics[n] for one in results], torch.nan) for n in names},
        objective=results[0].objective,
        features=laid(one.features for one in results),
    )


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
    more = x.shape[2] - found.shape[2]
    if more <= 0 or found.shape[3:] != x.shape[3:]:
        return found
    return torch.cat([found, found.new_zeros(*found.shape[:2], more, *found.shape[3:])], 2)

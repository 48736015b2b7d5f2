"""Samples of different lengths, each as it is alone: without the padding behind it."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from abe.engines.runtime.problem import Problem
from abe.task.lifted import LENGTH


def by_length(problem: Problem) -> Iterator[tuple[Tensor, Problem]]:
    """(rows, request) of the samples of every length, for engines that look at a sample as a whole.

    A request about samples that need no padding is given back as it is.
    """
    lengths = problem.context.about.get(LENGTH)
    full = problem.x.shape[2] if problem.x.ndim > 2 else 0
    if lengths is None or bool((lengths == full).all()):
        yield problem.everyone, problem
        return
    problem = problem.predicted()
    for length in lengths.unique().tolist():
        rows = (lengths == length).nonzero().flatten().to(problem.x.device)
        yield rows, _cut(problem, rows, length, full)


def _cut(problem: Problem, rows: Tensor, length: int, full: int) -> Problem:
    known = problem.known_outputs
    part = problem.with_(x=problem.x[rows, :, :length], owner=rows)
    part.decision.outputs = known[rows] if isinstance(known, Tensor) else None
    context = part.context.cut(length, full)
    about = {
        key: value[:, :, :length] if value.ndim > 2 and value.shape[2] == full else value
        for key, value in context.about.items()
    }
    part.context = replace(context, about=about)
    return part


def behind(found: Tensor, full: int) -> Tensor:
    """(n, c, full, …) what was found of samples that are shorter, with zeros behind it."""
    more = full - found.shape[2]
    if more == 0:
        return found
    return torch.cat([found, found.new_zeros(*found.shape[:2], more, *found.shape[3:])], 2)

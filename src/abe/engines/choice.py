"""Which execution copy of a model to run: verified on real rows, then the fastest by the clock."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from abe.engines.execution import agrees, candidates
from abe.task.base import Context, Task

PROBE_ROWS = 4
"""Rows on which candidates are verified and timed: near the best chunk on a CPU."""


@dataclass(frozen=True)
class Choice:
    """What to run for a task from now on, until the model's fingerprint changes."""

    model: nn.Module
    name: str
    fingerprint: tuple[Any, ...]


def choose(
    task: Task,
    sample: Callable[[int], Tensor],
    context_of: Callable[[int], Context],
    fingerprint: tuple[Any, ...],
) -> Choice:
    """The fastest candidate whose outputs and input gradients agree with the model's own.

    Args:
        task: whose model to run.
        sample: gives at most n real rows.
        context_of: gives their context.
        fingerprint: of the model as it is now.
    """
    x = sample(PROBE_ROWS)
    context = context_of(len(x))
    reference = _measure(task, task.model, x, context)
    best, best_seconds = Choice(task.model, "model", fingerprint), float("inf")
    if reference is None:
        return best
    for candidate in candidates(task.model, lambda model: task.forward(x, context, model)):
        measured = reference if candidate.model is task.model else _measure(task, candidate.model, x, context)
        if measured is None or not agrees(*_pairs(reference, measured)):
            continue
        if measured.seconds < best_seconds:
            best, best_seconds = Choice(candidate.model, candidate.name, fingerprint), measured.seconds
    return best


@dataclass(frozen=True)
class _Measured:
    outputs: Tensor
    gradients: Tensor
    seconds: float


def _measure(task: Task, model: nn.Module, x: Tensor, context: Context) -> _Measured | None:
    """Outputs, gradients of each row's largest output, and the best of two timed runs after one."""
    seconds, outputs, gradients = float("inf"), None, None
    for repeat in range(3):
        began = time.perf_counter()
        leaf = x.clone().requires_grad_(True)
        with torch.enable_grad():
            outputs = task.forward(leaf, context, model)
            if not isinstance(outputs, Tensor) or not outputs.requires_grad:
                return None
            (gradients,) = torch.autograd.grad(outputs.flatten(1).amax(1).sum(), leaf, allow_unused=True)
        if gradients is None:
            return None
        if repeat:
            seconds = min(seconds, time.perf_counter() - began)
    assert isinstance(outputs, Tensor) and gradients is not None
    return _Measured(outputs.detach(), gradients, seconds)


def _pairs(reference: _Measured, other: _Measured) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return reference.outputs, other.outputs, reference.gradients, other.gradients

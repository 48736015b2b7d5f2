"""Which execution copy of a model to run: verified on real rows, then the fastest by the clock."""

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from abe.engines.execution import agrees, candidates
from abe.objectives import gather
from abe.task.base import Context, Task

PROBE_ROWS = 4
"""Rows on which candidates are verified and timed: near the best chunk on a CPU."""


@dataclass(frozen=True)
class Choice:
    """What to run for a task from now on, until the model's fingerprint changes."""

    model: nn.Module
    name: str
    fingerprint: tuple[Any, ...]


def choose(task: Task, x: Tensor, context: Context, fingerprint: tuple[Any, ...]) -> Choice:
    """The fastest candidate whose outputs and input gradients agree with the model's own.

    Args:
        task: whose model to run.
        x: (n, *f) real rows to verify and time on.
        context: their context.
        fingerprint: of the model as it is now.
    """
    best, best_seconds = Choice(task.model, "model", fingerprint), float("inf")
    try:
        reference = _measure(task, task.model, x, context)
    except Exception:  # whatever it is, the run itself meets it again and says so
        return best
    if reference is None:
        return best
    blur = _blur(task, x, context, reference)
    for candidate in candidates(task.model, lambda model: task.forward(x, context, model)):
        same = candidate.model is task.model
        measured = reference if same else _measure(task, candidate.model, x, context, reference.chosen)
        if measured is None or not (same or agrees(*_pairs(reference, measured), blur=blur)):
            continue
        if measured.seconds < best_seconds:
            best, best_seconds = Choice(candidate.model, candidate.name, fingerprint), measured.seconds
    return best


def _blur(task: Task, x: Tensor, context: Context, reference: "_Measured") -> Tensor:
    """(n,) how far each row's gradient moves in L2 when the input moves by rounding errors only."""
    signs = torch.ones_like(x)
    signs.flatten(1)[:, ::2] = -1
    moved = _measure(task, task.model, x * (1 + 1e-6 * signs), context, reference.chosen, repeats=1)
    if moved is None:
        return torch.zeros(len(x), device=x.device)
    return (moved.gradients - reference.gradients).flatten(1).norm(dim=1)


@dataclass(frozen=True)
class _Measured:
    outputs: Tensor
    gradients: Tensor
    chosen: Tensor
    seconds: float


def _measure(
    task: Task,
    model: nn.Module,
    x: Tensor,
    context: Context,
    chosen: Tensor | None = None,
    *,
    repeats: int = 3,
) -> _Measured | None:
    """Outputs, gradients of each row's chosen (by default largest) output, and the best of two timed runs.

    A run before those warms caches up. None where the model cannot be differentiated.
    """
    seconds, measured = float("inf"), None
    for repeat in range(repeats):
        began = time.perf_counter()
        leaf = x.clone().requires_grad_(True)
        with torch.enable_grad():
            outputs = task.forward(leaf, context, model)
            if not isinstance(outputs, Tensor) or not outputs.requires_grad:
                return None
            flat = outputs.flatten(1)
            chosen = flat.argmax(1) if chosen is None else chosen
            (gradients,) = torch.autograd.grad(gather(flat, chosen).sum(), leaf, allow_unused=True)
        if gradients is None:
            return None
        if repeat:
            seconds = min(seconds, time.perf_counter() - began)
        measured = _Measured(outputs.detach(), gradients, chosen, seconds)
    return measured


def _pairs(reference: _Measured, other: _Measured) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return reference.outputs, other.outputs, reference.gradients, other.gradients

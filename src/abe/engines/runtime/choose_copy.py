"""Which execution copy of a model to run: verified on real rows, then the fastest by the clock."""

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from abe.engines.runtime.fused_copy import agrees, candidates
from abe.engines.runtime.fused_copy import fingerprint as fingerprint_of
from abe.instrument.recurrent import differentiable
from abe.objectives import gather
from abe.task.base import Context, Task

PROBE_ROWS = 4
"""Rows on which candidates are verified and timed: near the best chunk on a CPU."""
ROUNDING = 1e-6
"""About ten units in the last place of float32."""
ROUNDS = 3
"""Timed runs of every candidate that agrees, besides its verification."""
BEATEN = 1.2
"""A candidate whose best of two runs or more took this many times as long as the fastest is not run again."""


@dataclass(frozen=True)
class Choice:
    """What to run for a task from now on, until the model's fingerprint changes."""

    model: nn.Module
    name: str
    fingerprint: tuple[Any, ...]


def choose(task: Task, x: Tensor, context: Context, fingerprint: tuple[Any, ...]) -> Choice:
    """The fastest candidate whose outputs and input gradients agree with the model's own.

    A model that changes as it runs has none: a copy would not go along.

    Args:
        task: whose model to run.
        x: (n, *f) real rows to verify and time on.
        context: their context.
        fingerprint: of the model as it is now.
    """
    own = Choice(task.model, "model", fingerprint)
    try:
        reference, seconds = _timed(task, task.model, x, context)
        if reference is None or fingerprint_of(task.model) != fingerprint:
            return own
    except Exception:  # whatever it is, the run itself meets it again and says so
        return own
    contenders, blur = [(own, seconds)], None
    for candidate in candidates(task.model, lambda model: task.forward(x, context, model)):
        if candidate.model is task.model:
            continue
        measured, seconds = _timed(task, candidate.model, x, context, reference.chosen)
        if measured is None:
            continue
        agreed = agrees(*_pairs(reference, measured))
        if not agreed:
            blur = _blur(task, x, context, reference) if blur is None else blur
            agreed = agrees(*_pairs(reference, measured), blur=blur)
        if agreed:
            contenders.append((Choice(candidate.model, candidate.name, fingerprint), seconds))
    return _fastest(task, x, context, contenders)


def _fastest(task: Task, x: Tensor, context: Context, contenders: list[tuple[Choice, float]]) -> Choice:
    """The contender with the shortest run; they run in turn, so that a slow moment hits all alike."""
    for _ in range(ROUNDS):
        if len(contenders) == 1:
            break
        contenders = [(c, min(best, _timed(task, c.model, x, context)[1])) for c, best in contenders]
        least = min(best for _, best in contenders)
        contenders = [(c, best) for c, best in contenders if best <= BEATEN * least]
    return min(contenders, key=lambda one: one[1])[0]


def _timed(
    task: Task, model: nn.Module, x: Tensor, context: Context, chosen: Tensor | None = None
) -> "tuple[_Measured | None, float]":
    """What `_measure` gives, and its seconds."""
    began = time.perf_counter()
    return _measure(task, model, x, context, chosen), time.perf_counter() - began


def _blur(task: Task, x: Tensor, context: Context, reference: "_Measured") -> Tensor:
    """(n,) how far each row's gradient moves in L2 when the input moves by rounding errors only.

    They are those of the largest input: what a model computes of a dark row, after its normalisation, is
    no smaller than what it computes of a bright one.
    """
    signs = torch.ones_like(x)
    signs.flatten(1)[:, ::2] = -1
    moved = _measure(task, task.model, x + ROUNDING * x.abs().amax() * signs, context, reference.chosen)
    if moved is None:
        return torch.zeros(len(x), device=x.device)
    return (moved.gradients - reference.gradients).flatten(1).norm(dim=1)


@dataclass(frozen=True)
class _Measured:
    outputs: Tensor
    gradients: Tensor
    chosen: Tensor


def _measure(
    task: Task, model: nn.Module, x: Tensor, context: Context, chosen: Tensor | None = None
) -> _Measured | None:
    """Outputs, and gradients of each row's chosen (by default largest) output.

    None where the model cannot be differentiated.
    """
    leaf = x.clone().requires_grad_(True)
    with torch.enable_grad(), differentiable(model, x):
        outputs = task.forward(leaf, context, model)
        if not isinstance(outputs, Tensor) or not outputs.requires_grad:
            return None
        flat = outputs.flatten(1)
        chosen = flat.argmax(1) if chosen is None else chosen
        (gradients,) = torch.autograd.grad(gather(flat, chosen).sum(), leaf, allow_unused=True)
    return None if gradients is None else _Measured(outputs.detach(), gradients, chosen)


def _pairs(reference: _Measured, other: _Measured) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return reference.outputs, other.outputs, reference.gradients, other.gradients

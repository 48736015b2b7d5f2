"""Reference inputs brought to the shape, the bounds and the units of the inputs they stand for."""

import hashlib
from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from abe.draws import mix
from abe.errors import Code, InputError, SpecError
from abe.task.lengths import of_part
from abe.task.lifted import FIXED


def bounds_of(problem: Any, who: str) -> tuple[Tensor, Tensor]:
    """(low, high) of shape (*f) on the device of the inputs."""
    if problem.bounds is None:
        raise SpecError(
            Code.UNSUPPORTED,
            f"The baseline {who!r} needs a task with bounds",
            got=f"a task of the modality {problem.task.modality!r} without them",
            fix="When you make the task, pass bounds=(low, high), or background= where its constructor takes "
            "one; or give the method or metric another reference by its baseline= or background=, such as "
            "'mean' or an array of inputs",
        )
    x = problem.x
    low, high = (bound.to(x).expand(1, *x.shape[1:])[0] for bound in problem.bounds)
    return low, high


def per_channel(bound: Tensor) -> Tensor:
    """(c,) one bound per channel (they do not differ over space)."""
    return bound.flatten(1)[:, 0].clone() if bound.ndim > 1 else bound.clone()


def tile(values: Tensor, x: Tensor) -> Tensor:
    """(*f) one number, or one per channel, repeated over space."""
    channels = x.shape[1]
    if len(values) not in (1, channels):
        raise InputError(
            Code.BASELINE_SHAPE,
            "A constant baseline has one value, or one per channel",
            got=f"{len(values)} values",
            expected=f"1 or {channels}",
        )
    return values.to(x).view(-1, *[1] * (x.ndim - 2)).expand(x.shape[1:])


def fit(reference: Tensor, x: Tensor) -> Tensor:
    """Reference rows broadcast to the rows they stand for."""
    try:
        return reference.to(x).expand_as(x)
    except RuntimeError:
        raise InputError(
            Code.BASELINE_SHAPE,
            "The baseline does not fit the input",
            got=f"shape {tuple(reference.shape[1:])} per sample",
            expected=f"{tuple(x.shape[1:])}",
            fix="Give references of the input's shape, before the task's normalisation",
        ) from None


def convolve(x: Tensor, weights: Tensor, axis: int) -> Tensor:
    """Convolve along one axis with the border continued."""
    half = len(weights) // 2
    moved = x.movedim(axis, -1)
    flat = moved.reshape(-1, 1, moved.shape[-1])
    flat = functional.conv1d(functional.pad(flat, (half, half), mode="replicate"), weights.view(1, 1, -1))
    return flat.reshape(moved.shape).movedim(-1, axis)


def check_finite(reference: Any) -> None:
    """Refuse a reference with anything but finite floating-point numbers."""
    real = isinstance(reference, Tensor) and reference.is_floating_point()
    if not real or not bool(torch.isfinite(reference).all()):
        kind = "" if real or not isinstance(reference, Tensor) else f" of {reference.dtype}"
        raise InputError(
            Code.BASELINE_SHAPE,
            "A reference input holds finite floating-point numbers",
            got=outline(reference) + kind,
            fix="Convert to the task's units first, for example x.float() / 255",
        )


def digest_of(tensor: Tensor) -> int:
    """A number of the tensor's content, shape and type."""
    content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    digest = hashlib.blake2b(content.numpy().data, digest_size=8)
    return mix(str(tuple(tensor.shape)), str(tensor.dtype), digest.hexdigest())


def outline(obj: Any) -> str:
    """What to call an object in a message."""
    return f"a tensor of shape {tuple(obj.shape)}" if isinstance(obj, Tensor) else type(obj).__name__


def by_part(problem: Any, chosen: Mapping[str | int, Any], owner: Tensor, draw: Tensor) -> Tensor:
    """(n, *f) references that are made for every input of packed features by itself.

    Args:
        problem: of a task with several parts.
        chosen: by input, its baseline.
        owner: (n,) samples.
        draw: (n,) numbers of the draws.
    """
    task, found = problem.task, list[Tensor]()
    for part in task.parts:
        context = of_part(problem.context, part, problem.x)
        if problem.fixed is not None:
            fixed = part.of(problem.fixed.expand_as(problem.x))
            context = replace(context, about={**context.about, FIXED: fixed})
        view = replace(problem, evaluator=copy(problem.evaluator), x=part.of(problem.x), context=context)
        alone = task.lifter.tasks[part.name]
        if part.layer is not None:  # what stands in for a layer has bounds of its own
            alone = alone.reading(parts=(replace(part, start=0, stop=view.x.shape[1]),))
        view.evaluator.task = alone
        rows = chosen[part.name].rows(view, owner, draw)
        found.append(rows if rows.ndim == problem.x.ndim else rows.flatten(1))
    return torch.cat(found, 1)


def packed(problem: Any) -> bool:
    """Whether the features hold several inputs, so that channels are not alike."""
    return (
        problem.task.beneath is None and len(problem.task.parts) > 1 and hasattr(problem.task.lifter, "tasks")
    )

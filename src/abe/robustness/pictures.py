"""Adversarial pictures as files hold them: in 8 bits, and judged so."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from abe.checks import listed
from abe.engines.runtime.evaluator import Evaluator
from abe.engines.runtime.request import pose, running
from abe.errors import Code, SpecError, note
from abe.robustness.attack import AdversarialResult, not_crossed
from abe.task.base import Task


def as_pictures(task: Task, result: AdversarialResult) -> tuple[list[Any], AdversarialResult]:
    """The adversarial inputs as pictures of 8 bits, and what the attack found of these pictures.

    Colours are rounded to bytes, which can undo a small change. Every picture is therefore read as its file
    would be and decided anew: inputs, success, labels and distances of the result are the picture's, and a
    note names the samples that crossed by less than a byte holds.

    Args:
        task: that was attacked.
        result: of `attack` on images.

    Returns:
        Images of Pillow, and the result.

    Raises:
        SpecError: inputs that are no pictures of 1, 3 or 4 channels, of the size that the task reads.

    Example:
        >>> import torch, abe
        >>> from abe.robustness import as_pictures
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3, bias=False))
        >>> task = abe.image_task(model)
        >>> found = abe.attack(task, torch.full((1, 3, 2, 2), 0.5), "bim", eps=0.4)
        >>> pictures, held = as_pictures(task, found)
        >>> pictures[0].size
        (2, 2)
    """
    pictures = [_picture(pixels) for pixels in _bytes(task, result.x_adv)]
    lifted = replace(task.lift(pictures), names=list(result.names))
    if lifted.x.shape != result.x_adv.shape:
        raise _no_picture(lifted.x.shape[1:])
    with running(task):
        problem = pose(Evaluator(task), lifted, result.label).predicted()
    now = problem.known_outputs.argmax(1)
    success = (now == result.label) == result.targeted
    lost = result.success & ~success
    warnings = [w for w in result.warnings if Code.NOT_CROSSED.value not in w]
    warnings += not_crossed(~success & ~lost)
    if bool(lost.any()):
        text = (
            f"The attack on sample {listed(lost)} crossed by less than 8 bits hold, and its picture does not"
        )
        warnings.append(note(Code.NOT_CROSSED, text))
    cost = replace(result.cost)  # what was spent on the attack, and on the pictures
    cost.add(problem.evaluator.cost)
    held = replace(
        result,
        x_adv=lifted.x,
        success=success,
        label_after=now,
        queries=result.queries + 1,
        cost=cost,
        warnings=warnings,
    )
    return pictures, held


def _bytes(task: Task, x: Tensor) -> Tensor:
    """(b, h, w, c) bytes of inputs in the task's bounds; of 0 … 1 without."""
    if x.ndim != 4 or x.shape[1] not in (1, 3, 4):
        raise _no_picture(x.shape[1:])
    low, high = (x.new_zeros(()), x.new_ones(())) if task.bounds is None else (b.to(x) for b in task.bounds)
    shares = ((x - low) / (high - low)).clamp(0, 1)
    return (shares * 255).round().to(torch.uint8).movedim(1, 3).cpu()


def _picture(pixels: Tensor) -> Any:
    from PIL import Image

    return Image.fromarray(pixels[..., 0].numpy() if pixels.shape[2] == 1 else pixels.numpy())


def _no_picture(shape: Sequence[int]) -> SpecError:
    return SpecError(
        Code.UNSUPPORTED,
        "These inputs cannot be written as pictures",
        got=f"inputs of shape {tuple(shape)}",
        expected="(c, h, w) with 1, 3 or 4 channels, of the size that the task reads",
        fix="Keep the tensor x_adv of the result instead",
    )

"""Predictions, what they mean, and which decision is explained."""

from typing import Any

import torch
from torch import Tensor

from abe.engines.runtime.evaluator import Evaluator
from abe.errors import Code, TargetError, note
from abe.objectives import Captured
from abe.task.base import Context, Task


def predict(evaluator: Evaluator, x: Tensor, context: Context) -> Any:
    """The model's outputs at the samples, one forward row each; only the first chunk's where no tensor."""
    kept: list[Any] = []
    everyone = torch.arange(len(x), device=x.device)
    evaluator.run(
        "forward",
        len(x),
        x.__getitem__,
        owner=everyone,
        target=everyone,
        context=context,
        objective=None,
        consume=lambda chunk: kept.append(chunk.outputs),
    )
    return torch.cat(kept) if isinstance(kept[0], Tensor) else kept[0]


def settle_output_kind(task: Task, outputs: Any, warnings: list[str]) -> None:
    """Recognise probabilities where the task left the kind of output open, and say so."""
    if task.output_kind != "auto" or not isinstance(outputs, Tensor):
        return
    task.output_kind = "logits"
    if outputs.ndim != 2 or outputs.shape[1] < 2 or not outputs.is_floating_point():
        return
    sums = outputs.sum(1)
    if bool((outputs >= 0).all()) and bool(torch.isclose(sums, torch.ones_like(sums), atol=1e-4).all()):
        task.output_kind = "probabilities"
        warnings.append(
            note(
                Code.PROBABILITY_OUTPUT,
                "The model returns probabilities, so their logarithm serves as class score; "
                'pass output_kind="logits" to the task if these are scores after all',
            )
        )


def settle_target(task: Task, outputs: Any, target: Any, n: int, device: torch.device) -> Tensor:
    """(n,) or (n, m) targets: the prediction by default, one for all, one each, or class names.

    Raises:
        TargetError: missing where it cannot be chosen, of the wrong type, or out of range.
    """
    if isinstance(outputs, Captured):
        outputs = outputs.outputs
    if target is None:
        return _predicted(task, outputs, n, device)
    chosen = _as_tensor(task, target, n).to(device)
    _check_range(task, outputs, chosen)
    return chosen


def _predicted(task: Task, outputs: Any, n: int, device: torch.device) -> Tensor:
    if not isinstance(outputs, Tensor):
        return torch.zeros(n, dtype=torch.long, device=device)
    if outputs.ndim == 2 and (task.output_kind != "regression" or outputs.shape[1] == 1):
        return (outputs.int() if outputs.dtype == torch.bool else outputs).argmax(1)
    shape = tuple(outputs.shape)
    raise TargetError(
        Code.TARGET_MISSING,
        "It is not clear which output to explain",
        got=f"a {'regression' if task.output_kind == 'regression' else 'model'} with output shape {shape}",
        fix="Pass target=… with the index of the output"
        + ("" if len(shape) == 2 else ", one number per axis"),
    )


def _as_tensor(task: Task, target: Any, n: int) -> Tensor:
    if isinstance(target, str):
        target = task.class_index(target)
    if isinstance(target, list | tuple) and any(isinstance(t, str) for t in target):
        target = [task.class_index(t) if isinstance(t, str) else t for t in target]
    try:
        tensor = torch.as_tensor(target)
    except (TypeError, ValueError, RuntimeError) as problem:
        raise _bad_type(target) from problem
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise _bad_type(target)
    tensor = tensor.detach().long()
    if tensor.ndim == 0:
        return tensor.expand(n).clone()
    if len(tensor) != n:
        raise TargetError(
            Code.TARGET_TYPE,
            "Give one target for all samples or one each",
            got=f"{len(tensor)} targets for {n} samples",
        )
    return tensor


def _bad_type(target: Any) -> TargetError:
    return TargetError(
        Code.TARGET_TYPE,
        "A target is a class number or name",
        got=f"{type(target).__name__} {str(target)[:40]}",
        expected="an integer, a class name, or one of these per sample",
    )


def _check_range(task: Task, outputs: Any, target: Tensor) -> None:
    if not isinstance(outputs, Tensor):
        return
    axes = outputs.shape[1:]
    numbers = target[:, None] if target.ndim == 1 else target
    if numbers.shape[1] != len(axes):
        raise TargetError(
            Code.TARGET_TYPE,
            "The target does not name one entry of the output",
            got=f"{numbers.shape[1]} numbers per sample",
            expected=f"{len(axes)}, one per output axis {tuple(axes)}",
        )
    sizes = torch.tensor(axes, device=target.device)
    bad = (numbers < 0) | (numbers >= sizes)
    if bool(bad.any()):
        row, axis = bad.nonzero()[0].tolist()
        raise TargetError(
            Code.TARGET_RANGE,
            f"There is no output {int(numbers[row, axis])}",
            got=f"target {int(numbers[row, axis])} for sample {row}",
            expected=f"0 to {axes[axis] - 1}",
        )

"""Whether features are what a task's model can be given."""

from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from abe.errors import Code, InputError


def check_features(task: Any, x: Tensor) -> None:
    """Refuse features that the model should not see, before anything is computed.

    Raises:
        InputError: empty, wrong type or device, not finite, or outside the bounds.
    """
    if x.ndim < 2 or len(x) == 0:
        raise InputError(
            Code.EMPTY_BATCH if x.ndim and len(x) == 0 else Code.SHAPE,
            "There is nothing to explain",
            got=f"shape {tuple(x.shape)}",
            expected="at least one sample, batch first",
        )
    _check_type(x, first_tensor(task.model))
    smallest, largest = (float(edge) for edge in torch.aminmax(x))  # NaN where one value is
    if not isfinite(largest - smallest):
        bad = torch.nonzero(~torch.isfinite(x).flatten(1).all(1)).flatten().tolist()
        raise InputError(
            Code.NOT_FINITE_INPUT,
            "The input holds NaN or infinity",
            got=f"in sample {bad[0]}" + (f" and {len(bad) - 1} more" if len(bad) > 1 else ""),
            fix="Clean the data first; ABE does not guess missing values",
        )
    _check_channels(task, x)
    _check_bounds(task, x, smallest, largest)


def _check_channels(task: Any, x: Tensor) -> None:
    """Numbers per channel must be as many as there are channels."""
    for name, given in (
        ("bounds", task.low),
        ("bounds", task.high),
        ("mean", task.mean),
        ("std", task.std),
    ):
        if given is not None and given.numel() > 1 and (x.ndim < given.ndim or given.numel() != x.shape[1]):
            raise InputError(
                Code.SHAPE,
                f"The input and {name}= differ in the number of channels",
                got=f"an input of shape {tuple(x.shape)}, {given.numel()} numbers",
                fix=f"Give {name}= one number, or one per channel",
            )


def _check_bounds(task: Any, x: Tensor, least: float, most: float) -> None:
    bounds = task.bounds
    if bounds is None:
        return
    if bounds[0].numel() == bounds[1].numel() == 1:
        floor, roof = float(bounds[0]), float(bounds[1])
        slack = 1e-6 * (roof - floor)
        if least >= floor - slack and most <= roof + slack:
            return
    channels = max(end.numel() for end in bounds)
    low, high = (end.to(x).flatten().expand(x.shape[1]) for end in bounds)
    smallest, largest = (f(x.movedim(1, 0).flatten(1), 1) for f in (torch.amin, torch.amax))
    outside = (smallest < low - 1e-6 * (high - low)) | (largest > high + 1e-6 * (high - low))
    if bool(outside.any()):
        worst = int(torch.maximum(low - smallest, largest - high).div(high - low).argmax())
        raise InputError(
            Code.OUT_OF_BOUNDS,
            "The input leaves the task's bounds",
            got=f"values from {float(smallest[worst]):.4g} to {float(largest[worst]):.4g}"
            + (f" in channel {worst}" if channels > 1 else ""),
            expected=f"{float(low[worst]):.4g} to {float(high[worst]):.4g}, before normalisation",
            fix="Pass un-normalised inputs and give mean= and std= to the task, or set bounds=",
        )


def _check_type(x: Tensor, model: Tensor | None) -> None:
    dtype, device = (torch.float32, torch.device("cpu")) if model is None else (model.dtype, model.device)
    if not x.is_floating_point():
        raise InputError(
            Code.DTYPE,
            "Inputs must be floating-point numbers",
            got=str(x.dtype),
            expected=str(dtype),
            fix="Scale to the task's bounds first, for example x.float() / 255",
        )
    if x.dtype != dtype:
        raise InputError(
            Code.DTYPE,
            "Input and model differ in floating-point type",
            got=str(x.dtype),
            expected=str(dtype),
            fix=f"Convert with x.to({dtype})",
        )
    if x.device != device:
        raise InputError(
            Code.DEVICE,
            "Input and model are on different devices",
            got=str(x.device),
            expected=str(device),
            fix=f"Move it with x.to({str(device)!r})",
        )


def first_tensor(model: nn.Module) -> Tensor | None:
    """The first floating-point parameter of a model, else buffer."""
    for tables in ("_parameters", "_buffers"):
        for module in model.modules():
            for tensor in getattr(module, tables).values():
                if tensor is not None and tensor.is_floating_point():
                    return tensor
    return None

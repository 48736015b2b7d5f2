"""Methods bound to a task given by two functions, as in Demo 1 of the ABE paper.

    from abe.explainers import *

    task = ExplanationTask(loss_fn=loss_fn, forward_fn=forward, model_type=ModelType.IMAGECLASSIFICATION)
    attribution = IG(task)([x, y])

``loss_fn`` takes a batch ``[x, y, *extra]``; the explained score is ``−loss_fn``, called per row, so
that sums, means and B×B blocks inside it cannot mix samples.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from abe import arrays
from abe.api import explain
from abe.checks import outline
from abe.errors import Code, InputError, ModelError
from abe.explanation import Explanation
from abe.registry import Method, methods
from abe.task.base import Context, Lifted, Task

Batch = Sequence[Any]


class ModelType(Enum):
    """What the two functions belong to; images must lie in [0, 1]."""

    IMAGECLASSIFICATION = "image"
    OBJECTDETECTION = "detection"
    NLPCLASSIFICATION = "text"
    TIMESERIESPREDICTION = "series"


class ExplanationTask:
    """A decision described by a loss and a forward function over batches ``[x, y, *extra]``.

    Args:
        loss_fn: batch -> scalar; the explained score is its negative.
        forward_fn: batch -> model output; modules that only it refers to are left as found too.
        model_type: what kind of data it is.

    Modules that the functions refer to are found, explained in evaluation mode, and left as found.
    """

    def __init__(
        self,
        loss_fn: Callable[[Batch], Tensor],
        forward_fn: Callable[[Batch], Any] | None = None,
        model_type: ModelType = ModelType.IMAGECLASSIFICATION,
    ) -> None:
        self.loss_fn = loss_fn
        self.forward_fn = forward_fn
        self.model_type = ModelType(model_type)
        image = self.model_type is ModelType.IMAGECLASSIFICATION
        self.task = Task(
            model=_Closure(loss_fn, forward_fn),
            modality=self.model_type.value,
            lifter=_lift,
            low=torch.zeros(()) if image else None,
            high=torch.ones(()) if image else None,
            output_kind="regression",
        )


@dataclass(frozen=True)
class Explainer:
    """A method bound to an `ExplanationTask`; call it with a batch."""

    task: ExplanationTask
    method: Method

    def __call__(self, batch: Batch, *, seed: int = 0, progress: bool = True) -> Explanation:
        """Explain ``−loss_fn`` of every sample of ``[x, y, *extra]``."""
        return explain(self.task.task, batch, self.method, seed=seed, progress=progress)


def _bind(name: str, task: ExplanationTask, **params: Any) -> Explainer:
    return Explainer(task, methods.build(name, **params))


def explain_func(task: Task, method: Any = "integrated_gradients", **settings: Any) -> Callable[..., Any]:
    """A method in the call signature of Quantus: ``(model, inputs, targets, **settings) -> array``.

    Pass it to a metric of Quantus as ``explain_func=``. The model that Quantus hands over is the one that is
    explained, so its randomisation tests work; the task says how to feed and read it. Quantus normalises
    and perturbs what it is given: hand it inputs in the task's bounds, before normalisation.

    Args:
        task: how to feed and read the model, from `abe.image_task`.
        method: as for `abe.explain`.
        **settings: of the method (where it is a name), or of `abe.explain`, such as ``seed``.

    Example:
        >>> import numpy as np, torch, abe
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2, bias=False))
        >>> function = explain_func(abe.image_task(model), "gradient")
        >>> function(model, np.ones((1, 3, 2, 2), np.float32), np.array([1])).shape
        (1, 3, 2, 2)
    """

    def function(model: nn.Module, inputs: Any, targets: Any, **more: Any) -> Any:
        known = {k: more[k] for k in more if k in settings}  # Quantus adds keywords of its own, e.g. device
        same = replace(task, model=model)
        x = torch.as_tensor(inputs).to(device=same.device, dtype=same.dtype)
        made = explain(
            same, x, method, target=torch.as_tensor(targets).long(), progress=False, **{**settings, **known}
        )
        return arrays.to_numpy(made.attribution)

    return function


SaliencyMap = partial(_bind, "gradient")
SmoothGradient = partial(_bind, "smoothgrad")
SmoothGradientSquared = partial(_bind, "smoothgrad_squared")
VarGrad = partial(_bind, "vargrad")
GradientXInput = partial(_bind, "gradient_x_input")
FastIG = partial(_bind, "fast_ig")
IG = partial(_bind, "integrated_gradients")
EG = partial(_bind, "expected_gradients")
GIG = partial(_bind, "guided_ig")
BlurIG = partial(_bind, "blur_ig")
PathAttribution = partial(_bind, "path_attribution")

__all__ = [
    "EG",
    "GIG",
    "IG",
    "BlurIG",
    "Explainer",
    "ExplanationTask",
    "FastIG",
    "GradientXInput",
    "ModelType",
    "PathAttribution",
    "SaliencyMap",
    "SmoothGradient",
    "SmoothGradientSquared",
    "VarGrad",
    "explain_func",
]


class _Closure(nn.Module):
    """The score −loss_fn as a module that owns whatever modules the functions refer to."""

    def __init__(self, loss_fn: Callable[[Batch], Tensor], forward_fn: Callable[[Batch], Any] | None) -> None:
        super().__init__()
        self._loss_fn = loss_fn
        found = {id(m): m for f in (loss_fn, forward_fn) if f is not None for m in _modules_of(f)}
        for number, module in enumerate(found.values()):
            self.add_module(f"used_{number}", module)

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        """(n, 1) −loss of each row on its own."""
        rows = [self._row([x[i : i + 1], *(o[i : i + 1] for o in others)]) for i in range(len(x))]
        return torch.stack(rows)[:, None]

    def _row(self, batch: list[Tensor]) -> Tensor:
        loss = self._loss_fn(batch)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise ModelError(
                Code.OUTPUT_SHAPE,
                "loss_fn must return one number",
                got=outline(loss),
                expected="a scalar tensor",
            )
        return -loss.reshape(())


def _modules_of(function: Callable[..., Any]) -> list[nn.Module]:
    """Modules that a function uses from its closure, globals or bound object."""
    owner = getattr(function, "__self__", None)
    try:
        used = inspect.getclosurevars(inspect.unwrap(function))
        values = [*used.nonlocals.values(), *used.globals.values(), owner]
    except TypeError:
        values = [function, owner]
    return [v for v in values if isinstance(v, nn.Module)]


def _lift(task: Task, raw: Any) -> Lifted:
    if not isinstance(raw, list | tuple) or not raw or not isinstance(raw[0], Tensor):
        raise InputError(
            Code.SHAPE,
            "Give a batch [x, y, …] that starts with a tensor",
            got=type(raw).__name__,
            expected="[x (b, *f), y (b,), …]",
        )
    x, others = raw[0].detach(), [torch.as_tensor(o) for o in raw[1:]]
    for number, other in enumerate(others, start=1):
        if other.ndim == 0 or len(other) != len(x):
            raise InputError(
                Code.SHAPE,
                f"Entry {number} of the batch needs one value per sample",
                got=str(tuple(other.shape)),
                expected=f"({len(x)}, …)",
            )
    context = Context({number: other.to(x.device) for number, other in enumerate(others, start=1)})
    return Lifted(x, context, [f"sample {i}" for i in range(len(x))])

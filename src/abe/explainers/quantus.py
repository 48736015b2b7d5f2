"""Methods in the call signature of Quantus."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from abe import arrays
from abe.api import explain
from abe.task.base import Task


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

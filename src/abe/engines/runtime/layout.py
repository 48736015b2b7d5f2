"""Layouts of gradients that kernels of torch read wrongly."""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class DenseSlopes(TorchFunctionMode):
    """Gives the gradient behind a batch norm memory of its own, in the order of its axes.

    On CPUs the backward pass of batch norm in evaluation mode, given one row in order and a gradient whose
    channels lie last, as behind ``flatten(2).transpose(1, 2)``, reads the gradient in the row's order: the
    result is wrong by as much as it is large. With two rows it is right.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is F.batch_norm and isinstance(result, Tensor) and result.requires_grad:
            result.register_hook(_dense)
        return result


def _dense(slope: Tensor) -> Tensor:
    return slope.contiguous()

"""Layouts of gradients that kernels of torch read wrongly."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from abe.instrument.inspection import compiled
from abe.instrument.model_check import Known, known_while_run
from abe.instrument.whose import calling

_ORDERLY: "WeakKeyDictionary[Known, set[Any]]" = WeakKeyDictionary()
"""Work on models, as they are, whose slopes behind batch norms were all in order."""


class DenseSlopes(TorchFunctionMode):
    """Gives the gradient behind a batch norm memory of its own, in the order of its axes.

    On CPUs the backward pass of batch norm in evaluation mode, given one row in order and a gradient whose
    channels lie last, as behind ``flatten(2).transpose(1, 2)``, reads the gradient in the row's order: the
    result is wrong by as much as it is large. With two rows it is right.

    Attributes:
        key: what the work is remembered by; None for work never to be remembered.
        met: whether a gradient had another order.
    """

    def __init__(self, key: Any = None) -> None:
        super().__init__()
        self.key = key
        self.met = False

    @calling
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is F.batch_norm and isinstance(result, Tensor) and result.requires_grad:
            result.register_hook(self._dense)
        return result

    def _dense(self, slope: Tensor) -> Tensor:
        self.met |= not slope.is_contiguous()
        return slope.contiguous()


def dense_slopes(model: nn.Module, runs: nn.Module, x: Tensor, work: Any) -> Any:
    """A mode for the forward pass of rows ``x`` that needs it, else a context that does nothing.

    Every operation takes longer under a mode, so a model whose slopes were all in order once runs the
    same work without it.

    Args:
        model: the model explained.
        runs: what runs: the model, or a copy of it that follows from it and ``work``.
        x: (n, *f) the rows.
        work: its ``sort`` tells work apart whose slopes can lie in different orders; None of work never to
            be remembered.
    """
    if len(x) != 1 or not torch.is_grad_enabled():
        return nullcontext()
    now = known_while_run(model)
    sort = work.sort
    key = None if now is None or sort is None else (x.shape, x.dtype, runs is model, sort)
    if key is not None and now is not None and key in _ORDERLY.get(now, ()):
        return nullcontext()
    return nullcontext() if compiled(runs) else DenseSlopes(key)


def remember(slopes: Any, model: nn.Module) -> None:
    """Note after the backward pass of `dense_slopes` whether the same work needs the mode again."""
    now = known_while_run(model)
    if now is not None and isinstance(slopes, DenseSlopes) and slopes.key is not None and not slopes.met:
        _ORDERLY.setdefault(now, set()).add(slopes.key)

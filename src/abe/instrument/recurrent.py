"""Recurrent layers of cuDNN, which cannot be differentiated in evaluation mode: PyTorch's own run instead."""

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from abe.instrument.modes import Shared


def on_gpu(x: Tensor) -> bool:
    """Whether an input is where cuDNN would run it."""
    return x.is_cuda


def differentiable(model: nn.Module, x: Tensor) -> AbstractContextManager[None]:
    """A context in which the recurrent layers of ``model`` can be differentiated at ``x``.

    Elsewhere than on a GPU, and for models without such layers, it is empty.
    """
    if not on_gpu(x) or not any(isinstance(module, nn.RNNBase) for module in model.modules()):
        return nullcontext()
    return _OFF()


@contextmanager
def _off() -> Generator[None]:
    before = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = False
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = before


_OFF = Shared(_off)

"""Run a user's model in evaluation mode and leave it exactly as found."""

import random
from collections.abc import Generator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from torch import Tensor, nn

from abe.engines.instrument.inspection import compiled


@contextmanager
def as_found(model: nn.Module) -> Generator[None]:
    """Evaluation mode without parameter gradients inside; everything restored on the way out.

    Restores training flags per submodule, ``requires_grad``, ``.grad``, buffers (value and
    identity), hooks, and the global random states of PyTorch, NumPy and Python, also after an
    exception.
    """
    flags = [(module, module.training) for module in model.modules()]
    grads = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    buffers = [(m, name, b, _copy(b)) for m in model.modules() for name, b in m._buffers.items()]
    hooks = [(table, dict(table)) for m in model.modules() for table in _hook_tables(m)]
    torch_state, python_state = torch.get_rng_state(), random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002 - the user's global state is kept, not used
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        model.eval()
        for parameter, _, _ in grads:
            if not parameter.is_inference():
                parameter.requires_grad_(False)
        yield
    finally:
        for module, training in flags:
            module.training = training
        for parameter, required, grad in grads:
            if not parameter.is_inference():
                parameter.requires_grad_(required)
            parameter.grad = grad
        for module, name, buffer, content in buffers:
            _restore(module, name, buffer, content)
        for table, before in hooks:
            if dict(table) != before:
                table.clear()
                table.update(before)
        torch.set_rng_state(torch_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)
        if cuda_states is not None:
            torch.cuda.set_rng_state_all(cuda_states)


@contextmanager
def eager(model: nn.Module) -> Generator[None]:
    """Eager mode for compiled modules, so that every operation is seen; nothing otherwise."""
    with torch.compiler.set_stance("force_eager") if compiled(model) else nullcontext():
        yield


def _copy(buffer: Tensor | None) -> Tensor | None:
    return None if buffer is None else buffer.detach().clone()


def _restore(module: nn.Module, name: str, buffer: Tensor | None, content: Tensor | None) -> None:
    """Put the same tensor back with the content it had; version counters miss edits through ``.data``."""
    module._buffers[name] = buffer
    if buffer is None or content is None or torch.equal(buffer, content):
        return
    with torch.no_grad():
        buffer.copy_(content)


def _hook_tables(module: nn.Module) -> list[dict[int, object]]:
    names = (
        "_forward_hooks",
        "_forward_pre_hooks",
        "_backward_hooks",
        "_backward_pre_hooks",
        "_forward_hooks_with_kwargs",
        "_forward_pre_hooks_with_kwargs",
        "_forward_hooks_always_called",
    )
    return [table for name in names if (table := getattr(module, name, None)) is not None]

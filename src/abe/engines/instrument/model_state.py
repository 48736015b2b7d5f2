"""Run a user's model in evaluation mode and leave it exactly as found."""

import random
from collections.abc import Generator
from contextlib import contextmanager
from threading import RLock

import numpy as np
import torch
from torch import Tensor, nn

from abe.engines.instrument.per_model import PerModel

_LOCKS: PerModel[RLock] = PerModel()


@contextmanager
def as_found(model: nn.Module) -> Generator[None]:
    """Evaluation mode without parameter gradients inside; everything restored on the way out.

    Restores training flags per submodule, ``requires_grad``, ``.grad``, buffers (value and
    identity), hooks, and the global random states of PyTorch, NumPy and Python, also after an
    exception. Threads that run one model take turns.
    """
    with _LOCKS.of(model, RLock), _states():
        modules = list(model.modules())
        flags = [(module, module.training) for module in modules]
        grads = [(p, p.requires_grad, p.grad) for p in model.parameters() if not p.is_inference()]
        buffers = _Buffers(modules)
        hooks = [(table, dict(table)) for module in modules for table in _hook_tables(module)]
        try:
            model.eval()
            for parameter, required, _ in grads:
                if required:
                    parameter.requires_grad_(False)
            yield
        finally:
            for module, training in flags:
                module.training = training
            for parameter, required, grad in grads:
                parameter.requires_grad_(required)
                if parameter.grad is not grad:
                    parameter.grad = grad
            buffers.restore()
            for table, before in hooks:
                if table != before:
                    table.clear()
                    table.update(before)


@contextmanager
def _states() -> Generator[None]:
    """The global random states are what they were."""
    torch_state, python_state = torch.get_rng_state(), random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002 - the user's global state is kept, not used
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        torch.set_rng_state(torch_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)
        if cuda_states is not None:
            torch.cuda.set_rng_state_all(cuda_states)


class _Buffers:
    """All buffers with their contents, which are compared together: version counters miss ``.data``."""

    def __init__(self, modules: list[nn.Module]) -> None:
        self._found = [(m, name, b) for m in modules for name, b in m._buffers.items()]
        groups: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        for _, _, buffer in self._found:
            if buffer is not None and buffer.layout == torch.strided and not buffer.is_quantized:
                groups.setdefault((buffer.dtype, buffer.device), []).append(buffer)
        self._groups = [(group, _together(group)) for group in groups.values()]

    def restore(self) -> None:
        """Put the same tensors back with the contents they had."""
        for module, name, buffer in self._found:
            if module._buffers.get(name) is not buffer:
                module._buffers[name] = buffer
        for group, content in self._groups:
            if torch.equal(_together(group), content):
                continue
            parts = content.split([buffer.numel() for buffer in group])
            with torch.no_grad():
                for buffer, part in zip(group, parts, strict=True):
                    if not torch.equal(buffer.reshape(-1), part):
                        buffer.copy_(part.view(buffer.shape))


def _together(buffers: list[Tensor]) -> Tensor:
    return torch.cat([buffer.detach().reshape(-1) for buffer in buffers])


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

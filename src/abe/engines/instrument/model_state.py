"""Run a user's model in evaluation mode and leave it exactly as found."""

import random
from collections.abc import Generator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from abe.engines.instrument.model_check import holding


@contextmanager
def as_found(model: nn.Module) -> Generator[None]:
    """Evaluation mode without parameter gradients inside; everything restored on the way out.

    Restores training flags per submodule, ``requires_grad``, ``.grad``, buffers (value and
    identity), hooks, and the global random states of PyTorch, NumPy and Python, also after an
    exception. Threads that run one model take turns.
    """
    with holding(model) as parts, _states():
        training = [module for module in parts.modules if module.training]
        parameters = [p for p in parts.parameters if not p.is_inference()]
        required = [p for p in parameters if p.requires_grad]
        grads = [(p, p.grad) for p in parameters]
        buffers = _Buffers(parts.modules)
        hooks = _Hooks(parts.modules)
        try:
            if training:
                model.eval()
            for parameter in required:
                parameter.requires_grad_(False)
            yield
        finally:
            evaluated = [module for module in parts.modules if module.training]
            for module in evaluated:
                module.training = False
            for module in training:
                module.training = True
            for parameter in parameters:
                if parameter.requires_grad:
                    parameter.requires_grad_(False)
            for parameter in required:
                parameter.requires_grad_(True)
            for parameter, grad in grads:
                if parameter.grad is not grad:
                    parameter.grad = grad
            buffers.restore()
            hooks.restore()


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
        groups: dict[tuple[torch.dtype, torch.device, bool], list[Tensor]] = {}
        for _, _, buffer in self._found:
            if buffer is not None and buffer.layout == torch.strided and not buffer.is_quantized:
                groups.setdefault((buffer.dtype, buffer.device, buffer.ndim == 0), []).append(buffer)
        self._groups = [(group, _together(group)) for group in groups.values()]

    def restore(self) -> None:
        """Put the same tensors back with the contents they had."""
        for module, name, buffer in self._found:
            if name not in module._buffers or module._buffers[name] is not buffer:
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
    with torch.no_grad():
        if buffers[0].ndim == 0:
            return torch.stack(buffers)
        return torch.cat([buffer if buffer.ndim == 1 else buffer.reshape(-1) for buffer in buffers])


class _Hooks:
    """All hooks of all modules; most tables are empty."""

    NAMES = (
        "_forward_hooks",
        "_forward_pre_hooks",
        "_backward_hooks",
        "_backward_pre_hooks",
        "_forward_hooks_with_kwargs",
        "_forward_pre_hooks_with_kwargs",
        "_forward_hooks_always_called",
    )

    def __init__(self, modules: list[nn.Module]) -> None:
        own = [vars(module) for module in modules]
        self._tables = [table for held in own for name in self.NAMES if (table := held.get(name)) is not None]
        self._before = [(table, dict(table)) for table in self._tables if table]

    def restore(self) -> None:
        """Every table holds what it held."""
        known = {id(table) for table, _ in self._before}
        for table in [table for table in self._tables if table and id(table) not in known]:
            table.clear()
        for table, before in self._before:
            if table != before:
                table.clear()
                table.update(before)

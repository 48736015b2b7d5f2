"""What can be told about a module tree without running it: scripted, compiled, hooked, rewired."""

# torch leaves part of its own interface untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules import module as _module

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)
_GLOBAL_HOOKS = (
    "_global_forward_hooks",
    "_global_forward_pre_hooks",
    "_global_backward_hooks",
    "_global_backward_pre_hooks",
)


class Parts(NamedTuple):
    """All modules, parameters and buffers of a model, each once, in order of registration."""

    modules: list[nn.Module]
    parameters: list[nn.Parameter]
    buffers: list[Tensor]


def parts_of(model: nn.Module) -> Parts:
    """What ``modules()``, ``parameters()`` and ``buffers()`` give, in one walk without names."""
    seen: set[int] = set()
    parts = Parts([], [], [])
    waiting = [model]
    while waiting:
        module = waiting.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        parts.modules.append(module)
        for tensors, into in ((module._parameters, parts.parameters), (module._buffers, parts.buffers)):
            for tensor in tensors.values() if tensors else ():
                if tensor is not None and id(tensor) not in seen:
                    seen.add(id(tensor))
                    into.append(tensor)  # type: ignore[arg-type]
        if module._modules:
            waiting += [child for child in reversed(list(module._modules.values())) if child is not None]
    return parts


def clean_name(name: str) -> str:
    """A module's dotted name without the wrapper that `torch.compile` puts in between."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def path_name(name: str) -> str:
    """A module's dotted name for a message; the root has none."""
    return repr(name) if name else "the model itself"


def scripted(model: nn.Module) -> list[str]:
    """Names of the outermost scripted or traced modules (``""`` is the model itself)."""
    found: list[str] = []
    for name, module in model.named_modules():
        inside = any(not outer or name.startswith(outer + ".") for outer in found)
        if isinstance(module, torch.jit.ScriptModule) and not inside:
            found.append(name)
    return found


def compiled(model: nn.Module) -> list[str]:
    """Names of modules wrapped by `torch.compile` or compiled in place."""
    return [
        name
        for name, module in model.named_modules()
        if type(module).__name__ == "OptimizedModule"
        or getattr(module, "_compiled_call_impl", None) is not None
    ]


def coupling(model: nn.Module) -> list[str]:
    """Names of modules that normalise by the batch at hand, in evaluation mode too, so that rows mix."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None
    ]


def hooked(model: nn.Module) -> list[str]:
    """Names of modules and parameters that carry hooks, and ``"(global)"`` for global module hooks."""
    found = [
        name for name, module in model.named_modules() if any(getattr(module, kind, None) for kind in _HOOKS)
    ]
    for name, parameter in model.named_parameters():
        post = getattr(parameter, "_post_accumulate_grad_hooks", None)
        if getattr(parameter, "_backward_hooks", None) or post:
            found.append(name)
    if any(getattr(_module, kind, None) for kind in _GLOBAL_HOOKS):
        found.append("(global)")
    return found


def rewired(model: nn.Module) -> list[str]:
    """Names of modules whose ``forward`` was replaced on the instance."""
    return [name for name, module in model.named_modules() if "forward" in vars(module)]

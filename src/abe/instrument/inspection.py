"""What can be told about a module tree without running it: scripted, compiled, hooked, rewired."""

# torch leaves part of its own interface untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules import module as _module

HOOKS = (
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


def dense_parts(tensor: Tensor) -> list[Tensor]:
    """The ordinary tensors that a sparse, quantised, nested or wrapped tensor consists of; else itself."""
    if tensor.is_quantized:
        return [tensor.int_repr(), *_scales(tensor)]
    if tensor.layout is torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    if hasattr(type(tensor), "__tensor_flatten__"):
        names = tensor.__tensor_flatten__()[0]  # type: ignore[attr-defined]
        inner = [getattr(tensor, name) for name in names]
        return [part for one in inner if isinstance(one, Tensor) for part in dense_parts(one)]
    if tensor.is_nested:
        return list(tensor.unbind())
    return [tensor.to_dense()] if tensor.is_mkldnn else [tensor]


def _scales(tensor: Tensor) -> list[Tensor]:
    if tensor.qscheme() in (torch.per_channel_affine, torch.per_channel_symmetric):
        return [tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()]
    return [torch.tensor([tensor.q_scale(), tensor.q_zero_point()], dtype=torch.float64)]


INSIDE = "_inside"
"""What the user's model is called in a module that a task puts around it."""
WRAPPERS = ("_orig_mod", INSIDE)
"""Names of wrapped modules, which no user wrote."""


def clean_name(name: str) -> str:
    """A module's dotted name without the wrappers that `torch.compile` and tasks put in between."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


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


def sharded(model: nn.Module) -> list[str]:
    """Names of modules whose weights FSDP keeps in shards, in its first form or its second."""
    kinds = {"FSDPModule", "FullyShardedDataParallel"}
    return [
        name
        for name, module in model.named_modules()
        if any(kind.__name__ in kinds for kind in type(module).__mro__)
    ]


def quantised(model: nn.Module) -> list[str]:
    """Names of the outermost modules that compute with quantised weights; most of these give no slopes."""
    found: list[str] = []
    for name, module in model.named_modules():
        inside = any(not outer or name.startswith(outer + ".") for outer in found)
        own = [*module._parameters.values(), *module._buffers.values()]
        kind = any("quantized" in cls.__module__.split(".") for cls in type(module).__mro__)
        if not inside and (kind or any(tensor is not None and _in_steps(tensor) for tensor in own)):
            found.append(name)
    return found


def _in_steps(tensor: Tensor) -> bool:
    """Whether a tensor of real numbers is kept as whole numbers and what they count."""
    if tensor.is_quantized or not hasattr(type(tensor), "__tensor_flatten__"):
        return tensor.is_quantized
    kept = dense_parts(tensor)
    return tensor.is_floating_point() and any(not part.is_floating_point() for part in kept)


def exported(model: nn.Module) -> list[str]:
    """Names of modules that run a program made by `torch.export`: their `train` is replaced by its own."""
    return [
        name
        for name, module in model.named_modules()
        if str(getattr(vars(module).get("train"), "__module__", "")).startswith("torch.export")
    ]


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
        name for name, module in model.named_modules() if any(getattr(module, kind, None) for kind in HOOKS)
    ]
    for name, parameter in model.named_parameters():
        post = getattr(parameter, "_post_accumulate_grad_hooks", None)
        if getattr(parameter, "_backward_hooks", None) or post:
            found.append(name)
    tables = [getattr(_module, kind, None) or {} for kind in _GLOBAL_HOOKS]
    if any(not ours(hook) for table in tables for hook in list(table.values())):
        found.append("(global)")
    return found


def ours(hook: object) -> bool:
    """Whether a hook was set by an engine of this package, in whatever thread."""
    return str(getattr(hook, "__module__", "")).startswith(("abe.engines.", "abe.instrument."))


def rewired(model: nn.Module) -> list[str]:
    """Names of modules whose ``forward`` was replaced on the instance."""
    return [name for name, module in model.named_modules() if "forward" in vars(module)]

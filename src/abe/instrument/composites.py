"""Operations that come apart into plain ones, so that the rules of these cover them too.

Each function takes the arguments of its operation and gives the same value in operations that arrive at
the instrument one by one: a standard deviation in a mean, squares and a root; `F.normalize` in these and a
quotient; ``addcmul`` in a product and a sum. One that is to stay whole returns `NotImplemented`: a norm
whose weight is a parameter has a rule of its own, one whose weight is computed is a product besides.
"""

# torch leaves part of its own interface untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

import math
from collections.abc import Callable
from functools import cache, partial, reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from abe.instrument.unroll import UNROLLED

Function = Callable[..., Any]


@cache
def taken_apart(name: str, in_place: bool) -> Function | None:
    """What an operation is in plain ones, by its canonical name; None for one that is plain itself."""
    if name in UNROLLED:
        return UNROLLED[name]
    parts = _COMPOSITES.get(name)
    return partial(_written, parts) if in_place and parts is not None else parts


def _written(parts: Function, *args: Any, out: Tensor | None = None, **kwargs: Any) -> Any:
    """Compute anew, then write where the call would have written."""
    found = parts(*args, **kwargs)
    if found is NotImplemented:
        return found
    return (args[0] if out is None else out).copy_(found)


# --- sums of products ---------------------------------------------------------------------------------


class _Added:
    """β · input + α · product(a, b); whole where what is added is a parameter, as the bias of a layer is."""

    def __init__(self, product: Function) -> None:
        self.product = product

    def __call__(self, input: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
        if isinstance(input, nn.Parameter):
            return NotImplemented
        found = self.product(a, b)
        found = found if alpha == 1 else found * alpha
        if beta == 0:
            return found  # what is added is not looked at, whatever it holds
        return (input if beta == 1 else input * beta) + found


def _summed(a: Tensor, b: Tensor) -> Tensor:
    return torch.bmm(a, b).sum(0)


def _addcmul(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    found = tensor1 * tensor2
    return input + (found if value == 1 else found * value)


def _addcdiv(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    found = tensor1 / tensor2
    return input + (found if value == 1 else found * value)


def _lerp(input: Tensor, end: Tensor, weight: Any) -> Any:
    return input + weight * (end - input) if isinstance(weight, Tensor) else NotImplemented


def _chain(*tensors: Any) -> Tensor:
    given = tensors[0] if len(tensors) == 1 and not isinstance(tensors[0], Tensor) else tensors
    return reduce(torch.matmul, given)


# --- norms with a weight that is computed -------------------------------------------------------------


def _fixed(*given: Tensor | None) -> bool:
    return all(t is None or isinstance(t, nn.Parameter) for t in given)


def _scaled(x: Tensor, weight: Tensor | None, bias: Tensor | None, spatial: int) -> Tensor:
    """x · weight + bias, which are by channel where there are ``spatial`` axes behind it."""
    view = [-1, *[1] * spatial]
    x = x if weight is None else x * (weight.reshape(view) if spatial else weight)
    return x if bias is None else x + (bias.reshape(view) if spatial else bias)


def _batch_norm(
    input: Tensor, mean: Any, var: Any, weight: Any = None, bias: Any = None, *rest: Any, **more: Any
) -> Any:
    if _fixed(weight, bias):
        return NotImplemented
    return _scaled(F.batch_norm(input, mean, var, None, None, *rest, **more), weight, bias, input.ndim - 2)


def _instance_norm(
    input: Tensor,
    mean: Any = None,
    var: Any = None,
    weight: Any = None,
    bias: Any = None,
    *rest: Any,
    **more: Any,
) -> Any:
    if _fixed(weight, bias):
        return NotImplemented
    return _scaled(F.instance_norm(input, mean, var, None, None, *rest, **more), weight, bias, input.ndim - 2)


def _group_norm(
    input: Tensor, groups: int, weight: Any = None, bias: Any = None, *rest: Any, **more: Any
) -> Any:
    if _fixed(weight, bias):
        return NotImplemented
    return _scaled(F.group_norm(input, groups, None, None, *rest, **more), weight, bias, input.ndim - 2)


def _layer_norm(
    input: Tensor, shape: Any, weight: Any = None, bias: Any = None, *rest: Any, **more: Any
) -> Any:
    if _fixed(weight, bias):
        return NotImplemented
    return _scaled(F.layer_norm(input, shape, None, None, *rest, **more), weight, bias, 0)


def _rms_norm(input: Tensor, shape: Any, weight: Any = None, *rest: Any, **more: Any) -> Any:
    if _fixed(weight):
        return NotImplemented
    return _scaled(F.rms_norm(input, shape, None, *rest, **more), weight, None, 0)


# --- statistics and lengths ---------------------------------------------------------------------------


def _axes(input: Tensor, dim: Any) -> tuple[int, ...]:
    if dim is None or (isinstance(dim, tuple | list) and not dim):
        return tuple(range(input.ndim))
    return (dim,) if isinstance(dim, int) else tuple(dim)


def _var_mean(
    input: Tensor, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: Any = None
) -> tuple[Tensor, Tensor]:
    """Σ (x − mean)² / (n − correction), and the mean."""
    if isinstance(dim, bool):  # (input, unbiased)
        dim, unbiased = None, dim
    axes = _axes(input, dim)
    count = math.prod(input.shape[axis] for axis in axes)
    correction = int(unbiased) if correction is None else correction
    mean = input.mean(axes, keepdim=True)
    total = (input - mean).square().sum(axes, keepdim=keepdim)
    left = max(count - correction, 0)
    return total / (left or math.nan), mean if keepdim else mean.reshape(total.shape)


def _var(*args: Any, **kwargs: Any) -> Tensor:
    return _var_mean(*args, **kwargs)[0]


def _std(*args: Any, **kwargs: Any) -> Tensor:
    return _var_mean(*args, **kwargs)[0].sqrt()


def _std_mean(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    var, mean = _var_mean(*args, **kwargs)
    return var.sqrt(), mean


def _vector_norm(
    x: Tensor, ord: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Any:
    """(Σ |x|^p)^(1/p) over axes; the largest or smallest |x| for p of ±∞."""
    if dtype is not None or isinstance(ord, str) or ord == 0:
        return NotImplemented
    axes = _axes(x, dim)
    if math.isinf(ord):
        return (torch.amax if ord > 0 else torch.amin)(x.abs(), axes, keepdim=keepdim)
    if ord == 2:
        return x.square().sum(axes, keepdim=keepdim).sqrt()
    total = x.abs() if ord == 1 else x.abs().pow(ord)
    total = total.sum(axes, keepdim=keepdim)
    return total if ord == 1 else total.pow(1 / ord)


def _norm(input: Tensor, p: Any = "fro", dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    return _vector_norm(input, 2 if p in ("fro", None) else p, dim, keepdim, dtype=dtype)


def _linalg_norm(
    A: Tensor, ord: Any = None, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Any:
    matrix = (dim is None and A.ndim == 2) or (isinstance(dim, tuple | list) and len(dim) == 2)
    if matrix and ord not in (None, "fro"):
        return NotImplemented
    return _vector_norm(A, 2 if ord in (None, "fro") else ord, dim, keepdim, dtype=dtype)


def _normalize(input: Tensor, p: float = 2.0, dim: Any = 1, eps: float = 1e-12, out: Any = None) -> Tensor:
    return input / torch.linalg.vector_norm(input, p, dim, keepdim=True).clamp_min(eps)


def _cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    return (F.normalize(x1, 2.0, dim, eps) * F.normalize(x2, 2.0, dim, eps)).sum(dim)


def _pairwise_distance(
    x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> Tensor:
    return torch.linalg.vector_norm(x1 - x2 + eps, p, -1, keepdim)


def _cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: Any = None) -> Tensor:
    return torch.linalg.vector_norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, -1)


def _local_response_norm(
    input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """x / (k + α mean x²)^β, the mean over ``size`` neighbouring channels."""
    square = F.pad(input.square().flatten(2).unsqueeze(1), (0, 0, size // 2, (size - 1) // 2))
    mean = F.avg_pool2d(square, (size, 1), stride=1).reshape(input.shape)
    return input / (mean * alpha + k).pow(beta)


def _softmin(input: Tensor, dim: Any = None, _stacklevel: int = 3, dtype: Any = None) -> Any:
    return NotImplemented if dim is None else torch.softmax(-input, dim, dtype=dtype)


_COMPOSITES: dict[str, Function] = {
    "addmm": _Added(torch.mm),
    "addmv": _Added(torch.mv),
    "addr": _Added(torch.outer),
    "addbmm": _Added(_summed),
    "baddbmm": _Added(torch.bmm),
    "addcmul": _addcmul,
    "addcdiv": _addcdiv,
    "lerp": _lerp,
    "linalg_multi_dot": _chain,
    "chain_matmul": _chain,
    "batch_norm": _batch_norm,
    "instance_norm": _instance_norm,
    "group_norm": _group_norm,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "var": _var,
    "std": _std,
    "var_mean": _var_mean,
    "std_mean": _std_mean,
    "norm": _norm,
    "linalg_norm": _linalg_norm,
    "linalg_vector_norm": _vector_norm,
    "normalize": _normalize,
    "cosine_similarity": _cosine_similarity,
    "pairwise_distance": _pairwise_distance,
    "cdist": _cdist,
    "local_response_norm": _local_response_norm,
    "softmin": _softmin,
}

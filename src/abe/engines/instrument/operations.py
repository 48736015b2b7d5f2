"""What operations are called and what kind of thing they do.

The same function arrives under many names: ``x + y``, ``x.add(y)``, ``torch.add``, ``x += y``,
``F.relu(x, inplace=True)``, ``torch.relu_``. `canonical` gives them one, so that a rule is written once.
"""

# torch leaves part of its own interface untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

Kind = Literal[
    "linear",
    "plumbing",
    "activation",
    "product",
    "normalisation",
    "pooling",
    "attention",
    "constant",
    "other",
]
"""What a backward rule has to know: ``constant`` does not depend on the input, ``other`` is unknown here."""

KINDS: tuple[Kind, ...] = get_args(Kind)

# Reading these says nothing about the values.
_METADATA = frozenset(
    {"size", "dim", "ndimension", "nelement", "numel", "stride", "is_contiguous", "is_floating_point"}
    | {
        "is_complex",
        "element_size",
        "get_device",
        "storage_offset",
        "__len__",
        "__hash__",
        "type",
        "data_ptr",
    }
    | {"is_inference", "is_signed", "__format__", "__repr__", "__set__", "requires_grad_", "register_hook"}
    | {"retain_grad", "is_shared", "is_pinned", "has_names", "is_neg", "is_conj", "untyped_storage"}
)
_TENSOR_PROPERTIES = frozenset({"T", "mT", "H", "mH", "data", "real", "imag"})
_SPELLINGS = {
    "__add__": "add",
    "__radd__": "add",
    "__sub__": "sub",
    "subtract": "sub",
    "__rsub__": "rsub",
    "__mul__": "mul",
    "__rmul__": "mul",
    "multiply": "mul",
    "__matmul__": "matmul",
    "__rmatmul__": "rmatmul",
    "__truediv__": "div",
    "__div__": "div",
    "divide": "div",
    "true_divide": "div",
    "__rdiv__": "rdiv",
    "__rtruediv__": "rdiv",
    "__pow__": "pow",
    "__rpow__": "rpow",
    "__neg__": "neg",
    "negative": "neg",
    "__abs__": "abs",
    "absolute": "abs",
    "__getitem__": "getitem",
    "clip": "clamp",
    "concat": "cat",
    "concatenate": "cat",
    "swapaxes": "transpose",
    "swapdims": "transpose",
    "special_expit": "sigmoid",
    "_softmax": "softmax",
    "_threshold": "threshold",
}
_IN_PLACE_SPELLINGS = {
    "__iadd__": "add",
    "__isub__": "sub",
    "__imul__": "mul",
    "__itruediv__": "div",
    "__idiv__": "div",
    "__ipow__": "pow",
    "__setitem__": "setitem",
}


def is_metadata(func: Callable[..., Any]) -> bool:
    """Whether a call only asks for shape, type or place."""
    name = getattr(func, "__name__", "")
    if name == "__get__":
        return _property(func) not in _TENSOR_PROPERTIES
    return name in _METADATA


def _property(func: Callable[..., Any]) -> str:
    return getattr(getattr(func, "__self__", None), "__name__", "")


def canonical(func: Callable[..., Any]) -> tuple[str, bool]:
    """The operation's one name, and whether this spelling writes to its first argument.

    ``inplace=True`` and ``out=`` are arguments, hence not visible here.
    """
    name = getattr(func, "__name__", type(func).__name__)
    if name == "__get__":
        return _property(func), False
    if name in _IN_PLACE_SPELLINGS:
        return _IN_PLACE_SPELLINGS[name], True
    if name.endswith("_") and not name.endswith("__"):
        return _SPELLINGS.get(name[:-1], name[:-1]), True
    return _SPELLINGS.get(name, name), False


def out_of_place(func: Callable[..., Any]) -> Callable[..., Any] | None:
    """The twin of an in-place function that returns a new tensor and takes the same arguments."""
    name, in_place = canonical(func)
    if not in_place or name in ("setitem", "copy"):
        return None
    for room in (torch.Tensor, torch, F):
        twin = getattr(room, name, None)
        if callable(twin):
            return twin
    return None


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in nested lists, tuples and dictionaries, in order."""
    if isinstance(value, Tensor):
        return iter((value,))
    found: list[Tensor] = []
    _collect(value, found)
    return iter(found)


def _collect(value: Any, into: list[Tensor]) -> None:
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return
    for item in value:
        if isinstance(item, Tensor):
            into.append(item)
        elif isinstance(item, (list, tuple, dict)):
            _collect(item, into)


_BY_KIND: dict[Kind, str] = {
    "linear": """
        conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear addmm addbmm
        add sub rsub neg sum mean cumsum interpolate upsample lerp embedding embedding_bag fold unfold
        avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
        grid_sample scatter_add index_add trace""",
    "plumbing": """
        view reshape view_as reshape_as flatten unflatten permute transpose t T mT movedim moveaxis squeeze
        unsqueeze expand expand_as repeat repeat_interleave tile cat stack hstack vstack dstack chunk split
        split_with_sizes tensor_split unbind getitem setitem select narrow index_select gather take
        take_along_dim pad constant_pad_nd contiguous clone to float double half bfloat16 type type_as cpu
        cuda detach data dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout
        feature_dropout roll flip rot90 masked_fill masked_select pixel_shuffle pixel_unshuffle
        channel_shuffle copy diagonal tril triu broadcast_to broadcast_tensors native_channel_shuffle
        as_strided ravel real imag meshgrid scatter index_copy""",
    "activation": """
        relu relu6 leaky_relu prelu rrelu elu selu celu gelu silu mish hardswish hardsigmoid hardtanh
        hardshrink softshrink tanhshrink softplus softsign sigmoid logsigmoid tanh threshold clamp clamp_min
        clamp_max exp expm1 log log2 log10 log1p sqrt rsqrt reciprocal pow rpow square abs sin cos tan sinh
        cosh atan asin acos erf erfc sign softmax softmin log_softmax logsumexp maximum minimum where
        nan_to_num floor ceil round rdiv""",
    "product": """
        mul matmul rmatmul bmm mm mv dot baddbmm einsum div tensordot outer glu bilinear inner addcmul""",
    "normalisation": """
        batch_norm layer_norm group_norm instance_norm local_response_norm rms_norm normalize""",
    "pooling": """
        max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices
        max_pool3d_with_indices adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
        adaptive_max_pool1d_with_indices adaptive_max_pool2d_with_indices adaptive_max_pool3d_with_indices
        fractional_max_pool2d fractional_max_pool3d lp_pool1d lp_pool2d max amax min amin median""",
    "attention": "scaled_dot_product_attention multi_head_attention_forward",
}
# Additive or bilinear in one operand while the other is fixed; divisors and self-products are not.
_LINEAR_IN_THE_FIRST = frozenset({"div"})
_BILINEAR = frozenset(
    {"mul", "matmul", "rmatmul", "bmm", "mm", "mv", "dot", "baddbmm", "einsum", "tensordot", "outer"}
    | {"bilinear", "inner", "addcmul"}
)


# They read the shape of their argument only, so their results do not depend on the input.
SHAPE_ONLY = frozenset(
    {"new_zeros", "new_ones", "new_full", "new_empty", "new_tensor", "zeros_like", "ones_like", "full_like"}
    | {"empty_like", "rand_like", "randn_like"}
)


@cache
def _kinds() -> dict[str, Kind]:
    return {name: kind for kind, names in _BY_KIND.items() for name in names.split()}


@cache
def operations() -> frozenset[str]:
    """Canonical names of single operations, those that come apart into others excepted."""
    return frozenset(_kinds()) - frozenset(_BY_KIND["attention"].split())


def kind_of(name: str, depends: tuple[bool, ...]) -> Kind:
    """The kind of a call.

    Args:
        name: canonical name.
        depends: for each tensor argument in order, whether it depends on the model's input.
    """
    if name in SHAPE_ONLY or (depends and not any(depends)):
        return "constant"
    kind = _kinds().get(name, "other")
    if name in _BILINEAR and sum(depends) == 1:
        return "linear"
    if name in _LINEAR_IN_THE_FIRST and not any(depends[1:]):
        return "linear"
    return kind if depends or kind != "other" else "constant"

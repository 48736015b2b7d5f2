"""What kind of thing operations do, by their canonical names."""

# torch leaves part of its own interface untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Literal, get_args

from torch import Tensor

from abe.instrument.spellings import property_of

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


def is_metadata(func: Callable[..., Any]) -> bool:
    """Whether a call only asks for shape, type or place."""
    name = getattr(func, "__name__", "")
    if name == "__get__":
        return property_of(func) not in _TENSOR_PROPERTIES
    return name in _METADATA


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
        scatter_add index_add trace diff""",
    "plumbing": """
        view reshape view_as reshape_as flatten unflatten permute transpose t T mT movedim moveaxis squeeze
        unsqueeze expand expand_as repeat repeat_interleave tile cat stack hstack vstack dstack chunk split
        split_with_sizes tensor_split unbind getitem setitem select narrow index_select gather take
        take_along_dim pad constant_pad_nd contiguous clone to float double half bfloat16 type type_as cpu
        cuda detach data dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout
        feature_dropout roll flip rot90 masked_fill masked_select pixel_shuffle pixel_unshuffle
        channel_shuffle copy diagonal tril triu broadcast_to broadcast_tensors native_channel_shuffle
        as_strided ravel real imag meshgrid scatter index_copy column_stack positive mH H index_fill
        index_put""",
    "activation": """
        relu relu6 leaky_relu prelu rrelu elu selu celu gelu silu mish hardswish hardsigmoid hardtanh
        hardshrink softshrink tanhshrink softplus softsign sigmoid logsigmoid tanh threshold clamp clamp_min
        clamp_max exp expm1 log log2 log10 log1p sqrt rsqrt reciprocal pow rpow square abs sin cos tan sinh
        cosh atan asin acos erf erfc sign softmax softmin log_softmax logsumexp maximum minimum where
        nan_to_num floor ceil round rdiv trunc frac sgn exp2 logit sinc erfinv lgamma digamma asinh acosh
        atanh deg2rad rad2deg""",
    "product": """
        mul matmul rmatmul bmm mm mv dot vdot baddbmm einsum div tensordot outer glu bilinear inner addcmul
        kron cross linalg_vecdot linalg_multi_dot chain_matmul""",
    "normalisation": """
        batch_norm layer_norm group_norm instance_norm local_response_norm rms_norm normalize""",
    "pooling": """
        max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices
        max_pool3d_with_indices adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
        adaptive_max_pool1d_with_indices adaptive_max_pool2d_with_indices adaptive_max_pool3d_with_indices
        fractional_max_pool2d fractional_max_pool3d lp_pool1d lp_pool2d max amax min amin median""",
    "attention": "scaled_dot_product_attention multi_head_attention_forward",
}
# Linear in the first argument as long as the others are fixed; divisors, grids and boxes are not factors.
_LINEAR_IN_THE_FIRST = frozenset({"div", "grid_sample", "roi_align", "ps_roi_align"})
WITH_A_WEIGHT = frozenset(
    {"conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear"}
)
_FACTORS = {
    **dict.fromkeys(WITH_A_WEIGHT, (0, 2)),
    **dict.fromkeys(("addmm", "addbmm", "baddbmm", "addcmul"), (1, 3)),
    "bilinear": (0, 3),
}
PRODUCTS = frozenset(_BY_KIND["product"].split()) - {"div", "glu"} | _FACTORS.keys()
"""Linear in each of their factors; what else they take is added to the product."""


def factors(name: str, count: int) -> range:
    """Which of ``count`` tensor arguments of a product are its factors, by position."""
    first, last = _FACTORS.get(name, (0, count))
    return range(first, min(last, count))


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
    if name in PRODUCTS:
        return "product" if sum(depends[i] for i in factors(name, len(depends))) > 1 else "linear"
    if name in _LINEAR_IN_THE_FIRST and not any(depends[1:]):
        return "linear"
    return kind if depends or kind != "other" else "constant"

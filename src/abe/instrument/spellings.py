"""One operation under all of its names: aliases, in-place and keyword spellings, what arguments decide.

The same function arrives as ``x + y``, ``x.add(other=y)``, ``torch.add``, ``x += y``,
``F.relu(x, inplace=True)``, ``torch.special.expit``. `canonical` gives it one name and `spelled` one order
of arguments, so that a rule is written once and reads its arguments by position.
"""

# torch leaves part of its own interface untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Function = Callable[..., Any]
Arguments = tuple[Any, ...]
Keywords = dict[str, Any]
Call = tuple[str, Function, Arguments, Keywords]
"""Canonical name, function, arguments by position, the rest by keyword."""


def _pairs(text: str) -> dict[str, str]:
    return dict(pair.split("=") for pair in text.split())


_SPELLINGS = _pairs(
    """__add__=add __radd__=add __sub__=sub subtract=sub __rsub__=rsub __mul__=mul __rmul__=mul multiply=mul
    __matmul__=matmul __rmatmul__=rmatmul linalg_matmul=matmul linalg_cross=cross __truediv__=div __div__=div
    divide=div true_divide=div __rdiv__=rdiv __rtruediv__=rdiv __pow__=pow __rpow__=rpow __neg__=neg
    negative=neg __abs__=abs absolute=abs __getitem__=getitem clip=clamp concat=cat concatenate=cat
    swapaxes=transpose swapdims=transpose adjoint=mT row_stack=vstack ger=outer expit=sigmoid psi=digamma
    gammaln=lgamma log_sigmoid=logsigmoid _softmax=softmax _log_softmax=log_softmax _threshold=threshold
    fix=trunc arctan=atan arcsin=asin arccos=acos arcsinh=asinh arccosh=acosh arctanh=atanh arctan2=atan2
    fmax=maximum fmin=minimum __gt__=gt __ge__=ge __lt__=lt __le__=le __eq__=eq __ne__=ne greater=gt less=lt
    greater_equal=ge less_equal=le not_equal=ne __invert__=bitwise_not __floordiv__=floor_divide"""
)
_IN_PLACE_SPELLINGS = _pairs(
    """__iadd__=add __isub__=sub __imul__=mul __itruediv__=div __idiv__=div __ipow__=pow
    __ifloordiv__=floor_divide __setitem__=setitem"""
)
_SYNONYMS = {"axis": "dim", "keepdims": "keepdim"}
_SIGNATURES: dict[str, tuple[str, ...]] = {
    name: tuple(arguments.split())
    for names, arguments in {
        "add sub rsub mul div rdiv matmul rmatmul maximum minimum inner gt ge lt le eq ne": "input other",
        "softmax log_softmax logsumexp glu softmin": "input dim",
        "amax amin": "input dim keepdim",
        "linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d": "input weight bias",
        "addmm": "input mat1 mat2",
        "addmv": "input mat vec",
        "addr": "input vec1 vec2",
        "addbmm baddbmm": "input batch1 batch2",
        "addcmul addcdiv": "input tensor1 tensor2",
        "lerp": "input end weight",
        "mm bmm": "input mat2",
        "mv": "input vec",
        "dot": "input tensor",
        "outer": "input vec2",
        "tensordot": "a b",
        "bilinear": "input1 input2 weight bias",
        "batch_norm": "input running_mean running_var weight bias training momentum eps",
        "instance_norm": "input running_mean running_var weight bias use_input_stats momentum eps",
        "layer_norm": "input normalized_shape weight bias eps",
        "group_norm": "input num_groups weight bias eps",
        "rms_norm": "input normalized_shape weight eps",
        "clamp": "input min max",
        "clamp_min": "input min",
        "clamp_max": "input max",
        "hardtanh": "input min_val max_val",
        "threshold": "input threshold value",
        "masked_fill": "input mask value",
        "pow": "input exponent",
        "where": "condition input other",
        "linalg_norm": "A",
        "linalg_vector_norm": "x",
        "cat stack vstack hstack dstack column_stack": "tensors",
    }.items()
    for name in names.split()
}


def canonical(func: Function) -> tuple[str, bool]:
    """The operation's one name, and whether this spelling writes to its first argument.

    ``inplace=True`` and ``out=`` are arguments, hence not visible here.
    """
    name = getattr(func, "__name__", type(func).__name__)
    return (property_of(func), False) if name == "__get__" else _one_name(name)


@cache
def _one_name(name: str) -> tuple[str, bool]:
    if name in _IN_PLACE_SPELLINGS:
        return _IN_PLACE_SPELLINGS[name], True
    in_place = name.endswith("_") and not name.endswith("__")
    name = name.removesuffix("_") if in_place else name
    name = name.partition(".")[0].removeprefix("special_")  # relu.default is an overload of relu
    return _SPELLINGS.get(name, name), in_place


def property_of(func: Function) -> str:
    """Name of the property that a getter reads."""
    return getattr(getattr(func, "__self__", None), "__name__", "")


def spelled(name: str, func: Function, args: Arguments, kwargs: Keywords) -> Call:
    """The call with its arguments in their places, under the name that these arguments make it.

    Args:
        name: canonical name of the function.
        func: the function.
        args: its arguments by position.
        kwargs: those by keyword.
    """
    if func is torch.Tensor.where:
        args, kwargs = _as_function(args, kwargs)
        func = torch.where
    if kwargs:
        args, kwargs = _placed(name, args, kwargs)
    change = _BY_ARGUMENTS.get(name)
    return (name, func, args, kwargs) if change is None else change(name, func, args, kwargs)


def _placed(name: str, args: Arguments, kwargs: Keywords) -> tuple[Arguments, Keywords]:
    """Leading arguments by position, however they were given."""
    rest = {_SYNONYMS.get(key, key): value for key, value in kwargs.items()}
    names, given = _SIGNATURES.get(name, ("input",)), list(args)
    while len(given) < len(names) and names[len(given)] in rest:
        given.append(rest.pop(names[len(given)]))
    return tuple(given), rest


def _as_function(args: Arguments, kwargs: Keywords) -> tuple[Arguments, Keywords]:
    """x.where(condition, other) as where(condition, x, other)."""
    rest = dict(kwargs)
    x, *given = args
    condition = given.pop(0) if given else rest.pop("condition")
    return (condition, x, *given), rest


def _extremum(name: str, func: Function, args: Arguments, kwargs: Keywords) -> Call:
    """max(x, y) of two tensors is maximum."""
    args = (*args, kwargs["other"]) if "other" in kwargs else args
    if len(args) > 1 and isinstance(args[1], Tensor):
        return f"{name}imum", getattr(torch, f"{name}imum"), args, {}
    return name, func, args, kwargs


def _power(name: str, func: Function, args: Arguments, kwargs: Keywords) -> Call:
    """pow(2, x) is 2 ** x."""
    return (name if args and isinstance(args[0], Tensor) else "rpow"), func, args, kwargs


def _division(name: str, func: Function, args: Arguments, kwargs: Keywords) -> Call:
    return ("floor_divide" if kwargs.get("rounding_mode") else name), func, args, kwargs


def _statistics_first(name: str, func: Function, args: Arguments, kwargs: Keywords) -> Call:
    """torch.batch_norm takes what F.batch_norm does in another order, and a switch."""
    if func not in (torch.batch_norm, torch.instance_norm):
        return name, func, args, kwargs
    places = (
        "input",
        "weight",
        "bias",
        "running_mean",
        "running_var",
        _SIGNATURES[name][5],
        "momentum",
        "eps",
    )
    given = {**dict(zip(places, args, strict=False)), **kwargs}
    return name, getattr(F, name), tuple(given[key] for key in _SIGNATURES[name]), {}


def _condition_alone(name: str, func: Function, args: Arguments, kwargs: Keywords) -> Call:
    return (name if len(args) > 1 else "nonzero"), func, args, kwargs


_BY_ARGUMENTS: dict[str, Callable[[str, Function, Arguments, Keywords], Call]] = {
    "max": _extremum,
    "min": _extremum,
    "pow": _power,
    "div": _division,
    "batch_norm": _statistics_first,
    "instance_norm": _statistics_first,
    "where": _condition_alone,
}
TOLD_BY_ARGUMENTS = frozenset({"max", "min"})
"""Names under which an operation of another name can arrive."""


def out_of_place(func: Function) -> Function | None:
    """The twin of an in-place function that returns a new tensor and takes the same arguments."""
    name, in_place = canonical(func)
    if not in_place or name == "copy":
        return None
    if name == "setitem":
        return _assigned
    for room in (torch.Tensor, torch, F):
        twin = getattr(room, name, None)
        if callable(twin):
            return twin
    return None


def _assigned(x: Tensor, index: Any, value: Any) -> Tensor:
    new = x.clone()
    new[index] = value
    return new

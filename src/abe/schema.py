"""What a file may hold: JSON read into the types that annotations name, or refused with the place.

`read` knows None, bool, int, float, str, Any, ``Literal``, unions, lists, tuples, mappings with text as keys,
and dataclasses of these; ``Annotated`` with an object of `abe.checks` checks what was read. A number is
finite unless its annotation is `Gap`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from abe.checks import AtLeast, finite
from abe.errors import AbeError

REAL = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
"""Types of tensors that everything can be done with."""
LARGEST = 10**300
"""Integers of a file stay below it, so that each is a float as well."""
DEEPEST = 64
"""Lists and dictionaries inside each other."""


class MisfitError(ValueError):
    """Something is not what its type says; the message names the place."""


@dataclass(frozen=True)
class _Gap:
    """A number that may be missing: JSON's null, NaN and infinities are read as they are."""


Gap = Annotated[float, _Gap()]
Natural = Annotated[int, AtLeast(0, most=2**64)]
"""A count, or a number that stands for what was seen."""


def read(kind: Any, found: Any, where: str) -> Any:
    """``found`` as a value of type ``kind``.

    Args:
        kind: an annotation.
        found: what JSON gave.
        where: what a refusal calls it.

    Raises:
        MisfitError: it is something else.
    """
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _annotated(args, found, where)
    if kind is Any:
        return _plain(found, where)
    if origin in (Union, UnionType):
        return _one_of(args, found, where)
    if origin is Literal:
        if any(type(found) is type(name) and found == name for name in args):
            return found
        raise _misfit(where, found, " or ".join(map(repr, args)))
    if origin in (list, tuple, Sequence):
        return _row(origin, args, found, where)
    if origin in (dict, Mapping):
        return {
            name: read(args[1], item, f"{where}[{name!r}]") for name, item in _mapping(found, where).items()
        }
    if isinstance(kind, type) and is_dataclass(kind):
        return kind(**members(kind, found, where))
    return _single(kind, found, where)


def knows(kind: Any) -> bool:
    """Whether `read` reads values of this type."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return knows(args[0])
    if origin in (Union, UnionType, list, tuple, Sequence, dict, Mapping):
        return all(arg is Ellipsis or knows(arg) for arg in args)
    if isinstance(kind, type) and is_dataclass(kind):
        return all(knows(hint) for hint in _hints(kind).values())
    return origin is Literal or kind in (Any, bool, int, float, str, NoneType)


def members(cls: type, found: Any, where: str = "", names: Sequence[str] | None = None) -> dict[str, Any]:
    """The fields of a dataclass by name, from a JSON object that has all that have no default.

    Args:
        cls: a dataclass.
        found: what JSON gave.
        where: what a refusal calls it.
        names: only these fields; whatever else ``found`` has is then not looked at.

    Raises:
        MisfitError: a field is missing, of another type, or one that the class does not have.
    """
    kinds, given = _hints(cls), _mapping(found, where)
    made: dict[str, Any] = {}
    for one in fields(cls):
        if names is not None and one.name not in names:
            continue
        place = f"{where}.{one.name}" if where else one.name
        if one.name in given:
            made[one.name] = read(kinds[one.name], given[one.name], place)
        elif one.default is MISSING and one.default_factory is MISSING:
            raise MisfitError(f"{place} is missing")
    strangers = [] if names is not None else [name for name in given if name not in kinds]
    if strangers:
        raise MisfitError(f"{where} has {strangers[0]!r}, which is no field of it")
    return made


def need(holds: bool, what: str) -> None:
    """Refuse what does not hold.

    Raises:
        MisfitError: it does not.
    """
    if not holds:
        raise MisfitError(what)


def need_tensor(
    name: str, tensor: Any, shape: Sequence[int] | None, *, bounded: bool = True, whole: bool = False
) -> None:
    """Refuse a tensor of another shape or sort.

    Args:
        name: what the refusal calls it.
        tensor: what was found.
        shape: that it must have, if one is known.
        bounded: no NaN and no infinity.
        whole: integers, else floating-point numbers.

    Raises:
        MisfitError: it is another one.
    """
    need(isinstance(tensor, Tensor), f"{name} is missing")
    if shape is not None:
        need(tuple(tensor.shape) == tuple(shape), f"{name} is {tuple(tensor.shape)} and not {tuple(shape)}")
    if whole:
        need(tensor.dtype in WHOLE, f"{name} is {tensor.dtype} and no integers")
        return
    need(tensor.dtype in REAL, f"{name} is {tensor.dtype} and no floating-point numbers")
    need(not bounded or not tensor.numel() or finite(tensor), f"{name} holds NaN or infinity")


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


def _annotated(args: tuple[Any, ...], found: Any, where: str) -> Any:
    if any(isinstance(about, _Gap) for about in args[1:]):
        if found is None or (type(found) is float and not math.isfinite(found)):
            return math.nan if found is None else found
        return read(args[0], found, where)
    made = read(args[0], found, where)
    for about in args[1:]:
        if hasattr(about, "check"):
            try:
                made = about.check(where, made)
            except AbeError as problem:
                raise MisfitError(str(problem)) from problem
    return made


def _one_of(kinds: Sequence[Any], found: Any, where: str) -> Any:
    """The first member of a union that fits; the refusal is that of the last."""
    if found is None and NoneType in kinds:
        return None
    others = [kind for kind in kinds if kind is not NoneType]
    for kind in others[:-1]:
        try:
            return read(kind, found, where)
        except MisfitError:
            continue
    return read(others[-1], found, where)


def _row(origin: Any, args: tuple[Any, ...], found: Any, where: str) -> Any:
    if not isinstance(found, list | tuple):
        raise _misfit(where, found, "a list")
    if origin is tuple and args[-1] is not Ellipsis:
        if len(found) != len(args):
            raise MisfitError(f"{where} has {len(found)} entries and not {len(args)}")
        kinds: Sequence[Any] = args
    else:
        kinds = [args[0]] * len(found)
    items = [
        read(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(kinds, found, strict=True))
    ]
    return tuple(items) if origin is tuple else items


def _mapping(found: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise _misfit(where or "the description", found, "a dictionary")
    return found


def _single(kind: Any, found: Any, where: str) -> Any:
    if kind is float:
        if type(found) not in (int, float) or (type(found) is int and abs(found) >= LARGEST):
            raise _misfit(where, found, "a number")
        if not math.isfinite(found):
            raise _misfit(where, found, "a finite number")
        return float(found)
    if kind not in (bool, int, str, NoneType):
        raise TypeError(f"{kind} is no type that a file can hold")
    large = isinstance(found, int) and abs(found) >= LARGEST
    if type(found) is not kind or large:
        names = {bool: "true or false", int: "an integer", str: "text", NoneType: "null"}
        raise _misfit(where, found, names[kind])
    return found


def _plain(found: Any, where: str, depth: int = 0) -> Any:
    """Anything that JSON gave, not too deep to be written again."""
    need(depth < DEEPEST, f"{where} is nested more than {DEEPEST} deep")
    if isinstance(found, Mapping):
        for item in _mapping(found, where).values():
            _plain(item, where, depth + 1)
    elif isinstance(found, list | tuple):
        for item in found:
            _plain(item, where, depth + 1)
    return found


def _misfit(where: str, found: Any, expected: str) -> MisfitError:
    shown = repr(found) if isinstance(found, int | float | str) or found is None else type(found).__name__
    return MisfitError(f"{where} is {shown[:60]} and not {expected}")

"""Modules that functions refer to, under the names they have there."""

import inspect
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any

from torch import Tensor, nn

MOST = 5000
"""Objects that are looked at before the search gives up."""
_CLOSED = ("torch", "numpy", "pandas", "builtins", "PIL", "abe.task", "abe.engines")
"""Packages whose objects hold no model of the user's, or too much else."""


def modules_of(*functions: Any) -> dict[str, nn.Module]:
    """The outermost modules that functions reach by closures, globals, defaults, owners and what these hold.

    Args:
        functions: functions, methods, partial functions, modules, or objects that can be called; None is left
            out.

    Returns:
        name -> module. What is part of another of them is left out.
    """
    waiting = deque[tuple[str, Any]](("model", function) for function in functions if function is not None)
    seen: dict[int, Any] = {}
    found: list[tuple[str, nn.Module]] = []
    while waiting and len(seen) < MOST:
        name, obj = waiting.popleft()
        if id(obj) in seen:
            continue
        seen[id(obj)] = obj  # kept, so that no identity is met twice
        if isinstance(obj, nn.Module):
            found.append((name, obj))
        else:
            waiting.extend(_held(name, obj))
    inside = {id(part) for _, module in found for part in list(module.modules())[1:]}
    kept = dict[str, nn.Module]()
    for name, module in found:
        if id(module) not in inside:
            kept[free_name(name, kept)] = module
    return kept


def free_name(name: str, taken: Mapping[str, Any]) -> str:
    """A name that a child of a module can have and no other child has."""
    plain = name.replace(".", "_") or "model"
    while plain in taken or hasattr(nn.Module, plain):
        plain += "_"
    return plain


def _held(name: str, obj: Any) -> Iterable[tuple[str, Any]]:
    """What an object refers to, by name."""
    if isinstance(obj, FunctionType):
        return _of_function(inspect.unwrap(obj))
    if isinstance(obj, MethodType):
        return [(name, obj.__self__), (name, obj.__func__)]
    if isinstance(obj, partial):
        return [*((name, one) for one in (obj.func, *obj.args)), *obj.keywords.items()]
    if isinstance(obj, Mapping):
        return [(str(key), one) for key, one in obj.items()]
    if isinstance(obj, list | tuple | set | frozenset):
        return [(name, one) for one in obj]
    shut = isinstance(obj, type | Tensor) or inspect.ismodule(obj) or type(obj).__module__.startswith(_CLOSED)
    if shut or not hasattr(obj, "__dict__"):
        return []
    calls = [vars(kind)["__call__"] for kind in inspect.getmro(type(obj)) if "__call__" in vars(kind)]
    return [*vars(obj).items(), *((name, one) for one in calls)]


def _of_function(function: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(function, FunctionType):
        yield "model", function
        return
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:
            continue  # a name that is not bound yet
    yield from ((name, function.__globals__.get(name)) for name in _names(function.__code__))
    yield from (("model", one) for one in function.__defaults__ or ())
    yield from (function.__kwdefaults__ or {}).items()


def _names(code: CodeType) -> Iterator[str]:
    """Names that code asks its globals for, with those of the functions inside it."""
    yield from code.co_names
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield from _names(one)

"""Scripted functions that a model calls: their operations run in an interpreter, seen by nobody."""

# torch leaves part of its own interface untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from collections.abc import Iterator
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from abe.errors import Code, ModelError
from abe.instrument.inspection import clean_name, path_name
from abe.instrument.model_check import Known, known

_FOUND: "WeakKeyDictionary[Known, str | None]" = WeakKeyDictionary()
DEPTH = 3
"""How far functions that call functions are looked into."""


def refuse_scripted_functions(model: nn.Module) -> None:
    """Raise OPAQUE_MODEL where a module's forward names a scripted or traced function.

    Scripted modules are refused by the instrument itself.
    """
    now = known(model)
    if now not in _FOUND:
        _FOUND[now] = next(_scripted(model), None)
    if _FOUND[now] is not None:
        raise ModelError(
            Code.OPAQUE_MODEL,
            "A scripted or traced function hides its operations, rules would silently be skipped",
            got=_FOUND[now],
            fix="Use the original Python function instead of the scripted one",
        )


def _scripted(model: nn.Module) -> Iterator[str]:
    for name, module in model.named_modules():
        if type(module).__module__.startswith("torch.nn."):
            continue
        own = {key: value for key, value in vars(module).items() if not key.startswith("_")}
        held = [*own.items(), *_named(getattr(type(module), "forward", None), DEPTH)]
        held += [pair for value in own.values() for pair in _named(value, DEPTH)]
        yield from (
            f"{key!r} in {path_name(clean_name(name))}"
            for key, value in held
            if isinstance(value, torch.jit.ScriptFunction)
        )


def _named(function: Any, depth: int) -> Iterator[tuple[str, Any]]:
    """What a function's code names: globals and closures, and those of functions among them."""
    if not isinstance(function, FunctionType) or depth == 0:
        return
    if (function.__module__ or "").startswith("torch."):  # made by eval, a function has no module
        return
    held = {key: function.__globals__.get(key) for key in function.__code__.co_names}
    for key, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            held[key] = cell.cell_contents
        except ValueError:  # not filled yet
            continue
    for key, value in held.items():
        yield key, value
        yield from _named(value, depth - 1)

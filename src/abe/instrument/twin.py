"""A copy of a user's model with weights of its own, also of one that `copy.deepcopy` refuses."""

# torch leaves part of its own interface untyped:
# pyright: reportPrivateUsage=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

import copy
from collections import deque
from contextlib import suppress
from types import (
    BuiltinFunctionType,
    CellType,
    FunctionType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any
from weakref import CallableProxyType, ProxyType, proxy, ref

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from abe.instrument.plain import ATOMS

_SHARED = (type, ModuleType, torch.ScriptObject)
_DROPPED = frozenset({"_compiled_call_impl"})
"""What belongs to one module only and is made again where it is missing."""


def twin(model: nn.Module) -> nn.Module:
    """The same model with parameters, buffers, children, attributes and hooks of its own.

    What cannot be copied, such as a lock or a stream, is shared; kept activations are cut from their
    graph; functions that close over parts of the model close over those of the copy; compiled modules
    are copied uncompiled.
    """
    return _Copying()(model)


def plain_twin(model: nn.Module) -> nn.Module:
    """A `twin` whose weights are what the layers use: parametrisations and weight norms are worked out."""
    copied = twin(model)
    for module in list(copied.modules()):
        if parametrize.is_parametrized(module):
            _work_out(module)
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, WeightNorm):
                remove_weight_norm(module, hook.name)
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(module, hook.name)
    return copied


def _work_out(module: nn.Module) -> None:
    """End all parametrisations with the values they give; torch's own way changes the original's class."""
    lists: Any = module.parametrizations
    values = {name: getattr(module, name).detach().clone() for name in lists}
    trained = {name for name in lists if next(lists[name].parameters(recurse=False), None) is not None}
    del module._modules["parametrizations"]
    module.__class__ = type(module).__bases__[0]
    for name, value in values.items():
        if name in trained:
            module.register_parameter(name, nn.Parameter(value))
        else:
            module.register_buffer(name, value)


class _Copying:
    """One copying; every object is copied once."""

    def __init__(self) -> None:
        self._memo: dict[int, Any] = {}
        self._alive: list[Any] = []  # so that no identity is met twice

    def __call__(self, obj: Any) -> Any:
        if type(obj) in ATOMS or isinstance(obj, _SHARED):
            return obj
        if id(obj) not in self._memo:
            self._alive.append(obj)
            self._memo[id(obj)] = self._made(obj, type(obj))
        return self._memo[id(obj)]

    def _as(self, obj: Any, made: Any) -> Any:
        """Note what an object becomes before its parts, which may hold it, are copied."""
        self._memo[id(obj)] = made
        return made

    def _made(self, obj: Any, kind: type) -> Any:
        if isinstance(obj, Tensor):
            return self._tensor(obj)
        if issubclass(kind, nn.Module):  # not `isinstance`: a proxy of a module says that it is one
            return self._module(obj, kind)
        if kind is tuple:
            return tuple(self(one) for one in obj)
        if kind in (list, deque):
            made = self._as(obj, copy.copy(obj))
            made.clear()
            made.extend(self(one) for one in obj)
            return made
        if issubclass(kind, dict) and "__deepcopy__" not in vars(kind):
            return self._table(obj)
        if isinstance(obj, FunctionType):
            return self._function(obj)
        if isinstance(obj, MethodType):
            return MethodType(obj.__func__, self(obj.__self__))
        if isinstance(obj, BuiltinFunctionType):
            owner = obj.__self__
            return obj if isinstance(owner, ModuleType | type(None)) else getattr(self(owner), obj.__name__)
        if isinstance(obj, torch.Generator):
            made = torch.Generator(device=obj.device)
            return made.set_state(obj.get_state())
        if kind in (ProxyType, CallableProxyType):
            return proxy(self(obj.__repr__.__self__)) if isinstance(obj, nn.Module) else obj
        if kind is ref:
            return ref(self(obj())) if isinstance(obj(), nn.Module) else obj
        return self._object(obj)

    def _tensor(self, obj: Tensor) -> Tensor:
        with torch.no_grad():
            try:
                made = copy.deepcopy(obj if obj.is_leaf else obj.detach(), self._memo)
            except RuntimeError:  # some subclasses cannot, but are copied as any tensor
                made = obj.detach().clone()
                made = nn.Parameter(made) if isinstance(obj, nn.Parameter) else made
        made.grad = None
        return made

    def _module(self, obj: nn.Module, kind: Any) -> Any:
        if kind.__name__ == "OptimizedModule":
            return self(obj._modules["_orig_mod"])
        own = hasattr(kind, "__deepcopy__") and not parametrize.is_parametrized(obj)
        if isinstance(obj, torch.jit.ScriptModule):
            return copy.deepcopy(obj, self._memo)
        if own:
            with suppress(Exception):  # some models forbid copies in this way
                return copy.deepcopy(obj, self._memo)
        made = self._as(obj, kind.__new__(kind))
        for name, held in vars(obj).items():
            if name not in _DROPPED:
                vars(made)[name] = self(held)
        for name in _slots(kind):
            if hasattr(obj, name):
                object.__setattr__(made, name, self(getattr(obj, name)))
        return made

    def _table(self, obj: dict[Any, Any]) -> Any:
        made = self._as(obj, copy.copy(obj))
        made.clear()
        for key, held in obj.items():
            made[self(key)] = self(held)
        return made

    def _function(self, obj: FunctionType) -> FunctionType:
        """Cells that hold parts of the model hold those of the copy."""
        cells = obj.__closure__ or ()
        held = [_content(cell) for cell in cells]
        if not any(isinstance(one, nn.Module | MethodType | FunctionType | Tensor) for one in held):
            return obj
        empty = [CellType() for _ in cells]
        made = FunctionType(obj.__code__, obj.__globals__, obj.__name__, obj.__defaults__, tuple(empty))
        made.__kwdefaults__ = obj.__kwdefaults__
        self._as(obj, made)
        for cell, new, one in zip(cells, empty, held, strict=True):
            if isinstance(one, nn.Module | MethodType | FunctionType | Tensor):
                new.cell_contents = self(one)
            elif one is not cell:
                new.cell_contents = one
        return made

    def _object(self, obj: Any) -> Any:
        """By the state that it gives for copying; shared where it gives none."""
        try:
            if hasattr(obj, "__deepcopy__"):
                return copy.deepcopy(obj, self._memo)
            reduced = obj.__reduce_ex__(4)
            if isinstance(reduced, str):
                return obj
            parts: list[Any] = [*reduced, None, None, None]
            make, args, state, items, pairs = parts[:5]
            made = self._as(obj, make(*(self(one) for one in args)))
            self._fill(made, state)
            for one in items or ():
                made.append(self(one))
            for key, one in pairs or ():
                made[self(key)] = self(one)
        except Exception:  # a class of the user's may refuse in its own way
            return self._as(obj, obj)
        return made

    def _fill(self, made: Any, state: Any) -> None:
        if state is None:
            return
        copied = self(state)
        if hasattr(made, "__setstate__"):
            made.__setstate__(copied)
            return
        attributes, slots = copied if isinstance(copied, tuple) and len(copied) == 2 else (copied, None)
        if attributes:
            vars(made).update(attributes)
        for name, held in (slots or {}).items():
            setattr(made, name, held)


def _slots(kind: type) -> list[str]:
    """Names of attributes that stand in places of their own, as ``__slots__`` makes them."""
    return [
        name for cls in kind.__mro__ for name, held in vars(cls).items() if type(held) is MemberDescriptorType
    ]


def _content(cell: CellType) -> Any:
    """What a cell holds; an empty one gives itself."""
    try:
        return cell.cell_contents
    except ValueError:
        return cell

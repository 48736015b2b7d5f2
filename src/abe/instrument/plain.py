"""Plain attributes: whatever modules keep that is no parameter, buffer, child or hook.

A forward may read any of it, so what is remembered of a model holds only while it stays as it was. It is
read down to numbers, texts and tensors by way of containers, closures and the state that objects give
for copying; of what gives none, such as a lock, the identity counts.
"""

# torch leaves part of its own interface untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

import hashlib
from collections import deque
from collections.abc import Iterable
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any
from weakref import CallableProxyType, ProxyType, ref

import numpy as np
import torch
from torch import Tensor, nn

INTERNAL = frozenset(vars(nn.Module()))
"""Attributes that every module has: its tables, and its training flag."""
ATOMS = frozenset(
    {bool, int, float, complex, str, bytes, type(None), type(...), torch.Size}
    | {torch.dtype, torch.device, torch.layout, torch.memory_format}
)
"""Types whose values never change and are told apart by ``==``."""
_OPAQUE = (type, ModuleType, ProxyType, CallableProxyType, torch.ScriptObject)
MOST = 10_000
"""Objects besides the modules that are looked at before `Plain` gives up."""


def settled(obj: Any) -> bool:
    """Whether a value never changes: whoever holds it knows it by its identity."""
    return type(obj) in ATOMS or (type(obj) is tuple and ATOMS.issuperset(map(type, obj)))


class Plain:
    """What modules keep in plain attributes at one moment.

    Args:
        modules: the modules.
        only: look at these objects of theirs instead of all attributes.

    Attributes:
        tensors: all tensors met, in order.
        whole: False where there was more than could be looked at.
    """

    def __init__(self, modules: Iterable[nn.Module], only: Iterable[Any] | None = None) -> None:
        self.tensors: list[Tensor] = []
        self.whole = True
        modules = list(modules)
        self._met: dict[int, int] = {id(module): number for number, module in enumerate(modules)}
        self._alive: list[Any] = []  # so that no identity is met twice
        self._found: list[Any] = []
        self._most = len(modules) + MOST
        try:
            for module in modules if only is None else ():
                self._attributes(module)
            for obj in only or ():
                self.look(obj)
        except RecursionError:
            self.whole = False
        self._met.clear()
        self._alive.clear()

    @property
    def found(self) -> tuple[Any, ...]:
        """Everything but the tensors; hashable, and holds nothing of the model."""
        return tuple(self._found)

    def _attributes(self, module: nn.Module) -> None:
        kept = {name: held for name, held in vars(module).items() if name not in INTERNAL}
        self._found.append(tuple(kept))
        if ATOMS.issuperset(map(type, kept.values())):
            self._atoms(kept.values())
            return
        for held in kept.values():
            self.look(held)

    def _new(self, obj: Any) -> bool:
        """Whether the object is met for the first time; where it was met before is noted."""
        if id(obj) in self._met:
            self._found.append(self._met[id(obj)])
            return False
        self._met[id(obj)] = len(self._met)
        self._alive.append(obj)
        return True

    def look(self, obj: Any) -> None:
        """Note one object and what it holds."""
        kind = type(obj)
        if kind in ATOMS:
            self._found += (kind, obj)
        elif kind in (tuple, list) and ATOMS.issuperset(map(type, obj)):
            self._atoms(obj)
        elif len(self._met) > self._most:
            self.whole = False
        elif self._new(obj):
            self._found.append(kind.__qualname__)
            self._inside(obj, kind)

    def _inside(self, obj: Any, kind: type) -> None:
        if isinstance(obj, Tensor):
            self.tensors.append(obj)
        elif isinstance(obj, nn.Module) and kind not in (ProxyType, CallableProxyType):
            for table in (obj._parameters, obj._buffers, obj._modules):
                self._items(table)
            self._found.append(obj.training)
            self._attributes(obj)
        elif isinstance(obj, dict):
            self._items(obj)
        elif isinstance(obj, list | tuple | set | frozenset | deque):
            self._each(obj)
        elif isinstance(obj, np.ndarray | np.generic):
            self._array(np.asarray(obj))
        else:
            self._held(obj)

    def _items(self, table: Any) -> None:  # those of scripted modules are no mappings
        self._each(table.keys())
        self._each(table.values())

    def _each(self, items: Iterable[Any]) -> None:
        items = tuple(items)
        if ATOMS.issuperset(map(type, items)):
            self._atoms(items)
            return
        self._found.append(len(items))
        for item in items:
            self.look(item)

    def _atoms(self, items: Iterable[Any]) -> None:
        """Values with their types: 1, 1.0 and True are equal, and not the same."""
        self._found += (tuple(items), tuple(map(type, items)))

    def _array(self, array: Any) -> None:
        if array.dtype.hasobject:
            self._each(array.ravel().tolist())
        else:
            self._found += (str(array.dtype), array.shape, _digest(array.tobytes()))

    def _held(self, obj: Any) -> None:
        """Functions by their code and what they close over, objects by the state they give for copying."""
        if isinstance(obj, FunctionType):
            self._found.append(obj.__code__)
            cells = [cell.cell_contents for cell in obj.__closure__ or () if _filled(cell)]
            self._each([obj.__defaults__, obj.__kwdefaults__, *cells])
        elif isinstance(obj, MethodType):
            self._each([obj.__func__, obj.__self__])
        elif isinstance(obj, BuiltinFunctionType):
            self._found.append(obj.__qualname__)
            if not isinstance(obj.__self__, ModuleType | type(None)):
                self.look(obj.__self__)
        elif isinstance(obj, torch.Generator):
            self._found.append(_digest(obj.get_state().numpy().tobytes()))
        elif isinstance(obj, ref):
            self._found.append(id(obj()))
        elif isinstance(obj, _OPAQUE) or type(obj).__module__.startswith(("torch.fx.", "torch._")):
            self._found.append(id(obj))  # a graph's code is a text beside it
        else:
            self._state(obj)

    def _state(self, obj: Any) -> None:
        try:
            state = obj.__reduce_ex__(4)
        except Exception:  # locks, streams, generators, and whatever a class of the user's may raise
            self._found.append(id(obj))
            state = getattr(obj, "__dict__", None)
        if isinstance(state, tuple):
            call, args, *rest = state
            self._each([call, *args])
            for part in rest:
                self._each(part if hasattr(part, "__next__") else (part,))
        elif state is not None:
            self.look(state)


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _digest(content: bytes) -> bytes:
    return content if len(content) <= 64 else hashlib.blake2b(content, digest_size=16).digest()

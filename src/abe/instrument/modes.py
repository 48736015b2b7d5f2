"""One instrument, no model surgery: every operation of an unmodified model, to read or to replace.

A `TorchFunctionMode` sees functional calls, residual ``+=``, reused modules and fused attention alike;
temporary global module hooks tell in which module each happens. Composite functions that would hide
their parts (`F.multi_head_attention_forward`) are re-entered, and fused attention can be taken apart.
A rule replaces an operation: it gets the function, its arguments and returns the output, so a custom
autograd function with the same value and another backward is a rule. Inside a rule nothing is seen.
"""

# torch leaves part of its own interface untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

import math
import sys
import threading
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from types import FunctionType
from typing import Any, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from abe.errors import AbeError, Code, ModelError
from abe.instrument.composites import taken_apart
from abe.instrument.inspection import (
    clean_name,
    path_name,
    scripted,
)
from abe.instrument.model_check import Known, known
from abe.instrument.operations import is_metadata
from abe.instrument.spellings import canonical, out_of_place, spelled
from abe.instrument.whose import judge

Function = Callable[..., Any]


@dataclass(frozen=True)
class Seen:
    """One call of an operation.

    Attributes:
        name: canonical name: ``"relu"`` for ``F.relu``, ``torch.relu_`` and ``nn.ReLU(inplace=True)``.
        module: dotted name of the innermost module being run, ``""`` in the model's own forward, None
            outside the model (what a task does before and after it).
        in_place: whether the call writes to its first argument (or to ``out=``).
        within: names of the composite functions being re-entered, outermost first.
    """

    name: str
    module: str | None
    in_place: bool
    within: tuple[str, ...]


@runtime_checkable
class Rule(Protocol):
    """Replaces an operation, or only looks and returns ``func(*args, **kwargs)``.

    ``func`` never writes to its arguments: for an in-place call it is the twin that returns a new
    tensor, ``args[0]`` is a clone, and the instrument copies the output back. So whatever a rule saves
    for its backward stays as it was.
    """

    def __call__(self, seen: Seen, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any: ...


@runtime_checkable
class Observer(Protocol):
    """Looks at a finished call. In-place calls have already changed their first argument."""

    def __call__(self, seen: Seen, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None: ...


class Instrument(TorchFunctionMode):
    """Sees every operation of ``model`` while it is active as a context manager.

    The rule under the name ``"attention"`` is offered every matrix of attention probabilities as
    ``func(probabilities)`` (the identity), from fused attention and from `nn.MultiheadAttention`;
    asking for it takes fused attention apart into products and a softmax, which then arrive too.

    Args:
        model: gives the modules their names; must hold no scripted or traced module.
        rules: canonical operation name -> rule.
        default: rule for every other operation; ``None`` runs them as they are.
        observe: called after every operation.
        decompose: take fused attention (also without an ``"attention"`` rule) and recurrent layers apart.
        unseen: canonical names of operations that run as they are and are shown to nobody, in-place
            spellings excepted; with any, modules are not followed either and `Seen.module` is None.

    Raises:
        ModelError: OPAQUE_MODEL, naming scripted or traced modules, whose operations cannot be seen.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        rules: Mapping[str, Rule] | None = None,
        default: Rule | None = None,
        observe: Observer | None = None,
        decompose: bool = False,
        unseen: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__()
        self._model = model
        self._names = _names(model)
        self._rules = dict(rules or {})
        self._default = default
        self._observe = observe
        self._decompose = decompose
        self._unseen = unseen
        self._modules: list[str | None] = []
        self._within: list[str] = []
        self._active = False
        self._thread = 0
        self._exit = ExitStack()

    def __enter__(self) -> "Instrument":
        if self._active:
            raise RuntimeError("this instrument is already active; make another one")
        self._thread, self._active = threading.get_ident(), True
        with ExitStack() as stack:
            stack.callback(self._reset)
            if not self._unseen:
                stack.callback(register_module_forward_pre_hook(self._into).remove)
                stack.callback(register_module_forward_hook(self._out_of, always_call=True).remove)
            stack.enter_context(eager(self._model))
            super().__enter__()
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *exception: Any) -> None:
        with self._exit:
            super().__exit__(*exception)

    def _reset(self) -> None:
        self._active = False
        self._modules.clear()
        self._within.clear()

    # Hooks are global, so they also run for other threads' modules and for modules of no model.
    def _into(self, module: nn.Module, args: Any) -> None:
        if threading.get_ident() == self._thread:
            outer = self._modules[-1] if self._modules else None
            self._modules.append(self._names.get(id(module), outer))

    def _out_of(self, module: nn.Module, args: Any, output: Any) -> None:
        if threading.get_ident() == self._thread and self._modules:
            self._modules.pop()

    def __torch_function__(
        self, func: Function, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        try:
            if is_metadata(func):
                return func(*args, **kwargs)
            name, in_place = canonical(func)
            in_place = in_place or kwargs.get("inplace") is True or isinstance(kwargs.get("out"), Tensor)
            if name in self._unseen and not in_place:
                return func(*args, **kwargs)
            return self._show(in_place, *spelled(name, func, args, kwargs))
        except AbeError:
            raise
        except Exception as problem:
            judge(problem, func, args, kwargs)
            raise

    def _show(
        self, in_place: bool, name: str, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run an operation under its rule, or what it consists of."""
        if name not in self._rules and (parts := self._parts(name, func, in_place)) is not None:
            output = self._reenter(name, parts, args, kwargs)
            if output is not NotImplemented:
                return output
        seen = Seen(name, self._modules[-1] if self._modules else None, in_place, tuple(self._within))
        output = self._run(seen, func, args, kwargs)
        if name == "softmax" and self._within and self._within[-1] in _ATTENTION:
            output = self._offer_attention(seen, output)
        return output

    def _run(self, seen: Seen, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        rule = self._rules.get(seen.name, self._default)
        if rule is None or (seen.in_place and getattr(func, "__module__", None) == "torch.nn.init"):
            output = func(*args, **kwargs)  # weights of a module that is made in a forward: nothing follows
        elif seen.in_place and seen.name not in _SHAPE_IN_PLACE:
            output = _out_of_place(rule, seen, func, args, kwargs)
        else:
            output = rule(seen, func, args, kwargs)
        if self._observe is not None:
            self._observe(seen, args, kwargs, output)
        return output

    def _offer_attention(self, seen: Seen, probabilities: Tensor) -> Tensor:
        rule = self._rules.get("attention")
        if rule is None:
            return probabilities
        offered = Seen("attention", seen.module, False, seen.within)
        return rule(offered, _identity, (probabilities,), {})

    def _parts(self, name: str, func: Function, in_place: bool) -> Function | None:
        """The function to run under the instrument in place of a composite, unless it is to stay whole."""
        if func is F.multi_head_attention_forward:
            return _unguarded(F.multi_head_attention_forward)
        if func is F.scaled_dot_product_attention and (self._decompose or "attention" in self._rules):
            return attention
        return taken_apart(name, in_place) if self._decompose else None

    def _reenter(self, name: str, parts: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._within.append(name)
        super().__enter__()  # inside __torch_function__ the mode is off
        try:
            return parts(*args, **kwargs)
        finally:
            super().__exit__(None, None, None)
            self._within.pop()


# Their in-place spellings change what the tensor is, not its values; there is nothing to copy back.
_SHAPE_IN_PLACE = frozenset(
    {"squeeze", "unsqueeze", "transpose", "t", "resize", "set", "as_strided", "detach"}
)
_ATTENTION = ("scaled_dot_product_attention", "multi_head_attention_forward")


def _identity(value: Tensor) -> Tensor:
    return value


def _out_of_place(
    rule: Rule, seen: Seen, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Let a rule compute on a clone, then write its output to where the call would have written."""
    given = dict(kwargs)
    target = given.pop("out", None)
    if target is not None:
        return target.copy_(rule(seen, func, args, given))
    source, rest = (args[0], args[1:]) if args else (given.pop("input"), ())
    if "inplace" in given:
        given["inplace"] = False
    clone = source.clone()
    output = rule(seen, out_of_place(func) or func, (clone, *rest), given)
    source.copy_(clone if output is None else output)
    return None if func.__name__ == "__setitem__" else source


# --- composites -----------------------------------------------------------------------------------


def _never(*args: Any, **kwargs: Any) -> bool:
    return False


@cache
def _unguarded(function: FunctionType) -> FunctionType:
    """A copy that does not hand itself to the mode again, so that its inner calls arrive instead."""
    guards = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
    room = {**function.__globals__, **dict.fromkeys(guards, _never)}
    twin = FunctionType(
        function.__code__, room, function.__name__, function.__defaults__, function.__closure__
    )
    twin.__kwdefaults__ = function.__kwdefaults__
    return twin


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`F.scaled_dot_product_attention` in plain operations: softmax(s Q Kᵀ + mask) V."""
    if enable_gqa:
        key = key.repeat_interleave(query.size(-3) // key.size(-3), -3)
        value = value.repeat_interleave(query.size(-3) // value.size(-3), -3)
    scale = 1 / math.sqrt(query.size(-1)) if scale is None else scale
    logits = torch.matmul(query * scale, key.transpose(-2, -1))
    if is_causal:
        attn_mask = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).tril()
    if attn_mask is not None:
        return torch.matmul(_dropped(_masked_softmax(logits, attn_mask), dropout_p), value)
    return torch.matmul(_dropped(torch.softmax(logits, -1), dropout_p), value)


def _dropped(probabilities: Tensor, share: float) -> Tensor:
    return F.dropout(probabilities, share, training=True) if share > 0 else probabilities


def _masked_softmax(logits: Tensor, mask: Tensor) -> Tensor:
    """Softmax with a mask of allowed entries, or of numbers to add; a row with none allowed is zero."""
    logits = logits.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else logits + mask
    empty = (logits.detach() == -math.inf).all(-1, keepdim=True)
    if not bool(empty.any()):
        return torch.softmax(logits, -1)
    return torch.softmax(logits.masked_fill(empty, 0.0), -1).masked_fill(empty, 0.0)


# --- layers ---------------------------------------------------------------------------------------


# --- what cannot be seen --------------------------------------------------------------------------


def refuse_opaque(model: nn.Module) -> None:
    """Raise OPAQUE_MODEL for scripted or traced modules: their operations would pass by unseen."""
    names = scripted(model)
    if names:
        raise ModelError(
            Code.OPAQUE_MODEL,
            "Scripted or traced modules hide their operations, layers and rules would silently be skipped",
            got=", ".join(path_name(name) for name in names),
            fix="Pass the original Python module instead of the scripted one",
        )


_NAMES: "WeakKeyDictionary[Known, dict[int, str]]" = WeakKeyDictionary()


def _names(model: nn.Module) -> dict[int, str]:
    """Names of modules by identity, while the model stays as it is; scripted ones are refused."""
    now = known(model)
    if now not in _NAMES:
        refuse_opaque(model)
        _NAMES[now] = {id(module): clean_name(name) for name, module in model.named_modules()}
    return _NAMES[now]


@contextmanager
def _force_eager() -> Generator[None, None, None]:
    with torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
        # The wrapper fires global hooks too; it has the name of what it wraps, so nothing is confused.
        warnings.filterwarnings("ignore", "Using `torch.compile.*global hooks", UserWarning)
        yield


class Shared:
    """A setting of the whole process: the first thread that needs it makes it, the last one ends it."""

    def __init__(self, setting: Callable[[], AbstractContextManager[None]]) -> None:
        self._setting, self._lock = setting, threading.Lock()
        self._inside, self._open = 0, ExitStack()

    @contextmanager
    def __call__(self) -> Generator[None, None, None]:
        with self._lock:
            if not self._inside:
                self._open.enter_context(self._setting())
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    self._open.close()


_EAGER = Shared(_force_eager)


def eager(model: nn.Module) -> AbstractContextManager[None]:
    """A context in which compiled modules run uncompiled, so that hooks and the instrument see them."""
    compiler = "torch._dynamo.eval_frame" in sys.modules  # nothing is compiled before it is imported
    return _EAGER() if compiler else nullcontext()

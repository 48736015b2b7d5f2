"""Layers read, or replaced, while a model runs."""

import copy
import difflib
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from abe.errors import Code, ModelError
from abe.instrument.inspection import clean_name
from abe.instrument.modes import eager, refuse_opaque
from abe.instrument.operations import tensors
from abe.instrument.transforms import refuse_layer_inside


def capture(
    model: nn.Module, run: Callable[[nn.Module], Any], layers: Sequence[str]
) -> dict[str, Float[Tensor, "..."]]:
    """Outputs of the named layers in one ``run(model)``, differentiable; see `capturing`."""
    with capturing(model, layers) as captured:
        run(model)
    return {layer: captured[layer] for layer in layers}


@contextmanager
def capturing(
    model: nn.Module, layers: Sequence[str]
) -> Generator[dict[str, Float[Tensor, "..."]], None, None]:
    """Collect the outputs of layers while the model runs inside the ``with`` block.

    The tensors are what the rest of the model reads (a later in-place operation works on a clone), so a
    score computed from the outputs can be differentiated with respect to them, also when neither
    input nor parameters require a gradient. Of a tuple, list or dictionary the first tensor is taken.

    Args:
        model: the model; hooks are set on the named modules and removed again, also after an exception.
        layers: dotted module names; ``"relu#1"`` is the second call (``#-1`` the last) of a module
            that runs several times.

    Raises:
        ModelError: LAYER for an unknown name (the nearest is suggested), a layer that was never
            reached or gave no tensor, or a call that is not unique; OPAQUE_MODEL for scripted modules.
    """
    refuse_opaque(model)
    modules = {clean_name(name): module for name, module in model.named_modules()}
    taps = [_Tap(layer, *find_layer(modules, layer_name(model, layer))) for layer in layers]
    captured: dict[str, Tensor] = {}
    with ExitStack() as stack:
        stack.enter_context(eager(model))
        for tap in taps:
            tap.captured = captured
            stack.callback(look(tap.module, tap))
        yield captured
    for tap in taps:
        tap.settle()


def layer_name(model: nn.Module, layer: Any) -> str:
    """A layer's dotted name from itself, from the module, from a number, or from a list of one of these.

    Raises:
        ModelError: LAYER for several layers, a module that is no part of the model, and anything else.
    """
    if isinstance(layer, str):
        return layer
    if isinstance(layer, Integral) and not isinstance(layer, bool):
        return str(int(layer))
    if isinstance(layer, list | tuple) and len(layer) == 1:
        return layer_name(model, layer[0])
    if isinstance(layer, nn.Module):
        inner = layer._modules.get("_orig_mod") or layer
        for name, module in model.named_modules():
            if module is layer or module is inner:
                return clean_name(name)
        raise ModelError(
            Code.LAYER,
            "The layer is no part of the model",
            got=f"a {type(layer).__name__} that model.named_modules() does not list",
            fix="Take the module from the model of the task itself, or give its name",
        )
    several = isinstance(layer, list | tuple)
    raise ModelError(
        Code.LAYER,
        "A method looks at one layer",
        got=f"{len(layer)} layers" if several else f"layer={layer!r}",
        expected="a name of model.named_modules(), or that module",
        fix="Explain at each layer and take the mean of the maps" if several else None,
    )


def find_layer(modules: Mapping[str, nn.Module], layer: str) -> tuple[nn.Module, int | None]:
    """The module and the call number that a layer's name asks for."""
    name, _, call = layer.partition("#")
    if name not in modules or (call and not call.lstrip("-").isdigit()):
        near = difflib.get_close_matches(name, [known for known in modules if known], 3, 0.4)
        raise ModelError(
            Code.LAYER,
            "The model has no such layer",
            got=repr(layer),
            expected="a name of model.named_modules(), with '#0', '#1' ... for one of several calls",
            fix=f"Did you mean {' or '.join(map(repr, near))}?" if near else None,
        )
    return modules[name], int(call) if call else None


Hook = Callable[[nn.Module, Any, Any], Any]


@dataclass(frozen=True)
class _Look:
    """A forward hook of this library's, which runs after those that put something else there."""

    hook: Hook

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        return self.hook(module, args, output)


def look(module: nn.Module, hook: Hook) -> Callable[[], None]:
    """Call ``hook`` with what the rest of the model reads of a module, `replacing` within included.

    Returns:
        what removes the hook.
    """
    return module.register_forward_hook(_Look(hook)).remove


class _Tap:
    """A forward hook that keeps a layer's output and hands a clone on."""

    def __init__(self, layer: str, module: nn.Module, call: int | None) -> None:
        self.layer, self.module, self.call = layer, module, call
        self.captured: dict[str, Tensor] = {}
        self.outputs: list[Tensor] = []
        self.replacement: Tensor | None = None

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        refuse_layer_inside(self.layer)
        found = next(tensors(output), None)
        if found is None:
            raise self._error("The layer's output holds no tensor", got=type(output).__name__)
        if self.replacement is not None:
            return self._replaced(output, found)
        if torch.is_grad_enabled() and not found.requires_grad and found.is_floating_point():
            found = found.detach().clone().requires_grad_()
            replaced = found.clone()
            self._keep(found)
            return handed_on(module, output, replaced)
        self._keep(found)
        return handed_on(module, output, found.clone())

    def _replaced(self, output: Any, found: Tensor) -> Any:
        """The replacement at the call that is asked for; a negative number counts from a first run's end."""
        self._keep(found)
        if self.call is not None and self.call != len(self.outputs) - 1:
            return output
        given = self.replacement
        if given is None or given.shape != found.shape:
            shape = None if given is None else tuple(given.shape)
            raise self._error(
                "The activation does not fit", got=f"{shape}, the layer gives {tuple(found.shape)}"
            )
        return handed_on(self.module, output, given.clone())

    def _keep(self, found: Tensor) -> None:
        self.outputs.append(found)
        index = -1 if self.call is None else self.call
        if -len(self.outputs) <= index < len(self.outputs):
            self.captured[self.layer] = self.outputs[index]

    def settle(self) -> None:
        """After the run: was there exactly the call that was asked for?"""
        count = len(self.outputs)
        if count == 0:
            raise self._error(
                "The layer was never reached",
                fix="Containers such as ModuleList are not called; name a module inside",
            )
        if self.layer not in self.captured:
            raise self._error(
                "The layer was called less often",
                got=f"{count} call{'s' * (count > 1)}",
                fix=f"Calls are counted from '#0'; the last was '#{count - 1}'",
            )
        if self.call is None and count > 1:
            raise self._error(
                "The layer was called several times",
                got=f"{count} calls",
                fix=f"Ask for one of them, {self.layer + '#0'!r} to {self.layer + f'#{count - 1}'!r}",
            )

    def _error(self, what: str, got: str | None = None, fix: str | None = None) -> ModelError:
        return ModelError(Code.LAYER, f"{what}: {self.layer!r}", got=got, fix=fix)


def handed_on(module: nn.Module, output: Any, tensor: Tensor) -> Any:
    """What the model goes on with where a module's first output tensor is replaced.

    The last states of a recurrent layer are read off its outputs, whose ends they are: what depends on
    them depends on the layer.
    """
    replaced, _ = with_first(output, tensor)
    parts: Any = replaced
    if not isinstance(module, nn.RNNBase) or not (isinstance(parts, tuple) and len(parts) == 2):
        return replaced
    steps, state = parts
    hidden = state[0] if isinstance(state, tuple) else state
    if steps is not tensor or not isinstance(hidden, Tensor):  # a packed sequence ends in many places
        return replaced
    axis = 1 if module.batch_first and tensor.ndim == 3 else 0
    ends = tensor.select(axis, -1).unsqueeze(0)
    if module.bidirectional:
        half = tensor.shape[-1] // 2
        ends = torch.stack([ends[0, ..., :half], tensor.select(axis, 0)[..., half:]])
    if ends.shape[1:] != hidden.shape[1:]:
        return replaced
    hidden = torch.cat([hidden[: -len(ends)], ends])
    return steps, (hidden, *state[1:]) if isinstance(state, tuple) else hidden


def with_first(output: Any, tensor: Tensor) -> tuple[Any, bool]:
    """The output with its first tensor replaced, and whether there was one."""
    if isinstance(output, Tensor):
        return tensor, True
    if isinstance(output, dict):
        for key, item in output.items():
            replaced, done = with_first(item, tensor)
            if done:
                twin = copy.copy(output)
                twin[key] = replaced
                return twin, True
    elif isinstance(output, (list, tuple)):
        for position, item in enumerate(output):
            replaced, done = with_first(item, tensor)
            if done:
                items = [*output[:position], replaced, *output[position + 1 :]]
                named = hasattr(output, "_fields")
                return (type(output)(*items) if named else type(output)(items)), True
    return output, False


@contextmanager
def replacing(model: nn.Module, layer: str, activation: Float[Tensor, "n *f"]) -> Generator[None, None, None]:
    """Let the model run on from ``activation`` at a layer, inside the ``with`` block.

    Args:
        model: the model; a hook is set on the layer's module and removed again, also after an exception.
        layer: as in `capturing`.
        activation: takes the place of the layer's output (of its first tensor).

    Raises:
        ModelError: LAYER, as in `capturing`; OPAQUE_MODEL for scripted modules.
    """
    refuse_opaque(model)
    modules = {clean_name(name): module for name, module in model.named_modules()}
    tap = _Tap(layer, *find_layer(modules, layer_name(model, layer)))
    tap.replacement = activation
    hooks = tap.module._forward_hooks
    looking = [number for number, hook in hooks.items() if isinstance(hook, _Look)]
    remove = look(tap.module, tap)
    for number in looking:  # what looks, or replaces this in turn, comes after; hooks of the model's before
        hooks[number] = hooks.pop(number)
    try:
        with eager(model):
            yield
    finally:
        remove()
    tap.settle()

"""Run a user's model in evaluation mode and leave it exactly as found."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from torch import nn

from abe.instrument.inspection import HOOKS, ours
from abe.instrument.model_check import holding
from abe.instrument.random_states import kept_states
from abe.instrument.snapshot import Snapshot, put_back
from abe.instrument.standing import Standing


@contextmanager
def as_found(model: nn.Module) -> Generator[None]:
    """Evaluation mode without parameter gradients inside; everything restored on the way out.

    Restores training flags per submodule and what a ``train`` or ``eval`` of the user's own did besides,
    ``requires_grad``, ``.grad``, buffers and tensors kept as plain attributes (value and identity), hooks
    set here, and the global random states of PyTorch, NumPy and Python, also after an exception. What
    the model does to itself when it first runs, such as hooks that it sets, stays. Threads that run one
    model take turns.
    """
    with holding(model) as held, kept_states():
        modules, before = held.parts.modules, held.standing()
        training = [module for module in modules if module.training]
        gradients = _Gradients(held.parts.parameters)
        switched, found = None, None
        try:
            if training:
                switched = _evaluated(model, modules)
            if switched is None:
                found = Snapshot(modules, standing=before, known=held.known)
            else:
                found = Snapshot(modules)
            gradients.off()
            yield
        finally:
            now = _without_ours(before)
            if found is not None:
                found.restore(now, set_up=now.hooks != before.hooks)
            if switched is not None:
                put_back(switched)
            for module in [module for module in modules if module.training]:
                module.training = False
            for module in training:
                module.training = True
            gradients.restore()


class _Gradients:
    """Which parameters get gradients, and those that they have."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self._parameters = parameters
        self._required = self._asking()
        self._held = [(p, grad) for p in parameters if (grad := p.grad) is not None]

    def _asking(self) -> list[nn.Parameter]:
        return [p for p in self._parameters if p.requires_grad and not p.is_inference()]

    def off(self) -> None:
        for parameter in self._required:
            parameter.requires_grad_(False)

    def restore(self) -> None:
        for parameter in self._asking():
            parameter.requires_grad_(False)
        for parameter in self._required:
            parameter.requires_grad_(True)
        for parameter in [p for p in self._parameters if p.grad is not None]:
            parameter.grad = None
        for parameter, grad in self._held:
            parameter.grad = grad


def _evaluated(model: nn.Module, modules: list[nn.Module]) -> Any:
    """Switch to evaluation mode; what a switch of the user's own changed besides flags, to be put back."""
    own = [m for m in modules if type(m).train is not nn.Module.train or type(m).eval is not nn.Module.eval]
    own += [m for m in modules if vars(m).keys() & {"train", "eval"}]
    before = Snapshot(modules, weights=True) if own else None
    try:
        model.eval()
    except NotImplementedError:  # exported modules, whose mode is part of their graph
        for module in modules:
            module.training = False
    return None if before is None else before.differences()


_BESIDE = ("_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs", "_forward_hooks_always_called")


def _without_ours(before: Standing) -> Standing:
    """How things stand now that engines have taken away their hooks; those that the model set itself stay."""
    now = Standing(before.modules)
    if now.hooks == before.hooks:
        return now
    known = set(before.hooks)
    for module in now.modules:
        own = vars(module)
        for kind in HOOKS:
            table = own.get(kind) or {}
            for number in [n for n, hook in table.items() if n not in known and ours(hook)]:
                for name in (kind, *_BESIDE):
                    own.get(name, {}).pop(number, None)
    return Standing(now.modules)

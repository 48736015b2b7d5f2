"""Run a user's model in evaluation mode and leave it exactly as found."""

import random
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from threading import Lock, get_ident
from typing import Any

import numpy as np
import torch
from torch import nn

from abe.engines.instrument.inspection import HOOKS, ours
from abe.engines.instrument.model_check import holding, known
from abe.engines.instrument.snapshot import Snapshot, put_back


@contextmanager
def as_found(model: nn.Module) -> Generator[None]:
    """Evaluation mode without parameter gradients inside; everything restored on the way out.

    Restores training flags per submodule and what a ``train`` or ``eval`` of the user's own did besides,
    ``requires_grad``, ``.grad``, buffers and tensors kept as plain attributes (value and identity), hooks
    set here, and the global random states of PyTorch, NumPy and Python, also after an exception. What
    the model does to itself when it first runs, such as hooks that it sets, stays. Threads that run one
    model take turns.
    """
    with holding(model) as parts, _states():
        training = [module for module in parts.modules if module.training]
        parameters = [p for p in parts.parameters if not p.is_inference()]
        required = [p for p in parameters if p.requires_grad]
        grads = [(p, p.grad) for p in parameters]
        hooks = _Hooks(parts.modules)
        switched, found = None, None
        try:
            if training:
                switched = _evaluated(model, parts.modules)
            attributes = None if switched is not None else known(model).unsettled(parts.modules)
            found = Snapshot(parts.modules, attributes=attributes)
            for parameter in required:
                parameter.requires_grad_(False)
            yield
        finally:
            hooks.restore()
            if found is not None:
                found.restore(set_up=hooks.changed())
            if switched is not None:
                put_back(switched)
            evaluated = [module for module in parts.modules if module.training]
            for module in evaluated:
                module.training = False
            for module in training:
                module.training = True
            for parameter in parameters:
                if parameter.requires_grad:
                    parameter.requires_grad_(False)
            for parameter in required:
                parameter.requires_grad_(True)
            for parameter, grad in grads:
                if parameter.grad is not grad:
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


# --- random states --------------------------------------------------------------------------------

_TURN = Lock()
_INSIDE: Counter[int] = Counter()
"""How often each thread is inside `_states`."""
_FIRST: list[Any] = []
"""The random states before the first of them came."""


def random_states() -> tuple[Any, ...]:
    """The global random states of PyTorch, Python, NumPy and, where it is in use, CUDA."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    numpy = np.random.get_state()  # noqa: NPY002 - the user's global state is kept, not used
    return torch.get_rng_state(), random.getstate(), numpy, cuda


def set_random_states(states: tuple[Any, ...]) -> None:
    """Put back what `random_states` gave."""
    torch_state, python_state, numpy_state, cuda_states = states
    torch.set_rng_state(torch_state)
    random.setstate(python_state)
    np.random.set_state(numpy_state)  # noqa: NPY002
    if cuda_states:
        torch.cuda.set_rng_state_all(cuda_states)


def same_states(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Whether nothing was drawn between two calls of `random_states`."""
    return (
        torch.equal(one[0], other[0])
        and one[1] == other[1]
        and one[2][2:] == other[2][2:]
        and np.array_equal(one[2][1], other[2][1])
        and len(one[3]) == len(other[3])
        and all(map(torch.equal, one[3], other[3]))
    )


def states_before() -> tuple[Any, ...]:
    """The random states that this thread will put back, where it is the only one that runs a model."""
    return _FIRST[0] if set(_INSIDE) == {get_ident()} and _FIRST else random_states()


@contextmanager
def _states() -> Generator[None]:
    """The global random states are what they were; of several threads at once, when the last has left."""
    me, before = get_ident(), random_states()
    with _TURN:
        if not _INSIDE:
            _FIRST[:] = [before]
        _INSIDE[me] += 1
    try:
        yield
    finally:
        with _TURN:
            _INSIDE[me] -= 1
            if not _INSIDE[me]:
                del _INSIDE[me]
            if not _INSIDE:
                set_random_states(_FIRST.pop())
            elif set(_INSIDE) == {me}:
                set_random_states(before)


class _Hooks:
    """All hooks of all modules; most tables are empty."""

    MORE = ("_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs", "_forward_hooks_always_called")

    def __init__(self, modules: list[nn.Module]) -> None:
        self._modules = modules
        self._before = self._numbers()

    def restore(self) -> None:
        """Take away what engines have left behind; hooks that the model set itself stay."""
        known = set(self._before)
        for module in self._modules:
            for kind in HOOKS:
                table = vars(module).get(kind)
                for number in (
                    [n for n, hook in table.items() if n not in known and ours(hook)] if table else ()
                ):
                    for name in (kind, *self.MORE):
                        vars(module).get(name, {}).pop(number, None)

    def changed(self) -> bool:
        """Whether the model has set or removed hooks of its own."""
        return self._numbers() != self._before

    def _numbers(self) -> list[int]:
        own = [vars(module) for module in self._modules]
        return [number for held in own for kind in HOOKS if (table := held.get(kind)) for number in table]

"""Everything a call may leave behind in a model or in the process, to be compared afterwards."""

import random
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from abe.instrument.plain import ATOMS, INTERNAL

_TABLES = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Snapshot:
    """The state of a model and of the global generators at one moment."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._before = _state(model)

    def changes(self) -> list[str]:
        """What is different now, by name; empty where everything is as it was."""
        after = _state(self._model)
        names = [*self._before, *(n for n in after if n not in self._before)]
        return [name for name in names if not _same(self._before.get(name), after.get(name))]


def _state(model: nn.Module) -> dict[str, Any]:
    found: dict[str, Any] = OrderedDict()
    for name, module in model.named_modules():
        for key, held in vars(module).items():
            if key not in INTERNAL and not key.startswith("_"):
                found[f"attribute {key} of {name or 'the model'}"] = _kept(held)
        found[f"training flag of {name or 'the model'}"] = module.training
        for table in _TABLES:
            found[f"{table.strip('_')} of {name or 'the model'}"] = list(getattr(module, table).items())
    for name, parameter in model.named_parameters():
        found[f"value of {name}"] = parameter.detach().clone()
        found[f"requires_grad of {name}"] = parameter.requires_grad
        found[f"identity of the gradient of {name}"] = id(parameter.grad)
        found[f"gradient of {name}"] = None if parameter.grad is None else parameter.grad.clone()
    for name, buffer in model.named_buffers():
        found[f"identity of buffer {name}"] = id(buffer)
        found[f"buffer {name}"] = buffer.detach().clone()
    found["torch's global generator"] = torch.get_rng_state()
    generator: Any = np.random.get_state()  # noqa: NPY002 - it is what is guarded
    found["NumPy's global generator"] = [
        bytes(part) if isinstance(part, np.ndarray) else part for part in generator
    ]
    if not hasattr(_state, "__wrapped__"):  # a run-time type checker draws the items it looks at from it
        found["Python's global generator"] = random.getstate()
    found["grad mode"] = torch.is_grad_enabled()
    found["number of threads"] = torch.get_num_threads()
    return found


def _kept(held: Any) -> Any:
    """Tensors by identity and numbers, what cannot change as it is, anything else by identity."""
    if isinstance(held, Tensor):
        return id(held), held.tolist()
    return held if type(held) in ATOMS else id(held)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and bool(torch.equal(one, other))
    return type(one) is type(other) and one == other

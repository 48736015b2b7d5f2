"""What is checked of a model before it runs, remembered until something about the model changes."""

from collections.abc import Generator
from contextlib import contextmanager
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from abe.checks import finite
from abe.engines.instrument.inspection import Parts, clean_name, compiled, coupling, parts_of
from abe.engines.instrument.per_model import PerModel
from abe.errors import Code, ModelError, note


class Known:
    """A model's modules and tensors at one moment; what is remembered of it belongs to this.

    Tensors are told by identity and version counter, which edits through ``.data`` go round: what must
    not miss those reads the contents (`fused_copy.fingerprint`).
    """

    def __init__(self, parts: Parts) -> None:
        self._modules = [(ref(module), _is_compiled(module)) for module in parts.modules]
        self._tensors = [(ref(tensor), version(tensor)) for tensor in (*parts.parameters, *parts.buffers)]

    def still(self, parts: Parts) -> bool:
        """Whether these are the same modules and the same tensors, unchanged."""
        modules, tensors = parts.modules, [*parts.parameters, *parts.buffers]
        if len(modules) != len(self._modules) or len(tensors) != len(self._tensors):
            return False
        for module, (was, mode) in zip(modules, self._modules, strict=True):
            if was() is not module or mode != _is_compiled(module):
                return False
        for tensor, (was, count) in zip(tensors, self._tensors, strict=True):
            if was() is not tensor or count != version(tensor):
                return False
        return True


_KNOWN: PerModel[Known] = PerModel()
_HELD: PerModel[Known] = PerModel()
"""Models that are being run: nothing changes them meanwhile."""
_REMARKS: "WeakKeyDictionary[Known, tuple[str, ...]]" = WeakKeyDictionary()


def known(model: nn.Module, parts: Parts | None = None) -> Known:
    """The model as it is now: the same value as before where nothing has changed."""
    if (held := _HELD.get(model)) is not None:
        return held
    parts, last = parts or parts_of(model), _KNOWN.get(model)
    return last if last is not None and last.still(parts) else _KNOWN.set(model, Known(parts))


@contextmanager
def holding(model: nn.Module, parts: Parts | None = None) -> Generator[None]:
    """Look at the model once for everything that is asked of it inside the ``with`` block."""
    outer = _HELD.get(model)
    _HELD.set(model, outer or known(model, parts))
    try:
        yield
    finally:
        if outer is None:
            _HELD.forget(model)


TRAINING = "The model was in training mode; it ran in evaluation mode and was set back"


def version(tensor: Tensor) -> int:
    """How often a tensor was written in place; inference tensors do not count."""
    return -1 if tensor.is_inference() else tensor._version


def check_model(model: nn.Module, parts: Parts | None = None) -> list[str]:
    """What is worth saying about the model before it runs; sound weights are read once per change.

    Raises:
        ModelError: inference mode, weights on the meta device, or weights that hold NaN or infinity.
    """
    if torch.is_inference_mode_enabled():
        raise ModelError(
            Code.INFERENCE_MODE,
            "Gradients cannot be taken inside torch.inference_mode()",
            fix="Call abe.explain outside that block; torch.no_grad() is fine",
        )
    parts = parts or parts_of(model)
    now = known(model, parts)
    remarks = _REMARKS.get(now)
    if remarks is None:
        remarks = _REMARKS[now] = tuple(_remarks(model))
    training = any(module.training for module in parts.modules)
    return [*([note(Code.TRAINING_MODE, TRAINING)] if training else []), *remarks]


def _remarks(model: nn.Module) -> list[str]:
    remarks: list[str] = []
    if compiled(model):
        remarks.append(
            note(Code.COMPILED_MODEL, "The model is compiled; it was explained in eager mode, uncompiled")
        )
    if coupled := coupling(model):
        remarks.append(
            note(
                Code.COUPLED_ROWS,
                f"Layer {clean_name(coupled[0])!r} normalises by the batch at hand, so samples influence "
                "one another and the chunk size matters",
            )
        )
    check_weights(model)
    return remarks


def check_weights(model: nn.Module) -> None:
    """Raise where weights are missing, NaN or infinite; a sum is read once per weight, a value only then."""
    weights = dict(model.named_parameters())
    for name, parameter in weights.items():
        if parameter.is_inference():
            raise ModelError(
                Code.INFERENCE_MODE,
                "The model was built inside torch.inference_mode(), so it cannot be differentiated",
                got=f"inference tensor {name!r}",
                fix="Build or load the model outside that block, or copy.deepcopy it outside",
            )
        if parameter.is_meta:
            raise ModelError(
                Code.DEVICE,
                "The model has no weights",
                got=f"{name!r} on the meta device",
                fix="Load weights with model.to_empty(device=…) and load_state_dict(…)",
            )
    for name, parameter in weights.items():
        if not finite(parameter):
            raise ModelError(
                Code.NOT_FINITE_WEIGHTS,
                "The model's weights hold NaN or infinity",
                got=f"in {name!r}",
                fix="Load a sound checkpoint; an explanation of NaN means nothing",
            )


def _is_compiled(module: nn.Module) -> bool:
    return vars(module).get("_compiled_call_impl") is not None

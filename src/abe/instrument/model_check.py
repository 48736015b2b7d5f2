"""What is checked of a model before it runs, remembered until something about the model changes."""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from operator import is_
from threading import Lock, RLock
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from abe.checks import finite
from abe.errors import Code, ModelError, note
from abe.instrument.inspection import (
    Parts,
    clean_name,
    compiled,
    coupling,
    dense_parts,
    parts_of,
    path_name,
    sharded,
)
from abe.instrument.per_model import PerModel
from abe.instrument.plain import INTERNAL, Plain, settled
from abe.instrument.standing import Row, Standing


class Known:
    """A model's modules, tensors, hooks and attributes at one moment; what is remembered belongs to it.

    Tensors are told by identity and version counter, which edits through ``.data`` go round: what must
    not miss those reads the contents (`fused_copy.fingerprint`).
    """

    def __init__(self, parts: Parts, standing: Standing) -> None:
        plain = Plain(parts.modules)
        self._kept = tuple([ref(one) for one in kept] for kept in parts)
        self._hooks, self._tables = standing.hooks, _mark(standing.tables)
        self._sizes, self._names, held = standing.attributes
        self._versions = _versions([*parts.parameters, *parts.buffers, *plain.tensors])
        self._plain = plain.found
        self._tensors = [ref(one) for one in plain.tensors]
        own = [place for place, name in enumerate(self._names) if name not in INTERNAL]
        self._closed = [place for place in own if settled(held[place])]
        self._open = [place for place in own if not settled(held[place])]
        self._settled = standing.attributes.at(self._closed)
        self.places = [*self._closed, *self._open]
        """Where attributes stand that are the model's own."""
        self._inside = self._look_inside(standing).found

    def parts(self) -> tuple[Parts, Standing] | None:
        """The modules and tensors, if they are still the same, under the same names and unchanged."""
        held = Parts(*([one() for one in kept] for kept in self._kept))  # type: ignore[arg-type]
        if any(one is None for kept in held for one in kept):
            return None
        now = Standing(held.modules)
        return None if now.hooks != self._hooks or self.moved(held, now) else (held, now)

    def unsettled(self, standing: Standing) -> list[Any]:
        """What stands in attributes that can be, or hold, something that is written to."""
        return standing.attributes.at(self._open)

    def _look_inside(self, standing: Standing) -> Plain:
        """What stands in attributes whose values can change where they stand."""
        return Plain(standing.modules, self.unsettled(standing))

    def moved(self, held: Parts, now: Standing) -> bool:
        """Whether these modules hold other tensors or plain attributes than they did."""
        if _mark(now.tables) != self._tables:
            return True
        alike = now.attributes.alike(self._sizes, self._names)
        alike = alike and all(map(is_, now.attributes.at(self._closed), self._settled))
        plain = self._look_inside(now) if alike else Plain(held.modules)
        if plain.found != (self._inside if alike else self._plain):
            return True
        if _versions([*held.parameters, *held.buffers, *plain.tensors]) != self._versions:
            return True
        return any(one() is not now for one, now in zip(self._tensors, plain.tensors, strict=True))


def _mark(row: Row) -> tuple[list[int], list[str], list[int]]:
    """What tells entries from others while they live; it holds none of them."""
    return row.sizes, row.names, list(map(id, row.held))


@dataclass
class Held:
    """A model that is being run: what is known of it, its parts, and how they stood when it was looked at."""

    known: Known
    parts: Parts
    looked: Standing | None

    def standing(self) -> Standing:
        """How things stand: the first who asks, before anything has run, need not look again."""
        looked, self.looked = self.looked, None
        return looked or Standing(self.parts.modules)


_KNOWN: PerModel[Known] = PerModel()
_HELD: PerModel[Held] = PerModel()
"""Models that are being run: nothing changes them meanwhile."""
_LOCKS: PerModel[RLock] = PerModel()
"""One lock for all modules and parameters that were ever met in one model."""
_TURNS: PerModel[list[RLock]] = PerModel()
_JOINING = Lock()
_REMARKS: "WeakKeyDictionary[Known, tuple[str, ...]]" = WeakKeyDictionary()


def known(model: nn.Module) -> Known:
    """The model as it is now: the same value as before where nothing has changed."""
    held = _HELD.get(model)
    return (_look(model) if held is None else held).known


def _look(model: nn.Module) -> Held:
    last = _KNOWN.get(model)
    found = None if last is None else last.parts()
    if last is not None and found is not None:
        return Held(last, *found)
    parts = parts_of(model)
    _refuse_empty(model, parts)
    standing = Standing(parts.modules)
    return Held(_KNOWN.set(model, Known(parts, standing)), parts, standing)


def known_while_run(model: nn.Module) -> Known | None:
    """What is known of a model that is being run; None for any other."""
    held = _HELD.get(model)
    return None if held is None else held.known


@contextmanager
def holding(model: nn.Module) -> Generator[Held]:
    """Look at the model once for everything that is asked of it inside the ``with`` block.

    Threads take turns with a model, and with whatever has a module or parameter in common with it.

    Raises:
        ModelError: UNINITIALISED for lazy modules that have not run yet; DEVICE and UNSUPPORTED for
            weights on the meta device, and for sharded ones.
    """
    while True:
        locks = _TURNS.get(model) or _join(model)
        with ExitStack() as stack:
            for lock in locks:
                stack.enter_context(lock)
            outer, last = _HELD.get(model), _KNOWN.get(model)
            held = outer or _look(model)
            if held.known is not last and _join(model) != locks:
                continue  # it has got parts that another model has
            _HELD.set(model, held)
            try:
                yield held
            finally:
                if outer is None:
                    _HELD.forget(model)
            return


def _join(model: nn.Module) -> list[RLock]:
    """The locks of all that is in the model, in one order for all threads; most models need a single one."""
    parts = parts_of(model)
    members = [*parts.modules, *parts.parameters]
    with _JOINING:
        found = {id(lock): lock for one in members if (lock := _LOCKS.get(one)) is not None}
        locks = [found[key] for key in sorted(found)] or [RLock()]
        for one in members:
            if _LOCKS.get(one) is None:
                _LOCKS.set(one, locks[0])
        return _TURNS.set(model, locks)


def moved(model: nn.Module) -> bool:
    """Whether a model that is being run has changed a tensor or a plain attribute of its own."""
    held = _HELD.get(model)
    return held is not None and held.known.moved(held.parts, Standing(held.parts.modules))


def _refuse_empty(model: nn.Module, parts: Parts) -> None:
    if names := sharded(model):
        raise ModelError(
            Code.UNSUPPORTED,
            "The model's weights are sharded, and gathered while it runs only",
            got=f"{path_name(names[0])} under FSDP",
            fix="Load the full state into an unwrapped model and explain that one",
        )
    if not any(is_lazy(one) or one.is_meta for one in (*parts.parameters, *parts.buffers)):
        return
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise ModelError(
                Code.UNINITIALISED,
                "The model has lazy modules without weights yet",
                got=f"{clean_name(name)!r} is uninitialised",
                fix="Run the model once on an input of the right shape, so that its weights are made",
            )
        if tensor.is_meta:
            raise ModelError(
                Code.DEVICE,
                "The model has no weights",
                got=f"{clean_name(name)!r} on the meta device",
                fix="Load weights with model.to_empty(device=…) and load_state_dict(…)",
            )


def _versions(tensors: list[Tensor]) -> list[int]:
    """How often each tensor was written in place; inference tensors do not count."""
    try:
        return [t._version for t in tensors]
    except RuntimeError:
        return [-1 if t.is_inference() else t._version for t in tensors]


TRAINING = "The model was in training mode; it ran in evaluation mode and was set back"


def check_model(model: nn.Module) -> list[str]:
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
    with holding(model) as held:
        remarks = _REMARKS.get(held.known)
        if remarks is None:
            remarks = _REMARKS[held.known] = tuple(_remarks(model))
        training = any(module.training for module in held.parts.modules)
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
    _refuse_empty(model, parts_of(model))
    weights = dict(model.named_parameters())
    for name, parameter in weights.items():
        if parameter.is_inference():
            raise ModelError(
                Code.INFERENCE_MODE,
                "The model was built inside torch.inference_mode(), so it cannot be differentiated",
                got=f"inference tensor {name!r}",
                fix="Build or load the model outside that block, or copy.deepcopy it outside",
            )
    for name, parameter in weights.items():
        if not all(finite(part) for part in dense_parts(parameter)):
            raise ModelError(
                Code.NOT_FINITE_WEIGHTS,
                "The model's weights hold NaN or infinity",
                got=f"in {name!r}",
                fix="Load a sound checkpoint; an explanation of NaN means nothing",
            )


def check_kept(model: nn.Module) -> None:
    """Raise where a buffer, or a tensor kept as a plain attribute, holds NaN; infinity is a mask's."""
    for name, module in model.named_modules():
        for short, held in {**vars(module), **module._buffers}.items():
            if isinstance(held, Tensor) and any(bool(part.isnan().any()) for part in dense_parts(held)):
                raise ModelError(
                    Code.NOT_FINITE_WEIGHTS,
                    "A tensor that the model keeps holds NaN",
                    got=f"in {clean_name(f'{name}.{short}'.removeprefix('.'))!r}",
                    fix="Load a sound checkpoint, or compute its statistics again",
                )

"""Task: an unmodified model with everything ABE must know about its inputs and outputs."""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, is_dataclass
from dataclasses import fields as dataclass_fields
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from abe.errors import Code, InputError, ModelError, TargetError, note, suggest
from abe.task import outputs as reading_of
from abe.task.outputs import OutputKind
from abe.types import Part


@dataclass(frozen=True)
class Context:
    """Per-sample inputs that are passed along and not explained."""

    values: Mapping[str | int, Tensor] = field(default_factory=dict)

    def take(self, owner: Tensor) -> "Context":
        """The context of the given samples, one per row."""
        return Context({k: v[owner.to(v.device)] for k, v in self.values.items()})


@dataclass(frozen=True)
class Lifted:
    """Raw inputs as features: ``x`` (b, *f), the context, a name per sample, what lies where, and notes."""

    x: Tensor
    context: Context
    names: list[str]
    parts: tuple[Part, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(eq=False)
class Task:
    """A model and how to feed and read it. Made by `abe.image_task` and its kin.

    Attributes:
        model: any ``nn.Module``; never changed.
        modality: ``"image"``, …
        mean, std: normalisation inside the task, broadcast over channels; explanations and bounds
            are in the space before it.
        low, high: bounds of valid inputs, or None.
        labels: class names, by number: a list, or a dict {number: name}.
        output: how to find the output tensor: None (found automatically), a key, an attribute
            name, an index, or a function.
        output_kind: what the numbers are, see `abe.image_task`; ``"auto"`` is settled by the first outputs.
        explained: names of the explained inputs of a model with several, in the order of the call.
        input_name: keyword under which a single input is passed, or None for positional.
        lifter: turns raw inputs into features.
    """

    model: nn.Module
    modality: str
    lifter: Any
    mean: Tensor | None = None
    std: Tensor | None = None
    low: Tensor | None = None
    high: Tensor | None = None
    labels: Sequence[str] | None = None
    output: Any = None
    output_kind: OutputKind = "auto"
    explained: tuple[str | int, ...] = ()
    input_name: str | None = None
    parts: tuple[Part, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):
            made = isinstance(self.model, type)
            raise ModelError(
                Code.NOT_A_MODULE,
                "A task needs a PyTorch module",
                got=f"the class {self.model.__name__}" if made else type(self.model).__name__,
                expected="torch.nn.Module",
                fix=f"Make one first, for example {self.model.__name__}()"
                if made
                else "Wrap your function in a small nn.Module whose forward calls it",
            )
        reading_of.check_kind(self.output_kind)
        self.labels = reading_of.class_names(self.labels)

    @property
    def origin(self) -> "Task":
        """The task that this one is a reading of; itself where it is none."""
        return vars(self).get("_origin", self)

    def reading(
        self, *, output_kind: OutputKind | None = None, parts: tuple[Part, ...] | None = None
    ) -> "Task":
        """The same task with outputs read as ``output_kind``, or inputs that lie as ``parts``."""
        other = copy(self)
        other.output_kind = output_kind or self.output_kind
        if parts:
            other.parts, other.explained = parts, tuple(part.name for part in parts)
        vars(other)["_origin"] = self.origin
        return other

    @property
    def bounds(self) -> tuple[Tensor, Tensor] | None:
        """(low, high), each broadcastable to (b, *f), or None."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        tensor = _first_tensor(self.model)
        return torch.device("cpu") if tensor is None else tensor.device

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the model's parameters (float32 for a model without any)."""
        tensor = _first_tensor(self.model)
        return torch.float32 if tensor is None else tensor.dtype

    def lift(self, raw: Any) -> Lifted:
        """Raw inputs (photographs, paths, arrays, tensors) as features on the model's device."""
        return self.lifter(self, raw)

    def forward(self, x: Tensor, context: Context | None = None, model: nn.Module | None = None) -> Any:
        """Run rows ``x`` (n, *f) through the model and return the output tensor, usually (n, C).

        Args:
            x: features inside the bounds, before normalisation.
            context: other inputs, one entry per row.
            model: an execution copy to run instead of the model.
        """
        args, kwargs = self._call(x, context)
        runs = self.model if model is None else model  # not `or`: a wrapper may have no length
        return self.pick(runs(*args, **kwargs), len(x))

    def pick(self, raw: Any, n: int) -> Any:
        """The output tensor inside whatever the model returned, checked to have one row per input."""
        out = _select(raw, self.output)
        if isinstance(out, Tensor) and out.ndim == 1 and len(out) == n:
            out = out[:, None]
        elif isinstance(out, Tensor) and n == 1 and (out.ndim < 2 or len(out) != 1):
            out = (
                out[None] if out.ndim else out[None, None]
            )  # a model that squeezes loses the axis of one row
        if isinstance(out, Tensor) and (out.ndim < 2 or len(out) != n):
            raise ModelError(
                Code.OUTPUT_SHAPE,
                "The model's output has no row per input",
                got=f"shape {tuple(out.shape)} for {n} inputs",
                expected=f"({n}, classes)",
                fix="Pass output=… to choose the tensor, or wrap the model",
            )
        return out

    def logits(self, outputs: Any) -> Tensor:
        """(n, C, …) class scores: the outputs, or their logarithm where the model returns probabilities.

        Raises:
            ModelError: the output is no tensor, so only an objective of one's own can read it.
        """
        return reading_of.class_scores(self.output_kind, self._tensor(outputs))

    def columns(self, outputs: Any) -> Any:
        """The outputs with a column (n, C, …) for every class; what is no tensor as it is."""
        return reading_of.columns(self.output_kind, outputs) if isinstance(outputs, Tensor) else outputs

    def choice(self, outputs: Any, target: Tensor, *, alone: bool = False) -> tuple[Tensor, Tensor]:
        """The classes that a target is one of: scores (n, C) and the target's entry (n,) among them.

        ``alone`` says that only the target's score is read.

        Raises:
            ModelError: the output is no tensor.
        """
        return reading_of.choice(self.output_kind, self._tensor(outputs), target, alone=alone)

    def log_probabilities(self, outputs: Tensor) -> Tensor:
        """(n, C) log-probabilities of the outputs, whatever kind they are; of each label on its own.

        Raises:
            SpecError: the task is a regression, which has none.
        """
        return reading_of.all_log_probabilities(self.output_kind, outputs)

    def chances(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities (n, C) of the classes that a target is one of, and its entry among them.

        Raises:
            SpecError: as `log_probabilities`.
        """
        return reading_of.chances(self.output_kind, outputs, target)

    def predicted(self, outputs: Tensor) -> Tensor:
        """(n,) the most probable class (or label) of outputs (n, C)."""
        return reading_of.predicted(self.output_kind, outputs)

    def says(self, outputs: Tensor, target: Tensor) -> Tensor:
        """(n,) whether outputs (n, C) decide for the target: the class predicted, or a label that is said."""
        return reading_of.says(self.output_kind, outputs, target)

    def classes(self, outputs: Any) -> int:
        """How many classes or labels the outputs tell apart; 0 where they are none, as in a regression."""
        return reading_of.told_apart(self.output_kind, outputs)

    def check_classes(self, outputs: Any, what: str, *, apart: bool = False) -> None:
        """Refuse that ``what`` reads classes where the outputs are none.

        Raises:
            SpecError: they are a regression, or one output where classes must be told ``apart``.
        """
        reading_of.check_classes(self.output_kind, outputs, what, apart=apart)

    def remarks(self, outputs: Any) -> list[str]:
        """What is to be said where probabilities are read: one output that nobody said anything about."""
        single = isinstance(outputs, Tensor) and outputs.ndim > 1 and outputs.shape[1] == 1
        unsaid = single and self.output_kind == "logits" and self.origin.output_kind == "auto"
        return [note(Code.OUTPUT_KIND, reading_of.UNSAID)] if unsaid else []

    def _tensor(self, outputs: Any) -> Tensor:
        if isinstance(outputs, Tensor):
            return outputs
        raise ModelError(
            Code.OUTPUT_TYPE,
            "The output to explain is no tensor",
            got=_outline(outputs),
            expected="a tensor (n, classes)",
            fix="Pass output= that names a tensor, or an objective of your own that reads this output",
        )

    def name(self, target: int | Sequence[int]) -> str:
        """Class name of a target, or its number."""
        if isinstance(target, int) and self.labels is not None and 0 <= target < len(self.labels):
            return self.labels[target]
        return str(target)

    def told_apart(self, target: int | Sequence[int]) -> str:
        """`name`, with the number behind it where several classes have one name: ``"missile (657)"``."""
        name = self.name(target)
        return f"{name} ({target})" if self.labels is not None and self.labels.count(name) > 1 else name

    def class_index(self, name: str) -> int:
        """The class called ``name`` (capitals do not matter), or told apart from its namesakes so.

        Raises:
            TargetError: no such class, where the nearest name is suggested; or several.
        """
        if self.labels is None:
            raise TargetError(
                Code.TARGET_TYPE,
                "The task has no class names",
                got=repr(name),
                fix="Pass labels=[…] to the task or give the class as a number",
            )
        exact = [number for number, label in enumerate(self.labels) if label == name]
        lowered = [label.lower() for label in self.labels]
        found = exact or [number for number, label in enumerate(lowered) if label == name.lower()]
        found = found or [number for number in range(len(lowered)) if self.told_apart(number) == name]
        if len(found) > 1:
            raise TargetError(
                Code.TARGET_RANGE,
                f"Several classes are called {name!r}",
                got=f"numbers {', '.join(map(str, found))}",
                fix="Give the number of the one you mean",
            )
        if found:
            return found[0]
        first = f", the first is {self.labels[0]!r}" if self.labels else ""
        raise TargetError(
            Code.TARGET_RANGE,
            f"No class is called {name!r}",
            fix=suggest(name, lowered) or f"There are {len(lowered)} classes{first}",
        )

    def check(self, x: Tensor) -> None:
        """Refuse features that the model should not see, before anything is computed.

        Raises:
            InputError: empty, wrong type or device, not finite, or outside the bounds.
        """
        if x.ndim < 2 or len(x) == 0:
            raise InputError(
                Code.EMPTY_BATCH if x.ndim and len(x) == 0 else Code.SHAPE,
                "There is nothing to explain",
                got=f"shape {tuple(x.shape)}",
                expected="at least one sample, batch first",
            )
        _check_type(x, _first_tensor(self.model))
        smallest, largest = (float(edge) for edge in torch.aminmax(x))  # NaN where one value is
        if not isfinite(largest - smallest):
            bad = torch.nonzero(~torch.isfinite(x).flatten(1).all(1)).flatten().tolist()
            raise InputError(
                Code.NOT_FINITE_INPUT,
                "The input holds NaN or infinity",
                got=f"in sample {bad[0]}" + (f" and {len(bad) - 1} more" if len(bad) > 1 else ""),
                fix="Clean the data first; ABE does not guess missing values",
            )
        self._check_channels(x)
        self._check_bounds(x, smallest, largest)

    def _check_channels(self, x: Tensor) -> None:
        """Numbers per channel must be as many as there are channels."""
        for name, given in (
            ("bounds", self.low),
            ("bounds", self.high),
            ("mean", self.mean),
            ("std", self.std),
        ):
            if given is not None and given.numel() > 1 and (x.ndim < 3 or given.numel() != x.shape[1]):
                raise InputError(
                    Code.SHAPE,
                    f"The input and {name}= differ in the number of channels",
                    got=f"an input of shape {tuple(x.shape)}, {given.numel()} numbers",
                    fix=f"Give {name}= one number, or one per channel",
                )

    def _check_bounds(self, x: Tensor, least: float, most: float) -> None:
        if self.low is None or self.high is None:
            return
        if self.low.numel() == self.high.numel() == 1:
            floor, roof = float(self.low), float(self.high)
            slack = 1e-6 * (roof - floor)
            if least >= floor - slack and most <= roof + slack:
                return
        channels = max(self.low.numel(), self.high.numel())
        low, high = (b.to(x).flatten().expand(x.shape[1]) for b in (self.low, self.high))
        smallest, largest = (f(x.movedim(1, 0).flatten(1), 1) for f in (torch.amin, torch.amax))
        outside = (smallest < low - 1e-6 * (high - low)) | (largest > high + 1e-6 * (high - low))
        if bool(outside.any()):
            worst = int(torch.maximum(low - smallest, largest - high).div(high - low).argmax())
            raise InputError(
                Code.OUT_OF_BOUNDS,
                "The input leaves the task's bounds",
                got=f"values from {float(smallest[worst]):.4g} to {float(largest[worst]):.4g}"
                + (f" in channel {worst}" if channels > 1 else ""),
                expected=f"{float(low[worst]):.4g} to {float(high[worst]):.4g}, before normalisation",
                fix="Pass un-normalised inputs and give mean= and std= to the task, or set bounds=",
            )

    def _call(self, x: Tensor, context: Context | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        others = {} if context is None else {name: _own(values) for name, values in context.values.items()}
        if not self.explained:
            x = self._normalise(x)
            named = {str(k): v for k, v in others.items() if isinstance(k, str)}
            if self.input_name is not None:
                return (), {self.input_name: x, **named}
            return (x, *(v for k, v in sorted(others.items(), key=str) if isinstance(k, int))), named
        values: dict[str | int, Tensor] = {**others, **self._unpacked(self._normalise(x))}
        positional = sorted(k for k in values if isinstance(k, int))
        return tuple(values[k] for k in positional), {k: v for k, v in values.items() if isinstance(k, str)}

    def _unpacked(self, x: Tensor) -> dict[str | int, Tensor]:
        return {part.name: part.of(x) for part in self.parts} or {self.input_name or 0: x}

    def _normalise(self, x: Tensor) -> Tensor:
        """What the model reads, in memory of its own: a forward may write into its input."""
        if self.mean is None and self.std is None:
            return _own(x)
        if self.mean is not None:
            x = x - self.mean.to(x)
        return x if self.std is None else x / self.std.to(x)


ORIGINAL = "_abe_original"
"""Attribute of a copy that the model reads: the tensor it was made of, for what follows the input."""


def _own(given: Tensor) -> Tensor:
    """A copy, which is no operation of the model: instruments do not see it."""
    with torch._C.DisableTorchFunction():
        copied = given.clone()
    setattr(copied, ORIGINAL, given)
    return copied


def _check_type(x: Tensor, model: Tensor | None) -> None:
    dtype, device = (torch.float32, torch.device("cpu")) if model is None else (model.dtype, model.device)
    if not x.is_floating_point():
        raise InputError(
            Code.DTYPE,
            "Inputs must be floating-point numbers",
            got=str(x.dtype),
            expected=str(dtype),
            fix="Scale to the task's bounds first, for example x.float() / 255",
        )
    if x.dtype != dtype:
        raise InputError(
            Code.DTYPE,
            "Input and model differ in floating-point type",
            got=str(x.dtype),
            expected=str(dtype),
            fix=f"Convert with x.to({dtype})",
        )
    if x.device != device:
        raise InputError(
            Code.DEVICE,
            "Input and model are on different devices",
            got=str(x.device),
            expected=str(device),
            fix=f"Move it with x.to({str(device)!r})",
        )


def _first_tensor(model: nn.Module) -> Tensor | None:
    for tables in ("_parameters", "_buffers"):
        for module in model.modules():
            for tensor in getattr(module, tables).values():
                if tensor is not None and tensor.is_floating_point():
                    return tensor
    return None


def _select(raw: Any, output: Any) -> Any:
    if output is None:
        return _find(raw)
    try:
        if callable(output):
            return output(raw)
        if isinstance(output, str) and not isinstance(raw, Mapping):
            return getattr(raw, output)
        return raw[output]
    except Exception as problem:
        if callable(output):
            raise ModelError(
                Code.OUTPUT_TYPE,
                "The output= function raised an exception",
                got=f"{type(problem).__name__}: {problem}",
                expected=f"a function that finds the tensor in {_outline(raw)}",
            ) from problem
        raise ModelError(
            Code.OUTPUT_TYPE,
            f"The model's output has no entry {output!r}",
            got=_outline(raw),
            fix="Pass output= as a key, an index, an attribute name or a function",
        ) from problem


def _find(raw: Any) -> Any:
    """The obvious output tensor: itself, ``logits``, or the only or first tensor inside."""
    if isinstance(raw, Tensor):
        return raw
    entries = _entries(raw)
    for name in ("logits", "out", "output", "scores"):
        if isinstance(entries.get(name), Tensor):
            return entries[name]
    tensors = [v for v in entries.values() if isinstance(v, Tensor)]
    if len(tensors) == 1 or (tensors and isinstance(raw, tuple | list)):
        return tensors[0]
    raise ModelError(
        Code.OUTPUT_TYPE,
        "It is not clear which part of the model's output to explain",
        got=_outline(raw),
        expected="a tensor, or an output with one tensor or an entry 'logits'",
        fix="Pass output= to the task: a key, an index, an attribute name or a function",
    )


def _entries(raw: Any) -> dict[str | int, Any]:
    if isinstance(raw, Mapping):
        return dict(raw)
    if hasattr(raw, "_asdict"):
        return raw._asdict()
    if isinstance(raw, tuple | list):
        return dict(enumerate(raw))
    if is_dataclass(raw) and not isinstance(raw, type):
        return {f.name: getattr(raw, f.name) for f in dataclass_fields(raw)}
    return {k: v for k, v in getattr(raw, "__dict__", {}).items() if not k.startswith("_")}


def _outline(raw: Any) -> str:
    entries = _entries(raw)
    inner = ", ".join(f"{k}: {type(v).__name__}" for k, v in list(entries.items())[:6])
    return f"{type(raw).__name__}({inner})" if inner else type(raw).__name__

"""Task: an unmodified model with everything ABE must know about its inputs and outputs."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from copy import copy
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from abe.errors import Code, ModelError, TargetError, note, suggest
from abe.instrument.capture import replacing
from abe.task import outputs as reading_of
from abe.task.features import check_features, first_tensor
from abe.task.lengths import groups
from abe.task.lifted import Context as Context
from abe.task.lifted import Lifted as Lifted
from abe.task.lifted import below, first_of, taken
from abe.task.outputs import OutputKind
from abe.task.select import outline, returned, select
from abe.types import Part


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
        input_name: keyword under which a single input is passed, or None for positional.
        lifter: turns raw inputs into features.
        parts: what the features hold, where that is not the model's single input.
        held: further such inputs that stay as they are; `Context.about` has their numbers.
        suits: what stands for a default that is made for images: of a parameter's default, such as
            ``("baseline", "zero")``, the one that is used instead; see `abe.task.lifted.suits`.
        reads: ``(outputs, context) -> outputs`` of a task that reads outputs with what it knows of samples.
            It may have ``shared(outputs, context, serves)``, of outputs that serve several samples.
        feeds: ``(context) -> keywords`` of the model's call that follow from what is known of samples. It may
            have ``shorter(x, context, model)``, which leaves out what of the call is known already.
        beneath: at a layer, the task of the model's own inputs.
        asks: keywords that say what of a sample is asked about, such as a region; the lifter takes them.
        keeps: entries of `Context.about` that explanations hold too, so that they can be measured alone.
        level: probability above which a label is said, where outputs are probabilities of labels.
        region_of: the region that is asked about, of samples, for metrics that are given no masks.
        assumed: notes on what nobody said of the model; they go into every result.
        usual: the method and the score that are meant where nobody names one.
        summed: whether results hold one number per position, the sum over its channels.
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
    input_name: str | None = None
    parts: tuple[Part, ...] = ()
    held: tuple[Part, ...] = ()
    suits: Mapping[tuple[str, str | int | None], Any] = field(default_factory=dict)
    reads: Callable[[Any, Context], Any] | None = None
    feeds: Callable[[Context], Mapping[str, Any]] | None = None
    beneath: "Task | None" = None
    asks: tuple[str, ...] = ()
    keeps: tuple[str, ...] = ()
    level: float = reading_of.SAID
    region_of: Callable[[Lifted], Tensor] | None = None
    assumed: tuple[str, ...] = ()
    usual: tuple[str, str] = ("integrated_gradients", "logit")
    summed: bool = False

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
                else "Pass program.module(), exported for any number of rows"
                if isinstance(self.model, torch.export.ExportedProgram)
                else "Wrap your function in a small nn.Module whose forward calls it",
            )
        reading_of.check_kind(self.output_kind)
        self.labels = reading_of.class_names(self.labels)

    @property
    def origin(self) -> "Task":
        """The task that this one is a reading of; itself where it is none."""
        return vars(self).get("_origin", self)

    def reading(
        self,
        *,
        output_kind: OutputKind | None = None,
        parts: tuple[Part, ...] | None = None,
        held: tuple[Part, ...] | None = None,
        settles: Mapping[str, Any] | None = None,
    ) -> "Task":
        """The same task with outputs read as ``output_kind``, inputs that lie as told, and fields settled."""
        other = copy(self)
        for name, value in (settles or {}).items():
            setattr(other, name, value)
        other.output_kind = output_kind or self.output_kind
        other.parts, other.held = parts or self.parts, held or self.held
        vars(other)["_origin"] = self.origin
        return other

    @property
    def bounds(self) -> tuple[Tensor, Tensor] | None:
        """(low, high), each broadcastable to (b, *f), or None; of several parts, where all have them."""
        if self.low is not None and self.high is not None:
            return self.low, self.high
        if not self.parts or any(part.low is None or part.high is None for part in self.parts):
            return None
        if self.parts[0].places is not None:  # behind each other: the widest that all of them allow
            lows, highs = along(self.parts[:1], "low"), along(self.parts[:1], "high")
            for part in self.parts[1:]:
                lows = torch.minimum(lows, along((part,), "low"))
                highs = torch.maximum(highs, along((part,), "high"))
            return lows, highs
        return along(self.parts, "low"), along(self.parts, "high")

    @property
    def limits(self) -> tuple[Tensor, Tensor] | None:
        """The bounds, infinite for an input that has none beside one that has; None where no input has any.

        What moves inputs stays within them; sizes that are shares of the range count from 1 where it is
        infinite (`abe.sizes`).
        """
        found = self.bounds
        if found is None and any(part.low is not None and part.high is not None for part in self.parts):
            found = along(self.parts, "low", -inf), along(self.parts, "high", inf)
        return found

    @property
    def at_layers(self) -> bool:
        """Whether features stand in for outputs of layers, so that the model itself has to run."""
        return any(part.layer is not None for part in (*self.parts, *self.held))

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        tensor = first_tensor(self.model)
        return torch.device("cpu") if tensor is None else tensor.device

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the model's parameters (float32 for a model without any)."""
        tensor = first_tensor(self.model)
        return torch.float32 if tensor is None else tensor.dtype

    def lift(self, raw: Any, **asked: Any) -> Lifted:
        """Raw inputs (photographs, paths, arrays, tensors) as features on the model's device.

        Args:
            raw: what the task takes; what was lifted already is kept as it is.
            **asked: what of each sample is asked about, by the names of `asks`.
        """
        if isinstance(raw, Lifted):
            return raw
        lifted = self.lifter(self, raw, **asked)
        return replace(lifted, notes=(*self.assumed, *lifted.notes)) if self.assumed else lifted

    def scored(self, objective: Any) -> Any:
        """The objective that is asked for: the task's usual one, or what the task calls by another word."""
        if objective is None:
            return self.usual[1]
        return (
            self.suits.get(("objective", objective), objective) if isinstance(objective, str) else objective
        )

    def told(self, objective: Any) -> dict[str, Any]:
        """What lifting is told of the score that is explained, where the task asks for it."""
        return {"objective": objective} if "objective" in self.asks else {}

    def asked(self, params: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """What of some parameters by name the task asks for, and the rest."""
        mine = {name: given for name, given in params.items() if name in self.asks}
        return mine, {name: given for name, given in params.items() if name not in mine}

    def forward(
        self,
        x: Tensor,
        context: Context | None = None,
        model: nn.Module | None = None,
        *,
        serves: Tensor | None = None,
        plain: bool = False,
    ) -> Any:
        """Run rows ``x`` (n, *f) through the model and return the output tensor, usually (n, C).

        Args:
            x: features inside the bounds, before normalisation.
            context: other inputs, one entry per row.
            model: an execution copy to run instead of the model.
            serves: (m,) the row of ``x`` that each of m entries of the context is about, where a row serves
                several of them; the outputs are then (m, …).
            plain: nothing but the outputs is read, so that what of the model's work is known may be left out.
        """
        runs = self.model if model is None else model  # not `or`: a wrapper may have no length
        apart = [] if context is None else list(groups(x, context, self.parts, serves=serves))
        if not apart:
            return self._forward(x, context, runs, serves, plain)
        found = list[Any]()
        for one in apart:  # every row is as long as if it came alone
            task = self if one.parts is self.parts else self.reading(parts=one.parts)
            found.append(task._forward(one.x, one.context, runs, one.serves, plain))
        return found[0] if len(found) == 1 else torch.cat(found)[torch.cat([g.rows for g in apart]).argsort()]

    def _forward(
        self, x: Tensor, context: Context | None, runs: nn.Module, serves: Tensor | None, plain: bool
    ) -> Any:
        if self.beneath is not None and not self.at_layers:
            return self._output(x, context, runs, serves)
        rows, further = context, dict[str, Any]()
        if context is not None and serves is not None:
            rows = context.take(first_of(serves)[0])
        if self.feeds is not None and context is not None and rows is not None and self.beneath is None:
            further = dict(self.feeds(rows))
            shorter: Any = getattr(self.feeds, "shorter", None)
            if plain and shorter is not None:
                x, rows, known = shorter(x, rows, runs)
                further |= known
        if not self.at_layers:
            return self._output(x, context, runs, serves, rows, further)
        held = [(part, (rows or Context()).held(part)) for part in self.held]
        with ExitStack() as stack:
            for part, numbers in (*((part, x) for part in self.parts), *held):
                if part.layer is not None:
                    stack.enter_context(replacing(runs, part.layer, part.restored(numbers)))
            return self._output(x, context, runs, serves, rows, further)

    def _output(
        self,
        x: Tensor,
        context: Context | None,
        runs: nn.Module,
        serves: Tensor | None = None,
        rows: Context | None = None,
        further: Mapping[str, Any] | None = None,
    ) -> Any:
        """What the model says of rows, read for the samples that ask."""
        if self.beneath is not None:
            inputs, rest = below(context)
            inputs = inputs if serves is None else inputs[first_of(serves)[0].to(inputs.device)]
            return self.beneath.forward(inputs, rest, runs, serves=serves)
        args, kwargs = self._call(x, context if rows is None else rows)
        outputs = runs(*args, **kwargs, **(further or {}))
        if self.reads is None:
            outputs = self.pick(outputs, len(x))
            return outputs if serves is None else taken(outputs, serves)
        outputs = self.pick(returned(outputs, len(x)), len(x))
        known = context or Context()
        if serves is None:
            return self.reads(outputs, known)
        shared: Any = getattr(self.reads, "shared", None)
        return self.reads(taken(outputs, serves), known) if shared is None else shared(outputs, known, serves)

    def pick(self, raw: Any, n: int) -> Any:
        """The output tensor inside whatever the model returned, checked to have one row per input."""
        out = select(raw, self.output)
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
        return reading_of.says(self.output_kind, outputs, target, self.level)

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
            got=outline(outputs),
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
        few = ", ".join(map(repr, self.labels[:8])) + (
            f", … ({len(lowered)} in all)" if len(lowered) > 8 else ""
        )
        raise TargetError(
            Code.TARGET_RANGE,
            f"No class is called {name!r}",
            expected=None if (near := suggest(name, lowered)) else f"one of {few}",
            fix=near or "Give one of these names, or a number",
        )

    def check(self, x: Tensor) -> None:
        """Refuse features that the model should not see, before anything is computed.

        Raises:
            InputError: empty, wrong type or device, not finite, or outside the bounds.
        """
        check_features(self, x)

    def _call(self, x: Tensor, context: Context | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        context = context or Context()
        others = {name: _own(values) for name, values in context.values.items()}
        others |= {one.name: one.restored(context.held(one)) for one in self.held if one.layer is None}
        if not self.parts:
            x = self._normalise(x)
            named = {str(k): v for k, v in others.items() if isinstance(k, str)}
            if self.input_name is not None:
                return (), {self.input_name: x, **named}
            return (x, *(v for k, v in sorted(others.items(), key=str) if isinstance(k, int))), named
        block = self._normalise(x)
        given = {part.name: part.restored(block) for part in self.parts if part.layer is None}
        values: dict[str | int, Tensor] = {**others, **given}
        positional = sorted(k for k in values if isinstance(k, int))
        return tuple(values[k] for k in positional), {k: v for k, v in values.items() if isinstance(k, str)}

    def _normalise(self, x: Tensor) -> Tensor:
        """What the model reads, in memory of its own: a forward may write into its input."""
        if self.mean is None and self.std is None:
            return _own(x)
        if self.mean is not None:
            x = x - self.mean.to(x)
        return x if self.std is None else x / self.std.to(x)


def along(parts: Sequence[Part], name: str, other: float = 0.0) -> Tensor:
    """(1, m, 1, …) what every part says for each of its channels, along the packed features.

    Args:
        parts: of the features.
        name: ``"low"``, ``"high"``, ``"mean"`` or ``"std"``.
        other: stands for what a part does not say.
    """
    channels = [part.shape[0] if part.shape else 1 for part in parts]
    flat = any(part.stop - part.start != c for part, c in zip(parts, channels, strict=True))
    found: list[Tensor] = []
    for part, c in zip(parts, channels, strict=True):
        each = torch.tensor(getattr(part, name) or (other,), dtype=torch.float64).expand(c)
        found.append(each.repeat_interleave((part.stop - part.start) // c))
    axes = 0 if flat else len(parts[0].shape) - 1
    return torch.cat(found).view(1, -1, *[1] * axes)


ORIGINAL = "_abe_original"
"""Attribute of a copy that the model reads: the tensor it was made of, for what follows the input."""


def _own(given: Tensor) -> Tensor:
    """A copy, which is no operation of the model: instruments do not see it."""
    with torch._C.DisableTorchFunction():
        copied = given.clone()
    setattr(copied, ORIGINAL, given)
    return copied

"""Patterns: what a weighted operation's input looks like when its output varies (kindermans2018).

The weight w of a neuron z = wᵀx + b cancels distractors, so it does not point to the signal; the pattern

    a = (E[x z] − E[x] E[z]) / (wᵀ E[x z] − wᵀ E[x] E[z])

does. The two-component form, for layers that feed a ReLU, takes the expectations where z > 0 only; the last
layer has no ReLU and takes them everywhere. Sums of x weighted by g are gradients of the operation with
respect to its weight, Σ x g = ∂⟨z, g⟩/∂w, so dense layers and convolutions need one formula.
"""

# torch leaves part of its own interface untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from abe import storage
from abe.checks import Count, finite
from abe.engines.backward.lrp_weighted import Weighted, weighted
from abe.engines.backward.neurons import has_weight, neurons
from abe.engines.backward.run import (
    AsItIs,
    Backward,
    Found,
    RuleBook,
    merged_copy,
)
from abe.engines.backward.step import (
    WEIGHTED,
    Session,
    Step,
    same_value,
)
from abe.engines.layers.at_layer import input_of
from abe.engines.runtime.problem import Problem
from abe.engines.runtime.work import Call
from abe.errors import Code, InputError, ModelError, StorageError, note
from abe.instrument.model_state import as_found
from abe.instrument.modes import Instrument
from abe.sizes import lowest, span
from abe.spec import value
from abe.task.base import Task
from abe.types import Result

NEGLIGIBLE = 1e-12
"""A neuron whose output varies less than this has no pattern."""


@dataclass(frozen=True, eq=False)
class Patterns:
    """Patterns of a model's weighted operations, in the order in which they first run.

    A weight that is used several times, as in the steps of a recurrent layer, has one pattern.

    Attributes:
        layers: one tensor per weight, shaped like it.
    """

    layers: tuple[Tensor, ...]

    def __repr__(self) -> str:
        return f"Patterns({len(self.layers)} layers)"

    def save(self, path: str | Path) -> None:
        """Write them as safetensors.

        Raises:
            StorageError: the file cannot be written.
        """
        tensors, place = {f"layer:{i}": t for i, t in enumerate(self.layers)}, storage.as_path(path)
        if not place.parent.is_dir():
            raise StorageError(
                Code.NOT_WRITTEN, "The patterns could not be written", got=f"no folder {place.parent}"
            )
        storage.write_tensors(place, tensors, {"format": "abe-patterns-1"})

    @classmethod
    def load(cls, path: str | Path) -> "Patterns":
        """Read what `save` wrote.

        Raises:
            StorageError: no such file, a damaged one, or another kind of file.
        """
        _, found = storage.read_tensors(storage.as_path(path))
        layers = tuple(found.get(f"layer:{i}") for i in range(len(found)))
        if not layers or any(layer is None for layer in layers):
            raise StorageError(
                Code.FOREIGN_FILE,
                "This is not a file of patterns",
                got=f"{path} with {', '.join(sorted(found)[:3])}",
                fix="Write one with Patterns.save",
            )
        for name, tensor in found.items():
            if not tensor.is_floating_point() or not finite(tensor):
                raise StorageError(
                    Code.CORRUPT_FILE, "The patterns are damaged", got=f"{path}: {name} is not finite"
                )
        return cls(tuple(found[f"layer:{i}"] for i in range(len(found))))


class _Moments(NamedTuple):
    """Sums over inputs and positions, per neuron of one operation, in axes of its weight."""

    xz: Tensor
    x: Tensor
    z: Tensor
    number: Tensor

    def plus(self, other: "_Moments") -> "_Moments":
        """With those of further inputs."""
        return _Moments(*(a + b for a, b in zip(self, other, strict=True)))

    def pattern(self, weight: Tensor) -> Tensor:
        """Covariance of input and output, scaled so that wᵀ a = 1 for each neuron."""
        count = self.number.clamp(min=1)
        covariance = (self.xz - self.x * (self.z / count)) / count
        inside = [axis for axis in range(weight.ndim) if count.shape[axis] == 1]
        explained = weight * covariance
        explained = explained.sum(inside, keepdim=True) if inside else explained
        varies = explained.abs() > NEGLIGIBLE
        return torch.where(varies, covariance / torch.where(varies, explained, 1.0), 0.0)


class _Layer(NamedTuple):
    """One operation: its weight, and moments where z > 0 and everywhere."""

    weight: Tensor
    positive: _Moments
    everywhere: _Moments

    def plus(self, old: "_Layer | None") -> "_Layer":
        """With the moments of further inputs, or of further steps with the same weight."""
        if old is None:
            return self
        return _Layer(self.weight, self.positive.plus(old.positive), self.everywhere.plus(old.everywhere))


@dataclass
class PatternFit:
    """Patterns in the making: `add` batches, stop whenever, read `patterns`.

    Args:
        task: whose model; batch norm is merged into convolutions first, where that can be done.
    """

    task: Task
    batches: int = 0
    _layers: dict[int, _Layer] = field(default_factory=dict[int, _Layer])
    _last: int = -1

    def add(self, x: Any) -> None:
        """Take in a batch of raw inputs."""
        lifted = self.task.lift(x)
        task = self.task.reading(parts=lifted.parts, held=lifted.held)
        task.check(lifted.x)
        with as_found(task.model):
            first = torch.zeros(1, dtype=torch.long, device=lifted.x.device)
            model = merged_copy(task, lifted.x[:1], lifted.context.take(first))
            self.watch(model, lambda x: task.forward(x, lifted.context, model), lifted.x)

    def watch(self, model: nn.Module, run: Callable[[Tensor], Any], x: Tensor) -> Any:
        """Run rows ``x`` and add what the weighted operations read; the outputs of ``run``."""
        new: dict[int, _Layer] = {}

        def choose(step: Step) -> Any:
            if step.kind == "linear" and step.name in WEIGHTED:
                call = weighted(step)
                if has_weight(step, call):
                    new[step.place] = _measured(step, call).plus(new.get(step.place))
                    self._last = step.place
            return step.plain()

        session = Session(choose=choose, inside=self.task.at_layers)
        with torch.enable_grad(), Instrument(model, default=session, decompose=True):
            outputs = run(x.detach().clone().requires_grad_(True))
        for number, layer in new.items():
            old = self._layers.get(number)
            _check_alike(layer, old)
            self._layers[number] = layer.plus(old)
        self.batches += 1
        return outputs

    def patterns(self) -> Patterns:
        """The patterns of what was added so far.

        Raises:
            InputError: nothing was added.
        """
        if not self.batches:
            raise InputError(
                Code.EMPTY_BATCH, "Patterns need at least one batch of inputs", got="a loader that gave none"
            )
        return Patterns(tuple(self._pattern(number) for number in range(max(self._layers, default=-1) + 1)))

    def _pattern(self, number: int) -> Tensor:
        """The pattern of one weight, empty for one that was not measured, such as those before a layer."""
        layer = self._layers.get(number)
        if layer is None:
            return torch.empty(0)
        return (layer.everywhere if number == self._last else layer.positive).pattern(layer.weight)


def _check_alike(layer: _Layer, old: _Layer | None) -> None:
    if old is not None and old.weight.shape != layer.weight.shape:
        raise ModelError(
            Code.RULE,
            "A weight has another shape in every batch, so it has no pattern",
            got=f"{tuple(old.weight.shape)}, then {tuple(layer.weight.shape)}",
            fix="It is made of another input of the model: use a method of gradients or rules",
        )


def _measured(step: Step, call: Weighted) -> _Layer:
    # Covariances are small differences of large moments, so they are summed in float64.
    x, weight = call.x.detach().double(), call.weight.detach().double().requires_grad_(True)
    with torch.enable_grad():
        linear = call.part(x, weight)
    z = linear.detach() + (0 if call.bias is None else call.bias)
    pairs = neurons(step, call, z)

    def by_neuron(amounts: Tensor) -> Tensor:
        """Sums over everything else, laid along the axes that the weight has for them."""
        shape = [1] * weight.ndim
        for _, axis in pairs:
            shape[axis] = weight.shape[axis]
        own = [place for place, _ in pairs]
        return amounts.permute(*own, *(i for i in range(z.ndim) if i not in own)).reshape(*shape, -1).sum(-1)

    def moments(here: Tensor) -> _Moments:
        (xz,) = torch.autograd.grad(linear, weight, z * here, retain_graph=True)
        (x_here,) = torch.autograd.grad(linear, weight, here, retain_graph=True)
        return _Moments(xz, x_here, by_neuron(z * here), by_neuron(here))

    return _Layer(weight.detach(), moments((z > 0).to(z)), moments(torch.ones_like(z)))


def fit_patterns(task: Task, loader: Iterable[Any], *, fit: PatternFit | None = None) -> Patterns:
    """Patterns from a data loader.

    Args:
        task: whose model.
        loader: gives batches of inputs; of dicts with ``inputs`` and of tuples (inputs, labels, …) the inputs
            are taken, and a list of texts or of rows by column is the inputs.
        fit: where to add to. Keep it yourself, and what was learnt survives a loader that fails half way.

    Raises:
        InputError: the loader gave nothing.
    """
    fit = PatternFit(task) if fit is None else fit
    for batch in loader:
        fit.add(_inputs(batch))
    return fit.patterns()


def _inputs(batch: Any) -> Any:
    """The inputs of a batch, which may hold labels beside them."""
    if isinstance(batch, Mapping):
        return batch.get("inputs", batch)
    if not isinstance(batch, tuple | list) or not batch:
        return batch
    listed = isinstance(batch, list) and isinstance(batch[0], Mapping)
    return batch if listed or isinstance(batch[0], str) or _are_pairs(batch) else batch[0]


def _are_pairs(batch: Sequence[Any]) -> bool:
    return all(
        isinstance(one, tuple) and len(one) == 2 and all(isinstance(text, str) for text in one)
        for one in batch
    )


@dataclass(frozen=True, eq=False)
class ByPattern:
    """Weighted operations send gradients back through patterns a, or through w ⊙ a.

    Args:
        patterns: one per weight.
        attribution: through w ⊙ a (PatternAttribution) instead of a (PatternNet).
    """

    patterns: Patterns
    attribution: bool

    def __call__(self, step: Step) -> Any:
        """The pattern in the place of the weight on the way back."""
        call, known = weighted(step), self.patterns.layers
        if not has_weight(step, call):
            return step.plain()
        if step.place >= len(known) or known[step.place].shape != call.weight.shape:
            raise ModelError(
                Code.RULE,
                "The patterns were fitted on another model",
                got=f"{len(known)} patterns, none of shape {tuple(call.weight.shape)} at place {step.place}",
                fix="Fit them on this task with fit_patterns",
            )
        pattern = known[step.place].to(call.weight)
        through = pattern * call.weight if self.attribution else pattern
        return same_value(call.part(call.x, through), step.value())


@value
class PatternBackward:
    """Backpropagate the score through patterns.

    Args:
        patterns: fitted on the task's model; None fits them to uniform noise and says so.
        attribution: PatternAttribution, else PatternNet.
        samples: how many inputs of noise, where there are no patterns.
    """

    patterns: Patterns | None = None
    attribution: bool = False
    samples: Count = 32

    def run(self, problem: Problem) -> Result:
        """One forward and one backward row per sample."""
        found = self._backward(problem).run(problem)
        scale = problem.score.reshape(-1, *[1] * (problem.x.ndim - 1))
        warnings = list(found.warnings)
        if self.patterns is None:
            what = f"No patterns were given, so they were fitted to {self.samples} samples of uniform noise"
            warnings.append(note(Code.PATTERNS, what))
        return Result(found.attribution * scale, warnings=warnings)

    def report(self, problem: Problem) -> Found:
        """Rules by operation on the given samples."""
        return self._backward(problem).report(problem)

    def _backward(self, problem: Problem) -> Backward:
        if self.patterns is None:
            patterns = _fitted(problem, self.samples)
        else:
            patterns = self.patterns
            _check_place(problem)
        book = RuleBook(entries=(("weighted", ByPattern(patterns, self.attribution)), ("*", AsItIs())))
        return Backward(book=book, form="gradient", merged=True)


def _check_place(problem: Problem) -> None:
    """Patterns of a model are those of its merged copy, if it has one."""
    task = problem.task
    if task.beneath is None:
        return
    x, context = input_of(problem)
    if merged_copy(task.beneath, x[:1], context.take(problem.everyone[:1])) is not task.model:
        raise ModelError(
            Code.RULE,
            "The patterns were fitted with batch norms merged into convolutions, which the layer's are not",
            got=f"patterns for a method at layer {task.parts[0].layer!r}",
            fix="Leave patterns out at a layer, or explain the input",
        )


def _fitted(problem: Problem, samples: int) -> Patterns:
    """Patterns of uniform noise in the bounds, the same for every sample explained."""
    fit, x = PatternFit(problem.task), problem.x
    model = merged_copy(problem.task, x[:1], problem.context.take(problem.everyone[:1]))
    low, wide = lowest(problem.limits), span(problem.limits)

    def make(rows: Tensor) -> Tensor:
        drawn = problem.draws.uniform("patterns", [(0, i) for i in rows.tolist()], x.shape[1:])
        return low + wide * drawn.to(x)

    def around(call: Call) -> tuple[Any, Tensor]:
        outputs = fit.watch(model, lambda noise: call.forward(noise, model), call.x)
        return outputs, call.x.new_empty(0)

    owner = torch.zeros(samples, dtype=torch.long, device=x.device)
    for _ in problem.forward(make, owner, around=around, purpose="patterns", scored=False):
        """The moments are what is wanted, not the scores."""
    return fit.patterns()

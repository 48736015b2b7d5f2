"""Patterns: what a weighted operation's input looks like when its output varies (kindermans2018).

The weight w of a neuron z = wᵀx + b cancels distractors, so it does not point to the signal; the pattern

    a = (E[x z] − E[x] E[z]) / (wᵀ E[x z] − wᵀ E[x] E[z])

does. The two-component form takes the moments where z > 0 only (and E[z] there too), for layers that
feed a ReLU. All moments are gradients of the operation with respect to its weight: Σ x g = ∂⟨z, g⟩/∂w.
"""

# torch leaves part of its own interface untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from abe.engines.backward import Backward, RuleBook, merge, merged_copy
from abe.engines.backward_filters import AsItIs
from abe.engines.backward_steps import WEIGHTED, Session, Step, same_value
from abe.engines.backward_weights import weighted
from abe.engines.batching import Call, Chunk
from abe.engines.instrument import Instrument
from abe.engines.path import check_count
from abe.engines.problem import Problem
from abe.engines.state import as_found
from abe.errors import Code, InputError, ModelError, StorageError, note
from abe.spec import value
from abe.task.base import Task
from abe.types import Result

Kind = Literal["positive", "linear"]


@dataclass(frozen=True, eq=False)
class Patterns:
    """Patterns of a model's weighted operations, in the order in which they run.

    Attributes:
        layers: one tensor per operation, shaped like its weight.
    """

    layers: tuple[Tensor, ...]

    def __repr__(self) -> str:
        return f"Patterns({len(self.layers)} layers)"

    def __spec__(self) -> dict[str, str]:
        return {"opaque": repr(self)}

    def save(self, path: str | Path) -> None:
        """Write them as safetensors."""
        save_file({f"layer:{i}": t.contiguous() for i, t in enumerate(self.layers)}, str(path))

    @classmethod
    def load(cls, path: str | Path) -> "Patterns":
        """Read what `save` wrote.

        Raises:
            StorageError: no such file, or another kind of file.
        """
        try:
            found = load_file(str(path))
            return cls(tuple(found[f"layer:{i}"] for i in range(len(found))))
        except (OSError, KeyError, ValueError) as problem:
            raise StorageError(
                Code.FOREIGN_FILE, "This is not a file of patterns", got=str(path), fix="Use Patterns.save"
            ) from problem
        except Exception as problem:  # safetensors raises a class of its own
            raise StorageError(Code.CORRUPT_FILE, "The patterns cannot be read", got=str(path)) from problem


@dataclass
class _Moments:
    """Sums over inputs and positions, per output of one operation."""

    xz: Tensor
    x: Tensor
    z: Tensor
    count: Tensor


@dataclass
class PatternFit:
    """Patterns in the making: `add` batches, stop whenever, read `patterns`.

    Args:
        task: whose model; batch norm is merged into convolutions first, where that can be done.
        kind: ``"positive"`` takes moments where z > 0 (for ReLU networks), ``"linear"`` everywhere.
    """

    task: Task
    kind: Kind = "positive"
    batches: int = 0
    _moments: dict[int, _Moments] = field(default_factory=dict)
    _weights: dict[int, Tensor] = field(default_factory=dict)

    def add(self, x: Tensor) -> None:
        """Take in a batch (n, *f) of inputs in the task's bounds."""
        lifted = self.task.lift(x)
        self.task.check(lifted.x)
        with as_found(self.task.model):
            first = torch.zeros(1, dtype=torch.long, device=lifted.x.device)
            model = merge(self.task, lifted.x[:1], lifted.context.take(first))
            self.watch(model, lambda x: self.task.forward(x, lifted.context, model), lifted.x)

    def watch(self, model: nn.Module, run: Callable[[Tensor], Any], x: Tensor) -> Any:
        """Run rows ``x`` and add what the weighted operations read; the outputs of ``run``."""
        new: dict[int, _Moments] = {}

        def choose(step: Step) -> Any:
            if step.kind == "linear" and step.name in WEIGHTED:
                new[step.number] = self._measure(step)
            return step.plain()

        session = Session(choose=choose)
        with torch.enable_grad(), Instrument(model, default=session, decompose_attention=True):
            outputs = run(x.detach().clone().requires_grad_(True))
        for number, moments in new.items():
            self._moments[number] = _sum(self._moments.get(number), moments)
        self.batches += 1
        return outputs

    def _measure(self, step: Step) -> _Moments:
        call = weighted(step)
        # Covariances are small differences of large moments, so they are summed in float64.
        x, weight = call.x.detach().double(), call.weight.detach().double().requires_grad_(True)
        with torch.enable_grad():
            linear = call.part(x, weight)
        z = linear.detach() + (0 if call.bias is None else call.bias)
        here = (z > 0).to(z.dtype) if self.kind == "positive" else torch.ones_like(z)
        (xz,) = torch.autograd.grad(linear, weight, z * here, retain_graph=True)
        (x_here,) = torch.autograd.grad(linear, weight, here)
        self._weights[step.number] = weight.detach()
        axes = tuple(i for i in range(z.ndim) if i != _channel(step, z))
        return _Moments(xz, x_here, (z * here).sum(axes), here.sum(axes))

    def patterns(self) -> Patterns:
        """The patterns of what was added so far.

        Raises:
            InputError: nothing was added.
        """
        if not self.batches:
            raise InputError(Code.EMPTY_BATCH, "Patterns need at least one batch of inputs")
        return Patterns(tuple(self._pattern(i) for i in sorted(self._moments)))

    def _pattern(self, number: int) -> Tensor:
        weight, m = self._weights[number], self._moments[number]
        count = m.count.clamp(min=1)
        shape = (-1, *[1] * (weight.ndim - 1))
        covariance = m.xz / count.view(shape) - (m.x / count.view(shape)) * (m.z / count).view(shape)
        explained = (weight * covariance).flatten(1).sum(1)
        safe = torch.where(explained.abs() > 1e-12, explained, torch.ones_like(explained))
        return torch.where(
            (explained.abs() > 1e-12).view(shape), covariance / safe.view(shape), torch.zeros_like(weight)
        )


def _channel(step: Step, z: Tensor) -> int:
    return 1 if step.name.startswith("conv") and z.ndim > 2 else z.ndim - 1


def _sum(old: _Moments | None, new: _Moments) -> _Moments:
    if old is None:
        return new
    return _Moments(old.xz + new.xz, old.x + new.x, old.z + new.z, old.count + new.count)


def fit_patterns(task: Task, loader: Iterable[Any], *, fit: PatternFit | None = None) -> Patterns:
    """Patterns from a data loader; of batches that are tuples the first item is taken.

    Args:
        task: whose model.
        loader: gives batches of inputs.
        fit: where to add to. Keep it yourself, and what was learnt survives a loader that fails half way.

    Raises:
        InputError: the loader gave nothing.
    """
    fit = PatternFit(task) if fit is None else fit
    for batch in loader:
        fit.add(batch[0] if isinstance(batch, (tuple, list)) else batch)
    return fit.patterns()


@dataclass(frozen=True, eq=False)
class ByPattern:
    """Weighted operations send gradients back through patterns a, or through w ⊙ a.

    Args:
        patterns: one per operation.
        attribution: through w ⊙ a (PatternAttribution) instead of a (PatternNet).
    """

    patterns: Patterns
    attribution: bool

    def __call__(self, step: Step) -> Any:
        """The pattern in the place of the weight on the way back."""
        call = weighted(step)
        known = self.patterns.layers
        if step.number >= len(known) or known[step.number].shape != call.weight.shape:
            raise ModelError(
                Code.RULE,
                "The patterns were fitted on another model",
                got=f"{len(known)} patterns, none of shape {tuple(call.weight.shape)} at place {step.number}",
                fix="Fit them on this task, abe.engines.backward_patterns.fit_patterns",
            )
        pattern = known[step.number].to(call.weight)
        through = pattern * call.weight if self.attribution else pattern
        return same_value(call.part(call.x, through), step.value())


@value
class PatternBackward:
    """Backpropagate through patterns, from the score.

    Args:
        patterns: fitted on the task's model; None fits them to uniform noise and says so.
        attribution: PatternAttribution, else PatternNet.
        samples: images of noise, where there are no patterns.
    """

    patterns: Patterns | None = None
    attribution: bool = False
    samples: int = 32

    def __post_init__(self) -> None:
        check_count("samples", self.samples)

    def run(self, problem: Problem) -> Result:
        """One forward and one backward row per sample."""
        patterns, warnings = self.patterns, list[str]()
        if patterns is None:
            patterns = _fitted(problem, self.samples)
            what = f"No patterns were given, so they were fitted to {self.samples} images of uniform noise"
            warnings.append(note(Code.PATTERNS, what))
        rule = ByPattern(patterns, self.attribution)
        book = RuleBook(entries=(("weighted", rule), ("*", AsItIs())))
        found = Backward(book=book, form="gradient", merged=True).run(problem)
        scale = problem.score.reshape(-1, *[1] * (problem.x.ndim - 1))
        return Result(found.attribution * scale, warnings=[*warnings, *found.warnings])


def _fitted(problem: Problem, samples: int) -> Patterns:
    """Patterns of uniform noise in the bounds, the same for every sample explained."""
    fit, x = PatternFit(problem.task), problem.x
    model = merged_copy(problem.task, problem)
    low, high = problem.bounds or (torch.zeros_like(x[:1]), torch.ones_like(x[:1]))

    def make(rows: Tensor) -> Tensor:
        drawn = problem.draws.uniform("patterns", [(0, i) for i in rows.tolist()], x.shape[1:])
        return low + (high - low) * drawn.to(x)

    def around(call: Call) -> tuple[Any, Tensor]:
        outputs = fit.watch(model, lambda rows: call.forward(rows, model), call.x)
        return outputs, call.score(outputs)

    owner = torch.zeros(samples, dtype=torch.long, device=x.device)
    problem.forward(samples, make, owner, _ignore, around=around)
    return fit.patterns()


def _ignore(chunk: Chunk) -> None:
    """The moments are what is wanted, not the outputs."""

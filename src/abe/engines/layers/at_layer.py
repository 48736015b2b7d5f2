"""Methods at a layer: its activation takes the place of the input, so every engine runs there as it is.

The model runs on from the activation; what it computes before the layer, and beside it, stays that of the
sample. `AtLayer` is any engine on that task, `AtInput` a reference for it, `Conductance` the integral over
the layer's way while the *input* goes along a straight line.
"""

from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from abe.engines.runtime.chunk_size import ChunkPlan
from abe.engines.runtime.evaluator import Evaluator
from abe.engines.runtime.problem import Problem
from abe.engines.runtime.targets import Decision
from abe.errors import Code, InputError, ModelError, SpecError
from abe.instrument.capture import layer_name
from abe.objectives import Captured
from abe.registry import baselines
from abe.spec import resolved, value
from abe.task.base import Context, Task
from abe.task.lifted import below
from abe.types import Baseline, Engine, Part, Result

_PLANS: "WeakKeyDictionary[Task, dict[str, dict[tuple[Any, ...], ChunkPlan]]]" = WeakKeyDictionary()


def layer_task(base: Task, layer: str, shape: tuple[int, ...], channels: int = 1) -> Task:
    """The task whose features are the activation of a layer: a part that stands in for its output.

    Args:
        base: of the model's own inputs.
        layer: as in `AtLayer`.
        shape: of one sample's activation, channels first.
        channels: the axis on which the layer has its channels.
    """
    part = Part(layer, 0, shape[0], shape, layer=layer, channels=channels)
    return Task(
        base.model,
        base.modality,
        base.lifter,
        labels=base.labels,
        output_kind=base.output_kind,
        parts=(part,),
        beneath=base,
    )


class _Reader:
    """Reads a layer instead of scoring."""

    reads_logits = False

    def __init__(self, layer: str) -> None:
        self.layers = (layer,)
        self.seen = torch.empty(0)

    def __call__(self, outputs: Captured, target: Tensor) -> Tensor:
        (layer,) = self.layers
        self.seen = outputs.layers[layer].detach()
        if self.seen.shape[:1] != target.shape[:1]:
            raise ModelError(
                Code.LAYER,
                f"The layer's output has no row per sample: {layer!r}",
                got=f"shape {tuple(self.seen.shape)} for {len(target)} samples",
                fix="Name a layer whose output begins with the batch axis",
            )
        return torch.zeros(len(target), device=self.seen.device)


def activations(
    problem: Problem, layer: str, rows: Tensor | None = None, owner: Tensor | None = None
) -> Tensor:
    """(n, *f) what the layer gives for input rows (n, …), by default the samples; forward rows, counted."""
    reader = _Reader(layer)
    asked = problem.with_(objective=reader)
    chunks = asked.at_inputs("forward") if rows is None or owner is None else asked.forward(rows, owner)
    seen = [reader.seen for _ in chunks]
    sizes = {tuple(one.shape[1:]) for one in seen}
    if len(sizes) > 1:
        raise InputError(
            Code.SHAPE,
            f"The layer {layer!r} gives outputs of different sizes for samples of different lengths",
            got=", ".join(map(str, sorted(sizes))),
            fix="Explain samples of one length in one call",
        )
    return torch.cat(seen)


def derived(problem: Problem, task: Task, purpose: str) -> Evaluator:
    """An evaluator of another task over the same model, with the request's cost, chunk and progress.

    Args:
        problem: the request.
        task: what to run.
        purpose: runs of one purpose share what the planner learns about chunks.
    """
    plans = _PLANS.setdefault(problem.task.origin, {}).setdefault(purpose, {})
    return problem.evaluator.derived(task, plans)


def at_layer(problem: Problem, layer: str, x: Tensor | None = None, *, channels: int = 1) -> Problem:
    """The same request with a layer's activation as what is explained.

    Args:
        problem: the request.
        layer: as in `AtLayer`.
        x: (b, *f) the activations, where they are known.
        channels: the axis on which the layer has its channels, which come first in what is explained.

    Raises:
        ModelError: LAYER for a name that the model does not have (the nearest is suggested) or never reaches.
    """
    layer = layer_name(problem.task.model, layer)
    if layer.partition("#")[2].startswith("-"):
        raise ModelError(
            Code.LAYER,
            "A layer to run on from is counted from its first call",
            got=repr(layer),
            fix="Write '#0', '#1' …",
        )
    features = activations(problem, layer) if x is None else x
    if not -features.ndim <= channels < features.ndim:
        raise SpecError(
            Code.BAD_PARAMETER,
            f"The layer {layer!r} has no axis {channels}",
            got=f"outputs of shape {tuple(features.shape)}",
            expected="the axis of its channels, counted with the batch",
        )
    features = features.movedim(channels, 1).contiguous() if x is None else features
    decision = problem.predicted().decision
    task = layer_task(problem.task, layer, tuple(features.shape[1:]), channels)
    return replace(
        problem,
        evaluator=derived(problem, task, f"at {layer}"),
        x=features,
        context=Context(beneath=(problem.x, problem.context)),
        decision=decision,
    )


def _outside(problem: Problem, base: Task) -> Problem:
    """The request about the model's inputs that one at a layer came from."""
    inputs, rest = below(problem.context)
    return replace(
        problem,
        evaluator=derived(problem, base, "at the input"),
        x=inputs,
        context=rest,
        decision=Decision(problem.target),
        warnings=[],
    )


def about(problem: Problem, inputs: Tensor, owner: Tensor, target: Tensor) -> Problem:
    """The same request about other inputs of the model, also where what is explained is a layer's activation.

    Args:
        problem: the request.
        inputs: (n, …) inputs of the model.
        owner: (n,) which of the samples each stands in for.
        target: (n, …) targets.
    """
    base = problem.task.beneath
    if base is None:
        return problem.with_(x=inputs, owner=owner, target=target)
    features = _at(problem, base, inputs, owner)
    asked = problem.with_(x=features, owner=owner, target=target)
    asked.context = Context(beneath=(inputs, below(asked.context)[1]))
    return asked


def _at(problem: Problem, base: Task, inputs: Tensor, owner: Tensor) -> Tensor:
    """(n, *f) the layer's activations, channels first, for other inputs of the model."""
    (part,) = problem.task.parts
    return activations(_outside(problem, base), str(part.layer), inputs, owner).movedim(part.channels or 1, 1)


def input_of(problem: Problem) -> tuple[Tensor, Context]:
    """The model's own explained input, and what else it takes."""
    return (problem.x, problem.context) if problem.task.beneath is None else below(problem.context)


@value
class AtLayer:
    """Any engine with a layer's activation in the place of the input.

    Args:
        engine: the method.
        layer: dotted name of a module; ``"name#1"`` is the second call of one that runs several times.
        channels: the axis on which the layer has its channels: -1 for one that gives (b, tokens, channels).
    """

    engine: Engine
    layer: str
    channels: int = 1

    @property
    def has_ends(self) -> bool:
        """Whether the method follows a path."""
        return getattr(self.engine, "has_ends", False)

    def run(self, problem: Problem) -> Result:
        """The method's rows, and one forward row per sample for the activation."""
        inner = at_layer(problem, self.layer, channels=self.channels)
        result = self.engine.run(inner)
        result.features = inner.x
        return result


@value
class AtInput:
    """The layer's activation at a reference of the model's input, as a reference of the layer.

    Args:
        baseline: reference of the input, a value or a name.
    """

    baseline: Baseline = resolved(converter=baselines.resolve, default="zero")

    @property
    def stochastic(self) -> bool:
        return self.baseline.stochastic

    def rows(self, problem: Any, owner: Tensor, draw: Tensor) -> Tensor:
        """(n, *f) activations; forward rows, counted."""
        # not typed: it reads the engines' own class, which is more than every baseline is promised
        base = problem.task.beneath
        if base is None:
            raise SpecError(
                Code.UNSUPPORTED,
                "A reference at the input belongs to a method at a layer",
                fix="Pass its baseline itself, or use at_layer",
            )
        outer = _outside(problem, base)
        return _at(problem, base, outer.reference(self.baseline, owner, draw), owner)

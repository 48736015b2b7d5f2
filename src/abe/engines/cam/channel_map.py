"""Class activation maps: a layer with places × channel weights × reduction × enlargement.

The map is up(ReLU Σ_k w_k A_k): A (n, c, …) the output of a layer at its places, w what a
`ChannelWeights` value makes of it. Everything runs through the planner, chunk by chunk; weights that
remove channels ask it for rows of their own.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from abe.engines.layers.grid import (
    LayerGrid,
    differentiate,
    extent_of,
    grid_of,
    layout_of,
)
from abe.engines.layers.locate import located
from abe.engines.runtime.problem import Problem
from abe.engines.runtime.shapes import (
    Upsample,
    over_channels,
    unit_range,
    upsampled,
)
from abe.engines.runtime.work import Call, Chunk
from abe.errors import Code, ModelError
from abe.instrument.capture import capturing
from abe.instrument.inspection import path_name
from abe.instrument.modes import Instrument, Seen
from abe.instrument.operations import kind_of, tensors
from abe.spec import value
from abe.types import Engine, Result


@dataclass(frozen=True)
class View:
    """What channel weights are made of: one chunk of samples at one layer.

    Attributes:
        problem: the request, for weights that need rows of their own.
        layer: name of the layer.
        grid: how its output lies over the input.
        owner: (n,) the sample of each row.
        score: (n,) the explained score.
        activation: (n, c, …) the layer's output at its places.
        gradient: (n, c, …) of the score by it; empty for weights that need none.
    """

    problem: Problem
    layer: str
    grid: LayerGrid
    owner: Tensor
    score: Tensor
    activation: Tensor
    gradient: Tensor

    @property
    def channels(self) -> int:
        """How many channels the layer has."""
        return self.activation.shape[1]

    def combine(self, weights: Tensor) -> Float[Tensor, "n *size"]:
        """Σ_k w_k A_k with weights (n, c), or (n, c, …) that differ from place to place."""
        if weights.ndim == 2:
            return torch.einsum("nk,nk...->n...", weights, self.activation)
        return (weights * self.activation).sum(1)


@runtime_checkable
class ChannelWeights(Protocol):
    """A value that makes a map of a layer's output."""

    needs_gradient: ClassVar[bool]
    """Whether `View.gradient` is read; without it no backward pass is run. A value may also say
    ``needs_linear_head = True``: anything but linear operations after the layer is then refused."""

    def __call__(self, view: View) -> Tensor:
        """(n, …) the map before reduction, usually ``view.combine(weights)``."""
        ...


@value
class ChannelMap:
    """A = up(ReLU Σ_k w_k A_k), shared out equally over the input's channels.

    Args:
        weights: w.
        layer: a module's name (``"layer4"``, ``"relu#2"``); None takes the last layer with places on
            which the score depends.
        relu: keep what supports the decision only.
        normalise: scale every map to [0, 1] by its own smallest and largest value.
        upsample: ``"bilinear"`` between the centres of places (align_corners=False), or ``"nearest"``.
    """

    weights: ChannelWeights
    layer: str | None = None
    relu: bool = True
    normalise: bool = False
    upsample: Upsample = "bilinear"

    def run(self, problem: Problem) -> Result:
        """One forward row per sample, and a backward row from the output to the layer where needed."""
        heat, warnings = self.heat(problem)
        return Result(over_channels(heat, problem.x), warnings=warnings)

    def heat(self, problem: Problem) -> tuple[Tensor, list[str]]:
        """(b, …) the map without channels, and notes."""
        job = _Run(self, problem)
        kind = "inner" if self.weights.needs_gradient else "forward"
        for chunk in problem.at_inputs(kind, around=job.around, purpose=job.layer, engine=self):
            job.keep(chunk)
        return job.out, job.warnings


class _Run:
    """One request: captures chunk by chunk, and the maps they give."""

    def __init__(self, spec: ChannelMap, problem: Problem) -> None:
        self.spec, self.problem = spec, problem
        self.extent = extent_of(problem)
        self.layer, self.warnings = located(problem, spec.layer)
        self.out = problem.x.new_zeros(len(problem.x), *self.extent)
        self._captured: tuple[LayerGrid, Tensor, Tensor] | None = None

    def around(self, call: Call) -> tuple[Any, Tensor]:
        """The chunk's forward with the layer's output, and its gradient where the weights read it."""
        model, weights = self.problem.task.model, self.spec.weights
        with ExitStack() as stack:
            captured = stack.enter_context(capturing(model, (self.layer,)))
            if getattr(weights, "needs_linear_head", False):
                stack.enter_context(Instrument(model, observe=_Linear(captured)))
            outputs = call.forward(call.x)
        activation = captured[self.layer]
        grid = self._places(activation, len(call.x))
        scores = call.score(outputs)
        places = grid.places(activation.detach())
        gradient = places.new_empty(0)
        if weights.needs_gradient:
            gradient = grid.places(differentiate(scores, [activation])[0])
        self._captured = grid, places, gradient
        return outputs, scores

    def keep(self, chunk: Chunk) -> None:
        """Turn what was captured into maps."""
        if self._captured is None:
            return
        grid, activation, gradient = self._captured
        view = View(self.problem, self.layer, grid, chunk.owner, chunk.scores, activation, gradient)
        self._captured = None
        maps = self.spec.weights(view)
        if self.spec.relu:
            maps = maps.clamp(min=0)
        maps = upsampled(maps, self.extent, self.spec.upsample)
        self.out[chunk.rows] = (unit_range(maps) if self.spec.normalise else maps).to(self.out)

    def _places(self, activation: Tensor, n: int) -> LayerGrid:
        layout = layout_of(self.problem.task, self.layer)
        grid = grid_of(activation.shape, self.extent, layout) if len(activation) == n else None
        if grid is not None:
            return grid
        raise ModelError(
            Code.NO_SPATIAL_LAYER,
            f"The output of layer {self.layer!r} has no places",
            got=f"shape {tuple(activation.shape)} for {n} inputs of {' × '.join(map(str, self.extent))}",
            expected="(b, c, h, w), (b, h, w, c) or (b, tokens, c) with the input's aspect",
            fix="Name another layer; without layer= the last suitable one is taken",
        )


class _Linear:
    """Watches what the model does after the layer and refuses anything but linear operations."""

    def __init__(self, captured: dict[str, Tensor]) -> None:
        self._captured = captured

    def __call__(self, seen: Seen, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        depends = tuple(t.requires_grad for t in tensors((*args, *kwargs.values())))
        if not self._captured or not any(depends) or kind_of(seen.name, depends) in ("linear", "plumbing"):
            return
        where = path_name(seen.module or "")
        raise no_linear_head(f"{seen.name} in {where} after the layer")


def no_linear_head(got: str) -> ModelError:
    """The error of CAM on a model with another head."""
    return ModelError(
        Code.NO_LINEAR_HEAD,
        "CAM needs average pooling and one linear layer after the layer it looks at",
        got=got,
        fix="Use grad_cam, which equals CAM there and works elsewhere, or name the layer before the pooling",
    )


@value
class ThroughMap:
    """The map of another method times a channel map, place by place.

    Args:
        engine: a method that explains every feature.
        gate: the channel map; not shared out over channels here.
    """

    engine: Engine
    gate: ChannelMap

    def run(self, problem: Problem) -> Result:
        """Both costs together."""
        heat, warnings = self.gate.heat(problem)
        fine = self.engine.run(problem)
        return Result(fine.attribution * heat[:, None], warnings=[*fine.warnings, *warnings])

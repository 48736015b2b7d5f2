"""Robustness: how much the map moves when the input moves a little. These judge a method, not one map."""

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from abe.checks import Count, Positive
from abe.engines.runtime.problem import Problem
from abe.errors import Code, SpecError
from abe.instrument.capture import layer_name
from abe.metrics.evaluation.reexplain import again, layers
from abe.metrics.evaluation.rows import remembered
from abe.registry import metrics
from abe.sizes import Limits, OfRange, in_units, lowest, span
from abe.spec import value
from abe.types import Card, Passes

Ratio = Literal["sensitivity", "lipschitz", "continuity", "input", "output", "representation"]
ALIKE = ("input", "output", "representation")
"""Ratios for which only neighbours that are predicted alike count."""


NEIGHBOURS = Passes(
    forward="adaptive",
    backward="adaptive",
    words="b forward rows and the rows of the method, samples + 1 times; metrics share neighbours.",
)
SMALL = 1e-6
"""Stands for zero where moves are divided, as in the paper."""


@dataclass(frozen=True)
class _Neighbours:
    """(b, samples) sizes of the moves of map, input and output."""

    relative: Tensor  # |Δe| / |e|
    moved: Tensor  # |Δe|
    moved_l1: Tensor  # |Δe|₁
    by: Tensor  # |Δx|
    elementwise: Tensor  # |Δe / e|
    by_elementwise: Tensor  # |Δx / x|, x counted from the lowest valid input
    output: Tensor  # |Δh|
    representation: Tensor  # |Δr / r|
    same: Tensor  # whether the prediction stayed


@value
class Stability:
    """A ratio of moves over random neighbours of each sample.

    Args:
        ratio: which.
        summary: its maximum or mean over neighbours.
        samples: neighbours per sample.
        radius: largest change of an element; drawn uniformly.
        layer: whose output is the representation; only read by that ratio.
    """

    ratio: Ratio
    summary: Literal["max", "mean"]
    samples: Count
    radius: Positive
    layer: str | None = None
    processing: ClassVar[str] = "not read: the method explains again, its map as it is"
    missing: ClassVar[str] = "no neighbour is predicted alike"

    def measure(self, problem: Problem, explanation: Any) -> Tensor:
        layer = self._layer(problem)
        key = ("neighbours", self.samples, self.radius, layer)
        near = remembered(problem, explanation, key, lambda: self._visit(problem, explanation, layer))
        ratio = self._ratios(near)
        if self.ratio in ALIKE:
            ratio = torch.where(near.same, ratio, -torch.inf)
            best = ratio.amax(1)
            return torch.where(best >= 0, best, torch.nan)
        return ratio.amax(1) if self.summary == "max" else ratio.mean(1)

    def _layer(self, problem: Problem) -> str | None:
        """The representation's layer; by default the last one with weights before the output."""
        if self.ratio != "representation":
            return self.layer
        if self.layer is not None:
            return layer_name(problem.task.model, self.layer)
        names = layers(problem.task.model)
        if len(names) < 2:
            raise SpecError(
                Code.UNSUPPORTED, "The model has no inner layer with weights", fix="Name one with layer="
            )
        return names[-2]

    def _ratios(self, near: _Neighbours) -> Tensor:
        if self.ratio == "sensitivity":
            return near.relative
        if self.ratio == "lipschitz":
            return near.moved / near.by
        if self.ratio == "continuity":
            return near.moved_l1 / near.by
        below = {"input": near.by_elementwise, "output": near.output}.get(self.ratio, near.representation)
        return near.elementwise / below.clamp_min(SMALL)

    def _visit(self, problem: Problem, explanation: Any, layer: str | None) -> _Neighbours:
        x, everyone = problem.x, problem.everyone
        first = _look(problem, explanation, layer)
        found: list[_Neighbours] = []
        for k in range(self.samples):
            keys = problem.keys(everyone, torch.full_like(everyone, k))
            u = problem.draws.uniform("stability.neighbour", keys, x.shape[1:]).to(x)
            step = in_units(self.radius, problem.limits) * (2 * u - 1)
            if problem.fixed is not None:
                step = step.masked_fill(problem.fixed.to(step.device), 0.0)
            other = _look(problem.with_(x=x + step), explanation, layer)
            found.append(_moves(x, step, first, other, problem.limits))
        columns = ([getattr(one, f.name) for one in found] for f in fields(_Neighbours))
        return _Neighbours(*(torch.stack(column, 1) for column in columns))


class _Seen(NamedTuple):
    """Map, outputs, predicted classes and inner representation of the samples."""

    maps: Tensor
    outputs: Tensor
    classes: Tensor
    inner: Tensor


def _moves(x: Tensor, step: Tensor, first: _Seen, other: _Seen, bounds: Limits) -> _Neighbours:
    """(b,) sizes of what moved from a sample to its neighbour."""
    moved, size = other.maps - first.maps, _norm(first.maps)
    wide, place = span(bounds), (x - lowest(bounds)) / span(bounds)
    return _Neighbours(
        relative=_norm(moved) / torch.where(size > 0, size, torch.ones_like(size)),
        moved=_norm(moved),
        moved_l1=moved.double().abs().flatten(1).sum(1),
        by=_norm(step),
        elementwise=_norm(moved / _safe(first.maps)),
        by_elementwise=_norm(step / wide / _safe(place)),
        output=_norm(other.outputs - first.outputs),
        representation=_norm((other.inner - first.inner) / _safe(first.inner)),
        same=other.classes == first.classes,
    )


@dataclass
class _Tap:
    """Reads a layer while outputs are computed; the last chunk's activation is kept."""

    layers: tuple[str, ...]
    last: Tensor | None = None

    def __call__(self, outputs: Any, target: Tensor) -> Tensor:
        found: Tensor = outputs.layers[self.layers[0]].flatten(1)
        self.last = found.detach()
        return found.sum(1)


def _look(problem: Problem, explanation: Any, layer: str | None) -> _Seen:
    """Map, outputs and representation of a problem's samples; one forward row each beside the map."""
    outputs: list[Tensor] = []
    inner: list[Tensor] = []
    tap = _Tap(() if layer is None else (layer,))

    asked = problem if layer is None else problem.with_(objective=tap)
    for chunk in asked.forward(problem.x, problem.everyone):
        outputs.append(chunk.outputs)
        inner.append(problem.task.columns(chunk.outputs) if tap.last is None else tap.last)
    said, task = torch.cat(outputs), problem.task
    # outputs of several axes, such as a forecast, say no class that could change
    classes = task.predicted(said) if said.ndim == 2 else torch.zeros(len(said), dtype=torch.long)
    inner = [one.flatten(1) for one in inner]
    most = max(one.shape[1] for one in inner)  # samples without positions at the end have none there
    wide = [torch.nn.functional.pad(one, (0, most - one.shape[1])) for one in inner]
    return _Seen(again(problem, explanation), task.columns(said), classes, torch.cat(wide))


def _safe(x: Tensor) -> Tensor:
    """What is divided by, element by element: zeros become small."""
    return torch.where(x == 0, torch.full_like(x, SMALL), x)


def _norm(x: Tensor) -> Tensor:
    return x.double().flatten(1).square().sum(1).sqrt()


@metrics.register(
    Card(
        name="max_sensitivity",
        title="MAX SENS",
        source="yeh2019, Definition 3.1",
        direction="lower",
        range="[0, inf)",
        passes=NEIGHBOURS,
        formula="max over u of ||e(x + u) - e(x)|| / ||e(x)||, |u_i| <= radius",
        needs=("method",),
        pitfalls=("A method that ignores the input is perfectly stable.",),
    ),
    aliases=("sensitivity_max",),
)
def max_sensitivity(*, samples: int = 10, radius: float = OfRange(0.02)) -> Stability:
    """Largest relative change of the map among small random changes of the input."""
    return Stability(ratio="sensitivity", summary="max", samples=samples, radius=radius)


@metrics.register(
    Card(
        name="average_sensitivity",
        title="AVG SENS",
        source="yeh2019",
        direction="lower",
        range="[0, inf)",
        passes=NEIGHBOURS,
        formula="mean over u of ||e(x + u) - e(x)|| / ||e(x)||, |u_i| <= radius",
        needs=("method",),
        pitfalls=("A method that ignores the input is perfectly stable.",),
    )
)
def average_sensitivity(*, samples: int = 10, radius: float = OfRange(0.02)) -> Stability:
    """Mean relative change of the map among small random changes of the input."""
    return Stability(ratio="sensitivity", summary="mean", samples=samples, radius=radius)


@metrics.register(
    Card(
        name="local_lipschitz",
        title="LIPSCHITZ",
        source="alvarezmelis2018",
        direction="lower",
        range="[0, inf)",
        passes=NEIGHBOURS,
        formula="max over u of ||e(x + u) - e(x)|| / ||u||",
        needs=("method",),
        pitfalls=("In units of the map: compare one method with itself, or scale the maps first.",),
    )
)
def local_lipschitz(*, samples: int = 10, radius: float = OfRange(0.02)) -> Stability:
    """Largest change of the map per change of the input among neighbours."""
    return Stability(ratio="lipschitz", summary="max", samples=samples, radius=radius)


@metrics.register(
    Card(
        name="continuity",
        title="CONTIN",
        source="montavon2018",
        direction="lower",
        range="[0, inf)",
        passes=NEIGHBOURS,
        formula="max over u of ||e(x + u) - e(x)||_1 / ||u||_2",
        needs=("method",),
        pitfalls=("In units of the map: compare one method with itself, or scale the maps first.",),
    )
)
def continuity(*, samples: int = 10, radius: float = OfRange(0.02)) -> Stability:
    """Largest L1 change of the map per change of the input among neighbours."""
    return Stability(ratio="continuity", summary="max", samples=samples, radius=radius)


@metrics.register(
    Card(
        name="relative_input_stability",
        title="RIS",
        source="agarwal2022",
        direction="lower",
        range="[0, inf), or NaN where every neighbour is predicted otherwise",
        passes=NEIGHBOURS,
        formula="max over x' predicted alike of ||(e - e') / e|| / max(||(x - x') / x||, 1e-6)",
        needs=("method",),
        pitfalls=("Attributions near zero dominate the elementwise ratio.",),
    ),
    aliases=("ris",),
)
def relative_input_stability(*, samples: int = 10, radius: float = OfRange(0.02)) -> Stability:
    """Largest relative change of the map over the relative change of the input."""
    return Stability(ratio="input", summary="max", samples=samples, radius=radius)


@metrics.register(
    Card(
        name="relative_output_stability",
        title="ROS",
        source="agarwal2022",
        direction="lower",
        range="[0, inf), or NaN where every neighbour is predicted otherwise",
        passes=NEIGHBOURS,
        formula="max over x' predicted alike of ||(e - e') / e|| / max(||h(x) - h(x')||, 1e-6)",
        needs=("method",),
        pitfalls=("Attributions near zero dominate the elementwise ratio.",),
    ),
    aliases=("ros",),
)
def relative_output_stability(*, samples: int = 10, radius: float = OfRange(0.02)) -> Stability:
    """Largest relative change of the map over the change of the outputs."""
    return Stability(ratio="output", summary="max", samples=samples, radius=radius)


@metrics.register(
    Card(
        name="relative_representation_stability",
        title="RRS",
        source="agarwal2022",
        direction="lower",
        range="[0, inf), or NaN where every neighbour is predicted otherwise",
        formula="max over x' predicted alike of ||(e - e') / e|| / max(||(r - r') / r||, 1e-6)",
        needs=("method",),
        pitfalls=("Attributions and activations near zero dominate the elementwise ratios.",),
        expected_failures={
            "batch": "sometimes, within 1e-4: activations near zero divide their own rounding, which depends "
            "on the batch"
        },
    ),
    aliases=("rrs",),
)
def relative_representation_stability(
    *, samples: int = 10, radius: float = OfRange(0.02), layer: str | None = None
) -> Stability:
    """Largest relative change of the map over the relative change of an inner representation.

    Args:
        layer: name of the layer; the last one with weights before the output by default.

    Cost: b forward rows and the rows of the method, samples + 1 times.
    """
    return Stability(ratio="representation", summary="max", samples=samples, radius=radius, layer=layer)

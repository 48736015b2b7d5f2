"""Robustness: how much the map moves when the input moves a little. These judge a method, not one map."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from abe.engines.batching import Chunk
from abe.errors import Code, SpecError
from abe.metrics.shared import again, remembered
from abe.registry import metrics
from abe.spec import value
from abe.types import Card

Ratio = Literal["sensitivity", "lipschitz", "continuity", "input", "output"]


@dataclass(frozen=True)
class _Neighbours:
    """(b, samples) sizes of the moves of map, input and output."""

    relative: Tensor  # |Δe| / |e|
    moved: Tensor  # |Δe|
    moved_l1: Tensor  # |Δe|₁
    by: Tensor  # |Δx|
    elementwise: Tensor  # |Δe / e|
    by_elementwise: Tensor  # |Δx / x|
    output: Tensor  # |Δh|
    same: Tensor  # whether the prediction stayed


@value
class Stability:
    """A ratio of moves over random neighbours of each sample.

    Args:
        ratio: which.
        summary: its maximum or mean over neighbours.
        samples: neighbours per sample.
        radius: largest change of an element, in input units; drawn uniformly.
    """

    ratio: Ratio
    summary: Literal["max", "mean"]
    samples: int
    radius: float

    def __post_init__(self) -> None:
        if self.samples < 1 or self.radius <= 0:
            raise SpecError(
                Code.BAD_PARAMETER,
                "Stability needs at least one neighbour and a positive radius",
                got=f"samples {self.samples}, radius {self.radius}",
            )

    def measure(self, problem: Any, explanation: Any) -> Tensor:
        key = ("neighbours", self.samples, self.radius)
        near = remembered(problem, explanation, key, lambda: self._visit(problem, explanation))
        ratio = self._ratios(near)
        if self.ratio in ("input", "output"):  # neighbours that are predicted otherwise do not count
            ratio = torch.where(near.same, ratio, -torch.inf)
            best = ratio.amax(1)
            return torch.where(best >= 0, best, torch.nan)
        return ratio.amax(1) if self.summary == "max" else ratio.mean(1)

    def _ratios(self, near: _Neighbours) -> Tensor:
        if self.ratio == "sensitivity":
            return near.relative
        if self.ratio == "lipschitz":
            return near.moved / near.by
        if self.ratio == "continuity":
            return near.moved_l1 / near.by
        below = near.by_elementwise if self.ratio == "input" else near.output
        return near.elementwise / below.clamp_min(1e-6)

    def _visit(self, problem: Any, explanation: Any) -> _Neighbours:
        x, everyone = problem.x, problem.everyone
        first, outputs = _look(problem, explanation)
        found: list[list[Tensor]] = []
        for k in range(self.samples):
            keys = problem.keys(everyone, torch.full_like(everyone, k))
            u = problem.draws.uniform("stability.neighbour", keys, x.shape[1:]).to(x)
            step = self.radius * (2 * u - 1)
            maps, other = _look(problem.with_(x=x + step), explanation)
            moved, safe = maps - first, torch.where(first == 0, torch.full_like(first, 1e-6), first)
            base = torch.where(x == 0, torch.full_like(x, 1e-6), x)
            size = _norm(first)
            found.append(
                [
                    _norm(moved) / torch.where(size > 0, size, torch.ones_like(size)),
                    _norm(moved),
                    moved.double().abs().flatten(1).sum(1),
                    _norm(step),
                    _norm(moved / safe),
                    _norm(step / base),
                    _norm(other - outputs),
                    other.argmax(1) == outputs.argmax(1),
                ]
            )
        return _Neighbours(*(torch.stack(column, 1) for column in zip(*found, strict=True)))


def _look(problem: Any, explanation: Any) -> tuple[Tensor, Tensor]:
    """Map and outputs of a problem's samples."""
    kept: list[Tensor] = []

    def keep(chunk: Chunk) -> None:
        kept.append(chunk.outputs)

    problem.forward(len(problem.x), problem.x.__getitem__, problem.everyone, keep)
    return again(problem, explanation), torch.cat(kept)


def _norm(x: Tensor) -> Tensor:
    return x.double().flatten(1).square().sum(1).sqrt()


_JUDGES = {"ranking": "sometimes: judges the method by explaining again, not the given map"}


@metrics.register(
    Card(
        name="max_sensitivity",
        title="MAX SENS",
        summary="Largest relative change of the map among small random changes of the input.",
        source="yeh2019, Definition 3.1",
        direction="lower",
        range="[0, inf)",
        formula="max over u of ||e(x + u) - e(x)|| / ||e(x)||, |u_i| <= radius",
        needs=("method",),
        pitfalls=("A method that ignores the input is perfectly stable.",),
        expected_failures=_JUDGES,
    ),
    aliases=("sensitivity_max",),
)
def max_sensitivity(*, samples: int = 10, radius: float = 0.02) -> Stability:
    """Largest relative change of the map among neighbours; lower is better.

    Args:
        samples: neighbours per sample.
        radius: largest change of an element, in input units.
    """
    return Stability(ratio="sensitivity", summary="max", samples=samples, radius=radius)


@metrics.register(
    Card(
        name="average_sensitivity",
        title="AVG SENS",
        summary="Mean relative change of the map among small random changes of the input.",
        source="yeh2019",
        direction="lower",
        range="[0, inf)",
        formula="mean over u of ||e(x + u) - e(x)|| / ||e(x)||, |u_i| <= radius",
        needs=("method",),
        pitfalls=("A method that ignores the input is perfectly stable.",),
        expected_failures=_JUDGES,
    )
)
def average_sensitivity(*, samples: int = 10, radius: float = 0.02) -> Stability:
    """Mean relative change of the map among neighbours; lower is better.

    Args:
        samples: neighbours per sample.
        radius: largest change of an element, in input units.
    """
    return Stability(ratio="sensitivity", summary="mean", samples=samples, radius=radius)


@metrics.register(
    Card(
        name="local_lipschitz",
        title="LIPSCHITZ",
        summary="Largest change of the map per change of the input among neighbours.",
        source="alvarezmelis2018",
        direction="lower",
        range="[0, inf)",
        formula="max over u of ||e(x + u) - e(x)|| / ||u||",
        needs=("method",),
        pitfalls=("In units of the map: compare one method with itself, or scale the maps first.",),
        expected_failures=_JUDGES,
    )
)
def local_lipschitz(*, samples: int = 10, radius: float = 0.02) -> Stability:
    """Estimate of the map's local Lipschitz constant; lower is better.

    Args:
        samples: neighbours per sample.
        radius: largest change of an element, in input units.
    """
    return Stability(ratio="lipschitz", summary="max", samples=samples, radius=radius)


@metrics.register(
    Card(
        name="continuity",
        title="CONTIN",
        summary="Largest L1 change of the map per change of the input among neighbours.",
        source="montavon2018",
        direction="lower",
        range="[0, inf)",
        formula="max over u of ||e(x + u) - e(x)||_1 / ||u||_2",
        needs=("method",),
        pitfalls=("In units of the map: compare one method with itself, or scale the maps first.",),
        expected_failures=_JUDGES,
    )
)
def continuity(*, samples: int = 10, radius: float = 0.02) -> Stability:
    """Largest L1 change of the map over the L2 change of the input; lower is better.

    Args:
        samples: neighbours per sample.
        radius: largest change of an element, in input units.
    """
    return Stability(ratio="continuity", summary="max", samples=samples, radius=radius)


@metrics.register(
    Card(
        name="relative_input_stability",
        title="RIS",
        summary="Largest relative change of the map over the relative change of the input.",
        source="agarwal2022",
        direction="lower",
        range="[0, inf), or NaN where every neighbour is predicted otherwise",
        formula="max over x' predicted alike of ||(e - e') / e|| / max(||(x - x') / x||, 1e-6)",
        needs=("method",),
        pitfalls=("Attributions near zero dominate the elementwise ratio.",),
        expected_failures=_JUDGES,
    ),
    aliases=("ris",),
)
def relative_input_stability(*, samples: int = 10, radius: float = 0.02) -> Stability:
    """Relative change of the map over that of the input; lower is better.

    Args:
        samples: neighbours per sample.
        radius: largest change of an element, in input units.
    """
    return Stability(ratio="input", summary="max", samples=samples, radius=radius)


@metrics.register(
    Card(
        name="relative_output_stability",
        title="ROS",
        summary="Largest relative change of the map over the change of the outputs.",
        source="agarwal2022",
        direction="lower",
        range="[0, inf), or NaN where every neighbour is predicted otherwise",
        formula="max over x' predicted alike of ||(e - e') / e|| / max(||h(x) - h(x')||, 1e-6)",
        needs=("method",),
        pitfalls=("Attributions near zero dominate the elementwise ratio.",),
        expected_failures=_JUDGES,
    ),
    aliases=("ros",),
)
def relative_output_stability(*, samples: int = 10, radius: float = 0.02) -> Stability:
    """Relative change of the map over the change of the logits; lower is better.

    Args:
        samples: neighbours per sample.
        radius: largest change of an element, in input units.
    """
    return Stability(ratio="output", summary="max", samples=samples, radius=radius)

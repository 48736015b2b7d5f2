"""Wrappers that turn methods into methods: smoothing, ensembles, post-processing."""

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Literal

import torch
from torch import Tensor

from abe.checks import Count, NotNegative
from abe.engines.runtime.moments import Moments
from abe.engines.runtime.problem import Problem
from abe.engines.runtime.shapes import rows_at_once
from abe.errors import Code, SpecError
from abe.sizes import ranges
from abe.spec import value
from abe.types import Engine, Result

Reduce = Annotated[Literal["mean", "square", "variance"], "reduction"]
Step = Annotated[Literal["absolute", "positive", "negative", "unit_max", "unit_sum"], "step"]


@value
class Smooth:
    """Run a method on n noisy copies of every input and reduce the maps.

    Args:
        engine: the method to smooth.
        sigma: standard deviation of the Gaussian noise.
        samples: copies per input.
        reduce: ``"mean"`` (SmoothGrad), ``"square"`` (SmoothGrad²), ``"variance"`` (VarGrad, biased).
        relative: sigma counts in the task's range (the sample's own without bounds), else in input units.
    """

    engine: Engine
    sigma: NotNegative = 0.15
    samples: Count = 50
    reduce: Reduce = "mean"
    relative: bool = True

    def run(self, problem: Problem) -> Result:
        """Noisy copies are made block by block, so memory does not grow with their number."""
        k = self.samples
        owner = problem.everyone.repeat_interleave(k)
        draw = torch.arange(k, device=owner.device).repeat(len(problem.x))
        scale = self._scale(problem)
        moments, fourth = Moments(problem.x), Moments(problem.x)
        warnings: list[str] = []
        for rows in torch.arange(len(owner), device=owner.device).split(rows_at_once(problem.x)):
            who, number = owner[rows], draw[rows]
            noise = problem.draws.normal("smooth.noise", problem.keys(who, number), problem.x.shape[1:])
            noisy = problem.x[who] + noise.to(problem.x) * scale[who]
            maps = _of_inputs(self.engine.run(problem.with_(x=noisy, owner=who, draw=number)))
            moments.add(who, maps.attribution)
            if self.reduce == "square":
                fourth.add(who, maps.attribution.square())
            warnings += maps.warnings
        value_, error = self._reduce(moments, fourth)
        return Result(value_, standard_error=error, warnings=warnings)

    def _scale(self, problem: Problem) -> Tensor:
        ones = [1] * (problem.x.ndim - 1)
        if not self.relative:
            return problem.x.new_full((len(problem.x), *ones), self.sigma)
        if problem.limits is not None:
            wide = ranges(problem.limits)
            return (self.sigma * wide).expand(len(problem.x), *wide.shape[1:] or ones)
        flat = problem.x.flatten(1)
        return (self.sigma * (flat.amax(1) - flat.amin(1))).view(-1, *ones)

    def _reduce(self, moments: Moments, fourth: Moments) -> tuple[Tensor, Tensor]:
        """The reduced map and its standard error (of a variance: for normal maps)."""
        n = self.samples
        if self.reduce == "mean":
            return moments.mean(n), moments.mean_error(n)
        if self.reduce == "square":
            return moments.square(n), fourth.mean_error(n)
        variance = moments.variance(n)
        return variance, variance * (2 / max(n - 1, 1)) ** 0.5


@value
class Ensemble:
    """Mean of several methods' maps, each scaled to unit sum of absolute values first.

    Args:
        engines: the methods.
    """

    engines: tuple[Engine, ...]

    def run(self, problem: Problem) -> Result:
        """Every method once; their scales are removed, so no completeness is claimed."""
        total, warnings = torch.zeros_like(problem.x), []
        for engine in self.engines:
            result = _of_inputs(engine.run(problem))
            total += _STEPS["unit_sum"](result.attribution) / len(self.engines)
            warnings += result.warnings
        return Result(total, warnings=warnings)


@value
class Postprocess:
    """A method followed by declared changes of its map.

    Args:
        engine: the method.
        steps: any of ``"absolute"``, ``"positive"``, ``"negative"``, ``"unit_max"``, ``"unit_sum"``,
            in order.
    """

    engine: Engine
    steps: tuple[Step, ...]

    @property
    def has_ends(self) -> bool:
        """Whether the method follows a path."""
        return getattr(self.engine, "has_ends", False)

    def run(self, problem: Problem) -> Result:
        """The changed map; no completeness is claimed for it."""
        result = self.engine.run(problem)
        for step in self.steps:
            result.attribution = _STEPS[step](result.attribution)
        return replace(result, delta=None, standard_error=None)


def _of_inputs(result: Result) -> Result:
    """Refuse a map of a layer where maps of inputs are put together."""
    if result.features is not None:
        raise SpecError(
            Code.UNSUPPORTED,
            "A map of a layer cannot be put together with maps of inputs",
            fix="Make at_layer the outermost wrapper",
        )
    return result


def _unit(reduce: Callable[[Tensor], Tensor], a: Tensor) -> Tensor:
    size = reduce(a.abs().flatten(1)).view(-1, *[1] * (a.ndim - 1))
    return torch.where(size > 0, a / torch.where(size > 0, size, 1), 0)


def _unit_max(a: Tensor) -> Tensor:
    return _unit(lambda flat: flat.amax(1), a)


def _unit_sum(a: Tensor) -> Tensor:
    return _unit(lambda flat: flat.sum(1), a)


def _positive(a: Tensor) -> Tensor:
    return a.clamp_min(0)


def _negative(a: Tensor) -> Tensor:
    return (-a).clamp_min(0)


_STEPS: dict[str, Callable[[Tensor], Tensor]] = {
    "absolute": torch.abs,
    "positive": _positive,
    "negative": _negative,
    "unit_max": _unit_max,
    "unit_sum": _unit_sum,
}

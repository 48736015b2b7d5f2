"""Continuous neighbours of C-LIME."""

import torch
from torch import Tensor

from abe.checks import Count, Positive
from abe.engines.removal.game import Stream, stacked, too_few
from abe.engines.removal.least_squares import fit
from abe.engines.removal.lime import ROWS
from abe.engines.removal.segments import Spread, segments_of
from abe.engines.runtime.problem import Problem
from abe.registry import units
from abe.spec import resolved, value
from abe.types import Result
from abe.units import Unit, settled


@value
class ContinuousNeighbours:
    """C-LIME: a least-squares fit to the score at x + σ Σ_u ε_u 1_u, ε normal, without weights.

    Args:
        units: what moves together: a unit or its name.
        sigma: standard deviation as a share of the task's range (of 1 without bounds).
        evaluations: rows per sample.
        spread: whether the positions of a unit share its slope or each carries all of it.
    """

    units: Unit = resolved(converter=units.resolve, default="grid")
    sigma: Positive = 0.15
    evaluations: Count = ROWS
    spread: Spread = "share"

    def run(self, problem: Problem) -> Result:
        """Evaluate the neighbours, and fit every sample's."""
        x = problem.x
        segments = segments_of(settled(self.units, problem), x)
        n, most = self.evaluations, segments.most
        if n < most + 2:
            raise too_few(most + 2, n, "C-LIME", units=most)
        noise = x.new_zeros((len(x), n, most))
        for sample, u in enumerate(segments.counts):
            stream = Stream(problem, sample, "surrogate.neighbours")
            noise[sample, :, :u] = stream.normal((n, u)).to(x)
        owner = problem.everyone.repeat_interleave(n)
        scale = self._scale(problem)

        def make(rows: Tensor) -> Tensor:
            who = owner[rows]
            labels = segments.labels[who]
            step = noise.flatten(0, 1)[rows].gather(1, labels.flatten(1).clamp_min(0)).view(labels.shape)
            return x[who] + torch.where(labels < 0, 0.0, step) * scale

        scores = problem.scores(make, owner).double().view(len(x), n)
        fits = [
            fit(own[:, :u].double(), y, torch.ones_like(y), 0.0)
            for own, y, u in zip(noise, scores, segments.counts, strict=True)
        ]
        each = float(scale.max()) if scale.numel() == 1 else scale
        maps = [segments.map([f.slope for f in fits], x, self.spread) / each]
        maps.append(segments.map([f.error for f in fits], x, self.spread) / each)
        adheres = stacked([f.adherence.reshape(1) for f in fits])
        return Result(maps[0], standard_error=maps[1], diagnostics={"adherence": adheres})

    def _scale(self, problem: Problem) -> Tensor:
        """(1, c or 1, …) one standard deviation in input units."""
        if problem.bounds is None:
            return problem.x.new_full([1] * problem.x.ndim, self.sigma)
        low, high = problem.bounds
        return (self.sigma * (high - low)).reshape(1, *(high - low).shape[-(problem.x.ndim - 1) :])

"""One gradient at the input, and its expectation over references (Expected Gradients)."""

from typing import Annotated, Literal

import torch
from torch import Tensor

from abe.checks import Count
from abe.engines.runtime.moments import Moments
from abe.engines.runtime.problem import Problem
from abe.engines.runtime.shapes import along, joined
from abe.objectives import Loss
from abe.spec import value
from abe.types import Baseline, Result


@value
class GradientAt:
    """A = ∇s(x), optionally times the input, in absolute value, or of the loss.

    Args:
        times_input: multiply by x.
        absolute: take absolute values.
        negated_loss: published form: x ⊙ ∇(cross-entropy), the sign reversed.
        claims_change: report s(x) − s(0) as what the map should sum to.
    """

    times_input: bool = False
    absolute: bool = False
    negated_loss: bool = False
    claims_change: bool = False

    def run(self, problem: Problem) -> Result:
        """One forward and one backward row per sample."""
        asked = problem.with_(objective=Loss()) if self.negated_loss else problem
        out = joined([chunk.gradients for chunk in asked.at_inputs("gradient")])
        if self.times_input:
            out = out * problem.x
        if self.negated_loss:
            out = -out
        return Result(out.abs() if self.absolute else out, self._delta(problem))

    def _delta(self, problem: Problem) -> Tensor | None:
        if not self.claims_change:
            return None
        return problem.score - problem.scores(torch.zeros_like(problem.x), problem.everyone)


@value
class Expectation:
    """A = E over references x′ and α of (x − x′) ⊙ ∇s(x′ + α (x − x′)).

    Args:
        baseline: distribution of references.
        samples: draws per input.
        alpha: ``"stratified"`` draws one α in each of ``samples`` equal intervals, ``"uniform"``
            draws them independently.
    """

    baseline: Baseline
    samples: Count = 50
    alpha: Annotated[Literal["stratified", "uniform"], "way to draw α"] = "stratified"

    def run(self, problem: Problem) -> Result:
        """One gradient and one reference per draw; standard errors from the spread of the draws."""
        k = self.samples
        owner = problem.everyone.repeat_interleave(k)
        draw = torch.arange(k, device=owner.device).repeat(len(problem.x))
        alpha = self._alphas(problem, owner, draw)
        moments = Moments(problem.x)
        references = torch.zeros_like(problem.score, dtype=torch.float64)

        def reference(rows: Tensor) -> Tensor:
            return problem.reference(self.baseline, owner[rows], draw[rows]).to(problem.x)

        def point(rows: Tensor) -> Tensor:
            return torch.lerp(reference(rows), problem.x[owner[rows]], along(alpha[rows], problem.x))

        for chunk in problem.gradient(point, owner):
            # x − x′ = (x − point) / (1 − α) would divide by zero, so the reference is drawn again.
            difference = problem.x[chunk.owner] - reference(chunk.rows)
            moments.add(chunk.owner, difference * chunk.gradients)
        for chunk in problem.forward(reference, owner):
            references.index_add_(0, chunk.owner, chunk.scores.double() / k)
        delta = problem.score - references.to(problem.score)
        return Result(moments.mean(k), delta, standard_error=moments.mean_error(k))

    def _alphas(self, problem: Problem, owner: Tensor, draw: Tensor) -> Tensor:
        u = problem.draws.uniform("expectation.alpha", problem.keys(owner, draw), ()).to(problem.x)
        return (draw.to(u) + u) / self.samples if self.alpha == "stratified" else u

"""Neuron conductance: a path's integral seen at a layer."""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from abe.checks import Count
from abe.engines.layers.at_layer import activations
from abe.engines.path.curves import StraightLine
from abe.engines.path.ends import end_at, end_at_input, told
from abe.engines.path.quadrature import GaussLegendre
from abe.engines.runtime.problem import Problem
from abe.engines.runtime.shapes import along
from abe.engines.runtime.work import Call, Chunk
from abe.instrument.capture import layer_name, replacing
from abe.spec import value
from abe.types import Baseline, Result


@value
class Conductance:
    """A = Σ_k ḡ_k ⊙ (y(α_{k+1}) − y(α_k)), y the layer while the input goes from a baseline to the sample.

    Args:
        layer: as in `AtLayer`.
        baseline: where the input's straight line begins.
        steps: number of steps.
        rule: ``"trapezoid"`` takes the mean gradient of both ends of a step over equal steps;
            ``"published"`` that of its start, over the nodes of Gauss–Legendre, as captum does.
    """

    layer: str
    baseline: Baseline
    steps: Count = 50
    rule: Literal["trapezoid", "published"] = "trapezoid"
    has_ends: ClassVar[bool] = True

    def run(self, problem: Problem) -> Result:
        """Two forward rows and one backward row per node."""
        job = _Conductance(self, problem)
        start, end = end_at(problem, job.line.reference), end_at_input(problem)
        return Result(
            job.total(),
            end.score - start.score,
            diagnostics=told(problem, start, end),
            features=job.features,
        )


class _Conductance:
    """One request: rows are nodes, sample by sample."""

    def __init__(self, spec: Conductance, problem: Problem) -> None:
        self.spec, self.problem, self.k = spec, problem, spec.steps + 1
        self.line = StraightLine(baseline=spec.baseline).bind(problem)
        nodes = torch.linspace(0, 1, self.k) if spec.rule == "trapezoid" else GaussLegendre().nodes(self.k)[0]
        self.alpha = nodes.to(problem.x)
        self.owner = problem.everyone.repeat_interleave(self.k)
        self.layer = layer_name(problem.task.model, spec.layer)
        self.features = activations(problem, self.layer)
        self.out = torch.zeros_like(self.features)
        self.last: tuple[Tensor, Tensor, Tensor] | None = None

    def total(self) -> Tensor:
        """(b, *f) the sum over all steps."""
        purpose = f"at {self.layer}"
        for chunk in self.problem.gradient(self.make, self.owner, around=self.around, purpose=purpose):
            self._keep(chunk)
        return self.out

    def inputs(self, owner: Tensor, number: Tensor) -> Tensor:
        """Inputs at the nodes of given rows."""
        return self.line.point(owner, self.alpha[number % self.k])

    def make(self, rows: Tensor) -> Tensor:
        """Activations at the nodes of given rows."""
        owner = self.owner[rows]
        return activations(self.problem, self.layer, self.inputs(owner, rows), owner)

    def around(self, call: Call) -> tuple[Any, Tensor]:
        """The model runs on from the layer, the rest of it at the same node."""
        with replacing(self.problem.task.model, self.layer, call.x):
            outputs = call.forward(self.inputs(call.owner, call.rows))
        return outputs, call.score(outputs)

    def _keep(self, chunk: Chunk) -> None:
        """Steps between neighbouring nodes, the first of which may have come with the chunk before."""
        owner, y, g = chunk.owner, chunk.x, chunk.gradients
        if self.last is not None:
            owner, y, g = (torch.cat(pair) for pair in zip(self.last, (owner, y, g), strict=True))
        self.last = owner[-1:], y[-1:], g[-1:]
        slope = (g[:-1] + g[1:]) / 2 if self.spec.rule == "trapezoid" else g[:-1]
        inside = along((owner[1:] == owner[:-1]).to(y), y)
        self.out.index_add_(0, owner[:-1], slope * (y[1:] - y[:-1]) * inside)

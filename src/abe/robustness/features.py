"""Feature-importance attacks: the positive features of a layer are pushed down (NAA, DANAA).

w = −normalised Σ_l ∇_h (loss) over points of a path,  then x moves against Σ h(x) ⊙ w
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from abe.checks import Count, Norm, NotNegative, Variant, published
from abe.engines.path.geometry import unit
from abe.engines.path.step import State
from abe.engines.path.steps.aim import SCORES, Aim
from abe.engines.path.steps.parts import Ball
from abe.engines.runtime.problem import Problem
from abe.engines.runtime.shapes import along
from abe.objectives import Captured
from abe.registry import updates
from abe.robustness.chain import TRANSFER, Chain, chain, sizes, steepest, transferable
from abe.sizes import OfRange, in_units, lowest
from abe.spec import value
from abe.types import Card


@value
class FeatureImportance:
    """The gradient of Σ h(x) ⊙ w, w the integrated importance of a layer's features for the class.

    The importance is found once, at the first step, and kept in the state.

    Args:
        layer: a module's name, as in ``model.named_modules()``.
        points: how many points its gradient is averaged over.
        path: ``"line"`` darkens the input to black, x (1 − l / points); ``"adversarial"`` walks
            away from the class by sign steps (DANAA).
        noise: standard deviation of the noise added to every point.
        pace: length of a sign step of the adversarial path.
        normalise: divide the importance by its L2 norm.
        from_zero: take the points l / points, l from 0, of the line instead: black but not the input.
    """

    layer: str
    points: Count = 30
    path: Literal["line", "adversarial"] = "line"
    noise: NotNegative = OfRange(0.2)
    pace: NotNegative = OfRange(0.0025)
    normalise: bool = True
    from_zero: bool = False
    stochastic: ClassVar[bool] = True

    def estimate(self, aim: Aim, state: State) -> tuple[Tensor, State]:
        """``points`` gradient rows at the first step, one at every step."""
        weight = state.get("importance")
        if weight is None:
            weight = self._importance(aim)
            if self.normalise:
                weight = unit(weight)
            state = {**state, "importance": weight}
        out = torch.empty_like(aim.x)
        objective = WeightedFeatures(self.layer, weight * aim.sign)
        rows = torch.arange(len(out), device=out.device)

        problem = aim.problem(objective, target=rows)
        for chunk in problem.gradient(aim.x, rows):
            out[chunk.rows] = -chunk.gradients
        return out, state

    def _importance(self, aim: Aim) -> Tensor:
        """(n, *h) the summed gradient of the class's probability by the layer's features."""
        if self.path == "line":
            return self._along_line(aim)
        total, x = None, aim.x
        spread, pace = (in_units(size, aim.point.bounds) for size in (self.noise, self.pace))
        everyone = torch.arange(len(x), device=x.device)
        for number in range(self.points):
            copy = torch.full_like(everyone, number)
            noise = aim.normal("importance.noise", everyone, copy, self.points, x.shape[1:])
            probe = aim.at(x + spread * noise).with_loss("probability")
            gained, upward = layer_and_input_gradient(probe, self.layer)
            total = gained if total is None else total + gained
            x = x + pace * aim.sign * upward.sign()
        return total if total is not None else x

    def _along_line(self, aim: Aim) -> Tensor:
        n, k = len(aim.x), self.points
        owner = torch.arange(n, device=aim.x.device).repeat_interleave(k)
        reader = LayerGradient(self.layer)
        problem = aim.problem(reader)
        found: list[Tensor] = []
        black, spread = lowest(aim.point.bounds), in_units(self.noise, aim.point.bounds)

        def make(index: Tensor) -> Tensor:
            who, copy = owner[index], index % k
            x = aim.x[who]
            if self.noise:
                x = x + spread * aim.normal("importance.noise", who, copy, k, x.shape[1:])
            share = copy.to(x) / k
            return black + (x - black) * along(share if self.from_zero else 1 - share, x)

        for chunk in problem.gradient(make, owner):
            if not found:
                found.append(reader.taken.new_zeros((n, *reader.taken.shape[1:])))
            found[0].index_add_(0, chunk.owner, reader.taken)
        return found[0] / k


class WeightedFeatures:
    """Score Σ h(x) ⊙ w, the target naming the row's weights."""

    reads_logits = False

    def __init__(self, layer: str, weight: Tensor) -> None:
        self.layers = (layer,)
        self._layer, self._weight = layer, weight

    def __call__(self, outputs: Captured, target: Tensor) -> Tensor:
        return (outputs.layers[self._layer] * self._weight[target]).flatten(1).sum(1)


class LayerGradient:
    """Takes the gradient of the class's probability by a layer in passing, and keeps it as ``taken``.

    As a score it is zero with zero slope, so what remains of the pass goes from the layer to the input
    only: forward and backward rows are those of one ordinary gradient.
    """

    reads_logits = True
    needs_classes = True

    def __init__(self, layer: str) -> None:
        self.layers = (layer,)
        self._layer = layer
        self.taken = torch.zeros(0)

    def __call__(self, outputs: Captured, target: Tensor) -> Tensor:
        features = outputs.layers[self._layer]
        if not features.requires_grad:
            return outputs.outputs.flatten(1).sum(1) * 0
        score: Tensor = SCORES["probability"](outputs.outputs, target)
        (taken,) = torch.autograd.grad(score.sum(), features, retain_graph=True, allow_unused=True)
        self.taken = torch.zeros_like(features) if taken is None else taken
        return features.flatten(1).sum(1) * 0


class _ThroughLayer(LayerGradient):
    """The same with the probability itself as score, for a path that needs its gradient too."""

    def __call__(self, outputs: Captured, target: Tensor) -> Tensor:
        super().__call__(outputs, target)
        score: Tensor = SCORES["probability"](outputs.outputs, target)
        return score


def layer_and_input_gradient(aim: Aim, layer: str) -> tuple[Tensor, Tensor]:
    """(n, *h) and (n, *f): the gradient of the class's probability by a layer, and against the input."""
    reader = _ThroughLayer(layer)
    problem: Problem = aim.problem(reader)
    inner: list[Tensor] = []
    outer = torch.empty_like(aim.x)

    for chunk in problem.gradient(aim.x, problem.everyone):
        inner.append(reader.taken)
        outer[chunk.rows] = -chunk.gradients
    return torch.cat(inner), outer


@updates.register(
    Card(
        name="naa",
        title="Neuron Attribution-based Attack",
        source="zhang2022naa",
        formula="g = −∇ Σ h(x) ⊙ w,  w = Σ_l ∇_h p_y((x + σ ε)(1 − l/n)) / ‖·‖",
        family="transferable attack",
        needs=("layer",),
        example={"layer": "first"},
        differs=(
            "Noise, normalised weights and momentum as in the authors' code; a widespread library has "
            "none of them and takes the zero image instead of the input (variant='published').",
        ),
    )
)
def naa(
    *,
    layer: str,
    eps: float | None = None,
    alpha: float | None = None,
    steps: Count = 10,
    decay: float = 1.0,
    points: int = 30,
    noise: float = OfRange(0.2),
    norm: Norm = "linf",
    variant: Variant = "corrected",
) -> Chain:
    """MIM against the features of a layer, weighted by their integrated importance.

    Args:
        points: points of the line over which the importance is averaged.
        noise: standard deviation of the noise added before scaling, in input units; by default a share of
            the range.
    """
    if published(variant):
        plain = FeatureImportance(layer=layer, points=points, noise=0.0, normalise=False, from_zero=True)
        radius, length = sizes(eps, alpha, norm, TRANSFER, steps)
        return chain(plain, steepest(norm), Ball(eps=radius, norm=norm), alpha=length, steps=steps)
    estimator = FeatureImportance(layer=layer, points=points, noise=noise)
    return transferable(estimator, eps=eps, alpha=alpha, decay=decay, norm=norm, steps=steps)


@updates.register(
    Card(
        name="danaa",
        title="Double Adversarial Neuron Attribution Attack",
        source="jin2023",
        formula="w = Σ_l ∇_h p_y(x_l + σ ε) / ‖·‖,  x_{l+1} = x_l − γ sign ∇p_y(x_l + σ ε)",
        family="transferable attack",
        needs=("layer",),
        example={"layer": "first"},
    )
)
def danaa(
    *,
    layer: str,
    eps: float | None = None,
    alpha: float | None = None,
    steps: Count = 10,
    decay: float = 1.0,
    points: int = 30,
    noise: float = OfRange(0.25),
    pace: float = OfRange(0.0025),
    norm: Norm = "linf",
) -> Chain:
    """NAA with the importance gathered along an adversarial path.

    Args:
        points: steps of the adversarial path.
        noise: standard deviation of the noise at each of its points, in input units; by default a share of
            the range.
        pace: length of its sign steps, likewise.
    """
    estimator = FeatureImportance(layer=layer, points=points, path="adversarial", noise=noise, pace=pace)
    return transferable(estimator, eps=eps, alpha=alpha, decay=decay, norm=norm, steps=steps)

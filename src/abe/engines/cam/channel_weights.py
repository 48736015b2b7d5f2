"""Channel weights: what class activation maps differ in, one registered value each."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from abe.checks import NotNegative
from abe.engines.cam.channel_map import View, no_linear_head
from abe.engines.layers.grid import altered
from abe.engines.runtime.shapes import unit_range, upsampled
from abe.engines.runtime.work import Call
from abe.registry import channel_weights
from abe.spec import value
from abe.types import Baseline

CONSTANT = 1e-4
"""Share of the largest gradient by which a channel's gradients may differ behind average pooling."""


@channel_weights.part("summed_gradient", of="cam")
@value
class SummedGradient:
    """The class weights of a linear head behind global average pooling.

    Formula: w_k = Σ_ij ∂s/∂A_kij, the head's weight of channel k
    """

    needs_gradient: ClassVar[bool] = True
    needs_linear_head: ClassVar[bool] = True

    def __call__(self, view: View) -> Tensor:
        """The map; refused where the gradient is not the same at all places."""
        gradient = view.gradient.flatten(2)
        spread = gradient.amax(2) - gradient.amin(2)
        limit = CONSTANT * gradient.abs().amax((1, 2))
        if bool((spread.amax(1) > limit).any()):
            raise no_linear_head("a gradient that differs from place to place")
        return view.combine(gradient.sum(2))


@channel_weights.part("mean_gradient", of="grad_cam")
@value
class MeanGradient:
    """The gradient averaged over places.

    Formula: w_k = mean_ij ∂s/∂A_kij
    """

    needs_gradient: ClassVar[bool] = True

    def __call__(self, view: View) -> Tensor:
        """The map."""
        return view.combine(view.gradient.flatten(2).mean(2))


@channel_weights.part("plus_plus", of="grad_cam_plus_plus")
@value
class PlusPlus:
    """Positive gradients, weighted so that small objects count as much as large ones.

    Formula: w_k = Σ_ij g⁺ α, α = g² / (2 g² + g³ Σ_ab A_kab), zero where g or the denominator is zero
    """

    epsilon: NotNegative = 0.0
    needs_gradient: ClassVar[bool] = True

    def __call__(self, view: View) -> Tensor:
        """The map."""
        g = view.gradient.flatten(2)
        total = view.activation.flatten(2).sum(2, keepdim=True)
        below = 2 * g.square() + total * g.pow(3) + self.epsilon
        alpha = torch.where((g != 0) & (below != 0), g.square() / below, torch.zeros_like(g))
        return view.combine((g.clamp(min=0) * alpha).sum(2))


@channel_weights.part("gradient_here", of="hires_cam")
@value
class GradientHere:
    """The gradient at every place itself.

    Formula: w_kij = ∂s/∂A_kij
    """

    needs_gradient: ClassVar[bool] = True

    def __call__(self, view: View) -> Tensor:
        """The map."""
        return view.combine(view.gradient)


@channel_weights.part("weighted_gradient", of="xgrad_cam")
@value
class WeightedGradient:
    """The gradient averaged over places with the activation as weight.

    Formula: w_k = Σ_ij A_kij g_kij / Σ_ij A_kij, g = ∂s/∂A, zero where the channel sums to zero
    """

    epsilon: NotNegative = 0.0
    needs_gradient: ClassVar[bool] = True

    def __call__(self, view: View) -> Tensor:
        """The map."""
        above = (view.activation * view.gradient).flatten(2).sum(2)
        below = view.activation.flatten(2).sum(2) + self.epsilon
        return view.combine(torch.where(below != 0, above / below, torch.zeros_like(above)))


@channel_weights.part("positive_gradient", of="layer_cam")
@value
class PositiveGradient:
    """The positive gradient at every place.

    Formula: w_kij = max(∂s/∂A_kij, 0)
    """

    needs_gradient: ClassVar[bool] = True

    def __call__(self, view: View) -> Tensor:
        """The map."""
        return view.combine(view.gradient.clamp(min=0))


@channel_weights.part("principal", of="eigen_cam")
@value
class Principal:
    """The first principal direction of the activations over places.

    Its sign is set so that the map's sum over places is positive, and before centring.

    Formula: w = v₁, the first right singular vector of the activations as a matrix (places, channels)

    Args:
        centred: subtract each channel's mean over places first, as published code does.
    """

    centred: bool = False
    needs_gradient: ClassVar[bool] = False

    def __call__(self, view: View) -> Tensor:
        """The map; the class plays no part."""
        rows = view.activation.flatten(2).transpose(1, 2)
        used = rows - rows.mean(1, keepdim=True) if self.centred else rows
        exact = used.to(torch.promote_types(used.dtype, torch.float32))  # no half-precision SVD
        first = torch.linalg.svd(exact, full_matrices=False).Vh[:, 0].to(used.dtype)
        side = torch.einsum("nk,npk->n", first, rows)
        first = torch.where(side[:, None] < 0, -first, first)
        return torch.einsum("nk,npk->np", first, used).unflatten(1, view.grid.size)


@channel_weights.part("masked_score", of="score_cam")
@value
class MaskedScore:
    """The score when the input is shown through each channel's map alone.

    Subtracting s(x′) would not change the softmax, so it is not computed.

    Formula:
        w = softmax over channels k of s(x′ + m_k ⊙ (x − x′)), m_k the channel enlarged and scaled to [0, 1]

    Args:
        baseline: x′, what hidden places show.
        align_corners: how channels are enlarged.
        epsilon: added to a channel's range before dividing by it.
    """

    baseline: Baseline
    align_corners: bool = False
    epsilon: NotNegative = 0.0
    needs_gradient: ClassVar[bool] = False

    def __call__(self, view: View) -> Tensor:
        """The map; one forward row per channel, made chunk by chunk."""
        c, x = view.channels, view.problem.x
        extent = tuple(x.shape[2:])

        def make(rows: Tensor) -> Tensor:
            which, channel = rows // c, rows % c
            owner = view.owner[which]
            channels = view.activation[which, channel]
            mask = upsampled(channels, extent, "bilinear", align_corners=self.align_corners)
            mask = unit_range(mask, self.epsilon)[:, None].to(x)
            hidden = view.problem.reference(self.baseline, owner, torch.zeros_like(owner)).to(x)
            return hidden + mask * (x[owner] - hidden)

        found = view.problem.scores(make, view.owner.repeat_interleave(c))
        return view.combine(found.view(-1, c).softmax(1).to(view.activation))


@channel_weights.part("ablation", of="ablation_cam")
@value
class Ablation:
    """What the score loses when a channel is set to zero.

    Formula: w_k = s − s(without channel k)
    """

    needs_gradient: ClassVar[bool] = False

    def __call__(self, view: View) -> Tensor:
        """The map; one forward row per channel."""
        c, problem = view.channels, view.problem

        def around(call: Call) -> tuple[Any, Tensor]:
            with altered(problem.task.model, view.layer, lambda out: view.grid.without(out, call.rows % c)):
                outputs = call.forward(call.x)
            return outputs, call.score(outputs)

        owner = view.owner.repeat_interleave(c)
        chunks = problem.forward(lambda rows: problem.x[owner[rows]], owner, around=around)
        found = torch.cat([chunk.scores for chunk in chunks]).to(view.activation)
        return view.combine(view.score[:, None].to(found) - found.view(-1, c))

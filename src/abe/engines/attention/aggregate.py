"""How attention maps of all heads and layers become one map."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from abe.engines.attention.capture import Attention
from abe.spec import value

Heads = Annotated[Literal["mean", "max", "min"], "way to join heads"]


@runtime_checkable
class Aggregation(Protocol):
    """A value that makes one matrix of all self-attention matrices of a model."""

    needs_gradient: ClassVar[bool]
    """Whether `Attention.gradient` is read; without it no backward pass is run."""

    def __call__(self, layers: Sequence[Attention]) -> Tensor:
        """(n, t, t) how much every token (column) matters for every token (row)."""
        ...


def fused(matrix: Float[Tensor, "n a q k"], heads: Heads) -> Float[Tensor, "n q k"]:
    """Heads made one."""
    if heads == "mean":
        return matrix.mean(1)
    return matrix.amax(1) if heads == "max" else matrix.amin(1)


def relevant(layer: Attention) -> Float[Tensor, "n q k"]:
    """Ā = mean over heads of (∇A ⊙ A)⁺."""
    return (layer.gradient * layer.weights).clamp(min=0).mean(1)


def identity(like: Float[Tensor, "n q k"]) -> Float[Tensor, "n q q"]:
    """One identity matrix per sample."""
    return torch.eye(like.shape[1], dtype=like.dtype, device=like.device).expand(len(like), -1, -1)


@value
class LastAttention:
    """R = A of the last layer.

    Args:
        heads: how heads are joined.
    """

    heads: Heads = "mean"
    needs_gradient: ClassVar[bool] = False

    def __call__(self, layers: Sequence[Attention]) -> Tensor:
        """The matrix."""
        return fused(layers[-1].weights, self.heads)


@value
class Rollout:
    """R = Π_l (½ A_l + ½ I), later layers on the left; A_l with rows that sum to 1.

    Args:
        heads: how heads are joined.
    """

    heads: Heads = "mean"
    needs_gradient: ClassVar[bool] = False

    def __call__(self, layers: Sequence[Attention]) -> Tensor:
        """The matrix."""
        rolled = identity(layers[0].weights[:, 0])
        for layer in layers:
            step = 0.5 * fused(layer.weights, self.heads) + 0.5 * identity(rolled)
            rolled = (step / step.sum(-1, keepdim=True)) @ rolled
        return rolled


@value
class LastGradient:
    """R = mean over heads of (∇A ⊙ A)⁺ of the last layer."""

    needs_gradient: ClassVar[bool] = True

    def __call__(self, layers: Sequence[Attention]) -> Tensor:
        """The matrix."""
        return relevant(layers[-1])


@value
class CarriedRelevance:
    """R ← R + Ā R from R = I, Ā the mean over heads of (∇A ⊙ A)⁺, layer by layer."""

    needs_gradient: ClassVar[bool] = True

    def __call__(self, layers: Sequence[Attention]) -> Tensor:
        """The matrix."""
        total = identity(layers[0].weights[:, 0])
        for layer in layers:
            total = total + relevant(layer) @ total
        return total

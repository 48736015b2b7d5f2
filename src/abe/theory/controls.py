"""Explainers that know nothing of the model: what a method has to beat before it is believed."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from abe.draws import SeededDraws, sample_ids

RANDOM, EDGES = "random", "edges"


def random_maps(x: Float[Tensor, "b *f"], seed: int = 0) -> Float[Tensor, "b *f"]:
    """Normal numbers, drawn by the content of each sample.

    Args:
        x: samples.
        seed: of the draws.
    """
    drawn = SeededDraws(seed=seed).normal("control", [(one, 0) for one in sample_ids(x)], tuple(x.shape[1:]))
    return drawn.to(x)


def edges(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 h w"]:
    """The size of Sobel's gradient of the brightness: an edge detector (as in XAI-TRIS).

    Args:
        x: pictures.
    """
    along = torch.tensor(
        [[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], dtype=x.dtype, device=x.device
    )
    grey = F.pad(x.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    found = F.conv2d(grey, torch.stack([along, along.T])[:, None])
    return found.square().sum(1, keepdim=True).sqrt()

"""Shapes: numbers along samples, rows spread, maps enlarged."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from abe.errors import Code, SpecError


def expanded(per_row: Tensor, like: Tensor) -> Tensor:
    """(n,) as (n, 1, …) to go with ``like``."""
    return per_row.reshape(-1, *[1] * (like.ndim - 1))


Upsample = Annotated[Literal["bilinear", "nearest"], "way to enlarge a map"]


def upsampled(
    maps: Float[Tensor, "n *size"], extent: Sequence[int], mode: Upsample, *, align_corners: bool = False
) -> Float[Tensor, "n *extent"]:
    """Maps at the input's size; linear between the centres of places unless corners are aligned."""
    if mode == "nearest":
        return F.interpolate(maps[:, None], tuple(extent), mode="nearest")[:, 0]
    linear = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(extent)]
    return F.interpolate(maps[:, None], tuple(extent), mode=linear, align_corners=align_corners)[:, 0]


def over_channels(maps: Tensor, x: Tensor) -> Tensor:
    """(n, c, …) a map without channels, shared out equally so that channels sum to it."""
    return (maps / x.shape[1])[:, None].expand_as(x).contiguous()


def unit_range(maps: Tensor, epsilon: float = 0.0) -> Tensor:
    """Every row scaled to [0, 1]; a constant row becomes 0."""
    flat = maps.flatten(1)
    low = flat.amin(1, keepdim=True)
    span = flat.amax(1, keepdim=True) - low + epsilon
    return torch.where(span > 0, (flat - low) / span, torch.zeros_like(flat)).view_as(maps)


def spread(mask: Tensor, x: Tensor) -> Tensor:
    """(b, *f) a map of positions in equal parts over the channels, which sum to it again."""
    if mask.shape == x.shape:
        return mask.to(x)
    return (mask / x.shape[1]).expand_as(x).to(x).clone()


def stretch(maps: Tensor, space: tuple[int, ...]) -> Tensor:
    """(n, c, *space) maps interpolated linearly to one or two axes of positions."""
    if tuple(maps.shape[2:]) == space:
        return maps
    mode = {1: "linear", 2: "bilinear"}.get(len(space))
    if mode is None:
        raise SpecError(
            Code.UNSUPPORTED,
            "Masks cover one or two axes of positions",
            got=f"inputs with {len(space)}",
            expected="(c, h, w), (c, t) or (d,)",
        )
    return F.interpolate(maps, size=space, mode=mode, align_corners=False)


def along(numbers: Tensor, like: Tensor) -> Tensor:
    """(n,) numbers shaped to multiply rows of ``like``."""
    return numbers.view(-1, *[1] * (like.ndim - 1))


BLOCK_BYTES = 64 * 2**20
"""Memory for noisy copies made at once."""


def rows_at_once(x: Tensor) -> int:
    """Rows of features like ``x`` that fit the block, a power of two so that chunks fill it."""
    fit = max(1, BLOCK_BYTES // (x[0].numel() * x.element_size()))
    return 1 << (min(fit, 4096).bit_length() - 1)


def joined(parts: list[Tensor]) -> Tensor:
    """(b, *f) the rows of all chunks, in order; those of one chunk are not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)

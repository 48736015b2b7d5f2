"""Lengths, directions, balls and bounds of rows: what steps are made of."""

import torch
from torch import Tensor

from abe.engines.runtime.shapes import along
from abe.sizes import in_units, per_range


def tiny(like: Tensor) -> float:
    """The smallest normal number, to divide by instead of zero."""
    return torch.finfo(like.dtype).tiny


def lengths(rows: Tensor) -> Tensor:
    """(n,) L2 length of each row."""
    return rows.flatten(1).norm(dim=1)


def unit(rows: Tensor) -> Tensor:
    """Rows of L2 length 1; zero rows stay zero."""
    return rows / along(lengths(rows).clamp_min(tiny(rows)), rows)


def shortened(rows: Tensor, radius: float | Tensor) -> Tensor:
    """Rows no longer than ``radius`` in L2; with one radius per channel, inside the ellipsoid."""
    if isinstance(radius, Tensor):
        return rows * along((1 / lengths(rows / radius).clamp_min(tiny(rows))).clamp_max(1.0), rows)
    return rows * along((radius / lengths(rows).clamp_min(tiny(rows))).clamp_max(1.0), rows)


def in_ball(normal: Tensor, share: Tensor, radius: float | Tensor) -> Tensor:
    """Uniform in the L2 ball: directions of normal draws, with length r u^(1/d), u the ``share`` (n,)."""
    if isinstance(radius, Tensor):
        return in_ball(normal, share, 1.0) * radius
    return unit(normal) * along(radius * share ** (1 / normal[0].numel()), normal)


def step_along(slope: Tensor, size: float, bounds: tuple[Tensor, Tensor] | None) -> Tensor:
    """(n, *f) steps of L2 length ``size`` along slopes; zero slopes make none."""
    return in_units(size, bounds) * unit(per_range(slope, size, bounds))


def within(change: Tensor, size: float, bounds: tuple[Tensor, Tensor] | None) -> Tensor:
    """Changes no larger than ``size`` in any entry."""
    most = torch.as_tensor(in_units(size, bounds), dtype=change.dtype, device=change.device)
    return torch.clamp(change, -most, most)


def clipped(x: Tensor, bounds: tuple[Tensor, Tensor] | None) -> Tensor:
    """``x`` inside the bounds, where there are some."""
    return x if bounds is None else torch.clamp(x, *bounds)

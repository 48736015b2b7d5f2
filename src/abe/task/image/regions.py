"""Regions of pictures: masks as users have them, and the connected zone under a pixel."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from PIL import Image
from torch import Tensor

from abe import arrays
from abe.errors import Code, InputError
from abe.task.image.pictures import load_image


def as_region(masks: Any, x: Tensor) -> Bool[Tensor, "b *space"]:
    """(b, *space) the true regions of samples ``x``.

    Args:
        masks: booleans, 0 and 1, or 0 and 255: an array (b, *space), with or without an axis of one channel
            and, for one sample, with or without ``b``; a picture, the path of either, or a list of these.
        x: the samples (b, c, *space), or (b, d).

    Raises:
        InputError: another shape, or other values: soft edges, classes, and values that mark what does not
            count say nothing of what belongs to the region.
    """
    wanted = (len(x), *x.shape[2:]) if x.ndim > 2 else tuple(x.shape)
    found = _numbers(masks, len(wanted))
    shapes = {wanted, (*wanted, 1), (wanted[0], 1, *wanted[1:])}
    shapes |= {shape[1:] for shape in shapes if len(x) == 1}
    if tuple(found.shape) not in shapes:
        raise InputError(
            Code.MASK,
            "The masks do not fit the samples",
            got=str(tuple(found.shape)),
            expected=str(wanted),
            fix="Where a loader gives them, a batch is (inputs, labels, masks, targets)",
        )
    if found.dtype != torch.bool:
        most = found.max()
        if float(most) not in (0, 1, 255) or not bool(((found == 0) | (found == most)).all()):
            raise _undecided(found)
    return (found != 0).reshape(wanted)


def _numbers(masks: Any, axes: int) -> Tensor:
    """The numbers of masks, whatever they come as; parts of a list with an axis of samples are joined."""
    if isinstance(masks, list | tuple) and any(not isinstance(m, list | tuple) for m in masks):
        parts = [_numbers(m, axes) for m in masks]
        joined = all(part.ndim >= axes for part in parts)
        if len({part.shape[joined:] for part in parts}) > 1:
            raise InputError(
                Code.MASK, "The masks differ in shape", got=str(sorted({tuple(p.shape) for p in parts}))
            )
        return torch.cat(parts) if joined else torch.stack(parts)
    if isinstance(masks, str | os.PathLike) and Path(masks).suffix.lower() in arrays.SUFFIXES:
        masks = arrays.read(Path(masks))["maps"]
    if isinstance(masks, str | os.PathLike | Image.Image):
        masks = np.asarray(load_image(masks))
    found = masks.detach() if isinstance(masks, Tensor) else arrays.from_numpy(masks, "A mask")
    return found if found.dtype == torch.bool else arrays.as_tensor(found, "A mask")


def _undecided(found: Tensor) -> InputError:
    values = found.unique()
    some = ", ".join(f"{float(v):g}" for v in values[:4]) + (", …" if len(values) > 4 else "")
    return InputError(
        Code.MASK,
        "The masks do not say what belongs to the region",
        got=f"the values {some}",
        expected="booleans, 0 and 1, or 0 and 255",
        fix="Decide first: mask > 0.5 for soft edges, mask == k for a class, and where values such as 255, "
        "which mark what does not count, belong",
    )


def connected(zone: Bool[Tensor, "h w"], row: int, column: int) -> Bool[Tensor, "h w"]:
    """The pixels of a zone that hang together with one of them, side by side.

    Args:
        zone: what belongs to it.
        row: of a pixel of the zone.
        column: of the same pixel.
    """
    found = torch.zeros_like(zone)
    found[row, column] = True
    before = 0
    while before < (size := int(found.sum())):
        before, found = size, _along(_along(found, zone).T, zone.T).T
    return found


def _along(found: Tensor, zone: Tensor) -> Tensor:
    """All runs of the zone along rows that hold something found."""
    h, w = zone.shape
    runs = (~zone).long().cumsum(1) + (w + 1) * torch.arange(h, device=zone.device)[:, None]
    hit = torch.zeros(h * (w + 1), dtype=torch.bool, device=zone.device)
    hit[runs[found]] = True
    return hit[runs] & zone

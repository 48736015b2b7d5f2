"""Sizes that count in the range of valid inputs: a picture in 0 … 1, 0 … 255 or −1 … 1 is treated alike.

A size is a plain number in input units, or an `OfRange`. Whoever uses one asks `in_units`.
"""

from typing import Any

import torch
from torch import Tensor

Limits = tuple[Tensor, Tensor] | None
"""(low, high) of valid inputs, or None."""


class OfRange(float):
    """A share of the range between the bounds of valid inputs; of 1 where there are none.

    Sizes that are part of a published method are such shares. Multiplied or divided by a number one
    stays a share; it equals shares only, since 0.1 of a range and 0.1 input units are different sizes.

    Example:
        >>> from abe.sizes import OfRange
        >>> OfRange(0.5) / 4
        OfRange(0.125)
        >>> OfRange(0.5) == 0.5
        False
    """

    def __mul__(self, other: Any) -> Any:
        return OfRange(float(self) * float(other)) if isinstance(other, int | float) else NotImplemented

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Any:
        return OfRange(float(self) / float(other)) if isinstance(other, int | float) else NotImplemented

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OfRange) and float(self) == float(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((OfRange, float(self)))

    def __repr__(self) -> str:
        return f"OfRange({float(self)!r})"

    def __str__(self) -> str:
        return f"{float(self):g} of the range"

    def __spec__(self) -> dict[str, float]:
        return {"of_range": float(self)}


def span(bounds: Limits) -> float | Tensor:
    """The range between the bounds: one number, or (…, c, …) per channel where channels differ."""
    if bounds is None:
        return 1.0
    wide = ranges(bounds)
    flat = wide.flatten()
    return float(flat[0]) if len(flat) == 1 or bool((flat == flat[0]).all()) else wide


def ranges(bounds: tuple[Tensor, Tensor]) -> Tensor:
    """(…, c, …) the range between the bounds, and 1 where there are none."""
    wide = bounds[1] - bounds[0]
    return torch.where(torch.isfinite(wide), wide, 1.0)


def lowest(bounds: Limits) -> float | Tensor:
    """The lowest valid input, black in a picture: 0 without bounds."""
    return 0.0 if bounds is None else torch.where(torch.isfinite(bounds[0]), bounds[0], 0.0)


def in_units(size: float, bounds: Limits) -> float | Tensor:
    """A size in input units: one number, or one per channel for a share of ranges that differ."""
    return float(size) * span(bounds) if isinstance(size, OfRange) else size


def plain(size: float, bounds: Limits) -> float:
    """A size as one number: in input units, or a share as it is where the ranges of channels differ."""
    found = in_units(size, bounds)
    return float(size) if isinstance(found, Tensor) else float(found)


def per_range(slope: Tensor, size: float, bounds: Limits) -> Tensor:
    """A slope (n, *f) by shares of the range, where ``size`` is one and the ranges of channels differ.

    Lengths and means over channels are then those of the same picture in 0 … 1. Elsewhere one number
    would stand before the slope, and a direction does not depend on it.
    """
    wide = span(bounds) if isinstance(size, OfRange) else 1.0
    return slope * wide if isinstance(wide, Tensor) else slope

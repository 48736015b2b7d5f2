"""Numbers for all channels or one for each: bounds, means and widths as users give them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from abe.checks import FINITE, plain, refused, several, shown
from abe.errors import Code, SpecError

Numbers = float | Sequence[float] | Tensor
"""One number for all channels, or one for each."""


def per_channel(name: str, numbers: Numbers | None, positions: int = 2) -> Tensor | None:
    """A number, or (1, c, 1, …) one per channel, for features with so many axes of positions.

    Raises:
        SpecError: no finite numbers.
    """
    if numbers is None:
        return None
    given: Any = plain(numbers)
    flat = given.reshape(-1) if isinstance(given, np.ndarray | Tensor) else given
    read = [FINITE.check(name, number) for number in several(flat)]
    tensor = torch.tensor(read[0] if isinstance(given, int | float) else read, dtype=torch.float64)
    return tensor if tensor.ndim == 0 else tensor.reshape(1, -1, *[1] * positions)


def scale(name: str, numbers: Numbers | None, positions: int = 2) -> Tensor | None:
    """What is divided by, which is not 0.

    Raises:
        SpecError: it is 0, or no finite number.
    """
    found = per_channel(name, numbers, positions)
    if found is not None and not bool(found.all()):
        raise refused(name, "is divided by, so it is not 0", numbers)
    return found


def limits(
    bounds: tuple[Numbers, Numbers] | None, positions: int = 2
) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Both bounds, the low below the high one; (None, None) where there are none.

    Raises:
        SpecError: they are no such pair.
    """
    if bounds is None:
        return None, None
    given = several(bounds)
    both = [per_channel("bounds", end, positions) for end in given] if len(given) == 2 else [None, None]
    low, high = both
    if low is None or high is None or not bool((low < high).all()):
        raise SpecError(
            Code.BAD_PARAMETER, "bounds must be (low, high) with low below high", got=shown(bounds)
        )
    return low, high

"""Whether maps and accounts add up to what rules or references started with."""

import torch
from torch import Tensor

from abe.errors import Code, note

MISSED = {torch.float64: (1e-7, 1e-11, 1e-3), torch.float32: (1e-3, 1e-5, 3e-2)}
"""What a map may miss: of what it sums to; of its amounts, whose rounding stays if they cancel; and most."""


def missing(missed: Tensor, whole: Tensor, amounts: Tensor, precision: torch.dtype) -> int | None:
    """Number of the sample that misses most, where one misses more than rounding.

    Args:
        missed: (n,) what the maps are short of.
        whole: (n,) what they are to sum to.
        amounts: (n,) the size of all that was given.
        precision: the coarsest in which the model computed.
    """
    share, rounding, most = MISSED.get(precision, (1e-1, 1e-2, 3e-1))
    rounded = torch.minimum(rounding * amounts, most * whole.abs().clamp(min=1))
    bad = ~(missed.abs() <= torch.maximum(share * whole.abs(), rounded))
    return int(torch.where(bad, missed.abs(), -1.0).argmax()) if bool(bad.any()) else None


def closure_notes(closure: Tensor, start: Tensor, amounts: Tensor, precision: torch.dtype) -> list[str]:
    """A note where the map and the accounts do not add up to the relevance that the rules started with."""
    worst = missing(closure, start, amounts, precision)
    if worst is None:
        return []
    what = f"The books of sample {worst} do not close: {float(closure[worst]):.3g} too much"
    return [note(Code.INCOMPLETE, f"{what} for a relevance of {float(start[worst]):.3g}")]


def mixed_up(closure: Tensor, start: Tensor) -> bool:
    """Whether rows miss what others have too much of: a ledger took another axis for the batch's."""
    largest = closure.abs().amax()
    return len(closure) > 1 and bool(
        (largest > 1e-5 * start.abs().amax()) & (closure.sum().abs() < 1e-3 * largest)
    )

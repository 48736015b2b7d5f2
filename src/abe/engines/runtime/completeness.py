"""Maps whose sum is no sign that they make sense: terms that cancel, and sums that miss by far."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from abe.checks import listed
from abe.errors import Code, note
from abe.types import Part

CANCELLING = 100.0
"""A map is remarked on where Σ|A| is more than this times |ΣA|,"""
BY_CHANCE = 10.0
"""more than this times √P |ΣA| among P positions, as √P comes of signs at random and pixels are many,"""
BEYOND = 10.0
"""and more than this times the scores: small amounts that make up a small change are nothing to remark on."""
ROUNDED = 64
"""Units in the last place of amounts and scores within which a score does not change at all."""
MISSED = 0.1
"""Share of the scores from which on a sum that misses more than the change is remarked on."""


def remarks(maps: Tensor, delta: Tensor, score: Tensor, parts: Sequence[Part] = ()) -> list[str]:
    """Notes on samples whose map cancels, or misses more than the score changed.

    A is what belongs to a position: channels are summed first, as the entries of one embedding cancel in
    any model.

    Args:
        maps: (b, *m) attributions.
        delta: (b,) the score changes that they claim to sum to.
        score: (b,) the scores at the samples.
        parts: where several inputs lie in the maps.
    """
    given = [part.of(maps) for part in parts] or [maps]
    summed = [one.double().sum(1) if one.ndim > 2 else one.double() for one in given]
    places = [one.reshape(len(maps), -1) for one in summed]
    amount = torch.stack([one.abs().sum(1) for one in places]).sum(0)
    total = torch.stack([one.sum(1) for one in places]).sum(0)
    bound = max(CANCELLING, BY_CHANCE * math.sqrt(sum(one[0].numel() for one in places)))
    change, end = delta.to(total), score.to(total)
    size = end.abs() + (end - change).abs()
    missed = (change - total).abs()
    found: list[str] = []
    changes = change.abs() > ROUNDED * torch.finfo(maps.dtype).eps * (amount + size)
    cancels = changes & (amount > bound * total.abs()) & (amount > BEYOND * size)
    if bool(cancels.any()):
        worst = int(torch.where(cancels, amount / total.abs(), -1.0).argmax())
        what = f"amounts of {float(amount[worst]):.3g} that sum to {float(total[worst]):.3g}"
        text = f"The map of sample {listed(cancels)} is made of terms that cancel: {what} in sample {worst}"
        found.append(note(Code.CANCELLATION, text))
    far = (missed > change.abs()) & (missed > MISSED * size)
    if bool(far.any()):
        worst = int(torch.where(far, missed / change.abs(), -1.0).argmax())
        what = f"{float(missed[worst]):.3g} at a change of {float(change[worst]):.3g} in sample {worst}"
        text = f"The map of sample {listed(far)} misses more than the whole score change: {what}"
        found.append(note(Code.RESIDUAL, text))
    return found

"""DeepLIFT through masks: a comparison is a step function, and laying a mask over something is a product.

A mask m = [a > b] carries a *twin*, the same numbers with Rescale's multiplier Δm/Δ(a − b). What a mask
is laid over, f(x, m), is linear in x and changes entry by entry with m, so the two changes are shared as in
a product:

    Δf = ½ [f(Δx, m) + f(Δx, m′)] + ½ [f(x, m) − f(x, m′) + f(x′, m) − f(x′, m′)]

and the second bracket, which is zero where the mask stayed, goes back through the twin.
"""

# torch leaves part of its own interface untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from typing import NamedTuple

import torch
from torch import Tensor

from abe.engines.backward.step import Step, depends, same_value
from abe.instrument.operations import tensors


class Mask(NamedTuple):
    """A mask of the input's pass (which it keeps alive), its twin, and the reference's mask."""

    mask: Tensor
    twin: Tensor
    reference: Tensor

    def inverted(self, mask: Tensor) -> "Mask":
        """The twin of the mask that is true elsewhere."""
        return Mask(mask, same_value(-self.twin, mask.to(self.twin)), ~self.reference)


LAID_OVER = frozenset({"mul", "where", "masked_fill", "setitem"})
"""Operations that are linear in what a mask is laid over."""


def compared(mask: Tensor, reference: Tensor, difference: Tensor, other: Tensor) -> Mask:
    """A mask with its twin.

    Args:
        mask: what the comparison gave.
        reference: what it gave in the reference pass.
        difference: of what was compared, with its graph.
        other: the reference's.
    """
    change = mask.to(other) - reference.to(other)
    step = torch.where(change == 0, 1.0, difference.detach() - other)
    return Mask(mask, same_value(difference * (change / step), mask.to(other)), reference)


def laid_over(step: Step, mask: Mask, theirs: list[Tensor]) -> Tensor:
    """An operation that lays a mask over what depends on the input.

    Args:
        step: the operation.
        mask: the mask that it reads.
        theirs: the tensors that it read in the reference pass.
    """
    mine = list(tensors((step.args, step.kwargs)))
    places = [i for i, t in enumerate(mine) if t is mask.mask]
    swapped = dict.fromkeys(places, mask.reference)
    at_reference = {i: theirs[i] for i, t in enumerate(mine) if depends(t)}
    held = step.value()
    with torch.no_grad():
        pairs = [(held, step.replaced(swapped))]
        pairs.append((step.replaced(at_reference), step.replaced({**at_reference, **swapped})))
        changed = [torch.where(one == other, 0.0, (one - other) / 2) for one, other in pairs]
        change = mask.mask.to(held) - mask.reference.to(held)
    twin = mask.twin
    if step.name == "setitem":  # an index counts axes from the left
        view = (*twin.shape, *[1] * (held.ndim - twin.ndim))
        twin, change = twin.reshape(view), change.reshape(view)
    through = (step.plain() + step.replaced(swapped)) / 2
    return same_value(through + (changed[0] + changed[1]) * change * twin, held)

"""Bounds of the input, followed to the operation that reads it first.

Before the first layer of a model its inputs are normalised, laid side by side and turned, and parts of them
stand in for embeddings. What does that to the input does the same to its bounds, so that the layer has bounds
of every number it reads.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from abe.instrument.operations import tensors
from abe.task.base import ORIGINAL

Box = tuple[Tensor, Tensor]
"""(low, high), shaped like a tensor."""
SHIFTS = frozenset({"add", "sub", "mul", "div"})
"""Arithmetic that keeps or turns the order of numbers, where the other operand is a constant."""


@runtime_checkable
class Operation(Protocol):
    """What is read of a step: its call, what kind it is, and the call with other tensors."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    kind: Any

    @property
    def name(self) -> str: ...

    def replaced(self, new: dict[int, Tensor]) -> Any: ...


@dataclass
class Boxes:
    """Bounds of what was made of the input.

    Attributes:
        limits: (low, high) of the features before normalisation, infinite where there are none; None for no
            bounds at all.
    """

    limits: Box | None = None
    _known: dict[int, tuple[Tensor, Box]] = field(default_factory=dict[int, tuple[Tensor, Box]])

    def of(self, tensor: Tensor) -> Box | None:
        """Bounds of the input, or of what plumbing made of it; None where they are not known."""
        if (found := self._known.get(id(tensor))) is not None:
            return found[1]
        root: Tensor = getattr(tensor, ORIGINAL, tensor)
        if self.limits is None or not (root.is_leaf and root.requires_grad):
            return None
        low, high = (end.to(root) for end in self.limits)
        if low.ndim > root.ndim or not all(
            own in (1, size) for own, size in zip(reversed(low.shape), reversed(root.shape), strict=False)
        ):
            return None
        return low.expand_as(root), high.expand_as(root)

    def follow(self, step: Operation, output: Any) -> None:
        """Do to the bounds what an operation does to the input."""
        moves = [t.requires_grad for t in tensors((step.args, step.kwargs))]
        if step.kind != "plumbing" and not (step.name in SHIFTS and sum(moves) == 1 and moves[0]):
            return
        given = [self.of(t) if moves[i] else None for i, t in enumerate(tensors((step.args, step.kwargs)))]
        if any(move and box is None for move, box in zip(moves, given, strict=True)):
            return
        with torch.no_grad():
            low, high = (
                step.replaced({i: box[end].clone() for i, box in enumerate(given) if box is not None})
                for end in (0, 1)
            )
        for made, one, other in zip(tensors(output), tensors(low), tensors(high), strict=True):
            if made.requires_grad:
                self._known[id(made)] = made, (torch.minimum(one, other), torch.maximum(one, other))

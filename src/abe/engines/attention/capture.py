"""Attention maps of a model's layers, seen as the model computes them."""

import math
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from abe.errors import Code, ModelError
from abe.instrument.inspection import path_name
from abe.instrument.modes import Function, Instrument, Seen
from abe.instrument.operations import tensors
from abe.instrument.transforms import hidden, transform

PRODUCTS = ("matmul", "rmatmul", "bmm", "einsum", "baddbmm", "linalg_multi_dot")


CARRIED = (
    "dropout",
    "to",
    "type",
    "type_as",
    "float",
    "half",
    "bfloat16",
    "view",
    "reshape",
    "contiguous",
    "clone",
)
"""What attention probabilities may go through between softmax and product and stay what they are."""


@dataclass
class Attention:
    """One matrix of attention probabilities, its rows the queries.

    Attributes:
        module: name of the module that computed it, "" for the model itself.
        weights: (n, heads, queries, keys); windows of a sample are a further axis after the first.
        gradient: of the score by it, in the same shape; empty where none was asked for.
    """

    module: str
    weights: Tensor
    gradient: Tensor = field(default_factory=lambda: torch.empty(0))

    @property
    def queries(self) -> int:
        """Number of rows."""
        return self.weights.shape[-2]

    @property
    def keys(self) -> int:
        """Number of columns."""
        return self.weights.shape[-1]

    @property
    def windows(self) -> int:
        """Windows per sample; 1 where every token can look at every other."""
        return math.prod(self.weights.shape[1:-3])

    def shaped(self, n: int) -> "Attention":
        """Batch first and heads apart, whatever the model's own shape (its batch is outermost)."""

        def change(matrix: Tensor) -> Tensor:
            if matrix.numel() == 0:
                return matrix
            if matrix.ndim == 3 or len(matrix) != n:  # batch and heads, or batch and windows, in one axis
                matrix = matrix.unflatten(0, (n, -1))
            alone = matrix.ndim > 4 and math.prod(matrix.shape[1:-3]) == 1
            return matrix.flatten(1, -3) if alone else matrix

        if self.weights.numel() and len(self.weights) % n:
            raise ModelError(
                Code.UNSUPPORTED,
                "The attention of the samples cannot be told apart",
                got=f"matrices of shape {tuple(self.weights.shape)} in {path_name(self.module)} "
                f"for {n} samples",
                expected="the samples on the first axis, or with the heads on it",
                fix="Pass layers=… with modules that attend so",
            )
        return Attention(self.module, change(self.weights), change(self.gradient))


@contextmanager
def capturing_attention(model: nn.Module) -> Generator[list[Attention], None, None]:
    """Collect every attention matrix of the model in the ``with`` block, in the order of computation.

    With autograd on, the matrices are what the rest of the model is computed from, so that a score can
    be differentiated by them; neither inputs nor parameters need a gradient.
    """
    watch = _Watch()
    with Instrument(
        model, rules={"attention": watch.offered, "softmax": watch.softmax}, observe=watch.observe
    ):
        yield watch.found
    watch.settle()


class _Watch:
    """Rules and observer of one run."""

    def __init__(self) -> None:
        self.found: list[Attention] = []
        self._candidates: list[tuple[Attention, list[Tensor]]] = []
        self._used: set[int] = set()

    def offered(self, seen: Seen, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Probabilities of fused attention and of `nn.MultiheadAttention`."""
        _refuse_inside(seen)
        kept, handed = _leaf(func(*args, **kwargs))
        self._candidates.append((Attention(seen.module or "", kept), []))
        self._used.add(len(self._candidates) - 1)
        return handed

    def softmax(self, seen: Seen, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A softmax over the last axis of a stack of matrices may be attention."""
        output = func(*args, **kwargs)
        dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
        if (
            seen.within
            or not isinstance(output, Tensor)
            or output.ndim < 3
            or dim not in (-1, output.ndim - 1)
        ):
            return output
        _refuse_inside(seen)
        kept, handed = _leaf(output)
        self._candidates.append((Attention(seen.module or "", kept), [handed]))
        return handed

    def observe(self, seen: Seen, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Follow candidates until they multiply something."""
        if seen.name not in PRODUCTS and seen.name not in CARRIED:
            return
        given = {id(t) for t in tensors((*args, *kwargs.values()))}
        for number, (_, carriers) in enumerate(self._candidates):
            if not any(id(t) in given for t in carriers):
                continue
            if seen.name in PRODUCTS:
                self._used.add(number)
            elif isinstance(output, Tensor):
                carriers.append(output)

    def settle(self) -> None:
        """Keep the candidates that were used as attention."""
        self.found.extend(one for i, (one, _) in enumerate(self._candidates) if i in self._used)
        self._candidates.clear()


def _refuse_inside(seen: Seen) -> None:
    """Raise OPAQUE_MODEL inside a function transform, where the axes are not those of the samples."""
    running = transform()
    if running is not None:
        what = "What looks like attention cannot be read inside a function transform"
        raise hidden(Code.OPAQUE_MODEL, what, running, path_name(seen.module or ""))


def _leaf(probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """The tensor to keep, and a clone for the model to go on with."""
    if torch.is_grad_enabled() and not probabilities.requires_grad:
        probabilities = probabilities.detach().requires_grad_()
    return probabilities, probabilities.clone()

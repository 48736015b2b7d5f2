"""Which axes of a weight number the outputs of an operation, however the operation is written.

``linear`` and convolutions keep the outputs on the first axis of their weight, a transposed convolution and
``x @ w`` on the second, ``w @ x`` on the last but one, and ``einsum`` wherever its letters say.
"""

from typing import Any

from torch import Tensor, nn

from abe.engines.backward.lrp_weighted import Weighted
from abe.engines.backward.step import Step, argument

Pairs = list[tuple[int, int]]
"""(axis of the output, axis of the weight), both counted from the left."""


def has_weight(step: Step, call: Weighted) -> bool:
    """Whether what multiplies the input is a weight, not something made of other inputs for every sample.

    Of products the latter is told by its axes: more than two, without being a parameter. Queries of learnt
    tokens and the edges of graphs are such.
    """
    weight = call.weight
    if step.name.startswith(("conv", "linear")) or weight.ndim <= 2:
        return True
    return isinstance(weight, nn.Parameter) or isinstance(weight._base, nn.Parameter)


def neurons(step: Step, call: Weighted, output: Tensor) -> Pairs:
    """The axes that an output and the weight share: one neuron for each of their places.

    Args:
        step: a weighted operation.
        call: the same, taken apart.
        output: what it gives.

    Raises:
        ModelError: RULE, the operation is written in a way that does not tell.
    """
    if step.name.startswith("conv"):
        found = _convolution(step, output)
    elif step.name == "linear":
        found = [(-1, 0)] if call.weight.ndim > 1 else []
    elif step.name == "einsum":
        found = _einsum(step, call)
    elif step.name == "tensordot":
        found = _tensordot(step, call)
    else:
        found = _matmul(step, call)
    if found is None:
        raise step.error(
            "There are no patterns for this call, which does not tell the outputs of its weight",
            "Write it as a linear layer, a matrix product or a convolution without groups",
        )
    axes = [(out % output.ndim, axis % call.weight.ndim) for out, axis in found]
    return sorted(axes, key=lambda pair: pair[1])


def _convolution(step: Step, output: Tensor) -> Pairs | None:
    channel = output.ndim - 1 - int(step.name[-2])
    if not step.name.startswith("conv_transpose"):
        return [(channel, 0)]
    return [(channel, 1)] if argument(step, 6, "groups", 1) == 1 else None


def _matmul(step: Step, call: Weighted) -> Pairs:
    x, weight = call.x, call.weight
    first = step.args[0] is weight  # of addmm it is what is added
    if weight.ndim < 2:
        return []
    row = (-1 if x.ndim == 1 else -2, -2) if first else (-1, -1)
    inner = 1 if x.ndim == 1 else 2  # axes of the output behind those of the batch
    batch = [axis for axis in range(-weight.ndim, -2) if weight.shape[axis] > 1]
    return [row, *((axis + 2 - inner, axis) for axis in batch)]


def _einsum(step: Step, call: Weighted) -> Pairs | None:
    equation = step.args[0]
    if not isinstance(equation, str):
        return None
    left, arrow, out = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    given = _operands(step.args[1:])
    if len(terms) != len(given):
        return None
    mine = next(term for term, one in zip(terms, given, strict=True) if one is call.weight)
    letters = left.replace(",", "").replace(".", "")
    if not arrow:
        out = "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
        out = "..." + out if "." in left else out
    if "." in mine or len(set(mine)) < len(mine):
        return None
    return [(_place(out, letter), mine.index(letter)) for letter in mine if letter in out]


def _operands(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(args[0]) if len(args) == 1 and isinstance(args[0], (list, tuple)) else args


def _place(letters: str, letter: str) -> int:
    """The axis of a letter, from the right behind an ellipsis."""
    before, _, after = letters.partition("...")
    return before.index(letter) if letter in before else after.index(letter) - len(after)


def _tensordot(step: Step, call: Weighted) -> Pairs | None:
    dims, weight = argument(step, 2, "dims", 2), call.weight
    first = step.args[0] is weight
    if isinstance(dims, int):
        summed = range(-dims, 0) if first else range(dims)
    elif isinstance(dims, (list, tuple)) and len(dims) == 2:
        summed = dims[0 if first else 1]
    else:
        return None
    gone = {axis % weight.ndim for axis in ([summed] if isinstance(summed, int) else summed)}
    left = [axis for axis in range(weight.ndim) if axis not in gone]
    return [(place if first else place - len(left), axis) for place, axis in enumerate(left)]

"""Maps from attention: matrices captured operation by operation, an aggregation, a row of the result.

The instrument hands over every matrix of attention probabilities: of fused attention, of
`nn.MultiheadAttention`, and of softmax(Q Kᵀ) V written by hand, where a softmax counts as attention
once its result multiplies something. Models are not changed and need no flag.
"""

# torch leaves part of its own interface untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from abe.engines.attention.aggregate import Aggregation
from abe.engines.attention.capture import Attention, capturing_attention
from abe.engines.layers.grid import (
    MOST_PREFIX,
    LayerGrid,
    differentiate,
    extent_of,
    token_grid,
)
from abe.engines.runtime.problem import Problem
from abe.engines.runtime.shapes import (
    Upsample,
    over_channels,
    upsampled,
)
from abe.engines.runtime.work import Call, Chunk
from abe.errors import Code, ModelError, SpecError
from abe.instrument.capture import find_layer
from abe.instrument.inspection import clean_name
from abe.spec import value
from abe.types import Result

# --- aggregations ------------------------------------------------------------------------------------


# --- engines -----------------------------------------------------------------------------------------


@value
class AttentionMap:
    """A row of aggregated self-attention, laid over the input.

    Args:
        aggregation: how layers and heads become one matrix.
        query: the row that is read; None reads the first token where tokens stand before those of the
            places (the class token), and the mean of all rows where none do.
        layers: names of modules whose attention alone is taken; all by default.
        upsample: how the map is enlarged.
    """

    aggregation: Aggregation
    query: int | None = None
    layers: tuple[str, ...] = ()
    upsample: Upsample = "bilinear"

    def run(self, problem: Problem) -> Result:
        """One forward row per sample, and one backward row where gradients are needed."""
        return run_attention(problem, self.layers, self.aggregation.needs_gradient, self.upsample, self.read)

    def read(self, found: Sequence[Attention], extent: Sequence[int]) -> list["Reading"]:
        """The one row, and its grid."""
        square = [one for one in found if one.queries == one.keys]
        refuse_windows(square)
        tokens, grid = over_input(square, extent, "keys")
        chosen = [one for one in square if one.keys == tokens]
        matrix = self.aggregation(chosen)
        return [Reading(row_of(matrix, self.query, grid), grid)]


@dataclass
class Reading:
    """(n, tokens) numbers, and how the tokens lie over the input."""

    tokens: Tensor
    grid: LayerGrid

    def places(self) -> Tensor:
        """(n, …) the numbers of the places, in their grid."""
        return self.tokens[:, self.grid.prefix :].unflatten(1, self.grid.size)


Read = Callable[[Sequence[Attention], Sequence[int]], list[Reading]]
"""Turns a chunk's attention over inputs of an extent into numbers over tokens; several are averaged."""


def run_attention(
    problem: Problem, layers: Sequence[str], gradient: bool, upsample: Upsample, read: Read
) -> Result:
    """Capture chunk by chunk, read, enlarge, and share out over channels."""
    job = _Run(problem, layers, gradient, upsample, read)
    kind = "inner" if gradient else "forward"
    for chunk in problem.at_inputs(kind, around=job.around, purpose="attention", engine=tuple(layers)):
        job.keep(chunk)
    return Result(over_channels(job.out, problem.x))


class _Run:
    """One request over all chunks."""

    def __init__(
        self, problem: Problem, layers: Sequence[str], gradient: bool, upsample: Upsample, read: Read
    ) -> None:
        self.model = problem.task.model
        self.extent = extent_of(problem)
        self.layers, self.gradient, self.read = layers, gradient, read
        self.upsample: Upsample = upsample
        self.out = problem.x.new_zeros(len(problem.x), *self.extent)
        self._maps: Tensor | None = None
        modules = {clean_name(name): module for name, module in self.model.named_modules()}
        for name in layers:
            find_layer(modules, name)

    def around(self, call: Call) -> tuple[Any, Tensor]:
        """The chunk's forward; its attention is read at once, so that matrices are not kept."""
        with capturing_attention(self.model) as found:
            outputs = call.forward(call.x)
        scores = call.score(outputs)
        chosen = self._chosen(found)
        if self.gradient:
            gradients = differentiate(scores, [one.weights for one in chosen])
            for one, gradient in zip(chosen, gradients, strict=True):
                one.gradient = gradient
        n = len(call.x)
        shaped = [Attention(o.module, o.weights.detach(), o.gradient).shaped(n) for o in chosen]
        readings = self.read(shaped, self.extent)
        maps = [upsampled(one.places(), self.extent, self.upsample) for one in readings]
        self._maps = torch.stack(maps).mean(0)
        return outputs, scores

    def keep(self, chunk: Chunk) -> None:
        """Keep the chunk's maps."""
        if self._maps is not None:
            self.out[chunk.rows] = self._maps.to(self.out)
            self._maps = None

    def _chosen(self, found: list[Attention]) -> list[Attention]:
        if not found:
            raise ModelError(
                Code.NO_ATTENTION,
                "The model computes no attention",
                got="no fused attention, no nn.MultiheadAttention, no softmax whose result multiplies values",
                fix="Use grad_cam for convolutional networks",
            )
        if not self.layers:
            return found
        inside = [
            one
            for one in found
            if any(one.module == name or one.module.startswith(name + ".") for name in self.layers)
        ]
        if not inside:
            raise ModelError(
                Code.LAYER,
                f"No attention was computed in {', '.join(map(repr, self.layers))}",
                expected="among " + ", ".join(sorted({one.module for one in found})),
            )
        return inside


def over_input(
    found: Sequence[Attention], extent: Sequence[int], side: Literal["queries", "keys"]
) -> tuple[int, LayerGrid]:
    """The number of tokens that form a grid over the input, the largest where several do.

    Raises:
        ModelError: NO_ATTENTION, nothing lies over the input.
    """
    sizes = sorted({getattr(one, side) for one in found}, reverse=True)
    for tokens in sizes:
        grid = token_grid(tokens, extent) if len(extent) == 2 else _line(tokens, extent)
        if grid is not None:
            return tokens, grid
    raise ModelError(
        Code.NO_ATTENTION,
        "No attention of the model lies over the input",
        got=f"{side} of {', '.join(map(str, sizes)) or 'no matrix'} tokens",
        expected=f"a grid over {' × '.join(map(str, extent))}, at most {MOST_PREFIX} other tokens first",
        fix="Name modules with layers=…, or look at another kind of map",
    )


def _line(tokens: int, extent: Sequence[int]) -> LayerGrid | None:
    """Tokens along a series, which may have one class token."""
    if len(extent) != 1 or not 1 < tokens <= extent[0] + 1:
        return None
    prefix = int(extent[0] % tokens != 0 and tokens > 2 and extent[0] % (tokens - 1) == 0)
    return LayerGrid("tokens", (tokens - prefix,), prefix)


def refuse_windows(found: Sequence[Attention]) -> None:
    """Attention within windows cannot be multiplied through the layers.

    Raises:
        ModelError: UNSUPPORTED.
    """
    inside = [one for one in found if one.windows > 1]
    if inside:
        raise ModelError(
            Code.UNSUPPORTED,
            "This model attends within windows, whose tokens are others in every layer",
            got=f"{inside[0].windows} windows of {inside[0].keys} tokens in {inside[0].module!r}",
            fix="Use grad_cam or hires_cam, which read the grid itself, or choose modules with layers=… "
            "whose windows cover the whole input",
        )


def row_of(matrix: Float[Tensor, "n q k"], query: int | None, grid: LayerGrid) -> Float[Tensor, "n k"]:
    """The row that is read."""
    if query is None:
        return matrix[:, 0] if grid.prefix else matrix.mean(1)
    if not -matrix.shape[1] <= query < matrix.shape[1]:
        raise SpecError(
            Code.BAD_PARAMETER,
            f"There is no token {query}",
            expected=f"0 to {matrix.shape[1] - 1}",
        )
    return matrix[:, query]

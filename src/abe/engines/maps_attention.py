"""Maps from attention: matrices captured operation by operation, an aggregation, a row of the result.

The instrument hands over every matrix of attention probabilities: of fused attention, of
`nn.MultiheadAttention`, and of softmax(Q Kᵀ) V written by hand, where a softmax counts as attention
once its result multiplies something. Models are not changed and need no flag.
"""

# torch leaves part of its own interface untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from abe.engines.batching import Call, Chunk
from abe.engines.inspection import clean_name
from abe.engines.instrument import Function, Instrument, Seen, find_layer
from abe.engines.maps_layers import (
    MOST_PREFIX,
    Grid,
    Upsample,
    check_upsample,
    differentiate,
    extent_of,
    over_channels,
    token_grid,
    upsampled,
)
from abe.engines.operations import tensors
from abe.engines.problem import Problem
from abe.errors import Code, ModelError, SpecError
from abe.spec import value
from abe.types import Result

Heads = Literal["mean", "max", "min"]
PRODUCTS = ("matmul", "rmatmul", "bmm", "einsum", "baddbmm")
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
        return self.weights.shape[1] if self.weights.ndim == 5 else 1

    def shaped(self, n: int) -> "Attention":
        """Batch first and heads apart, whatever the model's own shape (its batch is outermost)."""

        def change(matrix: Tensor) -> Tensor:
            if matrix.numel() == 0:
                return matrix
            if matrix.ndim == 3:  # batch and heads in one axis
                return matrix.unflatten(0, (n, -1))
            if matrix.ndim == 4 and len(matrix) != n:  # batch and windows in one axis
                return matrix.unflatten(0, (n, -1))
            return matrix.squeeze(1) if matrix.ndim == 5 and matrix.shape[1] == 1 else matrix

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


def _leaf(probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """The tensor to keep, and a clone for the model to go on with."""
    if torch.is_grad_enabled() and not probabilities.requires_grad:
        probabilities = probabilities.detach().requires_grad_()
    return probabilities, probabilities.clone()


# --- aggregations ------------------------------------------------------------------------------------


@runtime_checkable
class Aggregation(Protocol):
    """A value that makes one matrix of all self-attention matrices of a model."""

    needs_gradient: ClassVar[bool]
    """Whether `Attention.gradient` is read; without it no backward pass is run."""

    def __call__(self, layers: Sequence[Attention]) -> Tensor:
        """(n, t, t) how much every token (column) matters for every token (row)."""
        ...


def fused(matrix: Float[Tensor, "n a q k"], heads: Heads) -> Float[Tensor, "n q k"]:
    """Heads made one."""
    if heads == "mean":
        return matrix.mean(1)
    return matrix.amax(1) if heads == "max" else matrix.amin(1)


def check_heads(heads: str) -> None:
    """Refuse an unknown way to make heads one."""
    if heads not in ("mean", "max", "min"):
        raise SpecError(
            Code.BAD_PARAMETER, "No such way to join heads", got=repr(heads), expected="mean, max or min"
        )


def relevant(layer: Attention) -> Float[Tensor, "n q k"]:
    """Ā = mean over heads of (∇A ⊙ A)⁺."""
    return (layer.gradient * layer.weights).clamp(min=0).mean(1)


def identity(like: Float[Tensor, "n q k"]) -> Float[Tensor, "n q q"]:
    """One identity matrix per sample."""
    return torch.eye(like.shape[1], dtype=like.dtype, device=like.device).expand(len(like), -1, -1)


@value
class LastAttention:
    """R = A of the last layer.

    Args:
        heads: how heads are joined.
    """

    heads: Heads = "mean"
    needs_gradient: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_heads(self.heads)

    def __call__(self, layers: Sequence[Attention]) -> Tensor:
        """The matrix."""
        return fused(layers[-1].weights, self.heads)


@value
class Rollout:
    """R = Π_l (½ A_l + ½ I), later layers on the left; A_l with rows that sum to 1.

    Args:
        heads: how heads are joined.
    """

    heads: Heads = "mean"
    needs_gradient: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_heads(self.heads)

    def __call__(self, layers: Sequence[Attention]) -> Tensor:
        """The matrix."""
        rolled = identity(layers[0].weights[:, 0])
        for layer in layers:
            step = 0.5 * fused(layer.weights, self.heads) + 0.5 * identity(rolled)
            rolled = (step / step.sum(-1, keepdim=True)) @ rolled
        return rolled


@value
class LastGradient:
    """R = mean over heads of (∇A ⊙ A)⁺ of the last layer."""

    needs_gradient: ClassVar[bool] = True

    def __call__(self, layers: Sequence[Attention]) -> Tensor:
        """The matrix."""
        return relevant(layers[-1])


@value
class CarriedRelevance:
    """R ← R + Ā R from R = I, Ā the mean over heads of (∇A ⊙ A)⁺, layer by layer."""

    needs_gradient: ClassVar[bool] = True

    def __call__(self, layers: Sequence[Attention]) -> Tensor:
        """The matrix."""
        total = identity(layers[0].weights[:, 0])
        for layer in layers:
            total = total + relevant(layer) @ total
        return total


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

    def __post_init__(self) -> None:
        check_upsample(self.upsample)

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
    grid: Grid

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
    work = len(problem.x), problem.x.__getitem__, problem.everyone, job.consume
    if gradient:
        problem.inner(*work, around=job.around, purpose="attention")
    else:
        problem.forward(*work, around=job.around)
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

    def consume(self, chunk: Chunk) -> None:
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
) -> tuple[int, Grid]:
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


def _line(tokens: int, extent: Sequence[int]) -> Grid | None:
    """Tokens along a series, which may have one class token."""
    if len(extent) != 1 or not 1 < tokens <= extent[0] + 1:
        return None
    prefix = int(extent[0] % tokens != 0 and tokens > 2 and extent[0] % (tokens - 1) == 0)
    return Grid("tokens", (tokens - prefix,), prefix)


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


def row_of(matrix: Float[Tensor, "n q k"], query: int | None, grid: Grid) -> Float[Tensor, "n k"]:
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

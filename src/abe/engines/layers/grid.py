"""Where a map comes from: a layer with places, how they lie over the input, and back to its size."""

# torch leaves part of its own interface untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from abe.engines.runtime.problem import Problem
from abe.engines.runtime.work import slopes
from abe.errors import Code, InputError, ModelError, SpecError
from abe.instrument.capture import find_layer, handed_on, look
from abe.instrument.inspection import clean_name
from abe.instrument.modes import (
    eager,
)
from abe.instrument.operations import tensors
from abe.instrument.transforms import refuse_layer_inside
from abe.task.base import Task
from abe.task.lifted import LENGTH

Layout = Literal["channels_first", "channels_last", "tokens"]
LOOSE = 0.5
"""How far the strides of two axes may differ (ratio e^0.5): convolutions without padding round."""
LOOSE_TOKENS = 0.1
"""The same for rows of tokens, whose number leaves more ways open."""
MOST_PREFIX = 8
"""Most class, distillation and register tokens that may stand before the tokens of places."""
MANY = 9
"""Of that many tokens at most one may be such a token; otherwise any number would fit some grid."""


# --- how a layer's output lies over the input --------------------------------------------------------


@dataclass(frozen=True)
class LayerGrid:
    """How the numbers of a layer's output lie over the input.

    Attributes:
        layout: (b, c, …), (b, …, c), or (b, tokens, c).
        size: number of places along each axis of the input.
        prefix: tokens before those of the places (class and register tokens).
    """

    layout: Layout
    size: tuple[int, ...]
    prefix: int = 0

    def places(self, activation: Tensor) -> Tensor:
        """(n, c, …) the numbers at the places."""
        if self.layout == "channels_first":
            return activation
        if self.layout == "channels_last":
            return activation.movedim(-1, 1)
        return activation[:, self.prefix :].transpose(1, 2).unflatten(2, self.size)

    def without(self, activation: Tensor, channel: Tensor) -> Tensor:
        """The layer's output with channel ``channel[i]`` of row i zero at the places."""
        kept = activation.clone()
        rows = torch.arange(len(kept), device=kept.device)
        if self.layout == "channels_first":
            kept[rows, channel] = 0
        elif self.layout == "channels_last":
            kept.movedim(-1, 1)[rows, channel] = 0
        else:
            kept[:, self.prefix :].movedim(-1, 1)[rows, channel] = 0
        return kept


def grid_of(shape: Sequence[int], extent: Sequence[int], layout: Layout | None = None) -> LayerGrid | None:
    """How an output of this shape lies over inputs of ``extent``; None where it has no places.

    The axes of the places are those whose strides over the input agree; tokens are the whole grid
    with the input's aspect, after as few other tokens as possible. Along a series any one axis would do, so
    there ``layout`` decides, what the layer is known to give.
    """
    rank = len(extent)
    if rank == 1 and len(shape) == 3:
        layout = layout or ("channels_last" if shape[1] == extent[0] != shape[2] else None)
        if layout == "channels_last":
            return None if math.isinf(_mismatch(shape[1:2], extent)) else LayerGrid(layout, (shape[1],))
    if len(shape) == rank + 2:
        first, last = _mismatch(shape[2:], extent), _mismatch(shape[1:-1], extent)
        if min(first, last) > LOOSE:
            return None
        if first <= last:
            return LayerGrid("channels_first", tuple(shape[2:]))
        return LayerGrid("channels_last", tuple(shape[1:-1]))
    return token_grid(shape[1], extent) if len(shape) == 3 and rank == 2 else None


def layout_of(task: Task, layer: str) -> Layout | None:
    """Where a layer of that name has its channels, by its kind or by the part that stands in for it."""
    for part in task.parts:
        if part.layer == layer and part.channels is not None:
            return "channels_last" if part.channels != 1 else "channels_first"
    modules = {clean_name(name): module for name, module in task.model.named_modules()}
    return _layout(find_layer(modules, layer)[0])


def _layout(module: nn.Module) -> Layout | None:
    if isinstance(module, _CHANNELS_LAST):
        return "channels_last"
    if isinstance(module, _CHANNELS_FIRST):
        return "channels_first"
    if isinstance(module, nn.Sequential):
        return next((known for one in reversed(module) if (known := _layout(one)) is not None), None)
    return None


_CHANNELS_LAST = (
    *(nn.Embedding, nn.RNNBase, nn.LayerNorm, nn.MultiheadAttention),
    *(nn.TransformerEncoderLayer, nn.TransformerEncoder, nn.TransformerDecoderLayer, nn.TransformerDecoder),
)
_CHANNELS_FIRST = (
    nn.Conv1d,
    nn.ConvTranspose1d,
    nn.BatchNorm1d,
    nn.InstanceNorm1d,
    nn.MaxPool1d,
    nn.AvgPool1d,
)
"""Of a series; not `nn.Linear`, which may act on channels or along time."""


def token_grid(tokens: int, extent: Sequence[int]) -> LayerGrid | None:
    """The grid that ``tokens`` tokens form over an image of ``extent`` (h, w), if any."""
    for exact in (True, False):
        for prefix in range(min(MOST_PREFIX, tokens // MANY) + 1):
            size = _rectangle(tokens - prefix, extent, exact)
            if size is not None:
                return LayerGrid("tokens", size, prefix)
    return None


def _rectangle(places: int, extent: Sequence[int], exact: bool) -> tuple[int, int] | None:
    short = [(s, places // s) for s in range(1, math.isqrt(places) + 1) if places % s == 0]
    pairs = [*short, *((long, s) for s, long in short)]
    if exact:
        whole = [p for p in pairs if not any(e % s for e, s in zip(extent, p, strict=True))]
        return next((p for p in whole if _mismatch(p, extent) == 0), None)
    best = min(pairs, key=lambda pair: _mismatch(pair, extent))
    return best if _mismatch(best, extent) <= LOOSE_TOKENS else None


def _mismatch(size: Sequence[int], extent: Sequence[int]) -> float:
    """How far the strides of the axes differ, as a logarithm; infinite where there are no places."""
    if math.prod(size) <= 1 or any(s > e for s, e in zip(size, extent, strict=True)):
        return math.inf
    strides = [math.log(e / s) for s, e in zip(size, extent, strict=True)]
    return max(strides) - min(strides)


def extent_of(problem: Problem) -> tuple[int, ...]:
    """The axes of the input that have places.

    Raises:
        InputError: the input has none.
    """
    if problem.x.ndim < 3 or len(problem.task.parts) > 1:
        raise InputError(
            Code.SHAPE,
            "A map over places needs one input with places",
            got=f"features of shape {tuple(problem.x.shape)}",
            expected="(b, c, h, w) images, (b, c, t) series or (b, c, d, h, w) volumes",
        )
    return tuple(problem.x.shape[2:])


def run_extent(problem: Problem, owner: Tensor) -> tuple[int, ...]:
    """The axes with places of samples that run together, as long as each is alone."""
    lengths = problem.context.about.get(LENGTH)
    extent = extent_of(problem)
    return extent if lengths is None else (int(lengths[owner[0]]), *extent[1:])


# --- gradients inside the model ----------------------------------------------------------------------


def differentiate(scores: Tensor, inside: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of every row's own score by tensors inside the model; zeros where there is no path.

    Raises:
        ModelError: NOT_DIFFERENTIABLE, NOT_FINITE_GRADIENT, HIDDEN_BACKWARD.
    """
    if not scores.requires_grad:
        raise ModelError(
            Code.NOT_DIFFERENTIABLE,
            "The score does not depend on what was captured in a differentiable way",
            fix="Look for .detach(), torch.no_grad(), argmax, NumPy or a re-entrant checkpoint on the way "
            "from there to the output; of a layer that returns several tensors the first is read: name a "
            "module inside it; a layer may lie beside the way, as a recurrent layer does whose cell state "
            "alone is read: name another by layer=",
        )
    found = slopes(scores, inside)
    if all(gradient is None for gradient in found):
        raise ModelError(
            Code.NOT_DIFFERENTIABLE,
            "The score does not depend on what was captured",
            got="no path from the output back to it",
            fix="Name a layer that the output is computed from, and see that none after it is quantised",
        )
    gradients = [torch.zeros_like(t) if g is None else g for g, t in zip(found, inside, strict=True)]
    if not all(bool(torch.isfinite(g).all()) for g in gradients):
        raise ModelError(
            Code.NOT_FINITE_GRADIENT,
            "A gradient inside the model holds NaN or infinity",
            fix="Typical causes are sqrt, log or norm at zero inside the model; add a small constant",
        )
    return gradients


@contextmanager
def altered(model: nn.Module, layer: str, change: Callable[[Tensor], Tensor]) -> Generator[None, None, None]:
    """The model with a layer's output changed; of several calls the one that ``layer`` names."""
    modules = {clean_name(name): module for name, module in model.named_modules()}
    module, wanted = find_layer(modules, layer)
    if wanted is not None and wanted < 0:
        raise SpecError(
            Code.BAD_PARAMETER, "Count the calls of a layer from 0 where its output is changed", got=layer
        )
    calls = 0

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        nonlocal calls
        calls += 1
        if wanted is not None and calls - 1 != wanted:
            return None
        refuse_layer_inside(layer)
        return handed_on(module, output, change(next(tensors(output))))

    remove = look(module, hook)
    try:
        with eager(model):
            yield
    finally:
        remove()


# --- finding the layer -------------------------------------------------------------------------------

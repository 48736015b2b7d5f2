"""Where a map comes from: a layer with places, how they lie over the input, and back to its size."""

# torch leaves part of its own interface untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

import math
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from abe.engines.batching import Call, Chunk, slopes
from abe.engines.inspection import clean_name
from abe.engines.instrument import Instrument, Seen, eager, find_layer, refuse_opaque, with_first
from abe.engines.operations import tensors
from abe.engines.problem import Problem
from abe.errors import Code, InputError, ModelError, SpecError, note

Upsample = Literal["bilinear", "nearest"]
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
class Grid:
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


def grid_of(shape: Sequence[int], extent: Sequence[int]) -> Grid | None:
    """How an output of this shape lies over inputs of ``extent``; None where it has no places.

    The axes of the places are those whose strides over the input agree; tokens are the whole grid
    with the input's aspect, after as few other tokens as possible.
    """
    rank = len(extent)
    if len(shape) == rank + 2:
        first, last = _mismatch(shape[2:], extent), _mismatch(shape[1:-1], extent)
        if min(first, last) > LOOSE:
            return None
        if first <= last:
            return Grid("channels_first", tuple(shape[2:]))
        return Grid("channels_last", tuple(shape[1:-1]))
    return token_grid(shape[1], extent) if len(shape) == 3 and rank == 2 else None


def token_grid(tokens: int, extent: Sequence[int]) -> Grid | None:
    """The grid that ``tokens`` tokens form over an image of ``extent`` (h, w), if any."""
    for exact in (True, False):
        for prefix in range(min(MOST_PREFIX, tokens // MANY) + 1):
            size = _rectangle(tokens - prefix, extent, exact)
            if size is not None:
                return Grid("tokens", size, prefix)
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
    if problem.x.ndim < 3 or problem.task.parts:
        raise InputError(
            Code.SHAPE,
            "A map over places needs one input with places",
            got=f"features of shape {tuple(problem.x.shape)}",
            expected="(b, c, h, w) images, (b, c, t) series or (b, c, d, h, w) volumes",
        )
    return tuple(problem.x.shape[2:])


def upsampled(
    maps: Float[Tensor, "n *size"], extent: Sequence[int], mode: Upsample, *, align_corners: bool = False
) -> Float[Tensor, "n *extent"]:
    """Maps at the input's size; linear between the centres of places unless corners are aligned."""
    if mode == "nearest":
        return F.interpolate(maps[:, None], tuple(extent), mode="nearest")[:, 0]
    linear = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(extent)]
    return F.interpolate(maps[:, None], tuple(extent), mode=linear, align_corners=align_corners)[:, 0]


def check_upsample(mode: str) -> None:
    """Refuse an unknown way to enlarge a map."""
    if mode not in ("bilinear", "nearest"):
        raise SpecError(
            Code.BAD_PARAMETER,
            "No such way to enlarge a map",
            got=repr(mode),
            expected="bilinear or nearest",
        )


def over_channels(maps: Tensor, x: Tensor) -> Tensor:
    """(n, c, …) a map without channels, shared out equally so that channels sum to it."""
    return (maps / x.shape[1])[:, None].expand_as(x).contiguous()


def unit_range(maps: Tensor, epsilon: float = 0.0) -> Tensor:
    """Every row scaled to [0, 1]; a constant row becomes 0."""
    flat = maps.flatten(1)
    low = flat.amin(1, keepdim=True)
    span = flat.amax(1, keepdim=True) - low + epsilon
    return torch.where(span > 0, (flat - low) / span, torch.zeros_like(flat)).view_as(maps)


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
            "from there to the output",
        )
    found = slopes(scores, inside)
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
        return with_first(output, change(next(tensors(output))))[0]

    handle = module.register_forward_hook(hook)
    try:
        with eager(model):
            yield
    finally:
        handle.remove()


# --- finding the layer -------------------------------------------------------------------------------


def located(problem: Problem, layer: str | None) -> tuple[str, list[str]]:
    """The layer to look at, and a note where it was chosen here.

    Chosen is the last layer whose output has places on which the score depends: a transformer's last
    block gives only its class token on, so the choice falls on what that block's attention reads.
    Results of pooling do not count, nor attention matrices. Costs one forward and one backward row.

    Raises:
        ModelError: NO_SPATIAL_LAYER; OPAQUE_MODEL for scripted or traced modules.
    """
    if layer is not None:
        return layer, []
    refuse_opaque(problem.task.model)
    survey = _Survey(problem)
    one = problem.everyone[:1]
    problem.inner(1, problem.x[:1].__getitem__, one, _nothing, around=survey.around, purpose="survey")
    name = survey.chosen()
    return name, [note(Code.CHOSEN_LAYER, f"The map was taken at layer {name!r}, the last with places")]


def _nothing(chunk: Chunk) -> None:
    """Nothing is kept."""


@dataclass
class _Site:
    """One output of one module."""

    name: str
    call: int
    output: Tensor
    grid: Grid | None
    live: bool | None = None


class _Survey:
    """One observed run: every module's output, its grid, and whether the score depends on its places."""

    def __init__(self, problem: Problem) -> None:
        self.model = problem.task.model
        self.extent = extent_of(problem)
        self.sites: list[_Site] = []
        self.calls: Counter[str] = Counter()
        # Tensors are told apart by identity and by how often they were written to.
        self._handed: dict[tuple[int, int], _Site] = {}
        self._pooled: set[tuple[int, int]] = set()
        self._known: set[int] = set()
        self._alive: list[Tensor] = []

    def around(self, call: Call) -> tuple[Any, Tensor]:
        """The observed run of one row."""
        with ExitStack() as stack:
            for name, module in self.model.named_modules():
                hook = self._hook(clean_name(name))
                stack.callback(module.register_forward_hook(hook).remove)
            stack.enter_context(Instrument(self.model, observe=self._observe))
            outputs = call.forward(call.x)
        scores = call.score(outputs)
        self._grade(scores)
        self._handed.clear()
        self._known.clear()
        self._alive.clear()
        return outputs, scores

    def chosen(self) -> str:
        """Name of the last live layer, with the number of the call where there are several."""
        connected = [site for site in self.sites if site.live is not None]
        live = [site for site in connected if site.live] or connected or self.sites
        if not live:
            raise ModelError(
                Code.NO_SPATIAL_LAYER,
                "The model has no layer whose output has places",
                got=f"{len(self.calls)} modules, none with an output like (b, c, h, w), (b, h, w, c) or "
                f"(b, tokens, c) over an input of {' × '.join(map(str, self.extent))}",
                fix="Name a layer with layer=…, or use a method that needs none",
            )
        name = live[-1].name
        return f"{name}#{live[-1].call}" if self.calls[name] > 1 else name

    def _observe(self, seen: Seen, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if "pool" in seen.name or seen.name == "softmax":
            for found in tensors(output):
                self._pooled.add(_mark(found))
                self._alive.append(found)

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Any], Any]:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            call, self.calls[name] = self.calls[name], self.calls[name] + 1
            found = next(tensors(output), None)
            if not name or found is None or not found.is_floating_point() or _mark(found) in self._pooled:
                return None
            same = self._handed.get(_mark(found))
            if same is not None:
                if same.name.startswith(name + "."):
                    same.name, same.call = name, call  # the outermost module with this output names it
                return None
            if any(found is given for given in tensors(args)) and id(found) not in self._known:
                return None  # the model's own input, handed on
            return with_first(output, self._new(name, call, found))[0]

        return hook

    def _new(self, name: str, call: int, found: Tensor) -> Tensor:
        """Note an output and return what the model goes on with, so that writing into it does no harm."""
        if not found.requires_grad:
            found = found.detach().clone().requires_grad_()
        grid = grid_of(found.shape, self.extent) if len(found) == 1 else None
        site = _Site(name, call, found, grid)
        self.sites.append(site)
        handed = found.clone()
        self._handed[_mark(handed)] = site
        self._known.add(id(handed))
        self._alive.append(handed)
        return handed

    def _grade(self, scores: Tensor) -> None:
        self.sites = [site for site in self.sites if site.grid is not None]
        if not self.sites:
            return
        gradients: Sequence[Tensor | None] = [site.output for site in self.sites]
        if scores.requires_grad:
            inside = [site.output for site in self.sites]
            with suppress(ModelError):  # of a re-entrant checkpoint; removal methods can do without
                gradients = slopes(scores, inside)
        for site, gradient in zip(self.sites, gradients, strict=True):
            if gradient is not None and site.grid is not None:
                site.live = bool((site.grid.places(gradient) != 0).any())
            site.output = scores.new_empty(0)


def _mark(tensor: Tensor) -> tuple[int, int]:
    return id(tensor), tensor._version

"""Where the cells of a layer's grid lie in the input."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from abe.engines.instrument.capture import layer_name, with_first
from abe.engines.instrument.inspection import clean_name
from abe.engines.instrument.model_check import Known, known
from abe.engines.instrument.modes import Instrument, Seen, refuse_opaque
from abe.engines.instrument.operations import tensors
from abe.engines.instrument.per_model import mark
from abe.engines.layers.grid import LayerGrid, extent_of, grid_of
from abe.engines.runtime.problem import Problem
from abe.engines.runtime.work import Call, slopes
from abe.errors import Code, ModelError, note

_PLACES: "WeakKeyDictionary[Known, dict[tuple[Any, ...], str]]" = WeakKeyDictionary()
"""Layers that were chosen, by the model as it was, the inputs' shape and the score."""


def located(problem: Problem, layer: str | None) -> tuple[str, list[str]]:
    """The layer to look at, and a note where it was chosen here.

    Chosen is the last layer whose output has places on which the score depends: a transformer's last
    block gives only its class token on, so the choice falls on what that block's attention reads.
    Results of pooling do not count, nor attention matrices. Costs one forward and one backward row the
    first time; the choice is remembered until a weight or module of the model changes.

    Raises:
        ModelError: NO_SPATIAL_LAYER; LAYER for what names no layer; OPAQUE_MODEL for scripted modules.
    """
    if layer is not None:
        return layer_name(problem.task.model, layer), []
    refuse_opaque(problem.task.model)
    places = _PLACES.setdefault(known(problem.task.model), {})
    key = (tuple(problem.x.shape[1:]), type(problem.task).__name__, mark(problem.objective))
    if key not in places:
        first = problem.first()
        survey = _Survey(first)
        for _ in first.at_inputs("inner", around=survey.around, purpose="survey"):
            """The survey keeps what it needs."""
        places[key] = survey.chosen()
    name = places[key]
    return name, [note(Code.CHOSEN_LAYER, f"The map was taken at layer {name!r}, the last with places")]


@dataclass
class _Site:
    """One output of one module."""

    name: str
    call: int
    output: Tensor
    grid: LayerGrid | None
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

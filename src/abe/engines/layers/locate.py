"""Where the cells of a layer's grid lie in the input."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from abe.engines.layers.find import bypass_note
from abe.engines.layers.grid import LayerGrid, extent_of, grid_of, layout_of, run_extent
from abe.engines.runtime.problem import Problem
from abe.engines.runtime.work import Call, slopes
from abe.errors import Code, ModelError, note
from abe.instrument.capture import handed_on, layer_name, look
from abe.instrument.inspection import clean_name, path_name
from abe.instrument.model_check import Known, known
from abe.instrument.modes import Instrument, Seen, refuse_opaque
from abe.instrument.operations import SHAPE_ONLY, tensors
from abe.instrument.per_model import mark
from abe.instrument.quantised import naming_quantised
from abe.instrument.transforms import hidden, transform
from abe.task.base import ORIGINAL

_PLACES: "WeakKeyDictionary[Known, dict[tuple[Any, ...], tuple[str, list[str]]]]" = WeakKeyDictionary()
"""Layers that were chosen and notes, by the model as it was, the inputs' shape and the score."""


def located(problem: Problem, layer: str | None) -> tuple[str, list[str]]:
    """The layer to look at, and notes where it was chosen here.

    Chosen is the last layer whose output has places on which the score depends: a transformer's last
    block gives only its class token on, so the choice falls on what that block's attention reads.
    What the rest of the model reads of an output counts, not what was made of it before it was handed on:
    of a backbone that returns features beside what it pooled from them, the layer inside that made the
    features. Results of pooling do not count, nor attention matrices, nor layers that do not see the
    explained input. A note says where a part of the score goes around the layer. Costs one forward and one
    backward row the first time; the choice is remembered until a weight or module of the model changes.

    Raises:
        ModelError: NO_SPATIAL_LAYER; LAYER for what names no layer; OPAQUE_MODEL for scripted modules.
    """
    if layer is not None:
        return layer_name(problem.task.model, layer), []
    refuse_opaque(problem.task.model)
    places = _PLACES.setdefault(known(problem.task.model), {})
    key = (
        tuple(problem.x.shape[1:]),
        tuple(part.layer for part in problem.task.parts),
        mark(problem.objective),
    )
    if key not in places:
        first = problem.first()
        survey = _Survey(first)
        for _ in first.at_inputs("inner", around=survey.around, purpose="survey"):
            """The survey keeps what it needs."""
        with naming_quantised(problem.task.model):
            name = survey.chosen()
        notes = [note(Code.CHOSEN_LAYER, f"The map was taken at layer {name!r}, the last with places")]
        places[key] = name, [*notes, *([bypass_note(name)] if survey.bypassed else [])]
    name, notes = places[key]
    return name, list(notes)


@dataclass
class _Site:
    """One output of one module.

    Attributes:
        name, call: of the module, and how often it was called before.
        output: what the rest of the model reads.
        grid: how it lies over the input.
        seen: whether it depends on the explained input.
        ends: whether its first and last places stand for all: of a recurrent layer.
        live: whether the score depends on its places; None where no gradient reaches it.
    """

    name: str
    call: int
    output: Tensor
    grid: LayerGrid | None
    seen: bool
    ends: bool = False
    live: bool | None = None


class _Survey:
    """One observed run: every module's output, its grid, and whether the score depends on its places."""

    def __init__(self, problem: Problem) -> None:
        self.task, self.model = problem.task, problem.task.model
        extent_of(problem)  # refuses what has no places
        self.extent = run_extent(problem, problem.everyone[:1])
        self.bypassed = False
        self._begin()

    def _begin(self) -> None:
        """Nothing seen yet; a run that did not come to its end may have seen a part."""
        self.sites: list[_Site] = []
        self.calls: Counter[str] = Counter()
        # Tensors are told apart by identity and by how often they were written to.
        self._handed: dict[tuple[int, int], _Site] = {}
        self._pooled: set[tuple[int, int]] = set()
        self._known: set[int] = set()
        self._dependent: set[int] = set()  # tensors made of the explained input
        self._alive: list[Tensor] = []
        # A layer inside each function transform: what it gives is no output.
        self._inside: dict[str, str] = {}

    def around(self, call: Call) -> tuple[Any, Tensor]:
        """The observed run of one row."""
        self._begin()
        with ExitStack() as stack:
            for name, module in self.model.named_modules():
                hook = self._hook(clean_name(name))
                stack.callback(look(module, hook))
            stack.enter_context(Instrument(self.model, observe=self._observe))
            self._dependent.add(id(call.x))
            outputs = call.forward(call.x)
        scores = call.score(outputs)
        self._grade(scores)
        self._handed.clear()
        self._known.clear()
        self._dependent.clear()
        self._alive.clear()
        return outputs, scores

    def chosen(self) -> str:
        """Name of the last live layer, with the number of the call where there are several."""
        live = self._live()
        if not live and self._inside:
            running, name = next(iter(self._inside.items()))
            what = "The layers run inside a function transform, where a map cannot look"
            raise hidden(Code.NO_SPATIAL_LAYER, what, running, path_name(name))
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

    def _live(self) -> list[_Site]:
        """Sites that the choice is between: those on which the score depends, where there are any."""
        sites = [site for site in self.sites if site.seen] or self.sites
        connected = [site for site in sites if site.live is not None]
        return [site for site in connected if site.live] or connected or sites

    def _observe(self, seen: Seen, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        pools = "pool" in seen.name or seen.name == "softmax"
        depends = seen.name not in SHAPE_ONLY and any(
            id(getattr(t, ORIGINAL, t)) in self._dependent for t in tensors((args, kwargs))
        )
        if not pools and not depends:
            return
        for found in tensors((output, args[:1] if seen.in_place else ())):
            self._alive.append(found)
            if pools:
                self._pooled.add(_mark(found))
            if depends:
                self._dependent.add(id(found))

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Any], Any]:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            call, self.calls[name] = self.calls[name], self.calls[name] + 1
            if (running := transform()) is not None:
                self._inside.setdefault(running, name)
                return None
            found = next(tensors(output), None)
            if not name or found is None or not found.is_floating_point() or _mark(found) in self._pooled:
                return None
            same = self._handed.get(_mark(found))
            if same is not None:
                alone = len(list(tensors(output))) == 1  # else parts of the output may go around this one
                if alone and same.name.startswith(name + "."):
                    same.name, same.call = name, call  # the outermost module with this output names it
                return None
            if any(found is given for given in tensors(args)) and id(found) not in self._known:
                return None  # the model's own input, handed on
            new = self._new(name, call, found, recurrent=isinstance(module, nn.RNNBase))
            return handed_on(module, output, new)

        return hook

    def _new(self, name: str, call: int, found: Tensor, *, recurrent: bool) -> Tensor:
        """Note an output and return what the model goes on with, so that writing into it does no harm."""
        seen = id(found) in self._dependent
        read = found.clone()
        if not read.requires_grad:
            read = read.detach().requires_grad_()
        layout = layout_of(self.task, name) if read.ndim == 3 else None
        grid = grid_of(read.shape, self.extent, layout) if len(read) == 1 else None
        ends = recurrent and grid is not None and grid.size[0] > 2
        site = _Site(name, call, read, grid, seen, ends)
        self.sites.append(site)
        handed = read.clone()
        self._handed[_mark(handed)] = site
        self._known.add(id(handed))
        self._alive.append(handed)
        return handed

    def _grade(self, scores: Tensor) -> None:
        self.sites = [site for site in self.sites if site.grid is not None]
        if not self.sites:
            return
        inside = [site.output for site in self.sites]
        gradients: Sequence[Tensor | None] = inside
        if scores.requires_grad:
            with suppress(ModelError):  # of a re-entrant checkpoint; removal methods can do without
                gradients = slopes(scores, inside)
        for site, gradient in zip(self.sites, gradients, strict=True):
            if gradient is not None and site.grid is not None:
                read = (site.grid.places(gradient) != 0).any(1)
                site.live = bool(read[:, 1:-1].any() if site.ends else read.any())
        last = self._live()[-1]
        others = [site.output.grad_fn for site in self.sites if site.live and site.seen and site is not last]
        self.bypassed = bool(last.live) and _reaches(scores.grad_fn, last.output.grad_fn, others)
        for site in self.sites:
            site.output = scores.new_empty(0)


def _reaches(start: Any, wall: Any, aims: Sequence[Any]) -> bool:
    """Whether a graph has a way from its end back to one of ``aims`` that does not lead through ``wall``."""
    waiting, known = [start], {wall, None}
    while waiting:
        node = waiting.pop()
        if node in known:
            continue
        known.add(node)
        waiting += [following for following, _ in node.next_functions]
    return any(aim in known for aim in aims if aim is not None)


def _mark(tensor: Tensor) -> tuple[int, int]:
    return id(tensor), tensor._version

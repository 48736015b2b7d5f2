"""Which layer of a network everything passes through, found by running the model from candidates on."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from abe.engines.layers.at_layer import activations as activations_of
from abe.engines.layers.at_layer import at_layer
from abe.engines.layers.grid import grid_of, layout_of, run_extent
from abe.engines.runtime.problem import Problem
from abe.errors import Code, ModelError, note
from abe.instrument.capture import look
from abe.instrument.inspection import clean_name
from abe.instrument.modes import refuse_opaque
from abe.instrument.operations import tensors
from abe.instrument.transforms import transform
from abe.task.base import Context
from abe.task.lifted import below

TRIED = 16
"""Layers that `find_layer` tries before it gives up."""
SAME = 1e-4
"""Share of the largest output up to which two outputs are the same."""


class Layer(NamedTuple):
    """A layer that the network called once, with its output's shape without the batch."""

    name: str
    shape: tuple[int, ...]


def activations(problem: Problem, layer: str) -> Tensor:
    """(b, *h) what the layer gives at the samples; one forward row each.

    Raises:
        ModelError: LAYER for an unknown name (the nearest is suggested), a layer that is never reached, or
            one that does not give numbers for every sample.
    """
    h = activations_of(problem, layer, problem.x, problem.everyone)
    if not h.is_floating_point() or h.ndim < 2:
        raise ModelError(
            Code.LAYER,
            f"The layer {layer!r} does not give one activation per row",
            got=f"{h.dtype} of shape {tuple(h.shape)} for {len(problem.x)} rows",
        )
    return h


def called_layers(problem: Problem) -> list[Layer]:
    """Layers called exactly once with a tensor of numbers as output, in the order they finished; one row.

    An `nn.Identity` computes nothing, so it is no layer.
    """
    refuse_opaque(problem.task.model)
    seen: dict[str, list[tuple[int, ...]]] = {}
    order: list[str] = []
    removes = []
    for name, module in problem.task.model.named_modules():
        if isinstance(module, nn.Identity):
            continue

        def hook(module: nn.Module, args: Any, output: Any, name: str = clean_name(name)) -> None:
            found = next(tensors(output), None)
            none = found is None or not found.is_floating_point() or transform() is not None
            shape = () if found is None or none else tuple(found.shape[1:])
            seen.setdefault(name, []).append(shape)
            order.append(name)

        removes.append(look(module, hook))
    try:
        problem.outputs(problem.x, problem.everyone[:1])
    finally:
        for remove in removes:
            remove()
    return [Layer(name, seen[name][0]) for name in order if name and len(seen[name]) == 1 and seen[name][0]]


def find_layer(problem: Problem) -> str | None:
    """The last layer with at least an eighth of the input's resolution that everything passes through.

    Where no such layer has the resolution, the finest after it. None where no layer has positions.
    """
    if problem.x.ndim not in (3, 4) or len(problem.task.parts) > 1:
        return None
    space = run_extent(problem, problem.everyone[:1])
    grids = {
        one: grid_of((1, *one.shape), space, layout_of(problem.task, one.name))
        for one in called_layers(problem)
        if len(one.shape) == len(space) + 1
    }
    spatial = {one: _size(grid.size) for one, grid in grids.items() if grid is not None}
    least = _size(space) / 8 ** len(space)
    fine = [one for one, size in spatial.items() if size >= least]
    coarse = [one for one, size in spatial.items() if size < least]
    for layer in [*reversed(fine), *coarse][:TRIED]:
        if not bypassed(problem, layer.name):
            return layer.name
    return None


def bypassed(problem: Problem, layer: str) -> bool:
    """Whether something reaches the output around the layer, or the layer does not matter; four rows."""
    everyone = problem.everyone[:1]
    one = problem.with_(x=problem.x[:1], owner=everyone)
    h = activations(one, layer)
    within = at_layer(one, layer, h)
    mirrored = problem.x[:1].flatten(1).flip(1).view_as(problem.x[:1])
    samples = torch.cat([problem.x[:1], mirrored, problem.x[:1]])
    probe = within.with_(x=torch.cat([h, h, torch.zeros_like(h)]), owner=everyone.repeat(3))
    probe.context = Context(beneath=(samples, below(probe.context)[1]))
    out = probe.outputs(probe.x, probe.everyone)
    if not isinstance(out, Tensor):
        return False
    size = SAME * float(out.abs().max())
    around, matters = float((out[0] - out[1]).abs().max()), float((out[0] - out[2]).abs().max())
    return around > size or matters <= size


def bypass_note(layer: str) -> str:
    """What a result says about a layer that does not see everything."""
    return note(
        Code.BYPASSED_LAYER,
        f"Not everything passes through {layer!r}, so the map does not show what goes around it",
    )


def _size(space: Any) -> int:
    return int(torch.Size(space).numel())

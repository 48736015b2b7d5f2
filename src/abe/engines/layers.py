"""A problem seen from inside the network: the activations of a layer take the place of the input.

`at_layer` captures a layer's activations h and gives back the same request about h: rows are
activations, and the model runs with them in the place of what the layer computed. Rows are counted
like any others. `find_layer` picks a layer that everything passes through.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from abe.engines.batching import Chunk, Evaluator
from abe.engines.inspection import clean_name
from abe.engines.instrument import find_layer as named_layer
from abe.engines.instrument import refuse_opaque, with_first
from abe.engines.operations import tensors
from abe.engines.problem import Problem
from abe.errors import Code, ModelError, note
from abe.objectives import Captured
from abe.task.base import Context, Task

TRIED = 16
"""Layers that `find_layer` tries before it gives up."""
SAME = 1e-4
"""Share of the largest output up to which two outputs are the same."""


class Layer(NamedTuple):
    """A layer that the network called once, with its output's shape without the batch."""

    name: str
    shape: tuple[int, ...]


class _Reader:
    """An objective that keeps a layer's activations and scores nothing."""

    reads_logits = False

    def __init__(self, layer: str) -> None:
        self.layers = (layer,)
        self.kept: list[Tensor] = []

    def __call__(self, outputs: Captured, target: Tensor) -> Tensor:
        found = outputs.layers[self.layers[0]]
        if not found.is_floating_point() or found.ndim < 2 or len(found) != len(target):
            raise ModelError(
                Code.LAYER,
                f"The layer {self.layers[0]!r} does not give one activation per row",
                got=f"{found.dtype} of shape {tuple(found.shape)} for {len(target)} rows",
            )
        self.kept.append(found.detach().clone())
        return found.new_zeros(len(target))


def activations(problem: Problem, layer: str) -> Tensor:
    """(b, *h) what the layer gives at the samples; one forward row each.

    Raises:
        ModelError: LAYER for an unknown name (the nearest is suggested), or a layer that is never reached.
    """
    reader = _Reader(layer)
    problem.with_(objective=reader).forward(len(problem.x), problem.x.__getitem__, problem.everyone, _ignore)
    return torch.cat(reader.kept)


def at_layer(problem: Problem, layer: str, h: Tensor | None = None) -> Problem:
    """The same request about a layer's activations instead of the inputs.

    Args:
        problem: the request.
        layer: a module's name; ``"relu#1"`` for the second call of a module that runs several times.
        h: (b, *h) the activations, where they are known.
    """
    h = activations(problem, layer) if h is None else h
    task = problem.task
    others = list(problem.context.values)
    context = {f"other_{i}": problem.context.values[name] for i, name in enumerate(others)}
    inner = Task(
        model=_FromLayer(task, layer, others),
        modality=task.modality,
        lifter=None,
        labels=task.labels,
        output=_itself,
        output_kind=task.output_kind,
    )
    evaluator = plain_evaluator(problem, inner)
    return Problem(
        evaluator=evaluator,
        x=h,
        context=Context({"sample": problem.x, **context}),
        target=problem.target,
        objective=problem.objective,
        draws=problem.draws,
        ids=problem.ids,
        warnings=problem.warnings,
    )


def plain_evaluator(problem: Problem, task: Task) -> Evaluator:
    """An evaluator of another task that adds to the problem's cost and never runs a copy."""
    outer = problem.evaluator
    evaluator = Evaluator(task, execution="model", chunk=outer.chunk, advance=outer._advance)
    evaluator.cost = outer.cost
    return evaluator


class _FromLayer(nn.Module):
    """The model with a layer's output given from outside."""

    def __init__(self, task: Task, layer: str, others: list[str | int]) -> None:
        super().__init__()
        refuse_opaque(task.model)
        self._task, self._layer, self._others = task, layer, others
        self.inner = task.model

    def forward(self, h: Tensor, sample: Tensor, **others: Tensor) -> Any:
        context = Context({name: others[f"other_{i}"] for i, name in enumerate(self._others)})
        with _replaced(self.inner, self._layer, h):
            return self._task.forward(sample, context)


@contextmanager
def _replaced(model: nn.Module, layer: str, h: Tensor) -> Generator[None]:
    modules = {clean_name(name): module for name, module in model.named_modules()}
    module, wanted = named_layer(modules, layer)
    calls = 0

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        nonlocal calls
        calls += 1
        return with_first(output, h.clone())[0] if wanted in (None, calls - 1) else None

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def called_layers(problem: Problem) -> list[Layer]:
    """Layers called exactly once with a tensor of numbers as output, in the order they finished; one row.

    An `nn.Identity` computes nothing, so it is no layer.
    """
    seen: dict[str, list[tuple[int, ...]]] = {}
    order: list[str] = []
    handles = []
    for name, module in problem.task.model.named_modules():
        if isinstance(module, nn.Identity):
            continue

        def hook(module: nn.Module, args: Any, output: Any, name: str = clean_name(name)) -> None:
            found = next(tensors(output), None)
            shape = () if found is None or not found.is_floating_point() else tuple(found.shape[1:])
            seen.setdefault(name, []).append(shape)
            order.append(name)

        handles.append(module.register_forward_hook(hook))
    evaluator = plain_evaluator(problem, problem.task)
    first = problem.everyone[:1]
    try:
        evaluator.run(
            "forward",
            1,
            problem.x.__getitem__,
            owner=first,
            target=problem.target,
            context=problem.context,
            objective=None,
            consume=_ignore,
        )
    finally:
        for handle in handles:
            handle.remove()
    return [Layer(name, seen[name][0]) for name in order if name and len(seen[name]) == 1 and seen[name][0]]


def find_layer(problem: Problem) -> str | None:
    """The last layer with at least an eighth of the input's resolution that everything passes through.

    Where no such layer has the resolution, the finest after it. None where no layer has positions.
    """
    space = problem.x.shape[2:]
    if len(space) not in (1, 2):
        return None
    called = called_layers(problem)
    spatial = [one for one in called if len(one.shape) == len(space) + 1 and _size(one.shape[1:]) > 1]
    least = _size(space) / 8 ** len(space)
    fine = [one for one in spatial if _size(one.shape[1:]) >= least]
    coarse = [one for one in spatial if _size(one.shape[1:]) < least]
    for layer in [*reversed(fine), *coarse][:TRIED]:
        if not bypassed(problem, layer.name):
            return layer.name
    return None


def bypassed(problem: Problem, layer: str) -> bool:
    """Whether something reaches the output around the layer, or the layer does not matter; four rows."""
    everyone = problem.everyone[:1]
    one = problem.with_(x=problem.x[:1], owner=everyone)
    h = activations(one, layer)
    inside = at_layer(one, layer, h)
    mirrored = problem.x[:1].flatten(1).flip(1).view_as(problem.x[:1])
    samples = torch.cat([problem.x[:1], mirrored, problem.x[:1]])
    probe = inside.with_(x=torch.cat([h, h, torch.zeros_like(h)]), owner=everyone.repeat(3))
    probe.context = Context({**probe.context.values, "sample": samples})
    kept: list[Any] = []
    probe.evaluator.run(
        "forward",
        3,
        probe.x.__getitem__,
        owner=probe.everyone,
        target=probe.target,
        context=probe.context,
        objective=None,
        consume=lambda chunk: kept.append(chunk.outputs),
    )
    if not isinstance(kept[0], Tensor):
        return False
    out = torch.cat(kept)
    size = SAME * float(out.abs().max())
    around, matters = float((out[0] - out[1]).abs().max()), float((out[0] - out[2]).abs().max())
    return around > size or matters <= size


def bypass_note(layer: str) -> str:
    """What a result says about a layer that does not see everything."""
    return note(
        Code.BYPASSED_LAYER,
        f"Not everything passes through {layer!r}, so the map does not show what goes around it",
    )


def _itself(raw: Any) -> Any:
    return raw


def _size(space: Any) -> int:
    return int(torch.Size(space).numel())


def _ignore(chunk: Chunk) -> None:
    """Nothing is wanted of the outputs."""

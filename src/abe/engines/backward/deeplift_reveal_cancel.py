"""DeepLIFT RevealCancel: positive and negative parts of a change travel apart (shrikumar2017, §3.5.3).

Every change Δx = Δx⁺ + Δx⁻ has two carriers, tensors with a graph that sum to the surrogate of x. A
weighted operation sends them on by the sign of its weights,

    Δz⁺ = w⁺ Δx⁺ + w⁻ Δx⁻,   Δz⁻ = w⁻ Δx⁺ + w⁺ Δx⁻,

and an element-wise f averages over the two orders in which the parts can arrive:

    Δy⁺ = ½ [f(z′ + Δz⁺) − f(z′)] + ½ [f(z′ + Δz⁺ + Δz⁻) − f(z′ + Δz⁻)],   Δy⁻ likewise.

Behind anything else the parts are those of the sign of Δx, and its own rule is Rescale's.
"""

# torch leaves part of its own interface untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from abe.engines.backward.deeplift_record import ELEMENTWISE, partner, ratio, reference
from abe.engines.backward.deeplift_rescale import Rescale
from abe.engines.backward.lrp_weighted import split, weighted
from abe.engines.backward.step import (
    WEIGHTED,
    Step,
    close,
    origin,
    same_value,
)
from abe.spec import value

_VIEWS = frozenset(
    {"view", "reshape", "flatten", "contiguous", "squeeze", "unsqueeze", "permute", "transpose"}
)


class Parts(NamedTuple):
    """The two carriers of a tensor and the two parts of its change; the node keeps the key alive."""

    node: Any
    up: Tensor
    down: Tensor
    change_up: Tensor
    change_down: Tensor


@value
class RevealCancel:
    """The multipliers of RevealCancel at dense and convolutional layers, Rescale's elsewhere."""

    reads: ClassVar[frozenset[str]] = WEIGHTED

    def knows(self, step: Step) -> bool:
        """Whether there is a rule for the step."""
        return Rescale().knows(step)

    def __call__(self, step: Step) -> Any:
        """Run a step by the rule of its operation."""
        known: dict[int, Parts] = step.session.memory
        if step.kind == "linear" and step.name in WEIGHTED:
            return _keep(known, *_weighted(step, known))
        inputs = step.inputs()
        parts = known.get(id(origin(inputs[0])[0])) if len(inputs) == 1 else None
        if parts is not None and step.name in ELEMENTWISE:
            return _keep(known, *_elementwise(step, inputs[0], parts))
        if parts is not None and step.name in _VIEWS:
            moved = [_moved(step, inputs[0], part) for part in parts[1:]]
            return _keep(known, same_value(moved[0] + moved[1], step.value()), *moved)
        return Rescale()(step)


def _keep(known: dict[int, Parts], output: Tensor, *parts: Tensor) -> Tensor:
    known[id(output.grad_fn)] = Parts(output.grad_fn, *parts)
    return output


def _moved(step: Step, held: Tensor, part: Tensor) -> Tensor:
    return step.with_(lambda t: part if t is held else t)


def _weighted(step: Step, known: dict[int, Parts]) -> tuple[Tensor, ...]:
    call, held = weighted(step), step.value()
    parts = known.get(id(origin(call.x)[0])) or _by_sign(call.x, partner(step, call.x))
    more, less = call.weight.clamp(min=0), call.weight.clamp(max=0)

    def send(same: Tensor, other: Tensor) -> Tensor:
        return call.part(same, more) + call.part(other, less)

    up, down = send(parts.up, parts.down), send(parts.down, parts.up)
    with torch.no_grad():
        changes = send(parts.change_up, parts.change_down), send(parts.change_down, parts.change_up)
    return same_value(up + down, held), up, down, *changes


def _by_sign(x: Tensor, other: Tensor) -> Parts:
    change = x.detach() - other
    up, down = split(change)
    rising = change > 0
    zero = torch.zeros_like(x)
    return Parts(None, torch.where(rising, x, zero), torch.where(rising, zero, x), up, down)


def _elementwise(step: Step, x: Tensor, parts: Parts) -> tuple[Tensor, ...]:
    args, kwargs = reference(step)
    other = partner(step, x)

    def f(z: Tensor) -> Tensor:
        return Step(step.seen, step.func, args, kwargs, step.kind, step.number, step.session).with_(
            lambda t: z if t is other else t
        )

    with torch.no_grad():
        start, end = f(other), step.value()
        first, second = f(other + parts.change_up), f(other + parts.change_down)
    change_up = (first - start + end - second) / 2
    change_down = (second - start + end - first) / 2
    outside = ~(change_up + change_down).isfinite()
    if bool(outside.any()):  # a part alone can leave the function's domain, as that of a root or logarithm
        slope = ratio(end, start, x.detach(), other, lambda: torch.zeros_like(end))
        change_up = torch.where(outside, slope * parts.change_up, change_up)
        change_down = torch.where(outside, slope * parts.change_down, change_down)
    slopes = [
        _slope(c, d, x.detach(), other, end, start)
        for c, d in ((change_up, parts.change_up), (change_down, parts.change_down))
    ]
    up, down = parts.up * slopes[0], parts.down * slopes[1]
    return same_value(up + down, end), up, down, change_up, change_down


def _slope(change: Tensor, step_in: Tensor, x: Tensor, other: Tensor, out: Tensor, start: Tensor) -> Tensor:
    """Δy±/Δz±; Rescale's multiplier where the part did not change, zero where nothing did."""
    near, still = close(other + step_in, other), close(x, other)
    rescale = torch.where(still, 0.0, (out - start) / torch.where(still, 1.0, x - other))
    return torch.where(near, rescale, change / torch.where(near, 1.0, step_in))


__all__ = ["RevealCancel"]

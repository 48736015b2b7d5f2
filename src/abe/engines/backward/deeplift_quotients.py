"""DeepLIFT where something is divided: quotients, softmax, norms; each multiplier bounded by what it divides.

The product a · (1/b) by midpoints, ½ (1/b + 1/b′) Δa + …, is exact but of the size of the *larger* inverse:
where one pass has a small denominator its terms are huge and cancel, once more in every layer. The midpoint
rule of what the division undoes, Δa = b̄ Δq + q̄ Δb for q = a / b, is as exact and of the size of 1/b̄:

    quotient q = a / b    Δq = (Δa − q̄ Δb) / b̄
    norm n = c / p        p = √(mean c² + ε), Δp = mean(c̄ Δc) / p̄, and the quotient
    softmax s             Δs = ℓ (Δx − Σ ℓ Δx / Σ ℓ), with ℓ = Δs / Δ log s, the logarithmic mean of s and s′

That of the softmax is its Jacobian, ℓ in the place of s; it is exact because Σ Δs = 0, its entries are
between −1 and 1, and a shift of all of x or x′ changes nothing.
"""

# torch leaves part of its own interface untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from typing import Any

import torch
from torch import Tensor

from abe.engines.backward.deeplift_record import partner, ratio, reference
from abe.engines.backward.step import (
    Step,
    argument,
    depends,
    grouped,
    same_value,
)


def quotient(step: Step) -> Tensor:
    """(Δa − q̄ Δb) / b̄, where a may be a constant; by midpoints of 1/b where b and b′ differ in sign."""
    held = step.value()
    a, b = step.args[:2]
    other_a, other_b = _operands(step)
    inverse, other = 1 / b.detach(), 1 / other_b
    share = order(inverse, other)
    fixed = a.detach() if isinstance(a, Tensor) else a
    slope = -inverse * other  # Δ(1/b)/Δb
    through = ((1 - share) * fixed + share * other_a) * (b * slope)
    return same_value(a * (share * inverse + (1 - share) * other) + through if depends(a) else through, held)


def order(divisor: Tensor, other: Tensor) -> Tensor:
    """λ of Δ(a g) = (λ g + (1 − λ) g′) Δa + ((1 − λ) a + λ a′) Δg for what divides, g = 1/b.

    λ = b / (b + b′) makes it (Δa − q̄ Δb) / b̄; one half, the midpoints, where g and g′ differ in sign.
    """
    total = divisor + other
    same = (divisor * other > 0) & total.isfinite()
    return torch.where(same, other / torch.where(same, total, 1.0), 0.5)


def _operands(step: Step) -> tuple[Any, Any]:
    given = reference(step)[0]
    return given[0], given[1]


def _axis(step: Step) -> int:
    return argument(step, 1, "dim", -1)


def _exponentials(step: Step, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    """Surrogate of e = exp(x − shift), and x − shift and x′ − shift, with one shift for both."""
    x = step.args[0]
    other = partner(step, x)
    shift = torch.maximum(x.detach(), other).amax(axis, keepdim=True)
    shift = torch.where(shift.isfinite(), shift, torch.zeros_like(shift))
    mine, theirs = x.detach() - shift, other - shift
    slope = ratio(mine.exp(), theirs.exp(), x.detach(), other, lambda: ((mine + theirs) / 2).exp())
    masked = torch.isinf(x.detach())
    return x.masked_fill(masked, 0.0) * slope.masked_fill(masked, 0.0), mine, theirs


def softmax(step: Step) -> Tensor:
    """The Jacobian at the logarithmic mean."""
    axis, x = _axis(step), step.args[0]
    mine, theirs = (torch.log_softmax(t, axis) for t in (x.detach(), partner(step, x)))
    apart = (mine - theirs).abs().nan_to_num(nan=0.0)  # two masked entries
    larger = torch.maximum(mine, theirs).exp()
    mean = larger * torch.where(apart == 0, 1.0, -torch.expm1(-apart) / torch.where(apart == 0, 1.0, apart))
    x = x.masked_fill(torch.isinf(x.detach()), 0.0)
    share = mean / mean.sum(axis, keepdim=True)
    return same_value(mean * (x - (share * x).sum(axis, keepdim=True)), step.value())


def log_softmax(step: Step) -> Tensor:
    """x − log Σ exp x."""
    x = step.args[0]
    return same_value(x - _log_total(step, _axis(step)), step.value())


def logsumexp(step: Step) -> Tensor:
    """log Σ exp x."""
    axis = _axis(step)
    passed = _log_total(step, axis)
    held = step.value()
    return same_value(passed if passed.shape == held.shape else passed.squeeze(axis), held)


def _log_total(step: Step, axis: int) -> Tensor:
    surrogate, mine, theirs = _exponentials(step, axis)
    log, log_other = (t.logsumexp(axis, keepdim=True) for t in (mine, theirs))  # of a total of 0, too
    total, other = (t.exp().sum(axis, keepdim=True) for t in (mine, theirs))
    slope = ratio(log, log_other, total, other, lambda: 2 / (total + other))
    return surrogate.sum(axis, keepdim=True) * slope


def _normalised(x: Tensor, other: Tensor, axes: tuple[int, ...], epsilon: float, *, centre: bool) -> Tensor:
    """Surrogate of c · (mean c² + ε)^(−1/2) over ``axes``: (c − n̄ mean(c̄ c) / p̄) / p̄."""
    c = x - x.mean(axes, keepdim=True) if centre else x
    c_reference = other - other.mean(axes, keepdim=True) if centre else other
    held = c.detach()
    power = (held.square().mean(axes, keepdim=True) + epsilon).sqrt()
    power_reference = (c_reference.square().mean(axes, keepdim=True) + epsilon).sqrt()
    middle = (power + power_reference) / 2
    out = (held / power + c_reference / power_reference) / 2
    through = ((held + c_reference) / 2 * c).mean(axes, keepdim=True) / middle
    return (c - out * through) / middle


def layer_norm(step: Step) -> Tensor:
    """Centre, and the quotient by the deviation; then the affine part."""
    centre = step.name == "layer_norm"
    x, shape = step.args[0], argument(step, 1, "normalized_shape")
    weight = argument(step, 2, "weight")
    epsilon = argument(step, 4 if centre else 3, "eps", 1e-5 if centre else None)
    epsilon = torch.finfo(x.dtype).eps if epsilon is None else epsilon
    axes = tuple(range(-len(shape), 0))
    out = _normalised(x, partner(step, x), axes, epsilon, centre=centre)
    return same_value(out if weight is None else out * weight, step.value())


def group_norm(step: Step) -> Tensor:
    """The same over groups of channels; instance norm has one channel per group."""
    x = step.args[0]
    running = step.name == "instance_norm" and argument(step, 1, "running_mean") is not None
    if running and not argument(step, 5, "use_input_stats", True):
        return step.plain()
    groups, weight, _, epsilon = grouped(step)

    def split(t: Tensor) -> Tensor:
        return t.reshape(t.shape[0], groups, -1)

    out = _normalised(split(x), split(partner(step, x)), (2,), epsilon, centre=True).view_as(x)
    return same_value(out if weight is None else out * weight.view(-1, *[1] * (x.ndim - 2)), step.value())

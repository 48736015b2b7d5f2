"""LRP: every output hands its relevance to the inputs it was made of, in shares.

With c = R / value, R_in = x ⊙ Wᵀ(share of c): a rule is a surrogate of the operation whose gradient, times
the input, is the relevance passed on. What biases and stabilisers take is booked
by the rule's own formula, so that

    Σ R_input + R_bias + R_stabiliser + R_rest = Σ R_start        (closure)

is a statement about the rules.

Weighted operations z = W x + b, x⁺ = max(x, 0), x⁻ = min(x, 0), D any denominator below:

    ε     z + ε sign z                      γ    x⁺(w + γ w⁺) + x⁻(w + γ w⁻) where z > 0, mirrored elsewhere
    αβ    α (x⁺w⁺ + x⁻w⁻ + b⁺) − β (x⁺w⁻ + x⁻w⁺ + b⁻)         z⁺ = α1β0
    zᴮ    x w − l w⁺ − h w⁻                 w²   Σ w²         flat   Σ 1
"""

# torch leaves part of its own interface untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from abe.checks import NotNegative
from abe.engines.backward.step import (
    CONVOLUTIONS,
    Step,
    argument,
    depends,
    same_value,
    stabilised,
    transformed,
)
from abe.errors import Code, ModelError
from abe.instrument.operations import tensors
from abe.spec import value

STABILISER = 1e-6
"""Added to denominators where no other size is asked for."""


class Weighted(NamedTuple):
    """A weighted operation taken apart: z = apply(x, weight) + bias."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    apply: Callable[[Tensor, Tensor], Tensor]

    def part(self, x: Tensor, weight: Tensor) -> Tensor:
        """The linear part with other operands."""
        return self.apply(x, weight)


def weighted(step: Step) -> Weighted:
    """Take a weighted operation apart."""
    if step.name.startswith("conv") or step.name == "linear":
        names = ("input", "weight", "bias")
        kwargs = {k: v for k, v in step.kwargs.items() if k not in names}
        x, weight = argument(step, 0, "input"), argument(step, 1, "weight")
        bias, rest = argument(step, 2, "bias"), step.args[3:]

        def apply(x: Tensor, weight: Tensor) -> Tensor:
            return step.func(x, weight, None, *rest, **kwargs)

        if depends(weight):
            raise step.error("A weight depends on the input", "Add a rule for this operation")
        shaped = None if bias is None else _channelwise(step, bias)
        return Weighted(x, weight, shaped, apply)
    if step.name == "addmm" and not step.kwargs:
        bias, x, weight = step.args
        if depends(x) and not depends(weight) and not depends(bias):
            return Weighted(x, weight, bias, torch.mm)
    given = list(tensors((step.args, step.kwargs)))
    depending = [i for i, t in enumerate(given) if depends(t)]
    if len(given) == 2 and len(depending) == 1:
        mine, other = depending[0], 1 - depending[0]

        def apply_pair(x: Tensor, weight: Tensor) -> Tensor:
            counter = iter((0, 1))
            return step.with_(lambda _: x if next(counter) == mine else weight)

        return Weighted(given[mine], given[other], None, apply_pair)
    raise step.error("This call cannot be taken apart into input, weight and bias", "Add a rule for it")


def _channelwise(step: Step, bias: Tensor) -> Tensor:
    spatial = int(step.name[-2]) if step.name.startswith("conv") else 0
    return bias.reshape(-1, *[1] * spatial)


def split(x: Tensor) -> tuple[Tensor, Tensor]:
    """Positive and negative part, both with the gradient of x where they are it."""
    return torch.where(x > 0, x, torch.zeros_like(x)), torch.where(x < 0, x, torch.zeros_like(x))


@value
class Epsilon:
    """R_in = x ⊙ Wᵀ R / (z + ε sign z); biases keep their share (bach2015).

    Args:
        epsilon: the stabiliser, in units of z; 0 is LRP-0.
    """

    epsilon: NotNegative = 1e-6

    def __call__(self, step: Step) -> Any:
        """One factor z / (z + ε sign z) on the way back."""
        call = weighted(step)
        output = step.plain()
        held = output.detach()
        if not self.epsilon:
            bias = 0.0 if call.bias is None else call.bias.expand_as(held)
            return transformed(output, step.booked(bias=bias))
        total = stabilised(held, self.epsilon)
        factor = held / total
        bias = 0.0 if call.bias is None else call.bias * factor
        book = step.booked(bias=bias, stabiliser=(total - held) * factor)
        return transformed(output, lambda gradient: book(gradient) * factor)


@value
class Gamma:
    """Weights of the output's own sign count (1 + γ)-fold (montavon2019; both signs as in andeol2023).

    Args:
        gamma: how much more.
        stabiliser: added to denominators.
    """

    gamma: NotNegative = 0.25
    stabiliser: NotNegative = STABILISER

    def __call__(self, step: Step) -> Any:
        """Two denominators, one for each sign of z."""
        call, held = weighted(step), step.value()
        positive, negative = split(call.x)
        more, less = call.weight.clamp(min=0), call.weight.clamp(max=0)
        raised, lowered = call.weight + self.gamma * more, call.weight + self.gamma * less
        above = call.part(positive, raised) + call.part(negative, lowered)
        below = call.part(positive, lowered) + call.part(negative, raised)
        chosen = torch.where(held > 0, above, below)
        bias: Tensor | float = 0.0
        if call.bias is not None:
            b = call.bias
            bias = torch.where(held > 0, b + self.gamma * b.clamp(min=0), b + self.gamma * b.clamp(max=0))
        shared = chosen.detach() + bias
        total = stabilised(shared, self.stabiliser)
        factor = held / total
        book = step.booked(bias=bias * factor, stabiliser=(total - shared) * factor)
        return same_value(chosen * factor, held, book)


@value
class AlphaBeta:
    """α of the relevance along positive contributions, −β along negative ones; α − β = 1 (bach2015).

    Args:
        alpha: share of positive contributions.
        beta: share of negative contributions.
        bias: ``"absorb"`` gives the bias its share, ``"drop"`` hands it to the inputs.
        stabiliser: added to denominators.
    """

    alpha: float = 2.0
    beta: float = 1.0
    bias: Literal["absorb", "drop"] = "absorb"
    stabiliser: NotNegative = STABILISER

    def __call__(self, step: Step) -> Any:
        """Positive and negative contributions apart; an output without any of them passes nothing on."""
        call, held = weighted(step), step.value()
        positive, negative = split(call.x)
        more, less = call.weight.clamp(min=0), call.weight.clamp(max=0)
        bias = call.bias if self.bias == "absorb" else None
        up = call.part(positive, more) + call.part(negative, less)
        side = self._side(up, None if bias is None else bias.clamp(min=0), held, self.alpha)
        if self.beta:
            down = call.part(positive, less) + call.part(negative, more)
            other = self._side(down, None if bias is None else bias.clamp(max=0), held, -self.beta)
            side = _Side(*(mine + its for mine, its in zip(side, other, strict=True)))
        return same_value(side.passed, held, step.booked(bias=side.bias, stabiliser=side.stabiliser))

    def _side(self, part: Tensor, bias: Tensor | None, held: Tensor, share: float) -> "_Side":
        total = part.detach() if bias is None else part.detach() + bias
        added = (1 if share > 0 else -1) * max(self.stabiliser, 1e-30)
        factor = share * held / (total + added)
        return _Side(part * factor, torch.zeros_like(held) if bias is None else bias * factor, added * factor)


class _Side(NamedTuple):
    """Where the relevance of one sign goes, in units of c."""

    passed: Tensor
    bias: Tensor
    stabiliser: Tensor


def ZPlus(*, bias: Literal["absorb", "drop"] = "absorb", stabiliser: float = STABILISER) -> AlphaBeta:  # noqa: N802 - reads as a rule
    """z⁺: relevance along positive contributions only, which is α1β0."""
    return AlphaBeta(alpha=1.0, beta=0.0, bias=bias, stabiliser=stabiliser)


@value
class Negated:
    """A weighted operation with its weights' signs turned over: the dual unit of contrastive EBP.

    Args:
        rule: what to do with it.
    """

    rule: AlphaBeta

    def __call__(self, step: Step) -> Any:
        """The rule's shares for −W, with the value as it is."""
        call, held = weighted(step), step.value()
        positive, negative = split(call.x)
        weight = -call.weight
        part = call.part(positive, weight.clamp(min=0)) + call.part(negative, weight.clamp(max=0))
        added = max(self.rule.stabiliser, 1e-30)
        factor = held / (part.detach() + added)
        return same_value(part * factor, held, step.booked(stabiliser=added * factor))


# --- rules that give relevance to zeros: relevance form only --------------------------------------


def scaled(x: Tensor, factor: Tensor | float) -> Tensor:
    """x, whose arriving gradient is multiplied by ``factor``."""
    return transformed(x, lambda gradient: gradient * factor)


@value
class Flat:
    """R_in = equal shares of R to every input read (lapuschkin2019).

    Args:
        stabiliser: added to denominators.
    """

    stabiliser: NotNegative = STABILISER
    relevance_only = True

    def __call__(self, step: Step) -> Any:
        """Inputs and weights replaced by ones."""
        call, held = weighted(step), step.value()
        return _unscaled(call, step, held, torch.ones_like(call.weight), None, self.stabiliser)


@value
class WSquare:
    """R_in in proportion to w²; bias² keeps its share (montavon2017).

    Args:
        stabiliser: added to denominators.
    """

    stabiliser: NotNegative = STABILISER
    relevance_only = True

    def __call__(self, step: Step) -> Any:
        """Inputs replaced by ones, weights by their squares."""
        call, held = weighted(step), step.value()
        bias = None if call.bias is None else call.bias.square()
        return _unscaled(call, step, held, call.weight.square(), bias, self.stabiliser)


def _unscaled(
    call: Weighted, step: Step, held: Tensor, weight: Tensor, bias: Tensor | None, stabiliser: float
) -> Tensor:
    part = call.part(_ones_like(call.x), weight)
    shared = part.detach() + (0 if bias is None else bias)
    total = stabilised(shared, stabiliser)
    book = step.booked(
        bias=0.0 if bias is None else bias.expand_as(held) / total, stabiliser=(total - shared) / total
    )
    return same_value(part, held, lambda relevance: book(relevance) / total)


def _ones_like(x: Tensor) -> Tensor:
    """Ones through which the gradient reaches x unchanged."""
    return same_value(x, torch.ones_like(x))


@value
class ZBox:
    """zᴮ: contributions counted from the bounds, x w − l w⁺ − h w⁻ (montavon2017).

    Args:
        low, high: bounds of the operation's input; the task's bounds after its normalisation by default.
        stabiliser: added to denominators.
    """

    low: float | None = None
    high: float | None = None
    stabiliser: NotNegative = STABILISER
    relevance_only = True

    def __call__(self, step: Step) -> Any:
        """Three parts, each scaled by its own input on the way back."""
        call, held = weighted(step), step.value()
        low, high = self._bounds(step, call.x)
        more, less = call.weight.clamp(min=0), call.weight.clamp(max=0)
        x = call.x.detach()
        shared = call.part(x, call.weight) - call.part(low, more) - call.part(high, less)
        total = stabilised(shared, self.stabiliser)
        part = (
            call.part(scaled(call.x, x), call.weight)
            - call.part(scaled(call.x, low), more)
            - call.part(scaled(call.x, high), less)
        )
        book = step.booked(stabiliser=(total - shared) / total)
        return same_value(part, held, lambda relevance: book(relevance) / total)

    def _bounds(self, step: Step, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.low is not None and self.high is not None:
            return torch.full_like(x, self.low), torch.full_like(x, self.high)
        bounds, box = step.session.bounds, step.session.boxes.of(x)
        if box is not None and all(bool(torch.isfinite(end).all()) for end in box):
            return box
        if bounds is None:
            some = step.session.boxes.limits is not None
            raise ModelError(
                Code.RULE,
                "The zᴮ rule needs bounds of all that the first layer reads",
                got=f"{'some inputs' if some else 'a task'} without bounds",
                fix="Say bounds=(low, high) when you make the task, or take the w² rule for the first layer, "
                "as deep_taylor does with bounded=False",
            )
        low, high = (bound[None] if bound.ndim == x.ndim - 1 else bound for bound in bounds)
        fits = all(own in (1, size) for own, size in zip(low.shape[1:], x.shape[1:], strict=False))
        if low.ndim not in (0, x.ndim) or not fits or step.name not in CONVOLUTIONS:
            low, high = low.amin(), high.amax()  # an operation on other axes: one box holds what it reads
        return low.to(x).expand_as(x), high.to(x).expand_as(x)

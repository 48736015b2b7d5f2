"""LRP: every output hands its relevance to the inputs it was made of, in shares.

With c = R / value, R_in = x ⊙ Wᵀ(share of c): a rule is a surrogate of the operation whose gradient, times
the input, is the relevance passed on. What biases and stabilisers take is booked, so that

    Σ R_input + R_bias + R_stabiliser = Σ R_start        (closure).

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

from abe.engines.backward import RuleBook
from abe.engines.backward_deeplift import close
from abe.engines.backward_steps import Step, depends, same_value, stabilised, transformed
from abe.engines.operations import tensors
from abe.errors import Code, ModelError
from abe.spec import value

IDENTITIES = frozenset(
    """relu relu6 leaky_relu prelu rrelu elu selu celu gelu silu mish hardswish hardtanh hardshrink softshrink
    tanhshrink softsign softplus tanh threshold clamp clamp_min clamp_max expm1 log1p sqrt square abs sin tan
    sinh atan asin erf pow nan_to_num""".split()
)
"""Element-wise functions through which relevance passes unchanged: c_in = c f(x) / x."""
GATES = ("sigmoid", "hardsigmoid")
"""Their outputs only weigh something else, so they count as constants (arras2017)."""
CONSTANTS_INSIDE = frozenset(
    {"add", "sub", "rsub", "cat", "stack", "hstack", "vstack", "lerp", "masked_fill", "where", "baddbmm"}
    | {"pad", "constant_pad_nd", "index_copy", "scatter", "addcmul"}
)
"""Operations that can mix constants in; what these contribute is booked as bias relevance."""


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
        args = list(step.args)
        kwargs = dict(step.kwargs)
        x, weight, bias = (args[i] if i < len(args) else kwargs.get(n) for i, n in enumerate(names))
        rest = args[3:]
        kwargs = {k: v for k, v in kwargs.items() if k not in names}

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


def booked(step: Step, held: Tensor, bias: Tensor | float, passed: Tensor) -> Callable[[Tensor], Tensor]:
    """A transform that books gradient × bias share, and as stabiliser what neither passes on nor is bias."""
    to_bias = step.absorb("bias", bias) if isinstance(bias, Tensor) else None
    to_stabiliser = step.absorb("stabiliser", held - passed - bias)

    def book(gradient: Tensor) -> Tensor:
        if to_bias is not None:
            to_bias(gradient)
        return to_stabiliser(gradient)

    return book


@value
class Epsilon:
    """R_in = x ⊙ Wᵀ R / (z + ε sign z); biases keep their share (bach2015).

    Args:
        epsilon: the stabiliser, in units of z; 0 is LRP-0.
    """

    epsilon: float = 1e-6

    def __call__(self, step: Step) -> Any:
        """One factor z / (z + ε sign z) on the way back."""
        call = weighted(step)
        output = step.plain()
        held = output.detach()
        factor = held / stabilised(held, self.epsilon) if self.epsilon else torch.ones_like(held)
        bias = None if call.bias is None else (call.bias * factor)
        passed = held * factor - (0 if bias is None else bias)
        book = booked(step, held, 0.0 if bias is None else bias, passed)

        def back(gradient: Tensor) -> Tensor:
            return book(gradient) * factor

        return transformed(output, back)


@value
class Gamma:
    """Weights of the output's own sign count (1 + γ)-fold (montavon2019; both signs as in andeol2023).

    Args:
        gamma: how much more.
        stabiliser: added to denominators.
    """

    gamma: float = 0.25
    stabiliser: float = 1e-6

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
        factor = held / stabilised(chosen.detach() + bias, self.stabiliser)
        surrogate = chosen * factor
        return same_value(surrogate, held, booked(step, held, bias * factor, surrogate.detach()))


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
    stabiliser: float = 1e-6

    def __call__(self, step: Step) -> Any:
        """Positive and negative contributions apart; an output without any of them passes nothing on."""
        call, held = weighted(step), step.value()
        positive, negative = split(call.x)
        more, less = call.weight.clamp(min=0), call.weight.clamp(max=0)
        bias = call.bias if self.bias == "absorb" else None
        up = call.part(positive, more) + call.part(negative, less)
        surrogate, absorbed = self._side(up, None if bias is None else bias.clamp(min=0), held, self.alpha)
        if self.beta:
            down = call.part(positive, less) + call.part(negative, more)
            other, taken = self._side(down, None if bias is None else bias.clamp(max=0), held, -self.beta)
            surrogate, absorbed = surrogate + other, absorbed + taken
        return same_value(surrogate, held, booked(step, held, absorbed, surrogate.detach()))

    def _side(
        self, part: Tensor, bias: Tensor | None, held: Tensor, share: float
    ) -> tuple[Tensor, Tensor | float]:
        total = part.detach() if bias is None else part.detach() + bias
        factor = share * held / (total + (1 if share > 0 else -1) * max(self.stabiliser, 1e-30))
        return part * factor, 0.0 if bias is None else bias * factor


def ZPlus(*, bias: Literal["absorb", "drop"] = "absorb", stabiliser: float = 1e-6) -> AlphaBeta:  # noqa: N802 - reads as a rule
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
        part = call.part(positive, (-call.weight).clamp(min=0)) + call.part(
            negative, (-call.weight).clamp(max=0)
        )
        factor = held / (part.detach() + self.rule.stabiliser)
        return same_value(part * factor, held, booked(step, held, 0.0, (part * factor).detach()))


# --- rules that give relevance to zeros: relevance form only --------------------------------------


def scaled(x: Tensor, factor: Tensor) -> Tensor:
    """x, whose arriving gradient is multiplied by ``factor``."""
    return transformed(x, lambda gradient: gradient * factor)


@value
class Flat:
    """R_in = equal shares of R to every input read (lapuschkin2019)."""

    relevance_only = True

    def __call__(self, step: Step) -> Any:
        """Inputs and weights replaced by ones."""
        call, held = weighted(step), step.value()
        return _unscaled(call, step, held, torch.ones_like(call.weight), None)


@value
class WSquare:
    """R_in in proportion to w²; bias² keeps its share (montavon2017)."""

    relevance_only = True

    def __call__(self, step: Step) -> Any:
        """Inputs replaced by ones, weights by their squares."""
        call, held = weighted(step), step.value()
        bias = None if call.bias is None else call.bias.square()
        return _unscaled(call, step, held, call.weight.square(), bias)


def _unscaled(call: Weighted, step: Step, held: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    part = call.part(_ones_like(call.x), weight)
    total = stabilised(part.detach() + (0 if bias is None else bias), 1e-6)
    book = step.absorb("bias", (torch.zeros_like(held) if bias is None else bias) / total)
    lost = step.absorb("stabiliser", 1 - (part.detach() + (0 if bias is None else bias)) / total)
    return same_value(part, held, lambda relevance: lost(book(relevance)) / total)


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
    stabiliser: float = 1e-6
    relevance_only = True

    def __call__(self, step: Step) -> Any:
        """Three parts, each scaled by its own input on the way back."""
        call, held = weighted(step), step.value()
        low, high = self._bounds(step, call.x)
        more, less = call.weight.clamp(min=0), call.weight.clamp(max=0)
        x = call.x.detach()
        total = call.part(x, call.weight) - call.part(low, more) - call.part(high, less)
        total = stabilised(total, self.stabiliser)
        part = (
            call.part(scaled(call.x, x), call.weight)
            - call.part(scaled(call.x, low), more)
            - call.part(scaled(call.x, high), less)
        )
        return same_value(part, held, lambda relevance: relevance / total)

    def _bounds(self, step: Step, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.low is not None and self.high is not None:
            return torch.full_like(x, self.low), torch.full_like(x, self.high)
        bounds = step.session.bounds
        if bounds is None:
            raise ModelError(
                Code.RULE,
                "The zᴮ rule needs bounds of the input",
                got="a task without bounds",
                fix="Set bounds=(low, high) on the task, or use the w² rule",
            )
        low, high = (bound.to(x).expand_as(x) for bound in bounds)
        return low, high


# --- everything that is not weighted --------------------------------------------------------------


@value
class PassOn:
    """Linear and moving operations: shares by value, which is their own gradient; constants are booked."""

    def __call__(self, step: Step) -> Any:
        """The operation's gradient, and what constants in it contribute."""
        output = step.plain()
        if step.name not in CONSTANTS_INSIDE or not isinstance(output, Tensor) or not depends(output):
            return output
        given = list(tensors((step.args, step.kwargs)))
        if all(depends(t) for t in given) and not _has_numbers(step):
            return output  # nothing but what depends on the input
        with torch.no_grad():
            constant = step.with_(lambda t: torch.zeros_like(t) if depends(t) else t)
        constant = constant.nan_to_num(posinf=0.0, neginf=0.0)
        if not bool(constant.any()):
            return output
        return transformed(output, step.absorb("bias", constant))


def _has_numbers(step: Step) -> bool:
    if step.name in ("cat", "stack", "hstack", "vstack"):
        return False
    return any(isinstance(v, (int, float)) for v in (*step.args, *step.kwargs.values()))


@value
class Selected:
    """maximum, minimum and where: relevance goes to what was selected; constants are booked."""

    def __call__(self, step: Step) -> Any:
        """The operation's gradient."""
        output = step.plain()
        held = output.detach()
        inputs = list({id(t): t for t in step.inputs()}.values())
        if len(inputs) > 1 and all(depends(t) for t in step.args if isinstance(t, Tensor)):
            return output
        leaves = {id(t): t.detach().requires_grad_(True) for t in inputs}
        with torch.enable_grad():
            again = step.with_(lambda t: leaves.get(id(t), t))
            constant = held - sum(_euler(again, leaf) for leaf in leaves.values())
        return transformed(output, step.absorb("bias", constant)) if bool(constant.any()) else output


def _euler(output: Tensor, leaf: Tensor) -> Tensor:
    """x ∂out/∂x in the shape of an element-wise output."""
    (gradient,) = torch.autograd.grad(output.sum(), leaf, retain_graph=True)
    return (gradient * leaf.detach()).expand_as(output)


@value
class Identity:
    """Element-wise functions keep relevance: c_in = c f(x) / x, the gradient where x is zero."""

    def __call__(self, step: Step) -> Any:
        """One ratio on the way back."""
        if (source := step.session.mask_of(step)) is not None:
            return same_value(source * (step.value() != 0), step.value())
        x, held = step.inputs()[0], step.value()
        if step.name == "relu":
            return step.plain()
        zero = torch.zeros_like(held)
        if held.shape != x.shape:
            raise step.error("This call is not element-wise", "Add a rule for it")
        near = close(x.detach(), zero) | (x.detach().abs() < 1e-12)
        factor = held / torch.where(near, 1.0, x.detach())
        if bool(near.any()):
            factor = torch.where(near, self._slope(step, x), factor)
        surrogate = x * factor
        return same_value(surrogate, held, booked(step, held, 0.0, surrogate.detach()))

    def _slope(self, step: Step, x: Tensor) -> Tensor:
        leaf = x.detach().requires_grad_(True)
        with torch.enable_grad():
            out = step.with_(lambda t: leaf if t is x else t)
        return torch.autograd.grad(out.sum(), leaf)[0]


@value
class AsConstant:
    """Gates and attention weights: what they weigh gets all the relevance."""

    def __call__(self, step: Step) -> Any:
        """The value, cut from the graph."""
        return step.value()


@value
class Taylor:
    """The gradient; what gradient × input misses of the value is booked as bias (achtibat2024)."""

    def __call__(self, step: Step) -> Any:
        """For softmax: c_in = Jᵀ c."""
        output = step.plain()
        x = step.inputs()[0]
        with torch.no_grad():
            s, axis = output.detach(), step.kwargs.get("dim", step.args[1] if len(step.args) > 1 else -1)
            weighted_x = s * x.detach().nan_to_num(neginf=0.0)
            linear = weighted_x - s * weighted_x.sum(axis, keepdim=True)
        return transformed(output, step.absorb("bias", s - linear))


@value
class Halves:
    """A product of two things that depend on the input gives each half of the relevance."""

    def __call__(self, step: Step) -> Any:
        """Half of the product rule."""
        output = step.plain()
        return transformed(output, lambda gradient: gradient / 2)


@value
class Quotient:
    """a / b: the divisor counts as a constant."""

    def __call__(self, step: Step) -> Any:
        """The gradient of a alone."""
        a, b = step.args[:2]
        if not depends(a):
            raise step.error("A constant divided by the input has no LRP rule", "Pass uncovered='constant'")
        return step.func(a, b.detach(), *step.args[2:], **step.kwargs)


@value
class Affine:
    """Normalisation: centring and scaling are linear once the scale counts as a constant (ali2022)."""

    def __call__(self, step: Step) -> Any:
        """Batch norm as it is; elsewhere the standard deviation detached; shifts are booked."""
        x, held = step.inputs()[0], step.value()
        if step.name == "batch_norm":
            output = step.plain()
            zero = torch.zeros(1, *x.shape[1:2], *[1] * (x.ndim - 2), dtype=x.dtype, device=x.device)
            with torch.no_grad():
                shift = step.with_(lambda t: zero if t is x else t)
            return transformed(output, step.absorb("bias", shift.expand_as(held)))
        surrogate, shift = _centred(step, x, held)
        return same_value(surrogate, held, booked(step, held, shift, surrogate.detach()))


def _centred(step: Step, x: Tensor, held: Tensor) -> tuple[Tensor, Tensor | float]:
    """γ (x − mean) / deviation with the deviation detached, and the shift β."""
    from abe.engines.backward_deeplift import argument

    if step.name in ("layer_norm", "rms_norm"):
        centre = step.name == "layer_norm"
        shape, weight = argument(step, 1, "normalized_shape"), argument(step, 2, "weight")
        bias = argument(step, 3, "bias") if centre else None
        epsilon = argument(step, 4 if centre else 3, "eps", 1e-5 if centre else None)
        axes, view, shaped = tuple(range(-len(shape), 0)), x, (lambda t: t)
    elif step.name == "group_norm":
        groups, weight, bias = (
            argument(step, i, n) for i, n in ((1, "num_groups"), (2, "weight"), (3, "bias"))
        )
        epsilon, axes, centre = argument(step, 4, "eps", 1e-5), (2,), True
        view = x.reshape(x.shape[0], groups, -1)
        shaped = lambda t: t.view(-1, *[1] * (x.ndim - 2))  # noqa: E731
    else:
        raise step.error("This normalisation has no LRP rule", "Add a rule for it")
    epsilon = torch.finfo(x.dtype).eps if epsilon is None else epsilon
    c = view - view.mean(axes, keepdim=True) if centre else view
    out = (c / (c.detach().square().mean(axes, keepdim=True) + epsilon).sqrt()).reshape(x.shape)
    out = out if weight is None else out * shaped(weight)
    return out, 0.0 if bias is None else shaped(bias).expand_as(held)


# --- relevance form -------------------------------------------------------------------------------

_MOVES = frozenset(
    """view reshape view_as reshape_as flatten unflatten permute transpose t T mT movedim moveaxis squeeze
    unsqueeze cat stack chunk split split_with_sizes tensor_split unbind getitem select narrow contiguous clone
    to float double dropout dropout1d dropout2d dropout3d roll flip pixel_shuffle pixel_unshuffle pad
    constant_pad_nd max_pool1d max_pool2d max_pool3d adaptive_max_pool2d max amax index_select masked_fill where
    feature_dropout alpha_dropout feature_alpha_dropout""".split()
)


@value
class Relevance:
    """A rule made for c = R / value, run on R itself: divide by the output, multiply by the inputs.

    Args:
        rule: the rule inside.
    """

    rule: Any

    def __call__(self, step: Step) -> Any:
        """Moves keep their gradient and element-wise steps pass R unchanged; neither needs a ratio."""
        if getattr(self.rule, "relevance_only", False):
            return self.rule(step)
        if step.name in _MOVES:
            return step.plain()
        held = step.value()
        inputs = list({id(t): t for t in step.inputs()}.values())
        if _keeps_place(step, inputs, held):
            alive = (
                (step.with_(lambda t: torch.ones_like(t) if depends(t) else t) != 0)
                if step.name == "mul"
                else 1
            )
            return same_value(inputs[0] * alive, held)
        twins = {id(t): scaled(t, t.detach()) for t in inputs}
        args, kwargs = _swapped(step, twins)
        output = self.rule(Step(step.seen, step.func, args, kwargs, step.kind, step.number, step.session))
        if not depends(output):
            return output
        back = stabilised(held, 0.0)
        lost = step.absorb("stabiliser", (held == 0).to(held.dtype))
        return transformed(output, lambda relevance: torch.where(held == 0, 0.0, lost(relevance) / back))


def _keeps_place(step: Step, inputs: list[Tensor], held: Any) -> bool:
    """One tensor of the input in, the same shape out, entry by entry."""
    if len(inputs) != 1 or not isinstance(held, Tensor) or held.shape != inputs[0].shape:
        return False
    entrywise = IDENTITIES | {"add", "sub", "rsub", "mul", "div", "neg", "batch_norm"}
    return step.name in entrywise


def _swapped(step: Step, twins: dict[int, Tensor]) -> tuple[Any, Any]:
    found: list[Any] = []

    def collect(*args: Any, **kwargs: Any) -> None:
        found.extend((args, kwargs))

    Step(step.seen, collect, step.args, step.kwargs, step.kind, step.number, step.session).with_(
        lambda t: twins.get(id(t), t)
    )
    return found[0], found[1]


# --- books ----------------------------------------------------------------------------------------

Softmax = Literal["constant", "taylor"]


def lrp_book(
    *,
    convolution: Any,
    dense: Any,
    first: Any = None,
    softmax: Softmax = "constant",
    rules: tuple[tuple[str, Any], ...] = (),
) -> RuleBook:
    """An LRP rule book: what weighted operations get, by place, and what everything else gets.

    Args:
        convolution: rule of convolutions.
        dense: rule of dense operations.
        first: rule of the first weighted operation, if another.
        softmax: attention weights as constants (ali2022) or by their gradient (achtibat2024).
        rules: further rules in front.
    """
    attention = AsConstant() if softmax == "constant" else Taylor()
    entries: list[tuple[str, Any]] = list(rules)
    entries += [("first", first)] if first is not None else []
    entries += [("convolution", convolution), ("dense", dense), ("softmax", attention)]
    entries += [(gate, AsConstant()) for gate in GATES]
    entries += [(name, Identity()) for name in sorted(IDENTITIES)]
    entries += [(name, Selected()) for name in ("maximum", "minimum", "where")]
    entries += [("linear", PassOn()), ("plumbing", PassOn()), ("constant", PassOn()), ("div", Quotient())]
    entries += [(name, Halves()) for name in ("mul", "matmul", "bmm", "mm", "einsum")]
    entries += [(n, Affine()) for n in ("batch_norm", "layer_norm", "rms_norm", "group_norm")]
    entries += [(n, PassOn()) for n in sorted(_MOVES) if n.startswith(("max", "adaptive_max", "amax"))]
    return RuleBook(entries=tuple(entries))


def needs_relevance(book: RuleBook) -> bool:
    """Whether a book holds rules that exist in relevance form only."""
    return any(getattr(rule, "relevance_only", False) for _, rule in book.entries)


def in_relevance(book: RuleBook) -> RuleBook:
    """The same book for relevance form."""
    return RuleBook(entries=tuple((key, Relevance(rule=rule)) for key, rule in book.entries))

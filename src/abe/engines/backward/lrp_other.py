"""LRP beyond weighted operations: activations, gates, products, norms; relevance form; rule books."""

# torch leaves part of its own interface untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from typing import Any, Literal

import torch
from torch import Tensor

from abe.checks import NotNegative
from abe.engines.backward.lrp_weighted import scaled
from abe.engines.backward.one_value import IDENTITIES
from abe.engines.backward.run import RuleBook, registered_rules
from abe.engines.backward.step import (
    Step,
    argument,
    close,
    depends,
    grouped,
    names,
    same_value,
    stabilised,
    transformed,
)
from abe.instrument.operations import factors, tensors
from abe.spec import value

Gates = Literal["half", "constant"]
GATES = ("sigmoid", "hardsigmoid")
"""Their outputs only weigh something else, so they count as constants (arras2017)."""
DIVISORS = ("rdiv", "reciprocal", "rsqrt")
"""What divides only weighs something else too, as in `Quotient`; negative powers are divisors as well."""
EXPONENTIALS = ("exp", "exp2", "rpow")
"""They are never zero and weigh something else, as in a softmax written by hand; so do powers of numbers."""
_JOINED = frozenset({"cat", "stack", "hstack", "vstack", "dstack", "column_stack"})
CONSTANTS_INSIDE = _JOINED | names(
    """add sub rsub lerp masked_fill where pad constant_pad_nd index_copy scatter setitem copy index_fill
    index_put scatter_add index_add diff"""
)
"""Operations that can mix constants in; what these contribute is booked as bias relevance."""


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
        return transformed(output, step.booked(bias=constant))


def weighs(step: Step) -> bool:
    """Whether this is a power that only weighs something else: with a negative exponent, or of a number."""
    if step.name != "pow":
        return False
    exponent = argument(step, 1, "exponent")
    if depends(exponent):
        return not depends(step.args[0])
    return bool(torch.as_tensor(exponent < 0).any())


def _has_numbers(step: Step) -> bool:
    if step.name in _JOINED:
        return False
    return any(isinstance(v, (int, float)) for v in (*step.args, *step.kwargs.values()))


@value
class Selected:
    """maximum and minimum: relevance goes to what was selected; a selected constant is booked."""

    def __call__(self, step: Step) -> Any:
        """The operation's gradient, and that of a constant operand times its value."""
        output = step.plain()
        fixed = next((t for t in tensors((step.args, step.kwargs)) if not depends(t)), None)
        if fixed is None:
            return output
        other = fixed.detach().to(output).expand_as(output).clone().requires_grad_(True)
        with torch.enable_grad():
            again = step.with_(lambda t: other if t is fixed else t.detach())
        (chosen,) = torch.autograd.grad(again, other, torch.ones_like(again))
        return transformed(output, step.booked(bias=other.detach() * chosen))


@value
class Identity:
    """Functions of one value keep relevance, entry by entry: c_in = c f(x) / x, the gradient at x = 0.

    A product of functions of one value is one too, see `one_value`.

    Args:
        stabiliser: added to x below the line, as some published code does.
    """

    stabiliser: NotNegative = 0.0

    def __call__(self, step: Step) -> Any:
        """One ratio on the way back."""
        held = step.value()
        if weighs(step):
            return held
        if step.name == "relu":
            return step.plain()
        root = step.root() if step.kind == "product" else None
        x = step.inputs()[0] if root is None else root
        zero = torch.zeros_like(held)
        if held.shape != x.shape:
            raise step.error("This call is not element-wise", "Add a rule for it")
        near = close(x.detach(), zero) | (x.detach().abs() < 1e-12)
        factor = held / (torch.where(near, 1.0, x.detach()) + self.stabiliser)
        if bool(near.any()):
            factor = torch.where(near, self._slope(step, x), factor)
            # Where x is zero the function's value there is nobody's.
            with torch.no_grad():
                at_zero = _at(step, x, torch.zeros_like(x))
            return same_value(x * factor, held, step.booked(rest=at_zero * near))
        taken = held - x.detach() * factor if self.stabiliser else None
        return same_value(x * factor, held, None if taken is None else step.booked(stabiliser=taken))

    def _slope(self, step: Step, x: Tensor) -> Tensor:
        leaf = x.detach().requires_grad_(True)
        with torch.enable_grad():
            out = _at(step, x, leaf)
        return torch.autograd.grad(out, leaf, torch.ones_like(out))[0]


def _at(step: Step, x: Tensor, other: Tensor) -> Any:
    """What a function of the value x gives for another one."""
    if step.kind == "product" and step.session.values is not None:
        return step.session.values.again(step, x, other)
    return step.with_(lambda t: other if t is x else t)


@value
class AsConstant:
    """Gates and attention weights: what they weigh gets all the relevance."""

    def __call__(self, step: Step) -> Any:
        """The value, cut from the graph."""
        return step.value()


@value
class Taylor:
    """Softmax by its gradient; s − J x, its Taylor expansion at zero, is booked as bias (achtibat2024)."""

    def __call__(self, step: Step) -> Any:
        """c_in = Jᵀ c with J = diag s − s sᵀ."""
        output = step.plain()
        axis = argument(step, 1, "dim", -1)
        with torch.no_grad():
            s, x = output.detach(), step.inputs()[0].nan_to_num(neginf=0.0)
            at_zero = s * (1 - x + (s * x).sum(axis, keepdim=True))
        return transformed(output, step.booked(bias=at_zero))


@value
class Shifted:
    """Log-softmax: logits and a shift, log Σ exp x, which counts as a constant and is booked as bias."""

    def __call__(self, step: Step) -> Any:
        """c_in = c."""
        x, held = step.args[0], step.value()
        return same_value(x, held, step.booked(bias=held - x.detach()))


@value
class Halves:
    """A product of k things that depend on the input gives each 1/k of the relevance: halves, mostly.

    Args:
        gates: ``"constant"`` gives all to the other factor where one came out of an activation and the other
            did not, as silu(a) · b of a gated layer.
    """

    gates: Gates = "half"

    def __call__(self, step: Step) -> Any:
        """Each factor's gradient is scaled; that of what is added to the product (a layer's bias) is not."""
        given, changing = list(tensors((step.args, step.kwargs))), step.factors()
        if self.gates == "constant" and (gate := _gate(step, given, changing)) is not None:
            return step.replaced({gate: given[gate].detach()})
        output = step.replaced({i: scaled(given[i], 1 / len(changing)) for i in changing})
        inside = factors(step.name, len(given))
        if all(i in inside or depends(t) for i, t in enumerate(given)):
            return output
        with torch.no_grad():
            zeros = {i: torch.zeros_like(t) for i, t in enumerate(given) if depends(t)}
            constant = step.replaced(zeros).nan_to_num(neginf=0.0)
        return transformed(output, step.booked(bias=constant))


def _gate(step: Step, given: list[Tensor], changing: list[int]) -> int | None:
    """The number of the only factor that came out of an activation."""
    values = step.session.values
    if step.name != "mul" or values is None:
        return None
    bent = [i for i in changing if values.bent(given[i])]
    return bent[0] if len(bent) == 1 else None


@value
class Gated:
    """glu: a · σ(b) gives all to a, as any gate's product does."""

    def __call__(self, step: Step) -> Any:
        """The gate held."""
        a, b = step.inputs()[0].chunk(2, argument(step, 1, "dim", -1))
        return same_value(a * b.detach().sigmoid(), step.value())


@value
class Quotient:
    """a / b: the divisor counts as a constant, and so does a constant divided by the input."""

    def __call__(self, step: Step) -> Any:
        """The gradient of a alone."""
        a, b = step.args[:2]
        return step.func(a, b.detach(), *step.args[2:], **step.kwargs) if depends(b) else step.plain()


@value
class Affine:
    """Normalisation: centring and scaling are linear once the scale counts as a constant (ali2022)."""

    def __call__(self, step: Step) -> Any:
        """Batch norm as it is; elsewhere the standard deviation detached; shifts are booked."""
        x, held = step.args[0], step.value()
        if step.name == "batch_norm" or (step.name == "instance_norm" and not _own_statistics(step)):
            if len(step.inputs()) > 1:
                raise step.error(
                    "The statistics of a norm depend on the input", "Write it as plain operations"
                )
            output = step.plain()
            zero = torch.zeros(1, *x.shape[1:2], *[1] * (x.ndim - 2), dtype=x.dtype, device=x.device)
            with torch.no_grad():
                shift = step.with_(lambda t: zero if t is x else t)
            return transformed(output, step.booked(bias=shift.expand_as(held)))
        surrogate, shift = _centred(step, x, held)
        return same_value(surrogate, held, step.booked(bias=shift))


def _own_statistics(step: Step) -> bool:
    """Whether an instance norm takes those of the instance, not running ones."""
    return argument(step, 1, "running_mean") is None or argument(step, 5, "use_input_stats", True)


def _centred(step: Step, x: Tensor, held: Tensor) -> tuple[Tensor, Tensor | float]:
    """γ (x − mean) / deviation with the deviation detached, and the shift β."""
    if step.name in ("layer_norm", "rms_norm"):
        centre = step.name == "layer_norm"
        shape, weight = argument(step, 1, "normalized_shape"), argument(step, 2, "weight")
        bias = argument(step, 3, "bias") if centre else None
        epsilon = argument(step, 4 if centre else 3, "eps", 1e-5 if centre else None)
        axes, view, spatial = tuple(range(-len(shape), 0)), x, 0
    else:
        groups, weight, bias, epsilon = grouped(step)
        axes, centre, spatial = (2,), True, x.ndim - 2
        view = x.reshape(x.shape[0], groups, -1)
    epsilon = torch.finfo(x.dtype).eps if epsilon is None else epsilon
    c = view - view.mean(axes, keepdim=True) if centre else view
    out = (c / (c.detach().square().mean(axes, keepdim=True) + epsilon).sqrt()).reshape(x.shape)
    out = out if weight is None else out * _spread(weight, spatial)
    return out, 0.0 if bias is None else _spread(bias, spatial).expand_as(held)


def _spread(weight: Tensor, spatial: int) -> Tensor:
    """(c,) as (c, 1, …) for group norms; layer norms' weights fit as they are."""
    return weight.reshape(-1, *[1] * spatial) if spatial else weight


# --- relevance form -------------------------------------------------------------------------------

_CHOSEN = names(
    """max amax min amin median sort topk kthvalue msort max_pool1d max_pool2d max_pool3d adaptive_max_pool1d
    adaptive_max_pool2d adaptive_max_pool3d max_pool1d_with_indices max_pool2d_with_indices
    max_pool3d_with_indices adaptive_max_pool1d_with_indices adaptive_max_pool2d_with_indices
    adaptive_max_pool3d_with_indices"""
)
"""They give on some of the entries that they read, or all of them in another order."""
_MOVES = _CHOSEN | names(
    """view reshape view_as reshape_as flatten unflatten permute transpose t T mT movedim moveaxis squeeze
    unsqueeze cat stack chunk split split_with_sizes tensor_split unbind getitem select narrow contiguous
    clone to float double dropout dropout1d dropout2d dropout3d roll flip pixel_shuffle pixel_unshuffle pad
    constant_pad_nd index_select masked_fill where setitem feature_dropout alpha_dropout
    feature_alpha_dropout"""
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
        held = step.value()
        if step.name in _MOVES or not isinstance(held, Tensor):
            return _moved(step)
        root = step.root() if step.name == "mul" and len(step.factors()) > 1 else None
        if root is not None:
            return same_value(root, held)
        inputs = list({id(t): t for t in step.inputs()}.values())
        if _keeps_place(step, inputs, held):
            return _kept(step, inputs[0], held)
        twins = {id(t): scaled(t, t.detach()) for t in inputs}
        args, kwargs = _swapped(step, twins)
        output = self.rule(Step(step.seen, step.func, args, kwargs, step.kind, step.number, step.session))
        if not depends(output):
            return output
        back = stabilised(held, 0.0)
        lost = step.booked(rest=(held == 0).to(held.dtype))
        return transformed(output, lambda relevance: torch.where(held == 0, 0.0, lost(relevance) / back))


def _kept(step: Step, x: Tensor, held: Tensor) -> Tensor:
    """Entry by entry relevance stays what it is; what a gate of zero lets through is nobody's."""
    if step.name != "mul":
        return same_value(x, held)
    alive = (step.with_(lambda t: torch.ones_like(t) if depends(t) else t) != 0).to(held.dtype)
    return same_value(x * alive, held, step.booked(rest=1 - alive))


def _moved(step: Step) -> Any:
    """Entries keep their relevance; that of entries which are constants is booked."""
    output = step.plain()
    if step.name not in CONSTANTS_INSIDE or not isinstance(output, Tensor):
        return output
    with torch.no_grad():
        zeros, ones = (step.with_(lambda t, fill=f: fill(t) if depends(t) else t) for f in _FILLS)
    constant = ones == zeros
    return (
        transformed(output, step.booked(bias=constant.to(output.dtype))) if bool(constant.any()) else output
    )


_FILLS = (torch.zeros_like, torch.ones_like)


def _keeps_place(step: Step, inputs: list[Tensor], held: Any) -> bool:
    """One tensor of the input in, the same shape out, entry by entry."""
    if len(inputs) != 1 or not isinstance(held, Tensor) or held.shape != inputs[0].shape:
        return False
    entrywise = IDENTITIES | {"add", "sub", "rsub", "mul", "div", "neg", "batch_norm"}
    return step.name in entrywise and not weighs(step)


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
    gates: Gates = "half",
    identity: Identity | None = None,
    rules: tuple[tuple[str, Any], ...] = (),
) -> RuleBook:
    """An LRP rule book: what weighted operations get, by place, and what everything else gets.

    Args:
        convolution: rule of convolutions.
        dense: rule of dense operations.
        first: rule of the first weighted operation, if another.
        softmax: attention weights as constants (ali2022) or by their gradient (achtibat2024).
        gates: whether the activated factor of a gated layer shares the relevance or counts as a constant.
        identity: rule of functions of one value, if another.
        rules: further rules in front.
    """
    identity = Identity() if identity is None else identity
    attention = AsConstant() if softmax == "constant" else Taylor()
    entries: list[tuple[str, Any]] = list(rules)
    entries += [("first", first)] if first is not None else []
    entries += [("convolution", convolution), ("dense", dense), ("softmax", attention)]
    entries += [(gate, AsConstant()) for gate in (*GATES, *DIVISORS, *EXPONENTIALS)]
    entries += [("log_softmax", Shifted()), ("div", Quotient()), ("glu", Gated())]
    entries += [("one value", identity), ("product", Halves(gates=gates))]
    entries += [(name, identity) for name in sorted(IDENTITIES)]
    entries += [("maximum", Selected()), ("minimum", Selected()), ("where", PassOn())]
    entries += [("linear", PassOn()), ("plumbing", PassOn()), ("constant", PassOn())]
    entries += [(f"{kind}_norm", Affine()) for kind in ("batch", "layer", "rms", "group", "instance")]
    entries += [(n, PassOn()) for n in sorted(_CHOSEN)]
    return RuleBook(entries=(*entries, *registered_rules("ratio")))


def needs_relevance(book: RuleBook) -> bool:
    """Whether a book holds rules that exist in relevance form only."""
    return any(getattr(rule, "relevance_only", False) for _, rule in book.entries)


def in_relevance(book: RuleBook) -> RuleBook:
    """The same book for relevance form."""
    return RuleBook(entries=tuple((key, Relevance(rule=rule)) for key, rule in book.entries))

"""DeepLIFT: multipliers Δout/Δin that make ΣA = score(x) − score(x′) exact, operation by operation.

Two aligned passes: the reference runs first and what its operations read is recorded in order; then the
input runs, each operation beside its record. (Nothing depends on where the batch axis is, and the
reference needs no backward pass.) With m̄ = (m + m′)/2 the rules are exact:

    f element-wise       Δf = (Δf/Δx) Δx
    product a · b        Δ(ab) = b̄ Δa + ā Δb
    softmax              e = exp(x − shared shift), S = Σe, e · 1/S by these two rules
    layer norm           c = x − mean, q = mean c², c · (q + ε)^(−1/2) by these two rules
    max-pool, max        Δout goes to the maximum of whichever of x, x′ has the larger one

A product of k factors gives each the mean over the orders in which they can change; k = 2 is the rule above.
"""

# torch leaves part of its own interface untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain, combinations
from math import comb
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from abe.engines.backward.deeplift_masks import LAID_OVER, Mask, compared, laid_over
from abe.engines.backward.step import (
    COMPARISONS,
    MASK_CASTS,
    Session,
    Step,
    argument,
    close,
    depends,
    grouped,
    names,
    same_value,
    where,
)
from abe.errors import Code, ModelError
from abe.instrument.modes import Function, Seen
from abe.instrument.operations import PRODUCTS, WITH_A_WEIGHT, factors, tensors
from abe.spec import value

ELEMENTWISE = names(
    """relu relu6 leaky_relu prelu rrelu elu selu celu gelu silu mish hardswish hardsigmoid hardtanh
    hardshrink softshrink tanhshrink softplus softsign sigmoid logsigmoid tanh threshold clamp clamp_min
    clamp_max exp expm1 log log2 log10 log1p sqrt rsqrt reciprocal pow rpow square abs sin cos tan sinh cosh
    atan asin acos erf erfc rdiv nan_to_num sign sgn floor ceil round trunc frac exp2 logit sinc erfinv lgamma
    digamma asinh acosh atanh deg2rad rad2deg"""
)
MOST_FACTORS = 5
"""Most factors of a product: k of them cost k 2^(k − 1) products."""
REDUCTIONS = frozenset({"max", "min", "amax", "amin"})
POOLS = {
    "max_pool1d": F.max_pool1d_with_indices,
    "max_pool2d": F.max_pool2d_with_indices,
    "max_pool3d": F.max_pool3d_with_indices,
    "adaptive_max_pool1d": F.adaptive_max_pool1d_with_indices,
    "adaptive_max_pool2d": F.adaptive_max_pool2d_with_indices,
    "adaptive_max_pool3d": F.adaptive_max_pool3d_with_indices,
}
INDEXED = frozenset(f"{name}_with_indices" for name in POOLS)
"""They give the places of the maxima beside them."""
_RECORDED = (
    ELEMENTWISE
    | PRODUCTS
    | POOLS.keys()
    | INDEXED
    | {"div", "softmax", "log_softmax", "logsumexp", "layer_norm", "group_norm", "instance_norm", "rms_norm"}
    | {"maximum", "minimum", "glu"}
    | LAID_OVER
    | COMPARISONS
    | REDUCTIONS
)


@dataclass
class Record:
    """What the reference pass read, in order."""

    names: list[str] = field(default_factory=list)
    given: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=dict)
    also: frozenset[str] = frozenset()

    def __call__(self, seen: Seen, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.reads(seen, args):
            # Clones, because a later in-place operation may write to what this one reads.
            self.given[len(self.names)] = (_kept(args), _kept(kwargs))
            self.names.append(seen.name)
        return func(*args, **kwargs)

    def reads(self, seen: Seen, args: tuple[Any, ...]) -> bool:
        """Whether a rule may want to know what this call read; a layer with a parameter is linear."""
        layer = seen.name in WITH_A_WEIGHT and len(args) > 1 and isinstance(args[1], torch.nn.Parameter)
        return seen.name in self.also or (seen.name in _RECORDED and not layer)


def _kept(item: Any) -> Any:
    if isinstance(item, Tensor):
        return item if isinstance(item, torch.nn.Parameter) or item.ndim == 0 else item.detach().clone()
    if isinstance(item, (list, tuple)) and not hasattr(item, "_fields"):
        return type(item)(_kept(part) for part in item)
    if isinstance(item, dict):
        return {key: _kept(part) for key, part in item.items()}
    return item


class Replay(Session):
    """The session of the input's pass: every step beside its record."""

    def __init__(self, choose: Callable[[Step], Any], record: Record) -> None:
        super().__init__(choose=choose, form="multiplier")
        self.record = record
        self.at, self.beside = -1, False
        self._twins: dict[int, Mask] = {}

    def __call__(self, seen: Seen, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.beside = self.record.reads(seen, args)
        if not self.beside:
            return super().__call__(seen, func, args, kwargs)
        self.at += 1
        if self.at >= len(self.record.names) or self.record.names[self.at] != seen.name:
            raise ModelError(
                Code.RULE,
                "The model runs other operations on the input than on the reference",
                got=where(seen.name, seen.module),
                fix="Its forward branches on values, which DeepLIFT cannot compare; use a path method",
            )
        return super().__call__(seen, func, args, kwargs)

    def twin_of(self, step: Step) -> Mask | None:
        """The mask with a twin that a step lays over something, if there is exactly one."""
        if step.name not in LAID_OVER or not self._twins:
            return None
        given = [t for t in tensors((step.args, step.kwargs)) if not depends(t)]
        if step.name == "setitem":  # h[mask] = one number
            plain = len(step.args) == 3 and isinstance(step.args[1], Tensor)
            given = given if plain and torch.as_tensor(step.args[2]).numel() == 1 else []
        found = [self._twins[id(t)] for t in given if id(t) in self._twins]
        return found[0] if len(found) == 1 else None

    def _compare(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        mask = super()._compare(func, args, kwargs)
        given = self.record.given[self.at][0]
        if len(args) == len(given) == 2 and isinstance(mask, Tensor):
            with torch.no_grad():
                theirs, other = func(*given), torch.as_tensor(given[0] - given[1])
            if other.is_floating_point():
                self._twins[id(mask)] = compared(mask, theirs, args[0] - args[1], other)
        return mask

    def _of_constants(self, seen: Seen, args: tuple[Any, ...], output: Any) -> Any:
        """A mask as numbers is its twin; its opposite has one too."""
        known = self._twins.get(id(args[0])) if args else None
        if known is None or not isinstance(output, Tensor) or seen.name not in MASK_CASTS:
            return output
        if output.dtype == torch.bool:
            self._twins[id(output)] = known if output is known.mask else known.inverted(output)
            return output
        return known.twin if output.dtype == known.twin.dtype else output


def reference(step: Step) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What this step's operation read in the reference pass."""
    session = step.session
    if not isinstance(session, Replay) or not session.beside:
        raise step.error(
            "A rule needs the reference of an operation that records none", "Use DeepLift's rules"
        )
    return session.record.given[session.at]


# --- rules ----------------------------------------------------------------------------------------


@value
class Rescale:
    """The multipliers of DeepLIFT Rescale, and of what completes it on gates, attention and norms."""

    reads: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, step: Step) -> Any:
        """Run a step by the rule of its operation."""
        name = step.name
        if name in ELEMENTWISE or _of_one_value(step):
            return elementwise(step)
        mask = step.session.twin_of(step) if isinstance(step.session, Replay) else None
        if mask is not None:
            return laid_over(step, mask, list(tensors(reference(step))))
        if step.kind in ("linear", "plumbing") or name == "batch_norm":
            return _linear(step)
        rule = _RULES.get(name)
        if rule is None:
            raise LookupError(name)
        return rule(step)

    def knows(self, step: Step) -> bool:
        """Whether there is a rule for the step."""
        known = step.kind in ("linear", "plumbing") or step.name in ELEMENTWISE or step.name in _RULES
        return known or step.name == "batch_norm"


def _of_one_value(step: Step) -> bool:
    """Whether a mask and what it is laid over are one value, which makes the call a function of that."""
    if step.name not in LAID_OVER or len(step.inputs()) != 1:
        return False
    return step.session.mask_of(step) is not None


def _linear(step: Step) -> Any:
    """Linear in what depends on the input."""
    if step.name == "batch_norm" and len(step.inputs()) > 1:
        raise step.error("The statistics of a batch norm depend on the input", "Write it as plain operations")
    return step.plain()


def partner(step: Step, tensor: Tensor) -> Tensor:
    """The reference's counterpart of an argument of the step."""
    args, kwargs = reference(step)
    for mine, theirs in zip(tensors((step.args, step.kwargs)), tensors((args, kwargs)), strict=True):
        if mine is tensor:
            return theirs
    raise step.error("An argument has no counterpart in the reference pass", "Use Rescale's rules")


SURE = 1e3
"""Changes are this many times the rounding of the value, as of a sigmoid near ½ whose input is near 0."""


def ratio(
    out: Tensor, out_reference: Tensor, x: Tensor, other: Tensor, slope: Callable[[], Tensor]
) -> Tensor:
    """Δout/Δx, and the gradient where Δx is rounding, or makes of the rounding of values a slope."""
    near = close(x, other) | ((x - other).abs() <= SURE * torch.finfo(out.dtype).eps * out.abs())
    multiplier = (out - out_reference) / torch.where(near, 1.0, x - other)
    return torch.where(near, slope(), multiplier) if bool(near.any()) else multiplier


def elementwise(step: Step) -> Tensor:
    """f(x) with multiplier Δf/Δx."""
    x = step.inputs()[0]
    if len({id(t) for t in step.inputs()}) > 1:
        raise step.error("A function of two tensors has no element-wise rule", "Add a rule for it")
    args, kwargs = reference(step)
    other = partner(step, x)
    with torch.no_grad():
        out_reference = step.func(*args, **kwargs)
    leaf = x.detach().requires_grad_(True)
    with torch.enable_grad():
        out = step.with_(lambda t: leaf if t is x else t)
        if out.shape != x.shape:
            raise step.error("This call is not element-wise", "Add a rule for it")

    def slope() -> Tensor:
        return torch.autograd.grad(out, leaf, torch.ones_like(out))[0]

    plain = out.detach()
    return same_value(x * ratio(plain, out_reference, x.detach(), other, slope), plain)


def product(step: Step) -> Tensor:
    """op(a, b̄) + op(ā, b) for two factors that depend on the input, and its like for more.

    What is added to the product (the bias of a layer) is added once.
    """
    held, changing = step.value(), step.factors()
    mine = list(tensors((step.args, step.kwargs)))
    theirs = list(tensors(reference(step)))
    if len(changing) > MOST_FACTORS:
        raise step.error(f"A product of more than {MOST_FACTORS} tensors of the input", "Write it as several")
    inside = factors(step.name, len(mine))
    without = {i: torch.zeros_like(t) for i, t in enumerate(mine) if i not in inside}
    out: Any = step.replaced({i: torch.zeros_like(mine[i]) for i in changing}) if without else 0
    if len(changing) == 2:
        a, b = changing
        middle = {i: (mine[i].detach() + theirs[i]) / 2 for i in changing}
        pairs = step.replaced({**without, b: middle[b]}) + step.replaced({**without, a: middle[a]})
        return same_value(pairs + out, held)
    for i in changing:
        others = [j for j in changing if j != i]
        for arrived in chain.from_iterable(combinations(others, n) for n in range(len(others) + 1)):
            share = 1 / (len(changing) * comb(len(others), len(arrived)))
            fixed = {j: mine[j].detach() if j in arrived else theirs[j] for j in others}
            out = out + share * step.replaced({**without, **fixed})
    return same_value(out, held)


def quotient(step: Step) -> Tensor:
    """a / b = a · (1/b), where a may be a constant."""
    held = step.value()
    a, b = step.args[:2]
    other_a, other_b = _operands(step)
    inverse, other = 1 / b.detach(), 1 / other_b
    slope = -inverse * other  # Δ(1/b)/Δb
    fixed = a.detach() if isinstance(a, Tensor) else a
    through = (fixed + other_a) / 2 * (b * slope)
    return same_value(a * (inverse + other) / 2 + through if depends(a) else through, held)


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
    slope = ratio(mine.exp(), theirs.exp(), x.detach(), other, mine.exp)
    masked = torch.isinf(x.detach())
    return x.masked_fill(masked, 0.0) * slope.masked_fill(masked, 0.0), mine, theirs


def softmax(step: Step) -> Tensor:
    """exp, sum, reciprocal, midpoint product."""
    axis = _axis(step)
    surrogate, mine, theirs = _exponentials(step, axis)
    e, e_reference = mine.exp(), theirs.exp()
    total, total_reference = (t.sum(axis, keepdim=True) for t in (e, e_reference))
    if not bool((total * total_reference).all()):  # 1/S of one is infinite beside the other's e
        raise step.error(
            "The scores of input and reference are too far apart for the parts of a softmax",
            "Take a reference nearer to the input, double precision, or a path method",
        )
    inverse, inverse_reference = 1 / total, 1 / total_reference
    slope = -inverse * inverse_reference
    middle, mean = (e + e_reference) / 2, (inverse + inverse_reference) / 2
    return same_value(surrogate * mean + middle * (surrogate.sum(axis, keepdim=True) * slope), step.value())


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
    slope = ratio(log, log_other, total, other, lambda: 1 / total)
    return surrogate.sum(axis, keepdim=True) * slope


def _normalised(x: Tensor, other: Tensor, axes: tuple[int, ...], epsilon: float, *, centre: bool) -> Tensor:
    """Surrogate of c · (mean c² + ε)^(−1/2) over ``axes``."""
    c = x - x.mean(axes, keepdim=True) if centre else x
    c_reference = other - other.mean(axes, keepdim=True) if centre else other
    held = c.detach()
    power = (held.square().mean(axes, keepdim=True) + epsilon).sqrt()
    power_reference = (c_reference.square().mean(axes, keepdim=True) + epsilon).sqrt()
    # Δ(c²)/Δc = c + c′ and Δ(v^−½)/Δv = −1 / (√v √v′ (√v + √v′)), both exact
    squares = (c * (held + c_reference)).mean(axes, keepdim=True)
    slope = -1 / (power * power_reference * (power + power_reference))
    inverse = (1 / power + 1 / power_reference) / 2
    return c * inverse + (held + c_reference) / 2 * (squares * slope)


def layer_norm(step: Step) -> Tensor:
    """Centre, square, mean, reciprocal root, midpoint product; then the affine part."""
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


def max_pool(step: Step) -> Any:
    """Δout at the maximum of x where that is the larger one, else at the maximum of the reference."""
    x = step.args[0]
    other = partner(step, x)
    pool = POOLS[step.name.removesuffix("_with_indices")]
    kwargs = {k: v for k, v in step.kwargs.items() if k not in ("return_indices", "input")}
    with torch.no_grad():
        out, at = pool(x, *step.args[1:], **kwargs)
        out_reference, at_reference = pool(other, *step.args[1:], **kwargs)
    keep = x.ndim - int(step.name.removesuffix("_with_indices")[-2])
    winner = torch.where(out >= out_reference, at, at_reference).flatten(keep)
    mine = x.flatten(keep).gather(-1, winner)
    theirs = other.flatten(keep).gather(-1, winner)
    change, step_in = (out - out_reference).flatten(keep), (mine.detach() - theirs)
    same = step_in == 0
    multiplier = torch.where(same, 1.0, change / torch.where(same, 1.0, step_in))
    passed = same_value((mine * multiplier).view_as(out), out)
    return (passed, at) if step.name in INDEXED else passed


def reduction(step: Step) -> Any:
    """max and min over axes, as max-pool: Δout at the entry of whichever of x, x′ has the further one."""
    x, axes, keep = step.args[0], argument(step, 1, "dim"), argument(step, 2, "keepdim", False)
    given = step.value()
    named = not isinstance(given, Tensor)  # (values, indices)
    held = given[0] if named else given
    axes = range(x.ndim) if axes is None or axes == () else [axes] if isinstance(axes, int) else axes
    axes = sorted(axis % x.ndim for axis in axes)

    def rows(t: Tensor) -> Tensor:
        return t.movedim(axes, tuple(range(-len(axes), 0))).flatten(-len(axes))

    x, other = rows(x), rows(partner(step, x))
    sign = -1 if step.name.endswith("min") else 1
    best, best_reference = (sign * x.detach()).max(-1), (sign * other).max(-1)
    winner = torch.where(best[0] >= best_reference[0], best[1], best_reference[1])[..., None]
    mine, theirs = (t.gather(-1, winner)[..., 0] for t in (x, other))
    step_in = mine.detach() - theirs
    same = step_in == 0
    multiplier = torch.where(
        same, 1.0, sign * (best[0] - best_reference[0]) / torch.where(same, 1.0, step_in)
    )
    out = mine * multiplier
    for axis in axes if keep else ():
        out = out.unsqueeze(axis)
    out = same_value(out, held)
    return type(given)((out, given[1])) if named else out


def extremum(step: Step) -> Tensor:
    """max(a, b) = (a + b + |a − b|)/2 and its mirror: linear, and one absolute value."""
    a, b = argument(step, 0, "input"), argument(step, 1, "other")
    other_a, other_b = partner(step, a), partner(step, b)
    d, other = a - b, other_a - other_b
    held = d.detach()
    slope = ratio(held.abs(), other.abs(), held, other, held.sign)
    sign = 1 if step.name == "maximum" else -1
    out = (a + b + sign * d * slope) / 2
    return same_value(out, step.value())


def select(step: Step) -> Tensor:
    """where(condition, a, b) with one condition for both passes is linear."""
    if not torch.equal(step.args[0], _operands(step)[0]):
        raise step.error("A selection differs between input and reference", "Add a rule for it")
    return step.plain()


def gated(step: Step) -> Tensor:
    """glu: a · σ(b) of two halves."""
    x = step.args[0]
    a, b = x.chunk(2, _axis(step))
    other_a, other_b = partner(step, x).chunk(2, _axis(step))
    gate, other_gate = b.detach().sigmoid(), other_b.sigmoid()
    slope = ratio(gate, other_gate, b.detach(), other_b, lambda: gate * (1 - gate))
    return same_value(a * (gate + other_gate) / 2 + (a.detach() + other_a) / 2 * (b * slope), step.value())


_RULES: dict[str, Callable[[Step], Any]] = {
    **dict.fromkeys(PRODUCTS, product),
    **dict.fromkeys((*POOLS, *INDEXED), max_pool),
    **dict.fromkeys(REDUCTIONS, reduction),
    "div": quotient,
    "softmax": softmax,
    "log_softmax": log_softmax,
    "logsumexp": logsumexp,
    "layer_norm": layer_norm,
    "rms_norm": layer_norm,
    "group_norm": group_norm,
    "instance_norm": group_norm,
    "maximum": extremum,
    "minimum": extremum,
    "where": select,
    "glu": gated,
}

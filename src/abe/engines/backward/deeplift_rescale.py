"""DeepLIFT: multipliers Δout/Δin that make ΣA = score(x) − score(x′) exact, operation by operation.

Two aligned passes: the reference runs first and what its operations read is recorded in order; then the
input runs, each operation beside its record. (Nothing depends on where the batch axis is, and the
reference needs no backward pass.) With m̄ = (m + m′)/2 the rules are exact:

    f element-wise             Δf = (Δf/Δx) Δx
    product a · b              Δ(ab) = b̄ Δa + ā Δb
    quotient, softmax, norm    in `deeplift_quotients`, each bounded by what it divides
    max-pool, max              Δout goes to the maximum of whichever of x, x′ has the larger one

A product of k factors gives each the mean over the orders in which they can change; k = 2 is the rule above.
A product with a reciprocal, a reciprocal root or a negative power is the quotient that it is.
"""

# torch leaves part of its own interface untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from collections.abc import Callable
from itertools import chain, combinations
from math import comb
from typing import Any, ClassVar

import torch
from torch import Tensor

from abe.engines.backward.deeplift_masks import LAID_OVER, laid_over
from abe.engines.backward.deeplift_quotients import (
    group_norm,
    layer_norm,
    log_softmax,
    logsumexp,
    order,
    quotient,
    softmax,
)
from abe.engines.backward.deeplift_record import (
    ELEMENTWISE,
    INDEXED,
    POOLS,
    REDUCTIONS,
    Replay,
    partner,
    ratio,
    reference,
)
from abe.engines.backward.step import (
    Step,
    argument,
    depends,
    same_value,
)
from abe.instrument.operations import PRODUCTS, factors, tensors
from abe.spec import value

MOST_FACTORS = 5
"""Most factors of a product: k of them cost k 2^(k − 1) products."""


@value
class Rescale:
    """The multipliers of DeepLIFT Rescale, and of what completes it on gates, attention and norms."""

    reads: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, step: Step) -> Any:
        """Run a step by the rule of its operation."""
        output = self._run(step)
        if isinstance(step.session, Replay) and _divides(step, step.session):
            step.session.divisors[id(output)] = output
        return output

    def _run(self, step: Step) -> Any:
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


def _divides(step: Step, session: Replay) -> bool:
    """Whether what comes out only divides: a reciprocal of some kind, or one that was moved."""
    if step.name in ("rdiv", "reciprocal", "rsqrt"):
        return True
    if step.name == "pow":
        exponent = argument(step, 1, "exponent")
        return not depends(exponent) and bool((torch.as_tensor(exponent) < 0).all())
    return step.kind == "plumbing" and any(id(t) in session.divisors for t in step.inputs())


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


def elementwise(step: Step) -> Tensor:
    """f(x) with multiplier Δf/Δx."""
    x = step.inputs()[0]
    if len({id(t) for t in step.inputs()}) > 1:
        raise step.error("A function of two tensors has no element-wise rule", "Add a rule for it")
    args, kwargs = reference(step)
    other = partner(step, x)
    with torch.no_grad():
        plain, out_reference = step.plain(), step.func(*args, **kwargs)
    if plain.shape != x.shape:
        raise step.error("This call is not element-wise", "Add a rule for it")

    def slope() -> Tensor:
        leaf = torch.lerp(x.detach(), other, 0.5).requires_grad_(True)
        with torch.enable_grad():
            out = step.with_(lambda t: leaf if t is x else t)
        return torch.autograd.grad(out, leaf, torch.ones_like(out))[0]

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
        middle = _middle(step, {i: (mine[i].detach(), theirs[i]) for i in changing}, mine)
        pairs = step.replaced({**without, b: middle[b]}) + step.replaced({**without, a: middle[a]})
        return same_value(pairs + out, held)
    for i in changing:
        others = [j for j in changing if j != i]
        for arrived in chain.from_iterable(combinations(others, n) for n in range(len(others) + 1)):
            share = 1 / (len(changing) * comb(len(others), len(arrived)))
            fixed = {j: mine[j].detach() if j in arrived else theirs[j] for j in others}
            out = out + share * step.replaced({**without, **fixed})
    return same_value(out, held)


def _middle(step: Step, values: dict[int, tuple[Tensor, Tensor]], mine: list[Tensor]) -> dict[int, Tensor]:
    """What each of two factors is multiplied by the other's change with: midpoints, or a quotient's."""
    divisors = step.session.divisors if isinstance(step.session, Replay) else {}
    dividing = [i for i in values if id(mine[i]) in divisors]
    if step.name != "mul" or len(dividing) != 1:
        return {i: (value + other) / 2 for i, (value, other) in values.items()}
    (b,) = dividing
    (a,) = values.keys() - {b}
    share = order(*values[b])
    (x, other), (g, other_g) = values[a], values[b]
    return {b: share * g + (1 - share) * other_g, a: (1 - share) * x + share * other}


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
    if not torch.equal(step.args[0], reference(step)[0][0]):
        raise step.error("A selection differs between input and reference", "Add a rule for it")
    return step.plain()


def gated(step: Step) -> Tensor:
    """glu: a · σ(b) of two halves."""
    x, axis = step.args[0], argument(step, 1, "dim", -1)
    a, b = x.chunk(2, axis)
    other_a, other_b = partner(step, x).chunk(2, axis)
    gate, other_gate = b.detach().sigmoid(), other_b.sigmoid()
    middle = ((b.detach() + other_b) / 2).sigmoid()
    slope = ratio(gate, other_gate, b.detach(), other_b, lambda: middle * (1 - middle))
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

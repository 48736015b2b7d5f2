"""Kin of layer-wise relevance propagation: Deep Taylor, Excitation Backprop, attention-aware LRP."""

from typing import Any, Literal

from abe.checks import Variant, published
from abe.engines.backward.lrp_other import (
    Gates,
    Identity,
    Softmax,
    in_relevance,
    lrp_book,
    needs_relevance,
)
from abe.engines.backward.lrp_weighted import (
    STABILISER,
    Epsilon,
    Negated,
    WSquare,
    ZBox,
    ZPlus,
)
from abe.engines.backward.run import (
    Backward,
    BackwardRule,
    Contrastive,
    Policy,
)
from abe.methods.backward import UNDER_RULES
from abe.registry import methods
from abe.types import Card, Passes

BIASES = "Biases, class token and position embedding absorb relevance: bias_relevance is in the result."
LOGITS = (
    "Explain logits: a softmax or sigmoid at the end of the model counts as a constant and is refused by "
    "name; a log-softmax is logits and a shift, which is booked as bias."
)
FORM = "Depends on how the network is written, not only on its function."
SLOPES = (
    "Activations divide by z itself; variant='published' divides by z + 1e-10 and has no stabiliser at "
    "weights, as the published code."
)
Rules = tuple[tuple[str, BackwardRule], ...]


def relevance(
    *,
    convolution: BackwardRule,
    dense: BackwardRule,
    first: BackwardRule | None = None,
    softmax: Softmax = "constant",
    rules: Any = (),
    uncovered: Policy = "error",
    merged: bool = False,
    start: Literal["score", "one"] = "score",
    gates: Gates = "half",
    identity: Identity | None = None,
) -> Backward:
    """An LRP engine from rules by place, in the form that its rules need."""
    book = lrp_book(
        convolution=convolution,
        dense=dense,
        first=first,
        softmax=softmax,
        gates=gates,
        identity=identity,
        rules=_pairs(rules),
    )
    if needs_relevance(book):
        return Backward(
            book=in_relevance(book), form="relevance", uncovered=uncovered, merged=merged, start=start
        )
    return Backward(book=book, uncovered=uncovered, merged=merged, start=start)


def _pairs(rules: Any) -> Rules:
    return tuple((str(key), rule) for key, rule in rules)


@methods.register(
    Card(
        name="deep_taylor",
        title="Deep Taylor decomposition",
        source="montavon2017",
        formula="R_in = shares of x w − l w⁺ − h w⁻ at the first layer and of x⁺w⁺ + x⁻w⁻, without bias, "
        "above it",
        family="layer-wise backpropagation",
        reformulations=("nonnegative backpropagation", "Taylor interaction"),
        guarantees=(),
        needs=("gradient",),
        passes=UNDER_RULES,
        pitfalls=(
            "Assumes biases that are not positive; otherwise they are handed to the inputs.",
            LOGITS,
            "Converges to a map that hardly depends on the class in deep networks.",
        ),
    ),
    aliases=("dtd", "deep_taylor_decomposition"),
)
def deep_taylor(
    *,
    bounded: bool = True,
    stabiliser: float = STABILISER,
    merged: bool = True,
    uncovered: Policy = "error",
) -> Backward:
    """One Taylor step per layer from a root point: zᴮ at the input, z⁺ above.

    Closure alone is guaranteed.

    Args:
        bounded: the input is bounded (zᴮ from the task's bounds); else w².

    Shape: (b, *f) in and out; bias_, stabiliser_ and rest_relevance and closure (b,) in diagnostics.

    Example:
        >>> import abe
        >>> print(abe.method("deep_taylor", bounded=False))
        deep_taylor(bounded=False, stabiliser=1e-06, merged=True, uncovered='error')
    """
    hidden = ZPlus(bias="drop", stabiliser=stabiliser)
    first = ZBox(stabiliser=stabiliser) if bounded else WSquare(stabiliser=stabiliser)
    return relevance(convolution=hidden, dense=hidden, first=first, uncovered=uncovered, merged=merged)


WINNERS = 1e-12
"""Excitation Backprop has no stabiliser; this one keeps 0 / 0 away."""


@methods.register(
    Card(
        name="excitation_backprop",
        title="Excitation Backprop",
        source="zhang2016, Eq. 3",
        formula="P_in = x ⊙ W⁺ᵀ P / (W⁺ x), started with probability 1 at the explained class",
        family="layer-wise backpropagation",
        reformulations=("nonnegative backpropagation",),
        guarantees=("dummy",),
        needs=("gradient",),
        passes=UNDER_RULES,
        differs=("Runs down to the input, with inputs of both signs; the paper stops at an inner layer.",),
        pitfalls=(
            "Activations must not be negative; elsewhere contributions of either sign are taken.",
            LOGITS,
        ),
    ),
    aliases=("ebp", "excitation_bp", "exbp"),
)
def excitation_backprop(
    *, stabiliser: float = WINNERS, merged: bool = True, uncovered: Policy = "error"
) -> Backward:
    """The probability that a winning path from the class reaches each input.

    Shape: (b, *f) in and out; bias_, stabiliser_ and rest_relevance and closure (b,) in diagnostics.

    Example:
        >>> import abe
        >>> print(abe.method("excitation_backprop", uncovered="gradient"))
        excitation_backprop(stabiliser=1e-12, merged=True, uncovered='gradient')
    """
    rule = ZPlus(bias="drop", stabiliser=stabiliser)
    return relevance(convolution=rule, dense=rule, uncovered=uncovered, merged=merged, start="one")


@methods.register(
    Card(
        name="contrastive_excitation_backprop",
        title="Contrastive Excitation Backprop",
        source="zhang2016, Sec. 3.3",
        formula="P(class) − P(dual unit), whose weights in the last layer have the opposite sign",
        family="layer-wise backpropagation",
        reformulations=("nonnegative backpropagation",),
        guarantees=("dummy",),
        needs=("gradient",),
        passes=Passes(forward="2 * b + 1", backward="2 * b", at_most=True),
        differs=("Runs down to the input, with inputs of both signs; the paper stops at an inner layer.",),
        pitfalls=("The last weighted operation must be the classifier.", LOGITS),
    ),
    aliases=("cebp", "contrastive_ebp"),
)
def contrastive_excitation_backprop(
    *, stabiliser: float = WINNERS, merged: bool = True, uncovered: Policy = "error"
) -> Contrastive:
    """Excitation Backprop of a class minus that of its negation.

    Example:
        >>> import abe
        >>> abe.method("cebp").rows(b=1)
        5.0
    """
    rule = ZPlus(bias="drop", stabiliser=stabiliser)
    engine = relevance(convolution=rule, dense=rule, uncovered=uncovered, merged=merged, start="one")
    return Contrastive(engine=engine, negated=Negated(rule=rule))


@methods.register(
    Card(
        name="attention_lrp",
        title="Attention-aware LRP",
        source="achtibat2024; ali2022",
        formula="ε at weights, halves at products, softmax by its gradient, f(z) / z at activations",
        family="layer-wise backpropagation",
        reformulations=("Taylor interaction",),
        guarantees=("dummy",),
        needs=("gradient",),
        passes=UNDER_RULES,
        differs=(SLOPES,),
        pitfalls=(BIASES, LOGITS, FORM),
    ),
    aliases=("attnlrp", "attn_lrp"),
)
def attention_lrp(
    *,
    epsilon: float | None = None,
    softmax: Softmax = "taylor",
    gates: Gates = "half",
    variant: Variant = "corrected",
    rules: tuple[Any, ...] = (),
    uncovered: Policy = "error",
) -> Backward:
    """LRP-ε for transformers, with a rule for the attention weights.

    A · V, Q · Kᵀ and a gated layer's product give half of their relevance to each factor; softmax passes
    c_in = Jᵀ c; layer norm and RMSNorm are linear with their deviation held; grouped heads and rotary
    positions move relevance. CP-LRP (ali2022) is ``softmax="constant", gates="constant"``.

    Args:
        epsilon: the stabiliser at weights, in units of z; 1e-6 by default, 0 in the published variant.
        softmax: ``"taylor"`` sends relevance through attention weights by their gradient, ``"constant"``
            takes them as given.
        gates: ``"half"`` gives the activated factor of a gated layer, silu(a) · b, its half, ``"constant"``
            takes it as given.
        variant: ``"published"`` divides by z + 1e-10 at activations, as the published code does.
        rules: pairs of an operation's name or kind and a rule, in front of these.

    Shape: (b, *f) in and out; bias_, stabiliser_ and rest_relevance and closure (b,) in diagnostics.

    Example:
        >>> import abe
        >>> abe.method("attention_lrp", softmax="constant", gates="constant").rows(b=1)
        3.0
    """
    as_published = published(variant)
    if epsilon is None:
        epsilon = 0.0 if as_published else 1e-6
    return relevance(
        convolution=Epsilon(epsilon=epsilon),
        dense=Epsilon(epsilon=epsilon),
        softmax=softmax,
        gates=gates,
        identity=Identity(stabiliser=1e-10) if as_published else None,
        rules=rules,
        uncovered=uncovered,
    )

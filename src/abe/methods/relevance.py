"""Layer-wise relevance propagation and its kin: every output hands its relevance to what it was made of."""

from typing import Any, Literal

from abe.engines.backward import Backward, BackwardRule, Contrast, Policy
from abe.engines.backward_lrp import Softmax, in_relevance, lrp_book, needs_relevance
from abe.engines.backward_weights import AlphaBeta, Epsilon, Flat, Gamma, Negated, WSquare, ZBox, ZPlus
from abe.errors import Code, SpecError
from abe.methods.gradient import ONE_GRADIENT
from abe.registry import methods
from abe.types import Card, Passes

BIASES = "Biases, class token and position embedding absorb relevance: bias_relevance is in the result."
LOGITS = "Explain logits: a softmax at the end of the model counts as a constant and stops everything."
FORM = "Depends on how the network is written, not only on its function."
Rules = tuple[tuple[str, BackwardRule], ...]
Composite = Literal[
    "epsilon_plus", "epsilon_gamma_box", "epsilon_plus_flat", "epsilon_alpha2_beta1", "epsilon_gamma"
]


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
) -> Backward:
    """An LRP engine from rules by place, in the form that its rules need."""
    book = lrp_book(convolution=convolution, dense=dense, first=first, softmax=softmax, rules=_pairs(rules))
    if needs_relevance(book):
        return Backward(
            book=in_relevance(book), form="relevance", uncovered=uncovered, merged=merged, start=start
        )
    return Backward(book=book, uncovered=uncovered, merged=merged, start=start)


def _pairs(rules: Any) -> Rules:
    return tuple((str(key), rule) for key, rule in rules)


@methods.register(
    Card(
        name="lrp_epsilon",
        title="LRP-ε",
        summary="Relevance in shares of each contribution to z, with a stabiliser.",
        source="bach2015, Eq. 58",
        formula="R_in = x ⊙ Wᵀ R / (z + ε sign z)",
        family="layer-wise backpropagation",
        reformulations=("Taylor interaction", "additive feature"),
        guarantees=("dummy",),
        needs=("gradient",),
        passes=ONE_GRADIENT,
        differs=(
            "Gates, attention weights and standard deviations count as constants; products are halved.",
        ),
        pitfalls=(BIASES, LOGITS, FORM),
    ),
    aliases=("lrp", "lrp_eps"),
)
def lrp_epsilon(
    *, epsilon: float = 1e-6, rules: tuple[Any, ...] = (), uncovered: Policy = "error"
) -> Backward:
    """Relevance in shares of each contribution to z, with a stabiliser.

    R_in = x ⊙ Wᵀ R / (z + ε sign z), biases keeping their share; ε → 0 is gradient × input on ReLU networks.

    Composition: `Backward` in ratio form with `Epsilon` at weighted operations.

    Args:
        epsilon: the stabiliser, in units of z; 0 is LRP-0.
        rules: pairs (operation, rule) in front of the built-in ones.
        uncovered: ``"error"`` names an operation without a rule; ``"gradient"`` and ``"constant"`` are noted.

    Shape:
        (b, *f) in and out; bias_relevance, stabiliser_relevance and closure (b,) in diagnostics.

    Guarantees:
        dummy.

    Cost:
        One forward and one backward row per sample, and one forward row for the prediction.

    Differs from the paper:
        Has rules for gates, attention, normalisation and products, which the paper does not treat.

    Source:
        bach2015, Eq. 58.
    """
    return relevance(
        convolution=Epsilon(epsilon=epsilon), dense=Epsilon(epsilon=epsilon), rules=rules, uncovered=uncovered
    )


@methods.register(
    Card(
        name="lrp_0",
        title="LRP-0",
        summary="Relevance in shares of each contribution to z.",
        source="bach2015, Eq. 56",
        formula="R_in = x ⊙ Wᵀ R / z",
        family="layer-wise backpropagation",
        reformulations=("Taylor interaction", "additive feature"),
        guarantees=("dummy",),
        needs=("gradient",),
        passes=ONE_GRADIENT,
        pitfalls=(BIASES, LOGITS, FORM),
    ),
    aliases=("lrp_zero",),
)
def lrp_0(*, uncovered: Policy = "error") -> Backward:
    """Relevance in shares of each contribution to z.

    R_in = x ⊙ Wᵀ R / z. Computed as c = R / z, so that no division by a small z happens.

    Composition: `Backward` in ratio form with `Epsilon` of 0.

    Args:
        uncovered: ``"error"`` names an operation without a rule; ``"gradient"`` and ``"constant"`` are noted.

    Shape:
        (b, *f) in and out; bias_relevance, stabiliser_relevance and closure (b,) in diagnostics.

    Guarantees:
        dummy.

    Cost:
        One forward and one backward row per sample, and one forward row for the prediction.

    Source:
        bach2015, Eq. 56.
    """
    return relevance(convolution=Epsilon(epsilon=0.0), dense=Epsilon(epsilon=0.0), uncovered=uncovered)


@methods.register(
    Card(
        name="lrp_gamma",
        title="LRP-γ",
        summary="Shares that favour contributions of the output's own sign.",
        source="montavon2019, Sec. 10.2.3",
        formula="R_in = shares of x (w + γ w⁺)",
        family="layer-wise backpropagation",
        reformulations=("Taylor interaction",),
        guarantees=("dummy",),
        needs=("gradient",),
        passes=ONE_GRADIENT,
        differs=("Inputs and outputs of both signs are treated; the paper assumes non-negative ones.",),
        pitfalls=(BIASES, LOGITS),
    ),
    aliases=(),
)
def lrp_gamma(*, gamma: float = 0.25, rules: tuple[Any, ...] = (), uncovered: Policy = "error") -> Backward:
    """Shares that favour contributions of the output's own sign.

    R_in = shares of x⁺(w + γ w⁺) + x⁻(w + γ w⁻) where z > 0, with w⁺ and w⁻ exchanged where z < 0.

    Composition: `Backward` in ratio form with `Gamma` at weighted operations.

    Args:
        gamma: how much more such contributions count.
        rules: pairs (operation, rule) in front of the built-in ones.
        uncovered: ``"error"`` names an operation without a rule; ``"gradient"`` and ``"constant"`` are noted.

    Shape:
        (b, *f) in and out; bias_relevance, stabiliser_relevance and closure (b,) in diagnostics.

    Guarantees:
        dummy.

    Cost:
        One forward and one backward row per sample, and one forward row for the prediction.

    Differs from the paper:
        Inputs and outputs of both signs are treated.

    Source:
        montavon2019, Sec. 10.2.3.
    """
    return relevance(
        convolution=Gamma(gamma=gamma), dense=Gamma(gamma=gamma), rules=rules, uncovered=uncovered
    )


@methods.register(
    Card(
        name="lrp_alpha_beta",
        title="LRP-αβ",
        summary="Positive and negative contributions redistribute apart.",
        source="bach2015, Eq. 60",
        formula="R_in = α · positive shares − β · negative shares",
        family="layer-wise backpropagation",
        reformulations=("Taylor interaction",),
        guarantees=("dummy",),
        needs=("gradient",),
        passes=ONE_GRADIENT,
        pitfalls=(BIASES, LOGITS),
    ),
    aliases=("lrp_ab",),
)
def lrp_alpha_beta(
    *, alpha: float = 2.0, beta: float = 1.0, rules: tuple[Any, ...] = (), uncovered: Policy = "error"
) -> Backward:
    """Positive and negative contributions redistribute apart.

    R_in = α (x⁺w⁺ + x⁻w⁻ shares) − β (x⁺w⁻ + x⁻w⁺ shares), biases keeping theirs.

    Composition: `Backward` in ratio form with `AlphaBeta` at weighted operations.

    Args:
        alpha: share of positive contributions.
        beta: share of negative contributions; α − β = 1.
        rules: pairs (operation, rule) in front of the built-in ones.
        uncovered: ``"error"`` names an operation without a rule; ``"gradient"`` and ``"constant"`` are noted.

    Shape:
        (b, *f) in and out; bias_relevance, stabiliser_relevance and closure (b,) in diagnostics.

    Guarantees:
        dummy.

    Cost:
        One forward and one backward row per sample, and one forward row for the prediction.

    Source:
        bach2015, Eq. 60.
    """
    if abs(alpha - beta - 1) > 1e-9 or beta < 0:
        raise SpecError(
            Code.BAD_PARAMETER, "alpha − beta must be 1 and beta not negative", got=f"{alpha} and {beta}"
        )
    rule = AlphaBeta(alpha=alpha, beta=beta)
    return relevance(convolution=rule, dense=rule, rules=rules, uncovered=uncovered)


@methods.register(
    Card(
        name="lrp_z_plus",
        title="LRP-z⁺",
        summary="Relevance along positive contributions only.",
        source="montavon2017, Eq. 13",
        formula="R_in = shares of x⁺w⁺ + x⁻w⁻",
        family="layer-wise backpropagation",
        reformulations=("nonnegative backpropagation", "Taylor interaction"),
        guarantees=("dummy",),
        needs=("gradient",),
        passes=ONE_GRADIENT,
        differs=("Batch norm is merged into convolutions on a copy first.",),
        pitfalls=(BIASES, LOGITS),
    ),
    aliases=("lrp_zplus", "lrp_alpha1_beta0"),
)
def lrp_z_plus(
    *,
    bias: Literal["absorb", "drop"] = "absorb",
    merged: bool = True,
    rules: tuple[Any, ...] = (),
    uncovered: Policy = "error",
) -> Backward:
    """Relevance along positive contributions only.

    R_in = shares of x⁺w⁺ + x⁻w⁻. An output without positive contribution passes nothing on; what it had is
    booked as stabiliser relevance.

    Composition: `Backward` in ratio form with `ZPlus` at weighted operations.

    Args:
        bias: ``"absorb"`` gives positive biases their share, ``"drop"`` hands it to the inputs.
        merged: run a copy with batch norm merged into convolutions, where it can be made.
        rules: pairs (operation, rule) in front of the built-in ones.
        uncovered: ``"error"`` names an operation without a rule; ``"gradient"`` and ``"constant"`` are noted.

    Shape:
        (b, *f) in and out; bias_relevance, stabiliser_relevance and closure (b,) in diagnostics.

    Guarantees:
        dummy.

    Cost:
        One forward and one backward row per sample, and one forward row for the prediction.

    Differs from the paper:
        Batch norm is merged into convolutions first.

    Source:
        montavon2017, Eq. 13.
    """
    rule = ZPlus(bias=bias)
    return relevance(convolution=rule, dense=rule, rules=rules, uncovered=uncovered, merged=merged)


@methods.register(
    Card(
        name="lrp_w_square",
        title="LRP-w²",
        summary="Relevance in proportion to squared weights.",
        source="montavon2017, Eq. 12",
        formula="R_in = Σ w² R / Σ w²",
        family="layer-wise backpropagation",
        reformulations=("Taylor interaction",),
        guarantees=(),
        needs=("gradient",),
        passes=ONE_GRADIENT,
        pitfalls=(BIASES, "Does not look at the input; meant for the first layer."),
    ),
    aliases=("lrp_wsquare",),
)
def lrp_w_square(*, merged: bool = True, uncovered: Policy = "error") -> Backward:
    """Relevance in proportion to squared weights.

    R_in = w² R / Σ w², whatever the input; biases keep b² of the sum.

    Composition: `Backward` in relevance form with `WSquare` at weighted operations.

    Args:
        merged: run a copy with batch norm merged into convolutions, where it can be made.
        uncovered: ``"error"`` names an operation without a rule; ``"gradient"`` and ``"constant"`` are noted.

    Shape:
        (b, *f) in and out; bias_relevance, stabiliser_relevance and closure (b,) in diagnostics.

    Guarantees:
        Closure only.

    Cost:
        One forward and one backward row per sample, and one forward row for the prediction.

    Source:
        montavon2017, Eq. 12.
    """
    return relevance(convolution=WSquare(), dense=WSquare(), uncovered=uncovered, merged=merged)


@methods.register(
    Card(
        name="lrp_flat",
        title="LRP-flat",
        summary="Relevance in equal shares.",
        source="lapuschkin2019",
        formula="R_in = Σ R / number of inputs",
        family="layer-wise backpropagation",
        reformulations=("Taylor interaction",),
        guarantees=(),
        needs=("gradient",),
        passes=ONE_GRADIENT,
        pitfalls=("Does not look at the input; meant for the first layer.",),
    ),
    aliases=(),
)
def lrp_flat(*, merged: bool = True, uncovered: Policy = "error") -> Backward:
    """Relevance in equal shares.

    R_in = R / (number of inputs read), whatever their value or weight.

    Composition: `Backward` in relevance form with `Flat` at weighted operations.

    Args:
        merged: run a copy with batch norm merged into convolutions, where it can be made.
        uncovered: ``"error"`` names an operation without a rule; ``"gradient"`` and ``"constant"`` are noted.

    Shape:
        (b, *f) in and out; bias_relevance, stabiliser_relevance and closure (b,) in diagnostics.

    Guarantees:
        Closure only.

    Cost:
        One forward and one backward row per sample, and one forward row for the prediction.

    Source:
        lapuschkin2019.
    """
    return relevance(convolution=Flat(), dense=Flat(), uncovered=uncovered, merged=merged)


COMPOSITES: dict[str, tuple[BackwardRule, BackwardRule | None]] = {
    "epsilon_plus": (ZPlus(), None),
    "epsilon_gamma": (Gamma(), None),
    "epsilon_alpha2_beta1": (AlphaBeta(), None),
    "epsilon_gamma_box": (Gamma(), ZBox()),
    "epsilon_plus_flat": (ZPlus(), Flat()),
}


@methods.register(
    Card(
        name="lrp_composite",
        title="LRP composite",
        summary="Other rules by place: first layer, convolutions, dense layers.",
        source="montavon2019, Sec. 10.3",
        formula="rules by place",
        family="layer-wise backpropagation",
        reformulations=("Taylor interaction",),
        guarantees=("dummy",),
        needs=("gradient",),
        passes=ONE_GRADIENT,
        differs=("Batch norm is merged into convolutions on a copy first.",),
        pitfalls=(BIASES, LOGITS),
    ),
    aliases=("lrp_epsilon_plus",),
)
def lrp_composite(
    *,
    composite: Composite = "epsilon_plus",
    epsilon: float = 1e-6,
    merged: bool = True,
    rules: tuple[Any, ...] = (),
    uncovered: Policy = "error",
) -> Backward:
    """Other rules by place: first layer, convolutions, dense layers.

    ε at dense layers; z⁺, γ or α2β1 at convolutions; zᴮ or flat at the first one.

    Composition: `Backward` with rules by place.

    Args:
        composite: ``"epsilon_plus"`` (z⁺ at convolutions), ``"epsilon_gamma"``, ``"epsilon_alpha2_beta1"``,
            ``"epsilon_gamma_box"`` (zᴮ first), ``"epsilon_plus_flat"`` (flat first); ε at dense layers.
        epsilon: stabiliser of dense layers.
        merged: run a copy with batch norm merged into convolutions, where it can be made.
        rules: pairs (operation, rule) in front of the built-in ones.
        uncovered: ``"error"`` names an operation without a rule; ``"gradient"`` and ``"constant"`` are noted.

    Shape:
        (b, *f) in and out; bias_relevance, stabiliser_relevance and closure (b,) in diagnostics.

    Guarantees:
        dummy.

    Cost:
        One forward and one backward row per sample, and one forward row for the prediction.

    Differs from the paper:
        Batch norm is merged into convolutions first.

    Source:
        montavon2019, Sec. 10.3.
    """
    if composite not in COMPOSITES:
        raise SpecError(
            Code.BAD_PARAMETER, "No such composite", got=repr(composite), expected=", ".join(COMPOSITES)
        )
    convolution, first = COMPOSITES[composite]
    dense = Epsilon(epsilon=epsilon)
    return relevance(
        convolution=convolution, dense=dense, first=first, rules=rules, uncovered=uncovered, merged=merged
    )


@methods.register(
    Card(
        name="deep_taylor",
        title="Deep Taylor decomposition",
        summary="One Taylor step per layer from a root point: zᴮ at the input, z⁺ above.",
        source="montavon2017",
        formula="zᴮ at the first layer, z⁺ without bias above",
        family="layer-wise backpropagation",
        reformulations=("nonnegative backpropagation", "Taylor interaction"),
        guarantees=(),
        needs=("gradient",),
        passes=ONE_GRADIENT,
        pitfalls=(
            "Assumes biases that are not positive; otherwise they are handed to the inputs.",
            LOGITS,
            "Converges to a map that hardly depends on the class in deep networks.",
        ),
    ),
    aliases=("dtd", "deep_taylor_decomposition"),
)
def deep_taylor(*, bounded: bool = True, merged: bool = True, uncovered: Policy = "error") -> Backward:
    """One Taylor step per layer from a root point: zᴮ at the input, z⁺ above.

    R_in = shares of x w − l w⁺ − h w⁻ at the first layer and of x⁺w⁺ + x⁻w⁻ above it.

    Composition: `Backward` in relevance form with `ZBox` or `WSquare` first and `ZPlus` above.

    Args:
        bounded: the input is bounded (zᴮ from the task's bounds); else w².
        merged: run a copy with batch norm merged into convolutions, where it can be made.
        uncovered: ``"error"`` names an operation without a rule; ``"gradient"`` and ``"constant"`` are noted.

    Shape:
        (b, *f) in and out; bias_relevance, stabiliser_relevance and closure (b,) in diagnostics.

    Guarantees:
        Closure only.

    Cost:
        One forward and one backward row per sample, and one forward row for the prediction.

    Source:
        montavon2017.
    """
    hidden = ZPlus(bias="drop")
    first = ZBox() if bounded else WSquare()
    return relevance(convolution=hidden, dense=hidden, first=first, uncovered=uncovered, merged=merged)


WINNERS = ZPlus(bias="drop", stabiliser=1e-12)


@methods.register(
    Card(
        name="excitation_backprop",
        title="Excitation Backprop",
        summary="The probability that a winning path from the class reaches each input.",
        source="zhang2016, Eq. 3",
        formula="P_in = x ⊙ W⁺ᵀ P / (W⁺ x)",
        family="layer-wise backpropagation",
        reformulations=("nonnegative backpropagation", "Taylor interaction"),
        guarantees=("dummy",),
        needs=("gradient",),
        passes=ONE_GRADIENT,
        differs=("Runs down to the input, with inputs of both signs; the paper stops at an inner layer.",),
        pitfalls=(
            "Activations must not be negative; elsewhere contributions of either sign are taken.",
            LOGITS,
        ),
    ),
    aliases=("ebp", "excitation_bp", "exbp"),
)
def excitation_backprop(*, merged: bool = True, uncovered: Policy = "error") -> Backward:
    """The probability that a winning path from the class reaches each input.

    P_in = x ⊙ W⁺ᵀ P / (W⁺ x), started with probability 1 at the explained class.

    Composition: `Backward` in ratio form with `ZPlus` without biases, started at 1.

    Args:
        merged: run a copy with batch norm merged into convolutions, where it can be made.
        uncovered: ``"error"`` names an operation without a rule; ``"gradient"`` and ``"constant"`` are noted.

    Shape:
        (b, *f) in and out; bias_relevance, stabiliser_relevance and closure (b,) in diagnostics.

    Guarantees:
        dummy.

    Cost:
        One forward and one backward row per sample, and one forward row for the prediction.

    Differs from the paper:
        Runs down to the input.

    Source:
        zhang2016, Eq. 3.
    """
    return relevance(convolution=WINNERS, dense=WINNERS, uncovered=uncovered, merged=merged, start="one")


@methods.register(
    Card(
        name="contrastive_excitation_backprop",
        title="Contrastive Excitation Backprop",
        summary="Excitation Backprop of a class minus that of its negation.",
        source="zhang2016, Sec. 3.3",
        formula="P(class) − P(not class)",
        family="layer-wise backpropagation",
        reformulations=("nonnegative backpropagation", "Taylor interaction"),
        guarantees=("dummy",),
        needs=("gradient",),
        passes=Passes(forward="3 * b", backward="2 * b"),
        differs=("Runs down to the input, with inputs of both signs; the paper stops at an inner layer.",),
        pitfalls=("The last weighted operation must be the classifier.", LOGITS),
    ),
    aliases=("cebp", "contrastive_ebp"),
)
def contrastive_excitation_backprop(*, merged: bool = True, uncovered: Policy = "error") -> Contrast:
    """Excitation Backprop of a class minus that of its negation.

    P of the class minus P of the dual unit, whose weights in the last layer have the opposite sign.

    Composition: `Contrast` of `Backward` started at 1.

    Args:
        merged: run a copy with batch norm merged into convolutions, where it can be made.
        uncovered: ``"error"`` names an operation without a rule; ``"gradient"`` and ``"constant"`` are noted.

    Shape:
        (b, *f) in and out.

    Guarantees:
        dummy.

    Cost:
        Two forward and two backward rows per sample, and one forward row for the prediction.

    Differs from the paper:
        Runs down to the input.

    Source:
        zhang2016, Sec. 3.3.
    """
    engine = relevance(convolution=WINNERS, dense=WINNERS, uncovered=uncovered, merged=merged, start="one")
    return Contrast(engine=engine, negated=Negated(rule=WINNERS))


@methods.register(
    Card(
        name="attention_lrp",
        title="Attention-aware LRP",
        summary="LRP-ε for transformers, with a rule for the attention weights.",
        source="achtibat2024; ali2022",
        formula="ε at weights, halves at products, softmax by its gradient",
        family="layer-wise backpropagation",
        reformulations=("Taylor interaction",),
        guarantees=("dummy",),
        needs=("gradient",),
        passes=ONE_GRADIENT,
        pitfalls=(BIASES, LOGITS, FORM),
    ),
    aliases=("attnlrp", "attn_lrp"),
)
def attention_lrp(
    *, epsilon: float = 1e-6, softmax: Softmax = "taylor", uncovered: Policy = "error"
) -> Backward:
    """LRP-ε for transformers, with a rule for the attention weights.

    A · V and Q · Kᵀ give half of their relevance to each factor; softmax passes c_in = Jᵀ c; layer norm is
    linear with its deviation held.

    Composition: `Backward` in ratio form with `Epsilon`, `Halves`, `Taylor` and `Affine`.

    Args:
        epsilon: the stabiliser, in units of z.
        softmax: ``"taylor"`` sends relevance through attention weights by their gradient, ``"constant"``
            takes them as given.
        uncovered: ``"error"`` names an operation without a rule; ``"gradient"`` and ``"constant"`` are noted.

    Shape:
        (b, *f) in and out; bias_relevance, stabiliser_relevance and closure (b,) in diagnostics.

    Guarantees:
        dummy.

    Cost:
        One forward and one backward row per sample, and one forward row for the prediction.

    Source:
        achtibat2024; ali2022.
    """
    return relevance(
        convolution=Epsilon(epsilon=epsilon),
        dense=Epsilon(epsilon=epsilon),
        softmax=softmax,
        uncovered=uncovered,
    )

"""Layer-wise relevance propagation: every output hands its relevance to what it was made of, in shares."""

from dataclasses import replace
from typing import Any, Literal

from abe.checks import check_choice
from abe.engines.backward.lrp_weighted import (
    STABILISER,
    AlphaBeta,
    Epsilon,
    Flat,
    Gamma,
    WSquare,
    ZBox,
    ZPlus,
)
from abe.engines.backward.run import Backward, Policy
from abe.errors import Code, SpecError
from abe.methods.backward import UNDER_RULES
from abe.methods.relevance import BIASES, FORM, LOGITS, relevance
from abe.registry import methods
from abe.types import Card

BLIND = (
    "Does not look at the input; meant for the first layer. Behind layer norms amounts grow where values are "
    "near zero and cancel: closure is up to their rounding, which a note states. On ConvNeXt-T w² gives "
    "3.6e15 and misses .14 of the score, flat 2.6e13 and .003 "
    "(`pytest -m slow tests/engines/backward/test_networks.py`)."
)
Composite = Literal[
    "epsilon_plus", "epsilon_gamma_box", "epsilon_plus_flat", "epsilon_alpha2_beta1", "epsilon_gamma"
]


@methods.register(
    Card(
        name="lrp_epsilon",
        title="LRP-ε",
        source="bach2015, Eq. 58",
        formula="R_in = x ⊙ Wᵀ R / (z + ε sign z), biases keeping their share",
        family="layer-wise backpropagation",
        reformulations=("feature additive", "modified gradient × input", "Taylor interaction"),
        guarantees=("dummy",),
        needs=("gradient",),
        passes=UNDER_RULES,
        differs=(
            "Gates, exponentials, attention weights and standard deviations count as constants and products "
            "are halved; the paper treats none of them.",
        ),
        pitfalls=(BIASES, LOGITS, FORM),
    ),
    aliases=("lrp", "lrp_eps"),
)
def lrp_epsilon(
    *, epsilon: float = 1e-6, rules: tuple[Any, ...] = (), uncovered: Policy = "error"
) -> Backward:
    """Relevance in shares of each contribution to z, with a stabiliser.

    ε → 0 is gradient × input on ReLU networks.

    Args:
        epsilon: the stabiliser, in units of z; 0 is LRP-0.

    Shape: (b, *f) in and out; bias_, stabiliser_ and rest_relevance and closure (b,) in diagnostics.

    Example:
        >>> import abe
        >>> print(abe.method("lrp_epsilon", epsilon=0.01))
        lrp_epsilon(epsilon=0.01, rules=(), uncovered='error')
    """
    return relevance(
        convolution=Epsilon(epsilon=epsilon), dense=Epsilon(epsilon=epsilon), rules=rules, uncovered=uncovered
    )


@methods.register(
    Card(
        name="lrp_0",
        title="LRP-0",
        source="bach2015, Eq. 56",
        formula="R_in = x ⊙ Wᵀ R / z",
        family="layer-wise backpropagation",
        reformulations=("feature additive", "modified gradient × input", "Taylor interaction"),
        guarantees=("dummy",),
        needs=("gradient",),
        passes=UNDER_RULES,
        pitfalls=(BIASES, LOGITS, FORM),
    ),
    aliases=("lrp_zero",),
)
def lrp_0(*, uncovered: Policy = "error") -> Backward:
    """Relevance in shares of each contribution to z.

    Computed as c = R / z, so that no division by a small z happens.

    Shape: (b, *f) in and out; bias_, stabiliser_ and rest_relevance and closure (b,) in diagnostics.

    Example:
        >>> import abe
        >>> abe.method("lrp_0", uncovered="gradient").rows(b=1)
        3.0
    """
    return relevance(convolution=Epsilon(epsilon=0.0), dense=Epsilon(epsilon=0.0), uncovered=uncovered)


@methods.register(
    Card(
        name="lrp_gamma",
        title="LRP-γ",
        source="montavon2019, Sec. 10.2.3",
        formula="R_in = shares of x⁺(w + γ w⁺) + x⁻(w + γ w⁻) where z > 0, "
        "with w⁺ and w⁻ exchanged where z < 0",
        family="layer-wise backpropagation",
        reformulations=("Taylor interaction",),
        guarantees=("dummy",),
        needs=("gradient",),
        passes=UNDER_RULES,
        differs=("Inputs and outputs of both signs are treated; the paper assumes non-negative ones.",),
        pitfalls=(BIASES, LOGITS),
    ),
    aliases=(),
)
def lrp_gamma(
    *,
    gamma: float = 0.25,
    stabiliser: float = STABILISER,
    rules: tuple[Any, ...] = (),
    uncovered: Policy = "error",
) -> Backward:
    """Shares that favour contributions of the output's own sign.

    Args:
        gamma: how much more such contributions count.

    Shape: (b, *f) in and out; bias_, stabiliser_ and rest_relevance and closure (b,) in diagnostics.

    Example:
        >>> import abe
        >>> print(abe.method("lrp_gamma", gamma=0.1))
        lrp_gamma(gamma=0.1, stabiliser=1e-06, rules=(), uncovered='error')
    """
    rule = Gamma(gamma=gamma, stabiliser=stabiliser)
    return relevance(convolution=rule, dense=rule, rules=rules, uncovered=uncovered)


@methods.register(
    Card(
        name="lrp_alpha_beta",
        title="LRP-αβ",
        source="bach2015, Eq. 60",
        formula="R_in = α (x⁺w⁺ + x⁻w⁻ shares) − β (x⁺w⁻ + x⁻w⁺ shares), biases keeping theirs",
        family="layer-wise backpropagation",
        reformulations=("Taylor interaction",),
        guarantees=("dummy",),
        needs=("gradient",),
        passes=UNDER_RULES,
        pitfalls=(BIASES, LOGITS),
    ),
    aliases=("lrp_ab",),
)
def lrp_alpha_beta(
    *,
    alpha: float = 2.0,
    beta: float = 1.0,
    stabiliser: float = STABILISER,
    rules: tuple[Any, ...] = (),
    uncovered: Policy = "error",
) -> Backward:
    """Positive and negative contributions redistribute apart.

    Args:
        alpha: share of positive contributions.
        beta: share of negative contributions; α − β = 1.

    Shape: (b, *f) in and out; bias_, stabiliser_ and rest_relevance and closure (b,) in diagnostics.

    Example:
        >>> import abe
        >>> print(abe.method("lrp_alpha_beta", alpha=1.5, beta=0.5))
        lrp_alpha_beta(alpha=1.5, beta=0.5, stabiliser=1e-06, rules=(), uncovered='error')
    """
    if abs(alpha - beta - 1) > 1e-9 or beta < 0:
        raise SpecError(
            Code.BAD_PARAMETER, "alpha − beta must be 1 and beta not negative", got=f"{alpha} and {beta}"
        )
    rule = AlphaBeta(alpha=alpha, beta=beta, stabiliser=stabiliser)
    return relevance(convolution=rule, dense=rule, rules=rules, uncovered=uncovered)


@methods.register(
    Card(
        name="lrp_z_plus",
        title="LRP-z⁺",
        source="montavon2017, Eq. 13",
        formula="R_in = shares of x⁺w⁺ + x⁻w⁻",
        family="layer-wise backpropagation",
        reformulations=("nonnegative backpropagation", "Taylor interaction"),
        guarantees=("dummy",),
        needs=("gradient",),
        passes=UNDER_RULES,
        differs=("Batch norm is merged into convolutions on a copy first.",),
        pitfalls=(BIASES, LOGITS),
    ),
    aliases=("lrp_zplus", "lrp_alpha1_beta0"),
)
def lrp_z_plus(
    *,
    bias: Literal["absorb", "drop"] = "absorb",
    stabiliser: float = STABILISER,
    merged: bool = True,
    rules: tuple[Any, ...] = (),
    uncovered: Policy = "error",
) -> Backward:
    """Relevance along positive contributions only.

    An output without positive contribution passes nothing on: the stabiliser, ε R / (0 + ε), takes all of it.

    Args:
        bias: ``"absorb"`` gives positive biases their share, ``"drop"`` hands it to the inputs.

    Shape: (b, *f) in and out; bias_, stabiliser_ and rest_relevance and closure (b,) in diagnostics.

    Example:
        >>> import abe
        >>> print(abe.method("lrp_z_plus", bias="drop"))
        lrp_z_plus(bias='drop', stabiliser=1e-06, merged=True, rules=(), uncovered='error')
    """
    rule = ZPlus(bias=bias, stabiliser=stabiliser)
    return relevance(convolution=rule, dense=rule, rules=rules, uncovered=uncovered, merged=merged)


@methods.register(
    Card(
        name="lrp_w_square",
        title="LRP-w²",
        source="montavon2017, Eq. 12",
        formula="R_in = w² R / Σ w², whatever the input; biases keep b² of the sum",
        family="layer-wise backpropagation",
        reformulations=("Taylor interaction",),
        guarantees=(),
        needs=("gradient",),
        passes=UNDER_RULES,
        pitfalls=(BIASES, BLIND),
    ),
    aliases=("lrp_wsquare",),
)
def lrp_w_square(
    *, stabiliser: float = STABILISER, merged: bool = True, uncovered: Policy = "error"
) -> Backward:
    """Relevance in proportion to squared weights.

    Closure alone is guaranteed.

    Shape: (b, *f) in and out; bias_, stabiliser_ and rest_relevance and closure (b,) in diagnostics.

    Example:
        >>> import abe
        >>> print(abe.method("lrp_w_square", merged=False))
        lrp_w_square(stabiliser=1e-06, merged=False, uncovered='error')
    """
    rule = WSquare(stabiliser=stabiliser)
    return relevance(convolution=rule, dense=rule, uncovered=uncovered, merged=merged)


@methods.register(
    Card(
        name="lrp_flat",
        title="LRP-flat",
        source="lapuschkin2019",
        formula="R_in = R / (number of inputs read), whatever their value or weight",
        family="layer-wise backpropagation",
        reformulations=("Taylor interaction",),
        guarantees=(),
        needs=("gradient",),
        passes=UNDER_RULES,
        pitfalls=(BLIND,),
    ),
    aliases=(),
)
def lrp_flat(*, stabiliser: float = STABILISER, merged: bool = True, uncovered: Policy = "error") -> Backward:
    """Relevance in equal shares.

    Closure alone is guaranteed.

    Shape: (b, *f) in and out; bias_, stabiliser_ and rest_relevance and closure (b,) in diagnostics.

    Example:
        >>> import abe
        >>> print(abe.method("lrp_flat", merged=False))
        lrp_flat(stabiliser=1e-06, merged=False, uncovered='error')
    """
    rule = Flat(stabiliser=stabiliser)
    return relevance(convolution=rule, dense=rule, uncovered=uncovered, merged=merged)


COMPOSITES: dict[str, tuple[Gamma | AlphaBeta, ZBox | Flat | None]] = {
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
        source="montavon2019, Sec. 10.3",
        formula="ε at dense layers; z⁺, γ or α2β1 at convolutions; zᴮ or flat at the first one",
        family="layer-wise backpropagation",
        reformulations=("Taylor interaction",),
        guarantees=("dummy",),
        needs=("gradient",),
        passes=UNDER_RULES,
        differs=("Batch norm is merged into convolutions on a copy first.",),
        pitfalls=(BIASES, LOGITS),
    ),
    aliases=("lrp_epsilon_plus",),
)
def lrp_composite(
    *,
    composite: Composite = "epsilon_plus",
    epsilon: float = 1e-6,
    stabiliser: float = STABILISER,
    merged: bool = True,
    rules: tuple[Any, ...] = (),
    uncovered: Policy = "error",
) -> Backward:
    """Other rules by place: first layer, convolutions, dense layers.

    Args:
        composite: ``"epsilon_plus"`` (z⁺ at convolutions), ``"epsilon_gamma"``, ``"epsilon_alpha2_beta1"``,
            ``"epsilon_gamma_box"`` (zᴮ first), ``"epsilon_plus_flat"`` (flat first); ε at dense layers.
        epsilon: stabiliser of dense layers.
        stabiliser: of convolutions and of the first layer, in units of their denominators.

    Shape: (b, *f) in and out; bias_, stabiliser_ and rest_relevance and closure (b,) in diagnostics.

    Example:
        >>> import abe
        >>> abe.method("lrp_composite", composite="epsilon_gamma_box").rows(b=1)
        3.0
    """
    check_choice("composite", composite, COMPOSITES)
    inner, outer = COMPOSITES[composite]
    convolution = replace(inner, stabiliser=stabiliser)
    first = None if outer is None else replace(outer, stabiliser=stabiliser)
    dense = Epsilon(epsilon=epsilon)
    return relevance(
        convolution=convolution, dense=dense, first=first, rules=rules, uncovered=uncovered, merged=merged
    )

"""Backward rules that change gradients or multipliers: Deconv, Guided Backprop, RectGrad, DeepLIFT."""

from typing import Any

from torch import Tensor

from abe.baselines import Dataset, as_baseline
from abe.engines.backward.deeplift import DeepLift
from abe.engines.backward.deeplift_record import POOLS, REDUCTIONS
from abe.engines.backward.rectifier_filters import (
    AsItIs,
    Deconvolve,
    Guided,
    Rectify,
    filter_book,
)
from abe.engines.backward.run import Backward, Policy
from abe.errors import Code, InputError
from abe.methods.gradient import Variant, published
from abe.registry import methods
from abe.types import Card, Passes

RELU_ONLY = "Smooth activations (GELU, SiLU) are no rectifiers: they keep their plain gradient."
CLASS_BLIND = "Hardly depends on the class or on the upper layers' weights: it restores image edges."
SUBJECT_TO_FORM = "two networks of one function that split it into other operations get other maps"

UNDER_RULES = Passes(forward="b + 1", backward="b", at_most=True)
"""The row beside the samples is run once for a model: its output under rules must be its plain output."""


@methods.register(
    Card(
        name="deconvolution",
        title="Deconvolution",
        source="zeiler2014",
        formula="g_in = max(g_out, 0) wherever the model computes max(x, 0)",
        family="modified gradient",
        reformulations=("nonnegative backpropagation",),
        guarantees=("dummy",),
        needs=("gradient",),
        passes=UNDER_RULES,
        pitfalls=(CLASS_BLIND, RELU_ONLY),
    ),
    aliases=("deconv", "deconvnet"),
)
def deconvolution() -> Backward:
    """The gradient, clipped at zero at every rectifier on the way back.

    Rectifiers are found however they are written: ``relu``, ``clamp(min=0)``, ``torch.maximum(x, 0)``,
    ``x * (x > 0)``, in place or not, functional or reused.

    Example:
        >>> import abe
        >>> abe.method("deconv").rows(b=1)
        3.0
    """
    return Backward(book=filter_book(Deconvolve()), form="gradient")


@methods.register(
    Card(
        name="guided_backprop",
        title="Guided Backprop",
        source="springenberg2015",
        formula="g_in = max(g_out, 0) · 1[x > 0] wherever the model computes max(x, 0), "
        "however it is written",
        family="modified gradient",
        reformulations=("nonnegative backpropagation",),
        guarantees=("dummy",),
        needs=("gradient",),
        passes=UNDER_RULES,
        pitfalls=(CLASS_BLIND, RELU_ONLY),
    ),
    aliases=("gbp", "guided_backpropagation"),
)
def guided_backprop() -> Backward:
    """The gradient, clipped at zero at every rectifier that was active.

    Example:
        >>> import abe
        >>> abe.method("gbp").rows(b=1)
        3.0
    """
    return Backward(book=filter_book(Guided()), form="gradient")


@methods.register(
    Card(
        name="rectgrad",
        title="Rectified Gradient",
        source="kim2019, Eq. 3",
        formula="g_in = g_out · 1[a g_out > τ], a the activation, "
        "τ a percentile of a g_out over the sample's entries of the layer, interpolated linearly",
        family="layer-wise backpropagation",
        reformulations=("nonnegative backpropagation",),
        guarantees=("dummy",),
        needs=("gradient",),
        passes=UNDER_RULES,
        pitfalls=("Not linear in the score; which pixels survive depends on the percentile.", RELU_ONLY),
    ),
    aliases=("rectified_gradient", "rectg"),
)
def rectgrad(*, percentile: float = 98.0) -> Backward:
    """The gradient passes rectifiers only where activation times gradient is among the largest.

    Args:
        percentile: share of each layer's entries that is dropped, in per cent.

    Example:
        >>> import abe
        >>> abe.method("rectgrad", percentile=95.0).rows(b=1)
        3.0
    """
    return Backward(book=filter_book(Rectify(percentile=percentile)), form="gradient")


LIFT_DIFFERS = (
    "Products, softmax, layer norm and max-pool have rules that make the map complete; the paper has "
    "rules for linear and element-wise operations only."
)
POOLED = (
    "Max-pool, and a maximum over an axis, give their change to the maximum of whichever of input and "
    "reference has the larger one; variant='published' passes plain gradients there, as recorded maps of "
    "published code do, which are not complete."
)


@methods.register(
    Card(
        name="deeplift",
        title="DeepLIFT (Rescale)",
        source="shrikumar2017, Sec. 3.5",
        formula="A = (x − x′) ⊙ m, multipliers m = Δout/Δin chained like gradients",
        family="layer-wise backpropagation",
        reformulations=("feature additive", "modified gradient × input", "Taylor interaction"),
        guarantees=("completeness", "dummy", "sensitivity", "additivity"),
        needs=("gradient",),
        passes=Passes(forward="2 * b + 1", backward="b", at_most=True),
        differs=(LIFT_DIFFERS, POOLED),
        pitfalls=("Depends on how the network is written: " + SUBJECT_TO_FORM + ".",),
    ),
    aliases=("deep_lift", "dl", "deeplift_rescale", "dl_res"),
)
def deeplift(
    *,
    baseline: Any = "zero",
    rules: tuple[Any, ...] = (),
    uncovered: Policy = "error",
    variant: Variant = "corrected",
) -> DeepLift:
    """Differences from a reference, handed back operation by operation as Δout/Δin.

    ΣA = s(x) − s(x′) to rounding, also with gates, attention, layer norm and max-pool, in place, functional
    or reused.

    Example:
        >>> import torch, abe
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2), torch.nn.GELU())
        >>> explanation = abe.explain(abe.image_task(model), torch.rand(1, 3, 2, 2), "deeplift", target=0)
        >>> bool(explanation.residual_absolute.abs() < 1e-5)
        True
    """
    return DeepLift(baseline=as_baseline(baseline), rules=_pairs(rules, variant), uncovered=uncovered)


@methods.register(
    Card(
        name="deeplift_reveal_cancel",
        title="DeepLIFT (RevealCancel)",
        source="shrikumar2017, Sec. 3.5.3",
        formula="Δy± = ½ [f(z′ + Δz±) − f(z′)] + ½ [f(z) − f(z′ + Δz∓)]",
        family="layer-wise backpropagation",
        reformulations=("Taylor interaction",),
        guarantees=("completeness", "dummy", "sensitivity", "additivity"),
        needs=("gradient",),
        passes=Passes(forward="2 * b + 1", backward="b", at_most=True),
        differs=("Convolutions are treated like dense layers; the paper's recipe uses Rescale there.",),
        pitfalls=(
            "Parts are kept through weighted and element-wise operations and views only; behind pooling "
            "or an addition they are taken anew from the sign of the difference.",
        ),
    ),
    aliases=("reveal_cancel", "dl_rev"),
)
def deeplift_reveal_cancel(*, baseline: Any = "zero", uncovered: Policy = "error") -> DeepLift:
    """DeepLIFT with positive and negative parts of every difference kept apart.

    The formula is for activations: the Shapley values of the two parts. Weighted operations send parts on
    by the sign of their weights.

    Example:
        >>> import abe
        >>> abe.method("dl_rev", baseline="blur").rows(b=1)
        4.0
    """
    return DeepLift(baseline=as_baseline(baseline), rule="reveal_cancel", uncovered=uncovered)


@methods.register(
    Card(
        name="deepshap",
        title="DeepSHAP",
        source="lundberg2017",
        formula="A = (1/m) Σ_k DeepLIFT(x, x′_k), ΣA = s(x) − mean s(x′)",
        family="layer-wise backpropagation",
        reformulations=("Taylor interaction",),
        guarantees=("completeness", "dummy", "sensitivity"),
        needs=("gradient", "draws"),
        passes=Passes(forward="b * (2 * samples + 1)", backward="b * samples"),
        differs=(LIFT_DIFFERS, POOLED, "Standard errors over the background are returned."),
        pitfalls=("Not the Shapley value of the network: multipliers are chained, not averaged.",),
    ),
    aliases=("deep_shap", "dshap", "deepliftshap"),
)
def deepshap(
    *,
    background: Any = "uniform",
    samples: int = 10,
    rules: tuple[Any, ...] = (),
    uncovered: Policy = "error",
    variant: Variant = "corrected",
) -> DeepLift:
    """DeepLIFT averaged over a background, in bounded memory.

    Args:
        background: a tensor (m, *f) or `Dataset`, used whole, or a baseline to draw from.
        samples: references per input where the background is drawn from.

    Shape: (b, *f) in and out; standard errors (b, *f).

    Example:
        >>> import abe
        >>> abe.method("deepshap", samples=5).rows(b=1)
        16.0
    """
    chosen = Dataset(samples=background) if isinstance(background, Tensor) else as_baseline(background)
    members = getattr(chosen, "samples", None)
    if isinstance(members, Tensor) and len(members) < 2:
        raise InputError(
            Code.BASELINE_SHAPE,
            "A background of one sample has nothing to average over",
            got=tuple(members.shape),
            expected="(m, *features) with m ≥ 2",
            fix="Use deeplift with baseline=… for a single reference",
        )
    count = 0 if isinstance(members, Tensor) else samples
    return DeepLift(baseline=chosen, samples=count, rules=_pairs(rules, variant), uncovered=uncovered)


def _pairs(rules: Any, variant: Variant) -> tuple[tuple[str, Any], ...]:
    pooling = tuple((name, AsItIs()) for name in (*POOLS, *sorted(REDUCTIONS))) if published(variant) else ()
    return (*((str(key), rule) for key, rule in rules), *pooling)

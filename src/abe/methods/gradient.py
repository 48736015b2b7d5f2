"""Gradient family: one gradient at the input, or at noisy copies of it."""

from abe.engines.checks import Variant, published
from abe.engines.path.gradient import GradientAt
from abe.engines.wrappers import Smooth
from abe.registry import methods
from abe.types import Card, Passes

ONE_GRADIENT = Passes(forward="2 * b", backward="b")
NOISY_GRADIENTS = Passes(forward="b * (samples + 1)", backward="b * samples")


@methods.register(
    Card(
        name="gradient",
        title="Gradient (saliency)",
        summary="How the score changes with each input, at the input.",
        source="simonyan2014",
        formula="A = ∇s(x)",
        family="modified gradient",
        guarantees=("linearity", "dummy", "implementation_invariance"),
        needs=("gradient",),
        passes=ONE_GRADIENT,
        differs=("Signed by default; published code often shows |∇|, which is variant='published'.",),
        pitfalls=("Confident probabilities have no gradient; explain the logit.",),
    ),
    aliases=("saliency", "grad", "sm"),
)
def gradient(*, absolute: bool = False, variant: Variant = "corrected") -> GradientAt:
    """Gradient of the score at the input.

    A = ∇s(x)

    Composition: `GradientAt`.

    Args:
        absolute: |∇s|, without a sign.
        variant: ``"published"`` is the absolute value.

    Shape:
        (b, *f) in and out.

    Guarantees:
        linearity, dummy, implementation invariance. Not completeness.

    Cost:
        One forward and one backward row per sample, and one forward row for the prediction.

    Differs from the paper:
        Signed by default.

    Source:
        simonyan2014.

    Example:
        >>> import abe
        >>> str(abe.method("gradient"))
        "gradient(absolute=False, variant='corrected')"
    """
    return GradientAt(absolute=absolute or published(variant))


@methods.register(
    Card(
        name="gradient_x_input",
        title="Gradient × Input",
        summary="The gradient times the input.",
        source="shrikumar2016",
        formula="A = x ⊙ ∇s(x)",
        family="gradient × input",
        reformulations=("modified gradient × input", "Taylor interaction"),
        guarantees=("linearity", "dummy", "implementation_invariance"),
        needs=("gradient",),
        passes=ONE_GRADIENT,
        pitfalls=("Depends on where zero lies in input space; black pixels get nothing.",),
    ),
    aliases=("grad_x_input", "gxi", "inputxgradient", "input_x_gradient"),
)
def gradient_x_input() -> GradientAt:
    """Gradient times input.

    A = x ⊙ ∇s(x)

    Composition: `GradientAt` times the input.

    Shape:
        (b, *f) in and out.

    Guarantees:
        linearity, dummy, implementation invariance. Complete only where FIG is.

    Cost:
        One forward and one backward row per sample, and one forward row for the prediction.

    Source:
        shrikumar2016.
    """
    return GradientAt(times_input=True)


@methods.register(
    Card(
        name="fast_ig",
        title="Fast IG (X-gradient)",
        summary="Integrated gradients from zero in one pass, exact on bias-free homogeneous networks only.",
        source="hesse2021, Prop. 1",
        formula="A = x ⊙ ∇s(x) = IG_0(x) where s(λx) = λ s(x)",
        family="gradient × input",
        reformulations=("modified gradient × input", "Taylor interaction"),
        guarantees=("linearity", "dummy", "implementation_invariance"),
        needs=("gradient",),
        passes=Passes(forward="3 * b", backward="b"),
        differs=(
            "The published family code multiplies by the gradient of the loss, which reverses the sign; "
            "that is variant='published'.",
        ),
        pitfalls=("Not complete on a network with biases; the residual of every result says by how much.",),
        expected_failures={"completeness": "holds on bias-free positively homogeneous networks only"},
    ),
    aliases=("fig", "x_gradient"),
)
def fast_ig(*, variant: Variant = "corrected") -> GradientAt:
    """Integrated gradients from zero, exactly, where the score is positively homogeneous.

    A = x ⊙ ∇s(x); equals IG from zero where s(λx) = λ s(x) for λ > 0, and only there.

    Composition: `GradientAt` times the input, with the change from zero reported.

    Args:
        variant: ``"published"`` uses −x ⊙ ∇log p_y, the sign the published family code computes.

    Shape:
        (b, *f) in and out.

    Guarantees:
        linearity, dummy, implementation invariance; completeness on bias-free homogeneous networks.

    Cost:
        One gradient row, and forward rows for the prediction and for zero.

    Differs from the paper:
        None by default; see ``variant``.

    Source:
        hesse2021, Prop. 1.
    """
    reverse = published(variant)
    return GradientAt(times_input=True, negated_loss=reverse, claims_change=not reverse)


@methods.register(
    Card(
        name="smoothgrad",
        title="SmoothGrad",
        summary="Mean gradient over noisy copies of the input.",
        source="smilkov2017",
        formula="A = E ∇s(x + σ r ε), ε ~ N(0, 1), r the input range",
        family="modified gradient",
        guarantees=("linearity", "dummy", "implementation_invariance"),
        needs=("gradient", "draws"),
        passes=NOISY_GRADIENTS,
        differs=("σ counts in the input range; variant='published' takes σ = 0.15 in input units.",),
    ),
    aliases=("sg", "smooth_grad"),
)
def smoothgrad(*, sigma: float = 0.15, samples: int = 50, variant: Variant = "corrected") -> Smooth:
    """Mean gradient over noisy copies of the input.

    A = (1/n) Σ_k ∇s(x + σ r ε_k), r the task's input range

    Composition: `Smooth` of `GradientAt`, reduced by the mean.

    Args:
        sigma: noise as a share of the input range.
        samples: noisy copies per sample.
        variant: ``"published"`` counts sigma in input units.

    Shape:
        (b, *f) in and out; standard errors (b, *f).

    Guarantees:
        linearity, dummy, implementation invariance.

    Cost:
        ``samples`` gradient rows per sample.

    Differs from the paper:
        Noisy copies are not clipped to the bounds.

    Source:
        smilkov2017.
    """
    return Smooth(engine=GradientAt(), sigma=sigma, samples=samples, relative=not published(variant))


@methods.register(
    Card(
        name="smoothgrad_squared",
        title="SmoothGrad²",
        summary="Mean squared gradient over noisy copies of the input.",
        source="hooker2019",
        formula="A = E [∇s(x + σ r ε)]²",
        family="modified gradient",
        guarantees=("dummy", "implementation_invariance"),
        needs=("gradient", "draws"),
        passes=NOISY_GRADIENTS,
        pitfalls=("Has no sign: support and opposition look alike.",),
    ),
    aliases=("sq", "smoothgrad2", "smoothgrad_sq"),
)
def smoothgrad_squared(*, sigma: float = 0.15, samples: int = 50, variant: Variant = "corrected") -> Smooth:
    """Mean squared gradient over noisy copies of the input.

    A = (1/n) Σ_k [∇s(x + σ r ε_k)]²

    Composition: `Smooth` of `GradientAt`, reduced by the mean square.

    Args:
        sigma: noise as a share of the input range.
        samples: noisy copies per sample.
        variant: ``"published"`` counts sigma in input units.

    Shape:
        (b, *f) in and out; standard errors (b, *f).

    Guarantees:
        dummy, implementation invariance.

    Cost:
        ``samples`` gradient rows per sample.

    Source:
        hooker2019.
    """
    return Smooth(
        engine=GradientAt(), sigma=sigma, samples=samples, reduce="square", relative=not published(variant)
    )


@methods.register(
    Card(
        name="vargrad",
        title="VarGrad",
        summary="Variance of the gradient over noisy copies of the input.",
        source="adebayo2018",
        formula="A = E g² − (E g)², g = ∇s(x + σ r ε)",
        family="modified gradient",
        guarantees=("dummy", "implementation_invariance"),
        needs=("gradient", "draws"),
        passes=NOISY_GRADIENTS,
        pitfalls=("Has no sign; on a locally linear score it is zero.",),
    ),
    aliases=("var_grad",),
)
def vargrad(*, sigma: float = 0.15, samples: int = 50, variant: Variant = "corrected") -> Smooth:
    """Variance of the gradient over noisy copies of the input (divided by n, not n − 1).

    A = (1/n) Σ_k g_k² − ((1/n) Σ_k g_k)²

    Composition: `Smooth` of `GradientAt`, reduced by the variance.

    Args:
        sigma: noise as a share of the input range.
        samples: noisy copies per sample.
        variant: ``"published"`` counts sigma in input units.

    Shape:
        (b, *f) in and out; standard errors (b, *f), as for normal gradients.

    Guarantees:
        dummy, implementation invariance.

    Cost:
        ``samples`` gradient rows per sample.

    Source:
        adebayo2018.
    """
    return Smooth(
        engine=GradientAt(), sigma=sigma, samples=samples, reduce="variance", relative=not published(variant)
    )

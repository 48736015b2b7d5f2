"""Gradient family: one gradient at the input, or at noisy copies of it."""

from abe.checks import Variant, published
from abe.engines.path.gradient import GradientAt
from abe.engines.wrappers import Smooth
from abe.registry import methods
from abe.types import Card, Passes

ONE_GRADIENT = Passes(forward="b", backward="b")
NOISY_GRADIENTS = Passes(forward="b * (samples + 1)", backward="b * samples")
OF_RANGE = "σ counts in the input range; variant='published' takes it in input units."


@methods.register(
    Card(
        name="gradient",
        title="Gradient (saliency)",
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
    """How the score changes with each input, at the input.

    Args:
        absolute: |∇s|, without a sign.

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
    """The gradient times the input.

    Complete only where `fast_ig` is.

    Example:
        >>> import abe
        >>> abe.method("gxi").rows(b=1)
        2.0
    """
    return GradientAt(times_input=True)


@methods.register(
    Card(
        name="fast_ig",
        title="Fast IG (X-gradient)",
        source="hesse2021, Prop. 1",
        formula="A = x ⊙ ∇s(x), which is IG from zero where s(λx) = λ s(x) for λ > 0, and only there",
        family="gradient × input",
        reformulations=("modified gradient × input", "Taylor interaction"),
        guarantees=("linearity", "dummy", "implementation_invariance"),
        needs=("gradient",),
        passes=Passes(forward="2 * b", backward="b"),
        differs=(
            "The published family code multiplies by the gradient of the loss, which reverses the sign; "
            "that is variant='published'.",
            "The framework paper speaks of an integral with fewer points; this is one gradient at the input.",
        ),
        pitfalls=("Not complete on a network with biases; the residual of every result says by how much.",),
        expected_failures={
            "completeness": "holds on bias-free positively homogeneous networks only",
            "fixed": "zero is its only reference, for special tokens too",
        },
    ),
    aliases=("fig", "x_gradient"),
)
def fast_ig(*, variant: Variant = "corrected") -> GradientAt:
    """Integrated gradients from zero in one pass, exact on bias-free homogeneous networks only.

    Args:
        variant: ``"published"`` uses −x ⊙ ∇log p_y, the sign the published family code computes.

    Example:
        >>> import abe
        >>> abe.method("fig").rows(b=1)
        3.0
    """
    reverse = published(variant)
    return GradientAt(times_input=True, negated_loss=reverse, claims_change=not reverse)


@methods.register(
    Card(
        name="smoothgrad",
        title="SmoothGrad",
        source="smilkov2017",
        formula="A = (1/n) Σ_k ∇s(x + σ r ε_k), ε_k ~ N(0, 1), r the input range",
        family="modified gradient",
        guarantees=("linearity", "dummy", "implementation_invariance"),
        needs=("gradient", "draws"),
        passes=NOISY_GRADIENTS,
        differs=(OF_RANGE, "Noisy copies are not clipped to the bounds."),
    ),
    aliases=("sg", "smooth_grad"),
)
def smoothgrad(*, sigma: float = 0.15, samples: int = 50, variant: Variant = "corrected") -> Smooth:
    """Mean gradient over noisy copies of the input.

    Shape: (b, *f) in and out; standard errors (b, *f).

    Example:
        >>> import abe
        >>> abe.method("smoothgrad", sigma=0.1, samples=20).rows(b=1)
        41.0
    """
    return Smooth(engine=GradientAt(), sigma=sigma, samples=samples, relative=not published(variant))


@methods.register(
    Card(
        name="smoothgrad_squared",
        title="SmoothGrad²",
        source="hooker2019",
        formula="A = (1/n) Σ_k [∇s(x + σ r ε_k)]²",
        family="modified gradient",
        guarantees=("dummy", "implementation_invariance"),
        needs=("gradient", "draws"),
        passes=NOISY_GRADIENTS,
        differs=(OF_RANGE,),
        pitfalls=("Has no sign: support and opposition look alike.",),
    ),
    aliases=("sq", "smoothgrad2", "smoothgrad_sq"),
)
def smoothgrad_squared(*, sigma: float = 0.15, samples: int = 50, variant: Variant = "corrected") -> Smooth:
    """Mean squared gradient over noisy copies of the input.

    Shape: (b, *f) in and out; standard errors (b, *f).

    Example:
        >>> import abe
        >>> abe.method("sq", samples=20).rows(b=1)
        41.0
    """
    return Smooth(
        engine=GradientAt(), sigma=sigma, samples=samples, reduce="square", relative=not published(variant)
    )


@methods.register(
    Card(
        name="vargrad",
        title="VarGrad",
        source="adebayo2018",
        formula="A = (1/n) Σ_k g_k² − ((1/n) Σ_k g_k)², g_k = ∇s(x + σ r ε_k)",
        family="modified gradient",
        guarantees=("dummy", "implementation_invariance"),
        needs=("gradient", "draws"),
        passes=NOISY_GRADIENTS,
        differs=(OF_RANGE,),
        pitfalls=("Has no sign; on a locally linear score it is zero.",),
    ),
    aliases=("var_grad",),
)
def vargrad(*, sigma: float = 0.15, samples: int = 50, variant: Variant = "corrected") -> Smooth:
    """Variance of the gradient over noisy copies of the input.

    Shape: (b, *f) in and out; standard errors (b, *f), as for normal gradients.

    Example:
        >>> import abe
        >>> abe.method("vargrad", samples=20).rows(b=1)
        41.0
    """
    return Smooth(
        engine=GradientAt(), sigma=sigma, samples=samples, reduce="variance", relative=not published(variant)
    )

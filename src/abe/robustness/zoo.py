"""The attack zoo: published attacks as compositions, usable as attacks and as updates of paths."""

from abe.checks import Count, Norm, Positive, Variant, published
from abe.engines.path.steps.estimators import IntegratedGradient, Neighbourhood, Plain
from abe.engines.path.steps.parts import Ball, DecayIndicator, UniformStart
from abe.registry import updates
from abe.robustness.chain import TRANSFER, WHITE_BOX, Chain, chain, sizes, steepest, transferable
from abe.types import Card


@updates.register(
    Card(
        name="fgsm",
        title="Fast Gradient Sign Method",
        source="goodfellow2015",
        formula="x ← clip(x + ε sign ∇L(x))",
        family="white-box attack",
    )
)
def fgsm(*, eps: float | None = None, norm: Norm = "linf") -> Chain:
    """One step of size eps along the sign of the loss gradient.

    Args:
        eps: radius and length of the step; None is 8/255 of the range in L∞, 0.5 in L2.
        norm: ``"linf"`` or ``"l2"`` (along the normalised gradient).
    """
    radius, _ = sizes(eps, None, norm, WHITE_BOX, 1)
    return chain(Plain(), steepest(norm), Ball(eps=radius, norm=norm), alpha=radius, steps=1)


@updates.register(
    Card(
        name="bim",
        title="Basic Iterative Method",
        source="kurakin2017",
        formula="x ← clip(x₀ + clip(x + α sign ∇L(x) − x₀, ±ε))",
        family="white-box attack",
    ),
    aliases=("ifgsm",),
)
def bim(
    *, eps: float | None = None, alpha: float | None = None, steps: Count = 10, norm: Norm = "linf"
) -> Chain:
    """Repeated sign steps, projected into the ball after each.

    Args:
        eps: radius; None is 8/255 of the range in L∞, 0.5 in L2.
        alpha: length of a step; eps/4 by default.
    """
    radius, length = sizes(eps, alpha, norm, WHITE_BOX, 4)
    return chain(Plain(), steepest(norm), Ball(eps=radius, norm=norm), alpha=length, steps=steps)


@updates.register(
    Card(
        name="pgd",
        title="Projected Gradient Descent",
        source="madry2018",
        formula="x ← clip(x₀ + clip(x + α sign ∇L(x) − x₀, ±ε)), x begun at x₀ + U(−ε, ε)",
        family="white-box attack",
    )
)
def pgd(
    *, eps: float | None = None, alpha: float | None = None, steps: Count = 10, norm: Norm = "linf"
) -> Chain:
    """BIM from a random point of the ball.

    Args:
        eps: radius; None is 8/255 of the range in L∞, 0.5 in L2.
        alpha: length of a step; eps/4 by default.
    """
    radius, length = sizes(eps, alpha, norm, WHITE_BOX, 4)
    start = UniformStart(eps=radius, norm=norm)
    return chain(Plain(), steepest(norm), start, Ball(eps=radius, norm=norm), alpha=length, steps=steps)


@updates.register(
    Card(
        name="mim",
        title="Momentum Iterative Method",
        source="dong2018",
        formula="m ← μ m + ∇L / mean|∇L|;  x ← clip(x + α sign m)",
        family="transferable attack",
    ),
    aliases=("mifgsm",),
)
def mim(
    *,
    eps: float | None = None,
    alpha: float | None = None,
    steps: Count = 10,
    decay: float = 1.0,
    norm: Norm = "linf",
) -> Chain:
    """Sign steps along the accumulated normalised gradient."""
    return transferable(Plain(), eps=eps, alpha=alpha, decay=decay, norm=norm, steps=steps)


@updates.register(
    Card(
        name="mig",
        title="Momentum Integrated Gradients",
        source="ma2023",
        formula="m ← μ m + g / mean|g|,  g = −x ⊙ (1/s) Σ_i ∇p_y(x i/s)",
        family="transferable attack",
        differs=(
            "The gradient at each point of the line is taken as it is; the published code multiplies it "
            "by i/s once more (variant='published').",
        ),
        pitfalls=("Entries that are zero never move: their integrated gradient is zero.",),
    )
)
def mig(
    *,
    eps: float | None = None,
    alpha: float | None = None,
    steps: Count = 10,
    decay: float = 1.0,
    points: int = 20,
    norm: Norm = "linf",
    variant: Variant = "corrected",
) -> Chain:
    """MIM along minus the integrated gradient of the class's probability.

    Args:
        points: s.
    """
    estimator = IntegratedGradient(points=points, chain_factor=published(variant))
    return transferable(estimator, eps=eps, alpha=alpha, decay=decay, norm=norm, steps=steps)


@updates.register(
    Card(
        name="gra",
        title="Gradient Relevance Attack",
        source="zhu2023gra",
        formula="g = s ∇L + (1 − s) ḡ,  s = cos(∇L, ḡ);  step α M sign m, M ← .94 M where sign m flips",
        family="transferable attack",
    )
)
def gra(
    *,
    eps: float | None = None,
    alpha: float | None = None,
    steps: Count = 10,
    decay: float = 1.0,
    beta: Positive = 3.5,
    neighbours: Count = 20,
    indicator: Positive = 0.94,
    norm: Norm = "linf",
) -> Chain:
    """MIM with the gradient corrected by its relevance to the neighbours' and shrinking steps.

    Args:
        beta: neighbours lie within beta · eps.
        neighbours: how many.
        indicator: factor of a step where the momentum changes its sign.
    """
    radius, _ = sizes(eps, alpha, norm, TRANSFER, 1)
    estimator = Neighbourhood(radius=beta * radius, copies=neighbours)
    shrink = (DecayIndicator(decay=indicator),)
    return transferable(estimator, eps=eps, alpha=alpha, decay=decay, norm=norm, steps=steps, after=shrink)

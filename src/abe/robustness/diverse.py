"""The attack zoo, continued: attacks whose gradient is averaged over changed copies, or smoothed like it."""

from typing import Literal

from abe.checks import Count, CountFrom0, Fraction, Norm, NotNegative, Variant, check_choice, published
from abe.engines.path.steps.estimators import (
    LookAhead,
    Plain,
    ScaleCopies,
    Transformed,
)
from abe.engines.path.steps.parts import Ball, Momentum, TranslationKernel
from abe.registry import updates
from abe.robustness.chain import TRANSFER, Chain, chain, sizes, steepest, transferable
from abe.robustness.transforms import OPERATIONS, SEVEN, InputDiversity, Spectrum, Structure
from abe.sizes import OfRange
from abe.types import Card


@updates.register(
    Card(
        name="dim",
        title="Diverse Inputs Method",
        source="xie2019",
        formula="m ← μ m + g / mean|g|,  g = ∇ L(D(x; p))",
        family="transferable attack",
        needs=("image",),
        differs=(
            "Coin, size and place are drawn per sample and step; the published code draws once for the "
            "batch, so that a row depends on its neighbours (variant='published').",
        ),
    ),
    aliases=("difgsm",),
)
def dim(
    *,
    eps: float | None = None,
    alpha: float | None = None,
    steps: Count = 10,
    decay: float = 1.0,
    probability: float = 0.5,
    rate: float = 0.75,
    norm: Norm = "linf",
    variant: Variant = "corrected",
) -> Chain:
    """MIM through randomly resized and padded inputs.

    Args:
        probability: of a transformation.
        rate: smallest side as a share of the input's; above 1 the largest, then resized back.
    """
    one = InputDiversity(probability=probability, rate=rate, one_draw=published(variant))
    estimator = Transformed(transforms=(one,))
    return transferable(estimator, eps=eps, alpha=alpha, decay=decay, norm=norm, steps=steps)


@updates.register(
    Card(
        name="tim",
        title="Translation-Invariant Method",
        source="dong2019",
        formula="m ← μ m + g / mean|g|,  g = W ∗ ∇L(x)",
        family="transferable attack",
        needs=("image",),
        differs=(
            "The kernel is not rounded to float32, and input diversity is not mixed in as some libraries "
            "do (variant='published' rounds the kernel).",
        ),
    ),
    aliases=("tifgsm",),
)
def tim(
    *,
    eps: float | None = None,
    alpha: float | None = None,
    steps: Count = 10,
    decay: float = 1.0,
    size: int = 15,
    sigmas: float = 3.0,
    norm: Norm = "linf",
    variant: Variant = "corrected",
) -> Chain:
    """MIM with the gradient smoothed by a Gaussian kernel.

    Args:
        size: side of the kernel.
        sigmas: standard deviations the kernel reaches to either side.
    """
    kernel = TranslationKernel(size=size, sigmas=sigmas, single_precision=published(variant))
    return transferable(Plain(), kernel, eps=eps, alpha=alpha, decay=decay, norm=norm, steps=steps)


@updates.register(
    Card(
        name="sinim",
        title="Scale-Invariant Nesterov Method",
        source="lin2020",
        formula="g = (1/m) Σ_i ∇L((x + α μ m_t) / 2^i)",
        family="transferable attack",
    ),
    aliases=("sinifgsm", "si_ni_fgsm"),
)
def sinim(
    *,
    eps: float | None = None,
    alpha: float | None = None,
    steps: Count = 10,
    decay: NotNegative = 1.0,
    copies: int = 5,
    norm: Norm = "linf",
) -> Chain:
    """MIM with the mean gradient of down-scaled copies at the look-ahead point.

    Args:
        copies: scales 1, 1/2, …, 1/2^(copies − 1).
    """
    _, length = sizes(eps, alpha, norm, TRANSFER, steps)
    ahead = LookAhead(inner=ScaleCopies(copies=copies), distance=decay * length)
    return transferable(ahead, eps=eps, alpha=alpha, decay=decay, norm=norm, steps=steps)


@updates.register(
    Card(
        name="ssa",
        title="Spectrum Simulation Attack",
        source="long2022",
        formula="g = (1/N) Σ_n ∇L(z_n),  z_n = IDCT(DCT(x + σ ε) ⊙ U[1 − ρ, 1 + ρ])",
        family="transferable attack",
        needs=("image",),
        pitfalls=("The gradient is taken at the transformed copies, not pulled back to the input.",),
    ),
    aliases=("ssm",),
)
def ssa(
    *,
    eps: float | None = None,
    alpha: float | None = None,
    steps: Count = 10,
    decay: NotNegative | None = None,
    copies: int = 20,
    rho: float = 0.5,
    sigma: NotNegative = OfRange(16 / 255),
    diversity: Fraction = 0.0,
    kernel: CountFrom0 = 0,
    norm: Norm = "linf",
) -> Chain:
    """The mean gradient at copies with noise and randomly scaled frequencies.

    Args:
        decay: momentum μ; None for the plain form without momentum.
        rho: how far frequencies are scaled.
        sigma: standard deviation of the noise, in input units; by default a share of the range.
        diversity: probability of input diversity (up to 1.15 times larger, resized back) on the copies.
        kernel: side of a translation kernel; 0 for none.
    """
    radius, length = sizes(eps, alpha, norm, TRANSFER, steps)
    extra = (InputDiversity(probability=diversity, rate=1.15),) if diversity else ()
    estimator = Transformed(transforms=(Spectrum(sigma=sigma, rho=rho), *extra), copies=copies)
    smoothing = (TranslationKernel(size=kernel),) if kernel else ()
    memory = () if decay is None else (Momentum(decay=decay),)
    ball = Ball(eps=radius, norm=norm)
    return chain(estimator, *smoothing, *memory, steepest(norm), ball, alpha=length, steps=steps)


@updates.register(
    Card(
        name="sia",
        title="Structure-Invariant Attack",
        source="wang2023sia",
        formula="m ← μ m + g / mean|g|,  g = (1/N) Σ_n ∇L(T_n(x))",
        family="transferable attack",
        needs=("image",),
        differs=(
            "Blocks are shrunk with height and width in their order and narrow ones pass the low-pass whole; "
            "the published code exchanges the sides and empties narrow blocks (variant='published').",
        ),
    ),
    aliases=("sit",),
)
def sia(
    *,
    eps: float | None = None,
    alpha: float | None = None,
    steps: Count = 10,
    decay: float = 1.0,
    copies: int = 20,
    blocks: int = 3,
    operations: Literal["ten", "seven"] = "ten",
    norm: Norm = "linf",
    variant: Variant = "corrected",
) -> Chain:
    """The mean gradient through copies whose random blocks are changed by random operations.

    Args:
        blocks: blocks per axis.
        operations: ``"ten"`` of the authors, or the ``"seven"`` of a widespread library.
    """
    check_choice("set of operations", operations, ("ten", "seven"))
    names = OPERATIONS if operations == "ten" else SEVEN
    one = Structure(blocks=blocks, operations=names, published=published(variant))
    estimator = Transformed(transforms=(one,), copies=copies)
    return transferable(estimator, eps=eps, alpha=alpha, decay=decay, norm=norm, steps=steps)

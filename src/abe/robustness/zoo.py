"""The attack zoo: published attacks as compositions, usable as attacks and as updates of paths."""

from typing import Literal

from abe.engines.path import check_count
from abe.errors import Code, SpecError
from abe.registry import updates
from abe.robustness.chain import Chain, chain
from abe.robustness.estimators import (
    Estimator,
    IntegratedGradient,
    LookAhead,
    Neighbourhood,
    Plain,
    ScaleCopies,
    Transformed,
)
from abe.robustness.features import FeatureImportance
from abe.robustness.parts import (
    Ball,
    DecayIndicator,
    Momentum,
    Norm,
    Normalised,
    Sign,
    Stage,
    TranslationKernel,
    UniformStart,
    check_norm,
    check_size,
)
from abe.robustness.transforms import OPERATIONS, SEVEN, InputDiversity, Spectrum, Structure
from abe.types import Card

Variant = Literal["corrected", "published"]
WHITE_BOX = {"linf": 8 / 255, "l2": 0.5}
"""Radius of FGSM, BIM and PGD in [0, 1] unless told otherwise."""
TRANSFER = {"linf": 16 / 255, "l2": 1.0}
"""The same for attacks made to transfer to other models."""


def _sizes(
    eps: float | None, alpha: float | None, norm: Norm, table: dict[str, float], share: float
) -> tuple[float, float]:
    check_norm(norm)
    radius = table[norm] if eps is None else check_size("eps", eps)
    return radius, radius / share if alpha is None else check_size("alpha", alpha)


def _published(variant: str) -> bool:
    if variant not in ("corrected", "published"):
        raise SpecError(
            Code.BAD_PARAMETER, "No such variant", got=repr(variant), expected="corrected or published"
        )
    return variant == "published"


def _transfer(
    estimator: Estimator,
    *before: Stage,
    eps: float | None,
    alpha: float | None,
    decay: float,
    norm: Norm,
    steps: int,
    after: tuple[Stage, ...] = (),
) -> Chain:
    """Momentum, steepest step and ball around an estimator: what all transferable attacks share."""
    check_count("steps", steps)
    radius, length = _sizes(eps, alpha, norm, TRANSFER, steps)
    way = Sign() if norm == "linf" else Normalised()
    stages = (*before, Momentum(decay=decay), way, *after)
    return chain(estimator, *stages, Ball(eps=radius, norm=norm), alpha=length, steps=steps)


@updates.register(
    Card(
        name="fgsm",
        title="Fast Gradient Sign Method",
        summary="One step of size eps along the sign of the loss gradient.",
        source="goodfellow2015",
        formula="x ← clip(x + ε sign ∇L(x))",
        family="white-box attack",
    )
)
def fgsm(*, eps: float | None = None, norm: Norm = "linf") -> Chain:
    """One step of size eps along the sign of the loss gradient.

    Args:
        eps: radius and length of the step in input units; 8/255 in L∞, 0.5 in L2.
        norm: ``"linf"`` or ``"l2"`` (along the normalised gradient).
    """
    radius, _ = _sizes(eps, None, norm, WHITE_BOX, 1)
    way = Sign() if norm == "linf" else Normalised()
    return chain(Plain(), way, Ball(eps=radius, norm=norm), alpha=radius, steps=1)


@updates.register(
    Card(
        name="bim",
        title="Basic Iterative Method",
        summary="Repeated sign steps, projected into the ball after each.",
        source="kurakin2017",
        formula="x ← clip(x₀ + clip(x + α sign ∇L(x) − x₀, ±ε))",
        family="white-box attack",
    ),
    aliases=("ifgsm",),
)
def bim(
    *, eps: float | None = None, alpha: float | None = None, steps: int = 10, norm: Norm = "linf"
) -> Chain:
    """Repeated sign steps, projected into the ball after each.

    Args:
        eps: radius in input units; 8/255 in L∞, 0.5 in L2.
        alpha: length of a step; eps/4 by default.
        steps: how many steps an attack takes.
        norm: ``"linf"`` or ``"l2"``.
    """
    radius, length = _sizes(eps, alpha, norm, WHITE_BOX, 4)
    way = Sign() if norm == "linf" else Normalised()
    return chain(Plain(), way, Ball(eps=radius, norm=norm), alpha=length, steps=steps)


@updates.register(
    Card(
        name="pgd",
        title="Projected Gradient Descent",
        summary="BIM from a random point of the ball.",
        source="madry2018",
        formula="x ← clip(x₀ + clip(x + α sign ∇L(x) − x₀, ±ε)), x begun at x₀ + U(−ε, ε)",
        family="white-box attack",
    )
)
def pgd(
    *, eps: float | None = None, alpha: float | None = None, steps: int = 10, norm: Norm = "linf"
) -> Chain:
    """BIM from a random point of the ball.

    Args:
        eps: radius in input units; 8/255 in L∞, 0.5 in L2.
        alpha: length of a step; eps/4 by default.
        steps: how many steps an attack takes.
        norm: ``"linf"`` or ``"l2"``.
    """
    radius, length = _sizes(eps, alpha, norm, WHITE_BOX, 4)
    way = Sign() if norm == "linf" else Normalised()
    start = UniformStart(eps=radius, norm=norm)
    return chain(Plain(), way, start, Ball(eps=radius, norm=norm), alpha=length, steps=steps)


@updates.register(
    Card(
        name="mim",
        title="Momentum Iterative Method",
        summary="Sign steps along the accumulated normalised gradient.",
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
    steps: int = 10,
    decay: float = 1.0,
    norm: Norm = "linf",
) -> Chain:
    """Sign steps along the accumulated normalised gradient.

    Args:
        eps: radius in input units; 16/255 in L∞, 1 in L2.
        alpha: length of a step; eps/steps by default.
        steps: how many steps an attack takes.
        decay: μ.
        norm: ``"linf"`` or ``"l2"``.
    """
    return _transfer(Plain(), eps=eps, alpha=alpha, decay=decay, norm=norm, steps=steps)


@updates.register(
    Card(
        name="dim",
        title="Diverse Inputs Method",
        summary="MIM through randomly resized and padded inputs.",
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
    steps: int = 10,
    decay: float = 1.0,
    probability: float = 0.5,
    rate: float = 0.75,
    norm: Norm = "linf",
    variant: Variant = "corrected",
) -> Chain:
    """MIM through randomly resized and padded inputs.

    Args:
        eps: radius in input units; 16/255 in L∞, 1 in L2.
        alpha: length of a step; eps/steps by default.
        steps: how many steps an attack takes.
        decay: μ.
        probability: of a transformation.
        rate: smallest side as a share of the input's; above 1 the largest, then resized back.
        norm: ``"linf"`` or ``"l2"``.
        variant: ``"published"`` draws once for the whole batch.

    Differs from the paper:
        Draws per sample instead of per batch.
    """
    one = InputDiversity(probability=probability, rate=rate, one_draw=_published(variant))
    estimator = Transformed(transforms=(one,))
    return _transfer(estimator, eps=eps, alpha=alpha, decay=decay, norm=norm, steps=steps)


@updates.register(
    Card(
        name="tim",
        title="Translation-Invariant Method",
        summary="MIM with the gradient smoothed by a Gaussian kernel.",
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
    steps: int = 10,
    decay: float = 1.0,
    size: int = 15,
    sigmas: float = 3.0,
    norm: Norm = "linf",
    variant: Variant = "corrected",
) -> Chain:
    """MIM with the gradient smoothed by a Gaussian kernel.

    Args:
        eps: radius in input units; 16/255 in L∞, 1 in L2.
        alpha: length of a step; eps/steps by default.
        steps: how many steps an attack takes.
        decay: μ.
        size: side of the kernel.
        sigmas: standard deviations the kernel reaches to either side.
        norm: ``"linf"`` or ``"l2"``.
        variant: ``"published"`` rounds the kernel to float32.

    Differs from the paper:
        None; a widespread implementation rounds the kernel.
    """
    kernel = TranslationKernel(size=size, sigmas=sigmas, single_precision=_published(variant))
    return _transfer(Plain(), kernel, eps=eps, alpha=alpha, decay=decay, norm=norm, steps=steps)


@updates.register(
    Card(
        name="sinim",
        title="Scale-Invariant Nesterov Method",
        summary="MIM with the mean gradient of down-scaled copies at the look-ahead point.",
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
    steps: int = 10,
    decay: float = 1.0,
    copies: int = 5,
    norm: Norm = "linf",
) -> Chain:
    """MIM with the mean gradient of down-scaled copies at the look-ahead point.

    Args:
        eps: radius in input units; 16/255 in L∞, 1 in L2.
        alpha: length of a step; eps/steps by default.
        steps: how many steps an attack takes.
        decay: μ.
        copies: scales 1, 1/2, …, 1/2^(copies − 1).
        norm: ``"linf"`` or ``"l2"``.
    """
    check_count("steps", steps)
    _, length = _sizes(eps, alpha, norm, TRANSFER, steps)
    ahead = LookAhead(inner=ScaleCopies(copies=copies), distance=decay * length)
    return _transfer(ahead, eps=eps, alpha=alpha, decay=decay, norm=norm, steps=steps)


@updates.register(
    Card(
        name="ssa",
        title="Spectrum Simulation Attack",
        summary="The mean gradient at copies with noise and randomly scaled frequencies.",
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
    steps: int = 10,
    decay: float | None = None,
    copies: int = 20,
    rho: float = 0.5,
    sigma: float = 16 / 255,
    diversity: float = 0.0,
    kernel: int = 0,
    norm: Norm = "linf",
) -> Chain:
    """The mean gradient at copies with noise and randomly scaled frequencies.

    Args:
        eps: radius in input units; 16/255 in L∞, 1 in L2.
        alpha: length of a step; eps/steps by default.
        steps: how many steps an attack takes.
        decay: momentum μ; None for the plain form without momentum.
        copies: N.
        rho: how far frequencies are scaled.
        sigma: standard deviation of the noise, in input units.
        diversity: probability of input diversity (up to 1.15 times larger, resized back) on the copies.
        kernel: side of a translation kernel; 0 for none.
        norm: ``"linf"`` or ``"l2"``.
    """
    check_count("steps", steps)
    radius, length = _sizes(eps, alpha, norm, TRANSFER, steps)
    extra = (InputDiversity(probability=diversity, rate=1.15),) if diversity else ()
    estimator = Transformed(transforms=(Spectrum(sigma=sigma, rho=rho), *extra), copies=copies)
    smoothing = (TranslationKernel(size=kernel),) if kernel else ()
    memory = () if decay is None else (Momentum(decay=decay),)
    way = Sign() if norm == "linf" else Normalised()
    ball = Ball(eps=radius, norm=norm)
    return chain(estimator, *smoothing, *memory, way, ball, alpha=length, steps=steps)


@updates.register(
    Card(
        name="sia",
        title="Structure-Invariant Attack",
        summary="The mean gradient through copies whose random blocks are changed by random operations.",
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
    steps: int = 10,
    decay: float = 1.0,
    copies: int = 20,
    blocks: int = 3,
    operations: Literal["ten", "seven"] = "ten",
    norm: Norm = "linf",
    variant: Variant = "corrected",
) -> Chain:
    """The mean gradient through copies whose random blocks are changed by random operations.

    Args:
        eps: radius in input units; 16/255 in L∞, 1 in L2.
        alpha: length of a step; eps/steps by default.
        steps: how many steps an attack takes.
        decay: μ.
        copies: N.
        blocks: blocks per axis.
        operations: ``"ten"`` of the authors, or the ``"seven"`` of a widespread library.
        norm: ``"linf"`` or ``"l2"``.
        variant: ``"published"`` exchanges sides when shrinking a block and empties narrow ones.

    Differs from the paper:
        Two slips of the published code are not repeated: exchanged sides, emptied narrow blocks.
    """
    if operations not in ("ten", "seven"):
        raise SpecError(
            Code.BAD_PARAMETER, "No such set of operations", got=repr(operations), expected="ten or seven"
        )
    names = OPERATIONS if operations == "ten" else SEVEN
    one = Structure(blocks=blocks, operations=names, published=_published(variant))
    estimator = Transformed(transforms=(one,), copies=copies)
    return _transfer(estimator, eps=eps, alpha=alpha, decay=decay, norm=norm, steps=steps)


@updates.register(
    Card(
        name="mig",
        title="Momentum Integrated Gradients",
        summary="MIM along minus the integrated gradient of the class's probability.",
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
    steps: int = 10,
    decay: float = 1.0,
    points: int = 20,
    norm: Norm = "linf",
    variant: Variant = "corrected",
) -> Chain:
    """MIM along minus the integrated gradient of the class's probability.

    Args:
        eps: radius in input units; 16/255 in L∞, 1 in L2.
        alpha: length of a step; eps/steps by default.
        steps: how many steps an attack takes.
        decay: μ.
        points: s.
        norm: ``"linf"`` or ``"l2"``.
        variant: ``"published"`` multiplies each gradient by i/s.

    Differs from the paper:
        Integrated gradients without the extra factor of the published code.
    """
    estimator = IntegratedGradient(points=points, chain_factor=_published(variant))
    return _transfer(estimator, eps=eps, alpha=alpha, decay=decay, norm=norm, steps=steps)


@updates.register(
    Card(
        name="gra",
        title="Gradient Relevance Attack",
        summary="MIM with the gradient corrected by its relevance to the neighbours' and shrinking steps.",
        source="zhu2023gra",
        formula="g = s ∇L + (1 − s) ḡ,  s = cos(∇L, ḡ);  step α M sign m, M ← .94 M where sign m flips",
        family="transferable attack",
    )
)
def gra(
    *,
    eps: float | None = None,
    alpha: float | None = None,
    steps: int = 10,
    decay: float = 1.0,
    beta: float = 3.5,
    neighbours: int = 20,
    indicator: float = 0.94,
    norm: Norm = "linf",
) -> Chain:
    """MIM with the gradient corrected by its relevance to the neighbours' and shrinking steps.

    Args:
        eps: radius in input units; 16/255 in L∞, 1 in L2.
        alpha: length of a step; eps/steps by default.
        steps: how many steps an attack takes.
        decay: μ.
        beta: neighbours lie within beta · eps.
        neighbours: how many.
        indicator: factor of a step where the momentum changes its sign.
        norm: ``"linf"`` or ``"l2"``.
    """
    radius, _ = _sizes(eps, alpha, norm, TRANSFER, 1)
    estimator = Neighbourhood(radius=check_size("beta", beta) * radius, copies=neighbours)
    shrink = (DecayIndicator(decay=indicator),)
    return _transfer(estimator, eps=eps, alpha=alpha, decay=decay, norm=norm, steps=steps, after=shrink)


@updates.register(
    Card(
        name="naa",
        title="Neuron Attribution-based Attack",
        summary="MIM against the features of a layer, weighted by their integrated importance.",
        source="zhang2022naa",
        formula="g = −∇ Σ h(x) ⊙ w,  w = Σ_l ∇_h p_y((x + σ ε)(1 − l/n)) / ‖·‖",
        family="transferable attack",
        needs=("layer",),
        example={"layer": "first"},
        differs=(
            "Noise, normalised weights and momentum as in the authors' code; a widespread library has "
            "none of them and takes the zero image instead of the input (variant='published').",
        ),
    )
)
def naa(
    *,
    layer: str,
    eps: float | None = None,
    alpha: float | None = None,
    steps: int = 10,
    decay: float = 1.0,
    points: int = 30,
    noise: float = 0.2,
    norm: Norm = "linf",
    variant: Variant = "corrected",
) -> Chain:
    """MIM against the features of a layer, weighted by their integrated importance.

    Args:
        layer: a module's name, as in ``model.named_modules()``.
        eps: radius in input units; 16/255 in L∞, 1 in L2.
        alpha: length of a step; eps/steps by default.
        steps: how many steps an attack takes.
        decay: μ.
        points: points of the line over which the importance is averaged.
        noise: standard deviation of the noise added before scaling, in input units.
        norm: ``"linf"`` or ``"l2"``.
        variant: ``"published"`` is a library's form: no noise, normalisation and momentum, other points.

    Differs from the paper:
        None; the library's form is the published variant.
    """
    if _published(variant):
        plain = FeatureImportance(layer=layer, points=points, noise=0.0, normalise=False, from_zero=True)
        radius, length = _sizes(eps, alpha, norm, TRANSFER, steps)
        way = Sign() if norm == "linf" else Normalised()
        return chain(plain, way, Ball(eps=radius, norm=norm), alpha=length, steps=steps)
    estimator = FeatureImportance(layer=layer, points=points, noise=noise)
    return _transfer(estimator, eps=eps, alpha=alpha, decay=decay, norm=norm, steps=steps)


@updates.register(
    Card(
        name="danaa",
        title="Double Adversarial Neuron Attribution Attack",
        summary="NAA with the importance gathered along an adversarial path.",
        source="jin2023",
        formula="w = Σ_l ∇_h p_y(x_l + σ ε) / ‖·‖,  x_{l+1} = x_l − γ sign ∇p_y(x_l + σ ε)",
        family="transferable attack",
        needs=("layer",),
        example={"layer": "first"},
    )
)
def danaa(
    *,
    layer: str,
    eps: float | None = None,
    alpha: float | None = None,
    steps: int = 10,
    decay: float = 1.0,
    points: int = 30,
    noise: float = 0.25,
    pace: float = 0.0025,
    norm: Norm = "linf",
) -> Chain:
    """NAA with the importance gathered along an adversarial path.

    Args:
        layer: a module's name, as in ``model.named_modules()``.
        eps: radius in input units; 16/255 in L∞, 1 in L2.
        alpha: length of a step; eps/steps by default.
        steps: how many steps an attack takes.
        decay: μ.
        points: steps of the adversarial path.
        noise: standard deviation of the noise at each of its points, in input units.
        pace: length of its sign steps.
        norm: ``"linf"`` or ``"l2"``.
    """
    estimator = FeatureImportance(layer=layer, points=points, path="adversarial", noise=noise, pace=pace)
    return _transfer(estimator, eps=eps, alpha=alpha, decay=decay, norm=norm, steps=steps)

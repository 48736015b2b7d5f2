"""Influential subsets: masks and bottlenecks that keep, or remove, the decision, optimised per sample."""

from collections.abc import Mapping
from typing import Any

from abe.baselines import as_baseline
from abe.checks import Count, CountFrom0, NotNegative, Positive
from abe.engines.mask.bottleneck import Bottleneck, InputBottleneck
from abe.engines.mask.m2ib import TwoTowers
from abe.engines.mask.noise import OwnStatistics
from abe.engines.mask.optimise import MaskOptimisation
from abe.engines.mask.optimisers import AdamStep, MomentumStep
from abe.engines.mask.parts import (
    CellGrid,
    FadeByBlur,
    FadeTo,
    FlipRows,
    ShiftRows,
    SmoothMaxGrid,
)
from abe.engines.mask.penalties import Removed, SortedArea, Variation
from abe.engines.runtime.stored import as_fitted
from abe.errors import Code, SpecError
from abe.registry import methods
from abe.types import Card, Passes


@methods.register(
    Card(
        name="meaningful_perturbation",
        title="Meaningful Perturbation",
        source="fong2017, Eq. 3-4",
        formula="A = 1 − m, m = argmin s(Φ(x; m)) + λ₁ mean(1 − m) + λ₂ Σ_axes mean |∇m|^β, "
        "Φ = m x + (1 − m) x′",
        family="influential subset",
        reformulations=("feature removal",),
        optimises=("deletion",),
        needs=("gradient", "baseline", "draws", "optimisation"),
        passes=Passes(forward="b * (steps + 2)", backward="b * steps"),
        differs=(
            "The score counts as a share of what removing everything changes, so that the weights mean the "
            "same for every objective; the paper explains a probability, which is nearly that share.",
            "Weights count means over positions: the paper's 1e-4 and 1e-2 per cell of a 28 × 28 mask.",
            "Adam's ε is a tenth of a cell's mean share, so that rounding decides nothing.",
        ),
        pitfalls=(
            "A mask can be adversarial, a maze of cells that means nothing, most of all with the logit. The "
            "paper explains the probability: objective='probability'.",
            "Where blurring hardly changes the score there is nothing to find; the result says so.",
        ),
    ),
    aliases=("mp",),
)
def meaningful_perturbation(
    *,
    baseline: Any = "blur",
    cells: int = 28,
    steps: int = 300,
    rate: float = 0.1,
    sparsity: NotNegative = 0.08,
    variation: NotNegative = 8.0,
    power: float = 3.0,
    jitter: CountFrom0 = 4,
    tolerance: float | None = None,
) -> MaskOptimisation:
    """The smallest smooth part of the input whose removal takes the score away.

    Args:
        baseline: what is removed becomes this; a blur needs positions.
        cells: numbers of the mask along each axis of positions; tabular inputs have one per feature.
        sparsity: λ₁, price of removing everything, as a share of the score's change.
        variation: λ₂, price of differences between neighbours.
        power: β, above 1 forgives gentle slopes.
        jitter: rows are moved by up to so many positions, drawn anew at every step; 0 for not.
        tolerance: a mask that moves less than this in a step is done; None makes all steps.

    Shape: (b, *f) in and out; positions are spread in equal parts over their channels.

    Example:
        >>> import abe
        >>> abe.method("mp", cells=14, steps=100).rows(b=1)
        202.0
    """
    return MaskOptimisation(
        parametrisation=CellGrid(cells=cells),
        perturbation=FadeTo(baseline=as_baseline(baseline)),
        penalties=(Removed(weight=sparsity), Variation(weight=variation, power=power, cells=cells)),
        optimiser=AdamStep(rate=rate, soft=0.1),
        keep=False,
        steps=steps,
        augment=ShiftRows(pixels=jitter) if jitter else None,
        tolerance=tolerance,
    )


@methods.register(
    Card(
        name="extremal_perturbation",
        title="Extremal Perturbation",
        source="fong2019, Eq. 5-9",
        formula="A = mean over areas a of argmax s(Φ(x; m)) − λ_t mean (sort(m) − r_a)², "
        "m(u) = smax_v k(‖u − v‖) p(v), λ_t = weight · growth^(t / steps)",
        family="influential subset",
        reformulations=("feature removal",),
        optimises=("insertion",),
        needs=("gradient", "optimisation"),
        features=("positions",),
        passes=None,
        differs=(
            "The score counts as a share of what removing everything changes; the price of the area grows "
            "from 1 such share to 100 over the steps. The published 300 · 1.0035^t per logit is so high at "
            "first that the order of equals in the sort decides where the mask goes.",
            "400 steps instead of 800.",
            "The smooth maximum is taken at the points of the grid and interpolated between them, so any "
            "size of input works; the kernel is cut at 1.75 σ, where it is 0.044.",
        ),
        pitfalls=(
            "One area gives one nearly binary mask, which ranks nothing inside; give several areas.",
            "The area is only asked for; `kept` among the diagnostics says what came out.",
        ),
    ),
    aliases=("ep",),
)
def extremal_perturbation(
    *,
    areas: tuple[float, ...] | float = (0.1,),
    baseline: Any = None,
    cells: int = 32,
    sigma: float = 21 / 224,
    steps: int = 400,
    rate: float = 0.005,
    weight: float = 1.0,
    growth: float = 100.0,
    flip: bool = True,
    tolerance: float | None = None,
) -> MaskOptimisation:
    """The smooth mask of a given area that keeps most of the score.

    Args:
        areas: shares of the input that masks keep; several are averaged.
        baseline: what is not kept fades to this; None blurs by up to 9 % of the longer axis instead.
        cells: points of the mask along the longer axis.
        sigma: how far a point reaches, as a share of the longer axis.
        steps: of gradient descent with momentum.
        rate: of gradient descent, per number of the mask.
        weight: price of missing the area at the first step.
        growth: factor of that price from the first step to the last.
        flip: mirror the input at every second step.
        tolerance: a mask whose points move less than this in a step is done; None makes all steps.

    Shape: (b, c, h, w) or (b, c, t) in and out; positions are spread in equal parts over their channels.

    Cost: ``steps`` gradient rows per area, and two forward rows, each run by itself.

    Example:
        >>> import abe
        >>> abe.method("ep", areas=(0.05, 0.2)).engine.variants
        2
    """
    wanted = areas if isinstance(areas, tuple) else (areas,)
    return MaskOptimisation(
        parametrisation=SmoothMaxGrid(cells=cells, sigma=sigma),
        perturbation=FadeByBlur() if baseline is None else FadeTo(baseline=as_baseline(baseline)),
        penalties=(SortedArea(areas=wanted, weight=weight, growth=growth, steps=steps),),
        optimiser=MomentumStep(rate=rate),
        keep=True,
        steps=steps,
        variants=len(wanted),
        augment=FlipRows() if flip else None,
        tolerance=tolerance,
    )


@methods.register(
    Card(
        name="iba",
        title="Information Bottleneck Attribution (IBA)",
        source="schulz2020, Eq. 3-7",
        formula="A = KL(N(λR + (1 − λ)μ, (1 − λ)²σ²) ‖ N(μ, σ²)) / ln 2, "
        "λ = argmin −E s(λR + (1 − λ)ε) + β mean KL",
        family="influential subset",
        needs=("gradient", "draws", "optimisation"),
        features=("positions",),
        passes=None,
        differs=(
            "The explained score stands where the paper has the cross-entropy; with "
            'objective="log_probability" they are the same.',
            "Without fitted statistics the noise has each sample's own mean and deviation per channel.",
            "The map is scaled after interpolation, so that it sums to the bits at the layer.",
        ),
        pitfalls=(
            "β and the layer decide how much is shown; compare maps of one β and one layer only.",
            "Bits say what is used at most; noise of another kind than the data may be used less.",
        ),
    ),
    aliases=("information_bottleneck", "ib"),
)
def iba(
    *,
    layer: str = "auto",
    fitted: Any = None,
    beta: float = 10.0,
    samples: int = 10,
    steps: int = 10,
    rate: float = 1.0,
    sigma: float = 1.0,
) -> Bottleneck:
    """How many bits of a layer's activations the decision needs, position by position.

    Args:
        layer: a module's name, ``"input"``, or ``"auto"``: the last layer with an eighth of the input's
            resolution that everything passes through.
        fitted: statistics of the layer from ``abe.fit(task, loader, "iba", layer=…)``, or the path of
            their file; None takes each sample's own.
        samples: noise draws per step.
        sigma: of the smoothing of λ over positions of the layer.

    Shape: (b, c, h, w) or (b, c, t) in and out, in bits.

    Cost: ``steps * samples`` gradient rows, two forward rows, and about five per layer tried by ``"auto"``.

    Example:
        >>> import abe
        >>> abe.method("iba", layer="layer2", beta=5.0).engine.layer
        'layer2'
    """
    return Bottleneck(
        layer=layer,
        statistics=OwnStatistics() if fitted is None else as_fitted(fitted, "iba"),
        beta=beta,
        samples=samples,
        steps=steps,
        rate=rate,
        sigma=sigma,
    )


@methods.register(
    Card(
        name="input_iba",
        title="InputIBA",
        source="zhang2021, Eq. 3-8",
        formula="A = λ = argmin −E s(λx + (1 − λ)ε) + β mean KL(N(λx, (1 − λ)²) ‖ N(Λλx, (1 − Λλ)²)), "
        "x standardised",
        family="influential subset",
        needs=("gradient", "draws", "optimisation"),
        features=("positions",),
        passes=None,
        differs=(
            "The prior Λ is found by matching the layer's mean activations behind the bottleneck, in units "
            "of the noise, instead of by a generative adversarial network per sample.",
            "The explained score stands where the paper has the cross-entropy.",
        ),
        pitfalls=("Three optimisations stand behind one map; each has a weight that decides what is shown.",),
    ),
    aliases=("inputiba",),
)
def input_iba(
    *,
    layer: str = "auto",
    fitted: Any = None,
    layer_beta: Positive = 20.0,
    beta: float = 20.0,
    samples: int = 10,
    layer_steps: Count = 10,
    prior_steps: int = 10,
    steps: int = 60,
    rate: float = 1.0,
) -> InputBottleneck:
    """Which values of the input are needed, against a prior from a bottleneck at a layer.

    Args:
        layer: of the first bottleneck, as for ``iba``.
        fitted: statistics of that layer, as for ``iba``.
        layer_beta: price of information at the layer.
        beta: price of information at the input.
        samples: noise draws per step.
        layer_steps: of Adam at the layer.
        prior_steps: of Adam for the prior.
        steps: of Adam at the input.

    Cost: ``samples * (layer_steps + prior_steps + steps)`` gradient rows and a few forward rows.

    Example:
        >>> import abe
        >>> abe.method("input_iba", layer="layer2", steps=30).engine.steps
        30
    """
    inner = iba(layer=layer, fitted=fitted, beta=layer_beta, samples=samples, steps=layer_steps, rate=rate)
    return InputBottleneck(
        inner=inner, beta=beta, samples=samples, prior_steps=prior_steps, steps=steps, rate=rate
    )


@methods.register(
    Card(
        name="m2ib",
        title="Multi-modal Information Bottleneck (M2IB)",
        source="wang2023m2ib, Eq. 6-9",
        formula="A = KL / ln 2 at a layer of each tower, "
        "λ = argmin −E s(λR + (1 − λ)ε; other tower) + β mean KL, ε ~ N(0, v)",
        family="influential subset",
        needs=("gradient", "draws", "optimisation", "two towers"),
        features=("pair",),
        passes=None,
        differs=("Maps are in bits; the published code scales each to 0 … 1.",),
        pitfalls=("Noise of variance 1 is much for small activations and little for large ones.",),
        example={"layers": {"input": "input"}},
    ),
)
def m2ib(
    *,
    layers: Any = None,
    beta: float = 0.1,
    variance: float = 1.0,
    samples: int = 10,
    steps: int = 10,
    rate: float = 1.0,
) -> TwoTowers:
    """How many bits of each tower of a two-tower model their agreement needs.

    Args:
        layers: the layer of each input's tower: ``{"image": "vision.blocks.9", "text": "text.blocks.9"}``;
            by default the last of each explained input that all of it passes through.
        variance: v of the noise.
        samples: noise draws per step.

    Shape:
        (b, *f) in and out, in bits; of inputs that are not explained, such as token numbers, the bits per
        position are the diagnostics ``"bits.<name>"``.

    Cost: ``steps * samples`` gradient rows and one forward row per tower.

    Example:
        >>> import abe
        >>> abe.method("m2ib", layers={"image": "vision", "text": "language"}).engine.layers
        (('image', 'vision'), ('text', 'language'))
    """
    if layers is not None and not isinstance(layers, Mapping):
        raise SpecError(
            Code.BAD_PARAMETER,
            "layers names the layer of each input's tower",
            got=repr(layers),
            expected='{"image": "vision.blocks.9", "text": "language.blocks.9"}',
        )
    return TwoTowers(
        layers=None if layers is None else tuple(layers.items()),
        beta=beta,
        variance=variance,
        samples=samples,
        steps=steps,
        rate=rate,
    )

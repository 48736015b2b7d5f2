"""Path family: integrals of the gradient along a static or a dynamic path."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from torch import Tensor

from abe.baselines import as_baseline
from abe.checks import Variant, published
from abe.engines.path.curves import BlurLine, StraightLine, UserPath
from abe.engines.path.dynamic import Rule, UpdatePath
from abe.engines.path.gradient import Expectation
from abe.engines.path.guided import GuidedStep
from abe.engines.path.quadrature import PublishedTrapezoid, quadratures
from abe.engines.path.static import PathIntegral
from abe.engines.path.step import Update, as_update
from abe.registry import methods, paths
from abe.types import Card, Passes, Path

Named = tuple[str, Mapping[str, Any]]
"""A registered name with parameters."""
INTEGRAL = Passes(forward="b * (steps + 2)", backward="b * steps")


@methods.register(
    Card(
        name="integrated_gradients",
        title="Integrated Gradients",
        source="sundararajan2017, Eq. 1",
        formula="A = (x − x′) ⊙ ∫₀¹ ∇s(x′ + α (x − x′)) dα",
        family="gradient × input",
        reformulations=("modified gradient × input", "game-theoretic", "path integral", "Taylor interaction"),
        guarantees=(
            "completeness",
            "linearity",
            "dummy",
            "symmetry",
            "implementation_invariance",
            "sensitivity",
            "additivity",
        ),
        needs=("gradient", "baseline"),
        passes=INTEGRAL,
        differs=(
            "Gauss–Legendre nodes; variant='published' takes 50 trapezoid points whose weights sum to 49/50.",
        ),
        pitfalls=(
            "Features equal to the baseline get nothing: with black, dark objects are invisible.",
            "At 50 nodes 1 to 24 % of the change is missed on twelve photographs (study `ordering`); "
            "tolerance= adapts the nodes.",
        ),
    ),
    aliases=("ig",),
)
def integrated_gradients(
    *,
    baseline: Any = "zero",
    quadrature: Any = "gauss_legendre",
    steps: int = 50,
    tolerance: float | None = None,
    max_steps: int = 1024,
    variant: Variant = "corrected",
) -> PathIntegral:
    """The gradient integrated along the straight line from a baseline.

    Example:
        >>> import abe
        >>> abe.method("ig", steps=100, baseline="blur").name
        'integrated_gradients'
    """
    rule = PublishedTrapezoid() if published(variant) else quadratures.resolve(quadrature)
    line = StraightLine(baseline=as_baseline(baseline))
    return PathIntegral(path=line, quadrature=rule, steps=steps, tolerance=tolerance, max_steps=max_steps)


@methods.register(
    Card(
        name="expected_gradients",
        title="Expected Gradients",
        source="erion2021, Eq. 4",
        formula="A = (1/n) Σ_k (x − x′_k) ⊙ ∇s(x′_k + α_k (x − x′_k)), x′_k and α_k drawn",
        family="gradient × input",
        reformulations=("modified gradient × input", "path integral", "Taylor interaction"),
        guarantees=("linearity", "dummy", "implementation_invariance"),
        needs=("gradient", "baseline", "draws"),
        passes=Passes(forward="b * (2 * samples + 1)", backward="b * samples"),
        differs=(
            "α is stratified and x′ comes from the given distribution (uniform noise by default, as no "
            "background set can be assumed). The published rows come from a gather that fills one "
            "sample in four.",
        ),
        pitfalls=("Complete in expectation only; the residual is that of the references actually drawn.",),
        expected_failures={"completeness": "holds in expectation over the draws"},
    ),
    aliases=("eg", "gradient_shap"),
)
def expected_gradients(
    *, baseline: Any = "uniform", samples: int = 50, alpha: Literal["stratified", "uniform"] = "stratified"
) -> Expectation:
    """Integrated gradients averaged over references from a distribution.

    Args:
        baseline: a distribution: "uniform", "noise", or a background set, ``abe.baselines.Dataset``
            or simply a tensor of background samples.
        alpha: ``"stratified"`` or ``"uniform"``.

    Shape: (b, *f) in and out; standard errors (b, *f).

    Example:
        >>> import abe
        >>> abe.method("eg", baseline="noise", samples=20).rows(b=1)
        61.0
    """
    return Expectation(baseline=as_distribution(baseline), samples=samples, alpha=alpha)


@methods.register(
    Card(
        name="guided_ig",
        title="Guided Integrated Gradients",
        source="kapishnikov2021, Alg. 1",
        formula="A = Σ_t Δx_t ⊙ ∇s(x_t), Δx_t on the features with the smallest |∇s|",
        family="gradient × input",
        reformulations=("path integral",),
        guarantees=("dummy", "implementation_invariance"),
        needs=("gradient", "baseline"),
        passes=Passes(forward="b * (steps + 2)", backward="b * steps"),
        pitfalls=("The gradient at the start of a step stands for the whole step, so it is not complete.",),
        expected_failures={
            "completeness": "left rule on long steps; rule='trapezoid' or more steps bring it closer",
            "linearity": "the path depends on the function",
        },
    ),
    aliases=("gig",),
)
def guided_ig(
    *,
    baseline: Any = "zero",
    steps: int = 50,
    fraction: float = 0.25,
    max_dist: float = 0.02,
    rule: Rule = "left",
    tolerance: float | None = None,
) -> UpdatePath:
    """A path from the baseline that moves the least sensitive features first.

    Args:
        fraction: share of features moved together.
        max_dist: how far features may be off the straight line, in path length.

    Example:
        >>> import abe
        >>> abe.method("guided_ig", fraction=0.1, steps=100).rows(b=1)
        202.0
    """
    step = GuidedStep(fraction=fraction, max_dist=max_dist)
    return UpdatePath(update=step, steps=steps, rule=rule, tolerance=tolerance, start=as_baseline(baseline))


@methods.register(
    Card(
        name="blur_ig",
        title="Blur Integrated Gradients",
        source="xu2020",
        formula="A = ∫₀¹ ∇s(γ(α)) ⊙ γ′(α) dα, γ(α) = x blurred by σ = (1 − α) σ_max",
        family="gradient × input",
        reformulations=("path integral",),
        guarantees=("completeness", "linearity", "dummy", "implementation_invariance", "sensitivity"),
        needs=("gradient",),
        expected_failures={
            "fixed": "special tokens are blurred with their neighbours",
        },
        features=("positions",),
        passes=INTEGRAL,
        differs=("Exact derivative in the cosine basis and Gauss–Legendre nodes instead of differences.",),
    ),
    aliases=("blur_path", "blurig"),
)
def blur_ig(
    *,
    max_sigma: float = 50.0,
    quadrature: Any = "gauss_legendre",
    steps: int = 50,
    tolerance: float | None = None,
    max_steps: int = 1024,
) -> PathIntegral:
    """The gradient integrated while the blurred input gets sharp.

    Args:
        max_sigma: blur of the reference, in pixels.

    Shape: (b, c, h, w) or (b, c, t) in and out.

    Example:
        >>> import abe
        >>> abe.method("blur_ig", max_sigma=20.0).rows(b=1)
        102.0
    """
    rule = quadratures.resolve(quadrature)
    line = BlurLine(max_sigma=max_sigma)
    return PathIntegral(path=line, quadrature=rule, steps=steps, tolerance=tolerance, max_steps=max_steps)


@methods.register(
    Card(
        name="path_integral",
        title="Path Integral",
        source="zhu2025abe, Eq. 6",
        formula="A = ∫ ∇s(γ) ⊙ dγ, along chords between nodes where the path gives no velocity",
        family="gradient × input",
        reformulations=("path integral",),
        guarantees=("completeness", "linearity", "dummy", "implementation_invariance"),
        needs=("gradient", "path"),
        passes=None,
        example={"path": ("straight", {"baseline": "mean"})},
    ),
    aliases=("user_path",),
)
def path_integral(
    *,
    path: Path | Callable[[Tensor, Tensor], Tensor] | Tensor | str | Named,
    quadrature: Any = "gauss_legendre",
    steps: int = 50,
    tolerance: float | None = None,
    max_steps: int = 1024,
) -> PathIntegral:
    """The gradient integrated along any path that ends at the input.

    Args:
        path: a function ``(x, alpha) -> points`` of rows (n, *f) and (n,) that is x at alpha 1; points
            (k, *f) or (b, k, *f) that end at the input; a registered path's name or value.
        quadrature: used where the path has a velocity.
        steps: nodes, or chords between them.

    Cost: ``steps`` gradient rows (one more along chords), and forward rows for both ends.

    Example:
        >>> import abe
        >>> abe.method("path_integral", path=("straight", {"baseline": "mean"})).engine.path
        StraightLine(baseline=Mean())
    """
    resolved = paths.resolve(path)
    bound = resolved if isinstance(resolved, Path) else UserPath(path=resolved)
    return PathIntegral(
        path=bound,
        quadrature=quadratures.resolve(quadrature),
        steps=steps,
        tolerance=tolerance,
        max_steps=max_steps,
    )


@methods.register(
    Card(
        name="path_attribution",
        title="Path Attribution",
        source="zhu2025abe, Alg. 1",
        formula="A = ∓Σ_t Δx_t ⊙ ½(∇s(x_t) + ∇s(x_{t+1})), minus from the input, plus from a baseline",
        family="gradient × input",
        reformulations=("path integral",),
        guarantees=("dummy", "implementation_invariance"),
        needs=("gradient", "update"),
        passes=None,
        example={"update": ("descent", {"alpha": 0.001}), "steps": 10},
        differs=(
            "Trapezoid by default; the printed algorithm takes the gradient at the start of each step "
            "(rule='left').",
        ),
        pitfalls=("Long steps miss much of the change; read the residual, or set tolerance.",),
        expected_failures={
            "completeness": "sometimes, within 1e-3: two nodes miss what a long step bends; tolerance= "
            "adds more",
            "linearity": "the path depends on the function",
        },
    ),
    aliases=("user_update", "fundamental_attribution"),
)
def path_attribution(
    *,
    update: Update | Callable[[Any], Tensor] | str | Named,
    steps: int = 10,
    rule: Rule = "trapezoid",
    segment_nodes: int = 0,
    tolerance: float | None = None,
    start: Any = None,
    stop: Literal["flip"] | None = None,
) -> UpdatePath:
    """Algorithm 1 of ABE: attributions along the path of any update rule.

    Args:
        update: a function ``point -> next points``, an object with ``step(point, state)``, or the
            name of a registered update.
        steps: how often to move.
        start: a baseline to begin at; None begins at the input.
        stop: ``"flip"`` ends a path when the predicted class has changed.

    Cost: One gradient row per step and sample, one more for the end.

    Example:
        >>> import abe
        >>> abe.method("path_attribution", update="pgd", tolerance=0.05).engine.rule
        'trapezoid'
    """
    return UpdatePath(
        update=as_update(update),
        steps=steps,
        rule=rule,
        segment_nodes=segment_nodes,
        tolerance=tolerance,
        start=None if start is None else as_baseline(start),
        stop=stop,
    )


def as_distribution(baseline: Any) -> Any:
    """A baseline; a tensor of several samples becomes a background set."""
    from abe.baselines import Dataset

    return Dataset(samples=baseline) if isinstance(baseline, Tensor) else as_baseline(baseline)

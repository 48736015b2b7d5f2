"""Path family, adversarial members with one path or search per sample: to where the decision changes."""

from collections.abc import Sequence
from typing import Any, Literal

from abe.baselines import as_baseline
from abe.checks import (
    Count,
    NotNegative,
    Odd,
    Size,
    Variant,
    check_choice,
    check_count,
    check_tolerance,
    published,
)
from abe.engines.path.adversarial_steps import Leave
from abe.engines.path.boundary import RADII, FromBoundary, NearestAdversary
from abe.engines.path.chord import ChordPath
from abe.engines.path.dynamic import Rule, UpdatePath
from abe.engines.path.iterative_search import IterativeSearch
from abe.engines.path.quadrature import PublishedTrapezoid, quadratures
from abe.engines.path.step import as_update, reads_gradient
from abe.engines.path.steps.estimators import Shown
from abe.engines.path.steps.parts import (
    Backwards,
    Ball,
    Momentum,
    Sign,
    TranslationKernel,
)
from abe.errors import Code, SpecError
from abe.objectives import Loss
from abe.registry import methods
from abe.robustness.chain import Chain, chain
from abe.robustness.spectrum import SpectrumCopies
from abe.sizes import OfRange
from abe.types import Card, Passes

TWO_NODES = "two nodes per step miss part of long steps; tolerance= makes it complete"
OWN_PATH = "the path depends on the function"


@methods.register(
    Card(
        name="mfaba",
        title="MFABA",
        source="zhu2024mfaba",
        formula="A = −Σ_t Δx_t ⊙ ½(∇s(x_t) + ∇s(x_{t+1})), x_{t+1} = clip(x_t − α sign ∇s(x_t))",
        family="gradient × input",
        reformulations=("path integral",),
        guarantees=("dummy", "implementation_invariance"),
        needs=("gradient",),
        passes=Passes(
            forward="b * (steps * (1 + segment_nodes) + 3)",
            backward="b * (steps * (1 + segment_nodes) + 2)",
            at_most=True,
        ),
        differs=(
            "Fresh gradients and the trapezoid; the published code adds every gradient to the last ones and "
            "takes the left rule, as variant='published' does.",
        ),
        pitfalls=(
            "Away from clamps most entries are positive: with a signed step −Δx·g = α|g|, so the map says "
            "how much, not which way. None is negative with the left rule, 1 to 22 % with the trapezoid on "
            "twelve photographs (study `ordering`).",
            "The published step of .001 reaches a boundary within 50 steps only where it is near; see "
            "diagnostics['success'].",
        ),
        expected_failures={"completeness": "sometimes, within 1e-3: " + TWO_NODES, "linearity": OWN_PATH},
    ),
)
def mfaba(
    *,
    path: Literal["smooth", "sharp", "cos", "norm"] = "smooth",
    steps: int = 50,
    alpha: float = OfRange(0.001),
    epsilon: float = OfRange(0.3),
    rule: Rule = "trapezoid",
    segment_nodes: int = 0,
    tolerance: float | None = None,
    variant: Variant = "corrected",
) -> UpdatePath | ChordPath:
    """Gradients along a steepest descent of the score until the predicted class changes.

    Args:
        path: ``"smooth"`` signed steps, ``"sharp"`` L2 steps of length 100 α, ``"cos"`` and ``"norm"`` signed
            steps whose gradients are weighted by the progress along the chord from the input to the end.
        steps: most steps.
        epsilon: largest distance from the input per entry (not for "sharp").

    Example:
        >>> import abe
        >>> abe.method("mfaba", path="sharp", steps=20).rows(b=1)
        45.0
    """
    chord, old = path in ("cos", "norm"), published(variant)
    check_choice("path", path, ("smooth", "sharp", "cos", "norm"))
    if (chord or old) and (tolerance is not None or segment_nodes):
        raise SpecError(
            Code.BAD_PARAMETER,
            "Nodes inside the steps need the plain gradient along the path itself",
            got=f"path={path!r}, variant={variant!r}",
            fix="Leave tolerance and segment_nodes out, or use path='smooth' or 'sharp', corrected",
        )
    update = Leave(alpha=alpha, epsilon=epsilon, sharp=path == "sharp", cumulative=old)
    walk = UpdatePath(
        update=update, steps=steps, rule=rule, segment_nodes=segment_nodes, tolerance=tolerance, stop="flip"
    )
    return ChordPath(path=walk, progress="cos" if path == "cos" else "norm") if chord else walk


@methods.register(
    Card(
        name="attexplore",
        title="AttEXplore",
        source="zhu2024attexplore",
        formula="A = −Σ_t Δx_t ⊙ ½(ĝ_t + ĝ_{t+1}), "
        "ĝ the mean of ∇s over copies IDCT(DCT(x + σε) ⊙ U[1 − ρ, 1 + ρ])",
        family="gradient × input",
        reformulations=("path integral",),
        guarantees=("implementation_invariance",),
        needs=("gradient", "draws"),
        passes=Passes(
            forward="b * (1 + (steps + 1) * (samples + 1))",
            backward="b * samples * (2 * steps + 1)",
            at_most=True,
        ),
        differs=(
            "The attack raises the cross-entropy, and the mean gradient itself is accumulated. The published "
            "code lowers it and accumulates the smoothed, normalised gradient with momentum, as "
            "variant='published' does; it also enlarges the copies at random.",
        ),
        pitfalls=(
            "Not complete: gradients are read around the path, not on it.",
            "Most entries are positive, 64 to 76 % on twelve photographs: the step follows nearly the same "
            "gradient. Their order inserts hardly better than a random one (study `ordering`); what the "
            "published form inserts better sums to nothing of the score (study `published`).",
        ),
        expected_failures={
            "completeness": "the gradients are those of transformed copies, not of the path's points",
            "linearity": OWN_PATH,
        },
    ),
    aliases=("ampe",),
)
def attexplore(
    *,
    update: Any = None,
    samples: Count = 20,
    steps: int = 10,
    epsilon: Size = OfRange(16 / 255),
    sigma: NotNegative = OfRange(16 / 255),
    rho: float = 0.5,
    momentum: NotNegative = 1.0,
    kernel: Odd = 7,
    rule: Rule = "trapezoid",
    variant: Variant = "corrected",
) -> UpdatePath:
    """Gradients explored through the spectrum of the points of a transferable attack.

    Args:
        update: an attack's name or value, or a function, in place of the transferable attack. Where it asks
            for the gradient at the point it is shown the explored gradient of the loss; estimators with
            copies of their own take theirs.
        samples: N, copies at every point.
        steps: steps; each is ``epsilon / steps`` long.
        epsilon: largest distance from the input per entry, in input units; by default a share of the range.
        sigma: standard deviation of the noise on the copies, likewise.
        rho: how far frequencies are scaled.
        momentum: of the attack.
        kernel: side of the Gaussian that smooths the attack's gradient; 1 for none.

    Example:
        >>> import abe
        >>> abe.method("attexplore", samples=5).rows(b=1)
        172.0
    """
    old = published(variant)
    check_count("steps", steps)
    attack = _transferable(epsilon, steps, momentum, kernel, old) if update is None else as_update(update)
    return UpdatePath(
        update=attack,
        steps=steps,
        rule="left" if old else rule,
        guide=Loss() if not old and any(reads_gradient(attack, step) for step in (0, 1)) else None,
        look=SpectrumCopies(copies=samples, sigma=sigma, rho=rho, enlarge=1.15 if old else 1.0),
    )


def _transferable(epsilon: float, steps: int, momentum: float, kernel: int, backwards: bool) -> Chain:
    """The attack's step: the explored gradient, smoothed, with momentum, inside ±ε."""
    return chain(
        Shown(),
        TranslationKernel(size=kernel, elsewhere=True),
        Momentum(decay=momentum),
        *((Backwards(),) if backwards else ()),
        Sign(),
        Ball(eps=epsilon),
        alpha=epsilon / steps,
        steps=steps,
    )


@methods.register(
    Card(
        name="isa",
        title="Iterative Search Attribution",
        source="zhu2024isa",
        formula="A_i = r + place of i in round r, by |(T_up/w_up + T_down/w_down − min) ⊙ x|, least first",
        family="gradient × input",
        guarantees=(),
        needs=("gradient", "draws"),
        passes=Passes(
            forward="b * (1 + 2 * rounds * steps)",
            backward="b * 2 * rounds * steps",
            at_most=True,
        ),
        differs=(
            "Rounds do not overlap (width 1, published 1.3), the remainder is a round of its own (published: "
            "importance 0), points stay in bounds, changes of the loss count by size, the minimum is "
            "subtracted (published: added), and removed elements do not drift; variant='published' restores "
            "all of it.",
        ),
        pitfalls=(
            "A ranking: values are round numbers and sum to nothing.",
            "Elements that are 0 in input space are removed first, whatever they mean.",
            "It says where, not which way: on twelve photographs it inserts best of the path methods and "
            "deletes worse than a random order (study `ordering`).",
        ),
    ),
)
def isa(
    *,
    steps: int = 8,
    alpha: float = OfRange(0.004),
    rounds: int = 30,
    noise: float = OfRange(0.05),
    regularisation: float = 0.01,
    variant: Variant = "corrected",
) -> IterativeSearch:
    """Elements ranked by removing, in rounds, what matters least to short ascents and descents.

    Args:
        steps: steps up and steps down in every round.
        rounds: how many rounds; each removes an equal share of the elements, rounded up.
        noise: standard deviation of the noise on the points, in input units; by default a share of the range.
        regularisation: weight of the points' L2 norm in the loss.

    Shape: (b, *f) in and out; values from 0 to the number of rounds.

    Example:
        >>> import abe
        >>> abe.method("isa", rounds=10).rows(b=1)
        321.0
    """
    old = published(variant)
    return IterativeSearch(
        steps=steps,
        alpha=alpha,
        rounds=rounds,
        noise=noise,
        regularisation=regularisation,
        factor=1.3 if old else 1.0,
        published=old,
    )


@methods.register(
    Card(
        name="big",
        title="Boundary-based Integrated Gradients",
        source="wang2022, Def. 4",
        formula="A = (x − x_b) ⊙ ∫₀¹ ∇s(x_b + α (x − x_b)) dα, x_b the nearest adversarial point",
        family="gradient × input",
        reformulations=("path integral",),
        guarantees=("completeness", "dummy", "implementation_invariance"),
        needs=("gradient", "classes", "draws"),
        passes=Passes(
            forward="b * (radii * (search_steps + 1) + margin + steps + 70)",
            backward="b * (radii * search_steps + margin + steps)",
            at_most=True,
        ),
        differs=(
            "The adversarial point is moved back onto the boundary by bisection; its step is 2ε/steps (a "
            "published call scales by ε twice). variant='published' does neither, and takes 10 "
            "trapezoid points whose weights sum to 9/10.",
            "The predicted class's cross-entropy is ascended, and radii grow only for samples left.",
        ),
        pitfalls=(
            "Where no adversarial point is found the map is that of the last point of the search; the result "
            "warns and diagnostics['success'] says so.",
            "Values of both signs put sensitive pixels at both ends of the order: on twelve photographs it "
            "deletes worse than a random order (study `ordering`).",
        ),
        expected_failures={"linearity": OWN_PATH},
    ),
    aliases=("boundary_ig",),
)
def big(
    *,
    radii: Sequence[float] = RADII,
    search_steps: Count = 40,
    margin: int = 0,
    boundary: Any = None,
    quadrature: Any = "gauss_legendre",
    steps: int = 32,
    tolerance: float | None = None,
    max_steps: int = 1024,
    variant: Variant = "corrected",
) -> FromBoundary:
    """The gradient integrated along the straight line from the nearest decision boundary.

    Args:
        radii: L2 radii of the search, ascending, in input units; by default a share of the range.
        search_steps: steps per radius.
        margin: steps of a further search for a nearer point, after Carlini & Wagner; 0 for none.
        boundary: points found elsewhere, as a baseline or a tensor, in place of the search.

    Shape: (b, *f) in and out; diagnostics ``success`` and ``distance`` are (b,).

    Example:
        >>> import abe
        >>> abe.method("big", margin=10).rows(b=1)
        721.0
    """
    old = published(variant)
    check_tolerance(tolerance)
    return FromBoundary(
        search=NearestAdversary(radii=tuple(radii), steps=search_steps, published_step=old, margin=margin),
        quadrature=PublishedTrapezoid() if old else quadratures.resolve(quadrature),
        steps=10 if old else steps,
        bisection=not old,
        tolerance=tolerance,
        max_steps=max_steps,
        boundary=None if boundary is None else as_baseline(boundary),
    )

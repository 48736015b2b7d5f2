"""Path family, adversarial members with several paths per sample, each drawn to another class."""

from collections.abc import Sequence

from abe.engines.checks import Variant, published
from abe.engines.path.adversarial_steps import Nearby, Towards
from abe.engines.path.class_targets import FalseClasses
from abe.engines.path.dynamic import Rule, UpdatePath
from abe.methods.adversarial import OWN_PATH, TWO_NODES
from abe.objectives import LabelAgnostic, LogProbability
from abe.registry import methods
from abe.types import Card, Passes


@methods.register(
    Card(
        name="agi",
        title="Adversarial Gradient Integration",
        summary="The explained score's gradient along targeted attacks on random other classes, summed.",
        source="pan2021, Alg. 1",
        formula="A = −Σ_m Σ_t Δx_t ⊙ ½(∇s(x_t) + ∇s(x_{t+1})), x_{t+1} = clip(x_t + α sign ∇p_m(x_t))",
        family="gradient × input",
        reformulations=("path integral",),
        guarantees=("dummy", "implementation_invariance"),
        needs=("gradient", "classes", "draws"),
        passes=Passes(
            forward="b * (1 + samples * (steps * (1 + segment_nodes) + 1))",
            backward="b * samples * (steps * (2 + segment_nodes) + 1)",
            at_most=True,
        ),
        differs=(
            "The path accumulates until it arrives. The published code starts every step at the input again, "
            "so it never leaves the ε-cube; variant='published' does that, with the left rule.",
            "The sum over classes explains the sum of the score changes of all paths.",
        ),
        pitfalls=(
            "Steps of .05 are long: two nodes miss more than the whole change on real networks. Read the "
            "residual, or set tolerance.",
            "A quarter to half of the entries are negative: the path follows other classes.",
        ),
        expected_failures={"completeness": TWO_NODES, "linearity": OWN_PATH},
    ),
)
def agi(
    *,
    samples: int = 20,
    steps: int = 20,
    alpha: float = 0.05,
    classes: Sequence[int] | None = None,
    rule: Rule = "trapezoid",
    segment_nodes: int = 0,
    tolerance: float | None = None,
    variant: Variant = "corrected",
) -> UpdatePath:
    """The explained score's gradient along targeted attacks on random other classes, summed.

    A = −Σ_m Σ_t Δx_t ⊙ ½(∇s(x_t) + ∇s(x_{t+1}))

    Composition: `UpdatePath` under `Towards`, one run per class of `FalseClasses`, guided by its
    log-probability.

    Args:
        samples: random classes per sample, or all others where there are fewer.
        steps: most steps of each path.
        alpha: step, in input units before normalisation.
        classes: these classes instead of random ones.
        rule: ``"trapezoid"``, or ``"left"`` as printed.
        segment_nodes: Gauss nodes inside every step; 0 takes the rule's ends.
        tolerance: refine steps until |residual| is below this share of the score change.
        variant: ``"published"`` starts every step at the input again and takes the left rule.

    Shape:
        (b, *f) in and out; diagnostics ``steps`` and ``crossed`` are (b, runs).

    Guarantees:
        dummy, implementation invariance; completeness as far as the residual says.

    Cost:
        At most ``steps`` forward and 2 · ``steps`` + 1 backward rows per class; runs that arrive leave.

    Differs from the paper:
        Accumulating paths and the trapezoid; see ``variant``.

    Source:
        pan2021, Alg. 1.
    """
    old = published(variant)
    return UpdatePath(
        update=Towards(alpha=alpha),
        steps=steps,
        rule="left" if old else rule,
        segment_nodes=segment_nodes,
        tolerance=tolerance,
        stop="arrive",
        runs=_others(samples, classes),
        guide=LogProbability(),
        restart=old,
    )


@methods.register(
    Card(
        name="la",
        title="Local Attribution",
        summary="The explained score's gradient along short targeted and untargeted paths around the input.",
        source="zhu2024la",
        formula="A = −Σ_m Σ_t Δx_t ⊙ ½(∇s(x_t) + ∇s(x_{t+1})), "
        "x_{t+1} = clip(x_t ± (x / range) ⊙ sign ∇p_m(x_t))",
        family="gradient × input",
        reformulations=("path integral",),
        guarantees=("dummy", "implementation_invariance"),
        needs=("gradient", "classes", "draws"),
        passes=Passes(
            forward="b * (1 + (samples + 1) * (steps * (1 + segment_nodes) + 1))",
            backward="b * (samples + 1) * (steps * (2 + segment_nodes) + 1)",
            at_most=True,
        ),
        differs=(
            "The path accumulates, with the trapezoid; variant='published' starts every step at the input "
            "again and takes the left rule.",
            "Steps are at least one grey level (floor=), so that black pixels, which get exactly 0 in the "
            "published code, can be found to matter.",
        ),
        pitfalls=("Steps grow with brightness: bright regions get more for the same gradient.",),
        expected_failures={"completeness": TWO_NODES, "linearity": OWN_PATH},
    ),
    aliases=("local_attribution",),
)
def la(
    *,
    samples: int = 19,
    steps: int = 30,
    spatial_range: float = 10.0,
    floor: float = 1 / 255,
    classes: Sequence[int] | None = None,
    rule: Rule = "trapezoid",
    segment_nodes: int = 0,
    tolerance: float | None = None,
    variant: Variant = "corrected",
) -> UpdatePath:
    """The explained score's gradient along short targeted and untargeted paths around the input.

    A = −Σ_m Σ_t Δx_t ⊙ ½(∇s(x_t) + ∇s(x_{t+1}))

    Composition: `UpdatePath` under `Nearby`, one run per class of `FalseClasses` and one untargeted.

    Args:
        samples: random classes per sample, or all others where there are fewer.
        steps: steps of each path.
        spatial_range: the step is the input's distance from the lowest valid value over this.
        floor: smallest step, in input units.
        classes: these classes instead of random ones.
        rule: ``"trapezoid"``, or ``"left"`` as printed.
        segment_nodes: Gauss nodes inside every step; 0 takes the rule's ends.
        tolerance: refine steps until |residual| is below this share of the score change.
        variant: ``"published"`` starts every step at the input again, without floor, with the left rule.

    Shape:
        (b, *f) in and out; diagnostics ``steps`` are (b, runs).

    Guarantees:
        dummy, implementation invariance; completeness as far as the residual says.

    Cost:
        ``steps`` forward and 2 · ``steps`` + 1 backward rows for each of ``samples`` + 1 runs.

    Differs from the paper:
        Accumulating paths, a smallest step, and the trapezoid; see ``variant``.

    Source:
        zhu2024la.
    """
    old = published(variant)
    return UpdatePath(
        update=Nearby(spatial_range=spatial_range, floor=0.0 if old else floor),
        steps=steps,
        rule="left" if old else rule,
        segment_nodes=segment_nodes,
        tolerance=tolerance,
        runs=_others(samples, classes, untargeted=1),
        guide=LogProbability(),
        restart=old,
    )


@methods.register(
    Card(
        name="laai",
        title="Label-Agnostic Attribution",
        summary="The gradient of the decisiveness along targeted attacks on random other classes, averaged.",
        source="laai, Eq. 5",
        formula="A = (1/(C·M)) Σ_m Σ_t Δx_t ⊙ ∇ Σ_j log P_j, x_{t+1} = clip(x_t + η sign ∇ log P_m(x_t))",
        family="gradient × input",
        reformulations=("path integral",),
        guarantees=("dummy", "implementation_invariance"),
        needs=("gradient", "classes", "draws"),
        passes=Passes(
            forward="b * (1 + samples * (steps * (1 + segment_nodes) + 1))",
            backward="b * samples * (steps * (2 + segment_nodes) + 1)",
            at_most=True,
        ),
        differs=(
            "Positive = its change spreads the distribution (Eq. 5, Remark 2); Algorithm 2's line 6 has the "
            "opposite sign and omits the class. The trapezoid instead of the left rule.",
        ),
        pitfalls=(
            "Explains decisiveness KL(U‖P), whatever objective is asked for, and the result says so; do not "
            "rank it by a class score alone.",
            "Short paths spread the prediction and the map is mostly positive; paths of the published 20 "
            "steps sharpen other classes, the map sums to less than 0, and nearly every entry is negative. "
            "Its order is then that of what the score is least sensitive to; see the study `orientation`.",
        ),
        expected_failures={"completeness": TWO_NODES, "linearity": OWN_PATH},
    ),
    aliases=("label_agnostic_attribution",),
)
def laai(
    *,
    samples: int = 20,
    steps: int = 20,
    alpha: float = 1 / 255,
    classes: Sequence[int] | None = None,
    rule: Rule = "trapezoid",
    segment_nodes: int = 0,
    tolerance: float | None = None,
) -> UpdatePath:
    """The gradient of the decisiveness along targeted attacks on random other classes, averaged.

    A = (1/(C·M)) Σ_m Σ_t Δx_t ⊙ ∇ Σ_j log P_j, which sums to decisiveness(x) − mean decisiveness(x^T)

    Composition: `UpdatePath` under `Towards`, explaining `LabelAgnostic`, one run per class of
    `FalseClasses`.

    Args:
        samples: M, random classes per sample, or all others where there are fewer.
        steps: T, steps of each path.
        alpha: η, in input units before normalisation.
        classes: these classes instead of random ones.
        rule: ``"trapezoid"``, or ``"left"`` as printed.
        segment_nodes: Gauss nodes inside every step; 0 takes the rule's ends.
        tolerance: refine steps until |residual| is below this share of the score change.

    Shape:
        (b, *f) in and out; diagnostics ``steps`` are (b, runs).

    Guarantees:
        dummy, implementation invariance; completeness for the decisiveness as far as the residual says.

    Cost:
        ``steps`` forward and 2 · ``steps`` + 1 backward rows per class.

    Differs from the paper:
        The sign of Eq. 5 rather than that of Algorithm 2, and the trapezoid.

    Source:
        laai, Eq. 5.
    """
    return UpdatePath(
        update=Towards(alpha=alpha),
        steps=steps,
        rule=rule,
        segment_nodes=segment_nodes,
        tolerance=tolerance,
        runs=_others(samples, classes),
        guide=LogProbability(),
        reduce="mean",
        objective=LabelAgnostic(),
    )


def _others(samples: int, classes: Sequence[int] | None, untargeted: int = 0) -> FalseClasses:
    return FalseClasses(
        count=samples, classes=None if classes is None else tuple(classes), untargeted=untargeted
    )

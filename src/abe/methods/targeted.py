"""Path family, adversarial members with several paths per sample, each drawn to another class."""

from collections.abc import Sequence

from abe.checks import CountFrom0, Variant, published
from abe.engines.path.adversarial_steps import Nearby, Towards
from abe.engines.path.class_targets import FalseClasses
from abe.engines.path.dynamic import Rule, UpdatePath
from abe.methods.adversarial import OWN_PATH, TWO_NODES
from abe.objectives import LabelAgnostic, LogProbability
from abe.registry import methods
from abe.sizes import OfRange
from abe.types import Card, Passes


@methods.register(
    Card(
        name="agi",
        title="Adversarial Gradient Integration",
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
            "Steps of .05 are long: two nodes miss several times the change they explain (study "
            "`completeness`). Read the residual, or set tolerance.",
            "The path follows other classes, so many entries are negative, 15 to 56 % on thirty photographs "
            "(study `orientation`), and the order of single pixels is near a random one (study `agi`).",
        ),
        expected_failures={"completeness": TWO_NODES, "linearity": OWN_PATH},
    ),
)
def agi(
    *,
    samples: CountFrom0 = 20,
    steps: int = 20,
    alpha: float = OfRange(0.05),
    classes: Sequence[int] | None = None,
    rule: Rule = "trapezoid",
    segment_nodes: int = 0,
    tolerance: float | None = None,
    variant: Variant = "corrected",
) -> UpdatePath:
    """The explained score's gradient along targeted attacks on random other classes, summed.

    Args:
        samples: random classes per sample, or all others where there are fewer.
        steps: most steps of each path.

    Shape: (b, *f) in and out; diagnostics ``steps`` and ``crossed`` are (b, runs).

    Example:
        >>> import abe
        >>> abe.method("agi", samples=5, tolerance=0.1).rows(b=1)
        311.0
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
    samples: CountFrom0 = 19,
    steps: int = 30,
    spatial_range: float = 10.0,
    floor: float = OfRange(1 / 255),
    classes: Sequence[int] | None = None,
    rule: Rule = "trapezoid",
    segment_nodes: int = 0,
    tolerance: float | None = None,
    variant: Variant = "corrected",
) -> UpdatePath:
    """The explained score's gradient along short targeted and untargeted paths around the input.

    Args:
        samples: random classes per sample, or all others where there are fewer.
        steps: steps of each path.
        spatial_range: the step is the input's distance from the lowest valid value over this.
        floor: smallest step, in input units; by default a share of the range.

    Shape: (b, *f) in and out; diagnostics ``steps`` are (b, runs).

    Example:
        >>> import abe
        >>> abe.method("la", samples=5).rows(b=1)
        553.0
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
            "The sign is that of Eq. 5: positive where the change along these paths makes the network less "
            "decided; Algorithm 2's line 6 has the opposite sign and omits the class. The trapezoid instead "
            "of the left rule.",
            "Paths lead to other classes, as in Algorithm 2. The path of Eq. 4, which ascends Σ log P, is "
            "`path_attribution` with `update='descent'` and `objective='label_agnostic'`.",
        ),
        pitfalls=(
            "Explains decisiveness KL(U‖P), whatever objective is asked for, and the result says so; do not "
            "rank it by a class score alone.",
            "Short paths spread the prediction and the map is mostly positive; paths of the published 20 "
            "steps sharpen other classes, the map sums to less than 0, and nearly every entry is negative. "
            "Its order is then that of what the score is least sensitive to; by deletion it is worse than a "
            "random order, and GAP does not tell them apart (study `orientation`).",
            "Paths lead to every class but the target's, so another target gives another map, although no "
            "label is explained.",
        ),
        expected_failures={"completeness": TWO_NODES, "linearity": OWN_PATH},
    ),
    aliases=("label_agnostic_attribution",),
)
def laai(
    *,
    samples: CountFrom0 = 20,
    steps: int = 20,
    alpha: float = OfRange(1 / 255),
    classes: Sequence[int] | None = None,
    rule: Rule = "trapezoid",
    segment_nodes: int = 0,
    tolerance: float | None = None,
) -> UpdatePath:
    """The gradient of the decisiveness along targeted attacks on random other classes, averaged.

    The map sums to decisiveness(x) − mean decisiveness(x^T).

    Args:
        samples: M, random classes per sample, or all others where there are fewer.
        steps: T, steps of each path.
        alpha: η, in input units; by default a share of the range.

    Shape: (b, *f) in and out; diagnostics ``steps`` are (b, runs).

    Example:
        >>> import abe
        >>> abe.method("laai", samples=5).rows(b=1)
        311.0
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

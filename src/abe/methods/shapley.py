"""Games of units: Shapley values and their estimators, Banzhaf, Owen, interactions, values of the loss."""

from typing import Any, Literal

import torch
from torch import Tensor

from abe.checks import check_choice
from abe.engines.removal.game import Coalitions, Summary
from abe.engines.removal.sage import DataSetShapley
from abe.engines.removal.shapley import (
    BanzhafValue,
    Interactions,
    KernelShapley,
    OwenValue,
    PermutationShapley,
    ShapleyValue,
)
from abe.engines.removal.summaries import EXACT_UNITS
from abe.errors import Code, SpecError
from abe.methods.gradient import Variant, published
from abe.methods.removal import FORWARD, WHOLE, as_removal
from abe.registry import methods
from abe.task.targets import column, numbers_of
from abe.types import Card

Estimator = Literal["auto", "exact", "permutation", "kernel", "owen"]
CELLS = {
    "dummy": "holds for whole units: the positions of a cell share its value",
    "symmetry": "holds for whole units: the positions of a cell share its value",
}
EXAMPLE = torch.linspace(0.1, 0.9, 4).view(4, 1, 1, 1)
"""Four grey inputs: data that fit any image."""
INTERVALS = ("Errors are of the draws; how far replaced inputs are from real ones no error says.",)


@methods.register(
    Card(
        name="shapley",
        title="Shapley value",
        source="shapley1953; lundberg2017",
        formula="φ_i = Σ_{S∌i} |S|! (u−|S|−1)! / u! (v(S∪i) − v(S))",
        family="perturbation",
        reformulations=(
            "feature additive",
            "game-theoretic",
            "path integral",
            "feature removal",
            "Taylor interaction",
        ),
        guarantees=("completeness", "linearity", "implementation_invariance", "sensitivity", "additivity"),
        passes=FORWARD,
        differs=(WHOLE,),
        pitfalls=(
            "2^u rows for u units; more than ten units are sampled unless max_units says otherwise.",
            *INTERVALS,
        ),
        expected_failures=CELLS,
    ),
    aliases=("shapley_value", "shapley_values", "shap"),
)
def shapley(
    *,
    units: Any = "grid",
    removal: Any = "zero",
    estimator: Estimator = "auto",
    evaluations: int | None = None,
    max_units: int = EXACT_UNITS,
    orders: Any = None,
    variant: Variant = "corrected",
) -> Coalitions:
    """Each unit's contribution to the score, averaged over all orders in which units can come.

    Args:
        estimator: ``"exact"``, ``"permutation"`` (random orders both ways), ``"kernel"`` (regression),
            ``"owen"`` (orders in which three groups of neighbours stay together: another value), or
            ``"auto"``: exact where it fits, else by orders.
        evaluations: most rows per sample; None is all coalitions, or 2,000 of them when sampled.
        orders: (n, u) orders of one's own in which the units come, by number, averaged as they are, such as
            those that other code drew.

    Shape: (b, *f) in and out; standard errors (b, *f) where anything is drawn.

    Cost: 2^u − 1 forward rows for u units and every completion, or ``evaluations``.

    Example:
        >>> import abe
        >>> abe.method("shapley", units=("grid", {"n": 2})).name
        'shapley'
    """
    return Coalitions(
        units=units,
        removal=as_removal(removal),
        summary=_estimator(estimator, max_units, orders),
        evaluations=evaluations,
        spread="whole" if published(variant) else "share",
    )


def _estimator(name: str, max_units: int, orders: Any = None) -> Summary:
    if orders is not None and name not in ("auto", "permutation"):
        raise SpecError(
            Code.BAD_PARAMETER,
            f"The estimator {name!r} reads no orders",
            fix='Leave orders= out, or choose estimator="permutation"',
        )
    made: dict[str, Summary] = {
        "auto": PermutationShapley(max_units=max_units, orders=orders),
        "exact": ShapleyValue(max_units=max_units),
        "permutation": PermutationShapley(orders=orders),
        "kernel": KernelShapley(),
        "owen": OwenValue(),
    }
    check_choice("estimator", name, made)
    return made[name]


@methods.register(
    Card(
        name="kernel_shap",
        title="Kernel SHAP",
        source="lundberg2017, Theorem 2; covert2021kernel",
        formula="min_φ Σ_S π(S) (v(S) − v(∅) − Σ_{i∈S} φ_i)² such that Σφ = v(N) − v(∅)",
        family="perturbation",
        reformulations=("feature additive", "game-theoretic", "feature removal", "Taylor interaction"),
        guarantees=("completeness", "linearity", "implementation_invariance", "sensitivity", "additivity"),
        passes=FORWARD,
        differs=("No selection of features; coalitions in pairs, both ends constrained.", WHOLE),
        pitfalls=INTERVALS,
        expected_failures=CELLS,
    ),
    aliases=("kernelshap",),
)
def kernel_shap(
    *,
    units: Any = "grid",
    removal: Any = "zero",
    evaluations: int = 2000,
    variant: Variant = "corrected",
) -> Coalitions:
    """Shapley values by a weighted regression that meets both ends exactly.

    Args:
        evaluations: most rows per sample; with all coalitions the result is exact.

    Shape: (b, *f) in and out; standard errors (b, *f) where anything is drawn.

    Cost: At most ``evaluations`` forward rows.

    Example:
        >>> import abe
        >>> print(abe.method("kernel_shap", evaluations=500))
        kernel_shap(units='grid', removal='zero', evaluations=500, variant='corrected')
    """
    return Coalitions(
        units=units,
        removal=as_removal(removal),
        summary=KernelShapley(),
        evaluations=evaluations,
        spread="whole" if published(variant) else "share",
    )


@methods.register(
    Card(
        name="owen",
        title="Owen value",
        source="owen1977",
        formula="φ_i = Σ_{R⊆M∖k} Σ_{T⊆B_k∖i} w(R) w(T) (v(B_R ∪ T ∪ i) − v(B_R ∪ T))",
        family="perturbation",
        reformulations=("game-theoretic", "feature removal"),
        guarantees=("completeness", "linearity", "implementation_invariance", "sensitivity", "additivity"),
        passes=FORWARD,
        pitfalls=("Another value than Shapley's: it depends on the groups.", *INTERVALS),
        expected_failures=CELLS,
    ),
    aliases=("owen_value",),
)
def owen(
    *,
    units: Any = "grid",
    removal: Any = "zero",
    groups: int | tuple[tuple[int, ...], ...] = 3,
    evaluations: int | None = None,
) -> Coalitions:
    """The Shapley value between groups of units, and within each group.

    Args:
        groups: how many groups of neighbouring units, or the units of each.
        evaluations: most rows per sample; exact where they suffice.

    Shape: (b, *f) in and out; standard errors (b, *f) where anything is drawn.

    Cost: 2^m + Σ_k 2^{m−1} (2^{|B_k|} − 2) forward rows for m groups, or ``evaluations``.

    Example:
        >>> import abe
        >>> abe.method("owen", groups=4).engine.summary
        OwenValue(groups=4)
    """
    summary = OwenValue(groups=groups)
    return Coalitions(units=units, removal=as_removal(removal), summary=summary, evaluations=evaluations)


@methods.register(
    Card(
        name="banzhaf",
        title="Banzhaf value",
        source="banzhaf1965; wang2023",
        formula="φ_i = 2^{1−u} Σ_{S∌i} (v(S∪i) − v(S)); sampled, every coalition counts for every unit",
        family="perturbation",
        reformulations=("game-theoretic", "feature removal"),
        guarantees=("linearity", "implementation_invariance", "sensitivity", "additivity"),
        passes=FORWARD,
        pitfalls=("Values do not add up to the change of the score.", *INTERVALS),
        expected_failures=CELLS,
    ),
    aliases=("banzhaf_value",),
)
def banzhaf(
    *,
    units: Any = "grid",
    removal: Any = "zero",
    evaluations: int | None = None,
    max_units: int = EXACT_UNITS,
) -> Coalitions:
    """Each unit's contribution to the score, averaged over all coalitions of the others alike.

    Args:
        evaluations: most rows per sample; None is all coalitions, or 2,000 of them when sampled.

    Shape: (b, *f) in and out; standard errors (b, *f) where anything is drawn.

    Cost: 2^u − 1 forward rows for u units and every completion, or ``evaluations``.

    Example:
        >>> import abe
        >>> abe.method("banzhaf", max_units=12).engine.summary
        BanzhafValue(max_units=12)
    """
    summary = BanzhafValue(max_units=max_units)
    return Coalitions(units=units, removal=as_removal(removal), summary=summary, evaluations=evaluations)


@methods.register(
    Card(
        name="interactions",
        title="Interaction index",
        source="grabisch1999; sundararajan2020; tsai2023",
        formula="I(S) = Σ_{T⊇S} w(|T|, |S|) m(T), m(S) = Σ_{T⊆S} (−1)^{|S|−|T|} v(T)",
        family="perturbation",
        reformulations=("game-theoretic", "feature removal", "Taylor interaction"),
        guarantees=("completeness", "linearity", "implementation_invariance", "sensitivity", "additivity"),
        passes=FORWARD,
        pitfalls=(
            "The map lets units share their interactions equally, which for efficient indices is the "
            "Shapley value; the interactions themselves are in the diagnostics.",
        ),
        expected_failures=CELLS,
    ),
    aliases=("shapley_interactions",),
)
def interactions(
    *,
    units: Any = "grid",
    removal: Any = "zero",
    index: Literal["moebius", "sii", "k_sii", "stii", "fsii", "bii", "fbii"] = "k_sii",
    order: int = 2,
    max_units: int = EXACT_UNITS,
    evaluations: int | None = None,
) -> Coalitions:
    """What sets of units do together that no part of them does.

    Of the indices ``k_sii``, ``stii`` and ``fsii`` are complete.

    Args:
        index: ``"moebius"`` (Harsanyi dividends), ``"sii"`` (Shapley), ``"k_sii"`` (its efficient
            form), ``"stii"`` (Shapley–Taylor), ``"fsii"`` (Faith-Shap), ``"bii"`` (Banzhaf), ``"fbii"``
            (Faith-Banzhaf).
        order: size of the largest sets.
        max_units: more units than this are refused; at most 16.
        evaluations: most rows per sample; fewer than all coalitions are an error.

    Shape:
        (b, *f) in and out; diagnostics ``interaction_sets`` (b, n), bit i of a number for unit i,
        ``interactions`` (b, n), and ``empty_interaction`` (b, 1), the index of the empty set: v(∅) for
        ``moebius`` and the complete indices, the mean over all coalitions for ``bii``, over those of a random
        size for ``sii``, the constant of the best polynomial for ``fbii``.

    Cost: 2^u − 1 forward rows for u units and every completion.

    Example:
        >>> import abe
        >>> abe.method("interactions", index="stii").engine.summary
        Interactions(index='stii', order=2, max_units=10)
    """
    summary = Interactions(index=index, order=order, max_units=max_units)
    return Coalitions(units=units, removal=as_removal(removal), summary=summary, evaluations=evaluations)


@methods.register(
    Card(
        name="loss_shap",
        title="Loss SHAP",
        source="lundberg2020",
        formula="φ = Shapley value of v(S) = log E_b p_y(x_S, b)",
        family="perturbation",
        reformulations=("game-theoretic", "feature removal"),
        guarantees=("completeness", "implementation_invariance", "sensitivity"),
        passes=FORWARD,
        differs=("Probabilities are averaged over the background before the logarithm, as in SAGE.",),
        pitfalls=(
            "Pass the true label as target=; by default the prediction's loss is explained.",
            "Always the cross-entropy, whatever objective is asked for.",
        ),
        expected_failures=CELLS,
    ),
    aliases=("lossshap",),
)
def loss_shap(
    *,
    units: Any = "grid",
    removal: Any = "zero",
    estimator: Estimator = "auto",
    evaluations: int | None = None,
    max_units: int = EXACT_UNITS,
) -> Coalitions:
    """Shapley values of minus the loss: what each unit does for the given label.

    Args:
        estimator: as for ``shapley``.

    Shape: (b, *f) in and out; standard errors (b, *f) where anything is drawn.

    Cost: As ``shapley``.

    Example:
        >>> import abe
        >>> abe.method("loss_shap", estimator="kernel").engine.behaviour
        'log_probability'
    """
    return Coalitions(
        units=units,
        removal=as_removal(removal),
        summary=_estimator(estimator, max_units),
        evaluations=evaluations,
        behaviour="log_probability",
    )


@methods.register(
    Card(
        name="sage",
        title="SAGE",
        source="covert2020, Alg. 1",
        formula="φ = Shapley value of v(S) = E_{(x, y)} log E_b p_y(x_S, b)",
        family="perturbation",
        reformulations=("feature removal",),
        guarantees=("implementation_invariance",),
        needs=("draws",),
        passes=FORWARD,
        differs=(
            "Orders are walked both ways; positions of a unit share its value.",
            "v(S) is the gain of the mean log-probability; its sum is that over the data rows drawn.",
        ),
        pitfalls=("Global: the same map for every sample, it says nothing about this one.",),
        example={"data": EXAMPLE, "evaluations": 2000},
    ),
)
def sage(
    *,
    data: Tensor,
    labels: Any = None,
    units: Any = "grid",
    removal: Any = "zero",
    evaluations: int = 20_000,
    tolerance: float = 0.025,
) -> DataSetShapley:
    """Shapley values of the loss over a data set: which units the model needs at all.

    Args:
        data: (m, *f) inputs, at least two.
        labels: (m,) or (m, 1) their class numbers; None takes the model's predictions.
        units: the players, the same for every input: "grid", "patch", "pixel", or ("regions", {...}).
        evaluations: most rows of the whole run.
        tolerance: stop when the largest standard error is below this share of the range of the values.

    Shape: (b, *f) out, the same for every sample; standard errors (b, *f).

    Cost: At most ``evaluations`` forward rows, however many samples are explained.

    Example:
        >>> import torch, abe
        >>> abe.method("sage", data=torch.rand(8, 3, 4, 4), evaluations=500).engine.evaluations
        500
    """
    return DataSetShapley(
        data=data,
        labels=None if labels is None else column(numbers_of(labels)),
        units=units,
        removal=as_removal(removal),
        evaluations=evaluations,
        tolerance=tolerance,
    )

"""Local surrogates: the coefficients of a linear model fitted around the input."""

from typing import Any, Literal

from abe.checks import Share
from abe.engines.removal.c_lime import ContinuousNeighbours
from abe.engines.removal.game import Coalitions
from abe.engines.removal.lime import (
    ROWS,
    SPARSE_ROWS,
    AdherentRidge,
    BayesianRidge,
    Ridge,
    Sparse,
    StableSelection,
)
from abe.engines.removal.removals import Removal
from abe.engines.removal.table_lime import TableNeighbours
from abe.errors import Code, SpecError
from abe.methods.gradient import Variant, published
from abe.methods.removal import FORWARD, as_removal
from abe.registry import methods
from abe.types import Card, Engine, Passes

REFORMULATIONS = ("feature additive", "feature removal")
UNITS = (
    "Units are the cells of a grid and absent ones show the sample's mean; published code takes superpixels "
    "and their own means (units='superpixel', removal='segment_mean')."
)
WIDTH = 0.25
"""Of the kernel of LIME, in cosine distance."""
READ_ADHERENCE = "Read diagnostics['adherence']: a fit that misses the model explains nothing."


@methods.register(
    Card(
        name="lime",
        title="LIME",
        source="ribeiro2016, Eq. 2",
        formula="min_w Σ_z π(z) (s(x_z) − w₀ − w·z)² + λ ‖w‖², π(z) = exp(−d(z)²/σ²), "
        "d the cosine distance to all units",
        family="local surrogate",
        reformulations=REFORMULATIONS,
        guarantees=("linearity", "implementation_invariance"),
        needs=("draws",),
        passes=FORWARD,
        differs=(
            UNITS,
            "The kernel as printed; variant='published' takes its root, as the published code does.",
            "No selection of features: every unit gets its coefficient.",
            "Numbers of neighbours='bins' are those of background rows; published code draws them from a "
            "normal distribution cut to the quarter.",
        ),
        pitfalls=(READ_ADHERENCE, "Another seed, other coefficients: read the errors and stability indices."),
    ),
)
def lime(
    *,
    units: Any = ("grid", {"n": 7}),
    removal: Any = "mean",
    evaluations: int = ROWS,
    width: float | None = None,
    penalty: float = 1.0,
    coalitions: Any = None,
    neighbours: Literal["coalitions", "rows", "bins"] = "coalitions",
    rows: Any = None,
    variant: Variant = "corrected",
) -> Coalitions | TableNeighbours:
    """The coefficients of a linear model fitted to the score on random coalitions near the input.

    Args:
        width: σ; by default ¼, for neighbours that are rows ¾ of the root of the number of columns.
        coalitions: (m, u) what to fit to instead, 1 for every unit that is there: such as all coalitions, or
            those that other code drew. Their values are computed here.
        neighbours: of a table, ``"rows"`` fits to whole rows drawn from all background rows, column by column
            (numbers from a normal distribution of their mean and deviation), which it sees in standard
            deviations from the mean; ``"bins"`` sees of a number whether it lies in the own quarter of the
            background's, and draws numbers of it. Of categories and groups either sees whether they are those
            of the own row; distances are Euclidean. A coefficient is then a slope, not a share of the score;
            ``units`` are columns, and ``removal`` plays no part.
        rows: neighbours (n, columns) to take instead of drawn ones, in any form that the task reads.
        variant: ``"published"`` takes the root of the kernel and lets every position carry its
            unit's whole coefficient.

    Shape:
        (b, *f) in and out; standard errors (b, *f); diagnostics ``unit_values`` (the coefficients),
        ``intercept``, ``adherence`` (weighted R²), ``coefficient_stability`` and ``variable_stability`` in
        per cent.

    Cost: At most ``evaluations`` forward rows.

    Example:
        >>> import abe
        >>> abe.method("lime", width=0.5).engine.summary
        Ridge(width=0.5, penalty=1.0, root=False, given=None)
    """
    old = published(variant)
    if neighbours != "coalitions":
        if coalitions is not None:
            raise SpecError(
                Code.BAD_PARAMETER,
                "Neighbours that are rows are no coalitions",
                fix='Pass rows=, or neighbours="coalitions"',
            )
        return TableNeighbours(
            design=neighbours,
            rows=rows,
            width=width,
            penalty=penalty,
            root=old,
            evaluations=evaluations,
            spread="whole" if old else "share",
        )
    if rows is not None:
        raise SpecError(
            Code.BAD_PARAMETER,
            "rows= are neighbours in a table",
            fix='Choose neighbours="rows" or "bins" too',
        )
    width = WIDTH if width is None else width
    return Coalitions(
        units=units,
        removal=as_removal(removal),
        summary=Ridge(width=width, penalty=penalty, root=old, given=coalitions),
        evaluations=evaluations if coalitions is None else None,
        spread="whole" if old else "share",
    )


@methods.register(
    Card(
        name="c_lime",
        title="C-LIME",
        source="agarwal2021",
        formula="min_w Σ_k (s(x + σ Σ_u ε_u 1_u) − w₀ − w·σε)², ε normal",
        family="local surrogate",
        reformulations=REFORMULATIONS,
        guarantees=("linearity", "implementation_invariance"),
        needs=("draws",),
        passes=Passes(forward="b * (evaluations + 1)", backward="0"),
        differs=("Units move as a whole; with units='element' it is the paper's.",),
        pitfalls=(
            READ_ADHERENCE,
            "A slope, not a contribution: it tends to SmoothGrad's, summed over the unit's positions.",
        ),
    ),
    aliases=("clime", "continuous_lime"),
)
def c_lime(
    *, units: Any = ("grid", {"n": 7}), sigma: float = 0.15, evaluations: int = ROWS
) -> ContinuousNeighbours:
    """A linear fit to the score at inputs whose units are moved by normal noise.

    Args:
        units: what moves together.
        evaluations: rows per sample, at least two more than units.

    Shape: (b, *f) in and out; standard errors (b, *f); diagnostic ``adherence`` (R²).

    Example:
        >>> import abe
        >>> abe.method("c_lime", sigma=0.1, evaluations=500).rows(b=1)
        501.0
    """
    return ContinuousNeighbours(units=units, sigma=sigma, evaluations=evaluations)


@methods.register(
    Card(
        name="optilime",
        title="OptiLIME",
        source="visani2020optilime",
        formula="max σ such that R²(σ) ≥ adherence",
        family="local surrogate",
        reformulations=REFORMULATIONS,
        guarantees=("implementation_invariance",),
        needs=("draws",),
        passes=FORWARD,
        differs=(
            UNITS,
            "Widths are tried on the same rows; the paper searches them by Bayesian optimisation.",
        ),
        pitfalls=("Where no width adheres the best one is taken, and a warning says so.",),
    ),
)
def optilime(
    *,
    units: Any = ("grid", {"n": 7}),
    removal: Any = "mean",
    evaluations: int = ROWS,
    adherence: Share = 0.8,
    penalty: float = 1.0,
) -> Coalitions:
    """LIME with the widest kernel whose fit still adheres to the model.

    Args:
        adherence: weighted R² that must be kept.

    Shape: (b, *f) in and out; standard errors (b, *f); diagnostics as of ``lime``, and ``width``.

    Cost: At most ``evaluations`` forward rows, for all widths together.

    Example:
        >>> import abe
        >>> abe.method("optilime", adherence=0.9).engine.summary
        AdherentRidge(target=0.9, penalty=1.0)
    """
    return Coalitions(
        units=units,
        removal=as_removal(removal),
        summary=AdherentRidge(target=adherence, penalty=penalty),
        evaluations=evaluations,
    )


@methods.register(
    Card(
        name="s_lime",
        title="S-LIME",
        source="zhou2021, Alg. 1",
        formula="n ← n (z_{1−α}/ẑ)² until Δ = |ĉ_{j₁}| − |ĉ_{j₂}| is significant at every step",
        family="local surrogate",
        reformulations=REFORMULATIONS,
        guarantees=("implementation_invariance",),
        needs=("draws",),
        passes=FORWARD,
        differs=(UNITS,),
        pitfalls=("Units that are not chosen get 0, which does not mean that they do nothing.",),
    ),
    aliases=("slime",),
)
def s_lime(
    *,
    units: Any = ("grid", {"n": 7}),
    removal: Any = "mean",
    features: int = 5,
    level: float = 0.05,
    start: int = 500,
    evaluations: int = 5000,
    width: float = 0.25,
    penalty: float = 1.0,
) -> Coalitions:
    """LIME on units chosen by least angles, with rows added until every choice is significant.

    Args:
        features: units to choose.
        level: of the test of every choice.
        start: rows of the first round.
        penalty: λ of the ridge on the chosen units.

    Shape: (b, *f) in and out; standard errors (b, *f); diagnostics ``adherence``, ``chosen``, ``rows``.

    Cost: Between ``start`` and ``evaluations`` forward rows.

    Example:
        >>> import abe
        >>> abe.method("s_lime", features=3, start=200).engine.summary
        StableSelection(features=3, level=0.05, start=200, width=0.25, penalty=1.0)
    """
    summary = StableSelection(features=features, level=level, start=start, width=width, penalty=penalty)
    return Coalitions(units=units, removal=as_removal(removal), summary=summary, evaluations=evaluations)


@methods.register(
    Card(
        name="baylime",
        title="BayLIME",
        source="zhao2021, Eqs. 6-9",
        formula="w | data ~ N(Σ(λμ₀ + αZᵀΠy), Σ), Σ = (λI + αZᵀΠZ)⁻¹",
        family="local surrogate",
        reformulations=REFORMULATIONS,
        guarantees=("implementation_invariance",),
        needs=("draws",),
        passes=FORWARD,
        differs=(UNITS,),
        pitfalls=(
            "A confident prior outweighs the model; its precision counts rows of unit weight.",
            READ_ADHERENCE,
        ),
    ),
    aliases=("bay_lime",),
)
def baylime(
    *,
    units: Any = ("grid", {"n": 7}),
    removal: Any = "mean",
    prior: Any = None,
    precision: float | None = None,
    noise_precision: float | None = None,
    evaluations: int = ROWS,
    width: float = 0.25,
) -> Coalitions:
    """LIME with a normal prior of the coefficients, from evidence or from another method's map.

    Args:
        prior: a method whose map, summed over each unit, is μ₀; None is zero.
        precision: λ of the prior; None takes what the evidence says.
        noise_precision: α of the score around the fit; None for the same.
        evaluations: most rows per sample, besides the prior's.

    Shape:
        (b, *f) in and out; standard errors (b, *f) are the posterior's deviations; diagnostics ``adherence``,
        ``precision``, ``noise_precision``.

    Cost: At most ``evaluations`` forward rows, and the prior's.

    Example:
        >>> import abe
        >>> abe.method("baylime", prior="gradient_x_input").engine.summary
        BayesianRidge(precision=None, noise_precision=None, width=0.25)
    """
    before: Engine | None = None if prior is None else methods.resolve(prior).engine
    summary = BayesianRidge(precision=precision, noise_precision=noise_precision, width=width)
    found: Removal = as_removal(removal)
    return Coalitions(units=units, removal=found, summary=summary, evaluations=evaluations, prior=before)


@methods.register(
    Card(
        name="sparse_surrogate",
        title="Sparse surrogate",
        source="cohenwang2024, Sec. 3",
        formula="min_w Σ_z (s(x_z) − w₀ − w·z)² / 2n + λ ‖w‖₁, z uniform over coalitions",
        family="local surrogate",
        reformulations=REFORMULATIONS,
        guarantees=("implementation_invariance",),
        needs=("draws",),
        passes=FORWARD,
        differs=(
            UNITS,
            "The explained score is followed as it is; the paper follows the log-odds of an answer's probability.",
            "λ is a share of the smallest one that leaves no unit; published code takes .01 for all.",
        ),
        pitfalls=(
            READ_ADHERENCE,
            "Of two units that say the same, one may get all of it.",
        ),
    ),
    aliases=("contextcite", "context_cite", "lasso"),
)
def sparse_surrogate(
    *,
    units: Any = ("grid", {"n": 7}),
    removal: Any = "mean",
    evaluations: int = SPARSE_ROWS,
    penalty: Share = 0.05,
) -> Coalitions:
    """The coefficients of a sparse linear fit to a few dozen coalitions: which sources an answer rests on.

    Of many units most get exactly 0, so few rows are enough; with ``units="sentence"``, ``removal="delete"``
    and ``objective="sequence"`` it says which sentences of a context a language model's answer rests on.

    Args:
        evaluations: rows per sample.
        penalty: λ, as a share of the smallest one that leaves no unit.

    Shape:
        (b, *f) in and out; diagnostics ``unit_values`` (the coefficients), ``intercept``, ``adherence`` (R²)
        and ``chosen`` (the units that are not 0).

    Cost: At most ``evaluations`` forward rows.

    Example:
        >>> import abe
        >>> abe.method("sparse_surrogate", evaluations=32).engine.summary
        Sparse(penalty=0.05)
    """
    found: Removal = as_removal(removal)
    return Coalitions(units=units, removal=found, summary=Sparse(penalty=penalty), evaluations=evaluations)

"""Methods made of methods: smoothing, ensembles, post-processing."""

from typing import Any

from abe.checks import Count
from abe.engines.path.references import InTurn, OverReferences
from abe.engines.wrappers import Ensemble, Postprocess, Reduce, Smooth, Step
from abe.errors import Code, SpecError
from abe.methods.path import as_distribution
from abe.registry import Method, is_pair, methods
from abe.types import Card


@methods.register(
    Card(
        name="smooth",
        title="Smoothed method",
        source="smilkov2017",
        formula="A = reduce_k M(x + σ r ε_k)",
        family="wrapper",
        guarantees=("implementation_invariance",),
        needs=("draws",),
        example={"base": "gradient_x_input", "samples": 4},
    )
)
def smooth_method(*, base: Any, sigma: float = 0.15, samples: int = 50, reduce: Reduce = "mean") -> Smooth:
    """Any method over noisy copies of the input, reduced to a mean, mean square or variance.

    It guarantees what the base does too.

    Args:
        reduce: ``"mean"``, ``"square"`` or ``"variance"``.

    Shape: (b, *f) in and out; standard errors (b, *f).

    Cost: ``samples`` times the base's.

    Example:
        >>> import abe
        >>> print(abe.smooth("ig", samples=20))
        smooth(base='ig', sigma=0.15, samples=20, reduce='mean')
    """
    return Smooth(engine=methods.resolve(base).engine, sigma=sigma, samples=samples, reduce=reduce)


@methods.register(
    Card(
        name="ensemble",
        title="Ensemble",
        source="zhu2025abe",
        formula="A = (1/m) Σ_j M_j(x) / ‖M_j(x)‖₁",
        family="wrapper",
        guarantees=("implementation_invariance",),
        example={"bases": ("gradient", "integrated_gradients")},
    )
)
def ensemble_methods(*, bases: tuple[Any, ...]) -> Ensemble:
    """Mean of several methods' maps, each scaled to unit sum of absolute values.

    It guarantees what the bases do too.

    Args:
        bases: at least two methods: names, (name, parameters) pairs, or values.

    Cost: The sum of the bases'.

    Example:
        >>> import abe
        >>> print(abe.ensemble("ig", "smoothgrad"))
        ensemble(bases=('ig', 'smoothgrad'))
    """
    if isinstance(bases, str) or len(bases) < 2:
        raise SpecError(Code.BAD_PARAMETER, "An ensemble needs at least two methods", got=repr(bases))
    return Ensemble(engines=tuple(methods.resolve(base).engine for base in bases))


@methods.register(
    Card(
        name="postprocess",
        title="Post-processed method",
        source="deng2025",
        formula="A = f(M(x))",
        family="wrapper",
        guarantees=("implementation_invariance",),
        example={"base": "gradient", "steps": ("absolute", "unit_max")},
    )
)
def postprocess_method(*, base: Any, steps: tuple[Step, ...]) -> Postprocess:
    """A method followed by declared changes of its map.

    It guarantees what the base does too.

    Args:
        steps: any of ``"absolute"``, ``"positive"``, ``"negative"``, ``"unit_max"``, ``"unit_sum"``,
            in order.

    Cost: The base's.

    Example:
        >>> import abe
        >>> print(abe.postprocess("gradient", "absolute"))
        postprocess(base='gradient', steps=('absolute',))
    """
    return Postprocess(engine=methods.resolve(base).engine, steps=steps)


@methods.register(
    Card(
        name="over_references",
        title="Mean over references",
        source="erion2021, Eq. 4",
        formula="A = (1/m) Σ_k M(x, x′_k), ΣA = s(x) − mean s(x′_k)",
        family="wrapper",
        guarantees=("completeness",),
        needs=("baseline", "draws"),
        example={"base": "deeplift", "references": 4},
        pitfalls=("As many runs of the method as references.", "Complete where its base is."),
    )
)
def over_references(
    *, base: Any, baseline: Any = "uniform", references: Count | None = None
) -> OverReferences:
    """Any method that starts from one reference, averaged over several, such as every row of a background.

    A method that is complete is complete against the mean score of the references.

    Args:
        base: a method with ``baseline=``, such as ``"ig"`` or ``("ig", {"steps": 100})``.
        baseline: where references come from: a tensor (m, *f) or `Dataset`, the background of a table (its
            default), or a distribution.
        references: how many; None takes every row of a background.

    Shape: (b, *f) in and out; standard errors (b, *f).

    Cost: ``references`` times the base's.

    Example:
        >>> import abe
        >>> abe.method("over_references", base="ig", baseline="noise", references=4).name
        'over_references'
    """
    base = (base, {}) if isinstance(base, str) else base
    if isinstance(base, Method):
        base = base.name, {key: kept for key, kept in base.params if key in base.given}
    if not is_pair(base) or "baseline" not in methods.get(base[0]).parameters():
        raise SpecError(
            Code.BAD_PARAMETER,
            "base= is a method that starts from a reference, by its name",
            got=repr(base[0] if is_pair(base) else base),
            expected='one with baseline=, such as "ig" or ("ig", {"steps": 100})',
        )
    if "baseline" in base[1]:
        raise SpecError(
            Code.BAD_PARAMETER,
            "The references are said beside the method",
            got="baseline= of the base",
            fix="Pass baseline= to over_references",
        )
    turn = InTurn(baseline=as_distribution(baseline), whole=references is None)
    made = methods.build(base[0], **{**base[1], "baseline": turn})
    return OverReferences(engine=made.engine, turn=turn, references=references)


def smooth(base: Any, *, sigma: float = 0.15, samples: int = 50, reduce: Reduce = "mean") -> Method:
    """``base`` over noisy copies of the input: ``smooth("ig", samples=20)``.

    Args:
        base: a method's name, (name, parameters) pair, or value.
        sigma: noise as a share of the input range.
        samples: noisy copies per sample.
        reduce: ``"mean"``, ``"square"`` or ``"variance"`` of their maps.
    """
    return methods.build("smooth", base=base, sigma=sigma, samples=samples, reduce=reduce)


def ensemble(*bases: Any) -> Method:
    """The mean of several methods: ``ensemble("ig", "smoothgrad")``.

    Args:
        *bases: at least two: names, (name, parameters) pairs, or values.
    """
    return methods.build("ensemble", bases=bases)


def postprocess(base: Any, *steps: Step) -> Method:
    """``base`` with its map changed: ``postprocess("gradient", "absolute")``.

    Args:
        base: a method's name, (name, parameters) pair, or value.
        *steps: any of ``"absolute"``, ``"positive"``, ``"negative"``, ``"unit_max"``, ``"unit_sum"``, in
            order.
    """
    return methods.build("postprocess", base=base, steps=steps)

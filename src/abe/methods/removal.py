"""Perturbation family: what the score does when parts of the input are removed."""

from typing import Any

from torch import Tensor

from abe.baselines import as_baseline
from abe.checks import Count
from abe.engines.removal.causal_effect import Intervention
from abe.engines.removal.game import Behaviour, Coalitions
from abe.engines.removal.leave_out import LeaveOut
from abe.engines.removal.patch_gaussian import PatchGaussian
from abe.engines.removal.removals import Marginal, Removal, Replace
from abe.engines.removal.rise import Divisor, RandomMasks
from abe.engines.removal.segments import Lengths, Spread
from abe.methods.gradient import Variant, published
from abe.methods.path import as_distribution
from abe.registry import methods, removals
from abe.types import Card, Passes

FORWARD = Passes(forward="adaptive", backward="0")
WHOLE = (
    "The positions of a unit share its value; variant='published' lets every position carry the whole value."
)


def as_removal(obj: Any) -> Removal:
    """A removal from a value, its name, a (name, parameters) pair, a background set, or a baseline.

    A tensor is a background set (m, *f) of at least two samples, all of which complete every coalition; a
    baseline, its name or a number is what absent units show.
    """
    if isinstance(obj, Tensor):
        return Marginal(samples=obj)
    name = obj[0] if isinstance(obj, tuple) and len(obj) == 2 else obj
    if isinstance(name, str) and name in removals.names():
        return removals.resolve(obj)
    if isinstance(obj, Removal) and not isinstance(obj, type):
        return obj
    return Replace(baseline=as_baseline(obj))


@methods.register(
    Card(
        name="removal",
        title="Removal of units",
        source="covert2021",
        formula="A = ψ(μ(F(x_S)) for S in the coalitions that ψ reads)",
        family="perturbation",
        reformulations=("feature removal",),
        guarantees=("implementation_invariance", "additivity"),
        passes=FORWARD,
        example={"summary": "include_individual"},
    ),
    aliases=("feature_removal",),
)
def removal(
    *,
    summary: Any,
    units: Any = "grid",
    removal: Any = "zero",
    evaluations: int | None = None,
    behaviour: Behaviour = "score",
    spread: Spread = "share",
) -> Coalitions:
    """Any units, any removal and any summary of the values of coalitions.

    Args:
        summary: how values become one number per unit: a name such as "include_individual",
            "mean_when_included" or "banzhaf", a pair of name and parameters, or a value.
        evaluations: most rows per sample; None lets the summary choose.
        behaviour: ``"score"``, or ``"log_probability"`` or ``"log_odds"`` of the mean probability.
        spread: ``"share"`` divides a unit's number among its positions, ``"whole"`` gives it to each.

    Cost: What the summary asks for, at most ``evaluations`` forward rows per sample.

    Example:
        >>> import abe
        >>> abe.method("removal", summary="banzhaf", removal="mean").engine.removal
        Replace(baseline=Mean(), samples=20)
    """
    return Coalitions(
        units=units,
        removal=as_removal(removal),
        summary=summary,
        evaluations=evaluations,
        behaviour=behaviour,
        spread=spread,
    )


@methods.register(
    Card(
        name="occlusion",
        title="Occlusion-1",
        source="zeiler2014",
        formula="a_i = s(x) − s(x with unit i replaced), averaged over completions where there are several",
        family="perturbation",
        reformulations=("feature removal", "Taylor interaction"),
        guarantees=("linearity", "dummy", "implementation_invariance", "sensitivity", "additivity"),
        passes=FORWARD,
        differs=(WHOLE,),
        pitfalls=(
            "What two units do together is counted for both; what either can do alone, for neither.",
            "One row per position: 50,176 for a photograph of 224²; units='grid' or 'patch' are coarser.",
        ),
        expected_failures={
            "symmetry": "channels of a position are removed together; units='element' keeps it"
        },
    ),
    aliases=("occlusion_1", "occ_1", "feature_ablation"),
)
def occlusion(
    *,
    units: Any = "pixel",
    removal: Any = "zero",
    evaluations: int | None = None,
    variant: Variant = "corrected",
) -> LeaveOut:
    """What the score loses when one unit is replaced.

    Args:
        evaluations: most rows per sample; more units than that are an error.

    Shape: (b, *f) in and out; standard errors where completions are drawn.

    Cost: One forward row per unit and completion.

    Example:
        >>> import abe
        >>> print(abe.method("occlusion", units="grid"))
        occlusion(units='grid', removal='zero', evaluations=None, variant='corrected')
    """
    return LeaveOut(
        units=units,
        removal=as_removal(removal),
        evaluations=evaluations,
        spread="whole" if published(variant) else "share",
    )


@methods.register(
    Card(
        name="occlusion_patch",
        title="Occlusion by patches",
        source="zeiler2014; zintgraf2017",
        formula="a_p = mean over windows W ∋ p of s(x) − s(x with W replaced)",
        family="perturbation",
        reformulations=("feature removal", "Taylor interaction"),
        guarantees=("linearity", "dummy", "implementation_invariance", "sensitivity"),
        passes=FORWARD,
        pitfalls=("The map is as fine as the windows, and theirs is the scale of what is found.",),
        expected_failures={"symmetry": "channels of a window are removed together"},
    ),
    aliases=("occ_p", "sliding_window"),
)
def occlusion_patch(
    *,
    size: Lengths = None,
    stride: Lengths = None,
    per_channel: bool = False,
    removal: Any = "zero",
    evaluations: int | None = None,
) -> LeaveOut:
    """What the score loses when a sliding window is replaced, averaged where windows overlap.

    Args:
        size: positions of a window along every axis, or one number for each axis, such as (height, width).
        stride: how far windows are apart, in the same form.
        per_channel: every channel has windows of its own; else they cover all channels.
        evaluations: most rows per sample; more windows than that are an error.

    Shape: (b, *f) in and out; standard errors where completions are drawn.

    Cost: One forward row per window and completion: 729 windows of 16 for a photograph of 224².

    Example:
        >>> import abe
        >>> print(abe.method("occlusion_patch", size=16, stride=8))
        occlusion_patch(size=16, stride=8, per_channel=False, removal='zero', evaluations=None)
    """
    return LeaveOut(
        size=size,
        stride=stride,
        per_channel=per_channel,
        removal=as_removal(removal),
        evaluations=evaluations,
    )


@methods.register(
    Card(
        name="pdiff",
        title="Prediction difference",
        source="zintgraf2017, Eqs. 2-4",
        formula="a_p = mean over W ∋ p of log-odds p(y|x) − log-odds E_{w ~ p(w | rim)} p(y | x with w)",
        family="perturbation",
        reformulations=("feature removal", "Taylor interaction"),
        guarantees=("implementation_invariance",),
        needs=("draws",),
        features=("positions",),
        passes=FORWARD,
        differs=(
            "Without a background set, patches of the sample itself give the distribution.",
            "Probabilities are kept away from 0 and 1 by float rounding, not by a Laplace correction.",
        ),
        pitfalls=(
            "Always the log-odds of the target, whatever objective is asked for.",
            "Ten rows per window: thousands for a photograph.",
        ),
    ),
    aliases=("prediction_difference",),
)
def pdiff(
    *,
    size: int | None = None,
    stride: int | None = None,
    background: Tensor | None = None,
    rim: int | None = None,
    samples: Count = 10,
    evaluations: int | None = None,
) -> LeaveOut:
    """The log-odds lost when a window is drawn from what its surroundings allow.

    Args:
        background: (m, *f) inputs whose patches are the data; None takes the sample's own.
        rim: width of the surroundings that are looked at; None is a quarter of the window.
        samples: completions per window.
        evaluations: most rows per sample; more than that needed is an error.

    Shape: (b, c, *space) in and out; standard errors (b, c, *space).

    Cost: ``samples`` forward rows per window.

    Example:
        >>> import abe
        >>> print(abe.method("pdiff", size=8, samples=5))
        pdiff(size=8, stride=None, background=None, rim=None, samples=5, evaluations=None)
    """
    patches = PatchGaussian(samples=background, rim=rim, draws=samples)
    return LeaveOut(size=size, stride=stride, removal=patches, behaviour="log_odds", evaluations=evaluations)


@methods.register(
    Card(
        name="rise",
        title="RISE",
        source="petsiuk2018, Eq. 6",
        formula="A = Σ_k s(x ⊙ M_k + x′ ⊙ (1 − M_k)) M_k / Σ_k M_k",
        family="perturbation",
        reformulations=("feature removal",),
        guarantees=("linearity", "implementation_invariance"),
        needs=("draws",),
        features=("positions",),
        passes=Passes(forward="b * (evaluations + 1)", backward="0"),
        differs=(
            "Divided by the sum of the masks drawn, so that a constant added to the score is added to "
            "the map; variant='published' divides by n p.",
        ),
        pitfalls=("Not a difference: positions that do nothing get the mean score.",),
    ),
)
def rise(
    *,
    evaluations: int = 4000,
    cells: int | None = None,
    p: float = 0.5,
    baseline: Any = "zero",
    variant: Variant = "corrected",
    divide: Divisor | None = None,
    masks: Tensor | None = None,
) -> RandomMasks:
    """The mean score under random soft masks, weighted by what each mask shows of a position.

    Args:
        evaluations: masks per sample.
        cells: cells of a mask along each axis, before it is enlarged; by default 7, or two for each position
            of what has fewer than 4.
        p: probability of a cell to show the input.
        baseline: what stands behind the mask.
        divide: by what the sums over masks are divided: the sum of the masks at each ``"position"``, which is
            the default; their mean over all positions times their number, ``"coverage"``; ``"expected"``,
            their number times ``p``, as published; or their ``"count"``.
        masks: (evaluations, *space) masks from 0 to 1 to be used instead of random ones.

    Shape: (b, c, *space) in and out, the same for every channel; standard errors (b, c, *space).

    Example:
        >>> import abe
        >>> abe.method("rise", evaluations=1000, cells=5).rows(b=1)
        1001.0
    """
    return RandomMasks(
        evaluations=evaluations,
        cells=cells,
        p=p,
        baseline=as_baseline(baseline),
        divide=divide or ("expected" if published(variant) else "position"),
        masks=masks,
    )


@methods.register(
    Card(
        name="ace",
        title="Average causal effect",
        source="chattopadhyay2019; deng2025, Eq. 21",
        formula="a_i = E[s | do(x_i = own value)] − E[s | do(x_i = reference)], "
        "all other units from the background",
        family="perturbation",
        guarantees=("linearity", "implementation_invariance", "sensitivity"),
        needs=("draws",),
        passes=Passes(forward="adaptive", backward="0"),
        differs=(
            "Expectations by draws from a background set, not by a Taylor expansion of second order.",
            "Units have no effects on one another: they are taken to be independent causes.",
        ),
        pitfalls=("About the model over the background, not about its decision on this input.",),
        expected_failures={
            "dummy": "holds for whole units: the positions of a cell share its value",
            "symmetry": "the background is drawn position by position",
        },
    ),
    aliases=("average_causal_effect",),
)
def ace(
    *,
    units: Any = "grid",
    background: Any = "uniform",
    reference: Any = None,
    samples: int = 20,
    evaluations: int | None = None,
) -> Intervention:
    """What setting a unit to its value does on average over all else.

    Args:
        units: what is set together.
        reference: a baseline for the unit on the other side; None draws it from the background too.
        samples: background draws per unit and side.
        evaluations: most rows per sample; more than that needed is an error.

    Shape: (b, *f) in and out; standard errors (b, *f).

    Cost: 2 · ``samples`` forward rows per unit.

    Example:
        >>> import abe
        >>> print(abe.method("ace", samples=10))
        ace(units='grid', background='uniform', reference=None, samples=10, evaluations=None)
    """
    return Intervention(
        units=units,
        background=as_distribution(background),
        reference=None if reference is None else as_baseline(reference),
        samples=samples,
        evaluations=evaluations,
    )

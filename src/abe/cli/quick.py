"""What ``abe compare`` does in about a minute, how long anything else takes, and results as they come."""

from collections.abc import Mapping, Sequence
from typing import Any

from abe.cli import output
from abe.errors import AbeError
from abe.progress import staged

ONE_OF_EACH: dict[str, tuple[str, Mapping[str, Any]]] = {
    "gradient × input": ("integrated_gradients", {}),
    "modified gradient": ("smoothgrad", {}),
    "layer-wise backpropagation": ("lrp_epsilon", {}),
    "attention": ("attention_rollout", {}),
    "perturbation": ("occlusion", {"units": ("grid", {"n": 14})}),
    "local surrogate": ("lime", {"evaluations": 500}),
    "influential subset": ("iba", {}),
}
"""What is compared unless methods are named: of every family one that is made for any network, with the
parameters that keep it quick."""
OWN: dict[str, str] = {"occlusion": "occlusion_patch"}
"""What stands for a method where time does not matter."""
OF_SOME = ("attention",)
"""Families that only some networks have something for."""
METRICS = ("insertion", "deletion", "gap", "sparseness", "residual", "passes", "seconds")
"""What is measured unless metrics are named: both curves with their difference, what the map itself is like,
and what it cost."""
STEP = 0.05
"""Size of one change of the curves unless one is named."""
SLOW = 0.5
"""Seconds of one gradient from which on no more than that is timed."""
CELLS, SAMPLES = 8, 16
"""Rows that are timed: cells of a grid along each axis, removed one by one, and samples of gradients."""


def one_of_each(task: Any, sample: Any) -> list[tuple[str, Mapping[str, Any]]]:
    """The method of every family that has one for this network, with the parameters that keep it quick.

    A family whose method needs of features what these do not have is left out.
    """
    from abe.api import explain
    from abe.registry import methods

    found: list[tuple[str, Mapping[str, Any]]] = []
    for family, (name, params) in ONE_OF_EACH.items():
        try:
            if task.modality not in methods.get(name).card.modalities:
                continue
            if family in OF_SOME:
                explain(task, sample, name)
        except AbeError:  # the network has nothing of the kind, or a fault that the comparison will tell
            continue
        found.append(
            (name, params if is_picture(task) else {k: v for k, v in params.items() if k != "units"})
        )
    return found


def is_picture(task: Any) -> bool:
    """Whether a task reads photographs."""
    from abe.explanation import PICTURES

    return task.modality in PICTURES


def own(task: Any, method: tuple[str, Mapping[str, Any]]) -> str:
    """A method of `one_of_each` at its own defaults."""
    return OWN.get(method[0], method[0]) if is_picture(task) else method[0]


def called(method: Any) -> str:
    """A method with the parameters that are set."""
    if isinstance(method, str):
        return method
    from abe.report.view import in_short
    from abe.spec import describe

    name, params = method
    if not params:
        return name
    return f"{name}({', '.join(f'{k}={_plain(v) or in_short(describe(v))}' for k, v in params.items())})"


def _plain(value: Any) -> str:
    """A (name, parameters) pair as a call, or nothing."""
    from abe.registry import is_pair

    return called(value) if is_pair(value) else ""


Plan = tuple[Sequence[Any], Sequence[Any]]
"""Methods and metrics."""


def estimate(
    task: Any,
    samples: Sequence[Any],
    methods: Sequence[Any],
    metrics: Sequence[Any],
    others: Mapping[str, Plan],
) -> str:
    """How long a comparison takes and how many passes that is, in a sentence.

    Args:
        task: the model and how to read it.
        samples: what is explained.
        methods: names, or names with parameters.
        metrics: what is measured.
        others: what else could be asked for, by the option that asks for it, each told with its time.
    """
    from abe import registry
    from abe.metrics.evaluation.foresight import rows_of
    from abe.report.looks import noun

    n = len(samples)
    every = len(registry.methods.names())
    what = f"{len(methods)} of {every} methods, {len(metrics)} metrics, {n} {noun(task.modality, n)}"
    try:
        seen, forward, gradient = pace(task, samples[0])
    except AbeError:  # without a gradient, or for a reason that the comparison will tell
        return f"{what}; how long that takes is not known beforehand."

    def rows(plan: Plan) -> Any:
        suited = [registry.methods.resolve(one).suited(task.suits) for one in plan[0]]
        return rows_of(suited, plan[1], seen, n)

    def time(plan: Plan) -> str:
        return duration(rows(plan).seconds(forward, gradient))

    asked = (methods, metrics)
    more = [f"{option} takes about {time(plan)}" for option, plan in others.items()]
    said = f"About {time(asked)}: {what}, {rows(asked).total:,.0f} passes"
    return "; ".join([said, *more]) + "."


def pace(task: Any, sample: Any) -> tuple[Any, float, float]:
    """The sample as units see it, and seconds of a row that goes forward, and of one that goes backward too.

    What the planner times is what will be run: the rows that are timed here let it choose how to run them.

    Raises:
        AbeError: the model has no gradient, or does not run.
    """
    from abe.api import explain
    from abe.units import Unrun

    with staged("timing a few passes", 4) as (progress, done):

        def timed(method: str, **params: Any) -> Any:
            found = explain(task, sample, method, progress=progress, **params)
            done()
            return found

        timed("gradient")  # the first call also finds out how to run the model
        gradient = timed("gradient").cost.model_seconds
        lifted = task.lift(sample)
        seen = Unrun(lifted.x, lifted.context, task)
        if gradient > SLOW:
            return seen, gradient / 3, gradient
        cut: dict[str, Any] = {"units": ("grid", {"n": CELLS})} if is_picture(task) else {}
        cells = timed("occlusion", **cut).cost
        forward = cells.model_seconds / cells.forward_rows
        noisy = timed("smoothgrad", samples=SAMPLES).cost
    left = noisy.model_seconds - forward * (noisy.forward_rows - noisy.backward_rows)
    return seen, forward, max(left / noisy.backward_rows, forward)


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.2g} {unit}"
    return f"{max(1, round(seconds))} s"


class Told:
    """Says what a method scored as soon as it has.

    Args:
        count: how many methods there are.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.done = 0

    def __call__(self, name: str, found: Any) -> None:
        """A line on standard error, above the progress bar where there is one."""
        from abe.report.view import figure, title_of

        self.done += 1
        head = f"{self.done} of {self.count}: {name}"
        if not isinstance(found, Mapping):
            output.remark(f"{head} did not finish [{found.code}]")
            return
        said = [f"{title_of(one)} {figure(metric, one.mean)}" for metric, one in found.items()]
        output.remark(f"{head}: {', '.join(said)}")

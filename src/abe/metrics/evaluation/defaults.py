"""What is measured, and of which units against which reference, where nobody says."""

from collections.abc import Mapping, Sequence
from typing import Any

from abe.errors import Code, SpecError
from abe.metrics.evaluation.base import Metric, as_metric
from abe.registry import items_of, suiting
from abe.task.base import Task
from abe.units import Step

DEFAULT_METRICS = (
    *("insertion", "deletion", "gap"),
    *("kl_insertion", "kl_deletion", "kl_gap"),
    *("f_insertion", "f_deletion", "f_gap"),
    *("residual", "passes", "seconds"),
)
"""Of a classifier whose inputs have bounds."""
OF_SCORES = tuple((name, {"curve": "logit"}) for name in ("insertion", "deletion", "gap"))
"""What curves follow where outputs are no classes."""


def defaults_of(task: Task, unit: Any, baseline: Any, step: Step) -> dict[str, Any]:
    """What metrics share that bring nothing of their own: as given, else what suits the task."""
    return {
        "unit": task.suits.get(("unit", "pixel"), "pixel") if unit is None else unit,
        "baseline": task.suits.get(("baseline", "zero"), "zero") if baseline is None else baseline,
        "step": step,
    }


def chosen_metrics(
    given: Sequence[Any] | None, defaults: Mapping[str, Any], task: Task | None = None
) -> list[Metric]:
    """Metrics by unique name.

    Args:
        given: names, pairs or values; None for those that can be measured on the task.
        defaults: parameters of those that do not set them.
        task: what is measured on.
    """
    found: dict[str, Metric] = {}
    listed = items_of("metrics", _usual(task) if given is None else given, Metric)
    with suiting({} if task is None else task.suits):
        for item in listed:
            metric = as_metric(item, defaults=defaults)
            if metric.name in found and found[metric.name] != metric:
                raise SpecError(
                    Code.DUPLICATE_NAME,
                    f"The metric {metric.name!r} is asked for twice with different parameters",
                    fix="Evaluate twice, once with each",
                )
            found[metric.name] = metric
    if not found:
        raise SpecError(Code.BAD_PARAMETER, "There is no metric to measure", fix="Name at least one")
    return list(found.values())


def _usual(task: Task | None) -> Sequence[Any]:
    """The default metrics, but for those that read classes of a regression or bounds where there are none."""
    if task is None:
        return DEFAULT_METRICS
    if task.output_kind == "regression":
        return (*OF_SCORES, "residual", "passes", "seconds")
    bounded = task.bounds is not None
    return [name for name in DEFAULT_METRICS if bounded or not name.startswith("f_")]

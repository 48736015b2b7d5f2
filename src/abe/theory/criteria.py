"""What a method is chosen by: metrics with a direction, and a difference that does not matter."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from abe.checks import Between
from abe.errors import Code, SpecError, suggest
from abe.metrics.efficiency import Efficiency
from abe.metrics.evaluation.base import Metric
from abe.metrics.evaluation.defaults import chosen_metrics, defaults_of
from abe.registry import items_of
from abe.task.base import Task

PRESETS: dict[str, tuple[str, ...]] = {
    "faithful": ("gap", "infidelity", "seconds"),
    "medical": ("residual", "gap", "max_sensitivity", "seconds"),
    "debugging": ("soundness", "completeness", "gap"),
    "realtime": ("seconds", "gap"),
}
"""Named lists of criteria, the one that decides first. ``"medical"`` looks first at what of the score an
explanation leaves out; ``"debugging"`` needs true classes."""
STEP = 0.05
"""Size of one change of the curves unless a criterion sets its own."""
SHARE = Between(*(0, 1, "[)", "is the share of the span that does not matter"), "a number from 0 to below 1")


@dataclass(frozen=True)
class Criterion:
    """One metric by which methods are told apart.

    Attributes:
        metric: measured per sample.
        margin: difference that does not matter, as a share of the span from a random explainer to the best
            mean that is seen; from the worst mean where random has no score.
    """

    metric: Metric
    margin: float = 0.05

    @property
    def name(self) -> str:
        """Of the metric."""
        return self.metric.name

    @property
    def of_maps(self) -> bool:
        """Whether it says something of finished maps: not of how they came about or what that cost."""
        card = self.metric.card
        again = card is not None and "method" in card.needs
        return not again and not isinstance(self.metric.value, Efficiency)

    def self_graded(self, optimises: Sequence[str]) -> bool:
        """Whether a method that maximises these metrics itself is judged by its own aim."""
        return any(self.name == one or self.name in AKIN.get(one, ()) for one in optimises)


AKIN = {
    one: (one, f"kl_{one}", f"f_{one}", f"log_odds_{one}", "gap", "kl_gap", "f_gap")
    for one in ("insertion", "deletion")
}
"""Metrics that a method maximises too which maximises one of their kind."""


def _of_criteria(given: Any) -> bool:
    return isinstance(given, list | tuple) and any(isinstance(one, Criterion) for one in given)


def criteria_of(given: Any, task: Task, *, margin: float = 0.05) -> tuple[Criterion, ...]:
    """Criteria by the name of a preset, or a list of metrics, the one that decides first.

    Args:
        given: ``"faithful"``, ``"medical"``, ``"debugging"``, ``"realtime"``, or metrics as for
            `abe.compare`: names, (name, parameters) pairs or values; criteria as they are.
        task: what is measured on.
        margin: of criteria that bring none.

    Raises:
        SpecError: an unknown preset, no metric, the same twice, or a metric that says no direction.
    """
    SHARE.check("margin", margin)
    if isinstance(given, str):
        if given not in PRESETS:
            raise SpecError(
                Code.UNKNOWN_NAME,
                f"There is no list of criteria called {given!r}",
                expected=", ".join(PRESETS),
                fix=suggest(given, list(PRESETS)) or "A list of metrics is taken too",
            )
        given = PRESETS[given]
    given = [given] if isinstance(given, Criterion) else given
    listed: list[Any] = items_of("criteria", given, Metric) if not _of_criteria(given) else list(given)
    own = {one.name: one for one in listed if isinstance(one, Criterion)}
    metrics = chosen_metrics(
        [one.metric if isinstance(one, Criterion) else one for one in listed],
        defaults_of(task, None, None, STEP),
        task,
    )
    if len(metrics) < len(listed):
        raise SpecError(
            Code.DUPLICATE_NAME, "A criterion is asked for twice", got=", ".join(m.name for m in metrics)
        )
    found = tuple(own.get(metric.name, Criterion(metric, margin)) for metric in metrics)
    whole = [one.name for one in found if one.metric.fewest > 1]
    if whole:
        raise SpecError(
            Code.UNSUPPORTED,
            f"{whole[0]!r} says something of a set of samples, and not of each",
            fix="Choose another",
        )
    blind = [one.name for one in found if one.metric.direction not in ("higher", "lower")]
    if blind:
        raise SpecError(Code.BAD_PARAMETER, f"{blind[0]!r} says of no value that it is better")
    return found

"""What an explanation cost: model rows, seconds, and how many a second at the batch it ran in."""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from abe.engines.runtime.problem import Problem
from abe.registry import metrics
from abe.spec import value
from abe.types import Card, Passes


@value
class Efficiency:
    """One number of an explanation's recorded cost, shared evenly by its samples; NaN without a record.

    Args:
        what: which number.
    """

    what: Literal["passes", "seconds", "rate"]
    sampled: ClassVar[bool] = False  # one measurement of a whole batch, repeated
    processing: ClassVar[str] = "not read"

    def measure(self, problem: Problem, explanation: Any) -> Tensor:
        cost, b = explanation.cost, len(problem.x)
        if not cost.passes and not cost.seconds:  # a map from elsewhere
            return torch.full((b,), torch.nan, dtype=torch.float64)
        if self.what == "rate":
            each = b / cost.seconds if cost.seconds > 0 else torch.inf
        else:
            each = (cost.passes if self.what == "passes" else cost.seconds) / b
        return torch.full((b,), float(each), dtype=torch.float64)


@metrics.register(
    Card(
        name="passes",
        title="PASSES",
        source="zhu2025abe, Table V",
        direction="lower",
        passes=Passes(forward="0", backward="0"),
        pitfalls=("Counts rows of the model alone; solving, segmenting and sorting are in `seconds`.",),
        range="[1, inf), or NaN for maps that were made elsewhere",
        formula="(forward rows + backward rows) / b",
        expected_failures={"ranking": "reads the cost, not the map"},
    )
)
def passes() -> Efficiency:
    """Forward plus backward rows per sample.

    It does not depend on the machine.
    """
    return Efficiency(what="passes")


@metrics.register(
    Card(
        name="seconds",
        title="SECS",
        source="zhu2025abe, Table V",
        direction="lower",
        passes=Passes(forward="0", backward="0"),
        range="(0, inf), or NaN for maps that were made elsewhere",
        formula="seconds / b",
        pitfalls=("Depends on machine, threads and batch; compare within one run only.",),
        expected_failures={
            "determinism": "time is not deterministic",
            "batch": "time depends on the batch",
            "ranking": "sometimes, within 1e-12: reads the clock, not the map",
        },
    )
)
def seconds() -> Efficiency:
    """Wall seconds per sample at the batch that was explained."""
    return Efficiency(what="seconds")


@metrics.register(
    Card(
        name="explanations_per_second",
        title="PER SEC",
        source="zhu2025abe, Table V",
        direction="higher",
        passes=Passes(forward="0", backward="0"),
        range="(0, inf), or NaN for maps that were made elsewhere",
        formula="b / seconds",
        pitfalls=("Depends on machine, threads and batch; compare within one run only.",),
        expected_failures={
            "determinism": "time is not deterministic",
            "batch": "time depends on the batch",
            "ranking": "sometimes, within 1e-12: reads the clock, not the map",
        },
    ),
    aliases=("fps", "ips", "rate"),
)
def explanations_per_second() -> Efficiency:
    """Explanations per second at the batch that was explained."""
    return Efficiency(what="rate")

"""References that know how inputs are scaled, and of several inputs, each its own."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from abe.baselines.fitting import by_part, packed
from abe.engines.layers.at_layer import AtInput
from abe.errors import Code, SpecError
from abe.registry import baselines
from abe.spec import value
from abe.task.lifted import said_of
from abe.types import Card, Problem, RowIndex, Rows


@baselines.register(
    Card(
        name="each_part",
        title="A reference for each input",
        source="sundararajan2017",
        pitfalls=("What two inputs mean together is in neither reference.",),
    )
)
@value
class EachPart:
    """Every explained input its own reference: that of its kind, or the one that is said.

    Args:
        parts: by input, a baseline, its name or (name, parameters); inputs that are not named take that of
            their kind: zero of an image, the series' own mean, the columns' background or mean.
    """

    parts: Mapping[str, Any] | None = None

    @property
    def stochastic(self) -> bool:
        return any(_made(one).stochastic for one in (self.parts or {}).values())

    def rows(self, problem: Problem, owner: RowIndex, draw: RowIndex) -> Rows:
        task = problem.task
        if task.beneath is not None:
            return AtInput(baseline=self).rows(problem, owner, draw)
        if not hasattr(task.lifter, "absent") or not task.parts:
            raise SpecError(
                Code.UNSUPPORTED,
                "Only a task of several inputs has a reference for each",
                got=f"inputs of the modality {task.modality!r}",
                fix="Choose another baseline, such as zero or mean",
            )
        said = said_of(task.parts, self.parts)
        chosen = {
            part.name: _made(said.get(str(part.name), task.lifter.absent(part.name))) for part in task.parts
        }
        return by_part(problem, chosen, owner, draw)


@baselines.register(
    Card(
        name="scaled_zero",
        title="Zero after scaling",
        source="sundararajan2017",
        pitfalls=("Without mean= in the task it is zero itself.",),
    )
)
@value
class ScaledZero:
    """What the task's normalisation turns into zero: the mean that it subtracts, channel by channel."""

    @property
    def stochastic(self) -> bool:
        return False

    def rows(self, problem: Problem, owner: RowIndex, draw: RowIndex) -> Rows:
        if problem.task.beneath is not None:
            return AtInput(baseline=self).rows(problem, owner, draw)
        if packed(problem):
            return by_part(problem, {part.name: self for part in problem.task.parts}, owner, draw)
        mean: Tensor | None = problem.task.mean
        x = problem.x[owner]
        return torch.zeros_like(x) if mean is None else mean.to(x).expand_as(x)


def _made(obj: Any) -> Any:
    from abe.baselines import as_baseline

    return as_baseline(obj)

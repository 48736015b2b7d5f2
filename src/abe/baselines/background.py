"""References of tables: the background's typical row, or all its rows in turn."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from abe.engines.layers.at_layer import AtInput
from abe.errors import Code, SpecError
from abe.registry import baselines
from abe.spec import value
from abe.types import Card, Problem, RowIndex, Rows


@baselines.register(
    Card(
        name="background",
        title="Typical background row",
        source="sundararajan2017",
        features=("columns",),
        pitfalls=(
            "A row of means is seldom a row of the data: with categories, one that nobody has.",
            "Zero is no absence in a table; where it is meant, say baseline='zero'.",
        ),
    )
)
@value
class Background:
    """The row of the background's means and most frequent categories (the first of several).

    A one-hot group shows its most frequent column.
    """

    @property
    def stochastic(self) -> bool:
        return False

    def rows(self, problem: Problem, owner: RowIndex, draw: RowIndex) -> Rows:
        if problem.task.beneath is not None:
            return AtInput(baseline=self).rows(problem, owner, draw)
        row: Tensor = lifter_of(problem).reference(problem.task)
        return row.to(problem.x)[None].expand(len(owner), -1)


@baselines.register(
    Card(
        name="background_rows",
        title="Background rows in turn",
        source="erion2021",
        features=("columns",),
        pitfalls=(
            "With fewer draws than background rows only the first are seen; by a method with one reference, "
            "such as integrated_gradients, one.",
        ),
    )
)
@value
class BackgroundRows:
    """Draw number k is background row k, and from the first again when all have been: nothing is random.

    As many draws as rows, or a multiple, average over the background exactly.
    """

    @property
    def stochastic(self) -> bool:
        return True

    def rows(self, problem: Problem, owner: RowIndex, draw: RowIndex) -> Rows:
        if problem.task.beneath is not None:
            return AtInput(baseline=self).rows(problem, owner, draw)
        rows = self._all(problem)
        return rows.to(problem.x)[draw.to(rows.device) % len(rows)].to(problem.x)

    def count(self, problem: Any) -> int:
        """How many rows there are."""
        return len(self._all(problem))

    def _all(self, problem: Any) -> Tensor:
        task = problem.task if problem.task.beneath is None else problem.task.beneath
        rows: Tensor = lifter_of(problem).references(task)
        return rows


@baselines.register(
    Card(
        name="row",
        title="Another row",
        source="sundararajan2017",
        features=("columns",),
        example={"row": {"age": 40.0}},
    )
)
@value
class AnotherRow:
    """A row of one's own: what if this person were that one.

    Args:
        row: a value for every column, by name.
    """

    row: Mapping[str, Any]

    @property
    def stochastic(self) -> bool:
        return False

    def rows(self, problem: Problem, owner: RowIndex, draw: RowIndex) -> Rows:
        if problem.task.beneath is not None:
            return AtInput(baseline=self).rows(problem, owner, draw)
        row: Tensor = lifter_of(problem).row(problem.task, self.row)
        return row.to(problem.x)[None].expand(len(owner), -1)


def lifter_of(problem: Problem) -> Any:
    """What knows the background of a table.

    Raises:
        SpecError: the task is about no table.
    """
    lifter = problem.task.lifter
    if hasattr(lifter, "references"):
        return lifter
    raise SpecError(
        Code.UNSUPPORTED,
        "Only tables have background rows of their own",
        got=f"inputs of the modality {problem.task.modality!r}",
        fix="Choose another baseline, such as zero, or pass a tensor of background samples",
    )

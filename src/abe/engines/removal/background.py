"""Removal of columns of a table: what is absent comes from every background row in turn."""

from abe.engines.removal.removals import BoundRemoval, Layout, Replace
from abe.engines.runtime.problem import Problem
from abe.errors import Code, SpecError
from abe.registry import baselines, removals
from abe.spec import value
from abe.types import Card


@removals.register(
    Card(
        name="background_rows",
        title="Background rows of a table",
        source="covert2021",
        formula="v(S) = E f(x_S, b), b running through the background rows of the task",
        features=("columns",),
        pitfalls=("Columns of two rows together may look like no row at all.",),
    )
)
@value
class BackgroundRemoval:
    """Absent columns show those of every background row in turn; categories and one-hot groups as a whole."""

    def bind(self, problem: Problem, layout: Layout) -> BoundRemoval:
        task = problem.task.beneath or problem.task
        if not hasattr(task.lifter, "references"):
            raise SpecError(
                Code.UNSUPPORTED,
                "Only tables have background rows of their own",
                got=f"inputs of the modality {task.modality!r}",
                fix="Choose another removal, such as zero, or pass a tensor of background samples",
            )
        count = len(task.lifter.references(task))
        return Replace(baseline=baselines.resolve("background_rows"), samples=count).bind(problem, layout)

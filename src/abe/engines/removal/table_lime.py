"""LIME of tables: a linear fit to the score on rows like those of the background."""

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from abe.checks import Count, NotNegative, Positive
from abe.engines.removal.game import Stream, stacked, too_few
from abe.engines.removal.least_squares import fit
from abe.engines.removal.lime import ROWS, stability
from abe.engines.removal.segments import Spread, segments_of
from abe.engines.runtime.problem import Problem
from abe.errors import Code, SpecError
from abe.registry import units
from abe.spec import resolved, value
from abe.types import Fed, Result
from abe.units import settled

Design = Literal["rows", "bins"]
"""What the fit knows of a column of numbers: its value, or whether it lies in the explained row's quarter."""


class Given:
    """Rows as somebody handed them in, the same only if they are that very object."""

    def __init__(self, raw: Any) -> None:
        self.raw = raw

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Given) and other.raw is self.raw

    def __hash__(self) -> int:
        return id(self.raw)

    def __repr__(self) -> str:
        shape = getattr(self.raw, "shape", None)
        return type(self.raw).__name__ + ("" if shape is None else str(tuple(shape)))


def given(raw: Any) -> Given | None:
    """Rows to keep, or none."""
    return raw if raw is None or isinstance(raw, Given) else Given(raw)


@value
class TableNeighbours:
    """A ridge regression on rows drawn from the background, weighted by how near they are to the own row.

    Of a number the fit sees (value − mean) / sd over all background rows, or 1 in the own quarter of them; of
    a category or a group, 1 where it is that of the own row.

    Formula:
        min_w Σ_r π(r) (s(r) − w₀ − w·z(r))² + λ‖w‖², π(r) = exp(−‖z(r) − z(x)‖²/σ²)

    Args:
        design: what the fit sees of numbers.
        rows: neighbours to take instead of drawn ones, in any form that the task reads.
        width: σ; by default ¾ of the root of the number of columns.
        penalty: λ.
        root: take the root of the kernel, as published code does.
        evaluations: rows per sample, its own among them.
        spread: whether the numbers of a category share its coefficient or each carries all of it.
    """

    design: Design = "rows"
    rows: Given | None = resolved(converter=given, default=None)
    width: Positive | None = None
    penalty: NotNegative = 1.0
    root: bool = False
    evaluations: Count = ROWS
    spread: Spread = "share"

    def run(self, problem: Problem) -> Result:
        """Evaluate the neighbours, and fit every sample's."""
        lifter = _lifter(problem)
        columns, known = lifter.columns, lifter.background
        segments = segments_of(settled(units.resolve("column"), problem), problem.x)
        u, own = segments.most, columns.read(_shown(problem)).rows
        rows = [self._neighbours(problem, sample, row) for sample, row in enumerate(own)]
        n = len(rows[0])
        if n < u + 2:
            raise too_few(u + 2, n, "LIME of tables", units=u)
        flat = torch.from_numpy(np.concatenate(rows)).to(problem.x.device)
        owner = problem.everyone.repeat_interleave(n)

        def make(which: Tensor) -> Fed:
            return lifter.fed(problem.task, flat[which])

        scores = problem.scores(make, owner).double().view(len(own), n).cpu()
        values, errors, extras = list[Tensor](), list[Tensor](), list[dict[str, Tensor]]()
        width = 0.75 * u**0.5 if self.width is None else self.width
        for sample, (row, near, y) in enumerate(zip(own, rows, scores, strict=True)):
            z = self._design(columns, known.whole, near, row)
            far = (z - self._design(columns, known.whole, row[None], row)).square().sum(1)
            weight = torch.exp(-far / width**2 * (0.5 if self.root else 1.0))
            found = fit(z, y, weight, self.penalty)
            stream = Stream(problem, sample, "surrogate.rows.after")
            values.append(found.slope)
            errors.append(found.error)
            extras.append(
                {
                    "adherence": found.adherence.reshape(1),
                    "intercept": found.intercept.reshape(1),
                    **stability(z, y, weight, self.penalty, stream),
                }
            )
        return Result(
            segments.map([v.to(problem.x.device) for v in values], problem.x, self.spread),
            standard_error=segments.map([e.to(problem.x.device) for e in errors], problem.x, self.spread),
            diagnostics={
                "evaluations": torch.full((len(own),), n),
                "unit_values": stacked(values),
                **{name: stacked([one[name] for one in extras]) for name in extras[0]},
            },
        )

    def _neighbours(self, problem: Problem, sample: int, row: np.ndarray) -> np.ndarray:
        """(n, columns) the rows that are fitted to: the sample's own first, unless others were given."""
        lifter = _lifter(problem)
        columns, whole = lifter.columns, lifter.background.whole
        if self.rows is not None:
            return columns.read(self.rows.raw).rows
        stream, n = Stream(problem, sample, "surrogate.rows"), self.evaluations - 1
        # every unit by itself, from a background row of its own; a one-hot code stays one
        which = stream.integers(len(whole), (n, len(columns.units))).numpy()[:, columns.unit_of()]
        drawn = whole[which, np.arange(len(row))]
        if self.design == "rows":
            numbers = _numbers(columns)
            noise = stream.normal((n, len(row)), 1).double().numpy()
            drawn[:, numbers] = (whole.mean(0) + whole.std(0) * noise)[:, numbers]
        return np.concatenate([row[None], drawn])

    def _design(self, columns: Any, whole: np.ndarray, rows: np.ndarray, own: np.ndarray) -> Tensor:
        """(n, u) what the fit sees of rows (n, columns)."""
        plain = set(_numbers(columns))
        same = rows == own
        if self.design == "bins":
            for place in plain:
                edges = np.percentile(whole[:, place], (25, 50, 75))
                same[:, place] = np.searchsorted(edges, rows[:, place]) == np.searchsorted(edges, own[place])
        out = np.empty((len(rows), len(columns.units)))
        for unit, (_, places) in enumerate(columns.units):
            (first, *_) = places
            if self.design == "rows" and first in plain:
                sd = whole[:, first].std()
                out[:, unit] = (rows[:, first] - whole[:, first].mean()) / (sd or 1.0)
            else:
                out[:, unit] = same[:, list(places)].all(1)
        return torch.from_numpy(out)


def _numbers(columns: Any) -> list[int]:
    """Places of columns of numbers that are in no group."""
    alone = {places[0] for _, places in columns.units if len(places) == 1}
    return [place for place in columns.numbers if place in alone]


def _lifter(problem: Problem) -> Any:
    """What knows the background of the task.

    Raises:
        SpecError: this is no table, or one without a background.
    """
    task = problem.task
    lifter: Any = task.lifter
    if task.beneath is not None or not hasattr(lifter, "fed"):
        raise SpecError(
            Code.UNSUPPORTED,
            "Only rows of a table have other rows as neighbours",
            got=f"inputs of the modality {task.modality!r}" + (" at a layer" if task.beneath else ""),
            fix='Leave neighbours="coalitions"',
        )
    lifter.reference(task)  # refuses a task without a background
    return lifter


def _shown(problem: Problem) -> Any:
    """The explained rows as a person sees them."""
    if problem.lifted is None:
        raise SpecError(
            Code.UNSUPPORTED,
            "Neighbours that are rows are drawn around rows that were given, not around changed features",
            fix='Use neighbours="coalitions" where an explanation is asked for changed inputs',
        )
    return problem.lifted.shown

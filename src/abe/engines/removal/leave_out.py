"""Masks that need no memory of coalitions: leave one unit or window out, RISE's soft masks, interventions.

Masks are made for the rows of a chunk and forgotten, so memory does not grow with their number.
"""

import torch
from torch import Tensor

from abe.checks import Count
from abe.engines.removal.game import (
    Behaviour,
    linked,
    probability_of,
    too_few,
)
from abe.engines.removal.removals import Absent, BoundRemoval, Removal
from abe.engines.removal.segments import (
    Lengths,
    Segments,
    Spread,
    Windows,
    segments_of,
    windows_of,
)
from abe.engines.runtime.problem import Problem
from abe.registry import removals, units
from abe.spec import resolved, value
from abe.types import Fed, Result
from abe.units import Unit, settled


@value
class LeaveOut:
    """a = s(x) − E s(x with one unit or window replaced), laid over what was replaced.

    Positions that several windows cover get the mean over these.

    Args:
        units: what is removed together: a unit or its name; None removes windows.
        size: side of a window, in positions, or one for each axis; None is a fourteenth of the input's
            shorter side.
        stride: how far windows are apart; None is half of their size.
        per_channel: every channel has windows of its own.
        removal: what replaces them: a removal or its name.
        behaviour: what is read of the model.
        evaluations: most rows per sample; None allows what is needed.
        spread: whether the positions of a unit share its number or each carries all of it; windows
            overlap, so there each does.
    """

    units: Unit | None = resolved(converter=units.resolve, default=None)
    size: Lengths = None
    stride: Lengths = None
    per_channel: bool = False
    removal: Removal = resolved(converter=removals.resolve, default="replace")
    behaviour: Behaviour = "score"
    evaluations: Count | None = None
    spread: Spread = "share"

    @property
    def slides(self) -> bool:
        """Whether windows move over neighbouring positions."""
        return self.units is None

    def run(self, problem: Problem) -> Result:
        """One row per sample, unit or window, and completion."""
        asked = problem if self.behaviour == "score" else probability_of(problem)
        layout = self._layout(problem)
        bound = self.removal.bind(problem, layout)
        counts = layout.counts if isinstance(layout, Segments) else (len(layout.starts),) * len(problem.x)
        needed = max(counts) * bound.draws
        if self.evaluations is not None and needed > self.evaluations:
            raise too_few(needed, self.evaluations, "leaving one out", units=max(counts), draws=bound.draws)
        values = self._values(asked, layout, bound, counts)
        lost, errors = zip(*[self._lost(asked, i, own) for i, own in enumerate(values)], strict=True)
        if isinstance(layout, Windows):
            variance = layout.average(torch.stack([e.square() for e in errors]), problem.x)
            maps = layout.average(torch.stack(lost), problem.x), variance.sqrt()
        else:
            maps = tuple(layout.map(rows, problem.x, self.spread) for rows in (lost, errors))
        used = torch.tensor([count * bound.draws for count in counts])
        return Result(
            maps[0],
            standard_error=maps[1] if bound.draws > 1 else None,
            diagnostics={"evaluations": used},
        )

    def _layout(self, problem: Problem) -> Segments | Windows:
        if self.units is None:
            return windows_of(problem.x, self.size, self.stride, per_channel=self.per_channel)
        return segments_of(settled(self.units, problem), problem.x)

    def _values(
        self, problem: Problem, layout: Segments | Windows, bound: BoundRemoval, counts: tuple[int, ...]
    ) -> list[Tensor]:
        """(units or windows, k) per sample."""
        k = bound.draws
        sizes = torch.tensor(counts, device=problem.x.device) * k
        owner = problem.everyone.repeat_interleave(sizes)
        first = sizes.cumsum(0) - sizes

        def make(rows: Tensor) -> Tensor | Fed:
            who = owner[rows]
            place = rows - first[who]
            which, draw = place // k, place % k
            if isinstance(layout, Windows):
                return bound.rows(Absent(who, draw, layout.outside(which), window=which))
            coalition = torch.arange(layout.most, device=which.device) != which[:, None]
            keep = ~layout.is_unit(who, which)
            return bound.rows(Absent(who, draw, keep, coalition))

        scores = problem.scores(make, owner).double()
        return [own.view(-1, k) for own in scores.split(sizes.tolist())]

    def _lost(self, problem: Problem, sample: int, values: Tensor) -> tuple[Tensor, Tensor]:
        """(units or windows,) what the behaviour loses, and its standard error."""
        k = values.shape[1]
        own = problem.score[sample].double().expand(1, k)
        rows = linked(values, self.behaviour)
        error = rows.std(1) / k**0.5 if k > 1 else torch.zeros_like(rows[:, 0])
        return linked(own, self.behaviour).mean(1) - rows.mean(1), error

"""Average causal effects by intervention."""

import torch
from torch import Tensor

from abe.checks import Count
from abe.engines.removal.game import too_few
from abe.engines.removal.segments import Spread, segments_of
from abe.engines.runtime.problem import Problem
from abe.engines.runtime.shapes import along
from abe.errors import Code, SpecError
from abe.registry import baselines, units
from abe.spec import resolved, value
from abe.types import Baseline, Result
from abe.units import Unit, settled


@value
class Intervention:
    """Average causal effect: a_i = E[s | do(x_i = own value)] − E[s | do(x_i = reference)].

    All other units come from a background distribution, the same draw on both sides.

    Args:
        units: what is set together: a unit or its name.
        background: a distribution of inputs.
        reference: a baseline for the unit on the other side; None draws it from the background too.
        samples: background draws per unit and side.
        evaluations: most rows per sample; None allows what is needed.
        spread: whether the positions of a unit share its number or each carries all of it.
    """

    units: Unit = resolved(converter=units.resolve, default="grid")
    background: Baseline = resolved(converter=baselines.resolve, default="uniform")
    reference: Baseline | None = resolved(converter=baselines.resolve, default=None)
    samples: Count = 20
    evaluations: Count | None = None
    spread: Spread = "share"

    def __post_init__(self) -> None:
        if self.samples < 2 or not self.background.stochastic:
            raise SpecError(
                Code.BAD_PARAMETER,
                "A causal effect averages over several backgrounds",
                got=f"{self.samples} draws of {self.background!r}",
                expected="a random baseline or a background set of at least two samples, and two draws of it",
            )

    def run(self, problem: Problem) -> Result:
        """Two rows per sample, unit and background draw."""
        x, m = problem.x, self.samples
        segments = segments_of(settled(self.units, problem), x)
        sizes = torch.tensor(segments.counts, device=x.device) * (2 * m)
        if self.evaluations is not None and int(sizes.max()) > self.evaluations:
            raise too_few(
                int(sizes.max()), self.evaluations, "causal effects", units=segments.most, draws=2 * m
            )
        owner = problem.everyone.repeat_interleave(sizes)
        first = sizes.cumsum(0) - sizes
        background = self.background
        other = background if self.reference is None else self.reference

        def make(rows: Tensor) -> Tensor:
            who = owner[rows]
            place = rows - first[who]
            unit, draw, side = place // (2 * m), place // 2 % m, place % 2
            context = problem.reference(background, who, draw).to(x)
            rest = problem.reference(other, who, draw + m).to(x)
            own = torch.where(along(side, x) == 0, x[who], rest)
            return torch.where(segments.is_unit(who, unit), own, context)

        scores = problem.scores(make, owner).double()
        effects = [-own.view(-1, m, 2).diff(dim=2)[..., 0] for own in scores.split(sizes.tolist())]
        error = [each.std(1) / m**0.5 for each in effects]
        return Result(
            segments.map([each.mean(1) for each in effects], x, self.spread),
            standard_error=segments.map(error, x, self.spread),
            diagnostics={"evaluations": sizes.cpu()},
        )

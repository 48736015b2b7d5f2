"""Masks that need no memory of coalitions: leave one unit or window out, RISE's soft masks, interventions.

Masks are made for the rows of a chunk and forgotten, so memory does not grow with their number.
"""

import torch
from torch import Tensor

from abe.engines.absence import Absent, BoundRemoval, Removal
from abe.engines.batching import Chunk
from abe.engines.path import check_count, reference_of
from abe.engines.problem import Problem
from abe.engines.refine import along
from abe.engines.removal import Behaviour, linked, probability_of, too_few
from abe.engines.segments import Segments, Spread, Units, Windows, check_spread, segments_of, windows_of
from abe.engines.summaries import check_probability
from abe.errors import Code, SpecError
from abe.registry import baselines, removals, units
from abe.spec import value
from abe.types import Baseline, Result


@value
class LeaveOut:
    """a = s(x) − E s(x with one unit or window replaced), laid over what was replaced.

    Positions that several windows cover get the mean over these.

    Args:
        units: what is removed together: a unit or its name; None removes windows.
        size: side of a window, in positions; None is a fourteenth of the input's shorter side.
        stride: how far windows are apart; None is half of their size.
        removal: what replaces them: a removal or its name.
        behaviour: what is read of the model.
        evaluations: most rows per sample; None allows what is needed.
        spread: whether the positions of a unit share its number or each carries all of it; windows
            overlap, so there each does.
    """

    units: Units | None = None
    size: int | None = None
    stride: int | None = None
    removal: Removal | str = "replace"
    behaviour: Behaviour = "score"
    evaluations: int | None = None
    spread: Spread = "share"

    def __post_init__(self) -> None:
        if self.units is not None:
            object.__setattr__(self, "units", units.resolve(self.units))
        object.__setattr__(self, "removal", removals.resolve(self.removal))
        for name in ("size", "stride", "evaluations"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        check_spread(self.spread)

    def run(self, problem: Problem) -> Result:
        """One row per sample, unit or window, and completion."""
        asked = problem if self.behaviour == "score" else probability_of(problem)
        layout = self._layout(problem)
        bound = removals.resolve(self.removal).bind(problem, layout)
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
            return windows_of(problem.x, self.size, self.stride)
        return segments_of(units.resolve(self.units), problem.x)

    def _values(
        self, problem: Problem, layout: Segments | Windows, bound: BoundRemoval, counts: tuple[int, ...]
    ) -> list[Tensor]:
        """(units or windows, k) per sample."""
        k = bound.draws
        sizes = torch.tensor(counts, device=problem.x.device) * k
        owner = problem.everyone.repeat_interleave(sizes)
        first = sizes.cumsum(0) - sizes
        scores = torch.empty(int(sizes.sum()), dtype=torch.float64, device=problem.x.device)

        def make(rows: Tensor) -> Tensor:
            who = owner[rows]
            place = rows - first[who]
            which, draw = place // k, place % k
            if isinstance(layout, Windows):
                return bound.rows(Absent(who, draw, layout.outside(which), window=which))
            coalition = torch.arange(layout.most, device=which.device) != which[:, None]
            keep = ~layout.is_unit(who, which)
            return bound.rows(Absent(who, draw, keep, coalition))

        def consume(chunk: Chunk) -> None:
            scores[chunk.rows] = chunk.scores.double()

        problem.forward(len(owner), make, owner, consume)
        return [own.view(-1, k) for own in scores.split(sizes.tolist())]

    def _lost(self, problem: Problem, sample: int, values: Tensor) -> tuple[Tensor, Tensor]:
        """(units or windows,) what the behaviour loses, and its standard error."""
        k = values.shape[1]
        own = problem.score[sample].double().expand(1, k)
        rows = linked(values, self.behaviour)
        error = rows.std(1) / k**0.5 if k > 1 else torch.zeros_like(rows[:, 0])
        return linked(own, self.behaviour).mean(1) - rows.mean(1), error


@value
class RandomMasks:
    """RISE: A = E[s(x ⊙ M + x′ ⊙ (1 − M)) M] / E[M], M coarse random cells enlarged and shifted.

    Args:
        evaluations: masks per sample.
        cells: cells of a mask along every axis.
        p: probability of a cell to stay.
        baseline: what stands behind the mask.
        expected: divide by n·p, what a mask is on average, instead of the sum of those drawn.
    """

    evaluations: int = 4000
    cells: int = 7
    p: float = 0.5
    baseline: Baseline | str = "zero"
    expected: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "baseline", baselines.resolve(self.baseline))
        check_count("evaluations", self.evaluations)
        check_count("cells", self.cells)
        check_probability(self.p)
        if self.evaluations < 2:
            raise too_few(2, self.evaluations, "RISE")

    def run(self, problem: Problem) -> Result:
        """One row per mask; masks are drawn per sample and number."""
        x, n = problem.x, self.evaluations
        if x.ndim not in (3, 4):
            raise SpecError(
                Code.UNSUPPORTED,
                "Masks of cells need positions side by side",
                got=f"inputs of shape {tuple(x.shape[1:])}",
                expected="(c, h, w) or (c, t)",
                fix="For tables take summary='mean_when_included' of the method 'removal'",
            )
        reference = reference_of(baselines.resolve(self.baseline), problem)
        owner = problem.everyone.repeat_interleave(n)
        sums = torch.zeros((3, len(x), *x.shape[2:]), dtype=torch.float64, device=x.device)
        squares = torch.zeros_like(sums[:2])
        last: list[tuple[Tensor, Tensor]] = []
        blocks = _Blocks(problem, self.cells ** (x.ndim - 2) + x.ndim - 2)

        def masks(rows: Tensor) -> Tensor:
            return self._masks(problem, blocks, owner[rows], rows % n)

        def make(rows: Tensor) -> Tensor:
            mask = masks(rows)
            last[:] = [(rows, mask)]
            return torch.lerp(reference[owner[rows]], x[owner[rows]], mask[:, None])

        def consume(chunk: Chunk) -> None:
            known = last and torch.equal(last[0][0], chunk.rows)
            mask = (last[0][1] if known else masks(chunk.rows)).double()
            score = along(chunk.scores.double(), mask)
            moments = torch.stack([mask, mask * score, mask * mask * score])
            for sample in chunk.owner.unique().tolist():
                own = chunk.owner == sample
                sums[:, sample] += moments[:, own].sum(1)
                squares[0, sample] += (mask[own] * mask[own]).sum(0)
                squares[1, sample] += (mask[own] * score[own]).square().sum(0)

        problem.forward(len(owner), make, owner, consume)
        return self._result(x, sums, squares, n)

    def _result(self, x: Tensor, sums: Tensor, squares: Tensor, n: int) -> Result:
        """The mean over masks weighted by them; its error is that of a ratio, or of a mean if expected."""
        mass, weighted, crossed = sums
        if self.expected:
            mean = weighted / (n * self.p)
            spread = (squares[1] / self.p**2 - n * mean.square()).clamp_min(0) / max(n - 1, 1) / n
        else:
            safe = mass.clamp_min(1e-12)
            mean = weighted / safe
            spread = (squares[1] - 2 * mean * crossed + mean.square() * squares[0]).clamp_min(
                0
            ) / safe.square()
        maps = [m.to(x)[:, None].expand_as(x).clone() for m in (mean, spread.sqrt())]
        return Result(maps[0], standard_error=maps[1])

    def _masks(self, problem: Problem, blocks: "_Blocks", owner: Tensor, number: Tensor) -> Tensor:
        """(n, *space) masks in the type of the features."""
        x, axes = problem.x, problem.x.ndim - 2
        side = [-(-n // self.cells) for n in x.shape[2:]]
        drawn = blocks.rows(owner, number)
        grid = drawn[:, axes:].reshape(-1, *(self.cells,) * axes) < self.p
        shifts = (drawn[:, :axes].double() * torch.tensor(side)).long()
        large = grid.to(x)
        for axis, step in enumerate(side):
            weights = _enlarging(self.cells, (self.cells + 1) * step).to(x)
            large = (large.movedim(1 + axis, -1) @ weights).movedim(-1, 1 + axis)
        out = x.new_empty((len(owner), *x.shape[2:]))
        for row, mask, shift in zip(out, large, shifts.tolist(), strict=True):
            where = tuple(slice(s, s + n) for s, n in zip(shift, x.shape[2:], strict=True))
            row.copy_(mask[where])
        return out


def _enlarging(n: int, size: int) -> Tensor:
    """(n, size) linear interpolation between the centres of n cells, mirrored beyond the outermost."""
    at = (torch.arange(size, dtype=torch.float64) + 0.5) * n / size - 0.5
    left = at.floor()
    weights = torch.zeros((n, size), dtype=torch.float64)
    for cell, share in ((left, 1 - (at - left)), (left + 1, at - left)):
        inside = cell.abs().minimum(2 * (n - 1) - cell).clamp_min(0).long()
        weights.index_put_((inside, torch.arange(size)), share, accumulate=True)
    return weights


class _Blocks:
    """Uniform numbers of masks, drawn for a block of masks of one sample at a time."""

    SIZE = 64

    def __init__(self, problem: Problem, numbers: int) -> None:
        self._problem, self._numbers = problem, numbers
        self._known: dict[tuple[int, int], Tensor] = {}

    def rows(self, owner: Tensor, number: Tensor) -> Tensor:
        """(n, numbers) of the masks with these numbers of these samples."""
        pairs = list(zip(owner.tolist(), (number // self.SIZE).tolist(), strict=True))
        self._known = {pair: self._block(*pair) for pair in dict.fromkeys(pairs)}
        places = (number % self.SIZE).tolist()
        return torch.stack([self._known[pair][place] for pair, place in zip(pairs, places, strict=True)])

    def _block(self, sample: int, block: int) -> Tensor:
        found = self._known.get((sample, block))
        if found is not None:
            return found
        key = (self._problem.ids[sample], block)
        return self._problem.draws.uniform("rise.masks", [key], (self.SIZE, self._numbers))[0]


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

    units: Units = "grid"
    background: Baseline | str = "uniform"
    reference: Baseline | str | None = None
    samples: int = 20
    evaluations: int | None = None
    spread: Spread = "share"

    def __post_init__(self) -> None:
        object.__setattr__(self, "units", units.resolve(self.units))
        object.__setattr__(self, "background", baselines.resolve(self.background))
        if self.reference is not None:
            object.__setattr__(self, "reference", baselines.resolve(self.reference))
        check_count("samples", self.samples)
        check_spread(self.spread)
        if self.evaluations is not None:
            check_count("evaluations", self.evaluations)
        if self.samples < 2 or not baselines.resolve(self.background).stochastic:
            raise SpecError(
                Code.BAD_PARAMETER,
                "A causal effect averages over several backgrounds",
                got=f"{self.samples} draws of {self.background!r}",
                expected="a random baseline or a background set of at least two samples, and two draws of it",
            )

    def run(self, problem: Problem) -> Result:
        """Two rows per sample, unit and background draw."""
        x, m = problem.x, self.samples
        segments = segments_of(units.resolve(self.units), x)
        sizes = torch.tensor(segments.counts, device=x.device) * (2 * m)
        if self.evaluations is not None and int(sizes.max()) > self.evaluations:
            raise too_few(
                int(sizes.max()), self.evaluations, "causal effects", units=segments.most, draws=2 * m
            )
        owner = problem.everyone.repeat_interleave(sizes)
        first = sizes.cumsum(0) - sizes
        background = baselines.resolve(self.background)
        other = background if self.reference is None else baselines.resolve(self.reference)
        scores = torch.empty(len(owner), dtype=torch.float64, device=x.device)

        def make(rows: Tensor) -> Tensor:
            who = owner[rows]
            place = rows - first[who]
            unit, draw, side = place // (2 * m), place // 2 % m, place % 2
            context = background.rows(problem, who, draw).to(x)
            rest = other.rows(problem, who, draw + m).to(x)
            own = torch.where(along(side, x) == 0, x[who], rest)
            return torch.where(segments.is_unit(who, unit), own, context)

        def consume(chunk: Chunk) -> None:
            scores[chunk.rows] = chunk.scores.double()

        problem.forward(len(owner), make, owner, consume)
        effects = [-own.view(-1, m, 2).diff(dim=2)[..., 0] for own in scores.split(sizes.tolist())]
        error = [each.std(1) / m**0.5 for each in effects]
        return Result(
            segments.map([each.mean(1) for each in effects], x, self.spread),
            standard_error=segments.map(error, x, self.spread),
            diagnostics={"evaluations": sizes.cpu()},
        )

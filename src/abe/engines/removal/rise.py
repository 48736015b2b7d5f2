"""Random masks of RISE."""

from typing import Annotated, Literal

import torch
from torch import Tensor

from abe.checks import Count, Probability, need_places
from abe.engines.removal.game import too_few
from abe.engines.runtime.problem import Problem
from abe.engines.runtime.reference import reference_of
from abe.engines.runtime.shapes import along
from abe.errors import Code, InputError, SpecError
from abe.registry import baselines
from abe.spec import resolved, value
from abe.types import Baseline, Result

Divisor = Annotated[Literal["position", "coverage", "expected", "count"], "divisor of the sums over masks"]


@value
class RandomMasks:
    """RISE: A = E[s(x ⊙ M + x′ ⊙ (1 − M)) M] / E[M], M coarse random cells enlarged and shifted.

    Args:
        evaluations: masks per sample.
        cells: cells of a mask along every axis; None takes 7, or two for each position where there are fewer.
        p: probability of a cell to stay.
        baseline: what stands behind the mask.
        divide: by what the sums over masks are divided: the sum of the masks at each ``"position"``; their
            mean over all positions times n, ``"coverage"``; n·p, ``"expected"``; or n, their ``"count"``.
        masks: (evaluations, *space) masks from 0 to 1 that are used instead, the same for every sample.
    """

    evaluations: Count = 4000
    cells: Count | None = None
    p: Probability = 0.5
    baseline: Baseline = resolved(converter=baselines.resolve, default="zero")
    divide: Divisor = "position"
    masks: Tensor | None = None

    def __post_init__(self) -> None:
        if self.evaluations < 2:
            raise too_few(2, self.evaluations, "RISE")
        if self.masks is not None:
            _check_masks(self.masks, self.evaluations)

    def run(self, problem: Problem) -> Result:
        """One row per mask; masks are drawn per sample and number."""
        x, n = problem.x, self.evaluations
        need_places(
            "Masks of cells need positions side by side",
            x,
            fix="For tables take summary='mean_when_included' of the method 'removal'",
        )
        if self.masks is not None and tuple(self.masks.shape[1:]) != tuple(x.shape[2:]):
            raise InputError(
                Code.MASK,
                "The masks have other positions than the input",
                got=f"shape {tuple(self.masks.shape)}",
                expected=f"({n}, {', '.join(map(str, x.shape[2:]))})",
            )
        if self.masks is None and self._cells(x) > 2 * max(x.shape[2:]):
            raise SpecError(
                Code.BAD_PARAMETER,
                "cells of a mask are at least half a position wide",
                got=f"cells = {self._cells(x)} for {max(x.shape[2:])} positions along the longest axis",
                expected=f"at most {2 * max(x.shape[2:])}",
            )
        reference = reference_of(self.baseline, problem)
        owner = problem.everyone.repeat_interleave(n)
        sums = torch.zeros((3, len(x), *x.shape[2:]), dtype=torch.float64, device=x.device)
        squares = torch.zeros_like(sums[:2])
        last: list[tuple[Tensor, Tensor]] = []
        blocks = _Blocks(problem, self._cells(x) ** (x.ndim - 2) + x.ndim - 2)
        given = None if self.masks is None else self.masks.to(x)

        def masks(rows: Tensor) -> Tensor:
            if given is not None:
                return given[rows % n]
            return self._masks(problem, blocks, owner[rows], rows % n)

        def make(rows: Tensor) -> Tensor:
            mask = masks(rows)
            last[:] = [(rows, mask)]
            return torch.lerp(reference[owner[rows]], x[owner[rows]], mask[:, None])

        for chunk in problem.forward(make, owner):
            known = last and torch.equal(last[0][0], chunk.rows)
            mask = (last[0][1] if known else masks(chunk.rows)).double()
            score = along(chunk.scores.double(), mask)
            moments = torch.stack([mask, mask * score, mask * mask * score])
            for sample in chunk.owner.unique().tolist():
                own = chunk.owner == sample
                sums[:, sample] += moments[:, own].sum(1)
                squares[0, sample] += (mask[own] * mask[own]).sum(0)
                squares[1, sample] += (mask[own] * score[own]).square().sum(0)
        return self._result(x, sums, squares, n)

    def _cells(self, x: Tensor) -> int:
        """Cells of a mask of ``x`` along every axis."""
        return min(7, 2 * max(x.shape[2:])) if self.cells is None else self.cells

    def _result(self, x: Tensor, sums: Tensor, squares: Tensor, n: int) -> Result:
        """The mean over masks weighted by them; its error is that of a ratio, or else of a mean."""
        mass, weighted, crossed = sums
        if self.divide != "position":
            covered = mass.flatten(1).mean(1).view(-1, *[1] * (mass.ndim - 1)) / n
            size = {"expected": torch.full_like(covered, self.p), "coverage": covered}
            each = size.get(self.divide, torch.ones_like(covered)).clamp_min(1e-12)
            mean = weighted / (n * each)
            spread = (squares[1] / each.square() - n * mean.square()).clamp_min(0) / max(n - 1, 1) / n
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
        cells = self._cells(x)
        side = [-(-n // cells) for n in x.shape[2:]]
        drawn = blocks.rows(owner, number)
        grid = drawn[:, axes:].reshape(-1, *(cells,) * axes) < self.p
        shifts = (drawn[:, :axes].double() * torch.tensor(side)).long()
        large = grid.to(x)
        for axis, step in enumerate(side):
            weights = _enlarging(cells, (cells + 1) * step).to(x)
            large = (large.movedim(1 + axis, -1) @ weights).movedim(-1, 1 + axis)
        out = x.new_empty((len(owner), *x.shape[2:]))
        for row, mask, shift in zip(out, large, shifts.tolist(), strict=True):
            where = tuple(slice(s, s + n) for s, n in zip(shift, x.shape[2:], strict=True))
            row.copy_(mask[where])
        return out


def _check_masks(masks: Tensor, n: int) -> None:
    low, high = (float(edge) for edge in torch.aminmax(masks)) if masks.numel() else (0.0, 0.0)
    if not masks.is_floating_point() or masks.ndim < 2 or not 0 <= low <= high <= 1:
        raise InputError(
            Code.MASK,
            "masks= are floating-point numbers from 0 to 1",
            got=f"{masks.dtype} of shape {tuple(masks.shape)}, from {low:.4g} to {high:.4g}",
            expected="(evaluations, *space)",
        )
    if len(masks) != n:
        raise SpecError(
            Code.BAD_PARAMETER,
            "Every given mask is one evaluation",
            got=f"{len(masks)} masks for evaluations = {n}",
            fix=f"Pass evaluations={len(masks)}",
        )


def _enlarging(n: int, size: int) -> Tensor:
    """(n, size) linear interpolation between the centres of n cells, mirrored beyond the outermost."""
    at = (torch.arange(size, dtype=torch.float64) + 0.5) * n / size - 0.5
    left = at.floor()
    weights = torch.zeros((n, size), dtype=torch.float64)
    for cell, share in ((left, 1 - (at - left)), (left + 1, at - left)):
        inside = cell.abs().minimum(2 * (n - 1) - cell).clamp(0, n - 1).long()
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

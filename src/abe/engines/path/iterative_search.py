"""Iterative search (ISA): rounds of short ascents and descents that remove the least important elements.

The values rank elements: round r, in which an element was removed, plus its place within the round.
"""

import math

import torch
from torch import Tensor

from abe.checks import Count, NotNegative, Size, check_reach
from abe.engines.path.geometry import clipped, lengths, unit
from abe.engines.runtime.problem import Problem
from abe.engines.runtime.shapes import along
from abe.sizes import OfRange, in_units, lowest, span
from abe.spec import value
from abe.types import Result

BLOCK_BYTES = 64 * 2**20
"""Memory that one tensor of samples searched together may take."""
SMALL = 1e-6


@value
class IterativeSearch:
    """Rank elements by how much of the way their gradients go per change of the loss, in rounds.

    From x ⊙ mask, ``steps`` signed steps up the loss and as many down, on noisy points. With T = Σ α|g|
    and w the change of the loss, total = T_up / w_up + T_down / w_down; the elements with the smallest
    |(total − min total) ⊙ x| are removed. x counts in shares of the range, from the lowest valid input.

    Args:
        steps: steps up, and steps down, in every round.
        alpha: step.
        rounds: how many rounds; 30 remove about 5,000 of the 150,528 elements of a photograph at a time.
        noise: standard deviation of the noise on the points.
        regularisation: weight of the L2 norm of the point in the loss.
        factor: width of a round's range of values.
        published: signed w, plus the minimum, no bounds, removed elements drift upwards, and the
            remainder stays 0.
    """

    steps: Count = 8
    alpha: Size = OfRange(0.004)
    rounds: Count = 30
    noise: NotNegative = OfRange(0.05)
    regularisation: NotNegative = 0.01
    factor: Size = 1.0
    published: bool = False

    def run(self, problem: Problem) -> Result:
        """Rank the elements of every sample."""
        x = problem.x
        check_reach(problem.limits, x.shape[1:], alpha=self.alpha)
        size = max(1, BLOCK_BYTES // (2 * x[0].numel() * x.element_size()))
        out = torch.cat([self._block(problem, block) for block in problem.everyone.split(size)])
        return Result(out, diagnostics={"rounds": torch.full_like(problem.target.flatten(), self._rounds(x))})

    def _count(self, x: Tensor) -> int:
        """Elements removed per round."""
        elements = x[0].numel()
        return max(1, elements // self.rounds if self.published else math.ceil(elements / self.rounds))

    def _rounds(self, x: Tensor) -> int:
        every = x[0].numel() / self._count(x)
        return min(self.rounds, math.floor(every) if self.published else math.ceil(every))

    def _block(self, problem: Problem, block: Tensor) -> Tensor:
        x = problem.x[block]
        mask, rank = torch.ones_like(x), torch.zeros_like(x)
        for number in range(self._rounds(x)):
            score = self._score(problem, block, x, mask, number).flatten(1)
            score = score.masked_fill(mask.flatten(1) == 0, torch.inf)
            left = int((mask[0] != 0).sum())
            chosen = score.argsort(dim=1, stable=True)[:, : min(self._count(x), left)]
            rank.flatten(1).scatter_(1, chosen, number + self.factor * _spread(score.gather(1, chosen)))
            mask.flatten(1).scatter_(1, chosen, 0.0)
        return rank

    def _score(self, problem: Problem, block: Tensor, x: Tensor, mask: Tensor, number: int) -> Tensor:
        """(b, *f) what the removal of each element would matter."""
        black, bounds = lowest(problem.limits), problem.limits
        total = self._search(problem, block, black + (x - black) * mask, mask, number)
        least = along(total.flatten(1).amin(1), total)
        return ((total + (least if self.published else -least)) * (x - black) / span(bounds)).abs()

    def _search(self, problem: Problem, block: Tensor, start: Tensor, mask: Tensor, number: int) -> Tensor:
        """T_up / w_up + T_down / w_down; rows 0 … b − 1 go up the loss, b … 2b − 1 down."""
        b = len(block)
        owner = block.repeat(2)
        sign = torch.ones(2 * b, dtype=start.dtype, device=start.device)
        sign[b:] = -1
        bounds = None if self.published else problem.limits
        point, way = clipped(torch.cat([start, start]), bounds), 0.0
        frozen = torch.cat([mask, mask])
        if self.published:
            frozen[:b] = 1
        first = last = sign
        pace = in_units(self.alpha, problem.limits)
        for step in range(self.steps):
            loss, gradient = self._loss(problem, owner, point, sign, number, step)
            gradient = gradient * frozen
            first, last = (loss if step == 0 else first), loss
            point = clipped(point + pace * along(sign, point) * gradient.sign(), bounds)
            way = way + pace * gradient.abs()
        change = sign * (last - first)
        if not self.published:
            change = change.abs().clamp_min(SMALL)
        parts = way / along(change, start)
        return parts[:b] + parts[b:]

    def _loss(
        self, problem: Problem, owner: Tensor, point: Tensor, sign: Tensor, number: int, step: int
    ) -> tuple[Tensor, Tensor]:
        """(n,) −s at the noisy points ∓ λ‖point‖₂, and its (n, *f) gradient."""
        b = len(owner) // 2
        draw = torch.full_like(owner, 2 * self.steps * number + step)
        draw[b:] += self.steps
        score, gradient = point.new_zeros(len(point)), torch.zeros_like(point)

        spread, wide = in_units(self.noise, problem.limits), span(problem.limits)
        place = (point - lowest(problem.limits)) / wide

        def make(rows: Tensor) -> Tensor:
            keys = problem.keys(owner[rows], draw[rows])
            noise = problem.draws.normal("isa.noise", keys, point.shape[1:]).to(point)
            return point[rows] + spread * noise

        for chunk in problem.gradient(make, owner):
            score[chunk.rows] = chunk.scores.to(score.dtype)
            gradient[chunk.rows] = chunk.gradients
        weight = sign * self.regularisation
        return -score - weight * lengths(place), -gradient - along(weight, point) * unit(place) / wide


def _spread(score: Tensor) -> Tensor:
    """(b, k) each row's values spread over [0, 1)."""
    rest = score - score.amin(1, keepdim=True)
    return rest / (rest.amax(1, keepdim=True) + SMALL)

"""Carlini & Wagner: the smallest L2 change that crosses, by Adam in a space without bounds.

min ‖x′ − x‖² + c · max(margin, −κ),   x′ = low + (high − low) (tanh w + 1) / 2

The distance counts in the range of valid inputs, so that c weighs the same in every unit of the pixels.
"""

from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from abe.checks import (
    Count,
    NotNegative,
    Size,
    Variant,
)
from abe.engines.path.active import Active
from abe.engines.path.geometry import lengths
from abe.engines.path.step import Point, State
from abe.engines.path.steps.aim import Aim, Goal, LossName
from abe.engines.runtime.problem import Problem
from abe.engines.runtime.shapes import along
from abe.engines.runtime.work import score as score_of
from abe.errors import Code, SpecError
from abe.registry import updates
from abe.robustness.attack import Searched, succeeded
from abe.sizes import span
from abe.spec import value
from abe.types import Card

BETAS, ADAM_EPS = (0.9, 0.999), 1e-8
EDGE = 1 - 1e-6
"""Inputs at the bounds have no finite w; they begin this far out."""
GROWTH = 10.0
"""Factor on the constant as long as nothing has crossed."""


@updates.register(
    Card(
        name="cw",
        title="Carlini & Wagner (L2)",
        source="carlini2017",
        formula="min ‖x′ − x‖² + c max(f_y − max_j f_j, −κ),  x′ = ½ (tanh w + 1)",
        family="white-box attack",
        needs=("bounds",),
        differs=(
            "The largest other logit is taken over the other classes; widespread code masks the true class "
            "with 0, which counts where all others are negative, and does not search for the constant "
            "(variant='published').",
        ),
        pitfalls=(
            "As the update of a path it takes Adam steps for a fixed constant, also behind the boundary; "
            "search and hinge are the attack's.",
        ),
    ),
    aliases=("carlini_wagner", "c&w"),
)
@value
class CarliniWagner:
    """The smallest L2 change that crosses, by Adam and a binary search over the constant.

    Every row has its own constant, optimiser and end; early stopping of the attack does not apply, since
    the first crossing is not the nearest.

    Args:
        c: the first constant, the weight of the margin beside the squared distance in shares of the range.
        kappa: margin by which the other class must win.
        steps: of Adam for each constant.
        searches: how many constants are tried.
        rate: learning rate of Adam.
        variant: ``"published"`` floors the margin at the masked class and tries ``c`` alone.
    """

    c: Size = 1.0
    kappa: NotNegative = 0.0
    steps: Count = 50
    searches: Count = 6
    rate: Size = 0.01
    variant: Variant = "corrected"

    @property
    def stochastic(self) -> bool:
        """Nothing is drawn."""
        return False

    @property
    def loss(self) -> LossName:
        """The margin that is to become negative."""
        return "margin" if self.variant == "corrected" else "floored_margin"

    def reads_gradient(self, step: int) -> bool:
        """The gradient at the point, from which the step is made."""
        return True

    def step(self, point: Point, state: State) -> tuple[Tensor, State]:
        """One Adam step for the constant ``c``, as the update of a path."""
        aim = Aim.of(point, self.loss, False, None)
        box = _Box.of(point.problem, point.start)
        adam = _Adam(
            state.get("w", box.inside(point.x)),
            state.get("first", torch.zeros_like(point.x)),
            state.get("second", torch.zeros_like(point.x)),
            state.get("count", point.x.new_zeros(len(point.x))),
        )
        constant = torch.full_like(adam.count, self.c)
        # A path goes on behind the boundary: there the hinge would leave nothing but rounding to Adam.
        slope = self._slope(box, adam.w, torch.full_like(constant, torch.inf), -aim.ascent(), constant)
        moved = adam.moved(slope, self.rate)
        after = {"w": moved.w, "first": moved.first, "second": moved.second, "count": moved.count}
        return box.outside(moved.w), after

    def search(self, problem: Problem, early_stop: bool) -> Searched:
        """The nearest crossing over all constants; for a row without one, where the margin was smallest."""
        best = _Best.of(problem)
        low = torch.zeros_like(best.size)
        high = torch.full_like(best.size, torch.inf)
        c = torch.full_like(best.size, self.c)
        for _ in range(1 if self.variant == "published" else self.searches):
            won = self._descend(problem, c, best)
            high = torch.where(won, c, high)
            low = torch.where(won, low, c)
            c = torch.where(high.isinf(), c * GROWTH, (low + high) / 2)
        return Searched(best.x, best.outputs, best.queries)

    def _descend(self, problem: Problem, c: Tensor, best: "_Best") -> Tensor:
        """(n,) which rows crossed during one run of Adam with the constants ``c`` (n,)."""
        won = torch.zeros_like(problem.everyone, dtype=torch.bool)
        box = _Box.of(problem, problem.x)
        active = Active(problem.everyone, (_Adam.at(box.inside(problem.x)), torch.full_like(c, torch.inf)))
        for step in active.steps(self.steps):
            rows, (adam, last) = active.rows, active.carried
            here = box.of_rows(problem, rows)
            x = here.outside(adam.w)
            score, slope, outputs = _read(problem, rows, x)
            won[rows] |= best.offer(problem, rows, x, outputs, score, self.kappa)
            cost = here.change(x).square().flatten(1).sum(1) + c[rows] * score.clamp_min(-self.kappa)
            slope = self._slope(here, adam.w, score, slope, c[rows])
            compares = step % max(self.steps // 10, 1) == 0
            active.carried = adam.moved(slope, self.rate), cost if compares else last
            if compares:
                active.keep(cost <= last)
        return won

    def _slope(self, box: "_Box", w: Tensor, score: Tensor, slope: Tensor, c: Tensor) -> Tensor:
        """Gradient of the cost by w."""
        x = box.outside(w)
        pulled = along(torch.where(score > -self.kappa, c, torch.zeros_like(c)).to(x), x) * slope
        return (2 * box.change(x) / box.width + pulled) * box.half * (1 - w.tanh().square())


@dataclass(frozen=True)
class _Box:
    """The change of variables that keeps points inside the bounds."""

    start: Tensor
    low: Tensor
    half: Tensor
    width: float | Tensor
    fixed: Tensor | None = None

    @classmethod
    def of(cls, problem: Problem, start: Tensor) -> "_Box":
        if problem.bounds is None:
            raise SpecError(
                Code.UNSUPPORTED,
                "Carlini & Wagner works inside bounds",
                got="a task without bounds",
                fix="Pass bounds= to the task",
            )
        low, high = problem.bounds
        return cls(start, low, (high - low) / 2, span(problem.bounds))

    def of_rows(self, problem: Problem, rows: Tensor) -> "_Box":
        """That of some samples, where these are fixed too."""
        fixed = None if problem.fixed is None else problem.fixed[rows]
        return replace(self, start=problem.x[rows], fixed=fixed)

    def inside(self, x: Tensor) -> Tensor:
        """w of points."""
        return torch.atanh(((x - self.low) / self.half - 1).clamp(-EDGE, EDGE))

    def change(self, x: Tensor) -> Tensor:
        """What was changed, in shares of the range."""
        return (x - self.start) / self.width

    def outside(self, w: Tensor) -> Tensor:
        """Points of w."""
        x = self.low + self.half * (w.tanh() + 1)
        return x if self.fixed is None else torch.where(self.fixed, self.start, x)


@dataclass(frozen=True)
class _Adam:
    """Adam per row: each counts its own steps."""

    w: Tensor
    first: Tensor
    second: Tensor
    count: Tensor

    @classmethod
    def at(cls, w: Tensor) -> "_Adam":
        return cls(w, torch.zeros_like(w), torch.zeros_like(w), w.new_zeros(len(w)))

    def moved(self, slope: Tensor, rate: float) -> "_Adam":
        one, two = BETAS
        first = one * self.first + (1 - one) * slope
        second = two * self.second + (1 - two) * slope.square()
        count = self.count + 1
        length = along(rate / (1 - one**count), slope)
        root = second.sqrt() / along((1 - two**count).sqrt(), slope) + ADAM_EPS
        return _Adam(self.w - length * first / root, first, second, count)


@dataclass
class _Best:
    """The nearest crossing of every row, or else the smallest margin."""

    x: Tensor
    outputs: Tensor
    size: Tensor
    margin: Tensor
    queries: Tensor

    @classmethod
    def of(cls, problem: Problem) -> "_Best":
        x, outputs = problem.x.clone(), problem.known_outputs.detach().clone()
        goal = cast("Goal", problem.objective)
        margin = score_of(problem.task, outputs, goal, problem.target).to(x)
        size = torch.full_like(margin, torch.inf)
        reached = succeeded(problem.task, outputs, goal, problem.target)
        size[reached] = 0.0
        return cls(x, outputs, size, margin, torch.ones(len(x), dtype=torch.long, device=x.device))

    def offer(
        self, problem: Problem, rows: Tensor, x: Tensor, outputs: Tensor, score: Tensor, kappa: float
    ) -> Tensor:
        """Take what is better than known; (m,) which rows have crossed by the margin asked for."""
        self.queries[rows] += 1
        goal = cast("Goal", problem.objective)
        won = succeeded(problem.task, outputs, goal, problem.target[rows])
        if kappa > 0 and goal.loss == "margin":
            won &= score <= -kappa
        size = lengths((x - problem.x[rows]) / span(problem.bounds))
        nearer = won & (size < self.size[rows])
        closer = self.size[rows].isinf() & ~won & (score < self.margin[rows])
        better = nearer | closer
        at = rows[better]
        self.x[at], self.outputs[at], self.margin[at] = x[better], outputs[better], score[better]
        self.size[rows[nearer]] = size[nearer]
        return won


def _read(problem: Problem, rows: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Score, its gradient and the outputs at points ``x`` of the given rows: one gradient row each."""
    score, slope = x.new_zeros(len(x)), torch.zeros_like(x)
    outputs: list[Tensor] = []

    for chunk in problem.gradient(x, rows):
        score[chunk.rows] = chunk.scores.to(score)
        slope[chunk.rows] = chunk.gradients
        outputs.append(chunk.outputs)
    return score, slope, torch.cat(outputs)

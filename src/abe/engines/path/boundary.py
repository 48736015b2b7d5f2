"""Points on the decision boundary: L2 attacks of growing radius, bisection, and attributions from there."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from abe.checks import Count, CountFrom0, Size, Tolerance, check_reach
from abe.engines.path.active import Active
from abe.engines.path.class_targets import class_count
from abe.engines.path.curves import StraightLine
from abe.engines.path.dynamic import who
from abe.engines.path.geometry import clipped, in_ball, lengths, shortened, step_along, unit
from abe.engines.path.quadrature import GaussLegendre
from abe.engines.path.static import PathIntegral
from abe.engines.runtime.problem import Problem
from abe.engines.runtime.reference import check_reference
from abe.engines.runtime.shapes import along
from abe.errors import Code, SpecError, note
from abe.objectives import LogProbability, Margin
from abe.sizes import OfRange, in_units, span
from abe.spec import value
from abe.types import Objective, Quadrature, Result

RADII = tuple(OfRange(r) for r in (36 / 255, 64 / 255, 0.3, 0.5, 0.7, 0.9, 1.1))
"""L2 radii of the published search."""
FINEST = 1e-4
"""Width at which the bisection of a boundary stops, as a share of the segment it began with."""
MOST_HALVINGS = 60


def labels(problem: Problem, x: Tensor, owner: Tensor) -> Tensor:
    """(n,) predicted classes of rows ``x`` (n, *f) of samples ``owner``: forward rows only."""
    out = torch.zeros_like(owner)

    for chunk in problem.forward(x, owner):
        out[chunk.rows] = problem.task.predicted(chunk.outputs)
    return out


def bisect(
    problem: Problem, inside: Tensor, outside: Tensor, owner: Tensor, label: Tensor, gap: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Halve segments from ``inside`` (predicted ``label``) to ``outside`` (not) until they are short.

    Args:
        problem: whose model decides.
        inside: (n, *f) ends with the label.
        outside: (n, *f) ends with another.
        owner: (n,) samples of the rows.
        label: (n,) classes of the inner ends.
        gap: (n,) or one size, the largest difference of any entry to end with; 0 goes on until the
            floats have no value in between.

    Returns:
        The ends of the last segments, one on either side of the boundary.
    """
    inner, outer = inside.clone(), outside.clone()
    unit_of_gap = span(problem.limits) if isinstance(gap, OfRange) else 1.0
    allowed = torch.as_tensor(gap, dtype=inner.dtype, device=inner.device).expand(len(inner))
    for _ in range(MOST_HALVINGS):
        middle = inner + (outer - inner) * 0.5
        wide = ((outer - inner).abs() / unit_of_gap).flatten(1).amax(1) > allowed
        new = ((middle != inner) & (middle != outer)).flatten(1).any(1)
        todo = (wide & new).nonzero().flatten()
        if len(todo) == 0:
            break
        same = labels(problem, middle[todo], owner[todo]) == label[todo]
        inner[todo[same]] = middle[todo[same]]
        outer[todo[~same]] = middle[todo[~same]]
    return inner, outer


@dataclass(frozen=True)
class NearestPoint:
    """Where the search for the boundary ended.

    Attributes:
        point: (b, *f) the adversarial points.
        success: (b,) whether the predicted class differs there.
        steps: (b,) gradient rows spent.
    """

    point: Tensor
    success: Tensor
    steps: Tensor


@value
class NearestAdversary:
    """L2-PGD with growing radius until the predicted class changes; further radii only for who is left.

    x ← project(x + step · g/‖g‖₂), g the gradient of the cross-entropy of the predicted class, from a
    random point of the ball; a sample leaves as soon as its class has changed.

    Args:
        radii: L2 radii, ascending.
        steps: steps per radius.
        published_step: step 2ε²/steps, as a published call scales it twice, instead of 2ε/steps.
        margin: a further search that descends the margin f_y − max f_j without a ball, from the first
            point found, for a nearer one (after Carlini & Wagner); steps, or 0 for none.
    """

    radii: tuple[Size, ...] = RADII
    steps: Count = 40
    published_step: bool = False
    margin: CountFrom0 = 0

    def __post_init__(self) -> None:
        if not self.radii or list(self.radii) != sorted(self.radii):
            raise SpecError(Code.BAD_PARAMETER, "radii must be ascending", got=repr(self.radii))

    def find(self, problem: Problem) -> NearestPoint:
        """The first adversarial point of every sample, or the last point of the largest radius."""
        check_reach(problem.limits, problem.x.shape[1:], "l2", radius=self.radii[0])
        label = labels(problem, problem.x, problem.everyone)
        point = problem.x.clone()
        success = torch.zeros_like(label, dtype=torch.bool)
        spent = torch.zeros_like(label)
        for number, radius in enumerate(self.radii):
            left = (~success).nonzero().flatten()
            if len(left) == 0:
                break
            point[left], success[left] = self._attack(problem, left, label, radius, number, spent)
        if self.margin:
            point = self._nearer(problem, label, NearestPoint(point, success, spent))
        return NearestPoint(point, success, spent)

    def _attack(
        self, problem: Problem, left: Tensor, label: Tensor, radius: float, number: int, spent: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One radius for the samples ``left``: their points and whether the class changed."""
        start = problem.x[left]
        x = clipped(start + self._random(problem, left, radius, number), problem.limits)
        success = torch.zeros_like(left, dtype=torch.bool)
        size = 2 * radius * (float(radius) if self.published_step else 1.0) / self.steps
        reach = in_units(radius, problem.limits)
        active = Active(torch.arange(len(left), device=left.device), ())
        for step in active.steps(self.steps + 1):
            rows, owner, last = active.rows, left[active.rows], step == self.steps
            g, now = _gradient(problem, x[rows], owner, LogProbability(), label[owner], last=last)
            spent[owner] += int(not last)
            success[rows] = crossed = now != label[owner]
            if last:
                break
            active.keep(~crossed)
            go = active.rows
            moved = x[go] - step_along(g[~crossed], size, problem.limits)
            x[go] = clipped(start[go] + shortened(moved - start[go], reach), problem.limits)
        return x, success

    def _random(self, problem: Problem, left: Tensor, radius: float, number: int) -> Tensor:
        """Uniform in the ball."""
        keys = problem.keys(left, torch.full_like(left, number))
        normal = problem.draws.normal("boundary.start", keys, problem.x.shape[1:]).to(problem.x)
        share = problem.draws.uniform("boundary.radius", keys, ()).to(problem.x)
        return in_ball(normal, share, in_units(radius, problem.limits))

    def _nearer(self, problem: Problem, label: Tensor, found: NearestPoint) -> Tensor:
        """Walk along the boundary: back towards the input, then out again along the margin's gradient."""
        best = found.point.clone()
        ready = found.success.nonzero().flatten()
        if len(ready) == 0:
            return best
        x, start = best[ready].clone(), problem.x[ready]
        goal = label[ready]
        for _ in range(self.margin):
            g, now = _gradient(problem, x, ready, Margin(), goal)
            distance = lengths(x - start)
            nearer = (now != goal) & (distance < lengths(best[ready] - start))
            best[ready[nearer]] = x[nearer]
            found.steps[ready] += 1
            back = torch.where(now != goal, 0.9, 1.0).to(x)
            out = torch.where(now != goal, 0.0, 0.05).to(x) * distance
            x = clipped(start + (x - start) * along(back, x) - unit(g) * along(out, x), problem.limits)
        return best


@value
class FromBoundary:
    """IG from the nearest point of the decision boundary.

    Args:
        search: how the adversarial point is found.
        quadrature: nodes and weights along the straight line.
        steps: nodes per sample.
        bisection: walk back along the line until the boundary is between two near points.
        tolerance: largest |residual| relative to the score change; places nodes adaptively.
        max_steps: most nodes per sample that ``tolerance`` may use.
        boundary: points found elsewhere, in place of the search.
    """

    search: NearestAdversary = NearestAdversary()
    quadrature: Quadrature = GaussLegendre()
    steps: Count = 32
    bisection: bool = True
    tolerance: Tolerance | None = None
    max_steps: Count = 1024
    boundary: Any = None
    has_ends: ClassVar[bool] = True

    def run(self, problem: Problem) -> Result:
        """Find every sample's boundary point, then integrate from it."""
        found = self._find(problem)
        line = StraightLine(baseline=_Fixed(found.point))
        integral = PathIntegral(
            path=line,
            quadrature=self.quadrature,
            steps=self.steps,
            tolerance=self.tolerance,
            max_steps=self.max_steps,
        )
        result = integral.run(problem)
        distance = lengths(found.point - problem.x)
        result.diagnostics |= {"success": found.success, "distance": distance, "search_steps": found.steps}
        failed = (~found.success).nonzero().flatten()
        if len(failed):
            text = (
                f"No adversarial point was found for sample {who(failed)}; its map is an integral from the "
                "last point of the search, which is not on the boundary"
            )
            result.warnings.append(note(Code.NOT_CROSSED, text))
        return result

    def _find(self, problem: Problem) -> NearestPoint:
        class_count(problem)
        if self.boundary is not None:
            point = check_reference(
                problem.reference(self.boundary, problem.everyone, problem.everyone * 0), problem.x
            )
            before = labels(problem, problem.x, problem.everyone)
            success = labels(problem, point, problem.everyone) != before
            return NearestPoint(point, success, torch.zeros_like(before))
        found = self.search.find(problem)
        ready = found.success.nonzero().flatten()
        if self.bisection and len(ready):
            label = labels(problem, problem.x, problem.everyone)
            way = (found.point - problem.x).abs().flatten(1).amax(1) * FINEST
            _, outer = bisect(problem, problem.x[ready], found.point[ready], ready, label[ready], way[ready])
            found.point[ready] = outer
        return found


class _Fixed:
    """Reference points of the samples of one problem."""

    def __init__(self, points: Tensor) -> None:
        self._points = points

    @property
    def stochastic(self) -> bool:
        return False

    def rows(self, problem: object, owner: Tensor, draw: Tensor) -> Tensor:
        return self._points[owner]


def _gradient(
    problem: Problem, x: Tensor, owner: Tensor, objective: Objective, target: Tensor, *, last: bool = False
) -> tuple[Tensor, Tensor]:
    """(n, *f) gradients of ``objective`` for classes ``target`` (n,), and (n,) predicted classes."""
    gradients, now = torch.zeros_like(x), torch.zeros_like(owner)

    local = problem.with_(x=x, owner=owner, target=target, objective=objective)
    run = local.forward if last else local.gradient
    for chunk in run(x, local.everyone):
        now[chunk.rows] = problem.task.predicted(chunk.outputs)
        if not last:
            gradients[chunk.rows] = chunk.gradients
    return gradients, now

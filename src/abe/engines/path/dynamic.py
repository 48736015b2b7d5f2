"""Dynamic paths: Algorithm 1 of ABE with any update, all samples in lockstep.

    x_{t+1} = update(x_t),   A = Σ_t Δx_t ⊙ (gradient along the step)

A sample may have several runs, each drawn to a class of its own. All samples and runs move together,
and rows that are done leave the batch. From an input to wherever the update leads the sum is negated, so
that the attribution explains s(input) − s(end); from a reference to the input it is kept.
"""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from abe.checks import Count, CountFrom0, Tolerance, listed
from abe.engines.path.active import take
from abe.engines.path.class_targets import ClassRuns, Runs, class_count, single
from abe.engines.path.ends import End, told
from abe.engines.path.quadrature import GaussLegendre
from abe.engines.path.refine import Pieces, refine
from abe.engines.path.step import (
    INTEGRAND,
    Look,
    Point,
    State,
    Update,
    take_step,
)
from abe.engines.runtime.problem import Problem
from abe.engines.runtime.reference import reference_of
from abe.engines.runtime.shapes import along
from abe.engines.runtime.work import Head
from abe.errors import Code, SpecError, note
from abe.sizes import span
from abe.spec import value
from abe.types import Baseline, Objective, Result

Rule = Literal["trapezoid", "left"]


@value
class UpdatePath:
    """Algorithm 1: follow ``update`` for ``steps`` steps and add up Δx ⊙ gradient.

    Args:
        update: how to move.
        steps: how many times.
        rule: ``"trapezoid"`` uses the mean of the gradients at both ends of a step (the next step
            needs the second anyway), ``"left"`` the first only, as printed in the paper.
        segment_nodes: Gauss nodes inside every step instead of the rule; 0 for none.
        tolerance: refine every step until the total |residual| is below this share of the change.
        max_segment_nodes: most nodes that refinement may spend on one step of one sample.
        start: baseline to begin at, or None to begin at the input.
        stop: ``"flip"`` ends a run when its predicted class has changed, ``"arrive"`` when it is the
            class the run is drawn to; None never.
        runs: the runs of every sample; None for one.
        guide: score whose gradient for the run's class is given to the update as ``point.guide``; taken
            from the same forward pass as the gradient of the explained score.
        reduce: runs are added up, or averaged.
        restart: every step begins at the start again (as published code does): the update is shown the start
            with the gradient of where the last step led, and its change counts from there.
        objective: score that is explained whatever was asked for.
        look: reads gradients around the points instead of at them.
    """

    update: Update
    steps: Count
    rule: Rule = "trapezoid"
    segment_nodes: CountFrom0 = 0
    tolerance: Tolerance | None = None
    max_segment_nodes: Count = 128
    start: Baseline | None = None
    stop: Literal["flip", "arrive"] | None = None
    runs: Runs | None = None
    guide: Objective | None = None
    reduce: Literal["sum", "mean"] = "sum"
    restart: bool = False
    objective: Objective | None = None
    look: Look | None = None
    has_ends: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.segment_nodes and self.tolerance is not None:
            raise SpecError(
                Code.BAD_PARAMETER,
                "segment_nodes and tolerance both place nodes inside the steps",
                fix="Give one of them",
            )
        if (self.restart or self.look is not None) and (self.segment_nodes or self.tolerance is not None):
            raise SpecError(
                Code.BAD_PARAMETER,
                "segment_nodes and tolerance integrate the plain gradient along the path",
                got="a path that restarts at every step, or that reads other gradients",
                fix="Leave them out, or use the corrected variant",
            )

    def run(self, problem: Problem) -> Result:
        """Follow the update for every sample of the problem."""
        problem = problem if self.objective is None else problem.with_(objective=self.objective)
        if getattr(self.update, "alone", False):
            problem = replace(problem.predicted(), alone=True)
        result = Paths(self, problem).run()
        for _ in range(2 if self.tolerance is not None else 0):
            missed = self._missed(result)
            if len(missed) == 0:
                break
            tighter = replace(self, tolerance=(self.tolerance or 0.0) / 4, start=self.start)
            again = Paths(tighter, problem.with_(x=problem.x[missed], owner=missed)).run()
            result.attribution[missed] = again.attribution
            for name in result.diagnostics:
                result.diagnostics[name][missed] = again.diagnostics[name]
        if self.tolerance is not None and len(missed := self._missed(result)):
            text = f"Sample {who(missed)} did not reach tolerance {self.tolerance}"
            result.warnings.append(note(Code.TOLERANCE_NOT_REACHED, text))
        result.objective = self.objective
        return result

    def _missed(self, result: Result) -> Tensor:
        if result.delta is None:
            return torch.zeros(0, dtype=torch.long)
        gap = (result.delta - result.attribution.flatten(1).sum(1)).abs()
        return (gap > (self.tolerance or 0.0) * result.delta.abs()).nonzero().flatten()


BLOCK_BYTES = 64 * 2**20
"""Memory that one tensor of rows moving together may take; further rows wait for their turn."""


def who(samples: Tensor) -> str:
    """The first of the given sample numbers as text."""
    return listed(samples)


class Paths:
    """All runs of all samples: walked in blocks that fit into memory, added up by sample."""

    def __init__(self, engine: UpdatePath, problem: Problem) -> None:
        self.engine = engine
        self.problem = problem
        if engine.runs is None and getattr(engine.guide, "needs_classes", False):
            class_count(problem)
        self.plan = single(problem) if engine.runs is None else engine.runs.plan(problem)
        self.sign = 1.0 if engine.start is not None else -1.0

    def run(self) -> Result:
        x, plan = self.problem.x, self.plan
        begin = x if self.engine.start is None else self._begin(self.engine.start)
        attribution, delta = torch.zeros_like(x), x.new_zeros(len(x))
        tables = {
            name: torch.zeros((len(x), plan.width), dtype=torch.long, device=x.device)
            for name in ("steps", "nodes", "crossed", "moved")
        }
        gap, ends = 0.0, _Ends(self.problem, plan.width)
        size = 1 if self.problem.alone else max(1, BLOCK_BYTES // (x[0].numel() * x.element_size()))
        for rows in torch.arange(len(plan.owner), device=x.device).split(size):
            block = take(plan, rows)
            walk = _Walk(self.engine, self.problem, block, begin[block.owner], attribution)
            walk.run()
            delta.index_add_(0, block.owner, walk.end_score - walk.begin_score)
            for name, numbers in walk.findings().items():
                tables[name][block.owner, block.run] = numbers
            ends.add(walk)
            away = ((walk.end - x[block.owner]) / span(self.problem.limits)).abs()
            gap = max(gap, float(away.max()))
        attribution.mul_(self.sign)
        delta *= self.sign
        if self.engine.reduce == "mean":
            count = torch.bincount(plan.owner, minlength=len(x)).clamp_min(1)
            attribution, delta = attribution / along(count, attribution), delta / count
        return Result(
            attribution,
            delta,
            warnings=self._remarks(tables, gap),
            diagnostics=self._diagnostics(tables) | ends.told(several=self.engine.runs is not None),
        )

    def _begin(self, start: Baseline) -> Tensor:
        """(b, *f) where the paths begin."""
        parts = self.problem.apart() if self.problem.alone else [self.problem]
        return torch.cat([reference_of(start, part) for part in parts])

    def _diagnostics(self, tables: dict[str, Tensor]) -> dict[str, Tensor]:
        several = self.engine.runs is not None
        found = {"steps": tables["steps"], "nodes": tables["nodes"].sum(1)}
        if not several:
            found["steps"] = found["steps"][:, 0]
        if self.engine.stop is not None:
            found["success"] = tables["crossed"].any(1)
            if several:
                found["crossed"] = tables["crossed"].bool()
        return found

    def _remarks(self, tables: dict[str, Tensor], gap: float) -> list[str]:
        if self.engine.start is not None:
            text = f"The path from the baseline ended up to {gap:.3g} of the range away from the input"
            return [note(Code.PATH, text)] if gap > 1e-4 else []
        remarks: list[str] = []
        still = (~tables["moved"].bool().any(1) & ~tables["crossed"].bool().any(1)).nonzero().flatten()
        if len(still):
            remarks.append(
                note(Code.NO_CHANGE, f"The update never moved sample {who(still)}; its map is zero")
            )
        stuck = (~tables["crossed"].bool().any(1)).nonzero().flatten()
        if self.engine.stop is not None and len(stuck):
            text = f"No run of sample {who(stuck)} reached another class within {self.engine.steps} steps"
            remarks.append(note(Code.NOT_CROSSED, text))
        return remarks


@dataclass
class _Front:
    """The rows that are still moving, with everything known at their points."""

    row: Tensor
    x: Tensor
    gradient: Tensor
    guide: Tensor | None
    score: Tensor
    outputs: Any
    state: State = field(default_factory=dict)


class _Walk:
    """Rows of an `UpdatePath` that move together; row i belongs to sample ``plan.owner[i]``."""

    def __init__(
        self, engine: UpdatePath, problem: Problem, plan: ClassRuns, begin: Tensor, total: Tensor
    ) -> None:
        self.engine = engine
        self.problem = problem
        self.plan = plan
        self.begin = begin
        self.total = total
        self.end = begin.clone()
        self.begin_score = begin.new_zeros(len(begin))
        self.end_score = self.begin_score
        self.taken = torch.zeros_like(plan.owner)
        self.nodes = torch.zeros_like(plan.owner)
        self.crossed = torch.zeros_like(plan.owner, dtype=torch.bool)
        self.begin_outputs: Any = None
        self.end_outputs: Any = None

    def run(self) -> None:
        front = self._first()
        self.begin_score, begin_outputs = front.score.clone(), front.outputs
        self.end_score = self.begin_score.clone()
        if self.problem.path_ends and isinstance(begin_outputs, Tensor):
            self.begin_outputs, self.end_outputs = begin_outputs, begin_outputs.clone()
        if self.engine.stop == "arrive":
            front = self._stay(front, begin_outputs)
        for step in range(self.engine.steps):
            if len(front.row) == 0:
                break
            front = self._advance(front, step)
            front = self._stay(front, begin_outputs)

    def findings(self) -> dict[str, Tensor]:
        """Per row: steps taken, gradients read, whether it crossed, whether it moved at all."""
        moved = (self.end != self.begin).flatten(1).any(1)
        found = {"steps": self.taken, "nodes": self.nodes, "crossed": self.crossed, "moved": moved}
        return {name: numbers.long() for name, numbers in found.items()}

    def _stay(self, front: _Front, begin_outputs: Any) -> _Front:
        done = self._done(front, begin_outputs)
        self.crossed[front.row[done]] = True
        return take(front, ~done) if bool(done.any()) else front

    def _advance(self, front: _Front, step: int) -> _Front:
        last = step == self.engine.steps - 1
        moved, state = take_step(self.engine.update, self._point(front, step), front.state)
        after = self._front(
            moved, front.row, state, step + 1, gradient=not last or self._reads_both_ends(state), last=last
        )
        self._accumulate(front, after, step)
        self.end[front.row] = moved
        self.end_score[front.row] = after.score
        if self.end_outputs is not None:
            self.end_outputs[front.row] = after.outputs
        self.taken[front.row] += 1
        return after

    def _reads_both_ends(self, state: State) -> bool:
        """Whether a step's integral needs the gradient at its end; refinement starts from a trapezoid."""
        if self.engine.segment_nodes or INTEGRAND in state:
            return False
        return self.engine.rule == "trapezoid" or self.engine.tolerance is not None

    def _point(self, front: _Front, step: int) -> Point:
        owner = self.plan.owner[front.row]
        start = self.begin[front.row]
        return Point(
            x=start if self.engine.restart else front.x,
            start=start,
            sample=self.problem.x[owner],
            gradient=front.gradient,
            score=front.score,
            outputs=front.outputs,
            owner=owner,
            step=step,
            steps=self.engine.steps,
            problem=self.problem,
            run=self.plan.run[front.row],
            guide=front.guide,
        )

    def _first(self) -> _Front:
        """The front at the start, where all runs of a sample meet: one forward pass serves them all."""
        everyone = torch.arange(len(self.begin), device=self.begin.device)
        engine, plan = self.engine, self.plan
        if engine.guide is None or engine.runs is None or engine.look is not None:
            return self._front(self.begin.clone(), everyone, {}, 0)
        owner, sample = plan.owner.unique(return_inverse=True)
        _, run = plan.run.unique(return_inverse=True)
        x = self.begin.new_empty((len(owner), *self.begin.shape[1:]))
        x[sample] = self.begin
        target = self.problem.target[owner]
        goals = target.repeat(int(run.max()) + 1, 1)
        goals[run, sample] = plan.goal
        heads = [Head(self.problem.objective, target), *(Head(engine.guide, goal) for goal in goals)]
        scores, outputs, gradients = self._read(x, owner, heads)
        self.nodes += 1
        guide = gradients[1 + run, sample] * along(plan.toward, self.begin)
        seen = outputs[sample] if isinstance(outputs, Tensor) else outputs
        return _Front(everyone, self.begin.clone(), gradients[0, sample], guide, scores[sample], seen)

    def _front(
        self, x: Tensor, row: Tensor, state: State, step: int, *, gradient: bool = True, last: bool = False
    ) -> _Front:
        """Everything the model says at ``x``: one pass serves score, outputs and all gradients."""
        owner, look = self.plan.owner[row], self.engine.look
        heads = self._heads(row, guided=not last) if gradient else []
        scores, outputs, gradients = self._read(x, owner, heads if look is None else [])
        if gradient and look is not None:
            draw = self.plan.run[row] * (self.engine.steps + 1) + step
            gradients = look.gradients(self.problem, x, owner, draw, heads)
        self.nodes[row] += int(gradient)
        guide = None
        if self.engine.guide is not None and not last:
            guide = gradients[-1] * along(self.plan.toward[row], x)
        return _Front(row, x, gradients[0], guide, scores, outputs, state)

    def _read(self, x: Tensor, owner: Tensor, heads: list[Head]) -> tuple[Tensor, Any, Tensor]:
        """Scores (n,), outputs, and gradients (m, n, *f) of the heads, the first of which is the score."""
        gradients = x.new_zeros((max(len(heads), 1), *x.shape))
        scores = x.new_zeros(len(x))
        outputs: list[Any] = []

        run = self.problem
        for chunk in run.gradients(x, owner, heads) if heads else run.forward(x, owner):
            outputs.append(chunk.outputs)
            scores[chunk.rows] = (chunk.scores[0] if heads else chunk.scores).to(scores.dtype)
            if heads:
                gradients[:, chunk.rows] = chunk.gradients
        return scores, torch.cat(outputs) if isinstance(outputs[0], Tensor) else None, gradients

    def _heads(self, row: Tensor, *, guided: bool) -> list[Head]:
        """The explained score and, where something else guides the path, that."""
        own = Head(self.problem.objective, self.problem.target[self.plan.owner[row]])
        guide = self.engine.guide
        if guide is None or not guided:
            return [own]
        if self.engine.runs is None and guide == self.problem.objective:
            return [own]
        return [own, Head(guide, self.plan.goal[row])]

    def _accumulate(self, front: _Front, after: _Front, step: int) -> None:
        change = after.x - (self.begin[front.row] if self.engine.restart else front.x)
        owner = self.plan.owner[front.row]
        if INTEGRAND in after.state:
            self.total.index_add_(0, owner, change * after.state[INTEGRAND])
        elif self.engine.segment_nodes:
            self._gauss(front, change)
        elif self.engine.tolerance is not None:
            self._refined(front, after, change, step)
        elif self.engine.rule == "left":
            self.total.index_add_(0, owner, change * front.gradient)
        else:
            self.total.index_add_(0, owner, change * (front.gradient + after.gradient) * 0.5)

    def _gauss(self, front: _Front, change: Tensor) -> None:
        nodes, weights = (t.to(change) for t in GaussLegendre().nodes(self.engine.segment_nodes))
        k = len(nodes)
        row = torch.arange(len(change), device=change.device).repeat_interleave(k)
        owner = self.plan.owner[front.row][row]

        def make(rows: Tensor) -> Tensor:
            share = along(nodes[rows % k], change)
            return front.x[row[rows]] + share * change[row[rows]]

        for chunk in self.problem.gradient(make, owner):
            piece = change[row[chunk.rows]] * along(weights[chunk.rows % k], change)
            self.total.index_add_(0, chunk.owner, piece * chunk.gradients)
        self.nodes[front.row] += k

    def _refined(self, front: _Front, after: _Front, change: Tensor, step: int) -> None:
        """Halve the step where it misses more than its share of the progress made so far."""
        row = torch.arange(len(change), device=change.device)
        owner = self.plan.owner[front.row]
        gain = after.score - front.score
        pieces = Pieces(
            owner=row,
            group=row,
            start=torch.zeros_like(gain),
            length=torch.ones_like(gain),
            gain=gain,
            total=change * (front.gradient + after.gradient) * 0.5,
        )
        progress = (after.score - self.begin_score[front.row]).abs() / (step + 1)
        allowed = (self.engine.tolerance or 0.0) * torch.maximum(progress, 0.1 * gain.abs())
        local = self.problem.with_(x=front.x, owner=owner)
        used = refine(local, _Segment(front.x, change), pieces, allowed, self.engine.max_segment_nodes)
        self.total.index_add_(0, owner, pieces.total)
        self.nodes[front.row] += used

    def _done(self, front: _Front, begin_outputs: Any) -> Tensor:
        if self.engine.stop is None or not isinstance(front.outputs, Tensor) or front.outputs.ndim != 2:
            return torch.zeros(len(front.row), dtype=torch.bool, device=front.row.device)
        read = self.problem.task.predicted
        now, before = read(front.outputs), read(begin_outputs[front.row])
        goal, toward = self.plan.goal[front.row], self.plan.toward[front.row]
        if self.engine.stop == "flip" or goal.ndim > 1:
            return now != before
        return torch.where(toward > 0, self.problem.task.says(front.outputs, goal), now != before)


class _Ends:
    """The ends of all runs, by sample and run; NaN where a sample has fewer runs than others."""

    def __init__(self, problem: Problem, width: int) -> None:
        self._problem, self._width = problem, width
        self._tables: dict[str, Tensor] = {}

    def add(self, walk: _Walk) -> None:
        """Keep the ends of rows that have walked."""
        self._keep(walk.plan, "start.score", walk.begin_score)
        self._keep(walk.plan, "end.score", walk.end_score)
        if self._problem.path_ends:
            self._keep(walk.plan, "start.point", walk.begin)
            self._keep(walk.plan, "end.point", walk.end)
            self._keep(walk.plan, "start.outputs", walk.begin_outputs)
            self._keep(walk.plan, "end.outputs", walk.end_outputs)

    def told(self, *, several: bool) -> dict[str, Tensor]:
        """The diagnostics, with an axis of runs where there may be several."""
        held = {name: table if several else table[:, 0] for name, table in self._tables.items()}
        none = self._problem.x.new_empty(0)
        start, end = (
            End(held.get(f"{name}.point", none), held[f"{name}.score"], held.get(f"{name}.outputs"))
            for name in ("start", "end")
        )
        return told(self._problem, start, end)

    def _keep(self, plan: ClassRuns, name: str, found: Any) -> None:
        if not isinstance(found, Tensor):
            return
        if name not in self._tables:
            shape = (len(self._problem.x), self._width, *found.shape[1:])
            self._tables[name] = found.new_full(shape, torch.nan)
        self._tables[name][plan.owner, plan.run] = found.detach()


class _Segment:
    def __init__(self, x: Tensor, change: Tensor) -> None:
        self._x, self._change = x, change

    def point(self, owner: Tensor, alpha: Tensor) -> Tensor:
        return self._x[owner] + along(alpha, self._change) * self._change[owner]

    def velocity(self, owner: Tensor, alpha: Tensor) -> Tensor:
        return self._change[owner]

"""Dynamic paths: Algorithm 1 of ABE with any update, all samples in lockstep.

    x_{t+1} = update(x_t),   A = Σ_t Δx_t ⊙ (gradient along the step)

Rows that are done leave the batch. From an input to wherever the update leads the sum is negated, so
that the attribution explains s(input) − s(end); from a reference to the input it is kept.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from abe.engines.batching import Chunk
from abe.engines.path import check_count, check_tolerance, reference_of
from abe.engines.problem import Problem
from abe.engines.quadrature import GaussLegendre
from abe.engines.refine import Pieces, along, refine
from abe.errors import AbeError, Code, SpecError, note
from abe.registry import updates
from abe.spec import value
from abe.types import Baseline, Card, Result

Rule = Literal["trapezoid", "left"]
State = Mapping[str, Tensor]
"""Per-row tensors an update carries from step to step; rows that leave are dropped from each."""


@dataclass(frozen=True)
class Point:
    """Where the rows of a dynamic path are; what an update may look at.

    Attributes:
        x: (n, *f) current points.
        start: (n, *f) where the paths began.
        sample: (n, *f) the explained inputs.
        gradient: (n, *f) of the explained score at ``x``, each row's own.
        score: (n,) that score.
        outputs: (n, C) the model's output at ``x``; None where it is no tensor.
        owner: (n,) number of each row's sample.
        step, steps: the current step, from 0, and how many there are.
        problem: the whole request: objective, targets, draws, bounds.
    """

    x: Tensor
    start: Tensor
    sample: Tensor
    gradient: Tensor
    score: Tensor
    outputs: Any
    owner: Tensor
    step: int
    steps: int
    problem: Problem

    @property
    def bounds(self) -> tuple[Tensor, Tensor] | None:
        """(low, high) of valid inputs, or None."""
        return self.problem.bounds

    def clip(self, x: Tensor) -> Tensor:
        """``x`` inside the bounds."""
        return x if self.bounds is None else torch.clamp(x, *self.bounds)

    def normal(self, purpose: str) -> Tensor:
        """(n, *f) standard normal draws of this step."""
        return self._draw("normal", purpose)

    def uniform(self, purpose: str) -> Tensor:
        """(n, *f) uniform draws on [0, 1) of this step."""
        return self._draw("uniform", purpose)

    def _draw(self, kind: str, purpose: str) -> Tensor:
        number = torch.full_like(self.owner, self.step)
        draw = getattr(self.problem.draws, kind)
        return draw(purpose, self.problem.keys(self.owner, number), self.x.shape[1:]).to(self.x)


@runtime_checkable
class Update(Protocol):
    """One step of a dynamic path. A user's update needs only this."""

    def step(self, point: Point, state: State) -> tuple[Tensor, State]:
        """The next points (n, *f) and the state to carry on (``{}`` to begin with)."""
        ...


@value
class UserUpdate:
    """A function ``point -> next points (n, *f)`` as an update without state."""

    function: Callable[[Point], Tensor]

    def step(self, point: Point, state: State) -> tuple[Tensor, State]:
        """Call the function."""
        return self.function(point), state


@updates.register(
    Card(
        name="descent",
        title="Signed descent",
        summary="A signed step down the explained score's gradient, inside the bounds.",
        source="madry2018",
        formula="x ← clip(x − α r sign ∇s(x))",
    )
)
@value
class Descent:
    """x ← clip(x − α r sign ∇s(x)), r the bounds' range (1 without bounds).

    Args:
        alpha: step as a share of the range.
    """

    alpha: float = 2 / 255

    def step(self, point: Point, state: State) -> tuple[Tensor, State]:
        """One signed step."""
        span = 1.0 if point.bounds is None else point.bounds[1] - point.bounds[0]
        return point.clip(point.x - self.alpha * span * point.gradient.sign()), state


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
        stop: ``"flip"`` ends a sample's path when its predicted class has changed; None never.
    """

    update: Update
    steps: int
    rule: Rule = "trapezoid"
    segment_nodes: int = 0
    tolerance: float | None = None
    max_segment_nodes: int = 128
    start: Baseline | None = None
    stop: Literal["flip"] | None = None

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        check_tolerance(self.tolerance)
        if self.rule not in ("trapezoid", "left"):
            raise SpecError(
                Code.BAD_PARAMETER, "No such rule", got=repr(self.rule), expected="trapezoid or left"
            )
        if self.segment_nodes and self.tolerance is not None:
            raise SpecError(
                Code.BAD_PARAMETER,
                "segment_nodes and tolerance both place nodes inside the steps",
                fix="Give one of them",
            )

    def run(self, problem: Problem) -> Result:
        """Follow the update for every sample of the problem."""
        result = _Walk(self, problem).run()
        for _ in range(2 if self.tolerance is not None else 0):
            missed = self._missed(result)
            if len(missed) == 0:
                break
            tighter = replace(self, tolerance=(self.tolerance or 0.0) / 4, start=self.start)
            again = _Walk(tighter, problem.with_(x=problem.x[missed], owner=missed)).run()
            result.attribution[missed] = again.attribution
            for name in result.diagnostics:
                result.diagnostics[name][missed] = again.diagnostics[name]
        if self.tolerance is not None and len(missed := self._missed(result)):
            who = ", ".join(str(i) for i in missed.tolist()[:8])
            text = f"Sample {who} did not reach tolerance {self.tolerance}"
            result.warnings.append(note(Code.TOLERANCE_NOT_REACHED, text))
        return result

    def _missed(self, result: Result) -> Tensor:
        if result.delta is None:
            return torch.zeros(0, dtype=torch.long)
        gap = (result.delta - result.attribution.flatten(1).sum(1)).abs()
        return (gap > (self.tolerance or 0.0) * result.delta.abs()).nonzero().flatten()


@dataclass
class _Front:
    """The rows that are still moving, with everything known at their points."""

    owner: Tensor
    x: Tensor
    gradient: Tensor
    score: Tensor
    outputs: Any
    state: State = field(default_factory=dict)

    def keep(self, mask: Tensor) -> "_Front":
        state = {k: v[mask] for k, v in self.state.items()}
        outputs = self.outputs[mask] if isinstance(self.outputs, Tensor) else self.outputs
        return _Front(self.owner[mask], self.x[mask], self.gradient[mask], self.score[mask], outputs, state)


class _Walk:
    """One run of an `UpdatePath` over a problem."""

    def __init__(self, engine: UpdatePath, problem: Problem) -> None:
        self.engine = engine
        self.problem = problem
        x = problem.x
        self.begin = x if engine.start is None else reference_of(engine.start, problem)
        self.total = torch.zeros_like(x)
        self.end = self.begin.clone()
        self.end_score = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        self.taken = torch.zeros(len(x), dtype=torch.long, device=x.device)
        self.nodes = torch.zeros_like(self.taken)

    def run(self) -> Result:
        front = self._front(self.begin.clone(), self.problem.everyone, {})
        begin_score, begin_outputs = front.score.clone(), front.outputs
        self.end_score = begin_score.clone()
        for step in range(self.engine.steps):
            front = self._advance(front, step, begin_score, last=step == self.engine.steps - 1)
            front = front.keep(~self._done(front, begin_outputs))
            if len(front.owner) == 0:
                break
        sign = 1.0 if self.engine.start is not None else -1.0
        result = Result(self.total.mul_(sign), (self.end_score - begin_score) * sign)
        result.diagnostics = {"steps": self.taken, "nodes": self.nodes}
        result.warnings = self._remarks()
        return result

    def _advance(self, front: _Front, step: int, begin_score: Tensor, *, last: bool) -> _Front:
        point = self._point(front, step)
        moved, state = self._step(point, front.state)
        after = self._front(moved, front.owner, state, gradient=not last or self._reads_both_ends)
        self._accumulate(front, after, step, begin_score)
        self.end[front.owner] = moved
        self.end_score[front.owner] = after.score
        self.taken[front.owner] += 1
        return after

    @property
    def _reads_both_ends(self) -> bool:
        """Whether a step's integral needs the gradient at its end; refinement starts from a trapezoid."""
        if self.engine.segment_nodes:
            return False
        return self.engine.rule == "trapezoid" or self.engine.tolerance is not None

    def _point(self, front: _Front, step: int) -> Point:
        return Point(
            x=front.x,
            start=self.begin[front.owner],
            sample=self.problem.x[front.owner],
            gradient=front.gradient,
            score=front.score,
            outputs=front.outputs,
            owner=front.owner,
            step=step,
            steps=self.engine.steps,
            problem=self.problem,
        )

    def _step(self, point: Point, state: State) -> tuple[Tensor, State]:
        versions = _versions(point)
        try:
            stepped = self.engine.update.step(point, state)
        except AbeError:
            raise
        except Exception as problem:
            raise SpecError(
                Code.UPDATE,
                "The update raised an exception",
                got=f"{type(problem).__name__}: {problem}",
                expected="step(point, state) -> (next points, state)",
            ) from problem
        if not isinstance(stepped, tuple) or len(stepped) != 2:
            raise SpecError(
                Code.UPDATE,
                "The update must return its next points and its state",
                got=type(stepped).__name__,
                expected="a tuple (next points, state); the state is {} where there is none",
            )
        if versions != _versions(point):
            raise SpecError(
                Code.UPDATE,
                "The update wrote into what it was given, so the step it took is lost",
                fix="Return new tensors: x + change instead of x.add_(change)",
            )
        return _checked(stepped[0], point), stepped[1]

    def _front(self, x: Tensor, owner: Tensor, state: State, *, gradient: bool = True) -> _Front:
        """Everything the model says at ``x``: one pass serves score, outputs and gradient."""
        gradients = torch.zeros_like(x)
        scores = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        outputs: list[Any] = []

        def consume(chunk: Chunk) -> None:
            outputs.append(chunk.outputs)
            scores[chunk.rows] = chunk.scores.to(scores.dtype)
            if gradient:
                gradients[chunk.rows] = chunk.gradients

        run = self.problem.gradient if gradient else self.problem.forward
        run(len(x), x.__getitem__, owner, consume)
        self.nodes[owner] += int(gradient)
        joined = torch.cat(outputs) if isinstance(outputs[0], Tensor) else None
        return _Front(owner, x, gradients, scores, joined, state)

    def _accumulate(self, front: _Front, after: _Front, step: int, begin_score: Tensor) -> None:
        change = after.x - front.x
        if self.engine.segment_nodes:
            self._gauss(front, change)
        elif self.engine.tolerance is not None:
            self._refined(front, after, change, step, begin_score)
        elif self.engine.rule == "left":
            self.total.index_add_(0, front.owner, change * front.gradient)
        else:
            self.total.index_add_(0, front.owner, change * (front.gradient + after.gradient) * 0.5)

    def _gauss(self, front: _Front, change: Tensor) -> None:
        nodes, weights = (t.to(change) for t in GaussLegendre().nodes(self.engine.segment_nodes))
        k = len(nodes)
        row = torch.arange(len(change), device=change.device).repeat_interleave(k)
        owner = front.owner[row]

        def make(rows: Tensor) -> Tensor:
            share = along(nodes[rows % k], change)
            return front.x[row[rows]] + share * change[row[rows]]

        def consume(chunk: Chunk) -> None:
            piece = change[row[chunk.rows]] * along(weights[chunk.rows % k], change)
            self.total.index_add_(0, chunk.owner, piece * chunk.gradients)

        self.problem.gradient(len(row), make, owner, consume)
        self.nodes[front.owner] += k

    def _refined(self, front: _Front, after: _Front, change: Tensor, step: int, begin: Tensor) -> None:
        """Halve the step where it misses more than its share of the progress made so far."""
        row = torch.arange(len(change), device=change.device)
        gain = after.score - front.score
        pieces = Pieces(
            owner=row,
            group=row,
            start=torch.zeros_like(gain),
            length=torch.ones_like(gain),
            gain=gain,
            total=change * (front.gradient + after.gradient) * 0.5,
        )
        progress = (after.score - begin[front.owner]).abs() / (step + 1)
        allowed = (self.engine.tolerance or 0.0) * torch.maximum(progress, 0.1 * gain.abs())
        local = self.problem.with_(x=front.x, owner=front.owner)
        used = refine(local, _Segment(front.x, change), pieces, allowed, self.engine.max_segment_nodes)
        self.total.index_add_(0, front.owner, pieces.total)
        self.nodes[front.owner] += used

    def _done(self, front: _Front, begin_outputs: Any) -> Tensor:
        if self.engine.stop != "flip" or not isinstance(front.outputs, Tensor):
            return torch.zeros(len(front.owner), dtype=torch.bool, device=front.owner.device)
        return front.outputs.argmax(1) != begin_outputs[front.owner].argmax(1)

    def _remarks(self) -> list[str]:
        if self.engine.start is None:
            still = (self.end == self.begin).flatten(1).all(1)
            if bool(still.any()):
                who = ", ".join(str(i) for i in still.nonzero().flatten().tolist()[:8])
                return [note(Code.NO_CHANGE, f"The update never moved sample {who}; its map is zero")]
            return []
        far = (self.end - self.problem.x).abs().flatten(1).amax(1)
        if bool((far > 1e-4).any()):
            text = f"The path from the baseline ended up to {float(far.max()):.3g} away from the input"
            return [note(Code.PATH, text)]
        return []


class _Segment:
    def __init__(self, x: Tensor, change: Tensor) -> None:
        self._x, self._change = x, change

    def point(self, owner: Tensor, alpha: Tensor) -> Tensor:
        return self._x[owner] + along(alpha, self._change) * self._change[owner]

    def velocity(self, owner: Tensor, alpha: Tensor) -> Tensor:
        return self._change[owner]


def _versions(point: Point) -> tuple[int, ...]:
    """Counters of in-place writes into what an update may look at."""
    return tuple(t._version for t in (point.x, point.start, point.sample, point.gradient, point.score))


def _checked(moved: Any, point: Point) -> Tensor:
    """The update's points, refused when they have another shape, are not finite or leave the bounds."""
    if not isinstance(moved, Tensor) or moved.shape != point.x.shape:
        raise SpecError(
            Code.UPDATE,
            "The update must return the next point of every row",
            got=f"shape {tuple(moved.shape)}" if isinstance(moved, Tensor) else type(moved).__name__,
            expected=str(tuple(point.x.shape)),
            fix="Return x + change, not the change",
        )
    moved = moved.detach().to(point.x)
    if not bool(torch.isfinite(moved).all()):
        raise SpecError(Code.UPDATE, "The update returned NaN or infinity", got=f"at step {point.step}")
    if point.bounds is not None:
        low, high = point.bounds
        slack = 1e-4 * (high - low)
        if bool(((moved < low - slack) | (moved > high + slack)).any()):
            raise SpecError(
                Code.UPDATE,
                "The update left the task's bounds",
                got=f"values from {float(moved.min()):.4g} to {float(moved.max()):.4g}",
                fix="End it with point.clip(…)",
            )
    return moved

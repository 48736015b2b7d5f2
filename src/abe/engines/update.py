"""Dynamic paths: Algorithm 1 of ABE with any update, all samples in lockstep.

    x_{t+1} = update(x_t),   A = Σ_t Δx_t ⊙ (gradient along the step)

A sample may have several runs, each drawn to a class of its own. All samples and runs move together,
and rows that are done leave the batch. From an input to wherever the update leads the sum is negated, so
that the attribution explains s(input) − s(end); from a reference to the input it is kept.
"""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from abe.engines.path import check_count, check_tolerance
from abe.engines.problem import Problem
from abe.engines.runs import Runs
from abe.engines.step import INTEGRAND, Descent, Look, Point, State, Update, UserUpdate, as_update
from abe.engines.walk import Paths, who
from abe.errors import Code, SpecError, note
from abe.spec import value
from abe.types import Baseline, Objective, Result

__all__ = [
    "INTEGRAND",
    "Descent",
    "Look",
    "Point",
    "Rule",
    "State",
    "Update",
    "UpdatePath",
    "UserUpdate",
    "as_update",
    "who",
]

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
    steps: int
    rule: Rule = "trapezoid"
    segment_nodes: int = 0
    tolerance: float | None = None
    max_segment_nodes: int = 128
    start: Baseline | None = None
    stop: Literal["flip", "arrive"] | None = None
    runs: Runs | None = None
    guide: Objective | None = None
    reduce: Literal["sum", "mean"] = "sum"
    restart: bool = False
    objective: Objective | None = None
    look: Look | None = None

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

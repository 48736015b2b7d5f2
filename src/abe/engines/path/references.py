"""A method with one reference, averaged over several: every background row, or draws of a distribution."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from abe.checks import Count
from abe.engines.runtime.moments import Moments
from abe.engines.runtime.problem import Problem
from abe.errors import Code, SpecError
from abe.spec import value
from abe.types import Baseline, Engine, Result

TURN = "reference"
"""Key of `Context.about`: (b,) the number of the reference that a sample is explained from."""


@value
class InTurn:
    """One of several references at a time; which one, a request over all of them says.

    Args:
        baseline: where they come from. One of a set has ``count(problem)``, and ``ordered`` where draw k
            is not number k of it.
        whole: whether all are used.
    """

    baseline: Baseline
    whole: bool = True

    @property
    def stochastic(self) -> bool:
        return False

    def rows(self, problem: Problem, owner: Tensor, draw: Tensor) -> Tensor:
        turn = problem.context.about.get(TURN)
        draw = draw if turn is None else turn[owner.to(turn.device)]
        ordered: Any = getattr(self.baseline, "ordered", None)
        if self.whole and ordered is not None:
            return ordered(problem, owner, draw)
        return self.baseline.rows(problem, owner, draw)

    def count(self, problem: Problem) -> int:
        """How many references there are.

        Raises:
            SpecError: endlessly many.
        """
        if not self.baseline.stochastic:
            return 1
        count: Any = getattr(self.baseline, "count", None)
        if count is not None:
            return count(problem)
        raise SpecError(
            Code.BAD_PARAMETER,
            "A distribution has no last reference",
            got=type(self.baseline).__name__,
            fix="Say how many to draw, for example references=20, or give a background set",
        )


@value
class OverReferences:
    """A = (1/m) Σ_k M(x, x′_k), ΣA = s(x) − mean s(x′_k) where M is complete.

    Args:
        engine: M, which reads `InTurn`.
        turn: the references.
        references: m; None for all.
    """

    engine: Engine
    turn: InTurn
    references: Count | None = None

    def run(self, problem: Problem) -> Result:
        """The method once per reference, for all samples together; standard errors over references."""
        m = self.turn.count(problem) if self.references is None else self.references
        moments, deltas, nodes = Moments(problem.x), list[Tensor](), list[Tensor]()
        warnings = list[str]()
        for number in range(m):
            found = self.engine.run(self._from(problem, number))
            if found.features is not None:
                raise SpecError(
                    Code.UNSUPPORTED,
                    "A map of a layer cannot be put together with maps of inputs",
                    fix="Make at_layer the outermost wrapper",
                )
            moments.add(problem.everyone, found.attribution)
            warnings += found.warnings
            deltas += [] if found.delta is None else [found.delta]
            nodes += [found.diagnostics["nodes"]] if "nodes" in found.diagnostics else []
        return Result(
            moments.mean(m),
            torch.stack(deltas).mean(0) if len(deltas) == m else None,
            standard_error=moments.mean_error(m),
            warnings=list(dict.fromkeys(warnings)),
            diagnostics={"nodes": torch.stack(nodes).sum(0)} if nodes else {},
        )

    def _from(self, problem: Problem, number: int) -> Problem:
        which = torch.full((len(problem.x),), number, dtype=torch.long, device=problem.x.device)
        context = problem.context
        about = {**context.about, TURN: which}
        return replace(problem.predicted(), context=replace(context, about=about))

"""Whether a model reacts at all to what a metric does to the samples; where not, the number says nothing."""

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor

from abe.engines.runtime.problem import Problem
from abe.engines.runtime.work import Chunk

ROUNDING = 1e-5
"""Outputs, or numbers of a curve, that differ by less than this share of the largest are the same."""


class Reaction:
    """The smallest and largest outputs of every sample among the rows that were met."""

    def __init__(self, problem: Problem) -> None:
        self._samples = len(problem.x)
        self._low: Tensor | None = None
        self._high: Tensor | None = None
        self._rows = torch.zeros(self._samples, dtype=torch.long)
        known = problem.decision.outputs
        if isinstance(known, Tensor):
            self._take(known, torch.arange(len(known), device=known.device))

    def meet(self, chunk: Chunk) -> None:
        """Look at rows that were run."""
        if isinstance(chunk.outputs, Tensor) and int(chunk.owner.max()) < self._samples:
            self._take(chunk.outputs.detach(), chunk.owner)

    @property
    def none(self) -> list[int]:
        """Samples of which several rows are known, all with the same outputs."""
        if self._low is None or self._high is None:
            return []
        size = torch.maximum(self._low.abs(), self._high.abs()).amax(1)
        still = (self._high - self._low).amax(1) <= ROUNDING * size
        return (still.cpu() & (self._rows > 1)).nonzero().flatten().tolist()

    def _take(self, outputs: Tensor, owner: Tensor) -> None:
        flat = outputs.flatten(1).double()
        self._rows += torch.bincount(owner.cpu(), minlength=self._samples)
        if self._low is None or self._high is None:
            shape = (self._samples, flat.shape[1])
            self._low, self._high = flat.new_full(shape, torch.inf), flat.new_full(shape, -torch.inf)
        at = owner.to(flat.device)[:, None].expand_as(flat)
        self._low.scatter_reduce_(0, at, flat, "amin")
        self._high.scatter_reduce_(0, at, flat, "amax")


@contextmanager
def watched(problem: Problem) -> Generator[Reaction]:
    """The reaction to all rows that the problem's evaluator runs meanwhile."""
    found, evaluator = Reaction(problem), problem.evaluator
    evaluator.watch = found.meet
    try:
        yield found
    finally:
        evaluator.watch = None


def still(curve: Tensor) -> list[int]:
    """Curves (b, k) that are level."""
    low, high = curve.amin(1), curve.amax(1)
    return (high - low <= ROUNDING * torch.maximum(low.abs(), high.abs())).nonzero().flatten().tolist()

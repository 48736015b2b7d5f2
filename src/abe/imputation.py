"""Removal that depends on what is left: missing positions are filled from their neighbours."""

from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from abe.checks import NotNegative, need_image
from abe.engines.removal import neighbour_fill
from abe.registry import baselines
from abe.sizes import OfRange, in_units, lowest
from abe.spec import value
from abe.types import Baseline, Card, Problem, RowIndex, Rows


@runtime_checkable
class Imputation(Protocol):
    """A baseline whose values depend on what is left: it fills what was removed."""

    def fill(self, problem: Problem, owner: RowIndex, draw: RowIndex, removed: Tensor) -> Rows:
        """(n, *f) the samples ``owner`` with the positions where ``removed`` is true filled in."""
        ...


@baselines.register(
    Card(
        name="noisy_linear",
        title="Noisy linear imputation",
        source="rong2022",
        features=("image",),
        differs=(
            "Solved for a whole batch by multigrid; the published code solves one sparse system per image.",
        ),
        pitfalls=(
            "A smooth image is restored from few scattered pixels, which favours scattered maps.",
            "Where everything is removed nothing is known: black is filled in, the 0 of the published code.",
        ),
    ),
    aliases=("road",),
)
@value
class NoisyLinear:
    """Removed positions become weighted means of their eight neighbours, plus a little noise.

    The weights are 1/6 along axes and 1/12 across corners. As a plain reference (`rows`) everything is
    removed; its use is in perturbation runs, which ask `fill` with what is removed at each step.

    Args:
        noise: standard deviation of what is added at removed positions.
        space: where the noise is measured: ``"input"`` before the task's normalisation, ``"model"``
            after it (as in the soundness paper's code).
    """

    noise: NotNegative = OfRange(0.01)
    space: Literal["input", "model"] | str = "input"

    @property
    def stochastic(self) -> bool:
        return self.noise > 0

    def rows(self, problem: Problem, owner: RowIndex, draw: RowIndex) -> Rows:
        everything = torch.ones_like(problem.x[owner][:, :1], dtype=torch.bool)
        return self.fill(problem, owner, draw, everything)

    def fill(self, problem: Problem, owner: RowIndex, draw: RowIndex, removed: Tensor) -> Rows:
        x = problem.x[owner]
        need_image("Noisy linear imputation", x, 'Choose baseline="zero", "mean" or "dataset"')
        mean, std = self._space(problem, x)
        seen = (x - mean) / std
        filled = neighbour_fill.fill(seen, removed)
        if self.noise:
            drawn = problem.draws.normal("baseline.noisy_linear", problem.keys(owner, draw), x.shape[1:])
            size = in_units(self.noise, problem.bounds) if self.space == "input" else float(self.noise)
            filled = filled + size * drawn.to(x)
        return torch.where(removed, filled * std + mean, x)

    def _space(self, problem: Problem, x: Tensor) -> tuple[Tensor, Tensor]:
        """Middle and scale of the space in which is filled; in input space from the lowest valid input."""
        task, one = problem.task, torch.ones((), dtype=x.dtype, device=x.device)
        if self.space == "input":
            return one * lowest(problem.bounds), one
        mean = torch.zeros_like(one) if task.mean is None else task.mean.to(x)
        return mean, one if task.std is None else task.std.to(x)


def without(problem: Problem, baseline: Baseline, owner: RowIndex, draw: RowIndex, removed: Tensor) -> Rows:
    """(n, *f) the samples ``owner`` with what is ``removed`` (a mask that broadcasts to them) replaced."""
    if isinstance(baseline, Imputation):
        return baseline.fill(problem, owner, draw, removed)
    return torch.where(removed, problem.reference(baseline, owner, draw), problem.x[owner])


def positions(chosen: Tensor, x: Tensor) -> Tensor:
    """(n, positions) numbers or flags in a shape that broadcasts to rows like ``x``, channels together."""
    return chosen.reshape(len(chosen), *((1, *x.shape[2:]) if x.ndim > 2 else x.shape[1:]))

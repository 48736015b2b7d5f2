"""The step of Guided IG: move the features with the smallest gradients first, within a band."""

import numpy as np
import torch
from torch import Tensor

from abe.engines.refine import along
from abe.engines.update import Point, State
from abe.errors import Code, SpecError
from abe.spec import value


@value
class GuidedStep:
    """Shrink the L1 distance to the input by 1/T of the total, least sensitive features first.

    Features may run at most ``max_dist`` ahead of or behind the straight line.

    Args:
        fraction: share of features that is moved together.
        max_dist: width of the band around the straight line, in path length.
    """

    fraction: float = 0.25
    max_dist: float = 0.02

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1 or self.max_dist < 0:
            raise SpecError(
                Code.BAD_PARAMETER,
                "Guided IG needs 0 < fraction ≤ 1 and max_dist ≥ 0",
                got=f"fraction {self.fraction}, max_dist {self.max_dist}",
            )

    def step(self, point: Point, state: State) -> tuple[Tensor, State]:
        """The points after one step; every row stops when it has shrunk its distance enough."""
        alpha = (point.step + 1.0) / point.steps
        way = point.sample - point.start
        slowest = point.start + way * max(alpha - self.max_dist, 0.0)
        fastest = point.start + way * min(alpha + self.max_dist, 1.0)
        x = torch.where((slowest - point.x) * way > 0, slowest, point.x)
        spare = _length(point.sample - x) - _length(way) * (1 - alpha)
        return self._ahead(x, fastest - x, point.gradient.abs(), spare.clamp_min(0)), state

    def _ahead(self, x: Tensor, room: Tensor, magnitude: Tensor, spare: Tensor) -> Tensor:
        """Move the quietest features with ``room``, then the next, until ``spare`` (n,) is used up."""
        magnitude.masked_fill_(room == 0, torch.inf)
        while bool((spare > 0).any()):
            quiet = magnitude <= along(_lower_quantile(magnitude, self.fraction), x)
            change = room * quiet
            available = _length(change)
            part = torch.where(available > 0, spare / available, 0).clamp_max(1)
            x.addcmul_(change, along(part, x))
            spare = torch.where(part == 1, spare - available, 0)
            magnitude.masked_fill_(quiet, torch.inf)
        return x


def _length(way: Tensor) -> Tensor:
    """(n,) L1 length of each row."""
    return way.abs().flatten(1).sum(1)


def _lower_quantile(values: Tensor, fraction: float) -> Tensor:
    """(n,) the largest finite value at or below the given share of each row's entries."""
    flat = values.flatten(1)
    k = int(fraction * (flat.shape[1] - 1))
    if flat.is_cuda:
        found = flat.kthvalue(k + 1, dim=1).values
    else:  # NumPy's selection takes half the time
        found = torch.from_numpy(np.partition(flat.numpy(), k, axis=1)[:, k])
    return found.clamp_max(torch.finfo(found.dtype).max)

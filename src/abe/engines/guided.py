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
        x = torch.where((slowest - point.x).mul_(way) > 0, slowest, point.x)
        spare = _length(point.sample - x) - _length(way) * (1 - alpha)
        return self._ahead(x, fastest - x, point.gradient.abs(), spare.clamp_min(0)), state

    def _ahead(self, x: Tensor, room: Tensor, magnitude: Tensor, spare: Tensor) -> Tensor:
        """Move the quietest features with ``room``, then the next, until ``spare`` (n,) is used up."""
        magnitude.masked_fill_(room == 0, torch.inf)
        ranked = _sorted(magnitude.flatten(1))
        group = int(self.fraction * (ranked.shape[1] - 1))
        moved = torch.zeros_like(spare, dtype=torch.long)
        last = torch.full_like(spare, -torch.inf)
        while bool((spare > 0).any()):
            # The lowest share of what has not moved ends ``group`` places behind what has.
            place = (moved + group).clamp_max(ranked.shape[1] - 1)
            limit = ranked.gather(1, place[:, None])[:, 0].clamp_max(torch.finfo(x.dtype).max)
            quiet = (magnitude <= along(limit, x)).logical_and_(magnitude > along(last, x))
            change = room * quiet
            available = _length(change)
            part = torch.where(available > 0, spare / available, 0).clamp_max_(1)
            x.addcmul_(change, along(part, x))
            spare = torch.where(part == 1, spare - available, 0)
            moved, last = moved + quiet.flatten(1).sum(1), limit
        return x


def _length(way: Tensor) -> Tensor:
    """(n,) L1 length of each row."""
    return torch.linalg.vector_norm(way.flatten(1), 1, dim=1, dtype=torch.float64).to(way.dtype)


def _sorted(rows: Tensor) -> Tensor:
    """Each row in ascending order."""
    if rows.is_cuda:
        return rows.sort(dim=1).values
    return torch.from_numpy(np.sort(rows.numpy(), axis=1))  # a fraction of torch's time on a CPU

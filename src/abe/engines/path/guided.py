"""The step of Guided IG: move the features with the smallest gradients first, within a band."""

from typing import ClassVar

import torch
from torch import Tensor

from abe.checks import NotNegative, Share
from abe.engines.path.step import Point, State
from abe.spec import value

SAMPLE = 2048
"""Entries of a row that are sorted to bracket a quantile."""
MARGIN = 0.05
"""Half width of the bracket as a share of the row: over four standard deviations of the sample."""


@value
class GuidedStep:
    """Shrink the L1 distance to the input by 1/T of the total, least sensitive features first.

    Features may run at most ``max_dist`` ahead of or behind the straight line.

    Args:
        fraction: share of features that is moved together.
        max_dist: width of the band around the straight line, in path length.
    """

    fraction: Share = 0.25
    max_dist: NotNegative = 0.02
    alone: ClassVar[bool] = True
    """Which features move hangs on the order of gradients that may be equal but for rounding: that of an
    execution copy or of another batch could lead a path elsewhere."""

    def step(self, point: Point, state: State) -> tuple[Tensor, State]:
        """The points after one step; every row stops when it has shrunk its distance enough."""
        alpha = (point.step + 1.0) / point.steps
        way = point.sample - point.start
        slowest = torch.add(point.start, way, alpha=max(alpha - self.max_dist, 0.0))
        fastest = torch.add(point.start, way, alpha=min(alpha + self.max_dist, 1.0))
        x = torch.where((slowest - point.x).mul_(way) > 0, slowest, point.x)
        spare = _length(point.sample - x) - _length(way) * (1 - alpha)
        self._ahead(x.flatten(1), fastest.sub_(x).flatten(1), point.gradient.flatten(1), spare.clamp_min_(0))
        return x, state

    def _ahead(self, x: Tensor, room: Tensor, gradient: Tensor, spare: Tensor) -> None:
        """Move the quietest features with ``room``, then the next, until ``spare`` (n,) is used up.

        Everything is (n, features); ``x`` is changed in place. What has moved is kept as a 0/1 mask and
        every group as the difference of two masks, which takes few passes over the features.
        """
        magnitude = gradient.abs().masked_fill_(room == 0, torch.inf)
        length, before, mask = room.abs(), torch.zeros_like(x), torch.empty_like(x)
        group = int(self.fraction * (x.shape[1] - 1))
        while bool((spare > 0).any()):
            place = (before.sum(1).long() + group).clamp_max_(x.shape[1] - 1)
            torch.le(magnitude, _ranked(magnitude, place)[:, None], out=mask)
            quiet = mask - before
            available = torch.linalg.vecdot(length, quiet)
            part = torch.where(available > 0, spare / available, 0).clamp_max_(1)
            x.addcmul_(quiet.mul_(room), part[:, None])
            spare = torch.where(part == 1, spare - available, 0)
            before, mask = mask, before


def _length(way: Tensor) -> Tensor:
    """(n,) L1 length of each row."""
    return way.abs().flatten(1).sum(1)


def _ranked(rows: Tensor, place: Tensor) -> Tensor:
    """(n,) each row's entry at ``place`` in ascending order, at most the largest finite number.

    A sample brackets the entry, so that only a few per cent of a row have to be ordered; a bracket that
    misses it falls back to the whole row.
    """
    size = rows.shape[1]
    sample = rows[:, :: max(1, size // SAMPLE)].sort(dim=1).values
    width = sample.shape[1]
    middle = place.double() * width / size
    low = sample.gather(1, (middle - MARGIN * width).clamp(0, width - 1).long()[:, None])
    high = sample.gather(1, (middle + MARGIN * width).clamp(0, width - 1).long()[:, None])
    inside = (rows >= low).logical_and_(rows <= high)
    rank = place - (rows < low).sum(1)
    found = [
        _entry(row, mask, int(r), int(k)) for row, mask, r, k in zip(rows, inside, rank, place, strict=True)
    ]
    return torch.stack(found).clamp_max(torch.finfo(rows.dtype).max)


def _entry(row: Tensor, inside: Tensor, rank: int, place: int) -> Tensor:
    """Entry ``rank`` of those inside the bracket, or entry ``place`` of all where it is not among them."""
    candidates = row[inside]
    if 0 <= rank < len(candidates):
        return candidates.kthvalue(rank + 1).values
    return row.kthvalue(place + 1).values

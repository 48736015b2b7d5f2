"""Bootstrap intervals over photographs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from abe.metrics.subsets import pearson, places

RESAMPLES = 4000


@dataclass(frozen=True)
class Interval:
    """A mean over photographs with its 95 % percentile bootstrap interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"

    @property
    def sign(self) -> str:
        """Which side of zero the whole interval lies on."""
        if self.low > 0:
            return "above"
        return "below" if self.high < 0 else "undecided"


def interval(values: Sequence[float], seed: int = 0) -> Interval:
    """Mean and 95 % interval; photographs are drawn again, numbers that are none are left out."""
    array = np.asarray([v for v in values if v == v], dtype=np.float64)
    if len(array) == 0:
        return Interval(float("nan"), float("nan"), float("nan"))
    drawn = np.random.default_rng(seed).integers(len(array), size=(RESAMPLES, len(array)))
    low, high = np.percentile(array[drawn].mean(1), [2.5, 97.5])
    return Interval(float(array.mean()), float(low), float(high))


def difference(one: Sequence[float], other: Sequence[float]) -> Interval:
    """Interval of the mean of ``one − other``, photograph by photograph."""
    return interval([a - b for a, b in zip(one, other, strict=True)])


def rank_correlation(one: Sequence[float], other: Sequence[float], seed: int = 0) -> Interval:
    """Spearman's correlation over photographs with its 95 % interval."""
    pairs = torch.tensor([one, other], dtype=torch.float64)
    drawn = np.random.default_rng(seed).integers(len(one), size=(RESAMPLES, len(one)))
    resampled = _spearman(pairs[:, torch.from_numpy(drawn)]).numpy()
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    return Interval(float(_spearman(pairs)), float(low), float(high))


def _spearman(pairs: torch.Tensor) -> torch.Tensor:
    """(*b,) of pairs (2, *b, n); a constant row has no correlation."""
    ranks = places(pairs)
    constant = (ranks.amax(-1) == ranks.amin(-1)).any(0)
    return pearson(*ranks).masked_fill(constant, torch.nan)


def verdict(claimed_above: Interval) -> str:
    """What the interval of a difference says of the claim that it is positive."""
    return {"above": "confirmed", "below": "refuted", "undecided": "not decided"}[claimed_above.sign]

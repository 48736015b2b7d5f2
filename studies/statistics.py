"""Bootstrap intervals over photographs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

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
    pairs = np.asarray([one, other], dtype=np.float64)
    count = pairs.shape[1]
    drawn = np.random.default_rng(seed).integers(count, size=(RESAMPLES, count))
    resampled = np.array([_spearman(pairs[:, rows]) for rows in drawn])
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    return Interval(_spearman(pairs), float(low), float(high))


def _spearman(pairs: np.ndarray) -> float:
    """Of two rows; ties share their mean rank, a constant row has no correlation."""
    ranks = np.array([_ranks(row) for row in pairs])
    centred = ranks - ranks.mean(1, keepdims=True)
    scale = float(np.sqrt((centred**2).sum(1).prod()))
    return float((centred[0] * centred[1]).sum() / scale) if scale > 0 else float("nan")


def _ranks(row: np.ndarray) -> np.ndarray:
    _, place, count = np.unique(row, return_inverse=True, return_counts=True)
    return (count.cumsum() - (count - 1) / 2)[place]


def verdict(claimed_above: Interval) -> str:
    """What the interval of a difference says of the claim that it is positive."""
    return {"above": "confirmed", "below": "refuted", "undecided": "not decided"}[claimed_above.sign]

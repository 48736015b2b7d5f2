"""Patterns of signs that flip paired differences, and Student's t of what they flip."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from abe.metrics.evaluation.statistics import HELD

EXACT = 16
"""Units up to which all patterns of signs are tried."""
FLIPS = 9999
"""Patterns of signs that are drawn where there are more units."""
TIE = 1e-9
"""Share of a statistic, or of 1, below which a flipped one counts as reaching it."""
ALIKE = 1e-12
"""Share of the largest possible sum that rounding takes from units that are all alike."""


@dataclass(frozen=True)
class Flips:
    """Patterns of signs for a number of units: all of them, or drawn ones.

    Attributes:
        signs: (s, g) of ±1.
        exact: whether these are all.
    """

    signs: Float[Tensor, "s g"]
    exact: bool

    @classmethod
    def of(cls, units: int, seed: int) -> "Flips":
        """All patterns for up to `EXACT` units, else `FLIPS` of NumPy's default generator."""
        if units <= EXACT:
            patterns = torch.arange(2**units)[:, None] >> torch.arange(units)[None]
            return cls(1 - 2 * (patterns & 1).double(), True)
        drawn = np.random.default_rng(seed).integers(0, 2, size=(FLIPS, units)) * 2 - 1
        return cls(torch.from_numpy(drawn).double(), False)

    def p(self, count: int) -> float:
        """The p of a count of patterns that reach what was seen."""
        return count / len(self.signs) if self.exact else (count + 1) / (len(self.signs) + 1)

    def sums(self, columns: Float[Tensor, "g m"]) -> Iterator[Float[Tensor, "s m"]]:
        """Sums of the columns under the patterns, some patterns at a time."""
        for some in self.signs.split(max(1, HELD // max(1, columns.shape[1]))):
            yield some @ columns

    def reach(self, columns: Float[Tensor, "g m"], seen: Float[Tensor, "m"], *, sides: int) -> list[int]:
        """How many patterns bring the mean of each column to what was seen, or beyond."""
        limit = (seen - TIE * seen.abs().clamp_min(1)) * len(columns)
        count = torch.zeros(columns.shape[1], dtype=torch.long)
        for sums in self.sums(columns):
            count += ((sums.abs() if sides == 2 else sums) >= limit).sum(0)
        return count.tolist()


def steady(columns: Float[Tensor, "g m"]) -> Float[Tensor, "g m"]:
    """Columns whose flipped sums r rise with Student's t = r √(g − 1) / √(1 − r²), between −1 and 1."""
    length = columns.square().sum(0).mul(len(columns)).sqrt()
    return columns / torch.where(length > 0, length, 1)


def student(r: Float[Tensor, "m"], n: int) -> Float[Tensor, "m"]:
    """Student's t of sums of `steady` columns of n units; infinite where all units are alike."""
    t = r * math.sqrt(max(n - 1, 0)) / (1 - r.square()).clamp_min(torch.finfo(r.dtype).tiny).sqrt()
    return torch.where(r.abs() > 1 - ALIKE, r.sign() * math.inf, t)


def limit(t: Float[Tensor, "m"], n: int) -> Float[Tensor, "m"]:
    """The sums of `steady` columns from which Student's t reaches what was seen, but for rounding.

    Args:
        t: what was seen.
        n: units.
    """
    least = t - TIE * t.abs().clamp_min(1)
    return torch.where(t.isinf(), t.sign() * (1 - ALIKE), least / (n - 1 + least.square()).sqrt())

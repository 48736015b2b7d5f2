"""First and second moments of rows by sample."""

import torch
from torch import Tensor


class Moments:
    """First and second moments of rows by sample; runs of rows are added up in float64."""

    def __init__(self, x: Tensor) -> None:
        self._like = x
        self._first = torch.zeros(x.shape, dtype=torch.float64, device=x.device)
        self._second = torch.zeros_like(self._first)

    def add(self, owner: Tensor, rows: Tensor) -> None:
        """Add one row per entry of ``owner``."""
        runs, counts = owner.unique_consecutive(return_counts=True)
        for sample, part in zip(runs.tolist(), rows.split(counts.tolist()), strict=True):
            self._first[sample] += part.sum(0)
            self._second[sample] += part.square().sum(0)

    def mean(self, n: int) -> Tensor:
        """(b, *f) mean."""
        return (self._first / n).to(self._like)

    def square(self, n: int) -> Tensor:
        """(b, *f) mean square."""
        return (self._second / n).to(self._like)

    def variance(self, n: int) -> Tensor:
        """(b, *f) E[g²] − E[g]², the biased variance."""
        return (self._second / n - (self._first / n).square()).clamp_min(0).to(self._like)

    def mean_error(self, n: int) -> Tensor:
        """(b, *f) standard error of the mean: √(unbiased variance / n); zero for a single draw."""
        return (self.variance(n).double() / max(n - 1, 1)).sqrt().to(self._like)

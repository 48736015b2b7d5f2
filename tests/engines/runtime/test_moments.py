"""Sums over rows against torch's own statistics."""

import pytest
import torch

from abe.engines.runtime.moments import Moments


@pytest.mark.parametrize("n", [1, 2, 7])
def test_every_moment_is_as_torch_has_it(n: int) -> None:
    rows = torch.randn(3, n, 4, 2, dtype=torch.float64)
    owner = torch.arange(3).repeat_interleave(n)
    sums = Moments(torch.zeros(3, 4, 2))
    for part, own in zip(rows.flatten(0, 1).split(2), owner.split(2), strict=True):  # chunks cut samples
        sums.add(own, part)
    right = {
        "mean": rows.mean(1),
        "square": rows.square().mean(1),
        "variance": rows.var(1, correction=0),
        "mean_error": rows.std(1) / n**0.5 if n > 1 else torch.zeros(3, 4, 2, dtype=torch.float64),
    }
    for name, value in right.items():
        torch.testing.assert_close(getattr(sums, name)(n), value.float(), msg=name)

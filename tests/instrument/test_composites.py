"""Operations taken apart give what torch's own give."""

import math

import pytest
import torch

from abe.instrument.composites import _vector_norm


@pytest.mark.parametrize("ord", [1, 2, 3, 0.5, -1, math.inf, -math.inf])
@pytest.mark.parametrize("dim", [None, 1, (0, 2)])
def test_norms_of_vectors(ord: float, dim: int | tuple[int, ...] | None) -> None:
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for keepdim in (False, True):
        found = _vector_norm(x, ord, dim, keepdim)
        torch.testing.assert_close(found, torch.linalg.vector_norm(x, ord, dim, keepdim))

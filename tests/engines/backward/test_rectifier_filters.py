"""The limit of RectGrad against torch's own quantiles."""

import pytest
import torch

from abe.engines.backward.rectifier_filters import quantile


@pytest.mark.parametrize("length", [1, 2, 5, 101])
@pytest.mark.parametrize("q", [0.0, 0.3, 0.5, 0.98, 0.999])
def test_quantiles_of_rows_are_torchs(length: int, q: float) -> None:
    values = torch.randn(4, length, dtype=torch.float64)
    torch.testing.assert_close(quantile(values, q), values.quantile(q, 1))

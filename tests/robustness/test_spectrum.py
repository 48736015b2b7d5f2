"""Copies of a point by its spectrum, with cosines written out."""

import math

import pytest
import torch
from tests.metrics.common import evidence_task, photos, problem
from torch import Tensor

from abe import image_task
from abe.robustness.spectrum import SpectrumCopies


def cosines(n: int) -> Tensor:
    """(n, n) orthonormal DCT-II."""
    rows = [
        [
            math.sqrt((1 if k == 0 else 2) / n) * math.cos(math.pi * (2 * i + 1) * k / (2 * n))
            for i in range(n)
        ]
        for k in range(n)
    ]
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1.0), None])
def test_copies_have_noise_and_every_frequency_scaled(bounds: tuple[float, float] | None) -> None:
    task, _ = evidence_task()
    x, sigma, rho = photos(2).double(), 0.05, 0.4
    given = problem(image_task(task.model.double(), bounds=bounds, channels=3), x, target=1)
    owner, number = torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1])
    made = SpectrumCopies(sigma=sigma, rho=rho)._copies(given, x[owner], owner, number)
    keys = given.keys(owner, number)
    noise = given.draws.normal("spectrum.noise", keys, x.shape[1:]).double()
    drawn = given.draws.uniform("spectrum.scale", keys, x.shape[1:]).double()
    black, base = (bounds or (0.0,))[0], cosines(x.shape[-1])
    moved = base @ (x[owner] - black + sigma * noise) @ base.T
    right = base.T @ (moved * (1 - rho + 2 * rho * drawn)) @ base + black
    torch.testing.assert_close(made, right)

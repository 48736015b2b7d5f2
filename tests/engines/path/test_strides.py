"""Inputs whose channels lie last in memory are explained as any others."""

import pytest
import torch
from torch import nn

import abe


@pytest.mark.parametrize("name", ["isa", "mfaba", "agi", "guided_ig", "shapley", "gradient"])
def test_strides_of_an_input_do_not_matter(name: str) -> None:
    made = torch.Generator().manual_seed(3)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softplus(), nn.Flatten(), nn.Linear(144, 3)).double()
    with torch.no_grad():
        for one in net.parameters():
            one.copy_(torch.randn(one.shape, generator=made, dtype=torch.float64) / 4)
    task, x = abe.image_task(net), torch.rand(1, 3, 8, 8, dtype=torch.float64, generator=made)
    plain = abe.explain(task, x, name, progress=False)
    other = abe.explain(task, x.to(memory_format=torch.channels_last), name, progress=False)
    assert bool(plain.attribution.any())
    assert torch.equal(plain.attribution, other.attribution)

"""Bounds that follow the input to the first layer: parts, normalisation, turned axes."""

import pytest
import torch
from torch import nn

import abe
from abe.errors import ModelError
from abe.types import Part


class Mixed(nn.Module):
    """One dense layer over the vector of a colour and two numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.colour, self.head = nn.Embedding(3, 2), nn.Linear(4, 2, bias=False)

    def forward(self, codes, numbers):
        return self.head(torch.cat([self.colour(codes[:, 0]), numbers], 1))


BACKGROUND = {"colour": [0, 1, 2], "age": [1.0, 4.0, 9.0], "mass": [0.0, 1.0, 0.5]}
ROW = {"colour": [2], "age": [4.0], "mass": [0.25]}


def mixed(net, **more):
    categories = {"colour": ["red", "green", "blue"]}
    return abe.table_task(net, background=BACKGROUND, categories=categories, output_kind="logits", **more)


def test_categories_have_the_bounds_of_their_table():
    torch.manual_seed(0)
    net = Mixed().double()
    found = abe.explain(
        mixed(net, bounds=([0.0, -1.0], [10.0, 2.0])), ROW, "deep_taylor", target=1, progress=False
    )
    table, w = net.colour.weight.detach(), net.head.weight.detach()[1]
    x = torch.cat([table[2], torch.tensor([4.0, 0.25], dtype=torch.float64)])
    low = torch.cat([table.amin(0), torch.tensor([0.0, -1.0], dtype=torch.float64)])
    high = torch.cat([table.amax(0), torch.tensor([10.0, 2.0], dtype=torch.float64)])
    parts = x * w - low * w.clamp(min=0) - high * w.clamp(max=0)
    start = found.attribution.sum()
    assert torch.allclose(found.attribution[0], start * parts / parts.sum(), atol=1e-9)
    assert float(start.abs()) > 0


def test_what_has_no_bounds_is_named_and_how_to_go_on():
    with pytest.raises(ModelError, match="some inputs without bounds") as caught:
        abe.explain(mixed(Mixed()), ROW, "deep_taylor", progress=False)
    assert "bounded=False" in str(caught.value)
    assert abe.explain(mixed(Mixed()), ROW, "deep_taylor", bounded=False, progress=False).shape == (1, 4)
    task = mixed(Mixed())
    parts = task.lift(ROW).parts
    assert [isinstance(part, Part) and part.low is not None for part in parts] == [True, False]


def test_bounds_are_normalised_and_turned_as_the_input_is():
    torch.manual_seed(1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(6, 2, bias=False)).double()
    low, high, mean, std = [0.0, -2.0], [1.0, 3.0], [0.5, 1.0], [2.0, 0.5]
    task = abe.series_task(net, "btc", bounds=(low, high), mean=mean, std=std, output_kind="logits")
    x = torch.rand(1, 3, 2, dtype=torch.float64) * torch.tensor([1.0, 5.0]) + torch.tensor(low)
    found = abe.explain(task, x, "deep_taylor", target=0, progress=False)
    w = net[1].weight.detach()[0].view(3, 2)
    seen = [
        (torch.as_tensor(v, dtype=torch.float64) - torch.tensor(mean)) / torch.tensor(std)
        for v in (low, high)
    ]
    inside = (x[0] - torch.tensor(mean)) / torch.tensor(std)
    parts = inside * w - seen[0] * w.clamp(min=0) - seen[1] * w.clamp(max=0)
    share = found.attribution[0].T
    assert torch.allclose(share, share.sum() * parts / parts.sum(), atol=1e-9)

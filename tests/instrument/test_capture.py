"""Layers of models: their outputs, read and replaced."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from abe.instrument.capture import replacing, with_first


class Found(NamedTuple):
    note: str
    states: Tensor
    last: Tensor
    more: int


@pytest.mark.parametrize(
    "output",
    [
        (torch.zeros(2), torch.ones(3), "rest"),
        ("first", torch.zeros(2), torch.ones(3), 4),
        [torch.zeros(2), torch.ones(3), torch.ones(4)],
        Found("says", torch.zeros(2), torch.ones(3), 7),
    ],
)
def test_only_the_first_tensor_is_exchanged(output: tuple[object, ...]) -> None:
    """What stands before and behind it is what it was, and as often."""
    place = next(i for i, one in enumerate(output) if isinstance(one, Tensor))
    made, done = with_first(output, torch.full((2,), 5.0))
    assert done
    assert type(made) is type(output)
    assert len(made) == len(output)
    for i, (one, was) in enumerate(zip(made, output, strict=True)):
        assert (one is was) != (i == place)
    assert made[place].tolist() == [5, 5]


def test_a_recurrent_layer_hands_on_its_own_state() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(2, 3, batch_first=True)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            sequence, state = self.rnn(x)
            return sequence, state

    net, x = Net(), torch.rand(1, 4, 2)
    _, state = net(x)
    with replacing(net, "rnn", torch.zeros(1, 4, 3)):
        sequence, same = net(x)
    assert not sequence.any()
    torch.testing.assert_close(same, torch.zeros_like(state))  # the end of what stands in for the layer

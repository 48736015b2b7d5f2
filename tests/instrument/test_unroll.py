"""Recurrent layers unrolled: the same values, and rules that reach inside."""

import pytest
import torch
from tests.engines.backward.test_run import closure, explain, images
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from abe.errors import ModelError
from abe.instrument.modes import Instrument


class Recurrent(nn.Module):
    """A recurrent layer over the columns of an image, its last step scored."""

    def __init__(self, make) -> None:
        super().__init__()
        state = torch.get_rng_state()
        torch.random.default_generator.manual_seed(1)
        self.layer = make()
        self.head = nn.LazyLinear(3)
        self.double().eval()
        with torch.no_grad():
            self(images(1))
        torch.set_rng_state(state)

    def forward(self, x: Tensor) -> Tensor:
        steps = x.flatten(1, 2).transpose(1, 2)
        if not self.layer.batch_first:
            steps = steps.transpose(0, 1)
        out, state = self.layer(steps)
        state = state[0] if isinstance(state, tuple) else state
        return self.head(torch.cat([out.mean(1 - (not self.layer.batch_first)), *state], -1))


class Cells(nn.Module):
    """The cells, one step after another."""

    def __init__(self) -> None:
        super().__init__()
        state = torch.get_rng_state()
        torch.random.default_generator.manual_seed(2)
        self.lstm, self.gru = nn.LSTMCell(24, 5), nn.GRUCell(5, 4)
        self.rnn = nn.RNNCell(4, 3, nonlinearity="relu")
        torch.set_rng_state(state)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        cell = gru = rnn = None
        for step in x.flatten(1, 2).unbind(-1):
            cell = self.lstm(step, cell)
            gru = self.gru(cell[0], gru)
            rnn = self.rnn(gru, rnn)
        return rnn


NETS = {
    "lstm": lambda: Recurrent(lambda: nn.LSTM(24, 5, 2, bidirectional=True, batch_first=True)),
    "projected lstm": lambda: Recurrent(lambda: nn.LSTM(24, 5, 2, proj_size=3)),
    "lstm without biases": lambda: Recurrent(lambda: nn.LSTM(24, 5, bias=False, batch_first=True)),
    "gru": lambda: Recurrent(lambda: nn.GRU(24, 5, 2, bidirectional=True)),
    "rnn": lambda: Recurrent(lambda: nn.RNN(24, 5, nonlinearity="relu", batch_first=True)),
    "tanh rnn": lambda: Recurrent(lambda: nn.RNN(24, 5)),
    "cells": Cells,
}


@pytest.mark.parametrize("name", NETS)
def test_rules_reach_inside(name):
    net, x = NETS[name](), images()
    seen = []
    with torch.no_grad():
        plain = net(x)
        with Instrument(net, observe=lambda seen_, *_: seen.append(seen_.name), decompose=True):
            unrolled = net(x)
    assert torch.allclose(plain, unrolled, atol=1e-14)
    assert not {"lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_relu_cell"} & set(seen)
    for method in ("deeplift", "dl_rev"):
        assert float(explain(net, x, method).residual.abs().max()) < 1e-8
    assert closure(explain(net, x, "lrp_epsilon")) < 1e-3


class Packed(Recurrent):
    def forward(self, x: Tensor) -> Tensor:
        steps = x.flatten(1, 2).transpose(1, 2)
        packed = pack_padded_sequence(steps, torch.full((len(x),), 8), batch_first=True)
        return self.head(self.layer(packed)[1][0][0])


def test_packed_sequences_are_refused():
    net = Packed(lambda: nn.LSTM(24, 5, batch_first=True))
    with pytest.raises(ModelError, match=r"[Pp]acked.*lstm.*ABE-RULE"):
        explain(net, images(), "deeplift")

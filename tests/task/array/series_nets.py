"""Small networks of series: recurrent, convolutional, and a forecast."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.out = nn.LSTM(3, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(x)[0][:, -1])


class Cnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv1d(3, 8, 5, padding=2), nn.Conv1d(8, 8, 3, padding=1)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.b(self.a(x).relu()).tanh().mean(2))


class Forecast(nn.Module):
    """Four steps of three variables, added to what was seen last."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.out = nn.GRU(3, 8, batch_first=True), nn.Linear(8, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(x)[0][:, -1]).view(-1, 4, 3) + x[:, -1:]


class Turned(nn.Module):
    """A network that takes time and channels the other way round."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.movedim(1, 2))


class TurnedLstm(Lstm):
    """The same layers under the same names: some draws go by the name of a layer."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, 2))


class TurnedCnn(Cnn):
    """The same."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, 2))


class Active(nn.Module):
    """A score that reads steps 8 to 11 of channel 1, and nothing else."""

    def forward(self, x: Tensor) -> Tensor:
        read = x[:, 8:12, 1]
        return torch.stack([read.square().sum(1) + read.sum(1), -read.sum(1)], 1)


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A network with weights of its own, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = make()
        for weights in model.parameters():
            nn.init.normal_(weights, std=0.4)
    return model.eval()

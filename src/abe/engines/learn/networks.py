"""Networks that amortised explainers train, and who trains them."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init

from abe.draws import mix


class Scorer(nn.Module):
    """Scores of positions (n, 1, *space) for inputs (n, c, *space), of features (n, d) for (n, d).

    Two halvings, a gate that asks every place whether it belongs to the class, and back up with
    connections across (dabkowski2017); without positions a perceptron.

    Args:
        shape: of the inputs.
        classes: that the gate tells apart; 0 for no gate.
        width: channels at full resolution.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, width: int) -> None:
        super().__init__()
        self._spatial = len(shape) > 1
        sizes = _sizes(shape, width)
        if self._spatial:
            self.layers = nn.ModuleList(
                skip_init(nn.Conv2d, a, b, 3, stride=2 if i in (1, 2) else 1, padding=1)
                for i, (a, b) in enumerate(sizes)
            )
        else:
            self.layers = nn.ModuleList(skip_init(nn.Linear, a, b) for a, b in sizes)
        self.gate = skip_init(nn.Embedding, classes, 4 * width) if classes else None

    @staticmethod
    def shapes(shape: tuple[int, ...], classes: int, width: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the weights by name, known without making them."""
        kernel = (3, 3) if len(shape) > 1 else ()
        found: dict[str, tuple[int, ...]] = {"gate.weight": (classes, 4 * width)} if classes else {}
        for i, (a, b) in enumerate(_sizes(shape, width)):
            found |= {f"layers.{i}.weight": (b, a, *kernel), f"layers.{i}.bias": (b,)}
        return found

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """Scores without bounds."""
        if not self._spatial:
            hidden = F.relu(self.layers[0](x))
            return self.layers[2](F.relu(self.layers[1](self._gated(hidden, target))))
        image = _plane(x)
        full = F.relu(self.layers[0](image))
        half = F.relu(self.layers[1](full))
        deep = self._gated(F.relu(self.layers[2](half)), target)
        up = F.interpolate(deep, size=half.shape[2:])
        up = F.relu(self.layers[3](torch.cat([up, half], 1)))
        up = F.interpolate(up, size=full.shape[2:])
        out = self.layers[5](F.relu(self.layers[4](torch.cat([up, full], 1))))
        return out.reshape(len(x), out.shape[1], *x.shape[2:])

    def _gated(self, hidden: Tensor, target: Tensor) -> Tensor:
        if self.gate is None:
            return hidden
        wanted = self.gate(target).view(len(hidden), -1, *[1] * (hidden.ndim - 2))
        return hidden * torch.sigmoid((hidden * wanted).sum(1, keepdim=True)) + wanted


def _plane(x: Tensor) -> Tensor:
    """(n, c, h, w) features of any number of axes of positions: the last is kept, the others lie below."""
    return x[:, :, None] if x.ndim == 3 else x.flatten(2, -2)


def _sizes(shape: tuple[int, ...], width: int) -> list[tuple[int, int]]:
    """Channels or features that every layer of a scorer reads and gives."""
    read, deep = shape[0], 4 * width
    if len(shape) == 1:
        return [(read, deep), (deep, deep), (deep, read)]
    down = [(read, width), (width, 2 * width), (2 * width, deep)]
    return [*down, (deep + 2 * width, 2 * width), (2 * width + width, width), (width, 1)]


class Approximator(nn.Module):
    """L2X's second network: the prediction from the selected units alone."""

    def __init__(self, shape: tuple[int, ...], classes: int, width: int) -> None:
        super().__init__()
        self._spatial = len(shape) > 1
        side = 4 if self._spatial else 1
        if self._spatial:
            self.first = skip_init(nn.Conv2d, shape[0], 2 * width, 3, padding=1)
        else:
            self.first = skip_init(nn.Linear, shape[0], 8 * width)
        self.second = skip_init(nn.Linear, 2 * width * side * side if self._spatial else 8 * width, 8 * width)
        self.head = skip_init(nn.Linear, 8 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(n, classes) log-probabilities."""
        if self._spatial:
            hidden = F.relu(self.first(_plane(x)))
            hidden = F.adaptive_avg_pool2d(hidden, 4).flatten(1)
        else:
            hidden = F.relu(self.first(x))
        return torch.log_softmax(self.head(F.relu(self.second(hidden))), dim=1)


class Learner(nn.Module):
    """Scorers, one per member, and what else a training needs."""

    def __init__(self, scorers: list[Scorer], approximator: Approximator | None = None) -> None:
        super().__init__()
        self.scorers = nn.ModuleList(scorers)
        self.approximator = approximator


def filled(net: nn.Module, seed: int, like: Tensor) -> Any:
    """``net`` with weights of a seed, uniform within ±1/√fan-in, like ``like``; no global draw."""
    for number, parameter in enumerate(net.parameters()):
        fan = parameter[0].numel() if parameter.ndim > 1 else len(parameter)
        drawn = torch.rand(parameter.shape, generator=torch.Generator().manual_seed(mix(seed, number)))
        with torch.no_grad():
            parameter.copy_((2 * drawn - 1) / fan**0.5)
    return net.to(like)

"""Small networks for rows, series and pictures, and the few lines that train them in seconds."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Rows(nn.Module):
    """Embedded categories beside numbers, two hidden layers.

    Args:
        sizes: how many texts each category has.
        numbers: how many numbers a row has.
        classes: how many there are.
    """

    def __init__(self, sizes: list[int], numbers: int, classes: int) -> None:
        super().__init__()
        self.embed = nn.ModuleList(nn.Embedding(size, 4) for size in sizes)
        self.layers = nn.Sequential(
            *(nn.Linear(4 * len(sizes) + numbers, 32), nn.ReLU()),
            *(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, classes)),
        )

    def forward(self, codes: Tensor, numbers: Tensor) -> Tensor:
        """(n, classes) of codes (n, k) and numbers (n, m)."""
        looked_up = [embed(codes[:, place]) for place, embed in enumerate(self.embed)]
        return self.layers(torch.cat([*looked_up, numbers], 1))


class Numbers(nn.Sequential):
    """The same without categories."""

    def __init__(self, numbers: int, classes: int) -> None:
        super().__init__(
            *(nn.Linear(numbers, 32), nn.ReLU()),
            *(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, classes)),
        )


class Waves(nn.Module):
    """Two convolutions over time and a mean; takes (n, channels, steps)."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv1d(channels, 24, 5, padding=2), nn.ReLU()),
            *(nn.Conv1d(24, 32, 5, padding=2), nn.ReLU()),
        )
        self.head = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(n, classes)."""
        return self.head(self.features(x).mean(2))


class Recurrent(nn.Module):
    """An LSTM whose states are averaged over time; takes (n, steps, channels)."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(channels, 24, batch_first=True)
        self.head = nn.Linear(24, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(n, classes)."""
        return self.head(self.recurrent(x)[0].mean(1))


class Cutter(nn.Module):
    """What belongs to the object: a small U-shaped network.

    It takes (n, 3, h, w) and gives (n, 2, h, w); h and w are multiples of 4.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first = _block(3, 16)
        self.second = _block(16, 32)
        self.third = _block(32, 48)
        self.up_second = _block(48 + 32, 32)
        self.up_first = _block(32 + 16, 16)
        self.head = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of surroundings and object at every pixel."""
        fine = self.first(x)
        middle = self.second(F.max_pool2d(fine, 2))
        coarse = self.third(F.max_pool2d(middle, 2))
        middle = self.up_second(torch.cat([F.interpolate(coarse, scale_factor=2.0), middle], 1))
        return self.head(self.up_first(torch.cat([F.interpolate(middle, scale_factor=2.0), fine], 1)))


def _block(given: int, made: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(given, made, 3, padding=1), nn.BatchNorm2d(made), nn.ReLU())


def drawn(made: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A network whose weights come from a seed; the global generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        model = made()
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                bound = (3 / weight[0].numel()) ** 0.5
                weight.uniform_(-bound, bound, generator=draws)
            elif "bias" in name:
                weight.zero_()
    return model.eval()


def fitted(
    made: Callable[[], nn.Module],
    inputs: tuple[Tensor, ...],
    target: Tensor,
    passes: int,
    *,
    rate: float = 3e-3,
) -> nn.Module:
    """A network trained with AdamW on batches of 32, from the seed 0.

    Args:
        made: makes the network.
        inputs: what it takes, a row per sample.
        target: (n,) classes, or (n, h, w) of pixels.
        passes: over all samples.
        rate: of learning; it falls to 0 in a straight line.
    """
    model = drawn(made)
    draws = torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    slower = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, passes * -(-len(target) // 32))
    model.train()
    for _ in range(passes):
        for rows in torch.randperm(len(target), generator=draws).split(32):
            loss = F.cross_entropy(model(*(part[rows] for part in inputs)), target[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            slower.step()
    return model.eval().requires_grad_(False)


def right(model: nn.Module, inputs: tuple[Tensor, ...], target: Tensor) -> float:
    """Share of samples, or of pixels, that a network names rightly."""
    with torch.no_grad():
        return float((model(*inputs).argmax(1) == target).double().mean())


class Towers(nn.Module):
    """Two small towers: photographs by a convolution, captions by the mean of their words."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.look, self.out = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 6)
        self.embedding, self.read = nn.Embedding(words, 8), nn.Linear(8, 6)

    def encode_image(self, image: Tensor) -> Tensor:
        """(n, 6) of photographs (n, 3, h, w)."""
        return self.out(self.look(image).relu().mean((2, 3)))

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(n, 6) of captions (n, t)."""
        there = attention_mask[..., None].to(self.read.weight)
        return self.read((self.embedding(input_ids) * there).sum(1) / there.sum(1).clamp_min(1))

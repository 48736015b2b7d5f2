"""Small pictures whose class is a shape in the middle, and a network that learns them in seconds."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import skip_init

import abe
from abe.metrics import PerturbationRun, as_metric
from abe.metrics.evaluation.truth import LABEL
from abe.metrics.soundness import RATIOS, Completeness, Soundness
from abe.registry import baselines
from abe.testing import problem_of, task_of

SIDE = 28
CLASSES = 6


def pictures(n: int, *, seed: int, classes: int = CLASSES) -> tuple[Tensor, Tensor]:
    """(n, 3, 28, 28) in [0, 1] and (n,) labels: one of six shapes on a smooth, coloured background."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=g)
    coarse = torch.rand(n, 3, 5, 5, generator=g)
    back = 0.1 + 0.5 * functional.interpolate(coarse, (SIDE, SIDE), mode="bicubic").clamp(0, 1)
    at = torch.arange(SIDE, dtype=torch.float32)
    centre = SIDE / 2 - 0.5 + 2 * (2 * torch.rand(n, 2, generator=g) - 1)
    y = (at[None, :, None] - centre[:, 0, None, None]).expand(-1, -1, SIDE)
    x = (at[None, None, :] - centre[:, 1, None, None]).expand(-1, SIDE, -1)
    shape = torch.stack([drawn(y, x) for drawn in SHAPES])[labels, torch.arange(n)]
    colour = 0.7 + 0.3 * torch.rand(n, 3, 1, 1, generator=g)
    image = torch.where(shape[:, None], colour, back)
    return (image + 0.03 * torch.randn(image.shape, generator=g)).clamp(0, 1), labels


def _box(y: Tensor, x: Tensor, half: float) -> Tensor:
    return (y.abs() <= half) & (x.abs() <= half)


SHAPES: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    lambda y, x: _box(y, x, 5),
    lambda y, x: _box(y, x, 7) & ~_box(y, x, 5),
    lambda y, x: _box(y, x, 7) & ((y.abs() <= 1.5) | (x.abs() <= 1.5)),
    lambda y, x: _box(y, x, 7) & (((y - x).abs() <= 2) | ((y + x).abs() <= 2)),
    lambda y, x: _box(y, x, 7) & (y.div(2).floor() % 3 == 0),
    lambda y, x: _box(y, x, 7) & (x.div(2).floor() % 3 == 0),
)


def network(classes: int = CLASSES, *, seed: int = 0) -> nn.Sequential:
    """A convolutional network with weights of a seed."""
    net = nn.Sequential(
        skip_init(nn.Conv2d, 3, 12, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        skip_init(nn.Conv2d, 12, 24, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        skip_init(nn.Linear, 24 * (SIDE // 4) ** 2, classes),
    )
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            size = p[0].numel() ** -0.5 if p.ndim > 1 else 0.01
            p.copy_(size * (2 * torch.rand(p.shape, generator=g) - 1))
    return net


def trained(
    x: Tensor, labels: Tensor, *, classes: int = CLASSES, epochs: int = 6, seed: int = 0
) -> nn.Module:
    """A network that has learnt pictures and labels."""
    net = network(classes, seed=seed)
    optimiser = torch.optim.Adam(net.parameters(), lr=2e-3)
    g = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=g).split(64):
            optimiser.zero_grad()
            functional.cross_entropy(net(x[rows]), labels[rows]).backward()
            optimiser.step()
    return net.eval()


def accuracy(net: nn.Module, x: Tensor, labels: Tensor) -> float:
    """Share of pictures that are classified right."""
    with torch.no_grad():
        return float((net(x).argmax(1) == labels).double().mean())


def classifier(count: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A network that has learnt the shapes, and pictures it has not seen."""
    net = trained(*pictures(1500, seed=1))
    return net, *pictures(count, seed=2)


def unit_map(net: nn.Module, x: Tensor, method: str, **params: Any) -> Tensor:
    """(n, 1, h, w) magnitudes averaged over channels, from 0 to 1 per picture."""
    maps = abe.explain(task_of(net), x, method, progress=False, **params).attribution
    found = maps.abs().mean(1, keepdim=True)
    low, high = found.amin((1, 2, 3), keepdim=True), found.amax((1, 2, 3), keepdim=True)
    return (found - low) / (high - low).clamp_min(1e-12)


def four_curves(
    net: nn.Module, x: Tensor, labels: Tensor, maps: Tensor, *, every: int = 1
) -> dict[str, Tensor]:
    """(k, 2) points of completeness, soundness (at each ``every``-th ratio), deletion and ROAD."""
    problem = problem_of(net, x, target=labels)
    known = SimpleNamespace(attribution=maps, diagnostics={LABEL: labels})
    metric: Completeness = as_metric("completeness").value
    complete = metric.curve(problem, known)
    walk: Soundness = as_metric(("soundness", {"ratios": RATIOS[::every]})).value
    sound = walk.curve(walk.collect(problem, known))
    found = {
        "completeness": torch.stack([complete.thresholds, complete.complete], 1),
        "soundness": torch.stack([sound.accuracy, sound.sound], 1),
    }
    for name, removal in (("deletion", "zero"), ("ROAD", "noisy_linear")):
        run = PerturbationRun(direction="deletion", baseline=baselines.make(removal), step=0.1)
        right = run.perform(problem, maps).curve("accuracy").double().mean(0)
        found[name] = torch.stack([torch.linspace(0, 1, len(right)).double(), right], 1)[1:-1]
    return found

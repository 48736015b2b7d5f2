"""Where the laws run: samples, tasks and problems around the kit's nets."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from abe.draws import SeededDraws
from abe.engines.runtime.evaluator import Evaluator
from abe.engines.runtime.problem import Problem
from abe.engines.runtime.request import pose
from abe.objectives import as_objective
from abe.task.base import Context, Lifted, Task
from abe.task.image.lifter import image_task
from abe.testing.nets import CHANNELS, SHAPE
from abe.types import Draws

TARGET = 1
"""The explained class: fixed, because a law compares nets whose predictions may differ."""


def samples(b: int = 3, *, seed: int = 0, dtype: torch.dtype = torch.float64, shape: Any = SHAPE) -> Tensor:
    """(b, *shape) inputs in [0.05, 0.95]; the first ones do not depend on ``b``."""
    rows = [
        torch.rand(shape, generator=torch.Generator().manual_seed(1000 * seed + i), dtype=torch.float64)
        for i in range(b)
    ]
    return (0.05 + 0.9 * torch.stack(rows)).to(dtype)


def task_of(net: nn.Module) -> Task:
    """An image task in [0, 1] whose output is logits."""
    return image_task(net, channels=CHANNELS, output_kind="logits")


def problem_of(
    net: nn.Module,
    x: Tensor,
    *,
    target: Any = TARGET,
    objective: Any = "logit",
    draws: Draws | None = None,
    seed: int = 0,
    chunk: int | None = None,
) -> Problem:
    """A request as `abe.explain` makes it, for parts that are checked alone; sets ``net`` to evaluate."""
    task = task_of(net.eval())
    evaluator = Evaluator(task, execution="model", chunk=chunk)
    lifted = Lifted(x, Context(), [f"sample {i}" for i in range(len(x))])
    score, draws = as_objective(objective), draws or SeededDraws(seed=seed)
    return pose(evaluator, lifted, target, score, draws).predicted()


@dataclass(frozen=True)
class Known:
    """A function of two inputs u, v (the first two of an image) whose attributions are known.

    Attributes:
        name: as a formula.
        score: (n,) from u and v.
        gradient: (n, 2) its derivatives.
        integrated: (n, 2) Integrated Gradients from zero, by hand.
    """

    name: str
    score: Callable[[Tensor, Tensor], Tensor]
    gradient: Callable[[Tensor, Tensor], Tensor]
    integrated: Callable[[Tensor, Tensor], Tensor]

    def net(self) -> nn.Module:
        """A model of the function with two classes, 0 and the function."""
        return _Function(self.score)


class _Function(nn.Module):
    def __init__(self, score: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self._score = score
        self.one = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        score = self._score(flat[:, 0], flat[:, 1]) * self.one
        return torch.stack([torch.zeros_like(score), score], dim=1)


def _pair(a: Tensor, b: Tensor) -> Tensor:
    return torch.stack([a, b], dim=1)


def _sum(u: Tensor, v: Tensor) -> Tensor:
    return 3 * u - 2 * v + 1


def _sum_gradient(u: Tensor, v: Tensor) -> Tensor:
    return _pair(torch.full_like(u, 3), torch.full_like(v, -2))


def _sum_integrated(u: Tensor, v: Tensor) -> Tensor:
    return _pair(3 * u, -2 * v)


def _product(u: Tensor, v: Tensor) -> Tensor:
    return u * v


def _product_gradient(u: Tensor, v: Tensor) -> Tensor:
    return _pair(v, u)


def _product_integrated(u: Tensor, v: Tensor) -> Tensor:
    return _pair(u * v / 2, u * v / 2)


def _cubic(u: Tensor, v: Tensor) -> Tensor:
    return u**3 + u * v**2


def _cubic_gradient(u: Tensor, v: Tensor) -> Tensor:
    return _pair(3 * u**2 + v**2, 2 * u * v)


def _cubic_integrated(u: Tensor, v: Tensor) -> Tensor:
    return _pair(u**3 + u * v**2 / 3, 2 * u * v**2 / 3)


def _exponential(u: Tensor, v: Tensor) -> Tensor:
    return torch.exp(u + 2 * v)


def _exponential_gradient(u: Tensor, v: Tensor) -> Tensor:
    return _pair(torch.exp(u + 2 * v), 2 * torch.exp(u + 2 * v))


def _exponential_integrated(u: Tensor, v: Tensor) -> Tensor:
    rise = (torch.exp(u + 2 * v) - 1) / (u + 2 * v)  # ∫₀¹ exp(α (u + 2v)) dα
    return _pair(u * rise, 2 * v * rise)


KNOWN = (
    Known("3u - 2v + 1", _sum, _sum_gradient, _sum_integrated),
    Known("u v", _product, _product_gradient, _product_integrated),
    Known("u^3 + u v^2", _cubic, _cubic_gradient, _cubic_integrated),
    Known("exp(u + 2v)", _exponential, _exponential_gradient, _exponential_integrated),
)
"""Functions with attributions known by hand, for tests of one's own."""

"""A net with known weights, a problem around it, and a linear model whose true map is known."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from tests.reading import Arrays
from torch import Tensor, nn

from abe.draws import SeededDraws
from abe.engines.runtime.evaluator import Evaluator
from abe.engines.runtime.problem import Problem
from abe.engines.runtime.request import pose
from abe.engines.runtime.targets import Decision
from abe.task import image_task
from abe.task.base import Context, Lifted, Task

ORACLES = Path(__file__).parents[1] / "oracles"


def oracle(name: str) -> dict[str, Any]:
    with np.load(ORACLES / f"{name}.npz", allow_pickle=False) as file:
        found = {k: torch.from_numpy(file[k]) for k in file.files if file[k].dtype.kind in "fiub"}
    return Arrays(name, found)


def net_s(dtype: torch.dtype = torch.float64) -> nn.Module:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(1024, 10),
    ).double()
    net.load_state_dict(load_file(ORACLES / "nets" / "s.safetensors"))
    return net.to(dtype).eval()


class Evidence(nn.Module):
    """Two classes; the logit of class 1 is a sum of the inputs with non-negative weights."""

    def __init__(self, weight: Tensor, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.expand(1, channels, *weight.shape[-2:]).clone())

    def forward(self, x: Tensor) -> Tensor:
        evidence = (x * self.weight).flatten(1).sum(1)
        return torch.stack([torch.zeros_like(evidence), evidence], dim=1)


def evidence_task(channels: int = 3, side: int = 12) -> tuple[Task, Tensor]:
    """The task and its weight: a blob of evidence on nothing."""
    at = torch.arange(side, dtype=torch.float32)
    blob = torch.exp(-((at - 4) ** 2) / 4)
    weight = 0.3 * blob[:, None] * blob[None, :]
    return image_task(Evidence(weight, channels), channels=channels), weight


def photos(b: int = 4, channels: int = 3, side: int = 12, seed: int = 0) -> Tensor:
    return 0.2 + 0.8 * torch.rand(b, channels, side, side, generator=torch.Generator().manual_seed(seed))


def problem(
    task: Task, x: Tensor, *, target: Any = None, ids: Any = None, seed: int = 0, **how: Any
) -> Problem:
    evaluator = Evaluator(task, execution="model", **how)
    made = pose(evaluator, Lifted(x, Context(), []), target, draws=SeededDraws(seed=seed), ids=ids)
    made.decision = Decision(made.target)  # known, but what the outputs are has to be asked again
    evaluator.cost.forward_rows = 0
    return made


def mapped(attribution: Tensor, **more: Any) -> Any:
    """As much of an explanation as metrics read."""
    return SimpleNamespace(attribution=attribution, residual=None, **more)

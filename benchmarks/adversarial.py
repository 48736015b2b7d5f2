"""Adversarial methods against one-sample-at-a-time loops of their published procedures.

Identical settings, paths and early stops; both sides alternate. EfficientNet-Lite0 with 8 photographs, and a
small network with 64 inputs of 32 × 32, where overhead rules. Maps are compared in the same run, on the same
draws, before anything is timed; a sign within rounding of zero may send a float32 path another way.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import abe
from abe.engines.path.boundary import RADII
from abe.task.base import Task
from benchmarks import published
from benchmarks.published import Random
from benchmarks.subjects import efficientnet, photos, redraw

SIDE = 32


@dataclass(frozen=True)
class Case:
    """One method with our parameters, those of the loop, and the score that the published code takes."""

    ours: dict[str, Any]
    loop: dict[str, Any]
    objective: str = "logit"


def cases(classes: tuple[int, ...], size: int) -> dict[str, Case]:
    """The methods; ``size`` is the number of steps of the long ones, ``classes`` the false classes."""
    runs = {"classes": classes, "steps": size}
    old, copies = {"variant": "published"}, {"samples": 2 * size, "steps": size // 2}
    return {
        "agi": Case({**runs, **old, "alpha": 0.05}, {**runs, "alpha": 0.05}, "probability"),
        "attexplore": Case({**copies, **old}, copies, "loss"),
        "la": Case({**runs, **old}, runs, "probability"),
        "isa": Case({"steps": size // 2, "rounds": 30, **old}, {"steps": size // 2, "rounds": 30}, "loss"),
        "big": Case({"search_steps": 2 * size, **old}, {"steps": 2 * size}),
        "mfaba": Case(
            {"steps": 5 * size, "alpha": 0.001, "epsilon": 0.3, **old},
            {"steps": 5 * size, "alpha": 0.001, "epsilon": 0.3},
            "probability",
        ),
        "laai": Case({**runs, "rule": "left"}, runs),
    }


def run(which: str, rounds: int = 3) -> Iterator[dict[str, Any]]:
    """One row per method for ``"photographs"`` or ``"small"``."""
    if which == "small":
        task, x = small_task(), small_inputs(64)
        chosen, bar = cases(tuple(range(10)), 20), 8.0
    else:
        task = efficientnet()
        x = task.lift(photos(8)).x
        chosen, bar = cases((1, 207, 409, 611), 10), 1.5
    task.model.eval().requires_grad_(False)
    for _ in range(6):  # lets the planner settle
        abe.explain(task, x, "ig", steps=16, progress=False)
    for name, case in chosen.items():
        yield {"on": which, **_method(task, x, name, case, rounds), "bar": bar}


def _method(task: Task, x: Tensor, name: str, case: Case, rounds: int) -> dict[str, Any]:
    found = _ours(task, x, name, case)
    counted = _Counted(task)
    loop: Callable[..., Tensor] = getattr(published, name)
    target = found.target.tolist()
    alone = [loop(counted, x[i : i + 1], c, Random(i), **_of(case, c)) for i, c in enumerate(target)]
    mine, theirs = [], []
    for _ in range(rounds):
        began = time.perf_counter()
        found = _ours(task, x, name, case)
        mine.append(time.perf_counter() - began)
        began = time.perf_counter()
        for i, c in enumerate(target):
            loop(counted, x[i : i + 1], c, Random(), **_of(case, c))
        theirs.append(time.perf_counter() - began)
    cost = found.cost
    return {
        "method": name,
        "ratio": median(theirs) / median(mine),
        "seconds": [round(s, 3) for s in mine],
        "loop_seconds": [round(s, 3) for s in theirs],
        "rows": [cost.forward_rows, cost.backward_rows],
        "loop_forward_rows": counted.rows // (rounds + 1),
        "chunk": cost.chunk,
        "execution": cost.execution,
        "outside_the_network": round(1 - cost.model_seconds / cost.seconds, 3),
        "saved_by_leaving": _saved(found, case),
        **_agreement(found.attribution, torch.cat(alone)),
    }


def _of(case: Case, c: int) -> dict[str, Any]:
    """The loop's parameters, the sample's own class left out of the classes."""
    if "classes" not in case.loop:
        return case.loop
    return {**case.loop, "classes": [k for k in case.loop["classes"] if k != c]}


def _ours(task: Task, x: Tensor, name: str, case: Case) -> Any:
    return abe.explain(
        task, x, name, objective=case.objective, ids=range(len(x)), progress=False, **case.ours
    )


class _Counted:
    """The task's model as published code calls it, with the rows it was given."""

    def __init__(self, task: Task) -> None:
        self._task, self.rows = task, 0

    def __call__(self, x: Tensor) -> Tensor:
        self.rows += len(x)
        return self._task.forward(x)


def _saved(found: Any, case: Case) -> float | None:
    """Share of the steps that rows did not take because they had left."""
    told = found.diagnostics
    if "search_steps" in told:
        return round(1 - float(told["search_steps"].double().mean()) / (len(RADII) * case.loop["steps"]), 3)
    if "success" not in told:
        return None
    steps = told["steps"].double()
    return round(1 - float(steps[steps > 0].mean()) / case.loop["steps"], 3)


def _agreement(ours: Tensor, loop: Tensor) -> dict[str, Any]:
    """Largest difference as a share of the row's maximum, and the smallest cosine over samples."""
    one, other = ours.flatten(1).double(), loop.flatten(1).double()
    gap = (one - other).abs().amax(1) / other.abs().amax(1).clamp_min(1e-300)
    cosine = torch.cosine_similarity(one, other, dim=1)
    return {
        "same_samples": int((gap < 1e-3).sum()),
        "largest_difference": float(gap.max()),
        "smallest_cosine": float(cosine.min()),
    }


def small_task() -> Task:
    """A convolutional net of 10 classes on 32 × 32, random weights of a seed."""
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(256, 10),
    )
    return abe.image_task(redraw(net), output_kind="logits")


def small_inputs(n: int) -> Tensor:
    """(n, 3, 32, 32) crops of the photographs."""
    task = abe.image_task(nn.Flatten(), size=224)
    images = task.lift(photos(8)).x
    corners = [(i % len(images), 20 + 3 * (i // len(images))) for i in range(n)]
    crops = [images[k, :, at : at + SIDE, at : at + SIDE] for k, at in corners]
    return torch.stack(crops).contiguous()

"""What each lever gives: chunk, execution copy, channels-last, adaptive nodes, bfloat16."""

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

import abe
from abe.engines.runtime.fused_copy import candidates
from abe.task.base import Task
from benchmarks.overhead import _seconds_per_row
from benchmarks.subjects import MODELS, photos

CHUNKS = (1, 2, 4, 8, 16, 32, 64)


def run(name: str, rounds: int = 2) -> Iterator[dict[str, Any]]:
    """Milliseconds per gradient row by chunk and by what is run; seconds by setting of IG."""
    task = MODELS[name]()
    task.model.eval().requires_grad_(False)
    x = task.lift(photos(4)).x
    table = {}
    for variant, model in _variants(task, x).items():
        table[variant] = {n: 1000 * _seconds_per_row(task, model, x, "gradient", n) for n in CHUNKS}
    yield {"model": name, "ms_per_row": table}
    yield {"model": name, "ig": _settings(task, x, rounds)}


def _variants(task: Task, x: Tensor) -> dict[str, nn.Module]:
    def probe(model: nn.Module) -> Tensor:
        return task.forward(x[:2], None, model)

    return {found.name: found.model for found in candidates(task.model, probe)}


def _settings(task: Task, x: Tensor, rounds: int) -> dict[str, Any]:
    """Seconds of IG on four photographs, warm: everything off, then one lever after the other."""
    settings: dict[str, dict[str, Any]] = {
        "model, chunk 64": {"execution": "model", "chunk": 64},
        "model, planned chunk": {"execution": "model"},
        "copy, planned chunk": {},
        "copy, planned chunk, bfloat16": {"execution": "bfloat16"},
        "copy, planned chunk, tolerance .02": {"tolerance": 0.02},
    }
    reference = abe.explain(task, x, "ig", execution="model", progress=False).attribution
    found = {}
    for label, params in settings.items():
        for _ in range(rounds):
            began = time.perf_counter()
            done = abe.explain(task, x, "ig", progress=False, **params)
            seconds = time.perf_counter() - began
        error = (done.attribution - reference).flatten(1).norm(dim=1) / reference.flatten(1).norm(dim=1)
        found[label] = {
            "seconds": seconds,
            "residual": [round(r, 4) for r in done.residual.tolist()],
            "map_differs_by": float(error.max()),
            "execution": done.cost.execution,
        }
    return found


if torch.get_num_threads() != 2:
    torch.set_num_threads(2)

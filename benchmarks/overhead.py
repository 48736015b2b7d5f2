"""Wall time of every method against its recorded rows times their time at the best chunk.

The yardstick is a bare loop over the same execution copy at the fastest of several chunks: as many
forward and gradient rows as the method reports, half of them just before it and half just after.
"""

import math
import time
from collections.abc import Iterator
from statistics import median
from typing import Any

import torch
from torch import Tensor

import abe
from abe.engines.runtime.evaluator import state_of
from abe.explanation import Explanation
from abe.task.base import Task
from benchmarks.subjects import efficientnet, photos

CHUNKS = (1, 2, 4, 8, 16)
PHOTOS = 8
ROWS = 64
SETTINGS: dict[str, dict[str, Any]] = {
    "gradient": {},
    "gradient_x_input": {},
    "fast_ig": {},
    "smoothgrad": {"samples": 10},
    "smoothgrad_squared": {"samples": 10},
    "vargrad": {"samples": 10},
    "integrated_gradients": {"steps": 10},
    "expected_gradients": {"samples": 10},
    "blur_ig": {"steps": 10},
    "path_integral": {"path": "blur", "steps": 10},
    "guided_ig": {"steps": 50},
    "path_attribution": {"update": "descent", "steps": 10},
}
DYNAMIC = ("guided_ig", "path_attribution")


def run(rounds: int = 5) -> Iterator[dict[str, Any]]:
    """Median over alternating rounds of wall seconds over predicted seconds, by method."""
    task = efficientnet()
    task.model.eval().requires_grad_(False)
    for _ in range(6):  # lets the planner settle
        abe.explain(task, photos(PHOTOS), "ig", steps=16, progress=False)
    model = state_of(task).choice.model
    x = task.lift(photos(PHOTOS)).x
    best = {kind: _best_chunk(task, model, x, kind) for kind in ("forward", "gradient")}
    for name in SETTINGS:
        yield _method(task, model, x, best, name, rounds)


def _method(
    task: Task, model: torch.nn.Module, x: Tensor, best: dict[str, int], name: str, rounds: int
) -> dict[str, Any]:
    copies = 1 if SETTINGS[name] else ROWS // PHOTOS  # every method runs at least ROWS rows
    rows = x.repeat(copies, 1, 1, 1)

    def explain() -> Explanation:
        return abe.explain(task, rows, name, progress=False, **SETTINGS[name])

    cost, ratios = explain().cost, []
    half = {"forward": (cost.forward_rows - cost.backward_rows) / 2, "gradient": cost.backward_rows / 2}

    def bare() -> float:
        return sum(n * _seconds_per_row(task, model, x, kind, best[kind], n) for kind, n in half.items() if n)

    for _ in range(rounds):
        before = bare()
        began = time.perf_counter()
        explain()
        wall = time.perf_counter() - began
        ratios.append(wall / (before + bare()))
    return {
        "method": name,
        "rows": cost.passes,
        "chunk": cost.chunk,
        "bare_chunks": best,
        "ratio": median(ratios),
        "ratios": [round(r, 3) for r in ratios],
        "bar": 1.2 if name in DYNAMIC else 1.1,
    }


def _best_chunk(task: Task, model: torch.nn.Module, x: Tensor, kind: str) -> int:
    times = {n: min(_seconds_per_row(task, model, x, kind, n, ROWS) for _ in range(2)) for n in CHUNKS}
    return min(times, key=lambda n: times[n])


def _seconds_per_row(
    task: Task, model: torch.nn.Module, x: Tensor, kind: str, chunk: int, at_least: float = 16
) -> float:
    rows = x.repeat(math.ceil(max(at_least, chunk) / len(x)), 1, 1, 1)
    _bare(task, model, rows[:chunk], kind)
    began = time.perf_counter()
    for part in rows.split(chunk):
        _bare(task, model, part, kind)
    return (time.perf_counter() - began) / len(rows)


def _bare(task: Task, model: torch.nn.Module, x: Tensor, kind: str) -> None:
    if kind == "forward":
        with torch.no_grad():
            task.forward(x, None, model)
        return
    leaf = x.clone().requires_grad_(True)
    score = task.forward(leaf, None, model).amax(1).sum()
    torch.autograd.grad(score, leaf)

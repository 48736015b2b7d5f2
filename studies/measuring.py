"""Explain a photograph and score the map: what every study does, by ABE's public calls alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import abe
from abe.task.base import Task
from abe.types import Result
from studies.records import Records

METRICS = ("insertion", "deletion", "gap", "kl_insertion", "kl_deletion", "kl_gap")
STEP = 0.04
"""Share of the pixels changed per step of a perturbation curve."""


@dataclass(frozen=True, eq=False)
class Given:
    """A finished map as a method, so that `abe.compare` scores it."""

    attribution: Tensor

    def run(self, problem: Any) -> Result:
        """The map."""
        return Result(self.attribution.to(problem.x))


def explained(task: Task, x: Tensor, method: Any, **how: Any) -> abe.Explanation:
    """``abe.explain`` without a bar of its own."""
    return abe.explain(task, x, method, progress=False, **how)


def scored(task: Task, x: Tensor, attribution: Tensor, target: Tensor) -> dict[str, list[float]]:
    """Metric -> one number per photograph."""
    table = abe.compare(
        task, x, [Given(attribution)], METRICS, target=target, step=STEP, rank_by="gap", progress=False
    )
    scores = next(iter(table.scores.values()))
    return {name: rounded(score.values) for name, score in scores.items()}


def record(task: Task, x: Tensor, method: Any, **how: Any) -> dict[str, Any]:
    """Scores of a method's maps with what they cost and what they miss."""
    made = explained(task, x, method, **how)
    return {**scored(task, x, made.attribution, made.target), **facts(made)}


def facts(made: abe.Explanation) -> dict[str, Any]:
    """Sums, changes, residuals, signs and cost of an explanation, per photograph."""
    flat = made.attribution.flatten(1)
    found: dict[str, Any] = {
        "sum": rounded(flat.double().sum(1)),
        "negative": rounded((flat < 0).double().mean(1)),
        "passes": [made.cost.passes / len(flat)] * len(flat),
        "confidence": [row[0][1] for row in made.top],
    }
    if made.delta is not None and made.residual is not None:
        found |= {"delta": rounded(made.delta), "residual": rounded(made.residual)}
    if "steps" in made.diagnostics:
        steps = made.diagnostics["steps"].double().reshape(len(flat), -1)
        found["steps"] = rounded(steps.mean(1))
    if "success" in made.diagnostics:
        found["success"] = made.diagnostics["success"].double().tolist()
    return found


def rounded(values: Tensor) -> list[float]:
    """Numbers with six significant digits."""
    return [float(f"{v:.6g}") for v in values.detach().double().tolist()]


def control(task: Task, x: Tensor) -> dict[str, Any]:
    """A constant map, whose units come in a seeded random order: what a map without information scores."""
    made = explained(task, x, "gradient")
    return scored(task, x, torch.ones_like(x), made.target)


def gathered(records: Records, label: str, blocks: Sequence[str]) -> dict[str, list[float]]:
    """The records of a label over all blocks, joined."""
    found: dict[str, list[float]] = {}
    for block in blocks:
        for key, values in records[f"{label} | {block}"].items():
            found.setdefault(key, []).extend(values)
    return found


def blocks_of(names: Sequence[str], size: int) -> dict[str, slice]:
    """Photographs in blocks that are explained together: their names -> which."""
    parts = [slice(i, min(i + size, len(names))) for i in range(0, len(names), size)]
    return {", ".join(names[part]): part for part in parts}


def mean_of(values: Mapping[str, Sequence[float]], key: str) -> float:
    """Mean of one number."""
    return float(torch.tensor(values[key], dtype=torch.float64).mean())

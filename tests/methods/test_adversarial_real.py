"""Completeness of plain-gradient paths on the real network with photographs."""

from typing import Any

import pytest
import torch

import abe
from abe.task import zoo

SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "mfaba": ("mfaba", {"steps": 20}),
    "mfaba with long steps": ("mfaba", {"steps": 10, "alpha": 2 / 255}),
    "mfaba sharp": ("mfaba", {"path": "sharp", "steps": 10}),
    "agi": ("agi", {"samples": 2, "steps": 4}),
    "la": ("la", {"samples": 1, "steps": 3}),
    "laai": ("laai", {"samples": 2, "steps": 10}),
    "big": ("big", {}),
    "bim": ("path_attribution", {"update": "bim", "steps": 5}),
    "pgd": ("path_attribution", {"update": "pgd", "steps": 5}),
    "mim": ("path_attribution", {"update": "mim", "steps": 5}),
}
"""The published sizes of steps with few of them."""
BIG_CHANGE = 0.05
"""Share of the range of logits beyond which a score change counts."""


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_a_tolerance_is_reached_on_photographs(name: str) -> None:
    task = zoo.efficientnet_lite0()
    photos = list(zoo.photographs(["chelsea", "coffee"]).values())
    method, params = SETTINGS[name]
    outputs = task.forward(task.lift(photos).x)
    span = (outputs.amax(1) - outputs.amin(1)).detach()
    found = abe.explain(task, photos, method, tolerance=0.02, progress=False, **params)
    plain = abe.explain(task, photos, method, progress=False, **params)
    assert found.delta is not None
    counts = found.delta.abs() > BIG_CHANGE * span
    print(
        f"{name}: {found.residual.tolist()}, plain {plain.residual.tolist()}, change {found.delta.tolist()}"
    )
    print(f"  rows {found.cost.passes} and {plain.cost.passes}, {found.cost.seconds:.0f} s")
    assert bool(counts.any()) or method == "laai"
    assert bool((found.residual[counts].abs() <= 0.02).all())
    assert torch.equal(found.target, plain.target)

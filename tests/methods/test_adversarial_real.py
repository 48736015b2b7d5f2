"""Completeness of plain-gradient paths on the real network with photographs."""

import pytest
import torch
from studies.completeness import SETTINGS, TOLERANCE, counts, refined

import abe
from abe.task import zoo


@pytest.mark.slow
@pytest.mark.parametrize("label", SETTINGS)
def test_a_tolerance_is_reached_on_photographs(label: str) -> None:
    task = zoo.efficientnet_lite0()
    photos = list(zoo.photographs(["chelsea", "coffee"]).values())
    (name, _), (_, given) = SETTINGS[label], refined(SETTINGS[label])
    found = abe.explain(task, photos, name, progress=False, **given)
    assert found.delta is not None
    enough = torch.tensor(counts(task.forward(task.lift(photos).x).detach(), name, found.delta.tolist()))
    judged = enough if bool(enough.any()) else torch.ones_like(enough)  # BIG's boundary is near
    assert float(found.residual[judged].abs().max()) <= TOLERANCE

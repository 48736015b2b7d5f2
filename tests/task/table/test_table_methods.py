"""Every method on three kinds of table: it runs, or says in a coded sentence why it does not."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from tests.task.table.tables import CATEGORIES, MIXED, Apart, seeded
from torch import nn

import abe
from abe.registry import methods

FEWER: Mapping[str, Mapping[str, Any]] = {
    "mp": {"steps": 5},
    "iba": {"steps": 2},
    "eg": {"samples": 5},
    "smoothgrad": {"samples": 5},
}
"""Settings that are as good for running as the default ones."""


def tasks() -> dict[str, tuple[abe.Task, Any, int]]:
    """Per kind a task, rows, and how many of the methods without required parameters run."""
    torch.manual_seed(0)
    numbers = torch.randn(20, 8, dtype=torch.float64)
    net = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 3)).double().eval()

    def outside(rows: torch.Tensor) -> torch.Tensor:
        return net(rows).softmax(1)

    return {
        "numbers": (abe.table_task(net, background=numbers), numbers[:2], 55),
        "embedded": (abe.table_task(seeded(Apart), background=MIXED, categories=CATEGORIES), MIXED, 55),
        "outside": (abe.table_task(outside, background=numbers), numbers[:2], 15),
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["numbers", "embedded", "outside"])
def test_methods_run_or_say_why_not(kind: str) -> None:
    task, rows, least = tasks()[kind]
    run, refused = [], {}
    for entry in methods.entries():
        how = dict(entry.card.example) if entry.required() else {}
        how |= {k: v for k, v in FEWER.get(entry.name, {}).items() if k in entry.parameters()}
        try:
            found = abe.explain(task, rows, entry.name, progress=False, **how)
        except abe.AbeError as problem:
            refused[entry.name] = str(problem)
            continue
        assert bool(torch.isfinite(found.attribution).all()), entry.name
        run.append(entry.name)
    print(f"\n{kind}: {len(run)} of {len(methods.entries())} run")
    for method, why in refused.items():
        print(f"  {method}: {why}")
    assert len(run) >= least, refused

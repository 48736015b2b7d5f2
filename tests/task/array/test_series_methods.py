"""Every method on series, volumes, points and an image with numbers: it runs, or says why not."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from tests.task.array.series_nets import Cnn, Lstm, TurnedCnn, TurnedLstm, seeded
from tests.task.array.test_tensors import Points, Volume
from tests.task.test_several import given, task_of

import abe
from abe.registry import methods

NAMES = [entry.name for entry in methods.entries() if not entry.required()]
FEWER: Mapping[str, Any] = {"evaluations": 400, "steps": 5, "samples": 5}
"""Settings that are as good for running as the default ones."""
ROWS = torch.randn((2, 24, 3), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
CHANNELS = ROWS.movedim(1, 2).contiguous()


def volumes() -> torch.Tensor:
    return torch.randn((2, 1, 4, 6, 6), generator=torch.Generator().manual_seed(1), dtype=torch.float64)


CASES: dict[str, tuple[Any, Any, int]] = {
    "lstm btc": (lambda: abe.series_task(seeded(Lstm).double(), "btc"), ROWS, 61),
    "lstm bct": (lambda: abe.series_task(seeded(TurnedLstm).double(), "bct"), CHANNELS, 61),
    "cnn bct": (lambda: abe.series_task(seeded(Cnn).double(), "bct"), CHANNELS, 61),
    "cnn btc": (lambda: abe.series_task(seeded(TurnedCnn).double(), "btc"), ROWS, 61),
    "volumes": (lambda: abe.tensor_task(seeded(Volume).double(), "bcdhw"), volumes(), 56),
    "points": (lambda: abe.tensor_task(seeded(Points).double(), "bnc"), ROWS[:, :12], 61),
    "an image with numbers": (task_of, given(), 47),
}
"""A task, its input, and how many methods without required parameters ran when this was written."""
TWINS = [("lstm btc", "lstm bct"), ("cnn bct", "cnn btc")]


def run(name: str) -> dict[str, torch.Tensor]:
    make, raw, _ = CASES[name]
    task, found = make(), dict[str, torch.Tensor]()
    for method in NAMES:
        known = methods.get(method).parameters()
        how = {k: v for k, v in FEWER.items() if k in known}
        try:
            one = abe.explain(task, raw, method, progress=False, **how)
        except abe.AbeError as problem:
            print(f"  {name}: {method}: {problem}")
            continue
        assert one.attribution.shape == one.x.shape, method
        assert bool(torch.isfinite(one.attribution).all()), method
        found[method] = one.attribution
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if name not in {n for pair in TWINS for n in pair}])
def test_methods_run_or_say_why_not(name: str) -> None:
    assert len(run(name)) >= CASES[name][2]


@pytest.mark.slow
@pytest.mark.parametrize(("one", "other"), TWINS)
def test_both_orders_of_axes_give_the_same_numbers(one: str, other: str) -> None:
    first, second = run(one), run(other)
    assert first.keys() == second.keys()
    assert len(first) >= CASES[one][2]
    for method, maps in first.items():
        assert maps.shape == second[method].shape, method
        far = float((maps - second[method]).abs().max() / maps.abs().max().clamp_min(1e-12))
        assert far < 1e-6, (method, far)

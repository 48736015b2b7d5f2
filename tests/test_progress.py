"""A bar for whatever takes over two seconds, also where it is made of many short calls."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import abe
from abe import progress


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The labels of the bars that appeared; every second of work counts as an hour."""
    seen: list[str] = []

    class Bar:
        def update(self, *_: Any, **__: Any) -> None:
            """Nothing is drawn."""

        def stop(self) -> None:
            """Nothing was drawn."""

    def open_(self: progress.Progress) -> None:
        seen.append(self.label)
        self._bar = Bar()

    monkeypatch.setattr(progress, "DELAY", 0.0)
    monkeypatch.setattr(progress.Progress, "_open", open_)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    return seen


def task() -> abe.Task:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    )
    return abe.image_task(net.eval())


X = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
CALLS: dict[str, Callable[..., Any]] = {
    "explain": lambda **how: abe.explain(task(), X, "ig", **how),
    "attack": lambda **how: abe.attack(task(), X, "pgd", steps=2, **how),
    "robustness": lambda **how: abe.evaluate_robustness(
        task(), X, "pgd", steps=2, epsilons=[0.01, 0.1], **how
    ),
    "transfer": lambda **how: abe.transfer_matrix({"a": task(), "b": task()}, X, "mim", steps=2, **how),
    "trust": lambda **how: abe.trust(task(), X, ["gradient"], constructions=["sign"], etas=[1e-4], **how),
    "compare": lambda **how: abe.compare(
        task(), X, methods=["gradient"], metrics=["deletion"], step=0.5, **how
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_one_bar_for_the_whole_call(name: str, opened: list[str]):
    CALLS[name]()
    assert len(opened) == 1
    opened.clear()
    CALLS[name](progress=False)
    assert opened == []


@pytest.mark.parametrize("name", CALLS)
def test_a_function_is_told_of_rows(name: str, opened: list[str]):
    rows: list[int] = []
    CALLS[name](progress=rows.append)
    assert sum(rows) > 0
    assert opened == []

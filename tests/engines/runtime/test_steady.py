"""A model that does not answer twice the same is told from one that merely counts or remembers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import abe
from abe.errors import Code
from abe.metrics import score

X = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self, what: "Callable[[Net, Tensor], Tensor]") -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)
        self.what, self.calls, self.kept = what, 0, None
        self.rate, self.log, self.memory = 1.0, [0], {}
        self.mean = torch.zeros(4)
        self.register_buffer("count", torch.zeros(()))
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.what(self, torch.relu(self.body(x)).mean((2, 3))))


def dropout(net: Net, h: Tensor) -> Tensor:
    return F.dropout(h, 0.5, training=True)


def noise(net: Net, h: Tensor) -> Tensor:
    return h + torch.randn(h.shape)


def numpy_noise(net: Net, h: Tensor) -> Tensor:
    return h * float(np.random.rand())  # noqa: NPY002


def own_noise(net: Net, h: Tensor) -> Tensor:
    return h * torch.rand(1, generator=net.generator)


def counter(net: Net, h: Tensor) -> Tensor:
    net.calls += 1
    return h * net.calls


def buffer(net: Net, h: Tensor) -> Tensor:
    net.count += 1
    return h * net.count


def running(net: Net, h: Tensor) -> Tensor:
    net.mean = 0.5 * net.mean + h.detach().mean(0)
    return h - net.mean


def decaying(net: Net, h: Tensor) -> Tensor:
    net.rate *= 0.9
    return h * net.rate


def listed(net: Net, h: Tensor) -> Tensor:
    net.log.append(1)
    return h * len(net.log)


def in_a_dict(net: Net, h: Tensor) -> Tensor:
    net.memory["seen"] = net.memory.get("seen", 0) + 1
    return h * net.memory["seen"]


def counts(net: Net, h: Tensor) -> Tensor:
    net.calls += 1
    net.count += 1
    net.log.append(len(h))
    return h


def remembers(net: Net, h: Tensor) -> Tensor:
    net.kept = h
    return h


def draws_in_vain(net: Net, h: Tensor) -> Tensor:
    torch.rand(3)
    return h


def caches(net: Net, h: Tensor) -> Tensor:
    if net.kept is None:
        net.kept = torch.ones(4)
    return h * net.kept


def plain(net: Net, h: Tensor) -> Tensor:
    return h


RANDOM = (dropout, noise, numpy_noise)
STATE = (own_noise, counter, buffer, running, decaying, listed, in_a_dict)
STEADY = (counts, remembers, draws_in_vain, caches, plain)


def foreign() -> abe.Explanation:
    return abe.Explanation.from_array(torch.ones_like(X), X, target=1)


def evaluated(task: Any, **how: Any) -> abe.Comparison:
    data = how.pop("data", X)
    maps = {"a": lambda x, _: torch.ones_like(x)} if data is not X else {"a": foreign()}
    return abe.evaluate(task, maps, ["insertion", "deletion"], data=data, progress=False)


HOW: dict[str, Any] = {"ids": [0, 1], "progress": False}
RUNS: dict[str, Callable[[Any], list[str]]] = {
    "gradient": lambda task: abe.explain(task, X, "gradient", target=1, **HOW).warnings,
    "ig": lambda task: abe.explain(task, X, "ig", target=1, **HOW).warnings,
    "occlusion": lambda task: abe.explain(task, X, "occlusion", target=1, **HOW).warnings,
    "grad_cam": lambda task: abe.explain(task, X, "grad_cam", target=1, layer="body", **HOW).warnings,
    "at_layer": lambda task: abe.explain(task, X, abe.at_layer("gradient", "body"), **HOW).warnings,
    "evaluate": lambda task: evaluated(task).origins["a"].warnings,
    "evaluate_stream": lambda task: evaluated(task, data=iter([X, X])).origins["a"].warnings,
    "compare": lambda task: (
        abe.compare(task, X, ["gradient"], ["insertion"], **HOW).origins["gradient"].warnings
    ),
    "score": lambda task: score(foreign(), task, metric="infidelity", samples=2).warnings,
    "attack": lambda task: abe.attack(task, X, "fgsm", **HOW).warnings,
}


def said(warnings: list[str]) -> list[str]:
    return [warning for warning in warnings if Code.UNSTEADY_MODEL in warning]


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("what", [*RANDOM, *STATE, *STEADY], ids=lambda what: what.__name__)
def test_what_is_said(what: Callable[[Net, Tensor], Tensor], run: str):
    notes = said(RUNS[run](abe.image_task(Net(what).eval())))
    assert len(notes) == (what not in STEADY)
    if notes:
        assert ("random" in notes[0]) == (what in RANDOM)


def test_numbers_are_counted_as_they_are():
    net = Net(counts).eval()
    cost = abe.explain(abe.image_task(net), X, "ig", target=1, steps=6, **HOW).cost
    assert net.calls == cost.forward_calls
    assert sum(net.log) == cost.forward_rows


@pytest.mark.parametrize("what", [counter, buffer, running], ids=lambda what: what.__name__)
def test_no_copy_stands_in_for_a_model_that_changes_as_it_runs(what: Callable[[Net, Tensor], Tensor]):
    task = abe.image_task(Net(what).eval())
    for _ in range(2):
        assert abe.explain(task, X, "ig", target=1, steps=64, **HOW).cost.execution == "model"

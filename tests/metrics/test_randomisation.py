"""Randomisation redraws the weights that layers use, once each, on a copy of any model."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.metrics.common import problem
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

import abe
from abe.errors import AbeError, Code
from abe.metrics.randomisation import randomised
from abe.testing.snapshot import Snapshot

X = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
METRICS = ("mprt", "smooth_mprt", "efficient_mprt")


class Net(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.a, self.c, self.b = nn.Linear(108, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.keep, self.kept = False, None

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.c(torch.relu(self.a(x.flatten(1)))))
        if self.keep:
            self.kept = h
        return self.b(h)


def locked(net: Net) -> None:
    net.lock = threading.Lock()


def remembering(net: Net) -> None:
    net.keep = True
    net(X).sum().backward()


def weight_normed(net: Net) -> None:
    weight_norm(net.a)
    net(X).sum().backward()


def parametrised(net: Net) -> None:
    parametrizations.weight_norm(net.a)


def all_parametrised(net: Net) -> None:
    for layer in (net.a, net.c, net.b):
        parametrizations.weight_norm(layer)


def wired(net: Net) -> None:
    net.c.forward = lambda h: nn.functional.linear(h, net.c.weight, net.c.bias)


ALIKE = (locked, remembering, weight_normed, parametrised, all_parametrised, wired)
"""Changes after which the model computes the same from the same weights."""


def scored(net: nn.Module, metric: Any) -> Tensor:
    how = {"data": X, "target": 1, "ids": [0, 1], "progress": False}
    found = abe.evaluate(abe.image_task(net), {"g": "gradient"}, [metric], **how).scores["g"]
    return next(iter(found.values())).values


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("change", ALIKE, ids=lambda change: change.__name__)
@pytest.mark.parametrize("metric", METRICS)
def test_numbers_of_the_plain_model(metric: str, change: Callable[[Net], None]):
    net = Net()
    change(net)
    net.eval()
    before = Snapshot(net)
    given = scored(net, metric)
    assert before.changes() == []
    torch.testing.assert_close(given, scored(Net().eval(), metric), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("change", ALIKE, ids=lambda change: change.__name__)
def test_a_second_model_of_any_kind(change: Callable[[Net], None]):
    net, other = Net().eval(), Net(1)
    change(other)
    other.eval()
    before = Snapshot(other)
    given = scored(net, ("data_randomisation", {"model": other}))
    assert before.changes() == []
    torch.testing.assert_close(given, scored(net, ("data_randomisation", {"model": Net(1).eval()})))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("norm", [spectral_norm, parametrizations.spectral_norm])
def test_spectral_norm_is_worked_out(norm: Callable[..., Any]):
    net, right = Net(), Net()
    norm(net.c)
    net(X)
    net.eval()
    with torch.no_grad():
        net(X)
        right.c.weight.copy_(net.c.weight)
    torch.testing.assert_close(scored(net, "mprt"), scored(right.eval(), "mprt"), rtol=1e-4, atol=1e-5)


def test_shared_weights_count_once():
    class Shared(Net):
        def __init__(self, *, module: bool) -> None:
            super().__init__()
            self.d = self.c if module else nn.Linear(8, 8)
            self.d.weight, self.d.bias = self.c.weight, self.c.bias

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.tanh(self.d(torch.tanh(self.c(torch.relu(self.a(x.flatten(1))))))))

    by_module, by_weight = Shared(module=True).eval(), Shared(module=False).eval()
    for metric in METRICS:
        torch.testing.assert_close(scored(by_weight, metric), scored(by_module, metric))


def test_a_model_without_parameters_is_refused():
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("weight", torch.rand(108, 3))

        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1) @ self.weight

    with pytest.raises(AbeError, match="no parameters") as caught:
        scored(Fixed().eval(), "mprt")
    assert caught.value.code is Code.UNSUPPORTED


def test_a_second_model_with_nan_is_named():
    other = Net(1).eval()
    other.c.weight.data[0, 0] = torch.nan
    with pytest.raises(AbeError, match=r"c\.weight") as caught:
        scored(Net().eval(), ("data_randomisation", {"model": other}))
    assert caught.value.code is Code.NOT_FINITE_WEIGHTS


class Scores(nn.Module):
    """Three scores that are linear in the input: the gradient is the row of weights."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.head = nn.Linear(108, 3, bias=False)
        self.head.weight.data.copy_(weights.expand(3, -1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1))


def entropy(weights: Tensor) -> float:
    share = weights.double().abs() / weights.double().abs().sum()
    return -float((share * share.clamp_min(1e-300).log()).sum())


@pytest.mark.parametrize("narrow", [True, False])
def test_a_rise_of_the_entropy_counts_for_a_method(narrow: bool):
    """By hand: a map of two places becomes one of many, a flat map becomes a less flat one."""
    weights = torch.zeros(108) if narrow else torch.ones(108)
    weights[[3, 50]] = 1.0 if narrow else 1.1
    net = Scores(weights).eval()
    task = abe.image_task(net, output_kind="logits")
    drawn = randomised(problem(task, X, target=1, ids=[0, 1]), ["head"]).task.model.head.weight[1].detach()
    before, after = entropy(weights), entropy(drawn)
    assert (after > before) == narrow
    expected = torch.full((2,), (after - before) / before, dtype=torch.float64)
    torch.testing.assert_close(scored(net, "efficient_mprt").double(), expected, rtol=1e-5, atol=1e-6)

"""What is handed to a model is the model's: it may write into it, and nothing else changes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import abe
from abe.errors import AbeError
from abe.registry import methods

X = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def halved(x: Tensor) -> Tensor:
    return x.sub_(0.5).div_(0.25)


def operators(x: Tensor) -> Tensor:
    x -= 0.5
    x /= 0.25
    return x


def through_data(x: Tensor) -> Tensor:
    x.data.sub_(0.5)
    return x / 0.25 if x.requires_grad else x.div_(0.25)


def by_item(x: Tensor) -> Tensor:
    for channel in range(3):
        x[:, channel] = (x[:, channel] - 0.5) / 0.25
    return x


def by_view(x: Tensor) -> Tensor:
    x.view(-1).sub_(0.5)
    return x.div_(0.25)


def rectified(x: Tensor) -> Tensor:
    return nn.functional.relu(x.sub(0.5).div(0.25), inplace=False)


def rectified_in_place(x: Tensor) -> Tensor:
    return nn.functional.relu(x.sub_(0.5).div_(0.25), inplace=True)


def plainly(x: Tensor) -> Tensor:
    return x.sub(0.5).div(0.25)


WAYS = {
    halved: plainly,
    operators: plainly,
    by_item: plainly,
    by_view: plainly,
    rectified_in_place: rectified,
}


class Net(nn.Module):
    def __init__(self, first: Callable[[Tensor], Tensor], fails: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(
                nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
            )
            self.head = nn.Linear(4, 3)
        self.first, self.fails = first, fails

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.fails:
            raise ArithmeticError("simulated")
        return self.head(self.body(x).flatten(1))


def task_of(first: Callable[[Tensor], Tensor], **how: Any) -> Any:
    return abe.image_task(Net(first, **how).eval())


def names() -> list[str]:
    """Methods of images that need nothing but a model."""
    entries = [e for e in methods.entries() if not e.required() and "image" in e.card.modalities]
    return [e.name for e in entries]


HOW: dict[str, Any] = {"target": 1, "ids": [0, 1], "progress": False}
SLOW = {"sage", "rtis", "l2x", "cxplain"}


@pytest.mark.parametrize(
    "method", ["gradient", "ig", "lrp_composite", "deeplift", "grad_cam", "occlusion", "agi"]
)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_maps_of_the_twin_that_does_not_write(method: str, way: Callable[[Tensor], Tensor]):
    x = X.clone()
    given = abe.explain(task_of(way), x, method, **HOW)
    assert torch.equal(x, X)
    right = abe.explain(task_of(WAYS[way]), X.clone(), method, **HOW)
    torch.testing.assert_close(given.attribution, right.attribution, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(given.x, X)


@pytest.mark.slow
@pytest.mark.parametrize("method", names())
def test_every_method(method: str):
    outcome: list[Any] = []
    for first in (halved, plainly):
        x = X.clone()
        try:
            outcome.append(abe.explain(task_of(first), x, method, **HOW).attribution)
        except AbeError as problem:
            outcome.append(problem.code)
        assert torch.equal(x, X)
    if isinstance(outcome[1], Tensor):
        torch.testing.assert_close(*outcome, rtol=1e-4, atol=1e-5)
    else:
        assert outcome[0] == outcome[1]


@pytest.mark.parametrize("way", [*WAYS, through_data], ids=lambda way: way.__name__)
def test_the_callers_tensor_survives_errors(way: Callable[[Tensor], Tensor]):
    for method in ("gradient", "lrp_composite", "grad_cam", "occlusion"):
        x = X.clone()
        with pytest.raises(AbeError, match="simulated"):
            abe.explain(task_of(way, fails=True), x, method, **HOW)
        assert torch.equal(x, X)


def test_attacks_and_metrics():
    for run in (
        lambda task, x: abe.attack(task, x, "pgd", ids=[0, 1], progress=False).x_adv,
        lambda task, x: (
            abe.evaluate(task, {"g": "gradient"}, ["insertion", "mprt", "infidelity"], data=x, **HOW)
            .scores["g"]["insertion"]
            .values
        ),
    ):
        x = X.clone()
        given = run(task_of(halved), x)
        assert torch.equal(x, X)
        torch.testing.assert_close(given, run(task_of(plainly), X.clone()))


def test_many_rows_at_once_and_copies():
    x = X.clone()
    for _ in range(2):
        given = abe.explain(task_of(halved), x, "ig", steps=64, **HOW)
    right = abe.explain(task_of(plainly), X, "ig", steps=64, execution="model", **HOW)
    torch.testing.assert_close(given.attribution, right.attribution, rtol=1e-3, atol=1e-5)
    assert torch.equal(x, X)


def test_normalisation_of_the_task_too():
    x = X.clone()
    model = Net(halved).eval()
    task, twin = (abe.image_task(m, mean=[0.1] * 3, std=[0.9] * 3) for m in (model, Net(plainly).eval()))
    given = abe.explain(task, x, "ig", **HOW)
    assert torch.equal(x, X)
    torch.testing.assert_close(given.attribution, abe.explain(twin, X, "ig", **HOW).attribution)

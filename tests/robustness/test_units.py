"""The same pictures in 0 … 255, in −1 … 1 and in a range per channel: the attack, map and number of 0 … 1."""

from typing import Any

import pytest
import torch
from tests.robustness.common import same_up_to
from torch import Tensor, nn

import abe
from abe.registry import methods, updates
from abe.robustness import evaluate_robustness
from abe.sizes import OfRange
from abe.testing.bench import TARGET, samples
from abe.testing.methods import MethodCase
from abe.testing.nets import Smooth

Bounds = tuple[Any, Any]
UNITS: dict[str, Bounds] = {
    "bytes": (0.0, 255.0),
    "signed": (-1.0, 1.0),
    "channels": ((-2.0, -1.5, 0.0), (2.5, 1.0, 8.0)),
}
ROUNDING = 1e-6
"""Shares of the largest number by which two units may differ."""
EVERY = pytest.mark.parametrize("unit", UNITS)


class In(nn.Module):
    """A net of pictures in 0 … 1, for pictures in other bounds."""

    def __init__(self, net: nn.Module, bounds: Bounds) -> None:
        super().__init__()
        self.net, self.bounds = net, bounds

    def forward(self, x: Tensor) -> Tensor:
        low, wide = scale(self.bounds, x)
        return self.net((x - low) / wide)


def scale(bounds: Bounds, like: Tensor) -> tuple[Tensor, Tensor]:
    low, high = (torch.as_tensor(b).to(like) for b in bounds)
    low, high = (b.view(1, -1, 1, 1) if b.ndim else b for b in (low, high))
    return low, high - low


def task_in(net: nn.Module, bounds: Bounds) -> abe.Task:
    return abe.image_task(In(net, bounds).eval(), bounds=bounds, channels=3, output_kind="logits")


def seen_in(bounds: Bounds, x: Tensor) -> Tensor:
    low, wide = scale(bounds, x)
    return low + wide * x


def back(bounds: Bounds, x: Tensor) -> Tensor:
    low, wide = scale(bounds, x)
    return (x - low) / wide


# ---------------------------------------------------------------- attacks

FAST: dict[str, dict[str, Any]] = {
    "ssa": {"copies": 3},
    "sia": {"copies": 3, "blocks": 2},
    "gra": {"neighbours": 3},
    "mig": {"points": 4},
    "naa": {"layer": "net.first", "points": 3},
    "danaa": {"layer": "net.first", "points": 3},
    "cw": {"searches": 2},
}
ATTACKS = [n for n in updates.names() if n != "advgan"]  # a trained generator has the radius of its training
IDS = [11, 12, 13]


def attack_in(bounds: Bounds, name: str, **how: Any) -> tuple[abe.AdversarialResult, Tensor]:
    task, x = task_in(Smooth(), bounds), seen_in(bounds, samples(3))
    how = {**FAST.get(name, {}), "ids": IDS, "progress": False, "execution": "model", **how}
    found = abe.attack(task, x, name, **how)
    return found, back(bounds, found.x_adv)


@EVERY
@pytest.mark.parametrize(
    ("name", "how"),
    [(n, {}) for n in ATTACKS]
    + [(n, {"norm": "l2"}) for n in ATTACKS if "norm" in updates.get(n).parameters()]
    + [
        ("naa", {"variant": "published"}),
        ("dim", {"variant": "published"}),
        ("cw", {"variant": "published"}),
    ],
    ids=lambda p: p if isinstance(p, str) else "-".join(map(str, p.values())) or "default",
)
def test_attacks_with_their_defaults(name, how, unit):
    right, x = attack_in((0.0, 1.0), name, **how)
    found, y = attack_in(UNITS[unit], name, **how)
    assert found.success.tolist() == right.success.tolist()
    assert torch.equal(found.queries, right.queries)
    same_up_to(y, x, ROUNDING)


@EVERY
@pytest.mark.parametrize("method", ["pgd", "mim", "tim"])
def test_curves_over_the_default_radii(method, unit):
    bounds = UNITS[unit]
    x = samples(6)
    right, found = (
        evaluate_robustness(task_in(Smooth(scale=40), b), seen_in(b, x), method, ids=range(6), progress=False)
        for b in ((0.0, 1.0), bounds)
    )
    assert found.robust_accuracy == right.robust_accuracy
    assert 0 < right.robust_accuracy[-1] < right.robust_accuracy[0]
    _, wide = scale(bounds, x)
    shares = [float(e) / (float(wide) if wide.ndim == 0 else 1.0) for e in found.epsilons]
    assert shares == pytest.approx(right.epsilons)


def test_what_is_given_is_in_input_units():
    bounds, x = (0.0, 255.0), samples(3)
    by_hand, _ = attack_in(bounds, "pgd", eps=8.0, alpha=2.0)
    default, _ = attack_in(bounds, "pgd")
    torch.testing.assert_close(by_hand.x_adv, default.x_adv)
    task = task_in(Smooth(scale=40), bounds)
    chained = updates.make("pgd")
    curves = [
        evaluate_robustness(task, seen_in(bounds, x), m, epsilons=[2, 8.0], ids=IDS, progress=False)
        for m in ("pgd", chained, updates.make("pgd", eps=100.0), updates.make("pgd", alpha=2.0))
    ]
    assert curves[0].epsilons == [2, 8.0]
    for other in curves[1:]:
        assert torch.equal(other.broken_at, curves[0].broken_at)
    for refused in ({"eps": 256}, {"eps": OfRange(1.5)}):
        with pytest.raises(abe.AbeError, match="range of valid inputs"):
            attack_in(bounds, "pgd", **refused)


# ---------------------------------------------------------------- maps

SLOPES = frozenset({"gradient", "saliency"})
ZERO = "its reference is 0 in input units, which is another picture in −1 … 1"


def map_in(case: MethodCase, bounds: Bounds) -> Tensor:
    task, x = task_in(case.net(), bounds), seen_in(bounds, samples(2))
    how = {"target": TARGET, "ids": IDS[:2], "progress": False, "execution": "model"}
    return abe.explain(task, x, case.method, **how).attribution


def _cases() -> list[Any]:
    return [
        pytest.param(n, id=n, marks=[pytest.mark.slow] * (n in SLOW))
        for n in methods.names()
        if n not in LEARNED
    ]


SLOW: frozenset[str] = frozenset()
LEARNED = frozenset({"fitted"})

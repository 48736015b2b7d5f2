"""Recorded attacks: the networks and inputs of the method oracles, and draws as they were recorded."""

from typing import Any

import torch
from tests.methods.common import ORACLES, images, net, oracle
from torch import Tensor

import abe
from abe.robustness import AdversarialResult
from abe.testing import ReplayedDraws

EPS, ALPHA = 16 / 255, 1.6 / 255
PIXELS = 1e-9
"""Largest difference of a pixel where the sign of the gradient is not in doubt."""

__all__ = ["ALPHA", "EPS", "ORACLES", "ReplayedDraws", "images", "net", "recorded", "run", "same"]


def recorded(name: str) -> dict[str, Any]:
    """A recorded attack with its draws, in call order, as ``log``: pairs of function and value."""
    case = oracle(name)
    if "out" in case:
        case["out"] = case["out"].double()
    log = case["meta"].get("draw_log", [])
    case["log"] = [
        (f, case[v["array"]].double() if isinstance(v, dict) and "array" in v else v) for f, v in log
    ]
    return case


def run(case: dict[str, Any], method: Any, **how: Any) -> AdversarialResult:
    """The attack on a recorded case as a user calls it."""
    task = abe.image_task(net("s"), output_kind="logits")
    settings = {"label": case["label"], "ids": range(len(case["x"])), "progress": False, "early_stop": False}
    return abe.attack(task, case["x"], method, **{**settings, **how})


def same(found: Tensor, right: Tensor, *, tolerance: float = PIXELS) -> float:
    """Share of pixels that differ by more than the tolerance."""
    assert found.shape == right.shape
    return float(((found - right).abs() > tolerance).double().mean())


def same_up_to(found: Tensor, right: Tensor, share: float) -> None:
    """Refuse numbers that differ by more than a share of the largest; NaN equals NaN."""
    size = float(right.abs().nan_to_num().max())
    assert found.shape == right.shape
    torch.testing.assert_close(found, right, rtol=0, atol=share * size + 1e-12, equal_nan=True)

"""Curves and areas of the published insertion/deletion variants."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from tests.metrics.common import net_s, oracle, problem

from abe.explanation import Explanation
from abe.metrics import PerturbationRun, score
from abe.task import image_task
from abe.types import Key
from abe.units import Element, Pixel, Union


@dataclass(frozen=True)
class RecordedTies:
    """The published order among equals, replayed as a draw.

    The fourth image is black in 128 positions, where its map is zero. The published code leaves the
    order of equals to NumPy's unstable sort, so the order is recorded, not recomputed.
    """

    order: torch.Tensor

    def permutation(self, purpose: str, keys: Sequence[Key], size: int) -> torch.Tensor:
        if self.order.shape[-1] != size:
            return torch.arange(size).flip(0).expand(len(keys), -1)
        return torch.stack([self.order[sample, draw] for sample, draw in keys])

    def uniform(self, purpose: str, keys: Sequence[Key], shape: Sequence[int]) -> torch.Tensor:
        raise AssertionError("nothing else is drawn")

    normal = integers = uniform


VARIANTS = [("rise", Pixel(), 32), ("union", Union(), 32), ("element", Element(), 96)]


@pytest.mark.parametrize(("name", "unit", "step"), VARIANTS, ids=[v[0] for v in VARIANTS])
@pytest.mark.parametrize("direction", ["insertion", "deletion"])
def test_published_curves(name, unit, step, direction):
    recorded = oracle(f"metric_insdel_{name}")
    net, x = net_s(), recorded["x"]
    found = score(
        Explanation.from_array(recorded["attribution"], x, target=net(x).argmax(1), ids=range(4)),
        image_task(net),
        metric=(direction, {"unit": unit, "step": step}),
        draws=RecordedTies(order=oracle("metric_insdel_union_order")["order"].long()),
    )
    short = direction[:3]
    assert found.curve.dtype == torch.float64
    torch.testing.assert_close(found.curve, recorded[f"curve_{short}"], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.values, recorded[f"auc_{short}"], rtol=1e-10, atol=1e-10)
    assert found.cost.forward_rows == 4 * 33
    assert found.step == step


def test_rise_takes_a_map_without_channels():
    recorded = oracle("metric_insdel_rise")
    given = problem(image_task(net_s()), recorded["x"])
    done = PerturbationRun(direction="deletion", step=32).perform(given, recorded["map2d"])
    torch.testing.assert_close(done.curve("probability"), recorded["curve_del"], rtol=1e-10, atol=1e-10)

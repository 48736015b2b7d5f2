"""Localisation and complexity against recorded numbers of Quantus, and their edges."""

import math

import pytest
import torch
from tests.metrics.common import mapped, net_s, oracle, problem
from torch import Tensor

from abe.errors import Code, InputError
from abe.metrics import as_metric
from abe.metrics.evaluation.truth import MASK
from abe.task import image_task

FLOAT32 = 2.0**-22
"""The published sums are in float32."""


def given(attribution: Tensor):
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return problem(image_task(net_s(torch.float32)), x, target=0)


NAMES = [
    ("pointinggame", "pointing_game", {"of": "absolute"}),
    ("relevancemassaccuracy", "relevance_mass", {"of": "absolute"}),
    ("relevancerankaccuracy", "relevance_rank", {"of": "absolute"}),
    ("topkintersection", "top_k_intersection", {"of": "absolute", "k": 100}),
]


@pytest.mark.parametrize(("theirs", "ours", "params"), NAMES, ids=[n[1] for n in NAMES])
def test_quantus_localisation(theirs, ours, params):
    recorded = oracle(f"quantus_{theirs}")
    explanation = mapped(recorded["attribution"], diagnostics={MASK: recorded["mask"]})
    found = as_metric((ours, params)).value.measure(given(recorded["attribution"]), explanation)
    torch.testing.assert_close(found, recorded["out"], rtol=FLOAT32, atol=0)


@pytest.mark.parametrize("channels", ["1ch", "3ch"])
@pytest.mark.parametrize("name", ["complexity", "sparseness"])
def test_quantus_complexity(name, channels):
    recorded = oracle(f"quantus_{name}_{channels}")
    maps = recorded["attribution"]
    if name == "sparseness":  # Quantus takes |a| + 1e-7
        maps = maps.double().abs() + 1e-7
    found = as_metric(name).value.measure(given(maps), mapped(maps))
    torch.testing.assert_close(found, recorded["out"], rtol=FLOAT32, atol=0)


def test_masks_that_are_missing_empty_full_or_of_another_shape():
    maps = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    metric = as_metric("relevance_mass").value
    for extra in ({}, {"diagnostics": {"mask": torch.ones(4, 5, 5)}}):
        with pytest.raises(InputError) as caught:
            metric.measure(given(maps), mapped(maps, **extra))
        assert caught.value.code is Code.MASK
    mask = torch.zeros(4, 32, 32, dtype=torch.bool)
    mask[1] = True
    mask[2:, :16] = True
    found = metric.measure(given(maps), mapped(maps, diagnostics={MASK: mask}))
    assert [math.isnan(v) for v in found.tolist()] == [True, True, False, False]


# -- by hand -----------------------------------------------------------------------------------------------


def _auc(values: list[float], inside: list[bool]) -> float:
    """Share of the pairs of a position inside and one outside that are in the right order; equals half."""
    within, without = (
        [v for v, i in zip(values, inside, strict=True) if i == side] for side in (True, False)
    )
    pairs = [(a, b) for a in within for b in without]
    return sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs)


def _pointing(values: list[float], inside: list[bool]) -> float:
    top = [i for v, i in zip(values, inside, strict=True) if v == max(values)]
    return sum(top) / len(top)


def _mass(values: list[float], inside: list[bool]) -> float:
    return sum(v for v, i in zip(values, inside, strict=True) if i) / sum(values)


def _first(k: int, values: list[float], inside: list[bool]) -> float:
    return sum(i for _, i in sorted(zip(values, inside, strict=True), reverse=True)[:k]) / k


def _boxed(inside: Tensor) -> Tensor:
    rows, columns = inside.any(1).nonzero().flatten(), inside.any(0).nonzero().flatten()
    box = torch.zeros_like(inside)
    box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return box


BY_HAND = {
    "localisation_auc": ({}, _auc),
    "pointing_game": ({}, _pointing),
    "relevance_mass": ({}, _mass),
    "relevance_rank": ({}, lambda v, i: _first(sum(i), v, i)),
    "top_k_intersection": ({"k": 5}, lambda v, i: _first(5, v, i)),
    "energy_in_box": ({}, _mass),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_every_number_is_what_one_counts_by_hand(name):
    params, count = BY_HAND[name]
    draws = torch.Generator().manual_seed(3)
    maps = torch.rand(4, 1, 32, 32, generator=draws)
    mask = torch.rand(4, 32, 32, generator=draws) < 0.02
    mask[:, :, 20:] = False  # its box is a part of the picture
    seen = torch.stack([_boxed(one) for one in mask]) if name == "energy_in_box" else mask
    found = as_metric((name, params)).value.measure(given(maps), mapped(maps, diagnostics={MASK: mask}))
    right = [count(m.flatten().tolist(), i.flatten().tolist()) for m, i in zip(maps, seen, strict=True)]
    torch.testing.assert_close(found.double(), torch.tensor(right, dtype=torch.float64), rtol=1e-5, atol=1e-7)


def test_equal_values_are_half_in_the_right_order():
    maps = torch.zeros(4, 1, 32, 32)
    maps[..., :8] = 1
    mask = torch.zeros(4, 32, 32, dtype=torch.bool)
    mask[:, 3:9, 5:12] = True
    found = as_metric("localisation_auc").value.measure(given(maps), mapped(maps, diagnostics={MASK: mask}))
    right = _auc(maps[0].flatten().tolist(), mask[0].flatten().tolist())
    torch.testing.assert_close(found.double(), torch.full((4,), right, dtype=torch.float64))

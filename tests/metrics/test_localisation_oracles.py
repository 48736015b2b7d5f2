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

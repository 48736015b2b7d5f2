"""Regions in every form that libraries return them: one meaning, or a refusal that names the way out."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import config
from tests.ids import shown
from torch import nn

import abe
from abe.draws import SeededDraws
from abe.errors import AbeError, Code
from abe.registry import units
from abe.units import Regions, as_unit

SIDE = (6, 8)
X = torch.rand(2, 3, *SIDE, generator=torch.Generator().manual_seed(3))
LABELS = np.arange(6)[:, None] // 3 * 2 + np.arange(8)[None] // 4  # 4 regions
EACH = np.stack([LABELS, LABELS[::-1, ::-1]])
ONE_HOT = np.stack([number == LABELS for number in range(4)])
BY_REGION = ("shapley", "lime", "occlusion", "kernel_shap", "banzhaf", "s_lime", "baylime", "c_lime", "ace")


@pytest.fixture(autouse=True)
def _no_checks_of_types():
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


def task() -> Any:
    torch.manual_seed(0)
    return abe.image_task(nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 8, 2)).eval())


def partition(regions: Any, x: torch.Tensor = X) -> torch.Tensor:
    return Regions(regions=regions).partition(x)


WANTED = torch.from_numpy(LABELS).expand(2, 1, *SIDE)
FORMS = {
    "int64": LABELS,
    "int32": LABELS.astype(np.int32),
    "uint8": LABELS.astype(np.uint8),
    "uint16": LABELS.astype(np.uint16),
    "big-endian": LABELS.astype(">i4"),
    "whole floats": LABELS.astype(np.float32),
    "lists": LABELS.tolist(),
    "list of rows": list(LABELS),
    "tensor": torch.from_numpy(LABELS),
    "short tensor": torch.from_numpy(LABELS).to(torch.int16),
    "from 1": LABELS + 1,
    "gaps": LABELS * 7,
    "as a batch": LABELS[None],
    "with channels": LABELS[None, None],
    "masks": ONE_HOT,
    "masks in a list": list(ONE_HOT),
    "mask tensors": [torch.from_numpy(mask) for mask in ONE_HOT],
    "masks per sample": np.stack([ONE_HOT, ONE_HOT]),
    "per sample": np.stack([LABELS, LABELS]),
    "per sample from 1": np.stack([LABELS, LABELS])[:, None] + 1,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_means_the_same_regions(form):
    assert torch.equal(partition(FORMS[form]), WANTED)
    assert Regions(regions=FORMS[form]).count(X.shape[1:]) == 4
    assert torch.equal(as_unit(FORMS[form]).partition(X), WANTED)
    assert torch.equal(units.resolve(("regions", {"regions": FORMS[form]})).partition(X), WANTED)


def test_one_mask_is_what_is_inside_and_what_is_not():
    assert torch.equal(partition(LABELS > 0), (torch.from_numpy(LABELS) > 0).long().expand(2, 1, *SIDE))


def test_regions_of_every_sample():
    for form in (EACH, EACH[:, None], EACH + 5, torch.from_numpy(EACH)):
        assert torch.equal(partition(form)[:, 0], torch.from_numpy(EACH.copy()))


def test_regions_of_every_channel():
    each = np.stack([LABELS, LABELS[::-1], LABELS[:, ::-1]])
    assert torch.equal(partition(each), torch.from_numpy(each).expand(2, 3, *SIDE))


@pytest.mark.parametrize("shape", [(2, 5), (2, 3, 5)])
def test_tables_and_series(shape):
    x, labels = torch.rand(shape), np.array([3, 3, 1, 1, 9])
    wanted = torch.tensor([1, 1, 0, 0, 2])
    for form in (
        labels,
        list(labels),
        np.stack([labels, labels]),
        np.stack([labels == n for n in (1, 3, 9)]),
    ):
        assert torch.equal(partition(form, x).flatten(0, -2)[0], wanted)


BAD = {
    "negative": LABELS - 1,
    "halves": LABELS + 0.5,
    "NaN": LABELS * np.nan,
    "other shape": LABELS[:5],
    "overlap": np.ones((2, *SIDE), bool),
    "holes": np.zeros((2, *SIDE), bool),
    "ragged": [[0, 1], [0]],
    "text": "slic",
    "nothing": None,
    "one number": 3,
    "empty": np.zeros((0, 8), int),
    "empty list": [],
    "complex": LABELS * 1j,
    "objects": np.array([[object()]]),
    "words": [["sky", "sea"]],
    "mapping": {"a": LABELS},
    "masks as integers": ONE_HOT.astype(np.uint8),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_settled_is_refused(name):
    with pytest.raises(AbeError) as caught:
        partition(BAD[name])
    assert caught.value.code is Code.UNITS
    assert caught.value.fix


def test_one_map_per_sample_or_per_channel_is_not_guessed():
    x, each = torch.rand(3, 3, *SIDE), np.stack([LABELS, LABELS[::-1], LABELS])
    with pytest.raises(AbeError, match=r"regions\[:, None\] or regions\[None\]"):
        partition(each, x)
    assert partition(each[:, None], x).shape == (3, 1, *SIDE)
    assert torch.equal(partition(each[None], x), torch.from_numpy(each.copy()).expand(3, 3, *SIDE))


@given(st.lists(st.integers(0, 40), min_size=1, max_size=48), st.integers(0, 1000))
def test_numbers_are_kept_in_order_whatever_they_begin_with(numbers, first):
    labels = np.resize(np.array(numbers) + first, SIDE)
    found = partition(labels)[0, 0].numpy()
    assert sorted(set(found.flat)) == list(range(len(set(labels.flat))))
    pairs = sorted({*zip(labels.flat, found.flat, strict=True)})
    assert [place for _, place in pairs] == list(range(len(pairs)))


@pytest.mark.parametrize("method", BY_REGION)
@pytest.mark.parametrize("form", ["uint8", "lists", "from 1", "masks"])
def test_methods_take_regions_however_they_come(method, form):
    how = {"target": 0, "ids": [0, 1], "progress": False}
    how |= {"start": 50, "evaluations": 100} if method == "s_lime" else {}
    wanted = abe.explain(task(), X, method, units=torch.from_numpy(LABELS), **how)
    for units_ in (FORMS[form], ("regions", {"regions": FORMS[form]})):
        found = abe.explain(task(), X, method, units=units_, **how)
        torch.testing.assert_close(found.attribution, wanted.attribution)


@pytest.mark.parametrize("metric", ["insertion", "deletion", "irof", "selectivity", "monotonicity", "aopc"])
def test_metrics_take_regions_however_they_come(metric):
    maps = torch.rand(2, 1, *SIDE, generator=torch.Generator().manual_seed(1))

    def scored(unit: Any) -> torch.Tensor:
        how = {"data": X, "ids": [0, 1], "progress": False}
        found = abe.evaluate(task(), {"m": maps}, [metric], unit=unit, **how)
        again = abe.evaluate(task(), {"m": maps}, [(metric, {"unit": unit})], **how)
        assert torch.equal(found.scores["m"][metric].values, again.scores["m"][metric].values)
        return found.scores["m"][metric].values

    for form in (FORMS["uint8"], FORMS["lists"], FORMS["gaps"], FORMS["masks per sample"]):
        torch.testing.assert_close(scored(form), scored(torch.from_numpy(LABELS)))


def test_a_metric_finds_each_samples_own_regions_in_a_large_batch():
    b = 70  # more than are run at once
    x, maps = torch.rand(b, 3, *SIDE), torch.rand(b, 1, *SIDE)
    each = np.stack([EACH[i % 2] for i in range(b)])
    how = {"data": x, "ids": list(range(b)), "progress": False}
    whole = abe.evaluate(task(), {"m": maps}, ["insertion"], unit=each, **how).scores["m"]["insertion"].values
    for i in (0, 1, 33, 69):
        one = {**how, "data": x[i : i + 1], "ids": [i]}
        alone = abe.evaluate(task(), {"m": maps[i : i + 1]}, ["insertion"], unit=each[i], **one)
        torch.testing.assert_close(alone.scores["m"]["insertion"].values[0], whole[i])


@pytest.mark.parametrize("unit", [5, 0.5, object(), Regions, {"regions": LABELS}, ("grid", 3)], ids=shown)
def test_what_is_no_unit_is_refused_by_metrics(unit):
    with pytest.raises(AbeError, match=r"(?i)unit|region"):
        abe.evaluate(task(), {"m": X}, ["insertion"], data=X, unit=unit, progress=False)


def test_regions_are_a_value():
    one, other = Regions(regions=LABELS), Regions(regions=torch.from_numpy(LABELS).int())
    assert one == other
    assert hash(one) == hash(other)
    assert one != Regions(regions=LABELS + 1)
    assert repr(one) == "Regions(6, 8)"
    methods = [abe.method("shapley", units=LABELS) for _ in range(2)]
    assert methods[0] == methods[1]
    assert hash(methods[0]) == hash(methods[1])
    assert methods[0] != abe.method("shapley", units=LABELS + 1)


def test_regions_that_are_changed_later_stay_what_they_were():
    mine = LABELS.copy()
    tensor = torch.from_numpy(LABELS.copy())
    kept = [Regions(regions=mine), Regions(regions=tensor)]
    mine[:], tensor[:] = 0, 0
    for one in kept:
        assert torch.equal(one.partition(X), WANTED)


def test_order_of_arrival_of_given_regions():
    maps = torch.zeros(2, 1, *SIDE)
    maps[:, 0, 3:, :4] = 1.0  # region 2 first
    found = Regions(regions=LABELS + 1).ranks(maps, X, draws=SeededDraws(seed=0), ids=[0, 1])
    assert found.nominal == 4
    assert bool((found.order[:, 0, 3:, :4] == 0).all())

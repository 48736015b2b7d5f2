"""Units: who arrives when, for any shape of input and map."""

import pytest
import torch

from abe.draws import SeededDraws
from abe.errors import AbeError, Code
from abe.registry import units
from abe.spec import from_spec, to_spec
from abe.units import Element, Patch, Pixel, Superpixel, Union, number_of_steps, step_size

DRAWS = SeededDraws(seed=3)
ALL = [Pixel(), Union(), Element(), Patch(size=3), Superpixel(n=6)]


def images(b: int = 3, c: int = 3, h: int = 7, w: int = 8) -> torch.Tensor:
    return torch.rand(b, c, h, w, generator=torch.Generator().manual_seed(1))


def maps(b: int = 3, c: int = 3, h: int = 7, w: int = 8) -> torch.Tensor:
    return torch.randn(b, c, h, w, generator=torch.Generator().manual_seed(2))


def order(unit, attribution, x, ids=None):
    return unit.ranks(attribution, x, draws=DRAWS, ids=ids or list(range(len(x))))


def test_pixel_follows_the_sum_over_channels():
    x, a = images(), maps()
    got = order(Pixel(), a, x).order
    assert got.shape == (3, 1, 7, 8)
    for i in range(3):
        wanted = a[i].sum(0).flatten().argsort(descending=True)
        assert torch.equal(got[i].flatten().argsort(), wanted)


def test_union_is_the_best_rank_of_the_channels():
    x, a = images(), maps()
    got = order(Union(), a, x).order[:, 0].flatten(1)
    each = a.flatten(2).argsort(2, descending=True).argsort(2)
    assert torch.equal(got.long(), each.amin(1))


def test_element_ranks_everything_together():
    x, a = images(), maps()
    got = order(Element(), a, x)
    assert torch.equal(got.order.flatten(1).long(), a.flatten(1).argsort(1, descending=True).argsort(1))
    assert got.nominal == 3 * 7 * 8


def test_patch_sums_over_its_positions():
    x, a = images(), maps()
    got = order(Patch(size=3), a, x)
    assert got.nominal == 9
    sums = torch.stack(
        [a[:, :, r : r + 3, q : q + 3].sum((1, 2, 3)) for r in (0, 3, 6) for q in (0, 3, 6)], dim=1
    )
    places = sums.argsort(1, descending=True).argsort(1)
    for cell, (r, q) in enumerate([(r, q) for r in (0, 3, 6) for q in (0, 3, 6)]):
        block = got.order[:, 0, r : r + 3, q : q + 3].flatten(1).long()
        assert torch.equal(block, places[:, cell : cell + 1].expand_as(block))


def test_superpixel_sums_over_its_positions():
    x, a = images(h=16, w=16), maps(h=16, w=16)
    unit = Superpixel(n=6)
    got = order(unit, a, x)
    for i in range(3):
        label = unit.labels(x[i])
        regions = int(label.max()) + 1
        assert int(got.counts[i]) == regions
        sums = torch.stack([a[i].sum(0)[label == r].sum() for r in range(regions)])
        places = sums.argsort(descending=True).argsort()
        assert torch.equal(got.order[i, 0].long(), places[label])


@pytest.mark.parametrize("unit", ALL, ids=repr)
def test_every_unit_arrives_once_and_in_time(unit):
    arrival = order(unit, maps(), images())
    for step in (1, 2, 5):
        thresholds = arrival.thresholds(step)
        assert thresholds.shape == (3, number_of_steps(arrival.nominal, step) + 1)
        assert bool((thresholds[:, 0] == 0).all())
        assert bool((thresholds.diff(dim=1) >= 0).all())
        assert torch.equal(thresholds[:, -1], arrival.counts)
    owner = torch.arange(3)
    assert not bool(arrival.reached(owner, torch.zeros(3, dtype=torch.long)).any())
    assert bool(arrival.reached(owner, arrival.counts).all())


def test_thresholds_of_other_counts_are_the_same_fractions():
    arrival = order(Superpixel(n=6), maps(h=16, w=16), images(h=16, w=16))
    thresholds = arrival.thresholds(1)
    for i, count in enumerate(arrival.counts.tolist()):
        assert thresholds[i].tolist() == [-(-k * count // 6) for k in range(7)]


@pytest.mark.parametrize("unit", ALL, ids=repr)
def test_a_row_does_not_depend_on_its_neighbours(unit):
    x, a = images(h=16, w=16), maps(h=16, w=16).round()  # rounding makes ties
    whole = order(unit, a, x, [11, 12, 13])
    back = order(unit, a.flip(0), x.flip(0), [13, 12, 11])
    assert torch.equal(back.order.flip(0), whole.order)
    for i in range(3):
        alone = order(unit, a[i : i + 1], x[i : i + 1], [11 + i])
        assert torch.equal(alone.order[0], whole.order[i])


def test_ties_are_a_shuffle_that_the_seed_decides():
    x = images()
    flat = torch.zeros_like(x)
    one, two = order(Pixel(), flat, x, [1, 2, 3]), order(Pixel(), flat, x, [1, 2, 3])
    assert torch.equal(one.order, two.order)
    assert not torch.equal(one.order[0], one.order[1])
    places = one.order[0].flatten().sort().values
    assert torch.equal(places.long(), torch.arange(56))
    assert (
        abs(float(torch.corrcoef(torch.stack([one.order[0].flatten().float(), torch.arange(56.0)]))[0, 1]))
        < 0.4
    )


def test_one_channel_maps_serve_every_channel():
    x, a = images(), maps(c=1)
    pixel = order(Pixel(), a, x).order
    assert torch.equal(pixel, order(Pixel(), a[:, 0], x).order)
    assert torch.equal(pixel, order(Union(), a, x).order)
    element = order(Element(), a, x)
    assert element.order.shape == x.shape
    best = element.order.amin(1).flatten(1).argsort(1)
    assert torch.equal(best, pixel.flatten(1).argsort(1))  # triples of ties stay together


@pytest.mark.parametrize("unit", [Pixel(), Union(), Element(), Patch(size=2)], ids=repr)
def test_tables_and_series(unit):
    table = torch.rand(2, 5)
    assert order(unit, torch.randn(2, 5), table).order.shape == (2, 5)
    series = torch.rand(2, 3, 9)
    arrival = order(unit, torch.randn(2, 3, 9), series)
    assert torch.broadcast_shapes(arrival.order.shape, series.shape) == series.shape
    assert int(arrival.order.max()) == arrival.nominal - 1 or isinstance(unit, Union)
    assert unit.count((3, 9)) == arrival.nominal


@pytest.mark.parametrize("shape", [(3, 3, 7, 7), (2, 3, 7, 8), (3, 2, 7, 8), (3, 56)])
def test_maps_of_another_shape_are_refused(shape):
    with pytest.raises(AbeError) as caught:
        order(Pixel(), torch.zeros(shape), images())
    assert caught.value.code is Code.MAP_SHAPE


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_maps_with_holes_are_refused(bad):
    a = maps()
    a[1, 0, 0, 0] = bad
    with pytest.raises(AbeError, match="sample 1") as caught:
        order(Pixel(), a, images())
    assert caught.value.code is Code.MAP_NOT_FINITE


def test_step_sizes():
    assert step_size(None, 224 * 224) == 502
    assert step_size(None, 20) == 1
    assert step_size(0.1, 50) == 5
    assert step_size(7, 50) == 7
    assert step_size(700, 50) == 50
    for bad in (0, -1, 2.5, True):
        with pytest.raises(AbeError) as caught:
            step_size(bad, 50)
        assert caught.value.code is Code.BAD_PARAMETER


def test_names_and_specs():
    assert units.names() == [
        *("pixel", "union", "element", "patch", "grid", "regions"),
        *("natural", "word", "token", "clause", "sentence", "span"),
        *("frame", "point", "channel", "piece", "input", "column"),
        *("window", "window_channel", "block", "tube", "superpixel"),
    ]
    for unit in ALL:
        assert from_spec(to_spec(unit)) == unit
    assert units.resolve(("patch", {"size": 8})) == Patch(size=8)
    with pytest.raises(AbeError) as caught:
        Patch(size=0)
    assert caught.value.code is Code.BAD_PARAMETER

"""Maps as colours."""

import numpy as np
import pytest

from abe.report import colour


def test_one_outlier_does_not_wash_out_the_map() -> None:
    values = np.linspace(-1, 1, 10_000).reshape(100, 100)
    values[0, 0] = 1e6
    assert colour.limit(values) == pytest.approx(0.99, abs=0.01)


def test_a_sparse_map_is_scaled_by_its_maximum_and_a_zero_map_stays_empty() -> None:
    sparse = np.zeros((50, 50))
    sparse[3, 4] = -0.25
    assert colour.limit(sparse) == 0.25
    empty = colour.signed_levels(np.zeros((5, 5)), colour.limit(np.zeros((5, 5))))
    assert (colour.signed_palette()[empty][..., 3] == 0).all()
    assert (colour.where_levels(np.zeros((5, 5))) == 0).all()


def test_the_signed_scale_is_symmetric_and_opposite_signs_differ() -> None:
    levels = colour.signed_levels(np.array([[-2.0, -1.0, 0.0, 1.0, np.inf, np.nan]]), 1.0)
    assert levels.tolist() == [[0, 0, 127, 254, 254, 127]]
    palette = colour.signed_palette().astype(int)
    assert (palette[:, 3] == palette[::-1, 3]).all()
    assert tuple(palette[254, :3]) == colour.SUPPORTS
    assert tuple(palette[0, :3]) == colour.OPPOSES


def test_the_hues_stay_apart_without_red_or_without_green() -> None:
    # protan and deutan eyes keep the blue-yellow axis: blue minus the mean of red and green
    supports, opposes = (c[2] - (c[0] + c[1]) / 2 for c in (colour.SUPPORTS, colour.OPPOSES))
    assert opposes - supports > 200


def test_averaging_keeps_constants_and_nothing_leaks_from_the_edges() -> None:
    assert colour.average(np.full((9, 7), 2.5), 3.0) == pytest.approx(2.5)
    single = np.zeros((31, 31))
    single[15, 15] = 1
    spread = colour.average(single, 2.0)
    assert spread[15, 15] == spread.max()
    assert spread[15, 17] == pytest.approx(spread[15, 15] * np.exp(-0.5), rel=1e-9)
    assert colour.average(single, 0) is single


def test_where_finds_the_region_whatever_the_sign() -> None:
    values = np.random.default_rng(0).normal(size=(100, 100)) * 0.1
    values[20:40, 60:80] *= 30
    y, x = np.unravel_index(colour.where_levels(values).argmax(), (100, 100))
    assert (20 <= y < 40, 60 <= x < 80) == (True, True)


def test_lines_have_their_own_look() -> None:
    looks = [colour.line(i) for i in range(24)]
    assert len(set(looks)) == 24

"""Bounds of shares against recorded ones."""

from pathlib import Path

import numpy as np
import pytest

import abe
from abe.theory.shares import Share, draws_for

RECORDED = np.load(Path(__file__).parent / "recorded" / "choosing.npz")


def held(name: str) -> np.ndarray:
    return RECORDED[f"shares/{name}"]


@pytest.mark.parametrize("place", list(np.ndindex(*held("counts").shape)))
def test_recorded_bounds(place: tuple[int, int]) -> None:
    share = Share(int(held("counts")[place]), int(held("draws")[place]))
    assert share.rate == held("rate")[place]
    assert share.lower() == pytest.approx(held("lower")[place], abs=1e-12)
    assert share.lower(statements=48) == pytest.approx(held("lower_bonferroni")[place], abs=1e-12)
    assert share.interval() == pytest.approx(tuple(held("interval")[place]), abs=1e-12)
    assert share.exact_lower() == pytest.approx(held("clopper_pearson_lower")[place], abs=1e-12)
    assert share.certified(0.8) == held("certified")[place]


def test_draws_that_are_needed() -> None:
    assert [draws_for(float(half)) for half in held("eps")] == held("n_needed").tolist()


@pytest.mark.parametrize(("count", "draws"), [(3, 2), (-1, 2), (0, 0), (True, 2)])
def test_a_share_counts_its_draws(count: int, draws: int) -> None:
    with pytest.raises(abe.AbeError):
        Share(count, draws)


@pytest.mark.parametrize("delta", [0, 1, -0.1, 2])
def test_a_chance_lies_between_0_and_1(delta: float) -> None:
    with pytest.raises(abe.AbeError):
        Share(1, 2).lower(delta)
    with pytest.raises(abe.AbeError):
        draws_for(0.1, delta)

# ruff: noqa: NPY002 - the global generator is what is tested
"""The global random states are put back whatever was drawn, from whatever generator."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from abe.instrument.random_states import RandomStates, kept_states

DRAWS: dict[str, Callable[[], Any]] = {
    "torch": lambda: float(torch.rand(())),
    "python": random.random,
    "numpy": np.random.rand,
    "numpy normal": np.random.randn,
}


@pytest.fixture(autouse=True)
def as_before():
    states = RandomStates.now()
    yield
    states.put_back()


@pytest.mark.parametrize("drawn", [0, 1, 2, 3, 700])
@pytest.mark.parametrize("before", [0, 1, 2])
@pytest.mark.parametrize("kind", DRAWS)
def test_the_next_draw_is_what_it_would_have_been(kind: str, before: int, drawn: int):
    draw = DRAWS[kind]
    for _ in range(before):  # an odd number of normal draws leaves one that NumPy keeps for the next call
        draw()
    states = RandomStates.now()
    expected = [DRAWS[name]() for name in DRAWS] + [draw() for _ in range(3)]
    states.put_back()
    with kept_states():
        for _ in range(drawn):
            draw()
    assert [DRAWS[name]() for name in DRAWS] + [draw() for _ in range(3)] == expected


@pytest.mark.parametrize("kind", DRAWS)
def test_a_draw_is_noticed(kind: str):
    states = RandomStates.now()
    assert states.same(RandomStates.now())
    DRAWS[kind]()
    assert not states.same(RandomStates.now())


def test_a_kept_normal_draw_that_is_used_is_noticed():
    np.random.randn()
    states = RandomStates.now()
    np.random.randn()
    assert not states.same(RandomStates.now())


@pytest.mark.parametrize("other", [np.random.PCG64, np.random.Philox])
@pytest.mark.skipif(not hasattr(np.random, "set_bit_generator"), reason="NumPy before 1.24")
def test_another_generator_of_numpy_is_put_back(other: Any):
    own = np.random.get_bit_generator()
    try:
        np.random.set_bit_generator(other(1))
        states = RandomStates.now()
        assert states.same(RandomStates.now())
        expected = [np.random.rand() for _ in range(5)]
        assert not states.same(RandomStates.now())
        states.put_back()
        with kept_states():
            np.random.rand()
        assert [np.random.rand() for _ in range(5)] == expected
    finally:
        np.random.set_bit_generator(own)


class Devices:
    """What torch says and does of the states of two devices, on a machine that may have none."""

    def __init__(self) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]

    def get(self) -> list[torch.Tensor]:
        return [generator.get_state() for generator in self.generators]

    def set(self, states: list[torch.Tensor]) -> None:
        for generator, state in zip(self.generators, states, strict=True):
            generator.set_state(state)

    def draw(self) -> list[float]:
        return [float(torch.rand((), generator=generator)) for generator in self.generators]


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> Devices:
    made = Devices()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", made.get)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", made.set)
    return made


def test_every_device_goes_on_as_if_nothing_was_drawn(devices: Devices):
    states = RandomStates.now()
    expected = devices.draw()
    assert not states.same(RandomStates.now())
    states.put_back()
    assert states.same(RandomStates.now())
    with kept_states():
        devices.draw()
    assert devices.draw() == expected

"""Agreement between methods: against slow forms, at its limits, and what it refuses."""

import json

import numpy as np
import pytest
import torch
from scipy import stats
from tests.metrics.common import photos
from torch import Tensor

from abe import Explanation
from abe.errors import AbeError, Code
from abe.metrics import agreement

SIDE = 12


def noise(b: int, seed: int, channels: int = 3) -> Tensor:
    return torch.randn(b, channels, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def explained(maps: Tensor, x: Tensor) -> Explanation:
    return Explanation.from_array(maps, x, target=1)


def test_it_is_the_slow_form() -> None:
    x, first, second = photos(4), noise(4, 1), noise(4, 2)
    second = 0.5 * first + second
    found = agreement({"a": explained(first, x), "b": explained(second, x)}, share=0.2)
    k = round(0.2 * SIDE * SIDE)
    for i in range(4):
        one, other = (m[i].double().sum(0).flatten().numpy() for m in (first, second))
        assert found.rank[0, 1, i] == pytest.approx(stats.spearmanr(one, other).statistic, abs=1e-12)
        tops = [set(np.argsort(-np.abs(m))[:k].tolist()) for m in (one, other)]
        common = tops[0] & tops[1]
        assert found.top[0, 1, i] == pytest.approx(len(common) / k)
        same = [p for p in common if np.sign(one[p]) == np.sign(other[p])]
        assert found.sign[0, 1, i] == pytest.approx(len(same) / k)
    for part in (found.rank, found.top, found.sign):
        torch.testing.assert_close(part, part.transpose(0, 1))
        torch.testing.assert_close(part.diagonal(), torch.ones_like(part.diagonal()))


def test_limits_and_chance() -> None:
    """A map agrees with its multiple, disagrees in sign with its negative, and with noise by chance only."""
    x, maps = photos(8), noise(8, 3)
    given = {"map": maps, "twice": 2 * maps, "negative": -maps, "noise": noise(8, 4), "zero": 0 * maps}
    found = agreement({n: explained(m, x) for n, m in given.items()}, share=0.25)
    at = dict(zip(found.methods, range(5), strict=True))
    one = at["map"]
    every = torch.ones(8, dtype=torch.float64)
    torch.testing.assert_close(found.rank[one, at["twice"]], every)
    assert bool((found.sign[one, at["twice"]] == 1).all())
    torch.testing.assert_close(found.rank[one, at["negative"]], -every)
    assert bool((found.top[one, at["negative"]] == 1).all())
    assert bool((found.sign[one, at["negative"]] == 0).all())
    assert abs(float(found.rank[one, at["noise"]].mean())) < 0.1
    assert float(found.top[one, at["noise"]].mean()) == pytest.approx(0.25, abs=0.06)
    assert bool((found.rank[one, at["zero"]] == 0).all())  # a map without order agrees with nothing
    assert json.loads(json.dumps(found.to_dict()))["methods"] == list(given)


def test_one_channel_agrees_with_three_and_rows_do_not_meet() -> None:
    x, maps = photos(3), noise(3, 5)
    flat = maps.sum(1, keepdim=True)
    found = agreement({"three": explained(maps, x), "one": explained(flat, x)})
    torch.testing.assert_close(found.rank[0, 1], torch.ones(3, dtype=torch.float64))
    other = noise(3, 6)
    whole = agreement({"a": explained(maps, x), "b": explained(other, x)})
    alone = agreement({"a": explained(maps[1:2], x[1:2]), "b": explained(other[1:2], x[1:2])})
    for part in ("rank", "top", "sign"):
        torch.testing.assert_close(getattr(alone, part)[..., 0], getattr(whole, part)[..., 1])


def test_refusals() -> None:
    x, maps = photos(2), noise(2, 7)
    good, wrong, broken = (explained(maps, x) for _ in range(3))
    wrong.attribution = maps[..., :-1]
    broken.attribution = torch.where(maps > 0, maps, torch.nan)
    for given, share, code in (
        ({}, 0.1, Code.BAD_PARAMETER),
        ({"a": good}, 0.0, Code.BAD_PARAMETER),
        ({"a": good, "b": explained(maps, x.flip(0))}, 0.1, Code.SAMPLES),
        ({"a": good, "b": explained(maps[:1], x[:1])}, 0.1, Code.SAMPLES),
        ({"a": good, "b": wrong}, 0.1, Code.MAP_SHAPE),
        ({"a": good, "b": broken}, 0.1, Code.MAP_NOT_FINITE),
    ):
        with pytest.raises(AbeError) as caught:
            agreement(given, share=share)
        assert caught.value.code is code

"""Intervals cover what they claim, tests agree with slow forms, and no difference is called none."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from scipy import stats

from abe.errors import AbeError, Code
from abe.metrics.evaluation.statistics import (
    HELD,
    RESAMPLES,
    _resamples,
    _signs,
    holm,
    intervals,
    needed,
    paired_tests,
    sign_flip,
    t_quantile,
)


def draws(seed: int):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("df", [1, 2, 3, 4, 7, 30, 299, 1000, 1001, 5000])
@pytest.mark.parametrize("q", [0.75, 0.95, 0.975, 0.9995])
def test_quantiles_are_students(q, df):
    assert t_quantile(q, df) == pytest.approx(stats.t.ppf(q, df), rel=1e-5 if df > 1000 else 1e-9)


@pytest.mark.parametrize("n", [8, 20, 100])
def test_intervals_cover_the_mean_as_often_as_they_say(n):
    columns = torch.randn(n, 1500, dtype=torch.float64, generator=draws(n))
    inside = sum(low <= 0 <= high for low, high in intervals(columns)) / 1500
    assert 0.93 < inside < 0.97  # plain percentiles cover 0.89 of eight samples


def test_an_interval_is_the_percentiles_of_resampled_means():
    n, values = 12, torch.rand(12, 1, dtype=torch.float64, generator=draws(0))
    ((low, high),) = intervals(values, confidence=0.9)
    rng = np.random.default_rng(1)
    means = values[:, 0].numpy()[rng.integers(n, size=(200_000, n))].mean(1)
    level = stats.norm.cdf(-math.sqrt(n / (n - 1)) * stats.t.ppf(0.95, n - 1))
    spread = means.std()
    assert low == pytest.approx(np.quantile(means, level), abs=0.15 * spread)
    assert high == pytest.approx(np.quantile(means, 1 - level), abs=0.15 * spread)


def test_intervals_repeat_and_leave_out_what_does_not_apply():
    columns = torch.rand(9, 2, dtype=torch.float64, generator=draws(3))
    assert intervals(columns, seed=4) == intervals(columns, seed=4)
    assert intervals(columns, seed=4) != intervals(columns, seed=5)
    columns[[2, 5], 0] = math.nan
    (gappy, _) = intervals(columns)
    (whole,) = intervals(columns[~columns[:, 0].isnan(), :1])
    assert gappy == pytest.approx(whole, abs=0.1 * (whole[1] - whole[0]))
    assert intervals(columns)[1] == pytest.approx(intervals(columns[:, 1:])[0])
    columns[:8, 0] = math.nan
    assert all(map(math.isnan, intervals(columns)[0]))
    assert all(map(math.isnan, intervals(columns[:1])[0]))
    columns[0, 1] = math.inf
    assert all(map(math.isnan, intervals(columns)[1]))


@pytest.mark.parametrize("n", [2, 5, 9])
def test_small_sign_flips_are_exact(n):
    d = torch.randn(n, 3, dtype=torch.float64, generator=draws(n))
    found = sign_flip(d)
    for k in range(3):
        column = d[:, k].numpy()
        means = [abs((np.array(s) * column).sum()) for s in product((-1, 1), repeat=n)]
        assert found[k] == pytest.approx(np.mean(np.array(means) >= abs(column.sum()) * (1 - 1e-9)))


def test_large_sign_flips_agree_with_scipy():
    d = torch.randn(40, 1, dtype=torch.float64, generator=draws(1)) + 0.3
    wanted = stats.permutation_test(
        (d[:, 0].numpy(),), np.mean, permutation_type="samples", n_resamples=20_000, rng=0
    )
    assert sign_flip(d)[0] == pytest.approx(wanted.pvalue, abs=0.02)
    assert sign_flip(d, smallest=1e-5)[0] > 0


def test_holm_is_the_step_down_procedure():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def table(n: int, shift: float, methods: int = 3, seed: int = 0):
    """Methods on n samples that share the samples' difficulty; the first is better by ``shift``."""
    base = torch.randn(n, dtype=torch.float64, generator=draws(seed))
    noise = torch.randn(methods, n, dtype=torch.float64, generator=draws(seed + 999))
    return {f"m{k}": {"gain": base + 0.3 * noise[k] + (shift if k == 0 else 0.0)} for k in range(methods)}


def test_equal_methods_are_said_not_to_differ_and_different_ones_to_differ():
    verdicts = {(t.first, t.second): t for t in paired_tests(table(40, 0.5), {"gain": "higher"})}
    for other in ("m1", "m2"):
        found = verdicts["m0", other]
        assert found.verdict == "better"
        assert found.interval[0] > 0
        assert found.reversed().verdict == "worse"
        assert found.reversed().interval[1] < 0
    assert verdicts["m1", "m2"].verdict == "no difference"
    lower = paired_tests(table(40, 0.5), {"gain": "lower"})
    assert [t.verdict for t in lower] == ["worse", "worse", "no difference"]


def test_few_false_alarms_in_many_tables():
    """Holm keeps the chance of any false difference in a table of three tests at 5 %."""
    alarms = 0
    for seed in range(200):
        tests = paired_tests(table(12, 0.0, seed=seed), {"gain": "higher"})
        alarms += any(t.verdict in ("better", "worse") for t in tests)
    assert alarms <= 20  # 10 expected; more than 20 has a chance below 0.2 %


def test_fewer_samples_than_a_test_needs_is_a_verdict():
    assert needed(1) == 6
    assert needed(3) == 7
    for n, verdict in ((5, "too few samples"), (6, "better")):
        values = {"a": {"gain": torch.arange(n) + 1.0}, "b": {"gain": torch.zeros(n)}}
        assert paired_tests(values, {"gain": "higher"})[0].verdict == verdict
    same = {"a": {"gain": torch.ones(2)}, "b": {"gain": torch.ones(2) + 1e-9}}
    (found,) = paired_tests(same, {"gain": "higher"})
    assert found.verdict == "no difference"
    assert found.p == 1
    none = {"a": {"gain": torch.full((9,), math.nan)}, "b": {"gain": torch.ones(9)}}
    (found,) = paired_tests(none, {"gain": "higher"})
    assert (found.n, found.verdict) == (0, "too few samples")


def test_resamples_and_patterns_are_held_in_parts():
    parts = list(_resamples(100_000, 0))
    assert max(part.numel() for part in parts[:3]) <= HELD
    assert sum(map(len, parts)) == RESAMPLES
    assert float(parts[0][0].sum()) == 100_000
    assert max(part.numel() for part in _signs(300_000, 0, 50)) <= HELD


def test_a_confidence_is_checked():
    for confidence in (0, 0.3, 1, 95):
        with pytest.raises(AbeError) as caught:
            intervals(torch.rand(4, 1), confidence=confidence)
        assert caught.value.code is Code.BAD_PARAMETER

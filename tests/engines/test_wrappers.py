"""Smoothing, ensembles and post-processing: known moments, and independence of how rows are cut."""

from typing import Any

import pytest
import torch
from torch import Tensor

import abe
from abe.draws import SeededDraws, sample_ids
from abe.engines.path.curves import StraightLine
from abe.engines.path.gradient import Expectation, GradientAt
from abe.engines.path.static import PathIntegral
from abe.engines.runtime import shapes
from abe.engines.wrappers import Ensemble, Postprocess, Smooth
from abe.errors import Code, InputError, SpecError
from abe.testing import KNOWN, RecordedDraws, ReplayedDraws, nets, problem_of, samples, task_of
from abe.types import Result

PRODUCT = KNOWN[1]


def noise(x: Tensor, n: int, draws: Any = None) -> Tensor:
    """(b, n, *f) what `Smooth` draws for x."""
    keys = [(i, k) for i in sample_ids(x) for k in range(n)]
    rows = (draws or SeededDraws(seed=0)).normal("smooth.noise", keys, x.shape[1:])
    return rows.view(len(x), n, *x.shape[1:]).to(x)


@pytest.mark.parametrize("reduce", ["mean", "square", "variance"])
def test_moments_on_a_product_by_hand(reduce: str) -> None:
    """∇(uv) at u + σε is (v + σε_v, u + σε_u): mean, square and variance follow from the draws."""
    x, n, sigma = samples(2), 6, 0.2
    found = Smooth(engine=GradientAt(), sigma=sigma, samples=n, reduce=reduce).run(
        problem_of(PRODUCT.net(), x)
    )
    near = (x[:, None] + sigma * noise(x, n)).flatten(2)[:, :, [1, 0]]
    moments = {"mean": near.mean(1), "square": near.square().mean(1), "variance": near.var(1, unbiased=False)}
    torch.testing.assert_close(found.attribution.flatten(1)[:, :2], moments[reduce], rtol=1e-10, atol=1e-12)
    errors = {
        "mean": near.std(1) / n**0.5,
        "square": near.square().std(1) / n**0.5,
        "variance": near.var(1, unbiased=False) * (2 / (n - 1)) ** 0.5,
    }
    assert found.standard_error is not None
    torch.testing.assert_close(found.standard_error.flatten(1)[:, :2], errors[reduce], rtol=1e-8, atol=1e-12)


def test_sigma_counts_in_the_bounds_in_the_sample_or_in_input_units() -> None:
    x, net = samples(2), PRODUCT.net()
    x[0] *= 0.5
    own = (x.flatten(1).amax(1) - x.flatten(1).amin(1)).view(-1, 1, 1, 1, 1)
    wide, unbounded, absolute = problem_of(net, x), problem_of(net, x), problem_of(net, x)
    wide.task.low, wide.task.high = torch.tensor(-1.0), torch.tensor(3.0)
    unbounded.task.low = unbounded.task.high = None
    for problem, scale, relative in ((wide, 4.0, True), (unbounded, own, True), (absolute, 1.0, False)):
        found = Smooth(engine=GradientAt(), sigma=0.1, samples=3, relative=relative).run(problem)
        near = (x[:, None] + 0.1 * scale * noise(x, 3)).flatten(2)[:, :, [1, 0]].mean(1)
        torch.testing.assert_close(found.attribution.flatten(1)[:, :2], near, rtol=1e-10, atol=1e-12)


def test_blocks_of_copies_do_not_change_the_map(monkeypatch: pytest.MonkeyPatch) -> None:
    x, net = samples(3), nets.Smooth()
    engine = Smooth(engine=PathIntegral(path=StraightLine(baseline="zero"), steps=3), samples=7)
    whole = engine.run(problem_of(net, x)).attribution
    monkeypatch.setattr(shapes, "BLOCK_BYTES", 4 * x[0].numel() * 8)
    blocked = engine.run(problem_of(net, x)).attribution
    torch.testing.assert_close(blocked, whole, rtol=1e-11, atol=1e-13)


def test_draws_inside_a_smoothed_method_differ_between_copies() -> None:
    """Copies of a sample draw apart: Expected Gradients inside sees other references in every copy."""
    x = samples(1)
    recorder = RecordedDraws()
    inner = Expectation(baseline=abe.baselines.Uniform(), samples=2)
    Smooth(engine=inner, sigma=0.0, samples=3).run(problem_of(nets.Linear(), x, draws=recorder))
    alphas = list(recorder.recorded["expectation.alpha"].values())
    assert len(alphas) == 6
    assert len({float(a) for a in alphas}) == 6


def test_without_noise_smoothing_is_the_method_itself() -> None:
    x, net = samples(2), nets.Smooth()
    plain = GradientAt().run(problem_of(net, x)).attribution
    found = Smooth(engine=GradientAt(), sigma=0.0, samples=3).run(problem_of(net, x))
    torch.testing.assert_close(found.attribution, plain, rtol=1e-12, atol=1e-14)
    assert found.standard_error is not None
    assert float(found.standard_error.max()) < 1e-7 * float(plain.abs().max())
    assert found.delta is None


def test_an_ensemble_is_the_mean_of_maps_of_unit_sum() -> None:
    x, net = samples(2), nets.Smooth()
    engines = (GradientAt(), GradientAt(times_input=True), GradientAt(absolute=True))
    found = Ensemble(engines=engines).run(problem_of(net, x))
    maps = [engine.run(problem_of(net, x)).attribution for engine in engines]
    mean = sum(m / m.flatten(1).abs().sum(1).view(-1, 1, 1, 1) for m in maps) / 3
    torch.testing.assert_close(found.attribution, mean, rtol=1e-12, atol=1e-15)
    assert found.delta is None


class Given:
    """An engine with a fixed map."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def run(self, problem: Any) -> Result:
        return Result(self.values.clone(), delta=self.values.flatten(1).sum(1), warnings=["kept"])


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (("absolute",), [3.0, 1.0, 0.0, 4.0]),
        (("positive",), [0.0, 1.0, 0.0, 4.0]),
        (("negative",), [3.0, 0.0, 0.0, 0.0]),
        (("unit_max",), [-0.75, 0.25, 0.0, 1.0]),
        (("unit_sum",), [-0.375, 0.125, 0.0, 0.5]),
        (("positive", "unit_sum"), [0.0, 0.2, 0.0, 0.8]),
        (("unit_sum", "positive"), [0.0, 0.125, 0.0, 0.5]),
        ((), [-3.0, 1.0, 0.0, 4.0]),
    ],
)
def test_post_processing_by_hand(steps: tuple[Any, ...], expected: list[float]) -> None:
    values = torch.tensor([-3.0, 1.0, 0.0, 4.0], dtype=torch.float64).view(1, 1, 2, 2)
    found = Postprocess(engine=Given(values), steps=steps).run(problem_of(PRODUCT.net(), values * 0 + 0.5))
    assert found.attribution.flatten().tolist() == expected
    assert found.delta is None
    assert found.warnings == ["kept"]


def test_a_zero_map_stays_zero() -> None:
    zero = torch.zeros(2, 1, 2, 2, dtype=torch.float64)
    for steps in (("unit_max",), ("unit_sum",)):
        found = Postprocess(engine=Given(zero), steps=steps).run(problem_of(PRODUCT.net(), zero + 0.5))
        assert torch.equal(found.attribution, zero)


@pytest.mark.parametrize(
    "bad",
    [
        lambda: Smooth(engine=GradientAt(), samples=0),
        lambda: Smooth(engine=GradientAt(), sigma=-0.1),
        lambda: Smooth(engine=GradientAt(), sigma=float("nan")),
        lambda: abe.method("ensemble", bases=("gradient",)),
        lambda: abe.method("smooth", base="no such method"),
    ],
)
def test_bad_settings_are_refused(bad: Any) -> None:
    with pytest.raises(SpecError) as refused:
        bad()
    assert refused.value.code in (Code.BAD_PARAMETER, Code.UNKNOWN_NAME)


# ---------------------------------------------------------------- replayed draws


def test_recorded_draws_are_replayed_number_by_number() -> None:
    x = samples(2)
    given = {
        "draws": torch.zeros(2, 4, *nets.SHAPE, dtype=torch.float64).normal_(generator=torch.Generator())
    }
    draws = ReplayedDraws.of([7, 8], smooth__noise=given["draws"])
    task = task_of(PRODUCT.net())
    found = abe.explain(
        task, x, "smoothgrad", samples=4, sigma=0.1, target=1, ids=[7, 8], draws=draws, execution="model"
    )
    near = (x[:, None] + 0.1 * given["draws"]).flatten(2)[:, :, [1, 0]].mean(1)
    torch.testing.assert_close(found.attribution.flatten(1)[:, :2], near, rtol=1e-12, atol=0)
    assert draws.left == []


def test_missing_surplus_and_misshapen_draws_are_told() -> None:
    draws = ReplayedDraws(
        {"a": {(1, 0): [0.5], (1, 1): [0.25]}, "order": {(1, 0): [1, 0, 2]}, "twice": {(1, 0): [1, 1, 2]}}
    )
    assert draws.uniform("a", [(1, 1)], (1,)).tolist() == [[0.25]]
    assert draws.left == [("a", (1, 0)), ("order", (1, 0)), ("twice", (1, 0))]
    assert draws.permutation("order", [(1, 0)], 3).tolist() == [[1, 0, 2]]
    wrong = [
        lambda: draws.uniform("a", [(2, 0)], (1,)),
        lambda: draws.uniform("b", [(1, 0)], (1,)),
        lambda: draws.uniform("a", [(1, 0)], (2,)),
        lambda: draws.integers("order", [(1, 0)], 2, (3,)),
        lambda: draws.permutation("twice", [(1, 0)], 3),
    ]
    for call in wrong:
        with pytest.raises(InputError) as refused:
            call()
        assert refused.value.code is Code.DRAW

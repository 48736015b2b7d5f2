"""Laws of perturbation runs: end points, rows that stand alone, ties, known answers, counted rows."""

import math
from dataclasses import replace

import pytest
import torch
from tests.metrics.common import evidence_task, net_s, oracle, photos, problem
from torch import nn

from abe.baselines import Blur, Confusion, Constant, Noise, Uniform, Zero
from abe.errors import AbeError, Code
from abe.metrics import PerturbationRun, area, kl_from_uniform
from abe.task import image_task
from abe.units import Element, Patch, Pixel, Superpixel, Union

UNITS = [Pixel(), Union(), Element(), Patch(size=5), Superpixel(n=8)]
BASELINES = [
    Zero(),
    Constant(value=0.5),
    Blur(sigma=2.0, kernel=5),
    Uniform(),
    Noise(),
    Confusion(starts=2, steps=2),
]


def images(b: int = 3) -> torch.Tensor:
    return oracle("metric_insdel_rise")["x"][:b].float()


def maps(b: int = 3) -> torch.Tensor:
    return oracle("metric_insdel_rise")["attribution"][:b].float()


def task():
    return image_task(net_s(torch.float32))


def run(direction="deletion", **how) -> PerturbationRun:
    return PerturbationRun(direction=direction, **{"step": 0.1, **how})


@pytest.mark.parametrize("unit", UNITS, ids=repr)
def test_curves_start_and_end_at_input_and_baseline(unit):
    given = problem(task(), images())
    with torch.no_grad():
        at_x = given.task.model(images()).log_softmax(1)
        at_0 = given.task.model(torch.zeros(3, 3, 32, 32)).log_softmax(1)
    for direction, first, last in (("insertion", at_0, at_x), ("deletion", at_x, at_0)):
        done = run(direction, unit=unit).perform(given, maps())
        torch.testing.assert_close(done.log_probabilities[:, 0], first)
        torch.testing.assert_close(done.log_probabilities[:, -1], last)
        assert torch.equal(
            done.fraction, torch.linspace(0, 1, done.log_probabilities.shape[1], dtype=torch.float64)
        )


@pytest.mark.parametrize("unit", UNITS, ids=repr)
@pytest.mark.parametrize("baseline", BASELINES, ids=repr)
def test_a_row_alone_equals_the_row_in_a_batch(unit, baseline):
    x, a = images(), maps()
    how = run(unit=unit, baseline=baseline, step=0.34)
    model = task()
    whole = how.perform(problem(model, x, ids=[5, 6, 7], chunk=4), a).log_probabilities
    back = how.perform(problem(model, x.flip(0), ids=[7, 6, 5], chunk=7), a.flip(0)).log_probabilities
    size = whole.abs().amax((1, 2), keepdim=True)
    assert float(((back.flip(0) - whole).abs() / size).max()) < 1e-5
    for i in range(3):
        given = problem(model, x[i : i + 1], ids=[5 + i], chunk=1)
        alone = how.perform(given, a[i : i + 1]).log_probabilities
        assert float(((alone[0] - whole[i]).abs() / size[i]).max()) < 1e-5


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("b", [1, 2, 5])
@pytest.mark.parametrize("flat", [False, True])
def test_any_batch_and_number_of_channels(channels, b, flat):
    model, weight = evidence_task(channels)
    x = photos(b, channels)
    a = (x * weight).sum(1, keepdim=True) if flat else x * weight
    for direction in ("insertion", "deletion"):
        done = run(direction, unit=Pixel()).perform(problem(model, x, target=1), a)
        assert done.log_probabilities.shape == (b, 144 // 15 + 2, 2)


def test_the_true_map_beats_random_beats_the_inverted_map():
    model, weight = evidence_task()
    x = photos(6)
    given = problem(model, x, target=1)
    true = x * weight
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(5))
    for curve in ("probability", "log_odds"):
        up = [area(run("insertion", step=4).perform(given, m).curve(curve)) for m in (true, noise, -true)]
        down = [area(run("deletion", step=4).perform(given, m).curve(curve)) for m in (true, noise, -true)]
        assert bool((up[0] > up[1]).all())
        assert bool((up[1] > up[2]).all())
        assert bool((down[0] < down[1]).all())
        assert bool((down[1] < down[2]).all())


def test_no_order_beats_the_true_one_on_a_linear_model():
    model, weight = evidence_task()
    x = photos(1)
    given = problem(model, x, target=1)
    best = area(run("insertion", step=1).perform(given, x * weight).curve("log_odds"))
    generator = torch.Generator().manual_seed(8)
    for _ in range(10):
        other = torch.rand(x.shape, generator=generator)
        assert float(area(run("insertion", step=1).perform(given, other).curve("log_odds"))) < float(best)


def test_a_linear_curve_has_the_area_it_must_have():
    """Log-odds of a linear model: logit k is the cumulated sum of the sorted contributions."""
    model, weight = evidence_task()
    x = photos(2)
    given = problem(model, x, target=1)
    done = run("insertion", step=1).perform(given, x * weight)
    steps = (x * weight).sum(1).flatten(1).sort(1, descending=True).values.cumsum(1)
    wanted = torch.cat([torch.zeros(2, 1), steps], 1)
    torch.testing.assert_close(done.curve("log_odds"), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("unit", UNITS, ids=repr)
def test_a_constant_map_is_a_random_order(unit):
    """Its score lies amid those of random maps; ids and seed decide it, the batch does not."""
    model, _ = evidence_task()
    x = photos(1).expand(40, -1, -1, -1).contiguous()
    given = problem(model, x, target=1, ids=range(40))
    constant = area(run(unit=unit).perform(given, torch.ones_like(x)).curve("log_odds"))
    generator = torch.Generator().manual_seed(6)
    random = area(run(unit=unit).perform(given, torch.rand(x.shape, generator=generator)).curve("log_odds"))
    spread = math.sqrt(float(constant.var() + random.var()) / 40)
    assert float(constant.std()) > 0
    assert abs(float(constant.mean() - random.mean())) < 4 * spread
    again = area(run(unit=unit).perform(given, torch.full_like(x, 7.0)).curve("log_odds"))
    torch.testing.assert_close(again, constant)


def test_a_zero_map_is_noted():
    model, weight = evidence_task()
    x = photos(3)
    a = x * weight
    a[1] = 0
    done = run().perform(problem(model, x, target=1), a)
    assert len(done.warnings) == 1
    assert "sample 1)" in done.warnings[0]
    assert Code.ZERO_MAP.value in done.warnings[0]


def test_what_the_curves_are():
    given = problem(task(), images())
    done = run().perform(given, maps())
    p = done.log_probabilities.double().exp()
    chosen = p[torch.arange(3), :, given.target]
    torch.testing.assert_close(done.curve("probability").double(), chosen, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(done.curve("log_probability").double(), chosen.log(), rtol=1e-5, atol=1e-6)
    odds = (chosen / (1 - chosen)).log()
    torch.testing.assert_close(done.curve("log_odds").double(), odds, rtol=1e-3, atol=1e-3)
    kl = (torch.tensor(0.1) * (0.1 / p).log()).sum(2)
    torch.testing.assert_close(done.curve("kl").double(), kl, rtol=1e-4, atol=1e-5)
    assert float(kl_from_uniform(torch.full((2, 7), -math.log(7))).abs().max()) < 1e-6
    with pytest.raises(AbeError) as caught:
        done.curve("entropy")
    assert caught.value.code is Code.BAD_PARAMETER


def test_log_odds_keep_their_digits_where_the_probability_is_one():
    logits = torch.tensor([[40.0, 0.0, 0.0]], dtype=torch.float32)

    class Sure(nn.Module):
        def forward(self, x):
            return logits.expand(len(x), -1) + 0 * x.flatten(1).sum(1, keepdim=True)

    done = run(step=0.5).perform(problem(image_task(Sure(), channels=3), photos(1)), photos(1))
    torch.testing.assert_close(done.curve("log_odds"), torch.full((1, 3), 40 - math.log(2)))


def test_area_is_the_trapezoid_rule():
    line = torch.linspace(0, 1, 5).expand(2, -1)
    torch.testing.assert_close(area(line), torch.tensor([0.5, 0.5]))
    curve = torch.rand(3, 9, dtype=torch.float64)
    torch.testing.assert_close(area(curve), torch.trapezoid(curve, dx=1 / 8, dim=1))
    torch.testing.assert_close(area(curve[:, :2]), curve[:, :2].mean(1))


def test_rows_are_counted_and_made_when_their_turn_comes():
    given = problem(task(), images(), chunk=4)
    seen = []
    inner = given.evaluator.run

    def watch(work):
        def counted(rows):
            seen.append(len(rows))
            return work.make(rows)

        return inner(replace(work, make=counted))

    given.evaluator.run = watch
    how = run(step=32)
    how.perform(given, maps())
    assert given.evaluator.cost.forward_rows == 3 * 33 == 3 * how.points(32 * 32)
    assert given.evaluator.cost.backward_rows == 0
    assert max(seen) <= 4


@pytest.mark.parametrize("bad", [(2, 3, 32, 32), (3, 3, 16, 32), (3, 2, 32, 32)])
def test_maps_that_do_not_fit_are_refused(bad):
    given = problem(task(), images())
    with pytest.raises(AbeError) as caught:
        run().perform(given, torch.zeros(bad))
    assert caught.value.code is Code.MAP_SHAPE
    assert given.evaluator.cost.passes == 0


def test_regressions_have_a_score_and_no_chances():
    regression = image_task(net_s(torch.float32), output_kind="regression")
    found = run().perform(problem(regression, images(), target=0), maps())
    with pytest.raises(AbeError) as caught:
        found.curve("probability")
    assert caught.value.code is Code.UNSUPPORTED
    logits = image_task(net_s(torch.float32), output_kind="logits")
    right = run().perform(problem(logits, images(), target=0), maps())
    torch.testing.assert_close(found.curve("logit"), right.curve("logit"))
    assert torch.equal(found.fraction, right.fraction)


def test_a_regression_has_only_its_score_to_follow():
    net = net_s(torch.float32)
    done = run().perform(problem(image_task(net, output_kind="regression"), images(), target=0), maps())
    line = done.curve("logit")
    own = net(images())[:, 0].detach()
    assert torch.allclose(line[:, -1] if done.run.direction == "insertion" else line[:, 0], own, atol=1e-5)
    for kind in ("probability", "kl", "accuracy"):
        with pytest.raises(AbeError) as caught:
            done.curve(kind)
        assert caught.value.code is Code.UNSUPPORTED


def test_dense_outputs_are_followed_at_the_place_that_is_explained():
    dense = nn.Conv2d(3, 2, 1)
    done = run().perform(problem(image_task(dense), images(), target=[[0, 1, 1]] * 3), maps())
    line = done.curve("probability")
    own = dense(images()).softmax(1)[:, 0, 1, 1].detach()
    assert torch.allclose(line[:, -1] if done.run.direction == "insertion" else line[:, 0], own, atol=1e-5)


def test_an_unknown_direction_is_refused():
    with pytest.raises(AbeError) as caught:
        PerturbationRun(direction="sideways")
    assert caught.value.code is Code.BAD_PARAMETER

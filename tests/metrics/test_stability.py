"""Stability against recorded numbers and by hand; metrics that explain again; numbers about a data set."""

import math

import pytest
import torch
from tests.metrics.common import evidence_task, mapped, net_s, oracle, photos, problem
from torch import Tensor, nn

import abe
from abe.errors import AbeError, Code
from abe.metrics import as_metric, score
from abe.metrics.evaluation.book import measure
from abe.metrics.evaluation.truth import LABEL, MASK
from abe.task import image_task
from abe.task.base import Task
from abe.testing import ReplayedDraws

RADIUS = 0.02


def explained(task: Task, x: Tensor, method: str = "gradient", **how):
    """A problem and an explanation of it that knows its method."""
    given = problem(task, x, **how)
    made = mapped(torch.zeros_like(x), spec={"method": method, "params": {}})
    return given, made


def test_captum_sensitivity_max():
    recorded = oracle("captum_sensitivity_max")
    u = recorded["noise"].double() / (2 * RADIUS) + 0.5
    task = image_task(net_s())
    made = abe.explain(
        task, recorded["x"], "gradient", target=recorded["target"], ids=range(3), progress=False
    )
    draws = ReplayedDraws.of([0, 1, 2], stability__neighbour=u.expand(3, -1, -1, -1, -1))
    metric = ("max_sensitivity", {"samples": 10, "radius": RADIUS})
    found = score(made, task, metric=metric, draws=draws).values
    torch.testing.assert_close(found, recorded["out"], rtol=1e-12, atol=0)


def network() -> nn.Sequential:
    generator = torch.Generator().manual_seed(4)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) / p.shape[-1] ** 0.5)
    return net.eval()


def norm(x: Tensor) -> Tensor:
    return x.flatten(1).square().sum(1).sqrt()


def test_relative_stability_by_hand():
    net, x = network(), photos(2, 3, 4).double()
    given, made = explained(image_task(net), x, target=1)
    everyone, worst = given.everyone, {}

    def look(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows = rows.clone().requires_grad_(True)
        out = net(rows)
        (gradient,) = torch.autograd.grad(out[:, 1].sum(), rows)
        return gradient, out.detach(), net[1](rows.detach().flatten(1)).detach()

    first = look(x)
    for k in range(10):
        u = given.draws.uniform("stability.neighbour", given.keys(everyone, torch.full((2,), k)), x.shape[1:])
        other = look(x + RADIUS * (2 * u.double() - 1))
        moved = norm((other[0] - first[0]) / first[0])
        assert bool((other[1].argmax(1) == first[1].argmax(1)).all())
        below = {
            "relative_input_stability": norm(RADIUS * (2 * u.double() - 1) / x),
            "relative_output_stability": norm(other[1] - first[1]),
            "relative_representation_stability": norm((other[2] - first[2]) / first[2]),
        }
        for name, size in below.items():
            worst.setdefault(name, []).append(moved / size)
    for name, ratios in worst.items():
        found = as_metric((name, {"radius": RADIUS})).value.measure(given, made)
        torch.testing.assert_close(found, torch.stack(ratios).amax(0), rtol=1e-12, atol=0)


def test_a_layer_is_named_or_refused():
    task, _ = evidence_task()
    given, made = explained(task, photos(1), target=1)
    with pytest.raises(AbeError) as caught:
        as_metric("rrs").value.measure(given, made)
    assert caught.value.code is Code.UNSUPPORTED
    net = network()
    given, made = explained(image_task(net), photos(1, 3, 4).double(), target=1)
    for layer, code in (("2", None), ("tanh", Code.LAYER)):
        metric = as_metric(("rrs", {"layer": layer})).value
        if code is None:
            assert bool(metric.measure(given, made).isfinite().all())
        else:
            with pytest.raises(AbeError) as caught:
                metric.measure(given, made)
            assert caught.value.code is code


def test_a_model_of_other_labels():
    net = network()
    given, made = explained(image_task(net), photos(3, 3, 4).double(), target=1)
    same = as_metric(("data_randomisation", {"model": net})).value.measure(given, made)
    torch.testing.assert_close(same, torch.ones(3, dtype=torch.float64))
    other = network().float()
    with torch.no_grad():
        other[1].weight.copy_(other[1].weight.flip(1))
    assert bool((as_metric(("data_randomisation", {"model": other})).value.measure(given, made) < 0.5).all())
    with pytest.raises(AbeError) as caught:
        as_metric(("data_randomisation", {"model": "resnet"}))
    assert caught.value.code is Code.BAD_PARAMETER


@pytest.mark.parametrize("strength", [(1, 1, 1, 1), (1e-3, 1, 40, 1e3)])
def test_samples_that_are_explained_alike(strength: tuple[float, ...]):
    """Three samples whose map points at the upper left, of which two are predicted alike, and a loner.

    How strong a map is does not matter.
    """
    task, _ = evidence_task()
    x = photos(4)
    x[1] = 0  # predicted to be the other class
    maps = 0.01 * torch.rand(4, 1, 12, 12, generator=torch.Generator().manual_seed(3))
    maps[:3, :, 0:2, 0:2] += 1
    maps[3, :, 8:, 8:] += 1
    maps *= torch.tensor(strength)[:, None, None, None]
    wanted = [0.5, 0.0, 0.5, math.nan]
    for name in ("consistency", "sufficiency"):
        value = as_metric(name).value
        given = problem(task, x, target=1)
        whole = value.measure(given, mapped(maps))
        torch.testing.assert_close(whole, torch.tensor(wanted).double(), equal_nan=True)
        halves = [problem(task, x[i : i + 2], target=1) for i in (0, 2)]
        parts = [value.collect(half, mapped(maps[2 * i : 2 * i + 2])) for i, half in enumerate(halves)]
        together = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
        torch.testing.assert_close(value.conclude(together), whole, equal_nan=True)
    with pytest.raises(AbeError) as caught:
        as_metric(("consistency", {"top": 0}))
    assert caught.value.code is Code.BAD_PARAMETER


def test_what_cannot_be_measured_is_refused_before_computing():
    task, weight = evidence_task()
    x = photos(3)
    given = problem(task, x, target=1)
    tabular = problem(Task(model=task.model, modality="tabular", lifter=None), x, target=1)
    tabular.evaluator.cost.forward_rows = 0
    maps = weight * x
    cases = (
        (given, {"x": x.flip(0)}, "insertion", Code.SAMPLES),
        (given, {"x": x[:2]}, "complexity", Code.SAMPLES),
        (given, {}, "relevance_mass", Code.MASK),
        (given, {"diagnostics": {MASK: torch.ones(2, 12, 12)}}, "focus", Code.MASK),
        (given, {}, "soundness", Code.LABELS),
        (given, {"diagnostics": {LABEL: torch.ones(3)}}, "completeness", Code.LABELS),
        (given, {"spec": {"method": "somebody's"}}, "mprt", Code.UNSUPPORTED),
        (tabular, {}, "road", Code.UNSUPPORTED),
        (given, {}, "tcd", Code.UNSUPPORTED),
    )
    for about, more, name, code in cases:
        with pytest.raises(AbeError) as caught:
            measure(about, mapped(maps, **more), [as_metric("insertion"), as_metric(name)])
        assert caught.value.code is code, name
    assert given.evaluator.cost.passes == tabular.evaluator.cost.passes == 0


def test_a_model_that_does_not_react_to_removal():
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([0.3, 1.0, -2.0]).expand(len(x), -1) + 0 * x.flatten(1).sum(1, keepdim=True)

    x = photos(2)
    given = problem(image_task(Constant(), channels=3), x, target=1)
    explanation = mapped(photos(2, seed=3), diagnostics={LABEL: torch.tensor([1, 0])})
    p = math.exp(1.0) / (math.exp(0.3) + math.exp(1.0) + math.exp(-2.0))
    wanted = {
        "insertion": p,
        "deletion": p,
        "gap": 0.0,
        "aopc": 0.0,
        "comprehensiveness": 0.0,
        "irof": 0.0,
        "monotonicity": 1.0,
        "faithfulness_correlation": 0.0,
        "sensitivity_n": 0.0,
        "faithfulness_estimate": 0.0,
        "infidelity": 0.0,
        "average_drop": 0.0,
        "average_increase": 0.0,
        "completeness": 0.0,
        "completeness_gap": math.nan,
    }
    scores = measure(given, explanation, [as_metric(name) for name in wanted])
    for name, number in wanted.items():
        expected = torch.full((2,), number, dtype=torch.float64)
        torch.testing.assert_close(scores[name].values, expected, rtol=1e-6, atol=1e-6, equal_nan=True)
    sound = measure(given, explanation, [as_metric(("soundness", {"level": 0.9}))])["soundness"]
    assert bool(sound.values.isnan().all())  # half of the labels are never right

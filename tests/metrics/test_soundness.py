"""Soundness and completeness against an independent slow form."""

import pytest
import torch
from tests.metrics.common import mapped, photos, problem
from tests.metrics.test_imputation import dense
from torch import Tensor, nn

from abe.errors import AbeError, Code
from abe.imputation import NoisyLinear
from abe.metrics import as_metric
from abe.metrics.evaluation.truth import LABEL
from abe.metrics.soundness import RATIOS, Completeness, Soundness, hausdorff
from abe.task import image_task

SIDE = 10


def network() -> nn.Module:
    generator = torch.Generator().manual_seed(3)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * (SIDE - 2) ** 2, 4))
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * (0.3 if p.ndim > 1 else 0.05))
    return net.eval()


def setting(b: int = 12) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """Maps without ties: permutations, as in the check of the reference."""
    x = photos(b, 3, SIDE, seed=1)
    generator = torch.Generator().manual_seed(5)
    size = SIDE * SIDE
    maps = torch.stack([torch.randperm(size, generator=generator) for _ in range(b)]).double() / (size - 1)
    net = network()
    labels = net(x).argmax(1)
    labels[::5] = (labels[::5] + 1) % 4
    return net, x, maps.view(b, 1, SIDE, SIDE), labels


def known(maps: Tensor, labels: Tensor | None) -> object:
    """Maps of samples whose labels are known."""
    return mapped(maps, diagnostics={} if labels is None else {LABEL: labels})


def soundness(**params) -> Soundness:
    return as_metric(("soundness", params)).value


def published(net: nn.Module, x: Tensor, maps: Tensor, labels: Tensor, ratios) -> tuple[list, list]:
    """The published loop, image by image, with a dense solve for every image and step."""
    n, size = len(x), SIDE * SIDE
    false = [0.0] * n
    previous_ratio, previous = 1.0, 0.0
    accuracies, shares = [], []
    for r in ratios:
        k, k_prev = int(size * r), int(size * previous_ratio)
        q, new, right = [], [], 0
        for i in range(n):
            flat = maps[i, 0].flatten()
            ascending = flat.argsort()
            total = float(flat[ascending[k:]].sum())
            new.append(float(flat[ascending[k:k_prev]].sum()))
            q.append((total - false[i]) / (total + 1e-6))
            hole = torch.zeros(size, dtype=torch.bool)
            hole[ascending[:k]] = True
            filled = dense(x[i], hole.view(SIDE, SIDE)).float()
            right += int(net(filled[None]).argmax() == labels[i])
        s = right / (n + 1e-6)
        if s > 0.04 and s - previous <= 0.01:
            false = [f + a for f, a in zip(false, new, strict=True)]
        accuracies.append(s)
        shares.append(sum(q) / n)
        previous, previous_ratio = s, r
    return accuracies, shares


def test_published_soundness():
    net, x, maps, labels = setting()
    ratios = [round(0.98 - 0.08 * k, 5) for k in range(12)]
    given = problem(image_task(net), x, target=0)
    metric = soundness(ratios=tuple(ratios), variant="published", removal=NoisyLinear(noise=0.0))
    kept = metric.collect(given, known(maps, labels))
    found = metric.curve(kept)
    accuracy, share = published(net, x, maps, labels, ratios)
    assert torch.equal(found.accuracy, torch.tensor(accuracy, dtype=torch.float64))
    assert (found.sound - torch.tensor(share, dtype=torch.float64)).abs().max() <= 1e-6
    assert bool(found.false_steps.any())
    assert not bool(found.false_steps.all())
    assert given.evaluator.cost.forward_rows == 12 * 12
    halves = [
        metric.collect(problem(image_task(net), x[part], target=0), known(maps[part], labels[part]))
        for part in (slice(0, 5), slice(5, 12))
    ]
    whole = {name: torch.cat([half[name] for half in halves]) for name in kept}
    assert torch.equal(metric.curve(whole).shares, found.shares)
    level = soundness(ratios=tuple(ratios), variant="published", removal=NoisyLinear(noise=0.0), level=0.6)
    assert float(level.conclude(kept).mean()) == pytest.approx(found.at_levels([0.6])[0])


def test_published_completeness():
    net, x, maps, labels = setting(8)
    given = problem(image_task(net), x, target=0)
    metric: Completeness = as_metric(("completeness", {"removal": NoisyLinear(noise=0.0)})).value
    found = metric.curve(given, known(maps, labels))
    whole = (net(x).argmax(1) == labels).double().mean()
    for k, ratio in enumerate(round(0.1 * j, 5) for j in range(1, 10)):
        right = 0
        for i in range(8):
            kept = maps[i, 0] <= maps[i].max() * (1 - ratio)
            right += int(net(dense(x[i], ~kept).float()[None]).argmax() == labels[i])
        assert found.complete[k] == whole - right / 8
    assert given.evaluator.cost.forward_rows == 8 * 10


def test_the_corrected_form_flags_before_it_reads():
    right = torch.tensor([[True, True, True], [False, True, True]])
    sums = torch.tensor([[1.0, 2.0, 4.0], [1.0, 2.0, 4.0]]).double()
    kept = {"right": right, "sums": sums}
    ratios = (0.98, 0.97, 0.96)
    corrected = soundness(ratios=ratios).curve(kept)
    assert corrected.sound.tolist() == [1.0, 1.0, 0.5]
    assert corrected.false_steps.tolist() == [False, False, True]
    lagging = soundness(ratios=ratios, variant="published").curve(kept)
    torch.testing.assert_close(lagging.sound, torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-5)
    assert corrected.at_levels([0.5, 0.6, 1.0, 1.1]) == [1.0, 1.0, 1.0, None]
    assert corrected.covered == (0.5, 1.0)
    assert soundness(ratios=ratios, level=1.0).conclude(kept).tolist() == [1.0, 1.0]
    with pytest.raises(AbeError, match="level must be a number from 0 to 1"):  # no curve reaches it
        soundness(ratios=ratios, level=1.1)


def test_epsilon_scales_with_the_step_and_flips_are_tested():
    n = 200
    right = torch.zeros(n, 2, dtype=torch.bool)
    right[:100, 0] = True
    right[:104, 1] = True  # two per cent

    def flags(ratios, **how):
        kept = {"right": right, "sums": torch.ones(n, 2).double().cumsum(1)}
        return soundness(ratios=ratios, **how).curve(kept).false_steps.tolist()

    assert flags((0.9, 0.89)) == [False, False]
    assert flags((0.9, 0.8)) == [False, True]
    assert flags((0.9, 0.8), gain="flips") == [False, True]
    right[:106, 1] = True
    assert flags((0.9, 0.8), gain="flips") == [False, False]
    with pytest.raises(AbeError) as caught:
        soundness(ratios=(0.9, 0.8), gain="flips").curve(
            {"right": torch.ones(4, 2).bool(), "sums": torch.ones(4, 2).double()}
        )
    assert caught.value.code is Code.SAMPLES


def test_thresholds_are_relative_or_absolute_and_maps_are_made_positive():
    net, x, maps, labels = setting(4)
    whole = problem(image_task(net), x, target=0)
    half = known(0.5 * maps, labels)
    for params, same in (({}, True), ({"relative": False}, False), ({"of": "minmax"}, True)):
        metric: Completeness = as_metric(("completeness", params)).value
        one, other = (metric.curve(whole, m).lost for m in (known(maps, labels), half))
        assert torch.equal(one, other) is same, params
    zero = as_metric("completeness").value.curve(whole, known(0 * maps, labels))
    assert not zero.lost.any()


def test_hausdorff():
    one, other = torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 0.0], [1.0, 2.0]])
    assert hausdorff(one, other) == 2.0
    assert hausdorff(one, one) == 0.0


def test_bad_requests():
    net, x, maps, labels = setting(3)
    given = problem(image_task(net), x, target=0)
    for wrong in (None, labels[:2], labels.float()):
        for name in ("soundness", "completeness"):
            with pytest.raises(AbeError) as caught:
                as_metric(name).value.measure(given, known(maps, wrong))
            assert caught.value.code is Code.LABELS
    for name, params in (
        ("soundness", {"of": "signed"}),
        ("soundness", {"variant": "best"}),
        ("soundness", {"gain": "more"}),
        ("soundness", {"ratios": (2.0,)}),
        ("completeness", {"thresholds": ()}),
        ("completeness", {"of": "round"}),
    ):
        with pytest.raises(AbeError) as caught:
            as_metric((name, params))
        assert caught.value.code is Code.BAD_PARAMETER
    assert len(RATIOS) == 96
    assert RATIOS[-1] == 0.03
    assert given.evaluator.cost.forward_rows == 0

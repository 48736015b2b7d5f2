"""Boundary pairs, their ground truth, and the three experiments."""

import io

import pytest
import torch
from rich.console import Console
from tests.methods.common import images, net, oracle

import abe
from abe.errors import AbeError
from abe.metrics.trust import CONSTRUCTIONS, ETAS, make_pairs, trust
from abe.testing import problem_of

X = images()[:3]


def problem():
    """Two blends of photographs near a boundary, and two photographs of other classes, in float64."""
    x = torch.cat([oracle("big_pgds")["x"].double(), X[1:]])
    return problem_of(net("s"), x, target=None), x


@pytest.mark.parametrize("construction", CONSTRUCTIONS)
def test_pairs(construction):
    asked, x = problem()
    pairs = make_pairs(asked, construction, ETAS[1], steps=200)
    good = pairs.success
    assert int(good.sum()) >= 2
    assert bool((pairs.gap[good] <= ETAS[1] * (1 + 1e-9)).all())
    model = net("s")
    with torch.no_grad():
        before, after = model(pairs.inside), model(pairs.outside)
    assert before.argmax(1)[good].tolist() == pairs.a[good].tolist()
    assert after.argmax(1)[good].tolist() == pairs.b[good].tolist()
    assert bool((pairs.a != pairs.b)[good].all())
    rows = torch.arange(len(x))
    change = (before[rows, pairs.a] - before[rows, pairs.b]) - (after[rows, pairs.a] - after[rows, pairs.b])
    assert bool((change[good] > 0).all())
    relative = (pairs.truth.flatten(1).sum(1) - change)[good].abs() / change[good]
    torch.testing.assert_close(pairs.validity[good], relative)
    assert float(relative.max()) < 0.05
    inner = pairs.inside.clone().requires_grad_(True)
    outputs = model(inner)
    (gradient,) = torch.autograd.grad((outputs[rows, pairs.a] - outputs[rows, pairs.b]).sum(), inner)
    slow = -(pairs.outside - pairs.inside) * gradient
    torch.testing.assert_close(pairs.truth[good], slow[good], rtol=1e-9, atol=1e-15)
    opposite = make_pairs(asked, construction, ETAS[1], steps=200, variant="published")
    torch.testing.assert_close(opposite.truth, -pairs.truth)


def test_float_resolution_ends_the_bisection():
    asked, _ = problem()
    pairs = make_pairs(asked, "segment", 1e-300)
    middle = pairs.inside + (pairs.outside - pairs.inside) * 0.5
    stuck = ((middle == pairs.inside) | (middle == pairs.outside)).flatten(1).all(1)
    assert bool(stuck[pairs.success].all())


def test_a_sample_that_never_crosses_is_reported_and_others_are_not_affected():
    asked, x = problem()
    few = make_pairs(asked, "sign", ETAS[0], steps=10)
    assert 0 < int(few.success.sum()) < len(x)
    assert bool(few.validity[~few.success].isnan().all())
    alone = make_pairs(problem_of(net("s"), x[:1], target=None), "sign", ETAS[0], steps=10)
    torch.testing.assert_close(alone.truth, few.truth[:1])


def test_three_experiments():
    _, x = problem()
    task = abe.image_task(net("s"), output_kind="logits")
    wanted = ["gradient", "gradient_x_input", ("ig", {"steps": 8})]
    found = abe.trust(task, x, wanted, steps=200)
    assert found.over_eta["gradient"].shape == (len(x), len(ETAS))
    pair, model = found.pairs["sign"], net("s")
    maps = []
    for point, label in ((pair.inside, pair.a), (pair.outside, pair.b)):
        point = point.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(model(point).gather(1, label[:, None]).sum(), point)
        maps.append(gradient.flatten(1))
    slow = 1 - torch.cosine_similarity(*maps, dim=1)
    slow = torch.stack([slow, 1 - torch.cosine_similarity(maps[0].abs(), maps[1].abs(), dim=1)], 1)
    good = pair.success
    torch.testing.assert_close(found.between["sign"]["gradient"][good][:, [0, 3]], slow[good])
    torch.testing.assert_close(found.over_eta["gradient"][good][:, 0], slow[good][:, 0])
    assert set(found.ranking) == {"gradient", "gradient_x_input", "integrated_gradients"}
    assert all(d["gradient"].shape == (len(x), 4) for d in found.distances.values())
    text = found.to_dict()
    assert "by construction" in text["caption"]
    assert found.table().row_count == 3
    screen = Console(file=io.StringIO(), width=120)
    screen.print(found.table())
    assert "±" in screen.file.getvalue()
    lost = ~found.pairs["sign"].success
    assert bool(found.distances["sign"]["gradient"][lost].isnan().all())


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ({"constructions": ["diagonal"]}, "ABE-BAD-PARAMETER"),
        ({"etas": [0.0]}, "ABE-BAD-PARAMETER"),
        ({"etas": []}, "ABE-BAD-PARAMETER"),
        ({"steps": 0}, "ABE-BAD-PARAMETER"),
        ({"variant": "paper"}, "ABE-BAD-PARAMETER"),
        ({"methods": ["gradeint"]}, "ABE-UNKNOWN-NAME"),
    ],
)
def test_refused(how, code):
    task = abe.image_task(net("s"), output_kind="logits")
    with pytest.raises(AbeError, match=code):
        trust(task, X, how.pop("methods", ["gradient"]), **how)


def test_one_class_is_refused():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 1))
    with pytest.raises(AbeError, match="ABE-UNSUPPORTED"):
        trust(abe.image_task(model, output_kind="logits"), torch.rand(2, 3, 2, 2), ["gradient"])

"""Adversarial methods against the recorded maps of published implementations, and the corrected rules."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tests.methods.common import FLOAT32_WEIGHTS, FLOAT64, miss, oracle, run
from tests.metrics.common import ORACLES
from torch import nn

import abe
from abe.engines.path.adversarial_steps import Leave
from abe.engines.path.dynamic import UpdatePath
from abe.engines.path.step import INTEGRAND
from abe.robustness.chain import Chain
from abe.spec import value
from abe.testing.draws import ReplayedDraws


def net_k(dtype=torch.float64):
    made = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(256, 1000),
    )
    made.load_state_dict(load_file(ORACLES / "nets" / "k.safetensors"))
    return made.to(dtype).eval()


def explain_k(case, method, *, target, **how):
    task = abe.image_task(net_k(how.pop("dtype", torch.float64)), output_kind="logits")
    return abe.explain(
        task, case["x"], method, target=target, progress=False, ids=range(len(case["x"])), **how
    )


@pytest.mark.parametrize("number", [0, 3])
def test_agi(number):
    case = oracle(f"agi_pgd_step_{number}")
    case["target"] = case["predicted"].flatten()
    ids = case["class_ids"].tolist()
    how = {"objective": "probability", "variant": "published", "steps": 15}
    for i, one in enumerate(ids):
        single = run(case, "agi", classes=[one], **how)
        assert miss(single.attribution, case["map_per_class"][i][None]) < FLOAT64
    found = run(case, "agi", classes=ids, **how)
    assert miss(found.attribution, case["out"].reshape(found.attribution.shape)) < FLOAT64
    taken, recorded = found.diagnostics["steps"][0], case["meta"]["passes"]["per_class_forward_backward_rows"]
    assert taken.tolist() == [1 if f == 2 else f for f, _ in recorded]
    corrected = run(case, "agi", classes=ids, objective="probability", steps=15, tolerance=0.02)
    assert float(corrected.residual.abs()) <= 0.02
    assert miss(corrected.attribution, case["out"].reshape(found.attribution.shape)) > 0.1


@pytest.mark.parametrize("number", [1, 3])
def test_la(number):
    case = oracle(f"la_{number}")
    own = case["predicted"].flatten().long()
    ids = [c if c != int(own) else c + 1 if c < 999 else c - 1 for c in case["classes"].tolist()[:5]]
    how = {"target": own, "objective": "probability", "classes": ids, "steps": 6}
    found = explain_k(case, "la", variant="published", **how)
    assert miss(found.attribution, case["out"][None]) < FLOAT64
    black = case["x"] == 0
    if bool(black.any()):
        assert not found.attribution[black].any()
        assert explain_k(case, "la", **how).attribution[black].any()


MFABA = [
    "sharp_0",
    "sharp_1",
    "sharp_3",
    "smooth_0",
    "smooth_1",
    "smooth_3",
    "smooth_logit_0",
    "smooth_logit_3",
]


@value
class SamePoints:
    """The points of the published code with fresh gradients at them."""

    inner: Leave

    def step(self, point, state):
        moved, state = self.inner.step(point, {INTEGRAND: state["sum"]} if state else {})
        return moved, {"sum": state[INTEGRAND]}


@pytest.mark.parametrize("name", MFABA)
def test_mfaba(name):
    """The published map, and fresh gradients at the published points by both rules."""
    case = oracle(f"mfaba_{name}")
    path = name.split("_")[0]
    how = {"objective": "logit" if "logit" in name else "probability"}
    found = run(case, "mfaba", path=path, variant="published", **how)
    assert miss(found.attribution, case["out"]) < FLOAT64
    assert found.diagnostics["success"].tolist() == case["success"].tolist()
    assert int(found.diagnostics["steps"]) == int(case["n_points"]) - 1
    published = SamePoints(inner=Leave(sharp=path == "sharp", cumulative=True))
    change = float((case["f_first"] - case["f_last"]).abs())
    for rule in ("left", "trapezoid"):
        fresh = run(case, UpdatePath(update=published, steps=50, stop="flip", rule=rule), **how)
        assert miss(fresh.attribution, case[f"fresh_{rule}"][None]) < FLOAT64
        assert abs(float(fresh.delta.abs()) - change) < 1e-9
    assert abs(float(case["out"].sum())) > 2 * change or int(case["n_points"]) < 8


@pytest.mark.parametrize("name", ["big_pgds", "big_pgds_cw"])
def test_big_given_the_boundary(name):
    case = oracle(name)
    found = run(case, "big", boundary=case["boundary_point"], variant="published")
    assert miss(found.attribution, case["out"]) <= FLOAT32_WEIGHTS
    assert found.diagnostics["success"].tolist() == (case["bd_pred"] != case["target"]).tolist()
    torch.testing.assert_close(found.diagnostics["distance"], case["distance"])
    if not bool(found.diagnostics["success"].all()):
        assert any("ABE-NOT-CROSSED" in text for text in found.warnings)
    searched = run(case, "big", seed=1)
    near = searched.diagnostics["success"]
    assert bool(near.any())
    assert float(searched.residual[near].abs().max()) < 0.1


def test_isa():
    case = oracle("isa_0")
    noise = case["noise"].double()[None, :, 0] / 0.05
    draws = ReplayedDraws.of([0], isa__noise=noise)
    how = {"objective": "loss", "steps": 2, "rounds": 3, "draws": draws}
    found = run(case, "isa", variant="published", **how)
    assert miss(found.attribution, case["out"][None]) < FLOAT64
    assert found.cost.backward_rows == 12  # the recorded fourth round has nothing left to remove
    ours = run(case, "isa", **how).attribution
    for round_ in range(3):
        assert int(((ours >= round_) & (ours < round_ + 1)).sum()) == 1024


@value
class SoftmaxTwice:
    """−CE of softmax outputs taken as logits again, as the published call has it."""

    reads_logits = True
    layers = ()

    def __call__(self, outputs, target):
        return -F.cross_entropy(outputs.softmax(1), target, reduction="none")


def _attexplore_draws(case):
    """The generator's numbers in the recorded order, by copy number; checked against the recorded sums."""
    shape, sums = case["x"].shape, case["draw_sums"].tolist()
    state = torch.random.get_rng_state()
    torch.random.default_generator.manual_seed(case["meta"]["hyper"]["torch_manual_seed"])
    noise, scale, enlarge = [], [], []
    for k, (size, top, left, coin) in enumerate(case["small_draws"].tolist()):
        noise.append(torch.randn(shape)[0])
        scale.append(torch.rand(shape)[0])
        assert float(noise[-1].double().sum()) == pytest.approx(sums[2 * k], rel=1e-6)
        assert float(scale[-1].double().sum()) == pytest.approx(sums[2 * k + 1], rel=1e-6)
        torch.randint(224, 257, (1,)), torch.randint(0, 257 - int(size), (1,))
        torch.randint(0, 257 - int(size), (1,)), torch.rand(1)
        room = 257 - size
        enlarge.append([(size - 224 + 0.5) / 33, (top + 0.5) / room, (left + 0.5) / room, coin])
    torch.random.set_rng_state(state)
    return {"noise": noise, "scale": scale, "enlarge": [torch.tensor(e) for e in enlarge]}


@value
class Recorded:
    """The published step, with the points it was recorded at: a sign within rounding of zero changes them.

    Recorded are whole steps from the first point, before the clip to [0, 1], which may end half of one early.
    """

    inner: Chain
    steps: tuple[torch.Tensor, ...]

    def step(self, point, state):
        moved, state = self.inner.step(point, state)
        alpha, recorded = self.inner.alpha, self.steps[point.step]
        turned = torch.where(moved > point.x, point.x - alpha, point.x + alpha).clamp(0, 1)
        right, other = (((x - point.start) / alpha - recorded).abs() <= 0.501 for x in (moved, turned))
        if not bool((right | other).all()) or int((~right).sum()) > 20:
            raise AssertionError(f"{int((~right).sum())} entries moved the other way")
        return torch.where(right, moved, turned), state


class TiedPool(nn.Module):
    """Max-pooling, of which windows with a tie in float32 go to the second of their values, as recorded.

    Args:
        ties: (n, 5) forward call, row, channel, and the window's row and column.
    """

    def __init__(self, ties):
        super().__init__()
        self.ties, self.call, self.gaps = ties.tolist(), 0, []

    def forward(self, x):
        if x.requires_grad:
            x = self.given_way(x)
            self.call += 1
        return F.max_pool2d(x, 2)

    def given_way(self, x):
        raised = torch.zeros_like(x)
        for call, *at, i, j in self.ties:
            if call == self.call:
                window = (*at, slice(2 * i, 2 * i + 2), slice(2 * j, 2 * j + 2))
                first, second = x.detach()[window].flatten().topk(2).values.tolist()
                self.gaps.append(first - second)
                raised[window] = (x.detach()[window] == second) * 2 * (first - second)
        return x + raised


def test_attexplore():
    """Every entry of the map at the recorded points, once three ties of a pooling go as they went.

    In float64, so that no processor decides a tie by how it rounds; the record is float32.
    """
    case = oracle("attexplore_224")
    drawn = _attexplore_draws(case)
    how = {"target": case["target"], "objective": SoftmaxTwice()}

    def replayed():
        return ReplayedDraws.of([0], **{f"spectrum__{k}": [v[:9]] for k, v in drawn.items()})

    method = abe.method("attexplore", samples=3, steps=2, variant="published")
    found = explain_k(case, method, draws=replayed(), **how)
    assert float(found.attribution.sum()) == pytest.approx(float(case["out"].sum()), rel=1e-3)
    steps = tuple(case["points"].double()[:, None])
    engine = replace(method.engine, update=Recorded(inner=method.engine.update, steps=steps))
    off = {}
    for ties in (case["ties"], case["ties"][:0]):
        net = net_k()
        for i in (2, 5):
            net[i] = TiedPool(ties[ties[:, 0] == i, 1:])
        task = abe.image_task(net, output_kind="logits")
        at_points = abe.explain(
            task, case["x"], engine, progress=False, ids=[0], execution="model", draws=replayed(), **how
        )
        off[len(ties)] = (at_points.attribution - case["out"]).abs() / case["out"].abs().max()
        gaps = [gap for i in (2, 5) for gap in net[i].gaps]
        assert len(gaps) == len(ties)
        assert all(0 < gap < 27 * 2.0**-24 for gap in gaps)  # what 27 terms near 1 are off by in float32
    assert float(off[3].max()) < 1e-5
    assert 1e-2 < float(off[0].max()) < 0.05  # without the ties: three patches of the kernel's size
    assert int((off[0].amax((0, 1)) > 1e-4).sum()) < 3 * 15 * 15
    ascending = explain_k(case, "attexplore", target=case["target"], objective="loss", samples=3, steps=2)
    assert bool((ascending.delta > 0).all())

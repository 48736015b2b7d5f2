"""The same pictures in 0 … 255, in −1 … 1 and in a range per channel: the attack, map and number of 0 … 1."""

from typing import Any

import pytest
import torch
from tests.robustness.common import same_up_to
from torch import Tensor, nn

import abe
from abe.metrics import trust
from abe.metrics.evaluation.compare import score
from abe.registry import methods, metrics, updates
from abe.robustness import evaluate_robustness
from abe.sizes import OfRange, in_units, lowest, plain, span
from abe.spec import from_spec, to_spec
from abe.testing.bench import TARGET, samples
from abe.testing.methods import MethodCase, method_case
from abe.testing.metrics import MetricCase, explained, metric_case
from abe.testing.nets import Smooth

Bounds = tuple[Any, Any]
UNITS: dict[str, Bounds] = {
    "bytes": (0.0, 255.0),
    "signed": (-1.0, 1.0),
    "channels": ((-2.0, -1.5, 0.0), (2.5, 1.0, 8.0)),
}
ROUNDING = 1e-6
"""Shares of the largest number by which two units may differ."""
EVERY = pytest.mark.parametrize("unit", UNITS)


class In(nn.Module):
    """A net of pictures in 0 … 1, for pictures in other bounds."""

    def __init__(self, net: nn.Module, bounds: Bounds) -> None:
        super().__init__()
        self.net, self.bounds = net, bounds

    def forward(self, x: Tensor) -> Tensor:
        low, wide = scale(self.bounds, x)
        return self.net((x - low) / wide)


def scale(bounds: Bounds, like: Tensor) -> tuple[Tensor, Tensor]:
    low, high = (torch.as_tensor(b).to(like) for b in bounds)
    low, high = (b.view(1, -1, 1, 1) if b.ndim else b for b in (low, high))
    return low, high - low


def task_in(net: nn.Module, bounds: Bounds) -> abe.Task:
    return abe.image_task(In(net, bounds).eval(), bounds=bounds, channels=3, output_kind="logits")


def seen_in(bounds: Bounds, x: Tensor) -> Tensor:
    low, wide = scale(bounds, x)
    return low + wide * x


def back(bounds: Bounds, x: Tensor) -> Tensor:
    low, wide = scale(bounds, x)
    return (x - low) / wide


# ---------------------------------------------------------------- attacks

FAST: dict[str, dict[str, Any]] = {
    "ssa": {"copies": 3},
    "sia": {"copies": 3, "blocks": 2},
    "gra": {"neighbours": 3},
    "mig": {"points": 4},
    "naa": {"layer": "net.first", "points": 3},
    "danaa": {"layer": "net.first", "points": 3},
    "cw": {"searches": 2},
}
ATTACKS = [n for n in updates.names() if n != "advgan"]  # a trained generator has the radius of its training
IDS = [11, 12, 13]


def attack_in(bounds: Bounds, name: str, **how: Any) -> tuple[abe.AdversarialResult, Tensor]:
    task, x = task_in(Smooth(), bounds), seen_in(bounds, samples(3))
    how = {**FAST.get(name, {}), "ids": IDS, "progress": False, "execution": "model", **how}
    found = abe.attack(task, x, name, **how)
    return found, back(bounds, found.x_adv)


@EVERY
@pytest.mark.parametrize(
    ("name", "how"),
    [(n, {}) for n in ATTACKS]
    + [(n, {"norm": "l2"}) for n in ATTACKS if "norm" in updates.get(n).parameters()]
    + [
        ("naa", {"variant": "published"}),
        ("dim", {"variant": "published"}),
        ("cw", {"variant": "published"}),
    ],
    ids=lambda p: p if isinstance(p, str) else "-".join(map(str, p.values())) or "default",
)
def test_attacks_with_their_defaults(name, how, unit):
    right, x = attack_in((0.0, 1.0), name, **how)
    found, y = attack_in(UNITS[unit], name, **how)
    assert found.success.tolist() == right.success.tolist()
    assert torch.equal(found.queries, right.queries)
    same_up_to(y, x, ROUNDING)


@EVERY
@pytest.mark.parametrize("method", ["pgd", "mim", "tim"])
def test_curves_over_the_default_radii(method, unit):
    bounds = UNITS[unit]
    x = samples(6)
    right, found = (
        evaluate_robustness(task_in(Smooth(scale=40), b), seen_in(b, x), method, ids=range(6), progress=False)
        for b in ((0.0, 1.0), bounds)
    )
    assert found.robust_accuracy == right.robust_accuracy
    assert 0 < right.robust_accuracy[-1] < right.robust_accuracy[0]
    _, wide = scale(bounds, x)
    shares = [float(e) / (float(wide) if wide.ndim == 0 else 1.0) for e in found.epsilons]
    assert shares == pytest.approx(right.epsilons)


def test_what_is_given_is_in_input_units():
    bounds, x = (0.0, 255.0), samples(3)
    by_hand, _ = attack_in(bounds, "pgd", eps=8.0, alpha=2.0)
    default, _ = attack_in(bounds, "pgd")
    torch.testing.assert_close(by_hand.x_adv, default.x_adv)
    task = task_in(Smooth(scale=40), bounds)
    chained = updates.make("pgd")
    curves = [
        evaluate_robustness(task, seen_in(bounds, x), m, epsilons=[2, 8.0], ids=IDS, progress=False)
        for m in ("pgd", chained, updates.make("pgd", eps=100.0), updates.make("pgd", alpha=2.0))
    ]
    assert curves[0].epsilons == [2, 8.0]
    for other in curves[1:]:
        assert torch.equal(other.broken_at, curves[0].broken_at)
    for refused in ({"eps": 256}, {"eps": OfRange(1.5)}):
        with pytest.raises(abe.AbeError, match="range of valid inputs"):
            attack_in(bounds, "pgd", **refused)


# ---------------------------------------------------------------- maps

SLOPES = frozenset(
    {
        *("gradient", "smoothgrad", "c_lime", "guided_grad_cam", "pattern_net", "pattern_attribution"),
        *("deconvolution", "guided_backprop", "rectgrad"),
    }
)
"""Change of the score by input units: of the same picture, divided by the range."""
SQUARES = frozenset({"smoothgrad_squared", "vargrad"})
"""The square of a slope."""
ZERO = frozenset(
    {
        *(
            "gradient_x_input",
            "fast_ig",
            "integrated_gradients",
            "guided_ig",
            "smooth",
            "ensemble",
            "postprocess",
        ),
        *("deeplift", "deeplift_reveal_cancel", "excitation_backprop", "contrastive_excitation_backprop"),
        *(
            "attention_lrp",
            "lrp_epsilon",
            "lrp_0",
            "lrp_gamma",
            "lrp_alpha_beta",
            "lrp_z_plus",
            "lrp_composite",
        ),
        *("score_cam", "removal", "occlusion", "occlusion_patch", "rise", "shapley", "kernel_shap", "owen"),
        *("banzhaf", "interactions", "loss_shap"),
    }
)
"""What they remove, or multiply by, is 0 in input units: another picture where bounds do not begin at 0."""
ELSEWHERE = {
    "deep_taylor": "its rule for the first layer needs a net whose first layer reads the input itself",
    "baylime": "its fit of two precisions turns on rounding",
    "sage": "its example is a background set in 0 … 1",
    "pdiff": "its ridge is one number for all channels",
}
SLOW = frozenset(
    {"attexplore", "isa", "big", "optilime", "mfaba", "agi", "la", "laai", "ace", "interactions"}
)


def of_images() -> list[Any]:
    """The methods of images that need no training and read inputs."""
    cards = {n: methods.get(n).card for n in methods.names()}
    names = [n for n, c in cards.items() if "image" in c.modalities and "training" not in c.needs]
    return [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in names if n not in ELSEWHERE]


def map_in(case: MethodCase, bounds: Bounds) -> Tensor:
    task, x = task_in(case.net(), bounds), seen_in(bounds, samples(2))
    how = {"target": TARGET, "ids": IDS[:2], "progress": False, "execution": "model"}
    return abe.explain(task, x, case.method, **how).attribution


@pytest.mark.parametrize("name", of_images())
def test_maps_of_methods_with_their_defaults(name):
    case = method_case(name).coarser()
    right = map_in(case, (0.0, 1.0))
    for unit, bounds in UNITS.items():
        if name in ZERO and unit != "bytes":
            continue
        _, wide = scale(bounds, right)
        power = 2 if name in SQUARES else int(name in SLOPES)
        same_up_to(map_in(case, bounds) * wide**power, right, ROUNDING)


def test_boundary_pairs():
    """Only signed ones: the other constructions draw by the samples' content."""
    found = {}
    for unit in ("right", "bytes", "signed"):
        bounds = UNITS.get(unit, (0.0, 1.0))
        found[unit] = trust(
            task_in(Smooth(scale=40), bounds), seen_in(bounds, samples(3)), ["mfaba"], constructions=("sign",)
        )
        assert found[unit].etas == tuple(OfRange(eta) for eta in (1 / 255, 1 / 2550, 1 / 25500))
        pairs = found[unit].pairs["sign"]
        same_up_to(back(bounds, pairs.inside), found["right"].pairs["sign"].inside, ROUNDING)
        same_up_to(found[unit].over_eta["mfaba"], found["right"].over_eta["mfaba"], 1e-4)
        assert bool((pairs.gap <= scale(bounds, pairs.gap)[1] / 255).all())


# ---------------------------------------------------------------- metrics

SCALED = {"local_lipschitz": 2, "continuity": 2}
"""Change of a map by input units: of a slope, divided by the square of the range."""
FROM_ZERO = frozenset({"residual", "image_confidence_drop", "image_confidence_increase"})
"""They stand on 0 in input units, as the explanation or the mean of a task without one."""
BY_MAP = [n for n in metrics.names() if "image" in metrics.get(n).card.modalities]
QUICK: dict[str, Any] = {"samples": 5, "groups": 4, "step": 0.25, "feature": "mean"}


def number_in(case: MetricCase, bounds: Bounds) -> Tensor:
    task, x = task_in(Smooth(), bounds), seen_in(bounds, samples(3))
    if "method" in case.card.needs:
        explanation = abe.explain(task, x, "gradient", target=TARGET, ids=IDS, progress=False)
    else:
        explanation = explained(task, x, samples(3, seed=4) - 0.5, ids=IDS)
    how: dict[str, Any] = {"execution": "model", "metric": case.metric}
    if "mask" in case.card.needs:
        how["masks"] = torch.ones(3, 6, 6).tril().bool()
    if "label" in case.card.needs:
        how["labels"] = torch.tensor([0, 1, 2])
    return score(explanation, task, **how).values


def quick(name: str) -> MetricCase:
    """A metric at few draws, with its sizes as they are."""
    known = metrics.get(name).parameters()
    return metric_case(name, **{k: v for k, v in QUICK.items() if k in known})


@pytest.mark.parametrize("name", [n for n in BY_MAP if n not in ("seconds", "explanations_per_second")])
def test_numbers_of_metrics_with_their_defaults(name):
    case = quick(name)
    right = number_in(case, (0.0, 1.0))
    for unit in ("bytes", "signed"):
        if unit == "signed" and (name in FROM_ZERO or baseline_of(name) == "zero"):
            continue
        _, wide = scale(UNITS[unit], right)
        same_up_to(number_in(case, UNITS[unit]) * wide ** SCALED.get(name, 0), right, 1e-5)


def baseline_of(name: str) -> Any:
    known = metrics.get(name).parameters()
    return known["baseline"].default if "baseline" in known else None


# ---------------------------------------------------------------- sizes


def test_a_share_of_the_range_is_a_size_of_its_own():
    assert OfRange(0.5) == OfRange(0.25) * 2
    assert OfRange(0.5) != 0.5
    assert in_units(OfRange(0.5), None) == 0.5
    bounds = torch.tensor(-1.0), torch.tensor(3.0)
    assert in_units(OfRange(0.5), bounds) == 2.0
    assert in_units(0.5, bounds) == plain(0.5, bounds) == 0.5
    assert float(lowest(bounds)) == -1.0
    per_channel = torch.zeros(1, 2, 1, 1), torch.tensor([1.0, 4.0]).view(1, 2, 1, 1)
    assert in_units(OfRange(0.5), per_channel).flatten().tolist() == [0.5, 2.0]
    assert plain(OfRange(0.5), per_channel) == 0.5
    assert span((torch.zeros(1, 2, 1, 1), torch.ones(1, 2, 1, 1))) == 1.0
    step = updates.make("pgd")
    again = from_spec(to_spec(step))
    assert again == step
    assert isinstance(again.alpha, OfRange)
    assert updates.make("pgd", eps=8 / 255) != step

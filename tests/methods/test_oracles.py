"""Maps recorded from published implementations, within the tolerances stated where they were recorded.

Where the published code has a quirk, ``variant="published"`` (or the rule named so) agrees with it, and
the default beside it does not and is right.
"""

import numpy as np
import pytest
import torch
from tests.methods.common import (
    FLOAT32,
    FLOAT32_STEP,
    FLOAT32_WEIGHTS,
    FLOAT64,
    KINKS,
    images,
    miss,
    net,
    oracle,
    run,
)

import abe
from abe.baselines import Dataset, Given
from abe.engines.path.quadrature import (
    GaussLegendre,
    Left,
    Midpoint,
    PublishedTrapezoid,
    Right,
)
from abe.metrics import score
from abe.spec import value
from abe.testing.draws import ReplayedDraws
from abe.types import Quadrature


@value
class InSinglePrecision:
    """A rule whose weights were rounded to float32, as the recorded library rounds them."""

    rule: Quadrature

    def nodes(self, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        nodes, weights = self.rule.nodes(n)
        return nodes, weights.float().double()


INTEGRALS = {
    "captum_ig_gl": (GaussLegendre(), 50),
    "captum_ig_gl_randbase": (GaussLegendre(), 50),
    "captum_ig_left": (Left(), 20),
    "captum_ig_right": (Right(), 20),
    "captum_ig_mid": (Midpoint(), 50),
    "captum_ig_trap": (PublishedTrapezoid(), 50),
}
DIRECT = {
    "captum_saliency": ("saliency", {}),
    "captum_saliency_abs": ("saliency", {"variant": "published"}),
    "captum_inputxgradient": ("inputxgradient", {}),
    "gig_15_0": ("gig", {"steps": 15}),
    "gig_15_1": ("gig", {"steps": 15}),
    "gig_50_0": ("gig", {"steps": 50}),
    "gig_50_1": ("gig", {"steps": 50}),
    "gig_50_3": ("gig", {"steps": 50}),
    "fig_h": ("fig", {}),
}


@pytest.mark.parametrize("name", INTEGRALS)
def test_recorded_integrals(name):
    """The rule agrees to float32 rounding of the weights, and to 1e-10 with weights rounded alike."""
    case = oracle(name)
    rule, steps = INTEGRALS[name]
    baseline = case["baseline"].double() if "baseline" in case else "zero"
    exact = run(case, "ig", quadrature=rule, steps=steps, baseline=baseline)
    assert miss(exact.attribution, case["out"]) <= FLOAT32_WEIGHTS
    assert exact.cost.backward_rows == len(case["x"]) * steps
    rounded = run(case, "ig", quadrature=InSinglePrecision(rule=rule), steps=steps, baseline=baseline)
    assert miss(rounded.attribution, case["out"]) < FLOAT64
    single = run(
        case,
        "ig",
        quadrature=rule,
        steps=steps,
        baseline=baseline.float() if isinstance(baseline, torch.Tensor) else baseline,
        dtype=torch.float32,
    )
    assert single.attribution.dtype == torch.float32
    assert miss(single.attribution, case["out"]) < KINKS


def test_recorded_mean_over_points():
    """The published code keeps gradients in float32; rounding ours alike leaves no difference at all."""
    case = oracle("ig_path_explain")
    baseline = case["baseline"].double()
    found = run(case, "ig", steps=20, quadrature="endpoint_mean", baseline=baseline)
    assert miss(found.attribution, case["out"]) < FLOAT32_STEP
    way, total = case["x"] - baseline, torch.zeros_like(case["x"])
    for alpha in torch.linspace(0, 1, 20, dtype=torch.float64):
        point = dict(case, x=baseline + alpha * way)
        total += run(point, "gradient").attribution.float() * way
    assert miss(total / 20, case["out"]) < FLOAT64
    trapezoid = run(case, "ig", steps=20, quadrature="trapezoid", baseline=baseline)
    assert miss(trapezoid.attribution, case["out"]) > 1e-3


@pytest.mark.parametrize("name", DIRECT)
def test_recorded_maps(name):
    case = oracle(name)
    method, params = DIRECT[name]
    recorded = case["out"] if case["out"].ndim == 4 else case["out"][None]
    model = "h" if name == "fig_h" else "s"
    explanation = run(case, method, model=model, **params)
    assert explanation.attribution.dtype == torch.float64
    assert miss(explanation.attribution, recorded) < FLOAT64
    assert explanation.cost.backward_rows == len(recorded) * params.get("steps", 1)
    if method != "gig":
        single = run(case, method, model=model, dtype=torch.float32, **params)
        assert single.attribution.dtype == torch.float32
        assert miss(single.attribution, recorded) < FLOAT32


@pytest.mark.parametrize(("name", "whole"), [("gig_15_1", 15), ("gig_50_3", 50)])
def test_guided_path_in_single_precision_ends_at_the_input(name, whole):
    """Rounding decides which of two equal gradients moves first, so only the ends can be compared."""
    case = oracle(name)
    explanation = run(case, "gig", dtype=torch.float32, steps=whole)
    assert explanation.warnings == []
    assert miss(explanation.attribution, case["out"][None]) < 0.05
    torch.testing.assert_close(explanation.attribution.sum().double(), case["out"].sum(), rtol=1e-4, atol=0)
    assert explanation.diagnostics["steps"].tolist() == [whole]


def test_published_trapezoid_loses_one_fiftieth_and_the_default_does_not():
    case = oracle("captum_ig_trap")
    published = run(case, "ig", variant="published")
    assert miss(published.attribution, case["out"]) <= FLOAT32_WEIGHTS
    trapezoid = run(case, "ig", quadrature="trapezoid")
    torch.testing.assert_close(published.attribution, trapezoid.attribution * 49 / 50, rtol=1e-12, atol=0)
    right = run(case, "ig")
    assert miss(right.attribution, case["out"]) > 0.01
    lost = 1 / 50
    assert (published.residual - lost).abs().max() < 0.01
    assert (right.residual.abs() < 0.01).all()
    torch.testing.assert_close(
        (right.delta - right.attribution.flatten(1).sum(1)) / right.delta.abs(), right.residual
    )


def test_probability_is_explained_on_request():
    case = oracle("captum_ig_prob")
    published = run(case, "ig", variant="published", objective="probability")
    assert miss(published.attribution, case["out"]) <= FLOAT32_WEIGHTS
    rounded = InSinglePrecision(rule=PublishedTrapezoid())
    found = run(case, "ig", quadrature=rounded, objective="probability")
    assert miss(found.attribution, case["out"]) < FLOAT64
    right = run(case, "ig", objective="probability", steps=200)
    probabilities = net("s")(case["x"]).softmax(1)[range(3), case["target"]]
    at_zero = net("s")(torch.zeros(1, 3, 32, 32).double()).softmax(1)[0, case["target"]]
    torch.testing.assert_close(right.delta, (probabilities - at_zero).detach(), rtol=1e-12, atol=1e-15)
    assert (right.residual.abs() < 0.01).all()
    assert (published.residual.abs() > 0.01).all()


def test_published_saliency_has_no_sign():
    case = oracle("captum_saliency_abs")
    signed = run(case, "saliency").attribution
    assert (signed < 0).any()
    assert miss(signed.abs(), case["out"]) < FLOAT64
    assert miss(signed, case["out"]) > 0.5


def test_fast_ig_is_integrated_gradients_without_biases_only():
    case = oracle("fig_h")
    fast = run(case, "fig", model="h")
    slow = run(case, "ig", model="h", steps=30)
    assert miss(fast.attribution, slow.attribution) < FLOAT64
    assert (fast.residual.abs() < FLOAT64).all()
    torch.testing.assert_close(
        fast.attribution.flatten(1).sum(1), net("h")(case["x"])[range(4), case["target"]].detach()
    )
    biased = run(case, "fig")
    assert (biased.residual.abs() > 0.01).any()
    assert miss(biased.attribution, run(case, "inputxgradient").attribution) == 0


def test_published_fast_ig_reverses_the_sign():
    case = oracle("captum_inputxgradient")
    model = net("s")
    x = case["x"].clone().requires_grad_(True)
    torch.nn.functional.cross_entropy(model(x), case["target"], reduction="sum").backward()
    published = run(case, "fig", variant="published")
    assert miss(published.attribution, (x.grad * x).detach()) < FLOAT64
    support = run(case, "fig", objective="log_probability")
    assert miss(published.attribution, -support.attribution) < FLOAT64


@pytest.mark.parametrize(
    ("method", "out"),
    [
        ("smoothgrad", "out_smoothgrad"),
        ("smoothgrad_squared", "out_smoothgrad_sq"),
        ("vargrad", "out_vargrad"),
    ],
)
def test_noisy_gradients_with_recorded_noise(method, out):
    case = oracle("captum_noisetunnel")
    draws = ReplayedDraws.of(range(2), smooth__noise=case["noise"])  # σ is part of what was recorded
    explanation = run(case, method, draws=draws, sigma=1.0, samples=8, variant="published")
    assert miss(explanation.attribution, case[out]) < FLOAT64
    assert explanation.cost.backward_rows == 16
    assert draws.left == []


def test_noise_counts_in_the_input_range_unless_published():
    """At bounds of width 2 the published σ is half of the default's."""
    case = oracle("captum_noisetunnel")
    task = abe.image_task(net("s"), bounds=(-1, 1), output_kind="logits")
    for variant, factor in (("published", 1.0), ("corrected", 2.0)):
        draws = ReplayedDraws.of(range(2), smooth__noise=case["noise"] / torch.tensor(factor))
        found = abe.explain(
            task,
            case["x"],
            "smoothgrad",
            target=case["target"],
            ids=range(2),
            progress=False,
            draws=draws,
            sigma=1.0,
            samples=8,
            variant=variant,
        )
        assert miss(found.attribution, case["out_smoothgrad"]) < FLOAT64


def test_expected_gradients_with_recorded_references():
    case = oracle("eg_path_explain")
    draws = ReplayedDraws.of(
        range(2), baseline__dataset=case["reference_index"][..., None], expectation__alpha=case["alpha"]
    )
    background = Dataset(samples=case["references"])
    explanation = run(case, "eg", draws=draws, baseline=background, samples=12, alpha="uniform")
    assert miss(explanation.attribution, case["out"]) < FLOAT32_STEP
    assert draws.left == []
    model, x = net("s"), case["x"]
    with torch.no_grad():
        end = model(x)[range(2), case["target"]]
        start = model(case["references"])[case["reference_index"].long()].mean(1)[range(2), case["target"]]
    torch.testing.assert_close(explanation.delta, end - start, rtol=1e-10, atol=0)


def _flip(case, curve, draws=None):
    """The curve of the deletion of elements by the sample's own minimum, from the first deletion on."""
    x = case["x"].float()
    black = Given(reference=x.flatten(1).amin(1).view(-1, 1, 1, 1).expand_as(x).contiguous())
    maps = case["attribution"].expand_as(x)
    return score(
        abe.Explanation.from_array(maps, x, target=case["label"], ids=range(4)),
        abe.image_task(net("s", torch.float32), output_kind="logits"),
        metric=("pixel_flipping", {"unit": "element", "baseline": black, "step": 32, "curve": curve}),
        draws=draws,
    ).curve


def test_pixel_flipping():
    """Published "black" is the smallest value of the sample, and the curve has no point before a flip."""
    case = oracle("quantus_pixelflipping_3ch")
    curve = _flip(case, "logit")
    torch.testing.assert_close(curve.double(), case["out"], rtol=FLOAT32, atol=FLOAT32)


def test_pixel_flipping_of_a_map_without_channels():
    """The published order among a pixel's three equal elements is NumPy's unstable one, so it is replayed."""
    case = oracle("quantus_pixelflipping_1ch")
    ties = ReplayedDraws.of(range(4), ties=case["order"].long()[:, None])
    curve = _flip(case, "logit", ties)
    torch.testing.assert_close(curve.double(), case["out"], rtol=FLOAT32, atol=FLOAT32)
    area = oracle("quantus_pixelflipping_1ch_auc")["out"]
    found = np.trapezoid(_flip(case, "probability", ties).float().numpy(), dx=1, axis=1)
    torch.testing.assert_close(torch.from_numpy(found).double(), area, rtol=FLOAT32, atol=0)


def test_every_stored_case_is_of_these_inputs():
    assert images().shape == (4, 3, 32, 32)
    assert (images()[3, :, :4] == 0).all()

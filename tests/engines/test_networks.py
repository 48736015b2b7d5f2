"""Every backward method on real networks: DeepLIFT complete, LRP closed, per sample.

`pytest -m slow -s tests/engines/test_networks.py` prints the table of docs/backward.md, a row per network.
"""

import gc

import pytest
from tests.engines.networks import MEAN, NETWORKS, STD, network
from torch import Tensor, nn

import abe

FAST = ("torchvision resnet18", "torchvision mobilenet_v3_small")
NAMES = [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS]
LRP = {
    "lrp_epsilon": {},
    "lrp_0": {},
    "lrp_gamma": {},
    "lrp_alpha_beta": {},
    "lrp_z_plus": {},
    "lrp_composite": {},
    "attention_lrp": {},
}
"""Those whose books are to close within 1e-3 with biases and stabilisers."""
RELEVANCE = {
    "lrp_w_square": {},
    "lrp_flat": {},
    "lrp_composite": {"composite": "epsilon_gamma_box"},
    "deep_taylor": {},
    "excitation_backprop": {},
}
"""Those with rules that give relevance to zeros, which is in the third account, or that start at 1."""
OTHERS = ("deconvolution", "guided_backprop", "rectgrad", "contrastive_excitation_backprop")
PATTERNS = ("pattern_net", "pattern_attribution")


@pytest.fixture(scope="module", params=NAMES)
def case(request):
    """A network in float64 with its task and inputs; one at a time is in memory."""
    name = request.param
    if name.startswith("timm"):
        pytest.importorskip("timm")
    net, x = network(name)
    yield name, net, x
    gc.collect()


def explain(net: nn.Module, x: Tensor, method: str, **params):
    task = abe.image_task(net, mean=MEAN, std=STD, output_kind="logits")
    return abe.explain(task, x, method, target=0, progress=False, chunk=2, **params)


def test_deeplift_is_complete(case):
    name, net, x = case
    found = explain(net, x, "deeplift")
    assert float(found.score.abs().min()) > 1
    assert float(found.delta.abs().min()) > 1e-3
    double = float(found.residual.abs().max())
    revealed = float(explain(net, x, "deeplift_reveal_cancel").residual.abs().max())
    single = float(explain(net.float(), x.float(), "deeplift").residual.abs().max())
    net.double()
    print(f"\n| {name} | {double:.0e} | {single:.0e} | {revealed:.0e} |", end="")
    assert double <= 1e-8
    assert revealed <= 1e-8
    assert single <= 1e-4


def test_relevance_is_accounted_for(case):
    _, net, x = case
    for method, params in LRP.items():
        found = explain(net, x, method, **params)
        books = found.diagnostics
        given = found.attribution.flatten(1).sum(1)
        total = given + books["bias_relevance"] + books["stabiliser_relevance"]
        missing = ((total - found.score).abs() / found.score.abs().clamp(min=1)).max()
        if method in ("lrp_epsilon", "lrp_z_plus"):
            print(f" {float((given / found.score).abs().max()):.2g}, {float(missing):.0e} |", end="")
        assert float(missing) <= 1e-3, (method, float(missing))
        assert float(books["bias_relevance"].abs().max()) > 1e-3, method


def test_every_other_method_runs(case):
    _, net, x = case
    for method, params in RELEVANCE.items():
        found = explain(net, x, method, **params)
        size = sum(abs(found.diagnostics[f"{a}_relevance"]) for a in ("bias", "stabiliser", "rest")) + 1
        assert bool((found.diagnostics["closure"].abs() <= 1e-3 * size).all()), method
        assert bool(found.attribution.any()), method
    for method in (*OTHERS, *PATTERNS):
        found = explain(net, x, method, **({"samples": 2} if method in PATTERNS else {}))
        assert bool(found.attribution.any()), method
        assert bool(found.attribution.isfinite().all()), method

"""Every backward method on real networks: DeepLIFT complete, LRP closed, per sample.

`pytest -m slow -s tests/engines/backward/test_networks.py` prints the table of docs/backward.md.
"""

import gc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

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


@dataclass
class Case:
    """A network in float64 and its inputs. What is explained is the prediction."""

    name: str
    net: nn.Module
    x: Tensor

    def explain(self, method: str, **params: Any) -> abe.Explanation:
        task = abe.image_task(self.net, mean=MEAN, std=STD, output_kind="logits")
        return abe.explain(task, self.x, method, progress=False, chunk=2, **params)


@pytest.fixture(scope="module", params=NAMES)
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    """One network at a time is in memory."""
    yield Case(request.param, *network(request.param))
    gc.collect()


def test_deeplift_is_complete(case: Case) -> None:
    found = case.explain("deeplift")
    assert float(found.score.abs().min()) > 1
    assert float(found.delta.abs().min()) > 1e-3
    double = float(found.residual.abs().max())
    revealed = float(case.explain("deeplift_reveal_cancel").residual.abs().max())
    single = Case(case.name, case.net.float(), case.x.float())
    rounded = float(single.explain("deeplift").residual.abs().max())
    case.net.double()
    print(f"\n| {case.name} | {double:.0e} | {rounded:.0e} | {revealed:.0e} |", end="")
    assert double <= 1e-8
    assert revealed <= 1e-8
    assert rounded <= 1e-4


def test_relevance_is_accounted_for(case: Case) -> None:
    for method, params in LRP.items():
        found = case.explain(method, **params)
        books = found.diagnostics
        given = found.attribution.flatten(1).sum(1)
        total = given + books["bias_relevance"] + books["stabiliser_relevance"]
        missing = ((total - found.score).abs() / found.score.abs().clamp(min=1)).max()
        if method in ("lrp_epsilon", "lrp_z_plus"):
            print(f" {float((given / found.score).abs().max()):.2g} | {float(missing):.0e} |", end="")
        assert float(missing) <= 1e-3, (method, float(missing))
        assert float(books["bias_relevance"].abs().max()) > 1e-3, method


def test_every_other_method_runs(case: Case) -> None:
    for method, params in RELEVANCE.items():
        found = case.explain(method, **params)
        size = sum(found.diagnostics[f"{a}_relevance"].abs() for a in ("bias", "stabiliser", "rest")) + 1
        assert bool((found.diagnostics["closure"].abs() <= 1e-3 * size).all()), method
        assert bool(found.attribution.any()), method
    for method in (*OTHERS, *PATTERNS):
        found = case.explain(method, **({"samples": 2} if method in PATTERNS else {}))
        assert bool(found.attribution.any()), method
        assert bool(found.attribution.isfinite().all()), method

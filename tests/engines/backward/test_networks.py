"""Every backward method on real networks: DeepLIFT complete, LRP closed, per sample.

`pytest -m slow -s tests/engines/backward/test_networks.py` prints the table of docs/backward.md.
"""

import copy
import gc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tests.engines.networks import MEAN, NETWORKS, STD, network, normalised, of_peers
from torch import Tensor, nn

import abe

FAST = "torchvision resnet18"
OTHER = of_peers(n for n in NETWORKS if n != FAST)
NAMES = [FAST, *(pytest.param(*p.values, marks=[*p.marks, pytest.mark.slow]) for p in OTHER)]
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
QUICK = ("lrp_epsilon", "lrp_composite")
"""A rule for all layers, and one by the kind of layer; small networks show the others (`test_run.py`)."""
EVERY_LRP = [m if m in QUICK else pytest.param(m, marks=pytest.mark.slow) for m in LRP]
RELEVANCE = {
    "lrp_w_square": {},
    "lrp_flat": {},
    "lrp_composite": {"composite": "epsilon_gamma_box"},
    "deep_taylor": {},
    "excitation_backprop": {},
}
"""Those with rules that give relevance to zeros, which is in the third account, or that start at 1."""
CANCELLING = ("lrp_w_square", "lrp_flat")
"""On ConvNeXt-T they give 3.6e15 and 2.6e13 in either sign, of which rounding leaves 1 and .02."""
PATTERNS = {"pattern_net": {"samples": 2}, "pattern_attribution": {"samples": 2}}
OTHERS = {"deconvolution": {}, "guided_backprop": {}, "rectgrad": {}, "contrastive_excitation_backprop": {}}
RECTIFIED = [n for n in NAMES if getattr(n, "values", (n,))[0] in ("torchvision vgg16", FAST)]
"""Whose only activations are modules of ReLU, so that hooks can do by hand what rules do."""


@dataclass
class Case:
    """A network in float64 and its inputs. What is explained is the prediction."""

    name: str
    net: nn.Module
    x: Tensor

    def explain(self, method: str, *, x: Tensor | None = None, **params: Any) -> abe.Explanation:
        task = abe.image_task(self.net, mean=MEAN, std=STD, output_kind="logits")
        return abe.explain(task, self.x if x is None else x, method, progress=False, chunk=2, **params)


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


@pytest.mark.parametrize("method", EVERY_LRP)
def test_relevance_is_accounted_for(case: Case, method: str) -> None:
    found = case.explain(method, **LRP[method])
    books = found.diagnostics
    given = found.attribution.flatten(1).sum(1)
    total = given + books["bias_relevance"] + books["stabiliser_relevance"]
    missing = ((total - found.score).abs() / found.score.abs().clamp(min=1)).max()
    if method in ("lrp_epsilon", "lrp_z_plus"):
        print(f" {float((given / found.score).abs().max()):.2g} | {float(missing):.0e} |", end="")
    assert float(missing) <= 1e-3, float(missing)
    assert float(books["bias_relevance"].abs().max()) > 1e-3


@pytest.mark.slow
def test_relevance_that_reaches_zeros_is_accounted_for(case: Case) -> None:
    for method, params in RELEVANCE.items():
        found = case.explain(method, **params)
        closure = found.diagnostics["closure"].abs()
        missing = float((closure / found.score.abs().clamp(min=1)).max())
        if method in CANCELLING and "convnext" in case.name:
            given = found.attribution.abs().flatten(1).sum(1)
            assert float(given.max()) > 1e12, method  # else there is no reason not to close
            assert bool((closure <= 1e-14 * given).all()), (method, missing)
        else:
            assert missing <= 1e-3, (method, missing)
        noted = any("ABE-INCOMPLETE" in warning for warning in found.warnings)
        assert noted or missing <= 1e-3, (method, missing)  # whoever does not close is told
        assert bool(found.attribution.any()), method


@pytest.mark.slow  # the laws of every method hold it on small networks
def test_a_sample_is_explained_by_itself_and_by_its_class(case: Case) -> None:
    """Alone as in the batch, however many filters and patterns look at what; another class, another map."""
    for method, params in {**OTHERS, **PATTERNS}.items():
        whole = case.explain(method, target=[1, 2], **params).attribution
        alone = case.explain(method, x=case.x[1:], target=2, **params).attribution
        size = float(whole[1].abs().max())
        assert size > 0, method
        assert float((alone[0] - whole[1]).abs().max()) <= 1e-8 * size, method
        other = case.explain(method, x=case.x[1:], target=3, **params).attribution
        assert float((other[0] - whole[1]).abs().max()) > 1e-3 * size, method


@pytest.mark.parametrize("case", RECTIFIED, indirect=True)
def test_filters_of_gradients_are_what_hooks_do(case: Case) -> None:
    filters = {
        "deconvolution": lambda inner, outer: (outer[0].clamp(min=0),),
        "guided_backprop": lambda inner, outer: (inner[0].clamp(min=0),),
    }
    for method, keep in filters.items():
        net = copy.deepcopy(case.net)
        for module in net.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = False
                module.register_full_backward_hook(lambda _, inner, outer, keep=keep: keep(inner, outer))
        x = case.x.clone().requires_grad_()
        (right,) = torch.autograd.grad(net(normalised(x))[:, 1].sum(), x)
        found = case.explain(method, target=1).attribution
        assert float((found - right).abs().max()) <= 1e-8 * float(right.abs().max()), method

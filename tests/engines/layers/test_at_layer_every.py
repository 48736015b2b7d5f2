"""Every method at a layer: a map of its shape, or one sentence that says why not and what to use."""

from typing import Any

import pytest
import torch
from torch import nn

import abe
from abe.engines.layers.at_layer import AtInput
from abe.registry import methods

X = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(2)).double()
NO_ATTENTION = (
    *("raw_attention", "attention_rollout", "gradient_x_attention", "chefer_relevance", "chefer_bimodal"),
    "daam",
)
GRID = ("grid", {"n": 2})
FAST = {"steps": 3, "samples": 3, "rounds": 2, "search_steps": 3, "units": GRID, "evaluations": 200}
OWN = {"s_lime": {"features": 2, "start": 20}}


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        rest = (nn.ReLU(), nn.Conv2d(4, 5, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), *rest, nn.Linear(5, 4)).double().eval()


def explain(method: Any, **how: Any) -> abe.Explanation:
    return abe.explain(abe.image_task(network()), X, method, target=1, ids=[3, 4], progress=False, **how)


def asked(name: str) -> tuple[str, dict[str, Any]]:
    entry = methods.get(name)
    quick = {k: v for k, v in FAST.items() if k in entry.parameters()}
    return name, {**quick, **entry.card.example, **OWN.get(name, {})}


@pytest.mark.parametrize("name", [n for n in methods.names() if n not in ("at_layer", "layer_conductance")])
def test_a_map_or_a_sentence(name: str):
    if name not in NO_ATTENTION:
        found = explain(abe.at_layer(asked(name), "0"))
        assert found.shape == found.x.shape == (2, 4, 8, 8)
        return
    with pytest.raises(abe.AbeError, match="computes no attention"):
        explain(abe.at_layer(asked(name), "0"))


def test_a_bottleneck_at_a_layer_is_that_of_the_network_that_follows():
    net, how = network(), {"steps": 3, "samples": 3}
    found = explain(abe.at_layer(("iba", {"layer": "2", **how}), "0"))
    follows = nn.Sequential()
    for name, module in list(net.named_children())[1:]:
        follows.add_module(name, module)  # draws go by the layer's name
    rest = abe.image_task(follows, bounds=None)
    with torch.no_grad():
        x = net[0](X)
    wanted = abe.explain(rest, x, "iba", layer="2", target=1, ids=[3, 4], progress=False, **how)
    assert torch.allclose(found.attribution, wanted.attribution, atol=1e-9)
    assert bool(found.attribution.any())


LIFTED = {"eg": ("baseline", {"samples": 3}), "deepshap": ("background", {"samples": 3}),
          "ace": ("background", {"samples": 2})}  # fmt: skip


@pytest.mark.parametrize("name", LIFTED)
def test_references_that_are_drawn_within_bounds_are_drawn_at_the_input(name: str):
    parameter, few = LIFTED[name]
    found = explain(abe.at_layer((name, few), "0"))
    by_hand = explain(abe.at_layer((name, {**few, parameter: AtInput(baseline="uniform")}), "0"))
    assert torch.equal(found.attribution, by_hand.attribution)
    assert bool(found.attribution.any())
    if name == "deepshap":
        assert float(found.residual.abs().max()) < 1e-9


def test_expected_gradients_by_hand():
    """The mean of IG's integrand between activations, at the draws that were made."""
    net, drawn = network(), abe.testing.RecordedDraws()
    found = explain(abe.at_layer(("eg", {"samples": 2}), "0"), draws=drawn)
    right = torch.zeros(2, 4, 8, 8).double()
    with torch.no_grad():
        y = net[0](X)
    for sample, key in enumerate((3, 4)):
        for k in range(2):
            with torch.no_grad():
                start = net[0](drawn.recorded["baseline.uniform"][key, k][None].double())[0]
            alpha = (k + drawn.recorded["expectation.alpha"][key, k].double()) / 2
            point = (start + alpha * (y[sample] - start)).requires_grad_(True)
            (slope,) = torch.autograd.grad(net[1:](point[None])[0, 1], point)
            right[sample] += (y[sample] - start) * slope / 2
    assert torch.allclose(found.attribution, right, atol=1e-12)


def test_other_references_within_bounds():
    for method, given in (
        ("ig", {"baseline": "confusion"}),
        ("shapley", {"removal": "uniform", "units": GRID}),
    ):
        found = explain(abe.at_layer((method, given), "0"))
        assert float(found.residual.abs().max()) < 0.2
    task = abe.image_task(network(), bounds=None)
    with pytest.raises(abe.AbeError, match="'uniform' needs a task with bounds"):
        abe.explain(task, X, abe.at_layer("eg", "0"), target=1, progress=False)

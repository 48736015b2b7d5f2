"""Removal methods at a layer: the method on the rest of the model, and known answers on additive rests."""

import pytest
import torch
from tests.engines.backward.test_run import Everything, explain, images
from tests.engines.layers.test_at_layer import EVERY, Split
from torch import Tensor, nn

import abe
from abe.baselines import Constant
from abe.engines.layers.at_layer import AtInput
from abe.errors import InputError, SpecError
from abe.registry import methods
from abe.units import Regions

GRID = ("grid", {"n": 2})
PLACES = {
    "occlusion": {"units": GRID},
    "occlusion_patch": {"size": 4},
    "pdiff": {"size": 4, "samples": 3},
    "rise": {"evaluations": 12, "cells": 3},
    "ace": {"units": GRID, "background": "noise", "samples": 3},
    "removal": {"units": GRID, "summary": "include_individual"},
    "shapley": {"units": GRID},
    "kernel_shap": {"units": GRID, "evaluations": 16},
    "owen": {"units": GRID, "groups": ((0, 1), (2, 3))},
    "banzhaf": {"units": GRID},
    "interactions": {"units": GRID},
    "loss_shap": {"units": GRID},
    "lime": {"units": GRID, "evaluations": 40},
    "c_lime": {"units": GRID, "evaluations": 40},
    "optilime": {"units": GRID, "evaluations": 40},
    "sparse_surrogate": {"units": GRID, "evaluations": 40},
    "s_lime": {"units": GRID, "features": 2, "start": 20, "evaluations": 60},
    "baylime": {"units": GRID, "evaluations": 40},
}
"""Every removal method, with parameters for activations with two axes of places."""


FAMILIES = (
    *("modified gradient", "gradient × input", "layer-wise backpropagation"),
    *("perturbation", "local surrogate"),
)
TESTED_ALONE = {"deep_taylor", "sage", "layer_conductance"}
LAYERS_OF_THEIR_OWN = {
    *("cam", "grad_cam", "grad_cam_plus_plus", "hires_cam", "xgrad_cam", "layer_cam", "channel_map"),
    *("guided_grad_cam", "score_cam", "ablation_cam"),
}
TRAINED = {"cxplain"}


def test_every_gradient_rule_and_removal_method_is_here() -> None:
    known = {methods.get(name).card.name for name in (*EVERY, *PLACES)}
    known |= TESTED_ALONE | LAYERS_OF_THEIR_OWN | TRAINED
    own = [c for c in methods.cards().values() if methods.get(c.name).factory.__module__.startswith("abe.")]
    assert set(FAMILIES) <= {card.family for card in own}
    assert {card.name for card in own if card.family in FAMILIES} <= known


@pytest.mark.parametrize("name", PLACES)
def test_it_is_the_method_on_the_rest_of_the_model(name: str) -> None:
    torch.manual_seed(0)
    first, second, x = nn.Conv2d(3, 3, 3, padding=1).double(), Everything(), images(2)
    base = abe.method(name, **PLACES[name])
    found = explain(Split(first, second), x, abe.at_layer(base, "first"), ids=range(2))
    expected = explain(second, first(x).detach(), base, ids=range(2))
    assert torch.allclose(found.attribution, expected.attribution, atol=1e-12)
    if expected.standard_error is not None:
        assert torch.allclose(found.standard_error, expected.standard_error, atol=1e-12)
    assert bool(expected.attribution.any())
    assert found.cost.forward_rows == expected.cost.forward_rows  # the pass to the layer predicts too
    alone = explain(Split(first, second), x[1:], abe.at_layer(base, "first"), ids=[1])
    assert torch.allclose(alone.attribution, found.attribution[1:], atol=1e-12)


class Additive(nn.Module):
    """Scores that are sums over tokens and their features, and the input's own mean beside them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tokens, self.beside = nn.Identity(), nn.Linear(3, 2)
        self.weight = nn.Parameter(torch.randn(4, 5))
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.tokens(x.flatten(2)[:, :2, :10].reshape(len(x), 4, 5))
        own = (self.weight * tokens).sum((1, 2))
        return torch.stack([own, -own], 1) + self.beside(x.mean((2, 3)))


TOKENS = Regions(regions=torch.arange(4)[:, None].expand(4, 5))
ALIKE = {
    "occlusion": {},
    "removal": {"summary": "include_individual"},
    "shapley": {},
    "kernel_shap": {},
    "owen": {"groups": ((0, 1), (2, 3))},
    "banzhaf": {},
    "interactions": {},
    "lime": {"penalty": 0.0},
    "optilime": {"penalty": 0.0},
}
"""Methods that give additive scores away exactly, each unit its own part."""


@pytest.mark.parametrize("name", ALIKE)
def test_additive_scores_of_tokens(name: str) -> None:
    """Σ w ⊙ (y − y′) over each token, y′ = 0; what runs beside the layer stays and is nobody's."""
    net, x = Additive(), images(2)
    found = explain(
        net, x, abe.at_layer((name, {"units": TOKENS, "removal": "zero", **ALIKE[name]}), "tokens")
    )
    own = (net.weight * found.x).sum(2).detach()
    assert torch.allclose(found.attribution.sum(2), own, atol=1e-9)
    assert torch.allclose(found.attribution, (own / 5)[:, :, None].expand(2, 4, 5), atol=1e-9)


def test_what_is_absent_may_be_the_activation_at_an_input() -> None:
    net, x = Additive(), images(2)
    start = explain(net, torch.full_like(x, 0.5), abe.at_layer("gradient", "tokens")).x
    half = AtInput(baseline=Constant(value=0.5))
    for name in ("occlusion", "shapley", "kernel_shap"):
        found = explain(net, x, abe.at_layer((name, {"units": TOKENS, "removal": half}), "tokens"))
        own = (net.weight * (found.x - start)).sum(2).detach()
        assert torch.allclose(found.attribution.sum(2), own, atol=1e-9), name


def test_a_background_of_activations() -> None:
    net, x = Additive(), images(2)
    background = torch.randn(6, 4, 5, dtype=torch.float64)
    found = explain(net, x, abe.at_layer(("shapley", {"units": TOKENS, "removal": background}), "tokens"))
    own = (net.weight * (found.x - background.mean(0))).sum(2).detach()
    assert torch.allclose(found.attribution.sum(2), own, atol=1e-9)
    with pytest.raises(InputError, match="ABE-BASELINE-SHAPE"):
        explain(net, x, abe.at_layer(("shapley", {"units": TOKENS, "removal": images(3)}), "tokens"))


def test_flat_activations() -> None:
    """The linear rest of a model after its pooling: w ⊙ y, whatever the method."""
    torch.manual_seed(0)
    head = nn.Linear(6, 2).double()
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).double()
    for name in ("occlusion", "occlusion_patch", "shapley", "kernel_shap", "banzhaf", "lime"):
        units = {} if name == "occlusion_patch" else {"units": "pixel", "removal": "zero"}
        params = {**units, **ALIKE.get(name, {})}
        found = explain(net, images(2), abe.at_layer((name, params), "3"))
        assert torch.allclose(found.attribution, head.weight[0] * found.x, atol=1e-9), name
    for name, what in (("rise", "positions side by side"), ("pdiff", "Use another removal")):
        with pytest.raises(SpecError, match=what):
            explain(net, images(2), abe.at_layer(name, "3"))


def test_sage_at_a_layer() -> None:
    """Its data are inputs of the model, and the layer's activations of these are its players."""
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 3, 3, padding=1).double(), Everything()
    net, x, data = Split(first, second), images(2), images(5, seed=1)
    labels = torch.tensor([0, 1, 2, 3, 0])
    settings = {"labels": labels, "units": GRID, "removal": "zero", "evaluations": 200}
    found = explain(net, x, abe.at_layer(("sage", {"data": data, **settings}), "first"))
    expected = explain(second, first(x).detach(), "sage", data=first(data).detach(), **settings)
    assert torch.allclose(found.attribution, expected.attribution, atol=1e-12)
    with pytest.raises(InputError, match="do not fit the input"):
        explain(net, x, abe.at_layer(("sage", {"data": images(5, side=6), **settings}), "first"))


def test_methods_that_need_bounds_say_so() -> None:
    with pytest.raises(SpecError, match=r"'uniform' needs a task with bounds.*ABE-UNSUPPORTED"):
        explain(Everything(), images(), abe.at_layer("ace", "conv"))

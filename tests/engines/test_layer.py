"""Methods at a layer: whatever the method, and wherever the layer is."""

import pytest
import torch
from tests.engines.test_backward import Everything, Written, closure, explain, images
from torch import Tensor, nn
from torch.nn import functional as F

import abe
from abe.engines.layer import AtInput
from abe.errors import ModelError, SpecError

EVERY = (
    *("gradient", "gradient_x_input", "ig", "eg", "smoothgrad", "guided_ig", "gbp", "deconv", "rectgrad"),
    *("lrp_0", "lrp_epsilon", "lrp_gamma", "lrp_alpha_beta", "lrp_z_plus", "lrp_w_square", "lrp_flat"),
    *("lrp_composite", "attention_lrp", "ebp", "cebp", "deeplift", "dl_rev"),
    *("pattern_net", "pattern_attribution"),
)
PARAMS = {
    "smoothgrad": {"samples": 3},
    "eg": {"baseline": "zero", "samples": 3},
    "ig": {"steps": 5},
    "guided_ig": {"steps": 5},
}


class Split(nn.Module):
    """first, then second, so that first's output is second's input."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


@pytest.mark.parametrize("name", EVERY)
def test_it_is_the_method_on_the_rest_of_the_model(name):
    first, second, x = nn.Conv2d(3, 3, 3, padding=1).double(), Everything(), images()
    method = (name, PARAMS.get(name, {}))
    ids = range(3)
    found = explain(Split(first, second), x, abe.at_layer(method, "first"), ids=ids)
    hidden = first(x).detach()
    expected = explain(second, hidden, abe.method(*method[:1], **method[1]), ids=ids)
    assert torch.allclose(found.attribution, expected.attribution, atol=1e-12)
    assert torch.equal(found.x, hidden)
    assert bool(expected.attribution.any())


def test_rules_stay_exact_at_layers_of_other_shapes():
    """Tokens of an attention block, and a vector behind a mean."""
    net, x = Everything(), images()
    for layer in ("blocks.layers.0", "glu", "gate", "blocks.layers.1.norm1"):
        lifted = explain(net, x, abe.at_layer(("deeplift", {"baseline": AtInput()}), layer))
        assert float(lifted.residual.abs().max()) < 1e-8
        if layer != "gate":  # the tokens that it weighs go around it, and LRP holds gates
            assert torch.allclose(lifted.delta, explain(net, x, "deeplift").delta, atol=1e-12)
            assert closure(explain(net, x, abe.at_layer("lrp_epsilon", layer))) < 1e-3


def test_one_call_of_a_reused_layer():
    net, x = Everything(), images()
    first = explain(net, x, abe.at_layer("gradient", "act#0"))
    second = explain(net, x, abe.at_layer("gradient", "act#1"))
    assert first.x.shape == (3, 8, 8, 8)
    assert second.x.shape == (3, 8, 4, 4)
    with pytest.raises(ModelError, match=r"several times.*'act#1'.*ABE-LAYER"):
        explain(net, x, abe.at_layer("gradient", "act"))
    with pytest.raises(ModelError, match=r"counted from its first call.*ABE-LAYER"):
        explain(net, x, abe.at_layer("gradient", "act#-1"))


def test_names_that_are_not_layers():
    net = Split(nn.Conv2d(3, 3, 1).double(), Everything())
    net.idle = nn.ReLU()
    with pytest.raises(ModelError, match=r"no such layer.*'second.glu'.*ABE-LAYER"):
        explain(net, images(), abe.at_layer("gradient", "second.gluu"))
    with pytest.raises(ModelError, match=r"never reached.*ABE-LAYER"):
        explain(net, images(), abe.at_layer("gradient", "idle"))
    with pytest.raises(ModelError, match=r"never reached.*ABE-LAYER"):
        explain(net, images(), abe.method("layer_conductance", layer="idle"))


def test_layers_without_a_row_per_sample():
    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.turn = nn.Flatten(0)

        def forward(self, x):
            return self.turn(x).view(len(x), -1)[:, :4]

    with pytest.raises(ModelError, match=r"no row per sample.*ABE-LAYER"):
        explain(Turned(), images().float(), abe.at_layer("gradient", "turn"))


def test_maps_of_layers_stay_outermost():
    inside = abe.at_layer("gradient", "blocks.layers.0")
    for wrapped in (abe.smooth(inside, samples=2), abe.ensemble(inside, "gradient")):
        with pytest.raises(SpecError, match="outermost"):
            explain(Everything(), images(), wrapped)
    found = explain(Everything(), images(), abe.postprocess(inside, "absolute"))
    assert found.attribution.shape == found.x.shape == (3, 16, 8)
    with pytest.raises(SpecError, match="method at a layer"):
        explain(Everything(), images(), "ig", baseline=AtInput())


def test_conductance_by_hand_on_a_net_with_a_way_around():
    """∂s/∂y is taken where the input is on its line, also for what goes around the layer."""

    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.square = Square()

        def forward(self, x):
            flat = x.flatten(1)
            y = self.square(flat)
            return (y * flat).sum(1, keepdim=True)

    class Square(nn.Module):
        def forward(self, x):
            return x * x

    x = images(2, side=2).float()
    found = explain(Around(), x, "layer_conductance", layer="square", steps=400)
    # y = (αx)², ∂s/∂y = αx, ∂y/∂α = 2αx²: ∫ 2 α² x³ dα
    assert torch.allclose(found.attribution, 2 / 3 * x.flatten(1) ** 3, atol=1e-5)


def test_a_layer_in_place_of_the_input_costs_one_row_more():
    net, x = Written(F.relu), images()
    net.rectify = nn.Identity()
    plain = explain(net, x, "gradient").cost
    found = explain(net, x, abe.at_layer("gradient", "rectify#0")).cost
    assert (found.forward_rows, found.backward_rows) == (plain.forward_rows + 3, plain.backward_rows)

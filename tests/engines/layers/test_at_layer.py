"""Methods at a layer: whatever the method, and wherever the layer is."""

import pytest
import torch
from tests.engines.backward.test_run import Everything, Written, closure, explain, images, task_of
from torch import Tensor, nn
from torch.nn import functional as F

import abe
from abe.engines.backward.lrp_weighted import Epsilon, ZPlus
from abe.engines.backward.patterns import Patterns, fit_patterns
from abe.engines.layers.at_layer import AtInput
from abe.errors import ModelError, SpecError
from abe.methods.lrp import COMPOSITES
from abe.methods.relevance import relevance
from abe.registry import methods

EVERY = (
    *("gradient", "gradient_x_input", "fast_ig", "smoothgrad", "smoothgrad_squared", "vargrad"),
    *("ig", "eg", "guided_ig", "blur_ig", "path_integral", "path_attribution"),
    *("mfaba", "attexplore", "isa", "big", "agi", "la", "laai"),
    *("gbp", "deconv", "rectgrad", "deeplift", "dl_rev", "deepshap", "ebp", "cebp", "attention_lrp"),
    *("lrp_0", "lrp_epsilon", "lrp_gamma", "lrp_alpha_beta", "lrp_z_plus", "lrp_w_square", "lrp_flat"),
    *("lrp_composite", "pattern_net", "pattern_attribution"),
)
"""Every gradient and rule method but Deep Taylor, whose first rule is about the input."""
SHORT = {"steps": 3}
FEW = {"samples": 3}
PARAMS = {
    **dict.fromkeys(("smoothgrad", "smoothgrad_squared", "vargrad"), FEW),
    **dict.fromkeys(("ig", "guided_ig", "blur_ig", "path_integral", "path_attribution", "mfaba"), SHORT),
    **dict.fromkeys(("attexplore", "agi", "la", "laai"), FEW | SHORT),
    "eg": {"baseline": "zero", "samples": 3},
    "isa": {"steps": 2, "rounds": 2},
    "big": {"search_steps": 3, "steps": 3},
    "deepshap": {"background": "noise", "samples": 3},
}
PLUS, _ = COMPOSITES["epsilon_plus_flat"]
COMPOSITE = ("lrp_composite", {"composite": "epsilon_plus_flat"})


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
    method = abe.method(name, **{**methods.get(name).card.example, **PARAMS.get(name, {})})
    ids = range(3)
    found = explain(Split(first, second), x, abe.at_layer(method, "first"), ids=ids)
    hidden = first(x).detach()
    expected = explain(second, hidden, method, ids=ids)
    assert torch.allclose(found.attribution, expected.attribution, atol=1e-12)
    assert torch.equal(found.x, hidden)
    assert bool(expected.attribution.any())


def test_rules_for_the_input_stay_there():
    """What flat and zᴮ say of the first operation is not said of the first one behind a layer."""
    first, second, x = nn.Conv2d(3, 3, 3, padding=1).double(), Everything(), images()
    hidden, net = first(x).detach(), Split(first, second)
    for method, everywhere in (
        (COMPOSITE, relevance(convolution=PLUS, dense=Epsilon(epsilon=1e-6))),
        ("deep_taylor", relevance(convolution=ZPlus(bias="drop"), dense=ZPlus(bias="drop"))),
    ):
        found = explain(net, x, abe.at_layer(method, "first"))
        assert torch.allclose(found.attribution, explain(second, hidden, everywhere).attribution, atol=1e-12)
    changed = explain(second, hidden, COMPOSITE).attribution
    assert not torch.allclose(changed, explain(net, x, abe.at_layer(COMPOSITE, "first")).attribution)


def test_patterns_keep_their_places():
    """Patterns of the whole model serve at a layer, wherever it is."""
    first, second, x = nn.Conv2d(3, 3, 3, padding=1).double(), Everything(), images()
    net = Split(first, second)
    patterns = fit_patterns(task_of(net), [images(6, seed=1)])
    given, rest = {"patterns": patterns}, Patterns(patterns.layers[1:])
    found = explain(net, x, abe.at_layer(("pattern_net", given), "first"))
    expected = explain(second, first(x).detach(), "pattern_net", patterns=rest)
    assert torch.allclose(found.attribution, expected.attribution, rtol=1e-9)
    for layer in ("first", "second.blocks.layers.0.self_attn", "second.blocks.layers.1.norm1", "second.glu"):
        assert bool(explain(net, x, abe.at_layer(("pattern_net", given), layer)).attribution.any())
    conv = nn.Conv2d(3, 3, 3)
    normed = nn.Sequential(conv, nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 3, 3), nn.Flatten())
    normed.double().eval()
    given = {"patterns": fit_patterns(task_of(normed), [images(6)])}
    with pytest.raises(ModelError, match=r"batch norms merged.*layer '1'.*ABE-RULE"):
        explain(normed, x, abe.at_layer(("pattern_net", given), "1"))


def test_nothing_reaches_a_layer_that_only_makes_a_gate():
    with pytest.raises(ModelError, match=r"Under these rules.*Gates.*ABE-NOT-DIFFERENTIABLE"):
        explain(Everything(), images(), abe.at_layer("lrp_epsilon", "gate"))


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

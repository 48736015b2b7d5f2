"""Maps of unmodified torchvision networks: the layer that is found, and maps against captum's and by hand."""

import pytest
import torch
import torch.nn.functional as F
from tests.engines.networks import MEAN, NETWORKS, REAL, STD, network, normalised, of_peers
from torch import Tensor, nn

import abe
from abe.engines.attention.capture import capturing_attention
from abe.registry import methods

LAYERS = {
    "torchvision inception_v3": "Mixed_7c",
    "torchvision resnet18": "layer4",
    "torchvision resnet50": "layer4",
    "torchvision vgg16": "features.29",
    "torchvision maxvit_t": "blocks.3",
    "torchvision vit_b_16": "encoder.layers.encoder_layer_11.ln_1",
    "torchvision densenet121": "features",
    "torchvision mobilenet_v3_small": "features",
    "torchvision mobilenet_v3_large": "features",
    "torchvision efficientnet_b0": "features",
    "torchvision convnext_tiny": "features",
    "torchvision swin_t": "permute",
    "timm inception_v3": "Mixed_7c",
    "timm resnet50": "layer4",
    "timm vgg16": "features.29",
    "timm maxvit_tiny_tf_224": "stages",
    "timm vit_base_patch16_224": "blocks.11.attn.qkv",
    "timm densenet121": "features",
    "timm mobilenetv3_large_100": "blocks",
    "timm efficientnet_b0": "bn2",
    "timm efficientnet_lite0": "bn2",
    "timm convnext_tiny": "stages",
    "timm swin_tiny_patch4_window7_224": "norm",
    REAL: "_swish#1",
}
"""Where the map of each network is taken when nothing is said."""
CHANNELS_LAST = ("timm swin_tiny_patch4_window7_224",)
TOKENS = ("torchvision vit_b_16", "timm vit_base_patch16_224")
WINDOWS = {
    "torchvision swin_t": 12,
    "torchvision maxvit_t": 22,
    "timm swin_tiny_patch4_window7_224": 12,
    "timm maxvit_tiny_tf_224": 22,
}
"""How often they attend."""
SIDES = {"torchvision inception_v3": 112, "timm inception_v3": 112}
"""So that the last layer has more than one place."""


def explain(net: nn.Module, x: Tensor, method: str, **how: object) -> abe.Explanation:
    task = abe.image_task(net, mean=MEAN, std=STD, output_kind="logits")
    return abe.explain(task, x, method, target=0, progress=False, **how)


def enlarged(raw: Tensor, side: int) -> Tensor:
    return F.interpolate(raw[:, None], (side, side), mode="bilinear", align_corners=False)[:, 0]


@pytest.mark.slow
@pytest.mark.parametrize("name", of_peers(NETWORKS))
def test_grad_cam_of_real_networks(name: str) -> None:
    """Unmodified, no layer named, no reshape function: by hand."""
    net, x = network(name, SIDES.get(name))
    found = explain(net, x, "grad_cam", relu=False)
    assert f"layer {LAYERS[name]!r}" in found.warnings[0]
    by_hand = enlarged(_by_hand(net, x, name), x.shape[-1])
    scale = by_hand.abs().amax((1, 2), keepdim=True)
    assert float(((found.attribution.sum(1) - by_hand) / scale).abs().max()) < 1e-8
    alone = explain(net, x[1:], "grad_cam", relu=False, layer=LAYERS[name])
    assert float(((alone.attribution - found.attribution[1:]) / scale[1:, None]).abs().max()) < 1e-8


@pytest.mark.slow
@pytest.mark.peers
@pytest.mark.parametrize("name", [n for n in NETWORKS if n not in (*CHANNELS_LAST, *TOKENS, REAL)])
def test_grad_cam_of_real_networks_is_captums(name: str) -> None:
    attr = pytest.importorskip("captum.attr")
    net, x = network(name, SIDES.get(name))
    found = explain(net, x, "grad_cam", relu=False, layer=LAYERS[name]).attribution.sum(1)
    captum = attr.LayerGradCam(net, net.get_submodule(LAYERS[name])).attribute(normalised(x), target=0)
    right = enlarged(captum[:, 0].detach(), x.shape[-1])
    assert float(((found - right) / right.abs().amax((1, 2), keepdim=True)).abs().max()) < 1e-8


def _by_hand(net: nn.Module, x: Tensor, name: str) -> Tensor:
    """(b, h, w) the activations weighted by their mean gradients over places."""
    kept: list[Tensor] = []
    layer, _, call = LAYERS[name].partition("#")

    def keep(module: nn.Module, args: object, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[-1].clone()

    handle = net.get_submodule(layer).register_forward_hook(keep)
    score = net(normalised(x))[:, 0].sum()
    handle.remove()
    activation = kept[int(call or 0)]
    (gradient,) = torch.autograd.grad(score, activation)
    activation = activation.detach()
    if name in TOKENS:
        activation, gradient = (t[:, 1:].unflatten(1, (3, 3)) for t in (activation, gradient))
    if name in (*TOKENS, *CHANNELS_LAST):
        activation, gradient = (t.permute(0, 3, 1, 2) for t in (activation, gradient))
    return (gradient.mean((2, 3), keepdim=True) * activation).sum(1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "vit_b_16", "swin_t"])
def test_every_weight_on_real_networks(name: str) -> None:
    net, x = network(f"torchvision {name}")
    for method in (
        "hires_cam",
        "xgrad_cam",
        "layer_cam",
        "grad_cam_plus_plus",
        "eigen_cam",
        "guided_grad_cam",
    ):
        signed = {"relu": False} if "relu" in methods.get(method).parameters() else {}
        found = explain(net, x, method, **signed)
        assert bool((found.attribution.flatten(1).abs().amax(1) > 0).all()), method
    if name == "resnet18":
        cam = explain(net, x, "cam", relu=False).attribution
        grad = explain(net, x, "grad_cam", relu=False).attribution
        torch.testing.assert_close(4 * grad, cam)
    if name == "vit_b_16":
        with pytest.raises(abe.errors.ModelError, match="ABE-NO-LINEAR-HEAD"):
            explain(net, x, "cam")


@pytest.mark.slow
@pytest.mark.parametrize("name", of_peers(TOKENS))
def test_attention_of_real_networks(name: str) -> None:
    """Rollout by hand from what was captured; the others run."""
    net, x = network(name)
    rolled = explain(net, x, "rollout")
    with torch.no_grad(), capturing_attention(net) as found:
        net(normalised(x))
    assert len(found) == 12
    matrix = torch.eye(10, dtype=x.dtype).expand(2, -1, -1)
    for one in found:
        step = 0.5 * one.shaped(2).weights.mean(1) + 0.5 * torch.eye(10, dtype=x.dtype)
        matrix = step @ matrix
    right = enlarged(matrix[:, 0, 1:].unflatten(1, (3, 3)), 48)
    torch.testing.assert_close(rolled.attribution.sum(1), right)
    for method in ("chefer", "gradient_x_attention", "raw_attention"):
        assert float(explain(net, x, method).attribution.abs().max()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", of_peers(WINDOWS))
def test_attention_within_windows_is_captured_and_named(name: str) -> None:
    net, x = network(name)
    with torch.no_grad(), capturing_attention(net) as found:
        net(normalised(x))
    assert len(found) == WINDOWS[name]
    for one in found:
        total = one.shaped(2).weights.sum(-1)
        torch.testing.assert_close(total, torch.ones_like(total))
    with pytest.raises(abe.errors.ModelError, match="attends within windows"):
        explain(net, x, "chefer")

"""Maps of unmodified torchvision networks: the layer that is found, and maps against captum's and by hand."""

import pytest
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam
from tests.engines.networks import network
from torch import Tensor, nn

import abe
from abe.engines.maps_attention import capturing_attention

LAYERS = {
    "resnet18": "layer4",
    "resnet50": "layer4",
    "vgg16": "features.29",
    "densenet121": "features",
    "inception_v3": "Mixed_6e",
    "mobilenet_v3_small": "features",
    "efficientnet_b0": "features",
    "convnext_tiny": "features",
    "swin_t": "permute",
    "maxvit_t": "blocks.3",
    "vit_b_16": "encoder.layers.encoder_layer_11.ln_1",
}


def explain(net: nn.Module, x: Tensor, method: str, **how: object) -> abe.Explanation:
    task = abe.image_task(net, output_kind="logits")
    return abe.explain(task, x, method, target=0, progress=False, **how)


def enlarged(raw: Tensor, side: int) -> Tensor:
    return F.interpolate(raw[:, None], (side, side), mode="bilinear", align_corners=False)[:, 0]


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_grad_cam_of_real_networks(name: str) -> None:
    net, x = network(f"torchvision {name}")
    found = explain(net, x, "grad_cam", relu=False)
    assert f"layer {LAYERS[name]!r}" in found.warnings[0]
    assert float(found.score.abs().min()) > 1
    layer = net.get_submodule(LAYERS[name])
    if name == "vit_b_16":
        right = _tokens_by_hand(net, x)
    else:
        right = LayerGradCam(net, layer).attribute(x, target=0)[:, 0].detach()
    right = enlarged(right, x.shape[-1])
    scale = right.abs().amax((1, 2), keepdim=True)
    assert float(((found.attribution.sum(1) - right) / scale).abs().max()) < 1e-8
    alone = explain(net, x[1:], "grad_cam", relu=False, layer=LAYERS[name])
    assert float(((alone.attribution - found.attribution[1:]) / scale[1:, None]).abs().max()) < 1e-8


def _tokens_by_hand(net: nn.Module, x: Tensor) -> Tensor:
    kept: list[Tensor] = []
    layer = net.get_submodule(LAYERS["vit_b_16"])

    def keep(module: nn.Module, args: object, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[0]

    handle = layer.register_forward_hook(keep)
    score = net(x)[:, 0].sum()
    handle.remove()
    (gradient,) = torch.autograd.grad(score, kept[0])
    weights = gradient[:, 1:].mean(1)
    return (weights[:, None] * kept[0][:, 1:].detach()).sum(2).unflatten(1, (3, 3))


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
        found = explain(net, x, method)
        assert bool((found.attribution.flatten(1).abs().amax(1) > 0).all()), method
    if name == "resnet18":
        cam = explain(net, x, "cam", relu=False).attribution
        grad = explain(net, x, "grad_cam", relu=False).attribution
        torch.testing.assert_close(4 * grad, cam)
    if name == "vit_b_16":
        with pytest.raises(abe.errors.ModelError, match="ABE-NO-LINEAR-HEAD"):
            explain(net, x, "cam")


@pytest.mark.slow
def test_attention_of_real_networks() -> None:
    net, x = network("torchvision vit_b_16")
    rolled = explain(net, x, "rollout")
    with torch.no_grad(), capturing_attention(net) as found:
        net(x)
    assert len(found) == 12
    matrix = torch.eye(10, dtype=x.dtype).expand(2, -1, -1)
    for one in found:
        step = 0.5 * one.shaped(2).weights.mean(1) + 0.5 * torch.eye(10, dtype=x.dtype)
        matrix = step @ matrix
    right = enlarged(matrix[:, 0, 1:].unflatten(1, (3, 3)), 48)
    torch.testing.assert_close(rolled.attribution.sum(1), right)
    for method in ("chefer", "gradient_x_attention", "raw_attention"):
        assert float(explain(net, x, method).attribution.abs().max()) > 0
    for name, count in (("swin_t", 12), ("maxvit_t", 22)):
        net, x = network(f"torchvision {name}")
        with torch.no_grad(), capturing_attention(net) as found:
            net(x)
        assert len(found) == count
        for one in found:
            total = one.shaped(2).weights.sum(-1)
            torch.testing.assert_close(total, torch.ones_like(total))
        with pytest.raises(abe.errors.ModelError, match="attends within windows"):
            explain(net, x, "chefer")

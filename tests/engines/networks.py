"""Real networks, unmodified: parameters redrawn from a fixed seed, batch norms measured on seeded inputs.

As shipped, ViT's output is exactly 0, layer scales are 1e-6 and biases 0, which would make tests empty.
Inputs are about as small as each network lets them be.
"""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

MEAN, STD = (0.5, 0.4, 0.45), (0.25, 0.2, 0.22)


def _torchvision(name: str, **how: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from torchvision import models

        return getattr(models, name)(**how)

    return make


def _vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(
        image_size=48, patch_size=16, num_layers=12, num_heads=12, hidden_dim=768, mlp_dim=3072
    )


def _maxvit() -> nn.Module:
    from torchvision.models import MaxVit

    return MaxVit(
        input_size=(64, 64),
        stem_channels=64,
        partition_size=2,
        block_channels=[64, 128, 256, 512],
        block_layers=[2, 2, 5, 2],
        head_dim=32,
        stochastic_depth_prob=0.2,
    )


def _timm(name: str, **how: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        timm = pytest.importorskip("timm")
        return timm.create_model(name, pretrained=False, **how)

    return make


def _real() -> nn.Module:
    from abe.task.zoo import efficientnet_lite0

    return efficientnet_lite0().model


REAL = "efficientnet_lite0, real weights"
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "torchvision inception_v3": (_torchvision("inception_v3", init_weights=False), 80),
    "torchvision resnet18": (_torchvision("resnet18"), 64),
    "torchvision resnet50": (_torchvision("resnet50"), 64),
    "torchvision vgg16": (_torchvision("vgg16"), 64),
    "torchvision maxvit_t": (_maxvit, 64),
    "torchvision vit_b_16": (_vit, 48),
    "torchvision densenet121": (_torchvision("densenet121"), 64),
    "torchvision mobilenet_v3_small": (_torchvision("mobilenet_v3_small"), 64),
    "torchvision mobilenet_v3_large": (_torchvision("mobilenet_v3_large"), 64),
    "torchvision efficientnet_b0": (_torchvision("efficientnet_b0"), 64),
    "torchvision convnext_tiny": (_torchvision("convnext_tiny"), 64),
    "torchvision swin_t": (_torchvision("swin_t"), 64),
    "timm inception_v3": (_timm("inception_v3"), 80),
    "timm resnet50": (_timm("resnet50"), 64),
    "timm vgg16": (_timm("vgg16"), 64),
    "timm maxvit_tiny_tf_224": (_timm("maxvit_tiny_tf_224", img_size=64), 64),
    "timm vit_base_patch16_224": (_timm("vit_base_patch16_224", img_size=48), 48),
    "timm densenet121": (_timm("densenet121"), 64),
    "timm mobilenetv3_large_100": (_timm("mobilenetv3_large_100"), 64),
    "timm efficientnet_b0": (_timm("efficientnet_b0"), 64),
    "timm efficientnet_lite0": (_timm("efficientnet_lite0"), 64),
    "timm convnext_tiny": (_timm("convnext_tiny"), 64),
    "timm swin_tiny_patch4_window7_224": (_timm("swin_tiny_patch4_window7_224", img_size=64), 64),
    REAL: (_real, 128),
}


def network(name: str, side: int | None = None) -> tuple[nn.Module, Tensor]:
    """The network in float64 and two inputs on which scores of class 0 are above 1 in size.

    Args:
        name: of `NETWORKS`.
        side: of the inputs, where it is to be another.
    """
    make, usual = NETWORKS[name]
    side = usual if side is None else side
    generator = torch.Generator().manual_seed(0)
    state = torch.get_rng_state()
    net = make().double().eval()
    torch.set_rng_state(state)
    x = _smooth(2, side, generator)
    if name == REAL:
        return net, x
    for module in net.modules():
        redraw(module, generator)
    _calibrate(net, normalised(_various(side, generator)))
    head = [module for module in net.modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]
    with torch.no_grad():
        size = 3 / net(normalised(x))[:, 0].abs().min()
        head.weight *= size
        if head.bias is not None:
            head.bias *= size
    return net, x


def of_peers(names: Iterable[str]) -> list[Any]:
    """The names for `parametrize`, with those of timm, which comes with the peers, marked."""
    return [pytest.param(n, marks=[pytest.mark.peers] * n.startswith("timm")) for n in names]


def normalised(x: Tensor) -> Tensor:
    """What the network sees of inputs in [0, 1]."""
    mean, std = (torch.tensor(v, dtype=x.dtype).view(3, 1, 1) for v in (MEAN, STD))
    return (x - mean) / std


def _smooth(b: int, side: int, generator: torch.Generator) -> Tensor:
    """Smooth, as photographs are: deep layers average noise away, and with it the change from a reference."""
    coarse = torch.rand(b, 3, 4, 4, generator=generator, dtype=torch.float64)
    return F.interpolate(coarse, size=(side, side), mode="bilinear")


def _various(side: int, generator: torch.Generator) -> Tensor:
    """From black to bright, smooth and noisy: norms are to have seen inputs and references."""
    brightness = torch.linspace(0, 1, 4, dtype=torch.float64).view(4, 1, 1, 1)
    noise = torch.rand(4, 3, side, side, generator=generator, dtype=torch.float64)
    return torch.cat([brightness * _smooth(4, side, generator), noise])


def redraw(module: nn.Module, generator: torch.Generator) -> None:
    norm = "Norm" in type(module).__name__
    for name, parameter in module.named_parameters(recurse=False):
        drawn = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        if "layer_scale" in name or "gamma" in name or (norm and name == "weight"):
            parameter.data = 1 + 0.2 * drawn
        elif parameter.ndim > 1:
            parameter.data = drawn * (1.6 / parameter[0].numel()) ** 0.5
        else:
            parameter.data = 0.1 * drawn


def _calibrate(net: nn.Module, x: Tensor) -> None:
    """Statistics of batch norms from a seeded batch, so that signals neither die nor explode."""
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]

    def measure(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        (seen,) = args
        module.running_mean.copy_(seen.mean((0, 2, 3)))
        module.running_var.copy_(seen.var((0, 2, 3)) + 1e-3)

    handles = [norm.register_forward_pre_hook(measure) for norm in norms]
    with torch.no_grad():
        net(x)
    for handle in handles:
        handle.remove()

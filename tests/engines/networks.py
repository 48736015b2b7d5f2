"""Torchvision networks, unmodified: parameters redrawn from a fixed seed, batch norms measured on it.

As shipped, ViT's output is exactly 0, layer scales are 1e-6 and biases 0, which would make tests empty.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision import models

MEAN, STD = (0.5, 0.4, 0.45), (0.25, 0.2, 0.22)

NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet18": (models.resnet18, 64),
    "resnet50": (models.resnet50, 64),
    "vgg11": (models.vgg11, 32),
    "densenet121": (models.densenet121, 64),
    "inception_v3": (lambda: models.inception_v3(init_weights=False), 80),
    "mobilenet_v3_small": (models.mobilenet_v3_small, 64),
    "efficientnet_b0": (models.efficientnet_b0, 64),
    "convnext_tiny": (models.convnext_tiny, 64),
    "vit_b_16": (
        lambda: models.VisionTransformer(
            image_size=48, patch_size=16, num_layers=12, num_heads=12, hidden_dim=768, mlp_dim=3072
        ),
        48,
    ),
    "swin_t": (models.swin_t, 64),
}


def network(name: str) -> tuple[nn.Module, Tensor]:
    """A named network, redrawn."""
    return redrawn(*NETWORKS[name])


def redrawn(make: Callable[[], nn.Module], side: int) -> tuple[nn.Module, Tensor]:
    """The network in float64 and two inputs on which scores of class 0 are above 1 in size."""
    generator = torch.Generator().manual_seed(0)
    state = torch.get_rng_state()
    net = make().double().eval()
    torch.set_rng_state(state)
    for module in net.modules():
        _redraw(module, generator)
    x = torch.rand(2, 3, side, side, generator=generator, dtype=torch.float64)
    _calibrate(net, torch.rand(4, 3, side, side, generator=generator, dtype=torch.float64) * 4 - 2)
    head = [module for module in net.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        mean, std = (torch.tensor(v, dtype=x.dtype).view(3, 1, 1) for v in (MEAN, STD))
        scores = net((x - mean) / std)[:, 0]
        head.weight *= 3 / scores.abs().min()
        if head.bias is not None:
            head.bias *= 3 / scores.abs().min()
    return net, x


def _redraw(module: nn.Module, generator: torch.Generator) -> None:
    norm = "Norm" in type(module).__name__
    for name, parameter in module.named_parameters(recurse=False):
        drawn = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        if "layer_scale" in name or (norm and name == "weight"):
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

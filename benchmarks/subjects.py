"""What is measured on: real photographs, EfficientNet-Lite0 with its real weights, ResNet-50."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from abe.task.base import Task
from abe.task.image.lifter import image_task
from abe.task.zoo import efficientnet_lite0, photographs

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def photos(n: int = 4) -> list:
    """The first photographs of the zoo, repeated if more are asked for."""
    found = list(photographs().values())
    return [found[i % len(found)] for i in range(n)]


def efficientnet() -> Task:
    """EfficientNet-Lite0 with its ImageNet weights."""
    return efficientnet_lite0()


def resnet50() -> Task:
    """ResNet-50 at 224², every parameter and statistic redrawn from a seed, largest logits near 10."""
    from torchvision.models import resnet50 as build

    model = redraw(build(weights=None))
    task = image_task(model, mean=MEAN, std=STD, size=224)
    with torch.no_grad():
        largest = task.forward(task.lift(photos(4)).x).amax(1).mean()
        model.fc.weight.mul_(10 / largest)
    return task


def redraw(model: nn.Module, seed: int = 0) -> nn.Module:
    """A convolutional network with well-conditioned random weights and statistics, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.normal_(0, (2 / module.weight[0].numel()) ** 0.5, generator=generator)
                if module.bias is not None:
                    module.bias.normal_(0, 0.1, generator=generator)
            elif isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0, 0.1, generator=generator)
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


MODELS: dict[str, Callable[[], Task]] = {"EfficientNet-Lite0": efficientnet, "ResNet-50": resnet50}


class Normalised(nn.Module):
    """The task's model with the normalisation in front, for libraries that explain plain modules."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task, self.model = task, task.model

    def forward(self, x: Tensor) -> Tensor:
        return self.task.forward(x)

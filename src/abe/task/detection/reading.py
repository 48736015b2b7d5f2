"""How a box is read: how well some candidate matches it, or one part of what the best candidate says."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from abe.errors import Code, SpecError
from abe.objectives import gather
from abe.task.base import Context, Lifted
from abe.task.detection.boxes import SIDES, clipped, inside, overlaps
from abe.task.detection.dense import Candidates, as_candidates

BOX = "box"
"""Key of `Context.about` and of diagnostics: (b, 4) the explained box, which no change of the input moves."""
PART = "part"
"""The same: (b,) number of what is read, in `PARTS`."""
CANDIDATE = "candidate"
"""The same: (b,) the candidate that is read, where it is not the best of each row."""
KEEPS = (BOX, PART, CANDIDATE)
Part = Literal["match", "class", "box", "left", "top", "right", "bottom"]
PARTS: tuple[Part, ...] = get_args(Part)
OF_CLASSES = ("match", "class")
"""Parts that are a probability of every class."""


@dataclass(frozen=True)
class BoxPart:
    """s = overlap of the candidate's box with the explained one, or one of its sides in pixels.

    Args:
        part: which.
    """

    part: str
    reads_logits: ClassVar[bool] = False
    of_classes: ClassVar[bool] = False

    @property
    def layers(self) -> tuple[str, ...]:
        """None: the output is read."""
        return ()

    def __call__(self, outputs: Tensor, target: Tensor) -> Tensor:
        return gather(outputs, target)


def at_box(outputs: Any, context: Context) -> Tensor:
    """(n, C) what a detector's candidates say of each sample's box, for every class.

    ``"match"`` is the largest p(class) · overlap with the box over all candidates of the row. The others are
    read from one candidate, the same for every row: p(class), the overlap, or a side of its box.

    Raises:
        ModelError: these are no candidates.
        SpecError: nothing says which box, or there are other candidates than before.
    """
    box = context.about.get(BOX)
    n = len(outputs[0]) if isinstance(outputs, tuple | list) and len(outputs) else 0
    found = as_candidates(outputs, n)
    if box is None:
        raise SpecError(
            Code.UNSUPPORTED,
            "Nothing says which box is explained",
            fix="Use what takes photographs, such as abe.explain and abe.attack; pass data= where "
            "explanations hold no box",
        )
    box = box.to(found.boxes)
    part = _part(context)
    if part == "match":
        return match(found, box).max(1).values
    chosen = _of_one(found, context)
    if part == "class":
        return chosen.probabilities[:, 0]
    if part == "box":
        value = overlaps(chosen.boxes, _beside(box, chosen.boxes))
    else:
        value = chosen.boxes[..., SIDES.index(part)]
    return value.reshape(len(box), -1).expand(len(box), found.probabilities.shape[2])


def match(found: Candidates, box: Tensor) -> Tensor:
    """(n, m, C) p(class) · overlap with each row's box (n, 4)."""
    shared = overlaps(found.boxes, _beside(box, found.boxes))
    return found.probabilities * (shared if shared.ndim == 3 else shared[..., None])


def _beside(box: Tensor, boxes: Tensor) -> Tensor:
    return box.view(len(box), *[1] * (boxes.ndim - 2), 4)


def _part(context: Context) -> Part:
    number = context.about.get(PART)
    return PARTS[int(number[0])] if number is not None and len(number) else "match"


def _of_one(found: Candidates, context: Context) -> Candidates:
    """One candidate (n, 1, …) of each row.

    Raises:
        SpecError: there are so many candidates no more.
    """
    number, count = context.about[CANDIDATE].to(found.boxes.device), found.probabilities.shape[1]
    if len(number) and int(number.max()) >= count:
        raise SpecError(
            Code.UNSUPPORTED,
            "The number of candidates changes with the input, so none of them can be followed",
            got=f"candidate {int(number.max())} of {count}",
            fix='Use part="match", which takes the best of each row',
        )
    rows = torch.arange(len(number), device=number.device)
    return Candidates(found.boxes[rows, number][:, None], found.probabilities[rows, number][:, None])


def region_of(lifted: Lifted) -> Tensor:
    """(b, h, w) the pixels of each explained box."""
    h, w = lifted.x.shape[2:]
    return inside(clipped(lifted.context.about[BOX], h, w), h, w)

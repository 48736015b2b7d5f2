"""Questions about detections as samples: which boxes of which photographs, of which class."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

import numpy as np
import torch
from torch import Tensor

from abe.checks import check_choice, plain
from abe.errors import AbeError, Code, InputError, ModelError, SpecError, TargetError, note
from abe.instrument.model_state import as_found
from abe.instrument.modes import eager
from abe.task.base import Context, Lifted, Task
from abe.task.detection.boxes import Detection, Detections, clipped, overlaps, suppressed
from abe.task.detection.dense import Candidates, Suppression, as_candidates
from abe.task.detection.reading import BOX, CANDIDATE, OF_CLASSES, PART, PARTS, BoxPart, match
from abe.task.image.lifter import ImageLifter
from abe.task.lifted import Blank
from abe.task.select import select
from abe.task.targets import fitted, numbers_of

ASKS = ("detection", "box", "label", "part")
PROPOSALS = "proposals"
"""Keyword of a two-stage detector's input: (b, m, 4) what its second stage looks at."""
ALL = "all"


@dataclass(frozen=True)
class Asked:
    """Boxes that are asked about, one for each sample.

    Attributes:
        owner: (b,) the photograph of each.
        boxes: (b, 4) as the model has them.
        labels: (b,) their classes, or None where these are still to be found.
        said: what each sample is called behind its photograph's name.
    """

    owner: Tensor
    boxes: Tensor
    labels: Tensor | None
    said: list[str]


@dataclass(frozen=True)
class DetectionLifter:
    """Turns photographs into features, and questions about them into boxes.

    Args:
        images: reads the photographs.
        suppression: what is a detection.
        nobody: the class that is no object.
        staged: whether the model looks at proposals of its own, which are then held.
    """

    images: ImageLifter
    suppression: Suppression
    nobody: int | None = None
    staged: bool = False

    def __call__(
        self,
        task: Task,
        raw: Any,
        *,
        detection: Any = None,
        box: Any = None,
        label: Any = None,
        part: str = "match",
    ) -> Lifted:
        check_choice("part", part, PARTS)
        if box is not None and detection is not None:
            raise SpecError(
                Code.BAD_PARAMETER,
                "A detection and a box are asked about at once",
                got="detection= and box=",
                fix="Give one of them",
            )
        photos = self.images(task, raw)
        if photos.names:
            task.check(photos.x)
        photos = replace(photos, names=[name.replace("sample ", "photo ", 1) for name in photos.names])
        rows, blank = 0, list[int]()
        if box is None:
            found = self.detect(task, photos)
            rows = len(photos.x)
            asked, blank = _chosen(found, detection)
        else:
            asked = _given(box, photos)
        if label is not None:
            asked = self._named(task, asked, label)
        lifted, more = self._lifted(task, photos, asked, part)
        names = [
            f"{photos.names[o]}{said}" for o, said in zip(asked.owner.tolist(), lifted.names, strict=True)
        ]
        notes = [
            note(Code.NOTHING_FOUND, f"Nothing is found in {photos.names[i]}, so no sample is made of it")
            for i in blank
        ]
        return replace(
            lifted,
            names=names,
            notes=(*photos.notes, *notes),
            rows=rows + more,
            objective=None if part in OF_CLASSES else BoxPart(part),
            blank=Blank(photos.x[blank], [photos.names[i] for i in blank]) if blank else None,
        )

    def _lifted(self, task: Task, photos: Lifted, asked: Asked, part: str) -> tuple[Lifted, int]:
        """A sample for every box, and forward rows that were needed to know all that is asked."""
        b, device, rows = len(asked.owner), photos.x.device, 0
        lifted = replace(photos.take(asked.owner.to(device)), notes=())
        about = {BOX: asked.boxes.to(photos.x), PART: torch.full((b,), PARTS.index(part), device=device)}
        values = dict(lifted.context.values)
        if self.staged and b:
            values[PROPOSALS] = self._proposals(task, photos, asked)
            rows += len(set(asked.owner.tolist()))
        context = Context(values, {**lifted.context.about, **about})
        lifted = replace(lifted, context=context)
        labels, said = asked.labels, asked.said
        if b and (labels is None or part != "match"):
            best = [self._best(task, lifted, i, None if labels is None else int(labels[i])) for i in range(b)]
            rows += b
            if labels is None:
                labels = torch.tensor([found for found, _ in best])
                said = [f", {task.told_apart(n)}{s}" for n, s in zip(labels.tolist(), said, strict=True)]
            about = {**context.about, CANDIDATE: torch.tensor([at for _, at in best], device=device)}
            context = replace(context, about=about)
        target = torch.zeros(0, dtype=torch.long) if labels is None else labels
        return replace(lifted, context=context, target=target.to(device), names=said), rows

    def detect(self, task: Task, photos: Lifted) -> list[Detections]:
        """What is found in each photograph, by a forward row each."""
        return [
            self._suppressed(task, photos, i, self._candidates(task, photos, i)[0])
            for i in range(len(photos.x))
        ]

    def _suppressed(self, task: Task, photos: Lifted, number: int, found: Candidates) -> Detections:
        boxes, p = found.boxes[0], found.probabilities[0]
        h, w = photos.x.shape[2:]
        at, labels = (p > self.suppression.threshold).nonzero().unbind(1)
        own = boxes[at] if boxes.ndim == 2 else boxes[at, labels]
        cut = clipped(own, h, w)
        there = ((cut[:, 2:] - cut[:, :2]) > 0).all(1)
        own, cut, at, labels = own[there], cut[there], at[there], labels[there]
        likely = p[at, labels]
        keep = suppressed(cut, likely, labels, self.suppression.overlap, self.suppression.most)
        listed = [
            Detection(n, label, task.told_apart(label), chance, (side[0], side[1], side[2], side[3]))
            for n, (label, chance, side) in enumerate(
                zip(labels[keep].tolist(), likely[keep].tolist(), cut[keep].tolist(), strict=True)
            )
        ]
        name = photos.names[number].replace("sample ", "photo ", 1)
        return Detections(name, tuple(listed), own[keep].cpu())

    def _candidates(self, task: Task, lifted: Lifted, row: int) -> tuple[Candidates, Any]:
        """What the model says of one row, and what it returned."""
        bare = replace(task, reads=None, output=_itself, parts=lifted.parts)
        at = torch.tensor([row])
        with as_found(task.model), eager(task.model), torch.no_grad():
            try:
                raw = bare.forward(lifted.x[row : row + 1], lifted.context.take(at))
            except AbeError:
                raise
            except Exception as problem:
                raise ModelError(
                    Code.MODEL_FAILED,
                    "The model's forward raised an exception",
                    got=f"{type(problem).__name__}: {problem}",
                    fix="Check that the model runs on these photographs; size= brings them to its size",
                ) from problem
            found = as_candidates(select(raw, task.output), 1)
        _check_numbers(found)
        return found, raw

    def _proposals(self, task: Task, photos: Lifted, asked: Asked) -> Tensor:
        """(b, m, 4) the box of every sample, and what the first stage proposes beside it."""
        own = dict[int, Tensor]()
        for photo in sorted(set(asked.owner.tolist())):
            own[photo] = self._candidates(task, photos, photo)[1][PROPOSALS][0]
        sets = list[Tensor]()
        for photo, box in zip(asked.owner.tolist(), asked.boxes.to(photos.x), strict=True):
            near = own[photo][overlaps(own[photo], box) > 0]
            sets.append(torch.cat([box[None], near]))
        longest = max(map(len, sets))
        return torch.stack([torch.cat([one, one[:1].expand(longest - len(one), 4)]) for one in sets])

    def _best(self, task: Task, lifted: Lifted, row: int, label: int | None) -> tuple[int, int]:
        """The class that matches a sample's box best, unless it is given, and the candidate that does so."""
        found, _ = self._candidates(task, lifted, row)
        scores = match(found, lifted.context.about[BOX][row : row + 1])[0]
        if label is None:
            label = int(scores.amax(0).argmax())
        return label, int(scores[:, label].argmax())

    def _named(self, task: Task, asked: Asked, label: Any) -> Asked:
        """The same boxes, asked about of another class."""
        numbers = numbers_of(label, task.class_index)
        numbers = fitted(numbers, len(asked.owner)).cpu()
        most = len(task.labels) if task.labels is not None else None
        wrong = [n for n in numbers.tolist() if n < 0 or (most is not None and n >= most) or n == self.nobody]
        if wrong:
            raise TargetError(
                Code.TARGET_RANGE,
                f"There is no object of class {wrong[0]}"
                if wrong[0] != self.nobody
                else "The background is no object, so there is no box of it",
                expected=f"0 to {most - 1}" if most is not None else "a class number, from 0",
            )
        said = [f", {task.told_apart(n)}" for n in numbers.tolist()]
        if asked.labels is None:
            named = [mine + own for mine, own in zip(said, asked.said, strict=True)]
        else:
            same = (numbers == asked.labels).tolist()
            named = [
                own if kept else f"{mine} for{own.removeprefix(',')}"
                for kept, mine, own in zip(same, said, asked.said, strict=True)
            ]
        return replace(asked, labels=numbers, said=named)


def _itself(raw: Any) -> Any:
    return raw


def _check_numbers(found: Candidates) -> None:
    """Refuse numbers that are no boxes with probabilities."""
    boxes, p = found
    if not bool(torch.isfinite(boxes).all()) or not bool(torch.isfinite(p).all()):
        raise ModelError(Code.NOT_FINITE_OUTPUT, "The detector returned NaN or infinity on the photographs")
    if p.numel() and (float(p.min()) < -1e-6 or float(p.max()) > 1 + 1e-6):
        raise ModelError(
            Code.OUTPUT_KIND,
            "The numbers of the classes are no probabilities",
            got=f"values from {float(p.min()):.4g} to {float(p.max()):.4g}",
            expected="values from 0 to 1",
            fix="Pass dense= that takes their sigmoid or softmax",
        )


def _chosen(found: Sequence[Detections], detection: Any) -> tuple[Asked, list[int]]:
    """The detections that are asked about, and the photographs in which there are none.

    Raises:
        InputError: REGION for a number that does not exist.
    """
    wanted = _numbers(detection, len(found))
    owner, boxes, labels, said, blank = list[int](), list[Tensor](), list[int](), list[str](), list[int]()
    for photo, own in enumerate(found):
        if not len(own):
            blank.append(photo)
            continue
        numbers = range(len(own)) if wanted is None else wanted[photo]
        for number in numbers:
            if not 0 <= number < len(own):
                raise InputError(
                    Code.REGION,
                    "There is no such detection",
                    got=f"number {number} of {own.photo}, which has {own.counted}",
                    expected=f"0 to {len(own) - 1}" if len(own) > 1 else "0",
                    fix="task.detect(photo) lists them; box= and label= explain an object that was missed",
                )
            owner.append(photo)
            boxes.append(own.boxes[number])
            labels.append(own[number].label)
            said.append(f", {own[number]}")
    stacked = torch.stack(boxes) if boxes else torch.zeros(0, 4)
    numbers = torch.tensor(owner, dtype=torch.long), torch.tensor(labels, dtype=torch.long)
    return Asked(numbers[0], stacked, numbers[1], said), blank


def _numbers(detection: Any, photos: int) -> list[list[int]] | None:
    """Numbers of detections for every photograph; None for all of them.

    Raises:
        SpecError: they are no numbers, or not a list for every photograph.
    """
    given: Any = detection.tolist() if isinstance(detection, Tensor | np.ndarray) else plain(detection)
    if isinstance(given, str) and given == ALL:
        return None
    if given is None or _is_number(given):
        first: Any = 0 if given is None else given
        return [[first]] * photos
    items: list[Any] = (
        [plain(one) for one in given] if isinstance(given, Sequence) and not isinstance(given, str) else []
    )
    if items and all(_is_number(one) for one in items):
        return [items] * photos
    nested = [
        [plain(n) for n in one] for one in items if isinstance(one, Sequence) and not isinstance(one, str)
    ]
    if items and len(nested) == len(items) == photos and all(_is_number(n) for one in nested for n in one):
        return nested
    raise SpecError(
        Code.BAD_PARAMETER,
        "detection= says which are explained, by number",
        got=repr(detection)[:60],
        expected=f'a number, a list of numbers, "all", or {photos} lists for {photos} photographs',
    )


def _is_number(given: Any) -> bool:
    return isinstance(given, int) and not isinstance(given, bool)


def _given(box: Any, photos: Lifted) -> Asked:
    """Boxes of the user's own.

    Raises:
        InputError: REGION for what is no box, an empty one, or one outside of the photograph.
    """
    n, (h, w) = len(photos.x), tuple(photos.x.shape[2:])
    try:
        found = torch.as_tensor(
            np.asarray(box.tolist() if isinstance(box, Tensor) else box, dtype=np.float64)
        )
    except (TypeError, ValueError):
        found = torch.zeros(0)
    rows = found[None].expand(n, 4) if tuple(found.shape) == (4,) else found
    if rows.ndim != 2 or rows.shape[1] != 4 or not len(rows) or (n > 1 and len(rows) != n):
        raise InputError(
            Code.REGION,
            "box= is a box, one for all photographs or one each",
            got=repr(box)[:60],
            expected=f"(left, top, right, bottom) in pixels, or {n} of these" if n > 1 else None,
        )
    for left, top, right, bottom in rows.tolist():
        said = f"({left:g}, {top:g}, {right:g}, {bottom:g})"
        if not all(map(isfinite, (left, top, right, bottom))) or left >= right or top >= bottom:
            raise InputError(
                Code.REGION,
                "The box holds nothing",
                got=said,
                expected="left < right and top < bottom",
                fix="A box is (left, top, right, bottom), not its size",
            )
        if right <= 0 or bottom <= 0 or left >= w or top >= h:
            raise InputError(
                Code.REGION,
                "The box is outside of the photograph",
                got=said,
                expected=f"left and right from 0 to {w}, top and bottom from 0 to {h}",
                fix="Pixels are counted as the task reads the photograph, which size= may change",
            )
    owner = torch.arange(n) if n > 1 or len(rows) == 1 else torch.zeros(len(rows), dtype=torch.long)
    said = [" at " + " ".join(f"{side:.0f}" for side in one) for one in rows.tolist()]
    return Asked(owner, rows.clone(), None, said)

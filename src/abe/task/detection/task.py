"""Detection tasks: boxes with classes, read as how well some candidate before suppression matches one."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from torch import nn

from abe.checks import Between
from abe.errors import Code, SpecError
from abe.task.base import Task
from abe.task.detection import dense as dense_of
from abe.task.detection.boxes import Detections
from abe.task.detection.dense import Decoded, OneStage, Rows, Suppression, TwoStage
from abe.task.detection.lifter import ASKS, DetectionLifter
from abe.task.detection.reading import KEEPS, at_box, region_of
from abe.task.image.lifter import Numbers, image_task
from abe.task.image.pictures import Fit
from abe.task.outputs import class_names

SHARE = Between(0, 1)
OVERLAPS = 0.5
"""Of a box that is found again: what it has to share with the explained one."""


@dataclass(eq=False)
class DetectionTask(Task):
    """The task of a detector; made by `abe.detection_task`."""

    def detect(self, raw: Any) -> Detections | list[Detections]:
        """What the model finds, numbered as ``detection=`` asks for it: most probable first.

        Args:
            raw: a photograph, or several.

        Returns:
            The detections of one photograph; a list of these where there are several.

        Cost:
            a forward row for every photograph.
        """
        found = self.lifter.detect(self, self.lifter.images(self, raw))
        return found[0] if len(found) == 1 else found


def detection_task(
    model: nn.Module,
    labels: Any = None,
    *,
    dense: Callable[[Any], Any] | None = None,
    threshold: float | None = None,
    overlap: float | None = None,
    layer: str | None = None,
    bounds: tuple[Numbers, Numbers] | None = (0.0, 1.0),
    mean: Numbers | None = None,
    std: Numbers | None = None,
    size: int | tuple[int, int] | None = None,
    fit: Fit = "crop",
    channels: int | None = None,
    input_name: str | None = None,
) -> DetectionTask:
    """A task for an object detector: each box that it finds, or misses, is explained by itself.

    Explained is the largest p(class) · overlap with the explained box over all candidates before suppression,
    thresholds and selection. The box is that of the photograph as it is and stays the same while the
    photograph changes; overlap is intersection over union.

    ========================================  ============================================================
    model                                     how its candidates are found
    ========================================  ============================================================
    RetinaNet, FCOS, SSD, SSDlite             of torchvision: all anchors, decoded by the model's own coder
    Faster R-CNN                              of torchvision: the proposals of the photograph as it is that
                                              touch the box, and the box itself; they stay the same
    a tensor (n, m, 4 + C) or (n, m, 5 + C)   YOLO's rows: centre, size, probabilities; C labels are needed
    anything else                             ``dense=``, a function of what the model returns that gives
                                              boxes (n, m, 4) as left, top, right, bottom in pixels, or
                                              (n, m, C, 4), and probabilities (n, m, C)
    ========================================  ============================================================

    Args:
        model: any ``nn.Module``; never changed.
        labels: class names by number, as for `abe.image_task`; of SSD and Faster R-CNN with or without the
            background, which is class 0.
        dense: see above; also where the model is one of those.
        threshold: least probability of a detection; the model's own by default, else 0.25.
        overlap: share from which two boxes of a class are one; the model's own by default, else 0.5.
        layer: where Grad-CAM and its kin look unless told otherwise; of detectors of torchvision the end of
            the backbone. Heads predict each box at one place, so that their maps are points.
        bounds: as for `abe.image_task`, and so the following. Detectors of torchvision normalise and resize
            by themselves.
        mean: subtracted inside the task.
        std: divided by inside the task.
        size: (height, width) photographs are brought to; boxes are in pixels of the result.
        fit: how.
        channels: of the model's input.
        input_name: keyword of the model's input.

    Keywords of `abe.explain`, `abe.compare`, `abe.evaluate`, `abe.attack` and their kin say what is asked:

    =========================  ===========================================================================
    none                       detection 0 of each photograph, the most probable
    ``detection=2``            that one, as ``task.detect(photo)`` numbers them; ``[0, 2]`` or ``"all"``
                               make a sample of each, and a list of lists names them photo by photo
    ``box=(l, t, r, b)``       a box of your own, such as that of an object that was missed: one for all
                               photographs or one each; several for one photograph
    ``label="dog"``            the class that is asked about; of a box of your own by default the one that
                               matches best
    ``part="class"``           p(class) of the candidate that matches best on the photograph as it is,
                               which stays the same one; ``"box"`` its overlap; ``"left"``, ``"top"``,
                               ``"right"``, ``"bottom"`` a side of its box in pixels
    =========================  ===========================================================================

    A photograph in which nothing is found has no sample, and a note says so.

    Cost:
        a forward row for every photograph whose detections are asked for, and one for every sample whose
        best candidate is looked for, counted in the result.

    Raises:
        InputError: REGION for a detection that does not exist or a box outside of the photograph.
        TargetError: TARGET_RANGE for a label that does not exist.
        ModelError: the model does not give boxes and probabilities.

    Example:
        >>> import torch, abe
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 6), torch.nn.Sigmoid())
        >>> def dense(out):
        ...     corner = 4 * out[:, None, :2]
        ...     return torch.cat([corner, corner + 4], 2), out[:, None, 4:]
        >>> task = abe.detection_task(model, ["cat", "dog"], dense=dense)
        >>> asked = {"box": (0, 0, 3, 3), "label": "dog"}
        >>> found = abe.explain(task, torch.rand(1, 3, 4, 4), "ig", **asked, progress=False)
        >>> found.target_names
        ['dog']
    """
    kind = None if dense is not None else dense_of.kind_of(model)
    own, nobody, names = Suppression(), None, class_names(labels)
    network, read = model, dense
    if kind is not None:
        network = (TwoStage if kind == "rcnn" else OneStage)(model)
        holds: Any = getattr(model, "roi_heads", model)
        read, own = Decoded(kind, holds.box_coder), dense_of.own_suppression(model)
        nobody = 0 if kind in ("ssd", "rcnn") else None
        layer = dense_of.last_layer(model) if layer is None else layer
        names = _named(names, dense_of.class_count(model, kind), nobody)
    elif read is None:
        if not names:
            raise SpecError(
                Code.LABELS,
                "Rows of boxes do not say how many classes they have",
                got=f"{type(model).__name__} without labels",
                fix="Pass labels=, one name per class, or dense= that gives (boxes, probabilities)",
            )
        read = Rows(len(names))
    if not callable(read):
        raise SpecError(
            Code.BAD_PARAMETER,
            "dense= is a function of what the model returns",
            got=type(read).__name__,
            expected="a function that gives (boxes, probabilities)",
        )
    chosen = Suppression(
        own.threshold if threshold is None else SHARE.check("threshold", threshold),
        own.overlap if overlap is None else SHARE.check("overlap", overlap),
        own.most,
    )
    made = image_task(
        network,
        bounds=bounds,
        mean=mean,
        std=std,
        labels=names,
        output=read,
        output_kind="presence",
        size=size,
        fit=fit,
        channels=channels,
        input_name=input_name,
    )
    settings = {one.name: getattr(made, one.name) for one in fields(Task)}
    settings |= {
        "modality": "detection",
        "lifter": DetectionLifter(made.lifter, chosen, nobody, staged=kind == "rcnn"),
        "reads": at_box,
        "asks": ASKS,
        "keeps": KEEPS,
        "level": chosen.threshold * OVERLAPS,
        "region_of": region_of,
        "suits": {} if layer is None else {("layer", None): layer},
    }
    return DetectionTask(**settings)


def _named(names: list[str] | None, count: int | None, nobody: int | None) -> list[str] | None:
    """The names, of which the background's may have been left out."""
    if names is not None and nobody is not None and count is not None and len(names) == count - 1:
        return ["__background__", *names]
    if names is not None and count is not None and len(names) != count:
        raise SpecError(
            Code.LABELS,
            "The labels do not fit the detector",
            got=f"{len(names)} names",
            expected=f"{count} names"
            if nobody is None
            else f"{count} names, or {count - 1} without background",
        )
    return names

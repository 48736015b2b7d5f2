"""What detectors say before suppression: every candidate's box and class probabilities, differentiable.

A detector's own forward suppresses, thresholds and sorts, and none of that has a gradient. Those of
torchvision are run here part by part, up to the numbers of their heads; what a head's numbers mean, decoding
and probabilities, is part of the score that is read from them.
"""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from abe.errors import Code, ModelError, SpecError
from abe.task.select import outline, select

TORCHVISION = {
    "torchvision.models.detection.retinanet.RetinaNet": "retinanet",
    "torchvision.models.detection.fcos.FCOS": "fcos",
    "torchvision.models.detection.ssd.SSD": "ssd",
    "torchvision.models.detection.faster_rcnn.FasterRCNN": "rcnn",
}
"""Classes of torchvision, which their subclasses are too, and what is done with them."""
THRESHOLD, OVERLAP, MOST = 0.25, 0.5, 100
"""Of suppression, where the model has none of its own."""


class Candidates(NamedTuple):
    """What a detector says of n rows.

    Attributes:
        boxes: (n, m, 4) left, top, right, bottom in pixels; (n, m, C, 4) where every class has its own.
        probabilities: (n, m, C) of every class.
    """

    boxes: Tensor
    probabilities: Tensor


class Suppression(NamedTuple):
    """What is a detection: least probability, most overlap of two, and how many there are at most."""

    threshold: float = THRESHOLD
    overlap: float = OVERLAP
    most: int = MOST


def kind_of(model: nn.Module) -> str | None:
    """Which detector of torchvision a model is; None for another."""
    names = (f"{base.__module__}.{base.__qualname__}" for base in type(model).__mro__)
    return next((TORCHVISION[name] for name in names if name in TORCHVISION), None)


def own_suppression(model: nn.Module) -> Suppression:
    """The numbers of a detector's own postprocessing."""
    holds: Any = getattr(model, "roi_heads", model)
    return Suppression(float(holds.score_thresh), float(holds.nms_thresh), int(holds.detections_per_img))


def class_count(model: nn.Module, kind: str) -> int | None:
    """How many classes a detector of torchvision has, its background counted; None where it does not say."""
    holds: Any = model
    if kind == "rcnn":
        return getattr(getattr(holds.roi_heads.box_predictor, "cls_score", None), "out_features", None)
    head = getattr(holds.head, "classification_head", None)
    return getattr(head, "num_columns" if kind == "ssd" else "num_classes", None)


def last_layer(model: Any) -> str:
    """The layer before a detector of torchvision branches: its backbone, or the last part of its body."""
    body = getattr(model.backbone, "body", None)
    names = [name for name, _ in body.named_children()] if isinstance(body, nn.Module) else []
    return f"backbone.body.{names[-1]}" if names else "backbone"


# ---------------------------------------------------------------- detectors of torchvision


class Heads(nn.Module):
    """A detector up to the numbers of its heads: its own modules under their own names, none of them changed.

    Args:
        detector: of torchvision.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self._modules = detector._modules  # so that layers have their names
        self._parameters, self._buffers = detector._parameters, detector._buffers
        self._detector = (detector,)  # in a tuple it is no module of this one
        self.training = detector.training

    @property
    def _parts(self) -> Any:
        """This module, whose modules are those of the detector."""
        return self

    def _prepared(self, x: Tensor) -> tuple[Any, dict[str, Tensor], Tensor]:
        """Images as the backbone takes them, its features by name, and (4,) pixels of x for one of theirs."""
        transform: Any = self.transform
        h, w = x.shape[2:]
        scaled: Tensor = transform.normalize(x)
        if transform.fixed_size is not None:
            width, height = transform.fixed_size
            scaled = F.interpolate(scaled, (height, width), mode="bilinear", align_corners=False)
        else:
            least = transform.min_size[-1]
            factor = min(least / min(h, w), transform.max_size / max(h, w))
            scaled = F.interpolate(
                scaled,
                scale_factor=factor,
                mode="bilinear",
                recompute_scale_factor=True,
                align_corners=False,
            )
        height, width = scaled.shape[2:]
        stride = transform.size_divisible
        scaled = F.pad(scaled, (0, -width % stride, 0, -height % stride))
        backbone: Any = self.backbone
        features: Any = backbone(scaled)
        named = {"0": features} if isinstance(features, Tensor) else dict(features)
        ratio = x.new_tensor((w / width, h / height, w / width, h / height))
        return SimpleNamespace(tensors=scaled, image_sizes=[(height, width)] * len(x)), named, ratio


class OneStage(Heads):
    """RetinaNet, FCOS and SSD: a prediction at every anchor."""

    def forward(self, x: Float[Tensor, "n c h w"]) -> dict[str, Tensor]:
        """The heads' numbers (n, m, …), with the anchors (m, 4) and the scale."""
        images, named, ratio = self._prepared(x)
        features, parts = list(named.values()), self._parts
        heads = parts.head(features)
        images.image_sizes = images.image_sizes[:1]  # anchors are the same for all rows
        return {**heads, "anchors": parts.anchor_generator(images, features)[0], "ratio": ratio}


class TwoStage(Heads):
    """Faster R-CNN: a prediction for every proposal; which these are does not change with the input."""

    def forward(
        self, x: Float[Tensor, "n c h w"], proposals: Float[Tensor, "n m 4"] | None = None
    ) -> dict[str, Tensor]:
        """The second stage's numbers (n, m, …) for proposals in pixels of x; by default the first stage's.

        Raises:
            SpecError: proposals of several rows are asked for at once.
        """
        images, features, ratio = self._prepared(x)
        if proposals is None:
            if len(x) != 1:
                raise SpecError(
                    Code.UNSUPPORTED,
                    "A two-stage detector proposes boxes of its own for every row, so nothing stays the same",
                    fix="Pass the photographs, data= of abe.evaluate and abe.compare",
                )
            with torch.no_grad():
                held = {name: one.detach() for name, one in features.items()}
                images.tensors = images.tensors.detach()
                proposals = self._parts.rpn(images, held)[0][0][None] * ratio
        looked: Any = proposals
        rois: Tensor = looked / ratio
        n, m = rois.shape[:2]
        roi: Any = self.roi_heads
        pool = roi.box_roi_pool
        kept = {name: vars(pool)[name] for name in ("scales", "map_levels") if name in vars(pool)}
        try:
            pooled = pool(features, list(rois), images.image_sizes)
        finally:
            vars(pool).update(kept)  # its scales are those of the first call; they are not ours to set
        logits, deltas = roi.box_predictor(roi.box_head(pooled))
        return {
            "cls_logits": logits.reshape(n, m, logits.shape[1]),
            "bbox_regression": deltas.reshape(n, m, deltas.shape[1]),
            "anchors": rois,
            "ratio": ratio,
            "proposals": looked,
        }


@dataclass(frozen=True)
class Decoded:
    """What the numbers of `Heads` mean: boxes by the detector's own coder, probabilities of its classes.

    Args:
        kind: of `kind_of`.
        coder: the detector's own.
    """

    kind: str
    coder: Any

    def __call__(self, raw: dict[str, Tensor]) -> Candidates:
        """Candidates without threshold, selection, clipping or suppression."""
        logits, deltas, anchors = raw["cls_logits"], raw["bbox_regression"], raw["anchors"]
        n, m = logits.shape[:2]
        if self.kind == "rcnn":
            classes = logits.shape[2]
            flat = self.coder.decode_single(deltas.reshape(n * m, 4 * classes), anchors.reshape(n * m, 4))
            return Candidates(flat.view(n, m, classes, 4) * raw["ratio"], _objects(logits))
        repeated = anchors.to(deltas).repeat(n, 1)
        if self.kind == "fcos":
            boxes = self.coder.decode(deltas.reshape(-1, 4), repeated).view(n, m, 4)
            p = (logits.sigmoid() * raw["bbox_ctrness"].sigmoid()).sqrt()
        else:
            boxes = self.coder.decode_single(deltas.reshape(-1, 4), repeated).view(n, m, 4)
            p = _objects(logits) if self.kind == "ssd" else logits.sigmoid()
        return Candidates(boxes * raw["ratio"], p)


def _objects(logits: Tensor) -> Tensor:
    """Probabilities of the classes, of which number 0 is the background: it is no object and gets 0."""
    return F.pad(logits.softmax(-1)[..., 1:], (1, 0))


# ---------------------------------------------------------------- YOLO-style heads


@dataclass(frozen=True)
class Rows:
    """Rows (n, m, 4 + C) or (n, m, 5 + C): centre, size, the probability of an object, those of its classes.

    The axes of candidates and numbers may be exchanged, as some exports have them.

    Args:
        classes: C.
    """

    classes: int

    def __call__(self, raw: Any) -> Candidates:
        """Candidates of the first tensor that the model returns.

        Raises:
            ModelError: it has not so many numbers, or has them along both axes.
        """
        rows = select(raw, None)
        widths = (4 + self.classes, 5 + self.classes)
        last = isinstance(rows, Tensor) and rows.ndim == 3 and rows.shape[2] in widths
        middle = isinstance(rows, Tensor) and rows.ndim == 3 and rows.shape[1] in widths
        if last == middle:
            raise ModelError(
                Code.OUTPUT_SHAPE,
                "The output is no table of boxes" if not last else "It is not clear which axis holds boxes",
                got=f"shape {tuple(rows.shape)}" if isinstance(rows, Tensor) else outline(raw),
                expected=f"(n, boxes, {widths[0]}) or (n, boxes, {widths[1]}) for {self.classes} labels",
                fix="Pass dense=, a function of what the model returns that gives (boxes, probabilities)",
            )
        rows = rows if last else rows.transpose(1, 2)
        middle_, size = rows[..., :2], rows[..., 2:4] / 2
        p = rows[..., -self.classes :]
        if rows.shape[2] == widths[1]:
            p = p * rows[..., 4:5]
        return Candidates(torch.cat([middle_ - size, middle_ + size], -1), p)


def as_candidates(found: Any, n: int) -> Candidates:
    """What ``dense=`` gave for n rows, checked by shape.

    Raises:
        ModelError: it is not boxes and class probabilities of the same candidates.
    """
    pair = tuple(found) if isinstance(found, tuple | list) else ()
    if len(pair) == 2 and all(isinstance(one, Tensor) for one in pair):
        boxes, p = pair
        alike = p.ndim == 3 and len(p) == n and boxes.shape[:2] == p.shape[:2] and boxes.shape[-1] == 4
        if alike and (boxes.ndim == 3 or (boxes.ndim == 4 and boxes.shape[2] == p.shape[2])):
            return Candidates(boxes, p)
    raise ModelError(
        Code.OUTPUT_SHAPE,
        "A detector gives boxes and class probabilities of candidates before suppression",
        got=f"shapes {', '.join(str(tuple(one.shape)) for one in pair)} for {n} rows"
        if pair and all(isinstance(one, Tensor) for one in pair)
        else outline(found),
        expected=f"boxes ({n}, m, 4) and probabilities ({n}, m, classes)",
        fix="Pass dense=, a function of what the model returns that gives both",
    )

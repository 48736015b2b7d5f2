"""Small detectors of every kind with weights of their own, in float64."""

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import detection as tv
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.ops import MultiScaleRoIAlign

import abe
from abe.task.zoo.yolo import YoloTiny, boxes_of

SIZES: dict[str, Any] = {"min_size": 48, "max_size": 64, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
KINDS = ("tiny", "retinanet", "fcos", "ssd", "rcnn", "yolo")


class Tiny(nn.Module):
    """The recorded detector: three anchors in 4 × 4 cells, softmax over four classes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1)
        self.c = nn.Conv2d(16, 16, 3, 2, 1)
        self.box, self.cls, self.obj = nn.Conv2d(16, 12, 1), nn.Conv2d(16, 12, 1), nn.Conv2d(16, 3, 1)
        centre = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0)).flip(1) * 8 + 4
        size = torch.tensor([[8.0, 8.0], [16.0, 8.0], [12.0, 20.0]])
        anchors = torch.cat([centre.repeat_interleave(3, 0), size.repeat(16, 1)], 1)
        self.register_buffer("anchors", anchors)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        z = self.c(self.b(self.a(x).relu()).relu()).tanh()

        def read(out: Tensor) -> Tensor:
            return out.view(len(x), 3, -1, 4, 4).permute(0, 3, 4, 1, 2).reshape(len(x), 48, -1)

        anchors: Any = self.anchors
        d = read(self.box(z))
        middle = anchors[:, :2] + 0.2 * d[..., :2] * anchors[:, 2:]
        half = anchors[:, 2:] * torch.exp(0.3 * d[..., 2:].clamp(-4, 4)) / 2
        boxes = torch.cat([middle - half, middle + half], -1)
        return {"boxes": boxes, "logits": read(self.cls(z)), "objectness": read(self.obj(z))[..., 0]}


def dense(out: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return out["boxes"], out["logits"].softmax(-1)


class Backbone(nn.Module):
    """Two convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out_channels = width
        self.a, self.b = nn.Conv2d(3, 8, 3, 4, 1), nn.Conv2d(8, width, 3, 2, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"0": self.b(self.a(x).relu()).relu()}


def retinanet() -> nn.Module:
    anchors = AnchorGenerator(sizes=((12, 20),), aspect_ratios=((0.5, 1.0, 2.0),))
    return tv.RetinaNet(Backbone(8), num_classes=4, anchor_generator=anchors, **SIZES)


def fcos() -> nn.Module:
    anchors = AnchorGenerator(sizes=((8,),), aspect_ratios=((1.0,),))
    return tv.FCOS(Backbone(32), num_classes=4, anchor_generator=anchors, **SIZES)


def ssd() -> nn.Module:
    settings = {name: SIZES[name] for name in ("image_mean", "image_std")}
    anchors = DefaultBoxGenerator([[2]], scales=[0.3, 0.6])
    backbone: Any = Backbone(8)
    backbone.out_channels = [8]
    return tv.ssd.SSD(backbone, anchors, (48, 48), num_classes=4, **settings)


def rcnn() -> nn.Module:
    anchors = AnchorGenerator(sizes=((12, 20),), aspect_ratios=((0.5, 1.0, 2.0),))
    return tv.FasterRCNN(
        Backbone(8),
        num_classes=4,
        rpn_anchor_generator=anchors,
        box_roi_pool=MultiScaleRoIAlign(["0"], 3, 2),
        rpn_post_nms_top_n_test=12,
        **SIZES,
    )


def yolo() -> nn.Module:
    return YoloTiny(classes=3, widths=(4, 4, 6, 6, 8, 8, 12))


def network(kind: str, seed: int = 3) -> nn.Module:
    """A detector with small random weights by a seed."""
    made: Any = {"tiny": Tiny, "retinanet": retinanet, "fcos": fcos, "ssd": ssd, "rcnn": rcnn, "yolo": yolo}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = made[kind]().double().eval()
        for name, parameter in net.named_parameters():
            if name.endswith("cls_logits.bias"):
                parameter.data.zero_()  # they begin so that nothing is found
            if parameter.ndim > 1:
                parameter.data = torch.randn_like(parameter) * (1.2 / parameter[0].numel()) ** 0.5
    return net


def task_of(kind: str, net: nn.Module | None = None, **settings: Any) -> Any:
    """Its task; detections are what is more probable than a twentieth."""
    net = network(kind) if net is None else net
    own = {"tiny": dense, "yolo": boxes_of}.get(kind)
    return abe.detection_task(net, dense=own, **{"threshold": 0.05, **settings})


def photos(kind: str, n: int = 2, seed: int = 0) -> Tensor:
    """(n, 3, h, w) smooth random pictures that the detector takes."""
    h, w = {"tiny": (32, 32), "yolo": (64, 64), "ssd": (48, 48)}.get(kind, (40, 48))
    coarse = torch.rand(n, 3, 5, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.interpolate(coarse, size=(h, w), mode="bilinear").clamp(0.02, 0.98)

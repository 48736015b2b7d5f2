"""A folder with photographs and a model of somebody's own, and the command run there."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.cli.runner import invoke

NET = """
import torch
def make(classes=3, loud=False):
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(),
        torch.nn.Linear(16, classes))
    if loud:
        print("building")
        net.register_forward_pre_hook(lambda *_: print("running"))
    return net
def needs(depth, width=2):
    return make(depth)
def task(**settings):
    import abe
    return abe.image_task(make(**settings), size=16)
def labelled():
    import abe
    return abe.image_task(make(), size=8, labels=["a\\n", "b\\udcff", "日本語"])
ready = make()
number = 3
def broken():
    raise RuntimeError("no weights\\nhere")
def leaves():
    raise SystemExit(7)
class Fails(torch.nn.Module):
    def forward(self, x):
        raise RuntimeError("wrong day")
class Leaves(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.last = torch.nn.Linear(1, 1)
    def forward(self, x):
        raise SystemExit(7)
class Odd(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.model = make()
        self.lift = 1
    def forward(self, x):
        return self.model(x)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run a command in a folder with photographs ``a.png`` and ``b.png`` and the module ``own_net``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.startswith("own_")]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "own_net.py").write_text(NET)
    draw = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        Image.fromarray(draw.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(tmp_path / name)
    return invoke

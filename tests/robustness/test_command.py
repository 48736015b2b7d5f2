"""`abe attack` on real photographs with a small network."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cli.runner import invoke

from abe.task import zoo

NET = """
import torch, abe
def task():
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.Tanh(), torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(),
        torch.nn.Linear(16, 3))
    return abe.image_task(net, size=16, labels=["a", "b", "c"])
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "small_net", raising=False)
    (tmp_path / "small_net.py").write_text(NET)
    for name, photo in zoo.photographs(["chelsea", "coffee"]).items():
        photo.save(tmp_path / f"{name}.png")
    return invoke


def test_attack_writes_pictures_and_says_how_far(run, tmp_path):
    done = run("attack", "chelsea.png", "coffee.png", "-m", "small_net:task", "--eps", "0.4", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [s["name"] for s in found["samples"]] == ["chelsea.png", "coffee.png"]
    assert all(0 < s["linf"] <= 0.4 + 1e-6 for s in found["samples"])
    assert (tmp_path / "out" / "chelsea-adversarial.png").exists()
    table = run("attack", "chelsea.png", "-m", "small_net:task", "-k", "mim", "--steps", "3")
    assert table.exit_code == 0
    assert "crossed" in table.stdout


def test_accuracy_over_radii(run, tmp_path):
    done = run("attack", "chelsea.png", "-m", "small_net:task", "--epsilons", "1/255,0.4", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["epsilons"] == [pytest.approx(1 / 255), 0.4]
    assert found["robust_accuracy"][0] >= found["robust_accuracy"][1]
    assert (tmp_path / "out" / "robustness.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--eps", "0"], "ABE-BAD-PARAMETER"),
        (["--eps", "8"], "ABE-BAD-PARAMETER"),
        (["--eps", "1/0"], "ABE-BAD-PARAMETER"),
        (["-k", "pdg"], "ABE-UNKNOWN-NAME"),
        (["-t", "3"], "ABE-TARGET-RANGE"),
        (["--epsilons", "0.1", "-t", "1"], "ABE-BAD-PARAMETER"),
    ],
)
def test_bad_requests_are_one_message(run, words, code):
    done = run("attack", "chelsea.png", "-m", "small_net:task", *words)
    assert done.exit_code == 3
    assert code in done.stderr


def test_attacks_are_listed(run):
    assert "pgd" in run("attacks").stdout
    assert "radius" in run("attacks", "pgd").stdout

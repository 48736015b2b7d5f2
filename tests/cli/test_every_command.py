"""What holds for every command: help that teaches, wrong names refused, JSON alone on standard output."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from abe.cli import exits
from abe.cli.app import EXAMPLES

Run = Callable[..., Any]
MODEL = ("-m", "own_net:make", "--size", "8")
QUICK = ("--methods", "gradient", "--metrics", "insertion", "--step", "50%")
TAKES: dict[str, tuple[str, ...]] = {
    "explain": ("-k", "gradient"),
    "compare": QUICK,
    "attack": ("--steps", "1"),
    "trust": ("--methods", "gradient", "--constructions", "sign", "--steps", "2"),
}
"""Commands that take photographs, and what makes them quick."""
WRITES = tuple(TAKES)[:3]
"""Those of them that write."""
PLAIN = ("methods", "metrics", "attacks", "zoo")
"""Commands that take a name or nothing."""
NAMES = {
    "too long": ("x" * 300 + ".png", False),
    "missing": ("gone.png", False),
    "a folder": ("folder", False),
    "no picture": ("own_net.py", False),
    "Chinese": ("照片 猫.png", True),
    "no text": (os.fsdecode(b"a\xff.png"), True),
    "a minus in front": ("./-cat.png", True),
}
"""Names of photographs, and whether they can be read."""


@pytest.fixture
def run(own: Run) -> Run:
    np.save("m.npy", np.random.default_rng(0).normal(size=(1, 8, 8)))
    Path("folder").mkdir()
    for name, readable in NAMES.values():
        if readable:
            Path(name).write_bytes(Path("a.png").read_bytes())
    return own


@pytest.mark.parametrize("command", EXAMPLES)
def test_help_shows_lines_that_can_be_typed_and_what_the_end_means(own: Run, command: str) -> None:
    text = own(*filter(None, [command]), "--help").stdout
    for example in EXAMPLES[command]:
        assert f"abe {example}" in " ".join(text.split())
    told = " ".join(text.split())
    for code, meaning in exits.MEANING.items():
        assert f"{code} {meaning}" in told


@pytest.mark.parametrize("command", TAKES)
@pytest.mark.parametrize("case", NAMES)
def test_photographs_of_any_name(run: Run, command: str, case: str) -> None:
    name, readable = NAMES[case]
    result = run(command, name, *TAKES[command], *MODEL, "--json")
    if not readable:
        assert (result.exit_code, result.stdout) == (exits.INPUT, ""), result.output
        assert result.stderr.startswith("Error: ")
        assert "[ABE-" in result.stderr
        assert result.stderr.count("\n") == 1
        assert not Path("out").exists()
        return
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)


@pytest.mark.parametrize("command", [*WRITES, "evaluate"])
def test_a_folder_that_takes_nothing_is_told_first_and_one_that_exists_is_used(
    run: Run, command: str
) -> None:
    maps = ("m.npy", "-f", "a.png", *QUICK[2:]) if command == "evaluate" else ("a.png", *TAKES[command])
    words = (command, *maps, *MODEL)
    refused = run(*words, "-o", "/proc/nowhere")
    assert (refused.exit_code, refused.stdout) == (exits.STORAGE, ""), refused.output
    assert "[ABE-" in refused.stderr
    kept = Path("folder/mine.txt")
    kept.write_text("mine")
    assert run(*words, "-o", "folder").exit_code == 0
    assert kept.read_text() == "mine"
    assert len(list(Path("folder").iterdir())) > 1


@pytest.mark.parametrize("command", [*TAKES, "evaluate", *PLAIN])
def test_standard_output_holds_json_alone_whatever_the_model_prints(run: Run, command: str) -> None:
    loud = (*MODEL, "--model-arg", "loud=true")
    words = {
        **{name: ("a.png", "b.png", *more, *loud) for name, more in TAKES.items()},
        "evaluate": ("m.npy", "-f", "a.png", *QUICK[2:], *loud),
    }
    result = run(command, *words.get(command, ()), "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)
    assert ("running" in result.stderr) == (command not in PLAIN)


@pytest.mark.parametrize("command", PLAIN[:3])
@pytest.mark.parametrize("name", ["xyzzy", "", "x" * 5000, "猫", os.fsdecode(b"\xff"), "[red]ig[/red]", "\n"])
def test_a_name_that_is_none_is_refused(own: Run, command: str, name: str) -> None:
    result = own(command, name)
    assert (result.exit_code, result.stdout) == (exits.INPUT, ""), result.output
    assert "[ABE-UNKNOWN-NAME]" in result.stderr
    assert len(result.stderr) < 1500


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("command", [*TAKES, "evaluate"])
def test_no_table_is_cut(run: Run, monkeypatch: pytest.MonkeyPatch, command: str, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    maps = ("m.npy", "-f", "a.png", *QUICK[2:])
    words = {**{name: ("a.png", *more) for name, more in TAKES.items()}, "evaluate": maps}
    result = run(command, *words[command], *MODEL)
    assert result.exit_code == 0, result.output
    assert "…" not in result.stdout
    assert all(len(line) <= width for line in result.stdout.splitlines() if "out/" not in line)

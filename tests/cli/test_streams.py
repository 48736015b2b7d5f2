"""Standard output holds results and nothing else, in any encoding, at any width, closed or not."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from abe.cli import exits, listing, output, ready
from abe.registry import methods as all_methods
from abe.registry import metrics as all_metrics

Run = Callable[..., Any]
MODEL = ("-m", "own_net:make", "--size", "8")


def test_results_and_the_rest_go_two_ways() -> None:
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        with output.results_only():
            print("loading")
            output.emit([1])
            output.console().print("table")
        print("after")
    assert out.getvalue() == "[\n  1\n]\ntable\nafter\n"
    assert err.getvalue() == "loading\n"


def test_a_warning_of_python_is_a_note() -> None:
    import warnings

    with redirect_stderr(io.StringIO()) as err, output.results_only(), warnings.catch_warnings():
        warnings.simplefilter("always")
        for _ in range(2):
            warnings.warn("too many pixels", stacklevel=1)
    assert err.getvalue() == "note: too many pixels\n"


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii", "latin-1", "cp437"])
def test_any_encoding_takes_tables_and_json(encoding: str) -> None:
    data = {"name": "日🐱−é\udcff", "x": float("nan")}
    for write in (lambda: output.emit(data), lambda: output.console().print(data["name"])):
        raw = io.BytesIO()
        stream = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
        with redirect_stdout(stream):
            output.spell_out()
            write()
        text = raw.getvalue().decode(encoding)
        assert "?" not in text
        if text.startswith("{"):
            assert json.loads(text) == {**data, "x": None}
    assert encoding == "utf-8" or "-" in text


PROGRAM = "import os, sys; print('user'); os.system('echo program'); os.write(1, b'raw\\n')"


def abe(command: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """A shell command in a process of its own; ``abe`` stands for the command."""
    line = command.replace("abe ", f"{sys.executable} -m abe.cli ")
    env = {**os.environ, **variables}
    return subprocess.run(["bash", "-c", line], capture_output=True, check=False, env=env)


def test_what_other_programs_print_goes_to_standard_error(tmp_path: Path) -> None:
    code = (
        "from abe.cli import output\n"
        "with output.results_only():\n"
        f"    {PROGRAM}\n"
        "    output.emit([1])\n"
        "print('after')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.stdout == b"[\n  1\n]\nafter\n"
    assert sorted(done.stderr.split()) == [b"program", b"raw", b"user"]


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("abe zoo >&-", exits.STORAGE),
        pytest.param("abe zoo --json | head -n 1", 0, marks=pytest.mark.slow),
        pytest.param("abe zoo >&- 2>&-", exits.STORAGE, marks=pytest.mark.slow),
        pytest.param("abe zoo 2>&-", 0, marks=pytest.mark.slow),
        pytest.param("abe zoo > /dev/full", exits.STORAGE, marks=pytest.mark.slow),
    ],
)
def test_closed_and_full_streams(command: str, code: int) -> None:
    done = abe(f"set -o pipefail; {command}")
    assert done.returncode == code, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"fault in ABE" not in done.stderr


@pytest.mark.slow
def test_a_card_in_the_encoding_of_windows() -> None:
    done = abe("abe methods ig", PYTHONIOENCODING="cp1252")
    assert done.returncode == 0, done.stderr
    assert b"integrated_gradients" in done.stdout


def headings(text: str) -> str:
    """Text without the spaces and line ends of a layout."""
    return " ".join(text.split())


@pytest.mark.parametrize("width", [40, 60, 80, 150])
def test_every_column_of_every_table_is_shown(own: Run, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(ready, "drawing", lambda *_, **__: False)
    words = ("compare", "a.png", "b.png", "--methods", "gradient,ig", "--fine", "--step", "50%")
    result = own(*words, *MODEL)
    assert result.exit_code == 0, result.output
    assert all(len(line) <= width for line in result.stdout.splitlines() if not line.startswith("out"))
    text = headings(result.stdout)
    for name in ("RESID", "PASSES", "SECS", "INS", "DEL", "GAP", "KL-", "F-"):
        assert name in text, name
    assert "…" not in text
    for words in (("explain", "a.png", "-k", "gradient"), ("attack", "a.png", "--steps", "1")):
        shown = own(*words, *MODEL)
        assert shown.exit_code == 0, shown.output
        assert "…" not in shown.stdout


@pytest.mark.parametrize("width", [40, 60, 80, 150])
def test_lists_and_cards_are_whole(own: Run, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    text = headings(own("metrics").stdout)
    for entry in all_metrics.entries():
        assert entry.name in text
        assert entry.card.summary.split()[-1] in text
    for words in (("methods", "ig"), ("metrics", "insertion"), ("zoo",), ("attacks",)):
        result = own(*words)
        assert all(len(line) <= width for line in result.stdout.splitlines())
    card = headings(own("methods", "ig").stdout)
    for name, about in all_methods.get("ig").documented.parameters.items():
        assert name in card
        assert listing.plain(about).split()[-1] in card


def test_a_long_path_is_never_cut(own: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    long = "/".join(["a_folder_of_many_letters"] * 8)
    result = own("explain", "a.png", "-k", "gradient", *MODEL, "-o", long, "--save")
    assert f"{long}/a-gradient.png" in result.stdout.replace("\n", "")
    assert f"{long}/a-gradient\n" in result.stdout


def test_the_terminal_of_a_test_is_as_wide_as_columns_say(monkeypatch: pytest.MonkeyPatch) -> None:
    with redirect_stdout(io.StringIO()):
        monkeypatch.delenv("COLUMNS", raising=False)
        assert isinstance(output.console(), Console)
        assert output.console().width == output.WIDE
        monkeypatch.setenv("COLUMNS", "44")
        assert output.console().width == 44

"""Tables show every column at any width, and text is what any terminal prints."""

import io
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.text import Text

from abe.terminal import NotedTable, Sentences, readable


def shown(what: Any, width: int) -> str:
    screen = Console(file=io.StringIO(), width=width, highlight=False)
    screen.print(what)
    text = screen.file.getvalue()  # type: ignore[attr-defined]
    assert all(len(line) <= width for line in text.splitlines())
    return text


def table(columns: int, rows: int, families: int) -> NotedTable:
    made = NotedTable(
        "a note", keys=2, families=[str(i // families) for i in range(columns)], box=SIMPLE_HEAD, padding=0
    )
    made.add_column("rank", justify="right")
    made.add_column("method", overflow="fold", min_width=10)
    for i in range(columns):
        made.add_column(f"H{i:02}", justify="right", no_wrap=True)
    for row in range(rows):
        made.add_row(str(row), f"method_{row}", *(f"{row}.{i:02}" for i in range(columns)))
    return made


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 3), st.integers(1, 12), st.integers(26, 200))
def test_every_cell_is_shown_whole_once_and_rows_keep_their_name(
    columns: int, rows: int, families: int, width: int
) -> None:
    text = shown(table(columns, rows, families), width)
    words = text.split()
    for i in range(columns):
        assert words.count(f"H{i:02}") == 1
        for row in range(rows):
            line = next(line for line in text.splitlines() if f"{row}.{i:02}" in line.split())
            assert f"method_{row}" in line
    assert "…" not in text
    assert text.rstrip().endswith("a note")


def test_a_family_stays_together_where_it_fits() -> None:
    heads = [line.split() for line in shown(table(6, 1, 3), 34).splitlines() if "H" in line]
    assert heads == [["rank", "method", "H00", "H01", "H02"], ["rank", "method", "H03", "H04", "H05"]]
    assert sum("H" in line for line in shown(table(6, 1, 3), 80).splitlines()) == 1


@pytest.mark.parametrize("width", [30, 40, 59, 60, 80, 150])
def test_words_are_never_cut(width: int) -> None:
    rows = [(Text(f"name_{i}"), Text("ig"), Text("a sentence of several words " * 3)) for i in range(3)]
    text = shown(Sentences(("name", "short", "summary"), rows), width)
    assert "…" not in text
    assert " ".join(text.split()).count("sentence") == 9
    assert all(f"name_{i}" in text for i in range(3))


@given(st.text(st.characters(categories=["L", "N", "Cc", "Cs", "Zl", "Zs", "So"])))
def test_readable_text_is_one_line_of_text(text: str) -> None:
    made = readable(text)
    made.encode()
    assert len(made) == len(text)
    assert len(made.splitlines()) <= 1
    assert readable(made) == made

"""What somebody types first, and is told."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cli.test_plain import CODE

from abe.cli import exits

Run = Callable[..., Any]


@pytest.fixture
def new(own: Run) -> Run:
    """The command, beside plain modules and a table."""
    Path("own_code.py").write_text(CODE)
    Path("rows.csv").write_text("age,dose\n40,3\n50,2\n30,1\n")
    return own


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("explain", ""), "There is nothing to explain"),
        (("explain", "  "), "There is nothing to explain"),
        (("explain", "a fine film"), "sentiment-textcnn of `abe zoo`"),
        (
            ("explain", "rows.csv", "-m", "own_code:rows", "--background", "rows.csv"),
            "Name rows with --row, counted from 0 below the head: 3, 3,7 or 3:8",
        ),
        (("trust", "a fine film"), "does not read a text"),
        (("trust",), "There is nothing to explain"),
    ],
)
def test_first_mistakes(new: Run, words: tuple[str, ...], said: str):
    found = new(*words)
    assert said in found.stderr
    assert found.exit_code in (exits.INPUT, exits.USAGE)
    assert not found.stdout


@pytest.mark.parametrize(
    "words", [("a dull film", "-m", "own_code:bag_task"), ("a.png", "-m", "own_net:task")]
)
def test_trust_reads_what_the_others_read(new: Run, words: tuple[str, ...]):
    found = new("trust", *words, "--methods", "gradient", "--constructions", "l2", "--json")
    assert found.exit_code == 0, found.stderr
    assert '"gradient"' in found.stdout

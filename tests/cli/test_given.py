"""Texts and rows from the command line: told apart by files and blanks, and never guessed in silence."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from abe.cli import exits
from abe.cli.given import samples, series
from abe.cli.options import InputOptions
from abe.errors import AbeError

Run = Callable[..., Any]
TEXTS = """
import torch
import abe

WORDS = "a charming journey dull badly acted film never drags terrible".split()


class Tokens:
    vocab = {word: number for number, word in enumerate(WORDS)}

    def encode(self, text):
        return [self.vocab[word] for word in text.split()]


class Bag(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = torch.nn.Embedding(len(WORDS), 4), torch.nn.Linear(4, 2)

    def forward(self, ids):
        return self.head(torch.tanh(self.embed(ids).sum(1)))


def task():
    return abe.text_task(Bag().eval(), Tokens(), labels=["negative", "positive"])


def net():
    return Bag()


class Columns:
    def __call__(self, task, raw):
        from abe.task.lifted import Context, Lifted, Units
        many = {name: value if isinstance(value, list) else [value] for name, value in raw.items()}
        rows = [dict(zip(many, values)) for values in zip(*many.values())]
        x = torch.tensor([[float(row["age"]), float(row["hours"])] for row in rows])
        units = Units("column", torch.arange(2).expand(len(rows), 2), [["age", "hours"]] * len(rows))
        return Lifted(x, Context(), [f"row {i}" for i in range(len(rows))], units=(units,), shown=rows)


def table():
    from abe.task.base import Task
    torch.manual_seed(0)
    suits = {("baseline", "zero"): "zero", ("units", "grid"): "natural", ("unit", "pixel"): "natural"}
    return Task(model=torch.nn.Linear(2, 2), modality="tabular", lifter=Columns(), suits=suits)


def pair():
    made = table()
    made.modality = "several"
    return made
"""
MODEL = ("-m", "own_texts:task")
QUICK = ("--methods", "gradient_x_input,occlusion", "--metrics", "insertion", "--step", "50%")
TABLE = "age,hours,job\n3,40,clerk\n4,30,cook\n"


@pytest.fixture
def run(own: Run) -> Run:
    Path("own_texts.py").write_text(TEXTS)
    Path("rows.csv").write_text(TABLE)
    Path("reviews.txt").write_text("a charming journey\n\ndull badly acted\n")
    np.save("many.npy", np.zeros((3, 2, 5), np.float32))
    return own


def kinds(*words: str, **more: Any) -> list[tuple[str, str]]:
    return [(one.kind, one.name) for one in samples(words, InputOptions(**more))]


def test_what_is_meant_is_seen_from_files_and_blanks(run: Run) -> None:
    assert kinds("a.png", "a charming journey", "Is it 3.5?") == [
        ("photo", "a.png"),
        ("text", "a charming journey"),
        ("text", "Is it 3.5?"),
    ]
    assert kinds("rows.csv") == [("lines", "rows.csv")]
    assert kinds("rows.csv", row="0:2") == [("row", "rows.csv row 0"), ("row", "rows.csv row 1")]
    assert kinds("many.npy", row="2,0") == [("array", "many.npy row 2"), ("array", "many.npy row 0")]
    assert kinds("reviews.txt") == [("text", "reviews.txt line 1"), ("text", "reviews.txt line 3")]
    assert kinds("reviews.txt", row="1") == [("text", "reviews.txt line 3")]
    assert kinds(text=["terrible", "my cat.jpg"]) == [("text", "terrible"), ("text", "my cat.jpg")]


def test_cells_are_numbers_where_they_hold_some(run: Run) -> None:
    Path("t.tsv").write_text("\ufeffa\tb\tc\n1e3\t\t x, y \n", encoding="utf-8")
    (one,) = samples(["t.tsv"], InputOptions(row="0"))
    assert one.raw["a"] == 1000.0
    assert one.raw["b"] != one.raw["b"]
    assert one.raw["c"] == "x, y"


def test_columns_are_left_out_where_that_is_said(run: Run) -> None:
    (one,) = samples(["rows.csv"], InputOptions(row="1", without="job, hours"))
    assert one.raw == {"age": 4.0}
    with pytest.raises(AbeError, match="no column 'joy'"):
        samples(["rows.csv"], InputOptions(row="1", without="joy"))


def test_a_table_is_a_series_of_its_lines_or_one_of_them_is(run: Run) -> None:
    Path("s.csv").write_text("x,y\n1,2\n3,4\n5,6\n")
    (whole,), (one,) = samples(["s.csv"], InputOptions()), samples(["s.csv"], InputOptions(row="1"))
    assert series(whole).tolist() == [[1, 2], [3, 4], [5, 6]]
    assert series(one).tolist() == [[3], [4]]
    assert series(whole, "bct").tolist() == [[1, 3, 5], [2, 4, 6]]
    assert series(one, "bt").tolist() == [3, 4]
    (mixed,) = samples(["rows.csv"], InputOptions())
    with pytest.raises(AbeError, match="clerk"):
        series(mixed)


REFUSED = {
    "a text for photographs": (("a charming journey",), (), "text_task"),
    "a text for a network of photographs": (("a charming journey",), ("-m", "own_net:task"), "text_task"),
    "a photograph for texts": (("a.png",), MODEL, "Expected texts"),
    "a table for texts": (("rows.csv", "--row", "1"), MODEL, "table_task"),
    "a table without a row": (("rows.csv",), ("-m", "own_texts:table"), "Name rows with --row"),
    "a row that is not there": (("rows.csv", "--row", "2"), ("-m", "own_texts:table"), "Expected 0 to 1"),
    "a row below none": (("rows.csv", "--row=-1"), ("-m", "own_texts:table"), "counted from 0"),
    "a row that is none": (("rows.csv", "--row", "last"), ("-m", "own_texts:table"), "counted from 0"),
    "rows backwards": (("rows.csv", "--row", "2:1"), ("-m", "own_texts:table"), "counted from 0"),
    "a row of a text": (("a charming journey", "--row", "1"), MODEL, "--row names rows"),
    "a row of a photograph": (("a.png", "--row", "1"), ("-m", "own_net:task"), "--row names rows"),
    "one word that is no file": (("terrible",), MODEL, "--text"),
    "a file that is not there": (("my review.txt",), MODEL, "There is no such file"),
    "a photograph that is not there": (("my cat.jpg",), MODEL, "there is no such file"),
    "a table that is not there": (("gone.csv", "--row", "1"), MODEL, "There is no such file"),
    "an empty text": (("--text", " "), MODEL, "empty --text"),
    "an empty file": (("empty.txt",), MODEL, "no text in empty.txt"),
    "a head alone": (("head.csv", "--row", "0"), ("-m", "own_texts:table"), "no row in the table"),
    "lines of other lengths": (("ragged.csv", "--row", "0"), ("-m", "own_texts:table"), "Line 3"),
    "two columns of one name": (
        ("twice.csv", "--row", "0"),
        ("-m", "own_texts:table"),
        "two columns called 'a'",
    ),
    "semicolons": (("semi.csv", "--row", "0"), ("-m", "own_texts:table"), "with commas"),
    "another encoding": (("latin.csv", "--row", "0"), ("-m", "own_texts:table"), "UTF-8"),
    "an array without a row": (("many.npy",), ("-m", "own_texts:table"), "--row"),
    "an array of objects": (("objects.npy", "--row", "0"), ("-m", "own_texts:table"), "numpy.save"),
    "an address": (("https://example.com/a text",), MODEL, "an address is not read"),
    "a folder of texts": (("folder.txt",), MODEL, "folder"),
    "a column that is not there": (
        ("rows.csv", "--row", "0", "--without", "joy"),
        ("-m", "own_texts:table"),
        "age",
    ),
    "several inputs": (("a charming journey",), ("-m", "own_texts:pair"), "--input NAME=FILE"),
    "options of images": (("a charming journey", "--size", "8"), MODEL, "Only a task of images"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_with_what_to_do(run: Run, case: str) -> None:
    Path("empty.txt").write_text("\n \n")
    Path("head.csv").write_text("a,b\n")
    Path("ragged.csv").write_text("a,b\n1,2\n3\n")
    Path("twice.csv").write_text("a,a\n1,2\n")
    Path("semi.csv").write_text("a;b\n1;2\n")
    Path("latin.csv").write_bytes("a,b\nä,2\n".encode("latin-1"))
    Path("folder.txt").mkdir()
    np.save("objects.npy", np.array([{}, {}]), allow_pickle=True)
    words, model, said = REFUSED[case]
    result = run("explain", *words, *model, "--json")
    assert result.exit_code in (exits.INPUT, exits.STORAGE), result.output
    assert result.stdout == ""
    message = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(message) == 1, result.stderr
    assert said in message[0]
    assert "[ABE-" in message[0]
    assert not Path("out").exists()


@pytest.mark.parametrize("command", ["explain", "compare", "attack"])
def test_nothing_is_a_usage_error(run: Run, command: str) -> None:
    result = run(command, *MODEL)
    assert (result.exit_code, result.stdout) == (exits.USAGE, "")
    assert "Name photographs, a text in quotation marks" in result.stderr


def test_a_text_is_explained_and_drawn(run: Run) -> None:
    result = run("explain", "a charming journey", *MODEL, "-k", "occlusion")
    assert result.exit_code == 0, result.output
    assert "a charming journey   occlusion of" in result.stdout
    assert "charming (" in result.stdout
    assert [path.name for path in Path("out").iterdir()] == ["a-charming-journey-occlusion.png"]


def test_json_holds_the_shares_of_every_word(run: Run) -> None:
    result = run(
        "explain", "reviews.txt", "--text", "terrible", *MODEL, "-k", "ig", "-t", "positive", "--json"
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [one["input"] for one in found] == ["reviews.txt line 1", "reviews.txt line 3", "terrible"]
    assert [entry["name"] for entry in found[1]["units"]] == ["dull", "badly", "acted"]
    for one in found:
        assert one["unit"] == "word"
        assert one["target"]["name"] == "positive"
        assert sum(entry["value"] for entry in one["units"]) == pytest.approx(one["delta"], abs=1e-4)
    assert "reviews.txt: 2 texts, one a line" in result.stderr


def test_rows_are_explained_by_their_columns(run: Run) -> None:
    result = run("explain", "rows.csv", "--row", "0,1", "-m", "own_texts:table", "-k", "gradient_x_input")
    assert result.exit_code == 0, result.output
    assert "rows.csv row 1   gradient_x_input of" in result.stdout
    assert "hours" in result.stdout
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "rows-csv-row-0-gradient_x_input.png",
        "rows-csv-row-1-gradient_x_input.png",
    ]


@pytest.mark.parametrize(
    "words",
    [("reviews.txt", *MODEL), ("rows.csv", "--row", "0:2", "-m", "own_texts:table")],
    ids=["texts", "rows"],
)
def test_methods_are_compared_on_a_page(run: Run, words: tuple[str, ...]) -> None:
    result = run("compare", *words, *QUICK)
    assert result.exit_code == 0, result.output
    text = Path("out/comparison.html").read_text(encoding="utf-8")
    assert f"{words[0]} {'line 3' if words[0].endswith('txt') else 'row 1'}" in text
    assert (
        "photograph" not in text.split("<style>")[0] + text.split("</style>")[1].split("<script>")[0].lower()
    )
    assert len(list(Path("out").glob("*.png"))) == 2


def test_the_quick_comparison_chooses_what_texts_have(run: Run) -> None:
    result = run("compare", "a charming journey", *MODEL, "--metrics", "insertion", "--json")
    assert result.exit_code == 0, result.output
    assert "1 text," in result.stderr
    assert "How long that takes is not known" not in result.stderr
    assert json.loads(result.stdout)["failures"] == []


def test_saved_maps_of_texts_are_evaluated_without_naming_the_texts(run: Run) -> None:
    for method in ("gradient_x_input", "occlusion"):
        assert run("explain", "reviews.txt", *MODEL, "-k", method, "--save", "-o", "maps").exit_code == 0
    maps = sorted(str(path) for path in Path("maps").iterdir() if path.is_dir())
    again = run("evaluate", *maps, *MODEL, "--metrics", "insertion", "--json")
    assert again.exit_code == 0, again.output
    named = run("evaluate", *maps, "--input", "reviews.txt", *MODEL, "--metrics", "insertion", "--json")
    assert json.loads(named.stdout)["ranking"] == json.loads(again.stdout)["ranking"]
    other = run("evaluate", *maps, "--text", "dull film", *MODEL, "--metrics", "insertion", "--json")
    assert other.exit_code == exits.INPUT
    assert "are not of the samples" in other.stderr


def test_a_text_is_attacked_without_pictures(run: Run) -> None:
    result = run("attack", "a charming journey", *MODEL, "--eps", "0.5", "--steps", "3")
    assert result.exit_code == 0, result.output
    assert "a charming journey" in result.stdout
    assert not list(Path("out").glob("*")) if Path("out").exists() else True
    held = json.loads(run("attack", "a charming journey", *MODEL, "--eps", "0.5", "--json").stdout)
    assert held["pictures"] == []


@pytest.mark.parametrize(
    "text", ["<script>alert(1)</script> dull", "[red]a[/red] dull", "\x1b[2J dull", "日本語 dull"]
)
def test_hostile_texts_name_files_and_stand_on_screen_as_text(run: Run, text: str) -> None:
    Path("own_texts.py").write_text(TEXTS.replace("self.vocab[word]", "self.vocab.get(word, 0)"))
    result = run("explain", text, *MODEL, "-k", "gradient_x_input")
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.stdout
    (picture,) = Path("out").iterdir()
    assert picture.name.endswith("-dull-gradient_x_input.png")
    assert os.sep not in picture.name


def test_help_teaches_texts_and_rows(run: Run) -> None:
    shown = " ".join(run("explain", "--help").stdout.split())
    for piece in ("--text", "--row", "abe explain 'a charming journey'", "abe explain rows.csv --row 3"):
        assert piece in shown

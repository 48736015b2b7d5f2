"""Modules without a task, several inputs by name, and segmentations, from the command line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from abe.cli import exits
from abe.cli.given import samples
from abe.cli.options import InputOptions
from abe.errors import AbeError

Run = Callable[..., Any]
CODE = """
import torch
from torch import nn
import abe

WORDS = "a charming journey dull film".split()


def tokenize(text):
    return [WORDS.index(word) for word in text.split()]


class Tokens:
    vocab = {word: number for number, word in enumerate(WORDS)}

    def encode(self, text):
        return [self.vocab[word] for word in text.split()]


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(len(WORDS), 4), nn.Linear(4, 2)

    def forward(self, ids):
        return self.head(self.embed(ids).sum(1))


def bag():
    torch.manual_seed(0)
    return Bag().eval()


def bag_task():
    return abe.text_task(bag(), tokenize)


def rows():
    return nn.Linear(2, 2).eval()


class Last(nn.Module):
    def forward(self, x):
        return x[:, -1] * 2


class Whole(nn.Module):
    def forward(self, x):
        return torch.stack([x.flatten(1).sum(1), -x.flatten(1).sum(1)], 1)


def whole():
    return Whole().eval()


class Zones(nn.Module):
    def forward(self, x):
        return torch.stack([x[:, 0], 1 - x[:, 0]], 1)


class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)

    def forward(self, image, meta, weight=None):
        seen = image.mean((1, 2, 3))[:, None] * self.head(meta)
        return seen if weight is None else seen * weight.sum(1, keepdim=True)


def both():
    return abe.make_task(Both().eval(), {"image": abe.image(size=8), "meta": abe.columns(["age", "dose"])})
"""
QUICK = ("-k", "gradient_x_input", "--json")


@pytest.fixture
def run(own: Run) -> Run:
    Path("own_plain.py").write_text(CODE)
    Path("rows.csv").write_text("age,dose\n31,1.5\n52,0.5\n44,1\n")
    Path("trace.csv").write_text("load,heat\n" + "".join(f"{i},{-i}\n" for i in range(6)))
    np.save("traces.npy", np.arange(24, dtype=np.float32).reshape(2, 6, 2))
    np.save("scans.npy", np.ones((2, 1, 3, 3, 3), np.float32))
    half = np.zeros((8, 8, 3), np.uint8)
    half[:, 4:] = 255
    Image.fromarray(half).save("half.png")
    return own


def told(run: Run, *words: str) -> dict[str, Any]:
    """The JSON of the first sample, and its notes joined."""
    found = run("explain", *words, *QUICK)
    assert found.exit_code == exits.OK, found.output
    return json.loads(found.stdout)[0]


@pytest.mark.parametrize("tokenizer", ["tokenize", "Tokens"])
def test_a_text_model_needs_a_tokenizer(run: Run, tokenizer: str) -> None:
    words = ("explain", "a charming journey", "-m", "own_plain:bag")
    bare = run(*words)
    assert bare.exit_code == exits.INPUT
    assert "--tokenizer module:factory" in bare.stderr
    assert "ABE-UNCLEAR-INPUT" in bare.stderr
    found = told(run, *words[1:], "--tokenizer", f"own_plain:{tokenizer}")
    assert [one["name"] for one in found["units"]] == ["a", "charming", "journey"]
    assert any("ABE-ASSUMED" in note and "--tokenizer" in note for note in found["warnings"])


def test_a_row_needs_a_background_or_axes(run: Run) -> None:
    words = ("explain", "rows.csv", "--row", "1", "-m", "own_plain:rows")
    bare = run(*words)
    assert bare.exit_code == exits.INPUT
    assert "--background FILE" in bare.stderr
    assert "--axes btc" in bare.stderr
    found = told(run, *words[1:], "--background", "rows.csv")
    assert [one["name"] for one in found["units"]] == ["age", "dose"]
    assert found["spec"]["method"] == "gradient_x_input"


def test_a_series_has_the_names_of_its_columns(run: Run) -> None:
    found = told(run, "trace.csv", "-m", "own_plain:Last", "--axes", "btc")
    assert {one["name"].split()[0] for one in found["units"]} == {"load", "heat"}
    assert told(run, "traces.npy", "--row", "1", "-m", "own_plain:Last", "--axes", "btc")["units"]


def test_arrays_need_axes(run: Run) -> None:
    bare = run("explain", "scans.npy", "--row", "0", "-m", "own_plain:Whole")
    assert "bcdhw for volumes" in bare.stderr
    assert told(run, "scans.npy", "--row", "0", "-m", "own_plain:Whole", "--axes", "bcdhw")["unit"] == "block"


def test_photographs_say_what_nobody_said(run: Run) -> None:
    found = told(run, "half.png", "-m", "own_plain:Whole")
    assert any("values from 0 to 1" in note for note in found["warnings"])
    assert told(run, "half.png", "-m", "own_plain:whole", "--bounds", "0,1")["warnings"] == []


def test_a_segmentation_is_asked_about_a_zone(run: Run) -> None:
    left = told(run, "half.png", "-m", "own_plain:Zones", "--at", "2,1")
    right = told(run, "half.png", "-m", "own_plain:Zones", "--label", "0")
    assert left["target"]["index"] == 1
    assert right["target"]["index"] == 0
    np.save("mask.npy", np.eye(8, dtype=np.float32)[None])
    mask = told(run, "half.png", "-m", "own_plain:Zones", "--region", "mask.npy", "--label", "1")
    assert mask["score"] == pytest.approx(np.log(0.5))


def test_several_inputs_come_by_name(run: Run) -> None:
    found = told(
        run, "--input", "image=half.png", "--input", "meta=rows.csv", "--row", "1", "-m", "own_plain:both"
    )
    assert found["input"] == "half.png, rows.csv row 1"
    assert [one["name"] for one in found["units"]][-2:] == ["meta age", "meta dose"]


def test_several_samples_of_several_inputs(run: Run) -> None:
    several = [*("--input", "image=half.png") * 2, "--input", "meta=rows.csv", "--row", "0,2"]
    attacked = run("attack", *several, "-m", "own_plain:both", "--eps", "0.1", "--json")
    assert attacked.exit_code == exits.OK, attacked.output
    compared = run(
        *("compare", *several, "-m", "own_plain:both", "--methods", "gradient,gradient_x_input"),
        *("--metrics", "insertion", "--step", "50%", "--json"),
    )
    assert compared.exit_code == exits.OK, compared.output
    uneven = run("explain", *several[:4], *several[4:6], "--row", "0", "-m", "own_plain:both")
    assert "2 of 'image', 1 of 'meta'" in uneven.stderr


def test_a_saved_series_holds_what_is_measured(run: Run) -> None:
    for method in ("gradient", "gradient_x_input"):
        run(
            "explain",
            "traces.npy",
            "--row",
            "0:2",
            "-m",
            "own_plain:Last",
            "--axes",
            "btc",
            "-k",
            method,
            "--save",
        )
    maps = sorted(map(str, Path("out").glob("*-gradient*[!g]")))
    folders = [one for one in maps if Path(one).is_dir()]
    found = run(
        "evaluate", *folders, "-m", "own_plain:Last", "--axes", "btc", "--metrics", "insertion", "--json"
    )
    assert found.exit_code == exits.OK, found.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("a film", "-m", "own_plain:bag_task", "--tokenizer", "own_plain:tokenize"), "is a task"),
        (("half.png", "-m", "own_plain:Whole", "--tokenizer", "own_plain:tokenize"), "not for photographs"),
        (("half.png", "-m", "own_plain:Zones", "--at", "two,1"), "ROW,COLUMN"),
        (("a film", "-m", "own_plain:bag_task", "--at", "2,1"), "Only a segmentation"),
        (("rows.csv", "--row", "0", "-m", "own_plain:rows", "--background", "none.csv"), "no such file"),
        (("rows.csv", "--row", "0", "-m", "own_plain:rows", "--background", "half.png"), "is a table"),
        (("trace.csv", "-m", "own_plain:Last", "--axes", "bcdhw"), "expected btc, bct or bt"),
        (("a film", "-m", "own_plain:bag", "--tokenizer", "own_plain:none"), "has no none"),
        (("a film", "-m", "own_plain:bag", "--tokenizer", "own_plain:tokenize", "--size", "8"), "--size"),
        (("half.png", "-m", "own_plain:both"), "--input NAME=FILE"),
        (("--input", "image=half.png", "-m", "own_plain:both"), "'meta' was not given"),
        (("--input", "image=half.png", "--input", "meta=trace.csv", "-m", "own_plain:both"), "--row"),
        (("--input", "image=half.png", "-m", "own_plain:Both"), "abe.make_task"),
    ],
)
def test_what_does_not_fit_says_what_to_do(run: Run, words: tuple[str, ...], said: str) -> None:
    found = run("explain", *words, "-k", "gradient")
    assert found.exit_code in (exits.INPUT, exits.USAGE), found.output
    assert said.lower() in " ".join(found.stderr.split()).lower()
    assert "[ABE-" in found.stderr


def test_a_word_with_an_equals_sign_that_is_a_file_is_that_file(run: Run) -> None:
    Path("a=b.txt").write_text("a film\n")
    (one,) = samples(None, InputOptions(input=["a=b.txt"]))
    assert (one.kind, one.raw) == ("text", "a film")
    with pytest.raises(AbeError):
        samples(None, InputOptions(input=["a=c.txt"]))

"""Every wrong word ends in one coded sentence, before anything is written, and is never ABE's own fault."""

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from abe.cli import exits

Run = Callable[..., Any]
MODEL = ("-m", "own_net:make", "--size", "8")

NUMBERS = (
    "²",
    "٣",
    "nan",
    "-nan",
    "inf",
    "-1",
    "0x10",
    "",
    " ",
    "1e400",
    "9" * 31,
    "9" * 5000,
    "1/0",
    "½",
    "--5",
)
"""Spellings that are numbers for some function of Python, and for few options."""
READ = ("٣", "0x10", "9" * 31)
"""Those that an option may read as the number they are."""
OPTIONS = {
    "--target": ("explain", ()),
    "--step": ("compare", ("--methods", "gradient", "--metrics", "insertion")),
    "--size": ("explain", ()),
    "--bounds": ("explain", ()),
    "--std": ("explain", ()),
    "--seed": ("explain", ()),
    "--eps": ("attack", ()),
    "--epsilons": ("attack", ()),
    "--steps": ("attack", ()),
    "--restarts": ("attack", ()),
}


def refused(result: Any) -> None:
    """The user's mistake: one sentence with a code, or a usage error; nothing on standard output."""
    assert result.exit_code in (exits.USAGE, exits.INPUT, exits.STORAGE), result.output
    assert result.stdout == ""
    assert "fault in ABE" not in result.stderr
    if result.exit_code != exits.USAGE:
        assert result.stderr.startswith("Error: ")
        assert result.stderr.count("\n") == 1
        assert "[ABE-" in result.stderr
        assert len(result.stderr) < 1500
    assert not Path("out").exists()


@pytest.mark.parametrize("option", OPTIONS)
def test_numbers_that_are_none(own: Run, option: str) -> None:
    command, more = OPTIONS[option]
    for text in NUMBERS:
        if text == "-1" and option == "--bounds":
            continue  # says itself that two are wanted
        model = MODEL if option != "--size" else MODEL[:2]
        result = own(command, "a.png", *model, *more, "--json", f"{option}={text}")
        if result.exit_code == 0 and text in READ:
            shutil.rmtree("out")
            continue
        try:
            refused(result)
        except AssertionError as problem:
            raise AssertionError(f"{option}={text[:40]!r}: {problem}") from problem


WORDS = {
    "size with an end": ("explain", "a.png", "--size", "224x"),
    "size of three": ("explain", "a.png", "--size", "2x2x2"),
    "size of a terabyte": ("explain", "a.png", "--size", "1e9"),
    "size of a gigapixel": ("explain", "a.png", "--size", "100000x100000"),
    "size of nothing": ("explain", "a.png", "--size", "0"),
    "scale of nothing": ("explain", "a.png", "--std", "0"),
    "bounds that are one": ("explain", "a.png", "--bounds", "1"),
    "bounds the wrong way": ("explain", "a.png", "--bounds", "1,0"),
    "mean that is none": ("explain", "a.png", "--mean", "nan,0,0"),
    "a huge parameter": ("explain", "a.png", "-p", "steps=" + "9" * 31),
    "an endless parameter": ("explain", "a.png", "-p", "steps=" + "9" * 5000),
    "an infinite parameter": ("explain", "a.png", "-p", "steps=1e400"),
    "a parameter twice": ("explain", "a.png", "-p", "steps=3", "-p", "steps=4"),
    "eps twice": ("attack", "a.png", "-p", "eps=3", "--eps", "1/255"),
    "steps twice": ("attack", "a.png", "-p", "steps=3", "--steps", "4"),
    "an address": ("explain", "https://example.com/cat.jpg"),
    "a file's address": ("compare", "file:///tmp/cat.jpg"),
    "nothing": ("explain", ""),
    "a pipe": ("explain", "pipe"),
    "a socket": ("explain", "socket"),
    "a device": ("explain", "/dev/zero"),
    "a loop of links": ("explain", "loop"),
    "a link to nowhere": ("explain", "gone"),
    "a name too long": ("explain", "x" * 300 + ".png"),
    "a path too long": ("explain", "x/" * 3000),
    "a null byte": ("explain", "a\0.png"),
    "a name that is no text": ("explain", "a\udcff.png"),
    "a folder": ("explain", "."),
    "not a folder": ("explain", "a.png/b.png"),
    "maps that are an address": ("evaluate", "https://example.com/maps.npy", "-f", "a.png"),
    "maps that are a pipe": ("evaluate", "pipe", "-f", "a.png"),
    "maps that are missing": ("evaluate", "x=gone.npy", "-f", "a.png"),
    "maps of one name": ("evaluate", "m.npy", "sub/m.npy", "-f", "a.png"),
    "masks that are missing": ("evaluate", "m.npy", "-f", "a.png", "--masks", "gone.npy"),
    "no method": ("compare", "a.png", "--methods", ","),
    "no metric": ("compare", "a.png", "--metrics", ","),
    "a method that is none": ("explain", "a.png", "-k", "xyzzy"),
    "a method that needs more": ("compare", "a.png", "--methods", "path_integral"),
    "a metric that needs more": ("compare", "a.png", "--methods", "gradient", "--metrics", "relevance_mass"),
    "an objective that is none": ("compare", "a.png", "--objective", "xyzzy"),
    "a model that is a file": ("explain", "a.png", "-m", "net.safetensors"),
    "labels that are an object": ("explain", "a.png", "--labels", "object.json"),
    "labels that are nested": ("explain", "a.png", "--labels", "nested.json"),
    "labels that are deep": ("explain", "a.png", "--labels", "deep.json"),
    "labels that are no text": ("explain", "a.png", "--labels", "a.png"),
    "labels that are a folder": ("explain", "a.png", "--labels", "."),
    "out is a file": ("explain", "a.png", "-o", "a.png"),
    "out is too long": ("explain", "a.png", "-o", "x" * 300),
    "out is a null byte": ("explain", "a.png", "-o", "x\0y"),
    "out is a device": ("explain", "a.png", "-o", "/dev/null/x"),
    "an empty target": ("explain", "a.png", "--target", ""),
    "true classes of none": ("evaluate", "m.npy", "-f", "a.png", "--truth", ","),
    "a word too many": ("zoo", "more"),
    "an option that is none": ("explain", "a.png", "--sede", "3"),
}


@pytest.mark.parametrize("case", WORDS)
def test_wrong_words(own: Run, case: str) -> None:
    os.mkfifo("pipe")
    os.symlink("loop", "loop")
    os.symlink("nowhere", "gone")
    Path("sub").mkdir()
    for path in ("m.npy", "sub/m.npy"):
        np.save(path, np.ones((1, 8, 8)))
    Path("object.json").write_text('{"ant": 0}')
    Path("nested.json").write_text('[["a"], ["b"], ["c"]]')
    Path("deep.json").write_text("[" * 100_000)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        command, first, *more = WORDS[case]
        model = () if command == "zoo" else MODEL[: 2 if "--size" in more else 4]
        refused(own(command, first, *([] if "-m" in more else model), *more))


@pytest.mark.parametrize(
    "words",
    [
        ("-p", "steps=1e1"),
        ("-p", "steps=8", "--target", "+2"),
        ("--size", "8x9"),
        ("--size", " 8 "),
        ("--labels", "bom.txt", "--target", "ant"),
        ("--labels", "object.json", "--target", "ant"),
        ("--bounds", "-1,1", "--mean", "0", "--std", "1,1,1"),
    ],
)
def test_right_words_in_other_spellings(own: Run, words: tuple[str, ...]) -> None:
    Path("bom.txt").write_text("ant\nbee\ncat\n\n", encoding="utf-8-sig")
    Path("object.json").write_text('{"1": "bee", "0": "ant", "2": "cat"}')
    model = MODEL[:2] if "--size" in words else MODEL
    steps = () if "-p" in words else ("-p", "steps=2")
    result = own("explain", "a.png", *model, *steps, *words)
    assert result.exit_code == 0, result.output


def test_abe_alone_helps(own: Run) -> None:
    result = own()
    assert result.exit_code == 0
    assert "abe explain" in result.stdout

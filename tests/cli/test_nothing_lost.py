"""What has been computed is shown and kept, whatever happens to what comes after it."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import abe
from abe.cli import exits
from abe.errors import Code, StorageError
from abe.report import figures, html, robustness

Run = Callable[..., Any]
MODEL = ("-m", "own_net:make", "--size", "8")
QUICK = ("--methods", "gradient", "--metrics", "insertion", "--step", "50%")
COMMANDS = {
    "explain": ("explain", "a.png", "b.png", "-k", "gradient", *MODEL),
    "compare": ("compare", "a.png", "b.png", *QUICK, *MODEL),
    "evaluate": ("evaluate", "m.npy", "-f", "a.png", "--metrics", "insertion", "--step", "50%", *MODEL),
    "robustness": ("attack", "a.png", "--epsilons", "1/255", "--steps", "2", *MODEL),
}
DRAWN = {"explain": "matplotlib", "compare": "jinja2", "evaluate": "matplotlib", "robustness": "matplotlib"}
WAY = {
    "explain": "a-gradient.png",
    "compare": "comparison.html",
    "evaluate": "scores.png",
    "robustness": "robustness.png",
}
"""A file that each of them writes."""


@pytest.fixture
def run(own: Run) -> Run:
    np.save("m.npy", np.random.default_rng(0).normal(size=(1, 8, 8)))
    return own


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that must not run."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the model ran")

    monkeypatch.setattr("torch.nn.Module.__call__", refuse)


def without(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """As if packages were not installed."""
    for name in [*sys.modules, *packages]:
        if name.split(".")[0] in packages:
            monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.usefixtures("still")
def test_a_missing_package_is_found_before_the_first_pass(
    run: Run, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    without(monkeypatch, "matplotlib", "jinja2")
    result = run(*COMMANDS[command])
    assert (result.exit_code, result.stdout) == (exits.PACKAGE, ""), result.output
    assert "pip install 'abe-xai[report]'" in result.stderr
    assert Code.MISSING_PACKAGE.value in result.stderr
    assert not Path("out").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_json_needs_no_package_for_pictures(run: Run, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    without(monkeypatch, "matplotlib", "jinja2")
    result = run(*COMMANDS[command], "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert not any((found[0] if command == "explain" else found).get(key) for key in ("picture", "page"))
    assert "Nothing is drawn" in result.stderr


def test_maps_are_saved_without_a_package_for_pictures(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "matplotlib")
    result = run(*COMMANDS["explain"], "--save")
    assert result.exit_code == 0, result.output
    assert "out/a-gradient" in result.stdout
    assert abe.Explanation.load("out/b-gradient").method == "gradient"


def _folder(path: Path) -> None:
    path.mkdir(parents=True)


def _foreign(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('{"format": "mine"}')


OBSTACLES = {
    **{f"{command}: a folder for a file": (command, _folder, f"out/{WAY[command]}", ()) for command in WAY},
    "evaluate: a manifest of another": ("evaluate", _foreign, "out/comparison.json", ()),
    "evaluate: a folder for the manifest": ("evaluate", _folder, "out/comparison.json", ()),
    "save: a manifest of another": ("explain", _foreign, "out/b-gradient/explanation.json", ("--save",)),
    "save: a file for the folder": ("explain", _foreign, "out/b-gradient", ("--save",)),
    "save: a folder for the manifest": ("explain", _folder, "out/b-gradient/explanation.json", ("--save",)),
}


@pytest.mark.parametrize("case", OBSTACLES)
@pytest.mark.usefixtures("still")
def test_what_stands_in_the_way_is_found_before_the_first_pass(run: Run, case: str) -> None:
    command, build, path, more = OBSTACLES[case]
    build(Path(path))
    result = run(*COMMANDS[command], *more)
    assert (result.exit_code, result.stdout) == (exits.STORAGE, ""), result.output
    assert Path(path).name in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.usefixtures("still")
def test_no_result_replaces_a_photograph(run: Run) -> None:
    before = Path("a.png").read_bytes()
    os.link("a.png", "x-gradient.png")
    for words in (COMMANDS["compare"], ("explain", "x.png", "x-gradient.png", "-k", "gradient", *MODEL)):
        Path("x.png").write_bytes(before)
        result = run(*words, "-o", ".")
        assert result.exit_code == exits.INPUT, result.output
        assert "would replace the photograph" in result.stderr
    assert Path("a.png").read_bytes() == before


TYPOS = {
    "method": ("explain", "a.png", "-k", "gradeint", *MODEL),
    "parameter": ("explain", "a.png", "-p", "setps=3", *MODEL),
    "objective": ("explain", "a.png", "--objective", "logti", *MODEL),
    "model": ("explain", "a.png", "-m", "own_nte:make"),
    "factory": ("attack", "a.png", "-m", "own_net:maek"),
    "target": ("explain", "a.png", "-t", "99", *MODEL),
    "photograph": ("compare", "c.png", *QUICK, *MODEL),
    "text": ("compare", "own_net.py", *QUICK, *MODEL),
    "metric": ("compare", "a.png", "--metrics", "insertoin", *MODEL),
    "maps": ("evaluate", "gone.npy", "-f", "a.png", *MODEL),
    "attack": ("attack", "a.png", "-k", "gpd", *MODEL),
    "photographs of the demo": ("demo", "--photographs", "rockets"),
}


@pytest.mark.parametrize("case", TYPOS)
def test_a_typo_leaves_no_folder(run: Run, case: str) -> None:
    Path("kept").mkdir()
    result = run(*TYPOS[case], "-o", "kept/deeper/out")
    assert result.exit_code in (exits.INPUT, exits.STORAGE), result.output
    assert list(Path("kept").iterdir()) == []


def full(*_: Any, **__: Any) -> None:
    raise StorageError(Code.NOT_WRITTEN, "The disk is full")


def broken(*_: Any, **__: Any) -> None:
    raise ZeroDivisionError("drawing")


def interrupted(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("fault", "code"),
    [(full, exits.STORAGE), (broken, exits.UNEXPECTED), (interrupted, exits.INTERRUPTED)],
)
@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
def test_what_cannot_be_drawn_hides_no_result(
    run: Run, monkeypatch: pytest.MonkeyPatch, command: str, fault: Any, code: int, form: tuple[str, ...]
) -> None:
    for name in ("plot_explanation", "plot_photo", "plot_scores"):
        monkeypatch.setattr(figures, name, fault)
    monkeypatch.setattr(robustness, "plot_curve", fault)
    monkeypatch.setattr(html, "render", fault)
    result = run(*COMMANDS[command], *form)
    assert result.exit_code == code, result.output
    if form:
        assert json.loads(result.stdout)
    else:
        assert "gradient" in result.stdout or "pgd" in result.stdout or "m " in result.stdout


def test_a_photograph_that_fails_hides_no_other(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from abe import api

    explain = api.explain

    def sometimes(task: Any, photo: Any, *rest: Any, **named: Any) -> Any:
        if photo == "a.png":
            full()
        return explain(task, photo, *rest, **named)

    monkeypatch.setattr(api, "explain", sometimes)
    result = run(*COMMANDS["explain"])
    assert result.exit_code == exits.STORAGE
    assert "b.png" in result.stdout
    assert "Error: a.png: The disk is full" in result.stderr
    found = json.loads(run(*COMMANDS["explain"], "--json").stdout)
    assert [entry["photo"] for entry in found] == ["b.png", "a.png"]
    assert found[1]["error"]["code"] == Code.NOT_WRITTEN.value
    alone = run("explain", "a.png", "-k", "gradient", *MODEL, "--json")
    assert (alone.exit_code, alone.stdout) == (exits.STORAGE, "")


NAMES = {
    "like names": ("p/x.png", "q/x.png", "p/x-2.png", "p/x.jpg", "p/X.png", "q/x-3.png"),
    "long": ("日" * 80 + ".png", "日" * 79 + "本.png", "ü" * 120 + ".png"),
    "emoji": ("🐱.png", "🐶.png", "👩‍👩‍👧.png", "a🐱.png"),
    "one letter two ways": ("caf\u00e9.png", "cafe\u0301.png"),
    "newline": ("two\nlines.png", "two\tlines.png", "two lines.png"),
    "no text": ("bad\udcff.png", "bad\udcfe.png"),
    "signs": ("[red]x.png", "$x^2$.png", "-x.png", "a&b<c>.png", "%s.png", "a\\b.png"),
    "dots": (".hidden.png", "...png", "a.b.png"),
}


def sketch(*_: Any, path: Path) -> None:
    """A picture that takes no time."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"drawn")


def photographs(names: tuple[str, ...]) -> list[str]:
    """Copies of one photograph under these names, as they are named on the command line."""
    picture = Path("a.png").read_bytes()
    for name in names:
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(picture)
    return [name if not name.startswith("-") else f"./{name}" for name in names]


@pytest.mark.parametrize("case", NAMES)
def test_every_photograph_has_its_own_results(run: Run, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    for name in ("plot_explanation", "plot_photo"):
        monkeypatch.setattr(figures, name, sketch)
    names = NAMES[case]
    paths = photographs(names)
    result = run("explain", *paths, "-k", "gradient", *MODEL, "--save", "--json")
    assert result.exit_code == 0, result.output
    result.stdout.encode()
    found = json.loads(result.stdout)
    assert [entry["photo"] for entry in found] == [str(Path(path)) for path in paths]
    for key, kind in (("picture", Path.is_file), ("saved", Path.is_dir)):
        made = [Path(entry[key]) for entry in found]
        assert len({str(path).casefold() for path in made}) == len(names)
        assert all(map(kind, made))
    compared = run("compare", *paths, *QUICK, *MODEL, "-o", "table")
    assert compared.exit_code == 0, compared.output
    assert len(list(Path("table").glob("*.png"))) == len(names)
    compared.stdout.encode()
    assert run("attack", *paths, "--steps", "1", *MODEL, "-o", "changed").exit_code == 0
    assert len(list(Path("changed").glob("*.png"))) == len(names)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("case", NAMES)
def test_every_name_can_be_drawn(run: Run, case: str) -> None:
    paths = photographs(NAMES[case][:2])
    for words in (("explain", *paths, "-k", "gradient"), ("compare", *paths, *QUICK)):
        result = run(*words, *MODEL)
        assert result.exit_code == 0, result.output
        result.stdout.encode()


@pytest.mark.filterwarnings("ignore:Glyph")
def test_class_names_of_any_kind_are_shown(run: Run) -> None:
    for words in (("explain", "a.png", "-k", "gradient"), ("compare", "a.png", *QUICK)):
        result = run(*words, "-m", "own_net:labelled")
        assert result.exit_code == 0, result.output
        result.stdout.encode()


def test_maps_of_one_name_are_not_mixed(run: Run) -> None:
    made = run(*COMMANDS["explain"][:2], *COMMANDS["explain"][3:], "--save")
    assert made.exit_code == 0
    np.save("gradient.npy", np.ones((1, 8, 8)))
    words = ("--metrics", "insertion", "--step", "50%", *MODEL)
    result = run("evaluate", "out/a-gradient", "gradient.npy", *words)
    assert result.exit_code == exits.INPUT, result.output
    assert Code.DUPLICATE_NAME.value in result.stderr
    assert run("evaluate", "out/a-gradient", "other=gradient.npy", "-f", "a.png", *words).exit_code == 0

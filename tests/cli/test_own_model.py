"""A model of one's own: its arguments, its weights, what it prints, and mistakes in its code."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from abe.cli import exits
from abe.errors import Code

Run = Callable[..., Any]
EXPLAIN = ("explain", "a.png", "-k", "gradient", "--json", "-m")


def classes(result: Any) -> int:
    """How many classes the model of a result has: all of them are among its top five."""
    assert result.exit_code == 0, result.output
    return len(json.loads(result.stdout)[0]["top"])


@pytest.mark.parametrize("model", ["own_net:make", "own_net:ready", "own_net:task", "own_net:Odd"])
def test_a_factory_a_model_a_task_and_a_class_will_do(own: Run, model: str) -> None:
    assert classes(own(*EXPLAIN, model)) == 3


def test_arguments_reach_the_factory(own: Run) -> None:
    assert classes(own(*EXPLAIN, "own_net:make", "--model-arg", "classes=4")) == 4
    assert classes(own(*EXPLAIN, "own_net:needs", "--model-arg", "depth=2", "--model-arg", "width=7")) == 2
    assert classes(own(*EXPLAIN, "own_net:task", "--model-arg", "classes=5", "--size", "8")) == 5


ARGUMENTS = {
    "missing": ("own_net:needs", (), "depth"),
    "unknown": ("own_net:make", ("class=4",), "classes=3"),
    "twice": ("own_net:make", ("classes=4", "classes=5"), "twice"),
    "no pair": ("own_net:make", ("classes",), "name=value"),
    "of a ready model": ("own_net:ready", ("classes=4",), "no factory"),
    "of a model of the zoo": ("efficientnet-lite0", ("depth=4",), "takes no arguments"),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_wrong_arguments_are_refused_by_name(own: Run, case: str) -> None:
    model, given, says = ARGUMENTS[case]
    result = own(*EXPLAIN, model, *(word for one in given for word in ("--model-arg", one)))
    assert (result.exit_code, result.stdout) == (exits.INPUT, "")
    assert says in result.stderr


MISTAKES = {
    "syntax": "def make(:\n    pass",
    "indentation": "def make():\npass",
    "a null byte": "x = 1\0",
    "no utf-8": b"x = '\xff'",
    "an exception": "x = 1\nraise ValueError('three\\nlines\\nof it')",
    "a missing file": "x = 1\nopen('weights.pt')",
    "a missing import": "x = 1\nimport nowhere_at_all",
    "a missing name": "x = 1\nfrom torch import nothing_of_the_kind",
    "sys.exit": "x = 1\nimport sys; sys.exit(7)",
    "sys.exit with words": "x = 1\nraise SystemExit('bye')",
    "no attribute": "x = 1\nimport torch; torch.nope",
    "endless": "x = 1\ndef f(): return f()\nf()",
    "an assertion": "x = 1\nassert False",
    "memory": "x = 1\nraise MemoryError",
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_in_the_module_is_told_with_file_and_line(own: Run, tmp_path: Path, case: str) -> None:
    text = MISTAKES[case]
    (tmp_path / "own_wrong.py").write_bytes(text if isinstance(text, bytes) else text.encode())
    result = own(*EXPLAIN, "own_wrong:make")
    assert (result.exit_code, result.stdout) == (exits.MODEL, ""), result.output
    assert result.stderr.startswith("Error: The module own_wrong fails when it is imported")
    assert result.stderr.count("\n") == 1
    assert "own_wrong.py" in result.stderr or case == "a null byte"
    assert ", line " in result.stderr or case in ("a null byte", "no utf-8")
    assert Code.MODEL_FAILED.value in result.stderr


@pytest.mark.parametrize("model", ["broken", "leaves", "Fails", "Leaves"])
def test_a_mistake_in_a_function_is_the_models(own: Run, model: str) -> None:
    result = own(*EXPLAIN, f"own_net:{model}")
    assert (result.exit_code, result.stdout) == (exits.MODEL, ""), result.output
    assert Code.MODEL_FAILED.value in result.stderr
    assert "fault in ABE" not in result.stderr
    assert "own_net.py, line " in result.stderr


FUNCTIONS = {
    "an import inside": ("def make():\n    import nowhere_at_all", 2),
    "another module": ("import own_other\nmake = own_other.make", "own_other.py, line 2"),
    "a mistake in another module": ("import own_damaged", "own_damaged.py, line 1"),
    "an error of its own call": ("def inner(a): ...\ndef make():\n    inner()", 3),
    "a lambda": ("make = lambda: 1 / 0", 1),
    "endless": ("def make():\n    make()", 2),
    "an error of abe": ("import abe\ndef make():\n    return abe.image_task(3)", 3),
    "a broken pipe": ("def make():\n    raise BrokenPipeError(32, 'pipe')", 2),
    "a group": ("def make():\n    raise ExceptionGroup('many', [KeyError('a')])", 2),
    "a model without its parent": (
        "import torch\nclass make(torch.nn.Module):\n  def __init__(self):\n    self.a = torch.nn.ReLU()",
        4,
    ),
    "a forward": ("import torch\nclass make(torch.nn.Module):\n    def forward(self, x): return {}['y']", 3),
    "control characters": ("def make():\n    raise ValueError('\\x1b[31m [bold]red[/bold] \\udcff')", 2),
}


@pytest.mark.parametrize("case", FUNCTIONS)
def test_a_mistake_is_told_with_its_line_wherever_it_is(own: Run, case: str) -> None:
    text, line = FUNCTIONS[case]
    Path("own_other.py").write_text("def make():\n    raise KeyError('no weights')")
    Path("own_damaged.py").write_text("def make(:")
    Path("own_fault.py").write_text(text)
    result = own(*EXPLAIN, "own_fault:make")
    assert (result.exit_code, result.stdout) == (exits.MODEL, ""), result.output
    where = line if isinstance(line, str) else f"own_fault.py, line {line}"
    assert where in result.stderr
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert "\x1b" not in result.stderr


@pytest.mark.parametrize(
    "made",
    ["None", "3", "(own_net.make(), 3)", "own_net.make().state_dict()", "own_net.Fails", "(i for i in [])"],
)
@pytest.mark.parametrize("how", ["def", "async def"])
def test_what_is_no_model_is_named(own: Run, made: str, how: str) -> None:
    Path("own_odd.py").write_text(f"import own_net\n{how} make():\n    return {made}")
    result = own(*EXPLAIN, "own_odd:make")
    assert (result.exit_code, result.stdout) == (exits.MODEL, ""), result.output
    assert Code.NOT_A_MODULE.value in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_factory_that_goes_elsewhere_takes_no_file_along(own: Run) -> None:
    Path("own_gone.py").write_text(
        "import os, own_net\ndef make():\n    os.chdir('/')\n    return own_net.make()"
    )
    assert classes(own(*EXPLAIN, "own_gone:make")) == 3
    assert Path("out/a-gradient.png").exists()


NAMES = {
    "a file and a name": "./own_net.pt:x",
    "a path": "../own_net:make",
    "a suffix": "own_net.py:make",
    "an absolute path": "/tmp/own_net.py:make",
    "an address": "https://example.com/own_net.py",
    "no module": ":make",
    "no factory": "own_net:",
    "two colons": "own_net:make:x",
    "a call": "own_net:make(4)",
    "dots": "..own_net:make",
    "a drive": "C:\\models\\net.pt",
}


@pytest.mark.parametrize("case", NAMES)
def test_a_name_that_is_none_is_refused_before_anything_is_imported(own: Run, case: str) -> None:
    result = own(*EXPLAIN, NAMES[case])
    assert (result.exit_code, result.stdout) == (exits.INPUT, ""), result.output
    assert Code.BAD_PARAMETER.value in result.stderr


@pytest.mark.parametrize("model", ["nowhere:make", "own_net:nothing", "own_net.deeper:make", "random:make"])
def test_what_is_not_there_is_an_unknown_name(own: Run, model: str) -> None:
    result = own(*EXPLAIN, model)
    assert result.exit_code == exits.INPUT, result.output
    assert Code.UNKNOWN_NAME.value in result.stderr


def test_what_a_model_prints_goes_to_standard_error(own: Run) -> None:
    loud = ("own_net:make", "--model-arg", "loud=true")
    result = own(*EXPLAIN, *loud)
    assert classes(result) == 3
    assert "building" in result.stderr
    assert "running" in result.stderr
    words = ("compare", "a.png", "--methods", "gradient", "--metrics", "passes", "--json", "-m")
    assert json.loads(own(*words, *loud).stdout)["ranking"]


def state(**changes: Any) -> dict[str, torch.Tensor]:
    """Weights of the model that `own_net:make` builds, which see class 2 everywhere."""
    torch.manual_seed(1)
    weights = {"0.weight": torch.randn(4, 3, 3, 3), "0.bias": torch.randn(4)}
    weights |= {"4.weight": torch.randn(3, 16), "4.bias": torch.tensor([0.0, 0.0, 50.0])}
    return {**weights, **changes}


def test_weights_are_those_of_the_file(own: Run) -> None:
    weights = state()
    save_file(weights, "w.safetensors")
    torch.save(weights, "w.pt")
    torch.save({"epoch": 3, "state_dict": weights, "optimizer": {"state": {}}}, "checkpoint.pth")
    torch.save({f"module.{name}": value for name, value in weights.items()}, "parallel.pt")
    for file in ("w.safetensors", "w.pt", "checkpoint.pth", "parallel.pt"):
        for model in ("own_net:make", "own_net:task"):
            result = own(*EXPLAIN, model, "--weights", file)
            assert result.exit_code == 0, result.output
            assert json.loads(result.stdout)[0]["target"]["index"] == 2


def _damaged() -> dict[str, tuple[str, int, str]]:
    weights = state()
    del weights["0.bias"]
    torch.save(weights, "short.pt")
    torch.save(state(more=torch.ones(1)), "long.pt")
    torch.save(state(**{"4.bias": torch.ones(4)}), "shape.pt")
    torch.save({"ema": state(), "model": state()}, "two.pt")
    torch.save([1, 2], "list.pt")
    torch.save(torch.nn.Linear(2, 2), "whole.pt")
    Path("cut.pt").write_bytes(Path("long.pt").read_bytes()[:300])
    Path("cut.safetensors").write_bytes(b"\xff" * 40)
    Path("text.pt").write_text("hello")
    Path("empty.pt").write_bytes(b"")
    return {
        "short.pt": ("own_net:make", exits.INPUT, "1 missing (0.bias)"),
        "long.pt": ("own_net:make", exits.INPUT, "not in the model (more)"),
        "shape.pt": ("own_net:make", exits.INPUT, "4.bias (4,) for (3,)"),
        "two.pt": ("own_net:make", exits.STORAGE, "'ema', 'model'"),
        "list.pt": ("own_net:make", exits.STORAGE, "no weights"),
        "whole.pt": ("own_net:make", exits.STORAGE, "state_dict"),
        "cut.pt": ("own_net:make", exits.STORAGE, "cannot be read"),
        "cut.safetensors": ("own_net:make", exits.STORAGE, "cannot be read"),
        "text.pt": ("own_net:make", exits.STORAGE, "cannot be read"),
        "empty.pt": ("own_net:make", exits.STORAGE, "cannot be read"),
        "nowhere.pt": ("own_net:make", exits.STORAGE, "no such file"),
        ".": ("own_net:make", exits.STORAGE, "folder"),
        "a.png": ("own_net:make", exits.STORAGE, "cannot be read"),
    }


def test_weights_that_do_not_fit_are_refused(own: Run) -> None:
    for file, (model, code, says) in _damaged().items():
        result = own(*EXPLAIN, model, "--weights", file)
        assert (result.exit_code, result.stdout) == (code, ""), (file, result.output)
        assert says in result.stderr, file
        assert result.stderr.count("\n") == 1
    assert not Path("out").exists()

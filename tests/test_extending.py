"""A package of one's own: installed from `examples/abe_example_plugin`, found by name, used and checked."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from abe import registry

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "abe_example_plugin"
MOST_LINES = 15
"""Of code that a stranger writes to add one thing, its card among them."""

USE = """
import json, random
import torch
import abe
from abe.registry import channel_weights, methods, metrics, objectives, paths, removals, rules, summaries
from abe.registry import updates
from abe.testing import check_method, check_metric, nets, samples, task_of

task, x = task_of(nets.Smooth()), samples(2)
how = {"target": 1, "progress": False}
named = {
    "halfway": abe.explain(task, x, "half", baseline="blur", **how),
    "ease_in": abe.explain(task, x, "path_integral", path="ease_in", steps=40, **how),
    "contrast": abe.explain(task, x, "ig", objective="contrast", **how),
    "heavy_ball": abe.explain(task, x, "path_attribution", update="heavy_ball", tolerance=0.01, **how),
}
pictured = task_of(nets.Convolutional().eval())
loudest = abe.explain(pictured, x.float(), "channel_map", weights="loudest", layer="features.3", **how)
mean = abe.explain(pictured, x.float(), "grad_cam", layer="features.3", **how)
plain = abe.explain(task, x, "ig", **how)
ends, loss = abe.explain_game(task, x, ["both_ends", "remove_individual"], removal="fade", **how)
gap = (named["ease_in"].attribution - plain.attribution).abs().max()
straight = float(gap / plain.attribution.abs().max())
table = abe.compare(task, x, methods=["halfway", "gradient"], metrics=["early_drop"], progress=False)
state = random.getstate()
verdicts = [
    *check_method("halfway", only=["completeness", "cost", "spec", "symmetry"]),
    *check_method("ig", only="restored"),
    *check_metric("early_drop", only=["ranking", "restored"]),
]
print(json.dumps({
    "names": {
        r.kind: r.names()
        for r in (methods, paths, objectives, metrics, updates, rules, channel_weights, removals, summaries)
    },
    "weights": float((loudest.attribution - mean.attribution).abs().max()),
    "warnings": loudest.warnings,
    "residuals": {name: float(e.residual.abs().max()) for name, e in named.items() if name != "halfway"},
    "objective": named["contrast"].objective,
    "method": str(abe.method("halfway")),
    "straight": straight,
    "ranking": table.methods,
    "ends": [float(e.attribution.abs().max()) for e in (ends, loss)],
    "rows": ends.cost.forward_rows,
    "outcomes": {v.law: v.outcome for v in verdicts},
    "python generator": state == random.getstate(),
}))
"""

SHOWN = """
import sys
import abe, abe_example_plugin
from abe.testing import check_method, laws, nets, samples, task_of

names = {**vars(abe_example_plugin), "abe": abe, "check_method": check_method, "laws": laws}
names |= {"task": task_of(nets.Convolutional().eval()), "photo": samples(1).float()}
for line in sys.argv[1:]:
    print(line, type(eval(line, names)).__name__, flush=True)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package in it, built and installed without a registry."""
    target = tmp_path_factory.mktemp("plugin")
    build = tmp_path_factory.mktemp("build") / EXAMPLE.name
    build.mkdir()
    for file in EXAMPLE.iterdir():
        if file.is_file():
            (build / file.name).write_bytes(file.read_bytes())
    install = [
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"),
        *("--no-build-isolation", "--no-deps", "--target", str(target), str(build)),
    ]
    subprocess.run(install, check=True, capture_output=True, text=True, timeout=300)
    return target


def run(installed: Path, *command: str) -> str:
    """Standard output of Python with the package in reach."""
    paths = [str(installed), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=env, cwd=installed, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_found_used_and_keeps_its_laws(installed: Path) -> None:
    said = json.loads(run(installed, "-W", "error", "-c", USE))
    added = {
        "method": "halfway",
        "path": "ease_in",
        "objective": "contrast",
        "metric": "early_drop",
        "update": "heavy_ball",
        "rule": "sinc",
        "channel_weight": "loudest",
        "removal": "fade",
        "summary": "both_ends",
    }
    assert all(name in said["names"][kind] for kind, name in added.items())
    assert all(len(set(names)) == len(names) for names in said["names"].values())
    assert said["method"] == "halfway(baseline='zero')"
    assert "Contrast" in said["objective"]
    assert said["residuals"]["contrast"] < 1e-6
    assert said["residuals"]["ease_in"] < 1e-6
    assert said["residuals"]["heavy_ball"] <= 0.01
    assert said["weights"] > 0
    assert said["warnings"] == []
    assert said["straight"] < 1e-9  # the same line at another pace has the same integral
    assert set(said["ranking"]) == {"halfway", "gradient"}
    assert said["outcomes"]["completeness"] == "fails as declared"
    assert set(said["outcomes"].values()) == {"holds", "fails as declared"}
    assert said["python generator"]
    assert min(said["ends"]) > 0
    assert said["rows"] == 2 * (1 + 19)  # none, nine alone, nine left out: shared by both summaries


def test_the_calls_that_the_page_shows_run(installed: Path) -> None:
    """Every call in running text, with the package's names at hand."""
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    text = re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL)
    code = [" ".join(one.split()) for one in re.findall(r"`([^`]+)`", text)]
    calls = [one for one in code if re.match(r"(abe\.\w+|check_\w+|laws)\(", one) and "..." not in one]
    assert len(calls) >= 10
    run(installed, "-c", SHOWN, *calls)


def test_its_own_test_suite_passes(installed: Path) -> None:
    """As a third party runs it: the example's tests, without this repository's configuration."""
    tests = str(EXAMPLE / "test_abe_example_plugin.py")
    out = run(
        installed, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir=.", tests
    )
    assert " passed" in out


@pytest.mark.slow
def test_the_command_line_lists_it(installed: Path) -> None:
    assert "halfway" in run(installed, "-m", "abe.cli", "methods")
    assert "early_drop" in run(installed, "-m", "abe.cli", "metrics")


def test_without_the_package_nothing_is_there() -> None:
    assert "halfway" not in registry.methods.names()
    assert "early_drop" not in registry.metrics.names()


def test_the_page_shows_this_very_code() -> None:
    """Every part of the module and both other files are on the page, included and not retyped."""
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    source = (EXAMPLE / "abe_example_plugin.py").read_text(encoding="utf-8")
    marks = [line.split(":")[0] for line in source.splitlines() if line.startswith("# ") and ":" in line]
    kinds = ("method", "path", "objective", "metric", "update", "rule", "weights", "removal", "summary")
    assert marks == [f"# {kind}" for kind in kinds]
    for mark, following in zip(marks, [*marks[1:], None], strict=True):
        assert f':start-at: "{mark}:"' in page
        assert following is None or f':start-at: "{mark}:"\n:end-before: "{following}:"' in page
    for file in ("pyproject.toml", "abe_example_plugin.py", "test_abe_example_plugin.py"):
        assert f"examples/abe_example_plugin/{file}" in page


def test_each_part_is_one_short_value() -> None:
    """Card, value and what it is bound to a batch as: at most 15 lines besides docstrings."""
    source = (EXAMPLE / "abe_example_plugin.py").read_text(encoding="utf-8")
    parts = re.split(r"^# (\w+):.*\n", source, flags=re.MULTILINE)[1:]
    counts = {kind: code_lines(text) for kind, text in zip(parts[::2], parts[1::2], strict=True)}
    assert {kind: count for kind, count in counts.items() if count > MOST_LINES} == {}
    assert code_lines(source) > sum(counts.values()) > len(counts) * MOST_LINES // 2


def code_lines(source: str) -> int:
    """Lines that are neither blank nor a comment nor part of a docstring."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    bodies = [node.body for node in ast.walk(ast.parse(source)) if isinstance(node, documented)]
    docstrings = [b[0] for b in bodies if isinstance(b[0], ast.Expr) and isinstance(b[0].value, ast.Constant)]
    hidden = {n for d in docstrings for n in range(d.lineno, (d.end_lineno or d.lineno) + 1)}
    lines = enumerate(source.splitlines(), start=1)
    return sum(
        1 for n, line in lines if n not in hidden and line.strip() and not line.lstrip().startswith("#")
    )

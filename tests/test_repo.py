"""What the repository promises as a whole."""

import ast
import re
import statistics
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PEERS = {
    "captum",
    "lime",
    "pytorch_grad_cam",
    "quantus",
    "shap",
    "shapiq",
    "sklearn",
    "timm",
    "transformers",
    "zennit",
}
"""What `make test` does not install: other libraries, and what only they bring."""
LONGEST = 500
"""Lines of a file that one still reads as a whole."""
TEXT = {".py", ".md", ".toml", ".txt", ".bib", ".json", ".html", ".css", ".js", ".cfg", ".yml", ".yaml", ""}


def tracked() -> list[Path]:
    """The files under version control, or a skip where there is none (a source archive)."""
    listing = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=False
    )
    if listing.returncode:
        pytest.skip("not a git work tree")
    paths = [ROOT / name for name in listing.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


def import_microseconds(statement: str) -> tuple[int, dict[str, int]]:
    """Total and own time of each module that ``statement`` imports, in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", statement], capture_output=True, text=True, check=True
    )
    rows = re.findall(r"^import time:\s+(\d+) \|\s+\d+ \|\s*(\S+)$", done.stderr, flags=re.MULTILINE)
    own = {name: int(time) for time, name in rows}
    return sum(own.values()), own


@pytest.mark.slow
def test_importing_abe_costs_little_more_than_torch() -> None:
    """At most 10 % more than torch alone; the culprits are named.

    A module's own times are compared between interpreters that ran in turn, because the machine's
    speed changes by more than 10 % from one moment to the next, and the median of rounds is taken.
    """
    extra, culprits = [], {}
    for _ in range(3):
        base, torch_modules = import_microseconds("import torch")
        _, modules = import_microseconds("import torch; import abe")
        new = {name: time for name, time in modules.items() if name not in torch_modules}
        extra.append(sum(new.values()) / base)
        culprits = new
    worst = sorted(culprits.items(), key=lambda item: -item[1])[:12]
    listing = "\n".join(f"{time / 1000:8.1f} ms  {name}" for name, time in worst)
    assert statistics.median(extra) <= 0.10, (
        f"import abe adds {statistics.median(extra):.0%} to torch\n{listing}"
    )


@pytest.mark.parametrize(
    "module",
    ["matplotlib", "skimage", "scipy", "torchvision", "jinja2", "captum", "sklearn", "pandas", "cyclopts"],
)
def test_importing_abe_leaves_optional_packages_alone(module: str) -> None:
    """Neither needed nor loaded: with the package blocked, the import works."""
    statement = (
        f"import sys; sys.modules[{module!r}] = None; import abe; assert sys.modules[{module!r}] is None"
    )
    subprocess.run([sys.executable, "-c", statement], check=True)


def imported_at_once(path: Path) -> set[str]:
    """The packages without which a file cannot be imported: asked for outside functions, in any way."""
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    found: set[str] = set()
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(str(node.module))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
            ("importorskip", "import_module")
        ):
            found |= {one.value for one in node.args if isinstance(one, ast.Constant)}
        waiting += ast.iter_child_nodes(node)
    return {name.split(".")[0] for name in found}


def test_tests_ask_for_other_libraries_only_where_they_run() -> None:
    """A module that needs one at once ends `make test` in an error, or leaves with all its tests."""
    modules = [path for path in tracked() if path.suffix == ".py" and path.is_relative_to(ROOT / "tests")]
    needs = {str(path.relative_to(ROOT)): sorted(imported_at_once(path) & PEERS) for path in modules}
    assert len(modules) > 50
    assert {name: packages for name, packages in needs.items() if packages} == {}


def test_what_is_asked_for_at_once_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        "import abe\ntry:\n    from captum.attr import Saliency\nexcept ImportError:\n    pass\n"
        "class Inside:\n    lime = pytest.importorskip('lime.lime_image')\n"
        "def later():\n    import shap\n"
    )
    assert imported_at_once(path) == {"abe", "captum", "lime"}


def test_no_file_is_too_long_to_be_read() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in tracked()
        if path.suffix == ".py" and path.is_relative_to(ROOT / "src")
    }
    assert len(lengths) > 100
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}


def test_no_path_or_host_of_a_machine_is_in_the_repository() -> None:
    """A file that names one works nowhere else."""
    private = re.compile(
        r"(?<![\w.])/(?:root|work|home/\w+|Users/\w+)/"  # folders of one machine
        r"|https?://[^\s\"')>]*(?:pypi|pythonhosted|npmjs|registry\.)"  # package registries
        r"|--(?:extra-)?index-url|--find-links"
        r"|\b(?:10\.\d+|192\.168|172\.(?:1[6-9]|2\d|3[01]))\.\d+\.\d+\b"  # private addresses
    )
    found = []
    for path in tracked():
        if path.suffix not in TEXT or path == Path(__file__):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if private.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert found == []


def test_no_pickle_is_in_the_repository() -> None:
    """Neither weights nor arrays that run code when they are read."""
    suspects = {".pt", ".pth", ".pkl", ".pickle", ".joblib"}
    assert [str(p.relative_to(ROOT)) for p in tracked() if p.suffix in suspects] == []


def test_make_installs_one_torch_for_demo_and_tests() -> None:
    """Both pins are exact, and what installed packages ask of torch admits them."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pins = dict(re.findall(r"^(\w+)==(\S+)$", text, flags=re.MULTILINE))
    assert set(pins) == {"torch", "torchvision"}
    needs = [Requirement(line) for dist in ("abe-xai", "torchvision") for line in requires(dist) or []]
    pinned = [need for need in needs if need.name in pins]
    assert {need.name for need in pinned} == set(pins)
    for need in pinned:
        assert need.specifier.contains(pins[need.name]), str(need)


def test_the_public_names_are_documented_and_exist() -> None:
    """Every ``abe.name`` that the README and the pages call is there."""
    import abe

    missing = set()
    for path in [
        ROOT / "README.md",
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "docs" / "decisions").glob("*.md"),
    ]:
        code = "\n".join(re.findall(r"^```python\n(.*?)^```", path.read_text("utf-8"), flags=re.M | re.S))
        names = set(re.findall(r"(?<![\w.-])abe\.(\w+)\(", code))
        missing |= {f"{path.name}: abe.{name}" for name in names if not hasattr(abe, name)}
    assert missing == set()

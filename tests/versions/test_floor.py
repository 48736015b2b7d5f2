"""What the package says about versions: the oldest PyTorch, and one sentence under an older one."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tests.versions import matrix

from abe import _floor
from abe.errors import Code, PackageError


def test_the_declared_floor_is_the_one_that_is_looked_for() -> None:
    declared = next(one for one in matrix.declared(()) if one.name == "torch")
    assert str(declared.specifier) == ">=" + ".".join(map(str, _floor.OLDEST))


OLD = ("2.5.1", "2.4.0+cpu", "1.13.1", "2.5.0a0+git1234", "0.4")
NEW = ("2.6.0", "2.6.0a0+ecf3bae40a.nv25.01", "2.14.1+cu130", "3.0.0", "10.1", "")


@pytest.mark.parametrize("version", OLD)
def test_an_older_torch_is_refused_in_one_sentence(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(__version__=version))
    with pytest.raises(PackageError) as refused:
        _floor.check_torch()
    assert refused.value.code is Code.OLD_PACKAGE
    says = str(refused.value)
    assert f"torch {version}" in says
    assert "torch 2.6 or newer" in says
    assert "pip install 'torch>=2.6'" in says


@pytest.mark.parametrize("version", NEW)
def test_other_versions_pass(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(__version__=version))
    _floor.check_torch()


WRITTEN = {
    "version.py": {"__init__.py": "1 / 0", "version.py": "__all__ = []\n__version__ = '2.5.1+cpu'\n"},
    "typed": {"__init__.py": "1 / 0", "version.py": "__version__: str = '2.5.1+cpu'\n"},
    "module": {"__init__.py": "__version__ = '2.5.1+cpu'\n"},
}


@pytest.mark.parametrize("where", WRITTEN)
def test_importing_abe_tells_before_torch_is_used(where: str, tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    for name, text in WRITTEN[where].items():
        (tmp_path / "torch" / name).write_text(text)
    statement = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import abe"
    done = subprocess.run([sys.executable, "-c", statement], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "torch 2.5.1+cpu" in last
    assert last.endswith("[ABE-OLD-PACKAGE]")


def test_the_version_is_read_without_importing_torch() -> None:
    statement = "import sys; from abe import _floor; print(_floor._version(), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", statement], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [torch.__version__, "False"]


def test_the_matrix_has_the_oldest_and_the_newest_under_every_python() -> None:
    found = list(matrix.rows(""))
    assert {python for python, _, _ in found} == set(matrix.PYTHONS)
    assert {torch for _, torch, _ in found} == {"2.6", matrix.newest()}
    assert [row for row in found if row[2]] == [("3.11", "2.6", True)]
    assert list(matrix.rows("3.13 2.6")) == [("3.13", "2.6", False)]


def test_the_environment_of_links_holds_what_is_declared_and_nothing_else() -> None:
    core, report = set(matrix.needed(())), set(matrix.needed(("report",)))
    assert {"torch", "numpy", "pillow", "rich", "safetensors", "jaxtyping", "cyclopts"} <= core
    assert {"matplotlib", "jinja2"} <= report - {"torch"}
    assert "matplotlib" not in core
    assert not {"pytest", "hypothesis", "torchvision", "scikit-image", "captum"} & report

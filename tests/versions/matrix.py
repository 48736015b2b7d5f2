"""The wheel in environments of its own: `make test-wheel` (one, in seconds) and `make test-versions` (all).

``alone`` makes an environment of links to what the wheel declares and nothing else, out of the packages that
are installed beside this Python: nothing is downloaded. ``all`` installs the wheel with the oldest and the
newest PyTorch under every Python of `PYTHONS` that is found here; each environment is removed when it is
done with, for they take gigabytes. Both then run ``smoke.py``, first without extras, then with ``[report]``.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
SMOKE = Path(__file__).with_name("smoke.py")
NAME = "abe-xai"
PYTHONS = ("3.11", "3.12", "3.13")
OLDEST_PACKAGES = "3.11"
"""With this Python the oldest PyTorch runs beside the oldest of everything else that the wheel asks for."""


def run(*words: str | Path) -> None:
    subprocess.run([str(word) for word in words], check=True)


def declared(extras: tuple[str, ...]) -> list[Requirement]:
    """What the project asks for with some extras, as its source says."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = [line for extra in extras for line in project["optional-dependencies"][extra]]
    return [Requirement(line) for line in (*project["dependencies"], *optional)]


def wheel(folder: Path) -> Path:
    """The project's wheel, built without asking a registry."""
    build = ("wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT)
    run(sys.executable, "-m", "pip", "--disable-pip-version-check", *build)
    (built,) = folder.glob("*.whl")
    return built


def python_of(environment: Path) -> Path:
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


# ---------------------------------------------------------------- links to what is there


def needed(extras: tuple[str, ...]) -> Iterator[str]:
    """Names of all that the wheel with extras asks for, and what these ask for."""
    waiting, known = [(NAME, extras)], set[tuple[str, tuple[str, ...]]]()
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in known:
            continue
        known.add((name, wanted))
        if name != NAME:
            yield name
        for asked in (
            declared(wanted) if name == NAME else map(Requirement, distribution(name).requires or ())
        ):
            if asked.marker is None or any(asked.marker.evaluate({"extra": e}) for e in wanted or ("",)):
                waiting.append((asked.name, tuple(sorted(asked.extras))))


def link(environment: Path, extras: tuple[str, ...]) -> None:
    """Link the packages that the wheel asks for into an empty environment."""
    (site,) = (
        environment.glob("lib/python*/site-packages")
        if os.name != "nt"
        else [environment / "Lib/site-packages"]
    )
    for name in needed(extras):
        for file in distribution(name).files or ():
            if file.parts[0] in ("..", "__pycache__") or (site / file.parts[0]).exists():
                continue
            (site / file.parts[0]).symlink_to(
                Path(str(distribution(name).locate_file(file.parts[0]))).resolve()
            )


def alone(built: Path, scratch: Path) -> list[str]:
    """The wheel beside links to what it declares."""
    failed = []
    for part, extras in (("core", ()), ("report", ("report",))):
        environment = scratch / part
        run(sys.executable, "-m", "venv", "--without-pip", environment)
        link(environment, extras)
        install = ("install", "--quiet", "--no-deps", "--no-index", built)
        run(sys.executable, "-m", "pip", "--python", python_of(environment), *install)
        failed += smoked(environment, part, f"{part}, {sysconfig.get_python_version()}")
    return failed


# ---------------------------------------------------------------- every version


def pythons() -> dict[str, str]:
    """Version -> program, of those that are on the path or under pyenv, and run."""
    found = {}
    for version in PYTHONS:
        root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
        programs = [shutil.which(f"python{version}"), *sorted(root.glob(f"versions/{version}.*/bin/python"))]
        for program in filter(None, programs):
            ask = [str(program), "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
            done = subprocess.run(ask, capture_output=True, text=True, check=False)
            if done.stdout.strip() == version:
                found[version] = str(program)
    return found


def oldest() -> dict[str, str]:
    """The lowest version that is declared of every package that the wheel with ``[report]`` asks for."""
    asked = declared(("report",))
    return {one.name: s.version for one in asked for s in one.specifier if s.operator == ">="}


def newest() -> str:
    """The PyTorch that `make` installs."""
    (found,) = re.findall(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    return found


def rows(wanted: str) -> Iterator[tuple[str, str, bool]]:
    """(Python, PyTorch, whether all else is the oldest too) of what is wanted: "3.11 2.6", "3.13", ""."""
    for version in PYTHONS:
        for torch in (oldest()["torch"], newest()):
            if all(word in (version, torch) for word in wanted.split()):
                yield version, torch, version == OLDEST_PACKAGES and torch == oldest()["torch"]


def every(built: Path, scratch: Path, wanted: str) -> list[str]:
    """The wheel under every Python that is found, with the oldest and the newest PyTorch."""
    failed, programs, skipped = list[str](), pythons(), set[str]()
    for version, torch, low in rows(wanted):
        if version not in programs:
            skipped.add(version)
            continue
        title = f"Python {version}, torch {torch}{', everything else the oldest' if low else ''}"
        print(f"\n=== {title}", flush=True)
        environment = scratch / "environment"
        fixed = {**(oldest() if low else {}), "torch": f"{torch}.*" if torch.count(".") < 2 else torch}
        constraints = scratch / "constraints.txt"
        constraints.write_text("".join(f"{name}=={number}\n" for name, number in fixed.items()))
        run(programs[version], "-m", "venv", "--clear", environment)
        pip = (python_of(environment), "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
        try:
            run(*pip, "--constraint", constraints, f"torch=={fixed['torch']}", built)
            failed += smoked(environment, "core", title)
            run(*pip, "--constraint", constraints, f"{built}[report]")
            failed += smoked(environment, "report", title)
        except subprocess.CalledProcessError as problem:
            failed.append(f"{title}: {problem}")
        shutil.rmtree(environment, ignore_errors=True)
    for version in sorted(skipped):
        print(f"\nskipped: Python {version} is not on this machine")
    return failed


def smoked(environment: Path, part: str, title: str) -> list[str]:
    """Run the smoke; what failed, by its title."""
    where = environment.parent
    done = subprocess.run([python_of(environment), "-I", SMOKE, part], cwd=where, check=False)
    return [f"{title}: {part}"] if done.returncode else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["alone", "all"])
    parser.add_argument("only", nargs="*", help="of all: a Python, a PyTorch, or both")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        built = wheel(scratch)
        alike = asked.what == "alone"
        failed = alone(built, scratch) if alike else every(built, scratch, " ".join(asked.only))
    print("\n".join(["", *(f"FAILED: {one}" for one in failed)] if failed else ["", "all passed"]))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

"""``python -m tests.tools.mutate``: change one line at a time, and see which test notices.

A seeded script draws lines evenly over engines, metrics, robustness and task (`tests.tools.mutations`). Each
is applied in a throw-away copy of the tree, and these stages run until a test fails:

    mirror   the test files that mirror the module
    names    of the tests of all methods, metrics and attacks, those of the names that stand on the module
    room     its doctests, the other tests of its room, those that name it, those that mirror what imports it
    suite    the whole fast suite

A test that takes too long without a word counts as failed. What catches a mutation has to pass without it;
a test that does not is left out. Mutations that change nothing are survivors like others: a person says why.
Results are kept after every stage, and a second call goes on from there.
"""

import argparse
import ast
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from tests.tools.mutations import ROOMS, Mutation, chosen

ROOT = Path(__file__).parents[2]
STAGES = ("mirror", "names", "room", "suite")
FAST = "not slow and not peers and not browser"
UNCHECKED = ("-o", "addopts=--import-mode=importlib --doctest-modules --ignore=src/abe/explain.py")
"""Without the check of shapes at run time, which only the suite has: importing takes most of a stage."""
OVER_ALL = ("tests/methods", "tests/metrics", "tests/robustness", "tests/theory", "src/abe/methods")
"""Where tests run over everything that is registered, by name."""
FAR = 4
"""Imports between a module and a name that stands on it, at most."""
MANY = 12
"""Names that are tried at most: of a module on which more stand, the first."""
RESULT = re.compile(r"^((?:tests|src)/\S.*?) (?:FAILED|ERROR)\b")
COLLECTED = re.compile(r"^ERROR ((?:tests|src)/\S+)")


@dataclass
class Found:
    """What became of a mutation."""

    mutation: dict[str, Any]
    stages: list[str] = field(default_factory=list)
    """Those that are over."""
    caught_by: str = ""
    seconds: float = 0.0

    @property
    def state(self) -> str:
        """Caught, survived, or alive after the stages that ran."""
        if self.caught_by:
            return "caught"
        return "survived" if "suite" in self.stages else f"alive after {', '.join(self.stages) or 'nothing'}"


# --- which tests ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tests:
    """Paths for pytest, and names that their tests must have."""

    paths: tuple[str, ...]
    names: tuple[str, ...] = ()


class Tree:
    """Sources and tests, and who imports whom."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sources = {_dotted(p.relative_to(root / "src")): p for p in (root / "src/abe").rglob("*.py")}
        self.tests = sorted((root / "tests").rglob("test_*.py"))
        self.importers: dict[str, set[str]] = {name: set() for name in self.sources}
        self.named: dict[Path, set[str]] = {path: self._imports(path) for path in self.tests}
        for name, path in self.sources.items():
            for other in self._imports(path) - {name}:
                self.importers[other].add(name)

    def stages(self, file: str) -> dict[str, Tests]:
        """The tests of every stage for a mutation of ``file``; none twice."""
        module = _dotted(Path(file).relative_to("src"))
        mirror = self._mirror(module)
        room = [
            *sorted((self.root / "tests" / Path(file).relative_to("src/abe").parent).glob("test_*.py")),
            *[path for path in self.tests if module in self.named[path]],
            *[path for other in sorted(self.importers[module]) for path in self._mirror(other)],
        ]
        rest = [path for path in dict.fromkeys(room) if path not in mirror]
        shown = [str(path.relative_to(self.root)) for path in rest]
        return {
            "mirror": Tests(tuple(str(path.relative_to(self.root)) for path in mirror)),
            "names": Tests(OVER_ALL, self._standing_on(module)),
            "room": Tests((file, *shown)),
            "suite": Tests(("tests", "src")),
        }

    def _mirror(self, module: str) -> list[Path]:
        """For abe.a.b: tests/a/test_b.py, test_b_more.py beside it and tests/test_a.py."""
        path = self.sources[module]
        parts = path.relative_to(self.root / "src/abe").with_suffix("").parts
        folder, last = self.root.joinpath("tests", *parts[:-1]), parts[-1]
        found = [*folder.glob(f"test_{last}.py"), *folder.glob(f"test_{last}_*.py")]
        if last == "__init__" and len(parts) > 1:
            found += folder.glob("test_*.py")
        if len(parts) == 2:
            found += folder.parent.glob(f"test_{parts[0]}.py")
        return sorted(found)

    def _standing_on(self, module: str) -> tuple[str, ...]:
        """Names registered in the module or in the nearest modules that import it, step by step."""
        ring, seen = {module}, {module}
        for _ in range(FAR):
            names = sorted({name for one in ring for name in _registered(self.sources[one])})
            if names:
                return tuple(names[:MANY])
            ring = {other for one in ring for other in self.importers[one]} - seen
            seen |= ring
        return ()

    def _imports(self, path: Path) -> set[str]:
        """Modules of ABE that a file imports; of a name from a package, the module of that name too."""
        found: set[str] = set()
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                found |= {name.name for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules = {f"{node.module}.{name.name}" for name in node.names}
                found |= (modules & set(self.sources)) or {node.module}
        return found & set(self.sources)


def _dotted(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def _registered(path: Path) -> tuple[str, ...]:
    """Names of cards in a file."""
    return tuple(
        word.value.value
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Card")
        for word in node.keywords
        if word.arg == "name" and isinstance(word.value, ast.Constant)
    )


# --- running them ---------------------------------------------------------------------------------


class Copy:
    """A copy of the tree, as it is on disk, and pytest in it."""

    def __init__(self, root: Path, stall: float, memory: float) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mutate-"))
        self.stall, self.memory = stall, int(memory * (1 << 30))
        self.moment = time.time()
        self.unfit: list[str] = []
        listed = ["git", "-C", str(root), "ls-files", "-z", "-c", "-o", "--exclude-standard"]
        for name in subprocess.check_output(listed).decode().split("\0"):
            if name and (root / name).is_file():
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(root / name, self.folder / name)

    def write(self, file: str, text: bytes) -> None:
        """Replace a file; its time is another each time, so that no compiled one is taken for it."""
        path = self.folder / file
        path.write_bytes(text)
        self.moment += 2
        os.utime(path, (self.moment, self.moment))

    def failing(self, tests: Tests, *, checked: bool) -> str:
        """The first test that fails, "" if none does; ``checked``: shapes are checked, too."""
        if not tests.paths or not self._there(tests.paths):
            return ""
        words = [
            "-x",
            "-m",
            FAST,
            *(() if checked else UNCHECKED),
            *(f"--deselect={name}" for name in self.unfit),
        ]
        if tests.names:
            words += ["-k", " or ".join(tests.names)]
        return self._run([*words, *self._there(tests.paths)])

    def passes(self, test: str) -> bool:
        """Whether a test, or what pytest could not collect, is right as the tree is now."""
        return not self._run([test] if "::" in test else ["--collect-only", test])

    def close(self) -> None:
        """Remove the copy."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _there(self, paths: Sequence[str]) -> list[str]:
        return [path for path in paths if (self.folder / path).exists()]

    def _run(self, words: list[str]) -> str:
        environment = {
            **os.environ,
            "PYTHONPATH": str(self.folder / "src"),
            "CI": "1",
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", "pytest", "-v", "--tb=no", "-p", "no:cacheprovider", *words]
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (self.memory, self.memory)),
            )
            stalled = self._watched(process, said.fileno())
            said.seek(0)
            lines = said.read().decode(errors="replace").splitlines()
        if stalled:
            return lines[-1].split(" ")[0] or "start"
        if process.returncode in (0, 5):  # 5: no such test
            return ""
        return next(_failed(lines), "start")

    def _watched(self, process: "subprocess.Popen[bytes]", handle: int) -> bool:
        """Wait for the end; whether it had to be made, because nothing was written for too long."""
        size, since, stalled = 0, time.monotonic(), False
        try:
            while process.poll() is None:
                time.sleep(0.2)
                there = os.fstat(handle).st_size
                if there != size:
                    size, since = there, time.monotonic()
                elif time.monotonic() - since > self.stall:
                    stalled = True
                    break
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return stalled


def _failed(lines: list[str]) -> Iterator[str]:
    for line in lines:
        if line.endswith("PASSED") or " PASSED " in line:
            continue
        if met := RESULT.match(line) or COLLECTED.match(line):
            yield met[1]


def tried(copy: Copy, tree: Tree, found: Found, until: str, keep: Any) -> None:
    """Run the stages that are left, up to ``until`` or the first that catches the mutation."""
    mutation = Mutation(**found.mutation)
    original = (copy.folder / mutation.file).read_bytes()
    for stage in STAGES[: STAGES.index(until) + 1]:
        if stage in found.stages or found.caught_by:
            continue
        began = time.monotonic()
        tests = tree.stages(mutation.file)[stage]
        if stage == "names" and not tests.names:
            tests = Tests(())
        try:
            copy.write(mutation.file, mutation.applied(original))
            while test := copy.failing(tests, checked=stage == "suite"):
                copy.write(mutation.file, original)
                if test == "start" or copy.passes(test):
                    found.caught_by = test
                    break
                copy.unfit.append(test)
                copy.write(mutation.file, mutation.applied(original))
        finally:
            copy.write(mutation.file, original)
        found.stages.append(stage)
        found.seconds = round(found.seconds + time.monotonic() - began, 1)
        keep()


# --- the command ----------------------------------------------------------------------------------


def table(results: Sequence[Found]) -> str:
    """One block of lines per mutation, and the count."""
    rows: list[str] = []
    for number, one in enumerate(results, 1):
        m = one.mutation
        rows += [
            f"{number:3}  {m['file']}:{m['line']}  ({m['kind']})",
            f"       - {m['before']}",
            f"       + {m['after']}",
            f"       {one.state}{f' by {one.caught_by}' if one.caught_by else ''}, {one.seconds:g} s",
        ]
    caught = sum(bool(one.caught_by) for one in results)
    return "\n".join([*rows, f"{caught} of {len(results)} caught"])


def main() -> int:
    """Draw, try what is not yet known, and print the table; 1 if a mutation is alive."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.mutate", description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--rooms", nargs="+", choices=ROOMS, default=list(ROOMS))
    parser.add_argument("--until", choices=STAGES, default="suite", help="the last stage that runs")
    parser.add_argument("--only", type=int, nargs="+", metavar="N", help="numbers of the list")
    parser.add_argument("--out", type=Path, help="results; by default out/mutations-SEED.json")
    parser.add_argument("--list", action="store_true", help="only show them, with what is known")
    parser.add_argument("--afresh", action="store_true", help="try those again that are alive")
    parser.add_argument("--stall", type=float, default=300, help="seconds that a test may take")
    parser.add_argument("--memory", type=float, default=8, help="GiB that the tests may take")
    words = parser.parse_args()
    out: Path = words.out or ROOT / "out" / f"mutations-{words.seed}.json"
    if out.exists():  # the lines as they were drawn, whatever became of the sources
        results = [Found(**one) for one in json.loads(out.read_text(encoding="utf-8"))]
    else:
        drawn = chosen(ROOT, words.seed, words.count, tuple(words.rooms))
        results = [Found(asdict(one)) for one in drawn]

    def keep() -> None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps([asdict(one) for one in results], indent=1), encoding="utf-8")

    if not words.list:
        keep()
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended; a second call goes on from here"))
        copy, tree = Copy(ROOT, words.stall, words.memory), Tree(ROOT)
        try:
            for number, one in enumerate(results, 1):
                if words.only and number not in words.only:
                    continue
                if words.afresh and not one.caught_by:
                    one.stages.clear()
                tried(copy, tree, one, words.until, keep)
                print(number, one.mutation["file"], one.state, one.caught_by, flush=True)
        finally:
            copy.close()
        if copy.unfit:
            print("left out, as they fail without any mutation:", *copy.unfit, sep="\n  ")
    print(table(results))
    return int(not all(one.caught_by for one in results))


if __name__ == "__main__":
    sys.exit(main())

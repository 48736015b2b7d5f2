"""Finished parts of a study, kept as they come, so that an interrupted run goes on where it was."""

import json
import os
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from abe import schema
from abe.errors import Code, StorageError
from abe.storage import read_file, replace
from abe.writers import alone

Part = tuple[str, Callable[[], Any]]
"""A name, unique within the study, and what computes its record."""


class Records:
    """Records by name in a file of JSON lines; those of other settings are forgotten.

    Several processes may share the file: each takes over what the others have finished. Of processes with
    different settings the one that wrote last has the file for itself.

    Args:
        path: the file.
        settings: everything a record depends on; the first line of the file.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self.found: dict[str, Any] = {}
        self._first = json.dumps({"settings": settings}, sort_keys=True)
        with _coded(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with alone(path.parent):
                if not self._taken_over():
                    self._rewrite()

    def work(self, title: str, parts: Sequence[Part]) -> None:
        """Compute what is missing, under a progress bar."""
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(title, total=len(parts))
            for name, compute in parts:
                bar.update(task, description=f"{title}: {name}")
                if name not in self.found:
                    self._taken_over()
                if name not in self.found:
                    self.keep(name, compute())
                    if not console.is_terminal:
                        print(f"{title}: {name}", file=sys.stderr, flush=True)
                bar.advance(task)

    def keep(self, name: str, record: Any) -> None:
        """Keep a record in place of what was kept under its name."""
        with _coded(self.path), alone(self.path.parent):
            whole = self._taken_over()
            self.found[name] = record
            if not whole:
                self._rewrite()
                return
            with self.path.open("ab") as file:
                file.write((json.dumps({name: record}) + "\n").encode())
                file.flush()
                os.fsync(file.fileno())

    def _taken_over(self) -> bool:
        """Read what the file has; whether it is ours, and whole."""
        if not self.path.exists():
            return False
        content = read_file(self.path)
        first, *lines = content.split(b"\n")
        if first != self._first.encode():
            return False
        whole = content.endswith(b"\n")
        for line in filter(None, lines):
            try:
                self.found |= schema.read(dict[str, Any], json.loads(line), "a record")
            except (
                ValueError,
                RecursionError,
            ):  # the last line of a run that was ended while writing, or noise
                whole = False
        return whole

    def _rewrite(self) -> None:
        kept = [json.dumps({name: record}) for name, record in self.found.items()]
        replace(self.path, ("\n".join([self._first, *kept]) + "\n").encode())

    def __getitem__(self, name: str) -> Any:
        return self.found[name]


@contextmanager
def _coded(path: Path) -> Generator[None]:
    """Errors of the system as ABE's."""
    try:
        yield
    except StorageError:
        raise
    except OSError as problem:
        raise StorageError(
            Code.NOT_WRITTEN,
            "The records of the study could not be written",
            got=f"{path}: {problem.strerror or problem}",
            fix="Free space and run the study again: it goes on with what was kept",
        ) from problem

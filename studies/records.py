"""Finished parts of a study, kept as they come, so that an interrupted run goes on where it was."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Part = tuple[str, Callable[[], Any]]
"""A name, unique within the study, and what computes its record."""


class Records:
    """Records by name in a file of JSON lines; those of other settings are forgotten.

    Args:
        path: the file.
        settings: everything a record depends on; the first line of the file.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self.found: dict[str, Any] = {}
        first = json.dumps({"settings": settings}, sort_keys=True)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        if lines and lines[0] == first:
            for line in lines[1:]:
                try:
                    self.found |= json.loads(line)
                except ValueError:  # the last line of a run that was ended while writing
                    continue
        kept = [json.dumps({name: record}) for name, record in self.found.items()]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([first, *kept]) + "\n", encoding="utf-8")

    def work(self, title: str, parts: Sequence[Part]) -> None:
        """Compute what is missing, under a progress bar."""
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(title, total=len(parts))
            for name, compute in parts:
                bar.update(task, description=f"{title}: {name}")
                if name not in self.found:
                    self._keep(name, compute())
                    if not console.is_terminal:
                        print(f"{title}: {name}", file=sys.stderr, flush=True)
                bar.advance(task)

    def _keep(self, name: str, record: Any) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({name: record}) + "\n")
        self.found[name] = record

    def __getitem__(self, name: str) -> Any:
        return self.found[name]

"""A progress bar on standard error for anything that takes over two seconds."""

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

DELAY = 2.0
"""Seconds before a bar appears."""


class Progress:
    """Counts rows and shows a bar after two seconds; silent when standard error is not a terminal.

    Args:
        label: what is being done.
        total: rows expected, or None where that is not known.
        enabled: False never shows anything.
    """

    def __init__(self, label: str, total: float | None = None, *, enabled: bool = True) -> None:
        self.label = label
        self.total = total
        self.done = 0.0
        self._enabled = enabled and sys.stderr is not None and sys.stderr.isatty()
        self._began = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, rows: float) -> None:
        """Note that ``rows`` more are done."""
        self.done += rows
        if not self._enabled:
            return
        if self._bar is None:
            if time.monotonic() - self._began < DELAY:
                return
            self._open()
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, description=self.label)

    def relabel(self, label: str) -> None:
        """Say what is being done now."""
        self.label = label

    def _open(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._bar = RichProgress(*columns, console=Console(stderr=True), transient=True)
        self._bar.start()
        self._task = self._bar.add_task(self.label, total=self.total)


@contextmanager
def staged(
    label: str, stages: int, progress: bool | Callable[[int], None] = True
) -> Generator[tuple[bool | Callable[[int], None], Callable[[], None]]]:
    """One bar over several calls, each of which may be too short to show its own.

    Args:
        label: what is being done.
        stages: how many calls.
        progress: whether to show a bar, or a function called with rows done.

    Yields:
        What the calls are given as ``progress=``, and what is called when one of them is done.
    """
    with Progress(label, stages, enabled=progress is True) as bar:

        def alive(rows: int) -> None:
            bar.advance(0)

        yield alive if progress is True else progress, lambda: bar.advance(1)

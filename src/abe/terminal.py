"""Tables for a terminal."""

from collections.abc import Iterator
from typing import Any

from rich.console import Console, ConsoleOptions
from rich.table import Table
from rich.text import Text


class NotedTable(Table):
    """A table with a note below it, which takes the terminal's width and not that of a narrow table.

    Args:
        note: in rich's markup.
        **layout: of the table.
    """

    def __init__(self, note: str, **layout: Any) -> None:
        super().__init__(**layout)
        self.note = note

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        """The table, then the note."""
        yield from super().__rich_console__(console, options)
        yield Text.from_markup(self.note, style="table.caption")

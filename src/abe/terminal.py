"""Tables for a terminal of any width, and text that any terminal can print."""

import unicodedata
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

UNBOUNDED = 100_000
"""Columns of a terminal that never wraps."""
WORDS = 20
"""Columns that are enough for names: longer ones are folded before a table is stacked."""
SENTENCE = 32
"""Columns below which a sentence is too narrow to read."""
NARROW = 60
"""Columns of a terminal with no room for bars."""


def readable(text: str) -> str:
    """Text that can be printed, stored and drawn: bytes that are no text and control characters are ``�``."""
    return "".join("�" if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in text)


class NotedTable(Table):
    """A table with a note below it, which takes the terminal's width and not that of a narrow table.

    Where the terminal is too narrow, the columns are stacked: several tables, each with the leading columns.

    Args:
        note: in rich's markup.
        keys: number of leading columns, which say what a row is and stand in every table of a stack.
        families: of the other columns; neighbours of one family stay together where they fit.
        **layout: of the table.
    """

    def __init__(self, note: str, *, keys: int = 1, families: Sequence[str] = (), **layout: Any) -> None:
        super().__init__(**layout)
        self.note = note
        self.keys = keys
        self.families = families

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        """The table or its stack, then the note."""
        for part in self._stack(console, options):
            yield self._part(part)
        yield Text.from_markup(self.note, style="table.caption")

    def _stack(self, console: Console, options: ConsoleOptions) -> Iterator[list[int]]:
        """Numbers of the columns of each table, as many as fit."""

        def fits(columns: list[int]) -> bool:
            free = options.update(max_width=UNBOUNDED)
            least = Measurement.get(console, free, self._part(columns, words=WORDS)).minimum
            return least <= options.max_width

        keys = list(range(min(self.keys, len(self.columns))))
        part = keys
        for _, family in groupby(range(len(keys), len(self.columns)), key=self._family):
            members = list(family)
            if fits(part + members):
                part = part + members
                continue
            for number in members:
                alone = number == members[0] or not fits([*part, number])
                if alone and part != keys:
                    yield part
                    part = keys
                part = [*part, number]
        yield part

    def _family(self, column: int) -> str:
        place = column - self.keys
        return self.families[place] if place < len(self.families) else ""

    def _part(self, columns: Sequence[int], *, words: int | None = None) -> Table:
        """A table of some of the columns: numbers are never broken, words are where they must."""
        part = Table(box=self.box, padding=self.padding, pad_edge=self.pad_edge)
        chosen = [self.columns[number] for number in columns]
        for column in chosen:
            part.add_column(
                column.header,
                justify=column.justify,
                min_width=column.min_width,
                max_width=None if column.justify == "right" else words,
                no_wrap=column.justify == "right",
                overflow="fold",
            )
        for row in zip(*(column.cells for column in chosen), strict=True):
            part.add_row(*row)
        return part


class Sentences:
    """Rows of short words and a sentence: a table, or one paragraph a row where the terminal is narrow.

    Args:
        head: titles of the columns.
        rows: as many texts each, the sentence last.
    """

    def __init__(self, head: Sequence[str], rows: Sequence[Sequence[Text]]) -> None:
        self.head = head
        self.rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        """The table or the paragraphs."""
        words = [max([0, *(cell.cell_len for cell in column)]) + 2 for column in zip(*self.rows, strict=True)]
        taken = words[:1] + [min(width, WORDS) for width in words[1:-1]]
        if sum(taken) + SENTENCE <= options.max_width:
            yield self._table()
            return
        for *words, sentence in self.rows:
            yield Text("  ").join(word for word in words if word.plain.strip())
            yield Padding(sentence, (0, 0, 0, 2))

    def _table(self) -> Table:
        table = Table(box=SIMPLE_HEAD, padding=(0, 1))
        for number, title in enumerate(self.head):
            table.add_column(title, no_wrap=number == 0, overflow="fold")
        for row in self.rows:
            table.add_row(*row)
        return table

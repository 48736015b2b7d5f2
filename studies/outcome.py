"""What a study hands back, and how it is written: a JSON file, a figure, tables in the terminal."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from abe.explanation import versions
from abe.storage import without_gaps
from studies.statistics import Interval

LINK = re.compile(r"\[([^\]]*)\]\(/[^)]*\)")
"""A link into the documentation; the terminal shows its title."""


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        title: what it shows.
        head: names of the columns.
        rows: cells as text.
        note: how to read it.
    """

    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    note: str = ""


@dataclass(frozen=True)
class Panel:
    """One part of a figure: a value with its interval per row.

    Attributes:
        title: what is measured.
        rows: name and interval, from top to bottom.
        reference: a value drawn as a dashed line, or None.
        label: what the line is.
        log: a logarithmic axis.
    """

    title: str
    rows: list[tuple[str, Interval]]
    reference: float | None = None
    label: str = ""
    log: bool = False


@dataclass(frozen=True)
class Line:
    """Values over x; a single one is drawn as a bar."""

    x: Sequence[float]
    y: Sequence[Interval]


@dataclass(frozen=True)
class Chart:
    """One part of a figure: lines or bars.

    Attributes:
        title: what is measured.
        lines: by name, in the order of the legend.
        across, up: what the axes are; bars need only ``up``.
    """

    title: str
    lines: Mapping[str, Line]
    across: str = ""
    up: str = ""


@dataclass(kw_only=True)
class Outcome:
    """Everything a study found.

    Attributes:
        tables: for terminal and documentation.
        findings: sentences, written from the numbers.
        panels: the figure, of points with their intervals.
        charts: the figure, of lines or bars, where there are no panels.
        values: numbers per photograph, by what they are of, or those that the charts draw.
        caption: what the figure shows, and what its bars and bands are.
    """

    tables: list[Table]
    findings: list[str]
    panels: list[Panel] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    caption: str = ""


def record(outcome: Outcome, path: Path, about: dict[str, Any]) -> None:
    """Everything but the figure, as ``path``.json."""
    content = {
        "format": "abe-study",
        **about,
        "findings": outcome.findings,
        "tables": [vars(table) for table in outcome.tables],
        "caption": outcome.caption,
        "versions": versions(),
    }
    head = json.dumps(content, indent=1, ensure_ascii=False)
    numbers = ",\n".join(
        f"  {json.dumps(k)}: {json.dumps(without_gaps(v))}" for k, v in outcome.values.items()
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    text = head.removesuffix("\n}") + ',\n "values": {\n' + numbers + "\n }\n}\n"
    path.with_suffix(".json").write_text(text, encoding="utf-8")


def show(outcome: Outcome, console: Console) -> None:
    """Tables and findings in the terminal."""
    for table in outcome.tables:
        drawn = RichTable(*table.head, title=table.title, caption=table.note or None)
        for row in table.rows:
            drawn.add_row(*(Text(LINK.sub(r"\1", cell)) for cell in row))
        console.print(drawn)
    for finding in outcome.findings:
        console.print(Text(f"• {finding}"))

"""What a study hands back, and how it is written: a JSON file, a figure, tables in the terminal."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from abe.explanation import versions
from abe.report.figures import INK, MUTED, RULE, blank, finish
from studies.statistics import Interval

DOT, LINE = "#0072b2", "#d55e00"
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


@dataclass(kw_only=True)
class Outcome:
    """Everything a study found.

    Attributes:
        tables: for terminal and documentation.
        findings: sentences, written from the numbers.
        panels: the figure.
        values: numbers per photograph, by what they are of.
        caption: what the figure shows.
    """

    tables: list[Table]
    findings: list[str]
    panels: list[Panel]
    values: dict[str, Any] = field(default_factory=dict)
    caption: str = ""


def write(outcome: Outcome, path: Path, about: dict[str, Any]) -> None:
    """``path``.json and ``path``.png."""
    record(outcome, path, about)
    draw(outcome.panels, path.with_suffix(".png"))


def record(outcome: Outcome, path: Path, about: dict[str, Any]) -> None:
    """``path``.json alone."""
    content = {
        "format": "abe-study",
        **about,
        "findings": outcome.findings,
        "tables": [vars(table) for table in outcome.tables],
        "caption": outcome.caption,
        "versions": versions(),
    }
    head = json.dumps(content, indent=1, ensure_ascii=False)
    numbers = ",\n".join(f"  {json.dumps(k)}: {json.dumps(_plain(v))}" for k, v in outcome.values.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    text = head.removesuffix("\n}") + ',\n "values": {\n' + numbers + "\n }\n}\n"
    path.with_suffix(".json").write_text(text, encoding="utf-8")


def _plain(item: Any) -> Any:
    """Numbers as JSON knows them."""
    if isinstance(item, dict):
        return {key: _plain(part) for key, part in item.items()}
    if isinstance(item, list):
        return [_plain(part) for part in item]
    return None if isinstance(item, float) and not math.isfinite(item) else item


def show(outcome: Outcome, console: Console) -> None:
    """Tables and findings in the terminal."""
    for table in outcome.tables:
        drawn = RichTable(*table.head, title=table.title, caption=table.note or None)
        for row in table.rows:
            drawn.add_row(*(Text(LINK.sub(r"\1", cell)) for cell in row))
        console.print(drawn)
    for finding in outcome.findings:
        console.print(Text(f"• {finding}"))


def draw(panels: Sequence[Panel], path: Path) -> None:
    """Points with intervals, panels side by side; names that all panels share stand once."""
    longest = max(len(panel.rows) for panel in panels)
    named = [[name for name, _ in panel.rows] for panel in panels]
    shown = [i == 0 or names != named[i - 1] for i, names in enumerate(named)]
    widest = sum(0.055 * max(map(len, names)) for names, show in zip(named, shown, strict=True) if show)
    figure = blank(0.4 + widest + 2.6 * len(panels), 1.2 + 0.24 * longest)
    for index, panel in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), index + 1)
        heights = range(len(panel.rows), 0, -1)
        for height, (_, value) in zip(heights, panel.rows, strict=True):
            axes.plot([value.low, value.high], [height, height], color=DOT, linewidth=1.6, alpha=0.55)
            axes.plot([value.mean], [height], "o", color=DOT, markersize=4.5)
        if panel.reference is not None:
            axes.axvline(panel.reference, color=LINE, linestyle="--", linewidth=1.1)
            axes.set_xlabel(f"dashed: {panel.label}", fontsize=7, color=LINE)
        if panel.log:
            axes.set_xscale("log")
        else:
            axes.locator_params(axis="x", nbins=5)
        names = named[index] if shown[index] else [""] * len(panel.rows)
        dress(axes, panel.title, grid="x")
        axes.set_yticks(list(heights), names, fontsize=7.5, color=INK)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(0.3, len(panel.rows) + 0.7)
    finish(figure, path)


def dress(axes: Any, title: str, *, grid: str) -> None:
    """What all figures of studies share; ``grid`` is the axis whose values the lines mark."""
    axes.set_title(title, fontsize=9, color=INK)
    axes.tick_params(labelsize=7, colors=MUTED)
    axes.grid(axis=grid, color=RULE, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)

"""What a demonstration hands back: tables, sentences and charts of lines or bars, each with its spread."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from abe.metrics.evaluation.statistics import intervals
from abe.report.colour import CYCLE
from abe.report.figures import INK, blank, finish
from studies.outcome import Outcome, Table, dress
from studies.statistics import Interval, verdict

PRECISION = 5
"""Significant digits of a number in the result file."""


@dataclass(frozen=True)
class Line:
    """Values over x; a single one is drawn as a bar."""

    x: Sequence[float]
    y: Sequence[Interval]


@dataclass(frozen=True)
class Chart:
    """One part of a figure.

    Attributes:
        title: what is measured.
        lines: by name, in the order of the legend.
        across, up: what the axes are; bars need only ``up``.
    """

    title: str
    lines: Mapping[str, Line]
    across: str = ""
    up: str = ""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a demonstration found.

    Attributes:
        tables: for terminal and documentation.
        findings: sentences, written from the numbers.
        charts: the figure.
        caption: what the figure shows, and what its bars and bands are.
    """

    tables: list[Table]
    findings: list[str]
    charts: list[Chart]
    caption: str

    def outcome(self) -> Outcome:
        """As the other studies are written: every drawn number by chart and line."""
        values = {
            chart.title: {
                name: {"x": _short(line.x)} | {end: _short([getattr(v, end) for v in line.y]) for end in ENDS}
                for name, line in chart.lines.items()
            }
            for chart in self.charts
        }
        return Outcome(
            tables=self.tables, findings=self.findings, panels=[], values=values, caption=self.caption
        )


ENDS = ("mean", "low", "high")


def _short(numbers: Sequence[float]) -> list[float]:
    return [float(f"{n:.{PRECISION}g}") for n in numbers]


def spread(values: Sequence[float] | torch.Tensor) -> Interval:
    """Mean and 95 % bootstrap interval, as wide as Student's t would be where values are few."""
    column = torch.as_tensor(values, dtype=torch.float64)[:, None]
    low, high = intervals(column)[0]
    return Interval(float(column.nanmean()), low, high)


def exactly(value: float) -> Interval:
    """A number without spread."""
    return Interval(value, value, value)


def extremes(values: Sequence[float]) -> Interval:
    """Mean, lowest and highest; none where one of them is missing."""
    if any(math.isnan(v) for v in values):
        return exactly(math.nan)
    return Interval(sum(values) / len(values), min(values), max(values))


def said(claim: str, gain: Interval, of: str = "difference") -> str:
    """A claim that a difference is above zero, and what its whole interval says of it."""
    return f"{claim}: {verdict(gain)} ({of} {gain})."


def draw(charts: Sequence[Chart], path: Path) -> None:
    """Charts side by side."""
    figure = blank(0.6 + 3.7 * len(charts), 3.3)
    for number, chart in enumerate(charts):
        axes = figure.add_subplot(1, len(charts), number + 1)
        for (name, line), colour in zip(chart.lines.items(), CYCLE, strict=False):
            (_bar if len(line.y) == 1 else _line)(axes, name, line, colour)
        dress(axes, chart.title, grid="y")
        axes.set_xlabel(chart.across, fontsize=7.5, color=INK)
        axes.set_ylabel(chart.up, fontsize=7.5, color=INK)
        axes.set_axisbelow(True)
        if any(len(line.y) > 1 for line in chart.lines.values()):
            axes.legend(frameon=False, fontsize=7)
    finish(figure, path)


def _bar(axes: Any, name: str, line: Line, colour: str) -> None:
    (value,) = line.y
    ends = [[max(0.0, value.mean - value.low)], [max(0.0, value.high - value.mean)]]
    axes.bar([name], [value.mean], yerr=ends, color=colour, alpha=0.8, width=0.6, capsize=3, ecolor=INK)


def _line(axes: Any, name: str, line: Line, colour: str) -> None:
    low, high = ([getattr(v, end) for v in line.y] for end in ENDS[1:])
    axes.plot(line.x, [v.mean for v in line.y], marker=".", color=colour, label=name, linewidth=1.4)
    axes.fill_between(line.x, low, high, color=colour, alpha=0.15, linewidth=0)

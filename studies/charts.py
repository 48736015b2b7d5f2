"""The figures of studies: points with intervals, or lines and bars, each with its spread."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from abe.metrics.evaluation.statistics import intervals
from abe.report.canvas import INK, MUTED, RULE, blank, finish
from abe.report.colour import CYCLE
from studies.outcome import Chart, Line, Outcome, Panel, Table
from studies.statistics import Interval, verdict

PRECISION = 5
"""Significant digits of a number in the result file."""


DOT, DASHED = "#0072b2", "#d55e00"


def draw(outcome: Outcome, path: Path) -> None:
    """The figure of a study."""
    finish(_points(outcome.panels) if outcome.panels else _charts(outcome.charts), path)


def _points(panels: Sequence[Panel]) -> Any:
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
            axes.axvline(panel.reference, color=DASHED, linestyle="--", linewidth=1.1)
            axes.set_xlabel(f"dashed: {panel.label}", fontsize=7, color=DASHED)
        if panel.log:
            axes.set_xscale("log")
        else:
            axes.locator_params(axis="x", nbins=5)
        names = named[index] if shown[index] else [""] * len(panel.rows)
        _dress(axes, panel.title, grid="x")
        axes.set_yticks(list(heights), names, fontsize=7.5, color=INK)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(0.3, len(panel.rows) + 0.7)
    return figure


def _dress(axes: Any, title: str, *, grid: str) -> None:
    """What all figures of studies share; ``grid`` is the axis whose values the lines mark."""
    axes.set_title(title, fontsize=9, color=INK)
    axes.tick_params(labelsize=7, colors=MUTED)
    axes.grid(axis=grid, color=RULE, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)


ENDS = ("mean", "low", "high")


def charted(*, tables: list[Table], findings: list[str], charts: list[Chart], caption: str) -> Outcome:
    """An outcome whose values are every number that its charts draw, by chart and line."""
    values = {
        chart.title: {
            name: {"x": _short(line.x)} | {end: _short([getattr(v, end) for v in line.y]) for end in ENDS}
            for name, line in chart.lines.items()
        }
        for chart in charts
    }
    return Outcome(tables=tables, findings=findings, charts=charts, values=values, caption=caption)


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


def _charts(charts: Sequence[Chart]) -> Any:
    """Charts side by side."""
    figure = blank(0.6 + 3.7 * len(charts), 3.3)
    for number, chart in enumerate(charts):
        axes = figure.add_subplot(1, len(charts), number + 1)
        for (name, line), colour in zip(chart.lines.items(), CYCLE, strict=False):
            (_bar if len(line.y) == 1 else _line)(axes, name, line, colour)
        _dress(axes, chart.title, grid="y")
        axes.set_xlabel(chart.across, fontsize=7.5, color=INK)
        axes.set_ylabel(chart.up, fontsize=7.5, color=INK)
        axes.set_axisbelow(True)
        if any(len(line.y) > 1 for line in chart.lines.values()):
            axes.legend(frameon=False, fontsize=7)
    return figure


def _bar(axes: Any, name: str, line: Line, colour: str) -> None:
    (value,) = line.y
    ends = [[max(0.0, value.mean - value.low)], [max(0.0, value.high - value.mean)]]
    axes.bar([name], [value.mean], yerr=ends, color=colour, alpha=0.8, width=0.6, capsize=3, ecolor=INK)


def _line(axes: Any, name: str, line: Line, colour: str) -> None:
    low, high = ([getattr(v, end) for v in line.y] for end in ENDS[1:])
    axes.plot(line.x, [v.mean for v in line.y], marker=".", color=colour, label=name, linewidth=1.4)
    axes.fill_between(line.x, low, high, color=colour, alpha=0.15, linewidth=0)

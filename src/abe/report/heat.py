"""Heat maps of generated tokens by what they rest on."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from abe.report import colour
from abe.report.canvas import INK, MUTED, blank, finish, plain, short
from abe.report.generated import DRAWN, NAMED, NUMBERED, Generated, strongest
from abe.report.numbers import percent, signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw(tables: Sequence[Generated], *, path: str | Path | None = None) -> "Figure":
    """A heat map for every prompt: a row for each generated token, a column for each unit.

    Args:
        tables: of the prompts.
        path: also write the figure there.
    """
    shown = [strongest(table, DRAWN) for table in tables]
    widest = max(len(columns) for columns in shown)
    heights = [1.1 + 0.34 * len(table.rows) for table in tables]
    figure = blank(max(5.0, 2.6 + 0.46 * widest), 0.5 + sum(heights))
    grid = figure.add_gridspec(len(tables), 1, height_ratios=heights)
    for number, (table, columns) in enumerate(zip(tables, shown, strict=True)):
        _heat(figure.add_subplot(grid[number, 0]), table, columns)
    figure.supxlabel(
        "orange supports a generated token, blue opposes it; * holds the last token of the prompt, where the first "
        "is read;\nright of the line what was generated before",
        fontsize=7,
        color=MUTED,
    )
    return finish(figure, path)


def _heat(axes: "Axes", table: Generated, columns: Sequence[int]) -> None:
    values = table.values[:, columns]
    levels = colour.signed_levels(values, table.bound)
    picture = colour.signed_palette()[levels]
    picture[~np.isfinite(values)] = (128, 128, 128, 24)
    axes.imshow(picture, aspect="auto", interpolation="nearest")
    axes.set_xticks(range(len(columns)), [plain(short(table.head(c), NAMED)) for c in columns], rotation=60)
    for label in axes.get_xticklabels():
        label.set_horizontalalignment("left")
        label.set_rotation_mode("anchor")
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(table.rows)), [plain(short(name, NAMED)) for name in table.rows])
    axes.tick_params(labelsize=8, colors=INK, length=0)
    border = sum(c < table.border for c in columns)
    if border < len(columns):
        axes.axvline(border - 0.5, color=MUTED, linewidth=1.0)
    if len(columns) <= NUMBERED:
        _numbers(axes, values)
    right: Any = axes.secondary_yaxis("right")
    told = table.probability
    right.set_yticks(
        range(len(table.rows)),
        [
            f"{table.score[row]:.2f}" + ("" if told is None else f"  p {percent(told[row])}")
            for row in range(len(table.rows))
        ],
    )
    right.tick_params(labelsize=7, colors=MUTED, length=0)
    for spine in (*axes.spines.values(), *right.spines.values()):
        spine.set_visible(False)
    left = len(table.columns) - len(columns)
    more = f"; the strongest {len(columns)} of {len(table.columns)}" if left else ""
    axes.set_title(plain(f"{table.title}{more}"), fontsize=9, color=INK, pad=6, loc="left")


def _numbers(axes: "Axes", values: Any) -> None:
    for row, line in enumerate(values.tolist()):
        for column, value in enumerate(line):
            if np.isfinite(value):
                axes.text(column, row, signed(value), fontsize=6, color=INK, ha="center", va="center")

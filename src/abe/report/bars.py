"""Columns of rows as bars, a waterfall, or a swarm of many rows."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from abe.report.blocks import (
    BARS,
    MANY,
    MARGIN,
    OPPOSES,
    ROOM,
    ROW,
    SUPPORTS,
    WIDTH,
    Block,
    Sheet,
    fitted,
    fitted_inside,
    note,
    stacked,
    width_of,
)
from abe.report.canvas import INK, MUTED
from abe.report.looks import EXACT, Account, Look, strongest
from abe.report.numbers import signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes


SMALL = 8.0
"""Points of the names beside bars."""


def columns(look: Look, account: Account | None) -> Block:
    """Bars; a waterfall from the reference's score to that of the sample where the map claims that change."""
    shown, others = strongest(look, BARS)
    names = 2.6
    rows = [(_cell(name, told, names) if told else name, value) for name, told, value in shown]
    rows += [(f"{len(others)} others", sum(value for *_, value in others))] if others else []
    rows += [("fixed positions", look.fixed)] if look.fixed else []
    starts = account is not None and account.reference is not None
    if starts and account is not None and account.missing is not None:
        change = account.score - (account.reference or 0.0)
        rows += [("missing", account.missing)] if abs(account.missing) > EXACT * abs(change) else []
    first = account.reference if starts and account is not None else None
    height = ROW * (len(rows) + (2 if starts else 0)) + 0.1

    def paint(sheet: Sheet, left: float, top: float) -> None:
        axes = sheet.axes(left + names, top, ROOM - names, height)
        at = [first or 0.0]
        for _, value in rows:
            at.append(at[-1] + value if starts else 0.0)
        ends = at if starts else [0.0, *(value for _, value in rows)]
        low, high = min(ends), max(ends)
        reach = (high - low) or 1.0
        room = 0.24 * reach
        above = 1 if starts else 0
        for number, (name, value) in enumerate(rows):
            y, begin = number + above, at[number] if starts else 0.0
            hue = "#9aa4af" if name == "missing" else SUPPORTS if value >= 0 else OPPOSES
            axes.barh(y, value, left=begin, height=0.62, color=hue, alpha=0.85)
            side, where = (1, max(begin, begin + value)) if value >= 0 else (-1, min(begin, begin + value))
            axes.text(
                where + side * 0.02 * reach,
                y,
                signed(value),
                fontsize=7.5,
                color=INK,
                ha="left" if side > 0 else "right",
                va="center",
            )
            if starts:
                axes.plot([begin + value] * 2, [y, y + 1], color=MUTED, linewidth=0.7)
            _label(axes, y, name, names)
        if starts and account is not None:
            last = len(rows) + 1
            axes.plot([at[0]] * 2, [0, 1], color=MUTED, linewidth=0.7)
            for y, name, value in (
                (0, "at the reference", at[0]),
                (last, f"{account.objective} of the sample", at[-1]),
            ):
                axes.plot([value], [y], "o", markersize=4, color=INK)
                side = -1 if value > (low + high) / 2 else 1
                axes.text(
                    value + side * 0.025 * reach,
                    y,
                    signed(value, plus=False),
                    fontsize=7.5,
                    color=INK,
                    ha="left" if side > 0 else "right",
                    va="center",
                )
                _label(axes, y, name, names)
        else:
            axes.axvline(0, color=MUTED, linewidth=0.7)
        axes.set(xlim=(low - room, high + room), ylim=(len(rows) + 2 * above - 0.5, -0.5))
        axes.set_axis_off()

    return Block(height, paint)


def _cell(name: str, told: str, room: float) -> str:
    """A column and what is in it; where both are too long, the column's name gives way first."""
    value = fitted(f" = {told}", SMALL, (room - 0.15) / 2)
    return fitted_inside(name, SMALL, room - 0.15 - width_of(value, SMALL)) + value


def _label(axes: "Axes", y: float, name: str, room: float) -> None:
    """A name to the left of the bars, cut in its middle where it is too long."""
    text = fitted_inside(name, SMALL, room - 0.15)
    place = axes.get_yaxis_transform()
    axes.text(
        -0.01, y, text, fontsize=SMALL, color=INK, ha="right", va="center", transform=place, parse_math=False
    )


def swarm(samples: Sequence[Any]) -> Block | None:
    """Rows of many samples as one picture: every dot is a sample, its colour what the column holds there."""
    if len(samples) < MANY or any(len(one.maps) != 1 or len(one.maps[0].looks) != 1 for one in samples):
        return None
    shown = [one.maps[0].looks[0] for one in samples]
    names = [entry[0] for entry in shown[0].entries]
    if any(look.kind != "columns" or [e[0] for e in look.entries] != names for look in shown):
        return None
    values = np.array([look.values for look in shown])
    order = np.argsort(-np.abs(values).mean(0), kind="stable")[:BARS]
    told = [[look.entries[column][1] for look in shown] for column in order]
    height = 0.32 * len(order) + 0.5
    title, account = samples[0].maps[0].title, samples[0].maps[0].account
    unit = account.objective.lower() if account is not None and account.objective else "score"
    left_out = len(names) - len(order)
    of_all = (
        f"{len(samples)} rows, the {len(order)} columns of largest mean magnitude"
        if left_out
        else f"{len(samples)} rows"
    )

    def paint(sheet: Sheet, left: float, top: float) -> None:
        said = f"{title}, {of_all}; every dot is a row, further right supports the decision"
        sheet.write(left, top, said, size=9)
        wide = WIDTH - 2 * MARGIN - 2.6 - 0.9
        axes = sheet.axes(left + 2.6, top + 0.3, wide, height - 0.3)
        reach = float(np.abs(values[:, order]).max()) or 1.0
        for row, column in enumerate(order):
            own = values[:, column]
            hues = _ranks(told[row])
            axes.scatter(own, row + _heights(own / reach), c=hues, s=14, linewidth=0)
            _label(axes, row, names[column], 2.6)
        axes.axvline(0, color=MUTED, linewidth=0.7, zorder=0)
        axes.set(xlim=(-1.08 * reach, 1.08 * reach), ylim=(len(order) - 0.5, -0.5), yticks=[])
        axes.tick_params(labelsize=7, colors=MUTED, length=2)
        axes.set_xlabel(f"share of the {unit}", fontsize=7, color=MUTED, labelpad=1)
        axes.spines[["left", "right", "top"]].set_visible(False)
        bar = sheet.axes(left + 2.6 + wide + 0.2, top + 0.45, 0.1, height - 0.75)
        bar.imshow(np.linspace(1, 0, 64)[:, None], aspect="auto", cmap="viridis")
        bar.set(xticks=[], yticks=[0, 63])
        bar.yaxis.tick_right()
        bar.set_yticklabels(["high", "low"], fontsize=7, color=MUTED)
        bar.tick_params(length=0)

    footer = note("colour: the column's value among these rows, by rank; grey where it is no number", MUTED)
    return stacked([Block(height + 0.5, paint), footer])


def _ranks(told: Sequence[str]) -> Any:
    """A colour by where each value stands among all; grey for all where one is no number."""
    from matplotlib import colormaps

    try:
        numbers = np.array([float(text.replace("−", "-")) for text in told])
    except ValueError:
        return ["#9aa4af"] * len(told)
    levels, place = np.unique(numbers, return_inverse=True)
    return colormaps["viridis"](place / max(1, len(levels) - 1))


def _heights(places: Any) -> Any:
    """How far dots step aside, so that neighbours do not hide each other."""
    bins = np.round(places * 60).astype(int)
    found, seen = np.zeros(len(bins)), dict[int, int]()
    for number, own in enumerate(bins.tolist()):
        count = seen[own] = seen.get(own, 0) + 1
        found[number] = (count // 2) * (-1 if count % 2 else 1)
    most = np.abs(found).max() or 1
    return found / most * min(0.36, 0.08 * most)

"""The figure of a recommendation: how far methods may lie behind the best, and who dominates whom."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from abe.report.canvas import ARROWS, INK, MUTED, RULE, blank, finish, plain, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEST = "#d54a00"


def plot_recommendation(choice: Any, *, path: str | Path | None = None) -> "Figure":
    """Per criterion the interval of how far every method lies behind the best mean; and two criteria at once.

    Filled: may be the best. The grey band is the difference that does not matter. Controls are hollow
    squares. Where there are two criteria, the last panel shows the means of both, the front filled.

    Args:
        choice: what `abe.recommend` returns.
        path: also write the figure there.
    """
    standings = choice.standings
    most = max(len(one.ranking.names) for one in standings)
    panels = len(standings) + (len(standings) > 1)
    figure = blank(1.2 + 3.0 * panels, 1.1 + 0.27 * most)
    grid = figure.subplots(1, panels, squeeze=False)[0]
    for axes, standing in zip(grid, standings, strict=False):
        _behind(axes, standing, choice.controls)
    if panels > len(standings):
        _both(grid[-1], standings[0], standings[1], choice)
    figure.suptitle(_wrapped(choice.sentence, 28 * panels), fontsize=8, color=INK, x=0.01, ha="left")
    return finish(figure, path)


def _behind(axes: "Axes", standing: Any, controls: tuple[str, ...]) -> None:
    ranking = standing.ranking
    sign = 1 if standing.direction == "higher" else -1
    order = sorted(range(len(ranking.names)), key=lambda i: -sign * ranking.means[i])
    axes.axvspan(0, ranking.margin, color=RULE, alpha=0.6, linewidth=0)
    top = sign * ranking.means[order[0]]
    for at, i in enumerate(order):
        low, high = standing.behind[i]
        if np.isfinite([low, high]).all():
            axes.plot([low, high], [at, at], color=MUTED, linewidth=1.4, solid_capstyle="butt")
        mark = "s" if ranking.names[i] in controls else "o"
        face = BEST if ranking.best[i] else "white"
        axes.plot(
            [top - sign * ranking.means[i]],
            [at],
            mark,
            markersize=4.5,
            markerfacecolor=face,
            markeredgecolor=BEST,
        )
    axes.set_yticks(range(len(order)), [plain(short(ranking.names[i])) for i in order])
    axes.set_ylim(len(order) - 0.5, -0.5)
    axes.set_title(
        plain(f"{standing.criterion} {ARROWS[standing.direction]}: behind the best"), fontsize=8, color=INK
    )
    _quiet(axes)


def _both(axes: "Axes", first: Any, second: Any, choice: Any) -> None:
    """Means by two criteria; what lies better by both than a method dominates it."""
    places = dict(zip(second.ranking.names, second.ranking.means, strict=True))
    named: list[tuple[float, float, str]] = []
    for name, mean in zip(first.ranking.names, first.ranking.means, strict=True):
        if name not in places:
            continue
        face = BEST if name in choice.front else "white"
        mark = "s" if name in choice.controls else "o"
        axes.plot([mean], [places[name]], mark, markersize=4.5, markerfacecolor=face, markeredgecolor=BEST)
        if name in choice.front:
            named.append((mean, places[name], name))
    values = [places[name] for name in first.ranking.names if name in places]
    if values and min(values) > 0 and max(values) > 30 * min(values):
        axes.set_yscale("log")
    for at, (x, y, name) in enumerate(sorted(named, key=lambda one: one[1])):
        style = {"arrowstyle": "-", "color": RULE, "linewidth": 0.5}
        side = (0.03, 0.97 - 0.06 * (len(named) - 1 - at))
        axes.annotate(
            plain(short(name)),
            (x, y),
            side,
            textcoords="axes fraction",
            fontsize=6,
            color=MUTED,
            va="top",
            arrowprops=style,
        )
    axes.set_xlabel(plain(f"{first.criterion} {ARROWS[first.direction]}"), fontsize=7, color=MUTED)
    axes.set_ylabel(plain(f"{second.criterion} {ARROWS[second.direction]}"), fontsize=7, color=MUTED)
    axes.set_title("both; filled: nobody dominates", fontsize=8, color=INK)
    _quiet(axes)


def _quiet(axes: "Axes") -> None:
    axes.tick_params(labelsize=6.5, colors=MUTED, length=2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_offset_text().set_fontsize(6)
    axes.grid(axis="x", color=RULE, linewidth=0.4)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _wrapped(text: str, width: int) -> str:
    from textwrap import fill

    return plain(fill(text, max(60, width)))

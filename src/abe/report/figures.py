"""Panels drawn with matplotlib's objects: no pyplot, no global state, nothing left behind.

Signed maps are averaged over a small neighbourhood, as single pixels of a photograph's map are noise to the
eye, and say so; ``smooth=0`` shows them as computed. The second reading, *where*, averages magnitudes.
What is no photograph is drawn by `abe.report.drawn`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from abe.report import colour, looks, view
from abe.report.canvas import ARROWS, INK, MUTED, RULE, finish, plain, short
from abe.report.canvas import blank as sheet
from abe.report.canvas import save as save
from abe.report.drawn import draw
from abe.terminal import readable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAPS_ABREAST = 8
"""Most maps side by side in a panel before the next line begins."""


def plot_explanation(
    explanation: Any, *, path: str | Path | None = None, smooth: float | None = None
) -> "Figure":
    """What is explained, the map over it, and the top classes.

    Photographs are shown beside their map in two readings; words in colours that wrap; columns as a waterfall
    from the reference's score to that of the sample, as a swarm from twelve rows on, and as bars where
    the method claims no sum; lines with a strip beneath every channel; the slices of a volume that hold most
    of the magnitude; points from two sides. Of several inputs each has its own part.

    Args:
        explanation: an `abe.Explanation`.
        path: also write the figure there (the suffix chooses the format).
        smooth: standard deviation in pixels of an average over the signed map; by default .8 % of the longer
            side; 0 shows it as computed. Of photographs.
    """
    count, blank = len(explanation.target), len(explanation.blank_names)
    if explanation.modality == "language" and count > 1 and "prompt" in explanation.diagnostics:
        from abe.generated import tables
        from abe.report.heat import draw as draw_heat

        return draw_heat(tables(explanation), path=path)
    photos = [view.sample_view(explanation, i, readable(explanation.names[i])) for i in range(count)]
    if not looks.is_picture(explanation):
        return draw(photos, path=path)
    figure = sheet(11.0, 2.75 * (count + blank) + 0.3)
    grid = figure.add_gridspec(count + blank, 4, width_ratios=(1, 1, 1, 1.15))
    for row, photo in enumerate(photos):
        shown = photo.maps[0]
        _photo(figure.add_subplot(grid[row, 0]), photo, photo.explained)
        _signed(figure.add_subplot(grid[row, 1]), photo, shown, shown.title, smooth)
        _where(figure.add_subplot(grid[row, 2]), photo, shown, "where (average of magnitude)")
        _bars(figure.add_subplot(grid[row, 3]), photo)
    for row in range(blank):
        axes = figure.add_subplot(grid[count + row, 0])
        axes.imshow(view.pixels(explanation.blank[row]), interpolation="antialiased")
        _tile(axes, f"{short(readable(explanation.blank_names[row]), 30)}: nothing found")
    if count:
        _legend(figure, smooth)
    return finish(figure, path)


def plot_photo(
    photo: view.SampleView, *, path: str | Path | None = None, smooth: float | None = None
) -> "Figure":
    """One sample of a comparison: decision and curves above, all maps below, of photographs in both readings.

    Args:
        photo: one of the samples of `abe.report.view.from_comparison`.
        path: also write the figure there.
        smooth: standard deviation in pixels of an average over the signed maps; by default .8 % of the
            longer side; 0 shows them as computed.
    """
    if photo.image is None:
        return draw([photo], path=path)
    lines = max(1, -(-len(photo.maps) // MAPS_ABREAST))
    columns = max(4, -(-len(photo.maps) // lines))
    width = max(10.5, 1.72 * columns)
    height = 2.18 * width / columns + 0.1
    head = max(0.18 * width + 0.45, 0.4 + 0.16 * len(photo.maps))  # of the tiles, and the lines' names
    figure = sheet(width, head + height * lines)
    above, below = figure.add_gridspec(2, 1, height_ratios=(head, height * lines))
    _head(figure, above, photo)
    tiles = below.subgridspec(2 * lines, columns, hspace=0.08, wspace=0.06)
    for number, shown in enumerate(photo.maps):
        row, column = divmod(number, columns)
        facts = "   ".join(f"{label} {value}" for label, value in shown.facts[:2])
        title = f"{short(shown.title, 29)}\n{facts}"
        _signed(figure.add_subplot(tiles[2 * row, column]), photo, shown, title, smooth)
        _where(figure.add_subplot(tiles[2 * row + 1, column]), photo, shown, "")
    more = "; below each, where its magnitude lies, averaged over the neighbourhood"
    _legend(figure, smooth, f"{more}\nexplained: {plain(short(photo.explained, 80))}")
    return finish(figure, path)


def plot_comparison(
    comparison: Any, *, folder: str | Path | None = None, smooth: float | None = None
) -> "list[Figure]":
    """One panel per sample of a comparison (see `plot_photo`).

    Args:
        comparison: what `abe.compare` returns.
        folder: also write ``<sample>.png`` there.
        smooth: see `plot_photo`.
    """
    page = view.from_comparison(comparison)
    stems = view.stems([photo.name for photo in page.samples])
    paths = [None if folder is None else Path(folder) / f"{stem}.png" for stem in stems]
    return [
        plot_photo(photo, path=path, smooth=smooth) for photo, path in zip(page.samples, paths, strict=True)
    ]


def plot_scores(comparison: Any, *, path: str | Path | None = None) -> "Figure":
    """Means with their intervals, one panel per metric; filled where the best, or said not to differ from it.

    Args:
        comparison: what `abe.evaluate` or `abe.compare` returns.
        path: also write the figure there.
    """
    metrics, names = comparison.metrics, comparison.methods
    columns = min(4, len(metrics))
    lines = -(-len(metrics) // columns)
    figure = sheet(1.4 + 2.6 * columns, 0.4 + lines * (0.9 + 0.24 * len(names)))
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True).flatten()
    for axes in grid[len(metrics) :]:
        axes.set_axis_off()
    for axes, metric in zip(grid, metrics, strict=False):
        leaders = [] if comparison.undecided else comparison.leaders(metric.name)
        for at, name in enumerate(names):
            _interval(axes, at, comparison.scores[name][metric.name], name in leaders)
        title = metric.name if metric.card is None else metric.card.title
        axes.set_title(plain(f"{title} {ARROWS[metric.direction]}"), fontsize=8, color=INK, pad=4)
        axes.set_yticks(range(len(names)), [plain(short(name)) for name in names])
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.tick_params(labelsize=6.5, colors=MUTED, length=2)
        axes.locator_params(axis="x", nbins=4)
        axes.grid(axis="x", color=RULE, linewidth=0.4)
        axes.spines[["top", "right", "left"]].set_visible(False)
    figure.supxlabel(_told_of(comparison), fontsize=7, color=MUTED)
    return finish(figure, path)


def _told_of(comparison: Any) -> str:
    """What the dots and lines of `plot_scores` are."""
    b, share = len(comparison.names), f"{100 * comparison.confidence:g} %"
    mean = (
        f"mean over {b} samples with its {share} bootstrap interval" if b > 1 else "one sample, no interval"
    )
    if comparison.undecided:
        return f"{mean}; too few samples to tell methods apart, so none is marked as the best"
    return f"{mean}; filled: the best mean, and whatever is said not to differ from it"


def _interval(axes: "Axes", at: int, score: Any, leads: bool) -> None:
    """One method's mean as a dot on the line of its interval."""
    if not np.isfinite(score.mean):
        axes.plot([], [])
        return
    if score.interval is not None:
        axes.plot(score.interval, [at, at], color=MUTED, linewidth=1.4, solid_capstyle="butt")
    face = "#d54a00" if leads else "white"
    axes.plot([score.mean], [at], "o", markersize=4.5, markerfacecolor=face, markeredgecolor="#d54a00")


def _tile(axes: "Axes", title: str) -> None:
    axes.set_anchor("N")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_edgecolor(RULE)
        spine.set_linewidth(0.6)
    if title:
        axes.set_title(plain(title), fontsize=8, color=INK, pad=4)


def _image(photo: view.SampleView) -> Any:
    return photo.image


def _photo(axes: "Axes", photo: view.SampleView, title: str) -> None:
    shown: Any = photo.shown
    axes.imshow(shown, interpolation="antialiased")
    _tile(axes, title)


def _sigma(shown: view.MapView, smooth: float | None) -> float:
    return colour.SMOOTH * max(shown.values.shape) if smooth is None else smooth


def _signed(
    axes: "Axes", photo: view.SampleView, shown: view.MapView, title: str, smooth: float | None
) -> None:
    values = colour.average(shown.values, _sigma(shown, smooth))
    levels = colour.signed_levels(values, colour.limit(values))
    ground = colour.grey(_image(photo), 0.16)
    axes.imshow(colour.over(levels, colour.signed_palette(), ground), interpolation="antialiased")
    _tile(axes, title)


def _where(axes: "Axes", photo: view.SampleView, shown: view.MapView, title: str) -> None:
    levels = colour.where_levels(shown.values)
    picture = colour.over(levels, colour.where_palette(), colour.grey(_image(photo)))
    axes.imshow(picture, interpolation="antialiased")
    _tile(axes, title)


def _bars(axes: "Axes", photo: view.SampleView) -> None:
    names = [f"{view.percent(p)}  {short(name, 28)}" for name, p in photo.top]
    values = [p for _, p in photo.top]
    at = np.arange(len(names))
    colours = ["#d54a00" if name == photo.target else "#9aa4af" for name, _ in photo.top]
    axes.barh(at, values, height=0.24, color=colours)
    axes.set_ylim(max(len(names), 5) - 0.45, -0.75)
    axes.set_xlim(0, 1)
    for y, name in zip(at, names, strict=True):
        axes.text(0, y - 0.2, plain(name), fontsize=7.5, color=INK, va="bottom")
    axes.set_axis_off()
    axes.set_box_aspect(1)
    axes.set_anchor("N")
    axes.set_title("what the model answers", fontsize=8, color=INK, pad=4)


def _head(figure: "Figure", cell: Any, photo: view.SampleView) -> None:
    curves = photo.curves[:2]
    widths = (1, 1, *(1.35 for _ in curves), 0.9)
    parts = cell.subgridspec(1, len(widths), width_ratios=widths)
    _photo(figure.add_subplot(parts[0, 0]), photo, short(photo.name))
    _bars(figure.add_subplot(parts[0, 1]), photo)
    drawn = [figure.add_subplot(parts[0, 2 + column]) for column in range(len(curves))]
    for axes, curve in zip(drawn, curves, strict=True):
        _curve(axes, curve)
    if drawn:
        _names(figure.add_subplot(parts[0, -1]), drawn[0])


def _names(axes: "Axes", curves: "Axes") -> None:
    """The lines' names, in a place of their own."""
    handles, labels = curves.get_legend_handles_labels()
    axes.set_axis_off()
    axes.legend(handles, labels, fontsize=6.5, frameon=False, loc="upper left", labelcolor=INK, borderpad=0)


def _curve(axes: "Axes", curve: view.CurveView) -> None:
    for index, (name, values) in enumerate(curve.lines):
        hue, dash = colour.line(index)
        style: Any = (0, dash) if dash else "-"
        axes.plot(curve.x, values, color=hue, linestyle=style, linewidth=1.2, label=plain(short(name)))
    axes.set_title(plain(curve.title), fontsize=8, color=INK, pad=4)
    axes.set_xlabel("share of the image changed", fontsize=7, color=MUTED)
    axes.set_ylabel(curve.value, fontsize=7, color=MUTED)
    axes.tick_params(labelsize=6.5, colors=MUTED, length=2)
    axes.set_xlim(0, 1)
    axes.grid(color=RULE, linewidth=0.4)
    axes.set_box_aspect(0.72)
    axes.set_anchor("N")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)


def _legend(figure: "Figure", smooth: float | None, more: str = "") -> None:
    width = f"{100 * colour.SMOOTH:g} % of the longer side" if smooth is None else f"{smooth:g} pixels"
    shown = "every pixel as computed" if smooth == 0 else f"averaged with σ = {width}"
    figure.supxlabel(
        f"orange supports the decision, blue opposes it; {shown},\nfull strength at the "
        f"{colour.PERCENTILE:g}th percentile of magnitude{more}",
        fontsize=7,
        color=MUTED,
    )

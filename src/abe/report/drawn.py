"""What is no photograph, drawn block under block: every block knows its height in inches, so nothing overlaps."""

import unicodedata
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from abe.report import colour
from abe.report.canvas import INK, MUTED, RULE, blank, finish, plain, short
from abe.report.looks import CHANNELS, EXACT, SLICES, Account, Look, strongest
from abe.report.numbers import percent, signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, MARGIN, ANSWERS = 10.0, 0.3, 2.3
"""Inches of a figure, of its edges, and of the column that says what the model answers."""
ROOM = WIDTH - 2 * MARGIN - ANSWERS - 0.35
"""Inches across for the maps."""
SIZE, LINE = 10.0, 0.27
"""Points of words, and inches from one of their lines to the next."""
ROW = 0.23
"""Inches of one bar."""
BARS = 12
"""Most bars; the others are summed."""
WORDS = 600
"""Most pieces of a text that are drawn."""
MANY = 12
"""Samples from which on rows are drawn as one swarm."""
SUPPORTS, OPPOSES = ("#%02x%02x%02x" % rgb for rgb in (colour.SUPPORTS, colour.OPPOSES))


@dataclass(frozen=True)
class Block:
    """Something of a known height; `paint` draws it with its upper left corner at a place in inches."""

    height: float
    paint: Callable[["Sheet", float, float], None]


@dataclass(frozen=True)
class Sheet:
    """A figure whose places are inches from its upper left corner."""

    figure: "Figure"
    width: float
    height: float

    def axes(self, left: float, top: float, width: float, height: float) -> "Axes":
        """An empty panel."""
        x, y = left / self.width, 1 - (top + height) / self.height
        return self.figure.add_axes((x, y, width / self.width, height / self.height))

    def write(self, left: float, top: float, text: str, *, size: float = 8, ink: str = INK, **more: Any) -> None:
        """Text whose upper left corner is there."""
        place = left / self.width, 1 - top / self.height
        self.figure.text(*place, text, fontsize=size, color=ink, va="top", parse_math=False, **more)


def draw(samples: Sequence[Any], *, path: str | Path | None = None) -> "Figure":
    """Samples that are no photographs: of each, what the model answers, curves, and its maps.

    Args:
        samples: of `abe.report.view.SampleView`.
        path: also write the figure there.
    """
    swarm = _swarm(samples)
    stacks = [[swarm]] if swarm is not None else [_sample(one, len(samples) > 1) for one in samples]
    gap = 0.25
    height = 2 * MARGIN + sum(sum(b.height for b in stack) for stack in stacks) + gap * (len(stacks) - 1)
    figure = blank(WIDTH, height)
    figure.set_layout_engine("none")
    sheet, top = Sheet(figure, WIDTH, height), MARGIN
    for stack in stacks:
        for block in stack:
            block.paint(sheet, MARGIN, top)
            top += block.height
        top += gap
    return finish(figure, path)


def _sample(sample: Any, several: bool) -> list[Block]:
    """One sample: title, answers beside the first map, curves, the other maps."""
    head = [_title(sample, several)]
    maps = [_map(one, len(sample.maps) > 1) for one in sample.maps]
    answers = _answers(sample)
    if sample.curves:
        return [*head, _beside(_curves(sample.curves[:2]), answers), *(block for own in maps for block in own)]
    first = maps[0] if maps else []
    return [*head, _beside(_stacked(first), answers), *(block for own in maps[1:] for block in own)]


def _stacked(blocks: Sequence[Block]) -> Block:
    def paint(sheet: Sheet, left: float, top: float) -> None:
        for block in blocks:
            block.paint(sheet, left, top)
            top += block.height

    return Block(sum(block.height for block in blocks), paint)


def _beside(block: Block, answers: Block) -> Block:
    def paint(sheet: Sheet, left: float, top: float) -> None:
        block.paint(sheet, left, top)
        answers.paint(sheet, left + ROOM + 0.35, top)

    return Block(max(block.height, answers.height), paint)


def _title(sample: Any, several: bool) -> Block:
    name = f"{short(sample.name, 60)}: " if several and sample.name else ""

    def paint(sheet: Sheet, left: float, top: float) -> None:
        sheet.write(left, top, f"{name}explained is {short(sample.target, 60)}", size=10, weight="bold")

    return Block(0.3, paint)


def _answers(sample: Any) -> Block:
    """Bars of the most probable classes, as far as there are classes."""
    top = sample.top[:5]

    def paint(sheet: Sheet, left: float, above: float) -> None:
        if not top:
            return
        axes = sheet.axes(left, above + 0.18, ANSWERS, 0.32 * len(top))
        for row, (name, p) in enumerate(top):
            hue = SUPPORTS if name == sample.target else "#9aa4af"
            axes.barh(row + 0.62, p, height=0.26, color=hue)
            axes.text(0, row + 0.42, plain(f"{percent(p)}  {short(name, 30)}"), fontsize=7.5, color=INK)
        axes.set(xlim=(0, 1), ylim=(len(top), 0))
        axes.set_axis_off()
        sheet.write(left, above, "what the model answers", ink=MUTED)

    return Block(0.3 + 0.32 * len(top) if top else 0.0, paint)


def _map(shown: Any, named: bool) -> list[Block]:
    """One method's map: its name, everything that is looked at, and how the numbers are to be read."""
    blocks = [_heading(shown)] if named else []
    for look in shown.looks:
        if look.title:
            blocks.append(_note(look.title, INK))
        blocks.append(_look(look, shown.account if len(shown.looks) == 1 else None))
        blocks.append(_note(scale(look), MUTED))
    if shown.account is not None:
        blocks.append(_note("; ".join(shown.account.said()), MUTED))
    return [*blocks, Block(0.1, lambda *_: None)]


def scale(look: Look) -> str:
    """How the colours of one look are to be read."""
    if look.kind == "columns":
        return "orange supports, blue opposes"
    percentile = f"the {colour.PERCENTILE:g}th percentile of magnitude"
    where = "the strongest word" if look.kind == "words" else percentile
    return f"orange supports, blue opposes; full strength at ±{signed(look.bound, plus=False)}, {where}"


def _heading(shown: Any) -> Block:
    facts = "   ".join(f"{label} {value}" for label, value in shown.facts)

    def paint(sheet: Sheet, left: float, top: float) -> None:
        sheet.write(left, top, f"{short(shown.title, 60)}   {facts}", size=9)

    return Block(0.24, paint)


def _note(text: str, ink: str) -> Block:
    lines = _folded(text, 7.5, ROOM)

    def paint(sheet: Sheet, left: float, top: float) -> None:
        for number, line in enumerate(lines):
            sheet.write(left, top + 0.03 + 0.155 * number, line, size=7.5, ink=ink)

    return Block(0.05 + 0.155 * len(lines), paint)


def _folded(text: str, size: float, room: float) -> list[str]:
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and width_of(longer, size) > room:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _look(look: Look, account: Account | None) -> Block:
    if look.kind == "words":
        return _words(look)
    if look.kind == "columns":
        return _columns(look, account)
    if look.kind == "lines":
        return _lines(look)
    return {"slices": _slices, "points": _points}.get(look.kind, _picture)(look)


# --- words --------------------------------------------------------------------------------------------


@cache
def width_of(text: str, size: float) -> float:
    """Inches that a line of text takes; letters that the font lacks count by their cells."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    if not text:
        return 0.0
    narrow = "".join("" if unicodedata.east_asian_width(c) in "WF" else c for c in text)
    wide = (len(text) - len(narrow)) * size
    known = FontProperties(family="DejaVu Sans", size=size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        measured = text_to_path.get_text_width_height_descent(narrow, known, ismath=False)[0] if narrow else 0
    return (measured + wide) / 72


def laid(pieces: Sequence[tuple[str, int]], room: float) -> list[list[tuple[float, float, str, int]]]:
    """Pieces of a text in lines that wrap: (left, width, text, word or -1) of each."""
    lines: list[list[tuple[float, float, str, int]]] = [[]]
    at, blank_ = 0.0, width_of("a a", SIZE) - 2 * width_of("a", SIZE)
    for text, number in pieces:
        parts = [text] if number >= 0 else text.replace(" ", "\0 \0").split("\0")
        for part in (chunk for part in parts if part for chunk in _chunks(part, room)):
            width = blank_ if part == " " else width_of(part, SIZE)
            if at + width > room:
                lines.append([])
                at = 0.0
            if part == " " and at == 0:
                continue
            lines[-1].append((at, width, part, number))
            at += width
    return lines


def _chunks(part: str, room: float) -> list[str]:
    """A word in pieces that fit a line."""
    if len(part) < 20 or width_of(part, SIZE) <= room:
        return [part]
    half = len(part) // 2
    return [*_chunks(part[:half], room), *_chunks(part[half:], room)]


def _words(look: Look) -> Block:
    from matplotlib.patches import Rectangle

    shown, left_out = look.pieces[:WORDS], len(look.pieces) - WORDS
    if left_out > 0:
        shown = [*shown, (" … the rest is not drawn", -1)]
    lines, bound = laid(shown, ROOM), look.bound
    height = LINE * len(lines) + 0.08

    def paint(sheet: Sheet, left: float, top: float) -> None:
        axes = sheet.axes(left, top, ROOM, height)
        axes.set(xlim=(0, ROOM), ylim=(height, 0))
        axes.set_axis_off()
        for number, line in enumerate(lines):
            middle = LINE * (number + 0.5) + 0.04
            for at, width, text, word in line:
                if word >= 0:
                    ground = colour.tint(float(look.values[word]) / bound)
                    box = (at - 0.015, middle - 0.45 * LINE), width + 0.03, 0.9 * LINE
                    axes.add_patch(Rectangle(*box, facecolor=ground, linewidth=0))
                axes.text(at, middle, text, fontsize=SIZE, color=INK, va="center_baseline", parse_math=False)

    return Block(height, paint)


# --- columns ------------------------------------------------------------------------------------------


def _columns(look: Look, account: Account | None) -> Block:
    """Bars; a waterfall from the reference's score to that of the sample where the map claims that change."""
    shown, others = strongest(look, BARS)
    rows = [(f"{name} = {told}" if told else name, value) for name, told, value in shown]
    rows += [(f"{len(others)} others", sum(value for *_, value in others))] if others else []
    rows += [("fixed positions", look.fixed)] if look.fixed else []
    starts = account is not None and account.reference is not None
    if starts and account is not None and account.missing is not None:
        change = account.score - (account.reference or 0.0)
        rows += [("missing", account.missing)] if abs(account.missing) > EXACT * abs(change) else []
    first = account.reference if starts and account is not None else None
    height = ROW * (len(rows) + (2 if starts else 0)) + 0.1
    names = 2.6

    def paint(sheet: Sheet, left: float, top: float) -> None:
        axes = sheet.axes(left + names, top, ROOM - names, height)
        at = [first or 0.0]
        for _, value in rows:
            at.append(at[-1] + value if starts else 0.0)
        ends = at if starts else [0.0, *(value for _, value in rows)]
        low, high = min(ends), max(ends)
        room = 0.24 * ((high - low) or 1.0)
        above = 1 if starts else 0
        for number, (name, value) in enumerate(rows):
            y, begin = number + above, at[number] if starts else 0.0
            hue = "#9aa4af" if name == "missing" else SUPPORTS if value >= 0 else OPPOSES
            axes.barh(y, value, left=begin, height=0.62, color=hue, alpha=0.85)
            side, where = (1, max(begin, begin + value)) if value >= 0 else (-1, min(begin, begin + value))
            axes.text(where + side * 0.02 * (high - low), y, signed(value), fontsize=7.5, color=INK,
                      ha="left" if side > 0 else "right", va="center")
            if starts:
                axes.plot([begin + value] * 2, [y, y + 1], color=MUTED, linewidth=0.7)
            _label(axes, y, name, names)
        if starts and account is not None:
            last = len(rows) + 1
            axes.plot([at[0]] * 2, [0, 1], color=MUTED, linewidth=0.7)
            for y, name, value in ((0, "at the reference", at[0]), (last, f"{account.objective} of the sample", at[-1])):
                axes.plot([value], [y], "o", markersize=4, color=INK)
                side = -1 if value > (low + high) / 2 else 1
                axes.text(value + side * 0.025 * ((high - low) or 1), y, signed(value, plus=False), fontsize=7.5,
                          color=INK, ha="left" if side > 0 else "right", va="center")
                _label(axes, y, name, names)
        else:
            axes.axvline(0, color=MUTED, linewidth=0.7)
        axes.set(xlim=(low - room, high + room), ylim=(len(rows) + 2 * above - 0.5, -0.5))
        axes.set_axis_off()

    return Block(height, paint)


def _label(axes: "Axes", y: float, name: str, room: float) -> None:
    """A name to the left of the bars, cut where it is too long."""
    text = name
    while width_of(text, 8) > room - 0.15:
        text = text[: max(1, len(text) - 2)].rstrip("…") + "…"
    place = axes.get_yaxis_transform()
    axes.text(-0.01, y, text, fontsize=8, color=INK, ha="right", va="center", transform=place, parse_math=False)


def _swarm(samples: Sequence[Any]) -> Block | None:
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
    left_out = len(names) - len(order)
    of_all = f"{len(samples)} rows, the {len(order)} columns of largest mean magnitude" if left_out else f"{len(samples)} rows"

    def paint(sheet: Sheet, left: float, top: float) -> None:
        sheet.write(left, top, f"{of_all}; every dot is a row, further right supports the decision", size=9)
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
        axes.spines[["left", "right", "top"]].set_visible(False)
        bar = sheet.axes(left + 2.6 + wide + 0.2, top + 0.45, 0.1, height - 0.75)
        bar.imshow(np.linspace(1, 0, 64)[:, None], aspect="auto", cmap="viridis")
        bar.set(xticks=[], yticks=[0, 63])
        bar.yaxis.tick_right()
        bar.set_yticklabels(["high", "low"], fontsize=7, color=MUTED)
        bar.tick_params(length=0)

    footer = _note("colour: the column's value among these rows, by rank; grey where it is no number", MUTED)
    return _stacked([Block(height + 0.3, paint), footer])


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


# --- lines, slices, points, pictures ------------------------------------------------------------------


def _lines(look: Look) -> Block:
    """Every channel as a line with the map as a strip beneath it."""
    ground, values = np.asarray(look.ground, np.float64), look.values
    own = len(values) == len(ground)
    share = np.abs(values).sum(1) if own else np.ones(len(ground))
    chosen = sorted(np.argsort(-share, kind="stable")[:CHANNELS].tolist())
    tall, strip, names, gap = 0.62, 0.16, 0.9, 0.1
    height = sum(tall + gap for _ in chosen) + strip * (len(chosen) if own else 1) + 0.22
    cut = f"{len(chosen)} of {len(ground)} channels, those with the largest share" if len(chosen) < len(ground) else ""

    def paint(sheet: Sheet, left: float, top: float) -> None:
        wide, t = ROOM - names, ground.shape[1]
        for channel in chosen:
            axes = sheet.axes(left + names, top, wide, tall)
            axes.plot(np.arange(t), ground[channel], color=INK, linewidth=0.9, marker="." if t == 1 else None)
            axes.set(xlim=(-0.5, t - 0.5), xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set(edgecolor=RULE, linewidth=0.6)
            ends = [float(np.nanmin(ground[channel])), float(np.nanmax(ground[channel]))]
            for place, end in zip(("bottom", "top"), ends, strict=True):
                y = 0.02 if place == "bottom" else 0.98
                axes.text(-0.008, y, f"{end:.3g}".replace("-", "−"), fontsize=6.5, color=MUTED, ha="right", va=place,
                          transform=axes.transAxes)
            sheet.write(left, top + tall / 2 - 0.06, f"channel {channel}" if len(ground) > 1 else "", size=7.5)
            top += tall
            if own or channel == chosen[-1]:
                _strip(sheet.axes(left + names, top, wide, strip), values[channel if own else 0], look.bound)
                top += strip
            top += gap
        last = sheet.axes(left + names, top - gap + 0.03, wide, 0.01)
        last.patch.set_visible(False)
        last.set(xlim=(-0.5, t - 0.5), yticks=[])
        last.spines[["left", "right", "top", "bottom"]].set_visible(False)
        last.tick_params(labelsize=6.5, colors=MUTED, length=2)
        last.locator_params(axis="x", nbins=8, integer=True)
        if cut:
            sheet.write(left, top + 0.14, cut, size=7, ink=MUTED)

    return Block(height + (0.12 if cut else 0), paint)


def _strip(axes: "Axes", values: Any, bound: float) -> None:
    """A line's map as a strip of colours; neighbours share a column where there are more than fit."""
    levels = colour.signed_levels(colour.largest(values, 1200), bound)
    white = np.full((1, len(levels), 3), 255, np.uint8)
    axes.imshow(colour.over(levels[None], colour.signed_palette(), white), aspect="auto", interpolation="nearest")
    _bare(axes)


def _bare(axes: "Axes") -> None:
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(edgecolor=RULE, linewidth=0.6)


def _slices(look: Look) -> Block:
    """The slices that hold most of the magnitude, in order."""
    share = np.abs(look.values).sum((1, 2))
    chosen = sorted(np.argsort(-share, kind="stable")[:SLICES].tolist())
    whole, side = float(share.sum()) or 1.0, (ROOM - 0.1 * (SLICES - 1)) / SLICES
    h, w = look.values.shape[1:]
    tall = min(2.5, side * h / w)
    grounds = colour.as_grey(np.asarray(look.ground))

    def paint(sheet: Sheet, left: float, top: float) -> None:
        for place, number in enumerate(chosen):
            at = left + place * (side + 0.1)
            sheet.write(at, top, f"slice {number}: {100 * share[number] / whole:.0f} %", size=7.5)
            axes = sheet.axes(at, top + 0.18, side, tall)
            _overlaid(axes, look.values[number], look.bound, colour.grey(grounds[number], 0.5))
        rest = 100 * (1 - share[chosen].sum() / whole)
        said = f"{len(chosen)} of {len(share)} slices; the others hold {rest:.0f} % of the magnitude"
        sheet.write(left, top + tall + 0.22, said, size=7, ink=MUTED)

    return Block(tall + 0.4, paint)


def _overlaid(axes: "Axes", values: Any, bound: float, ground: Any) -> None:
    levels = colour.signed_levels(values, bound)
    axes.imshow(colour.over(levels, colour.signed_palette(), ground), interpolation="nearest")
    axes.set_anchor("NW")
    _bare(axes)


def _points(look: Look) -> Block:
    """Points from the front, and from the side where they have a depth."""
    places = np.asarray(look.ground)
    views = [(0, 1)] if len(places) < 3 else [(0, 1), (2, 1)]
    side = 2.5

    def paint(sheet: Sheet, left: float, top: float) -> None:
        strength = np.clip(look.values / look.bound, -1, 1)
        order = np.argsort(np.abs(strength), kind="stable")  # the strongest are on top
        hues = [colour.tint(float(s), 1.0) for s in strength[order]]
        for place, (across, up) in enumerate(views):
            axes = sheet.axes(left + 0.3 + place * (side + 0.5), top, side, side)
            axes.scatter(places[across, order], places[up, order], c=hues, s=max(4, min(30, 6000 / len(order))),
                         edgecolors=RULE, linewidths=0.3)
            axes.set_aspect("equal", adjustable="datalim")
            axes.locator_params(nbins=5)
            axes.tick_params(labelsize=6, colors=MUTED, length=2)
            axes.set_xlabel(f"coordinate {across}", fontsize=7, color=MUTED, labelpad=1)
            axes.set_ylabel(f"coordinate {up}", fontsize=7, color=MUTED, labelpad=1)
            for spine in axes.spines.values():
                spine.set(edgecolor=RULE, linewidth=0.6)

    return Block(side + 0.35, paint)


def _picture(look: Look) -> Block:
    """What lies as a picture, and the map over it."""
    ground, side = np.asarray(look.ground), 1.8
    tall = min(3.0, side * ground.shape[0] / ground.shape[1])

    def paint(sheet: Sheet, left: float, top: float) -> None:
        axes = sheet.axes(left, top, side, tall)
        axes.imshow(ground, interpolation="nearest")
        axes.set_anchor("NW")
        _bare(axes)
        _overlaid(sheet.axes(left + side + 0.15, top, side, tall), look.values, look.bound, colour.grey(ground, 0.16))

    return Block(tall + 0.08, paint)


# --- curves of a comparison ---------------------------------------------------------------------------


def _curves(curves: Sequence[Any]) -> Block:
    """Curves beside each other, and the names of their lines."""
    wide, tall = (ROOM - 1.9) / 2 - 0.55, 1.5
    names = [name for name, _ in curves[0].lines]

    def paint(sheet: Sheet, left: float, top: float) -> None:
        for place, curve in enumerate(curves):
            at = left + 0.45 + place * (wide + 0.6)
            sheet.write(at, top, curve.title, size=8)
            axes = sheet.axes(at, top + 0.2, wide, tall)
            for number, (_, values) in enumerate(curve.lines):
                hue, dash = colour.line(number)
                axes.plot(curve.x, values, color=hue, linestyle=(0, dash) if dash else "-", linewidth=1.2)
            axes.set_xlabel("share changed", fontsize=7, color=MUTED, labelpad=1)
            axes.set_ylabel(curve.value, fontsize=6.5, color=MUTED, labelpad=1)
            axes.tick_params(labelsize=6, colors=MUTED, length=2)
            axes.set_xlim(0, 1)
            axes.grid(color=RULE, linewidth=0.4)
            axes.spines[["top", "right"]].set_visible(False)
        at = left + 0.45 + 2 * (wide + 0.6) - 0.1
        room = sheet.axes(at, top + 0.1, 1.8, 0.16 * len(names))
        for number, name in enumerate(names):
            hue, dash = colour.line(number)
            room.plot([0, 0.14], [number] * 2, color=hue, linestyle=(0, dash) if dash else "-", linewidth=1.4)
            room.text(0.18, number, short(name, 24), fontsize=6.5, color=INK, va="center", parse_math=False)
        room.set(xlim=(0, 1), ylim=(len(names) - 0.5, -0.5))
        room.set_axis_off()

    return Block(max(tall + 0.65, 0.16 * len(names) + 0.2), paint)

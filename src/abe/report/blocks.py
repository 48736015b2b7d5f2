"""Blocks of a figure, each of a known height in inches, and texts in them."""

import unicodedata
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING, Any

from abe.report import colour
from abe.report.canvas import INK, families
from abe.report.looks import Look

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
SUPPORTS, OPPOSES = ("#{:02x}{:02x}{:02x}".format(*rgb) for rgb in (colour.SUPPORTS, colour.OPPOSES))


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

    def write(
        self, left: float, top: float, text: str, *, size: float = 8, ink: str = INK, **more: Any
    ) -> None:
        """Text whose upper left corner is there."""
        place = left / self.width, 1 - top / self.height
        self.figure.text(*place, text, fontsize=size, color=ink, va="top", parse_math=False, **more)


def stacked(blocks: Sequence[Block]) -> Block:
    """Blocks one under the other."""

    def paint(sheet: Sheet, left: float, top: float) -> None:
        for block in blocks:
            block.paint(sheet, left, top)
            top += block.height

    return Block(sum(block.height for block in blocks), paint)


def note(text: str, ink: str, room: float = ROOM) -> Block:
    """A sentence in small letters that wraps."""
    lines = _folded(text, 7.5, room)

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


@cache
def width_of(text: str, size: float) -> float:
    """Inches that a line of text takes, in the fonts in which it is drawn."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    if not text:
        return 0.0
    known = FontProperties(family=families(), size=size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that no font has are drawn as boxes, and measured so
        return text_to_path.get_text_width_height_descent(text, known, ismath=False)[0] / 72


def fitted(text: str, size: float, room: float) -> str:
    """A line of text, cut where it is too long."""
    while len(text) > 1 and width_of(text, size) > room:
        text = text[: max(1, len(text) - 2)].rstrip("…") + "…"
    return text


def fitted_inside(text: str, size: float, room: float) -> str:
    """A name, cut in its middle where it is too long: names of columns often differ at their ends."""
    kept = len(text)
    found = text
    while kept > 2 and width_of(found, size) > room:
        kept -= 1
        found = f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"
    return found


def _goes(text: str) -> str:
    """Which way letters run: ``"R"`` to the left, ``"L"`` to the right, nothing where there are none."""
    for letter in text:
        way = unicodedata.bidirectional(letter)
        if way in ("R", "AL"):
            return "R"
        if way == "L":
            return "L"
    return ""


def turned(
    line: Sequence[tuple[float, float, str, int]], whole: str, room: float
) -> list[tuple[float, float, str, int]]:
    """A line of `laid` with its pieces in the order of their script: words run to the left in some.

    Runs of words of one direction keep together; where the text itself begins so, it stands on the right.

    Args:
        line: pieces in the order in which they are read.
        whole: which way the text goes, of `_goes`.
        room: inches across.
    """
    ways = [_goes(text) for _, _, text, _ in line]
    if whole != "R" and "R" not in ways:
        return list(line)
    for place, way in enumerate(ways):
        after = next((one for one in ways[place:] if one), "")
        before = next((one for one in reversed(ways[:place]) if one), "")
        ways[place] = way or (before if before == after else whole or "L")
    runs = [list(own) for _, own in groupby(zip(ways, line, strict=True), key=lambda one: one[0])]
    ordered = [list(reversed(run)) if run[0][0] == "R" else run for run in runs]
    ordered = list(reversed(ordered)) if whole == "R" else ordered
    flat = [piece for run in ordered for _, piece in run]
    at = room - sum(width for _, width, _, _ in flat) if whole == "R" else 0.0
    found: list[tuple[float, float, str, int]] = []
    for _, width, text, word in flat:
        found.append((at, width, text, word))
        at += width
    return found


def laid(pieces: Sequence[tuple[str, int]], room: float) -> list[list[tuple[float, float, str, int]]]:
    """Pieces of a text in lines that wrap: (left, width, text, word or -1) of each."""
    lines: list[list[tuple[float, float, str, int]]] = [[]]
    at, blank_ = 0.0, width_of("a a", SIZE) - 2 * width_of("a", SIZE)
    for text, number in pieces:
        parts = [text] if number >= 0 else text.replace(" ", "\0 \0").split("\0")
        for part in (chunk for whole in parts if whole for chunk in _chunks(whole, room)):
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


def words_of(look: Look, room: float = ROOM) -> Block:
    """A text whose words stand on grounds of the map's colours."""
    from matplotlib.patches import Rectangle

    shown, left_out = look.pieces[:WORDS], len(look.pieces) - WORDS
    if left_out > 0:
        shown = [*shown, (" … the rest is not drawn", -1)]
    whole = _goes("".join(text for text, _ in shown))
    lines, bound = [turned(line, whole, room) for line in laid(shown, room)], look.bound
    height = LINE * len(lines) + 0.08

    def paint(sheet: Sheet, left: float, top: float) -> None:
        axes = sheet.axes(left, top, room, height)
        axes.set(xlim=(0, room), ylim=(height, 0))
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

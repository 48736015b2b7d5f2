"""An explanation for a terminal: words in colour or with numbers, bars, and how the score is made up."""

from collections.abc import Callable, Iterator, Sequence
from io import StringIO
from typing import Any

import numpy as np
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group
from rich.table import Table
from rich.text import Text

from abe.generated import Generated, tables
from abe.report import colour, looks
from abe.report.canvas import short
from abe.report.generated import LEAST
from abe.report.generated import NAMED as LETTERS
from abe.report.generated import strongest as strongest_columns
from abe.report.looks import Look, strongest
from abe.report.numbers import number, percent, signed
from abe.terminal import readable

SAMPLES = 6
"""Most samples that are printed."""
BARS = 12
"""Most bars of a sample; the others are summed."""
NAMED = 5
"""Words whose numbers stand beneath a text in colours."""
MOST = 400
"""Most words of a text in colours."""
LISTED = 80
"""Most words that are listed with their numbers; of a longer text the strongest."""
LIGHT = 0.75
"""Opacity of the ground of words: a terminal may be dark, so the text on it is set black or white."""
PLAIN = 100
"""Columns of what is no terminal."""


def text_of(explanation: Any) -> str:
    """What ``print(explanation)`` shows: colours only where standard output is a terminal that has them."""
    return _written(lambda on: told(explanation, coloured=on))


def told_of_table(table: Generated) -> str:
    """What ``print(table)`` shows of generated tokens."""
    return _written(lambda on: Group(*generated(table, coloured=on)))


def _written(made: Callable[[bool], Any]) -> str:
    screen = Console(highlight=False)
    on = screen.is_terminal and screen.color_system is not None and not screen.no_color
    written = StringIO()
    kept = Console(
        file=written,
        highlight=False,
        force_terminal=on,
        color_system=screen.color_system if on else None,  # pyright: ignore[reportArgumentType]
        no_color=not on,
        width=screen.width if screen.is_terminal else PLAIN,
        legacy_windows=False,
    )
    kept.print(made(on))
    return "\n".join(line.rstrip() for line in written.getvalue().splitlines())


def told(explanation: Any, *, coloured: bool) -> Group:
    """Every sample: its words or bars, and its account."""
    b = len(explanation)
    title = f"{explanation.method} on {b} {looks.noun(explanation.modality, b)}"
    lines: list[Any] = [Text(title, style="bold")]
    if explanation.modality == "language" and b > 1 and "prompt" in explanation.diagnostics:
        for table in tables(explanation)[:SAMPLES]:
            lines += generated(table, coloured=coloured)
        return Group(*lines, *(Text(f"note: {readable(one)}") for one in explanation.warnings[:3]))
    for index in range(min(b, SAMPLES)):
        lines += sample(explanation, index, coloured=coloured)
    lines += [Text(f"and {b - SAMPLES} more: by_unit() and to_frame() have all")] if b > SAMPLES else []
    lines += [Text(f"note: {readable(one)}") for one in explanation.warnings[:3]]
    return Group(*lines)


def sample(explanation: Any, index: int, *, coloured: bool) -> list[Any]:
    """What is printed of one sample."""
    name, target = readable(explanation.names[index]), readable(explanation.target_names[index])
    told = looks.decision(target, classes=bool(explanation.top and explanation.top[index]))
    found: list[Any] = [Text(f"{name}, explained: {told}"), *body(explanation, index, coloured=coloured)]
    return [*found, *(Text(f"  {line}", style="dim") for line in looks.account(explanation, index).said())]


def body(explanation: Any, index: int, *, coloured: bool) -> list[Any]:
    """The words or bars of one sample; nothing of a photograph."""
    found: list[Any] = []
    for look in [] if looks.is_picture(explanation) else looks.looks(explanation, index):
        found += [Text(f"  {look.heading}")] if look.title else []
        found += list(_look(look, coloured=coloured))
    return found


def _look(look: Look, *, coloured: bool) -> Iterator[Any]:
    if look.kind == "words" and coloured:
        yield _indented(painted(look))
        yield Text(f"  orange supports, blue opposes; strongest: {_strongest(look)}", style="dim")
    elif look.kind == "words":
        least = sorted((abs(value) for *_, value in look.entries), reverse=True)[:LISTED][-1:]
        shown = [f"{name} ({signed(value)})" for name, _, value in look.entries if [abs(value)] >= least][
            :LISTED
        ]
        yield Listed(shown)
        if len(shown) < len(look.entries):
            yield Text(
                f"  the strongest {len(shown)} of {len(look.entries)} words, in their order", style="dim"
            )
    elif look.entries:
        yield _bars(look)
    else:
        yield Text(f"  {' × '.join(map(str, look.values.shape))} numbers; plot() shows them")


class Listed:
    """Short texts one after the other, none of them broken at the end of a line."""

    def __init__(self, items: Sequence[str]) -> None:
        self.items = items

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        """Indented lines of the terminal's width."""
        line = ""
        for item in self.items:
            if line and cell_len(line) + 1 + cell_len(item) > options.max_width - 2:
                yield Text(f"  {line}")
                line = ""
            line = f"{line} {item}" if line else item
        yield Text(f"  {line}")


def generated(table: Generated, *, coloured: bool) -> list[Any]:
    """Generated tokens by the units that they rest on, as many of them as there is room for."""
    screen = Console(highlight=False)
    room = (screen.width if screen.is_terminal else PLAIN) - 32
    heads = [cell_len(short(table.head(c), LETTERS)) for c in range(len(table.columns))]
    cells = [max(len(signed(v)) for v in values) for values in table.values.T.tolist()]
    widths = [2 + max(both) for both in zip(heads, cells, strict=True)]
    shown = strongest_columns(table, max(1, room // LEAST))
    while len(shown) > 1 and sum(widths[c] for c in shown) > room:
        shown = strongest_columns(table, len(shown) - 1)
    grid = Table.grid(padding=(0, 2))
    for _ in range(len(shown) + 3):
        grid.add_column(no_wrap=True, justify="right")
    names = [Text(short(table.head(c), LETTERS), style="bold") for c in shown]
    grid.add_row("", *names, "score", "p")
    for row, name in enumerate(table.rows):
        shares = [_share(float(table.values[row, c]), table.bound, coloured=coloured) for c in shown]
        known = "" if table.probability is None else percent(float(table.probability[row]))
        grid.add_row(
            Text(short(name, LETTERS), style="bold"), *shares, number(float(table.score[row])), known
        )
    lines: list[Any] = [_indented(grid)]
    if len(shown) < len(table.columns):
        lines.append(Text(f"  the strongest {len(shown)} of {len(table.columns)} columns; table() has all"))
    if table.last is not None:
        lines.append(
            Text("  * holds the last token of the prompt, where the first token is read", style="dim")
        )
    return lines


def _share(value: float, bound: float, *, coloured: bool) -> Text:
    if not np.isfinite(value):
        return Text("·", style="dim")
    return Text(signed(value), style=_ground(value / bound) if coloured else "")


def _indented(text: Any) -> Any:
    from rich.padding import Padding

    return Padding(text, (0, 0, 0, 2))


def _strongest(look: Look) -> str:
    return ", ".join(
        f"{name} {signed(value)}" for name, _, value in strongest(look, len(look.entries))[0][:NAMED]
    )


def painted(look: Look) -> Text:
    """A text with its words on orange and blue grounds, as strong as their share."""
    shown, bound = Text(), look.bound
    for piece, word in look.pieces[: 2 * MOST]:
        shown.append(piece, style=_ground(float(look.values[word]) / bound) if word >= 0 else "")
    shown.append(" …" if len(look.pieces) > 2 * MOST else "")
    return shown


def _ground(strength: float) -> str:
    alpha = colour.opacity(strength, LIGHT)
    if alpha < 0.04:
        return ""
    red, green, blue = (round(255 * part) for part in colour.tint(strength, LIGHT))
    return f"black on #{red:02x}{green:02x}{blue:02x}"


def _bars(look: Look) -> Table:
    """Names, what is there, numbers and bars; what supports is orange, what opposes blue."""
    sorts = look.kind == "columns" or len(look.entries) > 2 * BARS
    shown, others = strongest(look, BARS) if sorts else (look.entries, [])
    rows: Sequence[tuple[str, str, float]] = shown
    if others:
        rows = [*rows, (f"{len(others)} others", "", sum(value for *_, value in others))]
    rows = [*rows, ("fixed positions", "", look.fixed)] if look.fixed else rows
    most = max((abs(value) for *_, value in rows), default=0.0) or 1.0
    grid = Table.grid(padding=(0, 2))
    for wraps in (False, True, True, False, False):
        grid.add_column(no_wrap=not wraps, overflow="fold")
    for name, there, value in rows:
        hue = "orange3" if value >= 0 else "dodger_blue2"
        bar = Text(("█" if value >= 0 else "░") * round(20 * abs(value) / most), style=hue)
        grid.add_row("", Text(name), Text(there, style="dim"), Text(signed(value)), bar)
    return grid

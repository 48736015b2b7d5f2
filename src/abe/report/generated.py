"""A page with generated tokens by what they rest on, and which columns there is room for."""

from collections.abc import Iterator
from html import escape

import numpy as np

from abe.generated import Generated
from abe.report import colour
from abe.report.numbers import number, percent, signed

LEAST = 7
"""Fewest letters of a column in a terminal."""
NAMED = 16
"""Most letters of a name."""
DRAWN, NUMBERED = 60, 24
"""Most columns of a heat map, and most of which the numbers are written into it."""


def strongest(table: Generated, most: int) -> list[int]:
    """The columns of largest magnitude, in their order."""
    size = np.nan_to_num(np.abs(table.values)).max(0)
    order = np.argsort(-size, kind="stable")[:most]
    return sorted(order.tolist())


STYLE = """
:root { color-scheme: light dark; font-family: system-ui, sans-serif; }
body { margin: 1.5rem; } table { border-collapse: separate; border-spacing: 1px; font-size: .85rem; }
.scroll { overflow-x: auto; } caption { text-align: left; padding: .4rem 0; }
th { font-weight: 600; padding: .25rem .4rem; text-align: right; white-space: nowrap; }
thead th { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left; }
thead th.flat { writing-mode: initial; transform: none; vertical-align: bottom; }
td { padding: .25rem .4rem; text-align: right; font-variant-numeric: tabular-nums; min-width: 3.2em; }
td:hover { outline: 2px solid currentColor; } .answer { border-left: 2px solid #8888; }
.read { text-decoration: underline; }
"""


def page(table: Generated) -> str:
    """The HTML of a table; every text is escaped."""
    return "".join(_page(table))


def _page(table: Generated) -> Iterator[str]:
    title = escape(table.title)
    yield f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
    yield f'<link rel="icon" href="data:,"><style>{STYLE}</style></head><body><h1>{title}</h1>'
    yield "<p>Each row is a generated token, each column what it may rest on; orange supports it, "
    yield "blue opposes it. Underlined is the last token of the prompt, where the first token is read.</p>"
    yield '<div class="scroll"><table><thead><tr><th class="flat">token</th>'
    for column, name in enumerate(table.columns):
        classes = _classes(table, column)
        yield f'<th scope="col"{classes}>{escape(name)}</th>'
    yield '<th class="flat" scope="col">score</th><th class="flat" scope="col">probability</th>'
    yield "</tr></thead><tbody>"
    for row, name in enumerate(table.rows):
        yield f'<tr><th scope="row">{escape(name)}</th>'
        for column, value in enumerate(table.values[row].tolist()):
            yield _cell(table, name, column, value)
        known = "–" if table.probability is None else percent(float(table.probability[row]))
        yield f"<td>{number(float(table.score[row]))}</td><td>{known}</td></tr>"
    yield "</tbody></table></div></body></html>"


def _classes(table: Generated, column: int) -> str:
    names = ["answer"] if column == table.border else []
    names += ["read"] if column == table.last else []
    return f' class="{" ".join(names)}"' if names else ""


def _cell(table: Generated, row: str, column: int, value: float) -> str:
    classes = _classes(table, column)
    if not np.isfinite(value):
        return f"<td{classes}></td>"
    strength = value / table.bound
    red, green, blue = colour.SUPPORTS if value >= 0 else colour.OPPOSES
    ground = f"rgb({red} {green} {blue} / {colour.opacity(strength, 0.8):.2f})"
    hover = escape(f"{row} ← {table.columns[column]}: {signed(value)}", quote=True)
    return f'<td{classes} style="background:{ground}" title="{hover}">{signed(value)}</td>'

"""Generated tokens by what they rest on: a table to print, to plot, or to put on a page."""

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from abe.errors import Code, InputError
from abe.report import colour
from abe.report.numbers import number, percent, signed
from abe.terminal import readable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEAST = 7
"""Fewest letters of a column in a terminal."""
NAMED = 16
"""Most letters of a name."""
DRAWN, NUMBERED = 60, 24
"""Most columns of a heat map, and most of which the numbers are written into it."""


@dataclass(frozen=True, eq=False)
class Generated:
    """What every generated token of one prompt rests on.

    Attributes:
        rows: what the generated tokens are called, or one answer.
        columns: the units of the prompt, then those of the answer.
        values: (m, u) the share of every unit; NaN where it comes behind the token.
        border: how many of the columns are the prompt's.
        last: the column that holds the last token of the prompt, where the first token is read; or None.
        score: (m,) the explained scores.
        probability: (m,) of the tokens; None where it is not known.
        entropy: (m,) of the steps in nats; None where it is not known.
        title: the method and the score.
    """

    rows: list[str]
    columns: list[str]
    values: NDArray[np.float64]
    border: int
    last: int | None
    score: NDArray[np.float64]
    probability: NDArray[np.float64] | None
    entropy: NDArray[np.float64] | None
    title: str

    @classmethod
    def of(cls, explanation: Any, prompt: int | None = None) -> "Generated":
        """The table of one prompt of an explanation.

        Raises:
            InputError: nothing was generated, there are several prompts and none is named, or no such.
        """
        asked = explanation.diagnostics.get("prompt")
        if asked is None or explanation.labels is None:
            raise InputError(
                Code.UNITS,
                "Nothing was generated from these inputs",
                got=f"inputs of the modality {explanation.modality!r}",
                fix="Use by_unit(); abe.language_task explains generated tokens",
            )
        numbers: list[int] = sorted(set(asked.tolist()))
        if prompt is None and len(numbers) > 1 or prompt is not None and prompt not in numbers:
            raise InputError(
                Code.SAMPLES,
                "Say of which prompt" if prompt is None else f"There is no prompt {prompt}",
                got=f"{len(numbers)} prompts",
                expected=f"table({numbers[0]}) to table({numbers[-1]})",
            )
        chosen = numbers[0] if prompt is None else prompt
        return _table(explanation[(asked == chosen).nonzero().flatten().tolist()])

    def shares(self, row: int) -> list[tuple[str, float]]:
        """The units of one generated token with their shares."""
        own = self.values[row]
        return [(n, float(v)) for n, v in zip(self.columns, own, strict=True) if np.isfinite(v)]

    @property
    def bound(self) -> float:
        """The magnitude that is shown at full strength."""
        return colour.limit(self.values, 100.0)

    def head(self, column: int) -> str:
        """What a column is called; the last token of the prompt is marked."""
        return f"{self.columns[column]}{' *' if column == self.last else ''}"

    def __str__(self) -> str:
        from abe.report.printed import told_of_table

        return told_of_table(self)

    def html(self, path: str | Path | None = None) -> str:
        """A page with the table: numbers in every cell and on hovering, every text escaped.

        Args:
            path: also write the page there.

        Raises:
            StorageError: the file cannot be written.
        """
        page = "".join(_page(self))
        if path is not None:
            from abe.storage import write

            write(Path(path), page.encode("utf-8"))
        return page

    def plot(self, path: str | Path | None = None) -> "Figure":
        """A heat map, also written to ``path`` if given."""
        from abe.report.heat import draw

        return draw([self], path=path)


def _table(own: Any) -> Generated:
    longest = max(range(len(own)), key=lambda i: len(own.unit_names[i]))
    columns = [readable(name) for name in own.unit_names[longest]]
    values = np.full((len(own), len(columns)), np.nan)
    for row, listed in enumerate(own.by_unit()):
        count = len(own.unit_names[row])
        values[row, :count] = [share for _, share in listed[:count]]
    labels = own.labels[longest].flatten()
    end = int(own.diagnostics["prompt_end"][0])
    inside = labels[: end + 1]
    last = int(labels[end])
    told = {name: own.diagnostics.get(f"step_{name}") for name in ("probability", "entropy")}
    return Generated(
        rows=[readable(name) for name in own.target_names],
        columns=columns,
        values=values,
        border=int(inside.max()) + 1,
        last=last if last >= 0 else None,
        score=_array(own.score),
        probability=None if told["probability"] is None else _array(told["probability"]),
        entropy=None if told["entropy"] is None else _array(told["entropy"]),
        title=f"{own.method}, {readable(own.objective)}",
    )


def tables(explanation: Any) -> list[Generated]:
    """The tables of all prompts."""
    asked = explanation.diagnostics.get("prompt")
    numbers: list[int] = [] if asked is None else sorted(set(asked.tolist()))
    return [Generated.of(explanation, number) for number in numbers]


def steps(explanation: Any) -> dict[str, Any]:
    """(b,) by name what the model says at every step, whichever method explains it.

    Raises:
        InputError: nothing was generated.
    """
    found = {
        name.removeprefix("step_"): value
        for name, value in explanation.diagnostics.items()
        if name in ("step_probability", "step_entropy")
    }
    if "prompt" not in explanation.diagnostics:
        raise InputError(
            Code.UNITS,
            "Nothing was generated from these inputs, so there are no steps",
            got=f"inputs of the modality {explanation.modality!r}",
        )
    return found


def strongest(table: Generated, most: int) -> list[int]:
    """The columns of largest magnitude, in their order."""
    size = np.nan_to_num(np.abs(table.values)).max(0)
    order = np.argsort(-size, kind="stable")[:most]
    return sorted(order.tolist())


def _array(tensor: Any) -> NDArray[np.float64]:
    return tensor.detach().double().cpu().numpy()


STYLE = """
:root { color-scheme: light dark; font-family: system-ui, sans-serif; }
body { margin: 1.5rem; } table { border-collapse: separate; border-spacing: 1px; font-size: .85rem; }
.scroll { overflow-x: auto; } caption { text-align: left; padding: .4rem 0; }
th { font-weight: 600; padding: .25rem .4rem; text-align: right; white-space: nowrap; }
thead th { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left; }
thead th.flat { writing-mode: initial; transform: none; vertical-align: bottom; }
td { padding: .25rem .4rem; text-align: right; font-variant-numeric: tabular-nums; min-width: 3.2em; }
td:hover { outline: 2px solid currentColor; } .answer { border-left: 2px solid #8888; } .read { text-decoration: underline; }
"""


def _page(table: Generated) -> Iterator[str]:
    title = escape(table.title)
    yield f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
    yield f'<link rel="icon" href="data:,"><style>{STYLE}</style></head><body><h1>{title}</h1>'
    yield "<p>Each row is a generated token, each column what it may rest on; orange supports it, blue opposes it."
    yield " Underlined is the last token of the prompt, where the first token is read.</p>"
    yield '<div class="scroll"><table><thead><tr><th class="flat">token</th>'
    for column, name in enumerate(table.columns):
        classes = _classes(table, column)
        yield f'<th scope="col"{classes}>{escape(name)}</th>'
    yield '<th class="flat" scope="col">score</th><th class="flat" scope="col">probability</th></tr></thead><tbody>'
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

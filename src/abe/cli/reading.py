"""Files that hold texts, rows of a table, series and arrays, read without a model."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from abe.cli import output, ready
from abe.errors import Code, InputError, SpecError

Kind = Literal["photo", "text", "row", "lines", "array", "several", "pair"]
TABLES = {".csv": ",", ".tsv": "\t"}
"""Suffixes of tables, and what stands between their cells."""


@dataclass(frozen=True)
class Sample:
    """One thing to explain.

    Attributes:
        kind: what it is.
        name: what people call it.
        raw: what the task is given; of several inputs a sample of each by its name.
        path: its file, if it has one.
    """

    kind: Kind
    name: str
    raw: Any
    path: Path | None = None

    @property
    def stem(self) -> str:
        """What its files are called, without suffix."""
        from abe.report.view import slug

        if self.kind == "photo":
            return self.name
        return slug(self.name[:48].replace(".", "-").replace("/", "-"))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as problem:
        raise InputError(
            Code.UNREADABLE_TEXT,
            "The file cannot be read as text",
            got=f"{path.name}: {problem}",
            expected="a file in UTF-8",
        ) from problem


def texts_of(path: Path, rows: list[int] | None) -> list[Sample]:
    """A text per line."""
    lines = [(n, line) for n, line in enumerate(_read(path).splitlines()) if line.strip()]
    if not lines:
        raise InputError(Code.EMPTY_BATCH, "There is nothing to explain", got=f"no text in {path.name}")
    if rows is None:
        output.remark(f"{path.name}: {len(lines)} texts, one a line")
        chosen = lines
    else:
        chosen = [lines[row] for row in _there(rows, len(lines), path, "texts")]
    return [Sample("text", f"{path.name} line {n + 1}", line, path) for n, line in chosen]


def rows_of(path: Path, rows: list[int] | None, without: Sequence[str]) -> list[Sample]:
    """Rows of a table without some of its columns; all rows where none is named."""
    import csv

    lines = list(csv.reader(_read(path).splitlines(), delimiter=TABLES[path.suffix.lower()]))
    lines = [(n, line) for n, line in enumerate(lines) if line]
    if len(lines) < 2:
        raise InputError(
            Code.EMPTY_BATCH,
            "There is no row in the table",
            got=path.name,
            expected="a head, and rows below it",
        )
    head = [name.strip() for name in lines[0][1]]
    if len(set(head)) < len(head) or (len(head) == 1 and ";" in head[0]):
        twice = next((name for name in head if head.count(name) > 1), "")
        raise InputError(
            Code.UNREADABLE_TEXT,
            "The head of the table cannot be used",
            got=f"two columns called {twice!r}" if twice else f"one column, {output.short(head[0])!r}",
            expected="a name for every column, commas between them (tabs in a .tsv)",
            fix="Save the table with commas" if not twice else "Rename one of them",
        )
    for n, line in lines[1:]:
        if len(line) != len(head):
            raise InputError(
                Code.UNREADABLE_TEXT,
                f"Line {n + 1} of {path.name} has another number of cells than the head",
                got=str(len(line)),
                expected=str(len(head)),
                fix="Put quotation marks around cells that hold a comma",
            )
    for name in without:
        if name not in head:
            raise InputError(
                Code.UNREADABLE_TEXT,
                f"There is no column {name!r} in {path.name} to leave out",
                expected=", ".join(head[:12]) + (", …" if len(head) > 12 else ""),
            )
    body = [
        {name: _value(cell) for name, cell in zip(head, line, strict=True) if name not in without}
        for _, line in lines[1:]
    ]
    if rows is None:
        return [Sample("lines", path.name, body, path)]
    return [
        Sample("row", f"{path.name} row {row}", body[row], path)
        for row in _there(rows, len(body), path, "rows")
    ]


def columns_of(path: Path, without: str | None) -> dict[str, list[Any]]:
    """The columns of a table by name."""
    if problem := ready.regular(path):
        raise InputError(
            Code.UNREADABLE_TEXT, f"The file cannot be read: {problem}", got=output.short(str(path))
        )
    (table,) = rows_of(path, None, names_of(without))
    return {name: [line[name] for line in table.raw] for name in table.raw[0]}


def _value(cell: str) -> Any:
    """A number where the cell holds one, NaN where it holds nothing, else its text."""
    text = cell.strip()
    try:
        return float(text) if text else float("nan")
    except ValueError:
        return text


def series(one: Sample, letters: str = "btc") -> Any:
    """Numbers of a table whose columns are channels, or of one line of it, as one series.

    Args:
        one: the table or line.
        letters: how a task's series lie: ``"btc"``, ``"bct"``, or ``"bt"`` where there is one channel.

    Raises:
        InputError: a cell that is no number.
    """
    import numpy as np

    lines = one.raw if one.kind == "lines" else [one.raw]
    for number, line in enumerate(lines):
        for name, value in line.items():
            if isinstance(value, str):
                raise InputError(
                    Code.UNREADABLE_TEXT,
                    "A series holds numbers",
                    got=f"{output.short(value)!r} in column {name!r}, row {number}",
                    fix="Leave that column out of the file",
                )
    numbers = np.array([list(line.values()) for line in lines], np.float32)
    laid = numbers if one.kind == "lines" else numbers.T
    if "c" not in letters:
        return laid[:, 0] if laid.shape[1] == 1 else laid
    return laid.T if letters.find("c") < letters.find("t") else laid


def samples_of(path: Path, rows: list[int] | None) -> list[Sample]:
    """Samples of an array, each with its batch axis; nothing is unpickled."""
    import numpy as np

    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as problem:
        raise InputError(
            Code.UNREADABLE_TEXT,
            "The array cannot be read",
            got=f"{path.name}: {problem}",
            expected="what numpy.save wrote of numbers",
        ) from problem
    if rows is None:
        raise InputError(
            Code.SAMPLES,
            "Which samples of the array are meant is not said",
            got=f"{path.name} of shape {array.shape}",
            fix="Name them with --row, counted from 0 along its first axis: --row 0:4",
        )
    count = len(array) if array.ndim > 1 else 0
    return [
        Sample("array", f"{path.name} row {n}", array[n : n + 1], path)
        for n in _there(rows, count, path, "samples")
    ]


def numbers_of(text: str) -> list[int]:
    """``3``, ``3,7`` or ``3:8`` as numbers."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,9})(?::([0-9]{1,9}))?\s*", part, re.ASCII)
        low, high = (int(match[1]), int(match[2] or int(match[1]) + 1)) if match else (0, 0)
        if high <= low or high - low > 100_000:
            raise SpecError(
                Code.BAD_PARAMETER,
                "--row takes numbers of rows, counted from 0",
                got=repr(output.short(text)),
                expected="3, or several: 3,7 or 3:8 for 3 to 7",
            )
        found += range(low, high)
    return list(dict.fromkeys(found))


def _there(rows: Sequence[int], count: int, path: Path, what: str) -> Sequence[int]:
    """The rows, all of which exist.

    Raises:
        InputError: one does not.
    """
    for row in rows:
        if row >= count:
            raise InputError(
                Code.SAMPLES,
                f"There is no row {row} in {path.name}",
                expected=f"0 to {count - 1}" if count else f"a file with {what}",
                fix=f"It has {count} {what}, counted from 0 below its head"
                if path.suffix.lower() in TABLES
                else None,
            )
    return rows


def names_of(names: str | None) -> list[str]:
    """Names separated by commas."""
    return [] if names is None else [name.strip() for name in names.split(",") if name.strip()]

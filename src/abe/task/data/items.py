"""The items of folders, tables, files, data sets and loaders, each to be read when its turn comes."""

import csv
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from abe.errors import Code, InputError, PackageError, SpecError, suggest
from abe.terminal import readable

PICTURES = (
    *(".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".avif", ".ico"),
)
"""Ends of names of files that hold photographs."""
TEXTS = (".txt",)
TABLES = (".csv", ".tsv", ".parquet")


@dataclass(frozen=True)
class Item:
    """One sample that is still to be read.

    Attributes:
        name: of the sample.
        read: gives the input and its label, None where there is none.
    """

    name: str
    read: Callable[[], tuple[Any, Any]]


@dataclass(frozen=True)
class Columns:
    """What of a row is the input, and what its label."""

    text: str | None
    table: tuple[str, ...] | None
    label: str | None

    def __post_init__(self) -> None:
        if self.text is not None and self.table is not None:
            raise SpecError(
                Code.BAD_PARAMETER,
                "A row is a text or a row of a table",
                got="text= and columns=",
                fix="Give one",
            )

    @property
    def named(self) -> bool:
        return self.text is not None or self.table is not None or self.label is not None

    def check(self, known: Sequence[str]) -> None:
        """Refuse columns that are not there."""
        for name in filter(None, (self.text, self.label, *(self.table or ()))):
            if name not in known:
                raise SpecError(
                    Code.BAD_PARAMETER,
                    f"There is no column {name!r}",
                    expected=f"one of {', '.join(map(str, known))}",
                    fix=suggest(str(name), map(str, known)) or None,
                )

    def of(self, row: Mapping[Any, Any], label: Any = None) -> tuple[Any, Any]:
        """The input and the label of a row.

        Raises:
            InputError: an empty cell.
        """
        if self.label is not None:
            label = label_of(row[self.label])
            _need(label is not None, f"no {self.label}")
        if self.text is not None:
            found = row[self.text]
            _need(isinstance(found, str) and bool(found.strip()), f"no text in {self.text}")
            return found, label
        names = self.table or tuple(name for name in row if name != self.label)
        values = {name: _cell(row[name]) for name in names}
        empty = [name for name, value in values.items() if value is None]
        _need(not empty, f"nothing in {', '.join(map(str, empty[:4]))}")
        return values, label


def of_file(path: Path, label: Any, wanted: str) -> tuple[Any, Any]:
    """A photograph or text, read whole."""
    end = path.suffix.lower()
    texts = wanted.lower() in TEXTS
    if end not in (TEXTS if texts else PICTURES):
        raise InputError(
            Code.LOADING, "no text" if texts else "no photograph", got=end or "a name without an end"
        )
    if texts:
        found = path.read_text(encoding="utf-8").strip()
        _need(bool(found), "an empty text")
        return found, label
    return _photograph(path), label


def _photograph(path: Path) -> Path:
    """The path of a photograph that can be read; the task reads it, with all that the file tells."""
    try:
        with Image.open(path) as opened:
            opened.load()
    except FileNotFoundError as problem:
        raise InputError(Code.LOADING, "there is no such file") from problem
    except UnidentifiedImageError as problem:
        raise InputError(Code.LOADING, "it is no photograph") from problem
    return path


def header(path: Path, end: str, delimiter: str | None) -> list[str]:
    """Names of the columns of a file."""
    if end == ".parquet":
        reader = _pyarrow()
        try:
            return list(reader.ParquetFile(path).schema_arrow.names)
        except Exception as problem:
            raise InputError(
                Code.LOADING, "The table cannot be read", got=f"{readable(path.name)}: {reason_of(problem)}"
            ) from problem
    sign = delimiter or ("\t" if end == ".tsv" else ",")
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            names = next(csv.reader(file, delimiter=sign), [])
        except (UnicodeDecodeError, csv.Error) as problem:
            raise InputError(
                Code.LOADING, "The table cannot be read", got=f"{readable(path.name)}: {reason_of(problem)}"
            ) from problem
    if not names:
        raise InputError(Code.EMPTY_BATCH, "The table is empty", got=readable(path.name))
    if len(names) == 1 and delimiter is None and any(other in names[0] for other in ";\t|"):
        raise SpecError(
            Code.BAD_PARAMETER,
            "The table has one column, whose name looks like several",
            got=names[0][:60],
            fix="Say what is between columns by delimiter=",
        )
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise SpecError(Code.DUPLICATE_NAME, "Two columns have one name", got=repr(twice[0]))
    return names


def of_csv(path: Path, columns: Columns, labels: Sequence[Any] | None, *, delimiter: str) -> Iterator[Item]:
    """The rows of a CSV file."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, delimiter=delimiter)
        names, read = next(rows), 0
        for number, cells in enumerate(row for row in rows if row):
            yield Item(f"row {number}", partial(_of_cells, names, cells, columns, _of(labels, number)))
            read = number + 1
        _check_number(labels, read)


def rows_of(path: Path) -> list[Mapping[str, Any]]:
    """All rows of a file ``.csv``, ``.tsv`` or ``.parquet``, by column.

    Raises:
        InputError: LOADING for no such file, another kind of file, or a row that cannot be read.
        PackageError: ``.parquet`` without pyarrow.
    """
    end = path.suffix.lower()
    if end not in TABLES or not path.is_file():
        raise InputError(
            Code.LOADING,
            "Rows are not read from such a file" if path.is_file() else "There is no such file",
            got=readable(str(path)),
            expected=f"a file {', '.join(TABLES)}",
        )
    every = Columns(None, tuple(header(path, end, None)), None)
    sign = "\t" if end == ".tsv" else ","
    items = of_parquet(path, every, None) if end == ".parquet" else of_csv(path, every, None, delimiter=sign)
    found = list[Mapping[str, Any]]()
    for item in items:
        try:
            found.append(item.read()[0])
        except InputError as problem:
            raise InputError(
                Code.LOADING,
                f"{item.name.capitalize()} of the table cannot be read",
                got=f"{readable(path.name)}: {reason_of(problem)}",
                fix="Mend it, or leave it out by abe.samples(path)",
            ) from problem
    return found


def _of_cells(names: Sequence[str], cells: Sequence[str], columns: Columns, label: Any) -> tuple[Any, Any]:
    _need(len(cells) == len(names), f"{len(cells)} cells for {len(names)} columns")
    return columns.of(dict(zip(names, cells, strict=True)), label)


def of_parquet(path: Path, columns: Columns, labels: Sequence[Any] | None) -> Iterator[Item]:
    """The rows of a Parquet file, block by block."""
    number = 0
    for block in _pyarrow().ParquetFile(path).iter_batches():
        for row in block.to_pylist():
            yield Item(f"row {number}", partial(columns.of, row, _of(labels, number)))
            number += 1
    _check_number(labels, number)


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet as parquet  # pyright: ignore[reportMissingImports]
    except ImportError as problem:
        raise PackageError(
            Code.MISSING_PACKAGE,
            "Parquet files are read by pyarrow",
            got="no such package",
            fix="Install pyarrow, or save the table as .csv",
        ) from problem
    return parquet


def of_frame(table: Any, columns: Columns, labels: Sequence[Any] | None) -> Iterator[Item]:
    """The rows of a table."""
    names = [table.name] if getattr(table, "ndim", 2) == 1 else list(table.columns)
    columns.check(names)
    held = {name: (table if getattr(table, "ndim", 2) == 1 else table[name]).tolist() for name in names}
    _check_number(labels, len(table))
    for number in range(len(table)):
        row = {name: held[name][number] for name in names}
        yield Item(f"row {number}", partial(columns.of, row, _of(labels, number)))


def of_lines(path: Path, labels: Sequence[Any] | None) -> Iterator[Item]:
    """The texts of a file, one per line."""
    with path.open(encoding="utf-8-sig") as file:
        number = 0
        for line in file:
            if line.strip():
                yield Item(f"text {number}", partial(_given, line.strip(), _of(labels, number)))
                number += 1
        _check_number(labels, number)


def _given(value: Any, label: Any) -> tuple[Any, Any]:
    return value, label


def of_sequence(source: Any, columns: Columns, labels: Sequence[Any] | None) -> Iterator[Item]:
    """The items of an array, a data set, a list or an iterator."""
    whole = isinstance(source, Tensor | np.ndarray) and source.ndim == 0
    indexed = (
        hasattr(source, "__getitem__") and hasattr(source, "__len__") and not isinstance(source, Mapping)
    )
    if whole or isinstance(source, Mapping) or not (indexed or isinstance(source, Iterable)):
        raise SpecError(
            Code.BAD_PARAMETER,
            "Samples cannot be read from this",
            got=type(source).__name__,
            expected="a folder, a file, an array, a Dataset, a DataLoader, a table or a list",
        )
    paths = _are_paths(source) if isinstance(source, list | tuple) else False
    if not indexed:
        number = -1
        for number, value in enumerate(source):
            yield Item(_name(value, number), partial(_of_item, value, columns, _of(labels, number), paths))
        _check_number(labels, number + 1)
        return
    held: Any = source
    _check_number(labels, len(held))
    for number in range(len(held)):
        name = _name(source[number], number) if isinstance(source, list | tuple) else f"item {number}"
        yield Item(name, partial(_of_index, source, number, columns, _of(labels, number), paths))


def _of_index(source: Any, number: int, columns: Columns, label: Any, paths: bool) -> tuple[Any, Any]:
    return _of_item(source[number], columns, label, paths)


def _of_item(value: Any, columns: Columns, label: Any, paths: bool) -> tuple[Any, Any]:
    """What one item of a data set is: an input, (input, label), or a row by name."""
    if isinstance(value, Mapping):
        if not columns.named and "inputs" in value:
            return _sound(value["inputs"]), value.get("labels", label)
        if not columns.named:
            raise SpecError(
                Code.BAD_PARAMETER,
                "An item is a dict, and nothing says what of it is the input",
                got=", ".join(map(str, value)),
                fix="Pass text= or columns=, and label=",
            )
        columns.check(list(value))
        return columns.of(value, label)
    if columns.named:
        raise SpecError(Code.BAD_PARAMETER, "The items have no columns", got=type(value).__name__)
    if isinstance(value, tuple | list):
        if len(value) != 2 or (label is not None):
            raise SpecError(
                Code.BAD_PARAMETER,
                "An item is an input, or (input, label)",
                got=f"a {type(value).__name__} of {len(value)}"
                + (" beside labels=" if label is not None else ""),
                fix="Give a data set whose items are such",
            )
        value, label = value[0], label_of(value[1])
    if isinstance(value, os.PathLike) or (paths and isinstance(value, str)):
        return _photograph(Path(value)), label
    return _sound(value), label


def _sound(value: Any) -> Any:
    """The input, whose numbers are finite.

    Raises:
        InputError: they are not, or it is an empty text.
    """
    if isinstance(value, Tensor):
        _need(not value.is_floating_point() or bool(torch.isfinite(value).all()), "NaN or infinity")
    elif isinstance(value, np.ndarray | np.generic) and value.dtype.kind == "f":
        _need(bool(np.isfinite(value).all()), "NaN or infinity")
    _need(value is not None and not (isinstance(value, str) and not value.strip()), "nothing in it")
    return value


def _are_paths(source: Sequence[Any]) -> bool:
    """Whether strings of a list name files of photographs.

    Raises:
        SpecError: some do and some do not.
    """
    named = [isinstance(one, str) and Path(one).suffix.lower() in PICTURES for one in source]
    strings = [isinstance(one, str) for one in source]
    if any(named) and not all(n for n, s in zip(named, strings, strict=True) if s):
        odd = next(one for one, n, s in zip(source, named, strings, strict=True) if s and not n)
        raise SpecError(
            Code.BAD_PARAMETER,
            "Some strings name photographs and some do not",
            got=repr(odd)[:60],
            fix="Give paths as Path objects, or texts apart",
        )
    return any(named)


def of_batches(loader: Any, columns: Columns) -> Iterator[Item]:
    """The batches of a DataLoader."""
    for number, found in enumerate(loader):
        yield Item(f"batch {number}", partial(_of_batch, found, columns))


def _of_batch(found: Any, columns: Columns) -> tuple[Any, Any]:
    """A batch of a DataLoader by what it holds."""
    if isinstance(found, Mapping):
        if "inputs" in found:
            return dict(found), None
        name = columns.label or next((n for n in ("labels", "label") if n in found), None)
        rest = {key: value for key, value in found.items() if key != name}
        label = None if name is None else found[name]
        if columns.text is not None:
            columns.check(list(found))
            return {"inputs": list(found[columns.text]), "labels": label}, None
        return {"inputs": rest, "labels": label}, None
    if isinstance(found, tuple | list) and 1 < len(found) <= 3:
        return dict(zip(("inputs", "labels", "masks"), found, strict=False)), None
    if isinstance(found, tuple | list) and len(found) == 1:
        return {"inputs": found[0]}, None
    return {"inputs": found}, None


def _of(labels: Sequence[Any] | None, number: int) -> Any:
    if labels is None:
        return None
    if number >= len(labels):
        raise SpecError(Code.LABELS, "There are more items than labels", got=f"{len(labels)} labels")
    return labels[number]


def _check_number(labels: Sequence[Any] | None, items: int) -> None:
    if labels is not None and len(labels) != items:
        raise SpecError(
            Code.LABELS, "There is one label for every item", got=f"{len(labels)} labels for {items} items"
        )


def label_of(given: Any) -> Any:
    """A class as a number where it is one, else its name; None where there is nothing."""
    given = given.item() if hasattr(given, "item") and getattr(given, "size", 1) in (1, ()) else given
    if isinstance(given, float):
        return None if given != given else int(given) if given.is_integer() else given
    if isinstance(given, str):
        return None if not given.strip() else int(given) if given.strip().isdecimal() else given.strip()
    return given


def _cell(given: Any) -> Any:
    """A cell of a table: a number where it is one; None where there is nothing."""
    if isinstance(given, float) and given != given:
        return None
    if not isinstance(given, str):
        return given
    text = given.strip()
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        return number if number == number else None
    return text or None


def _name(value: Any, number: int) -> str:
    if isinstance(value, os.PathLike) or (isinstance(value, str) and Path(value).suffix.lower() in PICTURES):
        return readable(Path(value).name)
    return f"item {number}"


def _need(good: bool, what: str) -> None:
    if not good:
        raise InputError(Code.LOADING, what)


def reason_of(problem: Exception) -> str:
    """What a note says of an exception."""
    text = (
        getattr(problem, "what", None) or str(problem).splitlines()[0]
        if str(problem)
        else type(problem).__name__
    )
    return text if hasattr(problem, "what") else f"{type(problem).__name__}: {text}"[:160]

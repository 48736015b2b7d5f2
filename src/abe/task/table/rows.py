"""Rows of a table, whatever holds them, as one array of numbers: values, and codes of categories."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from abe.errors import Code, InputError, note, suggest
from abe.task.data.items import TABLES, rows_of
from abe.task.table.cells import (
    SHOWN,
    Category,
    array_of,
    called,
    check_once,
    codes_in,
    is_column,
    numbers_in,
    plain_cell,
    settled,
)
from abe.words import some

GUESSED = "ABE does not guess missing values"


@dataclass(frozen=True)
class Columns:
    """The columns of a table, in the order in which the model takes them.

    Attributes:
        names: of all columns; numbers from 0 on where nobody named them.
        categories: by place, the columns that hold categories.
        groups: columns that are one to a person: a name and their places.
    """

    names: tuple[Any, ...]
    categories: Mapping[int, Category]
    groups: tuple[tuple[str, tuple[int, ...]], ...] = ()

    @property
    def numbers(self) -> tuple[int, ...]:
        """Places of the columns that hold numbers."""
        return tuple(place for place in range(len(self.names)) if place not in self.categories)

    @property
    def units(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """What people call a column, and the places that belong to it, in order."""
        grouped = {place: group for group in self.groups for place in group[1]}
        listed: list[tuple[str, tuple[int, ...]]] = []
        for place, name in enumerate(self.names):
            unit = grouped.get(place, (called(name), (place,)))
            if unit not in listed:
                listed.append(unit)
        return tuple(listed)

    def unit_of(self) -> list[int]:
        """For every column the number of its unit."""
        found = [0] * len(self.names)
        for number, (_, places) in enumerate(self.units):
            for place in places:
                found[place] = number
        return found

    def told(self, raw: Any) -> tuple[str, ...]:
        """What is said of a table whose columns lie in another order."""
        if not is_frame(raw) or [plain_cell(name) for name in raw.columns] == list(self.names):
            return ()
        order = some(self.names, SHOWN)
        return (note(Code.COLUMN, f"The table's columns were put in the model's order by name: {order}"),)

    # --- reading --------------------------------------------------------------------------------------

    def read(self, raw: Any) -> "Table":
        """Rows in anything that holds some: (b, columns) numbers, and what the rows are called.

        Raises:
            InputError: columns are missing, unknown or repeated, a value is missing or no number, or a
                category is unknown; column and row are named.
        """
        columns, names = self.split(raw)
        if not len(names):
            raise InputError(
                Code.EMPTY_BATCH, "There is nothing to explain", got="no rows", expected="at least one row"
            )
        out = np.empty((len(names), len(self.names)))
        gaps: dict[Any, list[int]] = {}
        for place, name in enumerate(self.names):
            category = self.categories.get(place)
            if category is None:
                out[:, place], missing = numbers_in(columns[place], name)
            else:
                out[:, place], missing = codes_in(columns[place], category, names)
            if missing:
                gaps[name] = missing
        if gaps:
            name, missing = next(iter(gaps.items()))
            more = sum(map(len, gaps.values())) - 1
            raise InputError(
                Code.MISSING_VALUE,
                f"A value is missing in column {called(name)!r}",
                got=f"nothing in {names[missing[0]]}" + (f" and {more} more gaps" if more else ""),
                expected="a value in every column",
                fix=f"Fill it as the model's own preparation does, or leave the row out; {GUESSED}",
            )
        return Table(out, names)

    def split(self, raw: Any) -> tuple[list[Any], list[str]]:
        """Values of every column, in order, and names of the rows."""
        raw = opened(raw)
        if isinstance(raw, Tensor | np.ndarray):
            return self._of_array(array_of(raw) if isinstance(raw, Tensor) else raw)
        if is_frame(raw):
            listed = self._by_name(list(raw.columns), "table")
            index = getattr(raw, "index", None)
            labels = list(range(len(raw))) if index is None else list(index)
            return [raw[listed[name]] for name in self.names], [f"row {label}" for label in labels]
        row = _as_dict(raw)
        if row is not None:
            check_once(list(raw.index), "row")
            raw = row
        if isinstance(raw, Mapping):
            return self._of_mapping(raw)
        if isinstance(raw, Iterable) and not isinstance(raw, str | bytes):
            return self._of_items(list(raw))
        raise no_rows(raw)

    def _of_array(self, array: np.ndarray) -> tuple[list[Any], list[str]]:
        width = len(self.names)
        if array.ndim == 1 and (width > 1 or len(array) == 1):
            array = array[None]
        if array.ndim != 2 or array.shape[1] != width:
            raise self._width(f"shape {array.shape}")
        return [array[:, place] for place in range(width)], [f"row {i}" for i in range(len(array))]

    def _width(self, got: str) -> InputError:
        one = len(self.names) == 1
        return InputError(
            Code.SHAPE,
            "The table has another number of columns than the task",
            got=got,
            expected=f"shape (rows, {len(self.names)})"
            + (", as one number alone may be a row or a column" if one else ""),
            fix=f"The columns are {some(map(called, self.names), SHOWN)}",
        )

    def _of_mapping(self, given: Mapping[Any, Any]) -> tuple[list[Any], list[str]]:
        listed = self._by_name(list(given), "dict")
        values = {name: settled(given[listed[name]]) for name in self.names}
        lengths = {name: len(value) for name, value in values.items() if is_column(value)}
        if not lengths:
            return [[value] for value in values.values()], ["row 0"]
        if len(lengths) < len(values):
            single = next(name for name in values if name not in lengths)
            raise InputError(
                Code.SHAPE,
                f"Column {called(single)!r} has one value where others have several",
                fix="Give every column as many values as there are rows, or one value each for one row",
            )
        if len(set(lengths.values())) > 1:
            raise InputError(
                Code.SHAPE,
                "The columns have different lengths",
                got=", ".join(f"{called(name)} {n}" for name, n in list(lengths.items())[:SHOWN]),
            )
        return list(values.values()), [f"row {i}" for i in range(next(iter(lengths.values())))]

    def _of_items(self, items: list[Any]) -> tuple[list[Any], list[str]]:
        """A list of rows, or one row of values."""
        items = [item if (row := _as_dict(item)) is None else row for item in items]
        held = [isinstance(item, Mapping) for item in items]
        if items and all(held):
            rows: list[list[Any]] = []
            for item in items:
                listed = self._by_name(list(item), "dict")
                rows.append([settled(item[listed[name]]) for name in self.names])
        elif items and all(is_column(item) for item in items):
            rows = [settled(item) for item in items]
            rows = [row.tolist() if isinstance(row, np.ndarray) else list(row) for row in rows]
        elif not items or any(held) or any(is_column(item) for item in items):
            raise InputError(
                Code.EMPTY_BATCH if not items else Code.SHAPE,
                "There is nothing to explain" if not items else "The rows are of different kinds",
                got="an empty list" if not items else some(sorted({type(item).__name__ for item in items})),
                expected="rows, all as dicts or all as lists of values",
            )
        else:  # one row
            rows = [items]
        wrong = next((i for i, row in enumerate(rows) if len(row) != len(self.names)), None)
        if wrong is not None:
            raise self._width(f"{len(rows[wrong])} values in row {wrong}")
        columns = [[row[place] for row in rows] for place in range(len(self.names))]
        return columns, [f"row {i}" for i in range(len(rows))]

    def _by_name(self, given: list[Any], what: str) -> dict[Any, Any]:
        """The column of this name in what was given, which holds each of ours once and no others."""
        check_once(given, what)
        found = {plain_cell(name): name for name in given}
        unnamed = {called(name): name for name in self.names if not isinstance(name, str)}
        found = {
            unnamed.get(name, name) if name not in self.names else name: own for name, own in found.items()
        }
        missing = [name for name in self.names if name not in found]
        unknown = [name for name in found if name not in self.names]
        if missing or unknown:
            near = suggest(str(missing[0]), map(str, unknown)) if missing and unknown else ""
            raise InputError(
                Code.COLUMN,
                f"The {what} has no column {called(missing[0])!r}"
                if missing
                else f"The {what} has a column {called(unknown[0])!r} that the task does not know",
                got=f"columns {some(map(called, given), SHOWN)}",
                expected=f"{some(map(called, self.names), SHOWN)}, in any order",
                fix=near or ("Leave it out, for example with .drop(columns=…)" if not missing else None),
            )
        return found

    # --- and back -------------------------------------------------------------------------------------

    def typical(self, rows: np.ndarray) -> np.ndarray:
        """(columns,) means of numbers, and the most frequent category, also of a one-hot group."""
        out = rows.mean(0)
        for place in self.categories:
            out[place] = _most_frequent(rows[:, place])
        for _, places in self.groups:
            block = rows[:, list(places)]
            hot = np.isin(block, (0, 1)).all() and (block.sum(1) == 1).all()
            if hot and not set(places) & set(self.categories):
                out[list(places)] = np.eye(len(places))[int(_most_frequent(block.argmax(1)))]
        return out

    def values(self, row: np.ndarray) -> dict[str, Any]:
        """What a person sees of one row (columns,)."""
        return {
            called(name): self.categories[place].names[int(row[place])]
            if place in self.categories
            else float(row[place])
            for place, name in enumerate(self.names)
        }

    def named(self, rows: np.ndarray, place: int) -> np.ndarray:
        """(b,) one column of rows (b, columns) with the names of its categories."""
        category = self.categories.get(place)
        if category is None:
            return rows[:, place]
        names = np.empty(len(category.names), dtype=object)
        names[:] = category.names
        found = names[rows[:, place].astype(int)]
        return found if category.is_text else np.array(found.tolist())


@dataclass(frozen=True)
class Table:
    """Rows (b, columns) of numbers and codes, and what they are called."""

    rows: np.ndarray
    names: list[str]


@dataclass(frozen=True, eq=False)
class Background:
    """Rows (m, columns) that stand in for absent columns, the typical row (columns,), all rows, and notes."""

    rows: np.ndarray
    typical: np.ndarray
    whole: np.ndarray
    notes: tuple[str, ...] = ()


def _as_dict(raw: Any) -> dict[Any, Any] | None:
    """One row with named values, such as a pandas Series; None for anything else."""
    return raw.to_dict() if hasattr(raw, "to_dict") and hasattr(raw, "index") else None


def is_frame(raw: Any) -> bool:
    """Whether this is a table with named columns, such as a pandas or polars DataFrame."""
    return hasattr(raw, "columns") and hasattr(raw, "__getitem__") and not isinstance(raw, type)


def opened(raw: Any) -> Any:
    """The rows of a file, where its path is given; else what was given."""
    named = isinstance(raw, str) and Path(raw).suffix.lower() in TABLES
    return rows_of(Path(raw)) if named or isinstance(raw, os.PathLike) else raw


def no_rows(raw: Any) -> InputError:
    """The error for what holds no rows."""
    shape = f" of shape {tuple(raw.shape)}" if hasattr(raw, "shape") else ""
    return InputError(
        Code.SHAPE,
        "This is no row of a table",
        got=f"{type(raw).__name__}{shape}",
        expected="a DataFrame, an array (rows, columns), a dict of columns or of one row's values, or the "
        "path of a .csv, .tsv or .parquet file",
    )


def names_of(raw: Any) -> tuple[Any, ...] | None:
    """The names of the columns of what holds rows; None where they have none.

    Raises:
        InputError: two columns have one name.
    """
    if is_frame(raw):
        listed = list(raw.columns)
    elif isinstance(raw, Mapping):
        listed = list(raw)
    elif isinstance(raw, list | tuple) and raw and isinstance(raw[0], Mapping):
        listed = list(raw[0])
    elif (row := _as_dict(raw)) is not None:
        listed = list(row)
    else:
        return None
    check_once(listed, "table")
    return tuple(plain_cell(name) for name in listed)


def width_of(raw: Any) -> int | None:
    """How many columns unnamed rows have; None where that cannot be told."""
    if isinstance(raw, list | tuple) and raw:
        inside = [is_column(item) for item in raw]
        lengths = {len(settled(item)) for item, own in zip(raw, inside, strict=True) if own}
        if all(inside):
            return lengths.pop() if len(lengths) == 1 else None
        return None if any(inside) else len(raw)
    if not isinstance(raw, Tensor | np.ndarray) or raw.ndim not in (1, 2):
        return None
    return int(raw.shape[-1])


def _most_frequent(values: np.ndarray) -> float:
    """The smallest of those that occur most often."""
    met, counts = np.unique(values, return_counts=True)
    return float(met[counts.argmax()])

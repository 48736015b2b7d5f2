"""Rows of a table, whatever holds them, as one array of numbers: values, and codes of categories."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from abe.errors import Code, InputError, SpecError, suggest
from abe.words import some

SHOWN = 12
"""Categories and columns that an error lists."""
GUESSED = "ABE does not guess missing values"


@dataclass(frozen=True)
class Category:
    """The names of a category, in the order of their codes.

    Attributes:
        column: what the column is called.
        names: by code.
        learnt: whether nobody said the order: the names were met in the background and sorted.
    """

    column: Any
    names: tuple[Any, ...]
    learnt: bool = False
    _codes: dict[Any, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        names = tuple(_plain(name) for name in self.names)
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "_codes", {name: code for code, name in enumerate(names)})
        if not names or len(self._codes) < len(names):
            raise SpecError(
                Code.CATEGORY,
                f"The categories of {self.column!r} are unusable",
                got="none" if not names else f"{some(map(repr, names), SHOWN)}, with repetitions",
                expected="every name once, in the order of the codes",
            )

    @property
    def is_text(self) -> bool:
        """Whether no name is a number, so that a number can only be a code."""
        return all(isinstance(name, str) for name in self.names)

    def code(self, value: Any) -> int | None:
        """The code of a name, or of a code where names are text; None for what is no category."""
        value = _plain(value)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and self.is_text:
            return int(value) if value == int(value) and 0 <= value < len(self.names) else None
        return self._codes.get(value)


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
            unit = grouped.get(place, (_called(name), (place,)))
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
                out[:, place], missing = _numbers(columns[place], name)
            else:
                out[:, place], missing = _codes(columns[place], category, names)
            if missing:
                gaps[name] = missing
        if gaps:
            name, missing = next(iter(gaps.items()))
            more = sum(map(len, gaps.values())) - 1
            raise InputError(
                Code.MISSING_VALUE,
                f"A value is missing in column {_called(name)!r}",
                got=f"nothing in {names[missing[0]]}" + (f" and {more} more gaps" if more else ""),
                expected="a value in every column",
                fix=f"Fill it as the model's own preparation does, or leave the row out; {GUESSED}",
            )
        return Table(out, names)

    def split(self, raw: Any) -> tuple[list[Any], list[str]]:
        """Values of every column, in order, and names of the rows."""
        if isinstance(raw, Tensor | np.ndarray):
            return self._of_array(raw.detach().cpu().numpy() if isinstance(raw, Tensor) else raw)
        if is_frame(raw):
            listed = self._by_name(list(raw.columns), "table")
            index = getattr(raw, "index", None)
            labels = list(range(len(raw))) if index is None else list(index)
            return [raw[listed[name]] for name in self.names], [f"row {label}" for label in labels]
        if hasattr(raw, "to_dict") and hasattr(raw, "index"):  # one row of a table
            _once(list(raw.index), "row")
            raw = raw.to_dict()
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
            fix=f"The columns are {some(map(_called, self.names), SHOWN)}",
        )

    def _of_mapping(self, given: Mapping[Any, Any]) -> tuple[list[Any], list[str]]:
        listed = self._by_name(list(given), "dict")
        values = {name: _settled(given[listed[name]]) for name in self.names}
        lengths = {name: len(value) for name, value in values.items() if _is_column(value)}
        if not lengths:
            return [[value] for value in values.values()], ["row 0"]
        if len(lengths) < len(values):
            single = next(name for name in values if name not in lengths)
            raise InputError(
                Code.SHAPE,
                f"Column {_called(single)!r} has one value where others have several",
                fix="Give every column as many values as there are rows, or one value each for one row",
            )
        if len(set(lengths.values())) > 1:
            raise InputError(
                Code.SHAPE,
                "The columns have different lengths",
                got=", ".join(f"{_called(name)} {n}" for name, n in list(lengths.items())[:SHOWN]),
            )
        return list(values.values()), [f"row {i}" for i in range(next(iter(lengths.values())))]

    def _of_items(self, items: list[Any]) -> tuple[list[Any], list[str]]:
        """A list of rows, or one row of values."""
        items = [
            item.to_dict() if hasattr(item, "to_dict") and hasattr(item, "index") else item for item in items
        ]
        held = [isinstance(item, Mapping) for item in items]
        if items and all(held):
            rows: list[list[Any]] = []
            for item in items:
                listed = self._by_name(list(item), "dict")
                rows.append([_settled(item[listed[name]]) for name in self.names])
        elif items and all(_is_column(item) for item in items):
            rows = [_settled(item) for item in items]
            rows = [row.tolist() if isinstance(row, np.ndarray) else list(row) for row in rows]
        elif not items or any(held) or any(_is_column(item) for item in items):
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
        _once(given, what)
        found = {_plain(name): name for name in given}
        unnamed = {_called(name): name for name in self.names if not isinstance(name, str)}
        found = {
            unnamed.get(name, name) if name not in self.names else name: own for name, own in found.items()
        }
        missing = [name for name in self.names if name not in found]
        unknown = [name for name in found if name not in self.names]
        if missing or unknown:
            near = suggest(str(missing[0]), map(str, unknown)) if missing and unknown else ""
            raise InputError(
                Code.COLUMN,
                f"The {what} has no column {_called(missing[0])!r}"
                if missing
                else f"The {what} has a column {_called(unknown[0])!r} that the task does not know",
                got=f"columns {some(map(_called, given), SHOWN)}",
                expected=f"{some(map(_called, self.names), SHOWN)}, in any order",
                fix=near or ("Leave it out, for example with .drop(columns=…)" if not missing else None),
            )
        return found

    # --- and back -------------------------------------------------------------------------------------

    def values(self, row: np.ndarray) -> dict[str, Any]:
        """What a person sees of one row (columns,)."""
        return {
            _called(name): self.categories[place].names[int(row[place])]
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


def is_frame(raw: Any) -> bool:
    """Whether this is a table with named columns, such as a pandas or polars DataFrame."""
    return hasattr(raw, "columns") and hasattr(raw, "__getitem__") and not isinstance(raw, type)


def no_rows(raw: Any) -> InputError:
    """The error for what holds no rows."""
    shape = f" of shape {tuple(raw.shape)}" if hasattr(raw, "shape") else ""
    return InputError(
        Code.SHAPE,
        "This is no row of a table",
        got=f"{type(raw).__name__}{shape}",
        expected="a DataFrame, an array (rows, columns), or a dict of columns or of one row's values",
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
    elif hasattr(raw, "to_dict") and hasattr(raw, "index"):
        listed = list(raw.index)
    else:
        return None
    _once(listed, "table")
    return tuple(_plain(name) for name in listed)


def width_of(raw: Any) -> int | None:
    """How many columns unnamed rows have; None where that cannot be told."""
    if isinstance(raw, list | tuple) and raw:
        inside = [_is_column(item) for item in raw]
        lengths = {len(_settled(item)) for item, own in zip(raw, inside, strict=True) if own}
        if all(inside):
            return lengths.pop() if len(lengths) == 1 else None
        return None if any(inside) else len(raw)
    if not isinstance(raw, Tensor | np.ndarray) or raw.ndim not in (1, 2):
        return None
    return int(raw.shape[-1])


def learnt(values: Any, name: Any, *, coded: bool) -> Category:
    """The categories that a column of background rows holds: its own order, or sorted.

    Args:
        values: of the column.
        name: of the column.
        coded: whole numbers are codes already, as a model with embeddings takes them.
    """
    order = getattr(getattr(values, "cat", None), "categories", None)
    if order is not None and len(order):
        return Category(name, tuple(order))
    met = {_plain(value) for value in _listed(values) if not _is_missing(value)}
    met = {int(one) if isinstance(one, float) and one.is_integer() else one for one in met}
    whole = bool(met) and all(isinstance(one, int) and not isinstance(one, bool) for one in met)
    if whole and coded and min(met) >= 0:
        return Category(name, tuple(range(max(met) + 1)))
    if not met:
        raise SpecError(
            Code.CATEGORY, f"Column {_called(name)!r} of the background has no value to learn from"
        )
    try:
        return Category(name, tuple(sorted(met)), learnt=not whole)
    except TypeError:
        raise SpecError(
            Code.CATEGORY,
            f"The categories of {_called(name)!r} cannot be put in order",
            got=some(sorted(map(repr, met)), SHOWN),
            fix=f"Name them in the order of their codes: categories={{{_called(name)!r}: […]}}",
        ) from None


# --- cells ------------------------------------------------------------------------------------------------


def _numbers(values: Any, name: Any) -> tuple[np.ndarray, list[int]]:
    """(b,) a column of numbers, and the rows in which one is missing."""
    array = np.asarray(values)
    if array.dtype.kind in "biuf":
        out = array.astype(np.float64)
        missing = np.isnan(out)
    elif array.dtype.kind in "mM":
        raise _no_number(
            name, "dates or spans of time", "Turn them into numbers first, such as days since a date"
        )
    elif array.dtype.kind == "c":
        raise _no_number(name, "complex numbers", None)
    else:
        cells = _listed(values)
        missing = np.array([_is_missing(cell) for cell in cells])
        out = np.array(
            [0.0 if gap else _number(cell, name) for cell, gap in zip(cells, missing, strict=True)]
        )
    if np.isinf(out).any():
        row = int(np.isinf(out).argmax())
        raise InputError(
            Code.NOT_FINITE_INPUT, f"Column {_called(name)!r} holds infinity", got=f"in row {row}"
        )
    return out, missing.nonzero()[0].tolist()


def _number(cell: Any, name: Any) -> float:
    value = _plain(cell)
    if isinstance(value, str | bytes):
        fix = f"Name the column in categories=, for example categories=[{_called(name)!r}], or convert it"
        raise _no_number(name, f"text, such as {value!r}"[:80], fix)
    if hasattr(value, "isoformat") or hasattr(value, "total_seconds"):
        raise _no_number(
            name, "dates or spans of time", "Turn them into numbers first, such as days since a date"
        )
    try:
        return float(value)
    except (TypeError, ValueError):
        raise _no_number(name, f"{type(value).__name__} {value!r}"[:80], None) from None


def _no_number(name: Any, got: str, fix: str | None) -> InputError:
    return InputError(
        Code.COLUMN, f"Column {_called(name)!r} holds no numbers", got=got, expected="numbers", fix=fix
    )


def _codes(values: Any, category: Category, rows: Sequence[str]) -> tuple[np.ndarray, list[int]]:
    """(b,) codes of a column of categories, and the rows in which one is missing."""
    out, missing, known = np.zeros(len(rows)), [], dict[Any, int | None]()
    for row, cell in enumerate(_listed(values)):
        if _is_missing(cell):
            missing.append(row)
            continue
        value = _plain(cell)
        if not isinstance(value, Hashable):
            value = repr(value)
        if value not in known:
            known[value] = category.code(value)
        code = known[value]
        if code is None:
            codes = f", or codes 0 to {len(category.names) - 1}" if category.is_text else ""
            raise InputError(
                Code.CATEGORY,
                f"Column {_called(category.column)!r} has no category {value!r}",
                got=f"it in {rows[row]}",
                expected=f"one of {some(map(repr, category.names), SHOWN)}{codes}",
                fix=(suggest(value, map(str, category.names)) if isinstance(value, str) else "") or None,
            )
        out[row] = code
    return out, missing


def _listed(values: Any) -> list[Any]:
    if isinstance(values, list):
        return values
    return values.to_list() if hasattr(values, "to_list") else np.asarray(values).tolist()


def _is_missing(cell: Any) -> bool:
    if cell is None or type(cell).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(cell, float | np.floating) and bool(np.isnan(cell))


def _is_column(value: Any) -> bool:
    """Whether this holds several values."""
    if isinstance(value, Tensor | np.ndarray):
        return value.ndim > 0
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)


def _settled(value: Any) -> Any:
    """A tensor as an array; anything else as it is."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    return value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value


def _plain(value: Any) -> Any:
    """A scalar of NumPy or PyTorch as Python's own."""
    return value.item() if isinstance(value, np.generic | Tensor) and not getattr(value, "ndim", 0) else value


def _called(name: Any) -> str:
    """What a column is called."""
    return name if isinstance(name, str) else f"column {name}" if isinstance(name, int) else str(name)


called = _called


def _once(names: Sequence[Any], what: str) -> None:
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise InputError(
            Code.COLUMN,
            f"The {what} has two columns called {_called(_plain(twice[0]))!r}",
            expected="every name once",
            fix="Rename or drop one of them",
        )

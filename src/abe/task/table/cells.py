"""Cells of a table: numbers, and names of categories with their codes."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from abe.errors import Code, InputError, SpecError, suggest
from abe.words import some

SHOWN = 12
"""Categories and columns that an error lists."""


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
        names = tuple(plain_cell(name) for name in self.names)
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
        """Whether no name is a number or written like one, so that a number can only be a code."""
        return not any(not isinstance(name, str) or _is_digits(name) for name in self.names)

    def code(self, value: Any) -> int | None:
        """The code of a name, or of a code where names are text; None for what is no category."""
        value = plain_cell(value)
        if not self.is_text or isinstance(value, bool) or not isinstance(value, int | float):
            return self._codes.get(value)
        whole = int(value) if value == value // 1 else -1
        return whole if 0 <= whole < len(self.names) else None


def _is_digits(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True


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
    cells = [plain_cell(value) for value in listed_cells(values) if not is_missing(value)]
    met: set[Any] = {cell if isinstance(cell, Hashable) else repr(cell) for cell in cells}
    met = {int(one) if isinstance(one, float) and one.is_integer() else one for one in met}
    whole = bool(met) and all(isinstance(one, int) and not isinstance(one, bool) for one in met)
    if whole and coded and min(met) >= 0:
        most: int = max(met)
        return Category(name, tuple(range(most + 1)))
    if not met:
        raise SpecError(
            Code.CATEGORY, f"Column {called(name)!r} of the background has no value to learn from"
        )
    try:
        return Category(name, tuple(sorted(met)), learnt=coded)
    except TypeError:
        raise SpecError(
            Code.CATEGORY,
            f"The categories of {called(name)!r} cannot be put in order",
            got=some(sorted(map(repr, met)), SHOWN),
            fix=f"Name them in the order of their codes: categories={{{called(name)!r}: […]}}",
        ) from None


def numbers_in(values: Any, name: Any) -> tuple[np.ndarray, list[int]]:
    """(b,) a column of numbers, and the rows in which one is missing."""
    array = np.asarray(values)
    if array.dtype.kind in "biuf":
        out = array.astype(np.float64)
        if isinstance(values, np.ma.MaskedArray):
            out[np.ma.getmaskarray(values)] = np.nan
        missing = np.isnan(out)
    elif array.dtype.kind in "mM":
        raise _no_number(
            name, "dates or spans of time", "Turn them into numbers first, such as days since a date"
        )
    elif array.dtype.kind == "c":
        raise _no_number(name, "complex numbers", None)
    else:
        cells = listed_cells(values)
        missing = np.array([is_missing(cell) for cell in cells])
        out = np.array(
            [0.0 if gap else _number(cell, name) for cell, gap in zip(cells, missing, strict=True)]
        )
    if np.isinf(out).any():
        row = int(np.isinf(out).argmax())
        raise InputError(
            Code.NOT_FINITE_INPUT, f"Column {called(name)!r} holds infinity", got=f"in row {row}"
        )
    return out, missing.nonzero()[0].tolist()


def _number(cell: Any, name: Any) -> float:
    value = plain_cell(cell)
    if isinstance(value, str | bytes):
        fix = f"Name the column in categories=, for example categories=[{called(name)!r}], or convert it"
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
        Code.COLUMN, f"Column {called(name)!r} holds no numbers", got=got, expected="numbers", fix=fix
    )


def codes_in(values: Any, category: Category, rows: Sequence[str]) -> tuple[np.ndarray, list[int]]:
    """(b,) codes of a column of categories, and the rows in which one is missing."""
    out, missing, known = np.zeros(len(rows)), [], dict[Any, int | None]()
    for row, cell in enumerate(listed_cells(values)):
        if is_missing(cell):
            missing.append(row)
            continue
        value = plain_cell(cell)
        if not isinstance(value, Hashable):
            value = repr(value)
        if value not in known:
            known[value] = category.code(value)
        code = known[value]
        if code is None:
            codes = f", or codes 0 to {len(category.names) - 1}" if category.is_text else ""
            raise InputError(
                Code.CATEGORY,
                f"Column {called(category.column)!r} has no category {value!r}",
                got=f"it in {rows[row]}",
                expected=f"one of {some(map(repr, category.names), SHOWN)}{codes}",
                fix=(suggest(value, map(str, category.names)) if isinstance(value, str) else "") or None,
            )
        out[row] = code
    return out, missing


def listed_cells(values: Any) -> list[Any]:
    """The cells of a column, one by one."""
    if isinstance(values, list):
        return values
    if hasattr(values, "to_list"):
        return values.to_list()
    return (values if isinstance(values, np.ndarray) else np.asarray(values)).tolist()  # None where masked


def is_missing(cell: Any) -> bool:
    """Whether a cell holds nothing: None, NaN, or what pandas has for it."""
    if cell is None or type(cell).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(cell, float | np.floating) and bool(np.isnan(cell))


def is_column(value: Any) -> bool:
    """Whether this holds several values."""
    if isinstance(value, Tensor | np.ndarray):
        return value.ndim > 0
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)


def array_of(tensor: Tensor) -> np.ndarray:
    """A tensor's numbers; NumPy has no bfloat16."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()


def settled(value: Any) -> Any:
    """A tensor as an array; anything else as it is."""
    if isinstance(value, Tensor):
        value = array_of(value)
    return value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value


def plain_cell(value: Any) -> Any:
    """A scalar of NumPy or PyTorch as Python's own."""
    return value.item() if isinstance(value, np.generic | Tensor) and not getattr(value, "ndim", 0) else value


def called(name: Any) -> str:
    """What a column is called."""
    return name if isinstance(name, str) else f"column {name}" if isinstance(name, int) else str(name)


def check_once(names: Sequence[Any], what: str) -> None:
    """Refuse two columns of one name.

    Raises:
        InputError: there are such.
    """
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise InputError(
            Code.COLUMN,
            f"The {what} has two columns called {called(plain_cell(twice[0]))!r}",
            expected="every name once",
            fix="Rename or drop one of them",
        )

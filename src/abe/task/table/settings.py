"""What a table task is told of its columns, read: names, categories, groups, bounds, and the background."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from abe.checks import COUNT, need_list, refused
from abe.errors import Code, InputError, SpecError, note, suggest
from abe.task.table.cells import SHOWN, Category, called, learnt
from abe.task.table.rows import Background, Columns, Table, names_of, width_of
from abe.words import some


def columns_of(raw: Any, columns: Any, categories: Any, groups: Any, *, coded: bool) -> Columns | None:
    """The columns of a task; None where nothing names or counts them yet."""
    said = "names, one per column"
    names = None if columns is None else tuple(_names("columns", columns, said))
    listed = _asked(categories)
    if names is None and raw is not None:
        width = width_of(raw)
        names = names_of(raw) or (None if width is None else tuple(range(width)))
    if names is None or not names:
        if listed and raw is None:
            raise SpecError(
                Code.COLUMN,
                "Where the categories lie is not known",
                fix="Pass background= or columns=, the names in the order in which the model takes them",
            )
        return None
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise SpecError(
            Code.COLUMN, f"Two columns are called {called(twice[0])!r}", expected="every name once"
        )
    bare = Columns(names, {})
    asked = {_place(names, key, "categories"): given for key, given in listed.items()}
    held: Callable[[int], Any] = _once_split(bare, raw)
    found = {place: _category(names[place], asked[place], held, place, coded) for place in sorted(asked)}
    return Columns(names, found, _groups(names, groups))


def _once_split(bare: Columns, raw: Any) -> Callable[[int], Any]:
    """Values of a column of the background, split when first asked for."""
    split = list[Any]()

    def held(place: int) -> Any:
        if raw is None:
            raise SpecError(
                Code.CATEGORY,
                f"The categories of {called(bare.names[place])!r} are not known",
                fix="Name them in the order of their codes, or pass background= to learn them from",
            )
        if not split:
            split.extend(bare.split(raw)[0])
        return split[place]

    return held


def _asked(categories: Any) -> dict[Any, Any]:
    """Given categories by column; None where they are to be learnt."""
    if categories is None:
        return {}
    if isinstance(categories, str):
        return {categories: None}
    if isinstance(categories, Mapping):
        return dict(categories)
    said = 'a dict {"column": [names]}, or a list of columns'
    if not isinstance(categories, Iterable):
        got = type(categories).__name__
        raise SpecError(Code.BAD_PARAMETER, "categories= names columns", got=got, expected=said)
    return dict.fromkeys(_names("categories", categories, said))


def _names(parameter: str, given: Any, said: str) -> list[Any]:
    """The items of a list of names.

    Raises:
        SpecError: it is no list, or holds what cannot name a column.
    """
    found = need_list(parameter, given, said)
    if strange := [name for name in found if not isinstance(name, str | int | float | tuple)]:
        raise refused(parameter, f"are {said}", strange[0])
    return found


def _category(name: Any, given: Any, held: Callable[[int], Any], place: int, coded: bool) -> Category:
    if given is None:
        return learnt(held(place), name, coded=coded)
    if isinstance(given, int) and not isinstance(given, bool):
        return Category(name, tuple(range(COUNT.check("categories", given))))
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise SpecError(
            Code.CATEGORY,
            f"The categories of {called(name)!r} are a list of names",
            got=repr(given)[:60],
            expected="every name once, in the order of the codes, or how many codes there are",
        )
    return Category(name, tuple(given))


def _place(names: tuple[Any, ...], key: Any, what: str) -> int:
    """The place of a column that is named, or numbered."""
    if key in names:
        return names.index(key)
    if isinstance(key, int) and not isinstance(key, bool) and 0 <= key < len(names):
        return key
    raise SpecError(
        Code.COLUMN,
        f"{what}= names a column that the table does not have",
        got=repr(key),
        expected=f"one of {some(map(called, names), SHOWN)}",
        fix=suggest(str(key), map(str, names)) or None,
    )


def _groups(names: tuple[Any, ...], groups: Any) -> tuple[tuple[str, tuple[int, ...]], ...]:
    if groups is None:
        return ()
    if not isinstance(groups, Mapping):
        listed = [groups] if isinstance(groups, str) else list(groups)
        groups = {name: f"{name}_" for name in listed}
    found, taken = list[tuple[str, tuple[int, ...]]](), dict[int, Any]()
    for name, given in groups.items():
        if isinstance(given, str):
            places = [i for i, one in enumerate(names) if isinstance(one, str) and one.startswith(given)]
        else:
            places = [_place(names, key, "groups") for key in given]
        twice = next((place for place in places if place in taken), None)
        if not places or twice is not None or len(set(places)) < len(places):
            raise SpecError(
                Code.COLUMN,
                f"The group {name!r} is unusable",
                got=f"no column that begins with {given!r}"
                if not places
                else f"{called(names[places[0] if twice is None else twice])!r} twice",
                expected="columns of which none is in two groups",
            )
        taken.update(dict.fromkeys(places, name))
        found.append((str(name), tuple(places)))
    return tuple(found)


def by_column(
    embeddings: Mapping[Any, str | Sequence[str]] | None, columns: Columns | None
) -> dict[Any, str | Sequence[str]]:
    """Named embeddings by the column's own name."""
    if embeddings is None:
        return {}
    if not isinstance(embeddings, Mapping):
        raise refused("embeddings", "is a dict {column: name of a module}", embeddings)
    if not embeddings:
        return {}
    if columns is None:
        raise SpecError(Code.COLUMN, "embeddings= names columns that are not known", fix="Pass columns= too")
    named = {_place(columns.names, key, "embeddings"): layers for key, layers in embeddings.items()}
    wrong = next((place for place in named if place not in columns.categories), None)
    if wrong is not None:
        raise SpecError(
            Code.CATEGORY,
            f"embeddings= names {called(columns.names[wrong])!r}, which is no category",
            fix="Name the column in categories= too",
        )
    return {columns.names[place]: layers for place, layers in named.items()}


def bounds_of(given: Any, columns: Columns) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(low, high), one of each per column of numbers."""
    m = len(columns.numbers)
    try:
        low, high = (np.broadcast_to(np.asarray(end, dtype=float), (m,)).tolist() for end in given)
    except (TypeError, ValueError):
        low, high = [np.nan], [np.nan]
    if all(a < b for a, b in zip(low, high, strict=True)) and np.isfinite([*low, *high]).all():
        return tuple(low), tuple(high)
    raise SpecError(
        Code.BAD_PARAMETER,
        "bounds= are the smallest and the largest value of the numbers",
        got=repr(given)[:60],
        expected=f"(low, high), low below high, a number each or {m}, one per column of numbers",
    )


def background_of(columns: Columns, raw: Any, most: int | None) -> Background:
    """Background rows, at most so many."""
    rows = columns.read(raw).rows
    typical, n = columns.typical(rows), len(rows)
    if most is None or n <= most:
        return Background(rows, typical, rows)
    said = f"{most} of {n} background rows, spread evenly, stand in for absent columns"
    told = note(Code.BACKGROUND, f"{said}; background_rows= takes more")
    return Background(rows[np.linspace(0, n - 1, most).round().astype(int)], typical, rows, (told,))


def check_bounds(bounds: tuple[Sequence[float], Sequence[float]], columns: Columns, table: Table) -> None:
    """Refuse numbers outside the bounds, by column and row.

    Raises:
        InputError: there are such.
    """
    for place, low, high in zip(columns.numbers, *bounds, strict=True):
        values, slack = table.rows[:, place], 1e-6 * (high - low)
        outside = ((values < low - slack) | (values > high + slack)).nonzero()[0]
        if len(outside):
            raise InputError(
                Code.OUT_OF_BOUNDS,
                f"Column {called(columns.names[place])!r} leaves the task's bounds",
                got=f"{values[outside[0]]:g} in {table.names[outside[0]]}",
                expected=f"{low:g} to {high:g}",
                fix="Set wider bounds= where such values are possible",
            )

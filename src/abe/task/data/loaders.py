"""Samples from where they lie: folders, arrays, data sets, tables and files of texts, batch by batch."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from abe.checks import Count, checked_arguments
from abe.errors import Code, InputError, SpecError, note, suggest
from abe.task.data.items import (
    PICTURES,
    TABLES,
    TEXTS,
    Columns,
    Item,
    header,
    label_of,
    of_batches,
    of_csv,
    of_file,
    of_frame,
    of_lines,
    of_parquet,
    of_sequence,
    reason_of,
)
from abe.terminal import readable

BATCH = 32
NAMED = 6
"""Items that a note names; the others are counted."""


_Read = tuple[str, Any, Any]
"""Name, input and label of an item."""


@dataclass(eq=False)
class Samples:
    """Batches of samples; can be gone through again where its source can.

    Attributes:
        what: one word for what an item is: ``"photograph"``, ``"row"``, ``"text"``, ``"item"``.
        items: begins a pass over the source.
        batch: samples at a time; None where the source brings its own batches.
        strict: whether an item that cannot be read stops everything.
        classes: names of class folders, in order.
        skipped: (name, reason) of the items that the last pass left out.
        seen: how many items it read.
        given: how many batches it handed on before the one it is at.
    """

    what: str
    items: Callable[[], Iterable[Item]]
    batch: int | None = BATCH
    strict: bool = False
    classes: tuple[str, ...] = ()
    skipped: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    seen: int = 0
    given: int = 0

    def __repr__(self) -> str:
        size = "batches of its own" if self.batch is None else f"batches of {self.batch}"
        return f"Samples({self.what}s, {size}, {len(self.skipped)} left out so far)"

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Batches: a dict of ``inputs``, ``names``, and where there are any ``labels`` and ``notes``.

        Raises:
            InputError: LOADING where the source fails, or with ``strict`` an item; EMPTY_BATCH where nothing
                is left.
        """
        self.skipped, self.seen, self.given = [], 0, 0
        kept, told, full = list[_Read](), 0, self.batch or 1
        for found in self._read():
            if len(kept) == full:
                # A batch waits for the next sample: its notes tell of all that was left out up to there.
                ready = _together(kept, self._told(told), whole=self.batch is None)
                told, self.given, kept = len(self.skipped), self.given + 1, []
                yield ready
            if isinstance(found, _Failure):
                raise self._failed(found) from found.problem
            kept.append(found)
        if kept:
            yield _together(kept, self._told(told), whole=self.batch is None)
        elif not self.given:
            some = "; ".join(f"{name}: {reason}" for name, reason in self.skipped[:2])
            raise InputError(
                Code.EMPTY_BATCH,
                f"No {self.what} is left to explain",
                got=f"{len(self.skipped)} that could not be read ({some})" if some else "an empty source",
            )

    def _read(self) -> Iterator["_Read | _Failure"]:
        """Every item that can be read, and what ended it where that was no end."""
        source, number = iter(self.items()), 0
        while True:
            try:
                item = next(source)
            except StopIteration:
                return
            except SpecError:
                raise
            except Exception as problem:
                yield _Failure(f"{self.what} {number}", problem)
                return
            number += 1
            try:
                value, label = item.read()
            except SpecError:
                raise
            except Exception as problem:
                if self.strict:
                    yield _Failure(item.name, problem)
                    return
                self.skipped.append((item.name, reason_of(problem)))
            else:
                self.seen += 1
                yield item.name, value, label

    def _told(self, start: int) -> list[str]:
        """The note on what was left out since the batch before."""
        left = self.skipped[start:]
        if not left:
            return []
        named = "; ".join(f"{name} ({reason})" for name, reason in left[:NAMED])
        more = f"; and {len(left) - NAMED} more" if len(left) > NAMED else ""
        many = (
            f"{len(left)} items that could not be read are"
            if len(left) > 1
            else "1 item that could not be read is"
        )
        return [note(Code.SKIPPED, f"{many} left out: {named}{more}")]

    def _failed(self, found: "_Failure") -> InputError:
        seen = f"{self.seen} {self.what}{'' if self.seen == 1 else 'es' if self.what == 'batch' else 's'}"
        return InputError(
            Code.LOADING,
            f"Loading failed at {found.at}",
            got=reason_of(found.problem),
            fix=f"Before it, {seen} could be read, and {self.given} whole batches were handed on"
            + ("; strict=False leaves out what cannot be read" if self.strict else ""),
        )


@dataclass(frozen=True)
class _Failure:
    """What ended a pass, and where."""

    at: str
    problem: Exception


@checked_arguments
def samples(
    source: Any,
    *,
    labels: Any = None,
    text: str | None = None,
    columns: Sequence[str] | None = None,
    label: str | None = None,
    classes: Sequence[str] | None = None,
    pattern: str = "*",
    delimiter: str | None = None,
    batch: Count | None = None,
    strict: bool = False,
) -> Samples:
    """A stream of batches for `abe.compare`, `abe.evaluate` and `abe.fit`, read when their turn comes.

    ==================================  =================================================================
    source                              what becomes of it
    ==================================  =================================================================
    a folder                            its photographs, or its ``.txt`` files; folders in it are classes
    ``.csv``, ``.tsv``, ``.parquet``    rows: the ``text=`` column, or ``columns=`` of a table
    a table (DataFrame)                 the same
    a ``.txt`` file                     a text per line
    an array or tensor                  its samples, along the first axis
    a ``Dataset``, list or iterator     an item each: an input, (input, label), or a dict, as a row
    a ``DataLoader``                    its own batches
    ==================================  =================================================================

    An item that cannot be read is left out, and the result's warnings count and name it.

    Args:
        source: see above.
        labels: true classes, numbers or names, one per item in order; False where folders are no classes.
        text: the column that holds the text.
        columns: the columns of the table; by default all but the label's.
        label: the column of the true class.
        classes: names of class folders in the order of the model's classes, for tasks without names.
        pattern: which files of a folder, such as ``"*.png"``.
        delimiter: between the columns of a CSV file; a comma, of ``.tsv`` a tab.
        batch: samples at a time, 32 by default; a ``DataLoader`` has its own.
        strict: stop at an item that cannot be read, and say which.

    Raises:
        SpecError: settings that do not go with the source, or an unknown column.
        InputError: EMPTY_BATCH for nothing to read; LOADING for no such file, and later on for a source that
            fails half way.
        PackageError: ``.parquet`` without pyarrow.

    Example:
        >>> import torch, abe
        >>> [len(one["inputs"]) for one in abe.samples(torch.rand(5, 3, 4, 4), batch=2)]
        [2, 2, 1]
    """
    columns_of = Columns(text, None if columns is None else tuple(columns), label)
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if path.is_dir():
            _no_columns(columns_of, "a folder")
            return _folder(path, labels, classes, pattern, batch or BATCH, strict)
        return _file(path, columns_of, labels, delimiter, batch or BATCH, strict)
    if isinstance(source, DataLoader):
        if batch is not None or labels is not None:
            raise SpecError(
                Code.BAD_PARAMETER,
                "A DataLoader brings batches and labels of its own",
                got="batch=" if batch is not None else "labels=",
                fix="Set them where the loader is made, or pass its data set",
            )
        return Samples("batch", partial(of_batches, source, columns_of), None, strict)
    each = _labels(labels)
    if hasattr(source, "iloc"):
        rows = partial(of_frame, source, columns_of, each)
        return Samples("row", rows, batch or BATCH, strict)
    return Samples("item", partial(of_sequence, source, columns_of, each), batch or BATCH, strict)


def _no_columns(columns: Columns, of: str) -> None:
    if columns.named:
        raise SpecError(
            Code.BAD_PARAMETER, f"{of.capitalize()} has no columns", got="text=, columns= or label="
        )


def _folder(
    path: Path, labels: Any, classes: Sequence[str] | None, pattern: str, batch: int, strict: bool
) -> Samples:
    """The photographs or texts below a folder, whose first folder is the class."""
    if labels not in (None, False):
        raise SpecError(
            Code.BAD_PARAMETER,
            "Labels of a folder are its folders",
            got="labels=",
            fix="Pass labels=False to leave them out, or a list of paths with labels=",
        )
    walked = sorted(Path(root) / one for root, _, files in os.walk(path, followlinks=True) for one in files)
    hidden = [p for p in walked if any(part.startswith(".") for part in p.relative_to(path).parts)]
    files = [p for p in walked if p not in set(hidden) and fnmatch(p.name, pattern)]
    pictures = [p for p in files if p.suffix.lower() in PICTURES]
    texts = [p for p in files if p.suffix.lower() in TEXTS]
    if pictures and texts:
        raise SpecError(
            Code.BAD_PARAMETER,
            "The folder holds photographs and texts",
            got=f"{len(pictures)} photographs and {len(texts)} texts in {readable(path.name)}",
            fix='Say which by pattern=, such as "*.png" or "*.txt"',
        )
    if not pictures and not texts:
        raise InputError(
            Code.EMPTY_BATCH,
            "The folder holds no photograph and no text",
            got=f"{len(files)} files in {readable(path.name)}",
            expected=", ".join((*PICTURES, *TEXTS)),
        )
    wanted = pictures or texts
    depth = {len(p.relative_to(path).parts) > 1 for p in wanted}
    if depth == {True, False} and labels is None:
        loose = next(p for p in wanted if p.parent == path)
        raise SpecError(
            Code.BAD_PARAMETER,
            "Some files are in class folders and some beside them",
            got=readable(loose.name),
            fix="Move them, or pass labels=False where folders are no classes",
        )
    by_folder = depth == {True} and labels is None
    names = tuple(sorted({p.relative_to(path).parts[0] for p in wanted})) if by_folder else ()
    number = _numbers(names, classes)

    def items() -> Iterator[Item]:
        for one in files:
            inside = one.relative_to(path)
            kind = number.get(inside.parts[0]) if by_folder else None
            yield Item(readable(inside.as_posix()), partial(of_file, one, kind, wanted[0].suffix))

    return Samples("photograph" if pictures else "text", items, batch, strict, names)


def _numbers(names: Sequence[str], classes: Sequence[str] | None) -> dict[str, Any]:
    """What the labels of class folders are: numbers where they are known, else the names."""
    if classes is not None:
        missing = [name for name in names if name not in classes]
        if missing:
            raise SpecError(
                Code.LABELS,
                "A class folder is in no class",
                got=repr(missing[0]),
                expected=f"one of {', '.join(map(str, classes))}",
                fix=suggest(missing[0], classes) or None,
            )
        return {name: list(classes).index(name) for name in names}
    return {name: label_of(name) for name in names}


def _file(
    path: Path, columns: Columns, labels: Any, delimiter: str | None, batch: int, strict: bool
) -> Samples:
    end = path.suffix.lower()
    if not path.exists():
        raise InputError(Code.LOADING, "There is no such file or folder", got=readable(str(path)))
    if end not in (*TABLES, *TEXTS, ".npy"):
        raise SpecError(
            Code.BAD_PARAMETER,
            "Samples are not read from such a file",
            got=readable(path.name),
            expected=f"a folder, or a file {', '.join((*TABLES, *TEXTS, '.npy'))}",
            fix="Pass a list of paths for photographs" if end in PICTURES else None,
        )
    each = _labels(labels)
    if end in TABLES:
        reader = (
            of_parquet
            if end == ".parquet"
            else partial(of_csv, delimiter=delimiter or ("\t" if end == ".tsv" else ","))
        )
        columns.check(header(path, end, delimiter))
        return Samples("text" if columns.text else "row", partial(reader, path, columns, each), batch, strict)
    _no_columns(columns, f"a file {end}")
    if end == ".npy":
        held = np.load(path, mmap_mode="r", allow_pickle=False)
        return Samples("item", partial(of_sequence, held, columns, each), batch, strict)
    return Samples("text", partial(of_lines, path, each), batch, strict)


def _together(kept: Sequence[_Read], notes: list[str], *, whole: bool) -> dict[str, Any]:
    """Samples as one batch."""
    if whole:
        return {
            **{k: v for k, v in kept[0][1].items() if v is not None},
            **({"notes": notes} if notes else {}),
        }
    names, values, labels = zip(*kept, strict=True)
    found: dict[str, Any] = {"inputs": _stacked(values), "names": list(names)}
    known = [one is not None for one in labels]
    if all(known):
        found["labels"] = list(labels)
    elif any(known):
        raise InputError(
            Code.LABELS,
            "Some items have a label and some do not",
            got=names[known.index(False)],
            fix="Label all or none",
        )
    return {**found, "notes": notes} if notes else found


def _stacked(values: Sequence[Any]) -> Any:
    """Arrays of one shape as one array, rows as columns, anything else as a list."""
    first = values[0]
    if isinstance(first, Mapping):
        return {name: [row[name] for row in values] for name in first}
    shapes = {tuple(getattr(one, "shape", ())) for one in values}
    if isinstance(first, Tensor) and len(shapes) == 1:
        return torch.stack(list(values))
    if isinstance(first, np.ndarray) and len(shapes) == 1:
        return np.stack(list(values))
    return list(values)


def _labels(given: Any) -> Sequence[Any] | None:
    """Labels one by one."""
    if given is None or given is False:
        return None
    listed = given.tolist() if hasattr(given, "tolist") else given
    if isinstance(listed, str) or not isinstance(listed, Sequence):
        raise SpecError(
            Code.LABELS,
            "labels= are the classes of the items, one each",
            got=type(given).__name__,
            expected="a list",
        )
    return [label_of(one) for one in listed]

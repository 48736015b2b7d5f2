"""What a command is to explain: photographs, texts and rows, told apart before a model is loaded."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from abe.cli import exits, inputs, output, ready
from abe.cli.options import DEFAULT_MODEL, InputOptions, ModelOptions
from abe.errors import Code, InputError, SpecError

Kind = Literal["photo", "text", "row", "lines", "array"]
TABLES = {".csv": ",", ".tsv": "\t"}
"""Suffixes of tables, and what stands between their cells."""
FILES = re.compile(
    r"\.(jpe?g|png|gif|bmp|webp|tiff?|heic|ppm|pgm|csv|tsv|txt|json|np[yz]|parquet|xlsx?|safetensors|pth?|py)$",
    re.IGNORECASE,
)
"""Ends of words that name a file."""
NAMED = {"photo": "a photograph", "text": "a text", "row": "a table", "lines": "a table", "array": "an array"}
READS: Mapping[str, tuple[tuple[Kind, ...], str]] = {
    "image": (("photo",), "photographs"),
    "segmentation": (("photo",), "photographs"),
    "text": (("text",), "texts: a text with a blank in it, --text, or a .txt file with one a line"),
    "tabular": (("row",), "rows of a .csv file, which --row names"),
    "series": (
        ("row", "lines", "array"),
        "a .csv file with a line per time and a column per channel, or --row of a .csv or .npy file",
    ),
    "tensor": (("array",), "samples of a .npy array, which --row names"),
}
"""What tasks of a modality are given, and in words."""


@dataclass(frozen=True)
class Sample:
    """One thing to explain.

    Attributes:
        kind: what it is.
        name: what people call it.
        raw: what the task is given.
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


MAKERS = {"text": "text_task", "row": "table_task", "lines": "table_task", "array": "tensor_task"}
"""What makes a task that reads a kind."""


def samples(words: Sequence[str] | None, options: InputOptions) -> list[Sample]:
    """Everything that is named, read as far as no model is needed.

    Raises:
        UsageError: nothing is named.
        InputError: a file that is missing or cannot be read, a row that does not exist, or a word
            that may be a text or a file that is not there.
        SpecError: rows of what has none.
    """
    if not words and not options.text:
        raise exits.UsageError(
            Code.EMPTY_BATCH,
            "There is nothing to explain",
            fix="Name photographs, a text in quotation marks, a .txt file, or a .csv file with --row",
        )
    found: list[Sample] = []
    rows = None if options.row is None else _rows(options.row)
    for word in words or ():
        found += _of(word, rows, _left_out(options.without))
    for text in options.text or ():
        if not text.strip():
            raise InputError(Code.EMPTY_BATCH, "There is nothing to explain", got="an empty --text")
        found.append(Sample("text", text, text))
    if rows is not None and all(
        (one.kind in ("photo", "text") and one.path is None) or one.kind == "photo" for one in found
    ):
        raise SpecError(
            Code.BAD_PARAMETER,
            "--row names rows of a file of several, and there is none",
            got=inputs.short(found[0].name),
            fix="Leave it out, or name a .csv, .txt or .npy file",
        )
    return found


def check(found: Sequence[Sample], model: ModelOptions) -> None:
    """Refuse what needs no model to be refused: an unreadable photograph, a text for the default model.

    Raises:
        InputError: of these.
    """
    from abe.task.image import load_image

    for one in found:
        if one.kind == "photo":
            load_image(one.raw)
        elif model.model == DEFAULT_MODEL.model:
            raise _misfit(one, model.model, "image")


def fit(task: Any, found: Sequence[Sample], model: ModelOptions) -> None:
    """Refuse samples that the task does not read.

    Raises:
        InputError: the first of them.
    """
    if task.modality not in READS:
        raise InputError(
            Code.UNSUPPORTED,
            f"Models of the modality {task.modality!r} are not run from the command line",
            got=model.model,
            fix="Call abe.explain in Python, where several inputs can be given",
        )
    for one in found:
        if one.kind not in READS[task.modality][0]:
            raise _misfit(one, model.model, task.modality)


def _misfit(one: Sample, model: str, modality: str) -> InputError:
    makes = MAKERS.get(one.kind, "image_task")
    fix = f"Name one with --model module:function, where the function returns abe.{makes}(…)"
    if one.kind == "lines":
        fix = "Name rows with --row, counted from 0 below the head" + (
            "" if modality == "tabular" else f". {fix}"
        )
    return InputError(
        Code.UNSUPPORTED,
        f"The model {model} does not read {NAMED[one.kind]}",
        got=inputs.short(one.name),
        expected=READS[modality][1],
        fix=fix,
    )


def raw_of(task: Any, one: Sample) -> Any:
    """What the task is given for one of them."""
    if task.modality != "series" or one.kind not in ("row", "lines"):
        return one.raw
    letters = getattr(getattr(task.lifter, "axes", None), "letters", "btc")
    return series(one, letters)


def batch(task: Any, found: Sequence[Sample]) -> Any:
    """What the task is given for all of them."""
    raws = [raw_of(task, one) for one in found]
    if all(one.kind == "array" for one in found):
        import numpy as np

        if len({raw.shape[1:] for raw in raws}) == 1:
            return np.concatenate(raws)
    return raws[0] if len(raws) == 1 and found[0].kind in ("lines", "array") else together(raws)


def together(raws: Sequence[Any]) -> Any:
    """Rows of a table as its columns (a list of mappings would be a stream of batches); all else as it is."""
    rows = [one for one in raws if isinstance(one, Mapping)]
    if not rows or len(rows) < len(raws):
        return list(raws)
    return {name: [row[name] for row in rows] for name in rows[0]}


def stems(found: Sequence[Sample]) -> list[str]:
    """Names of the files of every sample, without suffix, told apart."""
    from abe.report.view import stems as apart

    return apart([one.path.name if one.kind == "photo" and one.path else one.stem for one in found])


def _left_out(names: str | None) -> list[str]:
    return [] if names is None else [name.strip() for name in names.split(",") if name.strip()]


def _of(word: str, rows: list[int] | None, without: Sequence[str]) -> list[Sample]:
    """The samples that a word names."""
    path = Path(word)
    suffix = path.suffix.lower()
    ours = suffix in TABLES or suffix in (".txt", ".npy")
    if not os.path.exists(path):
        if _is_text(word):
            return [Sample("text", word, word)]
        if ours:
            raise InputError(
                Code.UNREADABLE_TEXT, "There is no such file", got=inputs.short(word), fix="Check the path"
            )
        fix = (
            "Check the path"
            if FILES.search(word) or "/" in word
            else "Check the path; a text of one word goes with --text"
        )
        return [_photo(word, fix)]
    if ours:
        if problem := ready.regular(path):
            raise InputError(
                Code.UNREADABLE_TEXT, f"The file cannot be read: {problem}", got=inputs.short(word)
            )
        return (
            _array(path, rows)
            if suffix == ".npy"
            else _table(path, rows, without)
            if suffix in TABLES
            else _lines(path, rows)
        )
    return [_photo(word, "Check the path")]


def _is_text(word: str) -> bool:
    """Whether a word that is no file can only be a text: it has a blank, and does not end as files do."""
    return len(word.split()) > 1 and not FILES.search(word.strip()) and not inputs.is_address(word)


def _photo(word: str, fix: str) -> Sample:
    (path,) = inputs.photos([word], fix)
    return Sample("photo", str(path), str(path), path)


def _lines(path: Path, rows: list[int] | None) -> list[Sample]:
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


def _table(path: Path, rows: list[int] | None, without: Sequence[str]) -> list[Sample]:
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
            got=f"two columns called {twice!r}" if twice else f"one column, {inputs.short(head[0])!r}",
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
                    got=f"{inputs.short(value)!r} in column {name!r}, row {number}",
                    fix="Leave that column out of the file",
                )
    numbers = np.array([list(line.values()) for line in lines], np.float32)
    laid = numbers if one.kind == "lines" else numbers.T
    if "c" not in letters:
        return laid[:, 0] if laid.shape[1] == 1 else laid
    return laid.T if letters.find("c") < letters.find("t") else laid


def _array(path: Path, rows: list[int] | None) -> list[Sample]:
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


def _rows(text: str) -> list[int]:
    """``3``, ``3,7`` or ``3:8`` as numbers."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,9})(?::([0-9]{1,9}))?\s*", part, re.ASCII)
        low, high = (int(match[1]), int(match[2] or int(match[1]) + 1)) if match else (0, 0)
        if high <= low or high - low > 100_000:
            raise SpecError(
                Code.BAD_PARAMETER,
                "--row takes numbers of rows, counted from 0",
                got=repr(inputs.short(text)),
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

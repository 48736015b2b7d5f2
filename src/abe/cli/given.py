"""What a command is to explain: photographs, texts and rows, told apart before a model is loaded."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from abe.cli import exits, inputs, ready
from abe.cli.options import DEFAULT_MODEL, InputOptions, ModelOptions
from abe.cli.reading import TABLES, Kind, Sample, names_of, numbers_of, rows_of, samples_of, series, texts_of
from abe.errors import Code, InputError, SpecError

FILES = re.compile(
    r"\.(jpe?g|png|gif|bmp|webp|tiff?|heic|ppm|pgm|csv|tsv|txt|json|np[yz]|parquet|xlsx?|safetensors|pth?|py)$",
    re.IGNORECASE,
)
"""Ends of words that name a file."""
NAMED = {
    "photo": "a photograph",
    "text": "a text",
    "row": "a table",
    "lines": "a table",
    "array": "an array",
    "several": "several inputs by name",
    "pair": "a photograph with a caption",
}
PART = re.compile(r"([A-Za-z_]\w*|[0-9])=(.+)", re.DOTALL)
"""One of several inputs: its keyword or place, and what it is."""
PAIRS = "multimodal"
READS: Mapping[str, tuple[tuple[Kind, ...], str]] = {
    "image": (("photo",), "photographs"),
    "segmentation": (("photo",), "photographs"),
    "detection": (("photo",), "photographs"),
    "text": (("text",), "texts: a text with a blank in it, --text, or a .txt file with one a line"),
    "language": (("text",), "prompts: a text with a blank in it, --text, or a .txt file with one a line"),
    "tabular": (("row", "array"), "rows of a .csv or .npy file, which --row names"),
    "series": (
        ("row", "lines", "array"),
        "a .csv file with a line per time and a column per channel, or --row of a .csv or .npy file",
    ),
    "tensor": (("array",), "samples of a .npy array, which --row names"),
    "several": (("several",), "several inputs, each by --input NAME=FILE"),
    PAIRS: (("pair",), 'photographs with what is said of them: dog.jpg --caption "a dog"'),
}
"""What tasks of a modality are given, and in words."""


MAKERS = {
    "text": "text_task",
    "row": "table_task",
    "lines": "table_task",
    "array": "tensor_task",
    "several": "make_task",
    "pair": "pair_task",
}
"""What makes a task that reads a kind."""


def samples(words: Sequence[str] | None, options: InputOptions) -> list[Sample]:
    """Everything that is named, read as far as no model is needed.

    Raises:
        UsageError: nothing is named.
        InputError: a file that is missing or cannot be read, a row that does not exist, or a word
            that may be a text or a file that is not there.
        SpecError: rows of what has none.
    """
    if not words and not options.text and not options.input and not options.caption:
        raise exits.UsageError(
            Code.EMPTY_BATCH,
            "There is nothing to explain",
            fix="Name photographs, a text in quotation marks, a .txt file, or a .csv file with --row",
        )
    found: list[Sample] = []
    rows = None if options.row is None else numbers_of(options.row)
    parts, others = _parts(options.input or ())
    for word in [*(words or ()), *others]:
        found += _of(word, rows, names_of(options.without))
    found = _captioned(found, options.caption or ())
    found += _several(parts, rows, names_of(options.without))
    for text in options.text or ():
        if not text.strip():
            raise InputError(Code.EMPTY_BATCH, "There is nothing to explain", got="an empty --text")
        found.append(Sample("text", text, text))
    if rows is not None and all(
        (one.kind in ("photo", "text") and one.path is None) or one.kind == "photo" for one in _pieces(found)
    ):
        raise SpecError(
            Code.BAD_PARAMETER,
            "--row names rows of a file of several, and there is none",
            got=inputs.short(found[0].name),
            fix="Leave it out, or name a .csv, .txt or .npy file",
        )
    return found


def _parts(said: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Of ``--input``, what is named by NAME=, by that name, and the rest."""
    parts: dict[str, list[str]] = {}
    others: list[str] = []
    for one in said:
        match = None if os.path.exists(one) else PART.fullmatch(one)
        if match is None:
            others.append(one)
        else:
            parts.setdefault(match[1], []).append(match[2])
    return parts, others


def _several(
    parts: Mapping[str, Sequence[str]], rows: list[int] | None, without: Sequence[str]
) -> list[Sample]:
    """Samples of several inputs, each of which has as many.

    Raises:
        InputError: they have not.
    """
    read = {
        name: [one for word in words for one in _of(word, rows, without)] for name, words in parts.items()
    }
    counts = {name: len(own) for name, own in read.items()}
    if len(set(counts.values())) > 1:
        raise InputError(
            Code.SHAPE,
            "The inputs disagree on the number of samples",
            got=", ".join(f"{count} of {name!r}" for name, count in counts.items()),
            fix="Name as many of each, rows by --row",
        )
    found: list[Sample] = []
    for number in range(next(iter(counts.values()), 0)):
        own = {name: listed[number] for name, listed in read.items()}
        path = next((one.path for one in own.values() if one.path is not None), None)
        said = ", ".join(Path(one.name).name if one.kind == "photo" else one.name for one in own.values())
        found.append(Sample("several", said, own, path))
    return found


def _captioned(found: list[Sample], captions: Sequence[str]) -> list[Sample]:
    """Photographs with their captions: one each, or several of one photograph.

    Raises:
        InputError: PAIR where they do not belong together.
    """
    if not captions:
        return found
    photographs = [one for one in found if one.kind == "photo"]
    several = len(photographs) == 1 and len(found) == 1
    if len(photographs) != len(found) or not found or not (several or len(captions) == len(found)):
        raise InputError(
            Code.PAIR,
            "Captions and photographs do not belong together",
            got=f"{len(captions)} captions for {len(found)} inputs, {len(photographs)} of them photographs",
            expected="a --caption for each photograph, or several for one",
        )
    if any(not one.strip() for one in captions):
        raise InputError(Code.EMPTY_BATCH, "There is nothing to explain", got="an empty --caption")
    if several:
        own: Any = captions[0] if len(captions) == 1 else list(captions)
        said = own if isinstance(own, str) else " | ".join(own)
        return [
            Sample(
                "pair",
                f"{found[0].path.name}: {said}" if found[0].path else said,
                (found[0].raw, own),
                found[0].path,
            )
        ]
    return [
        Sample("pair", f"{one.path.name}: {said}" if one.path else said, (one.raw, said), one.path)
        for one, said in zip(found, captions, strict=True)
    ]


def _pieces(found: Sequence[Sample]) -> list[Sample]:
    """Every single thing that was read."""
    return [one for own in found for one in (own.raw.values() if own.kind == "several" else [own])]


def check(found: Sequence[Sample], model: ModelOptions) -> None:
    """Refuse what needs no model to be refused: an unreadable photograph, a text for the default model.

    Raises:
        InputError: of these.
    """
    from abe.task.image import load_image

    for one in _pieces(found):
        if one.kind in ("photo", "pair"):
            load_image(one.raw if one.kind == "photo" else one.raw[0])
    for one in found:
        if one.kind == "photo":
            continue
        if model.model == DEFAULT_MODEL.model:
            raise _misfit(one, model.model, "image")


def fit(task: Any, found: Sequence[Sample], model: ModelOptions) -> None:
    """Refuse samples that the task does not read.

    Raises:
        InputError: the first of them.
    """
    modality = PAIRS if "caption" in task.asks else task.modality
    if modality not in READS:
        raise InputError(
            Code.UNSUPPORTED,
            f"Models of the modality {task.modality!r} are not run from the command line",
            got=model.model,
            fix="Call abe.explain in Python",
        )
    for one in found:
        if one.kind not in READS[modality][0]:
            raise _misfit(one, model.model, modality)
        for name, part in one.raw.items() if one.kind == "several" else ():
            inner = _inner(task, name)
            if inner is not None and part.kind not in READS.get(inner.modality, ((), ""))[0]:
                raise _misfit(part, f"{model.model}, input {name!r},", inner.modality)


def _inner(task: Any, name: str) -> Any:
    """The task of one of several inputs, by its keyword or place; None of what is passed along."""
    tasks = getattr(task.lifter, "tasks", {})
    return tasks.get(name, tasks.get(int(name)) if name.isdecimal() else None)


def _named(task: Any, name: str) -> str | int:
    """The keyword or place of an input."""
    return int(name) if name.isdecimal() and int(name) in getattr(task.lifter, "tasks", {}) else name


def _misfit(one: Sample, model: str, modality: str) -> InputError:
    makes = MAKERS.get(one.kind, "image_task")
    fix = f"Name one with --model module:function, where the function returns abe.{makes}(…)"
    fix += {
        "text": ", or a module with --tokenizer",
        "row": ", or a module with --background",
        "array": ", or a module with --axes",
    }.get(one.kind, "")
    if modality == "several":
        fix = "Give every input by its name: --input NAME=FILE"
    elif one.kind == "lines":
        fix = f"Name rows with --row, counted from 0 below the head. {fix}"
    if one.kind == "lines" and modality == "tabular":
        return InputError(
            Code.SAMPLES,
            "Which rows of the table are meant is not said",
            got=inputs.short(one.name),
            fix="Name rows with --row, counted from 0 below the head: 3, 3,7 or 3:8",
        )
    if one.kind == "text" and model == DEFAULT_MODEL.model:
        fix = (
            "Name one with --model: sentiment-textcnn of `abe zoo`, a folder with a text classifier, or "
            + ("module:function, where the function returns abe.text_task(…)")
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
    if one.kind == "several":
        return {_named(task, name): _raw_part(_inner(task, name), part) for name, part in one.raw.items()}
    if task.modality != "series" or one.kind not in ("row", "lines"):
        return one.raw
    letters = getattr(getattr(task.lifter, "axes", None), "letters", "btc")
    return series(one, letters)


def _raw_part(inner: Any, one: Sample) -> Any:
    """One of several inputs; numbers where it is passed along."""
    if inner is not None:
        return {name: [value] for name, value in one.raw.items()} if one.kind == "row" else raw_of(inner, one)
    if one.kind in ("row", "lines"):
        laid = series(one)
        return laid.T if one.kind == "row" else laid[None]
    return one.raw


def batch(task: Any, found: Sequence[Sample]) -> Any:
    """What the task is given for all of them."""
    if found[0].kind == "several":
        return {
            _named(task, name): _batch_part(_inner(task, name), [one.raw[name] for one in found])
            for name in found[0].raw
        }
    raws = [raw_of(task, one) for one in found]
    if all(one.kind == "array" for one in found):
        import numpy as np

        if len({raw.shape[1:] for raw in raws}) == 1:
            return np.concatenate(raws)
    return raws[0] if len(raws) == 1 and found[0].kind in ("lines", "array") else together(raws)


def _batch_part(inner: Any, found: Sequence[Sample]) -> Any:
    """One of several inputs, of all samples."""
    if inner is not None:
        return batch(inner, found)
    import numpy as np

    return np.concatenate([np.asarray(_raw_part(None, one)) for one in found])


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


def _of(word: str, rows: list[int] | None, without: Sequence[str]) -> list[Sample]:
    """The samples that a word names."""
    if not word.strip():
        raise InputError(Code.EMPTY_BATCH, "There is nothing to explain", got="an empty word")
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
            samples_of(path, rows)
            if suffix == ".npy"
            else rows_of(path, rows, without)
            if suffix in TABLES
            else texts_of(path, rows)
        )
    return [_photo(word, "Check the path")]


def _is_text(word: str) -> bool:
    """Whether a word that is no file can only be a text: it has a blank, and does not end as files do."""
    return len(word.split()) > 1 and not FILES.search(word.strip()) and not inputs.is_address(word)


def _photo(word: str, fix: str) -> Sample:
    (path,) = inputs.photos([word], fix)
    return Sample("photo", str(path), str(path), path)

"""The task of a module that came without one, made of what the command line says beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from abe.cli.options import ModelOptions, QuestionOptions
from abe.errors import Code, InputError, SpecError, note

SETTINGS: Mapping[str, tuple[str, ...]] = {
    "text": ("labels", "output_kind"),
    "table": ("labels", "output_kind"),
    "array": ("labels", "output_kind", "bounds", "mean", "std"),
}
"""What else can be said of a task, by what it reads; of photographs everything can."""
SERIES = frozenset("btc")
"""Letters of axes that are those of a series."""


def said(options: ModelOptions) -> list[str]:
    """The options that only a module without a task can use."""
    given = {"tokenizer": options.tokenizer, "background": options.background, "axes": options.axes}
    return [f"--{name}" for name, value in given.items() if value is not None]


def made(
    model: Any,
    found: Sequence[Any],
    options: ModelOptions,
    settings: Mapping[str, Any],
    *,
    background: Mapping[str, Sequence[Any]] | None = None,
) -> Any:
    """The task of a module for texts, rows of a table, or arrays.

    Args:
        model: the module.
        found: what it is to be run on.
        options: of the command line.
        settings: what the options say of inputs and classes.
        background: columns of the background's file.

    Raises:
        SpecError: an option that is not for this.
        InputError: what it is to be run on may be of several kinds, or needs what was not given.
    """
    kinds = {one.kind for one in found}
    if "photo" in kinds:
        raise SpecError(
            Code.UNSUPPORTED,
            f"{said(options)[0]} is not for photographs",
            got=found[0].name,
            fix="Leave it out",
        )
    if "several" in kinds:
        raise InputError(
            Code.UNCLEAR_INPUT,
            "A plain module does not say how each of several inputs is read",
            got=f"{options.model} without a task",
            fix="Let the factory return abe.make_task(model, {name: abe.image(…), …})",
        )
    if "text" in kinds or (not kinds and options.tokenizer is not None):
        return _noted(_text(model, options, _fitting("text", settings)), "texts", "--tokenizer")
    if "array" in kinds or options.axes is not None:
        lines = found[0].raw if found and found[0].kind == "lines" else None
        names = None if lines is None or "c" not in (options.axes or "") else list(lines[0])
        told = _array(
            model, options, {**_fitting("array", settings), "channels": names}, table="array" not in kinds
        )
        what = "series" if told.modality == "series" else "arrays"
        return _noted(told, f"{what} with the axes {options.axes}", "--axes")
    if options.background is None or background is None:
        raise InputError(
            Code.UNCLEAR_INPUT,
            "A plain module does not say whether it reads rows of a table or a series",
            got=f"{options.model} without a task",
            fix="Add --background FILE for a table, a .csv file of rows that the model is used on, or --axes "
            "btc (or bct) for a series; or let the factory return abe.table_task(…) or abe.series_task(…)",
        )
    from abe.task.table.lifter import table_task

    words = [name for name, cells in background.items() if any(isinstance(cell, str) for cell in cells)]
    told = table_task(model, background=background, categories=words or None, **_fitting("table", settings))
    return _noted(told, f"rows of a table against those of {options.background.name}", "--background")


def _text(model: Any, options: ModelOptions, settings: Mapping[str, Any]) -> Any:
    from abe.task import zoo
    from abe.task.text.lifter import text_task

    if options.tokenizer is None:
        raise InputError(
            Code.UNCLEAR_INPUT,
            "A plain module reads ids of tokens, and nothing makes them of a text",
            got=f"{options.model} without a tokenizer",
            fix="Add --tokenizer module:factory, or let the factory return abe.text_task(model, tokenizer)",
        )
    return text_task(model, zoo.load_object(options.tokenizer), **settings)


def of_texts(model: Any, tokenizer: Any, options: ModelOptions, settings: Mapping[str, Any]) -> Any:
    """The task of a pipeline, or of a folder with a model and its tokenizer.

    Raises:
        SpecError: an option that is not for texts, or another tokenizer beside its own.
    """
    from abe.task.text.lifter import text_task

    if said(options):
        raise SpecError(
            Code.UNSUPPORTED,
            f"{options.model} brings its own tokenizer",
            got=", ".join(said(options)),
            fix="Leave them out",
        )
    return text_task(model, tokenizer, **_fitting("text", settings))


def _array(model: Any, options: ModelOptions, settings: Mapping[str, Any], *, table: bool) -> Any:
    from abe.task.array.series import series_task
    from abe.task.array.tensor import tensor_task

    if options.axes is None:
        raise InputError(
            Code.UNCLEAR_INPUT,
            "A plain module does not say what the axes of its inputs are",
            got=f"{options.model} without a task",
            fix="Add --axes: btc or bct for series, bcdhw for volumes, bnc for points; or let the factory "
            "return abe.series_task(…) or abe.tensor_task(…)",
        )
    series = "t" in options.axes and SERIES.issuperset(options.axes)
    if table and not series:
        raise SpecError(
            Code.BAD_PARAMETER,
            "A table can hold a series, and these are other axes",
            got=f"--axes {options.axes}",
            expected="btc, bct or bt",
            fix="Save the numbers as an array, in a .npy file",
        )
    return (series_task if series else tensor_task)(model, options.axes, **settings)


def _fitting(kind: str, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings, all of which this kind of task has."""
    strange = [name for name in settings if name not in SETTINGS[kind]]
    if strange:
        raise SpecError(
            Code.UNSUPPORTED,
            f"Only a model of photographs can be set up by --{strange[0]}",
            got=f"a {kind}",
            fix="Leave it out, and set up the task in its factory",
        )
    return settings


def _noted(task: Any, what: str, option: str) -> Any:
    text = f"The model came without a task, so it is taken to read {what}, as {option} says, as they are"
    task.assumed = (note(Code.ASSUMED, text), *task.assumed)
    return task


def photographs(task: Any, settings: Mapping[str, Any], question: QuestionOptions) -> Any:
    """The task of a module for photographs, and what nobody said; a segmentation where one is asked."""
    if any(getattr(question, name) is not None for name in ("at", "label", "region", "against")):
        from abe.task.image.segmentation import segmentation_task

        task = segmentation_task(task.model, **settings)
    if not {"bounds", "mean", "std"}.intersection(settings):
        text = (
            "The model came without a task, so it is taken to read photographs with values from 0 to 1, "
            "without further normalisation; --bounds, --mean and --std say otherwise"
        )
        task.assumed = (note(Code.ASSUMED, text),)
    return task


def columns(file: Path, without: str | None) -> Mapping[str, Sequence[Any]]:
    """The columns of a file of rows.

    Raises:
        InputError: it is missing, or no table.
    """
    from abe.cli.reading import TABLES, columns_of

    if file.suffix.lower() not in TABLES:
        raise InputError(
            Code.UNREADABLE_TEXT,
            "The background is a table",
            got=file.name,
            expected="a .csv or .tsv file with a head, rows that the model is used on",
        )
    return columns_of(file, without)

"""A plain module is enough to start: the task is made of what is handed in beside it, or refused by name."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from abe.checks import checked_arguments
from abe.errors import Code, InputError, ModelError, SpecError, note, suggest
from abe.task.base import Task
from abe.task.data.items import PICTURES
from abe.task.image.lifter import image_task
from abe.task.table.lifter import table_task
from abe.task.text.lifter import text_task

if TYPE_CHECKING:
    Given = Any
else:
    Given = Task
"""What a public function takes as ``task``: a `Task`, a module, or a pipeline of Hugging Face."""

_P = ParamSpec("_P")
_R = TypeVar("_R")
TEXT, TABLE, IMAGE = "text", "table", "image"
TAKES = {TEXT: ("tokenizer",), TABLE: ("background", "categories"), IMAGE: ()}
"""What may be said beside the input, by the kind of task."""
TOLD = {
    TEXT: "the module that receives the tokenizer's ids looks the tokens up, and that special tokens and "
    "padding stay as they are; abe.text_task(model, tokenizer, embedding=…, fixed=…) says otherwise",
    TABLE: "every column that categories= does not name is a number, which the model reads as it is, and "
    "that the background's rows stand for what is absent; abe.table_task(model, background=…, categories=…) "
    "says otherwise",
}
"""What is assumed of a model that came with texts, or with rows."""
CALLED = {TABLE: "rows of a table", IMAGE: "photographs"}
"""The other kinds in words."""
RAW = ("raw", "photos", "data")
"""What public functions call their inputs."""
GENERATING = (
    "generation",
    "summarization",
    "translation",
    "question-answering",
    "token-classification",
    "fill-mask",
)
"""Words in the names of pipelines that do not classify texts."""
UNIT = "values from 0 to 1"


def entrance(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """A public function that takes a plain module or a pipeline in place of its ``task``.

    Its arguments are checked as by `checked_arguments`.
    """
    checked = checked_arguments(function)
    parameters = signature(function).parameters
    names = [name for name, one in parameters.items() if one.kind is not one.VAR_KEYWORD]
    strict = "asked" in parameters

    @wraps(function)
    def call(*args: _P.args, **given: _P.kwargs) -> _R:
        placed = dict(zip(names, args, strict=False))
        model = placed.get("task", given.get("task"))
        if isinstance(model, Task) or not (isinstance(model, nn.Module) or is_pipeline(model)):
            if strict and isinstance(model, Task):
                _check_asked(function.__name__, names, model, given)
            return checked(*args, **given)
        named: dict[str, Any] = {**placed, **given}
        raw = _handed(named)
        said = {n: v for n, v in named.items() if n not in names and n in (*TAKES[TEXT], *TAKES[TABLE])}
        kind = kind_of(model, raw, said)
        mine = {name: v for name, v in said.items() if name in TAKES[kind]}
        _check_said(kind, said)
        named = {name: v for name, v in named.items() if name not in mine}
        named["task"] = task = as_task(model, raw, **mine)
        if strict:
            _check_asked(function.__name__, names, task, named)
        further: tuple[Any, ...] = args[len(names) :]
        rest: Any = {name: v for name, v in named.items() if name not in placed}
        return checked(*(named[n] for n in placed), *further, **rest)  # type: ignore[call-arg]

    return call


def _check_said(kind: str, said: Mapping[str, Any]) -> None:
    """Refuse a tokenizer where no text is handed in; ``background=`` may be a method's own parameter."""
    if kind != TEXT and said.get("tokenizer") is not None:
        raise SpecError(
            Code.UNKNOWN_PARAMETER,
            f"tokenizer= is for texts, and these inputs are taken for {CALLED[kind]}",
            fix="Leave it out, or pass a text",
        )


def _check_asked(function: str, names: Sequence[str], task: Task, given: Mapping[str, Any]) -> None:
    """Refuse keywords that neither the function has nor the task asks for."""
    known = [*names, *task.asks]
    unknown = [name for name in given if name not in known]
    if unknown:
        raise SpecError(
            Code.UNKNOWN_PARAMETER,
            f"{function} has no parameter {unknown[0]!r}",
            expected=f"of this task also {', '.join(task.asks)}" if task.asks else None,
            fix=suggest(unknown[0], known) or None,
        )


def as_task(model: Any, raw: Any, **settings: Any) -> Task:
    """The task of a plain module, told by what it is to be run on.

    ============================================  =======================================================
    handed in                                     task
    ============================================  =======================================================
    a photograph, a path, bytes (b, h, w, c)      images in [0, 1], without normalisation
    numbers (b, c, h, w) from 0 to 1              the same
    numbers (b, c, h, w), some negative           images without bounds, as they are
    a text, ids in an encoding, with ``tokenizer=``  `abe.text_task`
    a table, with ``background=``                 `abe.table_task`
    ============================================  =======================================================

    What was assumed is a note in every result. Everything else is refused; the error names the constructor.

    Args:
        model: a module, or a pipeline of Hugging Face, whose model and tokenizer are taken. A task is kept.
        raw: the inputs; of a stream that can be gone through again the first batch is looked at.
        **settings: ``tokenizer=`` for texts, ``background=`` and ``categories=`` for tables.

    Raises:
        ModelError: no module.
        InputError: UNCLEAR_INPUT where the input may be of several kinds.

    Example:
        >>> import torch, abe
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
        >>> found = abe.explain(model, torch.rand(1, 3, 2, 2), "gradient", progress=False)
        >>> ["ABE-ASSUMED" in text for text in found.warnings]
        [False, True]
    """
    if isinstance(model, Task):
        return model
    kind = kind_of(model, raw, settings)
    model, found = opened(model)
    if kind == TEXT:
        return _assuming(text_task(model, **{**found, **settings}), TOLD[TEXT])
    if not isinstance(model, nn.Module):
        raise ModelError(
            Code.NOT_A_MODULE,
            "A task needs a PyTorch module",
            got=type(model).__name__,
            fix="Estimators and functions of rows are explained by abe.table_task(model, background=…)",
        )
    if kind == TABLE:
        return _assuming(table_task(model, **settings), TOLD[TABLE])
    return _image(model, raw)


def kind_of(model: Any, raw: Any, settings: Mapping[str, Any]) -> str:
    """What the inputs are: texts, rows of a table, or photographs.

    Raises:
        InputError: they may be of several kinds, or of one that only a constructor can tell about.
    """
    _, found = opened(model)
    tokenizer = settings.get("tokenizer", found.get("tokenizer"))
    return _kind(raw, tokenizer is not None, settings.get("background") is not None)


def _kind(raw: Any, texts: bool, rows: bool) -> str:
    if hasattr(raw, "iloc"):  # a table or a column of one
        if texts and getattr(raw, "ndim", 2) == 1:
            return TEXT
        return TABLE if rows else _no_background("a table")
    if isinstance(raw, Mapping) or hasattr(raw, "input_ids"):
        if "input_ids" in raw or hasattr(raw, "input_ids"):
            return TEXT
        return (
            TABLE
            if rows
            else _unclear(
                "a dict of inputs",
                'abe.make_task(model, {"image": abe.image(), …}) for all of them, abe.image_task(model, '
                "explained=…) for one with the others passed along, or abe.table_task for columns",
            )
        )
    if isinstance(raw, Image.Image | bytes | bytearray) or hasattr(raw, "read"):
        return IMAGE
    if isinstance(raw, str | os.PathLike):
        return _of_name(raw, texts, rows)
    if isinstance(raw, Tensor | np.ndarray) and not (isinstance(raw, np.ndarray) and raw.dtype.kind in "OUS"):
        return _of_numbers(raw, texts, rows)
    listed: Sequence[Any] = raw if isinstance(raw, tuple | list) else ()
    axes = {one.ndim for one in listed if isinstance(one, Tensor | np.ndarray) and one.ndim > 1}
    if len(axes) > 1 and max(axes) > 3:  # a batch beside another input, and no list of photographs
        return _unclear(
            f"{len(raw)} arrays with different numbers of axes",
            "abe.make_task(model, {0: abe.image(), 1: abe.columns()}) for several inputs by place",
        )
    first = _first(raw)
    if isinstance(raw, tuple) and texts and len(raw) == 2 and all(isinstance(one, str) for one in raw):
        return TEXT
    if isinstance(first, int | float) and not isinstance(first, bool):
        return (
            TEXT if texts else TABLE if rows else _unclear("a list of numbers", "the constructor of a task")
        )
    return _kind(first, texts, rows)


def _of_name(raw: str | os.PathLike[str], texts: bool, rows: bool) -> str:
    end = Path(raw).suffix.lower()
    if isinstance(raw, str):
        if texts:
            return TEXT
        if end in PICTURES or os.path.exists(raw):
            return IMAGE
        return _unclear("a text", "abe.text_task(model, tokenizer), or pass tokenizer=")
    if end in (".csv", ".tsv", ".parquet"):
        return TABLE if rows else _no_background("a file of a table")
    return TEXT if texts and end not in PICTURES else IMAGE


def _of_numbers(raw: Tensor | np.ndarray, texts: bool, rows: bool) -> str:
    axes, shape = raw.ndim, tuple(raw.shape)
    whole = not raw.is_floating_point() if isinstance(raw, Tensor) else raw.dtype.kind != "f"
    small = raw.dtype in (torch.uint8, torch.uint16, torch.bool, np.uint8, np.uint16)
    if whole and small and axes in (3, 4):
        return IMAGE
    if whole and axes <= 2 and texts:
        return TEXT
    if axes == 4 and not whole:
        return IMAGE
    if axes <= 2 and rows:
        return TABLE
    told = f"numbers of shape {shape}"
    if axes == 3:
        return _unclear(
            told,
            'abe.series_task(model, axes="bct") or axes="btc" for series, abe.image_task(model) for one '
            "photograph (c, h, w), which may come as (1, c, h, w)",
        )
    if axes == 5:
        return _unclear(told, 'abe.tensor_task(model, axes="bcdhw") for volumes, or axes="btchw" for films')
    if axes == 2 and not whole:
        return _unclear(
            told, "abe.table_task(model, background=rows) for rows of a table, or pass background="
        )
    if axes == 2:
        return _unclear(
            told, "abe.text_task(model, tokenizer) for ids, abe.table_task(model, background=…) for rows"
        )
    return _unclear(told, "abe.image_task(model), abe.series_task, abe.table_task or abe.tensor_task")


def _unclear(got: str, constructor: str) -> str:
    raise InputError(
        Code.UNCLEAR_INPUT,
        "A plain model does not say what its inputs are, and these may be of several kinds",
        got=got,
        fix=f"Make the task by {constructor}",
    )


def _no_background(got: str) -> str:
    raise InputError(
        Code.UNCLEAR_INPUT,
        "A table is explained against other rows, and there are none",
        got=got,
        fix="Pass background=, rows the model is used on, or make the task by "
        "abe.table_task(model, background=…)",
    )


def _handed(named: Mapping[str, Any]) -> Any:
    """The inputs among the arguments of a public function."""
    for name in RAW:
        if named.get(name) is not None:
            raw = named[name]
            return np.asarray(raw) if isinstance(raw, memoryview) else raw
    given = named.get("explanations", named.get("explanation"))
    listed = (
        list(given.values()) if isinstance(given, Mapping) else given if isinstance(given, list) else [given]
    )
    found = next((one.x for one in listed if getattr(one, "x", None) is not None), None)
    if found is None:
        raise InputError(
            Code.UNCLEAR_INPUT,
            "A plain model is explained on inputs, and there are none that say what they are",
            fix="Pass data=, or make the task first, such as abe.image_task(model)",
        )
    return found


def _first(raw: Any) -> Any:
    """The inputs of the first batch, or the first item of a list."""
    if not isinstance(raw, Iterable):
        return _unclear(type(raw).__name__, "the constructor of a task")
    if isinstance(raw, Iterator):
        return _unclear("an iterator, which can be gone through only once", "the constructor of a task")
    first = next(iter(raw), None)
    if first is None:
        raise InputError(
            Code.EMPTY_BATCH, "There is nothing to explain", got=f"an empty {type(raw).__name__}"
        )
    if isinstance(first, Mapping) and "inputs" in first:
        return first["inputs"]
    several = isinstance(first, Sequence) and not isinstance(first, str | bytes) and len(first) > 1
    return first[0] if several and isinstance(first[0], Tensor | np.ndarray | list | Image.Image) else first


def is_pipeline(model: Any) -> bool:
    """Whether this holds a model with what prepares its inputs, as pipelines of Hugging Face do."""
    return isinstance(getattr(model, "model", None), nn.Module) and hasattr(model, "tokenizer")


def opened(model: Any) -> tuple[Any, dict[str, Any]]:
    """The module, and the tokenizer of a pipeline.

    Raises:
        ModelError: a pipeline that does something else than classify texts.
    """
    if isinstance(model, nn.Module) or not is_pipeline(model):
        return model, {}
    does = str(getattr(model, "task", ""))
    if model.tokenizer is None or any(word in does for word in GENERATING):
        raise ModelError(
            Code.UNSUPPORTED,
            "Of pipelines, those that classify texts are taken as they are",
            got=does or type(model).__name__,
            fix="Make the task of its model: abe.image_task(pipeline.model, mean=…, std=…) for photographs, "
            "with the numbers of its image processor",
        )
    return model.model, {"tokenizer": model.tokenizer}


def _image(model: nn.Module, raw: Any) -> Task:
    """An image task with the bounds that the values tell, and what was assumed."""
    values = raw
    while not isinstance(values, Tensor | np.ndarray) and _is_stream(values):
        values = _first(values)
    is_float = (isinstance(values, Tensor) and values.is_floating_point()) or (
        isinstance(values, np.ndarray) and values.dtype.kind == "f"
    )
    if (
        not is_float or not values.size
        if isinstance(values, np.ndarray)
        else not is_float or not values.numel()
    ):
        return _noted(model, (0.0, 1.0), f"photographs have {UNIT}")
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 1:
        return _noted(model, (0.0, 1.0), f"inputs (b, c, h, w) are photographs with {UNIT}")
    if low >= 0 and high > 1:
        raise InputError(
            Code.UNCLEAR_INPUT,
            "Values above 1 may be grey levels to 255 or numbers without bounds: a plain model does not say",
            got=f"values from {low:.4g} to {high:.4g}",
            fix="Make the task by abe.image_task(model, bounds=(0, 255)), or bounds=None",
        )
    return _noted(model, None, f"inputs (b, c, h, w) with values from {low:.4g} to {high:.4g} have no bounds")


def _is_stream(values: Any) -> bool:
    one = isinstance(values, str | bytes | bytearray | os.PathLike | Image.Image | Mapping) or hasattr(
        values, "read"
    )
    return isinstance(values, Iterable) and not one


def _noted(model: nn.Module, bounds: tuple[float, float] | None, what: str) -> Task:
    text = (
        f"{what}, and that the model reads them without further normalisation; "
        "abe.image_task(model, bounds=…, mean=…, std=…) says otherwise"
    )
    return _assuming(image_task(model, bounds=bounds), text)


def _assuming(task: Task, what: str) -> Task:
    """The task, which says in every result what was taken of a model that came without one."""
    task.assumed = (note(Code.ASSUMED, f"The model came without a task, so it is taken that {what}"),)
    return task

"""Command-line words as values: parameters, targets, lists, and the model with its options."""

import ast
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from abe.cli import ready, weights
from abe.cli.options import DEFAULT_QUESTION, ModelOptions, QuestionOptions
from abe.cli.output import short as short
from abe.errors import AbeError, Code, InputError, SpecError, TargetError, suggest

_WORDS = {"true": True, "false": False, "none": None, "null": None}
_WHOLE = re.compile(r"[+-]?[0-9]+(e\+?[0-9]{1,2})?", re.IGNORECASE)
_FRACTION = re.compile(r"[+-]?[0-9]*\.?[0-9]+ */ *[0-9]*\.?[0-9]+")
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
LARGEST = 2**63 - 1
"""The largest whole number that PyTorch holds."""
PIXELS = 100_000_000
"""Most pixels that a photograph is brought to."""


def value_of(text: str) -> Any:
    """A Python value from text: a number, a fraction, true, none, a list or tuple, or else the text itself.

    A whole number may be written as 1e3.

    Raises:
        SpecError: a number is larger than any that is computed with, or a fraction has no value.
    """
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if _WHOLE.fullmatch(text) and len(text) < 1000:
        mantissa, _, exponent = text.lower().partition("e")
        found: Any = int(mantissa) * 10 ** int(exponent or 0)
    elif _FRACTION.fullmatch(text):
        above, _, below = text.partition("/")
        found = float(above) / float(below) if float(below) else math.inf
    else:
        try:
            found = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            found = math.inf if text.isdecimal() else text
    if isinstance(found, int | float) and not abs(found) <= LARGEST:
        raise SpecError(
            Code.BAD_PARAMETER,
            "There is no such number here",
            got=repr(short(text)),
            expected=f"a number, at most {float(LARGEST):.2g}",
        )
    return found


def parameters(items: Sequence[str]) -> dict[str, Any]:
    """``["steps=100"]`` as ``{"steps": 100}``."""
    found: dict[str, Any] = {}
    for item in items:
        name, equals, text = item.partition("=")
        if not equals or not name.strip().replace("-", "_").isidentifier():
            raise SpecError(
                Code.BAD_PARAMETER,
                "A parameter is written as name=value",
                got=repr(short(item)),
                expected="for example steps=100",
            )
        name = name.strip().replace("-", "_")
        if name in found:
            raise SpecError(
                Code.DUPLICATE_NAME, f"{name} is given twice", got=repr(item), fix="Leave one of them out"
            )
        found[name] = value_of(text.strip())
    return found


def names(text: str | None) -> list[str] | None:
    """A comma-separated list, or None where nothing was said."""
    if text is None:
        return None
    found = [part.strip() for part in text.split(",") if part.strip()]
    return list(dict.fromkeys(found))


def methods(text: str | None) -> list[str] | None:
    """Names of methods as `names`, each looked up; ``all`` stands for every one that needs no argument.

    Raises:
        SpecError: there is no such method.
    """
    from abe import registry

    wanted = names(text)
    if wanted and any(name.lower() == "all" for name in wanted):
        from abe.metrics.evaluation.compare import PARTS_OF_SOME

        every = [entry for entry in registry.methods.entries() if not entry.required()]
        return [entry.name for entry in every if not PARTS_OF_SOME.intersection(entry.card.needs)]
    if wanted == []:
        raise SpecError(Code.BAD_PARAMETER, "No method is named", got=repr(text), fix="Name at least one")
    for name in wanted or ():
        registry.methods.get(name)
    return wanted


def metrics(text: str | None) -> list[str] | None:
    """Names of metrics as `names`, each looked up.

    Raises:
        SpecError: there is no such metric.
    """
    from abe import registry

    wanted = names(text)
    for name in wanted or ():
        registry.metrics.get(name)
    return wanted


def step_of(text: str | None) -> int | float | None:
    """Units per step: ``2000``, or a share as ``0.05`` or ``5%``."""
    if text is None:
        return None
    try:
        if text.endswith("%"):
            found: int | float = float(text[:-1]) / 100
        else:
            found = int(text) if text.isascii() and text.isdecimal() else float(text)
    except ValueError:
        found = 0
    if not 0 < found <= (1 if isinstance(found, float) else LARGEST):
        raise SpecError(
            Code.BAD_PARAMETER,
            "The step is the size of one change",
            got=repr(short(text)),
            expected="a number of positions such as 2000, or a share such as 0.05 or 5%",
        )
    return found


def target_of(task: Any, text: str | None) -> int | None:
    """A class index from a number or a class name.

    Raises:
        TargetError: out of range, no such class, or a name that several classes have.
    """
    if text is None:
        return None
    labels = [str(label) for label in task.labels or ()]
    if re.fullmatch(r"[+-]?[0-9]+", text):
        index = int(text) if len(text) < 20 else LARGEST
        if not 0 <= index < (len(labels) or LARGEST):
            raise TargetError(
                Code.TARGET_RANGE,
                "The model has no class of this number",
                got=short(text),
                expected=f"0 to {len(labels) - 1}" if labels else "a class number, from 0",
            )
        return index
    same = [i for i, label in enumerate(labels) if label.lower() == text.lower()]
    if len(same) > 1:
        raise TargetError(
            Code.TARGET_RANGE,
            f"Several classes are called {text!r}",
            got=f"numbers {', '.join(map(str, same))}",
            fix="Give the number of the one you mean",
        )
    return same[0] if same else _inside(task, labels, text)


def _inside(task: Any, labels: list[str], text: str) -> int:
    """The only class whose name contains the text; otherwise the task's own error, with candidates."""
    near = [i for i, label in enumerate(labels) if text.lower() in label.lower()]
    if len(near) == 1:
        return near[0]
    if near:
        shown = ", ".join(f"{labels[i]} ({i})" for i in near[:8])
        raise TargetError(
            Code.TARGET_RANGE,
            f"No class is called {text!r}, but {len(near)} contain it",
            got=shown + (", …" if len(near) > 8 else ""),
            fix="Give the full name or the number",
        )
    return task.class_index(text)


def is_address(word: str) -> bool:
    """Whether a word is the address of something elsewhere."""
    return _ADDRESS.match(word) is not None


def photos(paths: Sequence[str], advice: str = "Check the path") -> list[Path]:
    """Paths of readable files, each checked before anything heavy is loaded.

    Args:
        paths: as they were given.
        advice: what to do where there is no file.

    Raises:
        InputError: a path is an address, a folder, a pipe, missing, or not to be read.
    """
    found = [Path(path) for path in paths]
    for text, path in zip(paths, found, strict=True):
        problem, fix = ready.regular(path), advice
        if _ADDRESS.match(text):
            problem, fix = "an address is not read", "Download the photograph, and name its file"
        elif os.path.isdir(path):
            fix = f"Name the files, for example {path}/*.png"
        elif problem and os.path.exists(path):
            fix = "Save it to a file: it is read more than once"
        if problem:
            raise InputError(
                Code.UNREADABLE_IMAGE, f"There is no photograph: {problem}", got=short(text), fix=fix
            )
    return found


def task_of(
    options: ModelOptions,
    found: Sequence[Any] = (),
    *,
    without: str | None = None,
    question: QuestionOptions = DEFAULT_QUESTION,
) -> Any:
    """The task of ``--model``: from the zoo, or from an importable factory with the options given.

    Args:
        options: of the command line.
        found: what it is to be run on, for a module that comes without a task; photographs by default.
        without: columns that the model is not given.
        question: what is asked of a segmentation.
    """
    from abe.cli import folder, plain
    from abe.task import zoo
    from abe.task.base import Task
    from abe.task.start import opened

    settings, arguments = _settings(options), parameters(options.model_arg or ())
    if options.weights is not None:
        weights.check(options.weights)
    rows = None if options.background is None else plain.columns(options.background, without)
    if folder.is_folder(options.model) and options.model not in {one.name for one in zoo.zoo()}:
        _refuse_arguments(options.model, arguments)
        made = folder.load(options.model)
    elif ":" in options.model:
        if "" not in sys.path and os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        made = _made(options.model, arguments)
    else:
        _refuse_file(options.model)
        folder.refuse_absent(options.model)
        _refuse_arguments(options.model, arguments)
        _refuse_unknown(options.model)
        made = zoo.load(options.model)
        if not isinstance(made, Task):
            raise SpecError(
                Code.UNSUPPORTED,
                f"{options.model} is no model that a command runs",
                got=f"something of the kind {zoo.entry(options.model).kind}",
                expected="a network with classes",
                fix="Load it in Python: abe.zoo.load(name)",
            )
    base = made if isinstance(made, Task) else None
    network, own = (base.model, {}) if base is not None else opened(made)
    if options.weights is not None:
        weights.load_into(network, options.weights)
    if base is not None and plain.said(options):
        raise SpecError(
            Code.UNSUPPORTED,
            f"{options.model} is a task, which knows how its inputs are read",
            got=", ".join(plain.said(options)),
            fix="Leave them out, or let the factory return the module",
        )
    if base is not None:
        return _configured(network, settings, base) if settings else base
    if own:
        return plain.of_texts(network, own["tokenizer"], options, settings)
    if all(one.kind == "photo" for one in found) and not plain.said(options):
        return plain.photographs(_configured(network, settings, None), settings, question)
    return plain.made(network, found, options, settings, background=rows)


def _made(model: str, arguments: Mapping[str, Any]) -> Any:
    """What a factory makes; one that goes to another folder leaves the command's files where they are."""
    from abe.task import zoo

    here = os.getcwd()
    try:
        return zoo.load_factory(model, arguments)
    finally:
        os.chdir(here)


def _refuse_file(model: str) -> None:
    if model.endswith((".pt", ".pth", ".bin", ".pkl", ".ckpt", ".safetensors", ".onnx", ".py")):
        raise SpecError(
            Code.UNSUPPORTED,
            "A model file is not opened: unpickling it could run anything",
            got=repr(model),
            expected="package.module:factory, a function that builds the network",
            fix="Name its file of weights with --weights",
        )


def _refuse_unknown(model: str) -> None:
    """Refuse what nothing in the zoo is called, naming its models alone."""
    from abe.task import zoo

    if model.lower().replace("_", "-") not in {one.name for one in zoo.zoo()}:
        models = zoo.model_names()
        raise SpecError(
            Code.UNKNOWN_NAME,
            "There is no model of this name in the zoo",
            got=repr(short(model)),
            expected=f"one of {', '.join(models)}; package.module:factory; or a folder",
            fix=suggest(model, models) or "Run `abe zoo` for a list",
        )


def _refuse_arguments(model: str, arguments: Mapping[str, Any]) -> None:
    if arguments:
        raise SpecError(
            Code.UNKNOWN_PARAMETER,
            f"The model {model} takes no arguments",
            got=", ".join(arguments),
            fix="Leave --model-arg out, or name a factory of your own",
        )


def _settings(options: ModelOptions) -> dict[str, Any]:
    """What the options say about inputs and classes, as `abe.image_task` takes it."""
    std = numbers("std", options.std)
    if std is not None and min(std) <= 0:
        raise SpecError(Code.BAD_PARAMETER, "--std takes scales above 0", got=repr(options.std))
    given: dict[str, Any] = {
        "bounds": numbers("bounds", options.bounds, 2),
        "mean": numbers("mean", options.mean),
        "std": std,
        "size": _size(options.size),
        "labels": None if options.labels is None else read_labels(options.labels),
        "output_kind": options.output_kind,
    }
    return {name: value for name, value in given.items() if value is not None}


def _configured(model: Any, given: Mapping[str, Any], base: Any) -> Any:
    """An image task with the options set; what is not set comes from ``base`` where there is one."""
    from abe.task.image.lifter import ImageLifter, image_task

    settings: dict[str, Any] = {"bounds": (0.0, 1.0)}
    if base is not None:
        if not isinstance(base.lifter, ImageLifter):
            raise SpecError(
                Code.UNSUPPORTED,
                "Only a task of images can be set up by options",
                got=f"a task of the modality {base.modality!r} with --{', --'.join(given)}",
                fix="Leave them out, and set up the task in its factory",
            )
        kept = ("bounds", "mean", "std", "labels", "output", "output_kind", "input_name")
        settings = {name: getattr(base, name) for name in kept}
        settings |= {name: getattr(base.lifter, name) for name in ("size", "fit", "channels")}
    return image_task(model, **{**settings, **given})


def numbers(name: str, text: str | None, count: int | None = None) -> tuple[float, ...] | None:
    """Numbers of an option, separated by commas.

    Args:
        name: of the option.
        text: what was given.
        count: how many there are to be.

    Raises:
        SpecError: it holds something else.
    """
    if text is None:
        return None
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or len(found) != (count or len(found)) or not all(map(math.isfinite, found)):
        raise SpecError(
            Code.BAD_PARAMETER,
            f"--{name} takes numbers separated by commas",
            got=repr(short(text)),
            expected="two numbers" if count == 2 else "one number, or one per channel",
        )
    return found


def _size(text: str | None) -> tuple[int, int] | None:
    """(height, width) in pixels."""
    if text is None:
        return None
    sides = re.split("[x×,]", text.strip().lower())
    found = [int(side) for side in sides if re.fullmatch(" *[0-9]{1,9} *", side)]
    if len(found) != len(sides) or len(found) > 2 or min(found) < 1 or found[0] * found[-1] > PIXELS:
        raise SpecError(
            Code.BAD_PARAMETER,
            "--size takes pixels",
            got=repr(short(text)),
            expected="224, or 224x320 for height and width, "
            f"at most {PIXELS // 1_000_000} million pixels in all",
        )
    return found[0], found[-1]


def read_labels(path: Path) -> list[str]:
    """Class names from a text file with one name a line, or a JSON list or dict {number: name}.

    Raises:
        SpecError: the file is missing, empty, or no list of names.
    """
    import json

    from abe.task.outputs import class_names
    from abe.terminal import readable

    found: list[str] | None = None
    try:
        text = path.read_text(encoding="utf-8-sig")
        given = json.loads(text) if path.suffix.lower() == ".json" else text.rstrip().splitlines()
        found = class_names(given) if isinstance(given, list | dict) else None
        problem = "" if found else "no list of names"
    except AbeError as error:
        problem = f"{error.what}, got {error.got}"
    except (OSError, ValueError, RecursionError) as error:
        problem = str(error)
    if problem or not found:
        raise SpecError(
            Code.BAD_PARAMETER,
            "--labels names a file that cannot be used",
            got=f"{path} ({problem})",
            expected="a text file with one class name a line, or a JSON list or dict {number: name}",
        )
    return [readable(name.strip()) for name in found]

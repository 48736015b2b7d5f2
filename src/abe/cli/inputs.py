"""Command-line words as values: parameters, targets, lists, and the model with its options."""

import ast
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from abe.cli.options import ModelOptions
from abe.errors import AbeError, Code, InputError, SpecError, TargetError

_WORDS = {"true": True, "false": False, "none": None, "null": None}


def value_of(text: str) -> Any:
    """A Python value from text: a number, true, none, a list or tuple, or else the text itself."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def parameters(items: Sequence[str]) -> dict[str, Any]:
    """``["steps=100"]`` as ``{"steps": 100}``."""
    found: dict[str, Any] = {}
    for item in items:
        name, equals, text = item.partition("=")
        if not equals or not name.strip().isidentifier():
            raise SpecError(
                Code.BAD_PARAMETER,
                "A parameter is written as name=value",
                got=repr(item),
                expected="for example --param steps=100",
            )
        found[name.strip().replace("-", "_")] = value_of(text.strip())
    return found


def names(text: str | None) -> list[str] | None:
    """A comma-separated list, or None where nothing was said."""
    if text is None:
        return None
    found = [part.strip() for part in text.split(",") if part.strip()]
    return list(dict.fromkeys(found))


def step_of(text: str | None) -> int | float | None:
    """Units per step: ``2000``, or a share as ``0.05`` or ``5%``."""
    if text is None:
        return None
    try:
        if text.endswith("%"):
            found: int | float = float(text[:-1]) / 100
        else:
            found = int(text) if text.isdigit() else float(text)
    except ValueError:
        found = 0
    if found <= 0 or (isinstance(found, float) and found > 1):
        raise SpecError(
            Code.BAD_PARAMETER,
            "The step is the size of one change",
            got=repr(text),
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
    if text.lstrip("+-").isdigit():
        index = int(text)
        if labels and not 0 <= index < len(labels):
            raise TargetError(
                Code.TARGET_RANGE,
                "The model has no class of this number",
                got=str(index),
                expected=f"0 to {len(labels) - 1}",
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


def photos(paths: Sequence[str]) -> list[Path]:
    """Paths of readable files, each checked before anything heavy is loaded."""
    found = [Path(path) for path in paths]
    for path in found:
        if path.is_dir():
            raise InputError(
                Code.UNREADABLE_IMAGE,
                "This is a folder, not a photograph",
                got=str(path),
                fix=f"Name the files, for example {path}/*.png",
            )
        if not path.exists():
            raise InputError(
                Code.UNREADABLE_IMAGE, "There is no such file", got=str(path), fix="Check the path"
            )
        if not os.access(path, os.R_OK):
            raise InputError(Code.UNREADABLE_IMAGE, "The file may not be read", got=str(path))
    return found


def task_of(options: ModelOptions) -> Any:
    """The task of ``--model``: from the zoo, or from an importable factory with the options given."""
    from abe.task import zoo

    if ":" not in options.model:
        if options.model.endswith((".pt", ".pth", ".bin", ".pkl", ".ckpt")):
            raise SpecError(
                Code.UNSUPPORTED,
                "A model file is not opened: unpickling it could run anything",
                got=repr(options.model),
                expected="package.module:factory",
                fix="Write a function that builds the network and loads its weights "
                "with torch.load(..., weights_only=True) or safetensors",
            )
        task = zoo.load(options.model)
        return task if not options.given else _configured(task.model, options, task)
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    made = zoo.load_factory(options.model)
    if not hasattr(made, "lift"):
        return _configured(made, options, None)
    return made if not options.given else _configured(made.model, options, made)


def _configured(model: Any, options: ModelOptions, base: Any) -> Any:
    """An image task with the options set; what is not set comes from ``base`` where there is one."""
    from abe.task.image import image_task

    settings: dict[str, Any] = {"bounds": (0.0, 1.0)}
    if base is not None:
        kept = ("bounds", "mean", "std", "labels", "output", "output_kind", "input_name")
        settings = {name: getattr(base, name) for name in kept}
        settings |= {name: getattr(base.lifter, name) for name in ("size", "fit", "channels")}
    given: dict[str, Any] = {
        "bounds": _numbers("bounds", options.bounds, (2,)),
        "mean": _numbers("mean", options.mean),
        "std": _numbers("std", options.std),
        "size": _size(options.size),
        "labels": None if options.labels is None else read_labels(options.labels),
        "output_kind": options.output_kind,
    }
    return image_task(model, **{**settings, **{k: v for k, v in given.items() if v is not None}})


def _numbers(name: str, text: str | None, count: tuple[int, ...] | None = None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or (count is not None and len(found) not in count):
        raise SpecError(
            Code.BAD_PARAMETER,
            f"--{name} takes numbers separated by commas",
            got=repr(text),
            expected="two numbers" if count == (2,) else "one number, or one per channel",
        )
    return found


def _size(text: str | None) -> tuple[int, int] | None:
    found = _numbers("size", None if text is None else text.lower().replace("x", ","), (1, 2))
    if found is None:
        return None
    if any(n < 1 or n != int(n) for n in found):
        raise SpecError(Code.BAD_PARAMETER, "--size takes pixels", got=repr(text), expected="224 or 224x320")
    return int(found[0]), int(found[-1])


def read_labels(path: Path) -> list[str]:
    """Class names from a text file with one name a line, or a JSON list or dict {number: name}.

    Raises:
        SpecError: the file is missing, empty, or no list of names.
    """
    import json

    from abe.task.outputs import class_names

    found: list[str] | None = None
    try:
        text = path.read_text(encoding="utf-8-sig")
        given = json.loads(text) if path.suffix.lower() == ".json" else text.rstrip().splitlines()
        found = class_names(given) if isinstance(given, list | dict) else None
        problem = "" if found else "no list of names"
    except AbeError as error:
        problem = f"{error.what}, got {error.got}"
    except (OSError, ValueError) as error:
        problem = str(error)
    if problem or not found:
        raise SpecError(
            Code.BAD_PARAMETER,
            "--labels names a file that cannot be used",
            got=f"{path} ({problem})",
            expected="a text file with one class name a line, or a JSON list or dict {number: name}",
        )
    return [name.strip() for name in found]

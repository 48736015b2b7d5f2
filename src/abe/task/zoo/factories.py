"""Models that a function of the user's builds, and where in the user's code something went wrong."""

import importlib
import inspect
import os
import sysconfig
import traceback
from collections.abc import Mapping
from typing import Any

from abe.errors import AbeError, Code, ModelError, SpecError


def load_factory(reference: str, arguments: Mapping[str, Any] | None = None) -> Any:
    """What ``package.module:factory`` returns: an ``nn.Module``, a task, or a pipeline of Hugging Face.

    The module is imported as Python would; no file is unpickled.

    Args:
        reference: the factory, which may also be a module, a task or a pipeline that is ready.
        arguments: what the factory is called with, by name.

    Raises:
        SpecError: no such module, factory or argument.
        ModelError: the module or the factory fails, which is told with file and line, or makes no model.
    """
    made = _call(_found(reference), reference, arguments or {})
    if not _is_ready(made):
        raise ModelError(
            Code.NOT_A_MODULE,
            f"{reference} did not return a model",
            got=f"the class {made.__name__}" if isinstance(made, type) else type(made).__name__,
            expected="an nn.Module, a task of abe.image_task or its kin, or a pipeline for texts",
        )
    return made


def load_object(reference: str) -> Any:
    """What ``package.module:name`` is, or makes where it is a class or a function that needs nothing.

    Raises:
        SpecError: no such module or name.
        ModelError: the module or the factory fails.
    """
    found = _found(reference)
    makes = isinstance(found, type) or inspect.isfunction(found)
    needed = (
        [one for one in inspect.signature(found).parameters.values() if one.default is one.empty]
        if makes
        else []
    )
    return _call(found, reference, {}) if makes and not needed else found


def _found(reference: str) -> Any:
    """What a reference names."""
    module_name, _, attribute = reference.partition(":")
    words = [*module_name.split("."), *attribute.split(".")]
    if not all(word.replace("-", "_").isidentifier() for word in words) or module_name.endswith(".py"):
        raise SpecError(
            Code.BAD_PARAMETER,
            "What is meant is not named as package.module:factory",
            got=repr(reference),
            expected="the module's name as in an import, without folder and suffix, and a function inside it",
            fix="Go to the folder of the file net.py and write net:make for its function make",
        )
    return _find(module_name, attribute)


def _find(module_name: str, attribute: str) -> Any:
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise _theirs(f"The module {module_name} fails when it is imported", error) from error
        raise SpecError(
            Code.UNKNOWN_NAME,
            f"There is no module {module_name}",
            got=str(error),
            fix="Name an importable module (the current folder counts) and a factory inside it",
        ) from error
    except (Exception, SystemExit) as error:
        raise _theirs(f"The module {module_name} fails when it is imported", error) from error
    file = getattr(found, "__file__", None)
    if file:
        _FOLDERS.add(os.path.dirname(file) + os.sep)
    try:
        for part in attribute.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        raise SpecError(
            Code.UNKNOWN_NAME,
            f"The module {module_name} has no {attribute}",
            got=f"{error}, in {file or 'a module that is built in'}",
            fix="Name a factory inside it",
        ) from error
    return found


def _call(factory: Any, reference: str, arguments: Mapping[str, Any]) -> Any:
    if _is_ready(factory) or not callable(factory):
        if arguments:
            raise SpecError(
                Code.UNKNOWN_PARAMETER,
                f"{reference} is no factory, so it takes no arguments",
                got=", ".join(arguments),
                fix="Leave them out, or name a function",
            )
        return factory
    _check_arguments(factory, reference, arguments)
    try:
        made = factory(**arguments)
        if inspect.iscoroutine(made):
            made.close()  # never to be awaited
        return made
    except AbeError:
        raise
    except (Exception, SystemExit) as error:
        raise _theirs(f"The factory {reference} fails", error) from error


def _check_arguments(factory: Any, reference: str, arguments: Mapping[str, Any]) -> None:
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # of C code, which says itself what it lacks
        return
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise SpecError(
            Code.UNKNOWN_PARAMETER,
            f"The factory {reference} is not called with what it takes",
            got=str(error),
            expected=f"{factory.__name__ if hasattr(factory, '__name__') else reference}{signature}",
            fix="Pass --model-arg NAME=VALUE once for each argument that it needs",
        ) from error


def _theirs(what: str, error: BaseException) -> ModelError:
    """The error for a mistake in a user's code, with file and line."""
    said = f"sys.exit({error.code!r})" if isinstance(error, SystemExit) else str(error)
    steps = [step for step in _steps(error) if not step.startswith(_ABE)]
    where = f" ({steps[-1]})" if steps else ""
    return ModelError(
        Code.MODEL_FAILED,
        what,
        got=f"{type(error).__name__}: {said}{where}",
        expected="code that runs without an error",
        fix="Mend it there; `abe --debug …` shows the whole traceback",
    )


_ABE = os.path.dirname(os.path.dirname(os.path.dirname(__file__))) + os.sep
_FOLDERS: set[str] = set()
"""Of the modules that `load_factory` imported: what fails in there is no fault of ABE."""


def place(error: BaseException) -> str:
    """File and line in the code of a loaded model at which an error arose, or nothing where it was ABE's."""
    last = "".join(_steps(error)[-1:])
    return last if last.startswith(tuple(_FOLDERS)) and not last.startswith(_ABE) else ""


def passed(error: BaseException) -> str:
    """The last file and line in the code of a loaded model on the way to an error or to its cause, if any."""
    own = [step for one in (error, error.__cause__) if one is not None for step in _steps(one)]
    own = [step for step in own if step.startswith(tuple(_FOLDERS)) and not step.startswith(_ABE)]
    return own[-1] if own else ""


def _steps(error: BaseException) -> list[str]:
    """File and line of each step to an error, without libraries unless there is nothing else."""
    if isinstance(error, SyntaxError) and error.filename:
        return [f"{error.filename}, line {error.lineno}"]
    steps = [s for s in traceback.extract_tb(error.__traceback__) if not s.filename.startswith("<")]
    own = [s for s in steps if s.filename.startswith(_ABE) or not _in_library(s.filename)]
    if all(s.filename.startswith(_ABE) for s in own):
        own = steps
    return [f"{s.filename}, line {s.lineno}" for s in own]


def _in_library(file: str) -> bool:
    return "site-packages" in file or file.startswith(sysconfig.get_path("stdlib") + os.sep)


def _is_ready(value: Any) -> bool:
    """Whether this is a model, a task or a pipeline, and no class of one."""
    import torch

    from abe.task.base import Task
    from abe.task.start import is_pipeline

    return isinstance(value, torch.nn.Module | Task) or is_pipeline(value)

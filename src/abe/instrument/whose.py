"""Whose an error is that ends a model's forward: the model's, or that of what is set around it.

Rules, observers and hooks run in the middle of a forward, so what they raise comes out of the model's call.
"""

# torch leaves part of its own interface untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportPrivateUsage=false

import inspect
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from torch import nn

_VERDICT = "_abe_not_the_model"
_PACKAGE = Path(__file__).parents[1].as_posix() + "/"
_NETS = _PACKAGE + "testing/"
"""Models that are part of the package fail like anybody's."""
_LIBRARY = Path(sysconfig.get_path("stdlib")).as_posix() + "/"
_INSTALLED = ("/site-packages/", "/dist-packages/")
_CALLING = {nn.Module._call_impl.__code__}
"""Code that calls what the model called, as it is."""


def judge(
    problem: Exception, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Mark the error of an operation that was not run as it is: does it fail as the model called it, too?

    Of operations that came apart into others, the outermost is what the model called; it is judged last.
    """
    try:
        func(*args, **kwargs)
    except Exception:  # whatever it is, the model would have met it
        verdict = False
    else:
        verdict = True
    with suppress(AttributeError):  # of an exception that takes no attributes
        setattr(problem, _VERDICT, verdict)


def calling(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of ours that hands on what the model called: what fails inside is not its own."""
    _CALLING.add(inspect.unwrap(function).__code__)
    return function


def not_the_models(problem: BaseException) -> bool:
    """Whether an error out of a model's forward was raised by what runs around the model."""
    for one in _chain(problem):
        verdict = getattr(one, _VERDICT, None)
        if verdict is not None:
            return verdict
        if _raised_here(one):
            return True
    return False


def _chain(problem: BaseException) -> Iterator[BaseException]:
    """An error, and those that it came from."""
    known: set[int] = set()
    one: BaseException | None = problem
    while one is not None and id(one) not in known:
        known.add(id(one))
        yield one
        one = one.__cause__ or one.__context__


def _raised_here(problem: BaseException) -> bool:
    """Whether the innermost code that is no library's is this package's, and it was not calling a module."""
    here, step = False, problem.__traceback__
    while step is not None:
        whose = _whose(step.tb_frame)
        here = here if whose is None else whose
        step = step.tb_next
    return here


def _whose(frame: FrameType) -> bool | None:
    """True for this package, False for a model or a user's code, None for libraries, which serve either."""
    code = frame.f_code
    if code in _CALLING:
        return False
    file = code.co_filename.replace("\\", "/")
    if file.startswith(_PACKAGE):
        return not file.startswith(_NETS)
    library = file.startswith((_LIBRARY, "<")) or any(folder in file for folder in _INSTALLED)
    return None if library else False

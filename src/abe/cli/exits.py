"""Exit codes, and how an error becomes one readable message."""

import errno
import functools
import os
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import typer

from abe.errors import AbeError, ModelError, PackageError, StorageError

P = ParamSpec("P")
R = TypeVar("R")

OK, UNEXPECTED, USAGE, INPUT, MODEL, STORAGE, PACKAGE = range(7)
INTERRUPTED = 130

MEANING = {
    OK: "done",
    UNEXPECTED: "unexpected error, please report it",
    USAGE: "usage",
    INPUT: "bad input, target, name or parameter",
    MODEL: "the model fails",
    STORAGE: "a file cannot be read or written",
    PACKAGE: "a package is missing",
    INTERRUPTED: "interrupted",
}

debugging = False
"""Set by ``abe --debug``: errors show their traceback."""


def code_of(error: AbeError) -> int:
    """The exit code of an error: input, target and specification errors are one kind."""
    kinds = ((ModelError, MODEL), (StorageError, STORAGE), (PackageError, PACKAGE))
    return next((code for kind, code in kinds if isinstance(error, kind)), INPUT)


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """Turn errors of a command into a message on standard error and an exit code."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except KeyboardInterrupt:
            complain("Interrupted; nothing half-written was left behind.")
            raise typer.Exit(INTERRUPTED) from None
        except AbeError as error:
            if debugging:
                raise
            complain(f"Error: {error}")
            raise typer.Exit(code_of(error)) from None
        except OSError as error:
            if debugging or error.errno == errno.EPIPE:
                raise
            complain(f"Error: {error.strerror or error} ({error.filename or 'while reading or writing'})")
            raise typer.Exit(STORAGE) from None
        except Exception as error:
            if debugging or isinstance(error, typer.Exit) or not _foreign(error):
                raise
            complain(
                f"Unexpected error: {type(error).__name__}: {error}\n"
                "This is a fault in ABE. `abe --debug …` shows where; please report it."
            )
            raise typer.Exit(UNEXPECTED) from None

    return run


def _foreign(error: Exception) -> bool:
    """Whether an exception is not the command-line parser's own, such as a usage error."""
    return not type(error).__module__.startswith(("typer", "click"))


def complain(message: str) -> None:
    """A message on standard error, as it is: user text in it is not markup."""
    sys.stderr.write(message + os.linesep)
    sys.stderr.flush()

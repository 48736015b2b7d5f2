"""Exit codes, and how an error becomes one readable message."""

import errno
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager

from abe.errors import AbeError, ModelError, PackageError, StorageError

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


def code_of(error: AbeError) -> int:
    """The exit code of an error: input, target and specification errors are one kind."""
    kinds = ((ModelError, MODEL), (StorageError, STORAGE), (PackageError, PACKAGE))
    return next((code for kind, code in kinds if isinstance(error, kind)), INPUT)


@contextmanager
def told(debug: bool = False) -> Generator[None]:
    """Turn errors into a message on standard error and an exit code, or let them through for debugging."""
    try:
        yield
    except KeyboardInterrupt:
        complain("Interrupted; nothing half-written was left behind.")
        raise SystemExit(INTERRUPTED) from None
    except Exception as error:
        if debug or getattr(error, "errno", None) == errno.EPIPE:
            raise
        code, message = _told(error)
        complain(message)
        raise SystemExit(code) from None


def _told(error: Exception) -> tuple[int, str]:
    """The exit code and the sentence for an error."""
    if isinstance(error, AbeError):
        return code_of(error), f"Error: {error}"
    if isinstance(error, OSError):
        where = error.filename or "while reading or writing"
        return STORAGE, f"Error: {error.strerror or error} ({where})"
    return UNEXPECTED, (
        f"Unexpected error: {type(error).__name__}: {error}\n"
        "This is a fault in ABE. `abe --debug …` shows where; please report it."
    )


def complain(message: str) -> None:
    """A message on standard error, as it is: user text in it is not markup."""
    sys.stderr.write(message + os.linesep)
    sys.stderr.flush()

"""Exit codes, and how an error becomes one readable message."""

import errno
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager

from abe.errors import AbeError, Code, ModelError, PackageError, SpecError, StorageError

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


class UsageError(SpecError):
    """A command without what it needs to have anything to do."""


def code_of(error: AbeError) -> int:
    """The exit code of an error: input, target and specification errors are one kind."""
    kinds = ((UsageError, USAGE), (ModelError, MODEL), (StorageError, STORAGE), (PackageError, PACKAGE))
    return next((code for kind, code in kinds if isinstance(error, kind)), INPUT)


class Pieces:
    """Parts of a command's work: one that fails hides no other, and all that failed are told at the end."""

    def __init__(self) -> None:
        self.failed: dict[str, Exception] = {}

    @contextmanager
    def piece(self, name: str) -> Generator[None]:
        """Keep an error of this part for the end; a reader that has gone ends everything."""
        try:
            yield
        except Exception as error:
            if _gone(error):
                raise
            self.failed[name] = error

    def close(self, *, alone: bool = False) -> None:
        """Raise what failed, as itself where ``alone`` says that there was nothing else, else by name.

        Raises:
            ExceptionGroup: of the errors, each with a note that names its part.
        """
        if alone and len(self.failed) == 1:
            raise next(iter(self.failed.values()))
        for name, error in self.failed.items():
            error.add_note(name)
        if self.failed:
            raise ExceptionGroup("parts of the work failed", list(self.failed.values()))


@contextmanager
def told(debug: bool = False) -> Generator[None]:
    """Turn errors into a message on standard error and an exit code, or let them through for debugging."""
    try:
        yield
    except KeyboardInterrupt:
        complain("Interrupted; nothing half-written was left behind.")
        raise SystemExit(INTERRUPTED) from None
    except SystemExit as stop:  # no command ends so by itself
        if debug:
            raise
        complain(
            f"Error: The model's code ended the program. Got sys.exit({stop.code!r}){_place(stop)}. "
            f"[{Code.MODEL_FAILED.value}]"
        )
        raise SystemExit(MODEL) from None
    except Exception as error:
        if debug or _gone(error):
            raise
        parts = [(error, "")]
        if isinstance(error, ExceptionGroup):
            parts = [(one, f"{one.__notes__[-1]}: ") for one in error.exceptions]
        codes = []
        for one, part in parts:
            code, message = _told(one, part)
            codes.append(code)
            complain(message)
        raise SystemExit(codes[0]) from None


def _gone(error: BaseException) -> bool:
    """Whether the reader of the output has gone."""
    return getattr(error, "errno", None) == errno.EPIPE


def _told(error: Exception, part: str) -> tuple[int, str]:
    """The exit code and the sentence for an error of a part of the work."""
    from abe.task.zoo import passed

    if isinstance(error, AbeError):
        said, where, mark = " ".join(str(error).split()), passed(error), f" [{error.code.value}]"
        if where and where not in said:
            said = f"{said.removesuffix(mark)} It arose at {where}.{mark}"
        return code_of(error), f"Error: {part}{said}"
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return MODEL, (
            f"Error: {part}There is not enough memory. Make photographs smaller by --size, or ask for fewer "
            f"steps, samples or photographs. [{Code.OUT_OF_MEMORY.value}]"
        )
    if where := _place(error):
        said = " ".join(str(error).split())
        return MODEL, (
            f"Error: {part}The model's code failed. Got {type(error).__name__}: {said}{where}. "
            f"[{Code.MODEL_FAILED.value}]"
        )
    if isinstance(error, OSError):
        file = error.filename or "while reading or writing"
        return STORAGE, f"Error: {part}{error.strerror or error} ({file}) [{Code.NOT_WRITTEN.value}]"
    return UNEXPECTED, (
        f"Unexpected error: {part}{type(error).__name__}: {error}\n"
        "This is a fault in ABE. `abe --debug …` shows where; please report it."
    )


def _place(error: BaseException) -> str:
    """Where in a user's code an error arose, or nothing."""
    from abe.task.zoo import place

    found = place(error)
    return f" ({found})" if found else ""


def complain(message: str) -> None:
    """A message on standard error, as it is: user text in it is not markup."""
    if sys.stderr is None:  # closed by the caller
        return
    from abe.terminal import readable

    text = os.linesep.join(readable(line) for line in message.split("\n"))
    sys.stderr.write(text + os.linesep)
    sys.stderr.flush()

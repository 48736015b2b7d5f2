"""A command run in this process, and what it left behind."""

import io
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

from abe.cli import app


@dataclass(frozen=True)
class Result:
    """Exit code, both streams, and the exception of a command that was run with ``--debug``."""

    exit_code: int
    stdout: str
    stderr: str
    exception: Exception | None

    @property
    def output(self) -> str:
        return self.stdout + self.stderr


def invoke(*words: Any) -> Result:
    """Run ``abe`` with these words."""
    code, exception = 0, None
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        try:
            app([str(word) for word in words])
        except SystemExit as done:
            code = int(done.code or 0)
        except Exception as error:
            code, exception = 1, error
    return Result(code, out.getvalue(), err.getvalue(), exception)

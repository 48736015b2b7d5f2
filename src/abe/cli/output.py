"""What the commands print: results on standard output, everything else on standard error."""

import codecs
import json
import math
import os
import sys
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

WIDE = 150
"""Columns of a table that is piped, unless COLUMNS says otherwise."""
SPELT = "abe.spelt"
"""Name under which `codecs` knows how to write what an encoding lacks."""
PLAIN = {
    "−": "-",
    "–": "-",
    "—": "-",
    "×": "x",
    "·": "*",
    "…": "...",
    "‖": "|",
    "�": "?",
    "↑": "^",
    "↓": "v",
    "→": "->",
    "≤": "<=",
    "≥": ">=",
    "±": "+-",
    "█": "#",
    "░": "=",
    "∞": "inf",
}

_results: Any = None


@contextmanager
def results_only() -> Generator[None]:
    """Keep standard output for results: what anything else prints meanwhile goes to standard error.

    Python's warnings become notes there.
    """
    global _results
    before = _results
    with ExitStack() as stack:
        _results = _apart(stack)
        stack.enter_context(redirect_stdout(sys.stderr))
        stack.enter_context(warnings.catch_warnings())
        said: set[str] = set()

        def show(message: Warning | str, *_: Any, **__: Any) -> None:
            if str(message) not in said:
                said.add(str(message))
                warn([str(message)])

        warnings.showwarning = show
        try:
            yield
        finally:
            _results = before


def _apart(stack: ExitStack) -> Any:
    """Standard output as it was; a real one is set apart, so that C code and other programs miss it too."""
    stream = sys.stdout
    try:
        real = (stream.fileno(), sys.stderr.fileno()) == (1, 2)
    except (AttributeError, OSError, ValueError):  # a stream in memory, or none
        real = False
    if not real:
        return stream
    stream.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    own = open(kept, "w", encoding=stream.encoding, errors=stream.errors)  # noqa: SIM115
    stack.callback(_close, own)
    stack.callback(os.dup2, kept, 1)
    return own


def _close(stream: Any) -> None:
    with suppress(OSError):  # results are flushed as they are written; what is left failed then, and was told
        stream.close()


def results() -> Any:
    """Where results go."""
    return _results or sys.stdout


def spell_out() -> None:
    """Let both streams take every character: what their encoding lacks is spelt in ASCII."""
    codecs.register_error(SPELT, _spelt)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=SPELT)  # pyright: ignore[reportAttributeAccessIssue]


def _spelt(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in missing), error.end


def console() -> "Console":
    """For results; wide enough for a table when piped."""
    from rich.console import Console

    stream = results()
    known = stream is None or stream.isatty() or "COLUMNS" in os.environ
    return Console(file=stream, highlight=False, width=None if known else WIDE)


def notes() -> "Console":
    """Standard error, for progress and remarks."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def remark(message: str) -> None:
    """A remark on standard error."""
    from rich.text import Text

    notes().print(Text(message, style="dim"))


def warn(messages: Sequence[str]) -> None:
    """Notes kept in a result, each once, on standard error."""
    from rich.text import Text

    for message in dict.fromkeys(messages):
        notes().print(Text("note: ", style="yellow").append(Text(message, style="default")))


def line(label: str, path: str) -> None:
    """A label and a path, which is never cut."""
    from rich.text import Text

    from abe.terminal import readable

    console().print(Text(label, style="dim").append(readable(path), style="default"), soft_wrap=True)


def emit(data: Any) -> None:
    """JSON on standard output; what is not finite becomes null, for JSON has no other word for it.

    Characters that the output cannot take, or that are no text, are escaped as JSON escapes them.
    """
    stream = results()
    text = json.dumps(plain(data), indent=2, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(getattr(stream, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(plain(data), indent=2, allow_nan=False)
    stream.write(text + "\n")
    stream.flush()


def short(text: str) -> str:
    """Enough of a text to recognise it."""
    return text if len(text) <= 80 else f"{text[:77]}…"


def plain(data: Any) -> Any:
    """Data with only what JSON has: tensors as lists, non-finite numbers as null, the rest as text."""
    if data is None or isinstance(data, str | bool | int):
        return data
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {str(key): plain(item) for key, item in data.items()}
    if isinstance(data, Sequence | set | frozenset):
        return [plain(item) for item in data]
    if hasattr(data, "tolist"):
        return plain(data.tolist())
    return str(data)

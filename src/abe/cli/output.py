"""What the commands print: results on standard output, everything else on standard error."""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

WIDE = 150
"""Columns assumed where the output is not a terminal, so that a piped table is not cut."""


def console() -> "Console":
    """Standard output; wide enough for a table when piped."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)


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


def emit(data: Any) -> None:
    """JSON on standard output; what is not finite becomes null, for JSON has no other word for it."""
    sys.stdout.write(json.dumps(plain(data), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    sys.stdout.flush()


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

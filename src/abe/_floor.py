"""The oldest PyTorch that the engines run on, looked for before anything of it is used."""

import re
import sys
from importlib.util import find_spec
from pathlib import Path

from abe.errors import Code, PackageError

OLDEST = (2, 6)
"""The first with `torch.compiler.set_stance`; ``pyproject.toml`` asks for the same."""


def check_torch() -> None:
    """Raise OLD_PACKAGE where the PyTorch at hand is older than `OLDEST`; imports it only to ask its version.

    Raises:
        PackageError: OLD_PACKAGE, with both versions.
    """
    found = _version()
    numbers = re.match(r"(\d+)\.(\d+)", found)
    if numbers is None or (int(numbers[1]), int(numbers[2])) >= OLDEST:
        return
    oldest = ".".join(map(str, OLDEST))
    raise PackageError(
        Code.OLD_PACKAGE,
        "The installed PyTorch is too old for ABE",
        got=f"torch {found}",
        expected=f"torch {oldest} or newer",
        fix=f"Run pip install 'torch>={oldest}'",
    )


def _version() -> str:
    """Of the torch that an import gives or has given; empty where there is none."""
    if "torch" in sys.modules:
        return str(getattr(sys.modules["torch"], "__version__", ""))
    place = find_spec("torch")
    if place is None or place.origin is None:
        return ""
    try:
        text = (Path(place.origin).parent / "version.py").read_text(encoding="utf-8")
    except OSError:
        text = ""
    written = re.search(r"""^__version__\b.*?=\s*['"]([^'"]+)""", text, re.MULTILINE)
    return written[1] if written else str(__import__("torch").__version__)

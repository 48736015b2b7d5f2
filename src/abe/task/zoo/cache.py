"""Where models that were trained on this machine are kept."""

import os
import sys
import tempfile
from pathlib import Path

from abe.errors import Code, StorageError
from abe.storage import as_path

VARIABLE = "ABE_CACHE"
"""Environment variable that names another folder than the user's cache."""


def cache_folder(folder: str | Path | None = None) -> Path:
    """The folder given, or that of ``ABE_CACHE``, or ``abe/zoo`` in the user's cache.

    Raises:
        SpecError: it is no path.
    """
    if folder is not None:
        return as_path(folder).expanduser()
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser()
    own = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
    return (Path(own) if own and Path(own).is_absolute() else Path.home() / ".cache") / "abe" / "zoo"


def prepared(folder: Path) -> Path:
    """A folder that is made where there is none, and takes a file: found out before the work.

    Raises:
        StorageError: it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 20))
            file.flush()
    except (OSError, ValueError) as problem:  # ValueError: a null byte in the path
        raise StorageError(
            Code.NOT_WRITTEN,
            "The folder for trained models cannot be written",
            got=f"{folder}: {getattr(problem, 'strerror', None) or problem}",
            fix=f"Name another one: abe zoo train --folder DIR, or the environment variable {VARIABLE}",
        ) from problem
    return folder

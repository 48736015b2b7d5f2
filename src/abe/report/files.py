"""Writing results: whole or not at all, and refused before the work when it cannot succeed."""

import os
import tempfile
from pathlib import Path

from abe.errors import Code, StorageError


def write(path: Path, data: bytes) -> Path:
    """Write ``data`` to ``path`` by a temporary file beside it; the old file survives a failure.

    Raises:
        StorageError: the folder does not allow it, or the disk is full.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name[:40]}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
        raise StorageError(
            Code.NOT_WRITTEN,
            f"{path} could not be written",
            got=error.strerror or str(error),
            fix="Choose another folder, or free some space; an older file of that name is untouched",
        ) from error
    return path


def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def check_folder(folder: Path, needed: int = 1 << 20) -> Path:
    """Make ``folder`` and write ``needed`` bytes there for a moment, so that failure comes before the work.

    Raises:
        StorageError: it cannot be made, is not a folder, cannot be written, or has no room.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(needed))
            file.flush()
    except OSError as error:
        raise StorageError(
            Code.NOT_WRITTEN,
            f"The folder {folder} cannot be written",
            got=error.strerror or str(error),
            expected="a folder that can be made and written, with some room",
            fix="Choose another one",
        ) from error
    return folder

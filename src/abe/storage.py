"""Files: replaced in one step by one writer at a time, and read only where they are what they seem.

What is saved in a folder has one JSON manifest and one safetensors file. The manifest ``<kind>.json`` names
the tensor file, its size and its digest, and has a digest of its own; replacing it is the commit. A file
that stands alone is safetensors with a JSON description. Nothing is ever unpickled.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor

from abe.errors import Code, StorageError
from abe.writers import alone, settle, sweep

FORMAT_VERSION = 1
PART = ".part"
"""Ends the name of a file that is being written."""
RETRIES = 50
"""Times that a manifest is read again because another one took its place meanwhile."""
LONGEST_MANIFEST = 1 << 28
LONGEST_HEADER = 100_000_000
"""Bytes that safetensors allows."""
DATA_ERRORS = (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError, MemoryError)
"""What contents that are not as they should be can raise while they are taken apart."""


# --- folders with a manifest ----------------------------------------------------------------------


def save(folder: str | Path, kind: str, manifest: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Path:
    """Write ``manifest`` and ``tensors`` as ``kind``; one that stood there before survives a failure.

    Several writers of one folder, threads or processes, wait for each other; the last one stays.

    Raises:
        StorageError: the folder cannot be written, holds a manifest of something else, or the contents
            cannot be written down.
    """
    folder = Path(folder)
    payload = _payload(tensors, {"format": _format(kind)}, f"The {kind}")
    digest = hashlib.sha256(payload).hexdigest()
    name = f"{kind}-{digest[:16]}.safetensors"
    head = {"format": _format(kind), "format_version": FORMAT_VERSION}
    tail = {"tensors": name, "bytes": len(payload), "sha256": digest}
    text = _sealed({**head, **manifest, **tail}, kind)
    with _coded(f"The {kind} could not be written", folder):
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder) as locked:
            old = _tensor_file(folder, kind)
            sweep(folder, _half_written(kind), locked=locked)
            replace(folder / name, payload)
            try:
                settle(folder)
                replace(folder / _manifest(kind), text)
            except BaseException:
                if locked and old != name:
                    (folder / name).unlink(missing_ok=True)
                raise
            with suppress(OSError):  # the new one is complete; files too many do no harm
                settle(folder)
                sweep(folder, _any_tensors(kind), locked=locked, keep=name)
    return folder


def load(folder: str | Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Manifest and tensors that `save` wrote. Nothing is unpickled.

    Beside a writer the manifest is read again where its tensors are gone or others.

    Raises:
        StorageError: missing, damaged, or written by something else.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder, kind)
    for _ in range(RETRIES):
        try:
            return manifest, _read_tensors(folder, manifest, kind)
        except StorageError:
            again = _read_manifest(folder, kind)
            if again == manifest:
                raise
            manifest = again
    return manifest, _read_tensors(folder, manifest, kind)


def damaged(folder: str | Path, kind: str, problem: Exception | str) -> StorageError:
    """The error for contents that cannot be understood."""
    return StorageError(
        Code.CORRUPT_FILE,
        f"The saved {kind} is damaged",
        got=f"{folder}: {problem if isinstance(problem, str) else repr(problem)}",
        fix="Make it again, or restore the folder from a copy",
    )


def _format(kind: str) -> str:
    return f"abe-{kind}"


def _manifest(kind: str) -> str:
    return f"{kind}.json"


def _any_tensors(kind: str) -> re.Pattern[str]:
    """Names that a manifest may give its tensors, so that no other file is ever read or removed."""
    return re.compile(rf"{kind}-[0-9a-f]{{16}}\.safetensors")


def _half_written(kind: str) -> re.Pattern[str]:
    """Names of what a killed writer leaves, of this version and of those before it."""
    return re.compile(rf"\.{kind}(-[0-9a-f]{{16}}\.safetensors|\.json)\.[a-z0-9_]{{8}}(\.part)?")


def _sealed(manifest: Mapping[str, Any], kind: str) -> bytes:
    """The manifest as JSON, with the digest of everything else in it."""
    try:
        plain = json.loads(json.dumps(manifest, default=plain))
    except (TypeError, ValueError, RecursionError) as problem:
        raise StorageError(
            Code.NOT_WRITTEN,
            f"The {kind} holds something that JSON cannot say",
            got=str(problem),
            expected="text, numbers, lists and dictionaries",
            fix="Replace it by a text or a number before saving",
        ) from problem
    whole = {**plain, "seal": _seal(plain)}
    try:
        return json.dumps(whole, indent=2, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # a file name that is no text
        return json.dumps(whole, indent=2).encode()


def _seal(manifest: Mapping[str, Any]) -> str:
    """A digest of everything in a description but its seal, whatever the order and the spaces."""
    rest = {k: v for k, v in manifest.items() if k != "seal"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _sealed_by(manifest: Mapping[str, Any]) -> bool:
    """Whether the seal is right; files of earlier versions have none."""
    try:
        return "seal" not in manifest or manifest["seal"] == _seal(manifest)
    except DATA_ERRORS:  # too deep to be written again
        return False


def plain(given: Any) -> Any:
    """NumPy's and torch's single numbers as Python's, a path as text."""
    if isinstance(given, Path):
        return str(given)
    if getattr(given, "ndim", None) == 0 and hasattr(given, "item"):
        return given.item()
    raise TypeError(f"a {type(given).__name__}")


def _tensor_file(folder: Path, kind: str) -> str | None:
    """The tensors of what stands in ``folder``, if anything; a foreign manifest is refused."""
    try:
        manifest = _read_manifest(folder, kind)
    except StorageError as problem:
        if problem.code is Code.FOREIGN_FILE and (folder / _manifest(kind)).exists():
            raise StorageError(
                Code.FOREIGN_FILE,
                f"The folder holds a {_manifest(kind)} that ABE did not write, or another version of it",
                got=str(folder),
                fix="Choose another folder, or move that file away",
            ) from problem
        return None
    name = manifest.get("tensors")
    return name if isinstance(name, str) and _any_tensors(kind).fullmatch(name) else None


def _read_manifest(folder: Path, kind: str) -> dict[str, Any]:
    path = folder / _manifest(kind)
    try:
        manifest = json.loads(read_file(path, most=LONGEST_MANIFEST, follow=False).decode())
    except FileNotFoundError as problem:
        raise StorageError(
            Code.FOREIGN_FILE,
            f"There is no saved {kind} here",
            got=str(folder),
            expected=f"a folder with {_manifest(kind)}, as written by {kind}.save(folder)",
        ) from problem
    except StorageError:
        raise
    except (OSError, ValueError, RecursionError) as problem:
        raise StorageError(
            Code.CORRUPT_FILE, "The manifest cannot be read", got=f"{path}: {problem}"
        ) from problem
    if not isinstance(manifest, dict) or manifest.get("format") != _format(kind):
        raise StorageError(
            Code.FOREIGN_FILE,
            "This was not written by ABE",
            got=f"format {manifest.get('format')!r}"
            if isinstance(manifest, dict)
            else type(manifest).__name__,
            expected=repr(_format(kind)),
        )
    version = manifest.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise StorageError(
            Code.FOREIGN_FILE,
            "This was written by another version of ABE",
            got=f"format version {version}",
            expected=str(FORMAT_VERSION),
            fix="Read it with that version",
        )
    return manifest


def _read_tensors(folder: Path, manifest: Mapping[str, Any], kind: str) -> dict[str, Tensor]:
    name = manifest.get("tensors")
    if not isinstance(name, str) or not _any_tensors(kind).fullmatch(name):
        raise StorageError(Code.CORRUPT_FILE, "The manifest names no file of this folder", got=repr(name))
    if not _sealed_by(manifest):
        raise damaged(folder, kind, "the manifest has been changed since it was written")
    path = folder / name
    try:
        payload = read_file(path, whole=True, follow=False)
    except StorageError:
        raise
    except (OSError, MemoryError) as problem:
        why = "are missing" if isinstance(problem, FileNotFoundError) else "cannot be read"
        raise StorageError(
            Code.CORRUPT_FILE, f"The tensors of this {kind} {why}", got=f"{path}: {problem}"
        ) from problem
    if hashlib.sha256(payload).hexdigest() != manifest.get("sha256"):
        raise StorageError(
            Code.CORRUPT_FILE,
            "The tensors are damaged or were exchanged",
            got=f"{path} with another digest than the manifest's",
        )
    try:
        return parse_tensors(payload)
    except (SafetensorError, *DATA_ERRORS) as problem:
        raise damaged(folder, kind, problem) from problem


# --- files that stand alone -----------------------------------------------------------------------


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Path:
    """Replace ``path`` by a safetensors file whose metadata has a digest of its own.

    Raises:
        StorageError: it cannot be written; a file that was there before is unchanged.
    """
    payload = _payload(tensors, {**metadata, "seal": _seal(metadata)}, "The file")
    with _coded("The file could not be written", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with alone(path.parent) as locked:
            killed = re.compile(rf"{re.escape(_prefix(path))}([a-z0-9_]{{8}}|[0-9]+){re.escape(PART)}")
            sweep(path.parent, killed, locked=locked)
            replace(path, payload)
            with suppress(OSError):
                settle(path.parent)
    return path


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file.

    Raises:
        StorageError: no such file, none that can be read, or one whose metadata was changed.
    """
    try:
        payload = read_file(path, whole=True)
        header = json.loads(payload[8 : 8 + int.from_bytes(payload[:8], "little")])
        tensors = parse_tensors(payload)
    except FileNotFoundError as problem:
        raise StorageError(
            Code.CORRUPT_FILE, "There is no such file", got=str(path), fix="Check the path"
        ) from problem
    except StorageError:
        raise
    except (OSError, SafetensorError, *DATA_ERRORS) as problem:
        raise StorageError(
            Code.CORRUPT_FILE, "The file cannot be read", got=f"{path}: {problem}"
        ) from problem
    metadata: dict[str, str] = header.get("__metadata__") or {}
    if not _sealed_by(metadata):
        raise StorageError(
            Code.CORRUPT_FILE, "The file's description has been changed since it was written", got=str(path)
        )
    return metadata, tensors


def replace(path: Path, content: bytes) -> None:
    """Write beside, flush to disk, then rename: the path holds the old content or the new, never half.

    Raises:
        OSError: it cannot be written, or is something other than a file.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EEXIST, "this is no file, and is not replaced by one")
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=_prefix(path), suffix=PART)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        shutil.copymode(path, temporary) if path.exists() else os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_file(path: Path, *, most: int | None = None, whole: bool = False, follow: bool = True) -> bytes:
    """The contents of a regular file; nothing that could block, or be without end, is opened.

    Args:
        path: of the file.
        most: bytes that it may hold; else what the machine's memory does.
        whole: it is a safetensors file, and must be as long as its header says before it is read.
        follow: whether it may be a symbolic link.

    Raises:
        OSError: it is missing or cannot be read.
        StorageError: no regular file, or a longer one.
    """
    found = path.stat() if follow else path.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise StorageError(
            Code.CORRUPT_FILE,
            "This is not a regular file",
            got=f"{path}: {_sort(found.st_mode)}",
            expected="a file with the contents themselves",
        )
    flags = os.O_RDONLY
    for name in ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY", *(() if follow else ("O_NOFOLLOW",))):
        flags |= getattr(os, name, 0)  # not every system has all of them
    with os.fdopen(os.open(path, flags), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        most = _memory() if most is None else most
        if size > most:
            raise StorageError(
                Code.CORRUPT_FILE,
                "The file is too large",
                got=f"{path} of {size} bytes",
                expected=f"at most {most}",
            )
        if whole:
            _check_length(path, file.read(8), file, size)
        file.seek(0)
        return file.read(size)


def _check_length(path: Path, start: bytes, file: Any, size: int) -> None:
    """Refuse a safetensors file that is longer or shorter than its header says."""
    length = int.from_bytes(start, "little")
    expected = None
    if len(start) == 8 and length <= min(size - 8, LONGEST_HEADER):
        with suppress(*DATA_ERRORS):
            header = json.loads(file.read(length))
            ends = [item["data_offsets"][1] for name, item in header.items() if name != "__metadata__"]
            expected = 8 + length + max(ends, default=0)
    if expected != size:
        raise StorageError(
            Code.CORRUPT_FILE,
            "The tensors are damaged",
            got=f"{path} of {size} bytes",
            expected="a safetensors file" if expected is None else f"{expected} bytes, as its header says",
        )


def _payload(tensors: Mapping[str, Tensor], metadata: dict[str, str], what: str) -> bytes:
    try:
        whole = {k: v.detach().cpu().contiguous().clone() for k, v in sorted(tensors.items())}
        return dump_tensors(whole, metadata=metadata)
    except (SafetensorError, *DATA_ERRORS) as problem:
        raise StorageError(
            Code.NOT_WRITTEN,
            f"{what} holds tensors that safetensors cannot store",
            got=f"{type(problem).__name__}: {problem}",
            expected="dense tensors of real numbers",
        ) from problem


def _memory() -> int:
    """Bytes of the machine's memory; more than any has where it does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 1 << 44


def _sort(mode: int) -> str:
    sorts = {
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
    }
    return sorts.get(stat.S_IFMT(mode), "a device")


def _prefix(path: Path) -> str:
    """What the names of files in the making for ``path`` begin with; short, as names have a longest."""
    return f".{path.name[:60]}."


@contextmanager
def _coded(what: str, where: Path) -> Generator[None]:
    """Errors of the system as ABE's."""
    try:
        yield
    except StorageError:
        raise
    except (OSError, ValueError) as problem:  # ValueError: a null byte in the path
        reason = getattr(problem, "strerror", None) or problem
        raise StorageError(
            Code.NOT_WRITTEN,
            what,
            got=f"{where}: {reason}",
            fix="Free space or choose another folder; what was there before is unchanged",
        ) from problem

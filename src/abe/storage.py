"""Files: replaced in one step by one writer at a time, and read only where they are what they seem.

What is saved in a folder has one JSON manifest and one safetensors file. The manifest ``<kind>.json`` names
the tensor file, its size and its digest, and has a digest of its own; replacing it is the commit. A file
that stands alone is safetensors with a JSON description. Nothing is ever unpickled.
"""

import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor

from abe.errors import Code, SpecError, StorageError
from abe.schema import MisfitError
from abe.writers import alone, left_of, replace, settle, sweep

FORMAT_VERSION = 1
DESCRIBED = {"format", "abe", "digest", "seal"}
"""What the description of a file that stands alone may have."""
LONGEST_MANIFEST = 1 << 28
AS_ITS_HEADER_SAYS = -1
"""The size of a safetensors file, where nothing else says it."""
LONGEST_HEADER = 100_000_000
"""Bytes that safetensors allows."""
DATA_ERRORS = (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError, MemoryError)
"""What contents that are not as they should be can raise while they are taken apart."""


# --- folders with a manifest ----------------------------------------------------------------------


Read = Callable[[dict[str, Any], dict[str, Tensor]], Any]
"""Makes of a manifest and its tensors what was saved, or refuses them by one of `DATA_ERRORS`."""


def save(
    folder: str | Path, kind: str, make: Callable[[], tuple[dict[str, Any], dict[str, Tensor]]], again: Read
) -> Path:
    """Write a manifest and tensors as ``kind``; one that stood there before survives a failure.

    Several writers of one folder, threads or processes, wait for each other; the last one stays.

    Args:
        folder: where.
        kind: what it is called.
        make: gives the manifest and the tensors.
        again: reads them; what it would refuse is not written.

    Raises:
        StorageError: the folder cannot be written, holds a manifest of something else, or the contents
            cannot be written down.
    """
    folder = as_path(folder)
    try:
        manifest, tensors = make()
        described = _as_read(manifest, kind)
        again(described, dict(tensors))
    except StorageError:
        raise
    except DATA_ERRORS as problem:
        raise StorageError(
            Code.NOT_WRITTEN,
            f"This {kind} could not be read again",
            got=_said(problem),
            fix="Correct that part of it before saving",
        ) from problem
    payload = _payload(tensors, {"format": _format(kind)}, f"The {kind}")
    digest = hashlib.sha256(payload).hexdigest()
    name = f"{kind}-{digest[:16]}.safetensors"
    head = {"format": _format(kind), "format_version": FORMAT_VERSION}
    tail = {"tensors": name, "bytes": len(payload), "sha256": digest}
    text = _sealed({**head, **described, **tail})
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


def load(folder: str | Path, kind: str, again: Read) -> Any:
    """What ``again`` makes of the manifest and the tensors that `save` wrote. Nothing is unpickled.

    Raises:
        StorageError: missing, damaged, or written by something else.
    """
    manifest, tensors = read(folder, kind)
    try:
        return again(manifest, tensors)
    except DATA_ERRORS as problem:
        raise _damaged(Path(folder), kind, _said(problem)) from problem


def read(folder: str | Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Manifest and tensors that `save` wrote, as they are.

    Beside a writer both are read again, with the writer waiting, where they do not fit each other.

    Raises:
        StorageError: missing, damaged, or written by something else.
    """
    folder = as_path(folder)
    manifest = _read_manifest(folder, kind)
    try:
        return manifest, _read_tensors(folder, manifest, kind)
    except StorageError:
        # Without a lock what the first manifest named is still there: only old files are removed then.
        with alone(folder, reading=True):
            manifest = _read_manifest(folder, kind)
            return manifest, _read_tensors(folder, manifest, kind)


def _damaged(folder: Path, kind: str, got: Any) -> StorageError:
    return StorageError(
        Code.CORRUPT_FILE,
        f"The saved {kind} is damaged",
        got=f"{folder}: {got}",
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


def _as_read(manifest: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The manifest as it comes out of JSON."""
    try:
        return json.loads(json.dumps(manifest, default=plain))
    except (TypeError, ValueError, RecursionError) as problem:
        raise StorageError(
            Code.NOT_WRITTEN,
            f"The {kind} holds something that JSON cannot say",
            got=str(problem),
            expected="text, numbers, lists and dictionaries",
            fix="Replace it by a text or a number before saving",
        ) from problem


def _sealed(manifest: Mapping[str, Any]) -> bytes:
    """A manifest as JSON, with the digest of everything else in it."""
    whole = {**manifest, "seal": _seal(manifest)}
    try:
        return json.dumps(whole, indent=2, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # a file name that is no text
        return json.dumps(whole, indent=2).encode()


def _said(problem: Exception) -> str:
    """A refusal's words; of an error that was not meant as one, its kind too."""
    return str(problem) if isinstance(problem, MisfitError) else repr(problem)


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


def without_gaps(data: Any) -> Any:
    """Numbers, texts, lists and mappings as JSON has them, which has no NaN: None stands for it.

    Args:
        data: of any depth; tuples become lists.
    """
    if isinstance(data, float) and not math.isfinite(data):
        return None
    if isinstance(data, Mapping):
        return {str(k): without_gaps(v) for k, v in data.items()}
    return [without_gaps(v) for v in data] if isinstance(data, list | tuple) else data


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


def _size(manifest: Mapping[str, Any], folder: Path, kind: str) -> int:
    """Bytes of the tensor file; earlier versions did not write them down."""
    size = manifest.get("bytes", AS_ITS_HEADER_SAYS)
    if "bytes" in manifest and (type(size) is not int or size < 0):
        raise _damaged(folder, kind, f"bytes is {size!r:.40}")
    return size


def _read_tensors(folder: Path, manifest: Mapping[str, Any], kind: str) -> dict[str, Tensor]:
    name = manifest.get("tensors")
    if not isinstance(name, str) or not _any_tensors(kind).fullmatch(name):
        raise StorageError(Code.CORRUPT_FILE, "The manifest names no file of this folder", got=repr(name))
    if not _sealed_by(manifest):
        raise _damaged(folder, kind, "the manifest has been changed since it was written")
    path = folder / name
    try:
        payload = read_file(path, size=_size(manifest, folder, kind), follow=False)
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
        raise _damaged(folder, kind, problem) from problem


# --- files that stand alone -----------------------------------------------------------------------


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Path:
    """Replace ``path`` by a safetensors file whose metadata has a digest of its own.

    Raises:
        StorageError: it cannot be written; a file that was there before is unchanged.
    """
    payload = _payload(tensors, {**metadata, "seal": _seal(metadata)}, "The file")
    return write(path, payload)


def write(path: Path, content: bytes) -> Path:
    """Replace a file that stands alone, in a folder that is made where there is none.

    Raises:
        StorageError: it cannot be written; a file that was there before is unchanged.
    """
    with _coded("The file could not be written", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with alone(path.parent) as locked:
            sweep(path.parent, left_of(path), locked=locked)
            replace(path, content)
            with suppress(OSError):
                settle(path.parent)
    return path


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file, by name in order.

    Raises:
        StorageError: no such file, none that can be read, or one whose metadata was changed.
    """
    try:
        payload = read_file(path, size=AS_ITS_HEADER_SAYS)
        header = json.loads(payload[8 : 8 + int.from_bytes(payload[:8], "little")])
        tensors = dict(sorted(parse_tensors(payload).items()))
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
    ours = str(metadata.get("format", "")).startswith("abe-")
    if not _sealed_by(metadata) or (ours and set(metadata) - DESCRIBED):  # a key that is damaged is no key
        raise StorageError(
            Code.CORRUPT_FILE, "The file's description has been changed since it was written", got=str(path)
        )
    return metadata, tensors


def as_path(given: Any) -> Path:
    """A path from text or something that stands for one.

    Raises:
        SpecError: it is something else.
    """
    if isinstance(given, str | os.PathLike) and isinstance(os.fspath(given), str):
        return Path(given)
    kind = type(given).__name__
    raise SpecError(Code.BAD_PARAMETER, "This is no path", got=kind, expected="text or a pathlib.Path")


def read_file(path: Path, *, most: int | None = None, size: int | None = None, follow: bool = True) -> bytes:
    """The contents of a regular file; nothing that could block, or be without end, is opened.

    Args:
        path: of the file.
        most: bytes that it may hold; else what the machine's memory does.
        size: bytes that it must hold, or `AS_ITS_HEADER_SAYS`.
        follow: whether it may be a symbolic link.

    Raises:
        OSError: it is missing or cannot be read.
        StorageError: no regular file, or one of another length.
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
    with open(os.open(path, flags), "rb") as file:
        there = os.fstat(file.fileno()).st_size
        most = _memory() if most is None else most
        if there > most:
            raise StorageError(
                Code.CORRUPT_FILE,
                "The file is too large",
                got=f"{path} of {there} bytes",
                expected=f"at most {most}",
            )
        expected = _promised(file, there) if size == AS_ITS_HEADER_SAYS else size
        if expected not in (None, there):
            raise StorageError(
                Code.CORRUPT_FILE,
                "The tensors are damaged",
                got=f"{path} of {there} bytes",
                expected="a safetensors file" if expected < 0 else f"{expected} bytes",
            )
        file.seek(0)
        return file.read(there)


def _promised(file: BinaryIO, there: int) -> int:
    """Bytes that a safetensors file has by its header; less than none where that cannot be read."""
    start = file.read(8)
    length = int.from_bytes(start, "little")
    with suppress(*DATA_ERRORS):
        if len(start) == 8 and length <= min(there - 8, LONGEST_HEADER):
            header = json.loads(file.read(length))
            ends = [item["data_offsets"][1] for name, item in header.items() if name != "__metadata__"]
            return 8 + length + int(max(ends, default=0))
    return -1


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

"""Folders with one JSON manifest and one safetensors file: written whole or not at all, read with digests.

The manifest ``<kind>.json`` names the tensor file and its digest; replacing the manifest is the commit.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor

from abe.errors import Code, StorageError

FORMAT_VERSION = 1


def save(folder: str | Path, kind: str, manifest: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Path:
    """Write ``manifest`` and ``tensors`` as ``kind``; one that stood there before survives a failure.

    Raises:
        StorageError: the folder cannot be written, or holds a manifest of something else.
    """
    folder = Path(folder)
    whole = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    payload = dump_tensors(whole, metadata={"format": _format(kind)})
    digest = hashlib.sha256(payload).hexdigest()
    name = f"{kind}-{digest[:16]}.safetensors"
    head = {"format": _format(kind), "format_version": FORMAT_VERSION}
    text = json.dumps({**head, **manifest, "tensors": name, "sha256": digest}, indent=2, ensure_ascii=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        old = _tensor_file(folder, kind)
        replace(folder / name, payload)
        try:
            replace(folder / _manifest(kind), text.encode())
        except BaseException:
            if old != name:
                (folder / name).unlink(missing_ok=True)
            raise
    except StorageError:
        raise
    except OSError as problem:
        raise StorageError(
            Code.NOT_WRITTEN,
            f"The {kind} could not be written",
            got=f"{folder}: {problem.strerror or problem}",
            fix="Free space or choose another folder; what was there before is unchanged",
        ) from problem
    if old is not None and old != name:
        with suppress(OSError):  # the new one is complete; a file too many does no harm
            (folder / old).unlink()
    return folder


def load(folder: str | Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Manifest and tensors that `save` wrote. Nothing is unpickled.

    Raises:
        StorageError: missing, damaged, or written by something else.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder, kind)
    payload = _read_tensors(folder, manifest, kind)
    try:
        return manifest, parse_tensors(payload)
    except (SafetensorError, ValueError) as problem:
        raise damaged(folder, kind, problem) from problem


def damaged(folder: str | Path, kind: str, problem: Exception) -> StorageError:
    """The error for contents that cannot be understood."""
    return StorageError(
        Code.CORRUPT_FILE,
        f"The saved {kind} is damaged",
        got=f"{folder}: {problem!r}",
        fix="Make it again, or restore the folder from a copy",
    )


def replace(path: Path, content: bytes) -> None:
    """Write beside, flush to disk, then rename: the path holds the old content or the new, never half."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
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


def _format(kind: str) -> str:
    return f"abe-{kind}"


def _manifest(kind: str) -> str:
    return f"{kind}.json"


def _ours(name: Any, kind: str) -> bool:
    """Whether a manifest may name this file, so that no other file is ever read or removed."""
    return isinstance(name, str) and re.fullmatch(rf"{kind}-[0-9a-f]{{16}}\.safetensors", name) is not None


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
    return manifest["tensors"] if _ours(manifest.get("tensors"), kind) else None


def _read_manifest(folder: Path, kind: str) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / _manifest(kind)).read_text(encoding="utf-8"))
    except FileNotFoundError as problem:
        raise StorageError(
            Code.FOREIGN_FILE,
            f"There is no saved {kind} here",
            got=str(folder),
            expected=f"a folder with {_manifest(kind)}, as written by {kind}.save(folder)",
        ) from problem
    except (OSError, ValueError, RecursionError) as problem:
        raise StorageError(
            Code.CORRUPT_FILE, "The manifest cannot be read", got=f"{folder / _manifest(kind)}: {problem}"
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
    if manifest.get("format_version") != FORMAT_VERSION:
        raise StorageError(
            Code.FOREIGN_FILE,
            "This was written by another version of ABE",
            got=f"format version {manifest.get('format_version')}",
            expected=str(FORMAT_VERSION),
            fix="Read it with that version",
        )
    return manifest


def _read_tensors(folder: Path, manifest: Mapping[str, Any], kind: str) -> bytes:
    name = manifest.get("tensors")
    if not _ours(name, kind):
        raise StorageError(Code.CORRUPT_FILE, "The manifest names no file of this folder", got=repr(name))
    try:
        payload = (folder / str(name)).read_bytes()
    except OSError as problem:
        raise StorageError(
            Code.CORRUPT_FILE, f"The tensors of this {kind} are missing", got=str(folder / str(name))
        ) from problem
    if hashlib.sha256(payload).hexdigest() != manifest.get("sha256"):
        raise StorageError(
            Code.CORRUPT_FILE,
            "The tensors are damaged or were exchanged",
            got=f"{folder / str(name)} with another digest than the manifest's",
        )
    return payload

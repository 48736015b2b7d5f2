"""Learnt tensors as values, and the one file format they are kept in: safetensors with a JSON description.

A value whose fields hold `Weights` is saved by `save` and restored by `load`; only registered values
are made, nothing is unpickled, and contents are checked against their digest.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as dump
from torch import Tensor

from abe.draws import mix
from abe.errors import AbeError, Code, InputError, StorageError
from abe.spec import _VALUES, from_spec, to_spec
from abe.types import Fitted

FORMAT = "abe-fitted-1"


@dataclass(frozen=True, eq=False)
class Weights:
    """Named tensors as one value: equal where their contents are, and described by a hash.

    Attributes:
        tensors: by name.
        digest: of names, types, shapes and contents.
    """

    tensors: Mapping[str, Tensor]
    digest: int = field(init=False)

    def __post_init__(self) -> None:
        kept = {k: self.tensors[k].detach().cpu().contiguous().clone() for k in sorted(self.tensors)}
        object.__setattr__(self, "tensors", kept)
        object.__setattr__(self, "digest", digest(kept))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Weights) and other.digest == self.digest

    def __hash__(self) -> int:
        return self.digest

    def __repr__(self) -> str:
        return f"Weights({len(self.tensors)} tensors, sha={self.digest:016x})"

    def __spec__(self) -> dict[str, str]:
        return {"opaque": repr(self)}

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]


def digest(tensors: Mapping[str, Tensor]) -> int:
    """A number that depends on names, types, shapes and contents."""
    parts: list[str] = []
    for name, tensor in tensors.items():
        content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
        parts += [name, str(tensor.dtype), str(tuple(tensor.shape)), hashlib.blake2b(content).hexdigest()]
    return mix(*parts)


def save(value: Any, path: str | Path) -> Path:
    """Write a registered value with its `Weights`.

    Raises:
        StorageError: it cannot be written; a file that was there before is unchanged.
    """
    tensors: dict[str, Tensor] = {}
    spec: dict[str, Any] = {"type": type(value).__name__}
    for one in fields(value):
        held = getattr(value, one.name)
        if isinstance(held, Weights):
            tensors |= {f"{one.name}/{k}": v for k, v in held.tensors.items()}
        else:
            spec[one.name] = to_spec(held)
    return write(Path(path), tensors, {"value": spec})


def load(path: str | Path) -> Any:
    """Read what `save` wrote.

    Raises:
        StorageError: no such file, damaged, or written by something else.
    """
    described, tensors = read(Path(path))
    spec = described.get("value")
    if not isinstance(spec, Mapping):
        raise StorageError(
            Code.FOREIGN_FILE,
            "The file holds an unfinished training, not what came out of it",
            got=str(path),
            fix="Finish it with abe.fit(…, checkpoint=…) and the same data",
        )
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        group, _, rest = name.partition("/")
        groups.setdefault(group, {})[rest] = tensor
    try:
        held = {k: from_spec(v) for k, v in spec.items() if k != "type"}
        return _class_of(spec["type"])(**held, **{k: Weights(v) for k, v in groups.items()})
    except (AbeError, KeyError, TypeError, ValueError) as problem:
        raise StorageError(Code.CORRUPT_FILE, "The file is damaged", got=f"{path}: {problem}") from problem


def write(path: Path, tensors: Mapping[str, Tensor], described: Mapping[str, Any]) -> Path:
    """Replace ``path`` in one step."""
    kept = {k: v.detach().cpu().contiguous().clone() for k, v in sorted(tensors.items())}
    metadata = {"format": FORMAT, "abe": json.dumps(described), "digest": f"{digest(kept):016x}"}
    spare = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        spare.write_bytes(dump(kept, metadata=metadata))
        os.replace(spare, path)
    except OSError as problem:
        with suppress(OSError):
            spare.unlink()
        raise StorageError(
            Code.NOT_WRITTEN, "The file could not be written", got=f"{path}: {problem.strerror or problem}"
        ) from problem
    return path


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Description and tensors of a file, checked."""
    if not path.is_file():
        raise StorageError(Code.CORRUPT_FILE, "There is no such file", got=str(path), fix="Check the path")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
    except (SafetensorError, OSError) as problem:
        raise StorageError(
            Code.CORRUPT_FILE, "The file cannot be read", got=f"{path}: {problem}"
        ) from problem
    if metadata.get("format") != FORMAT:
        raise StorageError(
            Code.FOREIGN_FILE,
            "The file holds nothing that ABE has learnt",
            got=str(path),
            fix="Give a file written by save() or as checkpoint= of abe.fit",
        )
    if metadata.get("digest") != f"{digest(tensors):016x}":
        raise StorageError(Code.CORRUPT_FILE, "The file's contents do not fit its digest", got=str(path))
    return json.loads(metadata["abe"]), tensors


def as_fitted(obj: Any, method: str) -> Any:
    """A fitted value of ``method`` from itself or from the path of its file.

    Raises:
        InputError: it was fitted for another method, or is nothing fitted.
        StorageError: the file cannot be read.
    """
    found = load(obj) if isinstance(obj, str | Path) else obj
    if getattr(found, "method", None) == method:
        return found
    raise InputError(
        Code.FITTED,
        f"This was not fitted for {method}",
        got=f"{type(found).__name__}" + (f" for {found.method}" if isinstance(found, Fitted) else ""),
        fix=f'Make it with abe.fit(task, loader, "{method}")',
    )


def check_shape(what: str, fitted: tuple[int, ...], found: tuple[int, ...]) -> None:
    """Refuse something fitted on another shape.

    Raises:
        InputError: the shapes differ.
    """
    if fitted != found:
        raise InputError(
            Code.FITTED,
            f"{what} was fitted on another shape",
            got=str(found),
            expected=str(fitted),
            fix="Fit it on data like that explained",
        )


def _class_of(name: str) -> type:
    if name not in _VALUES:
        raise KeyError(f"no value is called {name!r}; import the package that defines it first")
    return _VALUES[name]

"""Learnt tensors as values, and the one file format they are kept in: safetensors with a JSON description.

A value whose fields hold `Weights` is saved by `save` and restored by `load`; only registered values with
such a field are made, nothing is unpickled, and contents are checked against their digests and the types of
the value's fields.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch
from torch import Tensor

from abe import schema, storage
from abe.checks import finite
from abe.draws import mix
from abe.errors import Code, InputError, StorageError
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
    return write(storage.as_path(path), tensors, {"value": spec})


def load(path: str | Path) -> Any:
    """Read what `save` wrote.

    Raises:
        StorageError: no such file, damaged, or written by something else.
    """
    described, tensors = read(storage.as_path(path))
    spec = described.get("value")
    if not isinstance(spec, Mapping):
        raise StorageError(
            Code.FOREIGN_FILE,
            "The file holds an unfinished training, not what came out of it",
            got=str(path),
            fix="Finish it with abe.fit(…, checkpoint=…) and the same data",
        )
    try:
        return _made(spec, tensors)
    except Exception as problem:  # whatever the class of a third party says to what it is given
        raise StorageError(Code.CORRUPT_FILE, "The file is damaged", got=f"{path}: {problem}") from problem


def write(
    path: Path, tensors: Mapping[str, Tensor], described: Mapping[str, Any], form: str = FORMAT
) -> Path:
    """Replace ``path`` in one step.

    Raises:
        StorageError: it cannot be written; a file that was there before is unchanged.
    """
    kept = {k: v.detach().cpu().contiguous() for k, v in sorted(tensors.items())}
    metadata = {
        "format": form,
        "abe": json.dumps(described, default=storage.plain),
        "digest": f"{digest(kept):016x}",
    }
    return storage.write_tensors(path, kept, metadata)


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Description and tensors of a file, checked.

    Raises:
        StorageError: no such file, damaged, or written by something else.
    """
    metadata, tensors = storage.read_tensors(path)
    if metadata.get("format") != FORMAT:
        raise StorageError(
            Code.FOREIGN_FILE,
            "The file holds nothing that ABE has learnt",
            got=str(path),
            fix="Give a file written by save() or as checkpoint= of abe.fit",
        )
    return described(path, metadata, tensors), tensors


def described(
    path: Path, metadata: Mapping[str, str], tensors: Mapping[str, Tensor], *, digested: bool = True
) -> dict[str, Any]:
    """The description in a file's metadata, once the tensors were found to be those that were written.

    Args:
        path: of the file.
        metadata: of the file.
        tensors: of the file.
        digested: whether it has a digest.

    Raises:
        StorageError: other tensors, or no description.
    """
    if digested and metadata.get("digest") != f"{digest(tensors):016x}":
        raise StorageError(Code.CORRUPT_FILE, "The file's contents do not fit its digest", got=str(path))
    try:
        return schema.read(dict[str, Any], json.loads(metadata.get("abe", "")), "the description")
    except (ValueError, RecursionError) as problem:
        raise StorageError(
            Code.CORRUPT_FILE, "The file's description cannot be read", got=f"{path}: {problem}"
        ) from problem


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


def _made(spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    """The value of a description; only its own fields, each of its own type."""
    cls = _class_of(spec.get("type"))
    kinds = get_type_hints(cls, include_extras=True)
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in sorted(tensors.items()):
        group, _, rest = name.partition("/")
        schema.need(_holds_weights(kinds.get(group)) and rest != "", f"{name!r} is no tensor of it")
        schema.need(not tensor.is_complex(), f"{name} is complex")
        schema.need(not tensor.is_floating_point() or finite(tensor), f"{name} holds NaN or infinity")
        groups.setdefault(group, {})[rest] = tensor
    held: dict[str, Any] = {name: Weights(group) for name, group in groups.items()}
    for name, given in spec.items():
        if name != "type":
            schema.need(name in kinds and name not in held, f"{name!r} is no field of a {cls.__name__}")
            known = schema.knows(kinds[name])
            held[name] = schema.read(kinds[name], given, name) if known else from_spec(given)
    for one in fields(cls):
        optional = one.default is not MISSING or one.default_factory is not MISSING
        schema.need(optional or one.name in held, f"{one.name} is missing")
    return cls(**held)


def _class_of(name: Any) -> Any:
    """The registered class of that name, if it is one that holds learnt tensors."""
    found = _VALUES.get(name) if isinstance(name, str) else None
    if found is None:
        raise schema.MisfitError(f"no value is called {name!r:.60}; import the package that defines it first")
    kinds = get_type_hints(found, include_extras=True).values()
    schema.need(any(map(_holds_weights, kinds)), f"a {name} is nothing that is learnt")
    return found


def _holds_weights(kind: Any) -> bool:
    return kind is Weights or Weights in get_args(kind)

"""Forged and damaged files: every field of a description and every tensor, dropped, retyped or strange."""

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from abe.errors import AbeError, StorageError

STRANGE = (
    *(None, True, -1, 0, 7, 10**18, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "text", "\ud800", "x" * 10_000, [], {}, [[]], [None], ["a", "b"], {"a": 1}, {"type": "AdvGAN"}),
)
"""What stands in the place of a field."""
SECONDS = 5.0
"""More than any single file may take to be refused."""


def places(described: Any, inside: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value; of a list and of dictionaries that are alike, the first."""
    steps: list[Any] = []
    if isinstance(described, dict):
        alike = inside and len(described) > 1 and all(isinstance(v, dict) for v in described.values())
        steps = list(described)[: 1 if alike else None]
    elif isinstance(described, list) and described:
        steps = [0]
    for step in steps:
        yield (*inside, step)
        yield from places(described[step], (*inside, step))


def descriptions(described: Mapping[str, Any], each: int = 3) -> Iterator[tuple[str, dict[str, Any]]]:
    """The description with one place dropped, doubled, or of another value.

    Args:
        described: of a good file.
        each: values tried in every place, others in the next one; 0 for all.
    """
    turn = cycle(STRANGE)
    for place in places(dict(described)):
        strange = islice(turn, each) if each else STRANGE
        for change in (_dropped, _doubled, *(_put(value) for value in strange)):
            forged = copy.deepcopy(dict(described))
            holder: Any = forged
            for step in place[:-1]:
                holder = holder[step]
            said = change(holder, place[-1])
            if said:
                yield f"{'.'.join(map(str, place))} {said}", forged


def tensors(held: Mapping[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The tensors with one dropped, added, renamed, or of another shape, type or content."""
    yield "none", {}
    yield "one more", {**held, "stranger": torch.zeros(1)}
    yield "one more below", {**held, f"{next(iter(held))}/stranger": torch.zeros(1)}
    for name, tensor in held.items():
        rest = {k: v for k, v in held.items() if k != name}
        yield f"{name} dropped", rest
        yield f"{name} renamed", {**rest, name + "x": tensor}
        for said, change in CHANGES.items():
            yield f"{name} {said}", {**rest, name: change(tensor)}


def _filled(number: float) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        made = tensor.clone() if tensor.is_floating_point() else tensor.double()
        return made.fill_(number)

    return change


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "flat": lambda t: t.reshape(-1),
    "one axis more": lambda t: t[None],
    "empty": lambda t: t.reshape(-1)[:0],
    "of nothing": lambda t: torch.zeros(0, *t.shape[1:], dtype=t.dtype),
    "a number": lambda t: t.reshape(-1)[0] if t.numel() else torch.zeros(()),
    "shorter": lambda t: t[:-1] if t.ndim else t[None],
    "longer": lambda t: torch.cat([t, t]) if t.ndim else t[None],
    "turned": lambda t: t.transpose(0, -1).contiguous() if t.ndim > 1 else t[None],
    "integers": lambda t: t.nan_to_num(0, 0, 0).to(torch.int32) if t.is_floating_point() else t.float(),
    "negative": lambda t: -t.to(torch.float64).abs() - 5 if t.dtype == torch.bool else -t.abs() - 5,
    "booleans": lambda t: t.bool(),
    "complex": lambda t: t.to(torch.complex64),
    "half": lambda t: t.to(torch.bfloat16),
    "NaN": _filled(float("nan")),
    "infinite": _filled(float("inf")),
    "huge": _filled(1e30),
}


def damages(content: bytes, *, count: int = 40) -> Iterator[tuple[str, bytes]]:
    """The bytes cut at many places, and with bits turned at many."""
    for part in range(count):
        end = len(content) * part // count
        yield f"cut to {end}", content[:end]
    drawn = torch.randint(len(content), (count,), generator=torch.Generator().manual_seed(1)).tolist()
    for at in [*range(16), *drawn, len(content) - 1]:
        yield f"bit turned at {at}", content[:at] + bytes([content[at] ^ (1 << (at % 8))]) + content[at + 1 :]
    yield "longer", content + b"\0" * 16
    yield "doubled", content + content


def outcome(load: Callable[[], Any], use: Callable[[Any], object], said: str) -> bool:
    """Whether a file was read; reading and using it ends in a coded error at worst, and soon."""
    began = time.monotonic()
    try:
        found = load()
    except StorageError:
        return False
    finally:
        assert time.monotonic() - began < SECONDS, said
    try:
        use(found)
    except AbeError:
        pass
    except Exception as problem:
        raise AssertionError(f"{said}: read, and then {type(problem).__name__}: {problem}") from problem
    return True


def rewritten(path: Path, content: bytes) -> Path:
    """The file with other contents."""
    path.write_bytes(content)
    return path


def _dropped(holder: Any, step: Any) -> str:
    del holder[step]
    return "dropped"


def _doubled(holder: Any, step: Any) -> str:
    if not isinstance(holder[step], list | str) or not holder[step]:
        return ""
    holder[step] = holder[step] + holder[step]
    return "doubled"


def _put(value: Any) -> Callable[[Any, Any], str]:
    def change(holder: Any, step: Any) -> str:
        if type(holder[step]) is type(value) and holder[step] == value:
            return ""
        holder[step] = value
        return f"= {str(value)[:20].encode('ascii', 'replace').decode()} ({type(value).__name__})"

    return change

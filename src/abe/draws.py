"""All randomness: one generator per (seed, sample, purpose, draw), so rows never share a stream."""

import hashlib
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, overload

import numpy as np
import torch
from torch import Tensor

from abe.checks import plain, shown
from abe.errors import Code, InputError, SpecError
from abe.spec import value
from abe.types import Draws, Key


@value
class SeededDraws:
    """Draws that depend on the seed, the sample's identity, the purpose and the draw number only.

    The numbers are made on the CPU, so that they are the same on every device.

    Args:
        seed: any integer.
    """

    seed: int = 0

    def normal(self, purpose: str, keys: Sequence[Key], shape: Sequence[int]) -> Tensor:
        """(len(keys), *shape) standard normal, float32."""
        out = torch.empty((len(keys), *shape))
        for row, generator in zip(out, self._generators(purpose, keys), strict=True):
            row.normal_(generator=generator)
        return out

    def uniform(self, purpose: str, keys: Sequence[Key], shape: Sequence[int]) -> Tensor:
        """(len(keys), *shape) uniform on [0, 1), float32."""
        out = torch.empty((len(keys), *shape))
        for row, generator in zip(out, self._generators(purpose, keys), strict=True):
            row.uniform_(generator=generator)
        return out

    def integers(self, purpose: str, keys: Sequence[Key], high: int, shape: Sequence[int]) -> Tensor:
        """(len(keys), *shape) integers 0 … high − 1."""
        rows = [torch.randint(high, tuple(shape), generator=g) for g in self._generators(purpose, keys)]
        return torch.stack(rows) if rows else torch.empty((0, *shape), dtype=torch.long)

    def permutation(self, purpose: str, keys: Sequence[Key], size: int) -> Tensor:
        """(len(keys), size) random orders."""
        rows = [torch.randperm(size, generator=g) for g in self._generators(purpose, keys)]
        return torch.stack(rows) if rows else torch.empty((0, size), dtype=torch.long)

    def _generators(self, purpose: str, keys: Sequence[Key]) -> Iterator[torch.Generator]:
        """One generator, set anew for every key: making generators and hashing the purpose takes time."""
        generator, start = torch.Generator(), _digest(self.seed, purpose)
        for key in keys:
            yield generator.manual_seed(_number(_digest(*key, after=start)))


class GivenDraws:
    """Draws that somebody handed in: what they answer is checked, and what was asked of them is known.

    Args:
        source: where the numbers come from.
    """

    def __init__(self, source: Draws) -> None:
        self._source = source
        self._asked: dict[str, set[Key]] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GivenDraws) and self._source is other._source

    def __hash__(self) -> int:
        return id(self._source)

    def __repr__(self) -> str:
        return f"GivenDraws({self._source!r})"

    def normal(self, purpose: str, keys: Sequence[Key], shape: Sequence[int]) -> Tensor:
        """(len(keys), *shape) from the source."""
        return self._checked(purpose, keys, shape, self._source.normal(purpose, keys, shape))

    def uniform(self, purpose: str, keys: Sequence[Key], shape: Sequence[int]) -> Tensor:
        """(len(keys), *shape) from the source."""
        return self._checked(purpose, keys, shape, self._source.uniform(purpose, keys, shape))

    def integers(self, purpose: str, keys: Sequence[Key], high: int, shape: Sequence[int]) -> Tensor:
        """(len(keys), *shape) from the source."""
        return self._checked(purpose, keys, shape, self._source.integers(purpose, keys, high, shape))

    def permutation(self, purpose: str, keys: Sequence[Key], size: int) -> Tensor:
        """(len(keys), size) from the source."""
        return self._checked(purpose, keys, (size,), self._source.permutation(purpose, keys, size))

    def check_used(self, what: str = "") -> None:
        """Refuse recorded draws that nobody asked for, of samples for which draws were asked.

        Args:
            what: whose draws they are.

        Raises:
            InputError: there are some; a source that does not tell what is ``left`` has none.
        """
        samples = {key[0] for keys in self._asked.values() for key in keys}
        left: list[tuple[str, Key]] = list(getattr(self._source, "left", []))
        spare = [(purpose, key) for purpose, key in left if not samples or key[0] in samples]
        if not spare:
            return
        purpose, (sample, number) = spare[0]
        asked = ", ".join(f"{name!r} ({len(keys)} draws)" for name, keys in sorted(self._asked.items()))
        raise InputError(
            Code.DRAW,
            f"Recorded draws{what and f' of {what!r}'} were not asked for",
            got=f"{len(spare)} left, the first for {purpose!r}, sample id {sample}, draw {number}",
            expected=asked or "no draws: nothing is random here",
            fix="Leave them out, or record them under the purpose, id and number that are asked for",
        )

    def _checked(self, purpose: str, keys: Sequence[Key], shape: Sequence[int], rows: Any) -> Tensor:
        expected = (len(keys), *shape)
        if not isinstance(rows, Tensor) or tuple(rows.shape) != expected:
            raise InputError(
                Code.DRAW,
                f"The draws for {purpose!r} have another shape",
                got=str(tuple(rows.shape)) if isinstance(rows, Tensor) else type(rows).__name__,
                expected=f"a tensor {expected}",
            )
        self._asked.setdefault(purpose, set()).update(keys)
        return rows


@dataclass(frozen=True)
class _Source:
    """A source of draws, or a mapping of them where that makes sense.

    Args:
        by_name: whether there may be one by name.
    """

    by_name: bool = False

    def check(self, name: str, given: Any) -> Any:
        """What was given, or a refusal."""
        whole = isinstance(given, Draws) and not isinstance(given, type)
        if given is None or whole or (self.by_name and isinstance(given, Mapping)):
            return given
        raise SpecError(
            Code.BAD_PARAMETER,
            f"{name}= is a source of random numbers",
            got=shown(given),
            expected="an abe.testing.ReplayedDraws, or what has normal, uniform, integers and permutation",
        )


Source = Annotated[Draws | None, _Source()]
Sources = Annotated[Draws | Mapping[Any, Any] | None, _Source(by_name=True)]
"""One source for all, or one by the name of a method or metric."""


def as_draws(given: Any, seed: int) -> Draws:
    """The source of randomness that was handed in, or that of the seed where there is none.

    Raises:
        SpecError: it is no source of draws.
    """
    if given is None:
        return SeededDraws(seed=seed)
    _Source().check("draws", given)
    return given if isinstance(given, SeededDraws | GivenDraws) else GivenDraws(given)


def mix(*parts: int | str) -> int:
    """A 63-bit number that depends on every part and on their order."""
    return _number(_digest(*parts))


def _digest(*parts: int | str, after: hashlib.blake2b | None = None) -> hashlib.blake2b:
    digest = hashlib.blake2b(digest_size=8) if after is None else after.copy()
    for part in parts:
        text = part.encode() if isinstance(part, str) else struct.pack("<q", _signed(part))
        digest.update(struct.pack("<q", len(text)) + text)
    return digest


def _number(digest: hashlib.blake2b) -> int:
    return int.from_bytes(digest.digest(), "little") >> 1


def sample_ids(x: Tensor, seen: dict[int, int] | None = None) -> list[int]:
    """(b,) identities from each row's content; equal rows are told apart by their occurrence.

    Args:
        x: the samples.
        seen: occurrences in earlier batches of one data set, which are counted on.
    """
    seen = {} if seen is None else seen
    ids: list[int] = []
    for row in x.detach().cpu():
        content = hashlib.blake2b(row.contiguous().flatten().view(torch.uint8).numpy().data, digest_size=8)
        base = int.from_bytes(content.digest(), "little") >> 1
        occurrence = seen.get(base, 0)
        seen[base] = occurrence + 1
        ids.append(mix(base, occurrence))
    return ids


def as_ids(ids: Sequence[int | str] | None, x: Tensor) -> list[int]:
    """Given identities as integers, or the content's where none are given.

    Raises:
        InputError: not one identity per sample.
    """
    check_ids(ids, len(x))
    if ids is None:
        return sample_ids(x)
    return [mix(str(i)) if isinstance(i, str) else int(i) for i in ids]


def check_ids(ids: Any, n: int) -> None:
    """Refuse identities that are not one integer or text per sample."""
    if ids is None or (isinstance(ids, Ids) and len(ids) == n):
        return
    kinds = isinstance(ids, Sequence | np.ndarray | Tensor) and not isinstance(ids, str | bytes)
    each = [plain(one) for one in ids] if kinds and getattr(ids, "ndim", 1) == 1 else None
    if each is None or any(isinstance(one, bool) or not isinstance(one, int | str) for one in each):
        raise InputError(
            Code.IDS, "ids= are integers or texts", got=shown(ids), expected=f"a list of {n}, one per sample"
        )
    if len(each) != n:
        raise InputError(Code.IDS, "Give one id per sample", got=f"{len(each)} ids", expected=f"{n}")


class Ids(Sequence[int]):
    """Identities that are found when somebody asks: hashing photographs takes time.

    Args:
        find: gives them.
        n: how many there are.
    """

    def __init__(self, find: Callable[[], Sequence[int]], n: int) -> None:
        self._find, self._n = find, n

    @cached_property
    def _found(self) -> list[int]:
        return list(self._find())

    def __len__(self) -> int:
        return self._n

    @overload
    def __getitem__(self, index: int) -> int: ...

    @overload
    def __getitem__(self, index: slice) -> list[int]: ...

    def __getitem__(self, index: int | slice) -> int | list[int]:
        return self._found[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._found == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self._found)

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (self._found,)


def _signed(number: int) -> int:
    return (int(number) + 2**63) % 2**64 - 2**63

"""Recording and replaying of draws, so that a random method can be compared number by number."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from abe.draws import SeededDraws
from abe.errors import Code, InputError
from abe.types import Draws, Key

Record = Mapping[Key, Any]


class ReplayedDraws:
    """Draws that were recorded earlier, by purpose and (sample id, draw number).

    Args:
        recorded: per purpose, the array of each key; numbers, NumPy arrays or tensors.

    Attributes:
        used: (purpose, key) of everything asked for so far.

    Example:
        >>> draws = ReplayedDraws({"smooth.noise": {(7, 0): [0.5, -1.0]}})
        >>> draws.normal("smooth.noise", [(7, 0)], (2,)).tolist()
        [[0.5, -1.0]]
        >>> draws.left
        []
    """

    def __init__(self, recorded: Mapping[str, Record]) -> None:
        self._recorded = {p: {_key(k): _tensor(v) for k, v in r.items()} for p, r in recorded.items()}
        self.used: set[tuple[str, Key]] = set()

    @classmethod
    def of(cls, ids: Sequence[int], **arrays: Any) -> "ReplayedDraws":
        """From arrays (b, n, …), draw k of sample i at [i, k]; ``__`` in a name stands for a dot."""
        recorded: dict[str, dict[Key, Any]] = {}
        for name, array in arrays.items():
            rows = {
                (i, k): draw for i, sample in zip(ids, array, strict=True) for k, draw in enumerate(sample)
            }
            recorded[name.replace("__", ".")] = rows
        return cls(recorded)

    @property
    def left(self) -> list[tuple[str, Key]]:
        """What was recorded and has not been asked for."""
        every = [(purpose, key) for purpose, record in self._recorded.items() for key in record]
        return [entry for entry in every if entry not in self.used]

    def normal(self, purpose: str, keys: Sequence[Key], shape: Sequence[int]) -> Tensor:
        """(len(keys), *shape) as recorded."""
        return self._rows(purpose, keys, shape)

    def uniform(self, purpose: str, keys: Sequence[Key], shape: Sequence[int]) -> Tensor:
        """(len(keys), *shape) as recorded."""
        return self._rows(purpose, keys, shape)

    def integers(self, purpose: str, keys: Sequence[Key], high: int, shape: Sequence[int]) -> Tensor:
        """(len(keys), *shape) as recorded, checked to be 0 … high − 1."""
        rows = self._rows(purpose, keys, shape).long()
        if rows.numel() and not (int(rows.min()) >= 0 and int(rows.max()) < high):
            raise InputError(
                Code.DRAW,
                f"A recorded draw for {purpose!r} is out of range",
                got=f"{int(rows.min())} to {int(rows.max())}",
                expected=f"0 to {high - 1}",
            )
        return rows

    def permutation(self, purpose: str, keys: Sequence[Key], size: int) -> Tensor:
        """(len(keys), size) as recorded, checked to be orders."""
        rows = self._rows(purpose, keys, (size,)).long()
        if not torch.equal(rows.sort(dim=1).values, torch.arange(size).expand_as(rows)):
            raise InputError(Code.DRAW, f"A recorded draw for {purpose!r} is not an order of 0 to {size - 1}")
        return rows

    def _rows(self, purpose: str, keys: Sequence[Key], shape: Sequence[int]) -> Tensor:
        rows = [self._row(purpose, _key(key), tuple(shape)) for key in keys]
        return torch.stack(rows) if rows else torch.empty((0, *shape))

    def _row(self, purpose: str, key: Key, shape: tuple[int, ...]) -> Tensor:
        record = self._recorded.get(purpose, {})
        if key not in record:
            raise InputError(
                Code.DRAW,
                f"No draw was recorded for {purpose!r}, sample id {key[0]}, draw {key[1]}",
                got=f"{len(record)} draws for that purpose; purposes {sorted(self._recorded)}",
                fix="Record the draws with the same ids=, or pass the ids they were recorded under",
            )
        row = record[key]
        if row.shape != shape:
            raise InputError(
                Code.DRAW,
                f"The draw recorded for {purpose!r} has another shape",
                got=str(tuple(row.shape)),
                expected=str(shape),
            )
        self.used.add((purpose, key))
        return row


class RecordedDraws:
    """Passes draws of another source on and keeps them, for `ReplayedDraws`.

    Args:
        source: where the numbers come from; `SeededDraws` of seed 0 by default.

    Attributes:
        recorded: per purpose, what was drawn for each key.
    """

    def __init__(self, source: Draws | None = None) -> None:
        self._source = source or SeededDraws()
        self.recorded: dict[str, dict[Key, Tensor]] = {}

    def normal(self, purpose: str, keys: Sequence[Key], shape: Sequence[int]) -> Tensor:
        """(len(keys), *shape) from the source."""
        return self._keep(purpose, keys, self._source.normal(purpose, keys, shape))

    def uniform(self, purpose: str, keys: Sequence[Key], shape: Sequence[int]) -> Tensor:
        """(len(keys), *shape) from the source."""
        return self._keep(purpose, keys, self._source.uniform(purpose, keys, shape))

    def integers(self, purpose: str, keys: Sequence[Key], high: int, shape: Sequence[int]) -> Tensor:
        """(len(keys), *shape) from the source."""
        return self._keep(purpose, keys, self._source.integers(purpose, keys, high, shape))

    def permutation(self, purpose: str, keys: Sequence[Key], size: int) -> Tensor:
        """(len(keys), size) from the source."""
        return self._keep(purpose, keys, self._source.permutation(purpose, keys, size))

    def replayed(self) -> ReplayedDraws:
        """Everything recorded so far, ready to be replayed."""
        return ReplayedDraws(self.recorded)

    def _keep(self, purpose: str, keys: Sequence[Key], rows: Tensor) -> Tensor:
        record = self.recorded.setdefault(purpose, {})
        record.update({_key(key): row.clone() for key, row in zip(keys, rows, strict=True)})
        return rows


def _key(key: Key) -> Key:
    return int(key[0]), int(key[1])


def _tensor(values: Any) -> Tensor:
    return values if isinstance(values, Tensor) else torch.from_numpy(np.asarray(values))

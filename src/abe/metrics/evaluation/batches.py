"""The samples of an evaluation, in lots: one batch, or the batches of a loader one after the other."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from abe.draws import as_ids, sample_ids
from abe.errors import Code, InputError, SpecError
from abe.explanation import Explanation
from abe.task.base import Context, Lifted, Task
from abe.task.targets import labels_of

KEYS = ("inputs", "labels", "masks", "targets")
"""What a batch of a loader may hold when it is a mapping; as a tuple it is in this order."""


@dataclass(frozen=True)
class Batch:
    """Some samples that are evaluated together.

    Attributes:
        lifted: the features, their context and names.
        start: number of samples in the lots before.
        ids: identities the draws depend on.
        target: the explained classes as given, or None.
        labels: (b,) true classes, or None.
        masks: (b, h, w) true regions, or None.
    """

    lifted: Lifted
    start: int
    ids: list[int]
    target: Any = None
    labels: Tensor | None = None
    masks: Tensor | None = None

    def __len__(self) -> int:
        return len(self.lifted.x)

    @property
    def rows(self) -> slice:
        """Where its samples stand in the whole."""
        return slice(self.start, self.start + len(self))


@dataclass(kw_only=True)
class Samples:
    """What to evaluate on; iterating gives lots.

    Args:
        task: lifts raw inputs.
        data: raw inputs as for `abe.explain`, or any other iterable as a stream of batches.
        explanations: given ones, whose inputs serve where there is no data.
        target: explained classes of a single batch.
        labels: true classes of a single batch.
        masks: true regions of a single batch.
        ids: identities of a single batch.
    """

    task: Task
    data: Any = None
    explanations: Sequence[Explanation] = ()
    target: Any = None
    labels: Any = None
    masks: Any = None
    ids: Sequence[int | str] | None = None
    _seen: Counter[int] = field(default_factory=Counter, repr=False)

    def __post_init__(self) -> None:
        given = [name for name in ("labels", "masks", "ids") if getattr(self, name) is not None]
        axes = getattr(self.target, "ndim", None)
        several = isinstance(self.target, list | tuple) if axes is None else axes > 0
        given += ["target"] if several else []
        if self.stream and given:
            raise SpecError(
                Code.BAD_PARAMETER,
                f"With a stream of batches, {given[0]} come with each batch",
                expected=f"batches (inputs, labels, masks), or mappings with {', '.join(KEYS)}",
            )
        if self.data is None and not self.explanations:
            raise InputError(
                Code.EMPTY_BATCH,
                "There are no inputs",
                got="no data, and no explanation that holds its inputs",
                fix="Pass data= with the explained inputs, before normalisation",
            )

    @property
    def stream(self) -> bool:
        """Whether the data come batch by batch."""
        return isinstance(self.data, Iterable) and not _one_batch(self.data)

    @property
    def expected(self) -> int | None:
        """Number of batches, where a stream knows it."""
        try:
            return len(self.data) if self.stream else 1
        except TypeError:
            return None

    def __iter__(self) -> Iterator[Batch]:
        start = 0
        for lot in self._streamed() if self.stream else [self._whole()]:
            made = Batch(lot.lifted, start, lot.ids, lot.target, lot.labels, lot.masks)
            start += len(made)
            yield made
        if not start:
            raise InputError(Code.EMPTY_BATCH, "There is nothing to evaluate", got="a stream of no batches")

    def _whole(self) -> Batch:
        if self.data is not None:
            lifted = self.task.lift(self.data)
            ids = self.ids
        else:
            first = self.explanations[0]
            lifted = Lifted(first.x.to(self.task.device), Context(), list(first.names), first.parts)
            ids = self.ids or first.ids or None
        return self._lot(lifted, self.target, self.labels, self.masks, as_ids(ids, lifted.x))

    def _streamed(self) -> Iterator[Batch]:
        start = 0
        for batch in self.data:
            parts = _parts(batch)
            lifted = self.task.lift(parts["inputs"])
            if isinstance(parts["inputs"], Tensor | np.ndarray):
                names = [f"sample {start + i}" for i in range(len(lifted.x))]
                lifted = replace(lifted, names=names)
            target = parts.get("targets", self.target)
            ids = sample_ids(lifted.x, self._seen)
            start += len(lifted.x)
            yield self._lot(lifted, target, parts.get("labels"), parts.get("masks"), ids)

    def _lot(self, lifted: Lifted, target: Any, labels: Any, masks: Any, ids: list[int]) -> Batch:
        self.task.check(lifted.x)
        truth = None if labels is None else labels_of(labels, len(lifted.x), self.task.class_index)
        region = None if masks is None else _masks(masks, lifted.x)
        return Batch(lifted, 0, ids, target, truth, region)


def _one_batch(data: Any) -> bool:
    """Whether these are raw inputs for `Task.lift`; anything else that can be iterated is a stream."""
    if isinstance(data, Tensor | np.ndarray | str | Path | list | tuple | Mapping):
        return True
    return hasattr(data, "convert") and hasattr(data, "size")  # a Pillow image


def _parts(batch: Any) -> dict[str, Any]:
    """A batch of a loader by what it holds."""
    if isinstance(batch, Mapping) and "inputs" in batch:
        unknown = [str(k) for k in batch if k not in KEYS]
        if unknown:
            raise InputError(
                Code.SHAPE, "A batch holds something unknown", got=unknown[0], expected=", ".join(KEYS)
            )
        return {str(k): v for k, v in batch.items() if v is not None}
    if isinstance(batch, list | tuple) and batch and isinstance(batch[0], Tensor | np.ndarray):
        if len(batch) > len(KEYS):
            raise InputError(
                Code.SHAPE,
                "A batch holds too much",
                got=f"{len(batch)} parts",
                expected=f"at most {len(KEYS)}: {', '.join(KEYS)}",
            )
        return {k: v for k, v in zip(KEYS, batch, strict=False) if v is not None}
    return {"inputs": batch}


def _tensor(given: Any) -> Tensor:
    """A tensor of its own: a file opened for reading cannot be shared."""
    return given if isinstance(given, Tensor) else torch.from_numpy(np.array(given))


def _masks(masks: Any, x: Tensor) -> Tensor:
    found = _tensor(masks)
    wanted = (len(x), *x.shape[2:]) if x.ndim > 2 else tuple(x.shape)
    single = (len(x), 1, *x.shape[2:])
    if tuple(found.shape) not in (wanted, single):
        raise InputError(
            Code.MASK,
            "The masks do not fit the samples",
            got=str(tuple(found.shape)),
            expected=str(wanted),
        )
    return found.reshape(wanted).bool()

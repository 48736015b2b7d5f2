"""The samples of an evaluation, in lots: one batch, or the batches of a loader one after the other."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Number
from typing import Any

import numpy as np
import torch
from torch import Tensor

from abe import arrays
from abe.draws import sample_ids
from abe.errors import Code, InputError, SpecError
from abe.explanation import Explanation
from abe.metrics.evaluation.truth import region_of
from abe.per_sample import without_padding
from abe.task.base import Context, Lifted, Task
from abe.task.lengths import identities
from abe.task.lifted import Units
from abe.task.targets import labels_of

KEYS = ("inputs", "labels", "masks", "targets")
"""What a batch of a loader may hold when it is a mapping; as a tuple it is in this order."""
SHOWN = ("text", "tabular")
"""Modalities whose explanations show what the task is given, which needs more than features to run."""
BESIDE = ("names", "notes")
"""What such a mapping may say of its samples and of how they were read."""


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
        alone: whether there are no other lots.
        asked: whether the masks are what was asked about, as nobody gave any.
    """

    lifted: Lifted
    start: int
    ids: list[int]
    target: Any = None
    labels: Tensor | None = None
    masks: Tensor | None = None
    alone: bool = True
    asked: bool = False

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
        data: raw inputs as for `abe.explain`, or any other iterable as a stream of batches; so is a list of
            batches that hold labels or masks too.
        explanations: given ones, whose inputs serve where there is no data.
        target: explained classes of a single batch.
        labels: true classes of a single batch.
        masks: true regions of a single batch.
        ids: identities of a single batch.
        asked: what of each sample is asked about, for `Task.lift`.
    """

    task: Task
    data: Any = None
    explanations: Sequence[Explanation] = ()
    target: Any = None
    labels: Any = None
    masks: Any = None
    ids: Sequence[int | str] | None = None
    asked: Mapping[str, Any] = field(default_factory=dict[str, Any])
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
        start, stream = 0, self.stream
        for lot in self._streamed() if stream else [self._whole()]:
            made = replace(lot, start=start, alone=not stream)
            start += len(made)
            yield made
        if not start:
            raise InputError(Code.EMPTY_BATCH, "There is nothing to evaluate", got="a stream of no batches")

    def _whole(self) -> Batch:
        if self.data is not None:
            lifted = self.task.lift(self.data, **self.asked)
            ids = self.ids
        else:
            first = self.explanations[0]
            lifted = self._again(first)
            ids = first.ids or None if self.ids is None else self.ids
        return self._lot(lifted, self.target, self.labels, self.masks, identities(ids, lifted))

    def _again(self, first: Explanation) -> Lifted:
        """The samples of an explanation, with what it holds of what was asked about them."""
        if self.asked:
            raise SpecError(
                Code.BAD_PARAMETER,
                "The explanations hold what was asked about",
                got=f"{next(iter(self.asked))}= beside explanations without data",
                fix="Leave it out, or pass data= with the raw inputs",
            )
        if self.task.summed:
            _ask_for_data("maps of prompts, whose answers and steps are asked for anew")
        if self.task.modality in SHOWN and len(first.shown) == len(first):
            lifted = self.task.lift(_raw(first.shown))
            if lifted.x.shape == first.x.shape and _same(lifted, first.x):
                return replace(lifted.plain(), names=list(first.names))
            _ask_for_data("what they show is not what they explain")
        units: tuple[Units, ...] = ()
        if first.labels is not None:
            if bool((first.labels < 0).any()):
                _ask_for_data("samples of which a part was padding")
            units = (Units(first.unit, first.labels.to(self.task.device), list(first.unit_names)),)
        about = {name: first.diagnostics[name] for name in self.task.keeps if name in first.diagnostics}
        return Lifted(
            first.x.to(self.task.device), Context(about=about), list(first.names), first.parts, units=units
        )

    def _streamed(self) -> Iterator[Batch]:
        start = 0
        for batch in self.data:
            parts = _parts(batch)
            lifted = self.task.lift(parts["inputs"], **self.asked)
            lifted = replace(
                lifted,
                names=parts.get("names", lifted.names),
                notes=(*lifted.notes, *parts.get("notes", ())),
            )
            plain = [name == f"sample {i}" for i, name in enumerate(lifted.names)]
            names = [f"sample {start + i}" if plain[i] else n for i, n in enumerate(lifted.names)]
            lifted = replace(lifted, names=names)
            target = parts.get("targets", self.target)
            ids = sample_ids(lifted.x, self._seen)
            start += len(lifted.x)
            yield self._lot(lifted, target, parts.get("labels"), parts.get("masks"), ids)

    def _lot(self, lifted: Lifted, target: Any, labels: Any, masks: Any, ids: list[int]) -> Batch:
        self.task.check(lifted.x)
        truth = None if labels is None else labels_of(labels, len(lifted.x), self.task.class_index)
        region = None if masks is None else region_of(masks, lifted)
        if region is None and self.task.region_of is not None:
            region = self.task.region_of(lifted)
        return Batch(lifted, 0, ids, target, truth, region, asked=masks is None and region is not None)


def _raw(shown: Sequence[Any]) -> Any:
    """What explanations show of texts or rows, as a task takes it."""
    if all(isinstance(one, Mapping) for one in shown):
        return {name: [row[name] for row in shown] for name in shown[0]}
    return [tuple(one) if isinstance(one, list) else one for one in shown]


def _same(lifted: Lifted, x: Tensor) -> bool:
    """Whether these are the lifted features; what stands behind a sample's own length does not matter."""
    mine, theirs = (without_padding(one, lifted.context.lengths) for one in (lifted.x, x.to(lifted.x)))
    return torch.allclose(mine, theirs, atol=1e-5)


def _ask_for_data(got: str) -> None:
    raise InputError(
        Code.SAMPLES,
        "The explanations do not hold all that the model was given",
        got=got,
        fix="Pass data= with the raw inputs",
    )


def _one_batch(data: Any) -> bool:
    """Whether these are raw inputs for `Task.lift`; anything else that can be iterated is a stream."""
    if isinstance(data, list | tuple):
        return not data or not all(isinstance(one, Mapping) or _is_tuple(one) for one in data)
    if arrays.is_array(data) or isinstance(data, str | bytes | os.PathLike | Mapping):
        return True
    return hasattr(data, "convert") and hasattr(data, "size")  # a Pillow image


def _is_tuple(batch: Any) -> bool:
    """Whether this holds (inputs, labels, …) and no list of inputs: numbers or arrays follow the first."""
    parts: list[Any] = list(batch) if isinstance(batch, list | tuple) else []
    numbers = [p is None or isinstance(p, Number | np.generic) or arrays.is_array(p) for p in parts[1:]]
    return all(numbers) and (len(parts) > 1 or (len(parts) == 1 and arrays.is_array(parts[0])))


def _parts(batch: Any) -> dict[str, Any]:
    """A batch of a loader by what it holds."""
    if isinstance(batch, Mapping) and any(k in KEYS for k in batch):
        unknown = [str(k) for k in batch if k not in (*KEYS, *BESIDE)]
        if unknown or "inputs" not in batch:
            raise InputError(
                Code.SHAPE,
                "A batch holds something unknown" if unknown else "A batch holds no inputs",
                got=", ".join(map(str, batch)),
                expected=", ".join(KEYS),
                fix="Name the inputs 'inputs', and leave out what is none of these",
            )
        return {str(k): _of_batch(str(k), v) for k, v in batch.items() if v is not None}
    if _is_tuple(batch):
        if len(batch) > len(KEYS):
            raise InputError(
                Code.SHAPE,
                "A batch holds too much",
                got=f"{len(batch)} parts",
                expected=f"at most {len(KEYS)}: {', '.join(KEYS)}",
            )
        return {k: _of_batch(k, v) for k, v in zip(KEYS, batch, strict=False) if v is not None}
    return {"inputs": batch}


def _of_batch(key: str, part: Any) -> Any:
    """A part of a batch; the label or class of a single sample is one of a batch of one."""
    single = isinstance(part, Number | np.generic) or (arrays.is_array(part) and part.ndim == 0)
    return torch.as_tensor(part).reshape(1) if single and key in ("labels", "targets") else part

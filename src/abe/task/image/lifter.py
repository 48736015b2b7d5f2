"""Image tasks: photographs, arrays and tensors as features in the task's bounds."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from numbers import Number
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from abe import arrays
from abe.checks import COUNT, need_list, plain, refused, several
from abe.errors import Code, InputError
from abe.task.base import Context, Lifted, Task
from abe.task.batch import need_one_type, need_some, one_each
from abe.task.channels import Numbers, limits, per_channel, scale
from abe.task.entries import explained_of, inputs_of
from abe.task.image.axes import USUAL, channels_first, known_channels
from abe.task.image.pictures import BYTE, MODES, WORD, Fit, Picture, coded, dark, picture, resized
from abe.task.lifted import pack
from abe.task.outputs import OutputKind, class_names

WHITE = {torch.bool: 1, torch.uint8: BYTE, torch.uint16: WORD}
"""The number that stands for the upper bound in arrays of these types."""


def image_task(
    model: nn.Module,
    *,
    bounds: tuple[Numbers, Numbers] | None = (0.0, 1.0),
    mean: Numbers | None = None,
    std: Numbers | None = None,
    labels: Any = None,
    output: Any = None,
    output_kind: OutputKind = "auto",
    size: int | tuple[int, int] | None = None,
    fit: Fit = "crop",
    channels: int | None = None,
    explained: str | int | Sequence[str | int] | None = None,
    input_name: str | None = None,
) -> Task:
    """A task for an image model, whatever its inputs and outputs look like.

    Args:
        model: any ``nn.Module``; explained in evaluation mode and left as found.
        bounds: valid range of inputs before normalisation, numbers or one per channel; None for
            unbounded inputs.
        mean: subtracted inside the task, a number or one per channel.
        std: divided by inside the task, a number or one per channel.
        labels: class names, by number: a list, an array, or a dict {number: name}. One output with two
            names speaks for the second.
        output: where the class scores are in what the model returns; found by itself for a tensor,
            an entry ``logits``, or the first tensor of a tuple.
        output_kind: ``"logits"`` of classes; their ``"probabilities"``, where a single column is that of
            class 1 of two; ``"sigmoid"`` for one output, the logit of class 1 against class 0;
            ``"multilabel"`` for several, each the logit of a label of its own; ``"presence"`` for several,
            each the probability of a label of its own, which is itself explained; ``"regression"``.
            ``"auto"`` recognises probabilities (rows that sum to 1) and notes it in the result; one output is
            explained as it is, and asked about where a probability is needed.
        size: (height, width) photographs are brought to; None leaves them as they are. Tensors are
            never resized.
        fit: ``"crop"`` scales the shorter side and crops the centre, ``"stretch"`` distorts.
        channels: channels of the model's input; by default as many as mean, std or bounds have numbers, or
            those of the model's first convolution. They tell where an array has its channels.
        explained: for a model with several inputs, the one or those to explain (key of the dict
            or position in the tuple given to `abe.explain`); the others are passed along.
        input_name: keyword under which a single input is passed.

    Shape:
        inputs (b, c, h, w), any number of channels; a single photograph may come without ``b``, grey ones
        without ``c``. Arrays, and tensors whose channels are known, may have the channels last. Lists,
        tuples, iterators and loaders of these and of photographs are taken together. Bytes and 16-bit
        integers are scaled to the bounds, other numbers are in them.
    """
    names = _names(explained)
    low, high = limits(bounds)
    centre, width = per_channel("mean", mean), scale("std", std)
    asked = None if channels is None else COUNT.check("channels", channels)
    known = asked or _told(centre, width, low, high) or known_channels(model)
    return Task(
        model=model,
        modality="image",
        lifter=ImageLifter(size=_pair(size), fit=fit, channels=known, explained=names),
        mean=centre,
        std=width,
        low=low,
        high=high,
        labels=class_names(labels),
        output=output,
        output_kind=output_kind,
        input_name=input_name,
    )


@dataclass(frozen=True)
class ImageLifter:
    """Turns photographs into (b, c, h, w) features in the bounds."""

    size: tuple[int, int] | None
    fit: Fit
    channels: int | None
    explained: tuple[str | int, ...] = ()

    def __call__(self, task: Task, raw: Any) -> Lifted:
        if isinstance(raw, Mapping) or (isinstance(raw, tuple) and self.explained):
            return self._lift_several(task, raw)
        found = self._batch(task, raw)
        return Lifted(found.x, Context(), found.names, notes=tuple(found.notes))

    def _lift_several(self, task: Task, raw: Mapping[Any, Any] | tuple[Any, ...]) -> Lifted:
        items = inputs_of(raw)
        chosen = explained_of(items, self.explained, lambda one: _is_float(one) and one.ndim == 4)
        lifted = {name: self._part(task, items[name]) for name in chosen}
        names = next(iter(lifted.values())).names
        x, parts = pack({name: block.x for name, block in lifted.items()})
        rest = {k: _context(task, v, len(x), k) for k, v in items.items() if k not in chosen}
        notes = tuple(text for block in lifted.values() for text in block.notes)
        return Lifted(x, Context(rest), names, parts, notes)

    def _part(self, task: Task, raw: Any) -> "_Block":
        """One of several explained inputs: photographs, or numbers of any shape (b, …)."""
        tensor = isinstance(raw, Tensor)
        if not _is_float(raw) or raw.ndim < 2 or raw.ndim in ((3,) if tensor else (3, 4)):
            return self._batch(task, raw)
        x = raw.detach().clone() if tensor else arrays.from_numpy(raw).to(task.device, task.dtype)
        return _Block(x, _numbered(len(x)))

    def _batch(self, task: Task, raw: Any) -> "_Block":
        """The samples of anything that holds some, one after the other."""
        blocks: list[_Block] = []
        samples = 0
        for item in _items(raw):
            blocks.append(self._block(task, item, samples))
            samples += len(blocks[-1].x)
        need_some(raw, samples)
        shapes = {tuple(block.x.shape[1:]) for block in blocks}
        if len(shapes) > 1:
            raise InputError(
                Code.SHAPE,
                "Photographs in one call must have one size",
                got=f"sizes {sorted(shapes)}",
                fix="Pass size=(height, width) to image_task, or explain them one by one",
            )
        need_one_type(task, [block.x for block in blocks])
        x = blocks[0].x if len(blocks) == 1 else torch.cat([block.x for block in blocks])
        names, notes = ([text for block in blocks for text in getattr(block, n)] for n in ("names", "notes"))
        return _Block(x, names, list(dict.fromkeys(notes)))

    def _block(self, task: Task, item: Any, start: int) -> "_Block":
        """What one item holds: a photograph, or an array of one or several."""
        if not arrays.is_array(item):
            name = _name_of(item, start)
            found = picture(item, name, self.channels or USUAL, self.size, self.fit)
            return _Block(self._values(task, found)[None], [name], list(found.notes))
        tensor = isinstance(item, Tensor)
        x = item.detach() if tensor else arrays.from_numpy(item, "An image")
        x = x if x.layout is torch.strided else x.to_dense()
        photograph = not tensor and x.dtype == torch.uint8
        x = channels_first(x, task.model, self.channels, tensor=tensor, photograph=photograph)
        names = _numbered(len(x), start)
        if photograph and len(x):
            found = [self._bytes(one.numpy(), name) for one, name in zip(x, names, strict=True)]
            notes = [text for one in found for text in one.notes]
            return _Block(torch.stack([self._values(task, one) for one in found]), names, notes)
        white = WHITE.get(x.dtype)
        if white is not None and (x.dtype != torch.bool or not tensor):
            text = dark(int(x.float().max()), white) if white == WORD and len(x) else None
            return _Block(self._scaled(task, x, white), names, coded([f"{names[0]}: {text}"] if text else []))
        if x.is_complex() and not tensor:
            raise InputError(Code.DTYPE, "An image is an array of real numbers", got=str(x.dtype))
        # whose tensor it is may fill it anew before the explanation is read
        # and its strides are nothing that engines should meet
        own = x.clone(memory_format=torch.contiguous_format) if tensor else x.to(task.device, task.dtype)
        return _Block(own, names)

    def _bytes(self, planes: np.ndarray, name: str) -> Picture:
        """(c, h, w) bytes: a photograph, or as many bands as the model takes."""
        bands, wanted = len(planes), self.channels or USUAL
        if bands == wanted and wanted not in MODES:
            return Picture(resized(planes, self.size, self.fit), BYTE)
        if bands not in MODES:
            raise InputError(
                Code.SHAPE,
                f"Bytes of {bands} bands cannot fill {wanted} channels",
                fix="Pass as many bands as the model takes, and channels= to image_task if it does not say",
            )
        pixels = planes[0] if bands == 1 else np.ascontiguousarray(np.moveaxis(planes, 0, -1))
        return picture(Image.fromarray(pixels), name, wanted, self.size, self.fit)

    def _values(self, task: Task, found: Picture) -> Tensor:
        """(c, h, w) a photograph's numbers in the task's bounds."""
        numbers = torch.from_numpy(np.array(found.planes))
        if found.white is not None:
            return self._scaled(task, numbers[None], found.white)[0]
        values = numbers.to(task.device, task.dtype)
        unit = task.bounds is not None and all(bool((b == i).all()) for i, b in enumerate(task.bounds))
        if task.bounds is not None and not unit and 0 <= float(values.min()) <= float(values.max()) <= 1:
            raise InputError(
                Code.UNREADABLE_IMAGE,
                "It is not clear whether floating-point numbers reach to 1 or fill the task's bounds",
                got=f"an image with values from {float(values.min()):.4g} to {float(values.max()):.4g}",
                fix="Pass an array in the task's bounds",
            )
        return values

    def _scaled(self, task: Task, numbers: Tensor, white: int) -> Tensor:
        """(b, c, h, w) from 0 … white to the task's bounds."""
        unit = numbers.to(task.device, task.dtype) / white
        if task.bounds is None:
            return unit
        low, high = (bound.to(unit) for bound in task.bounds)
        if white == WORD and not numbers.is_floating_point():
            self._refuse_both(numbers, low, high)
        return low + unit * (high - low)

    def _refuse_both(self, numbers: Tensor, low: Tensor, high: Tensor) -> None:
        """Refuse 16-bit integers that lie within bounds of another size, as they may be meant as they are."""
        plain = numbers.to(low)
        if (
            bool(((plain >= low) & (plain <= high)).all())
            and bool(plain.any())
            and not bool((high == WORD).all())
        ):
            raise InputError(
                Code.DTYPE,
                "It is not clear whether 16-bit integers reach to 65535 or are in the task's bounds",
                got=f"values from {float(plain.min()):g} to {float(plain.max()):g}",
                fix="Convert them to floating-point numbers in the task's bounds",
            )


@dataclass(frozen=True)
class _Block:
    """(b, c, h, w) samples with names, and what is to be said of how they were read."""

    x: Tensor
    names: list[str]
    notes: list[str] = field(default_factory=list[str])


def _items(raw: Any) -> Iterator[Any]:
    """The photographs and arrays in lists, tuples, iterators and loaders of them.

    Raises:
        InputError: a batch of several things, such as inputs and labels.
    """
    raw = np.asarray(raw) if isinstance(raw, memoryview) else raw
    if arrays.is_array(raw):
        listed = isinstance(raw, np.ndarray) and raw.ndim == 1 and raw.dtype.kind in "OU"
        yield from _items(raw.tolist()) if listed else [raw]
        return
    if (
        not isinstance(raw, Iterable)
        or isinstance(raw, (str, bytes, bytearray, Mapping, Set))
        or _is_one(raw)
    ):
        yield raw
        return
    for item in raw:
        if isinstance(item, Mapping) and "inputs" in item:
            raise InputError(
                Code.SHAPE,
                "These are batches, which are explained one after the other",
                got=f"a batch of {', '.join(map(str, item))}",
                fix='Pass the inputs of one: abe.explain(task, batch["inputs"]); abe.evaluate, abe.compare '
                "and abe.fit take all of them",
            )
        if not isinstance(item, list | tuple):
            yield item
        elif len(item) > 1 and any(arrays.is_array(part) or isinstance(part, Number) for part in item):
            raise InputError(
                Code.SHAPE,
                "A batch holds more than inputs",
                got=f"a {type(item).__name__} of {', '.join(type(part).__name__ for part in item[:4])}",
                expected="inputs alone, as arrays, tensors or photographs",
                fix="Pass the inputs alone, such as [batch[0] for batch in loader], and labels apart; "
                "abe.evaluate and abe.compare take batches (inputs, labels, masks)",
            )
        else:
            yield from _items(item)


def _is_float(raw: Any) -> bool:
    """Whether this is an array of floating-point numbers."""
    if isinstance(raw, Tensor):
        return raw.is_floating_point()
    return isinstance(raw, np.ndarray) and raw.dtype.kind == "f"


def _is_one(raw: Any) -> bool:
    """Whether this is one photograph or file, though it can be iterated."""
    return isinstance(raw, os.PathLike) or hasattr(raw, "read") or isinstance(raw, Image.Image)


def _context(task: Task, item: Any, n: int, name: str | int) -> Tensor:
    tensor = item if isinstance(item, Tensor) else arrays.from_numpy(item, f"The input {name!r}")
    return one_each(tensor.to(task.device), n, name)


def _told(*numbers: Any) -> int | None:
    """How many channels there are numbers for, where they are given per channel."""
    counts = (n.numel() for n in numbers if n is not None)
    return next((count for count in counts if count > 1), None)


def _names(explained: str | int | Sequence[str | int] | None) -> tuple[str | int, ...]:
    if explained is None:
        return ()
    if isinstance(explained, str | int):
        return (explained,)
    return tuple(need_list("explained", explained, "names or places of inputs of the model"))


def _pair(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    sides = tuple(COUNT.check("size", side) for side in several(plain(size)))
    if len(sides) not in (1, 2):
        raise refused("size", "is one number of pixels, or (height, width)", size)
    return sides[0], sides[-1]


def _numbered(n: int, start: int = 0) -> list[str]:
    return [f"sample {start + i}" for i in range(n)]


def _name_of(item: Any, number: int) -> str:
    from abe.terminal import readable

    filename = item if isinstance(item, str | os.PathLike) else getattr(item, "filename", "")
    return readable(Path(filename).name) if filename else f"sample {number}"

"""Image tasks: photographs, arrays and tensors as features in the task's bounds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor, nn

from abe.errors import Code, InputError, SpecError
from abe.task.base import Context, Lifted, Task
from abe.task.outputs import OutputKind, class_names
from abe.types import Part

Fit = Literal["crop", "stretch"]
Numbers = float | Sequence[float] | Tensor


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
            ``"multilabel"`` for several, each the logit of a label of its own; ``"regression"``.
            ``"auto"`` recognises probabilities (rows that sum to 1) and notes it in the result; one output is
            explained as it is, and asked about where a probability is needed.
        size: (height, width) photographs are brought to; None leaves them as they are. Tensors are
            never resized.
        fit: ``"crop"`` scales the shorter side and crops the centre, ``"stretch"`` distorts.
        channels: channels of the model's input; read from its first convolution by default.
        explained: for a model with several inputs, the one or those to explain (key of the dict
            or position in the tuple given to `abe.explain`); the others are passed along.
        input_name: keyword under which a single input is passed.

    Shape:
        inputs (b, c, h, w), any number of channels; a single photograph may come without ``b``.
    """
    names = _names(explained)
    if bounds is not None:
        _check_order(bounds)
    return Task(
        model=model,
        modality="image",
        lifter=ImageLifter(size=_pair(size), fit=fit, channels=channels or _channels(model)),
        mean=_per_channel(mean),
        std=_per_channel(std),
        low=None if bounds is None else _per_channel(bounds[0]),
        high=None if bounds is None else _per_channel(bounds[1]),
        labels=class_names(labels),
        output=output,
        output_kind=output_kind,
        explained=names,
        input_name=input_name,
    )


@dataclass(frozen=True)
class ImageLifter:
    """Turns photographs into (b, c, h, w) features in the bounds."""

    size: tuple[int, int] | None
    fit: Fit
    channels: int

    def __call__(self, task: Task, raw: Any) -> Lifted:
        if isinstance(raw, Mapping) or (isinstance(raw, tuple) and task.explained):
            return self._lift_several(task, raw)
        x, names = self._batch(task, raw)
        return Lifted(x, Context(), names)

    def _lift_several(self, task: Task, raw: Mapping[Any, Any] | tuple[Any, ...]) -> Lifted:
        pairs = raw.items() if isinstance(raw, Mapping) else enumerate(raw)
        items: dict[str | int, Any] = dict(pairs)
        chosen = task.explained or self._only_image(items)
        missing = [name for name in chosen if name not in items]
        if missing:
            raise InputError(
                Code.SHAPE,
                f"The input to explain, {missing[0]!r}, was not given",
                got=f"inputs {list(items)}",
                fix="Pass a dict or tuple that holds it",
            )
        lifted = {name: self._part(task, items[name]) for name in chosen}
        tensors = {name: x for name, (x, _) in lifted.items()}
        names = next(iter(lifted.values()))[1]
        x, parts = _pack(tensors)
        rest = {k: _context(task, v, len(x), k) for k, v in items.items() if k not in chosen}
        return Lifted(x, Context(rest), names, parts)

    def _only_image(self, items: Mapping[str | int, Any]) -> tuple[str | int, ...]:
        """The single floating-point (b, c, h, w) entry, when nobody said which one to explain."""
        found = [
            k for k, v in items.items() if isinstance(v, Tensor) and v.ndim == 4 and v.is_floating_point()
        ]
        if len(found) == 1:
            return (found[0],)
        raise InputError(
            Code.SHAPE,
            "It is not clear which input to explain",
            got=f"inputs {list(items)}",
            fix="Pass explained=… to image_task, a key or several",
        )

    def _part(self, task: Task, raw: Any) -> tuple[Tensor, list[str]]:
        """One of several explained inputs: photographs, or numbers of any shape (b, …)."""
        if isinstance(raw, Tensor) and raw.is_floating_point() and raw.ndim >= 2 and raw.ndim not in (3, 4):
            return raw.detach().clone(), _numbered(len(raw))
        return self._batch(task, raw)

    def _batch(self, task: Task, raw: Any) -> tuple[Tensor, list[str]]:
        if isinstance(raw, Tensor):
            return self._tensor(task, raw), _numbered(1 if raw.ndim == 3 else len(raw))
        items = raw if isinstance(raw, list | tuple) else [raw]
        if isinstance(raw, np.ndarray) and raw.ndim == 4:
            items = list(raw)
        if len(items) == 0:
            raise InputError(
                Code.EMPTY_BATCH,
                "There is nothing to explain",
                got=f"an empty {type(raw).__name__}",
                expected="at least one sample",
            )
        rows = [self._single(task, item) for item in items]
        shapes = {tuple(row.shape) for row in rows}
        if len(shapes) > 1:
            raise InputError(
                Code.SHAPE,
                "Photographs in one call must have one size",
                got=f"sizes {sorted(shapes)}",
                fix="Pass size=(height, width) to image_task, or explain them one by one",
            )
        names = [_name_of(item, number) for number, item in enumerate(items)]
        return torch.stack(rows), names

    def _tensor(self, task: Task, x: Tensor) -> Tensor:
        if x.ndim == 3:
            x = x[None]
        if x.ndim != 4:
            raise InputError(
                Code.SHAPE,
                "An image batch has four axes",
                got=f"shape {tuple(x.shape)}",
                expected="(b, c, h, w) or (c, h, w)",
            )
        if x.dtype == torch.uint8:
            return self._scale(task, x)
        return x.detach().clone()  # whose tensor it is may fill it anew before the explanation is read

    def _single(self, task: Task, item: Any) -> Tensor:
        if isinstance(item, Tensor):
            return self._tensor(task, item)[0]
        if isinstance(item, np.ndarray) and item.dtype != np.uint8:
            return self._array(task, item)
        image = load_image(item)
        mode = {1: "L", 3: "RGB", 4: "RGBA"}.get(self.channels)
        if mode is None:
            raise InputError(
                Code.SHAPE,
                f"A photograph cannot fill {self.channels} channels",
                fix="Pass a tensor (b, c, h, w) in the task's bounds",
            )
        pixels = np.asarray(_resize(image.convert(mode), self.size, self.fit))
        planes = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, 2, 0)
        return self._scale(task, torch.from_numpy(planes.copy())[None])[0]

    def _array(self, task: Task, item: np.ndarray) -> Tensor:
        if item.ndim == 2:
            item = item[None]
        elif item.ndim == 3 and item.shape[-1] == self.channels != item.shape[0]:
            item = np.moveaxis(item, -1, 0)
        if item.ndim != 3:
            raise InputError(Code.SHAPE, "An image array has two or three axes", got=f"shape {item.shape}")
        return torch.from_numpy(np.ascontiguousarray(item)).to(task.device, task.dtype)

    def _scale(self, task: Task, bytes_: Tensor) -> Tensor:
        unit = bytes_.to(task.device, task.dtype) / 255
        if task.bounds is None:
            return unit
        low, high = (bound.to(unit) for bound in task.bounds)
        return low + unit * (high - low)


def load_image(source: Any) -> Image.Image:
    """A photograph from a path, an array (h, w) or (h, w, c) of bytes, or a PIL image.

    Raises:
        InputError: the file is missing or not an image.
    """
    if isinstance(source, Image.Image):
        return ImageOps.exif_transpose(source)
    if isinstance(source, np.ndarray):
        if source.ndim == 3 and source.shape[0] in (1, 3, 4) and source.shape[2] not in (1, 3, 4):
            source = np.moveaxis(source, 0, 2)
        return Image.fromarray(source[..., 0] if source.ndim == 3 and source.shape[2] == 1 else source)
    if not isinstance(source, str | Path):
        raise InputError(
            Code.UNREADABLE_IMAGE,
            "This is not a photograph",
            got=type(source).__name__,
            expected="a path, a PIL image, an array or a tensor",
        )
    try:
        with Image.open(source) as opened:
            opened.load()
            return ImageOps.exif_transpose(opened)
    except FileNotFoundError as problem:
        raise InputError(
            Code.UNREADABLE_IMAGE, "There is no such file", got=str(source), fix="Check the path"
        ) from problem
    except (
        UnidentifiedImageError,
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
    ) as problem:
        raise InputError(
            Code.UNREADABLE_IMAGE,
            "The file cannot be read as an image",
            got=f"{source} ({problem})",
            fix="Convert it to PNG or JPEG",
        ) from problem


def _resize(image: Image.Image, size: tuple[int, int] | None, fit: Fit) -> Image.Image:
    if size is None:
        return image
    height, width = size
    if fit == "stretch":
        return image.resize((width, height), Image.Resampling.BICUBIC)
    return ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)


def _pack(tensors: Mapping[str | int, Tensor]) -> tuple[Tensor, tuple[Part, ...]]:
    """Several explained inputs as one tensor: along channels where the images match, else flat."""
    lengths = {len(t) for t in tensors.values()}
    if len(lengths) > 1:
        raise InputError(Code.SHAPE, "The inputs disagree on the number of samples", got=f"{sorted(lengths)}")
    same = len({tuple(t.shape[2:]) for t in tensors.values()}) == 1
    flat = [t if same else t.flatten(1) for t in tensors.values()]
    parts, start = [], 0
    for (name, original), part in zip(tensors.items(), flat, strict=True):
        parts.append(Part(name, start, start + part.shape[1], tuple(original.shape[1:])))
        start += part.shape[1]
    return torch.cat(flat, dim=1), tuple(parts)


def _context(task: Task, item: Any, n: int, name: str | int) -> Tensor:
    tensor = item if isinstance(item, Tensor) else torch.as_tensor(item)
    tensor = tensor.to(task.device)
    if tensor.ndim == 0 or len(tensor) == 1:
        tensor = tensor.expand(n, *tensor.shape[1:])
    if len(tensor) != n:
        raise InputError(
            Code.SHAPE,
            f"Input {name!r} needs one entry per sample",
            got=f"shape {tuple(tensor.shape)}",
            expected=f"{n} entries, or one for all",
            fix="Give it a leading axis of length 1 where it is the same for all samples",
        )
    return tensor.detach()


def _per_channel(numbers: Numbers | None) -> Tensor | None:
    if numbers is None:
        return None
    tensor = torch.as_tensor(numbers, dtype=torch.float64)
    return tensor if tensor.ndim == 0 else tensor.reshape(1, -1, 1, 1)


def _check_order(bounds: tuple[Numbers, Numbers]) -> None:
    low, high = _per_channel(bounds[0]), _per_channel(bounds[1])
    if low is None or high is None or not bool((low < high).all()):
        raise SpecError(
            Code.BAD_PARAMETER, "bounds must be (low, high) with low below high", got=repr(bounds)
        )


def _channels(model: nn.Module) -> int:
    """Input channels of the first convolution; 3 where there is none."""
    for module in model.modules() if isinstance(model, nn.Module) else ():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    return 3


def _names(explained: str | int | Sequence[str | int] | None) -> tuple[str | int, ...]:
    if explained is None:
        return ()
    return (explained,) if isinstance(explained, str | int) else tuple(explained)


def _pair(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    return (size, size) if isinstance(size, int) else size


def _numbered(n: int) -> list[str]:
    return [f"sample {i}" for i in range(n)]


def _name_of(item: Any, number: int) -> str:
    if isinstance(item, str | Path):
        return Path(item).name
    filename = getattr(item, "filename", "")
    return Path(filename).name if filename else f"sample {number}"

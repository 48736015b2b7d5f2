"""Photographs: files and Pillow images of every depth, with or without transparency, as planes of numbers."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from PIL import Image, ImageOps

from abe.errors import Code, InputError, note

Fit = Literal["crop", "stretch"]

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""What Pillow calls photographs of so many channels."""
BYTE, WORD = 255, 65535
"""White in 8 and in 16 bits."""
STACKS = ("MPO",)
"""Formats whose first picture is the photograph by definition; the others are previews of it."""
DRAWN_BY_A_PROGRAM = ("EPS",)
"""Formats that are programs, which another program would have to run."""
LARGE = 2**25
"""Pixels up to which a file may hold any picture."""
SPARSE = 200
"""Pixels per byte that a file of a larger one may have: photographs have some ten, plain areas a thousand."""
ON_WHITE = "it is transparent in places, and was laid on white"
_BITS, _PHOTOMETRIC = 258, 262  # tags of TIFF
_WHITE_IS_ZERO = 0
_T = TypeVar("_T")


@dataclass(frozen=True)
class Picture:
    """Planes of numbers, and how to read them.

    Attributes:
        planes: (c, h, w) numbers.
        white: the number that is white where 0 is black; None where the numbers are as they are.
        notes: what a reader would want to know of how they were read.
    """

    planes: np.ndarray
    white: int | None
    notes: Sequence[str] = ()


def load_image(source: Any) -> Image.Image:
    """A photograph from a path, an array (h, w) or (h, w, c) of bytes, or a PIL image, upright.

    Depth and transparency are the file's own.

    Args:
        source: the path, array or image.

    Raises:
        InputError: the file is missing or not an image.
    """
    if isinstance(source, np.ndarray):
        if source.ndim == 3 and source.shape[0] in MODES and source.shape[2] not in MODES:
            source = np.moveaxis(source, 0, 2)
        array = source[..., 0] if source.ndim == 3 and source.shape[2] == 1 else source
        return _tried(lambda: Image.fromarray(array), f"an array of {source.dtype}, shape {source.shape}")
    return _opened(source)[0]


def picture(source: Any, name: str, channels: int, size: tuple[int, int] | None, fit: Fit) -> Picture:
    """A photograph as planes, brought to a size.

    Args:
        source: a path or a Pillow image.
        name: what notes call it.
        channels: how many planes: 1 grey, 3 colours, or 4 with transparency.
        size: (height, width); None leaves it as it is.
        fit: how it is brought to the size.

    Raises:
        InputError: no photograph, one whose range of values is not known, or another number of channels.
    """
    if channels not in MODES:
        raise InputError(
            Code.SHAPE,
            f"A photograph cannot fill {channels} channels",
            fix="Pass a tensor (b, c, h, w) in the task's bounds",
        )
    image, bits, inverted, notes = _opened(source)
    if image.mode.startswith(("I", "F")):
        grey, white, more = _deep(image, bits, inverted)
        planes = resized(grey[None], size, fit)
        if channels > 1:
            planes = np.repeat(planes, 3, axis=0)
        if channels == 4:
            planes = np.concatenate([planes, np.full_like(planes[:1], 1 if white is None else white)])
        return Picture(planes, white, coded(f"{name}: {text}" for text in [*notes, *more]))
    opaque, laid = _tried(lambda: _on_white(image, MODES[channels]), f"{name} in the mode {image.mode}")
    if laid:
        notes.append(ON_WHITE)
    pixels = np.asarray(_resize(opaque, size, fit))
    planes = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, 2, 0)
    return Picture(planes, BYTE, coded(f"{name}: {text}" for text in notes))


def resized(planes: np.ndarray, size: tuple[int, int] | None, fit: Fit) -> np.ndarray:
    """(c, h, w) planes brought to a size one by one, within the range that they have."""
    if size is None:
        return planes
    low, high = planes.min(), planes.max()
    each = [np.asarray(_resize(Image.fromarray(p.astype(np.float32)), size, fit)) for p in planes]
    return np.stack(each).clip(low, high)


def dark(most: int, white: int) -> str | None:
    """What is to be said where 16 bits are used by half or less: they may hold a picture of fewer bits."""
    if not 0 < most < 2**12 < white:
        return None
    bits = most.bit_length()
    return f"its values need {bits} of 16 bits, so that it is dark; scale it first if it has {bits} only"


def coded(notes: Iterable[str]) -> list[str]:
    """Remarks as notes of a result."""
    return [note(Code.PICTURE, text) for text in notes]


def _opened(source: Any) -> tuple[Image.Image, int, bool, list[str]]:
    """The upright image, its bits where the file tells them, whether its white is zero, and remarks."""
    if isinstance(source, Image.Image):
        return _tried(lambda: _loaded(source), f"a Pillow image of the mode {source.mode}")
    if not isinstance(source, str | os.PathLike):
        raise InputError(
            Code.UNREADABLE_IMAGE,
            "This is not a photograph",
            got=type(source).__name__,
            expected="a path, a PIL image, an array or a tensor",
            fix="Of a data set pass a DataLoader or a list of its samples" if _is_data_set(source) else None,
        )
    path = Path(source)

    def read() -> tuple[Image.Image, int, bool, list[str]]:
        if path.exists() and not path.is_file():
            raise OSError("it is no file")
        with Image.open(path) as opened:
            _check_inflation(opened, path)
            return _loaded(opened)

    return _tried(read, str(source))


def _check_inflation(opened: Image.Image, path: Path) -> None:
    """Refuse a file that would fill the memory or be run: nothing is decoded for that."""
    (width, height), held = opened.size, path.stat().st_size
    if opened.format in DRAWN_BY_A_PROGRAM:
        raise OSError(f"{opened.format} is a program that draws, and is not run")
    if width * height > max(LARGE, SPARSE * held):
        raise InputError(
            Code.UNREADABLE_IMAGE,
            "The picture would grow beyond measure when it is unpacked",
            got=f"{path} of {held:,} bytes, which says that it has {width:,} × {height:,} pixels",
            expected=f"at most {LARGE:,} pixels, or {SPARSE} for every byte",
            fix="If you trust it, open it with Pillow and pass that, or save it at a smaller size",
        )


def _tried(read: Callable[[], _T], what: str) -> _T:
    """What a reader returns: those of the many formats raise errors of every kind."""
    try:
        return read()
    except InputError:
        raise
    except FileNotFoundError as problem:
        raise InputError(
            Code.UNREADABLE_IMAGE, "There is no such file", got=what, fix="Check the path"
        ) from problem
    except Exception as problem:
        raise InputError(
            Code.UNREADABLE_IMAGE,
            "The file cannot be read as an image",
            got=f"{what} ({problem})",
            fix="Convert it to PNG or JPEG",
        ) from problem


def _loaded(image: Image.Image) -> tuple[Image.Image, int, bool, list[str]]:
    """As `_opened`, of an image that may not have been decoded yet."""
    image.load()
    tags = getattr(image, "tag_v2", {})
    told = int(np.max(tags.get(_BITS, 0)))
    bits = 16 if image.format in ("PNG", "PPM") else told if told < 16 else 0
    frames = getattr(image, "n_frames", 1)
    several = frames > 1 and image.format not in STACKS
    notes = [f"it holds {frames} pictures, of which number {image.tell() + 1} is read"] if several else []
    return ImageOps.exif_transpose(image), bits, tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO, notes


def _deep(image: Image.Image, bits: int, inverted: bool) -> tuple[np.ndarray, int | None, list[str]]:
    """(h, w) numbers of an image with more than 8 bits, the number that is white, and remarks.

    Floating-point numbers are in the task's bounds, as those of arrays are. Pillow reads 16 bits as 32 where
    a format or a library says no more: they are told by their values.
    """
    numbers, notes = np.asarray(image).astype(np.float32), []
    if image.mode == "F":
        return numbers, None, notes
    most = int(numbers.max())
    white = 2**bits - 1 if BYTE < 2**bits - 1 < WORD else WORD
    if image.mode == "I" and bits != 16:
        if numbers.min() < 0 or not BYTE < most <= WORD:
            raise InputError(
                Code.UNREADABLE_IMAGE,
                "The range of an image of 32-bit integers is not known",
                got=f"values from {int(numbers.min())} to {most}",
                expected="8 or 16 bits, or an array of floating-point numbers in the task's bounds",
            )
        notes.append(f"its 32-bit integers were read as 16 bits, as they end at {most}")
    if (clear := image.info.get("transparency")) is not None and bool((numbers == clear).any()):
        numbers = np.where(numbers == clear, np.float32(white), numbers)
        notes.append(ON_WHITE)
    if (text := dark(most, white)) is not None:
        notes.append(text)
    return (white - numbers if inverted else numbers), white, notes


def _on_white(image: Image.Image, mode: str) -> tuple[Image.Image, bool]:
    """The image in a mode, and whether it was laid on white because the mode has no transparency."""
    if mode == "RGBA" or not _has_alpha(image):
        return image.convert(mode), False
    seen = image.convert("RGBA")
    least, _ = seen.getchannel("A").getextrema()
    if least == BYTE:
        return seen.convert(mode), False
    return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert(mode), True


def _has_alpha(image: Image.Image) -> bool:
    palette = image.palette.mode if image.palette is not None else ""
    held = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    return held or palette.endswith("A")


def _resize(image: Image.Image, size: tuple[int, int] | None, fit: Fit) -> Image.Image:
    if size is None:
        return image
    height, width = size
    if fit == "stretch":
        return image.resize((width, height), Image.Resampling.BICUBIC)
    return ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)


def _is_data_set(source: Any) -> bool:
    return hasattr(source, "__getitem__") and hasattr(source, "__len__") and not isinstance(source, bytes)

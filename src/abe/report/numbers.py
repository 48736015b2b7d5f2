"""Numbers and pixels as people read them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abe.errors import Code, SpecError

WHITE, FRAME = (255, 255, 255), (213, 74, 0)
"""Colours of the frame of a box."""
SMALL = 128
"""Pixels of a side below which a frame is one line: more would cover too much."""


def number(value: float | None, digits: int = 3) -> str:
    """A number with a typographic minus, or a dash for none."""
    if value is None or not np.isfinite(value):
        return "–"
    if value and (abs(value) < 0.5 * 10**-digits or abs(value) >= 1e5):
        return f"{value:.1e}".replace("-", "−")
    return f"{value:.{digits}f}".replace("-", "−")


def percent(value: float | None) -> str:
    """A share as percent with sensible digits, or a dash for none."""
    if value is None or not np.isfinite(value):
        return "–"
    share = 100 * value
    digits = 0 if abs(share) >= 10 else 1 if abs(share) >= 1 else 2
    text = f"{share:.{digits}f}"
    return f"{text.removeprefix('-') if float(text) == 0 else text} %".replace("-", "−")


def signed(value: float, *, plus: bool = True, space: bool = False) -> str:
    """A number of three digits with its sign, a typographic one."""
    if not np.isfinite(value):
        return "–"
    size = abs(value)
    text = (
        f"{size:.1e}" if size >= 1e5 or 0 < size < 5e-4 else f"{size:.3g}" if size >= 100 else f"{size:.2f}"
    )
    if 0 < size < 0.0995 and "e" not in text:
        text = f"{size:.3f}"
    sign = "−" if value < 0 and float(text) else "+" if plus or space else ""
    return f"{sign} {text}" if space else f"{sign}{text}"


def pixels(x: Any) -> NDArray[np.uint8]:
    """A (c, h, w) tensor or array as 8-bit RGB: in [0, 1] as it is, anything else stretched to its range.

    One channel is grey; with two or more than three channels their mean is shown.
    """
    array = np.asarray(x.detach().float().cpu().numpy() if hasattr(x, "detach") else x, np.float64)
    if array.ndim != 3:
        raise SpecError(
            Code.UNSUPPORTED,
            "Only images can be drawn as a panel",
            got=f"features of shape {tuple(array.shape)}",
            expected="(channels, height, width)",
        )
    array = np.nan_to_num(array)
    if array.shape[0] != 3:
        array = np.repeat(array.mean(0, keepdims=True), 3, axis=0)
    low, high = float(array.min()), float(array.max())
    if low < 0 or high > 1:
        array = (array - low) / ((high - low) or 1.0)
    return np.rint(255 * array.transpose(1, 2, 0)).astype(np.uint8)


def boxed(image: NDArray[np.uint8], box: Sequence[float], width: int = 1) -> NDArray[np.uint8]:
    """A picture (h, w, 3) with the frame of a box in orange between white lines, as far as it is inside.

    Args:
        image: the picture.
        box: left, top, right, bottom in pixels.
        width: of each of the three lines.
    """
    found, (h, w) = image.copy(), image.shape[:2]
    left, top, right, bottom = (round(side) for side in box)
    lines = [(-width, WHITE), (width, WHITE), (0, FRAME)]
    for inset, colour in lines if max(h, w) >= SMALL else lines[-1:]:
        rows = np.arange(h)[:, None] + 0.5
        columns = np.arange(w)[None] + 0.5
        near = (top + inset, bottom - inset, left + inset, right - inset)
        outer = _within(rows, columns, near)
        inner = _within(rows, columns, (near[0] + width, near[1] - width, near[2] + width, near[3] - width))
        found[outer & ~inner] = colour
    return found


def _within(rows: Any, columns: Any, sides: tuple[float, float, float, float]) -> Any:
    """(h, w) what lies between top, bottom, left and right."""
    top, bottom, left, right = sides
    return (rows > top) & (rows < bottom) & (columns > left) & (columns < right)


def outlined(image: NDArray[np.uint8], region: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """A picture (h, w, 3) with the border of a region (h, w) in white within and black around it."""
    found = image.copy()
    for inside, grey in ((region, 255), (~region, 0)):
        around = np.pad(inside, 1, constant_values=True)
        held = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
        found[inside & ~held] = grey
    return found

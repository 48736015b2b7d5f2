"""How maps become colours: two readings of one map, and line colours, safe for colour-blind readers.

*Signed*: one hue per sign, orange for the decision and blue against it, whose opacity grows with the
magnitude; unimportant pixels stay clear, so the photograph shows through on a light or a dark page.

*Where*: the magnitude averaged over a neighbourhood, on a scale of rising lightness. Pixel maps are
noise to the eye; this reading shows which region the method looks at, and says nothing about signs.
"""

import itertools

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]

SUPPORTS = (213, 74, 0)
OPPOSES = (20, 100, 214)
"""Orange and blue of about the same lightness: apart for every common colour blindness."""

PERCENTILE = 99.0
"""Share of pixels inside the colour scale, in percent: one outlier must not wash out the map."""
SIGNED_POWER = 1.2
"""Opacity is magnitude to this power; above one it thins the haze of weak pixels."""
NEIGHBOURHOOD = 0.02
"""Standard deviation of the averaging of `where`, as a share of the longer side (4.5 of 224 pixels)."""
SMOOTH = 0.008
"""Standard deviation of the averaging of a smoothed signed map, as a share of the longer side."""
WHERE_OPACITY = 0.62

CYCLE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a8a8a", "#7b4fb8")
"""Line colours after Okabe and Ito, with a grey and a violet for their yellow and black."""
DASHES = ((), (5.0, 2.5), (1.5, 1.5))
"""Dash patterns; a colour comes again with the next pattern."""


def line(index: int) -> tuple[str, tuple[float, ...]]:
    """Colour and dash pattern of the index-th line."""
    return CYCLE[index % len(CYCLE)], DASHES[(index // len(CYCLE)) % len(DASHES)]


def limit(values: Array, percentile: float = PERCENTILE) -> float:
    """The magnitude drawn at full strength: a percentile of |values|.

    A map that is zero nearly everywhere has a zero percentile; its maximum is used then. A zero map
    has the limit 1, so that it is drawn empty.
    """
    magnitude = np.abs(values[np.isfinite(values)])
    if magnitude.size == 0:
        return 1.0
    bound = float(np.percentile(magnitude, percentile)) or float(magnitude.max())
    return bound if bound > 0 else 1.0


def signed_levels(values: Array, bound: float) -> NDArray[np.uint8]:
    """Levels 0..254 of a signed map: 127 is zero, 254 is +bound; what is not finite is zero."""
    finite = np.nan_to_num(values / bound, nan=0.0, posinf=1.0, neginf=-1.0)
    return np.rint(127 + 127 * np.clip(finite, -1.0, 1.0)).astype(np.uint8)


def signed_palette() -> NDArray[np.uint8]:
    """(255, 4) RGBA of each level of `signed_levels`."""
    signed = (np.arange(255) - 127) / 127
    hues = np.where(signed[:, None] >= 0, np.array(SUPPORTS), np.array(OPPOSES))
    alpha = np.rint(255 * np.abs(signed) ** SIGNED_POWER)
    return np.concatenate([hues, alpha[:, None]], axis=1).astype(np.uint8)


def average(values: Array, sigma: float) -> Array:
    """Gaussian average over neighbours, weights normalised at the edges; sigma 0 changes nothing."""
    if sigma <= 0:
        return values
    rows, columns = (_weights(n, sigma) for n in values.shape)
    return rows @ values @ columns.T


def _weights(n: int, sigma: float) -> Array:
    distance = np.arange(n)[:, None] - np.arange(n)[None, :]
    weights = np.exp(-0.5 * (distance / sigma) ** 2)
    return weights / weights.sum(axis=1, keepdims=True)


def where_levels(values: Array) -> NDArray[np.uint8]:
    """Levels 0..254 of the neighbourhood average of |values|, from its 5th to its 99.5th percentile."""
    magnitude = average(np.abs(np.nan_to_num(values)), NEIGHBOURHOOD * max(values.shape))
    low, high = np.percentile(magnitude, [5, 99.5])
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    return np.rint(254 * np.clip((magnitude - low) / (high - low), 0, 1)).astype(np.uint8)


def where_palette() -> NDArray[np.uint8]:
    """(255, 4) RGBA of each level of `where_levels`: black, violet, orange, yellow, evenly lighter."""
    from matplotlib import colormaps

    return colormaps["inferno"](np.linspace(0, 1, 255), alpha=WHERE_OPACITY, bytes=True)


def over(
    levels: NDArray[np.uint8], palette: NDArray[np.uint8], ground: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Colour ``levels`` (h, w) and lay them over the picture ``ground`` (h, w, 3)."""
    rgba = palette[levels].astype(np.float64)
    alpha = rgba[..., 3:] / 255
    return np.rint(ground * (1 - alpha) + rgba[..., :3] * alpha).astype(np.uint8)


def grey(photo: NDArray[np.uint8], strength: float = 1.0) -> NDArray[np.uint8]:
    """The photograph in greys, faded towards white paper by 1 - strength; (h, w, 3)."""
    luma = photo @ np.array([0.299, 0.587, 0.114])
    return np.repeat((255 * (1 - strength) + strength * luma)[..., None], 3, axis=2).astype(np.uint8)


TINT = 0.6
"""Opacity of the ground of words at full strength: the text stays readable on it."""


def tint(strength: float, most: float = TINT) -> tuple[float, float, float]:
    """The colour of a value from -1 to 1 laid over white, as shares of red, green and blue."""
    hue = SUPPORTS if strength >= 0 else OPPOSES
    alpha = opacity(strength, most)
    red, green, blue = (1 - alpha + alpha * part / 255 for part in hue)
    return red, green, blue


def opacity(strength: float, most: float = TINT) -> float:
    """How much of the hue is seen of a value from -1 to 1."""
    return most * min(1.0, abs(strength)) ** SIGNED_POWER if np.isfinite(strength) else 0.0


def as_grey(values: Array) -> NDArray[np.uint8]:
    """Numbers of any range as 8-bit greys, in three equal channels behind."""
    finite = np.nan_to_num(values)
    low, high = float(finite.min()), float(finite.max())
    shown = np.rint(255 * (finite - low) / ((high - low) or 1.0)).astype(np.uint8)
    return np.repeat(shown[..., None], 3, axis=-1)


def largest(values: Array, most: int) -> Array:
    """At most so many numbers: of neighbours the one of largest magnitude."""
    if len(values) <= most:
        return values
    edges = np.linspace(0, len(values), most + 1).astype(int)
    return np.array([values[a:b][np.abs(values[a:b]).argmax()] for a, b in itertools.pairwise(edges)])

"""One figure of a gallery: every photograph, and beside and below it every method's map."""

import io
import math
from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from abe import Explanation
from abe.report import colour

COLUMNS = 4
"""As many as are legible on a page; one more where that saves a line."""
BLUR = 1.5
"""Pixels that maps of single pixels are averaged over; without it they look like noise."""


def draw(found: Mapping[str, Explanation], *, signed: bool, notes: Mapping[str, str] | None = None) -> None:
    """Show the maps of all methods over the photographs.

    Args:
        found: title and result of every method, for the same photographs.
        signed: orange for the decision, blue against it, up to the 99th percentile; else a scale of
            brightness from zero to the map's largest value.
        notes: titles to the diagnostic that is printed over their maps.
    """
    first = next(iter(found.values()))
    tiles = 1 + len(found)
    columns = tiles if tiles <= COLUMNS + 1 else COLUMNS
    lines = math.ceil(tiles / columns) * len(first.x)
    size = (1.9 * columns, 2.15 * lines)
    figure, axes = plt.subplots(lines, columns, figsize=size, layout="constrained")
    for axis in axes.flat:
        axis.set_axis_off()
    for row, places in enumerate(axes.reshape(len(first.x), -1)):
        photo = np.rint(255 * first.x[row].movedim(0, -1).double().numpy()).astype(np.uint8)
        places[0].imshow(photo)
        places[0].set_title(first.target_names[row], fontsize=9, fontweight="bold")
        for tile, (title, explanation) in zip(places[1:], found.items(), strict=False):
            values = explanation.attribution[row].sum(0).double().numpy()
            tile.imshow(_signed(photo, values) if signed else _bright(photo, values))
            name = (notes or {}).get(title, "")
            said = f"{float(explanation.diagnostics[name][row]):,.0f} {name}" if name else ""
            tile.set_title("\n".join(filter(None, [title, said])), fontsize=9)
    figure.get_layout_engine().set(hspace=0.06)
    plt.show()


def _signed(photo: NDArray[np.uint8], values: NDArray[np.float64]) -> NDArray[np.uint8]:
    smooth = colour.average(values, BLUR)
    levels = colour.signed_levels(smooth, colour.limit(smooth))
    return colour.over(levels, colour.signed_palette(), colour.grey(photo, 0.6))


def _bright(photo: NDArray[np.uint8], values: NDArray[np.float64]) -> NDArray[np.uint8]:
    levels = np.rint(254 * np.clip(values / max(values.max(), 1e-12), 0, 1)).astype(np.uint8)
    return colour.over(levels, colour.where_palette(), colour.grey(photo))


def show(figure: Figure) -> None:
    """Put a finished figure on the page, which takes those of pyplot only."""
    held = io.BytesIO()
    figure.savefig(held, dpi=200)
    held.seek(0)
    axes = plt.figure(figsize=figure.get_size_inches()).add_axes((0.0, 0.0, 1.0, 1.0))
    axes.imshow(plt.imread(held))
    axes.set_axis_off()

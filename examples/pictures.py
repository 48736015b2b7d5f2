"""One figure of a gallery: a row per photograph, a column per method."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from abe import Explanation
from abe.report import colour

BLUR = 1.5
"""Pixels that maps of single pixels are averaged over; without it they look like noise."""


def draw(
    found: Mapping[str, Explanation], file: str, *, signed: bool, notes: Mapping[str, str] | None = None
) -> None:
    """Write the maps of all methods over the photographs.

    Args:
        found: title and result of every method, for the same photographs.
        file: the picture to write.
        signed: orange for the decision, blue against it, up to the 99th percentile; else a scale of
            brightness from zero to the map's largest value.
        notes: titles to the diagnostic that is printed over their maps.
    """
    first = next(iter(found.values()))
    rows, columns = len(first.x), len(found) + 1
    figure, axes = plt.subplots(rows, columns, figsize=(2.3 * columns, 2.6 * rows), squeeze=False)
    for row in range(rows):
        photo = np.rint(255 * first.x[row].movedim(0, -1).double().numpy()).astype(np.uint8)
        axes[row, 0].imshow(photo)
        axes[row, 0].set_title(first.target_names[row], fontsize=9)
        for column, (title, explanation) in enumerate(found.items(), start=1):
            values = explanation.attribution[row].sum(0).double().numpy()
            shown = _signed(photo, values) if signed else _bright(photo, values)
            axes[row, column].imshow(shown)
            name = (notes or {}).get(title, "")
            said = f"{float(explanation.diagnostics[name][row]):,.0f} {name}" if name else ""
            axes[row, column].set_title(
                "\n".join(filter(None, [title if row == 0 else "", said])), fontsize=9
            )
    for axis in axes.flat:
        axis.set_axis_off()
    figure.tight_layout()
    figure.savefig(file, dpi=80)
    plt.close(figure)


def _signed(photo: NDArray[np.uint8], values: NDArray[np.float64]) -> NDArray[np.uint8]:
    smooth = colour.average(values, BLUR)
    levels = colour.signed_levels(smooth, colour.limit(smooth))
    return colour.over(levels, colour.signed_palette(), colour.grey(photo, 0.6))


def _bright(photo: NDArray[np.uint8], values: NDArray[np.float64]) -> NDArray[np.uint8]:
    levels = np.rint(254 * np.clip(values / max(values.max(), 1e-12), 0, 1)).astype(np.uint8)
    return colour.over(levels, colour.where_palette(), colour.grey(photo))

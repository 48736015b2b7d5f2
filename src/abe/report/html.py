"""One self-contained page for a comparison: images inside, style inside, no request to anywhere."""

import base64
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from abe.errors import Code, PackageError
from abe.report import INSTALL, colour, view
from abe.storage import write

TEMPLATES = Path(__file__).parent / "templates"
MAPS_ABREAST = 6, 4
"""Most maps side by side on a wide screen and on a middling one."""
PLOT_WIDTH, PLOT_HEIGHT = 420, 200
"""Size of the plotting area of a curve, in the units of its drawing."""


def page(comparison: Any, *, title: str | None = None) -> str:
    """The HTML of a comparison.

    Args:
        comparison: what `abe.compare` returns.
        title: heading of the page.
    """
    return render(view.from_comparison(comparison, title=title))


def write_page(comparison: Any, path: str | Path, *, title: str | None = None) -> Path:
    """Write `page` to a file; a failed write leaves what was there before.

    Raises:
        StorageError: the file cannot be written.
    """
    return write(Path(path), page(comparison, title=title).encode("utf-8"))


def render(shown: view.PageView) -> str:
    """The HTML of a page's content; every text is escaped."""
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise PackageError(
            Code.MISSING_PACKAGE, "The HTML page needs jinja2", fix=f"Run: {INSTALL}"
        ) from error
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=view.percent, slug=view.slug, arrow=_arrow, best_way=_best_way)
    return environment.get_template("comparison.html.j2").render(
        page=shown,
        photos=[_photo(photo) for photo in shown.photos],
        percentile=colour.PERCENTILE,
        smooth=100 * colour.SMOOTH,
        incomplete=view.percent(view.INCOMPLETE),
        heat=_gradient(colour.where_palette()[::32, :3]),
        supports=_css(colour.SUPPORTS),
        opposes=_css(colour.OPPOSES),
    )


def _photo(photo: view.PhotoView) -> dict[str, Any]:
    """What the template needs of one photograph, pictures already encoded."""
    return {
        "view": photo,
        "uri": _jpeg(photo.image),
        "width": photo.image.shape[1],
        "height": photo.image.shape[0],
        "maps": [_map(shown) for shown in photo.maps],
        "curves": [_curve(curve) for curve in photo.curves],
        "abreast": [_abreast(len(photo.maps), most) for most in MAPS_ABREAST],
    }


def _abreast(count: int, most: int) -> int:
    """How many maps side by side, at most ``most``, so that the last line is as full as can be."""
    return min(range(max(2, most - 2), most + 1), key=lambda n: (-(-count // n) * n - count, -n))


def _map(shown: view.MapView) -> dict[str, Any]:
    smooth = colour.average(shown.values, colour.SMOOTH * max(shown.values.shape))
    return {
        "view": shown,
        "signed": _png(colour.signed_levels(smooth, colour.limit(smooth)), colour.signed_palette()),
        "exact": _png(
            colour.signed_levels(shown.values, colour.limit(shown.values)), colour.signed_palette()
        ),
        "where": _png(colour.where_levels(shown.values), colour.where_palette()),
    }


def _png(levels: NDArray[np.uint8], palette: NDArray[np.uint8]) -> str:
    """Levels as a palette PNG with per-level opacity: lossless and small."""
    image = Image.fromarray(levels)
    image.putpalette(palette[:, :3].tobytes())  # turns it into a palette image
    buffer = BytesIO()
    image.save(buffer, "PNG", optimize=True, transparency=palette[:, 3].tobytes())
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _jpeg(image: NDArray[np.uint8]) -> str:
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=90, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _curve(curve: view.CurveView) -> dict[str, Any]:
    """A curve as polylines in the units of the drawing, with round axis ends."""
    values = [v for _, line in curve.lines for v in line if np.isfinite(v)]
    low, high, ticks = _axis(min(values, default=0.0), max(values, default=1.0))
    lines = []
    for index, (name, ys) in enumerate(curve.lines):
        hue, dash = colour.line(index)
        points = [
            f"{PLOT_WIDTH * x:.1f},{PLOT_HEIGHT * (1 - (y - low) / (high - low)):.1f}"
            for x, y in zip(curve.x, ys, strict=True)
            if np.isfinite(y)
        ]
        lines.append({"name": name, "points": " ".join(points), "hue": hue, "dash": _dash(dash)})
    marks = [{"y": PLOT_HEIGHT * (1 - (t - low) / (high - low)), "text": f"{t:g}"} for t in ticks]
    return {"view": curve, "lines": lines, "marks": marks, "w": PLOT_WIDTH, "h": PLOT_HEIGHT}


def _dash(dash: tuple[float, ...]) -> str:
    return " ".join(f"{length:g}" for length in dash)


def _axis(low: float, high: float) -> tuple[float, float, list[float]]:
    """Round limits around [low, high], zero included where everything is positive, and their ticks."""
    low = min(low, 0.0) if low >= 0 or low < 0 < high else low
    if high <= low:
        high = low + 1.0
    raw = (high - low) / 4
    unit = 10.0 ** np.floor(np.log10(raw))
    step = float(next(unit * m for m in (1, 2, 2.5, 5, 10) if unit * m >= raw * 0.999))
    first, last = int(np.floor(low / step + 1e-9)), int(np.ceil(high / step - 1e-9))
    ticks = [round(step * k, 10) for k in range(first, last + 1)]
    return ticks[0], ticks[-1], ticks


def _arrow(direction: str | None) -> str:
    return {"higher": "↑", "lower": "↓"}.get(direction or "", "")


def _best_way(direction: str | None) -> str:
    return {"higher": "higher is better", "lower": "lower is better"}.get(direction or "", "not ranked")


def _css(rgb: tuple[int, int, int]) -> str:
    return f"rgb({rgb[0]} {rgb[1]} {rgb[2]})"


def _gradient(stops: NDArray[np.uint8]) -> str:
    return ", ".join(_css((int(r), int(g), int(b))) for r, g, b in stops)

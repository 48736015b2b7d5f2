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
from abe.report.looks import CHANNELS, SLICES, Look, is_pair
from abe.report.numbers import signed
from abe.storage import write

TEMPLATES = Path(__file__).parent / "templates"
MAPS_ABREAST = 6, 4
"""Most maps side by side on a wide screen and on a middling one."""
PLOT_WIDTH, PLOT_HEIGHT = 420, 200
"""Size of the plotting area of a curve, in the units of its drawing."""
LINE_HEIGHT = 60
"""Height of one channel's line in those units."""
STRIP, POINTS = 800, 1500
"""Most numbers of a line and most points that a page draws."""


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
        samples=[_sample(sample) for sample in shown.samples],
        pictured=any(sample.image is not None for sample in shown.samples),
        percentile=colour.PERCENTILE,
        smooth=100 * colour.SMOOTH,
        incomplete=view.percent(view.INCOMPLETE),
        heat=_gradient(colour.where_palette()[::32, :3]),
        supports=_css(colour.SUPPORTS),
        opposes=_css(colour.OPPOSES),
    )


def _sample(sample: view.SampleView) -> dict[str, Any]:
    """What the template needs of one sample, pictures already encoded."""
    found = {"view": sample, "curves": [_curve(curve) for curve in sample.curves]}
    if sample.image is None:
        return {**found, "image": None, "maps": [_reading(shown) for shown in sample.maps]}
    return {
        **found,
        "image": {
            "uri": _jpeg(sample.image),
            "shown": _jpeg(sample.image if sample.framed is None else sample.framed),
            "width": sample.image.shape[1],
            "height": sample.image.shape[0],
        },
        "maps": [_map(shown) for shown in sample.maps],
        "abreast": [_abreast(len(sample.maps), most) for most in MAPS_ABREAST],
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


def _reading(shown: view.MapView) -> dict[str, Any]:
    """A map over what is no photograph: everything that is looked at, and how the score is made up."""
    said = [] if shown.account is None else shown.account.said()
    return {
        "view": shown,
        "looks": [_look(look) for look in shown.looks],
        "pair": is_pair(shown.looks),
        "said": said,
    }


def _look(look: Look) -> dict[str, Any]:
    """One look with its drawing; the template lays words and bars itself."""
    drawn = {"lines": _lines, "slices": _slices, "points": _points, "picture": _picture}.get(look.kind)
    listed = [*look.entries, *([("fixed positions", "", look.fixed)] if look.fixed else [])]
    most = max((abs(value) for *_, value in listed), default=0.0) or 1.0
    entries = [
        {
            "name": name,
            "there": there,
            "value": signed(value),
            "share": 100 * abs(value) / most,
            "for": value >= 0,
        }
        for name, there, value in listed
    ]
    bound = look.bound
    words = [
        {
            "text": text,
            "ground": "" if word < 0 else _ground(float(look.values[word]) / bound),
            "title": "" if word < 0 else signed(float(look.values[word])),
        }
        for text, word in look.pieces
    ]
    return {
        "kind": look.kind,
        "title": look.heading,
        "unit": look.unit,
        "entries": entries,
        "there": any(there for _, there, _ in look.entries),
        "words": words,
        "scale": signed(bound, plus=False),
        "drawn": drawn(look, bound) if drawn else {},
    }


def _ground(strength: float) -> str:
    """The colour under a word; it lets the page's own ground through, which is dark in the dark."""
    hue = colour.SUPPORTS if strength >= 0 else colour.OPPOSES
    alpha = colour.opacity(strength)
    return f"rgb({hue[0]} {hue[1]} {hue[2]} / {alpha:.2f})" if alpha >= 0.02 else ""


def _lines(look: Look, bound: float) -> dict[str, Any]:
    """Every channel as a line, and its map as a strip of pixels that the page stretches."""
    ground = np.nan_to_num(np.asarray(look.ground, np.float64))
    own = len(look.values) == len(ground)
    share = np.abs(look.values).sum(1) if own else np.ones(len(ground))
    chosen = sorted(np.argsort(-share, kind="stable")[:CHANNELS].tolist())
    strip = [
        _png(colour.signed_levels(colour.largest(v, STRIP), bound)[None], colour.signed_palette())
        for v in look.values
    ]
    lines = []
    for channel in chosen:
        values = colour.largest(ground[channel], STRIP)
        low, high = float(values.min()), float(values.max())
        step = PLOT_WIDTH / max(1, len(values))
        points = " ".join(
            f"{step * (n + 0.5):.1f},{LINE_HEIGHT * (0.95 - 0.9 * (v - low) / ((high - low) or 1)):.1f}"
            for n, v in enumerate(values.tolist())
        )
        ends = [f"{end:.3g}".replace("-", "−") for end in (low, high)]
        lines.append(
            {
                "channel": look.rows[channel],
                "points": points,
                "ends": ends,
                "strip": strip[channel] if own else "",
            }
        )
    if not own and lines:
        lines[-1]["strip"] = strip[0]
    return {
        "lines": lines,
        "w": PLOT_WIDTH,
        "h": LINE_HEIGHT,
        "last": ground.shape[1] - 1,
        "all": len(ground),
    }


def _slices(look: Look, bound: float) -> dict[str, Any]:
    """The slices that hold most of the magnitude, each over its own greys."""
    share = np.abs(look.values).sum((1, 2))
    chosen = sorted(np.argsort(-share, kind="stable")[:SLICES].tolist())
    whole, grounds = float(share.sum()) or 1.0, colour.as_grey(np.asarray(look.ground))
    tiles = [
        _tile(
            f"{look.unit} {n}: {100 * share[n] / whole:.0f} %",
            look.values[n],
            bound,
            colour.grey(grounds[n], 0.5),
        )
        for n in chosen
    ]
    return {"tiles": tiles, "of": len(share)}


def _picture(look: Look, bound: float) -> dict[str, Any]:
    """What lies as a picture, and the map over it."""
    ground = np.asarray(look.ground)
    empty = _tile("as the model sees it", np.zeros(ground.shape[:2]), 1.0, ground)
    return {
        "tiles": [empty, _tile("the map over it", look.values, bound, colour.grey(ground, 0.16))],
        "of": 0,
    }


def _tile(name: str, values: NDArray[Any], bound: float, ground: NDArray[np.uint8]) -> dict[str, Any]:
    laid = colour.over(colour.signed_levels(values, bound), colour.signed_palette(), ground)
    buffer = BytesIO()
    Image.fromarray(laid).save(buffer, "PNG", optimize=True)
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return {"name": name, "uri": uri, "width": laid.shape[1], "height": laid.shape[0]}


def _points(look: Look, bound: float) -> dict[str, Any]:
    """Points from the front, and from the side where they have a depth; the strongest of many."""
    places = np.nan_to_num(np.asarray(look.ground, np.float64))
    order = np.argsort(np.abs(look.values), kind="stable")[-POINTS:]
    low, high = places.min(1, keepdims=True), places.max(1, keepdims=True)
    side = float((high - low).max()) or 1.0
    laid = 0.5 + (places - (low + high) / 2) / side
    found = []
    for across, up in [(0, 1)] if len(places) < 3 else [(0, 1), (2, 1)]:
        dots = [
            {
                "x": f"{10 + 180 * laid[across, n]:.1f}",
                "y": f"{190 - 180 * laid[up, n]:.1f}",
                "hue": _ground(float(look.values[n]) / bound) or "none",
            }
            for n in order.tolist()
        ]
        found.append({"name": f"coordinate {across} across, {up} up", "dots": dots})
    return {"views": found, "shown": len(order), "of": places.shape[1]}


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

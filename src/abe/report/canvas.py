"""An empty figure, and how one is written: no pyplot, no global state, nothing left behind."""

import warnings
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from abe.errors import Code, PackageError, StorageError
from abe.report import INSTALL

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#1f2328"
MUTED = "#6a737d"
RULE = "#d0d7de"
ARROWS = {"higher": "↑", "lower": "↓"}
SCRIPTS = (
    "CJK",
    "WenQuanYi",
    "PingFang",
    "Hiragino",
    "YaHei",
    "Malgun",
    "Gothic",
    "Emoji",
    "Arabic",
    "Devanagari",
)
"""Parts of the names of fonts with letters that the usual one lacks."""


def blank(width: float, height: float) -> "Figure":
    """An empty figure of so many inches that belongs to nobody."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PackageError(Code.MISSING_PACKAGE, "Figures need matplotlib", fix=f"Run: {INSTALL}") from error
    figure = Figure(figsize=(width, height), dpi=130, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def finish(figure: "Figure", path: str | Path | None) -> "Figure":
    """The figure, written to ``path`` where one is given."""
    if path is not None:
        save(figure, path)
    return figure


def save(figure: "Figure", path: str | Path) -> Path:
    """Write a figure; a failed write leaves what was there before.

    Raises:
        StorageError: the file cannot be written, or its suffix names no known format.
    """
    from abe.storage import write

    target, buffer = Path(path), BytesIO()
    kind = target.suffix.lstrip(".").lower() or "png"
    _speak_every_script(figure)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from")  # where no installed font has it
            figure.savefig(buffer, format=kind)
    except ValueError as error:
        raise StorageError(
            Code.NOT_WRITTEN,
            "The figure has an unknown format",
            got=target.suffix,
            expected=".png, .pdf or .svg",
        ) from error
    return write(target if target.suffix else target.with_suffix(".png"), _small(buffer, kind))


def _small(drawn: BytesIO, kind: str) -> bytes:
    """The file's bytes; a PNG in 64 levels per colour, which the eye does not miss, at half the size."""
    if kind != "png":
        return drawn.getvalue()
    from PIL import Image

    buffer = BytesIO()
    with Image.open(drawn) as image:
        levels = [min(255, round(value / 4) * 4) for value in range(256)]
        image.convert("RGB").point(levels * 3).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _speak_every_script(figure: "Figure") -> None:
    """Let texts fall back to fonts of other scripts, where such are installed."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_fontfamily(families())


@cache
def families() -> list[str]:
    """The usual font, and installed ones with letters of other scripts."""
    from matplotlib.font_manager import get_font_names

    known = [name for name in get_font_names() if any(part in name for part in SCRIPTS)]
    return ["DejaVu Sans", *sorted(known)]


def plain(text: str) -> str:
    """Text without mathtext: a dollar sign in a label or file name stays a dollar sign."""
    return text.replace("$", r"\$")


def short(name: str, length: int = 32) -> str:
    """The beginning of a name that is too long."""
    return name if len(name) <= length else name[: length - 1] + "…"

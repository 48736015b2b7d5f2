"""Lines with a strip beneath, slices of volumes, points, and pictures that are no photographs."""

from typing import TYPE_CHECKING, Any

import numpy as np

from abe.report import colour
from abe.report.blocks import ROOM, Block, Sheet, fitted
from abe.report.canvas import INK, MUTED, RULE
from abe.report.looks import CHANNELS, SLICES, Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
SIDE = 1.8
"""Inches across of a picture, and of the map over it."""


def lines(look: Look) -> Block:
    """Every channel as a line with the map as a strip beneath it."""
    ground, values = np.asarray(look.ground, np.float64), look.values
    own = len(values) == len(ground)
    share = np.abs(values).sum(1) if own else np.ones(len(ground))
    chosen = sorted(np.argsort(-share, kind="stable")[:CHANNELS].tolist())
    tall, strip, names, gap = 0.62, 0.16, 1.15, 0.1
    height = sum(tall + gap for _ in chosen) + strip * (len(chosen) if own else 1) + 0.22
    cut = (
        f"{len(chosen)} of {len(ground)} channels, those with the largest share"
        if len(chosen) < len(ground)
        else ""
    )

    def paint(sheet: Sheet, left: float, top: float) -> None:
        wide, t = ROOM - names, ground.shape[1]
        for channel in chosen:
            axes = sheet.axes(left + names, top, wide, tall)
            axes.plot(np.arange(t), ground[channel], color=INK, linewidth=0.9, marker="." if t == 1 else None)
            axes.set(xlim=(-0.5, t - 0.5), xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set(edgecolor=RULE, linewidth=0.6)
            ends = [float(np.nanmin(ground[channel])), float(np.nanmax(ground[channel]))]
            for place, end in zip(("bottom", "top"), ends, strict=True):
                y = 0.02 if place == "bottom" else 0.98
                axes.text(
                    -0.008,
                    y,
                    f"{end:.3g}".replace("-", "−"),
                    fontsize=6.5,
                    color=MUTED,
                    ha="right",
                    va=place,
                    transform=axes.transAxes,
                )
            sheet.write(
                left,
                top + tall / 2 - 0.06,
                fitted(look.rows[channel], 7.5, names - 0.36) if len(ground) > 1 else "",
                size=7.5,
            )
            top += tall
            if own or channel == chosen[-1]:
                _strip(sheet.axes(left + names, top, wide, strip), values[channel if own else 0], look.bound)
                top += strip
            top += gap
        last = sheet.axes(left + names, top - gap + 0.03, wide, 0.01)
        last.patch.set_visible(False)
        last.set(xlim=(-0.5, t - 0.5), yticks=[])
        last.spines[["left", "right", "top", "bottom"]].set_visible(False)
        last.tick_params(labelsize=6.5, colors=MUTED, length=2)
        if t > 8:
            last.locator_params(axis="x", nbins=8, integer=True)
        else:
            last.set_xticks(range(t))
        if cut:
            sheet.write(left, top + 0.14, cut, size=7, ink=MUTED)

    return Block(height + (0.12 if cut else 0), paint)


def _strip(axes: "Axes", values: Any, bound: float) -> None:
    """A line's map as a strip of colours; neighbours share a column where there are more than fit."""
    levels = colour.signed_levels(colour.largest(values, 1200), bound)
    white = np.full((1, len(levels), 3), 255, np.uint8)
    axes.imshow(
        colour.over(levels[None], colour.signed_palette(), white), aspect="auto", interpolation="nearest"
    )
    _bare(axes)


def _bare(axes: "Axes") -> None:
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(edgecolor=RULE, linewidth=0.6)


def slices(look: Look) -> Block:
    """The slices that hold most of the magnitude, in order."""
    share = np.abs(look.values).sum((1, 2))
    chosen = sorted(np.argsort(-share, kind="stable")[:SLICES].tolist())
    whole, side = float(share.sum()) or 1.0, (ROOM - 0.1 * (SLICES - 1)) / SLICES
    h, w = look.values.shape[1:]
    tall = min(2.5, side * h / w)
    grounds = colour.as_grey(np.asarray(look.ground))

    def paint(sheet: Sheet, left: float, top: float) -> None:
        for place, number in enumerate(chosen):
            at = left + place * (side + 0.1)
            sheet.write(at, top, f"{look.unit} {number}: {100 * share[number] / whole:.0f} %", size=7.5)
            axes = sheet.axes(at, top + 0.18, side, tall)
            _overlaid(axes, look.values[number], look.bound, colour.grey(grounds[number], 0.5))
        rest = 100 * (1 - share[chosen].sum() / whole)
        if len(chosen) < len(share):
            said = (
                f"{len(chosen)} of {len(share)} {look.unit}s; the others hold {rest:.0f} % of the magnitude"
            )
            sheet.write(left, top + tall + 0.22, said, size=7, ink=MUTED)

    return Block(tall + 0.4, paint)


def _overlaid(axes: "Axes", values: Any, bound: float, ground: Any) -> None:
    levels = colour.signed_levels(values, bound)
    axes.imshow(colour.over(levels, colour.signed_palette(), ground), interpolation="nearest")
    axes.set_anchor("NW")
    _bare(axes)


def points(look: Look) -> Block:
    """Points from the front, and from the side where they have a depth."""
    places = np.asarray(look.ground)
    views = [(0, 1)] if len(places) < 3 else [(0, 1), (2, 1)]
    side = 2.5

    def paint(sheet: Sheet, left: float, top: float) -> None:
        strength = np.clip(look.values / look.bound, -1, 1)
        order = np.argsort(np.abs(strength), kind="stable")  # the strongest are on top
        hues = [colour.tint(float(s), 1.0) for s in strength[order]]
        for place, (across, up) in enumerate(views):
            axes = sheet.axes(left + 0.3 + place * (side + 0.5), top, side, side)
            axes.scatter(
                places[across, order],
                places[up, order],
                c=hues,
                s=max(4, min(30, 6000 / len(order))),
                edgecolors=RULE,
                linewidths=0.3,
            )
            axes.set_aspect("equal", adjustable="datalim")
            axes.locator_params(nbins=5)
            axes.tick_params(labelsize=6, colors=MUTED, length=2)
            axes.set_xlabel(f"coordinate {across}", fontsize=7, color=MUTED, labelpad=1)
            axes.set_ylabel(f"coordinate {up}", fontsize=7, color=MUTED, labelpad=1)
            for spine in axes.spines.values():
                spine.set(edgecolor=RULE, linewidth=0.6)

    return Block(side + 0.35, paint)


def picture(look: Look) -> Block:
    """What lies as a picture, and the map over it."""
    ground, side = np.asarray(look.ground), SIDE
    tall = min(3.0, side * ground.shape[0] / ground.shape[1])

    def paint(sheet: Sheet, left: float, top: float) -> None:
        axes = sheet.axes(left, top, side, tall)
        axes.imshow(ground, interpolation="nearest")
        axes.set_anchor("NW")
        _bare(axes)
        _overlaid(
            sheet.axes(left + side + 0.15, top, side, tall),
            look.values,
            look.bound,
            colour.grey(ground, 0.16),
        )

    return Block(tall + 0.08, paint)

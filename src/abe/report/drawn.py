"""What is no photograph, drawn block under block; every block knows its height, so nothing overlaps."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abe.report import bars, colour, grids
from abe.report.blocks import ANSWERS, MARGIN, ROOM, SUPPORTS, WIDTH, Block, Sheet, note, stacked, words_of
from abe.report.canvas import INK, MUTED, RULE, blank, finish, plain, short
from abe.report.looks import Account, Look, is_pair
from abe.report.numbers import percent, signed

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(samples: Sequence[Any], *, path: str | Path | None = None) -> "Figure":
    """Samples that are no photographs: of each, what the model answers, curves, and its maps.

    Args:
        samples: of `abe.report.view.SampleView`.
        path: also write the figure there.
    """
    swarm = bars.swarm(samples)
    stacks = (
        [[swarm]]
        if swarm is not None
        else [_sample(one, len(samples) > 1 or len(one.maps) > 1) for one in samples]
    )
    gap = 0.25
    height = 2 * MARGIN + sum(sum(b.height for b in stack) for stack in stacks) + gap * (len(stacks) - 1)
    figure = blank(WIDTH, height)
    figure.set_layout_engine("none")
    sheet, top = Sheet(figure, WIDTH, height), MARGIN
    for stack in stacks:
        for block in stack:
            block.paint(sheet, MARGIN, top)
            top += block.height
        top += gap
    return finish(figure, path)


def _sample(sample: Any, several: bool) -> list[Block]:
    """One sample: title, answers beside the first map, curves, the other maps."""
    head = [_title(sample, several)]
    maps = [_map(one, len(sample.maps) > 1) for one in sample.maps]
    answers = _answers(sample)
    if sample.curves:
        return [
            *head,
            _beside(_curves(sample.curves[:2]), answers),
            *(block for own in maps for block in own),
        ]
    first = maps[0] if maps else []
    return [*head, _beside(stacked(first), answers), *(block for own in maps[1:] for block in own)]


def _beside(block: Block, answers: Block) -> Block:
    def paint(sheet: Sheet, left: float, top: float) -> None:
        block.paint(sheet, left, top)
        answers.paint(sheet, left + ROOM + 0.35, top)

    return Block(max(block.height, answers.height), paint)


def _title(sample: Any, several: bool) -> Block:
    name = f"{short(sample.name, 60)}, " if several and sample.name else ""
    told = short(sample.decision, 60)
    by = f", by {sample.maps[0].title}" if len(sample.maps) == 1 else ""

    def paint(sheet: Sheet, left: float, top: float) -> None:
        sheet.write(left, top, f"{name}explained: {told}{by}", size=10, weight="bold")

    return Block(0.3, paint)


def _answers(sample: Any) -> Block:
    """Bars of the most probable classes, as far as there are classes."""
    top = sample.top[:5]

    def paint(sheet: Sheet, left: float, above: float) -> None:
        if not top:
            return
        axes = sheet.axes(left, above + 0.18, ANSWERS, 0.32 * len(top))
        for row, (name, p) in enumerate(top):
            hue = SUPPORTS if name == sample.target else "#9aa4af"
            axes.barh(row + 0.62, p, height=0.26, color=hue)
            axes.text(0, row + 0.42, plain(f"{percent(p)}  {short(name, 30)}"), fontsize=7.5, color=INK)
        axes.set(xlim=(0, 1), ylim=(len(top), 0))
        axes.set_axis_off()
        sheet.write(left, above, "what the model answers", ink=MUTED)

    return Block(0.3 + 0.32 * len(top) if top else 0.0, paint)


def _map(shown: Any, named: bool) -> list[Block]:
    """One method's map: its name, everything that is looked at, and how the numbers are to be read."""
    blocks = [_heading(shown)] if named else []
    if is_pair(shown.looks):
        blocks.append(_pair(*shown.looks))
    for look in [] if is_pair(shown.looks) else shown.looks:
        if look.title:
            blocks.append(note(look.heading, INK))
        blocks.append(_look(look, shown.account if len(shown.looks) == 1 else None))
        blocks.append(note(scale(look), MUTED))
    if shown.account is not None:
        blocks.append(note("; ".join(shown.account.said()), MUTED))
    return [*blocks, Block(0.1, _nothing)]


def _pair(picture: Look, text: Look) -> Block:
    """A picture, and beside it its text."""
    left = 2 * grids.SIDE + 0.15
    at, room = left + 0.35, ROOM - left - 0.35
    sides = [
        stacked([note(look.heading, INK, wide), block, note(scale(look), MUTED, wide)])
        for look, block, wide in (
            (picture, grids.picture(picture), left),
            (text, words_of(text, room), room),
        )
    ]

    def paint(sheet: Sheet, begin: float, top: float) -> None:
        sides[0].paint(sheet, begin, top)
        sides[1].paint(sheet, begin + at, top)

    return Block(max(side.height for side in sides), paint)


def _nothing(sheet: Sheet, left: float, top: float) -> None:
    """What fills a gap."""


def scale(look: Look) -> str:
    """How the colours of one look are to be read."""
    if look.kind == "columns":
        return "orange supports, blue opposes"
    percentile = f"the {colour.PERCENTILE:g}th percentile of magnitude"
    where = "the strongest word" if look.kind == "words" else percentile
    return f"orange supports, blue opposes; full strength at ±{signed(look.bound, plus=False)}, {where}"


def _heading(shown: Any) -> Block:
    facts = "   ".join(f"{label} {value}" for label, value in shown.facts)

    def paint(sheet: Sheet, left: float, top: float) -> None:
        sheet.write(left, top, f"{short(shown.title, 60)}   {facts}", size=9)

    return Block(0.24, paint)


def _look(look: Look, account: Account | None) -> Block:
    if look.kind == "words":
        return words_of(look)
    if look.kind == "columns":
        return bars.columns(look, account)
    drawn = {"lines": grids.lines, "slices": grids.slices, "points": grids.points}
    return drawn.get(look.kind, grids.picture)(look)


# --- curves of a comparison ---------------------------------------------------------------------------


def _curves(curves: Sequence[Any]) -> Block:
    """Curves beside each other, and the names of their lines."""
    wide, tall = (ROOM - 1.9) / 2 - 0.55, 1.5
    names = [name for name, _ in curves[0].lines]

    def paint(sheet: Sheet, left: float, top: float) -> None:
        for place, curve in enumerate(curves):
            at = left + 0.45 + place * (wide + 0.6)
            sheet.write(at, top, curve.title, size=8)
            axes = sheet.axes(at, top + 0.2, wide, tall)
            for number, (_, values) in enumerate(curve.lines):
                hue, dash = colour.line(number)
                axes.plot(curve.x, values, color=hue, linestyle=(0, dash) if dash else "-", linewidth=1.2)
            axes.set_xlabel("share changed", fontsize=7, color=MUTED, labelpad=1)
            axes.set_ylabel(curve.value, fontsize=6.5, color=MUTED, labelpad=1)
            axes.tick_params(labelsize=6, colors=MUTED, length=2)
            axes.set_xlim(0, 1)
            axes.grid(color=RULE, linewidth=0.4)
            axes.spines[["top", "right"]].set_visible(False)
        at = left + 0.45 + 2 * (wide + 0.6) - 0.1
        room = sheet.axes(at, top + 0.1, 1.8, 0.16 * len(names))
        for number, name in enumerate(names):
            hue, dash = colour.line(number)
            room.plot([0, 0.14], [number] * 2, color=hue, linestyle=(0, dash) if dash else "-", linewidth=1.4)
            room.text(0.18, number, short(name, 24), fontsize=6.5, color=INK, va="center", parse_math=False)
        room.set(xlim=(0, 1), ylim=(len(names) - 0.5, -0.5))
        room.set_axis_off()

    return Block(max(tall + 0.65, 0.16 * len(names) + 0.2), paint)

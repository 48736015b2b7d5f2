"""What of a sample a person looks at, as plain values: a picture, words, columns, lines, slices, points."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise, takewhile
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from abe.explanation import PICTURES
from abe.report.colour import limit
from abe.report.numbers import percent, pixels, signed
from abe.terminal import readable

Kind = Literal["picture", "words", "columns", "lines", "slices", "points"]
Array = NDArray[np.float64]
NOUNS: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(PICTURES, ("photograph", "photographs")),
    "text": ("text", "texts"),
    "language": ("generated token", "generated tokens"),
    "tabular": ("row", "rows"),
    "series": ("series", "series"),
    "multimodal": ("pair", "pairs"),
}
"""What one sample of a modality is called, and several."""
PARTS: Mapping[str, str] = {
    **dict.fromkeys(PICTURES, "pixels"),
    "text": "words",
    "language": "words",
    "tabular": "columns",
    "series": "times",
    "multimodal": "patches and words",
}
"""What the samples of a modality consist of, for a person."""
WINDOWS = 8
"""Stretches of a line whose sums are told where nobody named others."""
EXACT = 1e-4
"""Share of the change that may be missing of a map that is called complete."""
CHANNELS, SLICES = 8, 6
"""Most lines and slices that are drawn: those that hold most of the magnitude."""
LISTED = 12
"""Most slices or points that are told."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """One sample, or one input of a sample, with the map over it.

    Attributes:
        kind: how it is shown.
        title: name of the input, where a sample has several.
        values: the map: (u,) of words, columns and points, (h, w) of a picture, (1 or c, t) of lines,
            (d, h, w) of slices.
        ground: what lies beneath: 8-bit pixels (h, w, 3), lines (c, t), slices (d, h, w), places (k, n).
        rows: of lines, their names.
        pieces: of words, the text cut up: what is read, and its word or -1.
        entries: (name, what is there, share of the map) of every word, column, stretch, slice or point.
        fixed: what the map gives to positions that are in no unit.
        unit: what the entries are called, one of them.
        total: sum of the map over this input, where a sample has several.
    """

    kind: Kind
    title: str = ""
    values: Array
    ground: NDArray[Any] | None = None
    rows: list[str] = field(default_factory=list[str])
    pieces: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    entries: list[tuple[str, str, float]] = field(default_factory=list[tuple[str, str, float]])
    fixed: float = 0.0
    unit: str = ""
    total: float | None = None

    @property
    def heading(self) -> str:
        """The input's name with its sum; nothing where a sample has one input."""
        told = "" if self.total is None else f": {signed(self.total)} in all"
        return f"{self.title}{told}" if self.title else ""

    @property
    def bound(self) -> float:
        """The magnitude that is shown at full strength."""
        whole = self.kind in ("words", "columns")
        return limit(self.values, 100.0) if whole else limit(self.values)


@dataclass(frozen=True, kw_only=True)
class Account:
    """How the explained score is made up.

    Attributes:
        objective: its name.
        score: at the sample.
        reference: at the reference; None where the method claims no sum.
        total: of the map.
        missing: of the change, what the map leaves out; None without a claim.
        fixed: of the map, what is in no unit.
    """

    objective: str
    score: float
    reference: float | None
    total: float
    missing: float | None
    fixed: float

    def said(self) -> list[str]:
        """The account in short sentences."""
        name = self.objective or "score"
        if self.reference is None or self.missing is None:
            known = [f"{name} {signed(self.score, plus=False)}"] if np.isfinite(self.score) else []
            told = [*known, f"the map sums to {signed(self.total)}, which claims no part of the score"]
        else:
            change = self.score - self.reference
            told = [
                f"{name} {signed(self.score, plus=False)} = {signed(self.reference, plus=False)} at the "
                f"reference {signed(change, space=True)}"
            ]
            if abs(self.missing) <= EXACT * abs(change):
                told.append("the map sums to that change")
            else:
                share = f" ({percent(self.missing / abs(change))})" if change else ""
                told.append(f"the map misses {signed(self.missing)} of that change{share}")
        return [*told, f"fixed positions {signed(self.fixed)}"] if self.fixed else told


def noun(modality: str, count: int = 1) -> str:
    """What so many samples of a modality are called."""
    return NOUNS.get(modality, ("sample", "samples"))[count != 1]


def decision(target: str, *, classes: bool) -> str:
    """The explained output as people call it: a number alone is said to be that of a class or an output."""
    bare = all(part.strip().isdigit() for part in target.strip("()").split(",") if part.strip())
    return f"{'class' if classes else 'output'} {target}" if bare and target else target


def is_picture(explanation: Any) -> bool:
    """Whether the samples are photographs, or activations that lie as one."""
    return explanation.modality in PICTURES


def looks(explanation: Any, index: int) -> list[Look]:
    """One sample of an explanation as a person looks at it: one entry, or one for each of several inputs.

    Raises:
        SpecError: it is made for images, and these features are none.
    """
    values = _numbers(explanation.attribution[index])
    x = _numbers(explanation.x[index])
    if explanation.channels == -1:
        values, x = np.moveaxis(values, -1, 0), np.moveaxis(x, -1, 0)
    shown = explanation.shown[index] if explanation.shown else None
    labels = None if explanation.labels is None else _whole(explanation.labels[index])
    names = [readable(name) for name in explanation.unit_names[index]] if labels is not None else []
    parts = explanation.parts
    several = len(parts) > 1 and explanation.modality not in ("tabular", "text")
    if not several:
        return [_look(explanation, values, x, shown, labels, names, "")]
    found: list[Look] = []
    for part in parts:

        def block(whole: Any, part: Any = part) -> Any:
            if whole is None or whole.shape[0] != explanation.x.shape[1]:
                return whole if whole is not None and whole.shape[1:] == part.shape[1:] else None
            cut = whole[part.start : part.stop]
            return cut.reshape(part.shape) if cut.size == int(np.prod(part.shape)) else cut

        own = shown.get(part.name, shown.get(str(part.name))) if isinstance(shown, Mapping) else None
        mine = values if values.shape[0] == 1 and x.shape[0] > 1 else block(values)
        called = [name.removeprefix(f"{part.name} ") for name in names]
        look = _look(explanation, mine, block(x), own, block(labels), called, str(part.name))
        found.append(replace(look, total=float(mine.sum())))
    return found


def _look(
    explanation: Any, values: Array, x: Array, shown: Any, labels: Any, names: Sequence[str], title: str
) -> Look:
    kind = _kind(explanation, x.shape, shown, labels is not None, alone=not title)
    if kind == "lines":
        values, x, labels = _without_padding(values, x, labels)
    sums, fixed, numbers = _sums(labels, values)
    own = [names[number] for number in numbers]
    told = [(name, "", value) for name, value in zip(own, sums.tolist(), strict=True)]
    if kind == "words":
        found = Look(kind=kind, values=sums, pieces=pieces(shown, own), entries=told)
    elif kind == "columns":
        found = _columns(values, x, shown, told, sums, labels is not None)
    elif kind == "picture":
        found = Look(kind=kind, values=_positions(values, x), ground=pixels(x), entries=told)
    elif kind == "points":
        found = _points(values, x, own, sums)
    elif kind == "slices":
        found = _slices(values, x, "frame" if explanation.unit == "frame" else "slice")
    else:
        lines = values.reshape(len(values), -1)
        unit = "" if told else "stretch"
        ground = x.reshape(len(x), -1)
        rows = _channels(labels, names, len(ground))
        told = told or _stretches(lines)
        found = Look(kind=kind, values=lines, ground=ground, entries=told, rows=rows, unit=unit)
    unit = found.unit or explanation.unit or "position"
    return replace(found, title=readable(title), fixed=fixed, unit=unit)


def _without_padding(values: Array, x: Array, labels: Any) -> tuple[Array, Array, Any]:
    """Lines without the steps behind the last one in any unit, to which the map gives nothing: no data."""
    if labels is None or values.shape[-1] != x.shape[-1] or labels.shape[-1] != x.shape[-1]:
        return values, x, labels
    told = (labels >= 0).any(0) | (values != 0).any(0)
    end = int(np.flatnonzero(told)[-1]) + 1 if told.any() else len(told)
    return values[:, :end], x[:, :end], labels[:, :end]


def _channels(labels: Any, names: Sequence[str], count: int) -> list[str]:
    """What the names of the units of every channel begin with; its number where they do not tell."""
    found = [f"channel {row}" for row in range(count)]
    if labels is None or len(labels) != count or count == 1:
        return found
    for row, own in enumerate(labels):
        units: list[int] = np.unique(own[own >= 0]).tolist()
        if not units:  # all of it is fixed
            continue
        words = [names[unit].split(" ") for unit in units]
        same = [one[0] for one in takewhile(lambda one: len(set(one)) == 1, zip(*words, strict=False))]
        prefix = " ".join(same).removesuffix(" t") if len(words) > 1 or not same else names[units[0]]
        found[row] = prefix or found[row]
    return found if len(set(found)) == count else [f"channel {row}" for row in range(count)]


def _kind(explanation: Any, shape: tuple[int, ...], shown: Any, named: bool, *, alone: bool) -> Kind:
    """How features (c, *positions) or (D,) are shown."""
    if alone and is_picture(explanation):
        return "picture"
    if named and (_is_text(shown) or (alone and explanation.modality in ("text", "language"))):
        return "words"
    if len(shape) == 1 or (named and isinstance(shown, Mapping)):
        return "columns"
    if len(shape) == 2:
        return "points" if explanation.unit == "point" and len(shape) == 2 and shape[0] >= 2 else "lines"
    return "picture" if len(shape) == 3 else "slices"


def _is_text(shown: Any) -> bool:
    if isinstance(shown, str):
        return True
    return isinstance(shown, list | tuple) and bool(shown) and all(isinstance(one, str) for one in shown)


def pieces(shown: Any, words: Sequence[str]) -> list[tuple[str, int]]:
    """A text cut up: words by their number, what lies between as -1; just the words where it is another."""
    texts = [shown] if isinstance(shown, str) else list(shown) if _is_text(shown) else []
    found: list[tuple[str, int]] = []
    number = 0
    for place, text in enumerate(texts):
        text = readable(text.replace("\n", " ").replace("\t", " "))
        found += [(" ‖ ", -1)] if place else []
        at = 0
        while number < len(words) and words[number] and (start := text.find(words[number], at)) >= 0:
            found += [(text[at:start], -1)] if start > at else []
            found.append((words[number], number))
            at = start + len(words[number])
            number += 1
        found += [(text[at:], -1)] if at < len(text) else []
    if number == len(words):
        return found
    spaced = [[(" ", -1), (word, n)] for n, word in enumerate(words)]
    return [one for both in spaced for one in both][1:]


def _columns(
    values: Array, x: Array, shown: Any, told: Sequence[tuple[str, str, float]], sums: Array, named: bool
) -> Look:
    """Columns of a row, with what is in them."""
    if not named:
        flat = values.reshape(len(values), -1).sum(1) if values.ndim > 1 else values
        held = [_cell(x[n]) if x.ndim == 1 else "" for n in range(len(flat))]
        entries = [(str(n), held[n], value) for n, value in enumerate(flat.tolist())]
        return Look(kind="columns", values=flat, entries=entries)
    row = {readable(str(k)): v for k, v in shown.items()} if isinstance(shown, Mapping) else {}
    if not row and x.ndim == 1 and len(told) == len(x):
        row = {name: x[place] for place, (name, *_) in enumerate(told)}
    entries = [(name, _cell(row[name]) if name in row else "", value) for name, _, value in told]
    return Look(kind="columns", values=sums, entries=entries)


def _cell(value: Any) -> str:
    """What a table holds at one place, shortly."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        return readable(str(value))
    return f"{float(value):.4g}".replace("-", "−")


def _points(values: Array, x: Array, names: Sequence[str], sums: Array) -> Look:
    """Points by their first coordinates."""
    count = x.shape[1]
    each = sums if len(names) == count else values.sum(0)
    called = list(names) if len(names) == count else [f"point {n}" for n in range(count)]
    order: list[int] = np.argsort(-np.abs(each), kind="stable")[:LISTED].tolist()
    entries = [(called[n], ", ".join(_cell(v) for v in x[:3, n]), float(each[n])) for n in order]
    return Look(kind="points", values=each, ground=x[:3], entries=entries, unit="point")


def _slices(values: Array, x: Array, unit: str) -> Look:
    """A volume or video as slices along its first axis of positions."""
    summed, ground = _positions(values, x), x.mean(0)
    summed, ground = (one.reshape(-1, *one.shape[-2:]) for one in (summed, ground))
    share = np.abs(summed).sum((1, 2))
    order = sorted(np.argsort(-share, kind="stable")[:LISTED].tolist())
    whole = float(share.sum()) or 1.0
    entries = [
        (f"{unit} {n}", f"{100 * share[n] / whole:.0f} % of the magnitude", float(summed[n].sum()))
        for n in order
    ]
    return Look(kind="slices", values=summed, ground=ground, entries=entries, unit=unit)


def _stretches(lines: Array) -> list[tuple[str, str, float]]:
    """Sums over stretches of every line (c, t)."""
    c, t = lines.shape
    edges = np.unique(np.linspace(0, t, min(WINDOWS, t) + 1).round().astype(int)).tolist()
    return [
        (
            f"{f'channel {row}, ' if c > 1 else ''}t {low}–{high - 1}"
            if high - low > 1
            else f"{f'channel {row}, ' if c > 1 else ''}t {low}",
            "",
            float(lines[row, low:high].sum()),
        )
        for row in range(c)
        for low, high in pairwise(edges)
    ]


def _sums(labels: Any, values: Array) -> tuple[Array, float, list[int]]:
    """Per unit that is there: the sum over it; the sum over no unit; the units' numbers."""
    if labels is None:
        return np.zeros(0), 0.0, []
    own = labels[:1] if values.ndim > 1 and len(values) == 1 else labels
    where = np.broadcast_to(own, values.shape).ravel()
    total = np.bincount(where + 1, weights=values.ravel(), minlength=1).astype(np.float64)
    numbers: list[int] = np.unique(where[where >= 0]).tolist()
    return total[[n + 1 for n in numbers]], float(total[0]), numbers


def _positions(values: Array, x: Array) -> Array:
    return values.sum(0) if values.ndim == x.ndim else values


def _numbers(tensor: Any) -> Array:
    return tensor.detach().double().cpu().numpy()


def _whole(tensor: Any) -> NDArray[np.int64]:
    return tensor.detach().cpu().numpy()


def account(explanation: Any, index: int) -> Account:
    """How the score of one sample is made up."""
    total = float(explanation.attribution[index].detach().double().sum())
    score = float(explanation.score[index])
    delta = None if explanation.delta is None else float(explanation.delta[index])
    claimed = delta is not None and np.isfinite(delta)
    classes = bool(explanation.top and explanation.top[index])
    plain = explanation.objective == "Logit" and not classes  # no class has it
    return Account(
        objective="Output" if plain else readable(explanation.objective),
        score=score,
        reference=score - delta if claimed and delta is not None else None,
        total=total,
        missing=delta - total if claimed and delta is not None else None,
        fixed=sum(look.fixed for look in looks(explanation, index))
        if explanation.labels is not None
        else 0.0,
    )


def is_pair(found: Sequence[Look]) -> bool:
    """Whether these are a picture and a text, which stand beside each other."""
    return [look.kind for look in found] == ["picture", "words"]


def strongest(look: Look, most: int) -> tuple[list[tuple[str, str, float]], list[tuple[str, str, float]]]:
    """The entries of largest magnitude, largest first, and the others."""
    order = sorted(look.entries, key=lambda entry: -abs(entry[2]))
    return (order, []) if len(order) <= most else (order[: most - 1], order[most - 1 :])

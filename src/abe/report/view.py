"""What a picture or page shows, as plain values: the one place that knows what results look like inside."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from unicodedata import category, normalize

import numpy as np
from numpy.typing import NDArray

from abe.errors import Code, SpecError
from abe.report import looks
from abe.report.looks import Account, Look
from abe.report.numbers import boxed, outlined
from abe.report.numbers import number as number
from abe.report.numbers import percent as percent
from abe.report.numbers import pixels as pixels
from abe.terminal import readable


@dataclass(frozen=True, kw_only=True)
class MapView:
    """One method's map of one sample.

    Attributes:
        method: registered name.
        title: human-readable name.
        values: (h, w) attribution of a photograph, summed over channels.
        facts: (label, value) pairs shown below it, such as the residual.
        looks: of what is no photograph, the map over everything that is looked at.
        account: how the explained score is made up.
    """

    method: str
    title: str
    values: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))
    facts: list[tuple[str, str]] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list[Look])
    account: Account | None = None


@dataclass(frozen=True, kw_only=True)
class CurveView:
    """One perturbation curve per method: a fraction of positions changed against a value."""

    name: str
    title: str
    value: str
    x: list[float]
    lines: list[tuple[str, list[float]]]


@dataclass(frozen=True, kw_only=True)
class SampleView:
    """One sample with its decision, maps and curves.

    Attributes:
        image: of a photograph, (h, w, 3) 8-bit pixels as the model saw them; an explained region is outlined.
        framed: the same with the explained box drawn.
        top: (class name, probability), most probable first.
        target: name of the explained decision.
    """

    name: str
    target: str
    top: list[tuple[str, float]]
    image: NDArray[np.uint8] | None = None
    framed: NDArray[np.uint8] | None = None
    outlined: bool = False
    maps: list[MapView] = field(default_factory=list)
    curves: list[CurveView] = field(default_factory=list)

    @property
    def shown(self) -> NDArray[np.uint8] | None:
        """The photograph, with the explained box where there is one."""
        return self.image if self.framed is None else self.framed

    @property
    def decision(self) -> str:
        """The target as people call it."""
        return looks.decision(self.target, classes=bool(self.top))

    @property
    def explained(self) -> str:
        """The decision, and that a region of it is outlined in the photograph."""
        return f"{self.decision}, outlined" if self.outlined else self.decision


@dataclass(frozen=True, kw_only=True)
class ColumnView:
    """One column of the ranked table."""

    key: str
    title: str
    direction: str | None = None
    about: str = ""


@dataclass(frozen=True, kw_only=True)
class CellView:
    """One number of the ranked table: as text, as a sort key, and whether it is the column's best.

    Attributes:
        spread: the interval and the single values, for who asks.
        amiss: whether the number says that the map leaves out too much of what it explains.
    """

    text: str
    value: float | None
    best: bool = False
    spread: str = ""
    amiss: bool = False


@dataclass(frozen=True, kw_only=True)
class TableView:
    """The ranked table: one row of cells per method.

    Attributes:
        doubt: why nobody has won, where the samples are too few to tell the methods apart.
    """

    columns: list[ColumnView]
    rows: list[tuple[str, str, list[CellView]]]
    caption: str = ""
    doubt: str = ""


@dataclass(frozen=True, kw_only=True)
class PageView:
    """A whole comparison.

    Attributes:
        noun: what one sample is called, and several.
        parts: what samples consist of.
    """

    title: str
    asked: list[tuple[str, str]]
    table: TableView
    samples: list[SampleView]
    settings: list[tuple[str, str]]
    versions: list[tuple[str, str]]
    notes: list[str]
    noun: tuple[str, str] = ("photograph", "photographs")
    parts: str = "pixels"


def method_title(name: str) -> str:
    """The human-readable name of a registered method, or the name itself."""
    from abe.registry import methods

    card = methods.cards().get(name)
    return card.title if card is not None else name


def one(values: Any, index: int) -> float | None:
    """Entry of a per-sample tensor, None where there is none or it is not finite."""
    if values is None:
        return None
    found = float(values[index])
    return found if np.isfinite(found) else None


def map_view(explanation: Any, index: int, extra: Sequence[tuple[str, str]] = ()) -> MapView:
    """The map of one sample of an explanation, with its residual below."""
    residual = one(explanation.residual, index)
    facts = [("residual", percent(residual))] if residual is not None else []
    shown: dict[str, Any] = {}
    if looks.is_picture(explanation):
        shown["values"] = explanation.map()[index].detach().double().cpu().numpy()
    else:
        shown |= {"looks": looks.looks(explanation, index), "account": looks.account(explanation, index)}
    return MapView(
        method=explanation.method,
        title=method_title(explanation.method),
        facts=[*extra, *facts],
        **shown,
    )


def sample_view(explanation: Any, index: int, name: str) -> SampleView:
    """What is explained, the decision and the map of one sample of an explanation."""
    return SampleView(
        name=name,
        **_pictured(explanation, index),
        target=readable(explanation.target_names[index]),
        top=_top(explanation, index),
        maps=[map_view(explanation, index)],
    )


def _pictured(explanation: Any, index: int) -> dict[str, Any]:
    """The photograph, with the region outlined that its score is read over."""
    if not looks.is_picture(explanation):
        return {}
    image, regions = pixels(explanation.x[index]), explanation.diagnostics.get("region")
    boxes = explanation.diagnostics.get("box")
    if boxes is not None and tuple(boxes.shape[1:]) == (4,):
        h, w = image.shape[:2]
        framed = boxed(image, boxes[index].tolist(), 1 + max(h, w) // 250)
        return {"image": image, "framed": framed, "outlined": True}
    if regions is None or tuple(regions.shape[1:]) != image.shape[:2]:
        return {"image": image}
    region = np.asarray(regions[index].detach().cpu()) > 0
    return {"image": outlined(image, region), "outlined": bool(region.any() and not region.all())}


def _top(explanation: Any, index: int) -> list[tuple[str, float]]:
    """The most probable classes of one sample; an explanation of foreign maps has none."""
    top = explanation.top[index] if explanation.top else ()
    return [(readable(str(label)), float(p)) for label, p in top]


def slug(name: str) -> str:
    """A file name or anchor from any text: letters and their marks, digits, dots and dashes.

    It has 120 bytes at most: with a method's name and a suffix it stays below the 255 of file systems.
    """
    kept = "".join(c if c in "._-" or category(c)[0] in "LMN" else "-" for c in normalize("NFC", name)).strip(
        "-."
    )
    return kept.encode("utf-8")[:120].decode("utf-8", "ignore")[:80].strip("-.") or "photograph"


def stems(names: Sequence[str]) -> list[str]:
    """File names without suffix from names of samples, told apart by a number where they collide.

    Names that differ in upper and lower case alone collide, for there are file systems to which they are one.
    """
    last = [name.replace("\\", "/").rsplit("/", 1)[-1] for name in names]
    found = [slug(name.rsplit(".", 1)[0] if "." in name[1:] else name) for name in last]
    return _apart(found, "{}-{}")


def _apart(names: Sequence[str], form: str) -> list[str]:
    """Names told apart by the first free number; one made so is never a name that another has."""
    taken: set[str] = set()
    asked = {name.casefold() for name in names}
    found = []
    for name in names:
        free, number = name, 1
        while free.casefold() in taken or (number > 1 and free.casefold() in asked):
            number += 1
            free = form.format(name, number)
        taken.add(free.casefold())
        found.append(free)
    return found


INCOMPLETE = 0.1
"""Share of the explained change that a map may leave out before its residual is marked."""
CURVE_VALUES = {
    "probability": "probability of the class",
    "log_probability": "log-probability of the class",
    "log_odds": "log-odds of the class",
    "kl": "KL(U‖P), how decided the model is",
}


def from_comparison(comparison: Any, *, title: str | None = None) -> PageView:
    """A page from what `abe.compare` returns.

    Raises:
        SpecError: the maps are not at hand, because the samples came as a stream or scores were loaded.
    """
    if not comparison.explanations:
        raise SpecError(
            Code.UNSUPPORTED,
            "Only a comparison that still holds its maps can be shown sample by sample",
            got="scores alone, of a stream or from a file",
            fix="Show comparison.table() or comparison.plot()",
        )
    first = next(iter(comparison.explanations.values()))
    count = len(comparison.names)
    number_of = {1: "One method", 2: "Two methods", 3: "Three methods", 4: "Four methods"}
    methods = number_of.get(len(comparison.methods), f"{len(comparison.methods)} methods")
    names = _apart(comparison.names, "{} ({})")
    return PageView(
        title=title or f"{methods} on {count} {looks.noun(first.modality, count)}",
        asked=_asked(comparison, first.modality),
        table=_table(comparison, first.modality),
        samples=[_sample(comparison, index, name) for index, name in enumerate(names)],
        settings=_settings(comparison, first),
        versions=[(str(name), str(version)) for name, version in first.versions.items()],
        notes=_notes(comparison),
        noun=(looks.noun(first.modality), looks.noun(first.modality, 2)),
        parts=looks.PARTS.get(first.modality, "positions"),
    )


def _asked(comparison: Any, modality: str) -> list[tuple[str, str]]:
    parts = looks.PARTS.get(modality, "positions")
    return [
        ("Question", f"which {parts} drove the decision, and which method says it best?"),
        (looks.noun(modality, 2).capitalize(), str(len(comparison.names))),
        ("Methods", str(len(comparison.scores) + len(comparison.failures))),
        ("Explained score", comparison.objective),
        ("Ranked by", ", ".join(_title(m) for m in comparison.metrics if m.name in comparison.rank_by)),
    ]


def _title(metric: Any) -> str:
    return metric.name if metric.card is None else metric.card.title


def title_of(score: Any) -> str:
    """The short title of the metric of a score."""
    from abe.registry import metrics

    card = metrics.cards().get(score.name)
    return score.name if card is None else card.title


def _table(comparison: Any, modality: str) -> TableView:
    about = "Mean rank over the metrics that rank"
    columns = [ColumnView(key="rank", title="Rank", direction="lower", about=about)]
    for metric in comparison.metrics:
        about = "" if metric.card is None else metric.card.summary.rstrip(".")
        columns.append(
            ColumnView(key=metric.name, title=_title(metric), direction=metric.direction, about=about)
        )
    doubt = _doubt(comparison, modality)
    shown = len(comparison) > 1 and not doubt
    best = {m.name: comparison.leaders(m.name) if shown else [] for m in comparison.metrics}
    rows = []
    for method in comparison.methods:
        rank = comparison.ranks[method]
        first = shown and rank == min(comparison.ranks.values())
        cells = [CellView(text=f"{rank:.1f}", value=rank, best=first)]
        cells += [
            _cell(comparison.scores[method][m.name], method in best[m.name], looks.noun(modality))
            for m in comparison.metrics
        ]
        rows.append((method, _label(method), cells))
    said = [comparison.caption] if doubt else [comparison.caption, *comparison.conclusions]
    return TableView(columns=columns, rows=rows, caption=" ".join(said), doubt=doubt)


def _doubt(comparison: Any, modality: str) -> str:
    """Why no method can be said to be better, where no test could have told."""
    if not comparison.undecided:
        return ""
    count = len(comparison.names)
    return f"Too few {looks.noun(modality, 2)} to tell methods apart: {count}, where {comparison.needs}."


def _label(method: str) -> str:
    """Title of a method, with the parameters that tell namesakes of one comparison apart."""
    name, bracket, rest = method.partition("(")
    return f"{method_title(name)} ({rest}" if bracket else method_title(name)


def _cell(score: Any, best: bool, noun: str) -> CellView:
    mean = score.mean if np.isfinite(score.mean) else None
    values = [float(v) for v in score.values]
    spread = f"per {noun}: " + ", ".join(number(v) for v in values) if len(values) > 1 else ""
    if score.interval is not None:
        low, high = (figure(score.name, end) for end in score.interval)
        spread = f"interval of the mean {low} to {high}; {spread}"
    amiss = score.name == "residual" and mean is not None and abs(mean) > INCOMPLETE
    return CellView(text=figure(score.name, mean), value=mean, best=best, spread=spread, amiss=amiss)


def figure(name: str, mean: float | None) -> str:
    """A number of a column: all of one column have the same digits."""
    if name == "residual":
        return percent(mean)
    digits = 0 if name == "passes" else 2 if name == "seconds" else 3
    if mean is None or not np.isfinite(mean) or abs(mean) >= 1e5:
        return number(mean, digits)
    return f"{round(mean, digits) + 0.0:.{digits}f}".replace("-", "−")


SHOWN = ("insertion", "deletion", "kl_insertion", "kl_deletion", "f_insertion", "f_deletion")
"""Scores written below a map, where measured."""


def _sample(comparison: Any, index: int, name: str) -> SampleView:
    first = next(iter(comparison.explanations.values()))
    maps = []
    for method in comparison.methods:
        explanation, scores = comparison.explanations[method], comparison.scores[method]
        facts = [
            (_title(m), number(one(scores[m.name].values, index)))
            for m in comparison.metrics
            if m.name in SHOWN
        ]
        maps.append(replace(map_view(explanation, index, facts), method=method, title=_label(method)))
    return SampleView(
        name=name,
        **_pictured(first, index),
        target=readable(comparison.target_names[index]),
        top=_top(first, index),
        maps=maps,
        curves=_curves(comparison, index),
    )


def _curves(comparison: Any, index: int) -> list[CurveView]:
    found = []
    for metric in comparison.metrics:
        scores = {method: comparison.scores[method][metric.name] for method in comparison.methods}
        if any(score.curve is None for score in scores.values()):
            continue
        lines = [(_label(m), [float(v) for v in score.curve[index]]) for m, score in scores.items()]
        if not lines:
            continue
        points = len(lines[0][1])
        value = CURVE_VALUES.get(getattr(metric.value, "curve", ""), "value")
        about = metric.card.title if metric.card is not None else metric.name
        x = np.linspace(0, 1, points).tolist()
        found.append(CurveView(name=metric.name, title=about, value=value, x=x, lines=lines))
    return found


def _settings(comparison: Any, first: Any) -> list[tuple[str, str]]:
    steps = -(-comparison.count // comparison.step)
    found = [
        ("Objective", comparison.objective),
        ("Unit", comparison.unit),
        ("Baseline of the curves", f"{comparison.baseline}, in input space"),
        ("Step", f"{comparison.step} of {comparison.count} units, {steps} steps"),
        ("Seed", str(comparison.seed)),
        ("Model run as", first.cost.execution),
        ("Rows at a time", str(first.cost.chunk)),
    ]
    if comparison.confusion is not None:
        found.append(("Confusion feature, H / ln C", number(comparison.confusion)))
    for method in comparison.methods:
        spec = comparison.origins[method].spec
        inner = ", ".join(f"{k}={in_short(v)}" for k, v in spec.get("params", {}).items())
        found.append((_label(method), f"{spec.get('method', method)}({inner})"))
    return found


def in_short(value: Any) -> str:
    """A parameter of a specification in one short piece of text."""
    if isinstance(value, dict) and "type" in value:
        inner = ", ".join(f"{k}={in_short(v)}" for k, v in value.items() if k != "type")
        return f"{value['type']}({inner})"
    if isinstance(value, dict) and "opaque" in value:
        return str(value["opaque"])
    if isinstance(value, list | tuple):
        return "[" + ", ".join(in_short(v) for v in value) + "]"
    return str(value)


def _notes(comparison: Any) -> list[str]:
    """Failures, and the remarks of results; remarks that every method has are said once."""
    found = [f"{_label(m)} did not finish: {f.message}" for m, f in comparison.failures.items()]
    said: dict[str, list[str]] = {}
    for method in comparison.methods:
        scores = comparison.scores[method].values()
        remarks = [*comparison.origins[method].warnings, *(w for s in scores for w in s.warnings)]
        for remark in dict.fromkeys(remarks):
            said.setdefault(remark, []).append(_label(method))
    for remark, who in said.items():
        found.append(remark if len(who) == len(comparison.methods) else f"{', '.join(who)}: {remark}")
    return found

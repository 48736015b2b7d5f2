"""What maps along plain-gradient paths miss of the score's change, as published and with ``tolerance=``."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

import abe
from abe import registry
from studies import measuring
from studies.outcome import Outcome, Panel, Table
from studies.records import Records
from studies.settings import Size, called
from studies.statistics import Interval, interval
from studies.subjects import Subject

TOLERANCE = 0.02
SHARE = 0.05
"""Completeness is asked of photographs whose score changes by more than this share of the logits' range."""
PLAIN, REFINED = "plain", "refined"

SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "IG": ("integrated_gradients", {"steps": 50}),
    "GIG": ("guided_ig", {"steps": 50}),
    "BlurIG": ("blur_ig", {"steps": 50}),
    "BIG": ("big", {}),
    "MFABA": ("mfaba", {"steps": 20}),
    "MFABA, long steps": ("mfaba", {"steps": 10, "alpha": 2 / 255}),
    "MFABA, sharp": ("mfaba", {"path": "sharp", "steps": 10}),
    "AGI": ("agi", {"samples": 2, "steps": 4}),
    "LA": ("la", {"samples": 1, "steps": 3}),
    "LAAI": ("laai", {"samples": 2, "steps": 10}),
    "FGSM as an attribution": ("path_attribution", {"update": "fgsm", "steps": 1}),
    "BIM as an attribution": ("path_attribution", {"update": "bim", "steps": 5}),
    "PGD as an attribution": ("path_attribution", {"update": "pgd", "steps": 5}),
    "MIM as an attribution": ("path_attribution", {"update": "mim", "steps": 5}),
}
"""Paths that add up the plain gradient: the published lengths of steps, few of them."""

WITHOUT: dict[str, tuple[str, dict[str, Any]]] = {
    "AttEXplore": ("attexplore", {"samples": 5, "steps": 10}),
    "AGI, published": ("agi", {"samples": 2, "steps": 4, "variant": "published"}),
    "MFABA, published": ("mfaba", {"steps": 20, "variant": "published"}),
}
"""Methods that cannot be complete, and why not is on their cards: they read other gradients."""


def run(subject: Subject, size: Size, records: Records, scratch: Path) -> Outcome:
    """Every setting plain, and those along plain gradients once more with a tolerance."""
    blocks = measuring.blocks_of(subject.names, 1)
    parts = []
    for block, where in blocks.items():
        for label, how in (SETTINGS | WITHOUT).items():
            parts.append((f"{label}, {PLAIN} | {block}", _part(subject, how, where)))
        for label, how in SETTINGS.items():
            parts.append((f"{label}, {REFINED} | {block}", _part(subject, refined(how), where)))
    records.work("completeness", parts)
    labels = [f"{label}, {PLAIN}" for label in (*SETTINGS, *WITHOUT)]
    labels += [f"{label}, {REFINED}" for label in SETTINGS]
    return _outcome(subject, {label: measuring.gathered(records, label, list(blocks)) for label in labels})


def refined(how: tuple[str, dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """The setting with a tolerance, which places its own nodes."""
    return how[0], {**how[1], "tolerance": TOLERANCE}


def counts(outputs: torch.Tensor, name: str, delta: Sequence[float]) -> list[bool]:
    """Per row, whether the score changes by more than a share of its range.

    Args:
        outputs: (n, C) logits.
        name: of the method; LAAI explains decisiveness, whose range counts from a uniform prediction's, 0.
        delta: changes of the score.
    """
    span = outputs.amax(1) - outputs.amin(1)
    if name == "laai":
        span = -torch.log_softmax(outputs, 1).mean(1) - float(torch.tensor(outputs.shape[1]).log())
    return [abs(d) > SHARE * s for d, s in zip(delta, span.tolist(), strict=True)]


def _part(subject: Subject, how: tuple[str, dict[str, Any]], where: slice) -> Any:
    def compute() -> dict[str, Any]:
        made = measuring.explained(subject.task, subject.x[where], abe.method(how[0], **how[1]))
        return measuring.facts(made)

    return compute


def _outcome(subject: Subject, found: dict[str, dict[str, list[float]]]) -> Outcome:
    with torch.no_grad():
        outputs = subject.task.forward(subject.x)
    rows: list[tuple[str, ...]] = []
    before: dict[str, list[float]] = {}
    after: dict[str, list[float]] = {}
    for label, (name, given) in SETTINGS.items():
        plain, again = found[f"{label}, {PLAIN}"], found[f"{label}, {REFINED}"]
        enough = counts(outputs, name, again["delta"])
        before[label], after[label] = (_sizes(one["residual"], enough) for one in (plain, again))
        cells = (_number(_median(before[label])), _number(_most(before[label])), _number(_most(after[label])))
        passes = (f"{measuring.mean_of(one, 'passes'):.0f}" for one in (plain, again))
        rows.append((label, called(given), f"{sum(enough)} of {len(enough)}", *cells, *passes))
    over = [label for label in SETTINGS if _most(after[label]) > TOLERANCE]
    head = ("path", "parameters", "photographs that count", "median, plain", "largest, plain")
    head += (f"largest, tolerance={TOLERANCE}", "passes, plain", "passes, refined")
    note = (
        "|residual| relative to the score's change. A photograph counts where the score changes by more than "
        f"{SHARE:.0%} of the range of the logits (of the decisiveness for LAAI)."
    )
    judged = [r for sizes in after.values() for r in sizes]
    return Outcome(
        tables=[Table(f"Plain-gradient paths ({subject.title})", head, rows, note), _cannot(found)],
        findings=[
            f"With tolerance={TOLERANCE}, the largest |residual| of the {len(judged)} maps "
            f"whose score changes enough is {_number(_most(judged))}. "
            + (f"Above it: {'; '.join(over)}." if over else "Every path keeps to the tolerance."),
            *(
                f"Without it, the median |residual| is {words}: {'; '.join(names)}."
                for words, names in _groups(before)
                if names
            ),
        ],
        panels=[
            Panel("|residual|, plain", _rows(before), TOLERANCE, f"tolerance {TOLERANCE}", log=True),
            Panel(f"|residual|, tolerance={TOLERANCE}", _rows(after), TOLERANCE, f"tolerance {TOLERANCE}"),
        ],
        values=found,
        caption="What maps miss of the score's change, plain and refined: means with 95 % intervals.",
    )


def _cannot(found: dict[str, dict[str, list[float]]]) -> Table:
    rows = []
    for label, (name, given) in WITHOUT.items():
        sizes = _sizes(found[f"{label}, {PLAIN}"]["residual"])
        why = registry.methods.get(name).card.expected_failures["completeness"]
        if given.get("variant") == "published":
            why = "the published variant reads and adds up other gradients; it takes no tolerance"
        rows.append((label, called(given), _number(_median(sizes)), _number(_most(sizes)), why))
    head = ("method", "parameters", "median", "largest", "why")
    return Table("Methods that cannot be complete", head, rows, "Their cards say so; the tests check it.")


def _groups(before: dict[str, list[float]]) -> list[tuple[str, list[str]]]:
    """Labels by the size of what is missed."""
    medians = {label: _median(sizes) for label, sizes in before.items()}
    return [
        ("within it", [n for n, m in medians.items() if m <= TOLERANCE]),
        ("larger, up to half of the change", [n for n, m in medians.items() if TOLERANCE < m <= 0.5]),
        ("more than half of the change", [n for n, m in medians.items() if m > 0.5]),
    ]


def _rows(sizes: dict[str, list[float]]) -> list[tuple[str, Interval]]:
    return [(label, interval(numbers)) for label, numbers in sizes.items() if numbers]


def _sizes(residuals: Sequence[float], enough: Sequence[bool] | None = None) -> list[float]:
    """Absolute residuals of the rows that count."""
    kept = [True] * len(residuals) if enough is None else enough
    return [abs(r) for r, keep in zip(residuals, kept, strict=True) if keep and r == r]


def _median(sizes: Sequence[float]) -> float:
    return median(sizes) if sizes else float("nan")


def _most(sizes: Sequence[float]) -> float:
    return max(sizes, default=float("nan"))


def _number(one: float) -> str:
    return f"{one:.3g}" if one == one else "–"

"""Why AGI with a few random classes can score below a random order: its parts changed one at a time."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

import abe
from studies import measuring
from studies.outcome import Outcome, Panel, Table
from studies.records import Records
from studies.settings import STEPS, Size
from studies.statistics import difference, interval
from studies.subjects import Subject

RANDOM, DEFAULT = "random order", "as it is: 4 random classes, α .05, trapezoid, logit"
REVERSED, MAGNITUDE = "as it is, sign reversed", "as it is, magnitude"
LEAST = "as it is, magnitude, least first"
AVERAGED, WHERE = "as it is, averaged over 15 × 15 pixels", "as it is, magnitude averaged over 15 × 15 pixels"
CHANGED = (RANDOM, REVERSED, MAGNITUDE, LEAST, AVERAGED, WHERE)
SMALL = 1 / 255


def variants(size: Size) -> dict[str, tuple[str, dict[str, Any], str]]:
    """Label -> (method, parameters, objective); the strongest classes are filled in per photograph."""
    four: dict[str, Any] = {"samples": 4, "steps": max(STEPS[size], 5)}
    small = {**four, "alpha": SMALL}
    return {
        DEFAULT: ("agi", four, "logit"),
        "left rule": ("agi", {**four, "rule": "left"}, "logit"),
        "16 nodes per step (complete)": ("agi", {**four, "segment_nodes": 16}, "logit"),
        "log-probability explained": ("agi", four, "log_probability"),
        "small steps (α 1/255)": ("agi", small, "logit"),
        "small steps, log-probability": ("agi", small, "log_probability"),
        "the 4 strongest other classes": ("agi", {**four, "classes": "strongest"}, "logit"),
        "the 4 strongest, log-probability": ("agi", {**four, "classes": "strongest"}, "log_probability"),
        "published (restarts)": ("agi", {**four, "variant": "published"}, "logit"),
        "20 random classes": ("agi", {**four, "samples": 20}, "logit"),
    }


def run(subject: Subject, size: Size, records: Records, scratch: Path) -> Outcome:
    """Every variant on every photograph."""
    blocks = measuring.blocks_of(subject.names, 1)
    chosen = variants(size)
    parts = [
        (f"{label} | {b}", _part(subject, chosen[label], w)) for b, w in blocks.items() for label in chosen
    ]
    parts += [(f"changed | {b}", _changed(subject, chosen[DEFAULT], w)) for b, w in blocks.items()]
    records.work("agi", parts)
    found = {label: measuring.gathered(records, label, list(blocks)) for label in chosen}
    for label in CHANGED:
        found[label] = {}
        for block in blocks:
            for key, numbers in records[f"changed | {block}"][label].items():
                found[label].setdefault(key, []).extend(numbers)
    return _outcome(subject, found)


def _part(subject: Subject, chosen: tuple[str, dict[str, Any], str], where: slice) -> Any:
    def compute() -> dict[str, Any]:
        name, given, objective = chosen
        x = subject.x[where]
        if given.get("classes") == "strongest":
            given = {**given, "classes": strongest(subject, x)}
        return measuring.record(subject.task, x, abe.method(name, **given), objective=objective)

    return compute


def strongest(subject: Subject, x: torch.Tensor) -> tuple[int, ...]:
    """The four classes next to the predicted one, of a single photograph."""
    with torch.no_grad():
        outputs = subject.task.forward(x)
    return tuple(int(i) for i in outputs[0].topk(5).indices[1:])


def _changed(subject: Subject, chosen: tuple[str, dict[str, Any], str], where: slice) -> Any:
    def compute() -> dict[str, Any]:
        task, x = subject.task, subject.x[where]
        made = measuring.explained(task, x, abe.method(chosen[0], **chosen[1]))
        maps = {
            RANDOM: torch.ones_like(x),
            REVERSED: -made.attribution,
            MAGNITUDE: made.attribution.abs(),
            LEAST: -made.attribution.abs(),
            AVERAGED: averaged(made.attribution),
            WHERE: averaged(made.attribution.abs()),
        }
        return {label: measuring.scored(task, x, one, made.target) for label, one in maps.items()}

    return compute


def averaged(maps: torch.Tensor) -> torch.Tensor:
    """(b, c, h, w) the mean over channels, averaged over a neighbourhood."""
    mean = maps.mean(1, keepdim=True)
    return F.avg_pool2d(mean, 15, stride=1, padding=7, count_include_pad=False).expand_as(maps).contiguous()


def _outcome(subject: Subject, found: dict[str, dict[str, list[float]]]) -> Outcome:
    order = sorted(found, key=lambda n: -measuring.mean_of(found[n], "insertion"))
    rows = []
    for label in order:
        numbers = found[label]
        rows.append(
            (
                label,
                str(interval(numbers["insertion"])),
                str(interval(numbers["gap"])),
                "" if label == RANDOM else str(difference(numbers["insertion"], found[RANDOM]["insertion"])),
                str(interval(numbers["delta"])) if "delta" in numbers else "",
                str(interval(numbers["sum"])) if "delta" in numbers else "",
                f"{100 * measuring.mean_of(numbers, 'negative'):.0f} %" if "negative" in numbers else "",
                f"{measuring.mean_of(numbers, 'steps'):.1f}" if "steps" in numbers else "",
            )
        )
    head = ("variant", "INS ↑", "GAP ↑", "INS − random", "score change", "ΣA", "negative", "steps per class")
    plain = difference(found[DEFAULT]["insertion"], found[RANDOM]["insertion"])
    best = max((n for n in found if n != DEFAULT), key=lambda n: measuring.mean_of(found[n], "insertion"))
    return Outcome(
        tables=[
            Table(
                f"AGI with its parts changed one at a time ({subject.title})",
                head,
                rows,
                "Score change: of the explained score from the photograph to the ends of the paths, "
                "summed over the classes; a complete map sums to it.",
            )
        ],
        findings=[
            f"As it is, against a random order: INS {plain}.",
            *(_against(found, label) for label in found if label not in (DEFAULT, RANDOM)),
            f"Highest mean INS: {best} ({interval(found[best]['insertion'])}).",
        ],
        panels=[
            Panel(
                "insertion",
                [(label, interval(found[label]["insertion"])) for label in order],
                measuring.mean_of(found[RANDOM], "insertion"),
                "random order",
            )
        ],
        values=found,
        caption="Insertion of AGI with one part changed at a time, with 95 % intervals.",
    )


def _against(found: dict[str, dict[str, list[float]]], label: str) -> str:
    gain = difference(found[label]["insertion"], found[DEFAULT]["insertion"])
    return f"{label} − as it is: INS {gain}."

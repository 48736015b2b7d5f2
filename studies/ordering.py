"""All path methods in one table, and the papers' claims about their order."""

from pathlib import Path
from typing import Any

import torch

import abe
from studies import measuring
from studies.outcome import Outcome, Panel, Table
from studies.records import Records
from studies.settings import SHORT, Size, called, methods
from studies.statistics import Interval, difference, interval, verdict
from studies.subjects import Subject

BLOCK = 4
RANDOM = "random"
TOLERANCE = 0.02
SHARE = 0.05
"""Completeness is asked of photographs whose score changes by more than this share of the logits' range."""
REFINED = {"quick": 2, "modest": 6, "full": 12}
"""Photographs that are explained again with ``tolerance=``."""
PLAIN = ("integrated_gradients", "guided_ig", "blur_ig", "big", "mfaba", "agi", "la", "laai")
"""Methods that add up the plain gradient along their path, and can refine."""

CLAIMS: tuple[tuple[str, str, str, str], ...] = (
    ("insertion", "big", "integrated_gradients", "BIG inserts better than IG (ABE, Table V)"),
    ("insertion", "mfaba", "integrated_gradients", "MFABA inserts better than IG (ABE, Table V)"),
    ("insertion", "mfaba", "big", "MFABA inserts better than BIG (ABE, Table V)"),
    ("insertion", "agi", "mfaba", "AGI inserts better than MFABA (ABE, Table V)"),
    ("insertion", "attexplore", "mfaba", "AttEXplore inserts better than MFABA (ABE, Table V)"),
    ("insertion", "attexplore", "agi", "AttEXplore inserts better than AGI (ABE, Table V)"),
    ("insertion", "la", "agi", "LA inserts better than AGI (ABE, Table V)"),
    ("insertion", "isa", "la", "ISA inserts better than LA (ABE, Table V)"),
    ("insertion", "isa", "attexplore", "ISA inserts better than AttEXplore (ABE, Table V)"),
    ("insertion", "guided_ig", "fast_ig", "GIG inserts better than FIG (ABE, Table V)"),
    ("deletion", "fast_ig", "guided_ig", "GIG deletes better than FIG (ABE, Table V)"),
    ("deletion", "mfaba", "attexplore", "AttEXplore deletes better than MFABA (ABE, Table V)"),
    ("gap", "laai", "agi", "LAAI has a larger GAP than AGI (LAAI, Table 1)"),
    ("gap", "laai", "attexplore", "LAAI has a larger GAP than AttEXplore (LAAI, Table 1)"),
    ("kl_gap", "laai", "agi", "LAAI has a larger KL-GAP than AGI (LAAI, Table 2)"),
    ("kl_gap", "laai", "attexplore", "LAAI has a larger KL-GAP than AttEXplore (LAAI, Table 2)"),
)
"""Metric, the larger of two, the smaller, and the claim; for deletion lower is better."""


def run(subject: Subject, size: Size, records: Records, scratch: Path) -> Outcome:
    """Every method on every photograph, and the complete ones once more with refinement."""
    blocks = measuring.blocks_of(subject.names, BLOCK)
    given = methods(size)
    few = dict(list(measuring.blocks_of(subject.names, 1).items())[: REFINED[size]])
    parts = []
    for block, where in blocks.items():
        parts += [(f"{name} | {block}", _part(subject, name, p, where)) for name, p in given.items()]
        parts.append((f"{RANDOM} | {block}", _control(subject, where)))
    for block, where in few.items():
        refined = {name: _refined(given[name]) for name in PLAIN}
        parts += [(f"refined {n} | {block}", _facts(subject, n, p, where)) for n, p in refined.items()]
    records.work("ordering", parts)
    found = {name: measuring.gathered(records, name, list(blocks)) for name in (*given, RANDOM)}
    again = {name: measuring.gathered(records, f"refined {name}", list(few)) for name in PLAIN}
    return _outcome(subject, given, found, again)


def _refined(parameters: dict[str, Any]) -> dict[str, Any]:
    """With refinement, which places its own nodes."""
    return {**parameters, "tolerance": TOLERANCE}


def _control(subject: Subject, where: slice) -> Any:
    return lambda: measuring.control(subject.task, subject.x[where])


def _part(subject: Subject, name: str, parameters: dict[str, Any], where: slice) -> Any:
    return lambda: measuring.record(subject.task, subject.x[where], abe.method(name, **parameters))


def _facts(subject: Subject, name: str, parameters: dict[str, Any], where: slice) -> Any:
    def compute() -> dict[str, Any]:
        made = measuring.explained(subject.task, subject.x[where], abe.method(name, **parameters))
        return measuring.facts(made)

    return compute


def _outcome(
    subject: Subject,
    given: dict[str, dict[str, Any]],
    found: dict[str, dict[str, list[float]]],
    again: dict[str, dict[str, list[float]]],
) -> Outcome:
    order = sorted(found, key=lambda n: -measuring.mean_of(found[n], "insertion"))
    claims = [(_claimed(found, *claim), claim) for claim in CLAIMS]
    held = [text for gain, (*_, text) in claims if verdict(gain) == "confirmed"]
    against = [text for gain, (*_, text) in claims if verdict(gain) == "refuted"]
    worst = max((w for n in PLAIN if (w := _worst(subject, n, again[n])) == w), default=0.0)
    return Outcome(
        tables=[
            _scores(subject, given, found, order),
            Table(
                "The papers' claims",
                ("claim", "difference, paired", "on these photographs"),
                [(text, str(gain), verdict(gain)) for gain, (*_, text) in claims],
                "Confirmed or refuted: the whole 95 % interval of the difference is on one side of zero.",
            ),
            _completeness(subject, found, again),
        ],
        findings=[
            f"{len(held)} of {len(claims)} claims are confirmed, {len(against)} are refuted, "
            f"{len(claims) - len(held) - len(against)} are not decided by {len(subject.names)} photographs.",
            *(f"Refuted: {text}." for text in against),
            f"With tolerance={TOLERANCE} the largest |residual| among photographs whose score changes by "
            f"more than {SHARE:.0%} of the logits' range is {worst:.3f}.",
        ],
        panels=[
            Panel(
                title,
                [(SHORT.get(n, n), interval(found[n][key])) for n in order],
                measuring.mean_of(found[RANDOM], key),
                "random order",
            )
            for title, key in (
                ("insertion (higher is better)", "insertion"),
                ("deletion (lower is better)", "deletion"),
            )
        ],
        values={**found, **{f"refined {n}": v for n, v in again.items()}},
        caption="Insertion and deletion of all path methods, with 95 % intervals; dashed: a random order.",
    )


def _scores(
    subject: Subject,
    given: dict[str, dict[str, Any]],
    found: dict[str, dict[str, list[float]]],
    order: list[str],
) -> Table:
    rows = []
    for name in order:
        numbers = found[name]
        rows.append(
            (
                SHORT.get(name, name),
                *(str(interval(numbers[key])) for key in ("insertion", "deletion", "gap", "kl_gap")),
                f"{measuring.mean_of(numbers, 'passes'):.0f}" if "passes" in numbers else "",
                called(given.get(name, {})),
            )
        )
    head = ("method", "INS ↑", "DEL ↓", "GAP ↑", "KL-GAP ↑", "passes per photograph", "parameters")
    return Table(
        f"All path methods ({subject.title})", head, rows, "95 % bootstrap intervals over photographs."
    )


def _claimed(found: dict[str, dict[str, list[float]]], key: str, high: str, low: str, text: str) -> Interval:
    return difference(found[high][key], found[low][key])


def _changes_enough(subject: Subject, name: str, delta: list[float]) -> list[bool]:
    """Per photograph, whether the score changes by more than a share of its range."""
    with torch.no_grad():
        outputs = subject.task.forward(subject.x[: len(delta)])
    span = outputs.amax(1) - outputs.amin(1)
    if name == "laai":  # explains decisiveness, which counts from that of a uniform distribution, 0
        span = -torch.log_softmax(outputs, 1).mean(1) - float(torch.tensor(outputs.shape[1]).log())
    return [abs(d) > SHARE * s for d, s in zip(delta, span.tolist(), strict=True)]


def _worst(subject: Subject, name: str, numbers: dict[str, list[float]]) -> float:
    enough = _changes_enough(subject, name, numbers["delta"])
    kept = [abs(r) for r, e in zip(numbers["residual"], enough, strict=True) if e]
    return max(kept) if kept else float("nan")


def _completeness(
    subject: Subject, found: dict[str, dict[str, list[float]]], again: dict[str, dict[str, list[float]]]
) -> Table:
    rows = []
    for name in PLAIN:
        count = len(again[name]["residual"])
        plain = {k: v[:count] for k, v in found[name].items()}
        enough = _changes_enough(subject, name, again[name]["delta"])
        before = [abs(r) for r in plain["residual"]]
        rows.append(
            (
                SHORT[name],
                f"{sorted(before)[count // 2]:.3f}",
                f"{max(before):.3f}",
                f"{_worst(subject, name, again[name]):.3f}",
                f"{sum(enough)} of {count}",
                f"{measuring.mean_of(plain, 'passes'):.0f}",
                f"{measuring.mean_of(again[name], 'passes'):.0f}",
            )
        )
    head = (
        "method",
        "median residual, plain",
        "largest, plain",
        f"largest, tolerance={TOLERANCE}",
        "photographs that count",
        "passes, plain",
        "passes, refined",
    )
    note = (
        f"|residual| relative to the score's change. Refined: photographs whose score changes by more than "
        f"{SHARE:.0%} of the range of the logits (of the decisiveness for LAAI)."
    )
    return Table("Completeness", head, rows, note)

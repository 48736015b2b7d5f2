"""All path methods in one table, and the papers' claims about their order."""

from pathlib import Path
from typing import Any

import abe
from studies import measuring
from studies.outcome import Outcome, Panel, Table
from studies.records import Records
from studies.settings import SHORT, Size, called, methods
from studies.statistics import Interval, difference, interval, verdict
from studies.subjects import Subject

BLOCK = 4
RANDOM = "random"

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
    """Every method on every photograph."""
    blocks = measuring.blocks_of(subject.names, BLOCK)
    given = methods(size)
    parts = []
    for block, where in blocks.items():
        parts += [(f"{name} | {block}", _part(subject, name, p, where)) for name, p in given.items()]
        parts.append((f"{RANDOM} | {block}", _control(subject, where)))
    records.work("ordering", parts)
    found = {name: measuring.gathered(records, name, list(blocks)) for name in (*given, RANDOM)}
    return _outcome(subject, given, found)


def _control(subject: Subject, where: slice) -> Any:
    return lambda: measuring.control(subject.task, subject.x[where])


def _part(subject: Subject, name: str, parameters: dict[str, Any], where: slice) -> Any:
    return lambda: measuring.record(subject.task, subject.x[where], abe.method(name, **parameters))


def _outcome(
    subject: Subject,
    given: dict[str, dict[str, Any]],
    found: dict[str, dict[str, list[float]]],
) -> Outcome:
    order = sorted(found, key=lambda n: -measuring.mean_of(found[n], "insertion"))
    claims = [(_claimed(found, *claim), claim) for claim in CLAIMS]
    held = [text for gain, (*_, text) in claims if verdict(gain) == "confirmed"]
    against = [text for gain, (*_, text) in claims if verdict(gain) == "refuted"]
    return Outcome(
        tables=[
            _scores(subject, given, found, order),
            Table(
                "The papers' claims",
                ("claim", "difference, paired", "on these photographs"),
                [(text, str(gain), verdict(gain)) for gain, (*_, text) in claims],
                "Confirmed or refuted: the whole 95 % interval of the difference is on one side of zero.",
            ),
        ],
        findings=[
            f"{len(held)} of {len(claims)} claims are confirmed, {len(against)} are refuted, "
            f"{len(claims) - len(held) - len(against)} are not decided by {len(subject.names)} photographs.",
            *(f"Refuted: {text}." for text in against),
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
        values=found,
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

"""LAAI by the sign of its Eq. 5 and by that of its Algorithm 2, and beside it AGI with few random classes."""

from pathlib import Path
from typing import Any

import torch

import abe
from studies import measuring
from studies.outcome import Outcome, Panel, Table
from studies.records import Records
from studies.settings import CLASSES, STEPS, Size
from studies.statistics import difference, interval, verdict
from studies.subjects import Subject

EQUATION, ALGORITHM, AGI, RANDOM = "LAAI, Eq. 5", "LAAI, Algorithm 2", "AGI, 4 random classes", "random order"
SHORT = 3
"""Steps of short paths, which end about where the decision changes."""
SHORT_EQUATION, SHORT_ALGORITHM = f"LAAI, Eq. 5, T = {SHORT}", f"LAAI, Algorithm 2, T = {SHORT}"
LABELS = (EQUATION, ALGORITHM, SHORT_EQUATION, SHORT_ALGORITHM, AGI, RANDOM)
KEYS = ("insertion", "deletion", "gap", "kl_insertion", "kl_deletion", "kl_gap")


def run(subject: Subject, size: Size, records: Records, scratch: Path) -> Outcome:
    """Both signs of one map, photograph by photograph."""
    blocks = measuring.blocks_of(subject.names, 1)
    parts = [(f"maps | {b}", _part(subject, size, w)) for b, w in blocks.items()]
    parts += [(f"short | {b}", _short(subject, size, w)) for b, w in blocks.items()]
    records.work("orientation", parts)
    found: dict[str, dict[str, list[float]]] = {label: {} for label in LABELS}
    for block in blocks:
        for label, numbers in (records[f"maps | {block}"] | records[f"short | {block}"]).items():
            for key, values in numbers.items():
                found[label].setdefault(key, []).extend(values)
    return _outcome(subject, size, found)


def _part(subject: Subject, size: Size, where: slice) -> Any:
    def compute() -> dict[str, Any]:
        task, x = subject.task, subject.x[where]
        laai = measuring.explained(task, x, "laai", samples=CLASSES[size], steps=STEPS[size])
        return {
            EQUATION: measuring.scored(task, x, laai.attribution, laai.target) | measuring.facts(laai),
            ALGORITHM: measuring.scored(task, x, -laai.attribution, laai.target),
            AGI: measuring.record(task, x, abe.method("agi", samples=min(4, CLASSES[size]))),
            RANDOM: measuring.scored(task, x, torch.ones_like(x), laai.target),
        }

    return compute


def _short(subject: Subject, size: Size, where: slice) -> Any:
    def compute() -> dict[str, Any]:
        task, x = subject.task, subject.x[where]
        laai = measuring.explained(task, x, "laai", samples=CLASSES[size], steps=SHORT)
        return {
            SHORT_EQUATION: measuring.scored(task, x, laai.attribution, laai.target) | measuring.facts(laai),
            SHORT_ALGORITHM: measuring.scored(task, x, -laai.attribution, laai.target),
        }

    return compute


def _outcome(subject: Subject, size: Size, found: dict[str, dict[str, list[float]]]) -> Outcome:
    rows = [(label, *(str(interval(found[label][key])) for key in KEYS)) for label in LABELS]
    pairs = [
        (EQUATION, ALGORITHM),
        (SHORT_EQUATION, SHORT_ALGORITHM),
        *((label, RANDOM) for label in LABELS if label != RANDOM),
    ]
    compared = [
        (f"{a} − {b}", *(str(difference(found[a][key], found[b][key])) for key in KEYS)) for a, b in pairs
    ]
    ins = difference(found[EQUATION]["insertion"], found[ALGORITHM]["insertion"])
    kl = difference(found[EQUATION]["kl_gap"], found[ALGORITHM]["kl_gap"])
    wins = sum(
        a > b for a, b in zip(found[EQUATION]["insertion"], found[ALGORITHM]["insertion"], strict=True)
    )
    agi = difference(found[AGI]["insertion"], found[RANDOM]["insertion"])
    head = ("map", "INS ↑", "DEL ↓", "GAP ↑", "KL-INS ↑", "KL-DEL ↓", "KL-GAP ↑")
    return Outcome(
        tables=[
            Table(f"Means ({subject.title}; M = {CLASSES[size]}, T = {STEPS[size]})", head, rows),
            Table("Paired differences", head, compared, "95 % bootstrap intervals over photographs."),
            _split(found),
            _direction(found),
        ],
        findings=[
            f"Eq. 5 against Algorithm 2's sign: INS differs by {ins}, KL-GAP by {kl}; Eq. 5 inserts better "
            f"on {wins} of {len(subject.names)} photographs. The claim that its orientation pays is "
            f"{verdict(ins)} for INS and {verdict(kl)} for KL-GAP.",
            _ends(found),
            f"With paths of {SHORT} steps: INS of Eq. 5 − Algorithm 2 "
            f"{difference(found[SHORT_EQUATION]['insertion'], found[SHORT_ALGORITHM]['insertion'])}, KL-GAP "
            f"{difference(found[SHORT_EQUATION]['kl_gap'], found[SHORT_ALGORITHM]['kl_gap'])}.",
            f"Algorithm 2's sign against a random order: INS "
            f"{difference(found[ALGORITHM]['insertion'], found[RANDOM]['insertion'])}, KL-GAP "
            f"{difference(found[ALGORITHM]['kl_gap'], found[RANDOM]['kl_gap'])}.",
            f"AGI with four random classes against a random order: INS {agi}, GAP "
            f"{difference(found[AGI]['gap'], found[RANDOM]['gap'])}, KL-GAP "
            f"{difference(found[AGI]['kl_gap'], found[RANDOM]['kl_gap'])}; the study `agi` takes it apart.",
        ],
        panels=[
            Panel(
                title,
                [(label, interval(found[label][key])) for label in LABELS],
                measuring.mean_of(found[RANDOM], key),
                "random order",
            )
            for title, key in (("insertion", "insertion"), ("KL-GAP", "kl_gap"))
        ],
        values=found,
        caption="The same LAAI maps with either sign, AGI, and a random order, with 95 % intervals.",
    )


def _split(found: dict[str, dict[str, list[float]]]) -> Table:
    """INS and KL-GAP by the confidence of the prediction."""
    sure = found[EQUATION]["confidence"]
    rows = []
    for title, low, high in (
        ("below 50 %", 0.0, 0.5),
        ("50 to 70 %", 0.5, 0.7),
        ("70 % and more", 0.7, 1.01),
    ):
        who = [i for i, p in enumerate(sure) if low <= p < high]
        cells = [str(len(who))]
        for label in (EQUATION, ALGORITHM):
            for key in ("insertion", "kl_gap"):
                cells.append(str(interval([found[label][key][i] for i in who])) if who else "–")
        rows.append((title, *cells))
    head = (
        "confidence",
        "photographs",
        "Eq. 5: INS",
        "Eq. 5: KL-GAP",
        "Algorithm 2: INS",
        "Algorithm 2: KL-GAP",
    )
    return Table("By confidence of the prediction", head, rows)


def _direction(found: dict[str, dict[str, list[float]]]) -> Table:
    """Eq. 5 − Algorithm 2 where the paths spread the prediction, and where they sharpen it."""
    rows = []
    for one, other in ((EQUATION, ALGORITHM), (SHORT_EQUATION, SHORT_ALGORITHM)):
        change = found[one]["delta"]
        for title, who in (
            ("less decided", [i for i, d in enumerate(change) if d > 0]),
            ("more decided", [i for i, d in enumerate(change) if d <= 0]),
        ):
            gains = [
                str(difference([found[one][key][i] for i in who], [found[other][key][i] for i in who]))
                if who
                else "–"
                for key in ("insertion", "kl_gap")
            ]
            rows.append((f"{one}: ends {title}", str(len(who)), *gains))
    note = "Decided: KL(U‖P), which LAAI explains, at the photograph and on average at the ends of its paths."
    return Table(
        "Eq. 5 − Algorithm 2, by where the paths lead",
        ("paths", "photographs", "INS", "KL-GAP"),
        rows,
        note,
    )


def _ends(found: dict[str, dict[str, list[float]]]) -> str:
    counts = [sum(d <= 0 for d in found[one]["delta"]) for one in (EQUATION, SHORT_EQUATION)]
    total = len(found[EQUATION]["delta"])
    return (
        f"Targeted paths do not stop at the other class but sharpen it: on {counts[0]} of {total} "
        f"photographs they end more decided than they began, so that the map sums to less than nothing; "
        f"with {SHORT} steps on {counts[1]}."
    )

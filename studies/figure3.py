"""AttEXplore under every attack as its update: Figure 3 of the ABE paper."""

from pathlib import Path
from typing import Any

import abe
from abe import registry
from studies import measuring
from studies.outcome import Outcome, Panel, Table
from studies.records import Records
from studies.settings import COPIES, STEPS, Size
from studies.statistics import Interval, difference, interval
from studies.subjects import Subject

EPS = 16 / 255
EPOCHS = {"quick": 1, "modest": 30, "full": 60}
BATCH = 8
BLOCK = 4
OWN, RANDOM = "AttEXplore's own", "random order"


def run(subject: Subject, size: Size, records: Records, scratch: Path) -> Outcome:
    """Insertion and deletion under each update, against BIM."""
    blocks = measuring.blocks_of(subject.names, BLOCK)
    updates = _updates(subject, size)
    if "advgan" in updates:
        updates["advgan"] = {"checkpoint": _trained(subject, size, scratch)}
    parts = []
    for name in (RANDOM, OWN, *updates):
        for block, where in blocks.items():
            parts.append((f"{name} | {block}", _part(subject, size, name, updates.get(name), where)))
    records.work("figure3", parts)
    found = {n: measuring.gathered(records, n, list(blocks)) for n in (RANDOM, OWN, *updates)}
    return _outcome(subject, size, found)


def _updates(subject: Subject, size: Size) -> dict[str, dict[str, Any]]:
    """Every registered attack with its radius, steps and copies: name -> parameters."""
    steps = min(STEPS[size], 10)
    wanted = {"eps": EPS, "alpha": EPS / steps, "steps": steps, "layer": subject.layer}
    copies = dict.fromkeys(("copies", "neighbours", "points"), COPIES[size])
    found = {}
    for entry in registry.updates.entries():
        if entry.card.family.endswith("attack"):
            known = entry.parameters()
            own_step = entry.name == "fgsm"  # one step of the whole radius
            given = {
                k: v for k, v in (wanted | copies).items() if k in known and not (own_step and k == "alpha")
            }
            found[entry.name] = given
    return found


def _trained(subject: Subject, size: Size, scratch: Path) -> str:
    """The generator of AdvGAN, trained on the first photographs themselves."""
    path = scratch / f"advgan-{size}.safetensors"
    data = subject.x[:BATCH]
    abe.robustness.train_advgan(subject.task, data, path, eps=EPS, epochs=EPOCHS[size], batch=BATCH)
    return str(path)


def _part(subject: Subject, size: Size, name: str, update: dict[str, Any] | None, where: slice) -> Any:
    def compute() -> dict[str, Any]:
        task, x = subject.task, subject.x[where]
        if name == RANDOM:
            return measuring.control(task, x)
        given = None if update is None else (name, update)
        method = abe.method(
            "attexplore", update=given, samples=COPIES[size], steps=min(STEPS[size], 10), epsilon=EPS
        )
        return measuring.record(task, x, method)

    return compute


def _outcome(subject: Subject, size: Size, found: dict[str, dict[str, list[float]]]) -> Outcome:
    rows, panels = [], {"insertion": [], "deletion": []}
    base = found["bim"]
    order = sorted(found, key=lambda n: -measuring.mean_of(found[n], "gap"))
    against: dict[str, Interval] = {}
    for name in order:
        numbers = found[name]
        against[name] = difference(numbers["gap"], base["gap"])
        for key in panels:
            panels[key].append((name, interval(numbers[key])))
        rows.append(
            (
                name,
                *(str(interval(numbers[key])) for key in ("insertion", "deletion", "gap")),
                "" if name == "bim" else str(against[name]),
                f"{numbers['passes'][0]:.0f}" if "passes" in numbers else "",
            )
        )
    better = [n for n in order if n not in (RANDOM, OWN) and against[n].sign == "above"]
    worse = [n for n in order if n not in (RANDOM, OWN) and against[n].sign == "below"]
    findings = [
        "Better than BIM by the whole interval of the paired difference in GAP: "
        + (", ".join(better) or "none")
        + ".",
        "Worse than BIM by the whole interval: " + (", ".join(worse) or "none") + ".",
        *(_claim(name, found, base) for name in ("mig", "gra")),
        f"AttEXplore's own update against BIM: {against[OWN]} in GAP ({_says(against[OWN])}).",
        f"All updates together span {_span(found)} in INS; a random order scores "
        f"{interval(found[RANDOM]['insertion'])}.",
    ]
    table = Table(
        f"AttEXplore under each update ({subject.title})",
        ("update", "INS ↑", "DEL ↓", "GAP ↑", "GAP − GAP(BIM), paired", "passes per photograph"),
        rows,
        "Means over photographs with 95 % bootstrap intervals.",
    )
    return Outcome(
        tables=[table],
        findings=findings,
        panels=[
            Panel(
                "insertion (higher is better)",
                panels["insertion"],
                measuring.mean_of(base, "insertion"),
                "BIM",
            ),
            Panel(
                "deletion (lower is better)", panels["deletion"], measuring.mean_of(base, "deletion"), "BIM"
            ),
        ],
        values=found,
        caption="AttEXplore under each update, with 95 % intervals; dashed: under BIM.",
    )


def _claim(name: str, found: dict[str, dict[str, list[float]]], base: dict[str, list[float]]) -> str:
    up = difference(found[name]["insertion"], base["insertion"])
    down = difference(found[name]["deletion"], base["deletion"])
    return (
        f"The paper's claim that {name.upper()} beats BIM: INS {up} ({_says(up)}), "
        f"DEL {down} ({_says(Interval(-down.mean, -down.high, -down.low))})."
    )


def _says(gain: Interval) -> str:
    return {"above": "better", "below": "worse", "undecided": "not decided"}[gain.sign]


def _span(found: dict[str, dict[str, list[float]]]) -> str:
    means = [measuring.mean_of(v, "insertion") for k, v in found.items() if k != RANDOM]
    return f"{min(means):.3f} to {max(means):.3f}"

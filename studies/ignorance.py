"""Information ignorance and extra information (LAAI, Eqs. 1 and 2) on composites with known masks.

Two photographs side by side: both matter, the grey around them does not. One photograph with a patch of
gravel in a corner: the patch does not. Whether that is so for the network is checked by taking the part away.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import abe
from studies import measuring
from studies.outcome import Outcome, Panel, Table
from studies.records import Records
from studies.settings import CLASSES, COPIES, NODES, STEPS, Size
from studies.statistics import difference, interval
from studies.subjects import Subject

CELLS = 14
"""Features are cells of a grid of this many by this many (fewer where the photograph is small)."""
THRESHOLDS = (0.1, 0.25)
"""τ on maps scaled to a largest cell of 1."""
LEVEL = 0.5
"""k as a share: half the features of the oracle set, or of its complement."""
MATTERS, NEGLIGIBLE = 0.05, 0.05
"""KL in nats between predictions with and without a part: above it matters, below it does not."""
GREY = 0.5


@dataclass(frozen=True)
class Composite:
    """An image with known parts.

    Attributes:
        x: (c, h, w).
        relevant: (g, g) cells that hold an object.
        second: (g, g) cells of the object that the prediction does not name; empty for a patch.
        without: what the image is without a part: name -> (c, h, w).
    """

    x: Tensor
    relevant: Tensor
    second: Tensor
    without: dict[str, Tensor]


def side_by_side(left: Tensor, right: Tensor, cells: int) -> Composite:
    """Two photographs at half their size on grey."""
    h, w = left.shape[1:]
    small = F.interpolate(torch.stack([left, right]), size=(h // 2, w // 2), mode="bilinear", antialias=True)
    x = torch.full_like(left, GREY)
    top = h // 4
    x[:, top : top + h // 2, : w // 2], x[:, top : top + h // 2, w // 2 :] = small[0], small[1]
    parts = {"left": x.clone(), "right": x.clone()}
    parts["left"][:, :, : w // 2] = GREY
    parts["right"][:, :, w // 2 :] = GREY
    mask = torch.zeros(1, h, w)
    mask[:, top : top + h // 2] = 1
    relevant = in_cells(mask, cells) > 0.5
    half = torch.zeros(1, h, w)
    half[:, :, w // 2 :] = 1
    return Composite(x, relevant, relevant & (in_cells(half, cells) > 0.5), parts)


def with_patch(photo: Tensor, texture: Tensor, cells: int) -> Composite:
    """A photograph with gravel in its lower left corner, two sevenths of its side."""
    _, h, w = photo.shape
    side = h // cells * (2 * cells // 7 or 1)
    x = photo.clone()
    x[:, h - side :, :side] = texture[:, :side, :side]
    mask = torch.ones(1, h, w)
    mask[:, h - side :, :side] = 0
    relevant = in_cells(mask, cells) > 0.5
    return Composite(x, relevant, torch.zeros_like(relevant), {"patch": photo})


def in_cells(maps: Tensor, cells: int) -> Tensor:
    """(cells, cells) mean over each cell of the sum over channels."""
    return F.adaptive_avg_pool2d(maps.float().sum(0)[None, None], cells)[0, 0]


def answers(size: Size) -> dict[str, tuple[str, dict[str, Any], str]]:
    """Label -> (method, parameters, objective): each path with the label's score and without a label."""
    classes, steps = CLASSES[size], STEPS[size]
    small = {"samples": classes, "steps": steps, "alpha": 1 / 255}
    copies = {"samples": COPIES[size], "steps": min(steps, 10)}
    return {
        "IG, label": ("integrated_gradients", {"steps": NODES[size]}, "logit"),
        "IG, no label": ("integrated_gradients", {"steps": NODES[size]}, "label_agnostic"),
        "AGI's paths, label": ("agi", small, "logit"),
        LAAI: ("laai", {"samples": classes, "steps": steps}, "logit"),
        "AttEXplore, label": ("attexplore", copies, "logit"),
        "MFABA, label": ("mfaba", {"steps": max(steps, 10)}, "logit"),
        "MFABA, no label": ("mfaba", {"steps": max(steps, 10)}, "label_agnostic"),
    }


LAAI = "AGI's paths, no label (LAAI)"
ALGORITHM_2 = "LAAI with the sign of Algorithm 2"
CHANCE = "chance (random numbers)"
PAIRS = (
    ("IG, no label", "IG, label"),
    (LAAI, "AGI's paths, label"),
    (ALGORITHM_2, "AGI's paths, label"),
    ("MFABA, no label", "MFABA, label"),
    (ALGORITHM_2, "AttEXplore, label"),
)


def run(subject: Subject, size: Size, records: Records, scratch: Path) -> Outcome:
    """Both kinds of composite, under every answer."""
    made = _composites(subject)
    chosen = answers(size)
    parts: list[tuple[str, Callable[[], Any]]] = []
    for name, one in made.items():
        parts.append((f"facts | {name}", _facts(subject, one)))
        parts += [(f"{label} | {name}", _cells(subject, one, how)) for label, how in chosen.items()]
    records.work("ignorance", parts)
    kinds = {kind: [n for n in made if n.startswith(kind)] for kind in ("two", "patch")}
    facts = {name: records[f"facts | {name}"] for name in made}
    found = {
        label: {
            name: _judge(_map_of(records, label, name, index, one), one, facts[name])
            for index, (name, one) in enumerate(made.items())
        }
        for label in (*chosen, ALGORITHM_2, CHANCE)
    }
    return _outcome(subject, kinds, facts, found)


def _composites(subject: Subject) -> dict[str, Composite]:
    """Neighbours in the list side by side, and every photograph with a patch."""
    cells = min(CELLS, subject.x.shape[-1] // 2)
    x, names = subject.x.cpu(), subject.names
    found = {}
    for i in range(0, len(names) - 1, 2):
        found[f"two: {names[i]} and {names[i + 1]}"] = side_by_side(x[i], x[i + 1], cells)
    for i in range(0, len(names), 2):
        found[f"patch: {names[i]}"] = with_patch(x[i], subject.texture.cpu(), cells)
    return found


def _facts(subject: Subject, one: Composite) -> Any:
    """The prediction, and how far it moves when a part is taken away (nats)."""

    def compute() -> dict[str, Any]:
        task = subject.task
        rows = torch.stack([one.x, *one.without.values()]).to(subject.x)
        with torch.no_grad():
            log_p = task.log_probabilities(task.forward(rows)).double()
        moved = (log_p[:1].exp() * (log_p[:1] - log_p[1:])).sum(1)
        return {
            "class": task.name(int(log_p[0].argmax())),
            "confidence": float(log_p[0].max().exp()),
            "kl": dict(zip(one.without, measuring.rounded(moved), strict=True)),
            # how the label's own probability falls without each part: the larger fall names the first object
            "own": dict(zip(one.without, measuring.rounded(-log_p[1:, int(log_p[0].argmax())]), strict=True)),
        }

    return compute


def _cells(subject: Subject, one: Composite, how: tuple[str, dict[str, Any], str]) -> Any:
    def compute() -> list[list[float]]:
        name, given, objective = how
        x = one.x[None].to(subject.x)
        made = measuring.explained(subject.task, x, abe.method(name, **given), objective=objective)
        return [measuring.rounded(row) for row in in_cells(made.attribution[0], len(one.relevant))]

    return compute


def _map_of(records: Records, label: str, name: str, index: int, one: Composite) -> Tensor:
    """(g, g) a map, the reverse of one, or random numbers in its place."""
    if label == ALGORITHM_2:
        return -_map_of(records, LAAI, name, index, one)
    if label != CHANCE:
        return torch.tensor(records[f"{label} | {name}"], dtype=torch.float64)
    return torch.randn(
        one.relevant.shape, generator=torch.Generator().manual_seed(index), dtype=torch.float64
    )


def _judge(cells: Tensor, one: Composite, facts: dict[str, Any]) -> dict[str, float]:
    """Rates of both failures, and where the positive mass lies."""
    scaled = cells / cells.max().clamp_min(torch.finfo(cells.dtype).tiny)
    relevant = one.relevant
    found = {}
    for tau in THRESHOLDS:
        found[f"ii {tau}"] = float((scaled[relevant] < tau).double().mean())
        found[f"ei {tau}"] = float((scaled[~relevant] >= tau).double().mean())
    positive = cells.clamp_min(0)
    mass = float(positive.sum()) or 1.0
    if bool(one.second.any()):
        first_is_left = facts["own"]["left"] >= facts["own"]["right"]
        second = one.second if first_is_left else one.relevant & ~one.second
        found["second"] = float(positive[second].sum()) / mass
        found["second ii"] = float((scaled[second] < THRESHOLDS[0]).double().mean())
    found["outside"] = float(positive[~relevant].sum()) / mass
    found["even"] = float((~relevant).double().mean())
    return found


def _outcome(
    subject: Subject,
    kinds: dict[str, list[str]],
    facts: dict[str, dict[str, Any]],
    found: dict[str, dict[str, dict[str, float]]],
) -> Outcome:
    both = [n for n in kinds["two"] if min(facts[n]["kl"].values()) > MATTERS]
    idle = [n for n in kinds["patch"] if facts[n]["kl"]["patch"] < NEGLIGIBLE]
    tables, findings = [], []
    tables.append(_table("Two photographs side by side, both of which matter", both, found, "second"))
    tables.append(_table("A photograph with a patch that does not matter", idle, found, "outside"))
    tables.append(_by_confidence(both, idle, facts, found))
    findings.append(
        f"{len(both)} of {len(kinds['two'])} pairs count: without either photograph the prediction moves by "
        f"more than {MATTERS} nats. {len(idle)} of {len(kinds['patch'])} patches count: with and without "
        f"them it moves by less than {NEGLIGIBLE}."
    )
    for one, other in PAIRS:
        ii = _paired(both, found, one, other, f"ii {THRESHOLDS[0]}")
        second = _paired(both, found, one, other, "second")
        ei = _paired(idle, found, one, other, f"ei {THRESHOLDS[0]}")
        findings.append(
            f"{one} − {other}: information ignorance {ii}, share of positive mass on the second object "
            f"{second}, extra information on the patch {ei}."
        )
    labels = list(found)
    return Outcome(
        tables=tables,
        findings=findings,
        panels=[
            Panel(
                "information ignorance, two objects",
                [(n, _rate(both, found, n, f"ii {THRESHOLDS[0]}")) for n in labels],
            ),
            Panel(
                "positive mass on the second object", [(n, _rate(both, found, n, "second")) for n in labels]
            ),
            Panel(
                "extra information, patch",
                [(n, _rate(idle, found, n, f"ei {THRESHOLDS[0]}")) for n in labels],
            ),
        ],
        values={"facts": facts, **found},
        caption=f"Rates at τ = {THRESHOLDS[0]} of maps scaled to a largest cell of 1, with 95 % intervals.",
    )


def _paired(
    names: list[str], found: dict[str, dict[str, dict[str, float]]], one: str, other: str, key: str
) -> Any:
    return difference([found[one][n][key] for n in names], [found[other][n][key] for n in names])


def _rate(names: list[str], found: dict[str, dict[str, dict[str, float]]], label: str, key: str) -> Any:
    return interval([found[label][n][key] for n in names])


def _table(title: str, names: list[str], found: dict[str, dict[str, dict[str, float]]], share: str) -> Table:
    rows = []
    for label in found:
        cells = [
            str(_rate(names, found, label, f"{kind} {tau}")) for tau in THRESHOLDS for kind in ("ii", "ei")
        ]
        at = [f"{_exhibits(names, found, label, kind):.2f}" for kind in ("ii", "ei")]
        rows.append((label, *cells, *at, str(_rate(names, found, label, share))))
    head = (
        "answer",
        *(f"{kind} at τ = {tau}" for tau in THRESHOLDS for kind in ("ignored", "extra")),
        f"shows ignorance at (k = {LEVEL:.0%}, τ = {THRESHOLDS[0]})",
        f"shows extra information at (k = {LEVEL:.0%}, τ = {THRESHOLDS[0]})",
        "positive mass on the second object" if share == "second" else "positive mass on the patch",
    )
    note = "Ignored: relevant cells below τ. Extra: irrelevant cells at or above τ. Lower is better."
    return Table(f"{title} ({len(names)})", head, rows, note)


def _exhibits(
    names: list[str], found: dict[str, dict[str, dict[str, float]]], label: str, kind: str
) -> float:
    rates = [found[label][n][f"{kind} {THRESHOLDS[0]}"] for n in names]
    return sum(r >= LEVEL for r in rates) / max(len(rates), 1)


def _by_confidence(
    both: list[str],
    idle: list[str],
    facts: dict[str, dict[str, Any]],
    found: dict[str, dict[str, dict[str, float]]],
) -> Table:
    rows = []
    for title, low, high in (
        ("below 50 %", 0.0, 0.5),
        ("50 to 70 %", 0.5, 0.7),
        ("70 % and more", 0.7, 1.01),
    ):
        pairs, patches = (
            [n for n in names if low <= facts[n]["confidence"] < high] for names in (both, idle)
        )
        for label in found:
            rows.append(
                (
                    f"{title} ({len(pairs)}, {len(patches)})",
                    label,
                    str(_rate(pairs, found, label, f"ii {THRESHOLDS[0]}")) if pairs else "–",
                    str(_rate(pairs, found, label, "second")) if pairs else "–",
                    str(_rate(patches, found, label, f"ei {THRESHOLDS[0]}")) if patches else "–",
                )
            )
    head = (
        "confidence (pairs, patches)",
        "answer",
        "ignored",
        "mass on the second object",
        "extra on the patch",
    )
    return Table("By confidence of the prediction", head, rows, f"τ = {THRESHOLDS[0]}.")

"""``python -m studies.soundness NAME``: what the paper on soundness and completeness shows, on small data.

linear         a linear model whose true map is known: which metric sees what was removed or introduced
modified       maps with attribution removed or introduced, and which of four metrics tells them apart
retraining     two removals of the same size, one of which tells the class: what a retrained model says
semi-natural   two watermarks, and two maps of which each fits one of them
"""

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from abe.metrics import as_metric
from abe.metrics.soundness import RATIOS, THRESHOLDS, Soundness, hausdorff
from studies import shapes

Lines = Mapping[str, tuple[Sequence[float], Sequence[float]]]
"""Name -> (x, y)."""


@dataclass(frozen=True)
class Found:
    """What a study found: a table, sentences, and lines or bars to draw per panel."""

    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    findings: list[str]
    panels: Mapping[str, Lines]


# ---------------------------------------------------------------- a linear model

SAMPLES, FEATURES = 1000, 200
LEVELS = (0.6, 0.7, 0.8, 0.9, 0.95)


def linear(trials: int = 100) -> Found:
    """y = sign(sum of x): the true map is max(0, y x); absent features come from another sample.

    Remove sets half of the positive attributions to 0, Introduce puts U(0, 1) of the map's maximum on half
    of the others, Random is uniform. Of each there are ``trials``; the table has means and the lowest and
    highest mean over trials.
    """
    g = torch.Generator().manual_seed(0)
    x = torch.randn(SAMPLES, FEATURES, generator=g).double()
    donor = x[(torch.arange(SAMPLES) + torch.randint(1, SAMPLES, (SAMPLES,), generator=g)) % SAMPLES]
    y = x.sum(1).sign()
    truth = (y[:, None] * x).clamp_min(0)
    kinds: dict[str, Callable[[], Tensor]] = {
        "ground truth": lambda: truth,
        "Remove": lambda: truth * (torch.rand(truth.shape, generator=g) < 0.5),
        "Introduce": lambda: introduced(truth, g),
        "Random": lambda: torch.rand(truth.shape, generator=g).double(),
    }
    found = {
        name: [judged(make(), x, donor, y) for _ in range(1 if name == "ground truth" else trials)]
        for name, make in kinds.items()
    }
    return _linear_found(found, trials)


def introduced(truth: Tensor, generator: torch.Generator) -> Tensor:
    """Attribution on half of the features that have none."""
    extra = torch.rand(truth.shape, generator=generator).double() * truth.amax(1, keepdim=True)
    chosen = torch.rand(truth.shape, generator=generator) < 0.5
    return torch.where((truth == 0) & chosen, extra, truth)


def judged(maps: Tensor, x: Tensor, donor: Tensor, y: Tensor) -> tuple[list[float | None], list[float]]:
    """Soundness at the levels, and the completeness curve; the model is linear, so sums suffice.

    Absent features take the donor's values: s = sum of donor + sum over kept features of (x - donor).
    """
    metric: Soundness = as_metric(("soundness", {"removal": "zero"})).value
    shuffle = torch.rand(maps.shape, generator=torch.Generator().manual_seed(1)).argsort(1)
    order = shuffle.gather(1, maps.gather(1, shuffle).argsort(dim=1, descending=True, stable=True))
    kept = torch.tensor([FEATURES - int(FEATURES * r) for r in RATIOS])
    gained = (x - donor).gather(1, order).cumsum(1)[:, kept - 1]
    right = (donor.sum(1, keepdim=True) + gained).sign() == y[:, None]
    sums = maps.gather(1, order).cumsum(1)[:, kept - 1]
    sound = metric.curve({"right": right, "sums": sums}).at_levels(LEVELS)
    top = maps.amax(1, keepdim=True)
    left = [torch.where(maps > t * top, donor, x).sum(1).sign() == y for t in THRESHOLDS]
    return sound, [1 - float(one.double().mean()) for one in left]


def _linear_found(found: dict[str, list[tuple[list[float | None], list[float]]]], trials: int) -> Found:
    rows: list[tuple[str, ...]] = []
    means: dict[str, list[float]] = {}
    lost: dict[str, list[float]] = {}
    for name, results in found.items():
        reached = [[v for r in results if (v := r[0][k]) is not None] for k in range(len(LEVELS))]
        whole = [len(values) == len(results) for values in reached]
        means[name] = [sum(v) / len(v) if w else math.nan for v, w in zip(reached, whole, strict=True)]
        lost[name] = [sum(r[1][k] for r in results) / len(results) for k in range(len(THRESHOLDS))]
        spread = [
            f"{sum(v) / len(v):.3f} ({min(v):.2f}-{max(v):.2f})" if v else "not reached" for v in reached
        ]
        rows.append((name, *spread, " ".join(f"{v:.2f}" for v in lost[name])))
    shared = [k for k in range(len(LEVELS)) if not any(math.isnan(m[k]) for m in means.values())]
    ordered = all(
        min(means["ground truth"][k], means["Remove"][k]) >= 0.999
        and 0.999 > means["Introduce"][k] > means["Random"][k]
        for k in shared
    )
    complete = all(a >= b for a, b in zip(lost["ground truth"], lost["Remove"], strict=True))
    findings = [
        f"Soundness at the accuracies all maps reach ({', '.join(str(LEVELS[k]) for k in shared)}): "
        f"ground truth = Remove = 1 > Introduce > Random: {said(ordered and bool(shared))}.",
        f"Completeness: ground truth >= Remove at every threshold: {said(complete)}.",
        f"{trials} trials of each modification; {SAMPLES} samples of {FEATURES} features.",
    ]
    return Found(
        head=("map", *(f"soundness at {v}" for v in LEVELS), "completeness at .9 ... .1"),
        rows=rows,
        findings=findings,
        panels={
            "soundness against accuracy": {n: (LEVELS, means[n]) for n in means},
            "completeness against threshold": {n: (THRESHOLDS, lost[n]) for n in lost},
        },
    )


def said(shown: bool) -> str:
    """How a finding ends."""
    return "shown" if shown else "NOT shown"


# ---------------------------------------------------------------- modified maps

METHODS = ("integrated_gradients", "gradient_x_input", "smoothgrad")
SHIFT = 0.6


def modified(count: int = 200) -> Found:
    """Table 1: distances between the curves of original, Remove and Introduce, for four metrics."""
    net, x, labels = shapes.classifier(count)
    distances: dict[str, list[float]] = {}
    panels: dict[str, Lines] = {}
    for method in METHODS:
        original = shapes.unit_map(net, x, method)
        for scheme in SCHEMES:
            versions = {"original": original, **modifications(original, scheme)}
            curves = {n: shapes.four_curves(net, x, labels, m) for n, m in versions.items()}
            for metric in next(iter(curves.values())):
                points = [c[metric] for c in curves.values()]
                gaps = [hausdorff(a, b) for i, a in enumerate(points) for b in points[:i]]
                distances.setdefault(metric, []).append(min(gaps))
                if (method, scheme) == (METHODS[0], "constant"):
                    panels[metric] = {n: drawn(c[metric]) for n, c in curves.items()}
    return _modified_found(distances, panels, shapes.accuracy(net, x, labels))


def drawn(points: Tensor) -> tuple[list[float], list[float]]:
    """x and y of (k, 2) points."""
    return points[:, 0].tolist(), points[:, 1].tolist()


SCHEMES = ("constant", "random", "partial")


def modifications(maps: Tensor, scheme: str) -> dict[str, Tensor]:
    """Remove and Introduce of maps in [0, 1] (Table 3 of the paper)."""
    g = torch.Generator().manual_seed(2)
    if scheme in ("constant", "random"):
        shift = (
            torch.full_like(maps, SHIFT)
            if scheme == "constant"
            else SHIFT * torch.rand(maps.shape, generator=g)
        )
        return {"Remove": (maps - shift).clamp(0, 1), "Introduce": (maps + shift).clamp(0, 1)}
    flat = maps.flatten(1)
    place, n = flat.argsort(1).argsort(1), flat.shape[1]
    middle, low = (place >= 0.6 * n) & (place < 0.8 * n), place < 0.4 * n
    raised = flat.quantile(0.8, dim=1, keepdim=True).expand_as(flat)
    removed, added = torch.where(middle, 0.0, flat), torch.where(low, raised, flat)
    return {"Remove": removed.view_as(maps), "Introduce": added.view_as(maps)}


def _modified_found(distances: dict[str, list[float]], panels: dict[str, Lines], accuracy: float) -> Found:
    stats = {m: (torch.tensor(d).mean().item(), torch.tensor(d).std().item()) for m, d in distances.items()}
    published = {"completeness": ".503", "soundness": ".183", "deletion": ".019", "ROAD": ".014"}
    rows = [(m, f"{mean:.3f} ± {std:.3f}", published[m]) for m, (mean, std) in stats.items()]
    apart = min(stats["completeness"][0], stats["soundness"][0]) > max(stats["deletion"][0], stats["ROAD"][0])
    findings = [
        f"Both metrics that read values tell the maps further apart than both that read the order: "
        f"{said(apart)}.",
        f"{len(distances['ROAD'])} settings ({len(METHODS)} methods, {len(SCHEMES)} schemes); the network is "
        f"right on {accuracy:.0%}.",
    ]
    return Found(("metric", "least Hausdorff distance", "paper (ImageNet)"), rows, findings, panels)


# ---------------------------------------------------------------- the command


def show(found: Found, path: Path) -> None:
    """Table and sentences in the terminal; a figure and a JSON file beside each other."""
    console = Console()
    table = Table(*found.head)
    for row in found.rows:
        table.add_row(*row)
    console.print(table)
    for sentence in found.findings:
        console.print(f"• {sentence}")
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(found.panels, path.with_suffix(".png"))
    content: dict[str, Any] = {"head": found.head, "rows": found.rows, "findings": found.findings}
    path.with_suffix(".json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    console.print(f"Written to {path}.json and .png")


def draw(panels: Mapping[str, Lines], path: Path) -> None:
    """Lines side by side; a line of one point is a bar."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1 + 3.6 * len(panels), 3.2), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    for number, (title, lines) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), number + 1)
        for name, (x, y) in lines.items():
            if len(y) == 1:
                axes.bar([name], y)
            else:
                axes.plot(x, y, marker=".", label=name)
        axes.set_title(title, fontsize=9)
        axes.tick_params(labelsize=7)
        if any(len(y) > 1 for _, y in lines.values()):
            axes.legend(frameon=False, fontsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def main() -> None:
    """Run the study that the command line names."""
    from studies import traps

    studies: dict[str, Callable[[], Found]] = {
        "linear": linear,
        "modified": modified,
        "retraining": traps.retraining,
        "semi-natural": traps.semi_natural,
    }
    parser = argparse.ArgumentParser(
        prog="python -m studies.soundness",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", choices=studies)
    parser.add_argument("--out", type=Path, default=Path("out/studies"), help="folder of the figure")
    given = parser.parse_args()
    show(studies[given.study](), given.out / f"soundness-{given.study}")


if __name__ == "__main__":
    main()

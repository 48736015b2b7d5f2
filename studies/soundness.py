"""What the paper on soundness and completeness shows, on small data: a linear model, and modified maps."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from abe.metrics import as_metric
from abe.metrics.soundness import RATIOS, THRESHOLDS, Soundness, hausdorff
from studies import shapes
from studies.charts import charted, exactly, extremes, said, spread
from studies.outcome import Chart, Line, Outcome, Table
from studies.statistics import Interval

# ---------------------------------------------------------------- a linear model

SAMPLES, FEATURES = 1000, 200
LEVELS = (0.6, 0.7, 0.8, 0.9, 0.95)
TRUTH = "ground truth"

Trial = tuple[list[float | None], list[float]]
"""Soundness at the levels and the completeness curve of one map."""


def linear(full: bool = False, trials: int = 100) -> Outcome:
    """y = sign(sum of x): the true map is max(0, y x); absent features come from another sample.

    Remove sets half of the positive attributions to 0, Introduce puts U(0, 1) of the map's maximum on half
    of the others, Random is uniform. Of each there are ``trials``, in full 1,000 as in the paper.
    """
    g = torch.Generator().manual_seed(0)
    x = torch.randn(SAMPLES, FEATURES, generator=g).double()
    donor = x[(torch.arange(SAMPLES) + torch.randint(1, SAMPLES, (SAMPLES,), generator=g)) % SAMPLES]
    y = x.sum(1).sign()
    truth = (y[:, None] * x).clamp_min(0)
    trials = 1000 if full else trials
    kinds: dict[str, Callable[[], Tensor]] = {
        "Remove": lambda: truth * (torch.rand(truth.shape, generator=g) < 0.5),
        "Introduce": lambda: introduced(truth, g),
        "Random": lambda: torch.rand(truth.shape, generator=g).double(),
    }
    found = {TRUTH: [judged(truth, x, donor, y)] * trials}
    found |= {name: [judged(make(), x, donor, y) for _ in range(trials)] for name, make in kinds.items()}
    return _linear_found(found, trials)


def introduced(truth: Tensor, generator: torch.Generator) -> Tensor:
    """Attribution on half of the features that have none."""
    extra = torch.rand(truth.shape, generator=generator).double() * truth.amax(1, keepdim=True)
    chosen = torch.rand(truth.shape, generator=generator) < 0.5
    return torch.where((truth == 0) & chosen, extra, truth)


def judged(maps: Tensor, x: Tensor, donor: Tensor, y: Tensor) -> Trial:
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


def _linear_found(found: dict[str, list[Trial]], trials: int) -> Outcome:
    sound = {n: [extremes([_number(t[0][k]) for t in found[n]]) for k in range(len(LEVELS))] for n in found}
    lost = {n: [extremes([t[1][k] for t in found[n]]) for k in range(len(THRESHOLDS))] for n in found}
    shared = [k for k in range(len(LEVELS)) if all(s[k].mean == s[k].mean for s in sound.values())]
    where = ", ".join(str(LEVELS[k]) for k in shared)
    steps = list(zip(sound["Introduce"], sound["Random"], strict=True))
    perfect = all(min(sound[n][k].low for n in (TRUTH, "Remove")) >= 0.999 for k in shared)
    between = all(steps[k][0].high < 0.999 and steps[k][0].low > steps[k][1].high for k in shared)
    findings = [
        f"Soundness of the ground truth and of Remove is 1 at every accuracy that all maps reach ({where}): "
        f"{_always(perfect and bool(shared))}.",
        "There it is below 1 for Introduce, and lower still for Random: "
        f"{_always(between and bool(shared))}.",
        "Remove is nowhere more complete than the ground truth (what §5.1 of the paper predicts): "
        f"{_always(all(r.high <= t.mean for r, t in zip(lost['Remove'], lost[TRUTH], strict=True)))}. The "
        "sentence on Figure 6 says the opposite; Remove and Introduce are exchanged there.",
        f"Introduce is more complete than the ground truth, as §5.1 predicts: {_raised(lost)}.",
    ]
    rows = [
        (name, *(_cell(v) for v in sound[name]), " ".join(f"{v.mean:.2f}" for v in lost[name]))
        for name in found
    ]
    table = Table(
        f"Linear model: {SAMPLES:,} samples of {FEATURES} features, {trials:,} trials of each modification",
        ("map", *(f"soundness at {v}" for v in LEVELS), "completeness at .9 ... .1"),
        rows,
        "Mean over trials (lowest to highest). No number: not every trial reaches the accuracy.",
    )
    charts = [
        Chart(
            "soundness", {n: Line(LEVELS, sound[n]) for n in found}, "accuracy reached", "share that is sound"
        ),
        Chart(
            "completeness",
            {n: Line(THRESHOLDS, lost[n]) for n in found},
            "attribution threshold",
            "accuracy lost",
        ),
    ]
    caption = "Soundness and completeness of four maps of a linear model; bands reach over all trials."
    return charted(tables=[table], findings=findings, charts=charts, caption=caption)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _cell(value: Interval) -> str:
    return "" if value.mean != value.mean else f"{value.mean:.3f} ({value.low:.2f} to {value.high:.2f})"


def _always(holds: bool) -> str:
    return "confirmed in every trial" if holds else "not confirmed in every trial"


def _raised(lost: dict[str, list[Interval]]) -> str:
    """At how many thresholds every trial lies above the ground truth, and at how many below."""
    pairs = list(zip(lost["Introduce"], lost[TRUTH], strict=True))
    above, below = sum(i.low > t.mean for i, t in pairs), sum(i.high < t.mean for i, t in pairs)
    first, true = pairs[0]
    return (
        f"every trial is above it at {above} of {len(pairs)} thresholds, and below it at {below} "
        f"({first.mean:.2f} against {true.mean:.2f} at {THRESHOLDS[0]})"
    )


# ---------------------------------------------------------------- modified maps

METHODS: dict[str, dict[str, Any]] = {
    "grad_cam": {},
    "integrated_gradients": {},
    "extremal_perturbation": {"areas": 0.3, "steps": 200},
}
SHIFT = 0.6
VALUES, ORDER = ("completeness", "soundness"), ("deletion", "ROAD")
PUBLISHED = {"completeness": ".503", "soundness": ".183", "deletion": ".019", "ROAD": ".014"}


def modified(full: bool = False, count: int = 100) -> Outcome:
    """Table 1: distances between the curves of original, Remove and Introduce, for four metrics.

    Soundness is read at every fourth of its 96 ratios, in full at all; ε goes with the step.
    """
    net, x, labels = shapes.classifier(1000 if full else count)
    every = 1 if full else 4
    distances: dict[str, list[float]] = {}
    charts: list[Chart] = []
    for method, params in METHODS.items():
        original = shapes.unit_map(net, x, method, **params)
        for scheme in SCHEMES:
            versions = {"original": original, **modifications(original, scheme)}
            curves = {n: shapes.four_curves(net, x, labels, m, every=every) for n, m in versions.items()}
            for metric in PUBLISHED:
                points = [c[metric] for c in curves.values()]
                gaps = [hausdorff(a, b) for i, a in enumerate(points) for b in points[:i]]
                distances.setdefault(metric, []).append(min(gaps))
            if (method, scheme) == ("integrated_gradients", "constant"):
                charts = [_chart(m, {n: c[m] for n, c in curves.items()}) for m in PUBLISHED]
    return _modified_found(distances, charts, shapes.accuracy(net, x, labels), len(x))


ACROSS = {
    "completeness": ("threshold", "accuracy lost"),
    "soundness": ("accuracy", "share that is sound"),
    "deletion": ("share removed", "accuracy"),
    "ROAD": ("share removed", "accuracy"),
}


def _chart(metric: str, curves: dict[str, Tensor]) -> Chart:
    lines = {n: Line(p[:, 0].tolist(), [exactly(v) for v in p[:, 1].tolist()]) for n, p in curves.items()}
    return Chart(metric, lines, *ACROSS[metric])


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


def _modified_found(
    distances: dict[str, list[float]], charts: list[Chart], accuracy: float, count: int
) -> Outcome:
    settings = [f"{method}, {scheme}" for method in METHODS for scheme in SCHEMES]
    rows = [(m, str(spread(d)), PUBLISHED[m]) for m, d in distances.items()]
    every = [(s, *(f"{distances[m][k]:.3f}" for m in PUBLISHED)) for k, s in enumerate(settings)]
    findings = [
        said(
            f"{value} tells the three maps further apart than {order}",
            spread([a - b for a, b in zip(distances[value], distances[order], strict=True)]),
            "least distance, difference over settings",
        )
        for value in VALUES
        for order in ORDER
    ]
    tables = [
        Table(
            f"Least distance between two of original, Remove and Introduce ({count} pictures)",
            ("metric", "mean over settings", "paper (VGG16, ImageNet)"),
            rows,
            f"{len(settings)} settings: {len(METHODS)} methods by {len(SCHEMES)} schemes, with 95 % "
            "bootstrap intervals; they share pictures and network. "
            f"The network is right on {accuracy:.1%}.",
        ),
        Table("The same, one by one", ("setting", *PUBLISHED), every, "Hausdorff distances of the points."),
    ]
    caption = "Curves of integrated gradients under the constant scheme, by four metrics."
    return charted(tables=tables, findings=findings, charts=charts, caption=caption)

"""Removal methods on photographs: one figure per method, and what each run cost.

    python examples/gallery_removal.py out/removal [photographs…]

Games of cells share one run: Shapley, Banzhaf, leaving one out and pairs of cells read the same coalitions.
"""

import sys
from pathlib import Path

import abe
from abe.task import zoo

SUPERPIXELS = ("superpixel", {"n": 40})
SETTINGS = {
    "occlusion_patch": {"size": 32, "stride": 16, "removal": "mean"},
    "pdiff": {"size": 32, "stride": 32, "samples": 4},
    "rise": {"evaluations": 1000, "objective": "probability"},
    "ace": {"units": ("grid", {"n": 7}), "samples": 8},
    "kernel_shap": {"units": SUPERPIXELS, "removal": "blur", "evaluations": 1000},
    "lime": {"units": SUPERPIXELS, "evaluations": 1000},
    "s_lime": {"units": SUPERPIXELS, "evaluations": 1000, "start": 500},
    "baylime": {"units": SUPERPIXELS, "evaluations": 500, "prior": ("occlusion", {"units": SUPERPIXELS})},
}
SUMMARIES = ("shapley", "banzhaf", "remove_individual", ("interactions", {"order": 2}))


def main(folder: Path, names: list[str]) -> None:
    """Explain the photographs by every method and write the figures."""
    folder.mkdir(parents=True, exist_ok=True)
    task = zoo.efficientnet_lite0()
    photographs = list(zoo.photographs(names or ["chelsea", "coffee"]).values())
    for method, params in SETTINGS.items():
        found = abe.explain(task, photographs, method, **params)
        found.plot(folder / f"{method}.png")
        say(method, found)
    games = abe.summarise(task, photographs, SUMMARIES, units="grid", removal="blur")
    for summary, found in zip(SUMMARIES, games, strict=True):
        name = summary if isinstance(summary, str) else summary[0]
        found.plot(folder / f"game_{name}.png")
        say(name, found)


def say(name: str, found: abe.Explanation) -> None:
    """One line: rows, seconds, and what the method itself says of its fit."""
    extra = {k: round(float(v[0, 0]), 3) for k, v in found.diagnostics.items() if k in ("adherence", "width")}
    sys.stdout.write(
        f"{name:20} {found.cost.forward_rows:6} rows {found.cost.seconds:7.1f} s {extra or ''}\n"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out/removal"), sys.argv[2:])

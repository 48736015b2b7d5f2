"""Figures of robustness: accuracy over the radius, and what transfers between models."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from abe.report.canvas import INK, MUTED, RULE, blank, finish

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINE, OTHER = "#1f6feb", "#d1242f"


def plot_curve(curve: Any, *, path: str | Path | None = None) -> "Figure":
    """Robust accuracy and success rate over ε.

    Args:
        curve: what `abe.evaluate_robustness` returns.
        path: also write the figure there.
    """
    figure = blank(6.4, 4.0)
    axes = figure.add_subplot()
    radii = [0.0, *curve.epsilons]
    axes.plot(radii, [curve.clean_accuracy, *curve.robust_accuracy], "o-", color=LINE, label="accuracy")
    axes.plot(radii, [0.0, *curve.success_rate], "s--", color=OTHER, label="success of the attack")
    axes.set_xlabel(f"radius ε ({'L∞' if curve.norm == 'linf' else 'L2'}, input units)", color=INK)
    axes.set_ylim(-0.03, 1.03)
    axes.set_ylabel("share of the samples", color=INK)
    axes.grid(color=RULE, linewidth=0.6)
    axes.tick_params(colors=MUTED)
    axes.set_title(
        f"{curve.attack.removesuffix('()')} on {len(curve.correct)} samples", color=INK, fontsize=10
    )
    axes.legend(frameon=False)
    return finish(figure, path)


def plot_transfer(matrix: Any, *, path: str | Path | None = None) -> "Figure":
    """The transfer matrix with its numbers.

    Args:
        matrix: what `abe.robustness.transfer_matrix` returns.
        path: also write the figure there.
    """
    n = len(matrix.models)
    figure = blank(2.6 + 0.9 * n, 1.9 + 0.7 * n)
    axes = figure.add_subplot()
    axes.imshow(matrix.rates.numpy(), vmin=0, vmax=1, cmap="Blues")
    for i in range(n):
        for j in range(n):
            rate = float(matrix.rates[i, j])
            text = "–" if rate != rate else f"{100 * rate:.0f} %"
            axes.text(j, i, text, ha="center", va="center", color="white" if rate > 0.6 else INK)
    axes.set_xticks(range(n), matrix.models, rotation=30, ha="right")
    axes.set_yticks(range(n), matrix.models)
    axes.set_xlabel("fooled", color=INK)
    axes.set_ylabel("made on", color=INK)
    axes.set_title(matrix.attack, color=INK, fontsize=10)
    return finish(figure, path)

"""The table of a comparison for a terminal."""

import math
from typing import Any

from abe import registry
from abe.metrics.evaluation.base import Metric, Score

ARROWS = {"higher": "↑", "lower": "↓"}


def build(comparison: Any) -> Any:
    """A `rich.table.Table`: one row per method, best first, failures last.

    Args:
        comparison: an `abe.Comparison`.
    """
    from rich.box import SIMPLE_HEAD

    from abe.terminal import NotedTable

    families = [_family(metric) for metric in comparison.metrics]
    table = NotedTable(
        _caption(comparison), keys=2, families=families, box=SIMPLE_HEAD, padding=0, pad_edge=False
    )
    table.add_column("rank", justify="right")
    table.add_column("method", overflow="fold", min_width=20)
    for metric in comparison.metrics:
        table.add_column(header(metric), justify="right", no_wrap=True)
    best = {m.name: comparison.leaders(m.name) if len(comparison) > 1 else [] for m in comparison.metrics}
    for method, scores in comparison.scores.items():
        cells = [_cell(scores[m.name], method in best[m.name]) for m in comparison.metrics]
        table.add_row(_rank(comparison.ranks[method]), _plain(method), *cells)
    for method, failure in comparison.failures.items():
        table.add_row(
            "–", f"{_plain(method)} [red]{_plain(failure.code)}[/]", *["–"] * len(comparison.metrics)
        )
    return table


def _family(metric: Metric) -> str:
    """The room that a metric is of; one of nobody's is a family of its own."""
    if metric.name not in registry.metrics.names():
        return metric.name
    return registry.metrics.get(metric.name).factory.__module__


def header(metric: Metric) -> str:
    """The card's title over two short lines, with the direction's arrow on the shorter."""
    card = metric.card
    title = metric.name if card is None else card.title
    first, dash, rest = title.partition("-")
    arrow = ARROWS[metric.direction]
    return f"{first}-\n{rest} {arrow}" if dash else f"{arrow}\n{title}"


def compact(x: float) -> str:
    """At most five characters for the usual sizes: .634, -.12, 4.15, 12.3, 1530."""
    if math.isnan(x):
        return "–"
    if math.isinf(x):
        return "∞" if x > 0 else "-∞"
    size = abs(x)
    if size >= 1e5:
        return f"{x:.0e}"
    digits = 0 if size >= 99.95 else 1 if size >= 9.995 else 2 if size >= 0.9995 else 3
    text = f"{x:.{digits}f}"
    if float(text) == 0 and x != 0 and size < 5e-4:
        return f"{x:.0e}".replace("e-0", "e-")
    return text.replace("0.", ".", 1) if size < 0.9995 else text


def _cell(score: Score, best: bool) -> str:
    text = compact(score.mean)
    text = f"[bold]{text}[/]" if best else text
    if score.interval is None:
        return text
    low, high = score.interval
    return f"{text}\n[dim]±{compact((high - low) / 2)}[/]"


def _rank(rank: float) -> str:
    return f"{rank:.0f}" if rank == int(rank) else f"{rank:.1f}"


def _caption(comparison: Any) -> str:
    lost = [f"{_plain(name)} failed: {_plain(f.message)}" for name, f in comparison.failures.items()]
    said = [_plain(text) for text in comparison.conclusions]
    return "\n".join([_plain(comparison.caption), *said, *lost])


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)

"""Tables of attacks and evaluations for a terminal."""

import math
from collections.abc import Sequence
from typing import Any


def attack_table(result: Any) -> Any:
    """One line per sample of an `AdversarialResult`."""
    sizes = result.distance
    rows = [
        (
            result.names[i],
            result.class_name(int(result.label_before[i])),
            result.class_name(int(result.label_after[i])),
            "yes" if bool(result.success[i]) else "no",
            f"{float(sizes['linf'][i]):.4f}",
            f"{float(sizes['l2'][i]):.3f}",
            f"{int(result.queries[i])}",
        )
        for i in range(len(result))
    ]
    won, tried = int(result.success[result.correct].sum()), int(result.correct.sum())
    wrong = f", {len(result) - tried} wrong before" if tried < len(result) else ""
    caption = f"{result.attack}: {won} of {tried} crossed{wrong}"
    return build(("sample", "before", "after", "crossed", "L∞", "L2", "queries"), rows, caption, text=3)


def curve_table(curve: Any) -> Any:
    """One line per ε of a `RobustnessCurve`."""
    rows = [
        (f"{eps:.4f}", share(curve.robust_accuracy[i]), share(curve.success_rate[i]))
        for i, eps in enumerate(curve.epsilons)
    ]
    half = math.isfinite(curve.median_distance)
    far = f"median distance {curve.median_distance:.4f}" if half else "fewer than half crossed at any ε"
    caption = (
        f"{curve.attack} ({curve.norm}), {len(curve.correct)} samples, clean accuracy "
        f"{share(curve.clean_accuracy)}, {far}"
    )
    return build(("ε", "robust accuracy", "success rate"), rows, caption, text=0)


def transfer_table(matrix: Any) -> Any:
    """One line per model that the samples were made on."""
    rows = [
        (name, *(share(float(rate)) for rate in line))
        for name, line in zip(matrix.models, matrix.rates, strict=True)
    ]
    caption = f"{matrix.attack}: share of samples that fool the model of the column, made on that of the line"
    return build(("made on", *matrix.models), rows, caption, text=1)


def share(number: float) -> str:
    """A share in per cent; – where there is none."""
    return "–" if number != number else f"{100 * number:.1f} %"


def build(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str, *, text: int) -> Any:
    """A `rich.table.Table` whose first ``text`` columns are words and the others numbers."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape

    from abe.terminal import NotedTable

    table = NotedTable(escape(caption), box=SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(head):
        table.add_column(escape(name), justify="left" if i < text else "right", overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    return table

"""Integrated gradients against captum: as called by default, at equal nodes, and to a given residual."""

from collections.abc import Iterator
from statistics import median
from typing import Any

from benchmarks.processes import DidNotFinishError, Worker

CHUNKS = (4, 8, 16, 32)
NODES = (16, 32, 64, 128, 256, 512)
RISING = (50, 100, 200, 400, 800)
TOLERANCE = 0.02


def run(model: str, rounds: int = 3) -> Iterator[dict[str, Any]]:
    """All comparisons on one network as they are measured; ratios are captum's seconds over ours."""
    ours, theirs = Worker("abe", model), Worker("captum", model)
    try:
        yield {"model": model, "default": _default(ours, theirs, rounds)}
        yield {"model": model, "equal_nodes": _equal_nodes(ours, theirs, rounds)}
        yield {"model": model, "to_residual": _to_residual(ours, theirs, rounds)}
    finally:
        ours.close()
        theirs.close()
    yield {"model": model, "residuals": _residuals(model)}


def _default(ours: Worker, theirs: Worker, rounds: int) -> dict[str, Any]:
    """Both libraries with their defaults, in turn; our first call includes finding the plan."""
    mine: list[float] = []
    other: list[Any] = []
    for _ in range(rounds):
        mine.append(ours.ask()["seconds"])
        if other and isinstance(other[-1], str):
            continue
        try:
            answer = theirs.ask()
            other.append((answer["seconds"], answer["peak_mb"]))
        except DidNotFinishError as problem:
            other.append(str(problem))
    finished = [o for o in other if not isinstance(o, str)]
    captum = median(o[0] for o in finished) if finished else None
    return {
        "abe_first": mine[0],
        "abe": median(mine),
        "captum": captum if captum is not None else f"did not finish: {other[-1]}",
        "captum_peak_mb": max((o[1] for o in finished), default=None),
        "ratio": None if captum is None else captum / median(mine),
        "ratio_first": None if captum is None else captum / mine[0],
    }


def _equal_nodes(ours: Worker, theirs: Worker, rounds: int) -> dict[str, Any]:
    """50 Gauss–Legendre nodes on both sides; captum with its fastest chunk."""
    tried = {}
    for chunk in CHUNKS:
        try:
            tried[chunk] = theirs.ask(internal_batch_size=chunk)["seconds"]
        except DidNotFinishError:
            continue
    best = min(tried, key=lambda chunk: tried[chunk])
    mine, other = [], []
    for _ in range(rounds):
        mine.append(ours.ask(steps=50))
        other.append(theirs.ask(internal_batch_size=best)["seconds"])
    seconds = median(m["seconds"] for m in mine)
    return {
        "abe": seconds,
        "abe_chunk": mine[-1]["chunk"],
        "abe_execution": mine[-1]["execution"],
        "captum": median(other),
        "captum_chunk": best,
        "captum_by_chunk": tried,
        "ratio": median(other) / seconds,
    }


def _to_residual(ours: Worker, theirs: Worker, rounds: int) -> dict[str, Any]:
    """captum repeats only the photographs that miss, with its nodes doubled; also its last call alone."""
    mine, total, last = [], [], []
    for _ in range(rounds):
        answer = ours.ask(tolerance=TOLERANCE)
        mine.append(answer)
        left, spent, final, used = list(range(4)), 0.0, 0.0, {}
        for nodes in RISING:
            found = theirs.ask(internal_batch_size=4, n_steps=nodes, samples=left)
            spent += found["seconds"]
            used |= dict.fromkeys(left, nodes)
            done = [i for i, r in zip(left, found["residual"], strict=True) if abs(r) <= TOLERANCE]
            final += found["seconds"] * len(done) / len(left)
            left = [i for i in left if i not in done]
            if not left:
                break
        total.append(spent)
        last.append(final)
    seconds = median(m["seconds"] for m in mine)
    return {
        "abe": seconds,
        "abe_nodes": mine[-1]["nodes"],
        "abe_residual": mine[-1]["residual"],
        "captum_rising": median(total),
        "captum_nodes": [used[i] for i in sorted(used)],
        "captum_unreached": left,
        "captum_knowing_the_nodes": median(last),
        "ratio": median(total) / seconds,
        "ratio_knowing_the_nodes": median(last) / seconds,
    }


def _residuals(model: str) -> list[dict[str, Any]]:
    """Residual and peak resident memory of a fresh process over rising nodes."""
    worker, rows = Worker("abe", model), []
    try:
        for nodes in NODES:
            answer = worker.ask(steps=nodes)
            worst = max(abs(r) for r in answer["residual"])
            rows.append(
                {
                    "nodes": nodes,
                    "residual": [round(r, 4) for r in answer["residual"]],
                    "worst": worst,
                    "seconds": answer["seconds"],
                    "peak_mb": answer["peak_mb"],
                }
            )
    finally:
        worker.close()
    return rows

"""Six perturbation metrics in one plan against one by one: Quantus for deletion, plain loops for the rest.

    python -m benchmarks metrics

Together: `abe.evaluate` with insertion, deletion, their KL and log-odds forms, intervals included. One by
one: Quantus 0.6 PixelFlipping for deletion, and for each other metric a plain loop: sample by sample and
step by step, as published code has it, and, for the second ratio, all samples of a step at once. The same
maps, steps and baseline; both sides in turn, in one process. The curves of both sides are compared before
anything is timed.
"""

import time
import warnings
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import abe
from abe.task.base import Task
from benchmarks.adversarial import small_inputs, small_task
from benchmarks.subjects import Normalised, efficientnet, photos

METRICS = (
    *("insertion", "deletion", "kl_insertion", "kl_deletion"),
    *("log_odds_insertion", "log_odds_deletion"),
)
Work = Callable[[], np.ndarray | Tensor]
STEPS = 100
"""At most; every step has as many pixels."""
LIMIT = 1e-3
"""Largest difference of two curves: the execution copy agrees with the model to 1e-5 in logits."""

ROUNDING = 1e-6
"""Logarithms of 10 to 1,000 classes in float32; the KL of an undecided network is not much larger."""


class Counted(nn.Module):
    """A model that counts the rows it sees."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.rows = model, 0

    def forward(self, x: Tensor) -> Tensor:
        self.rows += len(x)
        return self.model(x)


def large() -> tuple[Task, Tensor]:
    """EfficientNet-Lite0 with its weights on four photographs."""
    task = efficientnet()
    return task, task.lift(photos(4)).x


SUBJECTS: dict[str, Callable[[], tuple[Task, Tensor]]] = {
    "EfficientNet-Lite0": large,
    "small network, 32 x 32": lambda: (small_task(), small_inputs(8)),
}


def run(rounds: int = 3) -> Iterator[dict[str, Any]]:
    """All subjects."""
    yield from (measure(name, rounds) for name in SUBJECTS)


def measure(name: str, rounds: int) -> dict[str, Any]:
    """Seconds and rows of all sides on one network, and ratios of theirs to ours."""
    task, x = SUBJECTS[name]()
    model = Counted(Normalised(task)).eval()
    maps = torch.rand(x.shape[0], 1, *x.shape[2:], generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        target = model(x).argmax(1)
    alone = {metric: _alone(metric, model, x, maps, target) for metric in METRICS}
    alone |= {f"{metric}, batched": _batched(metric, model, x, maps, target) for metric in METRICS}
    together = _together(task, x, maps, target)
    _same_curves(together(), {side: work() for side, work in alone.items()})
    seconds: dict[str, list[float]] = {side: [] for side in ("together", *alone)}
    rows: dict[str, int] = {}
    for _ in range(rounds):
        began = time.perf_counter()
        found = together()
        seconds["together"].append(time.perf_counter() - began)
        for side, work in alone.items():
            model.rows, began = 0, time.perf_counter()
            work()
            seconds[side].append(time.perf_counter() - began)
            rows[side] = model.rows
    best = {side: median(s) for side, s in seconds.items()}
    scores = next(iter(found.scores.values()))
    spent = scores["insertion"].cost.forward_rows + scores["deletion"].cost.forward_rows
    return {
        "model": name,
        "samples": len(x),
        "steps": x.shape[-1] * x.shape[-2] // _step(x),
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "together": {"seconds": best["together"], "rows": spent + found.setup.forward_rows},
        "each": {name: {"seconds": best[name], "rows": rows[name]} for name in alone},
        "ratio": sum(best[metric] for metric in METRICS) / best["together"],
        "ratio_batched": sum(best[f"{metric}, batched"] for metric in METRICS) / best["together"],
    }


def _step(x: Tensor) -> int:
    """Pixels per step: the smallest divisor of their number that gives at most `STEPS` steps."""
    pixels = x.shape[-1] * x.shape[-2]
    return next(step for step in range(-(-pixels // STEPS), pixels + 1) if pixels % step == 0)


def _together(task: Task, x: Tensor, maps: Tensor, target: Tensor) -> Callable[[], Any]:
    step = _step(x)

    def work() -> Any:
        return abe.evaluate(
            task, {"maps": maps}, list(METRICS), data=x, target=target, step=step, progress=False
        )

    return work


def _alone(metric: str, model: nn.Module, x: Tensor, maps: Tensor, target: Tensor) -> Work:
    if metric == "deletion":
        return _quantus(model, x, maps, target)
    each = [_batched(metric, model, *(t[i : i + 1] for t in (x, maps, target))) for i in range(len(x))]
    return lambda: torch.cat([torch.as_tensor(work()) for work in each])


def _batched(metric: str, model: nn.Module, x: Tensor, maps: Tensor, target: Tensor) -> Work:
    if metric == "deletion":
        return _quantus(model, x, maps, target)
    inserts = "insertion" in metric
    read = _kl if metric.startswith("kl") else _log_odds if metric.startswith("log") else _probability
    return lambda: _loop(model, x, maps, target, inserts, read)


@torch.no_grad()
def _loop(
    model: nn.Module,
    x: Tensor,
    maps: Tensor,
    target: Tensor,
    inserts: bool,
    read: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """(b, n + 1) the curves, one call of the model per step."""
    pixels = x.shape[-1] * x.shape[-2]
    step = _step(x)
    order = maps.flatten(1).argsort(1, descending=True)
    start, end = (torch.zeros_like(x), x) if inserts else (x, torch.zeros_like(x))
    current = start.clone().flatten(2)
    curve = [read(model(start), target)]
    for first in range(0, pixels, step):
        index = order[:, None, first : first + step].expand(-1, x.shape[1], -1)
        current.scatter_(2, index, end.flatten(2).gather(2, index))
        curve.append(read(model(current.view_as(x)), target))
    return torch.stack(curve, 1)


def _probability(outputs: Tensor, target: Tensor) -> Tensor:
    return outputs.softmax(1).gather(1, target[:, None])[:, 0]


def _kl(outputs: Tensor, target: Tensor) -> Tensor:
    return -outputs.double().log_softmax(1).mean(1) - float(np.log(outputs.shape[1]))


def _log_odds(outputs: Tensor, target: Tensor) -> Tensor:
    log_p = outputs.double().log_softmax(1)
    chosen = log_p.gather(1, target[:, None])[:, 0]
    return chosen - log_p.scatter(1, target[:, None], -torch.inf).logsumexp(1)


def _quantus(model: nn.Module, x: Tensor, maps: Tensor, target: Tensor) -> Callable[[], np.ndarray]:
    """PixelFlipping with as many steps. It counts elements, so a step of ours is three times as many."""
    import quantus

    class Flipping(quantus.PixelFlipping):
        def custom_preprocess(self, **_: Any) -> None:
            """Without the check that a step divides the pixels, which mistakes elements for pixels."""

    metric = Flipping(
        features_in_step=_step(x) * x.shape[1],
        perturb_baseline=0.0,
        abs=False,
        normalise=False,
        disable_warnings=True,
        display_progressbar=False,
    )
    arrays = {"x_batch": x.numpy(), "y_batch": target.numpy(), "a_batch": maps.numpy()}

    def work() -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.asarray(metric(model=model, **arrays, device="cpu", softmax=True))

    return work


def _same_curves(found: Any, others: dict[str, Any]) -> None:
    """Stop where the two sides do not compute the same."""
    for name, theirs in others.items():
        metric = name.removesuffix(", batched")
        curve = found.scores["maps"][metric].curve
        theirs = torch.as_tensor(theirs).double()
        ours = curve[:, 1:] if metric == "deletion" else curve  # Quantus leaves the start out
        gap, size = (ours - theirs[:, : ours.shape[1]]).abs().max(), ours.abs().max()
        assert gap < LIMIT * size + ROUNDING, f"{metric}: curves differ by {gap:.2g} of {size:.2g}"

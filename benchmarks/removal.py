"""Removal methods against captum at equal evaluations, in turn; exact Shapley against its forward time.

captum is run as it is by default (one row at a time) and by chunks; lime is run where it is installed.
"""

import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from statistics import median
from typing import Any

import torch
from torch import Tensor

import abe
from abe.engines.removal.segments import segments_of
from abe.engines.runtime.evaluator import state_of
from abe.task.base import Task
from abe.units import Grid
from benchmarks.subjects import Normalised, efficientnet, photos

CHUNKS = (1, 4, 8, 16)
EVALUATIONS = 500
SIZE, STRIDE = 32, 16
Run = Callable[[], Any]


def run(rounds: int = 3) -> Iterator[dict[str, Any]]:
    """One row per comparison; ratios are the other's seconds over ours."""
    task = efficientnet()
    task.model.eval().requires_grad_(False)
    x = task.lift(photos(1)).x
    for _ in range(3):  # lets the planner settle
        abe.explain(task, x, "occlusion_patch", size=SIZE, stride=STRIDE, progress=False)
    with torch.no_grad():
        target = int(task.forward(x).argmax())
    yield _shapley(task, x, target, rounds)
    grid = segments_of(Grid(n=7), x).labels.expand_as(x)
    for name, ours, theirs, evaluations in _pairs(task, x, target, grid):
        yield _compare(name, ours, theirs, evaluations, rounds)
    yield _rise(task, x, rounds)
    yield {"method": "memory", "peak_mb": {n: _peak(n) for n in (200, 2000)}}


def _shapley(task: Task, x: Tensor, target: int, rounds: int) -> dict[str, Any]:
    """4,096 rows of 12 units, beside a bare loop over as many rows and captum's 6 units (run once)."""
    from captum.attr import ShapleyValues

    labels = _cells(x, 3, 4)
    units = ("regions", {"regions": labels})
    bare, mine = [], []
    six = _cells(x, 2, 3).expand_as(x).contiguous()
    model, asked = Normalised(task).eval(), []
    model.register_forward_pre_hook(lambda _, given: asked.append(len(given[0])))
    captum = _seconds(lambda: ShapleyValues(model).attribute(x, target=target, feature_mask=six))
    found = None
    for _ in range(rounds):
        found = abe.explain(task, x, "shapley", units=units, max_units=12, progress=False)
        mine.append(found.cost.seconds)
        model = state_of(task).choice.model
        bare.append(_seconds(lambda model=model, found=found: _bare(task, model, x, 4096, found.cost.chunk)))
    six_units = ("regions", {"regions": six[0, 0]})
    same = _seconds(lambda: abe.explain(task, x, "shapley", units=six_units, progress=False))
    assert found is not None
    return {
        "method": "shapley, 12 units",
        "rows": found.cost.forward_rows,
        "abe": median(mine),
        "forward": median(bare),
        "over_forward": median(a / b for a, b in zip(mine, bare, strict=True)),
        "bar": 1.1,
        "captum_6_units": captum,
        "captum_6_units_rows": sum(asked),
        "abe_6_units": same,
    }


def _pairs(
    task: Task, x: Tensor, target: int, grid: Tensor
) -> Iterator[tuple[str, Run, dict[str, Run], int]]:
    """Name, our run, theirs by chunk, and the evaluations of each."""
    from captum.attr import KernelShap, Lime, Occlusion

    model = Normalised(task).eval()
    windows = len(range(0, x.shape[2] - SIZE + 1, STRIDE)) ** 2

    def ours(name: str, **params: Any) -> Run:
        return lambda: abe.explain(task, x, name, target=target, progress=False, **params)

    def occlusion(chunk: int) -> Run:
        how = {"sliding_window_shapes": (3, SIZE, SIZE), "strides": (3, STRIDE, STRIDE)}
        return lambda: Occlusion(model).attribute(x, target=target, perturbations_per_eval=chunk, **how)

    def sampled(kind: Any) -> Callable[[int], Run]:
        how = {"n_samples": EVALUATIONS, "feature_mask": grid.contiguous()}

        def at(chunk: int) -> Run:
            return lambda: kind(model).attribute(x, target=target, perturbations_per_eval=chunk, **how)

        return at

    params = {"units": ("grid", {"n": 7}), "removal": "zero", "evaluations": EVALUATIONS}
    for name, mine, make, rows in (
        ("occlusion", ours("occlusion_patch", size=SIZE, stride=STRIDE), occlusion, windows),
        ("kernel_shap", ours("kernel_shap", **params), sampled(KernelShap), EVALUATIONS),
        ("lime", ours("lime", **params), sampled(Lime), EVALUATIONS),
    ):
        yield name, mine, {f"captum, {chunk} at once": make(chunk) for chunk in CHUNKS}, rows
    if find_spec("lime") is not None:
        yield "lime", ours("lime", **params), {"lime": _lime(task, x, grid)}, EVALUATIONS


def _lime(task: Task, x: Tensor, grid: Tensor) -> Run:
    """The lime package on the same cells, zero for what is absent."""
    from lime.lime_image import LimeImageExplainer

    image, labels = x[0].permute(1, 2, 0).double().numpy(), grid[0, 0].numpy()

    def classify(images: Any) -> Any:
        rows = torch.stack([torch.as_tensor(i) for i in images]).permute(0, 3, 1, 2).float()
        with torch.no_grad():
            return task.forward(rows).softmax(1).numpy()

    def explain() -> Any:
        return LimeImageExplainer(random_state=0).explain_instance(
            image,
            classify,
            hide_color=0,
            num_samples=EVALUATIONS,
            segmentation_fn=lambda _: labels,
        )

    return explain


def _compare(name: str, ours: Run, theirs: dict[str, Run], evaluations: int, rounds: int) -> dict[str, Any]:
    """Medians over rounds in turn; every side was warmed by a run that does not count."""
    ours()
    mine: list[float] = []
    seconds: dict[str, list[float]] = {label: [] for label in theirs}
    for _ in range(rounds):
        mine.append(_seconds(ours))
        for label, other in theirs.items():
            seconds[label].append(_seconds(other))
    found = ours()
    return {
        "method": name,
        "evaluations": evaluations,
        "rows": found.cost.forward_rows,
        "abe": median(mine),
        **{label: median(times) for label, times in seconds.items()},
        "ratios": {label: median(times) / median(mine) for label, times in seconds.items()},
    }


def _rise(task: Task, x: Tensor, rounds: int) -> dict[str, Any]:
    """Beside a loop that has its masks ready and only multiplies, runs and adds up."""
    masks = torch.rand(EVALUATIONS, 1, *x.shape[2:])
    mine, bare = [], []
    for _ in range(rounds):
        found = abe.explain(task, x, "rise", evaluations=EVALUATIONS, progress=False)
        mine.append(found.cost.seconds)
        model, chunk = state_of(task).choice.model, found.cost.chunk

        def loop(model: Any = model, chunk: int = chunk or 8) -> Tensor:
            total = torch.zeros_like(masks[0])
            with torch.no_grad():
                for part in masks.split(chunk):
                    score = task.forward(x * part, None, model).amax(1)
                    total += (score.view(-1, 1, 1, 1) * part).sum(0)
            return total

        bare.append(_seconds(loop))
    return {
        "method": "rise",
        "evaluations": EVALUATIONS,
        "abe": median(mine),
        "bare_loop": median(bare),
        "ratio": median(bare) / median(mine),
    }


def _bare(task: Task, model: torch.nn.Module, x: Tensor, rows: int, chunk: int | None) -> None:
    part = x.expand(chunk or 8, -1, -1, -1).contiguous()
    with torch.no_grad():
        for _ in range(rows // len(part)):
            task.forward(part, None, model)


def _cells(x: Tensor, down: int, across: int) -> Tensor:
    """(h, w) numbers of a grid of down × across cells."""
    h, w = x.shape[2:]
    rows, columns = torch.arange(h) * down // h, torch.arange(w) * across // w
    return rows[:, None] * across + columns


def _seconds(work: Run) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _peak(evaluations: int) -> float:
    """Peak resident memory of a fresh process that runs RISE and LIME with so many evaluations."""
    command = [sys.executable, "-m", "benchmarks.removal", str(evaluations)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=1200)
    return float(done.stdout.splitlines()[-1])


def _memory(evaluations: int) -> None:
    torch.set_num_threads(2)
    task = efficientnet()
    for method in ("rise", "lime"):
        abe.explain(task, photos(1), method, evaluations=evaluations, chunk=8, progress=False)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    _memory(int(sys.argv[1]))

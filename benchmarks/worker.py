"""A process of its own for one library and one network: reads a JSON request per line, answers in JSON.

Parameters need no gradient on either side, as a careful user of captum would arrange it.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.subjects import MODELS, Normalised, photos

Request = dict[str, Any]


def serve(library: str, name: str) -> None:
    """Answer requests until standard input ends."""
    torch.set_num_threads(2)
    task = MODELS[name]()
    task.model.eval().requires_grad_(False)
    handler = {"abe": _abe, "captum": _captum}[library](task)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        answer = handler(json.loads(line))
        answer["seconds"] = time.perf_counter() - began
        answer["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(answer), flush=True)


def _abe(task: Any) -> Callable[[Request], Request]:
    import abe

    def run(request: Request) -> Request:
        n = request.pop("photos", 4)
        done = abe.explain(task, photos(n), "ig", progress=False, **request)
        cost = done.cost
        return {
            "residual": done.residual.tolist(),
            "nodes": done.diagnostics["nodes"].tolist(),
            "rows": cost.passes,
            "chunk": cost.chunk,
            "execution": cost.execution,
        }

    return run


def _captum(task: Any) -> Callable[[Request], Request]:
    from captum.attr import IntegratedGradients

    model = Normalised(task).eval()
    attribute = IntegratedGradients(model).attribute

    def run(request: Request) -> Request:
        x = task.lift(photos(request.pop("photos", 4))).x
        samples = request.pop("samples", None)
        x = x if samples is None else x[samples]
        with torch.no_grad():
            target = model(x).argmax(1)
        maps, missed = attribute(x, target=target, return_convergence_delta=True, **request)
        total = maps.flatten(1).sum(1)
        return {"residual": (missed / (total - missed).abs()).tolist()}

    return run


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2])

"""Backward rules against captum, in turn and in one process, on a network that captum can run.

captum's rules act on modules: every ReLU has to be a module of its own and out of place. So the network is
VGG-11 with its ReLUs made so; ABE runs the same one. Both explain the same eight rows.
"""

import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import abe

ROWS, SIDE = 8, 128


def _vgg() -> nn.Module:
    from torchvision.models import vgg11

    with torch.random.fork_rng():
        torch.manual_seed(0)  # noqa: TID251 - torchvision draws its weights from the global generator
        net = vgg11()
    for module in net.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return net.eval().requires_grad_(False)


def run(rounds: int = 5) -> Iterator[dict[str, Any]]:
    """Median seconds of both by method, and captum's over ours; both predict the class first."""
    from captum.attr import Deconvolution, DeepLift, GuidedBackprop

    net = _vgg()
    x = torch.rand(ROWS, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    task = abe.image_task(net, output_kind="logits")

    def predicted(x: Tensor) -> Tensor:
        with torch.no_grad():
            return net(x).argmax(1)

    theirs: dict[str, Callable[[Tensor], Tensor]] = {
        "guided_backprop": lambda x: GuidedBackprop(net).attribute(x, target=predicted(x)),
        "deconvolution": lambda x: Deconvolution(net).attribute(x, target=predicted(x)),
        "deeplift": lambda x: DeepLift(net).attribute(x, torch.zeros_like(x), target=predicted(x)),
    }
    for name, other in theirs.items():
        seconds: dict[str, list[float]] = {"abe": [], "captum": []}
        for _ in range(rounds + 3):  # three rounds let the planner settle
            seconds["abe"].append(_timed(lambda n=name: abe.explain(task, x, n, progress=False)))
            seconds["captum"].append(_timed(lambda o=other: o(x.clone().requires_grad_(True))))
        ours, captum = (median(found[3:]) for found in seconds.values())
        yield {"method": name, "abe": ours, "captum": captum, "ratio": captum / ours}


def _timed(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began

"""Class activation maps against captum and grad-cam: same network, layer, photographs and classes, in turn.

Every side predicts the class first, then explains it; grad-cam takes the class from its own forward.
"""

import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import abe
from abe.task.base import Task
from benchmarks.subjects import MODELS, Normalised, photos

PHOTOS = 8
LAYERS = {"EfficientNet-Lite0": "_conv_head", "ResNet-50": "layer4"}
SAME = 1e-3
"""Share of a map's largest value by which two libraries may differ in float32."""


def run(name: str, rounds: int = 7) -> Iterator[dict[str, Any]]:
    """Median seconds of every library and method, and ratios of theirs to ours."""
    task = MODELS[name]()
    task.model.eval().requires_grad_(False)
    x, layer = task.lift(photos(PHOTOS)).x, LAYERS[name]
    for what, sides, times in (
        (f"grad_cam, {PHOTOS} photographs", _grad_cam(task, x, layer), rounds),
        ("grad_cam, one photograph", _grad_cam(task, x[:1], layer), rounds),
        ("score_cam, one photograph", _score_cam(task, x[:1], layer), 1),
    ):
        yield {"model": name, "what": what, **_compared(sides, times)}


def _compared(sides: dict[str, Callable[[], Tensor]], rounds: int) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    maps = {side: call() for side, call in sides.items()} if rounds > 1 else {}
    _check(maps)
    for _ in range(rounds):
        for side, call in sides.items():
            began = time.perf_counter()
            call()
            seconds[side].append(time.perf_counter() - began)
    taken = {side: median(times) for side, times in seconds.items()}
    ratios = {f"{side} / abe": taken[side] / taken["abe"] for side in sides if side != "abe"}
    return {"seconds": taken, **ratios}


def _check(maps: dict[str, Tensor]) -> None:
    """Both compute the same map; grad-cam scales its own to [0, 1]."""
    if "captum" in maps:
        gap = (maps["captum"] - maps["abe"]).flatten(1).abs().amax(1)
        assert bool((gap <= SAME * maps["captum"].flatten(1).abs().amax(1)).all()), gap


def _grad_cam(task: Task, x: Tensor, layer: str) -> dict[str, Callable[[], Tensor]]:
    model = Normalised(task).eval()

    def ours() -> Tensor:
        return abe.explain(task, x, "grad_cam", layer=layer, progress=False).attribution.sum(1)

    sides: dict[str, Callable[[], Tensor]] = {"abe": ours}
    _add_captum(sides, model, task.model.get_submodule(layer), x)
    _add_grad_cam(sides, model, task.model.get_submodule(layer), x, "GradCAM")
    return sides


def _score_cam(task: Task, x: Tensor, layer: str) -> dict[str, Callable[[], Tensor]]:
    def ours() -> Tensor:
        found = abe.explain(task, x, "score_cam", layer=layer, variant="published", progress=False)
        return found.attribution.sum(1)

    sides: dict[str, Callable[[], Tensor]] = {"abe": ours}
    _add_grad_cam(sides, Normalised(task).eval(), task.model.get_submodule(layer), x, "ScoreCAM")
    return sides


def _add_captum(
    sides: dict[str, Callable[[], Tensor]], model: nn.Module, layer: nn.Module, x: Tensor
) -> None:
    from captum.attr import LayerAttribution, LayerGradCam

    explainer = LayerGradCam(model, layer)

    def theirs() -> Tensor:
        with torch.no_grad():
            target = model(x).argmax(1)
        # Without parameters that need a gradient, captum needs an input that does.
        raw = explainer.attribute(x.clone().requires_grad_(), target=target, relu_attributions=True)
        return LayerAttribution.interpolate(raw, tuple(x.shape[2:]), "bilinear")[:, 0].detach()

    sides["captum"] = theirs


def _add_grad_cam(
    sides: dict[str, Callable[[], Tensor]], model: nn.Module, layer: nn.Module, x: Tensor, kind: str
) -> None:
    try:
        import pytorch_grad_cam
    except ImportError:
        return
    explainer = getattr(pytorch_grad_cam, kind)(model=model, target_layers=[layer])

    def theirs() -> Tensor:
        return torch.from_numpy(explainer(input_tensor=x.clone().requires_grad_(), targets=None))

    sides["grad-cam"] = theirs

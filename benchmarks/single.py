"""Single calls, batch of one, as called by default: against the peer, and against the bare passes by hand.

Both sides run the same network in one process, two threads, in turn. ABE predicts the class; the peer is
told it, and every parameter keeps its gradient, as in a model just loaded. ``bare`` is what a careful user
writes by hand: forward, the score, its gradient at the input (for methods that look at a reference too, a
second forward).
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import abe

ROUNDS = 15
WARM = 6
SETTINGS: dict[str, dict[str, Any]] = {
    "gradient": {},
    "gradient_x_input": {},
    "guided_backprop": {},
    "deconvolution": {},
    "grad_cam": {},
    "deeplift": {},
    "lrp_epsilon": {},
    "raw_attention": {},
    "attention_rollout": {},
    "gradient_x_attention": {},
    "chefer_relevance": {},
    "ig": {"steps": 50},
    "smoothgrad": {"samples": 50},
}
ATTENTION = ("raw_attention", "attention_rollout", "gradient_x_attention", "chefer_relevance")
ON_VIT = ("gradient", "gradient_x_input", *ATTENTION)
MANY = ("ig", "smoothgrad")
"""Methods of 50 rows, which are held to be faster than captum's default."""


def _small() -> tuple[nn.Module, tuple[int, ...], str]:
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 64, 10),
    )
    return net, (1, 3, 32, 32), "4"


def _torchvision(name: str, layer: str) -> tuple[nn.Module, tuple[int, ...], str]:
    import torchvision

    net = getattr(torchvision.models, name)(weights=None)
    for module in net.modules():  # captum's rules need every rectifier out of place
        if hasattr(module, "inplace"):
            module.inplace = False
    return net, (1, 3, 224, 224), layer


NETWORKS: dict[str, Callable[[], tuple[nn.Module, tuple[int, ...], str]]] = {
    "conv 32²": _small,
    "ResNet-18": partial(_torchvision, "resnet18", "layer4"),
    "MobileNetV3-S": partial(_torchvision, "mobilenet_v3_small", "features.12"),
    "ViT-B/16": partial(_torchvision, "vit_b_16", ""),
}


def run(rounds: int = ROUNDS) -> Iterator[dict[str, Any]]:
    """Median seconds of every side by network and method, and what ABE's are held to."""
    for name, build in NETWORKS.items():
        with torch.random.fork_rng():
            torch.manual_seed(0)  # noqa: TID251 - torchvision draws its weights from the global generator
            net, shape, layer = build()
        x = torch.rand(shape, generator=torch.Generator().manual_seed(1))
        for method in ON_VIT if "ViT" in name else [m for m in SETTINGS if m not in ATTENTION]:
            yield {"model": name, "method": method, **_compared(net.eval(), x, layer, method, rounds)}


def _compared(net: nn.Module, x: Tensor, layer: str, method: str, rounds: int) -> dict[str, Any]:
    task = abe.image_task(net, output_kind="logits")
    with torch.no_grad():
        target = int(net(x).argmax(1))
    sides: dict[str, Callable[[], Any]] = {
        "abe": lambda: abe.explain(task, x, method, progress=False, **SETTINGS[method]),
        "bare": _bare(net, x, target, method),
    }
    other = _peer(net, x, layer, target, method)
    first = _seconds(sides["abe"])
    if other is not None:
        try:
            other()
            sides["peer"] = other
        except Exception as problem:  # it cannot run this network
            other = None
            print(f"# {method}: {type(problem).__name__}: {str(problem)[:80]}")
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(WARM + rounds):
        for side, call in sides.items():
            taken = _seconds(call)
            if number >= WARM:
                seconds[side].append(taken)
    found = {side: 1e3 * median(times) for side, times in seconds.items()}
    bar = 1.1 * found["bare"] + 0.5
    row: dict[str, Any] = {f"{side} ms": round(ms, 2) for side, ms in found.items()}
    row["first call ms"] = round(1e3 * first, 2)
    if "peer" in found:
        row["abe / peer"] = round(found["abe"] / found["peer"], 3)
    if method not in MANY:
        row["abe / (1.1 bare + .5 ms)"] = round(found["abe"] / bar, 3)
    return row


def _seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _bare(net: nn.Module, x: Tensor, target: int, method: str) -> Callable[[], Any]:
    """The model's work that the method cannot do without, by hand."""
    rows = 50 if method in MANY else 1
    forward_only = method in ("raw_attention", "attention_rollout")

    def call() -> Any:
        if forward_only:
            with torch.no_grad():
                return net(x)
        if method == "deeplift":
            with torch.no_grad():
                net(torch.zeros_like(x))
        leaf = x.expand(rows, -1, -1, -1).clone().requires_grad_()
        return torch.autograd.grad(net(leaf)[:, target].sum(), leaf)

    return call


def _peer(net: nn.Module, x: Tensor, layer: str, target: int, method: str) -> Callable[[], Any] | None:
    """captum, called as its documentation shows, or zennit for its LRP; None where neither has the method."""
    from captum import attr

    def leaf() -> Tensor:
        return x.clone().requires_grad_()

    if method == "grad_cam":
        explainer = attr.LayerGradCam(net, net.get_submodule(layer))
        return lambda: attr.LayerAttribution.interpolate(
            explainer.attribute(leaf(), target=target, relu_attributions=True), tuple(x.shape[2:]), "bilinear"
        )
    if method == "lrp_epsilon":
        return _zennit(net, x, target)
    if method == "deeplift":
        return lambda: attr.DeepLift(net).attribute(leaf(), torch.zeros_like(x), target=target)
    if method == "smoothgrad":
        tunnel = attr.NoiseTunnel(attr.Saliency(net))
        return lambda: tunnel.attribute(leaf(), nt_type="smoothgrad", nt_samples=50, target=target, abs=False)
    plain = {
        "gradient": lambda: attr.Saliency(net).attribute(leaf(), target=target, abs=False),
        "gradient_x_input": lambda: attr.InputXGradient(net).attribute(leaf(), target=target),
        "guided_backprop": lambda: attr.GuidedBackprop(net).attribute(leaf(), target=target),
        "deconvolution": lambda: attr.Deconvolution(net).attribute(leaf(), target=target),
        "ig": lambda: attr.IntegratedGradients(net).attribute(leaf(), target=target),
    }
    return plain.get(method)


def _zennit(net: nn.Module, x: Tensor, target: int) -> Callable[[], Any]:
    from zennit.attribution import Gradient
    from zennit.composites import LayerMapComposite
    from zennit.core import Composite
    from zennit.rules import Epsilon
    from zennit.types import AvgPool, Convolution, Linear

    composite: Composite = LayerMapComposite([(kind, Epsilon()) for kind in (Convolution, Linear, AvgPool)])
    start = torch.nn.functional.one_hot(torch.tensor([target]), net(x).shape[1]).float()

    def call() -> Any:
        with Gradient(model=net, composite=composite) as attributor:
            return attributor(x, start)

    return call

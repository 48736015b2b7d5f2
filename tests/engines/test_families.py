"""A row alone is the row in a batch, on one small network of every family of timm and torchvision.

`pytest -m slow -s tests/engines/test_families.py` prints, per family, the method that differs most: in
float32, and where that is more than 1e-4, in float64. There the difference is float32's: amounts that cancel
under LRP, or a kink (a ReLU, a maximum of equal values) that rounding decides.
"""

import importlib.util
import re
from typing import Any

import pytest
import torch
from tests.engines.networks import MEAN, STD, normalised, redraw
from torch import Tensor, nn

import abe
from abe.errors import AbeError

SINGLE, DOUBLE = 1e-4, 1e-8
ROUNDED = 0.2
"""Most that rounding may do in float32; torch's wrong kernel behind a batch norm is off by 2."""
METHODS: dict[str, dict[str, Any]] = {
    "gradient": {},
    "guided_backprop": {},
    "grad_cam": {},
    "lrp_epsilon": {},
    "deeplift": {},
    "integrated_gradients": {"steps": 24},  # 72 rows: enough for an execution copy
}
SMALLER: dict[str, dict[str, Any]] = {
    "timm beit": {"img_size": 64, "depth": 2},
    "timm byoanet": {"side": 256},
    "timm cait": {"img_size": 64, "depth": 2},
    "timm coat": {"img_size": 64},
    "timm convit": {"img_size": 64, "depth": 3, "local_up_to_layer": 2},
    "timm crossvit": {"side": 240},
    "timm davit": {"depths": (1, 1, 1, 1)},
    "timm deit": {"img_size": 64, "depth": 2},
    "timm densenet": {"block_config": (2, 2, 2, 2)},
    "timm efficientformer": {"side": 224},
    "timm efficientformer_v2": {"img_size": 64},
    "timm efficientvit_msra": {"img_size": 64},
    "timm eva": {"img_size": 56, "depth": 2},
    "timm focalnet": {"depths": (1, 1, 1, 1)},
    "timm gcvit": {"side": 224},
    "timm hiera": {"img_size": (64, 64)},
    "timm inception_resnet_v2": {"side": 80},
    "timm inception_v3": {"side": 80},
    "timm inception_v4": {"side": 80},
    "timm levit": {"img_size": 64},
    "timm maxxvit": {"img_size": 64},
    "timm mlp_mixer": {"img_size": 64, "num_blocks": 2},
    "timm mvitv2": {"img_size": 64, "depths": (1, 1, 1, 1)},
    "timm naflexvit": {"depth": 2},
    "timm nest": {"img_size": 64, "depths": (1, 1, 1)},
    "timm nextvit": {"depths": (1, 1, 2, 1)},
    "timm pit": {"img_size": 64, "depths": (1, 1, 1)},
    "timm sequencer": {"layers": (1, 1, 1, 1), "side": 224},
    "timm swin_transformer": {"img_size": 64, "depths": (1, 1, 1, 1)},
    "timm swin_transformer_v2": {"img_size": 64, "depths": (1, 1, 1, 1)},
    "timm swin_transformer_v2_cr": {"img_size": 64, "depths": (1, 1, 1, 1)},
    "timm tnt": {"img_size": 64, "depth": 2},
    "timm twins": {"img_size": 64, "depths": (1, 1, 2, 1)},
    "timm visformer": {"img_size": 64},
    "timm vision_transformer": {"img_size": 64},
    "timm vision_transformer_hybrid": {"img_size": 64, "depth": 2},
    "timm vision_transformer_relpos": {"img_size": 64},
    "timm vision_transformer_sam": {"img_size": 64, "depth": 3, "global_attn_indexes": (2,)},
    "timm vitamin": {"img_size": 64},
    "timm volo": {"img_size": 64, "layers": (1, 1, 1, 1)},
    "timm xcit": {"depth": 2},
    "torchvision googlenet": {"init_weights": False},
    "torchvision inception": {"init_weights": False, "side": 80},
    "torchvision maxvit": {"side": 224},
    "torchvision vision_transformer": {"image_size": 64},
}
"""What makes a family's smallest network cheaper, and the side of its inputs, 64 by default."""
TOO_LARGE = {
    "timm deepseek_vit": "412 million weights",
    "timm gemma4_vit": "167 million weights, and no classes",
    "timm mobilenetv5": "no classes; 290 million weights",
    "timm nasnet": "89 million weights, 331 pixels",
    "timm pnasnet": "86 million weights, 331 pixels",
    "timm qwen3_vit": "no classes; patches of video",
}
NO_CLASSES = ("detection", "segmentation", "optical_flow", "quantization", "video")


def families() -> list[Any]:
    """Every family of both packages, as they are installed."""
    from torchvision import models

    found = [models.get_model_builder(n).__module__ for n in models.list_models()]
    plain = sorted({m.rpartition(".")[2] for m in found if not any(f".{kind}" in m for kind in NO_CLASSES)})
    listed = [pytest.param("torchvision", name, marks=pytest.mark.slow) for name in plain]
    marks = [pytest.mark.slow, pytest.mark.peers]
    if importlib.util.find_spec("timm") is None:
        absent = pytest.mark.skip(reason="timm, one of the peers, is not installed")
        return [*listed, pytest.param("timm", "every family", marks=[*marks, absent])]
    import timm

    return [*listed, *(pytest.param("timm", name, marks=marks) for name in timm.list_modules())]


def names(package: str, family: str) -> list[str]:
    """Networks of a family."""
    if package == "timm":
        import timm

        return timm.list_models(module=family)
    from torchvision import models

    every = models.list_models()
    return [n for n in every if models.get_model_builder(n).__module__ == f"torchvision.models.{family}"]


def make(package: str, name: str, how: dict[str, Any]) -> nn.Module:
    if package == "timm":
        import timm

        return timm.create_model(name, pretrained=False, **how)
    from torchvision import models

    if name in ("googlenet", "inception_v3"):  # else they warn, and draw for minutes
        how = {"init_weights": False, **how}
    return models.get_model(name, weights=None, **how)


SIZE = ("test", "nano", "atto", "femto", "pico", "_ti", "tiny", "xxs", "xx_small", "xs", "_t", "_s", "small")
LOOKED_AT = 6


def smallest(package: str, family: str) -> str:
    """The one with the fewest weights among those whose names sound smallest; no weight is made."""

    def sound(name: str) -> tuple[int, int, str]:
        word = next((i for i, part in enumerate(SIZE) if part in name), len(SIZE))
        digits = [int(n) for n in re.findall(r"\d+", name)]
        return word, digits[0] if digits else 0, name

    def weights(name: str) -> int:
        if package == "torchvision":
            from torchvision import models

            return models.get_model_weights(name).DEFAULT.meta["num_params"]
        with torch.device("meta"):
            return sum(p.numel() for p in make(package, name, {}).parameters())

    several = sorted(names(package, family), key=sound)[:LOOKED_AT]
    return several[0] if "test" in several[0] else min(several, key=weights)


def settled(net: nn.Module, x: Tensor, generator: torch.Generator) -> nn.Module:
    """Weights drawn anew, batch norms measured, scores spread by about 1."""
    for module in net.modules():
        redraw(module, generator)

    def measure(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        axes = [i for i in range(args[0].ndim) if i != 1]
        module.running_mean.copy_(args[0].mean(axes))
        module.running_var.copy_(args[0].var(axes) + 1e-3)

    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    handles = [norm.register_forward_pre_hook(measure) for norm in norms]
    with torch.no_grad():
        net(normalised(x))
    for handle in handles:
        handle.remove()
    return net


def gap(net: nn.Module, x: Tensor, method: str, target: int) -> float | None:
    """The largest difference of a row, alone or in chunks of two, as a share of its map's maximum.

    None where a method says in words that it cannot, or nothing of any row.
    """
    task = abe.image_task(net, mean=MEAN, std=STD, output_kind="logits")

    def maps(rows: Tensor, **how: Any) -> Tensor:
        return abe.explain(
            task, rows, method, target=target, progress=False, **METHODS[method], **how
        ).attribution

    try:
        whole = maps(x)
    except AbeError:
        return None  # said in words: no layer, an operation without a rule
    size = whole.abs().flatten(1).amax(1)
    if not bool(size.any()):
        return None
    others = [maps(x, chunk=2), torch.cat([maps(x[i : i + 1]) for i in range(len(x))])]
    missed = torch.stack([(other - whole).abs().flatten(1).amax(1) for other in others])
    return float((missed / size.clamp_min(torch.finfo(x.dtype).tiny)).max())


def noted(net: nn.Module, x: Tensor, method: str, target: int) -> bool:
    """Whether a method says that its map is made of terms that cancel."""
    task = abe.image_task(net, mean=MEAN, std=STD, output_kind="logits")
    said = abe.explain(task, x, method, target=target, progress=False, **METHODS[method]).warnings
    return any("ABE-CANCELLATION" in one for one in said)


@pytest.mark.parametrize(("package", "family"), families())
def test_a_row_alone_is_the_row_in_a_batch(package: str, family: str) -> None:
    key = f"{package} {family}"
    if key in TOO_LARGE:
        pytest.skip(f"{key}: {TOO_LARGE[key]}")
    how = dict(SMALLER.get(key, {}))
    side = how.pop("side", 64)
    generator = torch.Generator().manual_seed(0)
    state = torch.get_rng_state()
    net = make(package, smallest(package, family), how).eval()
    torch.set_rng_state(state)
    x = torch.rand(3, 3, side, side, generator=generator)
    net = settled(net, torch.cat([x, torch.rand(5, 3, side, side, generator=generator)]), generator)
    with torch.no_grad():
        target = int(net(normalised(x)).sum(0).argmax())  # one whose score no last ReLU has put out
    single = {method: gap(net, x, method, target) for method in METHODS}
    answered = {method: found for method, found in single.items() if found is not None}
    assert "gradient" in answered
    apart = [method for method, found in answered.items() if not found <= SINGLE]
    net.double()
    double = {method: gap(net, x.double(), method, target) for method in apart}
    worst = max(answered, key=lambda m: answered[m])
    print(f"\n| {key} | {worst} | {answered[worst]:.0e} | {max(double.values(), default=0):.0e} |", end="")
    for method, found in answered.items():  # of terms that cancel float32 holds no digit, and a note says so
        assert found <= ROUNDED or noted(net.float(), x, method, target), single
    net.double()
    assert all(found is not None and found <= DOUBLE for found in double.values()), (single, double)

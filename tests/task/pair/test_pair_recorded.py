"""Pairs against recorded numbers of published code and of plain formulas.

`recorded/pairs.npz` holds them with the weights of both networks: paths and gradients over pixels and token
embeddings, exact Shapley values of patches and tokens, RISE with given masks by its three divisors, and the
confidence under given maps for two ways to remove a token.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.task.pair.nets import Recorded
from torch import Tensor

import abe
from abe.units.arrival import sums_over

FILE = Path(__file__).parent / "recorded" / "pairs.npz"
FLOAT64 = {"towers": 1e-9, "clip": 1e-8}
NETS = ("towers", pytest.param("clip", marks=pytest.mark.peers))


@cache
def recorded() -> dict[str, np.ndarray]:
    with np.load(FILE, allow_pickle=False) as held:
        return {name: held[name] for name in held.files}


def given(net: str, name: str) -> Tensor:
    return torch.from_numpy(recorded()[f"{net}/{name}"])


@cache
def model_of(net: str) -> Any:
    if net == "towers":
        model: Any = Recorded()
    else:
        library = pytest.importorskip("transformers")
        config = library.CLIPConfig(**json.loads(str(recorded()["clip/config"])))
        model = library.CLIPModel(config)
    begin = f"net/{net}/"
    held = {k.removeprefix(begin): torch.from_numpy(v) for k, v in recorded().items() if k.startswith(begin)}
    model = model.double().eval()
    model.load_state_dict(held)
    return model


def pairs(net: str, special: Any = None) -> dict[str, Any]:
    text = {"input_ids": given(net, "ids"), "attention_mask": given(net, "attention_mask")}
    if special is not None:
        text["special_tokens_mask"] = torch.as_tensor(special).expand_as(given(net, "ids"))
    return {"image": given(net, "x"), "text": text}


def gap(found: Any, wanted: Tensor) -> float:
    return float((torch.as_tensor(found) - wanted).abs().max() / wanted.abs().max().clamp_min(1e-12))


@pytest.mark.parametrize("net", NETS)
def test_similarities_gradients_and_paths(net: str) -> None:
    both = abe.pair_task(model_of(net), fixed="padding")
    found = abe.explain(both, pairs(net), "ig", baseline="zero", steps=50, progress=False)
    assert gap(found.score, given(net, "similarity/score")) <= FLOAT64[net]
    assert gap(found.part("image"), given(net, "ig_joint/formula_image")) <= FLOAT64[net]
    assert gap(found.part("text").movedim(1, 2), given(net, "ig_joint/formula_text")) <= FLOAT64[net]
    slope = abe.explain(both, pairs(net), "gradient", progress=False)
    assert gap(slope.part("image"), given(net, "gradient_x_input/grad_image")) <= FLOAT64[net]
    assert gap(slope.part("text").movedim(1, 2), given(net, "gradient_x_input/grad_text")) <= FLOAT64[net]
    for side, axis in (("image", 1), ("text", 2)):
        task = abe.pair_task(model_of(net), fixed="padding", explain=side)
        one = abe.explain(task, pairs(net), "ig", baseline="zero", steps=50, progress=False).attribution
        assert gap(one.movedim(1, axis), given(net, f"ig_{side}/formula_{side}")) <= FLOAT64[net]


@pytest.mark.parametrize("net", NETS)
def test_shapley_values_of_patches_and_tokens(net: str) -> None:
    first = 0 if net == "towers" else 1
    place = torch.arange(6)
    special = (place < first) | (place > first + 3)
    task, raw = abe.pair_task(model_of(net)), pairs(net, special.long())
    side = torch.arange(16) // 8
    patches = (side[:, None] * 2 + side).expand(3, 16, 16).reshape(-1)
    width = task.lift(raw).parts[1].shape[0]
    tokens = ((place - first).clamp(0, 3) + 4).expand(width, 6).reshape(-1)
    units = torch.cat([patches, tokens]).expand(3, -1)
    removal = ("each_input", {"parts": {"image": "zero", "text": "attention"}})
    found = abe.explain(task, raw, "shapley", units=units, removal=removal, evaluations=256, progress=False)
    inside = torch.where(found.labels >= 0, units, -1)
    sums = torch.stack([own for own, _ in sums_over(inside, found.attribution)])
    assert gap(sums, given(net, "shapley/out")) <= FLOAT64[net]


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize(
    ("divide", "name"), [("position", "by_pixel"), ("coverage", "by_coverage"), ("count", "mean")]
)
def test_rise_by_each_divisor(net: str, divide: str, name: str) -> None:
    task, masks = abe.pair_task(model_of(net), explain="image"), given(net, "rise/masks_u8").double() / 255
    found = abe.explain(
        task, pairs(net), "rise", masks=masks, evaluations=len(masks), divide=divide, progress=False
    )
    assert gap(found.attribution[:, 0], given(net, f"rise/{name}")) <= FLOAT64[net]


@pytest.mark.parametrize("net", NETS)
def test_confidence_under_given_maps(net: str) -> None:
    raw = pairs(net, given(net, "drop_increase/special").long())
    image = abe.pair_task(model_of(net), explain="image")
    maps = {"given": given(net, "drop_increase/image_map")[:, None]}
    found = abe.evaluate(image, maps, ["icd", "ici"], data=raw, progress=False).scores["given"]
    for name, short in (("image_confidence_drop", "icd"), ("image_confidence_increase", "ici")):
        assert torch.allclose(found[name].values, given(net, f"drop_increase/{short}"), rtol=0, atol=1e-7)
    text = abe.pair_task(model_of(net), explain="text")
    maps = {"given": given(net, "drop_increase/text_map")[:, None]}
    ways: dict[str, Any] = {"attention": None, "id0": ("reference_token", {"token": 0})}
    for way, removal in ways.items():
        metrics = [(name, {"removal": removal}) for name in ("tcd", "tci")]
        found = abe.evaluate(text, maps, metrics, data=raw, progress=False).scores["given"]
        for name, short in (("text_confidence_drop", "tcd"), ("text_confidence_increase", "tci")):
            wanted = given(net, f"drop_increase/{short}_{way}")
            assert torch.allclose(found[name].values, wanted, rtol=0, atol=1e-7)

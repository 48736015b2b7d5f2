"""The layer found by itself, whatever a backbone returns beside its features and however these lie."""

from collections import OrderedDict
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import abe

X = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
GRADIENT = ["grad_cam", "layer_cam", "grad_cam_plus_plus", "xgrad_cam", "hires_cam", "guided_grad_cam"]
METHODS = [*GRADIENT, "ablation_cam", "score_cam", "eigen_cam"]


class Named(NamedTuple):
    features: Tensor
    pooled: Tensor


@dataclass
class Plain:
    features: Tensor
    pooled: Tensor


class Output(OrderedDict[str, Any]):
    """As transformers' outputs: a dictionary whose keys are attributes as well."""

    def __getattr__(self, name: str) -> Any:
        return self[name]

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value)


@dataclass
class Deep:
    inner: Any


FORMS = {
    "pair": (lambda f, p: (f, p), lambda out: out[1]),
    "list": (lambda f, p: [f, p], lambda out: out[1]),
    "pooled first": (lambda f, p: (p, f), lambda out: out[0]),
    "dictionary": (lambda f, p: {"features": f, "pooled": p}, lambda out: out["pooled"]),
    "named tuple": (Named, lambda out: out.pooled),
    "dataclass": (Plain, lambda out: out.pooled),
    "output": (lambda f, p: Output(last_hidden_state=f, pooler_output=p), lambda out: out.pooler_output),
    "with hidden states": (
        lambda f, p: Output(last_hidden_state=f, pooler_output=p, hidden_states=(f * 1, f)),
        lambda out: out.pooler_output,
    ),
    "nested": (lambda f, p: Deep({"all": [f, (p,)]}), lambda out: out.inner["all"][1][0]),
    "nested in a pair": (lambda f, p: ((f, f * 2), {"pooled": p}), lambda out: out[1]["pooled"]),
    "features alone": (lambda f, p: f, lambda out: out.mean((2, 3))),
    "features alone, in a dictionary": (lambda f, p: {"out": f}, lambda out: out["out"].mean((2, 3))),
    "features that are used": (lambda f, p: (f, p), lambda out: out[0].mean((2, 3))),
}


class Backbone(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, stride=2), nn.ReLU())
        self.form = form

    def forward(self, x: Tensor) -> Any:
        f = self.body(x)
        return FORMS[self.form][0](f, f.mean((2, 3)))


class Net(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        state = torch.get_rng_state()
        torch.random.default_generator.manual_seed(2)
        self.backbone, self.head, self.form = Backbone(form), nn.Linear(6, 4), form
        torch.set_rng_state(state)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(FORMS[self.form][1](self.backbone(x)))


def explain(net: nn.Module, method: str, x: Any = X, **how: Any) -> abe.Explanation:
    task = how.pop("task", None) or abe.image_task(net, output_kind="logits")
    return abe.explain(task, x, method, target=1, progress=False, **how)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", METHODS)
def test_the_map_is_that_of_the_features(form: str, method: str) -> None:
    right = explain(Net(form), method, layer="backbone.body", ids=[0, 1]).attribution
    found = explain(Net(form), method, ids=[0, 1])
    assert bool(right.any())
    torch.testing.assert_close(found.attribution, right)
    assert not any("BYPASSED" in warning for warning in found.warnings)


class Laid(nn.Module):
    """Features in another layout, and whatever a head of that sort reads."""

    def __init__(self, layout: str) -> None:
        super().__init__()
        state = torch.get_rng_state()
        torch.random.default_generator.manual_seed(2)
        self.patch, self.norm, self.head = nn.Conv2d(3, 6, 4, stride=4), nn.LayerNorm(6), nn.Linear(6, 4)
        self.start = nn.Parameter(torch.randn(1, 1, 6))
        self.mix = nn.MultiheadAttention(6, 2, batch_first=True)
        torch.set_rng_state(state)
        self.layout = layout
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        f = self.patch(x).movedim(1, -1)
        if self.layout == "channels last":
            return self.head(self.norm(f).mean((1, 2)))
        tokens = self.norm(f.flatten(1, 2))
        if self.layout == "tokens":
            return self.head(tokens.mean(1))
        tokens = torch.cat([self.start.expand(len(x), 1, 6), tokens], 1)
        return self.head(self.mix(tokens, tokens, tokens)[0][:, 0])


@pytest.mark.parametrize("layout", ["channels last", "tokens", "class token"])
@pytest.mark.parametrize("method", METHODS)
def test_features_are_found_however_they_lie(layout: str, method: str) -> None:
    how = {"ids": [0, 1], **({} if method in ("guided_grad_cam", "eigen_cam") else {"relu": False})}
    right = explain(Laid(layout), method, layer="norm", **how)
    found = explain(Laid(layout), method, **how)
    torch.testing.assert_close(found.attribution, right.attribution)
    assert bool(right.attribution.any())


class Pyramid(nn.Module):
    """Three levels, all of which the head reads."""

    def __init__(self) -> None:
        super().__init__()
        state = torch.get_rng_state()
        torch.random.default_generator.manual_seed(2)
        widths = (3, 4, 5, 6)
        self.levels = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.ReLU()) for a, b in pairwise(widths)
        )
        self.head = nn.Linear(15, 4)
        torch.set_rng_state(state)
        self.double().eval()

    def features(self, x: Tensor) -> dict[str, Tensor]:
        found = {}
        for i, level in enumerate(self.levels):
            found[str(i)] = x = level(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([f.mean((2, 3)) for f in self.features(x).values()], 1))


@pytest.mark.parametrize("method", ["grad_cam", "ablation_cam", "eigen_cam"])
def test_what_a_pyramid_leaves_out_is_said(method: str) -> None:
    found = explain(Pyramid(), method)
    assert "layer 'levels.2'" in found.warnings[0]
    assert "around it" in found.warnings[1]
    assert "ABE-BYPASSED-LAYER" in found.warnings[1]


class Guided(nn.Module):
    """An image and a text, whose tokens could be a square; the text's tower runs last."""

    def __init__(self) -> None:
        super().__init__()
        self.image = Net("pair")
        self.text = nn.Sequential(nn.Linear(5, 8), nn.GELU())
        self.head = nn.Linear(8, 4)
        self.double().eval()

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        seen = self.image(x)
        return seen * (1 + self.head(self.text(text).mean(1)).sigmoid())


@pytest.mark.parametrize("method", ["grad_cam", "ablation_cam", "score_cam", "eigen_cam"])
def test_a_layer_of_another_input_is_none(method: str) -> None:
    net, text = Guided(), torch.rand(2, 16, 5, generator=torch.Generator().manual_seed(1)).double()
    task = abe.image_task(net, output_kind="logits", explained=("x",))
    raw = {"x": X, "text": text}
    found = explain(net, method, raw, task=task, ids=[0, 1])
    right = explain(net, method, raw, task=task, ids=[0, 1], layer="image.backbone.body")
    assert "layer 'image.backbone.body'" in found.warnings[0]
    torch.testing.assert_close(found.attribution, right.attribution)


def test_a_container_named_by_hand_is_explained_by_the_refusal() -> None:
    with pytest.raises(abe.errors.ModelError, match="name a module inside it"):
        explain(Net("pair"), "grad_cam", layer="backbone")
    assert any("ABE-ZERO-MAP" in w for w in explain(Net("pair"), "ablation_cam", layer="backbone").warnings)

"""A layer may be given as its name, as the module, as a number, or as a list of one of these."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import abe
from abe.errors import Code, ModelError

X = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
HOW: dict[str, Any] = {"target": 1, "ids": [0, 1], "progress": False}


def net() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4, 3)).eval()


FORMS: dict[str, Any] = {
    "module": lambda model: model[3],
    "number": lambda model: 3,
    "number of NumPy": lambda model: np.int64(3),
    "list": lambda model: ["3"],
    "tuple": lambda model: ("3",),
    "list of a module": lambda model: [model[3]],
    "list of a number": lambda model: [3],
}
METHODS: dict[str, Any] = {
    "grad_cam": lambda layer: ("grad_cam", {"layer": layer}),
    "layer_cam": lambda layer: ("layer_cam", {"layer": layer}),
    "score_cam": lambda layer: ("score_cam", {"layer": layer}),
    "ablation_cam": lambda layer: ("ablation_cam", {"layer": layer}),
    "guided_grad_cam": lambda layer: ("guided_grad_cam", {"layer": layer}),
    "layer_conductance": lambda layer: ("layer_conductance", {"layer": layer, "steps": 4}),
    "iba": lambda layer: ("iba", {"layer": layer, "steps": 1, "samples": 2}),
    "at_layer": lambda layer: (abe.at_layer("ig", layer), {}),
}


def explained(model: nn.Module, method: str, layer: Any) -> abe.Explanation:
    chosen, params = METHODS[method](layer)
    return abe.explain(abe.image_task(model), X, chosen, **HOW, **params)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", METHODS)
def test_read(method: str, form: str):
    model = net()
    given = explained(model, method, FORMS[form](model))
    torch.testing.assert_close(given.attribution, explained(model, method, "3").attribution)
    assert repr(given)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("layer", "match"),
    [
        (["1", "3"], "2 layers"),
        ([], "0 layers"),
        (nn.ReLU(), "no part of the model"),
        (True, "layer=True"),
        (3.0, r"layer=3\.0"),
        (torch.zeros(2), "layer="),
        (99, "no such layer"),
        (nn.ReLU, "layer="),
    ],
    ids=str,
)
def test_refused(method: str, layer: Any, match: str):
    with pytest.raises(ModelError, match=match) as caught:
        explained(net(), method, layer)
    assert caught.value.code is Code.LAYER


def test_a_module_of_a_compiled_model():
    model = net()
    compiled = torch.compile(model, backend="eager")
    right = explained(model, "grad_cam", "3").attribution
    for layer in (model[3], compiled._orig_mod[3], "3"):
        torch.testing.assert_close(explained(compiled, "grad_cam", layer).attribution, right)

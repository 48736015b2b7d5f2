"""A layer may be given as its name, as the module, as a number, or as a list of one of these."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from abe.errors import Code, ModelError
from abe.instrument.capture import capture, layer_name

X = torch.rand(2, 3, generator=torch.Generator().manual_seed(0))


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(3, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 3)
    )


FORMS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "name": (lambda model: "2.0", "2.0"),
    "name with a call": (lambda model: "2.0#1", "2.0#1"),
    "module": (lambda model: model[3], "3"),
    "inner module": (lambda model: model[2][1], "2.1"),
    "number": (lambda model: 3, "3"),
    "number of NumPy": (lambda model: np.int64(3), "3"),
    "list": (lambda model: ["2.0"], "2.0"),
    "tuple": (lambda model: ("2.0",), "2.0"),
    "list of a module": (lambda model: [model[2][0]], "2.0"),
    "list of a number": (lambda model: [3], "3"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("compiled", [False, True])
def test_read(form: str, compiled: bool):
    model = net()
    given, name = FORMS[form]
    layer = given(model)
    assert layer_name(torch.compile(model, backend="eager") if compiled else model, layer) == name


def test_a_wrapper_stands_for_what_it_wraps():
    model = net()
    right = model[:3](X)
    model[2] = torch.compile(model[2], backend="eager")
    assert layer_name(model, model[2]) == "2"
    assert layer_name(model, model[2]._orig_mod) == "2"
    assert torch.equal(capture(model, lambda m: m(X), ["2"])["2"], right)


@pytest.mark.parametrize(
    ("layer", "match"),
    [
        (["1", "3"], "2 layers"),
        ([], "0 layers"),
        (nn.ReLU(), "no part of the model"),
        ([nn.ReLU()], "no part of the model"),
        (True, "layer=True"),
        (3.0, r"layer=3\.0"),
        (torch.zeros(2), "layer=tensor"),
        (nn.ReLU, "layer=<class"),
        (None, "layer=None"),
    ],
    ids=str,
)
def test_refused(layer: Any, match: str):
    with pytest.raises(ModelError, match=match) as caught:
        layer_name(net(), layer)
    assert caught.value.code is Code.LAYER

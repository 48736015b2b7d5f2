"""Plain attributes of any kind are told apart, and what is remembered of a model goes with them."""

import random
import threading
import types
import weakref
from collections import OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import abe
from abe.engines.runtime.fused_copy import fingerprint
from abe.instrument.model_check import known
from abe.instrument.plain import Plain

Pair = namedtuple("Pair", "low high")


class Mode(Enum):
    ONE = 1
    TWO = 2


@dataclass
class Options:
    rate: float = 1.0
    inner: dict[str, Any] = field(default_factory=dict)


class Slotted:
    __slots__ = ("rate",)

    def __init__(self) -> None:
        self.rate = 1.0


def scaled(by: float) -> Callable[[float], float]:
    return lambda x: x * by


KINDS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "text": (lambda: "age", lambda v: "sex"),
    "bytes": (lambda: b"a", lambda v: b"b"),
    "whole number": (lambda: 3, lambda v: 4),
    "number": (lambda: 1.0, lambda v: 1.5),
    "a number as another type": (lambda: 1, lambda v: 1.0),
    "flag": (lambda: False, lambda v: True),
    "none": (lambda: None, lambda v: 0),
    "dtype": (lambda: torch.float32, lambda v: torch.float16),
    "enum": (lambda: Mode.ONE, lambda v: Mode.TWO),
    "tuple": (lambda: (1, (2, 3)), lambda v: (1, (2, 4))),
    "named tuple": (lambda: Pair(1, 2), lambda v: v._replace(high=3)),
    "list": (lambda: [1, 2], lambda v: v.append(3)),
    "list of lists": (lambda: [[1], [2]], lambda v: v[1].append(3)),
    "dict": (lambda: {"a": 1}, lambda v: v.update(a=2)),
    "dict within": (lambda: {"a": {"b": [1]}}, lambda v: v["a"]["b"].append(2)),
    "ordered dict": (lambda: OrderedDict(a=1, b=2), lambda v: v.move_to_end("a")),
    "default dict": (lambda: defaultdict(list), lambda v: v["new"]),
    "set": (lambda: {1, 2}, lambda v: v.add(3)),
    "deque": (lambda: deque([1, 2]), lambda v: v.rotate(1)),
    "array": (lambda: np.zeros(3), lambda v: v.fill(1)),
    "big array": (lambda: np.zeros(3000), lambda v: v.__setitem__(2999, 1)),
    "array number": (lambda: np.float32(1), lambda v: np.float32(2)),
    "tensor": (lambda: torch.zeros(3), lambda v: torch.ones(3)),
    "tensor in place": (lambda: torch.zeros(3), lambda v: v.add_(1)),
    "tensor in a list": (lambda: [torch.zeros(3)], lambda v: v[0].add_(1)),
    "generator": (lambda: torch.Generator().manual_seed(0), lambda v: v.manual_seed(1)),
    "random": (lambda: random.Random(0), lambda v: v.random()),
    "numpy generator": (lambda: np.random.default_rng(0), lambda v: v.random()),
    "function": (lambda: torch.tanh, lambda v: torch.sin),
    "lambda": (lambda: lambda x: x, lambda v: lambda x: -x),
    "closure": (lambda: scaled(1.0), lambda v: scaled(2.0)),
    "partial": (lambda: partial(torch.clamp, max=1.0), lambda v: partial(torch.clamp, max=2.0)),
    "class": (lambda: nn.ReLU, lambda v: nn.GELU),
    "object": (Options, lambda v: setattr(v, "rate", 2.0)),
    "within an object": (lambda: Options(inner={"a": [1]}), lambda v: v.inner["a"].append(2)),
    "slots": (Slotted, lambda v: setattr(v, "rate", 2.0)),
    "namespace": (lambda: types.SimpleNamespace(a=1), lambda v: setattr(v, "a", 2)),
    "module in a list": (lambda: [nn.Linear(2, 2)], lambda v: v[0].weight.data.add_(1)),
    "module in a list, its attribute": (lambda: [nn.Softmax(0)], lambda v: setattr(v[0], "dim", 1)),
    "weak reference": (lambda: weakref.ref(Mode.ONE), lambda v: weakref.ref(Mode.TWO)),
}


def model(held: Any) -> nn.Sequential:
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU()).eval()
    net[1].held = held
    return net


@pytest.mark.parametrize("kind", KINDS)
def test_every_change_is_seen_and_nothing_else(kind: str):
    make, change = KINDS[kind]
    net = model(make())
    before, print_ = known(net), fingerprint(net)
    assert known(net) is before
    assert fingerprint(net) == print_
    assert len({print_, fingerprint(net)}) == 1
    new = change(net[1].held)
    if new is not None:
        net[1].held = new
    assert fingerprint(net) != print_
    if kind != "module in a list":  # written through .data, which only a look at the numbers tells
        assert known(net) is not before


@pytest.mark.parametrize("change", ["added", "removed", "renamed"])
def test_attributes_come_and_go(change: str):
    net = model(3)
    before = known(net)
    if change != "added":
        del net[1].held
    if change != "removed":
        net[1].other = 3
    assert known(net) is not before


def test_circles_locks_and_running_generators_are_no_obstacle():
    net = model(threading.Lock())
    net[0].parent = [net]
    net.stream = (number for number in range(3))
    net.me = net
    net.bound = net.forward
    before = known(net)
    assert known(net) is before
    net[1].held = threading.Lock()
    assert known(net) is not before


def test_a_model_is_not_kept_alive():
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).eval()
    net[1].held = {"back": net}
    net.fn = lambda: net
    abe.explain(abe.image_task(net), torch.rand(1, 3, 2, 2), "gradient", target=0, progress=False)
    gone = weakref.ref(net)
    del net
    __import__("gc").collect()
    assert gone() is None


def test_more_than_can_be_looked_at_is_never_the_same():
    net = model([[str(i), []] for i in range(20_000)])
    assert not Plain(net.modules()).whole
    assert fingerprint(net) != fingerprint(net)
    deep: list[Any] = []
    for _ in range(5_000):
        deep = [deep, object()]
    assert not Plain(model(deep).modules()).whole


def test_long_lists_of_numbers_are_looked_at_whole():
    net = model({"words": {str(i): i for i in range(50_000)}})
    before = fingerprint(net)
    assert Plain(net.modules()).whole
    net[1].held["words"]["49999"] = 0
    assert fingerprint(net) != before

"""A model is left as it was found, by what is done to it and by what it does to itself as it runs."""

import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import abe
from abe.errors import AbeError
from abe.instrument.capture import capturing
from abe.instrument.model_state import as_found

METHODS = ("gradient", "ig", "grad_cam", "lrp_epsilon", "occlusion")


def photos(n: int = 2) -> Tensor:
    return torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """Two convolutions; keeps things while it runs as ``keep`` says."""

    def __init__(self, keep: "Callable[[Net, Tensor, Tensor], Any] | None" = None, **held: Any) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU())
            self.head = nn.Linear(4, 3)
        self.keep = keep
        for name, value in held.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x)
        out = self.head(h.mean((2, 3)))
        if self.keep is not None:
            more = self.keep(self, h, out)
            out = out if more is None else out + more
        return out


def explained(net: nn.Module, method: str, **how: Any) -> Any:
    how = {"target": 1, "ids": [0, 1], "progress": False, **how}
    return abe.explain(abe.image_task(net), photos(), method, **how)


def last(net: Net, h: Tensor, out: Tensor) -> None:
    net.features = h


def running(net: Net, h: Tensor, out: Tensor) -> None:
    net.mean.mul_(0.9).add_(0.1 * h.detach().mean())


def averaged(net: Net, h: Tensor, out: Tensor) -> None:
    net.steps += 1
    net.mean = net.mean + (h.detach().mean() - net.mean) / net.steps


def cached(net: Net, h: Tensor, out: Tensor) -> Tensor:
    if net.steps % 1000 == 0:
        net.table = torch.ones(3)
    net.steps += 1
    return net.table


def through_data(net: Net, h: Tensor, out: Tensor) -> None:
    net.mean.data += 1


KEEPERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "an activation that was not there": (last, {}),
    "an activation instead of none": (last, {"features": None}),
    "an activation instead of another": (last, {"features": torch.zeros(2)}),
    "a running mean, in place": (running, {"mean": torch.zeros(())}),
    "a running mean, through data": (through_data, {"mean": torch.zeros(2)}),
    "a running mean and its count": (averaged, {"mean": torch.zeros(()), "steps": 0}),
}
RENEWED = (cached, {"table": None, "steps": 0})
"""A table that a count renews: where only the count goes on, it stays as it is."""


def attributes(net: nn.Module) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, module in net.named_modules():
        for key, held in vars(module).items():
            if not key.startswith("_"):
                found[f"{name}.{key}"] = (held.clone(), id(held)) if isinstance(held, Tensor) else held
    return found


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name, held in one.items():
        if isinstance(held, tuple) and isinstance(held[0], Tensor):
            assert held[1] == other[name][1], name
            torch.testing.assert_close(held[0], other[name][0], rtol=0, atol=0, equal_nan=True)
        else:
            assert held == other[name], name


@pytest.mark.parametrize("kept", KEEPERS)
@pytest.mark.parametrize("method", METHODS)
def test_tensors_in_plain_attributes(method: str, kept: str):
    keep, held = KEEPERS[kept]
    net = Net(keep, **held).eval()
    net(photos())
    before = attributes(net)
    first = explained(net, method)
    same(before, attributes(net))
    torch.testing.assert_close(explained(net, method).attribution, first.attribution)
    net(photos())


@pytest.mark.parametrize("kept", [*KEEPERS, "renewed"])
def test_tensors_in_plain_attributes_of_a_model_that_has_not_run(kept: str):
    keep, held = KEEPERS.get(kept, RENEWED)
    net = Net(keep, **held).eval()
    before = attributes(net)
    explained(net, "gradient")
    same(before, attributes(net))
    net(photos())


def failing(net: Net, h: Tensor, out: Tensor) -> None:
    net.mean.add_(1)
    if h.requires_grad:
        raise ArithmeticError("no")


@pytest.mark.parametrize("method", METHODS)
def test_tensors_are_put_back_after_errors_too(method: str):
    net = Net(failing, mean=torch.zeros(2)).eval()
    with suppress(AbeError):
        explained(net, method)
    assert torch.equal(net.mean, torch.zeros(2))


def test_counters_stay():
    def count(net: Net, h: Tensor, out: Tensor) -> None:
        net.calls += 1
        net.shapes.append(len(h))

    net = Net(count, calls=0, shapes=[]).eval()
    cost = explained(net, "ig", steps=8).cost
    assert net.calls == cost.forward_calls > 0
    assert sum(net.shapes) == cost.forward_rows


class Hooking(nn.Module):
    """Sets itself up in its first forward: a hook, a flag, a table."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.ready, self.scale = Net(), False, torch.zeros(3)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        if not self.ready:
            self.net.head.register_forward_hook(lambda module, args, out: out * self.scale)
            self.ready, self.scale = True, torch.full((3,), 2.0)
        return self.net(x)


@pytest.mark.parametrize("method", METHODS)
def test_a_model_that_sets_itself_up_when_it_first_runs_is_set_up(method: str):
    net, right = Hooking().eval(), Hooking().eval()
    expected = right(photos())
    for _ in range(2):
        map_ = explained(net, method).attribution
        assert len(net.net.head._forward_hooks) == 1
        torch.testing.assert_close(net(photos()), expected)
        torch.testing.assert_close(map_, explained(right, method).attribution)


def test_hooks_of_engines_never_stay():
    net = Net().eval()
    handle = net.head.register_forward_hook(lambda module, args, out: None)
    with as_found(net):
        escaped = capturing(net, ["body.0"])
        escaped.__enter__()
        net.body[0].register_forward_hook(lambda module, args, out: None)
    assert len(net.body[0]._forward_hooks) == 1
    assert list(net.head._forward_hooks) == [handle.id]


class Switching(nn.Module):
    """Does more than switch flags when it is switched."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.net, self.how, self.rate, self.mode = Net(), how, 1.0, "training"
        self.extra = nn.Parameter(torch.ones(4, 3, 3, 3) / 9)
        self.merged, self.scale = False, torch.ones(3)

    def train(self, mode: bool = True) -> "Switching":
        super().train(mode)
        self.rate, self.mode = (1.0, "training") if mode else (0.5, "evaluation")
        if self.how == "merges" and mode == self.merged:
            with torch.no_grad():
                self.net.body[0].weight.data += self.extra * (-1 if mode else 1)
            self.merged = not mode
        elif self.how == "in place":
            self.scale.fill_(1.0 if mode else 3.0)
        elif self.how == "swaps" and not mode:
            self.net.body[1] = nn.Tanh().eval()
            del self.net.body[3]
        elif self.how == "registers" and not mode:
            self.register_buffer("late", torch.zeros(1))
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * self.rate * self.scale


@pytest.mark.parametrize("how", ["merges", "in place", "swaps", "registers", "rates"])
@pytest.mark.parametrize("method", METHODS)
def test_side_effects_of_a_switch_of_the_users_own(method: str, how: str):
    net, right = Switching(how), Switching(how).eval()
    before = attributes(net)
    weights = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    order = [name for name, _ in net.named_modules()]
    map_ = explained(net, method).attribution
    torch.testing.assert_close(map_, explained(right, method).attribution)
    same(before, attributes(net))
    assert [name for name, _ in net.named_modules()] == order
    assert all(module.training for module in net.modules())
    assert all(parameter.requires_grad for parameter in net.parameters())
    now = net.state_dict()
    assert list(now) == list(weights)
    assert all(torch.equal(tensor, now[name]) for name, tensor in weights.items())


@pytest.mark.filterwarnings("ignore:.*quantize:UserWarning", "ignore:Sparse:UserWarning")
@pytest.mark.parametrize("kind", ["sparse", "quantised", "nan", "expanded", "scalar", "whole", "complex"])
def test_buffers_of_any_kind(kind: str):
    made = {
        "sparse": lambda: torch.eye(3).to_sparse(),
        "quantised": lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        "nan": lambda: torch.full((3,), torch.nan),
        "expanded": lambda: torch.ones(1).expand(3),
        "scalar": lambda: torch.tensor(2.0),
        "whole": lambda: torch.arange(3),
        "complex": lambda: torch.ones(3, dtype=torch.complex64),
    }
    net = Net().eval()
    net.register_buffer("buffer", made[kind]())
    net.plain = made[kind]()
    buffer, plain = net.buffer, net.plain
    for method in METHODS:
        assert explained(net, method).attribution.isfinite().all()
    assert explained(net, "ig", steps=64).attribution.isfinite().all()  # copies are looked for
    assert net.buffer is buffer
    assert net.plain is plain


def test_random_states_are_as_before():
    net = Net(lambda net, h, out: torch.rand(3) + random.random() + np.random.rand()).eval()  # noqa: NPY002
    states = torch.get_rng_state(), np.random.get_state()[2]  # noqa: NPY002
    explained(net, "gradient")
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[2] == states[1]  # noqa: NPY002

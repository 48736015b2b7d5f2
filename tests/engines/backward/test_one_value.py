"""Products of functions of one value, and gates, under relevance rules."""

from collections.abc import Callable

import pytest
import torch
from tests.engines.backward.modalities import D, gelu_new, made
from tests.engines.backward.test_modalities import closure, explain, samples
from torch import Tensor, nn
from torch.nn import functional as F

METHODS = ["lrp_epsilon", "lrp_0", "attention_lrp", "lrp_z_plus", "lrp_flat", "lrp_w_square"]


def in_place(x: Tensor) -> Tensor:
    """SiLU, its gate multiplied into a copy."""
    y = x.clone()
    y *= torch.sigmoid(x)
    return y


def erf(x: Tensor) -> Tensor:
    """GELU as many write it."""
    return x * 0.5 * (1.0 + torch.erf(x / 2**0.5))


def twice_tanh(x: Tensor) -> Tensor:
    """(tanh x)², through a dropout that does nothing and back from single precision."""
    y = F.dropout(torch.tanh(x), 0.1, False)
    return y * y.double()


WRITTEN: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "gelu of GPT-2": (gelu_new, lambda x: F.gelu(x, approximate="tanh")),
    "gelu by erf": (erf, F.gelu),
    "silu": (lambda x: x * torch.sigmoid(x), F.silu),
    "silu in place": (in_place, F.silu),
    "mish": (lambda x: x * torch.tanh(F.softplus(x)), F.mish),
    "square": (lambda x: x * x, torch.square),
    "twice tanh": (twice_tanh, lambda x: torch.tanh(x).square()),
}


class Activated(nn.Module):
    """Two dense layers with an activation between them."""

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.head, self.activation = nn.Linear(D, 12), nn.Linear(12, 3), activation

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.activation(self.first(x)))


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("method", METHODS)
def test_an_activation_by_hand_is_the_activation(name: str, method: str) -> None:
    by_hand, word = WRITTEN[name]
    x = samples(D)
    found = explain(made(Activated(by_hand)), x, method)
    assert closure(found) < 1e-9
    wanted = explain(made(Activated(word)), x, method)
    torch.testing.assert_close(found.attribution, wanted.attribution, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("method", ["lrp_epsilon", "lrp_0", "attention_lrp"])
def test_at_zero_the_gradient_stands_for_the_ratio(method: str) -> None:
    x = samples(D)
    x[:, 0] = 0
    held = nn.Sequential(nn.Identity(), nn.Linear(D, 3))

    class First(nn.Module):
        def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            self.rest, self.activation = held, activation

        def forward(self, x: Tensor) -> Tensor:
            return self.rest(self.activation(x + 0.0))

    for by_hand, word in WRITTEN.values():
        found = explain(made(First(by_hand)), x, method)
        assert bool(found.attribution.isfinite().all())
        torch.testing.assert_close(
            found.attribution, explain(made(First(word)), x, method).attribution, rtol=1e-8, atol=1e-11
        )


class Changed(nn.Module):
    """A value that is written to between its function and the product with it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(D, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        gate = torch.tanh(h)
        h.add_(1.0)
        return self.head(h * gate)


def test_what_was_written_to_is_another_value() -> None:
    found = explain(made(Changed()), samples(D), "lrp_0")
    assert closure(found) < 1e-9


class Gated(nn.Module):
    """A gated layer, a · silu(b), without biases."""

    def __init__(self, activation: Callable[[Tensor], Tensor] = F.silu) -> None:
        super().__init__()
        self.up, self.gate = nn.Linear(D, 12, bias=False), nn.Linear(D, 12, bias=False)
        self.down, self.activation = nn.Linear(12, 3, bias=False), activation

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.gate(x)) * self.up(x))


@pytest.mark.parametrize("activation", [F.silu, gelu_new, torch.tanh])
def test_a_gate_takes_half_or_nothing(activation: Callable[[Tensor], Tensor]) -> None:
    net, x = made(Gated(activation)), samples(D)
    w = [one.weight.detach() for one in (net.up, net.gate, net.down)]
    a, b = x @ w[0].T, x @ w[1].T
    c = activation(b) * w[2][1]  # of class 1: what a's entries are multiplied by
    up, gate = (c @ w[0]) * x, ((a * c / b) @ w[1]) * x
    half = explain(net, x, ("attention_lrp", {"epsilon": 0.0}), target=1).attribution
    none = explain(net, x, ("attention_lrp", {"epsilon": 0.0, "gates": "constant"}), target=1).attribution
    torch.testing.assert_close(half, (up + gate) / 2, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(none, up, rtol=1e-9, atol=1e-12)


def test_a_product_of_two_plain_or_two_activated_factors_has_no_gate() -> None:
    class Both(nn.Module):
        def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            self.a, self.b, self.activation = nn.Linear(D, 3), nn.Linear(D, 3), activation

        def forward(self, x: Tensor) -> Tensor:
            return self.activation(self.a(x)) * self.activation(self.b(x))

    for activation in (F.silu, lambda t: t * 2):
        maps = [
            explain(made(Both(activation)), samples(D), ("attention_lrp", {"gates": gates})).attribution
            for gates in ("half", "constant")
        ]
        torch.testing.assert_close(*maps)

"""Copies of models with weights of their own, whatever else the model keeps."""

import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, spectral_norm, weight_norm

from abe.instrument.twin import plain_twin, twin
from abe.testing.snapshot import Snapshot

X = torch.rand(2, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.last: Any = torch.relu
        self.kept: Any = None

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.last(self.a(x)))


class Loop(Net):
    def __init__(self) -> None:
        super().__init__()
        self.me, self.bound = [self], self.act
        self.last = lambda x: self.bound(x)

    def act(self, x: Tensor) -> Tensor:
        return torch.tanh(x) * self.b.weight.mean()


def locked(net: Net) -> None:
    net.kept = {"lock": threading.Lock(), "list": [threading.RLock()]}


def activated(net: Net) -> None:
    net.kept = [net.a(X)]


def streaming(net: Net) -> None:
    net.kept = (i for i in range(3))


def drawing(net: Net) -> None:
    net.kept = torch.Generator().manual_seed(3)


def referring(net: Net) -> None:
    net.kept = (weakref.ref(net), weakref.proxy(net.a))


def hooked(net: Net) -> None:
    net.a.register_forward_hook(lambda module, args, out: out * net.b.weight.mean())


def patched(net: Net) -> None:
    net.a.forward = net.b.forward


def refusing(net: Net) -> None:
    class Refusing:
        def __reduce_ex__(self, protocol: int) -> Any:
            raise RuntimeError("no")

        def __deepcopy__(self, memo: Any) -> Any:
            raise RuntimeError("no")

    net.kept = Refusing()


def tied(net: Net) -> None:
    net.b.weight = net.a.weight


def weight_normed(net: Net) -> None:
    weight_norm(net.a)
    net(X).sum().backward()


def spectrally_normed(net: Net) -> None:
    spectral_norm(net.a)
    net(X)


def parametrised(net: Net) -> None:
    parametrizations.weight_norm(net.a)
    parametrizations.orthogonal(net.b)


def spectral(net: Net) -> None:
    parametrizations.spectral_norm(net.a)


def compiled(net: Net) -> None:
    net.a = torch.compile(net.a, backend="eager")


def compiled_in_place(net: Net) -> None:
    net.a.compile(backend="eager")


CHANGES = (
    locked, activated, streaming, drawing, referring, hooked, patched, refusing, tied, weight_normed,
    spectrally_normed, parametrised, spectral, compiled, compiled_in_place,
)  # fmt: skip


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("make", [Net, Loop])
@pytest.mark.parametrize("copied", [twin, plain_twin])
def test_a_copy_gives_the_same_and_shares_no_weight(
    copied: Callable[[nn.Module], nn.Module], make: type[Net], change: Callable[[Net], None]
):
    net = make()
    change(net)
    net.eval()
    right = net(X).detach()
    before = Snapshot(net)
    other = copied(net)
    torch.testing.assert_close(other(X).detach(), right)
    assert before.changes() == []
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_() if copied is plain_twin else parameter.mul_(1.5)
    if copied is plain_twin:
        assert float(other(X).detach().abs().max()) == 0  # nothing of the original is read
    assert before.changes() == []
    torch.testing.assert_close(net(X).detach(), right)


def test_what_refers_to_the_model_refers_to_the_copy():
    net = Loop()
    referring(net)
    other: Any = twin(net)
    assert other.me[0] is other
    assert other.bound.__self__ is other
    assert other.kept[0]() is other
    assert other.last.__closure__[0].cell_contents is other


def test_generators_are_drawn_from_apart():
    net = Net()
    drawing(net)
    other: Any = twin(net)
    before = net.kept.get_state()
    torch.rand(3, generator=other.kept)
    assert torch.equal(net.kept.get_state(), before)


def test_the_original_stays_parametrised():
    net = Net()
    parametrised(net)
    copy = plain_twin(net)
    assert not any(parametrize.is_parametrized(module) for module in copy.modules())
    assert [name for name, _ in copy.named_parameters()] == ["a.bias", "a.weight", "b.bias", "b.weight"]
    assert type(copy.a) is nn.Linear
    assert parametrize.is_parametrized(net.a, "weight")
    assert net.a.weight.shape == (6, 6)


class Forbidding(Net):
    """No copies, as models say that hold what must not be there twice."""

    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("no copies")

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("no pickles")


class Slotted(Net):
    __slots__ = ("scale", "unset")

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.scale


class Inner(Net):
    """A part that forbids copies, deep inside."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(Forbidding())


@pytest.mark.parametrize("make", [Forbidding, Slotted, Inner])
def test_what_forbids_copies_or_keeps_things_elsewhere_is_copied(make: type[Net]):
    net = make().eval()
    right = net(X).detach()
    other = twin(net)
    torch.testing.assert_close(other(X).detach(), right)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert float(other(X).detach().abs().max()) == 0
    torch.testing.assert_close(net(X).detach(), right)

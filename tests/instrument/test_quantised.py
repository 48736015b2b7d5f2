"""Quantised modules are named by what they stop, and by what cannot draw their weights anew."""

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

import abe
from abe.errors import Code, ModelError, SpecError
from abe.instrument.inspection import quantised

pytestmark = pytest.mark.filterwarnings("ignore")  # torch warns of its quantisation in many ways

X = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def engine() -> Iterator[None]:
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = next(
        e for e in torch.backends.quantized.supported_engines if e != "none"
    )
    yield
    torch.backends.quantized.engine = before


def plain() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = (nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        return nn.Sequential(*body, nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


def dynamic() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(plain(), {nn.Linear}, dtype=torch.qint8)


def static() -> nn.Module:
    ends = torch.ao.quantization.QuantStub(), torch.ao.quantization.DeQuantStub()
    net = nn.Sequential(ends[0], plain(), ends[1]).eval()
    net.qconfig = torch.ao.quantization.get_default_qconfig(torch.backends.quantized.engine)
    watched = torch.ao.quantization.prepare(net)
    watched(X)
    return torch.ao.quantization.convert(watched)


KINDS: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "dynamic": (dynamic, ["4", "6"]),
    "static": (static, ["0", "1.0", "1.4", "1.6", "2"]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_outermost_are_found(kind: str) -> None:
    make, names = KINDS[kind]
    assert quantised(make()) == names
    assert quantised(plain()) == []


class Kept(nn.Module):
    """Holds its quantised weight itself, as code before torch's own modules did."""

    def __init__(self) -> None:
        super().__init__()
        weight = torch.linspace(-1, 1, 192 * 3).reshape(3, 192)
        self.register_buffer("weight", torch.quantize_per_tensor(weight, 0.02, 0, torch.qint8))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.dequantize().T


def test_a_module_that_keeps_its_weights_so_is_found_and_explained() -> None:
    assert quantised(nn.Sequential(Kept())) == ["0"]
    found = abe.explain(abe.image_task(Kept()), X, "gradient", target=1, progress=False).attribution
    expected = Kept().weight.dequantize()[1].reshape(3, 8, 8)
    torch.testing.assert_close(found, expected.expand(2, -1, -1, -1))


@pytest.mark.parametrize("name", ["gradient", "ig", "grad_cam", "lrp_epsilon", "deeplift"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_refusal_names_them(kind: str, name: str) -> None:
    make, names = KINDS[kind]
    with pytest.raises(
        ModelError, match=rf"'{names[0]}' \(\w+\) and {len(names) - 1} more quantised"
    ) as caught:
        abe.explain(abe.image_task(make()), X, name, target=1, progress=False)
    assert "removal method" in str(caught.value.fix)


@pytest.mark.parametrize("kind", KINDS)
def test_removal_reads_the_quantised_outputs(kind: str) -> None:
    net = KINDS[kind][0]()
    task = abe.image_task(net)
    found = abe.explain(
        task, X, "occlusion", target=1, units=torch.zeros(8, 8, dtype=torch.long), progress=False
    ).attribution
    with torch.no_grad():
        change = (net(X) - net(torch.zeros_like(X)))[:, 1]
    torch.testing.assert_close(found.flatten(1).sum(1), change)


def test_what_nothing_stopped_names_nothing() -> None:
    detached = copy.deepcopy(plain())
    detached.insert(0, Detached())
    with pytest.raises(ModelError) as caught:
        abe.explain(abe.image_task(detached), X, "gradient", target=1, progress=False)
    assert caught.value.code is Code.NOT_DIFFERENTIABLE
    assert "'0'" not in str(caught.value)


class Detached(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


@pytest.mark.parametrize("name", ["mprt", "smooth_mprt", "efficient_mprt"])
def test_weights_that_cannot_be_drawn_are_named_before_others_are(name: str) -> None:
    task = abe.image_task(dynamic())
    with pytest.raises(SpecError, match=r"'4' \(Linear\) and 1 more quantised"):
        abe.evaluate(task, ["occlusion"], [name], data=X, target=1, progress=False)

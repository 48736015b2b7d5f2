"""What a model raises while it runs or is differentiated, and what torch then leaves to hooks."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from jaxtyping import config
from torch import Tensor, nn

import abe
from abe.errors import Code, ModelError
from abe.testing.snapshot import Snapshot

X = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
SLOPED = ("gradient", "ig", "smoothgrad", "grad_cam", "extremal_perturbation", "iba")


def conv() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)).eval()


class NoBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Tensor:
        raise KeyError("no slopes here")


class Ends(nn.Module):
    """A convolution, and what makes three scores of it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = conv()

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.body(x)).mean((2, 3))[:, :3]

    def end(self, h: Tensor) -> Tensor:
        return NoBackward.apply(h)


class Overwrites(Ends):
    """Torch refuses this: what `exp` keeps for its slope is written to."""

    def end(self, h: Tensor) -> Tensor:
        out = h.exp()
        out.add_(1)
        return out


class OverwritesAfterwards(Ends):
    """The same, of an operation's input."""

    def end(self, h: Tensor) -> Tensor:
        h = h * 1.0
        out = h * h
        h.zero_()
        return out


@pytest.mark.parametrize("name", SLOPED)
@pytest.mark.parametrize(
    ("make", "said"),
    [(Ends, "KeyError: 'no slopes here'"), (Overwrites, "inplace"), (OverwritesAfterwards, "inplace")],
)
def test_what_a_models_backward_raises_is_the_models(make: type[nn.Module], said: str, name: str) -> None:
    net = make().eval()
    before = Snapshot(net)
    with pytest.raises(ModelError, match="The model's backward raised an exception") as caught:
        abe.explain(abe.image_task(net), X, name, target=1, progress=False)
    assert caught.value.code is Code.MODEL_FAILED
    assert said in str(caught.value)
    assert caught.value.__cause__ is not None
    assert before.changes() == []


def test_in_place_operations_that_torch_can_differentiate_pass() -> None:
    def net(inplace: bool) -> nn.Module:
        return nn.Sequential(conv(), nn.ReLU(inplace), nn.AvgPool2d(2), nn.SiLU(inplace), nn.Flatten()).eval()

    maps = [
        abe.explain(abe.image_task(net(inplace)), X, "gradient", target=1, progress=False).attribution
        for inplace in (False, True)
    ]
    torch.testing.assert_close(maps[0], maps[1], rtol=0, atol=0)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Without the check of types, which only tests have."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


def exported(rows: Any) -> nn.Module:
    net = nn.Sequential(conv(), nn.Flatten(), nn.Linear(256, 3)).eval()
    return torch.export.export(net, (X,), dynamic_shapes=({0: rows},)).module()


@pytest.mark.filterwarnings("ignore")
class TestExported:
    def test_any_number_of_rows(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            net = nn.Sequential(conv(), nn.Flatten(), nn.Linear(256, 3)).eval()
        program = torch.export.export(net, (X,), dynamic_shapes=({0: torch.export.Dim.AUTO},)).module()
        for name in ("ig", "lrp_epsilon", "deeplift", "occlusion"):
            found, expected = (
                abe.explain(abe.image_task(model), X, name, target=1, progress=False).attribution
                for model in (program, net)
            )
            torch.testing.assert_close(found, expected)

    @pytest.mark.parametrize("name", ["ig", "lrp_epsilon", "rise"])
    def test_a_fixed_number_of_rows_is_said(self, name: str) -> None:
        with pytest.raises(
            ModelError, match=r"in a batch of \d+.*any number of rows.*exported.*dynamic_shapes"
        ):
            abe.explain(abe.image_task(exported(None)), X, name, target=1, progress=False)

    def test_a_program_is_no_module(self, unchecked: None) -> None:
        program: Any = torch.export.export(conv(), (X,))
        with pytest.raises(ModelError, match=r"program\.module\(\)"):
            abe.image_task(program)

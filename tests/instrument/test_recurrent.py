"""Recurrent layers in evaluation mode: cuDNN is off where gradients are taken on a GPU, and only there."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import abe
from abe.instrument import recurrent
from abe.instrument.recurrent import differentiable


class Watched(nn.Module):
    """A network that notes whether cuDNN was on when it ran, and whether a graph was made."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.layer, self.head = make(), nn.Linear(4, 3)
        self.seen: list[tuple[bool, bool]] = []
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((torch.is_grad_enabled(), torch.backends.cudnn.enabled))
        out = self.layer(x.flatten(1, 2).transpose(1, 2))
        return self.head((out[0] if isinstance(out, tuple) else out).mean(1))


def gru() -> nn.Module:
    return nn.GRU(12, 4, batch_first=True)


def run(make: Callable[[], nn.Module], method: str, **params: object) -> list[tuple[bool, bool]]:
    net = Watched(make)
    task = abe.image_task(net, output_kind="logits", bounds=None)
    abe.explain(task, torch.rand(2, 3, 4, 5), method, target=1, progress=False, execution="model", **params)
    return net.seen


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurrent, "on_gpu", lambda x: True)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("method", ["gradient", "integrated_gradients", "deeplift", "lrp_epsilon"])
def test_gradients_run_without_cudnn_and_forward_passes_with_it(method: str) -> None:
    assert torch.backends.cudnn.enabled
    seen = run(gru, method)
    assert {cudnn for graph, cudnn in seen if graph} == {False}
    assert all(cudnn for graph, cudnn in run(gru, "occlusion", units=("grid", {"n": 2})))
    assert torch.backends.cudnn.enabled


@pytest.mark.usefixtures("gpu")
def test_other_models_keep_it() -> None:
    assert all(cudnn for _, cudnn in run(lambda: nn.Linear(12, 4), "gradient"))


def test_nothing_is_asked_of_the_model_elsewhere() -> None:
    class Unseen(nn.Module):
        def modules(self):
            raise AssertionError("looked through without need")

    with differentiable(Unseen(), torch.zeros(1)):
        assert torch.backends.cudnn.enabled
    assert all(cudnn for _, cudnn in run(gru, "gradient"))


@pytest.mark.usefixtures("gpu")
def test_it_is_back_after_an_error_and_after_the_last_of_several() -> None:
    net, x = gru(), torch.zeros(1)
    with pytest.raises(ZeroDivisionError), differentiable(net, x):
        1 / 0  # noqa: B018
    assert torch.backends.cudnn.enabled
    first, second = differentiable(net, x), differentiable(net, x)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not torch.backends.cudnn.enabled
    second.__exit__(None, None, None)
    assert torch.backends.cudnn.enabled


@pytest.mark.usefixtures("gpu")
def test_what_the_user_switched_off_stays_off() -> None:
    with torch.backends.cudnn.flags(enabled=False):
        run(gru, "gradient")
        assert not torch.backends.cudnn.enabled

"""A model that changed between two calls is checked again and explained as it is now."""

import threading
from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import abe
from abe.errors import Code, ModelError
from abe.task.base import Task

METHODS = (
    "gradient",
    "grad_cam",
    "guided_backprop",
    "deeplift",
    "lrp_epsilon",
    "ig",
    "smoothgrad",
    "occlusion",
)


class Scaled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def net(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 6, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(24, 5),
        ).eval()


def photos() -> Tensor:
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def explained(model: nn.Module, method: str) -> Tensor:
    return abe.explain(abe.image_task(model), photos(), method, target=1, progress=False).attribution


@torch.no_grad()
def in_place(model: nn.Sequential) -> None:
    model[3].weight.mul_(-1.5)


def through_data(model: nn.Sequential) -> None:
    model[3].weight.data.mul_(-1.5)


def a_buffer(model: nn.Sequential) -> None:
    model[1].running_var.mul_(4)


def a_parameter(model: nn.Sequential) -> None:
    model[3].weight = nn.Parameter(-1.5 * model[3].weight.detach())


def registered_again(model: nn.Sequential) -> None:
    model[3].register_parameter("weight", nn.Parameter(-1.5 * model[3].weight.detach()))
    model[1].register_buffer("running_mean", model[1].running_mean + 0.3)


def a_module(model: nn.Sequential) -> None:
    model[4] = nn.Tanh()


def loaded(model: nn.Sequential) -> None:
    model.load_state_dict(net(5).state_dict())


def loaded_by_assignment(model: nn.Sequential) -> None:
    model.load_state_dict(net(5).state_dict(), assign=True)


def trained(model: nn.Sequential) -> None:
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    model(photos()).square().sum().backward()
    optimiser.step()


def a_hook(model: nn.Sequential) -> None:
    model[3].register_forward_hook(lambda module, inputs, output: output.flip(1))


def a_parametrisation(model: nn.Sequential) -> None:
    parametrize.register_parametrization(model[3], "weight", Scaled())


def spectral_norm(model: nn.Sequential) -> None:
    parametrizations.spectral_norm(model[3])


def an_attribute(model: nn.Sequential) -> None:
    model[3].stride = (2, 2)


CHANGES = (
    in_place, through_data, a_buffer, a_parameter, registered_again, a_module, loaded, loaded_by_assignment,
    trained, a_hook, a_parametrisation, spectral_norm, an_attribute,
)  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("method", METHODS)
def test_the_model_is_explained_as_it_is_now(method: str, change: Callable[[nn.Sequential], None]):
    model = net()
    before = [explained(model, method) for _ in range(2)][1]
    change(model)
    now = explained(model, method)
    torch.testing.assert_close(now, explained(deepcopy(model), method))
    assert not torch.allclose(now, before), "the change shows"


@pytest.mark.parametrize("method", METHODS)
def test_a_change_that_is_taken_back_leaves_nothing(method: str):
    model = net()
    before = explained(model, method)
    handle = model[3].register_forward_hook(lambda module, inputs, output: output.flip(1))
    explained(model, method)
    handle.remove()
    parametrize.register_parametrization(model[3], "weight", Scaled())
    explained(model, method)
    parametrize.remove_parametrizations(model[3], "weight", leave_parametrized=False)
    torch.testing.assert_close(explained(model, method), before)


@torch.no_grad()
def spoilt_in_place(model: nn.Sequential) -> None:
    model[3].weight[0, 0, 0, 0] = torch.nan


def spoilt_through_data(model: nn.Sequential) -> None:
    model[3].weight.data[0, 0, 0, 0] = torch.nan


def spoilt_by_loading(model: nn.Sequential) -> None:
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["3.weight"][0] = torch.inf
    model.load_state_dict(state)


@pytest.mark.parametrize("spoil", [spoilt_in_place, spoilt_through_data, spoilt_by_loading])
@pytest.mark.parametrize("method", METHODS)
def test_weights_that_became_nan_since_the_last_call_are_named(
    method: str, spoil: Callable[[nn.Sequential], None]
):
    model = net()
    explained(model, method)
    spoil(model)
    with pytest.raises(ModelError, match=r"3\.weight") as caught:
        explained(model, method)
    assert caught.value.code is Code.NOT_FINITE_WEIGHTS
    model.load_state_dict(net().state_dict())
    torch.testing.assert_close(explained(model, method), explained(net(), method))


def together(work: list[Callable[[], Tensor]]) -> list[Tensor]:
    """The results of functions that start at the same time in a thread each."""
    found: dict[int, Tensor] = {}
    barrier = threading.Barrier(len(work))

    def start(number: int) -> None:
        barrier.wait()
        found[number] = work[number]()

    threads = [threading.Thread(target=start, args=(number,)) for number in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return [found[number] for number in range(len(work))]


def again(task: Task, method: str) -> Tensor:
    maps = [abe.explain(task, photos(), method, target=1, progress=False).attribution for _ in range(5)]
    assert all(torch.allclose(one, maps[0], atol=1e-6) for one in maps)
    return maps[0]


@pytest.mark.parametrize("two", [False, True], ids=["one model", "two models"])
def test_threads_get_what_each_gets_alone(two: bool):
    models = [net(0), net(3 if two else 0)]
    if not two:
        models[1] = models[0]
    work = [(models[i % 2], method) for i, method in enumerate(METHODS)]
    alone = [explained(deepcopy(model), method) for model, method in work]
    for model in models:
        model.train()
    found = together([lambda m=model, n=method: again(abe.image_task(m), n) for model, method in work])
    for one, other in zip(found, alone, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)
    for model in models:
        assert all(module.training for module in model.modules())
        assert all(parameter.requires_grad for parameter in model.parameters())

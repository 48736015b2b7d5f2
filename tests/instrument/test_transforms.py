"""Models that use `torch.func`: explained, or refused by name where a method has to look inside."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import abe
from abe.errors import Code, ModelError
from abe.testing import nets, samples, task_of

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script`")  # which torch.func.jvp uses itself


def vmapped(f: Callable[[Tensor], Tensor], h: Tensor) -> Tensor:
    return torch.vmap(lambda one: f(one[None])[0])(h)


def differentiated(f: Callable[[Tensor], Tensor], h: Tensor) -> Tensor:
    return torch.func.grad(lambda h: f(h).square().sum())(h)


def pulled_back(f: Callable[[Tensor], Tensor], h: Tensor) -> Tensor:
    out, back = torch.func.vjp(f, h)
    return out + back(out)[0].mean()


def pushed_forward(f: Callable[[Tensor], Tensor], h: Tensor) -> Tensor:
    return torch.func.jvp(f, (h,), (torch.ones_like(h),))[1]


def twice(f: Callable[[Tensor], Tensor], h: Tensor) -> Tensor:
    return vmapped(lambda one: differentiated(f, one), h)


TRANSFORMS = {
    "vmap": vmapped,
    "grad": differentiated,
    "vjp": pulled_back,
    "jvp": pushed_forward,
    "grad in vmap": twice,
}


class Beside(nets.Convolutional):
    """A transform around plain operations, after the layers."""

    def __init__(self, transform: Callable[..., Tensor]) -> None:
        super().__init__(dtype=torch.float64)
        self.transform = transform

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        return out + self.transform(lambda h: h.tanh() * h, out)


class Around(Beside):
    """A transform around a layer with places."""

    def forward(self, x: Tensor) -> Tensor:
        body: nn.Module = self.features
        return self.transform(body, x).flatten(1)[:, :5]


def explained(net: nn.Module, method: str, **params: Any) -> abe.Explanation:
    return abe.explain(task_of(net.eval()), samples(2), method, target=1, progress=False, **params)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("kind", [Beside, Around])
def test_gradients_are_those_of_autograd(kind: Any, transform: str) -> None:
    net, x = kind(TRANSFORMS[transform]).eval(), samples(2).requires_grad_()
    (expected,) = torch.autograd.grad(net(x)[:, 1].sum(), x)
    torch.testing.assert_close(explained(net, "gradient").attribution, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("method", ["occlusion", "ig"])
def test_methods_at_the_input_run(method: str, transform: str) -> None:
    found = explained(Around(TRANSFORMS[transform]), method)
    assert bool(found.attribution.isfinite().all())


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("kind", [Beside, Around])
@pytest.mark.parametrize("method", ["lrp_epsilon", "deeplift", "excitation_backprop"])
def test_rules_refuse_a_transform_by_name(method: str, kind: Any, transform: str) -> None:
    with pytest.raises(ModelError, match=r"(vmap|grad|jvp) \(torch.func\) around") as caught:
        explained(kind(TRANSFORMS[transform]), method)
    assert caught.value.code is Code.HIDDEN_BACKWARD


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("method", ["grad_cam", "score_cam", "ablation_cam"])
def test_a_map_of_a_layer_is_taken_outside_a_transform(method: str, transform: str) -> None:
    assert bool(explained(Beside(TRANSFORMS[transform]), method).attribution.isfinite().all())


LAYERED = ("grad_cam", "score_cam", "iba", "layer_conductance")


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("method", LAYERED)
def test_a_layer_inside_a_transform_is_refused_by_name(method: str, transform: str) -> None:
    with pytest.raises(ModelError, match=r"features.*(vmap|grad|jvp) \(torch.func\) around") as caught:
        explained(Around(TRANSFORMS[transform]), method, layer="features.3")
    assert caught.value.code is Code.LAYER


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_no_layer_is_chosen_inside_a_transform(transform: str) -> None:
    with pytest.raises(ModelError, match=r"(vmap|grad|jvp) \(torch.func\) around 'features") as caught:
        explained(Around(TRANSFORMS[transform]), "grad_cam")
    assert caught.value.code is Code.NO_SPATIAL_LAYER


class Attends(nets.Attending):
    def forward(self, x: Tensor) -> Tensor:
        return torch.vmap(lambda one: super(Attends, self).forward(one[None])[0])(x)


@pytest.mark.parametrize(
    "method", ["raw_attention", "attention_rollout", "chefer_relevance", "attention_lrp"]
)
def test_attention_inside_a_transform_is_refused_by_name(method: str) -> None:
    with pytest.raises(ModelError, match=r"vmap \(torch.func\) around"):
        explained(Attends(dtype=torch.float64), method)


class Forbids(nets.Convolutional):
    """Forbids hooks on saved tensors in words of its own."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autograd.graph.disable_saved_tensors_hooks("not here"):
            return super().forward(x)


def test_a_model_may_forbid_hooks_on_saved_tensors() -> None:
    net = nets.Convolutional(dtype=torch.float64)
    expected = explained(net, "gradient").attribution
    assert torch.equal(explained(Forbids(dtype=torch.float64), "gradient").attribution, expected)

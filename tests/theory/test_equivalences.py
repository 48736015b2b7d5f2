"""Methods that are the same map under stated conditions, and that they differ without them.

Two more stand with what they are about: Shapley and Banzhaf values as weighted Harsanyi dividends in
`test_effects`, SmoothGrad as the limit of continuous LIME in `tests/engines/removal/test_lime.py`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import abe
from abe.baselines import Given
from abe.testing import nets, samples, task_of


class Rectified(nn.Module):
    """Two convolutions, each with a ReLU behind it, and the mean over places."""

    def __init__(self, *, bias: bool = True) -> None:
        super().__init__()
        self.first = nn.Parameter(nets.weights(5, 3, 3, 3, seed=1, scale=0.7))
        self.second = nn.Parameter(nets.weights(4, 5, 3, 3, seed=2, scale=0.7))
        self.bias = nn.Parameter(nets.weights(5, seed=3, scale=0.5 if bias else 0.0))

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.conv2d(x, self.first, self.bias, padding=1).relu()
        return F.conv2d(hidden, self.second).relu().mean((2, 3))


def images() -> Tensor:
    return samples(3, shape=(3, 8, 8))


def maps(net: nn.Module, method: object, **params: object) -> Tensor:
    task = abe.image_task(net.eval(), channels=3, output_kind="logits")
    return abe.explain(
        task, images(), method, target=1, execution="model", progress=False, **params
    ).attribution


def gap(found: Tensor, right: Tensor) -> float:
    """The largest difference as a share of the largest entry."""
    assert float(right.abs().max()) > 0
    return float((found - right).abs().max() / right.abs().max())


def test_lrp_epsilon_tends_to_gradient_times_input_where_all_is_relu():
    """Biases or not; a larger ε and another activation tell them apart."""
    net = Rectified()
    right = maps(net, "gradient_x_input")
    gaps = [gap(maps(net, "lrp_epsilon", epsilon=e), right) for e in (1e-2, 1e-7, 1e-10)]
    assert gaps[0] > 1e-3 > 1e-5 > gaps[1] > gaps[2]
    assert gaps[2] < 1e-8
    assert gap(maps(net, "lrp_0"), right) < 1e-12
    smooth = nets.Smooth().double()
    x, how = samples(2), {"target": 1, "execution": "model", "progress": False}
    other = abe.explain(task_of(smooth), x, "lrp_0", **how).attribution
    assert gap(other, abe.explain(task_of(smooth), x, "gradient_x_input", **how).attribution) > 0.01


def test_deeplift_rescale_is_lrp_epsilon_without_biases_from_zero():
    plain, biased = Rectified(bias=False), Rectified()
    assert gap(maps(plain, "deeplift"), maps(plain, "lrp_0")) < 1e-12
    assert gap(maps(plain, "deeplift", baseline=("constant", {"value": 0.3})), maps(plain, "lrp_0")) > 0.01
    assert gap(maps(biased, "deeplift"), maps(biased, "lrp_0")) > 0.01


def test_guided_backprop_is_deconvolution_where_every_rectifier_is_open():
    """And both are the gradient only where no gradient that reaches a rectifier is negative."""
    net = Rectified()
    net.first.data.abs_()
    net.bias.data.abs_()
    with torch.no_grad():  # the head's own rectifier is kept open for class 1 only by its mean weight
        net.second += (0.3 - net.second.mean((1, 2, 3), keepdim=True)).clamp(min=0)
        hidden = F.conv2d(images(), net.first, net.bias, padding=1)
        assert float(hidden.min()) > 0
        assert float(F.conv2d(hidden.relu(), net.second).min()) > 0
    assert float(net.second[1].detach().min()) < 0  # some gradients below are negative
    guided, deconvolved, gradient = (maps(net, m) for m in ("gbp", "deconv", "gradient"))
    assert gap(guided, deconvolved) < 1e-12
    assert gap(guided, gradient) > 0.01
    net.second.data.abs_()
    guided, deconvolved, gradient = (maps(net, m) for m in ("gbp", "deconv", "gradient"))
    assert gap(guided, deconvolved) < 1e-12
    assert gap(guided, gradient) < 1e-12
    closed = Rectified()
    assert gap(maps(closed, "gbp"), maps(closed, "deconv")) > 0.01


def test_fast_ig_is_ig_where_the_network_is_homogeneous_and_only_there() -> None:
    x = samples(3)
    gaps = []
    for net in (nets.Homogeneous(), nets.Smooth()):
        fast, slow = (
            abe.explain(task_of(net), x, method, target=1, execution="model", progress=False, **params)
            for method, params in (("fast_ig", {}), ("ig", {"steps": 4}))
        )
        gaps.append(gap(fast.attribution, slow.attribution))
        if len(gaps) == 1:
            assert fast.residual is not None
            assert float(fast.residual.abs().max()) < 1e-12
    assert gaps[0] < 1e-12
    assert gaps[1] > 0.01


def test_boundary_based_ig_is_ig_from_the_boundary_point() -> None:
    """Wherever the point comes from."""
    x, net = samples(3), nets.Smooth()
    how = {"target": 1, "execution": "model", "progress": False}
    point = samples(3, seed=9)
    given = abe.explain(task_of(net), x, "big", boundary=point, steps=16, **how)
    right = abe.explain(task_of(net), x, "ig", baseline=Given(reference=point), steps=16, **how)
    assert gap(given.attribution, right.attribution) < 1e-12

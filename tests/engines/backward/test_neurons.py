"""Patterns of weights wherever they keep their outputs: the same patterns, the same maps."""

from collections.abc import Callable

import pytest
import torch
from tests.engines.backward.modalities import Conv1D, D, made
from tests.engines.backward.test_modalities import explain, samples
from torch import Tensor, nn
from torch.nn import functional as F

from abe.engines.backward.lrp_weighted import weighted
from abe.engines.backward.neurons import neurons
from abe.engines.backward.patterns import PatternFit
from abe.engines.backward.step import Session
from abe.errors import ModelError
from abe.instrument.modes import Instrument
from abe.task.base import Context, Lifted, Task

Call = Callable[[Tensor, Tensor], Tensor]
BIAS = nn.Parameter(torch.ones(5, dtype=torch.float64), requires_grad=False)
CALLS: dict[str, tuple[tuple[int, ...], tuple[int, ...], Call]] = {
    "linear": ((4, 3), (5, 3), F.linear),
    "linear of tokens": ((4, 2, 3), (5, 3), F.linear),
    "linear to a number": ((4, 3), (3,), F.linear),
    "addmm": ((4, 3), (3, 5), lambda x, w: torch.addmm(BIAS, x, w)),
    "mm": ((4, 3), (3, 5), torch.mm),
    "mm from the left": ((3, 4), (5, 3), lambda x, w: torch.mm(w, x)),
    "matmul": ((4, 2, 3), (3, 5), torch.matmul),
    "matmul from the left": ((4, 3, 2), (5, 3), lambda x, w: w @ x),
    "matmul by heads": ((4, 2, 6, 3), (2, 3, 5), torch.matmul),
    "matmul by heads, all alike": ((4, 2, 6, 3), (1, 3, 5), torch.matmul),
    "matmul by a vector": ((4, 2, 3), (3,), torch.matmul),
    "mv": ((4, 3), (3,), torch.mv),
    "bmm": ((2, 4, 3), (2, 3, 5), torch.bmm),
    "bmm from the left": ((2, 3, 4), (2, 5, 3), lambda x, w: torch.bmm(w, x)),
    "einsum": ((4, 3, 2), (5, 3), lambda x, w: torch.einsum("oc,bct->bto", w, x)),
    "einsum, implicit": ((4, 3), (3, 5), lambda x, w: torch.einsum("bi,io", x, w)),
    "einsum with dots": ((4, 6, 3), (2, 3, 5), lambda x, w: torch.einsum("...d,hde->...he", x, w)),
    "einsum of a list": ((4, 3), (3, 5), lambda x, w: torch.einsum("bi,io->ob", [x, w])),
    "tensordot": ((4, 2, 3), (3, 5), lambda x, w: torch.tensordot(x, w, 1)),
    "tensordot of axes": ((4, 3, 2), (5, 3), lambda x, w: torch.tensordot(x, w, ([1], [1]))),
    "tensordot from the left": ((4, 3), (5, 3), lambda x, w: torch.tensordot(w, x, dims=([1], [1]))),
    "tensordot of two axes": ((4, 3, 2), (3, 2, 5), torch.tensordot),
    "conv1d": ((4, 3, 6), (5, 3, 2), F.conv1d),
    "conv1d of one sample": ((3, 6), (5, 3, 2), F.conv1d),
    "conv2d in groups": ((4, 4, 5, 5), (6, 2, 2, 2), lambda x, w: F.conv2d(x, w, groups=2)),
    "conv3d": ((2, 2, 3, 3, 3), (4, 2, 2, 2, 2), F.conv3d),
    "conv_transpose1d": ((4, 3, 6), (3, 5, 2), lambda x, w: F.conv_transpose1d(x, w, stride=2)),
    "conv_transpose2d": ((2, 3, 4, 4), (3, 3, 2, 2), F.conv_transpose2d),
}


def taken(x: Tensor, weight: Tensor, call: Call, see: Callable) -> Tensor:
    """Run a call under an instrument that hands its step to ``see``."""

    def choose(step):
        output = step.plain()
        if step.kind == "linear" and step.number == 0:
            see(step, output)
        return output

    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return call(x, weight)

    net = Net()
    with Instrument(net, default=Session(choose=choose), decompose=True):
        return net(x.requires_grad_())


@pytest.mark.parametrize("name", CALLS)
def test_a_weight_moves_the_outputs_of_its_own_neuron_only(name: str) -> None:
    """Every entry of the weight in turn, against what the axes say."""
    shape, size, call = CALLS[name]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    weight = torch.randn(size, generator=generator, dtype=torch.float64)
    found: list[list[tuple[int, int]]] = []
    out = taken(x, weight, call, lambda step, output: found.append(neurons(step, weighted(step), output)))
    (pairs,) = found
    outs = {place for place, _ in pairs}
    assert len(outs) == len(pairs)
    for index in torch.cartesian_prod(*(torch.arange(n) for n in size)).view(-1, len(size)).tolist():
        changed = weight.clone()
        changed[tuple(index)] += 1
        moved = (call(x.detach(), changed) - out.detach()).abs() > 1e-12
        own = torch.ones_like(moved)
        for place, axis in pairs:
            at = torch.zeros(moved.shape[place], dtype=torch.bool)
            at[index[axis]] = True
            own &= at.view(*[-1 if i == place else 1 for i in range(moved.ndim)])
        assert not bool((moved & ~own).any())
        assert bool(moved.any())


def lift(task: Task, raw: Tensor) -> Lifted:
    return Lifted(raw, Context(), [str(i) for i in range(len(raw))])


def fitted(net: nn.Module, x: Tensor) -> list[Tensor]:
    fit = PatternFit(Task(model=net, modality="series", lifter=lift, output_kind="logits"))
    fit.add(x)
    return list(fit.patterns().layers)


class Dense(nn.Module):
    """Two dense layers over tokens, by `nn.Linear` or by another function of the same weights."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.first, self.last = nn.Linear(D, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self._dense(self.first, x.transpose(1, 2)).relu()
        return self._dense(self.last, h.mean(1, keepdim=True))[:, 0]

    def _dense(self, layer: nn.Linear, h: Tensor) -> Tensor:
        weight, bias = layer.weight, layer.bias
        if self.way == "linear":
            return layer(h)
        if self.way == "addmm":
            return torch.addmm(bias, h.reshape(-1, h.shape[-1]), weight.t()).view(*h.shape[:-1], -1)
        if self.way == "conv":
            return F.conv1d(h.transpose(1, 2), weight[..., None], bias).transpose(1, 2)
        if self.way == "transposed":
            return F.conv_transpose1d(h.transpose(1, 2), weight.t()[..., None], bias).transpose(1, 2)
        raise ValueError(self.way)


@pytest.mark.parametrize("way", ["addmm", "conv", "transposed"])
@pytest.mark.parametrize("method", ["pattern_net", "pattern_attribution"])
def test_patterns_do_not_hang_on_how_a_layer_is_written(way: str, method: str) -> None:
    x, right, net = samples(D, 6), made(Dense("linear")), made(Dense(way))
    for mine, theirs in zip(fitted(net, x), fitted(right, x), strict=True):
        mine = mine.squeeze(-1) if mine.ndim == 3 else mine
        mine = mine if way == "conv" else mine.t()
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(
        explain(net, x, method).attribution, explain(right, x, method).attribution, rtol=1e-9, atol=1e-12
    )


def test_every_neuron_of_a_transposed_weight_sees_its_pattern() -> None:
    """wᵀ a = 1 for each output of a dense layer with weight (in, out), and of a square one not transposed."""
    for net in (nn.Sequential(nn.Flatten(), Conv1D(9, D * 6)), nn.Sequential(nn.Flatten(), Conv1D(48, 48))):
        pattern = fitted(made(net), samples(D, 6))[0]
        assert torch.allclose((pattern * net[1].weight).sum(0), torch.ones(1, dtype=torch.float64))


def test_what_does_not_tell_its_outputs_is_refused_by_name() -> None:
    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.head = nn.ConvTranspose1d(D, 4, 2, groups=2), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.up(x).relu().mean(2))

    with pytest.raises(ModelError, match=r"conv_transpose1d.*'up'.*ABE-RULE"):
        explain(made(Grouped()), samples(D, 6), "pattern_net")


class OfTheBatch(nn.Module):
    """A product with something that has a value for every sample, or with a row for every sample."""

    def __init__(self, axes: int) -> None:
        super().__init__()
        self.head, self.axes = nn.Linear(D, 3), axes

    def forward(self, x: Tensor) -> Tensor:
        if self.axes == 2:
            each = torch.einsum("bdt,be->b", x, torch.ones(len(x), 2, dtype=x.dtype))
            return self.head(x.mean(2)) * each[:, None]
        edges = torch.ones(len(x), 6, 6, dtype=x.dtype).tril()
        return self.head(torch.matmul(edges, x.transpose(1, 2)).relu().mean(1))


def test_what_is_made_for_every_sample_is_no_weight() -> None:
    """It keeps its gradient, in whatever number samples come."""
    net, x = made(OfTheBatch(3)), samples(D, 6)
    fit = PatternFit(Task(model=net, modality="series", lifter=lift, output_kind="logits"))
    fit.add(x)
    fit.add(x[:2])
    assert [len(layer) for layer in fit.patterns().layers] == [0, 3]
    whole = explain(net, x, "pattern_net", patterns=fit.patterns()).attribution
    alone = explain(net, x[1:2], "pattern_net", patterns=fit.patterns()).attribution
    torch.testing.assert_close(alone[0], whole[1])


def test_a_weight_of_another_size_in_every_batch_is_refused() -> None:
    net = made(OfTheBatch(2))
    fit = PatternFit(Task(model=net, modality="series", lifter=lift, output_kind="logits"))
    fit.add(samples(D, 6))
    with pytest.raises(ModelError, match=r"another shape in every batch.*ABE-RULE"):
        fit.add(samples(D, 6)[:2])

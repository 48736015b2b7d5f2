"""How a layer's output lies over the input, which layer is chosen, and what is refused."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from jaxtyping import config
from tests.task.text.texts import Tokenizer, weights
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import abe
from abe.engines.layers.grid import LayerGrid, grid_of
from abe.engines.layers.locate import located
from abe.engines.runtime.shapes import unit_range, upsampled
from abe.instrument.capture import capturing, replacing
from abe.testing import nets, samples, task_of
from abe.testing.bench import problem_of

SHAPES = {
    "convolution": ((2, 512, 7, 7), (224, 224), LayerGrid("channels_first", (7, 7))),
    "channels last": ((2, 7, 7, 768), (224, 224), LayerGrid("channels_last", (7, 7))),
    "fewer channels than rows": ((2, 3, 56, 56), (224, 224), LayerGrid("channels_first", (56, 56))),
    "channels last, early": ((2, 56, 56, 96), (224, 224), LayerGrid("channels_last", (56, 56))),
    "rounded strides": ((2, 2048, 8, 11), (299, 400), LayerGrid("channels_first", (8, 11))),
    "wide, channels last": ((1, 7, 10, 384), (224, 320), LayerGrid("channels_last", (7, 10))),
    "class token": ((2, 197, 768), (224, 224), LayerGrid("tokens", (14, 14), 1)),
    "no class token": ((2, 196, 768), (224, 224), LayerGrid("tokens", (14, 14), 0)),
    "distilled": ((2, 198, 192), (224, 224), LayerGrid("tokens", (14, 14), 2)),
    "registers": ((2, 261, 384), (224, 224), LayerGrid("tokens", (16, 16), 5)),
    "wide tokens": ((2, 281, 384), (224, 320), LayerGrid("tokens", (14, 20), 1)),
    "series": ((2, 16, 25), (100,), LayerGrid("channels_first", (25,))),
    "volume": ((2, 16, 4, 6, 8), (8, 12, 16), LayerGrid("channels_first", (4, 6, 8))),
    "pooled": ((2, 512, 1, 1), (224, 224), None),
    "vector": ((2, 512), (224, 224), None),
    "queries by head": ((2, 12, 197, 64), (224, 224), None),
    "a text": ((2, 23, 64), (224, 224), None),
    "larger than the input": ((2, 3, 64, 64), (32, 32), None),
}


@pytest.mark.parametrize("case", SHAPES)
def test_grids(case: str) -> None:
    shape, extent, right = SHAPES[case]
    assert grid_of(shape, extent) == right


SEQUENCES = {
    "as long as the series": ((2, 25, 16), (25,), None, LayerGrid("channels_last", (25,))),
    "said so, with few channels": ((2, 25, 25), (25,), "channels_last", LayerGrid("channels_last", (25,))),
    "strided, with as many channels": (
        (2, 25, 12),
        (25,),
        "channels_first",
        LayerGrid("channels_first", (12,)),
    ),
    "longer than the series": ((2, 30, 16), (25,), "channels_last", None),
}


@pytest.mark.parametrize("case", SEQUENCES)
def test_along_a_series_the_kind_of_layer_tells_the_channels(case: str) -> None:
    shape, extent, layout, right = SEQUENCES[case]
    assert grid_of(shape, extent, layout) == right


class Recurrent(nn.Module):
    """A series or a text through a recurrent layer, read in one of several ways."""

    def __init__(self, kind: type[nn.RNNBase], read: str, entries: int | None = None) -> None:
        super().__init__()
        self.embed = None if entries is None else nn.Embedding(entries, 5)
        self.rnn = kind(5, 5, batch_first=True)
        self.head, self.read = nn.Linear(5, 2), read

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.rnn(x if self.embed is None else self.embed(x))
        return self.head(states.mean(1) if self.read == "mean" else states[:, -1])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_states_that_are_all_read_have_places(kind: type[nn.RNNBase]) -> None:
    """With as many channels as steps: HiResCAM times the head is gradient × activation of every step."""
    net = weights(Recurrent(kind, "mean"))
    x = torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    task = abe.series_task(net, axes="btc")
    found = abe.explain(task, x, ("hires_cam", {"relu": False}), target=1, progress=False)
    states = net.rnn(x)[0].detach()
    right = (states * net.head.weight[1].detach() / 5).sum(2)
    torch.testing.assert_close(found.attribution.sum(1), right)
    assert any("'rnn'" in text for text in found.warnings)


def test_a_last_state_stands_for_all_so_the_embedding_is_looked_at() -> None:
    """Its output as the model reads it: the gradient there is that of the explained features."""
    task = abe.text_task(weights(Recurrent(nn.GRU, "last", 20)), Tokenizer())
    found = abe.explain(task, "not dull film", ("hires_cam", {"relu": False}), target=1, progress=False)
    right = abe.explain(task, "not dull film", "gradient_x_input", target=1, progress=False)
    torch.testing.assert_close(found.attribution.sum(1), right.attribution.sum(1))
    assert any("'embed'" in text for text in found.warnings)


def test_hooks_of_the_model_come_before_what_is_put_in_their_place() -> None:
    layer = nn.Linear(2, 2)
    layer.register_forward_hook(lambda module, args, output: output + 1)
    net, x = nn.Sequential(layer), torch.rand(3, 2)
    with capturing(net, ["0"]) as seen, replacing(net, "0", x), replacing(net, "0", x * 2):
        out = net(x)  # the outer replacement goes over the inner one, and is what is captured
    assert torch.equal(out, x)
    assert torch.equal(seen["0"], x)
    assert len(layer._forward_hooks) == 1


def test_places_come_out_in_order_and_channels_are_removed_there_only() -> None:
    plain = torch.arange(2 * 3 * 2 * 4.0).view(2, 3, 2, 4)
    tokens = torch.cat([torch.full((2, 1, 3), -1.0), plain.flatten(2).transpose(1, 2)], 1)
    forms = {
        LayerGrid("channels_first", (2, 4)): plain,
        LayerGrid("channels_last", (2, 4)): plain.permute(0, 2, 3, 1).contiguous(),
        LayerGrid("tokens", (2, 4), 1): tokens,
    }
    for grid, form in forms.items():
        before = form.clone()
        assert torch.equal(grid.places(form), plain)
        without = grid.places(grid.without(form, torch.tensor([2, 0])))
        expected = plain.clone()
        expected[0, 2] = expected[1, 0] = 0
        assert torch.equal(without, expected)
        assert torch.equal(form, before)
    assert torch.equal(
        LayerGrid("tokens", (2, 4), 1).without(tokens, torch.tensor([2, 0]))[:, 0], tokens[:, 0]
    )


def test_enlarging_is_linear_between_centres() -> None:
    """Without aligned corners a place's centre keeps its value, and outside the centres it is constant."""
    raw = torch.tensor([[[0.0, 4.0]]], dtype=torch.float64)
    row = upsampled(raw, (1, 8), "bilinear")[0, 0]
    expected = torch.tensor([0, 0, 0.5, 1.5, 2.5, 3.5, 4, 4], dtype=torch.float64)
    torch.testing.assert_close(row, expected)
    assert upsampled(raw, (1, 4), "nearest")[0, 0].tolist() == [0, 0, 4, 4]


def test_a_constant_map_scales_to_zero() -> None:
    assert unit_range(torch.full((2, 3, 3), 5.0)).tolist() == torch.zeros(2, 3, 3).tolist()


# --- the layer that is chosen -------------------------------------------------------------------------


class Residual(nn.Module):
    """A residual block whose ReLU is reused and in place, then pooling and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.two(self.relu(self.one(x)))
        out += x
        return self.relu(out)


class ClassToken(nn.Module):
    """Two blocks; the head reads the class token, so the last block's places matter before it only."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.start = nn.Conv2d(3, 8, 2, stride=2), nn.Parameter(torch.randn(1, 1, 8))
        self.norms = nn.ModuleList([nn.LayerNorm(8), nn.LayerNorm(8)])
        self.mix = nn.ModuleList([nn.MultiheadAttention(8, 2, batch_first=True) for _ in range(2)])
        self.last, self.head = nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.start.expand(len(x), 1, 8), self.patch(x).flatten(2).transpose(1, 2)], 1)
        for norm, mix in zip(self.norms, self.mix, strict=True):
            y = norm(x)
            x = x + mix(y, y, y)[0]
        return self.head(self.last(x)[:, 0])


def headed(*layers: nn.Module, channels: int = 4) -> nn.Sequential:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5))


CHOSEN = {
    "before pooling": (nets.Convolutional(), "features.3"),
    "the outermost name": (headed(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU()))), "0"),
    "in place": (headed(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True)), "1"),
    "dropout is not a layer of its own": (headed(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Dropout()), "1"),
    "a block": (headed(Residual(), channels=3), "0"),
    "what the last attention reads": (ClassToken(), "norms.1"),
    "pooling between": (headed(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 4, 1)), "2"),
}


@pytest.mark.parametrize("case", CHOSEN)
def test_the_chosen_layer(case: str) -> None:
    model, right = CHOSEN[case]
    problem = problem_of(model.requires_grad_(False), samples(2, dtype=torch.float32))
    before = problem.evaluator.cost.forward_rows
    assert located(problem, None)[0] == right
    cost = problem.evaluator.cost
    assert (cost.forward_rows - before, cost.backward_rows) == (1, 1)


def test_a_reused_module_is_named_with_its_call() -> None:
    class Reused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.relu = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.ReLU()
            self.head = nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.relu(self.second(self.relu(self.first(x)))).mean((2, 3)))

    model, x = Reused().double().eval(), samples(2)
    chosen = abe.explain(task_of(model), x, "grad_cam", target=1, progress=False)
    assert "layer 'relu#1'" in chosen.warnings[0]
    activation = model.relu(model.second(model.relu(model.first(x)))).detach()
    raw = torch.einsum("k,nkij->nij", model.head.weight[1].detach() / 4, activation).clamp(min=0)
    right = F.interpolate(raw[:, None], (6, 6), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(chosen.attribution.sum(1), right)
    for method in ("ablation_cam", "hires_cam"):
        a = abe.explain(task_of(model), x, method, layer="relu#1", target=1, progress=False)
        b = (
            abe.explain(task_of(model), x, method, layer="relu#-1", target=1, progress=False)
            if method[0] == "h"
            else a
        )
        assert torch.equal(a.attribution, b.attribution)
    with pytest.raises(abe.errors.SpecError, match="Count the calls of a layer from 0"):
        abe.explain(task_of(model), x, "ablation_cam", layer="relu#-1", target=1, progress=False)
    with pytest.raises(abe.errors.ModelError, match="called several times"):
        abe.explain(task_of(model), x, "grad_cam", layer="relu", target=1, progress=False)


# --- what is refused ----------------------------------------------------------------------------------


class Unreached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.used(x).mean((2, 3)))


class Detached(Unreached):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.used(x).mean((2, 3)).detach())


BAD = {
    "no layer with places": (nets.Smooth(), "grad_cam", {}, "ABE-NO-SPATIAL-LAYER"),
    "no module at all": (nets.Homogeneous(), "eigen_cam", {}, "ABE-NO-SPATIAL-LAYER"),
    "no such layer": (nets.Convolutional(), "grad_cam", {"layer": "feature.3"}, "Did you mean 'features.3'"),
    "never reached": (Unreached(), "hires_cam", {"layer": "unused"}, "The layer was never reached"),
    "never reached by removal": (Unreached(), "ablation_cam", {"layer": "unused"}, "never reached"),
    "after the pooling": (nets.Convolutional(), "grad_cam", {"layer": "head"}, "has no places"),
    "a detached score": (Detached(), "grad_cam", {"layer": "used"}, "ABE-NOT-DIFFERENTIABLE"),
    "CAM before a map's own head": (nets.Convolutional(), "cam", {}, "ABE-NO-LINEAR-HEAD"),
    "CAM before a ReLU": (nets.Convolutional(side=1), "cam", {"layer": "features.2"}, "relu in 'features.3'"),
    "enlarging": (nets.Convolutional(), "grad_cam", {"upsample": "cubic"}, "No such way to enlarge"),
    "weights without a name": (
        nets.Convolutional(),
        "channel_map",
        {"weights": "mean_gradiend"},
        "mean_gradient",
    ),
    "no weights": (nets.Convolutional(), "channel_map", {"weights": 3}, "These are not channel weights"),
    "a variant": (nets.Convolutional(), "xgrad_cam", {"variant": "old"}, "No such variant"),
}


@pytest.fixture
def as_installed() -> Iterator[None]:
    """Without the run-time checks of annotations, which users do not have."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str) -> None:
    model, method, params, says = BAD[case]
    x = samples(2, dtype=next(model.parameters()).dtype)
    with pytest.raises(abe.errors.AbeError, match=says):
        abe.explain(task_of(model), x, method, target=1, progress=False, **params)


def test_methods_without_gradients_take_a_model_that_has_none() -> None:
    found = abe.explain(
        task_of(Detached().eval()), samples(2).float(), "ablation_cam", target=1, progress=False
    )
    assert "layer 'used'" in found.warnings[0]
    assert found.attribution.abs().sum() > 0


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
@pytest.mark.parametrize("compiled", [lambda m: torch.jit.trace(m, samples(2).float()), torch.jit.script])
def test_a_scripted_or_traced_part_is_named(compiled: Any) -> None:
    model = nets.Convolutional().eval()
    model.features[0] = compiled(model.features[0])
    for method in ("grad_cam", "ablation_cam", "chefer", "layer_conductance", abe.at_layer("ig", "head")):
        params = {"layer": "head"} if method == "layer_conductance" else {}
        with pytest.raises(abe.errors.ModelError, match=r"'features.0'.*ABE-OPAQUE-MODEL"):
            abe.explain(task_of(model), samples(2).float(), method, target=1, progress=False, **params)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_a_reentrant_checkpoint_is_named() -> None:
    class Checkpointed(Unreached):
        def forward(self, x: Tensor) -> Tensor:
            hidden = checkpoint(self.unused, self.used(x)[:, :3], use_reentrant=True)
            return self.head(hidden.mean((2, 3)))

    model, x = Checkpointed().eval(), samples(2).float()
    named = {"layer": "used"}
    for method in (
        *("gradient", "ig", ("grad_cam", named), ("guided_grad_cam", named)),
        *(abe.at_layer("ig", "used"), ("layer_conductance", named)),
    ):
        with pytest.raises(abe.errors.ModelError, match=r"use_reentrant=True.*ABE-HIDDEN-BACKWARD"):
            abe.explain(task_of(model), x, method, target=1, progress=False)
    for method in ("grad_cam", abe.at_layer("ig", "unused")):
        with pytest.raises(abe.errors.ModelError, match="checkpoint"):
            abe.explain(task_of(model), x, method, target=1, progress=False)
    for method in ("occlusion", ("ablation_cam", {"relu": False})):
        found = abe.explain(task_of(model), x, method, target=1, progress=False)
        assert bool(found.attribution.any())


def test_several_packed_inputs_have_no_places() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nets.Convolutional()

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.inner(a) + b.flatten(1).sum(1, keepdim=True)

    task = abe.image_task(Pair(), channels=3, output_kind="logits", explained=("a", "b"))
    raw = {"a": samples(2).float(), "b": torch.rand(2, 3, 4, 4)}
    with pytest.raises(abe.errors.InputError, match="needs one input with places"):
        abe.explain(task, raw, "grad_cam", target=1, progress=False)

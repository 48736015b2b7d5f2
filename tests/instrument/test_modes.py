"""The instrument sees every operation, changes only what it is told to, and leaves nothing behind."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules import module as module_hooks

from abe.engines.backward.coverage import coverage
from abe.errors import Code, ModelError
from abe.instrument.capture import capture, capturing
from abe.instrument.modes import Instrument, Seen, attention


def rand(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64) - 0.3


class Recorder:
    def __init__(self) -> None:
        self.seen: list[Seen] = []

    def __call__(self, seen: Seen, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        self.seen.append(seen)

    @property
    def names(self) -> list[str]:
        return [seen.name for seen in self.seen]


def negative(seen: Seen, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return -func(*args, **kwargs)


def passing(seen: Seen, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return func(*args, **kwargs)


def no_hooks(model: nn.Module) -> bool:
    rooms = (module_hooks._global_forward_hooks, module_hooks._global_forward_pre_hooks)
    local = (hooks for m in model.modules() for hooks in (m._forward_hooks, m._forward_pre_hooks))
    return not any(rooms) and not any(local) and torch._C._len_torch_function_stack() == 0


class Body(nn.Module):
    """Runs any function of its input as a model."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def iadd(x: Tensor) -> Tensor:
    y = x * 1
    y += x
    return y


def out_argument(x: Tensor) -> Tensor:
    y = torch.empty_like(x)
    torch.relu_(x.clone())
    return torch.add(x, x, out=y)


def setitem(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, 0] = 2.0
    return y


RELUS: dict[str, Callable[[Tensor], Tensor]] = {
    "torch.relu": torch.relu,
    "F.relu": F.relu,
    "F.relu in-place": lambda x: F.relu(x.clone(), inplace=True),
    "method": lambda x: x.relu(),
    "method in-place": lambda x: x.clone().relu_(),
    "torch.relu_": lambda x: torch.relu_(x.clone()),
    "module": lambda x: nn.ReLU()(x),
    "module in-place": lambda x: nn.ReLU(inplace=True)(x.clone()),
}


class TestNames:
    @pytest.mark.parametrize("spelling", RELUS)
    def test_every_relu_has_one_name(self, spelling: str) -> None:
        model, recorder, x = Body(RELUS[spelling]), Recorder(), rand(2, 3)
        with Instrument(model, observe=recorder):
            plain = model(x)
        assert [name for name in recorder.names if name != "clone"] == ["relu"]
        with Instrument(model, rules={"relu": negative}):
            assert torch.equal(model(x), -plain)

    @pytest.mark.parametrize(
        ("function", "name"),
        [
            (lambda x: x + x, "add"),
            (lambda x: 1 + x, "add"),
            (iadd, "add"),
            (lambda x: x.add(x), "add"),
            (lambda x: torch.add(x, x), "add"),
            (lambda x: x @ x.T, "matmul"),
            (lambda x: x / 2, "div"),
            (lambda x: x[0], "getitem"),
            (setitem, "setitem"),
            (lambda x: x.clip(min=0), "clamp"),
            (lambda x: F.softmax(x, -1), "softmax"),
            (lambda x: nn.Softmax(-1)(x), "softmax"),
            (lambda x: F.max_pool2d(x[None], 2), "max_pool2d"),
        ],
    )
    def test_spellings(self, function: Callable[[Tensor], Tensor], name: str) -> None:
        model, recorder, x = Body(function), Recorder(), rand(4, 4)
        plain = model(x)
        with Instrument(model, observe=recorder):
            assert torch.equal(model(x), plain)
        assert name in recorder.names

    def test_metadata_is_no_operation(self) -> None:
        def asking(x: Tensor) -> Tensor:
            assert x.dim() == 2
            assert (x.shape[0], x.size(1), len(x), x.numel()) == (2, 3, 2, 6)
            assert x.dtype == torch.float64
            assert not x.requires_grad
            return x

        model, recorder, x = Body(asking), Recorder(), rand(2, 3)
        with Instrument(model, observe=recorder):
            model(x)
        assert recorder.names == []


class TestRules:
    @pytest.mark.parametrize("function", [iadd, out_argument, setitem, *RELUS.values()])
    def test_a_rule_that_only_looks_changes_nothing(self, function: Callable[[Tensor], Tensor]) -> None:
        model, x = Body(function), rand(3, 4)
        plain = model(x)
        with Instrument(model, default=passing):
            assert torch.equal(model(x), plain)

    def test_in_place_rules_read_unchanged_values_and_write_back(self) -> None:
        saved: list[Tensor] = []

        def doubled(seen: Seen, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
            assert seen.in_place
            saved.append(args[0])
            return 2 * func(*args, **kwargs)

        def body(x: Tensor) -> Tensor:
            y = x * 1
            view = y[:, :2]
            view.relu_()
            y.add_(1)
            return y

        x = rand(3, 4).requires_grad_()
        with Instrument(model := Body(body), rules={"relu": doubled}):
            output = model(x)
        expected = torch.cat([2 * x[:, :2].relu(), x[:, 2:]], 1) + 1
        assert torch.equal(output, expected)
        assert torch.equal(saved[0], x[:, :2])
        gradient = torch.autograd.grad(output.sum(), x)[0]
        assert torch.equal(gradient, torch.autograd.grad(expected.sum(), x)[0])

    def test_a_replaced_backward(self) -> None:
        class Guided(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: Tensor) -> Tensor:
                ctx.save_for_backward(x)
                return x.relu()

            @staticmethod
            def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
                return gradient.relu() * (ctx.saved_tensors[0] > 0)

        def rule(seen: Seen, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
            return Guided.apply(args[0])

        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 3)).double()
        x = rand(2, 4).requires_grad_()
        with Instrument(model, rules={"relu": rule}):
            output = model(x)
        assert torch.equal(output, model(x))
        gradient = torch.autograd.grad(output[:, 1].sum(), x)[0]
        hidden = model[0](x) > 0
        expected = (model[2].weight[1].relu() * hidden) @ model[0].weight
        torch.testing.assert_close(gradient, expected)

    def test_an_error_in_a_rule_leaves_nothing(self) -> None:
        def failing(seen: Seen, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
            raise ModelError(Code.UNSUPPORTED, f"No rule for {seen.name} in {seen.module!r}")

        model = nn.Sequential(nn.Linear(4, 2), nn.Tanh()).double()
        with (
            pytest.raises(ModelError, match="No rule for tanh in '1'"),
            Instrument(model, rules={"tanh": failing}),
        ):
            model(rand(2, 4))
        assert no_hooks(model)

    def test_an_instrument_can_be_used_again_but_not_twice_at_once(self) -> None:
        model = nn.Linear(4, 2).double()
        instrument = Instrument(model, observe=(recorder := Recorder()))
        for _ in range(2):
            with instrument:
                model(torch.ones(2, 4).double())
        places = [(seen.name, seen.module) for seen in recorder.seen]
        assert places == [("ones", None), ("double", None), ("linear", "")] * 2
        with instrument, pytest.raises(RuntimeError, match="already active"), instrument:
            pass
        assert no_hooks(model)


class TestModules:
    def test_paths_reuse_and_recovered_exceptions(self) -> None:
        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
                self.broken = Body(self.fail)

            def fail(self, x: Tensor) -> Tensor:
                raise ValueError

            def forward(self, x: Tensor) -> Tensor:
                x = self.inner(self.inner(x))
                try:
                    x = self.broken(x)
                except ValueError:
                    x = x.exp()
                return x.sum()

        model, recorder, x = Net().double(), Recorder(), rand(2, 4)
        with Instrument(model, observe=recorder):
            model(x)
        places = [(seen.name, seen.module) for seen in recorder.seen]
        once = [("linear", "inner.0"), ("relu", "inner.1")]
        assert places == [*once, *once, ("exp", ""), ("sum", "")]

    def test_an_exception_in_forward_leaves_nothing(self) -> None:
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(5, 2)).double()
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), Instrument(model):
            model(rand(2, 4))
        assert no_hooks(model)

    @pytest.mark.filterwarnings("ignore:.*torch.jit.*")
    def test_scripted_and_traced_modules_are_refused_by_name(self) -> None:
        traced = torch.jit.trace(nn.Linear(4, 4).double(), rand(2, 4))
        model = nn.Sequential(nn.Linear(4, 4).double(), nn.Sequential(traced))
        for use in (
            Instrument,
            lambda m: coverage(m, lambda n: n(rand(2, 4))),
            lambda m: capture(m, m, ["0"]),
        ):
            with pytest.raises(ModelError, match=r"Got '1\.0'.*ABE-OPAQUE-MODEL"):
                use(model)
        assert no_hooks(model)

    def test_compiled_modules_are_seen(self) -> None:
        inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).double()
        model = nn.Sequential(torch.compile(inner, backend="eager"), nn.Linear(4, 2).double())
        x, recorder = rand(2, 4), Recorder()
        with Instrument(model, observe=recorder):
            model(x)
        assert [(s.name, s.module) for s in recorder.seen] == [
            ("linear", "0.0"),
            ("relu", "0.1"),
            ("linear", "1"),
        ]
        assert torch.equal(capture(model, lambda m: m(x), ["0.1"])["0.1"], inner(x))


def attention_nets() -> dict[str, tuple[nn.Module, tuple[int, ...], int, int]]:
    """Net, input shape, number of attention layers, heads."""
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    vit = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32)
    nn.init.normal_(vit.heads.head.weight, generator=torch.Generator().manual_seed(0))
    return {
        "encoder": (nn.TransformerEncoder(encoder, 2), (3, 5, 8), 2, 2),
        "layer": (encoder, (3, 5, 8), 1, 2),
        "vit": (vit, (2, 3, 32, 32), 2, 2),
    }


class Attentions:
    def __init__(self) -> None:
        self.found: list[Tensor] = []
        self.seen: list[Seen] = []

    def __call__(self, seen: Seen, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        self.seen.append(seen)
        self.found.append(func(*args, **kwargs))
        return self.found[-1]


class TestAttention:
    @pytest.mark.parametrize("name", ["encoder", "layer", "vit"])
    @pytest.mark.parametrize("grad", [True, False])
    def test_probabilities_of_real_layers(self, name: str, grad: bool) -> None:
        net, shape, layers, heads = attention_nets()[name]
        net, x, recorder, attentions = net.double().eval(), rand(*shape), Recorder(), Attentions()
        with torch.set_grad_enabled(grad):
            plain = net(x)
            with Instrument(net, rules={"attention": attentions}, observe=recorder):
                output = net(x)
        torch.testing.assert_close(output, plain, rtol=1e-12, atol=1e-12)
        assert len(attentions.found) == recorder.names.count("softmax") == layers
        assert "scaled_dot_product_attention" not in recorder.names
        for probabilities in attentions.found:
            assert probabilities.shape[1] == heads
            torch.testing.assert_close(probabilities.sum(-1), torch.ones(probabilities.shape[:-1]).double())
        assert all(seen.module.endswith(("self_attn", "self_attention")) for seen in attentions.seen)
        if grad:
            gradient = torch.autograd.grad(output.flatten(1)[:, 0].sum(), attentions.found[0])[0]
            assert gradient.abs().max() > 0

    def test_weights_path_and_replacement(self) -> None:
        layer, x, attentions = (
            nn.MultiheadAttention(8, 2, batch_first=True).double(),
            rand(3, 5, 8),
            Attentions(),
        )
        with Instrument(layer, rules={"attention": attentions}):
            _, weights = layer(x, x, x, average_attn_weights=False)
        assert torch.equal(attentions.found[0].reshape(weights.shape), weights)

        def uniform(seen: Seen, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
            return torch.full_like(args[0], 1 / args[0].shape[-1])

        with Instrument(layer, rules={"attention": uniform}):
            output, _ = layer(x, x, x, need_weights=False)
        value = F.linear(x, layer.in_proj_weight[16:], layer.in_proj_bias[16:]).mean(1, keepdim=True)
        torch.testing.assert_close(output, layer.out_proj(value).expand_as(output))

    def test_fused_attention_is_left_whole_unless_asked_for(self) -> None:
        model = Body(lambda x: F.scaled_dot_product_attention(x, x, x))
        whole, parts, x = Recorder(), Recorder(), rand(2, 5, 4)
        with Instrument(model, observe=whole):
            model(x)
        with Instrument(model, observe=parts, decompose=True):
            model(x)
        assert whole.names == ["scaled_dot_product_attention"]
        assert parts.names == ["mul", "transpose", "matmul", "softmax", "matmul"]
        assert {seen.within for seen in parts.seen} == {("scaled_dot_product_attention",)}

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"is_causal": True},
            {"scale": 0.3},
            {"attn_mask": rand(5, 7) > 0},
            {"attn_mask": rand(5, 7)},
            {"attn_mask": torch.arange(5)[:, None] > torch.arange(7)},
            {"enable_gqa": True},
        ],
    )
    def test_decomposition_equals_the_fused_function(self, options: dict[str, Any]) -> None:
        heads = 2 if options.get("enable_gqa") else 4
        query, key, value = rand(2, 4, 5, 6), rand(2, heads, 7, 6) * 2, rand(2, heads, 7, 3)
        inputs = [tensor.requires_grad_() for tensor in (query, key, value)]
        fused, plain = F.scaled_dot_product_attention(*inputs, **options), attention(*inputs, **options)
        torch.testing.assert_close(plain, fused)
        for a, b in zip(
            torch.autograd.grad((plain**2).sum(), inputs),
            torch.autograd.grad((fused**2).sum(), inputs),
            strict=True,
        ):
            torch.testing.assert_close(a, b)


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.relu = nn.ReLU(inplace=True)
        self.pair = nn.LSTM(4, 3, batch_first=True)
        self.unused = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = self.relu(block(x))
        return self.pair(x)[0].sum((1, 2))


class TestCapture:
    def test_values_before_a_later_in_place_operation_and_gradients(self) -> None:
        model, x = Layers().double(), rand(2, 3, 4)
        with capturing(model, ["blocks.1", "relu#0", "relu#-1", "pair"]) as captured:
            score = model(x).sum()
        first = model.blocks[0](x)
        assert torch.equal(captured["relu#0"], first.relu())
        hidden = model.blocks[1](first.relu())
        assert torch.equal(captured["blocks.1"], hidden)
        assert hidden.min() < 0
        assert torch.equal(captured["relu#-1"], hidden.relu())
        assert torch.equal(captured["pair"], model.pair(hidden.relu())[0])
        gradient = torch.autograd.grad(score, captured["blocks.1"], retain_graph=True)[0]
        leaf = hidden.detach().requires_grad_()
        expected = torch.autograd.grad(model.pair(leaf.relu())[0].sum(), leaf)[0]
        torch.testing.assert_close(gradient, expected)
        assert torch.equal(
            torch.autograd.grad(score, captured["pair"])[0], torch.ones(2, 3, 3, dtype=torch.float64)
        )
        assert no_hooks(model)

    def test_gradients_flow_with_everything_frozen(self) -> None:
        model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1)).double().requires_grad_(False)
        outputs: list[Tensor] = []
        found = capture(model, lambda m: outputs.append(m(rand(2, 4))), ["1"])["1"]
        gradient = torch.autograd.grad(outputs[0].sum(), found)[0]
        assert torch.equal(gradient, model[2].weight.expand(2, 3))
        with torch.no_grad():
            assert not capture(model, lambda m: m(rand(2, 4)), ["1"])["1"].requires_grad

    @pytest.mark.parametrize(
        ("layer", "message"),
        [
            ("block.1", "no such layer.*Did you mean 'blocks.1'"),
            ("relu#x", "no such layer"),
            ("unused", "never reached: 'unused'"),
            ("blocks", "never reached: 'blocks'.*ModuleList"),
            ("relu", "called several times: 'relu'.*2 calls.*'relu#0' to 'relu#1'"),
            ("relu#2", "called less often: 'relu#2'.*2 calls.*the last was '#1'"),
        ],
    )
    def test_errors(self, layer: str, message: str) -> None:
        model = Layers().double()
        with pytest.raises(ModelError, match=message) as error:
            capture(model, lambda m: m(rand(2, 3, 4)), ["pair", layer])
        assert error.value.code is Code.LAYER
        assert no_hooks(model)

    def test_the_models_own_exception_passes(self) -> None:
        model = Layers().double()
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            capture(model, lambda m: m(rand(2, 3, 5)), ["pair"])
        assert no_hooks(model)


class TestCoverage:
    def test_kinds_by_what_depends_on_the_input(self) -> None:
        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.weight = nn.Parameter(rand(4))
                self.gate = nn.Sigmoid()

            def forward(self, x: Tensor, *, scale: Tensor) -> Tensor:
                y = x * self.weight.exp()
                y = y * self.gate(y) / 2
                y = y / scale
                return torch.fft.rfft(y).real.sum(-1)

        model = Net()
        report = coverage(model, lambda m: m(rand(2, 4), scale=rand(2, 1)))
        assert [(o.name, o.module, o.count, o.kind) for o in report] == [
            ("exp", "", 1, "constant"),
            ("mul", "", 1, "linear"),
            ("sigmoid", "gate", 1, "activation"),
            ("mul", "", 1, "product"),
            ("div", "", 1, "linear"),
            ("div", "", 1, "product"),
            ("fft_rfft", "", 1, "other"),
            ("real", "", 1, "plumbing"),
            ("sum", "", 1, "linear"),
        ]
        assert [operation.name for operation in report.unknown] == ["fft_rfft"]
        assert report.counts()["linear"] == 3
        assert no_hooks(model)

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("resnet18", {"normalisation": 20, "activation": 17, "pooling": 1, "product": 0}),
            ("mobilenet_v3_small", {"normalisation": 34, "product": 9}),
            ("densenet121", {"normalisation": 121, "pooling": 1, "product": 0}),
            ("efficientnet_b0", {"normalisation": 49, "product": 16}),
            ("convnext_tiny", {"normalisation": 23, "product": 0}),
        ],
    )
    def test_real_networks_hold_nothing_unknown(self, name: str, expected: dict[str, int]) -> None:
        model = torchvision.models.get_model(name, weights=None).eval()
        report = coverage(model, lambda m: m(rand(1, 3, 64, 64).float()))
        assert report.unknown == ()
        counts = report.counts()
        assert {kind: counts[kind] for kind in expected} == expected
        assert no_hooks(model)

    def test_shifted_windows_are_made_from_the_shape_only(self) -> None:
        model = torchvision.models.swin_t(weights=None).eval()
        report = coverage(model, lambda m: m(rand(1, 3, 64, 64).float()))
        assert report.unknown == ()
        assert report.counts()["product"] == 24  # queries with keys, probabilities with values, 12 blocks

    def test_transformer(self) -> None:
        model = attention_nets()["vit"][0].eval()
        counts = coverage(model, lambda m: m(rand(2, 3, 32, 32).float())).counts()
        assert (counts["attention"], counts["normalisation"], counts["other"]) == (2, 5, 0)

    def test_table(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU()).double()
        console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
        console.print(coverage(model, lambda m: m(rand(1, 3, 8, 8))))
        console.file.close()
        lines = [
            line.split() for line in console.export_text().splitlines() if "conv2d" in line or "relu" in line
        ]
        assert [[cell for cell in line if cell != "│"] for line in lines] == [
            ["linear", "conv2d", "2", "0", "and", "1", "more"],
            ["activation", "relu", "2", "1", "and", "1", "more"],
        ]

    def test_the_mode_sees_what_the_model_computes(self) -> None:
        model = torchvision.models.resnet18(weights=None).double().eval()
        x = rand(1, 3, 64, 64)
        with Instrument(model, default=passing):
            assert torch.equal(model(x), model(x))
        plain = model(x)
        with Instrument(model, default=passing):
            assert torch.equal(model(x), plain)

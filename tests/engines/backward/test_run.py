"""Backward rules: whatever an operation is written as, and what must be refused."""

import pytest
import torch
from tests.engines.networks import redraw
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import abe
from abe.engines.backward.lrp_other import lrp_book
from abe.engines.backward.lrp_weighted import Epsilon, ZPlus
from abe.engines.backward.rectifier_filters import AsItIs
from abe.engines.backward.run import Backward, RuleBook, network_bounds
from abe.engines.backward.step import ACCOUNTS, Ledger, Step, transformed
from abe.errors import InputError, ModelError, SpecError
from abe.spec import value


def task_of(net: nn.Module, channels: int = 3):
    return abe.image_task(net, output_kind="logits", channels=channels, bounds=None)


def explain(net: nn.Module, x: Tensor, method, **how):
    return abe.explain(task_of(net, x.shape[1]), x, method, progress=False, **{"target": 0, **how})


def images(n: int = 3, side: int = 8, seed: int = 0) -> Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Written(nn.Module):
    """Two convolutions with a rectifier between them, written in a chosen way."""

    def __init__(self, rectify) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = nn.Parameter(torch.randn(5, 3, 3, 3, generator=generator, dtype=torch.float64) / 4)
        self.second = nn.Parameter(torch.randn(4, 5, 3, 3, generator=generator, dtype=torch.float64) / 4)
        self.bias = nn.Parameter(torch.randn(5, generator=generator, dtype=torch.float64) / 4)
        self.rectify = rectify

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.rectify(F.conv2d(x, self.first, self.bias, padding=1))
        return self.rectify(F.conv2d(hidden, self.second)).mean((2, 3))


def in_place(x):
    x.relu_()
    return x


def assigned(x):
    x = x.clone()
    x[x < 0] = 0
    return x


WAYS = {
    "functional": F.relu,
    "method": lambda x: x.relu(),
    "in place": in_place,
    "F in place": lambda x: F.relu(x, inplace=True),
    "clamp": lambda x: x.clamp(min=0),
    "clamp_min": lambda x: x.clamp_min(0),
    "hardtanh": lambda x: F.hardtanh(x, 0, 1e9),
    "threshold": lambda x: F.threshold(x, 0, 0),
    "maximum": lambda x: torch.maximum(x, torch.zeros_like(x)),
    "mask": lambda x: x * (x > 0),
    "float mask": lambda x: x * (x > 0).to(x.dtype),
    "where": lambda x: torch.where(x > 0, x, torch.zeros_like(x)),
    "where as a method": lambda x: x.where(x > 0, 0.0),
    "masked_fill": lambda x: x.masked_fill(x <= 0, 0.0),
    "masked_fill in place": lambda x: x.clone().masked_fill_(~(x > 0), 0.0),
    "assignment": assigned,
    "max of two": lambda x: torch.max(x, torch.zeros_like(x)),
    "module": nn.ReLU(),
}


OF_TWO_TENSORS = ("maximum", "mask", "float mask", "where", "where as a method", "masked_fill")
OF_TWO_TENSORS += ("masked_fill in place", "assignment", "max of two")
"""Where RevealCancel, which tells parts apart at functions of one tensor only, has another rule."""
RECTIFIED = [
    (w, m) for w in WAYS for m in ("gbp", "deconv", "rectgrad", "deeplift", "lrp_epsilon", "lrp_z_plus")
]
RECTIFIED += [(w, "dl_rev") for w in WAYS if w not in OF_TWO_TENSORS]


@pytest.mark.parametrize(("way", "method"), RECTIFIED)
def test_a_rectifier_is_one_however_it_is_written(way, method):
    x = images()
    expected = explain(Written(nn.ReLU()), x, method).attribution
    found = explain(Written(WAYS[way]), x, method).attribution
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-14)
    assert bool(expected.abs().sum() > 0)


def test_filters_by_hand():
    """Guided Backprop, Deconvolution and RectGrad against hooks written out for one net."""
    net, x = Written(F.relu), images()
    x = x.requires_grad_(True)
    z1 = F.conv2d(x, net.first, net.bias, padding=1)
    a1 = z1.relu()
    z2 = F.conv2d(a1, net.second)
    g2 = torch.zeros_like(z2)
    g2[:, 0] = 1 / z2[0, 0].numel()

    def back(rule):
        at2 = rule(g2, z2)
        (at1,) = torch.autograd.grad(z2, a1, at2, retain_graph=True)
        return torch.autograd.grad(z1, x, rule(at1, z1), retain_graph=True)[0]

    def rect(g, z):
        importance = (z.relu() * g).flatten(1)
        limit = torch.quantile(importance, 0.8, dim=1)
        return g * (importance > limit[:, None]).view_as(g)

    forms = {
        "gbp": lambda g, z: g.clamp(min=0) * (z > 0),
        "deconv": lambda g, z: g.clamp(min=0),
        "rectgrad": rect,
    }
    for name, rule in forms.items():
        params = {"percentile": 80.0} if name == "rectgrad" else {}
        found = explain(net, x.detach(), name, **params).attribution
        assert torch.allclose(found, back(rule), atol=1e-14), name


class Everything(nn.Module):
    """In-place, reused and functional activations, gates, attention, norms, pooling, residuals."""

    def __init__(self, *, batch_first: bool = True) -> None:
        super().__init__()
        state = torch.get_rng_state()
        torch.random.default_generator.manual_seed(3)
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.group = nn.GroupNorm(2, 8)
        self.act = nn.SiLU(inplace=True)
        self.gate = nn.Linear(8, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first, activation="gelu")
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.batch_first = batch_first
        self.glu = nn.Linear(8, 12)
        self.head = nn.Linear(6, 4)
        for parameter in self.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        torch.set_rng_state(state)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.group(self.conv(x)))
        x += F.relu(x)
        x = F.max_pool2d(F.hardswish(x), 2)
        x = self.act(x)
        tokens = x.flatten(2).transpose(1, 2)
        tokens = tokens * torch.sigmoid(self.gate(tokens.mean(1)))[:, None]
        if self.batch_first:
            tokens = self.blocks(tokens)
        else:
            tokens = self.blocks(tokens.transpose(0, 1)).transpose(0, 1)
        y = F.glu(self.glu(tokens), -1)
        y = y / (1 + y.abs())
        y = torch.maximum(y, y.flip(-1) * 0.5)
        return self.head(y.mean(1))


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("rule", ["deeplift", "deeplift_reveal_cancel"])
def test_deeplift_is_complete(rule, batch_first):
    """Wherever the batch axis is; and for any objective."""
    net = Everything(batch_first=batch_first)
    for objective in ("logit", "probability", "log_probability"):
        found = explain(net, images(), rule, objective=objective)
        assert float(found.residual.abs().max()) < 1e-8
    single = explain(net.float(), images().float(), rule)
    assert float(single.residual.abs().max()) < 1e-4


# ---------------------------------------------------------------- closure

LRP = {
    "0": ("lrp_0", {}),
    "ε": ("lrp_epsilon", {"epsilon": 0.1}),
    "γ": ("lrp_gamma", {}),
    "α2β1": ("lrp_alpha_beta", {}),
    "z⁺": ("lrp_z_plus", {}),
    "w²": ("lrp_w_square", {}),
    "flat": ("lrp_flat", {}),
    "ε with flat": ("lrp_composite", {"composite": "epsilon_plus_flat"}),
    "attention": ("attention_lrp", {}),
}


def closure(found) -> float:
    """What is missing of the score, from the map and the three accounts, as a share of it."""
    books = [found.diagnostics[f"{account}_relevance"] for account in ACCOUNTS]
    total = found.attribution.flatten(1).sum(1) + sum(books)
    return float(((total - found.score).abs() / found.score.abs().clamp(min=1)).max())


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("name", LRP)
def test_relevance_is_accounted_for(name, batch_first):
    method, params = LRP[name]
    found = explain(Everything(batch_first=batch_first), 4 * images(), method, **params)
    assert closure(found) < 1e-3
    assert float(found.diagnostics["closure"].abs().max()) < 1e-3
    assert float(found.diagnostics["bias_relevance"].abs().max()) > 1e-3


@value
class Scaled:
    """A rule that passes more on than it was given."""

    rule: Epsilon

    def __call__(self, step: Step):
        return transformed(self.rule(step), lambda gradient: 1.1 * gradient)


BROKEN = ("gelu", "silu", "hardswish", "layer_norm", "group_norm", "softmax", "sigmoid", "glu", "div")


@pytest.mark.parametrize("operation", BROKEN)
def test_closure_fails_where_a_rule_is_missing(operation):
    """Each rule replaced by the plain gradient: nothing else makes up for it."""
    assert closure(explain(Everything(), 4 * images(), "lrp_epsilon")) < 1e-8
    broken = explain(Everything(), 4 * images(), "lrp_epsilon", rules=((operation, AsItIs()),))
    assert closure(broken) > 1e-3


def test_closure_fails_where_a_rule_gives_too_much():
    broken = explain(Everything(), 4 * images(), "lrp_epsilon", rules=(("conv2d", Scaled(rule=Epsilon())),))
    assert closure(broken) > 1e-3


@pytest.mark.parametrize(
    ("account", "method", "params"),
    [
        ("bias", "lrp_epsilon", {}),
        ("stabiliser", "lrp_epsilon", {"epsilon": 0.25}),
        ("bias", "lrp_z_plus", {}),
        ("stabiliser", "lrp_z_plus", {}),
        ("bias", "lrp_gamma", {}),
    ],
)
def test_closure_fails_where_an_account_is_not_kept(account, method, params, monkeypatch):
    """No account is what the others leave: without one of them its amount is missing."""
    kept = explain(Everything(), 4 * images(), method, **params)
    take = Ledger.take

    def forgetful(self, name, seen, amount):
        if name != account:
            take(self, name, seen, amount)

    monkeypatch.setattr(Ledger, "take", forgetful)
    found = explain(Everything(), 4 * images(), method, **params)
    assert torch.equal(found.attribution, kept.attribution)
    assert float(kept.diagnostics[f"{account}_relevance"].abs().max()) > 1e-3
    assert closure(kept) < 1e-3 < closure(found)


class Dead(nn.Module):
    """Sums of zeros, to which the flat rule gives relevance that no summand can have."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Written(F.relu), nn.Linear(4, 2).double()

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x - 0.5)
        above = F.relu(hidden - hidden.mean(1, keepdim=True))
        return self.second(above + above.square())


def test_relevance_of_nothing_is_the_rest():
    found = explain(Dead(), images(), "lrp_flat")
    assert float(found.diagnostics["rest_relevance"].abs().max()) > 1e-3
    assert closure(found) < 1e-3


class SequenceFirst(nn.Module):
    """Steps come first and their number is a multiple of the samples': a ledger can mix up the axes."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(3).double()
        self.norm.bias.data += torch.tensor([0.3, -0.2, 0.5])
        self.head = nn.Linear(3, 2).double()

    def forward(self, x: Tensor) -> Tensor:
        steps = x.flatten(2).permute(2, 0, 1)
        return self.head((steps + self.norm(steps)).mean(0))


def test_books_of_rows_are_kept_apart_wherever_the_batch_is():
    x, net = images(2), SequenceFirst()
    together = explain(net, x, "lrp_epsilon")
    alone = [explain(net, row[None], "lrp_epsilon") for row in x]
    for account in ACCOUNTS:
        name = f"{account}_relevance"
        assert torch.allclose(
            together.diagnostics[name], torch.cat([one.diagnostics[name] for one in alone]), atol=1e-12
        )
    assert closure(together) < 1e-3


# ---------------------------------------------------------------- known answers


def test_equivalences():
    net = Written(F.relu)
    x = images()
    gradient = explain(net, x, "gradient_x_input").attribution
    assert torch.allclose(explain(net, x, "lrp_0").attribution, gradient, atol=1e-14)
    assert torch.allclose(explain(net, x, "lrp_epsilon", epsilon=1e-12).attribution, gradient, atol=1e-9)
    net.bias.data.zero_()
    lifted = explain(net, x, "deeplift").attribution
    assert torch.allclose(explain(net, x, "lrp_0").attribution, lifted, atol=1e-14)
    net.first.data.abs_()
    net.second.data.abs_()
    guided, deconv = explain(net, x, "gbp").attribution, explain(net, x, "deconv").attribution
    assert torch.allclose(guided, deconv, atol=1e-14)
    assert torch.allclose(guided, explain(net, x, "gradient").attribution, atol=1e-14)


def test_reveal_cancel_by_hand():
    """min(x, y) = x − relu(x − y): Rescale gives all to one input, RevealCancel half to each."""

    class Minimum(nn.Module):
        def __init__(self):
            super().__init__()
            self.difference = nn.Linear(2, 1, bias=False).double()
            self.difference.weight.data = torch.tensor([[1.0, -1.0]], dtype=torch.float64)

        def forward(self, x):
            flat = x.flatten(1)
            return flat[:, :1] - self.difference(flat).relu()

    x = torch.tensor([3.0, 1.0], dtype=torch.float64).view(1, 1, 1, 2)
    rescaled = explain(Minimum(), x, "deeplift").attribution.flatten()
    revealed = explain(Minimum(), x, "dl_rev").attribution.flatten()
    assert torch.allclose(rescaled, torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert torch.allclose(revealed, torch.tensor([0.5, 0.5], dtype=torch.float64))


def test_excitation_is_a_probability():
    """On non-negative inputs P sums to 1 where every unit has an excited child; contrast sums to 0."""
    net = Written(F.relu)
    net.first.data.abs_()
    net.second.data.abs_()
    x = images()
    assert torch.allclose(explain(net, x, "ebp").attribution.flatten(1).sum(1), torch.ones(3).double())
    signed = Written(F.relu)
    contrast = explain(signed, x, "cebp").attribution.flatten(1).sum(1)
    assert float(contrast.abs().max()) < 1e-6


# ---------------------------------------------------------------- policies and refusals


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.fft(x.flatten(1)).real[:, :3] + x.flatten(1)[:, :3]


@pytest.mark.parametrize("method", ["deeplift", "lrp_epsilon", "lrp_z_plus"])
def test_an_operation_without_a_rule_is_named(method):
    with pytest.raises(ModelError, match=r"fft_fft.*own forward.*ABE-RULE"):
        explain(Odd(), images(), method)
    found = explain(Odd(), images(), method, uncovered="constant")
    assert any("fft_fft" in warning and "ABE-RULE-POLICY" in warning for warning in found.warnings)


@value
class Halved:
    """A rule of one's own."""

    def __call__(self, step: Step):
        return step.plain()


def test_a_rule_of_ones_own():
    found = explain(Odd(), images(), "lrp_epsilon", rules=(("fft_fft", Halved()),))
    assert not any("RULE" in warning for warning in found.warnings)


def test_coverage_names_every_operation():
    engine = Backward(book=lrp_book(convolution=ZPlus(), dense=Epsilon()))
    report = abe.rule_coverage(task_of(Written(F.relu)), images(2, 6), engine)
    found = {(line.name, line.rule.split("(")[0], line.count) for line in report if line.module == ""}
    assert found == {("conv2d", "AlphaBeta", 2), ("relu", "Identity", 2), ("mean", "PassOn", 1)}
    named = abe.rule_coverage(task_of(Everything()), images(1), "deeplift")
    assert {"blocks.layers.1.self_attn", "conv", ""} <= {line.module for line in named}
    with pytest.raises(SpecError, match="no backward rules"):
        abe.rule_coverage(task_of(Written(F.relu)), images(1), "ig")


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad", "ignore:.torch.jit:FutureWarning")
def test_hidden_parts_are_refused():
    class Custom(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, gradient):
            return gradient * 2

    class Clamped(torch.autograd.Function):
        """Operations that rules see, under a backward pass that they do not."""

        @staticmethod
        def forward(ctx, x):
            return x.clamp(min=0)

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    class Hidden(nn.Module):
        def __init__(self, how):
            super().__init__()
            self.inner, self.how = Written(F.relu), how

        def forward(self, x):
            return self.how(self.inner, x)

    cases = {
        "Custom": lambda inner, x: Custom.apply(inner(x)),
        "custom": lambda inner, x: inner(Clamped.apply(x)),
        "re-entrant checkpoint": lambda inner, x: checkpoint(inner, x, use_reentrant=True),
        "A checkpoint": lambda inner, x: checkpoint(inner, x, use_reentrant=False),
    }
    for name, how in cases.items():
        for method in ("gbp", "deeplift", "lrp_epsilon", "ebp", ("deepshap", {"background": "noise"})):
            with pytest.raises(ModelError, match=rf"{name}.*ABE-HIDDEN-BACKWARD"):
                explain(Hidden(how), images(), method)
    traced = torch.jit.trace(nn.Conv2d(3, 2, 3).double(), images(1))
    scripted = nn.Sequential(traced, nn.Flatten())
    with pytest.raises(ModelError, match=r"'0'.*ABE-OPAQUE-MODEL"):
        explain(scripted, images(), "gbp")


def test_a_forward_that_changes_is_refused():
    class Watching(Odd):
        def forward(self, x):
            return x.flatten(1)[:, :2] * (2 if torch.is_grad_enabled() else 1)

    with pytest.raises(ModelError, match="ABE-RULE-CHANGED-OUTPUT"):
        explain(Watching(), images(), "lrp_epsilon")


def test_backgrounds_are_checked():
    net = Written(F.relu)
    with pytest.raises(InputError, match="one sample"):
        explain(net, images(), "deepshap", background=images(1))
    with pytest.raises(InputError, match="another shape"):
        explain(net, images(), "deepshap", background=images(3, side=6))


def test_z_box_needs_bounds():
    with pytest.raises(ModelError, match="bounds"):
        explain(Written(F.relu), images(), "deep_taylor")


def test_the_first_matching_entry_wins():
    book = RuleBook(entries=(("conv2d", Halved()), ("*", AsItIs())))
    net = nn.Sequential(nn.Conv2d(3, 2, 6).double(), nn.Flatten())
    found = abe.rule_coverage(task_of(net), images(1, 6), Backward(book=book, uncovered="gradient"))
    assert found[0].rule == "Halved()"


class Turning(nn.Module):
    """A convolution over time, or a dense layer over channels, whatever the axes it is given."""

    def __init__(self, axes: str, dense: bool) -> None:
        super().__init__()
        self.turned, self.dense = (axes == "btc") != dense, dense
        self.first = nn.Linear(3, 5) if dense else nn.Conv1d(3, 5, 3, padding=1)
        self.last = nn.Linear(5, 2)
        redraw(self, torch.Generator().manual_seed(0))

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x.transpose(1, 2) if self.turned else x).relu()
        return self.last(h.mean(1 if self.dense else 2))


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("axes", ["btc", "bct"])
def test_box_rules_take_bounds_by_channel(axes: str, dense: bool) -> None:
    """Bounds go where the input goes, so a layer has those of every number it reads, whatever its axes."""
    ends = ([-1.0, 0.0, -3.0], [2.0, 5.0, 1.0])
    x = torch.rand(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    method = ("lrp_composite", {"composite": "epsilon_gamma_box"})

    weights = Turning(axes, dense).state_dict()

    def found(bounds, axes: str) -> Tensor:
        net = Turning(axes, dense).double().eval()
        net.load_state_dict(weights)
        task = abe.series_task(net, axes=axes, channels=["a", "b", "c"], bounds=bounds)
        given = x if axes == "bct" else x.transpose(1, 2).contiguous()
        return abe.explain(task, given, method, target=0, progress=False).attribution

    by_channel = found(ends, axes)
    assert not torch.allclose(by_channel, found((-3.0, 5.0), axes))
    torch.testing.assert_close(by_channel, found(ends, "bct" if axes == "btc" else "btc"))


def test_the_one_box_holds_every_channel() -> None:
    task = abe.series_task(nn.Flatten(), axes="btc", channels=["a", "b"], bounds=([-1.0, 0.0], [2.0, 5.0]))
    low, high = network_bounds(task.reading(parts=task.lift(torch.rand(1, 4, 2)).parts)) or (None, None)
    assert (float(low), float(high)) == (-1, 5)


def test_rescale_makes_no_slope_of_rounding() -> None:
    """Near one half a sigmoid's changes are rounding in float32, and divided by 1e-9 a slope of 30."""
    x = torch.linspace(-2e-3, 2e-3, 64).reshape(1, 1, 8, 8)
    far = x + 10.0 ** torch.linspace(-9, -4, 64).reshape(1, 1, 8, 8)
    net = nn.Sequential(nn.Sigmoid(), nn.Flatten(), nn.Linear(64, 1, bias=False))
    nn.init.ones_(net[2].weight)
    task = abe.image_task(net, output_kind="regression", channels=1, bounds=None)
    found = abe.explain(task, x, "deeplift", baseline=far, target=0, progress=False)
    slope = found.attribution / (x - far)
    assert float((slope - 0.25).abs().max()) < 1e-3

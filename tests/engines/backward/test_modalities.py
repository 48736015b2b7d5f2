"""Rules, attention and patterns on networks for texts, series, volumes, points and tables."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from jaxtyping import config
from tests.engines.backward.modalities import (
    FAMILIES,
    OVER_TIME,
    RMS,
    D,
    Rms,
    TextCNN,
    Transformer,
    family,
    made,
    soft,
    table,
)
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import abe
from abe.engines.backward.step import ACCOUNTS
from abe.errors import AbeError
from abe.task.base import Context, Lifted, Task

LIFTS = {"deeplift": {}, "deeplift_reveal_cancel": {}, "deepshap": {"background": "noise", "samples": 2}}
LRP = {
    "lrp_epsilon": {},
    "lrp_0": {},
    "lrp_gamma": {},
    "lrp_alpha_beta": {},
    "lrp_z_plus": {},
    "lrp_w_square": {},
    "lrp_flat": {},
    "lrp_composite": {},
    "attention_lrp": {},
    "deep_taylor": {"bounded": False},
    "excitation_backprop": {},
}
OTHERS = {
    "deconvolution": {},
    "guided_backprop": {},
    "rectgrad": {},
    "contrastive_excitation_backprop": {},
    "pattern_net": {"samples": 4},
    "pattern_attribution": {"samples": 4},
}
ATTENTION = {
    "raw_attention": {},
    "attention_rollout": {},
    "gradient_x_attention": {},
    "chefer_relevance": {},
    "chefer_bimodal": {},
    "daam": {"tokens": (0,)},
}
ALIKE = ("llama, torch's norm", "encoder, no padding", "gru, attention", "bidirectional lstm, max")
"""Families of which another shows nearly the same."""
NAMES = [pytest.param(n, marks=[pytest.mark.slow] * (n in ALIKE)) for n in FAMILIES]
PICKED = ("text cnn, top", "mixture")
"""Families that pick by order, which DeepLIFT does not follow."""
ATTENDING = ("bert", "gpt2", "t5", "llama", "encoder", "translator")


@pytest.fixture(autouse=True)
def unchecked() -> Iterator[None]:
    """Shapes in annotations are checked in other tests: these are many small networks."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


def lift(task: Task, raw: Tensor) -> Lifted:
    return Lifted(raw, Context(), [f"sample {i}" for i in range(len(raw))])


def explain(net: nn.Module, x: Tensor, method: Any, **how: Any) -> abe.Explanation:
    task = Task(model=net, modality="series", lifter=lift, output_kind="logits")
    return abe.explain(task, x, method, progress=False, **how)


def closure(found: abe.Explanation) -> float:
    """What the map and the accounts miss of the relevance that there was, as a share of the amounts."""
    books = [found.diagnostics[f"{account}_relevance"] for account in ACCOUNTS]
    amounts = found.attribution.flatten(1).abs().sum(1) + sum(book.abs() for book in books)
    return float((found.diagnostics["closure"].abs() / amounts.clamp(min=1)).max())


# ---------------------------------------------------------------- every method on every family


@pytest.mark.parametrize("name", NAMES)
def test_differences_from_a_reference_are_complete(name: str) -> None:
    net, x = family(name)
    for method, params in LIFTS.items():
        how = params if method == "deepshap" else {"baseline": samples(*x.shape[1:])[0] / 2}
        if name in PICKED:
            with pytest.raises(AbeError, match=r"'topk'.*ABE-RULE"):
                explain(net, x, method, **how)
            continue
        found = explain(net, x, method, **how)
        assert float(found.delta.abs().min()) > 1e-3, method
        assert float(found.residual.abs().max()) < 1e-8, method
        assert not found.warnings, method


@pytest.mark.parametrize("name", NAMES)
def test_relevance_is_accounted_for(name: str) -> None:
    net, x = family(name)
    for method, params in LRP.items():
        found = explain(net, x, method, **params)
        assert bool(found.attribution.any()), method
        assert closure(found) < 1e-8, method


@pytest.mark.parametrize("name", NAMES)
def test_others_run_and_each_sample_by_itself(name: str) -> None:
    net, x = family(name)
    for method, params in OTHERS.items():
        whole = explain(net, x, method, **params).attribution
        alone = explain(net, x[1:2], method, **params).attribution
        assert bool(whole.any()), method
        torch.testing.assert_close(alone[0], whole[1], rtol=1e-7, atol=1e-10, msg=method)


@pytest.mark.parametrize("name", NAMES)
def test_attention_runs_or_says_why_not(name: str) -> None:
    net, x = family(name)
    for method, params in ATTENTION.items():
        try:
            found = explain(net, x, method, **params)
        except AbeError:
            attends = name.startswith(ATTENDING) and not name.endswith("by hand")
            crosses = name == "translator" or method not in ("chefer_bimodal", "daam")
            if attends and crosses:
                raise
            continue
        assert found.attribution.shape == x.shape
        assert bool(found.attribution.any()), method
        each = found.attribution.amax(1, keepdim=True)
        torch.testing.assert_close(found.attribution, each.expand_as(x))  # tokens, not dimensions


class PackedAttention(nn.Module):
    """Attention over what a recurrent layer gives for a packed sequence, which rules cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.GRU(D, D, batch_first=True), nn.Linear(D, 3)

    def forward(self, x: Tensor) -> Tensor:
        lengths = torch.full((len(x),), x.shape[2])
        out = self.layer(pack_padded_sequence(x.transpose(1, 2), lengths, batch_first=True))[0]
        h = pad_packed_sequence(out, batch_first=True)[0]
        return self.head((torch.softmax(h @ h.transpose(1, 2), -1) @ h).mean(1))


@pytest.mark.parametrize("method", ["raw_attention", "attention_rollout", "chefer_relevance"])
def test_attention_is_read_beside_layers_that_rules_cannot_follow(method: str) -> None:
    net, x = made(PackedAttention()), samples(D, 6)
    assert bool(explain(net, x, method).attribution.any())
    with pytest.raises(AbeError, match="ABE-RULE"):
        explain(net, x, "lrp_epsilon")


class HeadsFirst(nn.Module):
    """Attention whose matrices have the heads before the samples."""

    def __init__(self) -> None:
        super().__init__()
        self.ask, self.head = nn.Linear(D, D), nn.Linear(D, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.ask(x.transpose(1, 2)).unflatten(2, (2, -1)).permute(2, 0, 1, 3)
        h = (h @ h.transpose(-1, -2)).softmax(-1) @ h
        return self.head(h.permute(1, 2, 0, 3).flatten(2).mean(1))


def test_attention_of_samples_that_cannot_be_told_apart_is_refused() -> None:
    with pytest.raises(AbeError, match=r"cannot be told apart.*\(2, 3, 6, 6\).*ABE-UNSUPPORTED"):
        explain(made(HeadsFirst()), samples(D, 6), "raw_attention")


# ---------------------------------------------------------------- nothing lost where nothing is added

WITHOUT_BIAS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "text cnn": lambda: (made(TextCNN(bias=False)), samples(D, 6)),
    "table": lambda: (made(table(bias=False)), samples(D)),
    "t5": lambda: (made(Transformer("t5", "rms")), samples(D, 6)),
    "llama": lambda: (made(Transformer("llama", "torch rms")), samples(D, 6)),
}


def samples(*shape: int) -> Tensor:
    return torch.randn(3, *shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize("name", WITHOUT_BIAS)
@pytest.mark.parametrize("method", ["lrp_0", "lrp_epsilon"])
def test_relevance_sums_to_the_score_without_biases(name: str, method: str) -> None:
    net, x = WITHOUT_BIAS[name]()
    found = explain(net, x, (method, {"epsilon": 1e-14} if method == "lrp_epsilon" else {}))
    torch.testing.assert_close(found.attribution.flatten(1).sum(1), found.score, rtol=1e-9, atol=1e-12)


# ---------------------------------------------------------------- the largest, by hand


class Largest(nn.Module):
    """The largest over time of each channel, as two classes."""

    def __init__(self, pool: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.pool, self.scale = pool, nn.Parameter(torch.tensor([1.0, 10.0], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(x) * self.scale


MAXIMA = [name for name in OVER_TIME if name not in ("mean and amin", "top")]
INPUT = torch.tensor([[[0.0, 0.0, 0.0], [1.0, 5.0, 2.0]], [[0.0] * 3, [1.0, 2.0, 0.0]]], dtype=torch.float64)
REFERENCE = torch.tensor([[0.0, 0.0, 0.0], [4.0, 0.0, 3.0]], dtype=torch.float64)


@pytest.mark.parametrize("name", MAXIMA)
def test_the_change_of_a_maximum_goes_to_whichever_is_larger(name: str) -> None:
    """5 of (1, 5, 2) against 4 of (4, 0, 3): its own place; 2 against that 4: the reference's place."""
    right = torch.tensor([[0.0, 10.0, 0.0], [-20.0, 0.0, 0.0]], dtype=torch.float64)
    for method in ("deeplift", "deeplift_reveal_cancel"):
        found = explain(Largest(OVER_TIME[name]), INPUT, method, baseline=REFERENCE, target=1)
        torch.testing.assert_close(found.attribution[:, 1], right)
        assert not bool(found.attribution[:, 0].any())


@pytest.mark.parametrize("name", [*MAXIMA, "top"])
@pytest.mark.parametrize("method", ["lrp_epsilon", "lrp_flat", "excitation_backprop", "deep_taylor"])
def test_relevance_goes_to_the_largest(name: str, method: str) -> None:
    right = torch.tensor([[0.0, 50.0, 0.0], [0.0, 20.0, 0.0]], dtype=torch.float64)
    params = {"bounded": False} if method == "deep_taylor" else {}
    found = explain(Largest(OVER_TIME[name]), INPUT, method, target=1, **params)
    share = found.score[:, None] if method == "excitation_backprop" else 1
    torch.testing.assert_close(found.attribution[:, 1] * share, right)


def test_the_smallest_is_the_largest_of_what_is_turned_over() -> None:
    """−3 of (2, −3) against −1 of (−1, 4): its own place, −2 of a step of −7."""
    x = torch.tensor([[[0.0, 0.0], [2.0, -3.0]]], dtype=torch.float64)
    reference = torch.tensor([[0.0, 0.0], [-1.0, 4.0]], dtype=torch.float64)
    found = explain(Largest(lambda h: h.amin(2)), x, "deeplift", baseline=reference, target=1)
    torch.testing.assert_close(found.attribution[0, 1], torch.tensor([0.0, -20.0], dtype=torch.float64))


# ---------------------------------------------------------------- RMSNorm, by hand


class Normed(nn.Module):
    """A dense layer on RMSNorm of a table's columns."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.norm, self.head = Rms(way), nn.Linear(D, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(x))


@pytest.mark.parametrize("way", RMS)
@pytest.mark.parametrize("method", ["lrp_0", "lrp_epsilon", "attention_lrp", "lrp_z_plus"])
def test_relevance_of_a_norm_is_that_of_its_outputs(way: str, method: str) -> None:
    """The deviation counts as a constant, so each entry keeps its own: R = w γ x / rms."""
    net, x = made(Normed(way)), samples(D)
    y = net.norm(x).detach() * net.head.weight[1].detach()
    if method == "lrp_z_plus":
        y = y.clamp(min=0) / y.clamp(min=0).sum(1, keepdim=True) * y.sum(1, keepdim=True)
    found = explain(net, x, method, target=1)
    torch.testing.assert_close(found.attribution, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["deep_taylor", "excitation_backprop", "contrastive_excitation_backprop"])
def test_a_norm_written_by_hand_is_the_norm(method: str) -> None:
    x, params = samples(D), {"bounded": False} if method == "deep_taylor" else {}
    maps = [explain(made(Normed(way)), x, method, **params).attribution for way in RMS if way != "norm"]
    for other in maps[1:]:
        torch.testing.assert_close(other, maps[0], rtol=1e-8, atol=1e-12)


def test_the_change_of_a_norm_is_shared_as_that_of_a_quotient() -> None:
    """n = x / p with p = √(mean x² + ε): Δn = (Δx − n̄ Δp) / p̄, and Δp = mean(x̄ Δx) / p̄."""
    x, other = samples(D), samples(D).roll(1, 1) / 2
    for way in RMS:
        net = made(Normed(way))
        w = net.head.weight[1].detach() * net.norm.weight.detach()
        p, q = ((one.square().mean(1, keepdim=True) + 1e-6).sqrt() for one in (x, other))
        middle, out = (p + q) / 2, (x / p + other / q) / 2
        through = (w * out).sum(1, keepdim=True) * (x + other) / 2 / D / middle
        right = (x - other) * (w - through) / middle
        found = explain(net, x, "deeplift", baseline=other, target=1)
        near = {"rtol": 1e-3, "atol": 1e-4} if way == "norm" else {"rtol": 1e-9, "atol": 1e-12}
        torch.testing.assert_close(found.attribution, right, **near)


# ---------------------------------------------------------------- what divides stays bounded


@pytest.mark.parametrize("way", RMS)
def test_a_norm_of_nearly_nothing_does_not_blow_up_what_the_other_pass_gives(way: str) -> None:
    """Midpoints of the inverse would give terms of the size of 1 / p′, which is 1000 here, that cancel."""
    net, x = made(Normed(way)), samples(D)
    found = explain(net, x, "deeplift", baseline=x.roll(1, 1) * 1e-6, target=1)
    assert float(found.residual.abs().max()) < 1e-10
    assert float(found.attribution.abs().max()) < 10


class Weighing(nn.Module):
    """Attention of one query: the values that its softmax weighs, as two classes."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.values = way, nn.Parameter(torch.ones(D, 2))

    def forward(self, x: Tensor) -> Tensor:
        return soft(x, self.way) @ self.values


@pytest.mark.parametrize("way", ["word", "by hand"])
def test_a_softmax_whose_scores_moved_far_stays_bounded(way: str) -> None:
    """Under one shift for both passes the smaller total would be e^−60, and its inverse a factor."""
    net, x = made(Weighing(way)), samples(D)
    found = explain(net, x, "deeplift", baseline=x.flip(1) + 60, target=1)
    assert float(found.residual_absolute.abs().max()) < 1e-10
    assert float(found.attribution.abs().max()) < 200


def test_a_shift_of_all_scores_changes_no_softmax_and_no_multiplier() -> None:
    net, x, other = made(Weighing("word")), samples(D), samples(D).flip(1)
    near, far = (explain(net, x, "deeplift", baseline=other + c, target=1) for c in (0.0, 60.0))
    multipliers = near.attribution / (x - other), far.attribution / (x - other - 60)
    torch.testing.assert_close(*multipliers, rtol=1e-9, atol=1e-12)


def test_the_multipliers_of_a_softmax_are_its_jacobian_at_the_logarithmic_mean() -> None:
    net, x, other = made(Weighing("word")), samples(D), samples(D).flip(1)
    s, t = x.softmax(1), other.softmax(1)
    mean = (s - t) / (s.log() - t.log())
    v = net.values.detach()[:, 1]
    right = mean * (v - (mean * v).sum(1, keepdim=True) / mean.sum(1, keepdim=True)) * (x - other)
    found = explain(net, x, "deeplift", baseline=other, target=1)
    torch.testing.assert_close(found.attribution, right, rtol=1e-9, atol=1e-12)


# ---------------------------------------------------------------- exponentials


@pytest.mark.parametrize("method", LRP)
def test_a_softmax_by_hand_is_a_softmax(method: str) -> None:
    """Attention by `exp` and a quotient: what weighs is a constant, however it is written."""
    params = LRP[method] | ({"softmax": "constant"} if method == "attention_lrp" else {})
    word, x = family("bert")
    by_hand, _ = family("bert, softmax by hand")
    torch.testing.assert_close(
        explain(by_hand, x, method, **params).attribution,
        explain(word, x, method, **params).attribution,
        rtol=1e-6,
        atol=1e-8,
    )


@pytest.mark.parametrize("raised", [torch.exp, torch.exp2, lambda h: 2**h, lambda h: torch.pow(1.5, h)])
@pytest.mark.parametrize("method", ["lrp_epsilon", "lrp_flat", "deep_taylor", "excitation_backprop"])
def test_exponentials_weigh_and_are_named_where_nothing_else_is_left(raised: Any, method: str) -> None:
    params = {"bounded": False} if method == "deep_taylor" else {}

    class Weighed(nn.Module):
        def __init__(self, alone: bool) -> None:
            super().__init__()
            self.a, self.b, self.alone = nn.Linear(D, 3, bias=False), nn.Linear(D, 3), alone

        def forward(self, x: Tensor) -> Tensor:
            return raised(self.b(x)) * (1 if self.alone else self.a(x))

    found = explain(made(Weighed(False)), samples(D), method, **params)
    assert closure(found) < 1e-9
    if method == "lrp_epsilon":
        torch.testing.assert_close(found.attribution.sum(1), found.score, rtol=1e-3, atol=1e-4)
    with pytest.raises(AbeError, match=r"'(exp|exp2|rpow|pow)' in .*ABE-NOT-DIFFERENTIABLE"):
        explain(made(Weighed(True)), samples(D), method, **params)


# ---------------------------------------------------------------- in float32, and without gradients off


@pytest.mark.parametrize("name", ["t5", "llama", "gpt2", "points", "text cnn, amax"])
def test_single_precision_is_close(name: str) -> None:
    net, x = family(name, torch.float32)
    double, y = family(name)
    for method in ("deeplift", "lrp_epsilon", "pattern_attribution"):
        found, right = explain(net, x, method).attribution, explain(double, y, method).attribution
        size = float(right.abs().max())
        assert float((found.double() - right).abs().max()) < 1e-3 * size, method
        assert math.isfinite(size)

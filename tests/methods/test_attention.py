"""Attention maps: what is captured, the recorded relevance, slow paper forms and known answers."""

import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from jaxtyping import config
from safetensors.torch import load_file
from tests.methods.common import FLOAT64, miss, oracle
from tests.metrics.common import ORACLES
from torch import Tensor, nn

import abe
from abe.engines.attention.capture import Attention, capturing_attention
from abe.engines.attention.cross import bimodal
from abe.testing import check_method, nets, samples, task_of


class RecordedAttention(nn.Module):
    """Two heads of 16."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(32, 96), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, 2, 16)).permute(2, 0, 3, 1, 4)
        attention = (q @ k.transpose(-2, -1) / 4).softmax(dim=-1)
        return self.proj((attention @ v).transpose(1, 2).flatten(2))


class RecordedBlock(nn.Module):
    """A block of the recorded transformer, pre-norm."""

    def __init__(self) -> None:
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(32), nn.LayerNorm(32)
        self.attn = RecordedAttention()
        self.fc1, self.fc2 = nn.Linear(32, 64), nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.n1(x))
        return x + self.fc2(F.gelu(self.fc1(self.n2(x))))


class Recorded(nn.Module):
    """The recorded transformer ``v``: 16 patches of 8 × 8 after a class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 32, 8, stride=8)
        self.cls, self.pos = nn.Parameter(torch.zeros(1, 1, 32)), nn.Parameter(torch.zeros(1, 17, 32))
        self.blocks = nn.ModuleList([RecordedBlock(), RecordedBlock()])
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), 1, 32), tokens], 1) + self.pos
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


def recorded() -> Recorded:
    made = Recorded().double()
    made.load_state_dict(load_file(ORACLES / "nets" / "v.safetensors"))
    return made.eval()


def explain(model: nn.Module, x: Tensor, method: str, **how: object) -> abe.Explanation:
    how = {"target": 1, **how}
    return abe.explain(task_of(model), x, method, execution="model", progress=False, **how)


def laid_out(tokens: Tensor, side: int, size: int) -> Tensor:
    """(b, size, size) tokens (b, side²) enlarged."""
    grid = tokens.unflatten(1, (1, side, side))
    return F.interpolate(grid, (size, size), mode="bilinear", align_corners=False)[:, 0]


# --- recorded -----------------------------------------------------------------------------------------


def test_recorded_relevance() -> None:
    case = oracle("chefer_vit")
    model = recorded()
    assert miss(model(case["x"]).detach(), case["logits"]) < FLOAT64
    found = explain(model, case["x"], "chefer_relevance", target=case["target"])
    assert miss(found.attribution.sum(1), laid_out(case["out"], 4, 32)) < FLOAT64
    assert (found.cost.forward_rows, found.cost.backward_rows) == (4, 4)


def test_recorded_attention_and_its_gradients() -> None:
    case = oracle("chefer_vit")
    model = recorded().requires_grad_(False)
    with torch.enable_grad(), capturing_attention(model) as found:
        score = model(case["x"][:1])[0, case["target"][0]]
    gradients = torch.autograd.grad(score, [one.weights for one in found])
    assert [one.module for one in found] == ["blocks.0.attn", "blocks.1.attn"]
    assert miss(torch.stack([one.weights.detach()[0] for one in found])[None], case["attention"]) < FLOAT64
    assert miss(torch.stack([g[0] for g in gradients])[None], case["attention_grad"]) < FLOAT64


def test_rollout_raw_and_gradient_forms_by_hand() -> None:
    """From the recorded matrices, in loops."""
    case = oracle("chefer_vit")
    x, target = case["x"][:1], case["target"][:1]
    matrices, gradients = case["attention"][0], case["attention_grad"][0]
    rolled = torch.eye(17, dtype=torch.float64)
    for matrix in matrices:
        step = 0.5 * sum(matrix) / len(matrix) + 0.5 * torch.eye(17, dtype=torch.float64)
        rolled = step @ rolled
    last = (gradients[1] * matrices[1]).clamp(min=0).mean(0)
    right = {
        "attention_rollout": rolled[0, 1:],
        "raw_attention": matrices[1].mean(0)[0, 1:],
        "gradient_x_attention": last[0, 1:],
    }
    for name, row in right.items():
        found = explain(recorded(), x, name, target=target)
        assert miss(found.attribution.sum(1), laid_out(row[None], 4, 32)) < FLOAT64
    found = explain(recorded(), x, "raw_attention", target=target, heads="max", query=5)
    assert miss(found.attribution.sum(1), laid_out(matrices[1].amax(0)[5, 1:][None], 4, 32)) < FLOAT64
    first = explain(recorded(), x, "raw_attention", target=target, layers=("blocks.0",), heads="min")
    assert miss(first.attribution.sum(1), laid_out(matrices[0].amin(0)[0, 1:][None], 4, 32)) < FLOAT64


# --- what is captured ---------------------------------------------------------------------------------


class Spelled(nn.Module):
    """One layer of attention over nine patches, spelled in one of many ways."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.how = how
        self.patch = nn.Conv2d(3, 8, 2, stride=2)
        self.mha = nn.MultiheadAttention(8, 2, batch_first=True)
        self.softmax, self.dropout = nn.Softmax(dim=-1), nn.Dropout(0.3)
        self.head = nn.Linear(8, 5)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        packed = F.linear(x, self.mha.in_proj_weight, self.mha.in_proj_bias)
        q, k, v = packed.unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        return q, k, v

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        if self.how.startswith("module"):
            read = self.mha(tokens, tokens, tokens, need_weights=self.how == "module, weights")[0]
            return self.head(read.mean(1))
        q, k, v = self.heads(tokens)
        if self.how == "fused":
            read = F.scaled_dot_product_attention(q, k, v)
        elif self.how == "einsum":
            scores = torch.einsum("nhqd,nhkd->nhqk", q, k) / 2
            read = torch.einsum("nhqk,nhkd->nhqd", torch.softmax(scores, 3), v)
        elif self.how == "modules":  # as in the transformers library
            scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(4)
            read = torch.matmul(self.dropout(self.softmax(scores)), v)
        elif self.how == "single precision":
            weights = F.softmax(q @ k.transpose(-1, -2) / 2, dim=-1, dtype=torch.float32).to(q.dtype)
            read = weights @ v
        else:  # heads in the batch
            flat = [t.flatten(0, 1) for t in (q, k, v)]
            weights = torch.bmm(flat[0] / 2, flat[1].transpose(1, 2)).softmax(-1)
            read = torch.bmm(weights, flat[2]).unflatten(0, (len(x), 2))
        read = read.transpose(1, 2).flatten(2)
        return self.head(F.linear(read, self.mha.out_proj.weight, self.mha.out_proj.bias).mean(1))


SPELLINGS = (
    *("module", "module, weights", "fused", "einsum", "modules", "heads in the batch", "single precision"),
)


@pytest.mark.parametrize("how", SPELLINGS)
@pytest.mark.parametrize("method", ["raw_attention", "attention_rollout", "chefer_relevance"])
def test_every_spelling_gives_the_same_map(how: str, method: str) -> None:
    x = samples(3)
    right = explain(Spelled("fused").double(), x, method).attribution
    found = explain(Spelled(how).double(), x, method).attribution
    assert miss(found, right) < (1e-6 if how == "single precision" else 1e-12)


def test_the_encoder_of_torch_does_not_take_its_fast_path_unseen() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.patch = nn.Conv2d(3, 8, 2, stride=2)
            layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 2)
            self.head = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.encoder(self.patch(x).flatten(2).transpose(1, 2)).mean(1))

    model, x = Encoder().double().eval().requires_grad_(False), samples(2)
    with torch.no_grad(), capturing_attention(model) as found:
        model(x)
    assert [one.module for one in found] == ["encoder.layers.0.self_attn", "encoder.layers.1.self_attn"]
    for one in found:
        matrix = one.shaped(2).weights
        assert matrix.shape == (2, 2, 9, 9)
        torch.testing.assert_close(matrix.sum(-1), torch.ones_like(matrix[..., 0]))
    assert explain(model, x, "chefer").attribution.abs().sum() > 0


def test_other_softmaxes_are_no_attention() -> None:
    """A gate over channels multiplies elementwise; a classifier's softmax multiplies nothing."""

    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 4, 3, padding=1)
            self.head = nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.layer(x)
            return self.head((hidden * hidden.softmax(-1)).mean((2, 3))).softmax(-1)

    model = Gate().double().eval()
    with capturing_attention(model) as found:
        model(samples(2))
    assert found == []
    with pytest.raises(abe.errors.ModelError, match="ABE-NO-ATTENTION"):
        explain(model, samples(2), "rollout")


# --- two sequences ------------------------------------------------------------------------------------


def relevance_by_hand(found: list[Attention], s: int, q: int) -> dict[str, Tensor]:
    """Rules 6 to 11 for one sample, element by element where it matters."""

    def average(layer: Attention) -> Tensor:
        total = torch.zeros(layer.queries, layer.keys, dtype=torch.float64)
        for head in range(layer.weights.shape[1]):
            product = layer.weights[0, head] * layer.gradient[0, head]
            total += torch.where(product > 0, product, torch.zeros_like(product))
        return total / layer.weights.shape[1]

    def normalised(r: Tensor) -> Tensor:
        rest = r - torch.eye(len(r), dtype=r.dtype)
        for i in range(len(r)):
            if rest[i].sum() != 0:
                rest[i] = rest[i] / rest[i].sum()
        return rest + torch.eye(len(r), dtype=r.dtype)

    eye = {n: torch.eye(n, dtype=torch.float64) for n in (s, q)}
    r = {"ss": eye[s], "qq": eye[q], "sq": eye[s].new_zeros(s, q), "qs": eye[s].new_zeros(q, s)}
    names = {s: "s", q: "q"}
    waiting: list[tuple[str, Tensor]] = []
    for layer in found:
        a, b, mean = names[layer.queries], names[layer.keys], average(layer)
        if a == b:
            other = "q" if a == "s" else "s"
            for pair, change in waiting:
                r[pair] = r[pair] + change
            waiting = []
            r[a + a], r[a + other] = r[a + a] + mean @ r[a + a], r[a + other] + mean @ r[a + other]
        else:
            waiting.append((a + b, normalised(r[a + a]).T @ mean @ normalised(r[b + b])))
            waiting.append((a + a, mean @ r[b + a]))
    for pair, change in waiting:
        r[pair] = r[pair] + change
    return r


def test_bimodal_relevance_by_hand() -> None:
    model, x = nets.Attending(dtype=torch.float64).eval().requires_grad_(False), samples(1)
    with torch.enable_grad(), capturing_attention(model) as found:
        score = model(x)[0, 1]
    for one, gradient in zip(found, torch.autograd.grad(score, [o.weights for o in found]), strict=True):
        one.weights, one.gradient = one.weights.detach(), gradient
    assert [(one.queries, one.keys) for one in found] == [
        (10, 10),
        (3, 3),
        (10, 3),
        (3, 10),
        (10, 10),
        (3, 3),
    ]
    right = relevance_by_hand(found, 10, 3)
    state = bimodal(found, 10, 3)
    for pair, name in {(10, 10): "ss", (3, 3): "qq", (10, 3): "sq", (3, 10): "qs"}.items():
        assert miss(state[pair], right[name][None]) < 1e-12
    asked = explain(model, x, "chefer_bimodal")
    assert miss(asked.attribution.sum(1), laid_out(right["qs"][0, 1:][None], 3, 6)) < 1e-12
    own = explain(model, x, "chefer_bimodal", reads="own")
    assert miss(own.attribution.sum(1), laid_out(right["ss"][0, 1:][None], 3, 6)) < 1e-12


class Painter(nn.Module):
    """Places look up words at two resolutions, as in a diffusion model; the words are a second input."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.coarse, self.fine = nn.Conv2d(3, 8, 4, stride=4), nn.Conv2d(3, 8, 2, stride=2)
        self.words = nn.Parameter(torch.randn(7, 8))
        self.down, self.up = nn.MultiheadAttention(8, 2, batch_first=True), nn.MultiheadAttention(8, 2)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        read = []
        for patch, attend in ((self.coarse, self.down), (self.fine, self.up)):
            places, words = patch(x).flatten(2).transpose(1, 2), self.words.expand(len(x), -1, -1)
            if attend is self.up:  # sequence first
                places, words = places.transpose(0, 1), words.transpose(0, 1)
            found = attend(places, words, words, need_weights=False)[0]
            read.append(found.mean(0 if attend is self.up else 1))
        return self.head(torch.cat(read, 1))


def test_cross_attention_is_averaged_over_resolutions_and_heads() -> None:
    model, x = Painter().double().eval(), samples(2, shape=(3, 12, 12))
    maps = []
    for patch, attend, side in ((model.coarse, model.down, 3), (model.fine, model.up, 6)):
        places = patch(x).detach().flatten(2).transpose(1, 2)
        packed, bias = attend.in_proj_weight.detach(), attend.in_proj_bias.detach()
        q = F.linear(places, packed[:8], bias[:8]).unflatten(2, (2, 4)).transpose(1, 2)
        k = F.linear(model.words.detach(), packed[8:16], bias[8:16]).unflatten(1, (2, 4)).transpose(0, 1)
        weights = (q @ k.transpose(-1, -2) / 2).softmax(-1).mean(1)
        maps.append(laid_out(weights[:, :, [2, 5]].sum(2), side, 12))
    found = explain(model, x, "daam", tokens=(2, 5))
    assert miss(found.attribution.sum(1), torch.stack(maps).mean(0)) < 1e-12
    one = explain(model, x, "daam", tokens=(2, 5), layers=("up",))
    assert miss(one.attribution.sum(1), maps[1]) < 1e-12
    every = explain(model, x, "daam", tokens=tuple(range(7)))
    assert miss(every.attribution.sum(1), torch.ones(2, 12, 12).double()) < 1e-12


def test_words_that_look_at_places() -> None:
    """Where only the other sequence attends, its rows are read."""

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.patch, self.words = nn.Conv2d(3, 8, 2, stride=2), nn.Parameter(torch.randn(3, 8))
            self.attend, self.head = nn.MultiheadAttention(8, 1, batch_first=True), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            places, words = self.patch(x).flatten(2).transpose(1, 2), self.words.expand(len(x), -1, -1)
            return self.head(self.attend(words, places, places)[0].mean(1))

    model, x = Reader().double().eval(), samples(2)
    places = model.patch(x).flatten(2).transpose(1, 2)
    weights = model.attend(model.words.expand(2, -1, -1), places, places)[1].detach()
    found = explain(model, x, "daam", tokens=(1,))
    assert miss(found.attribution.sum(1), laid_out(weights[:, 1], 3, 6)) < 1e-12


# --- laws and what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("raw_attention", {"heads": "max", "query": 3}),
        ("attention_rollout", {"heads": "min", "upsample": "nearest"}),
        ("chefer_relevance", {"query": 4}),
        ("chefer_bimodal", {"reads": "own"}),
        ("daam", {"tokens": (0, 2)}),
    ],
)
def test_laws_at_other_settings(method: str, params: dict[str, object]) -> None:
    check_method(method, only=["batch", "order", "chunk", "cost", "restored", "spec"], **params)


BAD = {
    "no attention": (nets.Convolutional(dtype=torch.float64), "chefer", {}, "ABE-NO-ATTENTION"),
    "one sequence": (Spelled("fused").double(), "chefer_bimodal", {}, "ABE-NO-ATTENTION"),
    "no cross-attention": (Spelled("fused").double(), "daam", {"tokens": (0,)}, "ABE-NO-ATTENTION"),
    "no such module": (Recorded().double(), "rollout", {"layers": ("block.0",)}, "Did you mean 'blocks.0'"),
    "a module without attention": (Recorded().double(), "rollout", {"layers": ("head",)}, "ABE-LAYER"),
    "no such query": (Spelled("fused").double(), "rollout", {"query": 9}, "There is no token 9"),
    "no such word": (nets.Attending(dtype=torch.float64), "daam", {"tokens": (3,)}, "There is no token 3"),
    "no word": (nets.Attending(dtype=torch.float64), "daam", {"tokens": ()}, "at least one token"),
    "heads": (Spelled("fused").double(), "rollout", {"heads": "median"}, "No such way to join heads"),
    "sequence": (
        nets.Attending(dtype=torch.float64),
        "chefer_bimodal",
        {"reads": "text"},
        "No such sequence",
    ),
    "enlarging": (Spelled("fused").double(), "rollout", {"upsample": "cubic"}, "ABE-BAD-PARAMETER"),
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
    side = 32 if isinstance(model, Recorded) else 6
    with pytest.raises(abe.errors.AbeError, match=says):
        explain(model, samples(2, shape=(3, side, side)), method, **params)


def test_attention_within_windows_is_named() -> None:
    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.patch, self.head = nn.Conv2d(3, 8, 1), nn.Linear(8, 5)
            self.mixer = Spelled("fused")

        def forward(self, x: Tensor) -> Tensor:
            windows = self.patch(x).unfold(2, 3, 3).unfold(3, 3, 3).permute(0, 2, 3, 4, 5, 1)
            q, k, v = self.mixer.heads(windows.flatten(3, 4).flatten(0, 2))
            read = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            return self.head(read.unflatten(0, (len(x), -1)).mean((1, 2)))

    for n in (1, 2):
        with pytest.raises(abe.errors.ModelError, match="4 windows of 9 tokens"):
            explain(Windows().double(), samples(n), "chefer")

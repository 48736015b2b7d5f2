"""Tiny networks of the families that read texts, series, volumes, points and tables, in plain PyTorch.

All take features as ABE has them, channels first: embeddings (b, d, t), series (b, c, t), volumes
(b, c, z, y, x), points (b, 3, n), tables (b, d).
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

D, T, CLASSES = 8, 6, 3
"""Width of an embedding, tokens, classes."""


def made(net: nn.Module, *, dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Module:
    """Parameters drawn anew so that no bias and no scale is at its default, running statistics too."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=torch.float64)

    net = net.to(dtype).eval()
    for parameter in net.parameters():
        scale = 1 / math.sqrt(parameter[0].numel()) if parameter.ndim > 1 else 0.2
        fresh = drawn(parameter) * scale
        one = parameter.ndim == 1 and bool((parameter == 1).all())  # of a norm
        parameter.data.copy_(fresh + one)
    for name, buffer in net.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(drawn(buffer) * 0.2)
        elif name.endswith("running_var"):
            buffer.copy_(drawn(buffer).abs() + 0.5)
    return net


def tokens_last(x: Tensor) -> Tensor:
    """(b, d, t) as the model has it, (b, t, d)."""
    return x.transpose(1, 2)


# --- convolutions over texts and series ---------------------------------------------------------------

OVER_TIME: dict[str, Callable[[Tensor], Tensor]] = {
    "amax": lambda h: h.amax(2),
    "amax of two axes": lambda h: h.unflatten(2, (1, -1)).amax((2, 3)),
    "max": lambda h: h.max(2).values,
    "torch.max": lambda h: torch.max(h, 2)[0],
    "torch.max kept": lambda h: torch.max(h, dim=-1, keepdim=True)[0].squeeze(-1),
    "functional pool": lambda h: F.max_pool1d(h, h.shape[-1]).squeeze(-1),
    "pool and indices": lambda h: F.max_pool1d(h, h.shape[-1], return_indices=True)[0].squeeze(-1),
    "adaptive": lambda h: F.adaptive_max_pool1d(h, 1).squeeze(-1),
    "adaptive and indices": lambda h: F.adaptive_max_pool1d(h, 1, return_indices=True)[0].squeeze(-1),
    "top": lambda h: h.topk(1, 2)[0].squeeze(-1),
    "mean and amin": lambda h: h.mean(2) - h.amin(2),
}


class TextCNN(nn.Module):
    """Convolutions of two widths over embeddings, the largest over time of each."""

    def __init__(self, pool: Callable[[Tensor], Tensor] = OVER_TIME["amax"], *, bias: bool = True) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv1d(D, 5, k, padding=1, bias=bias) for k in (2, 3))
        self.head, self.pool = nn.Linear(10, CLASSES, bias=bias), pool

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.pool(conv(x).relu()) for conv in self.convs], 1))


def series_cnn(last: nn.Module) -> nn.Module:
    """A 1-D network with batch norm and pooling."""
    return nn.Sequential(
        nn.Conv1d(D, 6, 3, padding=1),
        nn.BatchNorm1d(6),
        nn.ReLU(inplace=True),
        nn.MaxPool1d(2),
        nn.Conv1d(6, 4, 3, padding=2, dilation=2, groups=2),
        nn.ELU(),
        last,
        nn.Flatten(),
        nn.LazyLinear(CLASSES),
    )


class Decoder(nn.Module):
    """Down and up again, with a skip: transposed convolutions whose channels differ, interpolation."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv1d(D, 5, 2, stride=2), nn.ConvTranspose1d(5, 7, 2, stride=2)
        self.mix, self.head = nn.Conv1d(D + 7, 4, 1), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        up = self.up(self.down(x).relu()).relu()
        wide = F.interpolate(self.mix(torch.cat([x, up], 1)), scale_factor=2, mode="linear")
        return self.head(F.silu(wide).mean(2))


def volume_cnn() -> nn.Module:
    """3-D convolutions, pooling of both kinds."""
    return nn.Sequential(
        nn.Conv3d(2, 4, 3, padding=1),
        nn.BatchNorm3d(4),
        nn.LeakyReLU(0.1),
        nn.MaxPool3d(2),
        nn.Conv3d(4, 5, 1),
        nn.ReLU(),
        nn.AdaptiveMaxPool3d(1),
        nn.Flatten(),
        nn.Linear(5, CLASSES),
    )


class PointNet(nn.Module):
    """A learnt transform of the points, one network for all of them, the largest over points."""

    def __init__(self) -> None:
        super().__init__()
        self.look, self.turn = nn.Conv1d(3, 6, 1), nn.Linear(6, 9)
        self.each = nn.Sequential(nn.Conv1d(3, 7, 1), nn.BatchNorm1d(7), nn.ReLU(), nn.Conv1d(7, 8, 1))
        self.head = nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Dropout(0.3), nn.Linear(5, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        seen = torch.max(self.look(x).relu(), 2, keepdim=True)[0].view(-1, 6)
        turn = (self.turn(seen) + torch.eye(3).to(x).view(1, 9)).view(-1, 3, 3)
        x = torch.bmm(x.transpose(2, 1), turn).transpose(2, 1)
        return self.head(torch.max(self.each(x), 2)[0])


# --- recurrent ----------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    """A recurrent layer, read out at its end, by its mean, by its largest or by attention over time."""

    def __init__(self, layer: nn.RNNBase, read: str) -> None:
        super().__init__()
        width = layer.hidden_size * (2 if layer.bidirectional else 1)
        self.layer, self.read = layer, read
        self.asks, self.head = nn.Linear(width, 1), nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out, state = self.layer(tokens_last(x))
        state = state[0] if isinstance(state, tuple) else state
        if self.read == "end":
            return self.head(torch.cat(list(state[-2:] if self.layer.bidirectional else state[-1:]), -1))
        if self.read == "attention":
            weights = torch.softmax(self.asks(out.tanh()), 1)
            return self.head((weights * out).sum(1))
        return self.head(out.max(1)[0] if self.read == "max" else out.mean(1))


# --- transformers -------------------------------------------------------------------------------------


class Rms(nn.Module):
    """RMSNorm as language models write it."""

    def __init__(self, way: str = "pow mean rsqrt") -> None:
        super().__init__()
        self.weight, self.way = nn.Parameter(torch.ones(D)), way

    def forward(self, x: Tensor) -> Tensor:
        size = x.pow(2).mean(-1, keepdim=True) + 1e-6
        if self.way == "pow mean rsqrt":
            return self.weight * (x * torch.rsqrt(size))
        if self.way == "sqrt":
            return x / size.sqrt() * self.weight
        if self.way == "norm":
            return x / (x.norm(2, -1, keepdim=True) * D**-0.5 + 1e-6) * self.weight
        if self.way == "powers":
            return x * (x**2).mean(-1, True).add(1e-6) ** -0.5 * self.weight
        return F.rms_norm(x, (D,), self.weight, 1e-6)


RMS = ("pow mean rsqrt", "sqrt", "norm", "powers", "functional")
NORMS: dict[str, Callable[[], nn.Module]] = {
    "layer": lambda: nn.LayerNorm(D),
    "rms": Rms,
    "torch rms": lambda: nn.RMSNorm(D, eps=1e-6),
}


class Conv1D(nn.Module):
    """The dense layer of GPT-2, whose weight is (in, out)."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.weight, self.bias = nf, nn.Parameter(torch.ones(nx, nf)), nn.Parameter(torch.ones(nf))

    def forward(self, x: Tensor) -> Tensor:
        out = torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight)
        return out.view(*x.size()[:-1], self.nf)


def gelu_new(x: Tensor) -> Tensor:
    """GELU as GPT-2 writes it."""
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3))))


def soft(scores: Tensor, way: str) -> Tensor:
    """A softmax, in a word or by hand."""
    if way == "by hand":
        raised = torch.exp(scores - scores.amax(-1, keepdim=True))
        return raised / raised.sum(-1, keepdim=True)
    return scores.float().softmax(-1).type_as(scores) if way == "in float" else F.softmax(scores, -1)


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


class Attention(nn.Module):
    """Two heads; ``kind`` is whose code it follows."""

    def __init__(self, kind: str, softmax: str = "word") -> None:
        super().__init__()
        self.kind, self.softmax = kind, softmax
        if kind == "gpt2":
            self.c_attn, self.c_proj = Conv1D(3 * D, D), Conv1D(D, D)
        else:
            keys = D // 2 if kind == "llama" else D  # one head of keys for two of queries
            bias = kind == "bert"
            self.q, self.o = nn.Linear(D, D, bias=bias), nn.Linear(D, D, bias=bias)
            self.k, self.v = nn.Linear(D, keys, bias=bias), nn.Linear(D, keys, bias=bias)
        self.distance = nn.Embedding(4, 2) if kind == "t5" else None

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        if self.kind == "gpt2":
            q, k, v = self.c_attn(x).split(D, dim=2)
        else:
            q, k, v = self.q(x), self.k(x), self.v(x)
        q, k, v = (one.view(b, t, -1, D // 2).transpose(1, 2) for one in (q, k, v))
        if self.kind == "llama":
            return self.o(self._llama(q, k, v).transpose(1, 2).reshape(b, t, D))
        scores = torch.matmul(q, k.transpose(-1, -2))
        if self.kind == "t5":
            places = torch.arange(t)
            near = (places[None] - places[:, None]).clamp(-1, 2) + 1
            scores += self.distance(near).permute(2, 0, 1)[None]
        else:
            scores = scores / math.sqrt(D // 2)
        if self.kind == "gpt2":
            causal = torch.tril(torch.ones(t, t, dtype=torch.bool))[None, None]
            low = torch.full([], torch.finfo(scores.dtype).min, dtype=scores.dtype)
            scores = torch.where(causal, scores, low)
        if self.kind == "bert":  # the last token is padding
            hidden = torch.zeros(1, 1, 1, t, dtype=x.dtype)
            hidden[..., -1] = torch.finfo(x.dtype).min
            scores = scores + hidden
        weights = F.dropout(soft(scores, self.softmax), 0.1, self.training)
        out = torch.matmul(weights, v).transpose(1, 2).contiguous().view(b, t, D)
        return self.c_proj(out) if self.kind == "gpt2" else self.o(out)

    def _llama(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        b, t = q.shape[0], q.shape[2]
        angle = torch.arange(t, dtype=q.dtype)[:, None] * (10.0 ** -torch.arange(2, dtype=q.dtype))
        cos, sin = torch.cat([angle, angle], -1).cos(), torch.cat([angle, angle], -1).sin()
        q, k = turned(q, cos, sin), turned(k, cos, sin)
        k, v = (one[:, :, None].expand(b, 1, 2, t, D // 2).reshape(b, 2, t, D // 2) for one in (k, v))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


class FeedForward(nn.Module):
    """Two dense layers with a GELU, a ReLU, or a SiLU gate."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        if kind == "gpt2":
            self.c_fc, self.c_proj = Conv1D(12, D), Conv1D(D, 12)
        else:
            self.up, self.down = nn.Linear(D, 12, bias=kind == "bert"), nn.Linear(12, D, bias=kind == "bert")
            self.gate = nn.Linear(D, 12, bias=False) if kind == "llama" else None

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "gpt2":
            return self.c_proj(gelu_new(self.c_fc(x)))
        if self.kind == "llama":
            return self.down(F.silu(self.gate(x)) * self.up(x))
        if self.kind == "t5":
            return self.down(self.up(x).relu())
        return self.down(F.gelu(self.up(x)))


class Block(nn.Module):
    """Attention and a feed-forward part, norms before (or, in BERT, after) them."""

    def __init__(self, kind: str, norm: Callable[[], nn.Module], softmax: str) -> None:
        super().__init__()
        self.attention, self.forward_part = Attention(kind, softmax), FeedForward(kind)
        self.first, self.second, self.after = norm(), norm(), kind == "bert"

    def forward(self, x: Tensor) -> Tensor:
        if self.after:
            x = self.first(x + self.attention(x))
            return self.second(x + self.forward_part(x))
        x = x + self.attention(self.first(x))
        return x + self.forward_part(self.second(x))


class Transformer(nn.Module):
    """Two blocks of a kind over embeddings (b, d, t), read at the first or last token or by the mean."""

    def __init__(self, kind: str, norm: str = "layer", *, softmax: str = "word", read: Any = None) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.ones(T, D)) if kind in ("bert", "gpt2") else None
        self.blocks = nn.ModuleList(Block(kind, NORMS[norm], softmax) for _ in range(2))
        self.norm = NORMS[norm]()
        self.pooler = nn.Linear(D, D) if kind == "bert" else None
        self.head = nn.Linear(D, CLASSES, bias=False)
        self.at = read if read is not None else {"bert": 0, "gpt2": -1, "llama": -1}.get(kind, "mean")

    def forward(self, x: Tensor) -> Tensor:
        h = tokens_last(x)
        h = h if self.places is None else h + self.places
        for block in self.blocks:
            h = block(h)
        h = self.norm(h)
        h = h.mean(1) if self.at == "mean" else h[:, self.at]
        return self.head(h if self.pooler is None else torch.tanh(self.pooler(h)))


class Encoder(nn.Module):
    """PyTorch's own encoder, with a class token, a mask of padding, and either order of its axes."""

    def __init__(self, *, batch_first: bool = True, norm_first: bool = False, padded: bool = True) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            D, 2, 12, activation="gelu", batch_first=batch_first, norm_first=norm_first
        )
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.token, self.head = nn.Parameter(torch.ones(1, 1, D)), nn.Linear(D, CLASSES)
        self.batch_first, self.padded = batch_first, padded

    def forward(self, x: Tensor) -> Tensor:
        h = torch.cat([self.token.expand(len(x), 1, D), tokens_last(x)], 1)
        mask = torch.zeros(h.shape[:2], dtype=torch.bool)
        mask[:, -1] = True
        h = h if self.batch_first else h.transpose(0, 1)
        h = self.blocks(h, src_key_padding_mask=mask if self.padded else None)
        return self.head(h[:, 0] if self.batch_first else h[0])


class Translator(nn.Module):
    """An encoder, and a decoder of two learnt tokens that looks at it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(D, 2, 12, batch_first=True)
        self.decoder = nn.TransformerDecoderLayer(D, 2, 12, batch_first=True, activation=F.silu)
        self.start, self.head = nn.Parameter(torch.ones(2, D)), nn.Linear(D, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.encoder(tokens_last(x))
        return self.head(self.decoder(self.start.expand(len(x), 2, D), seen)[:, -1])


# --- others -------------------------------------------------------------------------------------------


def table(*, bias: bool = True) -> nn.Module:
    """Dense layers over columns."""
    return nn.Sequential(
        nn.Linear(D, 7, bias=bias), nn.ReLU(), nn.Dropout(0.2), nn.Linear(7, 5, bias=bias), nn.ReLU()
    ).append(nn.Linear(5, CLASSES, bias=bias))


class Gated(nn.Module):
    """A table network with batch norm, a gate and a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.both, self.head = nn.BatchNorm1d(D), nn.Linear(D, 2 * D), nn.Linear(D, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return self.head(x + F.glu(self.both(x), -1))


class Statistics(nn.Module):
    """A speaker network's pooling: mean and deviation over time, then a norm of length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv1d(D, 5, 3), nn.Linear(10, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.conv(x))
        pooled = torch.cat([h.mean(2), (h.var(2) + 1e-4).sqrt()], 1)
        return self.head(F.normalize(pooled, dim=1))


class LinearAttention(nn.Module):
    """φ(Q) (φ(K)ᵀ V) / φ(Q) Σ φ(K), by einsum, φ = elu + 1."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.head = nn.Parameter(torch.ones(3, D, D)), nn.Linear(D, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = torch.einsum("bdt,kde->kbte", x, self.qkv)
        q, k = F.elu(q) + 1, F.elu(k) + 1
        out = torch.einsum("btd,bde->bte", q, torch.einsum("btd,bte->bde", k, v))
        return self.head((out / torch.einsum("btd,bd->bt", q, k.sum(1))[..., None]).mean(1))


class Written(nn.Module):
    """Dense layers without `nn.Linear`: weights on the right, on the left, in einsum and tensordot."""

    def __init__(self) -> None:
        super().__init__()
        self.right, self.left = nn.Parameter(torch.ones(D, 7)), nn.Parameter(torch.ones(5, 7))
        self.other, self.last = nn.Parameter(torch.ones(4, 5)), nn.Parameter(torch.ones(4, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        h = (tokens_last(x) @ self.right).relu()
        h = torch.matmul(self.left, h.transpose(1, 2)).relu()
        h = torch.einsum("oc,bct->bto", self.other, h).relu()
        return torch.tensordot(h.mean(1), self.last, dims=([1], [0]))


class GraphConvolution(nn.Module):
    """Nodes (b, d, n) that pass messages along fixed edges."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(D, 6), nn.Linear(6, CLASSES)
        edges = torch.eye(T) + torch.diag(torch.ones(T - 1), 1)
        self.register_buffer("edges", edges / edges.sum(1, keepdim=True))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.matmul(self.edges, self.first(tokens_last(x))).relu()
        return torch.matmul(self.edges, self.second(h)).sum(1)


class Scan(nn.Module):
    """A state space that forgets by what it reads: h ← exp(−Δ A) h + Δ B x, read by a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.decay, self.step, self.b = nn.Parameter(torch.ones(D)), nn.Linear(D, D), nn.Linear(D, D)
        self.gate, self.head = nn.Linear(D, D), nn.Linear(D, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h, outs = 0.0, []
        for one in x.unbind(2):
            size = F.softplus(self.step(one))
            h = torch.exp(-size * self.decay.exp()) * h + size * self.b(one)
            outs.append(h * F.silu(self.gate(one)))
        return self.head(torch.stack(outs, 1).mean(1))


class Mixture(nn.Module):
    """Two experts, weighed by a softmax over what the input asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = nn.Linear(D, 2)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(D, 6), nn.GELU(), nn.Linear(6, D)) for _ in "ab")
        self.head = nn.Linear(D, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = tokens_last(x)
        chosen, which = self.ask(h).softmax(-1).topk(1, -1)
        out = torch.stack([expert(h) for expert in self.experts], -2)
        out = out.gather(-2, which[..., None].expand(*which.shape, D))[..., 0, :] * chosen
        return self.head((h + out).mean(1))


def embedded(net: nn.Module) -> tuple[nn.Module, tuple[int, ...]]:
    return net, (D, T)


FAMILIES: dict[str, Callable[[], tuple[nn.Module, tuple[int, ...]]]] = {
    "text cnn, amax": lambda: embedded(TextCNN()),
    "text cnn, adaptive": lambda: embedded(TextCNN(OVER_TIME["adaptive and indices"])),
    "text cnn, top": lambda: embedded(TextCNN(OVER_TIME["top"])),
    "bidirectional gru, end": lambda: embedded(
        Recurrent(nn.GRU(D, 5, bidirectional=True, batch_first=True), "end")
    ),
    "gru, attention": lambda: embedded(Recurrent(nn.GRU(D, 5, 2, batch_first=True), "attention")),
    "lstm, mean": lambda: embedded(Recurrent(nn.LSTM(D, 5, batch_first=True), "mean")),
    "bidirectional lstm, max": lambda: embedded(
        Recurrent(nn.LSTM(D, 4, 2, bidirectional=True, batch_first=True), "max")
    ),
    "rnn, end": lambda: embedded(Recurrent(nn.RNN(D, 5, batch_first=True), "end")),
    "bert": lambda: embedded(Transformer("bert")),
    "bert, softmax by hand": lambda: embedded(Transformer("bert", softmax="by hand")),
    "gpt2": lambda: embedded(Transformer("gpt2")),
    "t5": lambda: embedded(Transformer("t5", "rms")),
    "llama": lambda: embedded(Transformer("llama", "rms")),
    "llama, torch's norm": lambda: embedded(Transformer("llama", "torch rms")),
    "encoder": lambda: embedded(Encoder()),
    "encoder, sequence first": lambda: embedded(Encoder(batch_first=False, norm_first=True)),
    "encoder, no padding": lambda: embedded(Encoder(padded=False)),
    "translator": lambda: embedded(Translator()),
    "series, max": lambda: embedded(series_cnn(nn.AdaptiveMaxPool1d(2))),
    "series, mean": lambda: embedded(series_cnn(nn.AdaptiveAvgPool1d(1))),
    "decoder": lambda: embedded(Decoder()),
    "volume": lambda: (volume_cnn(), (2, 4, 4, 4)),
    "points": lambda: (PointNet(), (3, 7)),
    "table": lambda: (table(), (D,)),
    "gated table": lambda: (Gated(), (D,)),
    "statistics": lambda: embedded(Statistics()),
    "linear attention": lambda: embedded(LinearAttention()),
    "written": lambda: embedded(Written()),
    "graph": lambda: embedded(GraphConvolution()),
    "scan": lambda: embedded(Scan()),
    "mixture": lambda: embedded(Mixture()),
}


def family(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Tensor]:
    """A network of a family and three samples for it."""
    net, shape = FAMILIES[name]()
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, *shape, generator=generator, dtype=torch.float64)
    if any(isinstance(module, nn.LazyLinear) for module in net.modules()):
        with torch.no_grad():
            net.eval()(x.float())
    return made(net, dtype=dtype), x.to(dtype)

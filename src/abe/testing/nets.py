"""Small networks with known properties. Their weights come from generators of their own."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils import skip_init

CHANNELS, SIDE, CLASSES = 3, 6, 5
SHAPE = (CHANNELS, SIDE, SIDE)
"""Inputs of the kit's nets: three channels of six by six."""
_Module = TypeVar("_Module", bound=nn.Module)
FEATURES = CHANNELS * SIDE * SIDE
WIDTH = 8
"""Of the tokens of `Attending`."""


def weights(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Normal numbers of a seed in float64, divided by the root of the last axis and times ``scale``."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64) * (scale / shape[-1] ** 0.5)


class Linear(nn.Module):
    """f_c(x) = w_c · x + b_c, whose attributions are w ⊙ (x − x′).

    Args:
        bias: with a bias or without.
        seed: of the weights.
    """

    def __init__(self, *, bias: bool = True, seed: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(weights(CLASSES, FEATURES, seed=seed))
        self.bias = nn.Parameter(weights(CLASSES, seed=seed + 1)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(n, 5) scores."""
        return F.linear(x.flatten(1), self.weight, self.bias)


class Homogeneous(nn.Module):
    """Convolution, ReLU, pooling, linear, all without bias: f(λx) = λ f(x) for λ > 0."""

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__()
        self.kernel = nn.Parameter(weights(4, CHANNELS, 3, 3, seed=seed))
        self.head = nn.Parameter(weights(CLASSES, 4 * 9, seed=seed + 1))

    def forward(self, x: Tensor) -> Tensor:
        """(n, 5) scores."""
        hidden = F.max_pool2d(F.conv2d(x, self.kernel, padding=1).relu(), 2)
        return F.linear(hidden.flatten(1), self.head)


class Smooth(nn.Module):
    """f = V softplus(W x + b) + c: infinitely smooth, clearly curved, with biases.

    Args:
        seed: of the weights.
        scale: of the first layer; larger is more curved.
    """

    def __init__(self, *, seed: int = 0, scale: float = 4.0) -> None:
        super().__init__()
        self.first = _filled(seed, scale, nn.Linear, FEATURES, 12, dtype=torch.float64)
        self.second = _filled(seed + 10, 2.0, nn.Linear, 12, CLASSES, dtype=torch.float64)
        self.input = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(n, 5) scores."""
        return self.second(F.softplus(self.first(self.input(x).flatten(1))))


class Twin(nn.Module):
    """The function of a `Smooth` net by other means.

    The hidden units stand in another order, the first layer is split into two factors, and softplus is
    written as x/2 + log(2 cosh(x/2)).
    """

    def __init__(self, net: Smooth) -> None:
        super().__init__()
        order = torch.arange(net.first.out_features).flip(0)
        orthogonal = torch.linalg.qr(weights(FEATURES, FEATURES, seed=3)).Q
        self.turn = nn.Parameter(orthogonal)
        self.first = nn.Parameter(net.first.weight.detach()[order] @ orthogonal.T)
        self.first_bias = nn.Parameter(net.first.bias.detach()[order].clone())
        self.second = nn.Parameter(net.second.weight.detach()[:, order].clone())
        self.second_bias = nn.Parameter(net.second.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """(n, 5) scores."""
        hidden = (x.flatten(1) @ self.turn.T) @ self.first.T + self.first_bias
        half = hidden / 2
        soft = half + half.abs() + torch.log1p(torch.exp(-2 * half.abs()))
        return soft @ self.second.T + self.second_bias


class Combined(nn.Module):
    """a · f + b · g."""

    def __init__(self, f: nn.Module, g: nn.Module, a: float, b: float) -> None:
        super().__init__()
        self.f, self.g, self.a, self.b = f, g, a, b
        self.input = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(n, 5) scores."""
        x = self.input(x)
        return self.a * self.f(x) + self.b * self.g(x)


class Masked(nn.Module):
    """A net that reads only where ``mask`` is 1."""

    mask: Tensor

    def __init__(self, net: nn.Module, mask: Tensor) -> None:
        super().__init__()
        self.net = net
        self.input = nn.Identity()
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 5) scores."""
        kept = torch.where(self.mask.bool(), self.input(x), torch.zeros_like(x))
        return self.net(kept)


class Symmetric(nn.Module):
    """net(x) + net(x with two positions exchanged): symmetric in these positions of channel 0."""

    def __init__(self, net: nn.Module, one: tuple[int, int], other: tuple[int, int]) -> None:
        super().__init__()
        self.net, self.one, self.other = net, one, other

    def forward(self, x: Tensor) -> Tensor:
        """(n, 5) scores."""
        order = torch.arange(x[0].numel(), device=x.device).view(x.shape[1:])
        a, b = order[0][self.one].clone(), order[0][self.other].clone()
        order[0][self.one], order[0][self.other] = b, a
        swapped = x.flatten(1)[:, order.flatten()].view_as(x)
        return self.net(x) + self.net(swapped)


class Saturating(nn.Module):
    """All scores are (c + 1) · tanh(8 u), u one input: flat at u = 1, different from u = 0."""

    def __init__(self, position: tuple[int, int, int]) -> None:
        super().__init__()
        self.position = position
        self.scale = nn.Parameter(torch.arange(1.0, CLASSES + 1, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """(n, 5) scores."""
        u = x[(slice(None), *self.position)]
        return torch.tanh(8 * u)[:, None] * self.scale


class Convolutional(nn.Module):
    """Convolution, batch norm, dropout, ReLU, average pooling, linear; counts its calls in tensors.

    An ordinary network with everything a call can leave behind: training flags that matter, running
    statistics, a buffer that its own forward changes, and plain attributes: a tensor that is written to,
    another that is replaced, and the number that goes with it. The pooling is not a maximum: on constant
    regions rounding decides a maximum's ties, so that the network itself depends on the chunk.

    Args:
        seed: of the weights.
        dtype: of the weights.
        side: of the pooled maps: 3, or 1 for global average pooling.
    """

    def __init__(self, *, seed: int = 0, dtype: torch.dtype = torch.float32, side: int = 3) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _filled(seed, 1.5, nn.Conv2d, CHANNELS, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.Dropout(0.5),
            nn.ReLU(),
            nn.AvgPool2d(SIDE // side),
        )
        self.head = _filled(seed + 1, 1.5, nn.Linear, 4 * side * side, CLASSES)
        self.input = nn.Identity()
        self.register_buffer("calls", torch.zeros(()))
        self.written, self.replaced, self.number = torch.zeros(2), torch.zeros(()), 0
        self.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 5) scores."""
        self.calls += 1
        self.written[0] += 1
        self.number += 1
        self.replaced = torch.full((), self.number)
        return self.head(self.features(self.input(x)).flatten(1))


class Attending(nn.Module):
    """A transformer over nine patches and a class token, beside three learned tokens of another kind.

    The sequences attend to themselves, to each other, and to themselves again; the head reads the first
    token of both. Attention is written by hand, as in most libraries.
    """

    def __init__(self, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _filled(seed, 1.0, nn.Conv2d, CHANNELS, WIDTH, 2, stride=2),
            nn.BatchNorm2d(WIDTH),
            nn.Dropout(0.5),
        )
        self.start = nn.Parameter(weights(1, WIDTH, seed=seed + 1))
        self.words = nn.Parameter(weights(3, WIDTH, seed=seed + 2))
        self.blocks = nn.ModuleList([_Attention(seed + 10 * k) for k in range(1, 7)])
        self.head = _filled(seed + 3, 1.5, nn.Linear, 2 * WIDTH, CLASSES)
        self.register_buffer("calls", torch.zeros(()))
        self.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 5) scores."""
        self.calls += 1
        n = len(x)
        patches = torch.cat([self.start.expand(n, 1, -1), self.features(x).flatten(2).transpose(1, 2)], 1)
        words = self.words.expand(n, -1, -1)
        own, others, across, back, again, once_more = self.blocks
        patches, words = patches + own(patches, patches), words + others(words, words)
        patches, words = patches + across(patches, words), words + back(words, patches)
        patches, words = patches + again(patches, patches), words + once_more(words, words)
        return self.head(torch.cat([patches[:, 0], words[:, 0]], 1))


class _Attention(nn.Module):
    """Two heads of softmax(Q Kᵀ / √d) V."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.query = _filled(seed, 1.0, nn.Linear, WIDTH, WIDTH)
        self.memory = _filled(seed + 1, 1.0, nn.Linear, WIDTH, 2 * WIDTH)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """(n, queries, width) what the queries read."""
        split = [t.unflatten(2, (2, -1)).transpose(1, 2) for t in self.memory(memory).chunk(2, 2)]
        query = self.query(x).unflatten(2, (2, -1)).transpose(1, 2)
        attention = (query @ split[0].transpose(2, 3) / query.shape[-1] ** 0.5).softmax(-1)
        return (attention @ split[1]).transpose(1, 2).flatten(2)


def tiny(channels: int) -> nn.Sequential:
    """Convolution, flatten, linear for inputs (n, channels, 6, 6); 3 classes."""
    first = _filled(0, 1.0, nn.Conv2d, channels, 2, 3)
    return nn.Sequential(first, nn.Flatten(), _filled(1, 1.0, nn.Linear, 32, 3))


class Evidence(nn.Module):
    """Two classes; the score of class 1 adds up non-negative evidence, so the true map is weight ⊙ x."""

    def __init__(self, *, side: int = 12) -> None:
        super().__init__()
        at = torch.arange(side, dtype=torch.float64)
        blob = torch.exp(-((at - side / 3) ** 2) / 4)
        self.weight = nn.Parameter(
            0.3 * (blob[:, None] * blob[None, :]).expand(1, CHANNELS, side, side).clone()
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, 2) scores."""
        evidence = (x * self.weight).flatten(1).sum(1)
        return torch.stack([torch.zeros_like(evidence), evidence], dim=1)


class Watched(nn.Module):
    """Passes everything on to ``net``, counts rows both ways, and can be told to fail.

    Args:
        net: the network.
        fail_at: number of the call (from 1) whose forward raises, or None.
        limit: more rows than this at once raise an out-of-memory error, or None.
        copies: rows through copies of it count too.
    """

    def __init__(
        self, net: nn.Module, *, fail_at: int | None = None, limit: int | None = None, copies: bool = False
    ) -> None:
        super().__init__()
        self.net = net
        self.input = nn.Identity()
        self._seen = {"calls": 0, "forward": 0, "backward": 0}
        self._fail_at, self._limit, self._copies = fail_at, limit, copies

    def __deepcopy__(self, memo: dict[int, Any]) -> "Watched":
        if self._copies:
            memo[id(self._seen)] = self._seen
        memo[id(self)] = other = type(self).__new__(type(self))
        vars(other).update(deepcopy(vars(self), memo))
        return other

    def beside(self, net: nn.Module) -> "Watched":
        """Another network whose rows count with those of this one."""
        other = Watched(net, copies=self._copies)
        other._seen = self._seen
        return other

    @property
    def calls(self) -> int:
        """Forward calls so far."""
        return self._seen["calls"]

    @property
    def forward_rows(self) -> int:
        """Rows that went in."""
        return self._seen["forward"]

    @property
    def backward_rows(self) -> int:
        """Rows whose gradient was taken."""
        return self._seen["backward"]

    def forward(self, x: Tensor) -> Tensor:
        """What the net says."""
        if self._limit is not None and len(x) > self._limit:
            raise torch.OutOfMemoryError(f"simulated: out of memory with {len(x)} rows")
        self._seen["calls"] += 1
        self._seen["forward"] += len(x)
        out = self.net(self.input(x))
        if self._seen["calls"] == self._fail_at:
            raise ArithmeticError("simulated failure in forward")
        return _CountBackward.apply(out, self._count)  # type: ignore[no-any-return]

    def _count(self, rows: int) -> None:
        self._seen["backward"] += rows


class _CountBackward(torch.autograd.Function):
    """The identity, telling how many rows come back."""

    abe_plumbing = True

    @staticmethod
    def forward(
        ctx: "torch.autograd.function.FunctionCtx", x: Tensor, count: "Callable[[int], None]"
    ) -> Tensor:
        ctx.count = count  # type: ignore[attr-defined]
        return x.view_as(x)

    @staticmethod
    def backward(ctx: "torch.autograd.function.FunctionCtx", *gradients: Tensor) -> tuple[Tensor, None]:
        ctx.count(len(gradients[0]))  # type: ignore[attr-defined]
        return gradients[0], None


def oracle_net(name: Literal["s", "h", "k"], path: str | Path) -> nn.Sequential:
    """A network of the recorded oracles from its ``.safetensors`` file, in evaluation mode.

    Args:
        name: ``"s"`` and ``"h"`` take 3 × 32 × 32 and give 10 classes, ``"h"`` without any bias; ``"k"``
            takes any size and gives 1000.
        path: the file with its weights; their type is kept.
    """
    bias = name != "h"
    with torch.device("meta"):
        tail = [nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, 1000)]
        if name != "k":
            tail = [nn.Flatten(), nn.Linear(1024, 10, bias=bias)]
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=bias),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1, bias=bias),
            nn.ReLU(),
            nn.MaxPool2d(2),
            *tail,
        )
    net.load_state_dict(load_file(path), assign=True)
    return net.eval()


def _filled(seed: int, scale: float, layer: Callable[..., _Module], *args: Any, **kwargs: Any) -> _Module:
    """A layer with weights of a seed; the global generator, which is the user's, is not touched."""
    made: Any = skip_init(layer, *args, **kwargs)
    with torch.no_grad():
        for number, parameter in enumerate(made.parameters()):
            parameter.copy_(weights(*parameter.shape, seed=101 * seed + number, scale=scale))
    return made

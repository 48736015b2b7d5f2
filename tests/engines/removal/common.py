"""A network that plays a given game: its score at zeros and ones is the value of that coalition."""

import torch
from torch import Tensor, nn

import abe


class Played(nn.Module):
    """Two classes: 0 and v(S), S where the input (n, 1, 1, u) is above one half."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table.double())
        self.rows = 0

    def forward(self, x: Tensor) -> Tensor:
        self.rows += len(x)
        bits = (x.flatten(1) > 0.5).long()
        value = self.table[(bits << torch.arange(bits.shape[1])).sum(1)]
        return torch.stack([torch.zeros_like(value), value], dim=1)


def random_game(u: int, seed: int = 0) -> Tensor:
    """(2^u,) an additive game with noise of a third of its size."""
    generator = torch.Generator().manual_seed(seed)
    bits = (torch.arange(2**u)[:, None] >> torch.arange(u)) & 1
    own = torch.randn(u, generator=generator, dtype=torch.float64)
    return bits.double() @ own + 0.3 * torch.randn(2**u, generator=generator, dtype=torch.float64)


def explained(table: Tensor, method, *, copies: int = 1, **how) -> abe.Explanation:
    """The method on the game of all units, once or in copies with draws of their own."""
    u = len(table).bit_length() - 1
    task = abe.image_task(Played(table).eval(), channels=1, output_kind="logits")
    x = torch.ones((copies, 1, 1, u), dtype=torch.float64)
    settings = {"units": "pixel", "target": 1, "execution": "model", "progress": False, **how}
    return abe.explain(task, x, method, **settings)


def values(explanation: abe.Explanation) -> Tensor:
    """(b, u) the numbers of the units."""
    return explanation.attribution.flatten(1)

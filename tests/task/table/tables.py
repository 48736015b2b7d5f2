"""Toy tables: models whose shares are known, and a table with named columns."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

NUMBERS = ["age", "income", "score"]
ROWS = {"age": [20.0, 30.0, 40.5, 61.0], "income": [1.0, 2.0, 3.0, 4.0], "score": [0.1, 0.2, 0.3, 0.9]}
COLOURS = ["red", "green", "blue"]
SIZES = ["s", "l"]
MIXED = {
    "colour": ["red", "blue", "red", "green", "red"],
    "age": [20.0, 30.0, 40.0, 60.0, 35.0],
    "size": ["s", "l", "l", "s", "l"],
    "income": [1.0, 2.0, 3.0, 4.0, 0.5],
}
CATEGORIES = {"colour": COLOURS, "size": SIZES}


class Frame:
    """A table with named columns, as pandas and polars have them."""

    def __init__(self, columns: Mapping[Any, Any] | list[tuple[Any, Any]]) -> None:
        self._held = list(columns.items()) if isinstance(columns, Mapping) else columns

    @property
    def columns(self) -> list[Any]:
        return [name for name, _ in self._held]

    def __getitem__(self, name: Any) -> Any:
        return dict(self._held)[name]

    def __len__(self) -> int:
        return len(self._held[0][1])


class Additive(nn.Module):
    """One output: the sum over columns of a function of each."""

    def __init__(self, *terms: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.terms = terms

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([term(x[:, i]) for i, term in enumerate(self.terms)], 1).sum(1, keepdim=True)


class Apart(nn.Module):
    """Codes (b, 2) of a colour and a size, and numbers (b, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.colour, self.size = nn.Embedding(3, 4), nn.Embedding(2, 2)
        self.head = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 2))

    def mixed(self, colour: Tensor, size: Tensor, numbers: Tensor) -> Tensor:
        return self.head(torch.cat([self.colour(colour), self.size(size), numbers], 1))

    def forward(self, codes: Tensor, numbers: Tensor) -> Tensor:
        return self.mixed(codes[:, 0], codes[:, 1], numbers)


class Turned(Apart):
    """Numbers first."""

    def forward(self, numbers: Tensor, codes: Tensor) -> Tensor:
        return self.mixed(codes[:, 0], codes[:, 1], numbers)


class Whole(Apart):
    """One tensor (b, 4) with codes among the numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return self.mixed(x[:, 0].long(), x[:, 2].long(), x[:, [1, 3]])


class Listed(Apart):
    """One input (b,) per column, by name, in another order."""

    def forward(self, age: Tensor, income: Tensor, colour: Tensor, size: Tensor) -> Tensor:
        return self.mixed(colour, size, torch.stack([age, income], 1))


class Tall(Apart):
    """One input (b, 1) per column, in order."""

    def forward(self, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
        return self.mixed(a.flatten(), c.flatten(), torch.cat([b, d], 1))


class Shifted(Apart):
    """Code 0 of the embeddings is padding, so codes are looked up one further."""

    def __init__(self) -> None:
        super().__init__()
        self.colour, self.size = nn.Embedding(4, 4), nn.Embedding(3, 2)

    def forward(self, codes: Tensor, numbers: Tensor) -> Tensor:
        return self.mixed(codes[:, 0] + 1, codes[:, 1] + 1, numbers)


class Shared(nn.Module):
    """All categories in one table, each behind the last."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(5, 3), nn.Linear(8, 2)

    def forward(self, codes: Tensor, numbers: Tensor) -> Tensor:
        vectors = self.table(codes + torch.tensor([0, 3]))
        return self.head(torch.cat([vectors.flatten(1), numbers], 1).tanh())


class Wide(Apart):
    """A weight of every colour beside its vector."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Embedding(3, 1)

    def forward(self, codes: Tensor, numbers: Tensor) -> Tensor:
        return super().forward(codes, numbers) + self.weight(codes[:, 0])


class ReadTwice(Apart):
    """The colour's code counts besides its vector."""

    def forward(self, codes: Tensor, numbers: Tensor) -> Tensor:
        return super().forward(codes, numbers) + codes[:, :1]


MODELS = [Apart, Turned, Whole, Listed, Tall, Shifted, Shared, Wide]


def seeded(made: type[nn.Module], seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return made().double().eval()


def plainly(model: nn.Module, rows: Tensor) -> Tensor:
    """What a mixed model gives for rows (b, 4) of codes and numbers, called by hand."""
    codes, numbers = rows[:, [0, 2]].long(), rows[:, [1, 3]]
    if isinstance(model, Whole):
        return model(rows)
    if isinstance(model, Turned):
        return model(numbers, codes)
    if isinstance(model, Listed):
        return model(rows[:, 1], rows[:, 3], codes[:, 0], codes[:, 1])
    if isinstance(model, Tall):
        return model(codes[:, :1], numbers[:, :1], codes[:, 1:], numbers[:, 1:])
    return model(codes, numbers)

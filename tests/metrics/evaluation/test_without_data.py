"""Explanations alone are measured as they are with the data they explain."""

from typing import Any

import pytest
import torch
from torch import nn

import abe
from abe.errors import InputError

WORDS = ["[pad]", "a", "dull", "film", "charming"]


class Bag(nn.Module):
    """Scores of a text: the sum over its tokens, bent."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(5, 4, padding_idx=0), nn.Linear(4, 2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """(n, 2) scores."""
        return self.head(torch.tanh(self.embed(ids).sum(1)))


def tokenize(text: str) -> list[int]:
    """Ids of words."""
    return [WORDS.index(word) for word in text.split()]


def product(rows: torch.Tensor) -> torch.Tensor:
    """(n, 2) scores of rows."""
    return torch.stack([rows[:, 0] * rows[:, 1], rows[:, 2]], 1)


class Last(nn.Module):
    """Twice the last step of a bent series."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, c) scores."""
        return torch.tanh(x).cumsum(1)[:, -1] * 2


def tasks() -> dict[str, tuple[Any, Any]]:
    torch.manual_seed(0)
    rows = torch.rand(8, 3)
    return {
        "text": (abe.text_task(Bag().eval(), tokenize), ["a dull film", "charming"]),
        "black box": (abe.table_task(product, background=rows), rows[:2]),
        "table": (abe.table_task(nn.Linear(3, 2).eval(), background=rows), rows[:2]),
        "series": (abe.series_task(Last().eval(), "btc"), torch.randn(2, 24, 3)),
    }


@pytest.fixture(scope="module", params=["text", "black box", "table", "series"])
def given(request: pytest.FixtureRequest) -> tuple[Any, Any, dict[str, abe.Explanation]]:
    task, data = tasks()[request.param]
    return task, data, {"occlusion": abe.explain(task, data, "occlusion", progress=False)}


def test_as_with_data(given: Any) -> None:
    task, data, made = given
    how = {"metrics": ["insertion", "deletion"], "step": 0.25, "progress": False}
    alone, beside = (abe.evaluate(task, made, data=one, **how) for one in (None, data))
    for name in ("insertion", "deletion"):
        one, other = (found.scores["occlusion"][name].values for found in (alone, beside))
        assert torch.allclose(torch.as_tensor(one), torch.as_tensor(other), atol=1e-6)
    assert alone.names == made["occlusion"].names


def test_what_is_not_shown_is_asked_for() -> None:
    task, data = tasks()["text"]
    found = abe.explain(task, data, "occlusion", progress=False)
    found.shown = ["charming film", "a"]
    with pytest.raises(InputError, match="data="):
        abe.evaluate(task, found, ["insertion"], progress=False)


def test_padding_needs_the_data() -> None:
    task, _ = tasks()["series"]
    data = [torch.randn(24, 3), torch.randn(18, 3)]
    found = abe.explain(task, data, "occlusion", progress=False)
    with pytest.raises(InputError, match="padding"):
        abe.evaluate(task, found, ["insertion"], progress=False)

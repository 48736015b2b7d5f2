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


@pytest.mark.parametrize("beside", [False, True])
def test_texts_explained_one_by_one_are_measured_as_together(beside: bool) -> None:
    task, data = tasks()["text"]
    together = abe.explain(task, data, "occlusion", progress=False)
    alone = [abe.explain(task, one, "occlusion", progress=False) for one in data]
    joined = abe.Explanation.join(alone)
    assert joined.shape == together.shape
    assert torch.allclose(joined.attribution, together.attribution, atol=1e-6)
    for one, other in zip(joined.by_unit(), together.by_unit(), strict=True):
        assert dict(one) == pytest.approx(dict(other), abs=1e-6)
    how = {"metrics": ["insertion", "deletion"], "data": data if beside else None, "progress": False}
    found = [abe.evaluate(task, {"own": one}, **how).scores["own"] for one in (joined, alone, together)]
    for name in ("insertion", "deletion"):
        first, *others = (torch.as_tensor(one[name].values) for one in found)
        assert all(torch.allclose(first, other, atol=1e-6) for other in others)


def test_series_of_different_lengths_are_joined_behind() -> None:
    task, _ = tasks()["series"]
    parts = [abe.explain(task, torch.randn(1, t, 3), "occlusion", progress=False) for t in (24, 18)]
    found = abe.Explanation.join(parts)
    assert found.shape == (2, 3, 24)
    assert not found.attribution[1, :, 18:].any()
    assert found.labels is not None
    assert (found.labels[1, :, 18:] == -1).all()
    assert found.by_unit()[1] == parts[1].by_unit()[0]


def test_the_table_calls_natural_units_by_their_name() -> None:
    task, data = tasks()["text"]
    found = abe.compare(task, data, methods=["occlusion"], metrics=["insertion"], progress=False)
    assert found.unit == "word"
    assert "Unit word" in found.caption

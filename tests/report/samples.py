"""Explanations of what is no photograph, made by hand, so that every number on a picture is known."""

from typing import Any

import torch
from torch import Tensor

from abe.explanation import Explanation
from abe.types import Part

BAD = "<script>alert('x')</script>"
WORDS = ["a", "charming", "journey", BAD]


def made(
    attribution: Tensor, x: Tensor, modality: str, *, start: float | None = 0.4, **more: Any
) -> Explanation:
    """An explanation whose score is what the map sums to on top of ``start``; no claim without one."""
    total = attribution.flatten(1).sum(1)
    b = len(attribution)
    given: dict[str, Any] = {
        "target": torch.zeros(b, dtype=torch.long),
        "target_names": ["yes"] * b,
        "names": [f"sample {i}" for i in range(b)],
        "method": "integrated_gradients",
        "spec": {"method": "integrated_gradients", "params": {"steps": 50}},
        "objective": "logit",
        "score": total + (start or 0.0),
        "delta": None if start is None else total,
        "top": [[("yes", 0.7), ("no", 0.3)]] * b,
    }
    return Explanation(attribution=attribution, x=x, modality=modality, **{**given, **more})


def text(*, fixed: float = 0.0, **more: Any) -> Explanation:
    """One text of four words; the third has two pieces, the first and last token are fixed."""
    values = [fixed, 0.5, -1.0, 0.75, 0.25, 0.125, 0.0]
    labels = torch.tensor([[[-1, 0, 1, 2, 2, 3, -1]]])
    attribution = torch.tensor(values).view(1, 1, 7).repeat(1, 2, 1) / 2
    settings = {
        "unit": "word",
        "labels": labels,
        "unit_names": [WORDS],
        "shown": [f"a  charming journey {BAD}!"],
    }
    return made(attribution, torch.zeros(1, 2, 7), "text", **{**settings, **more})


def rows(b: int = 1, columns: int = 4, **more: Any) -> Explanation:
    """Rows of columns with the shares 1, -2, 3, … over their number."""
    names = ["age", BAD, *(f"column {i}" for i in range(2, columns))]
    share = torch.tensor([(i + 1.0) * (-1) ** i for i in range(columns)]) / columns
    attribution = share.repeat(b, 1) * torch.linspace(1, -1, b)[:, None] if b > 1 else share[None]
    x = torch.arange(b * columns).view(b, columns).float()
    settings = {
        "unit": "column",
        "labels": torch.arange(columns).expand(b, columns).clone(),
        "unit_names": [names] * b,
        "shown": [dict(zip(names, [*row[:-1], "cook"], strict=True)) for row in x.tolist()],
    }
    return made(attribution, x, "tabular", **{**settings, **more})


def series(channels: int = 2, times: int = 40, **more: Any) -> Explanation:
    """Lines whose map is 1 at the 20th time of every channel and 0 elsewhere."""
    attribution = torch.zeros(1, channels, times)
    attribution[:, :, 20 % times] = 1.0
    x = torch.arange(channels * times).view(1, channels, times).float().sin()
    return made(attribution, x, "series", **more)


def volume(slices: int = 9, **more: Any) -> Explanation:
    """A volume whose slice 3 holds nine tenths of the magnitude."""
    attribution = torch.full((1, 1, slices, 4, 5), 0.1 / max(1, slices - 1) / 20)
    attribution[:, :, 3 % slices] = 0.9 / 20
    return made(attribution, torch.rand(1, 1, slices, 4, 5), "tensor", **more)


def points(count: int = 30, coordinates: int = 3, **more: Any) -> Explanation:
    """Points of which number 7 matters most."""
    attribution = torch.zeros(1, coordinates, count)
    attribution[:, 0, 7] = 2.0
    attribution[:, 0, 8] = -1.0
    settings = {
        "unit": "point",
        "labels": torch.arange(count).view(1, 1, count),
        "unit_names": [[f"point {i}" for i in range(count)]],
    }
    return made(attribution, torch.rand(1, coordinates, count), "tensor", **{**settings, **more})


def several(**more: Any) -> Explanation:
    """A picture and three numbers packed side by side."""
    x = torch.cat([torch.rand(1, 48), torch.tensor([[1.0, 2.0, 3.0]])], 1)
    attribution = torch.cat([torch.full((1, 48), 0.01), torch.tensor([[0.5, -0.25, 0.0]])], 1)
    parts = (Part("image", 0, 48, (3, 4, 4)), Part(BAD, 48, 51, (3,)))
    return made(attribution, x, "several", parts=parts, **more)


def every() -> dict[str, Explanation]:
    """One of every kind, and the odd sizes."""
    return {
        "text": text(),
        "text with fixed": text(fixed=0.5),
        "text without a claim": text(start=None),
        "rows": rows(),
        "rows without a claim": rows(start=None),
        "wide row": rows(columns=40),
        "many rows": rows(15),
        "vector": made(torch.randn(1, 5), torch.randn(1, 5), "tensor"),
        "series": series(),
        "one time": series(1, 1),
        "many channels": series(11, 3),
        "grid": made(torch.randn(1, 2, 5, 6), torch.randn(1, 2, 5, 6), "tensor"),
        "volume": volume(),
        "thin volume": volume(1),
        "video": made(torch.randn(1, 3, 2, 4, 4), torch.rand(1, 3, 2, 4, 4), "tensor"),
        "points": points(),
        "flat points": points(coordinates=2),
        "several": several(),
        "zero map": made(torch.zeros(1, 3), torch.ones(1, 3), "tabular"),
    }

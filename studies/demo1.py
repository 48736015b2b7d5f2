"""Which methods of the ABE paper's Table II run on which of its kinds of model: ``python -m studies.demo1``.

Small networks of the paper's kinds, each given by a loss and a forward function only. ``--write`` puts the
table into docs/demo1.md.
"""

import argparse
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from abe import explainers as paper
from abe.errors import AbeError
from abe.explainers import Explainer, ExplanationTask, ModelType

PAGE = Path(__file__).parents[1] / "docs" / "demo1.md"
BEGIN, END = "<!-- python -m studies.demo1 --write -->\n", "<!-- end -->\n"
METHODS = {
    "DeepLIFT": paper.DeepLIFT,
    "SG": paper.SG,
    "RISE": paper.RISE,
    "SM": paper.SM,
    "Grad-CAM": paper.GradCAM,
    "IG": paper.IG,
    "FIG": paper.FIG,
    "GIG": paper.GIG,
    "EG": paper.EG,
    "BIG": paper.BIG,
    "MFABA": paper.MFABA,
    "AGI": paper.AGI,
    "AttEXplore": paper.AttEXplore,
    "LA": paper.LA,
    "ISA": paper.ISA,
    "Chefer et al.": paper.Chefer,
    "M2IB": paper.M2IB,
}
"""Table II of the paper, in its order."""
FEW: dict[str, dict[str, Any]] = {
    "SG": {"samples": 4},
    "RISE": {"evaluations": 64, "cells": 3},
    "IG": {"steps": 8},
    "GIG": {"steps": 8},
    "EG": {"samples": 4},
    "BIG": {"search_steps": 5, "steps": 4},
    "MFABA": {"steps": 4},
    "AGI": {"samples": 2, "steps": 4},
    "AttEXplore": {"samples": 2, "steps": 3},
    "LA": {"samples": 2, "steps": 3},
    "ISA": {"rounds": 3, "steps": 2},
    "M2IB": {"steps": 3, "samples": 2},
}
"""Parameters that make a run short."""


@dataclass(frozen=True)
class Case:
    """A kind of model with a batch for it.

    Attributes:
        title: of the column.
        task: the two functions.
        batch: what they take.
        shapes: of what is explained, by name in `Explanation.unpack`.
        towers: layers for M2IB.
        references: references for EG, where inputs have no bounds.
    """

    title: str
    task: ExplanationTask
    batch: Any
    shapes: dict[str | int, tuple[int, ...]]
    towers: dict[str | int, str]
    references: Any = "uniform"


class Pictures(nn.Module):
    """Convolutions, then tokens that attend to each other, as the image networks of the paper do in part."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1),
        )
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.features(x).flatten(2).transpose(1, 2)
        return self.head((tokens + self.attention(tokens, tokens, tokens)[0]).mean(1))


class Words(nn.Module):
    """A TextCNN over embeddings (b, t, d), whose features attend to each other."""

    def __init__(self, width: int = 6, classes: int = 2) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(width, 8, 3, padding=1)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, classes)

    def forward(self, embedded: Tensor) -> Tensor:
        tokens = self.convolution(embedded.transpose(1, 2)).relu().transpose(1, 2)
        return self.head((tokens + self.attention(tokens, tokens, tokens)[0]).mean(1))


class Recurrent(nn.Module):
    """A GRU over embeddings (b, t, d)."""

    def __init__(self, width: int = 6, classes: int = 2) -> None:
        super().__init__()
        self.recurrent = nn.GRU(width, 8, batch_first=True)
        self.head = nn.Linear(8, classes)

    def forward(self, embedded: Tensor) -> Tensor:
        return self.head(self.recurrent(embedded)[0][:, -1])


class Towers(nn.Module):
    """Two towers like CLIP's: similarities of all images with all texts of a batch."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3))
        self.text = nn.Sequential(nn.Linear(width, 8), nn.ReLU(), nn.Linear(8, 8))

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        one = F.normalize(self.image(image).mean((2, 3)), dim=1)
        other = F.normalize(self.text(text).mean(1), dim=1)
        return 10 * one @ other.T


class Detector(nn.Module):
    """A dense head over a convolutional body: class scores and boxes of every cell, like RetinaNet's."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.scores = nn.Conv2d(8, classes, 1)
        self.boxes = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        cells = self.body(x)
        boxes = self.boxes(cells).sigmoid().flatten(2).transpose(1, 2)
        return {"scores": self.scores(cells).flatten(2).transpose(1, 2), "boxes": boxes}


def cases() -> dict[str, Case]:
    """The four kinds of model of the paper's Table IV; of pairs both entries are explained, or one."""
    draws = torch.Generator().manual_seed(1)

    def numbers(*shape: int) -> Tensor:
        return torch.rand(shape, generator=draws)

    pictures, words, towers, detector = (
        _filled(one, draws) for one in (Pictures(), Words(), Towers(), Detector())
    )
    images, embedded = numbers(2, 3, 12, 12), numbers(2, 9, 6) * 2 - 1

    def image_loss(batch: Any) -> Tensor:  # as Demo 1 of the paper has it
        x, y = batch
        logits = pictures(x)
        return -torch.diag(logits[:, y]).sum()

    def text_loss(batch: Any) -> Tensor:
        x, y = batch
        return F.cross_entropy(words(x), y)

    def pair_loss(batch: Any) -> Tensor:
        return -torch.diag(towers(batch["image"], batch["text"])).sum()

    def detection_loss(batch: Any) -> Tensor:
        x, wanted = batch
        found = detector(x)
        total = x.new_zeros(())
        for scores, boxes, one in zip(found["scores"], found["boxes"], wanted, strict=True):
            near = (boxes - one["box"]).abs().sum(1).argmin()
            total = total - scores[near, one["label"]]
        return total / len(wanted)

    def classes(model: nn.Module) -> Callable[[Any], Any]:
        return lambda batch: model(batch[0])

    objects = [{"box": numbers(4), "label": 0}, {"box": numbers(4), "label": 2}]
    return {
        "image": Case(
            "Image",
            ExplanationTask(image_loss, classes(pictures), ModelType.IMAGECLASSIFICATION),
            [images, torch.tensor([1, 3])],
            {0: (2, 3, 12, 12)},
            {"input": "features"},
        ),
        "text": Case(
            "Text",
            ExplanationTask(text_loss, classes(words), ModelType.NLPCLASSIFICATION),
            [embedded, torch.tensor([0, 1])],
            {0: (2, 9, 6)},
            {"input": "convolution"},
            "noise",
        ),
        "multimodal": Case(
            "Multimodal",
            ExplanationTask(
                pair_loss,
                lambda batch: towers(batch["image"], batch["text"]),
                ModelType.MULTIMODAL,
                explained=("image", "text"),
            ),
            {"image": images, "text": embedded},
            {"image": (2, 3, 12, 12), "text": (2, 9, 6)},
            {"image": "image", "text": "text"},
            "noise",
        ),
        "multimodal, image": Case(
            "Multimodal, image alone",
            ExplanationTask(
                pair_loss,
                lambda batch: towers(batch["image"], batch["text"]),
                ModelType.MULTIMODAL,
                explained="image",
            ),
            {"image": images, "text": embedded},
            {"image": (2, 3, 12, 12)},
            {"image": "image", "text": "text"},
            "noise",
        ),
        "detection": Case(
            "Object detection",
            ExplanationTask(detection_loss, classes(detector), ModelType.OBJECTDETECTION, bounds=(0, 1)),
            [images, objects],
            {0: (2, 3, 12, 12)},
            {"input": "body"},
        ),
    }


def _filled(model: nn.Module, draws: torch.Generator) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.4, generator=draws)
    return model


def method(name: str, case: Case) -> Explainer:
    """A method of the table bound to a case, with what it cannot do without."""
    params = dict(FEW.get(name, {}))
    if name == "M2IB":
        params["layers"] = case.towers
    if name == "EG":
        params["baseline"] = case.references
    return METHODS[name](case.task, **params)


def outcome(name: str, case: Case) -> tuple[str, str]:
    """What the table says of a method on a case: a mark, and the sentence behind it."""
    try:
        made = method(name, case)(case.batch, progress=False)
    except AbeError as problem:
        return f"[{problem.code.value}](errors.md#{problem.code.value.lower()})", f"{problem}"
    maps = made.unpack()
    shown = {name: tuple(one.shape) for name, one in maps.items()}
    if shown != case.shapes or not all(bool(one.isfinite().all()) for one in maps.values()):
        return "wrong", f"maps of shape {shown}"
    return (
        ("runs", "") if any(bool(one.any()) for one in maps.values()) else ("zero", "; ".join(made.warnings))
    )


def table() -> str:
    """The table, and what stands behind its codes."""
    found = {kind: {name: outcome(name, case) for name in METHODS} for kind, case in cases().items()}
    titles = [case.title for case in cases().values()]
    lines = [f"| Method | {' | '.join(titles)} |", "| --- " * (len(titles) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(found[kind][name][0] for kind in found)} |" for name in METHODS]
    said: dict[str, list[str]] = {}
    for kind, rows in found.items():
        for name, (_, text) in rows.items():
            if text:
                said.setdefault(text, []).append(f"{name} ({kind})")
    notes = [f"- {', '.join(who)}: {re.sub(r'[<>|]', '', text)}" for text, who in said.items()]
    return "\n".join([*lines, "", *notes]) + "\n"


def main() -> None:
    """Print the table, or write it into the page."""
    reading = argparse.ArgumentParser(description=__doc__)
    reading.add_argument("--write", action="store_true", help="put it into docs/demo1.md")
    made = table()
    if not reading.parse_args().write:
        print(made)
        return
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(before + BEGIN + made + END + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    main()

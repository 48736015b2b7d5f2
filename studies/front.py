"""``python -m studies front``: the pictures of a text, a row and a series at the front of the documentation.

The networks are those of ``python -m studies tasks``. Row and series are the first that the networks have not
learnt from; the sentence is one that anybody can type.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import abe
from abe.task import zoo
from studies import benches, networks

SENTENCE = "A charming and often affecting journey, though it is never quite funny."
SERIES = "1-D CNN, italy-power-demand"


class Measured(nn.Module):
    """`networks.Rows` of numbers as they were measured."""

    def __init__(self, sizes: list[int], numbers: Tensor) -> None:
        super().__init__()
        self.rows = networks.Rows(sizes, numbers.shape[1], 2)
        self.register_buffer("mean", numbers.mean(0))
        self.register_buffer("std", numbers.std(0))

    def forward(self, codes: Tensor, numbers: Tensor) -> Tensor:
        """(n, 2) of codes (n, k) and numbers (n, m)."""
        return self.rows(codes, (numbers - self.mean) / self.std)


def text() -> abe.Explanation:
    """The words of a sentence, and TextCNN."""
    model, tokenizer, labels = zoo.text_model("sentiment-textcnn")
    return abe.explain(abe.text_task(model, tokenizer, labels=list(labels)), SENTENCE, "shapley")


def row() -> abe.Explanation:
    """Somebody on board of the Titanic whom the network has not learnt."""
    table = zoo.load("titanic")
    learnt, held = np.split(np.random.default_rng(0).permutation(len(table)), [4 * len(table) // 5])
    words, numbers = table.categories, [name for name in table.columns if name not in table.categories]
    codes = torch.from_numpy(
        np.stack([np.searchsorted(own, table.columns[n]) for n, own in words.items()], 1)
    )
    wide = torch.from_numpy(np.stack([table.columns[name] for name in numbers], 1)).float()
    model = networks.fitted(
        lambda: Measured([len(own) for own in words.values()], wide[learnt]),
        (codes[learnt], wide[learnt]),
        torch.from_numpy(table.target)[learnt],
        20,
    )
    task = abe.table_task(
        model,
        background={name: column[learnt[:50]] for name, column in table.columns.items()},
        categories={name: list(own) for name, own in words.items()},
        labels=list(table.classes),
    )
    one = {name: column[held[:1]] for name, column in table.columns.items()}
    return abe.explain(task, one, "shapley")


def series() -> abe.Explanation:
    """A day of demand for power in Italy: in which half of the year was it?"""
    bench = benches.TASKS["series"].benches[SERIES](1, None)
    return abe.explain(bench.task, bench.data, "ig", tolerance=0.01)


def main(words: Sequence[str]) -> None:
    """Draw them."""
    parser = argparse.ArgumentParser(prog="python -m studies front", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/_static"), help="folder of the pictures")
    folder = parser.parse_args(words).out
    folder.mkdir(parents=True, exist_ok=True)
    for made in (text, row, series):
        found = made()
        found.plot(folder / f"{made.__name__}.png")
        print(found)
    print(f"Written to {folder}")

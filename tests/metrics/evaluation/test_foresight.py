"""What a comparison is said to run, before it runs, is counted in the units that it will remove."""

import pytest
import torch
from torch import nn

import abe
from abe.metrics.evaluation.defaults import chosen_metrics, defaults_of
from abe.metrics.evaluation.foresight import rows_of
from abe.task.base import Task
from abe.units import Unrun

WORDS = ("a", "charming", "film", "not", "dull")
METHODS, METRICS = ("gradient", "occlusion", "shapley"), ("insertion", "deletion")


class Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(5, 4), nn.Linear(4, 2)

    def forward(self, ids):
        return self.head(self.embed(ids).sum(1))


class Both(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3 * 64, 2), nn.Linear(2, 2)

    def forward(self, image, meta):
        return self.a(image.flatten(1)) + self.b(meta)


def text():
    def tokenizer(said):
        return [WORDS.index(word) for word in said.split()]

    return abe.text_task(Bag(), tokenizer), ["a charming film", "not a dull film", "dull"], 4


def several():
    task = abe.make_task(Both(), {"image": abe.image(), "meta": abe.columns(["age", "weight"])})
    given = {"image": torch.rand(2, 3, 8, 8), "meta": torch.rand(2, 2)}
    return task, given, 18


def rows(task: Task, lifted) -> float:
    methods = [abe.method(name).suited(task.suits) for name in METHODS]
    chosen = chosen_metrics(METRICS, defaults_of(task, None, None, None), task)
    return rows_of(methods, chosen, Unrun(lifted.x, lifted.context, task), len(lifted.x)).total


@pytest.mark.parametrize("make", [text, several])
def test_units_that_people_know_are_counted_and_not_features(make):
    task, given, units = make()
    found = abe.compare(task, given, METHODS, METRICS, progress=False)
    ran = found.setup.passes + sum(origin.cost.passes for origin in found.origins.values())
    ran += sum(score.cost.passes for scores in found.scores.values() for score in scores.values())
    assert ran / 1.5 < rows(task, task.lift(given)) < 1.5 * ran
    assert found.count == units
    assert found.step == 1
    assert f"step=1/{units}" in found.scores["shapley"]["insertion"].label

"""Metrics that explain again, on texts: shifts are taken back, fixed tokens stay, lengths may differ."""

import torch
from tests.task.text.texts import Tokenizer, weights
from torch import Tensor, nn

import abe
from abe.engines.runtime.request import open_request
from abe.metrics.stability import Stability

TEXTS = ["a charming and often affecting journey", "not dull", "a slow film"]


class Reader(nn.Module):
    """A convolution over tokens, whose outputs are as many as there are tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.conv, self.head = nn.Embedding(20, 4), nn.Conv1d(4, 5, 3, padding=1), nn.Linear(5, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.conv(self.embed(ids).movedim(2, 1)).tanh().amax(2))


def task() -> abe.Task:
    return abe.text_task(weights(Reader()), Tokenizer(), output_kind="logits")


def test_gradients_do_not_see_a_shift_that_the_model_takes_back():
    found = abe.compare(task(), TEXTS, ["gradient", "gradient_x_input"], ["input_invariance"], progress=False)
    values = {name: scores["input_invariance"].values for name, scores in found.scores.items()}
    assert float(values["gradient"].max()) < 1e-12
    assert float(values["gradient_x_input"].min()) > 1e-3


def test_neighbours_of_texts_of_different_lengths_leave_special_tokens_alone():
    metrics = ["relative_representation_stability", "max_sensitivity"]
    found = abe.compare(task(), TEXTS, ["gradient_x_input"], metrics, progress=False)
    for name in metrics:
        assert bool(torch.isfinite(found.scores["gradient_x_input"][name].values).all())
    seen = list[Tensor]()

    with open_request(task(), TEXTS, progress=False) as problem:
        original = problem.with_

        def watch(**changes):
            seen.extend([changes["x"]] if "x" in changes else [])
            return original(**changes)

        problem.with_ = watch
        explanation = abe.explain(task(), TEXTS, "gradient", progress=False)
        Stability(ratio="sensitivity", summary="max", samples=2, radius=0.1).measure(problem, explanation)
        fixed = problem.fixed
        assert fixed is not None
        moved = [one - problem.x for one in seen if one.shape == problem.x.shape]
        assert all(not bool((step * fixed).any()) and bool((step * ~fixed).any()) for step in moved)
        assert moved

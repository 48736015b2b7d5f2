"""Curves of robustness: what they say, whose they are, and what they cannot be of."""

import math
from typing import Any

import pytest
import torch
from tests.task.text.texts import MODELS, Tokenizer, weights
from torch import nn

import abe
from abe.errors import AbeError, Code
from abe.robustness.evaluation import RobustnessCurve


def test_a_class_at_every_position_is_no_predicted_class() -> None:
    """Its outputs (b, c, h, w) have no one class that could be right, whichever entry is named."""
    task = abe.image_task(nn.Sequential(nn.Conv2d(3, 4, 3)).eval(), output_kind="logits")
    with pytest.raises(AbeError, match="measured by the predicted class") as caught:
        abe.evaluate_robustness(
            task, torch.rand(2, 3, 8, 8), "fgsm", epsilons=(0.1,), label=(1, 2, 3), progress=False
        )
    assert caught.value.code is Code.UNSUPPORTED


@pytest.mark.parametrize(
    ("distance", "median"), [([0.1, 0.4], 0.25), ([0.3, 0.1, 0.2], 0.2), ([0.1, math.inf], math.inf)]
)
def test_the_median_distance_of_a_few_samples(distance: list[float], median: float) -> None:
    size = torch.tensor([*distance, 0.0])
    right = torch.tensor([True] * len(distance) + [False])  # one that was wrong before counts for nothing
    names = [str(i) for i in range(len(size))]
    curve = RobustnessCurve("pgd", "linf", [0.5], right, size, size, torch.ones(len(size)), names)
    assert curve.median_distance == pytest.approx(median)


def text_task(name: str, seed: int = 0) -> abe.Task:
    return abe.text_task(weights(MODELS[name](), seed), Tokenizer())


TEXTS = ["a charming film", "not dull", "slow , dull film"]


class States(nn.Module):
    """A series through a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(2, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(x)[0].mean(1))


def kinds() -> dict[str, Any]:
    draws = torch.Generator().manual_seed(3)
    series = [torch.randn(n, 2, generator=draws, dtype=torch.float64) for n in (5, 9, 7)]
    return {
        "masked texts": (text_task("Encoder"), TEXTS),
        "texts of different lengths": (text_task("BiGRU"), TEXTS),
        "series of different lengths": (abe.series_task(weights(States()), axes="btc"), series),
        "an image and numbers": (several(), several_inputs(draws)),
    }


def several() -> abe.Task:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(12, 2), nn.Linear(2, 2)

        def forward(self, image: torch.Tensor, meta: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
            return (self.a(image.flatten(1)) + self.b(meta)) * scale[:, None]

    return abe.make_task(weights(Both()), {"image": abe.image(), "meta": abe.columns()})


def several_inputs(draws: torch.Generator) -> dict[str, torch.Tensor]:
    image = torch.rand(3, 3, 2, 2, generator=draws, dtype=torch.float64)
    meta = torch.randn(3, 2, generator=draws, dtype=torch.float64)
    return {"image": image, "meta": meta, "scale": torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64)}


@pytest.mark.parametrize(
    "kind", ["masked texts", "texts of different lengths", "series of different lengths"]
)
def test_what_belongs_to_samples_goes_with_them(kind: str) -> None:
    """The curve of all samples is that of each alone, and every radius is that of an attack by itself."""
    task, raw = kinds()[kind]
    radii, how = (0.05, 0.5, 2.0), {"steps": 5, "progress": False}
    curve = abe.evaluate_robustness(task, raw, "bim", epsilons=radii, **how)
    assert kind != "masked texts" or bool(curve.broken_at.isfinite().any())
    for place, one in enumerate(raw):
        alone = abe.evaluate_robustness(task, [one], "bim", epsilons=radii, **how)
        assert alone.broken_at[0] == curve.broken_at[place]
        assert alone.queries[0] == curve.queries[place]
        assert float(alone.distance[0]) == pytest.approx(float(curve.distance[place]), abs=1e-9)
    for eps in radii:
        found = abe.attack(task, raw, "bim", eps=eps, **how)
        assert (found.success >= (curve.broken_at == eps)).all()


def test_further_inputs_go_with_their_samples() -> None:
    task, raw = kinds()["an image and numbers"]
    curve = abe.evaluate_robustness(task, raw, "bim", epsilons=(0.05, 0.5), steps=5, progress=False)
    for place in range(3):
        one = {name: values[place : place + 1] for name, values in raw.items()}
        alone = abe.evaluate_robustness(task, one, "bim", epsilons=(0.05, 0.5), steps=5, progress=False)
        assert alone.broken_at[0] == curve.broken_at[place]


def test_texts_transfer_between_models_with_one_embedding_only() -> None:
    tasks = {"a": text_task("Encoder"), "b": text_task("Encoder", 1)}
    with pytest.raises(AbeError, match="means nothing to another") as caught:
        abe.transfer_matrix(tasks, TEXTS, "mim", eps=0.5, progress=False)
    assert caught.value.code is Code.SHAPE
    tasks["b"].model.words.load_state_dict(tasks["a"].model.words.state_dict())
    found = abe.transfer_matrix(tasks, TEXTS, "mim", eps=0.5, progress=False)
    made = abe.attack(tasks["a"], TEXTS, "mim", eps=0.5, early_stop=False, progress=False)
    assert float(found.rates[0, 0]) == pytest.approx(float(made.success.double().mean()))

"""Plausibility: agreement with what people marked."""

import pytest
import torch
from tests.task.text.texts import Bag, Tokenizer, weights

import abe
from abe.errors import Code
from abe.metrics.rationales import average_precision

TASK = abe.text_task(weights(Bag()), Tokenizer())
TEXTS = ["a charming film .", "not dull"]


def maps() -> dict[str, torch.Tensor]:
    lifted = TASK.lift(TEXTS)
    found = torch.zeros_like(lifted.x)
    labels = lifted.units[0].labels[:, 0]
    for sample, values in enumerate(([4.0, 3.0, 2.0, 1.0], [1.0, 2.0])):
        for unit, value in enumerate(values):
            places = (labels[sample] == unit).nonzero().flatten()
            found[sample, 0, places] = value / len(places)
    return {"given": found}


def test_units_are_compared_with_the_flags_of_words() -> None:
    masks = [[False, True, False, True], [False, True]]
    names = ["plausibility", "rationale_f1", "rationale_iou"]
    found = abe.evaluate(TASK, maps(), names, data=TEXTS, masks=masks, progress=False).scores["given"]
    assert found["plausibility"].values.tolist() == pytest.approx([(1 / 2 + 2 / 4) / 2, 1.0])
    assert found["rationale_f1"].values.tolist() == pytest.approx([0.5, 1.0])
    assert found["rationale_iou"].values.tolist() == pytest.approx([1 / 3, 1.0])


def test_another_number_of_flags_is_refused() -> None:
    with pytest.raises(abe.AbeError) as caught:
        abe.evaluate(TASK, maps(), ["plausibility"], data=TEXTS, masks=[[True], [True]], progress=False)
    assert caught.value.code is Code.MASK
    assert "one flag for every word" in str(caught.value)


def test_average_precision_by_hand() -> None:
    place, truth = torch.tensor([2, 0, 1, 3]), torch.tensor([True, False, True, False])
    assert average_precision(place, truth) == pytest.approx((1 / 2 + 2 / 3) / 2)

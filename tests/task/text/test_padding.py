"""Models whose mask leaves padding out, and one that reads it all the same."""

import pytest
import torch
from tests.task.text.texts import Tokenizer, weights
from torch import nn

import abe

TEXTS = ["a charming and often affecting journey", "a dull film", "not slow"]
SPEAKS = "in spite of its mask"


class BothWays(nn.Module):
    """A mean of states over tokens; ``whole`` runs its recurrence over the padding too."""

    def __init__(self, *, whole: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 4)
        self.states = nn.GRU(4, 3, batch_first=True, bidirectional=True)
        self.head = nn.Linear(6 if whole else 4, 2)
        self.whole = whole

    def forward(self, input_ids, attention_mask):
        vectors = self.embed(input_ids)
        read = self.states(vectors)[0] if self.whole else vectors
        mask = attention_mask[:, :, None]
        return self.head((read * mask).sum(1) / mask.sum(1))


@pytest.mark.parametrize("method", ["ig", "pattern_net", "lrp_epsilon", "occlusion"])
def test_a_model_that_reads_padding_in_spite_of_its_mask_runs_each_text_alone(method):
    task = abe.text_task(weights(BothWays(whole=True)), Tokenizer(special=False))
    together = abe.explain(task, TEXTS, method, target=0, progress=False)
    assert any(SPEAKS in text for text in together.warnings)
    for number, text in enumerate(TEXTS):
        alone = abe.explain(task, text, method, target=0, progress=False)
        length = alone.attribution.shape[2]
        assert torch.allclose(together.attribution[number, :, :length], alone.attribution[0], atol=1e-12)
        assert not together.attribution[number, :, length:].any()
        assert torch.allclose(together.score[number], alone.score[0], atol=1e-12)


def test_a_mask_is_tried_once_and_texts_of_one_length_need_no_trial():
    task = abe.text_task(weights(BothWays(whole=False)), Tokenizer(special=False), embedding="embed")
    assert abe.explain(task, TEXTS[0], "gradient", progress=False).cost.forward_rows == 1
    first = abe.explain(task, TEXTS, "gradient", progress=False)
    second = abe.explain(task, TEXTS, "gradient", progress=False)
    assert first.cost.forward_rows - second.cost.forward_rows == 2
    assert not any(SPEAKS in text for text in (*first.warnings, *second.warnings))

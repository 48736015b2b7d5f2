"""Photograph and caption
======================

Why does the caption fit? Two small towers that look for colours, so that the answers can be checked by eye.
"""

# %%
# One tower averages what is red, green and blue in a photograph, the other what words say of these colours;
# what says nothing of colours fits nothing. They are made here; with CLIP the task is
# ``abe.pair_task(model, processor)``.

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

import abe

WORDS = ["[PAD]", "[MASK]", "a", "red", "green", "blue", "ball", "on", "grass", "under", "sky"]
MEANS = {
    "red": (1, 0, 0),
    "ball": (0.5, 0, 0),
    "green": (0, 1, 0),
    "grass": (0, 0.8, 0),
    "blue": (0, 0, 1),
    "sky": (0, 0, 0.9),
}


class Colours(nn.Module):
    """Embeds photographs and captions by the colours in them, and by one number that only each side has."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Conv2d(3, 3, 5, padding=2, bias=False)
        self.words = nn.Embedding(len(WORDS), 3)
        with torch.no_grad():
            self.filter.weight.fill_(-0.02)
            for channel in range(3):
                self.filter.weight[channel, channel] = 0.04
            self.words.weight.zero_()
            for word, mean in MEANS.items():
                self.words.weight[WORDS.index(word)] = torch.tensor(mean)

    def encode_image(self, image: Tensor) -> Tensor:
        seen = self.filter(image).relu().mean((2, 3))
        return torch.cat([seen, torch.full_like(seen[:, :1], 0.05), torch.zeros_like(seen[:, :1])], 1)

    def encode_text(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        said = (self.words(ids) * attention_mask[..., None]).sum(1)
        return torch.cat([said, torch.zeros_like(said[:, :1]), torch.ones_like(said[:, :1])], 1)


class Tokenizer:
    """Words of the list above."""

    pad_token, mask_token = WORDS[:2]
    vocab = {word: number for number, word in enumerate(WORDS)}  # noqa: RUF012 -- nobody writes into it

    def __call__(self, text: str) -> dict[str, list[int]]:
        ids = [self.vocab[word] for word in text.lower().split()]
        return {"input_ids": ids, "attention_mask": [1] * len(ids)}


task = abe.pair_task(Colours().eval(), Tokenizer())

# %%
# A red ball on grass, under a blue sky.

rows, columns = torch.meshgrid(torch.linspace(0, 1, 48), torch.linspace(0, 1, 48), indexing="ij")
photo = torch.where(
    rows < 0.55, torch.tensor([0.35, 0.55, 0.95]).view(3, 1, 1), torch.tensor([0.25, 0.7, 0.2]).view(3, 1, 1)
)
ball = (rows - 0.68).square() + (columns - 0.3).square() < 0.03
photo = torch.where(ball, torch.tensor([0.9, 0.15, 0.1]).view(3, 1, 1), photo)

# %%
# Both sides at once: patches and words share the change of the similarity between them.

both = abe.explain(task, (photo, "a red ball on grass"), "ig", steps=40)
print(both)
both.plot()

# %%
# What needs positions runs on each side in turn, the other whole: RISE here.

abe.explain(task, (photo, "a red ball on grass"), "rise", evaluations=400).plot()

# %%
# One caption against another: the blue sky now speaks against the ball.

contrast = abe.explain(task, (photo, "a red ball"), "ig", against="blue sky", steps=40)
contrast.plot()

# %%
# How good are the maps? Of each side, what is lost when only what the map shows is kept (ICD, TCD).

pairs = [(photo, "a red ball on grass"), (photo, "blue sky"), (photo.flip(2), "green grass under sky")]
comparison = abe.compare(
    task, pairs, ["ig", "gradient", "rise"], metrics=["icd", "tcd", ("ins", {"curve": "logit"})]
)
print(comparison)
plt.show()

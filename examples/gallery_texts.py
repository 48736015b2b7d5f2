"""Texts
=====

What each word of a sentence does for a network's answer: a small convolutional network on invented remarks
about films, which learnt that *not* turns the word behind it around.
"""

# %%
# Half of the remarks praise; "not" in front of a word makes it mean the opposite.

import itertools
import random

import torch
from pictures import show
from torch import nn

import abe

PRAISE, BLAME = ["charming", "clever", "moving", "bright"], ["dull", "slow", "clumsy", "flat"]
OPENINGS, THINGS = ["a", "such a", "quite a", "what a"], ["film", "story", "play", "journey"]
draws = random.Random(0)
REMARKS = [
    (f"{opening} {'not ' if turned else ''}{word} {thing} .", (word in PRAISE) != turned)
    for opening, word, thing, turned in itertools.product(OPENINGS, PRAISE + BLAME, THINGS, (False, True))
]
draws.shuffle(REMARKS)
WORDS = ["[pad]", "[mask]", *sorted({word for remark, _ in REMARKS for word in remark.split()})]


class Tokenizer:
    """Ids of words, and their places in the text."""

    pad_token_id, mask_token_id, itos = 0, 1, WORDS

    def __call__(self, text: str) -> list[int]:
        return [WORDS.index(word) for word in text.split()]


class Remarks(nn.Module):
    """Convolution over neighbouring words, the largest over the text, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.conv = nn.Embedding(len(WORDS), 12), nn.Conv1d(12, 24, 3, padding=1)
        self.head = nn.Linear(24, 2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(self.embed(ids).transpose(1, 2)).relu().amax(2))


generator, tokenizer, model = torch.Generator().manual_seed(0), Tokenizer(), Remarks()
with torch.no_grad():
    for weights in model.parameters():
        weights.copy_(0.3 * torch.randn(weights.shape, generator=generator))
groups = [[r for r in REMARKS if len(r[0].split()) == n] for n in (4, 5, 6)]
optimiser = torch.optim.Adam(model.parameters(), 0.01)
for _ in range(60):
    for group in groups:
        ids = torch.tensor([tokenizer(remark) for remark, _ in group])
        loss = nn.functional.cross_entropy(model(ids), torch.tensor([int(good) for _, good in group]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
model.eval()

# %%
# The task finds the embedding by watching one run. Shapley values of words: each is replaced by the mask.

task = abe.text_task(model, tokenizer, labels=["blame", "praise"])
texts = ["quite a charming film .", "quite a not charming film .", "what a not dull journey ."]
exp = abe.explain(task, texts, "shapley", progress=False)
show(exp.plot())
for text, shares in zip(texts, exp.by_unit(), strict=True):
    print(text, {word: round(share, 2) for word, share in shares})

# %%
# Paths lead from the mask's vector to each word's; deletion lets the other words move together.

paths = abe.explain(task, texts, "ig", tolerance=0.01, progress=False)
show(paths.plot())
deleted = abe.explain(task, texts, "shapley", removal="delete", progress=False)
show(deleted.plot())

# %%
# Which methods order the words best? Insertion and deletion change one word after the other.

sample = [remark for remark, _ in REMARKS[:24]]
table = abe.compare(
    task,
    sample,
    ["gradient_x_input", "ig", "shapley", "occlusion"],
    ["insertion", "deletion"],
    progress=False,
)
print(table)

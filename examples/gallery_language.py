"""Language models
===============

Which words does the next one rest on? A small causal network learns a toy grammar here, in seconds.
"""

# %%
# The grammar: somebody is in a place, somebody else in another, and the text goes on with one of them: the
# next word is that one's place. So the decisive words are known.

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import abe

PEOPLE, PLACES = ["Ann", "Bob", "Cid", "Dan"], ["Oslo", "Rome", "Lima", "Bern"]
WORDS = ["<pad>", "in", ".", *PEOPLE, *PLACES]
NUMBER = {word: number for number, word in enumerate(WORDS)}


class Tokenizer:
    """A token is a word or a sign."""

    pad_token, vocab = "<pad>", NUMBER

    def __call__(self, text: str) -> list[int]:
        return [NUMBER[word] for word in text.replace(".", " .").split()]


class Small(nn.Module):
    """A look at the last three tokens, then two layers of causal attention."""

    def __init__(self, d: int = 32) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(len(WORDS), d), nn.Embedding(16, d)
        self.near = nn.Conv1d(d, d, 3)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(d, 4, 2 * d, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(2)
        )
        self.head = nn.Linear(d, len(WORDS))

    def forward(self, ids: Tensor) -> Tensor:
        t = ids.shape[1]
        x = self.embed(ids)
        near = self.near(F.pad(x.transpose(1, 2), (2, 0))).transpose(1, 2)
        x = x + near + self.place(torch.arange(t))
        for layer in self.layers:
            x = layer(x, src_mask=nn.Transformer.generate_square_subsequent_mask(t), is_causal=True)
        return self.head(x)


def story(draw: torch.Generator) -> str:
    """Two people, two places, and one of them again."""
    a, b = torch.randperm(4, generator=draw)[:2].tolist()
    c, d = torch.randperm(4, generator=draw)[:2].tolist()
    who, where = (a, c) if torch.rand((), generator=draw) < 0.5 else (b, d)
    facts = f"{PEOPLE[a]} in {PLACES[c]}. {PEOPLE[b]} in {PLACES[d]}."
    return f"{facts} {PEOPLE[who]} in {PLACES[where]}"


draw, tokenizer = torch.Generator().manual_seed(0), Tokenizer()
with torch.random.fork_rng():
    torch.random.default_generator.manual_seed(0)
    model = Small()
optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
for _ in range(500):
    ids = torch.tensor([tokenizer(story(draw)) for _ in range(64)])
    loss = F.cross_entropy(model(ids[:, :-1])[:, -1], ids[:, -1])
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
model.eval()
print(f"loss {loss.item():.3f}")

# %%
# By itself the model goes on with the answer. Without a method named, words are removed one by one.

task = abe.language_task(model, tokenizer)
prompt = "Ann in Oslo. Bob in Rome. Bob in"
found = abe.explain(task, prompt, progress=False)
print(found)

# %%
# Why *Rome* and not *Oslo*? Shapley values share the difference out among the sentences, which are too few to
# need sampling.

shared = abe.explain(task, (prompt, " Rome"), "shapley", against=" Oslo", by="sentence", progress=False)
print(shared.by_unit()[0])

# %%
# A template: what would the answer be worth if the place, or the name that comes again, were another?

slots = abe.explain(
    task,
    ("Ann in Oslo. Bob in {}. {} in", " Rome"),
    "shapley",
    slots=[("Rome", "Lima"), ("Bob", "Ann")],
    removal="alternatives",
    progress=False,
)
print(slots.by_unit()[0])

# %%
# Every token of a longer text at once: one forward pass for all, and a heat map of what each rests on.

whole = ("Ann in Oslo.", " Bob in Rome. Bob in Rome")
table = abe.explain(task, whole, progress=False).table()
table.plot()

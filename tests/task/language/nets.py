"""Small causal language models of our own, and tokenizers that cut texts in ways of their own."""

from types import SimpleNamespace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SEEN = list[tuple[int, int]]()
"""(rows, positions) of every call of a `Causal`."""
WORDS = [
    "<pad>",
    "<s>",
    "</s>",
    "the",
    "a",
    "cat",
    "dog",
    "sat",
    "ran",
    "on",
    "under",
    "mat",
    ".",
    "was",
    "not",
    "good",
]


class Words:
    """Tokens are words; a prompt begins with a special one where ``begins``."""

    pad_token, bos_token, eos_token = "<pad>", "<s>", "</s>"

    def __init__(self, begins: bool = True) -> None:
        self.vocab = {word: number for number, word in enumerate(WORDS)}
        self.begins = begins

    def __call__(self, text: str) -> list[int]:
        ids = [self.vocab[word] for word in text.replace(".", " .").split()]
        return [1, *ids] if self.begins else ids


class Bare:
    """Words, and nothing said of padding, beginnings or ends."""

    def __init__(self) -> None:
        self.vocab = {word: number for number, word in enumerate(WORDS)}

    def __call__(self, text: str) -> list[int]:
        return [self.vocab[word] for word in text.split()]


class Syllables:
    """Longest pieces first, so that two texts written together may be cut elsewhere than apart."""

    vocab: ClassVar = {
        piece: i for i, piece in enumerate(["<pad>", "un", "der", "under", "stand", "derst", "and", " "])
    }
    pad_token = "<pad>"

    def __call__(self, text: str) -> list[int]:
        found, at = list[int](), 0
        while at < len(text):
            piece = next(p for p in sorted(self.vocab, key=len, reverse=True) if text.startswith(p, at))
            found.append(self.vocab[piece])
            at += len(piece)
        return found


class Causal(nn.Module):
    """One layer of causal attention in float64, its weights from a seed.

    Args:
        seed: of the weights.
        most: positions that it says it takes.
        caches: whether it gives back, and takes, what it computed for earlier positions.
    """

    def __init__(self, seed: int = 0, most: int = 64, entries: int = len(WORDS)) -> None:
        super().__init__()
        self.config = SimpleNamespace(max_position_embeddings=most, eos_token_id=None)
        d, draw = 8, torch.Generator().manual_seed(seed)
        self.embed, self.place = nn.Embedding(entries, d), nn.Embedding(most, d)
        self.query, self.key, self.value = (nn.Linear(d, d, bias=False) for _ in range(3))
        self.norm, self.head = nn.LayerNorm(d), nn.Linear(d, entries)
        with torch.no_grad():
            for one in self.parameters():
                one.copy_(torch.randn(one.shape, generator=draw) * (1.5 if one.ndim > 1 else 0.3))
        self.double().eval()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Any = None,
        past_key_values: Any = None,
        use_cache: bool = False,
    ) -> Any:
        start = 0 if past_key_values is None else past_key_values.keys.shape[1]
        n, t = input_ids.shape
        SEEN.append((n, t))
        places = torch.arange(start, start + t)
        x = self.embed(input_ids) + self.place(places)
        key, value = self.key(x), self.value(x)
        if past_key_values is not None:
            key = torch.cat([past_key_values.keys, key], 1)
            value = torch.cat([past_key_values.values, value], 1)
        hidden = places[:, None] < torch.arange(start + t)
        weights = self.query(x) @ key.transpose(1, 2) / 8**0.5
        if attention_mask is not None:
            hidden = hidden | (attention_mask == 0)[:, None]
        weights = weights.masked_fill(hidden, -1e9).softmax(2)
        logits = self.head(F.gelu(self.norm(x + weights @ value)))
        past = Past(key.detach(), value.detach()) if use_cache else None
        return SimpleNamespace(logits=logits, past_key_values=past)


class Past:
    """What a model computed for earlier positions, shortened and repeated as those of transformers are."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = keys, values

    def crop(self, less: int) -> None:
        self.keys, self.values = self.keys[:, :less], self.values[:, :less]

    def batch_repeat_interleave(self, n: int) -> None:
        self.keys, self.values = self.keys.repeat(n, 1, 1), self.values.repeat(n, 1, 1)

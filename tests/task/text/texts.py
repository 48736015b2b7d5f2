"""Small models of text, and a tokenizer that cuts words into pieces."""

import re
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = ("a", "charming", "and", "often", "affecting", "journey", "slow", "dull", "film", "not", ",", ".")


class Tokenizer:
    """Words of a small vocabulary; ``charming`` and ``affecting`` are two pieces each."""

    pad_token, unk_token, cls_token, sep_token, mask_token = SPECIAL

    def __init__(self, *, special: bool = True, offsets: bool = True, longest: int | None = None) -> None:
        listed = [*SPECIAL, *WORDS, "charm", "affect", "##ing"]
        self.vocab = {word: number for number, word in enumerate(listed)}
        self.special, self.offsets = special, offsets
        self.pieces = {"charming": ("charm", "##ing"), "affecting": ("affect", "##ing")}
        if longest is not None:
            self.model_max_length = longest

    def __len__(self) -> int:
        return len(self.vocab)

    def convert_tokens_to_ids(self, token: str) -> int:
        return self.vocab.get(token, self.vocab["[UNK]"])

    def __call__(self, text: str, pair: str | None = None) -> dict[str, Any]:
        ids, offsets, marks, sequences = [], [], [], []
        for which, one in enumerate((text, pair)):
            if one is None:
                continue
            found = list(self._cut(one))
            if self.special and which == 0:
                found = [("[CLS]", 0, 0), *found]
            found += [("[SEP]", 0, 0)] if self.special else []
            for piece, start, end in found:
                ids.append(self.convert_tokens_to_ids(piece))
                offsets.append((start, end))
                marks.append(int(piece in SPECIAL[2:4]))
                sequences.append(which)
        made: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": [1] * len(ids),
            "special_tokens_mask": marks,
        }
        made["token_type_ids"] = sequences
        if self.offsets:
            made |= {"offset_mapping": offsets, "sequence_ids": sequences}
        return made

    def _cut(self, text: str) -> Any:
        for found in re.finditer(r"\w+|[^\w\s]", text.lower()):
            at = found.start()
            for piece in self.pieces.get(found.group(), (found.group(),)):
                size = len(piece.removeprefix("##"))
                yield piece, at, at + size
                at += size


def weights(model: nn.Module, seed: int = 0) -> Any:
    """The model with weights of its own, in float64 and evaluation mode."""
    made = torch.Generator().manual_seed(seed)
    model = model.double().eval()
    with torch.no_grad():
        for one in model.parameters():
            one.copy_(torch.randn(one.shape, generator=made, dtype=torch.float64) * 0.5)
    return model


class Bag(nn.Module):
    """The sum of the tokens' vectors, read by a linear head: a word's share is w·e."""

    def __init__(self, entries: int = 20, classes: int = 3) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(entries, 6), nn.Linear(6, classes, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embed(ids).sum(1))


class TextCNN(nn.Module):
    """Convolution over time, the largest over time, a head."""

    def __init__(self, entries: int = 20) -> None:
        super().__init__()
        self.embed, self.conv = nn.Embedding(entries, 6), nn.Conv1d(6, 8, 3, padding=1)
        self.head = nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.conv(self.embed(ids).transpose(1, 2)).relu().amax(2))


class BiGRU(nn.Module):
    """A recurrent net both ways, its last states, a head."""

    def __init__(self, entries: int = 20) -> None:
        super().__init__()
        self.embed = nn.Embedding(entries, 6)
        self.rnn = nn.GRU(6, 5, batch_first=True, bidirectional=True)
        self.head = nn.Linear(10, 3)

    def forward(self, ids: Tensor) -> Tensor:
        _, last = self.rnn(self.embed(ids))
        return self.head(last.transpose(0, 1).flatten(1))


class Encoder(nn.Module):
    """Two layers of attention under a mask, with positions, types and a pooled first token."""

    def __init__(self, entries: int = 20, width: int = 8) -> None:
        super().__init__()
        self.config = SimpleNamespace(
            max_position_embeddings=32, id2label={0: "bad", 1: "good", 2: "neither"}
        )
        self.words, self.places = nn.Embedding(entries, width), nn.Embedding(32, width)
        self.types = nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width)
        self.q, self.k, self.v = (nn.ModuleList(nn.Linear(width, width) for _ in range(2)) for _ in range(3))
        self.out = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.head = nn.Linear(width, 3)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> Any:
        t = input_ids.shape[1]
        x = self.words(input_ids) + self.places(torch.arange(t, device=input_ids.device))
        types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        x = self.norm(x + self.types(types))
        for q, k, v, out in zip(self.q, self.k, self.v, self.out, strict=True):
            scores = q(x) @ k(x).transpose(1, 2) / x.shape[2] ** 0.5
            if attention_mask is not None:
                scores = scores.masked_fill(attention_mask[:, None, :] == 0, -1e9)
            x = x + out(scores.softmax(-1) @ v(x)).tanh()
        return SimpleNamespace(logits=self.head(x[:, 0].tanh()))


MODELS = {"Bag": Bag, "TextCNN": TextCNN, "BiGRU": BiGRU, "Encoder": Encoder}
TEXTS = ("a charming and often affecting journey .", "not dull", "slow , dull film")

"""Networks that read texts, and a tokenizer of words: plain PyTorch and plain Python.

Both networks take the tokens that are there and no others: what the attention mask leaves out, padding or a
token taken away, has no influence at all, so that a padded batch gives what each text gives alone. Where a
token in the middle is left out, a TextCNN sees a gap of zeros, and to a BiGRU its neighbours are neighbours.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from abe.errors import Code, InputError

PAD, UNKNOWN, MASK = "[PAD]", "[UNK]", "[MASK]"
SPECIAL = (PAD, UNKNOWN, MASK)
"""The first numbers of every vocabulary."""
WORD = re.compile(rf"{'|'.join(map(re.escape, SPECIAL))}|\w+(?:['’]\w+)*|[^\w\s]")
"""One of these, a word with what an apostrophe ties to it, or a single other sign."""


@dataclass(frozen=True)
class WordTokenizer:
    """Words and signs as numbers, in lower case.

    ``tokenizer(text)`` gives the numbers of one text as lists; ``tokenizer([text, …])`` those of several,
    padded at the end to one length. Offsets are (start, end) of every token in its text; those of padding
    are (0, 0).

    Args:
        words: the vocabulary by number; the first three are `SPECIAL`.

    Example:
        >>> tokenizer = WordTokenizer.of(["A fine film.", "A dull film."], least=1)
        >>> tokenizer("A fine, fine film")["input_ids"]
        [4, 7, 1, 7, 5]
        >>> tokenizer.decode([4, 7, 2])
        'a fine [MASK]'
    """

    words: tuple[str, ...]

    pad_token = PAD
    unk_token = UNKNOWN
    mask_token = MASK
    pad_token_id = SPECIAL.index(PAD)
    unk_token_id = SPECIAL.index(UNKNOWN)
    mask_token_id = SPECIAL.index(MASK)
    all_special_ids = tuple(range(len(SPECIAL)))

    @classmethod
    def of(cls, texts: Iterable[str], *, least: int = 2) -> "WordTokenizer":
        """The vocabulary of some texts, the most frequent words first.

        Args:
            texts: to be counted.
            least: how often a word must occur to have a number of its own.
        """
        found = (word for text in texts for word in WORD.findall(text))
        counts = Counter(word.lower() for word in found if word not in SPECIAL)
        kept = sorted((word for word, n in counts.items() if n >= least), key=lambda w: (-counts[w], w))
        return cls((*SPECIAL, *kept))

    def __len__(self) -> int:
        return len(self.words)

    def __repr__(self) -> str:
        return f"WordTokenizer({len(self)} words)"

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Number of every word."""
        return {word: number for number, word in enumerate(self.words)}

    def __call__(self, text: Any) -> dict[str, list[Any]]:
        """Numbers, attention mask and offsets of a text, or of a list of texts."""
        if isinstance(text, str):
            return self._one(text)
        each = [self._one(one) for one in _texts(text)]
        longest = max((len(one["input_ids"]) for one in each), default=0)
        filling = {"input_ids": self.pad_token_id, "attention_mask": 0, "offsets": (0, 0)}
        return {
            name: [one[name] + [fill] * (longest - len(one[name])) for one in each]
            for name, fill in filling.items()
        }

    def _one(self, text: str) -> dict[str, list[Any]]:
        found = list(WORD.finditer(text))
        return {
            "input_ids": [self._number(match[0]) for match in found],
            "attention_mask": [1] * len(found),
            "offsets": [match.span() for match in found],
        }

    def _number(self, word: str) -> int:
        return self.numbers.get(word if word in SPECIAL else word.lower(), self.unk_token_id)

    def convert_ids_to_tokens(self, ids: Iterable[Any]) -> list[str]:
        """The word of every number.

        Raises:
            InputError: there is no such number.
        """
        numbers = [int(number) for number in ids]
        wrong = [number for number in numbers if not 0 <= number < len(self)]
        if wrong:
            raise InputError(
                Code.OUT_OF_BOUNDS,
                "The vocabulary has no word of this number",
                got=str(wrong[0]),
                expected=f"0 to {len(self) - 1}",
            )
        return [self.words[number] for number in numbers]

    def decode(self, ids: Iterable[Any]) -> str:
        """The words of some numbers with spaces between; padding is left out.

        Raises:
            InputError: there is no such number.
        """
        return " ".join(word for word in self.convert_ids_to_tokens(ids) if word != PAD)

    def get_vocab(self) -> dict[str, int]:
        """Number of every word."""
        return dict(self.numbers)


def _texts(given: Any) -> list[str]:
    """A list of texts, or a refusal."""
    odd = [given]
    if isinstance(given, Sequence) and not isinstance(given, bytes):
        odd = [one for one in given if not isinstance(one, str)]
        if not odd:
            return list(given)
    raise InputError(
        Code.DTYPE,
        "The tokenizer takes texts",
        got=type(odd[0]).__name__,
        expected="a text, or a list of texts",
    )


class TextModel(NamedTuple):
    """A network that reads texts, and what is needed to ask it.

    Attributes:
        model: takes ``input_ids`` (b, t) and ``attention_mask`` (b, t).
        tokenizer: text -> ``input_ids``, ``attention_mask`` and, of a `WordTokenizer`, ``offsets``.
        labels: class names by number; empty for a network without classes.
    """

    model: nn.Module
    tokenizer: Any
    labels: tuple[str, ...]


class TextCNN(nn.Module):
    """Embedding, convolutions of several widths side by side, the largest value over time (Kim 2014).

    Args:
        vocabulary: numbers that a token may have; 0 is padding.
        classes: outputs.
        width: of the embedding.
        filters: of every convolution.
        sizes: tokens that a convolution sees at once.
    """

    def __init__(
        self,
        vocabulary: int,
        classes: int = 2,
        *,
        width: int = 64,
        filters: int = 100,
        sizes: Sequence[int] = (3, 4, 5),
    ) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=0)
        self.convolutions = nn.ModuleList(nn.Conv1d(width, filters, size) for size in sizes)
        self.head = nn.Linear(filters * len(sizes), classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(b, t) numbers, and 1 where a token is, to (b, classes) logits."""
        there = _there(input_ids, attention_mask)
        x = self.embedding(input_ids)
        there = there[:, None].to(x)
        x = x.transpose(1, 2) * there
        found: list[Tensor] = []
        for size, convolution in zip(self.sizes, self.convolutions, strict=True):
            # as many positions as tokens: a text of one token is a text, and zeros follow the last one
            seen = F.relu(convolution(F.pad(x, ((size - 1) // 2, size // 2))))
            found.append((seen * there).amax(2))  # none is below 0, so what is not there never wins
        return self.head(torch.cat(found, 1))


class BiGRU(nn.Module):
    """Embedding, a GRU from either end, the mean over the tokens.

    Args:
        vocabulary: numbers that a token may have; 0 is padding.
        classes: outputs.
        width: of the embedding.
        hidden: units of either GRU.
    """

    def __init__(self, vocabulary: int, classes: int = 2, *, width: int = 64, hidden: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=0)
        self.forwards = nn.GRU(width, hidden, batch_first=True)
        self.backwards = nn.GRU(width, hidden, batch_first=True)
        self.head = nn.Linear(2 * hidden, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(b, t) numbers, and 1 where a token is, to (b, classes) logits."""
        there = _there(input_ids, attention_mask)
        x = self.embedding(input_ids)
        # the tokens that are there, first to last and last to first; what is not there follows either way
        place = torch.arange(there.shape[1], device=there.device).expand_as(there)
        first = torch.where(there, place, place + there.shape[1]).argsort(1)
        last = torch.where(there, -place, place + 1).argsort(1)
        seen = torch.cat(
            [
                gru(x.gather(1, order[..., None].expand_as(x)))[0]
                for gru, order in ((self.forwards, first), (self.backwards, last))
            ],
            2,
        )
        left = (place < there.sum(1, keepdim=True)).to(x)
        return self.head((seen * left[..., None]).sum(1) / left.sum(1, keepdim=True).clamp(min=1))


def _there(input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """(b, t) whether a token is there."""
    return input_ids != 0 if attention_mask is None else attention_mask.bool()

"""What a language model is given beside its tokens, and how what it knows of a prompt's beginning is used."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from abe.task.language.generating import Voice
from abe.task.language.spans import Alternatives
from abe.task.lifted import SAME, Context
from abe.types import Cost

DECODED = "decoded"
"""Key of `Context.about`: (b, m) what a decoder is given: its first token and the answer."""
LEAST = 4
"""Fewest positions of a beginning that are worth to be kept."""


@dataclass
class Feeding:
    """Keywords of a call of the model, and the beginning of prompts that all rows of a chunk share.

    Attributes:
        voice: how the model is called.
        last: how many of the last positions are read.
        prompts: by number, the ids (1, t) of every prompt with its answer, and their vectors (1, d, t).
        remembers: whether beginnings are computed once.
        alternatives: of templates, what may stand in their slots; or None.
        cost: of what was left out, and computed to be kept, since somebody asked.
    """

    voice: Voice
    last: int
    prompts: Mapping[int, tuple[Tensor, Tensor]] = field(default_factory=dict[int, tuple[Tensor, Tensor]])
    remembers: bool = False
    alternatives: Alternatives | None = None
    cost: Cost = field(default_factory=Cost)
    _kept: dict[int, Any] = field(default_factory=dict[int, Any], repr=False)

    def __call__(self, context: Context) -> dict[str, Any]:
        found: dict[str, Any] = {"use_cache": False} if self.voice.caches else {}
        if self.voice.keeps:
            found["logits_to_keep"] = self.last
        if DECODED in context.about:
            decoded = context.about[DECODED]
            found["decoder_input_ids"] = decoded
        return found

    def shorter(
        self, x: Tensor, context: Context, model: nn.Module
    ) -> tuple[Tensor, Context, dict[str, Any]]:
        """The rows without the beginning that they share with their prompt, and what is known of it.

        Exact for a causal model: what it computes at a position depends on the positions before only.
        """
        whole = x, context, dict[str, Any]()
        same = context.about.get(SAME)
        if (
            not self.remembers
            or self.voice.caches is None
            or same is None
            or len(x) < 2
            or len(same.unique()) > 1
        ):
            return whole
        number = int(same[0])
        if number not in self.prompts:
            return whole
        ids, vectors = self.prompts[number]
        start = min(self._alike(x, context, vectors), x.shape[2] - self.last, ids.shape[1] - 1)
        if start < LEAST:
            return whole
        past = self._past(number, ids, model, start, len(x))
        if past is None:
            return whole
        t = x.shape[2]
        self.cost.positions_saved += start * len(x)
        mask = self.voice.attention
        values = {
            key: value if key == mask or value.ndim < 2 or value.shape[1] != t else value[:, start:]
            for key, value in context.values.items()
        }
        cut = Context(values, context.about, context.beneath)
        return x[:, :, start:], cut, {self.voice.caches or "": past}

    def spent(self) -> Cost:
        """What was left out, and computed to be kept, since this was asked last."""
        found, self.cost = self.cost, Cost()
        return found

    def _alike(self, x: Tensor, context: Context, vectors: Tensor) -> int:
        """How many first positions of all rows are those of the prompt, and attended to."""
        t = min(x.shape[2], vectors.shape[2])
        other = (x[:, :, :t] != vectors[:, :, :t].to(x)).any(0).any(0)
        mask = None if self.voice.attention is None else context.values.get(self.voice.attention)
        if mask is not None:
            other = other | (mask[:, :t] == 0).any(0).to(other.device)
        found = other.nonzero().flatten()
        return int(found[0]) if len(found) else t

    def _past(self, number: int, ids: Tensor, model: nn.Module, start: int, n: int) -> Any:
        """What the model knows of the first positions, once for each of n rows; None where it keeps nothing."""
        if number not in self._kept:
            with torch.no_grad():
                further = {"use_cache": True, **({"logits_to_keep": 1} if self.voice.keeps else {})}
                returned = self.voice.call(model, ids, further)
            self._kept[number] = _usable(self.voice.known(returned))
            self.cost.positions_saved -= ids.shape[1]
            self.cost.forward_rows += 1
            self.cost.forward_calls += 1
        if self._kept[number] is None:
            return None
        past = deepcopy(self._kept[number])
        past.crop(start - ids.shape[1])  # negative: how many to leave out
        past.batch_repeat_interleave(n)
        return past


def _usable(past: Any) -> Any:
    """What a model keeps, where it can be shortened and repeated."""
    return past if all(hasattr(past, name) for name in ("crop", "batch_repeat_interleave")) else None

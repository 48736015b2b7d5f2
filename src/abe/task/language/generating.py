"""Greedy generation by a loop of our own: nothing of the model's settings is read but what ends an answer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from abe.errors import AbeError, Code, ModelError
from abe.instrument.model_state import as_found
from abe.instrument.modes import eager
from abe.task.select import select
from abe.task.text.tokens import LOAD_FIRST, fetches


@dataclass(frozen=True)
class Voice:
    """How a language model is called.

    Attributes:
        ids: keyword or place of the ids.
        attention: keyword of the mask that ends attention to a token; None where it takes none.
        caches: keyword of what it computed for earlier positions, which it also gives back; None without.
        keeps: whether it can be asked for the scores of the last positions only.
        pair: whether it has an encoder and a decoder.
        begins: of such, the id that a decoder begins with.
        ends: ids that end an answer.
        output: where the scores are.
    """

    ids: str | int
    attention: str | None
    caches: str | None
    keeps: bool
    pair: bool
    begins: int | None
    ends: frozenset[int]
    output: Any = None

    def call(self, model: nn.Module, ids: Tensor, further: Mapping[str, Any]) -> Any:
        """What the model returns for ids (n, t)."""
        named = dict(further)
        if self.attention is not None and self.attention not in named:
            named[self.attention] = torch.ones_like(ids)
        try:
            if isinstance(self.ids, int):
                return model(ids, **named)
            return model(**{self.ids: ids}, **named)
        except AbeError:
            raise
        except Exception as problem:
            raise failed(problem) from problem

    def known(self, returned: Any) -> Any:
        """What it computed for all positions so far, to go on from; None where it keeps nothing."""
        return None if self.caches is None else getattr(returned, self.caches, None)

    def logits(self, returned: Any) -> Tensor:
        """(n, t, vocabulary) of what it returned, checked."""
        found = select(returned, self.output)
        if not isinstance(found, Tensor) or found.ndim != 3:
            from abe.task.language.reading import Steps
            from abe.task.lifted import Context

            Steps()(found, Context())  # says what is wrong
        if not bool(torch.isfinite(found).all()):
            raise ModelError(Code.NOT_FINITE_OUTPUT, "The model returned NaN or infinity on the prompt")
        return found


def failed(problem: Exception) -> ModelError:
    """What the model raised, with what to do where it tried to fetch something."""
    away = fetches(problem)
    return ModelError(
        Code.MODEL_FAILED,
        "The model tried to fetch something over the network"
        if away
        else "The model's forward raised an exception on the prompt",
        got=f"{type(problem).__name__}: {problem}"[:240],
        fix=LOAD_FIRST if away else "Check that the model takes what the tokenizer gives",
    )


def greedy(model: nn.Module, voice: Voice, prompt: list[int], most: int, device: torch.device) -> list[int]:
    """The most probable token again and again: at most ``most``, the last of them one that ends an answer.

    What was computed for earlier positions is used again where the model takes it.
    """
    with as_found(model), eager(model), torch.no_grad():
        ids = torch.tensor([prompt], device=device)
        step = _decoder(model, voice, ids) if voice.pair else _causal(model, voice, ids)
        found = list[int]()
        while len(found) < most:
            found.append(step(found))
            if found[-1] in voice.ends:
                break
    return found


def _causal(model: nn.Module, voice: Voice, prompt: Tensor) -> Callable[[list[int]], int]:
    past: Any = None

    def step(found: list[int]) -> int:
        nonlocal past
        whole = torch.cat([prompt, prompt.new_tensor([found])], 1) if found else prompt
        further: dict[str, Any] = {"use_cache": True} if voice.caches else {}
        if voice.attention is not None:
            further[voice.attention] = torch.ones_like(whole)
        if past is not None and voice.caches is not None:
            further[voice.caches] = past
        returned = voice.call(model, whole[:, -1:] if past is not None else whole, further)
        past = voice.known(returned)
        return int(voice.logits(returned)[0, -1].argmax())

    return step


def _decoder(model: nn.Module, voice: Voice, source: Tensor) -> Callable[[list[int]], int]:
    def step(found: list[int]) -> int:
        further = {"decoder_input_ids": source.new_tensor([[voice.begins, *found]])}
        return int(voice.logits(voice.call(model, source, further))[0, -1].argmax())

    return step

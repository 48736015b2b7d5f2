"""What is asked of a language model: prompts, chats, and answers that were given to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from abe.checks import plain
from abe.errors import Code, InputError, SpecError
from abe.task.text.tokens import (
    Encoded,
    Fixed,
    encode,
    is_number,
    of_ids,
    picked,
    special_ids,
    token_names,
)


@dataclass(frozen=True)
class Asked:
    """A prompt, and the answer that it is given.

    Attributes:
        prompt: its tokens, without one that would end it.
        answer: the tokens of the answer; None where the model is to go on by itself.
        shown: what a person reads of the prompt.
        text: the prompt as it was given, which tells how an answer joins it.
    """

    prompt: Encoded
    answer: list[int] | None
    shown: str
    text: Any = None


def read(tokenizer: Any, raw: Any, fixed: Fixed, *, pair: bool) -> list[Asked]:
    """Every prompt of what was given; ``pair`` says that prompt and answer have a tokenizer's ends of their own.

    Raises:
        InputError: nothing, an empty prompt, or what is no prompt.
        SpecError: a text without a tokenizer.
    """
    found = [_asked(tokenizer, one, fixed, pair=pair) for one in _listed(raw)]
    if not found:
        raise InputError(
            Code.EMPTY_BATCH, "There is nothing to explain", got="no prompt", expected="at least one"
        )
    return found


def _listed(raw: Any) -> list[Any]:
    if isinstance(raw, Mapping):
        if "input_ids" not in raw:
            raise _no_prompt(raw)
        return _of_encoding(raw)
    if isinstance(raw, str | tuple) or _is_chat(raw):
        return [raw]
    if isinstance(raw, Tensor | np.ndarray) and raw.ndim == 2:
        return list(raw)
    if isinstance(raw, Tensor | np.ndarray) or (isinstance(raw, list) and raw and all(map(is_number, raw))):
        return [raw]
    if hasattr(raw, "to_list"):
        raw = raw.to_list()
    if isinstance(raw, Sequence):
        return list(raw)
    raise _no_prompt(raw)


def _of_encoding(found: Mapping[str, Any]) -> list[Any]:
    """Rows of ids without the padding that a mask names."""
    rows = found["input_ids"]
    rows = rows.tolist() if isinstance(rows, Tensor | np.ndarray) else list(rows)
    rows = [rows] if rows and not isinstance(rows[0], list | tuple) else rows
    mask = found.get("attention_mask")
    if mask is None:
        return rows
    mask = mask.tolist() if isinstance(mask, Tensor | np.ndarray) else list(mask)
    mask = [mask] if mask and not isinstance(mask[0], list | tuple) else mask
    return [
        [i for i, here in zip(ids, seen, strict=True) if here] for ids, seen in zip(rows, mask, strict=True)
    ]


def _asked(tokenizer: Any, one: Any, fixed: Fixed, *, pair: bool) -> Asked:
    if isinstance(one, tuple):
        if len(one) != 2:
            raise InputError(
                Code.SHAPE,
                "A prompt comes alone or with its answer",
                got=f"a tuple of {len(one)}",
                expected="(prompt, answer)",
            )
        return _with_answer(tokenizer, one[0], one[1], fixed, pair=pair)
    prompt, shown = _prompt(tokenizer, one, fixed, pair=pair)
    return Asked(prompt, None, shown, one)


def _prompt(tokenizer: Any, one: Any, fixed: Fixed, *, pair: bool) -> tuple[Encoded, str]:
    if _is_chat(one):
        return _chat(tokenizer, one, fixed)
    ids = _ids(one)
    if ids is not None:
        found = of_ids(tokenizer, ids, fixed=fixed)
        return _filled(found), spelled(tokenizer, ids)
    _check_text(tokenizer, one)
    if not one.strip():
        raise InputError(
            Code.EMPTY_BATCH, "There is nothing to explain", got="an empty prompt", expected="a word"
        )
    found = encode(tokenizer, one, fixed)
    return _filled(found if pair else open_end(found, tokenizer)), one


def _filled(found: Encoded) -> Encoded:
    if not len(found):
        raise InputError(Code.EMPTY_BATCH, "There is nothing to explain", got="a prompt of no tokens")
    return found


def open_end(found: Encoded, tokenizer: Any) -> Encoded:
    """The tokens without special ones at the end, behind which nothing would follow."""
    kept, special = len(found), special_ids(tokenizer)
    while kept > 1 and found.ids[kept - 1] in special and found.special[kept - 1]:
        kept -= 1
    return found if kept == len(found) else picked(found, range(kept))


def _with_answer(tokenizer: Any, prompt: Any, answer: Any, fixed: Fixed, *, pair: bool) -> Asked:
    encoded, shown = _prompt(tokenizer, prompt, fixed, pair=pair)
    ids = answer_ids(tokenizer, encoded, prompt, answer, pair=pair)
    return Asked(encoded, ids, shown, prompt)


def answer_ids(tokenizer: Any, encoded: Encoded, prompt: Any, answer: Any, *, pair: bool) -> list[int]:
    """The tokens of an answer to a prompt.

    Raises:
        InputError: JOIN where prompt and answer do not meet at the border of two tokens; EMPTY_BATCH for an
            answer of no tokens.
    """
    ids = _ids(answer)
    if ids is None:
        _check_text(tokenizer, answer)
        ids = encode(tokenizer, answer).ids if pair else _joined(tokenizer, encoded, prompt, answer)
    if not ids:
        raise InputError(
            Code.EMPTY_BATCH,
            "The answer has no tokens, so there is nothing to explain",
            got=repr(answer)[:60],
            expected="at least one",
        )
    return ids


def _joined(tokenizer: Any, encoded: Encoded, prompt: Any, answer: str) -> list[int]:
    if not isinstance(prompt, str):  # ids and chats end at a token
        alone = encode(tokenizer, answer)
        return [i for i, out in zip(alone.ids, alone.special, strict=True) if not out]
    whole = open_end(encode(tokenizer, prompt + answer), tokenizer) if answer else encoded
    n = len(encoded)
    if whole.ids[:n] == encoded.ids:
        return whole.ids[n:]
    pairs = zip(whole.ids, encoded.ids, strict=False)
    place = next((i for i, (a, b) in enumerate(pairs) if a != b), len(whole) - 1)
    raise InputError(
        Code.JOIN,
        "Prompt and answer do not join at the border of two tokens",
        got=f"token {place} is {whole.tokens[place]!r} when they are written together, and "
        f"{encoded.tokens[min(place, n - 1)]!r} in the prompt alone, at {prompt[-16:] + '|' + answer[:16]!r}",
        expected="the tokens of the prompt, then those of the answer",
        fix="Begin the answer with the blank that the prompt ends in, or the other way round; or give both as ids",
    )


def _is_chat(one: Any) -> bool:
    return isinstance(one, list) and bool(one) and all(isinstance(m, Mapping) and "role" in m for m in one)


def _chat(tokenizer: Any, messages: Sequence[Mapping[str, Any]], fixed: Fixed) -> tuple[Encoded, str]:
    """A chat by the tokenizer's template, all of which is fixed but what people wrote.

    Raises:
        SpecError: the tokenizer has no template, or does not say where tokens are in the text.
    """
    apply = getattr(tokenizer, "apply_chat_template", None)
    if apply is None:
        raise SpecError(
            Code.TOKENIZER,
            "The tokenizer has no chat template",
            got=type(tokenizer).__name__,
            fix="Write the prompt as one text",
        )
    try:
        text = str(apply(list(messages), tokenize=False, add_generation_prompt=True))
        made = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = [list(made[name]) for name in ("input_ids", "offset_mapping")]
    except Exception as problem:
        raise SpecError(
            Code.TOKENIZER,
            "The chat cannot be laid out",
            got=f"{type(problem).__name__}: {problem}"[:200],
            expected="a template, and a tokenizer that says where its tokens are (return_offsets_mapping)",
            fix="Write the prompt as one text",
        ) from problem
    spans = _contents(text, messages)
    found = of_ids(tokenizer, ids, fixed=fixed)
    free = [any(a < end and b > start for start, end in spans) for a, b in offsets]
    outside = [out or not inside for out, inside in zip(found.outside, free, strict=True)]
    left = sorted({w for w, out in zip(found.words, outside, strict=True) if w >= 0 and not out})
    number = {word: i for i, word in enumerate(left)}
    words = [-1 if out else number[w] for w, out in zip(found.words, outside, strict=True)]
    names = [found.names[word] for word in left]
    return replace(found, outside=outside, words=words, names=names), text


def _contents(text: str, messages: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
    """Where what people wrote is in a chat that was laid out."""
    found, at = list[tuple[int, int]](), 0
    for message in messages:
        said = str(message.get("content", "")).strip()
        start = text.find(said, at)
        if said and start >= 0:
            at = start + len(said)
            found.append((start, at))
    return found


def _ids(one: Any) -> list[int] | None:
    if isinstance(one, Tensor | np.ndarray):
        if one.ndim != 1 or (one.is_floating_point() if isinstance(one, Tensor) else one.dtype.kind == "f"):
            raise InputError(
                Code.SHAPE,
                "Ids of a prompt are whole numbers (t,)",
                got=f"{one.dtype} of shape {tuple(one.shape)}",
            )
        return [int(i) for i in one.tolist()]
    if isinstance(one, list | tuple) and all(map(is_number, one)):
        return [int(plain(i)) for i in one]
    return None


def _check_text(tokenizer: Any, one: Any) -> None:
    if not isinstance(one, str):
        raise _no_prompt(one)
    if tokenizer is None:
        raise SpecError(
            Code.BAD_PARAMETER,
            "The task has no tokenizer, so it takes ids only",
            got=repr(one)[:60],
            fix="Pass tokenizer= to language_task",
        )


def _no_prompt(one: Any) -> InputError:
    return InputError(
        Code.SHAPE,
        "This is no prompt",
        got=f"{type(one).__name__} {one!r}"[:80],
        expected="a text, (prompt, answer), a chat of messages with a role and content, or ids",
    )


def readable(name: str) -> str:
    """A token as people write it: without the marks of its tokenizer; a blank alone is named."""
    plain_name = name.replace("Ġ", " ").replace("▁", " ").replace("Ċ", "\n").replace("ĉ", "\t")
    plain_name = plain_name.removesuffix("</w>")
    said = plain_name.strip() if plain_name.strip() else repr(plain_name)
    return said.removeprefix("##") or said


def spelled(tokenizer: Any, ids: Sequence[int]) -> str:
    """Tokens as one text."""
    names = token_names(tokenizer, ids)
    marked = any(name[:1] in ("Ġ", "▁") for name in names)
    plain_names = [
        n.replace("Ġ", " ").replace("▁", " ").replace("Ċ", "\n").removesuffix("</w>") for n in names
    ]
    return "".join(plain_names) if marked else "".join(f" {name}" for name in plain_names)


class Spelling(Sequence[str]):
    """What the words of a vocabulary are called, looked up when somebody asks."""

    open = True
    """The model may know more of them than the tokenizer."""

    def __init__(self, tokenizer: Any, entries: int) -> None:
        self._tokenizer, self._entries = tokenizer, entries

    def __len__(self) -> int:
        return self._entries

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return readable(token_names(self._tokenizer, [index])[0])

    def count(self, value: Any) -> int:
        """1: that two tokens look alike is not looked up."""
        return 1

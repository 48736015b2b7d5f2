"""What tokenizers of every make say of a text: ids, which of them are special, and the words they are of."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from abe.checks import plain
from abe.errors import Code, InputError, SpecError

PIECES = re.compile(r"\w+(?:['’‑-]\w+)*|[^\w\s]")
"""Words with their apostrophes and hyphens, and single signs."""
ENDS = {"sentence": frozenset(".!?…。！？"), "clause": frozenset(",;:.!?…—–。！？，；：、()")}
"""Signs that end a unit larger than a word."""
ENTRIES = (
    *(("offset_mapping", "offsets"), ("special_tokens_mask", "special_tokens_mask")),
    *(("attention_mask", "attention_mask"), ("word_ids", "word_ids"), ("sequence_ids", "sequence_ids")),
)
"""What encodings hold beside ids, as transformers and as tokenizers call it."""
MANY = 10**6
"""Tokenizers that know no longest text say a number above this."""
LOAD_FIRST = "Load everything that model and tokenizer need before explaining"
AWAY = ("connection", "resolve host", "offline", "couldn't connect", "max retries", "huggingface.co")
Text = str | tuple[str, str]
Fixed = Literal["special", "padding"]
"""Which tokens never move and are in no unit: special ones and padding, or padding alone."""


@dataclass(frozen=True)
class Encoded:
    """One text as a model reads it.

    Attributes:
        ids: (t,) of the tokens.
        outside: (t,) whether a token is in no unit: padding, and special ones where they are fixed.
        words: (t,) number of each token's word; -1 outside.
        names: of the words.
        tokens: (t,) what the tokens are called.
        special: (t,) whether a token is special or padding.
        further: other entries of the encoding with one number per token, such as ``token_type_ids``.
        shown: the text, or both of a pair.
    """

    ids: list[int]
    outside: list[bool]
    words: list[int]
    names: list[str]
    tokens: list[str]
    special: list[bool]
    further: Mapping[str, list[int]] = field(default_factory=dict[str, list[int]])
    shown: Any = ""

    def __len__(self) -> int:
        return len(self.ids)

    def larger(self, kind: str) -> tuple[list[int], list[str]]:
        """(t,) number of each token's clause or sentence, and their names."""
        groups, group, names = list[int](), 0, list[list[str]]([[]])
        for name in self.names:
            groups.append(group)
            names[group].append(name)
            if name and name.strip()[-1:] in ENDS[kind]:
                group += 1
                names.append([])
        joined = [_sentence(words) for words in names if words]
        return [-1 if word < 0 else groups[word] for word in self.words], joined


def _sentence(words: Sequence[str]) -> str:
    said = ""
    for word in words:
        close = not said or (len(word) == 1 and not word.isalnum() and word not in "(—–")
        said += word if close else f" {word}"
    return said


def encode(tokenizer: Any, text: Text, fixed: Fixed = "special") -> Encoded:
    """A text, or a pair of texts, by a tokenizer; ``fixed`` says which tokens are in no unit.

    Raises:
        SpecError: it cannot be called, takes no pairs, or gives no ids.
    """
    pair = isinstance(text, tuple)
    first, second = text if isinstance(text, tuple) else (text, None)
    found = _called(tokenizer, first, second)
    ids = _flat(found["input_ids"])
    special = _flat(found["special_tokens_mask"]) if "special_tokens_mask" in found else None
    kept = special_ids(tokenizer)
    apart = [bool(s) for s in special] if special is not None else [i in kept for i in ids]
    masked = _flat(found["attention_mask"]) if "attention_mask" in found else [1] * len(ids)
    outside, apart = _outside(apart, masked, fixed)
    known = {"input_ids", *(name for pair in ENTRIES for name in pair)}
    further = {k: _flat(v) for k, v in found.items() if k not in known and _fits(v, len(ids))}
    tokens = token_names(tokenizer, ids)
    if tokens == list(map(str, ids)) and second is None:
        tokens = next((cut for cut in (first.split(), PIECES.findall(first)) if len(cut) == len(ids)), tokens)
    words, names = _words(found, tokens, outside, apart, (first, second))
    shown = [first, second] if pair else first
    return Encoded(ids, outside, words, names, tokens, apart, further, shown)


def of_ids(
    tokenizer: Any,
    ids: Sequence[int],
    seen: Sequence[int] | None = None,
    fixed: Fixed = "special",
    special: Sequence[int] | None = None,
) -> Encoded:
    """Ids that were made before; ``seen`` (t,) is 0 for padding, ``special`` (t,) not for special tokens."""
    kept = special_ids(tokenizer)
    masked = [1] * len(ids) if seen is None else list(seen)
    listed = [one in kept for one in ids] if special is None else list(map(bool, special))
    outside, apart = _outside(listed, masked, fixed)
    tokens = token_names(tokenizer, ids)
    words, names = _words({}, tokens, outside, apart, ("", None))
    return Encoded(list(ids), outside, words, names, tokens, apart, {}, _sentence(names))


def _outside(special: Sequence[bool], seen: Sequence[int], fixed: Fixed) -> tuple[list[bool], list[bool]]:
    """(t,) which tokens are in no unit, and which are special or padding."""
    apart = [one or not here for one, here in zip(special, seen, strict=True)]
    return ([not here for here in seen] if fixed == "padding" else list(apart)), apart


def of_row(tokenizer: Any, found: Mapping[str, Any], row: int, fixed: Fixed = "special") -> Encoded:
    """One text of an encoding without padding, whose entries are lists of different lengths."""
    ids = [int(plain(one)) for one in found["input_ids"][row]]
    listed = {k: v[row] for k, v in found.items() if isinstance(v, list | tuple) and len(v) > row}
    own = {k: list(v) for k, v in listed.items() if isinstance(v, list | tuple) and len(v) == len(ids)}
    own = {k: v for k, v in own.items() if k != "input_ids" and all(map(is_number, v))}
    seen = own.pop("attention_mask", None)
    return replace(of_ids(tokenizer, ids, seen, fixed), further=own)


def of_all(name: str, given: Any, shape: Sequence[int]) -> Tensor:
    """(b, …) a further entry of an encoding whose ids are (b, t).

    Raises:
        InputError: it is not one of every text.
    """
    found = torch.as_tensor(given)
    of_tokens = found.ndim == 1 and len(found) == shape[1] and name not in ("lengths", "length")
    if shape[0] == 1 and of_tokens:
        found = found[None]  # of one text, whose ids may also come without the axis of texts
    if not found.ndim or len(found) != shape[0]:
        raise InputError(
            Code.SHAPE,
            f"The entry {name!r} of the encoding does not fit its ids",
            got=f"shape {tuple(found.shape)} for ids of shape {tuple(shape)}",
        )
    return found


def of_tokens(what: str, given: Any, ids: Tensor) -> Tensor | None:
    """(b, t) numbers that an encoding has for every token, where it has them.

    Raises:
        InputError: there are not as many.
    """
    if given is None:
        return None
    found = torch.as_tensor(given)
    if found.numel() != ids.numel():
        raise InputError(
            Code.SHAPE,
            f"{what} has a number for every token",
            got=f"a mask of shape {tuple(found.shape)} for ids of shape {tuple(ids.shape)}",
        )
    return found.reshape(ids.shape)


def is_ragged(ids: Any) -> bool:
    """Whether these are lists of ids of different lengths, as tokenizers give them without padding."""
    rows = isinstance(ids, list | tuple) and all(isinstance(one, list | tuple) for one in ids)
    return rows and len({len(one) for one in ids}) > 1


def is_number(one: Any) -> bool:
    """Whether this is an id."""
    number = plain(one)
    number = number.item() if isinstance(number, Tensor) and number.ndim == 0 else number
    return isinstance(number, int) and not isinstance(number, bool)


def _called(tokenizer: Any, text: str, pair: str | None) -> dict[str, Any]:
    """The entries of what a tokenizer makes of a text."""
    if hasattr(tokenizer, "convert_ids_to_tokens") and hasattr(tokenizer, "is_fast"):
        how = {"return_special_tokens_mask": True, "return_offsets_mapping": bool(tokenizer.is_fast)}
        made = tokenizer(text, pair, **how) if pair is not None else tokenizer(text, **how)
        found = dict(made)
        if tokenizer.is_fast:
            found["word_ids"], found["sequence_ids"] = made.word_ids(0), made.sequence_ids(0)
        return found
    run = tokenizer if callable(tokenizer) else getattr(tokenizer, "encode", None)
    if run is None:
        raise SpecError(
            Code.BAD_PARAMETER,
            "This is no tokenizer",
            got=type(tokenizer).__name__,
            expected="something that is called with a text, or has encode(text), and gives ids",
        )
    try:
        made = run(text) if pair is None else run(text, pair)
    except Exception as problem:
        if isinstance(problem, TypeError) and pair is not None:
            raise SpecError(
                Code.BAD_PARAMETER,
                "The tokenizer takes no pairs of texts",
                got=f"{type(problem).__name__}: {problem}",
                fix="Pass one text, or ids that hold both",
            ) from problem
        away = fetches(problem)
        raise InputError(
            Code.TOKENIZER,
            "The tokenizer tried to fetch something over the network"
            if away
            else f"The tokenizer raised an exception on {text[:60]!r}",
            got=f"{type(problem).__name__}: {problem}"[:240],
            fix=LOAD_FIRST if away else "Give it an entry for words that it does not know",
        ) from problem
    if isinstance(made, Mapping):
        found = {("offset_mapping" if k == "offsets" else str(k)): v for k, v in made.items()}
    elif hasattr(made, "ids"):
        found = {"input_ids": getattr(made, "ids")}  # noqa: B009 -- of a type that is not known here
        for ours, theirs in ENTRIES:
            if getattr(made, theirs, None) is not None:
                found[ours] = getattr(made, theirs)
    else:
        found = {"input_ids": made}
    if "input_ids" not in found:
        raise SpecError(
            Code.BAD_PARAMETER,
            "The tokenizer gives no ids",
            got=", ".join(map(str, found)) or type(made).__name__,
            expected="a list of ids, or an entry 'input_ids'",
        )
    return found


def fetches(problem: BaseException) -> bool:
    """Whether an exception tells of something that was to be fetched over the network."""
    text = f"{type(problem).__name__}: {problem}".lower()
    return any(word in text for word in AWAY)


def _flat(given: Any) -> list[int]:
    """One text's numbers, whatever holds them."""
    listed = given.tolist() if isinstance(given, Tensor | np.ndarray) else list(given)
    listed = list(listed[0]) if len(listed) == 1 and isinstance(listed[0], list | tuple) else listed
    if any(isinstance(one, float | str | list | tuple) for one in listed):
        got = repr(listed[:3])
        raise SpecError(
            Code.BAD_PARAMETER, "A tokenizer gives whole numbers", got=got, expected="a list of ids"
        )
    return [int(one) for one in listed]


def _fits(given: Any, n: int) -> bool:
    """Whether this has a whole number for each of n tokens."""
    try:
        return len(_flat(given)) == n
    except (SpecError, TypeError, ValueError):
        return False


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Ids of the tokens that are no part of any text."""
    listed = getattr(tokenizer, "all_special_ids", None)
    if listed is None:
        names = ("pad", "cls", "sep", "bos", "eos")
        listed = [one for name in names if (one := token_id(tokenizer, name)) is not None]
    unknown = token_id(tokenizer, "unk")  # it stands where a word stood
    return frozenset(int(one) for one in listed if one is not None) - {unknown}


def token_id(tokenizer: Any, name: str) -> int | None:
    """The id of a tokenizer's ``"mask"``, ``"pad"``, ``"unk"`` … token, by its number or spelling."""
    number = getattr(tokenizer, f"{name}_token_id", getattr(tokenizer, f"{name}_id", None))
    if isinstance(number, int | np.integer) and not isinstance(number, bool):
        return int(number)
    spelling = getattr(tokenizer, f"{name}_token", None)
    if not isinstance(spelling, str):
        return None
    for ask in ("token_to_id", "convert_tokens_to_ids"):
        if callable(getattr(tokenizer, ask, None)):
            found = getattr(tokenizer, ask)(spelling)
            return None if found is None else int(found)
    vocabulary = vocabulary_of(tokenizer)
    return vocabulary.get(spelling)


def vocabulary_of(tokenizer: Any) -> dict[str, int]:
    """Ids by token, where the tokenizer shows them."""
    for name in ("vocab", "stoi", "get_vocab"):
        found = getattr(tokenizer, name, None)
        found = found() if callable(found) and name == "get_vocab" else found
        if isinstance(found, Mapping):
            return {str(k): int(v) for k, v in found.items() if isinstance(v, int | np.integer)}
    return {}


def token_names(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """What tokens are called; their numbers where the tokenizer does not say."""
    if callable(getattr(tokenizer, "convert_ids_to_tokens", None)):
        return [str(name) for name in tokenizer.convert_ids_to_tokens(list(ids))]
    if callable(getattr(tokenizer, "id_to_token", None)):
        return [str(tokenizer.id_to_token(one)) for one in ids]
    listed = getattr(tokenizer, "itos", None)
    if isinstance(listed, Sequence | Mapping) and not isinstance(listed, str):
        return [_looked_up(listed, one) for one in ids]
    by_id = {number: name for name, number in vocabulary_of(tokenizer).items()}
    if by_id:
        return [by_id.get(one, str(one)) for one in ids]
    if callable(getattr(tokenizer, "decode", None)):
        return [str(tokenizer.decode([one])) for one in ids]
    return [str(one) for one in ids]


def _looked_up(listed: Any, one: int) -> str:
    try:
        return str(listed[one])
    except (IndexError, KeyError):
        return str(one)


def _words(
    found: Mapping[str, Any],
    tokens: Sequence[str],
    outside: Sequence[bool],
    apart: Sequence[bool],
    texts: tuple[str, str | None],
) -> tuple[list[int], list[str]]:
    """(t,) the word of every token, and the words' names; a special token that is in a unit is a word."""
    offsets = found.get("offset_mapping")
    if offsets is not None and len(offsets) == 1 and len(tokens) != 1:
        offsets = offsets[0]
    if offsets is None or len(offsets) != len(tokens):
        return _by_marks(tokens, outside, apart)
    sequences = found.get("sequence_ids") or [0] * len(tokens)
    said = found.get("word_ids") or [None] * len(tokens)
    words, keys, spans = list[int](), list[Any](), list[Any]()
    pieces = [_starts(text or "") for text in texts]
    for place, (start, end) in enumerate((int(a), int(b)) for a, b in offsets):
        if outside[place]:
            words.append(-1)
            continue
        if apart[place]:
            keys.append(tokens[place])
            spans.append(place)
            words.append(len(keys) - 1)
            continue
        which = sequences[place] or 0
        text = texts[which] or ""
        while start < end and text[start].isspace():
            start += 1
        key = (which, said[place], pieces[which][min(start, len(text))] if text else place)
        if not keys or keys[-1] != key:
            keys.append(key)
            spans.append((which, start, end))
        spans[-1] = (which, spans[-1][1], max(spans[-1][2], end))
        words.append(len(keys) - 1)
    return words, [
        tokens[one] if isinstance(one, int) else (texts[one[0]] or "")[one[1] : one[2]] for one in spans
    ]


def _starts(text: str) -> list[int]:
    """For every place in a text, the number of the word it is in or behind."""
    numbers, at = list[int](), 0
    for number, piece in enumerate(PIECES.finditer(text)):
        numbers += [number] * (piece.end() - at)
        at = piece.end()
    return [*numbers, *[numbers[-1] if numbers else 0] * (len(text) - at + 1)]


def _by_marks(
    tokens: Sequence[str], outside: Iterable[bool], apart: Sequence[bool]
) -> tuple[list[int], list[str]]:
    """Words by the marks that tokens carry: ``##ing``, ``▁well``, ``Ġwell``, ``well</w>``; else one each."""
    inside = [not out for out in outside]
    shown = [token for token, out in zip(tokens, apart, strict=True) if not out]
    begins = any(token[:1] in ("▁", "Ġ") for token in shown)
    ends = any(token.endswith("</w>") for token in shown)
    goes_on = any(token.startswith("##") for token in shown)
    words, names, closed = list[int](), list[str](), True
    for token, here, alone in zip(tokens, inside, apart, strict=True):
        if not here or alone:
            words.append(len(names) if here else -1)
            names += [token] if here else []
            closed = True
            continue
        if begins:
            new = token[:1] in ("▁", "Ġ") or not names
        else:
            new = closed if ends else not (goes_on and token.startswith("##"))
        plain = token.removeprefix("##").lstrip("▁Ġ").removesuffix("</w>")
        if new or closed or not names:
            names.append(plain)
        else:
            names[-1] += plain
        closed = ends and token.endswith("</w>")
        words.append(len(names) - 1)
    return words, names


def check_tokenizer(tokenizer: Any) -> None:
    """Refuse the name of a tokenizer, which could be encoded as any text can.

    Raises:
        SpecError: it is a text.
    """
    if isinstance(tokenizer, str | bytes):
        raise SpecError(
            Code.BAD_PARAMETER,
            "A tokenizer is an object, not its name: nothing is downloaded",
            got=repr(tokenizer[:60]),
            expected="a callable text -> ids, or an object with encode",
            fix="Load it first, for example by AutoTokenizer.from_pretrained of transformers",
        )


def check_ids(encoded: Encoded, entries: int) -> None:
    """Refuse ids that an embedding does not have.

    Raises:
        InputError: the first such token, with its id.
    """
    for number, name in zip(encoded.ids, encoded.tokens, strict=True):
        if not 0 <= number < entries:
            raise InputError(
                Code.TOKENIZER,
                "The tokenizer does not fit the model",
                got=f"token {name!r} has id {number}",
                expected=f"ids from 0 to {entries - 1}, the rows of the model's embedding",
                fix="Use the tokenizer that the model was trained with",
            )


def picked(text: Encoded, kept: Sequence[int]) -> Encoded:
    """Some of a text's tokens."""
    words = [text.words[place] for place in kept]
    left = sorted({word for word in words if word >= 0})
    number = {word: i for i, word in enumerate(left)}
    return Encoded(
        [text.ids[place] for place in kept],
        [text.outside[place] for place in kept],
        [number.get(word, -1) for word in words],
        [text.names[word] for word in left],
        [text.tokens[place] for place in kept],
        [text.special[place] for place in kept],
        {k: [v[place] for place in kept] for k, v in text.further.items()},
        text.shown,
    )

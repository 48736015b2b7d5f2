"""Stretches of a prompt that are units: sources, names, the slots of a template with what may stand there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from abe.errors import Code, InputError, SpecError
from abe.task.text.tokens import Encoded, encode

Range = tuple[int, int]


@dataclass(frozen=True)
class Stretches:
    """Units of a prompt by their places in its text.

    Attributes:
        text: the prompt.
        units: per unit, where its stretches begin and end.
        names: per unit.
        instead: per unit, what may stand in the place of each of its stretches; None without alternatives.
    """

    text: str
    units: tuple[tuple[Range, ...], ...]
    names: tuple[str, ...]
    instead: tuple[tuple[str, ...], ...] | None = None

    def written(self, present: Sequence[bool]) -> str:
        """The prompt in which absent units are what may stand in their place."""
        changes = [
            (place, other)
            for here, places, others in zip(present, self.units, self.instead or (), strict=True)
            if not here
            for place, other in zip(places, others, strict=True)
        ]
        said = self.text
        for (start, end), other in sorted(changes, reverse=True):
            said = said[:start] + other + said[end:]
        return said

    def labels(self, tokenizer: Any, encoded: Encoded) -> list[int]:
        """(t,) the unit of every token of the prompt, -1 for none.

        Raises:
            InputError: a unit begins or ends inside a token.
        """
        where = places_of(tokenizer, self.text, encoded)
        found = [-1] * len(encoded)
        for number, stretches in enumerate(self.units):
            for start, end in stretches:
                self._cover(found, where, encoded, number, (start, end))
        return found

    def _cover(
        self, found: list[int], where: Sequence[Range | None], encoded: Encoded, number: int, whole: Range
    ) -> None:
        start, end = whole
        met = [i for i, place in enumerate(where) if place and place[0] < end and place[1] > start]
        for i in met:
            first, last = where[i] or (0, 0)
            outside = self.text[first : max(first, start)] + self.text[min(last, end) : last]
            if outside.strip():
                raise InputError(
                    Code.UNITS,
                    "A unit begins or ends inside a token",
                    got=f"{self.text[start:end]!r} and the token {encoded.tokens[i]!r}",
                    fix="Give whole words",
                )
            if found[i] not in (-1, number):
                raise InputError(
                    Code.UNITS, "Two units share a token", got=repr(encoded.tokens[i]), fix="Give them apart"
                )
            found[i] = number
        if not met:
            raise InputError(Code.UNITS, "A unit holds no token", got=repr(self.text[start:end]))


def named(raw: Any, spans: Any, slots: Any) -> tuple[Any, Stretches | None]:
    """A prompt, filled in where it is a template, and the units of it that a person names.

    Raises:
        SpecError: both are named, or they are of several prompts.
    """
    if spans is None and slots is None:
        return raw, None
    if spans is not None and slots is not None:
        raise SpecError(
            Code.BAD_PARAMETER,
            "Units are stretches or slots",
            got="spans= and slots=",
            fix="Give one of them",
        )
    alone = raw[0] if isinstance(raw, list) and len(raw) == 1 else raw
    prompt = alone[0] if isinstance(alone, tuple) and alone else alone
    if isinstance(alone, list):
        raise SpecError(
            Code.BAD_PARAMETER,
            "spans= and slots= are of one prompt",
            got=f"{len(alone)} of them",
            fix="Explain one after the other",
        )
    found = spans_of(prompt, spans) if slots is None else slots_of(prompt, slots)
    return (found.text, *alone[1:]) if isinstance(alone, tuple) else found.text, found


def places_of(tokenizer: Any, text: str, encoded: Encoded) -> list[Range | None]:
    """(t,) where every token is in the text, blanks left out; None for special ones.

    Raises:
        InputError: the tokenizer does not say, and its tokens are not the text's letters.
    """
    from abe.task.language.prompts import readable

    made = _offsets(tokenizer, text)
    found = list[Range | None]()
    at = 0
    for place, (name, special) in enumerate(zip(encoded.tokens, encoded.special, strict=True)):
        if special:
            found.append(None)
            continue
        if made is not None and place < len(made):
            start, end = made[place]
        else:
            word = readable(name)
            start = text.find(word, at)
            end = start + len(word)
            if start < 0:
                raise InputError(
                    Code.UNITS,
                    "The tokenizer does not say where its tokens are in the text",
                    got=f"the token {name!r}",
                    expected="offsets (return_offsets_mapping), or tokens that are pieces of the text",
                )
        while start < end and text[start].isspace():
            start += 1
        at = end
        found.append((start, end))
    return found


def _offsets(tokenizer: Any, text: str) -> list[Range] | None:
    if not getattr(tokenizer, "is_fast", False):
        return None
    listed = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    return [(int(a), int(b)) for a, b in listed]


def spans_of(text: Any, spans: Any) -> Stretches:
    """The units that are given as stretches of a prompt.

    Args:
        text: the prompt.
        spans: for every unit a text, ``(begin, end)`` in letters, or a list of these that move together.

    Raises:
        InputError: a text that is not in the prompt, or several times.
        SpecError: what is no stretch.
    """
    _check_text(text)
    if not isinstance(spans, Sequence) or isinstance(spans, str) or not len(spans):
        raise _bad("spans=", spans)
    units = [
        [_range(text, one) for one in each] if _is_group(each) else [_range(text, each)] for each in spans
    ]
    names = [" … ".join(text[a:b] for a, b in each) for each in units]
    return Stretches(text, tuple(tuple(each) for each in units), tuple(names))


def _is_group(one: Any) -> bool:
    return isinstance(one, list) and bool(one)


def _range(text: str, one: Any) -> Range:
    if isinstance(one, tuple) and len(one) == 2 and all(isinstance(i, int) for i in one):
        start, end = one
        if not 0 <= start < end <= len(text):
            raise InputError(
                Code.UNITS, "A stretch is outside of the prompt", got=f"{one}", expected=f"0 to {len(text)}"
            )
        return start, end
    if not isinstance(one, str) or not one.strip():
        raise _bad("spans=", one)
    one = one.strip()
    count = text.count(one)
    if count != 1:
        raise InputError(
            Code.UNITS,
            f"The prompt holds {one[:40]!r} {count} times"
            if count
            else f"The prompt does not hold {one[:40]!r}",
            expected="once",
            fix="Give the place of the one that is meant, (begin, end) in letters"
            if count
            else "Write it as the prompt does",
        )
    start = text.index(one)
    return start, start + len(one)


def slots_of(template: Any, slots: Any) -> Stretches:
    """A template filled in: the units are its slots, each with what may stand there instead.

    Args:
        template: a prompt with ``{}`` for every slot, or ``{0} {1} {0}`` where several are one unit.
        slots: for every unit what stands there and what may stand there instead, ``("Sarah", "John")``; of a
            unit of several slots both are lists. Nothing may stand there: ``""``.

    Raises:
        SpecError: no template, or another number of slots.
    """
    _check_text(template)
    pieces, numbers = _cut(template)
    given = list(slots) if isinstance(slots, Sequence) and not isinstance(slots, str) else []
    if not numbers or sorted(set(numbers)) != list(range(len(given))):
        raise SpecError(
            Code.BAD_PARAMETER,
            "slots= fills the {} of a prompt",
            got=f"{len(given)} of them for {len(set(numbers))} slots in {template[:60]!r}",
        )
    values = [_pair(one, numbers.count(number)) for number, one in enumerate(given)]
    text, used = pieces[0], [0] * len(given)
    units = [list[Range]() for _ in given]
    for number, piece in zip(numbers, pieces[1:], strict=True):
        value = values[number][0][used[number]]
        used[number] += 1
        units[number].append((len(text), len(text) + len(value)))
        text += value + piece
    names = tuple(" … ".join(value[0]) for value in values)
    instead = tuple(tuple(value[1]) for value in values)
    return Stretches(text, tuple(tuple(each) for each in units), names, instead)


def _cut(template: str) -> tuple[list[str], list[int]]:
    """The text between slots, and the number of each slot's unit."""
    from string import Formatter

    try:
        parsed = list(Formatter().parse(template))
    except ValueError as problem:
        raise SpecError(Code.BAD_PARAMETER, "The prompt is no template", got=str(problem)) from problem
    pieces, numbers = [""], list[int]()
    for literal, name, _, _ in parsed:
        pieces[-1] += literal
        if name is None:
            continue
        if name and not name.isdecimal():
            raise SpecError(
                Code.BAD_PARAMETER, "Slots are {} or numbered", got="{" + name + "}", expected="{} or {0}"
            )
        numbers.append(int(name) if name else len(numbers))
        pieces.append("")
    return pieces, numbers


def _pair(one: Any, count: int) -> tuple[list[str], list[str]]:
    if not isinstance(one, tuple | list) or len(one) != 2:
        raise _bad("slots=", one)
    here, other = ([side] if isinstance(side, str) else list(side) for side in one)
    fits = len(here) == len(other) == count and all(isinstance(s, str) for s in (*here, *other))
    if not fits or not all(value.strip() for value in here):
        raise _bad("slots=", one)
    return here, other


def _check_text(text: Any) -> None:
    if not isinstance(text, str):
        raise SpecError(
            Code.BAD_PARAMETER,
            "Stretches are of a prompt that is a text",
            got=type(text).__name__,
            fix="Write the prompt as one text",
        )


def _bad(name: str, one: Any) -> SpecError:
    expected = (
        'a text, (begin, end) or a list of these, such as spans=["Sarah", (10, 14)]'
        if name == "spans="
        else 'what stands there and what may instead, such as slots=[("Sarah", "John"), ("in Oslo", "")]'
    )
    return SpecError(
        Code.BAD_PARAMETER, f"{name} names units of a prompt", got=repr(one)[:60], expected=expected
    )


@dataclass(frozen=True)
class Alternatives:
    """Prompts with some of their slots filled otherwise, tokenised as a whole.

    Attributes:
        tokenizer: of the task.
        stretches: by the number of the prompt.
        answers: by the number of the prompt, the ids behind it.
        fixed: as for the task.
    """

    tokenizer: Any
    stretches: Mapping[int, Stretches]
    answers: Mapping[int, Sequence[int]]
    fixed: Any

    def ids(self, number: int, present: Sequence[bool]) -> list[int]:
        """The ids of a prompt, its answer behind it, in which only some units are what they were.

        Raises:
            InputError: nothing is left of it.
        """
        from abe.task.language.prompts import open_end

        text = self.stretches[number].written(present)
        if not text.strip():
            raise InputError(
                Code.EMPTY_BATCH,
                "Nothing is left of the prompt",
                got=repr(text),
                fix="Keep a word outside of slots",
            )
        encoded = open_end(encode(self.tokenizer, text, self.fixed), self.tokenizer)
        return [*encoded.ids, *self.answers[number]]

"""Prompts with their answers, laid out as features: a sample for every step, or one for a whole answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from abe.errors import Code, InputError
from abe.task.base import Context, Lifted, Task
from abe.task.language.feeding import DECODED, Feeding
from abe.task.language.generating import Voice
from abe.task.language.prompts import Asked, readable, spelled
from abe.task.language.reading import AGAINST, ANSWER, STEP
from abe.task.lifted import HEAD, LENGTH, SAME, SPAN, Units
from abe.task.text.embedding import Embedding
from abe.task.text.tokens import Encoded, Fixed, of_ids, picked
from abe.types import Part

PROMPT, PLACE, END = "prompt", "step_number", "prompt_end"
"""Diagnostics: (b,) the number of the prompt, that of the step in its answer, and the place of its last token."""
NUMBER = (PROMPT, PLACE, END)
KINDS = ("word", "token", "clause", "sentence")
TOKENS = "tokens"


@dataclass(frozen=True)
class Answered:
    """A prompt and the answer that is explained.

    Attributes:
        number: of the prompt.
        prompt: its tokens.
        answer: ids of the answer.
        said: the answer's tokens but the last, which nothing follows; of a decoder, behind its first token.
        names: (m,) what the answer's tokens are called.
        against: ids of the other answer, or None.
        shown: prompt and answer as a person reads them.
        spans: of the prompt's tokens, the unit that a person named and -1, and the names of these; or None.
    """

    number: int
    prompt: Encoded
    answer: list[int]
    said: Encoded
    names: list[str]
    against: list[int] | None
    shown: Any
    spans: tuple[list[int], list[str]] | None = None

    @classmethod
    def of(
        cls,
        tokenizer: Any,
        number: int,
        asked: Asked,
        answer: list[int],
        against: list[int] | None,
        fixed: Fixed,
        voice: Voice,
        spans: tuple[list[int], list[str]] | None = None,
    ) -> "Answered":
        """The answer to a prompt.

        Raises:
            InputError: the other answer has another number of tokens.
        """
        if against is not None and len(against) != len(answer):
            raise InputError(
                Code.SAMPLES,
                "Two answers are compared token by token, so they need as many",
                got=f"{len(answer)} tokens, and {len(against)} of against= for prompt {number}",
                fix="Compare the first tokens in which they differ, or explain one after the other",
            )
        begin = [voice.begins] if voice.pair and voice.begins is not None else []
        whole = of_ids(tokenizer, [*begin, *answer], fixed=fixed)
        said = (
            of_ids(tokenizer, [*begin, *answer[:-1]], fixed=fixed) if len(answer) > 1 or begin else _nothing()
        )
        names = [readable(token) for token in whole.tokens[len(begin) :]]
        text = spelled(tokenizer, answer)
        shown = [asked.shown, text.strip()] if voice.pair else asked.shown + text
        return cls(number, asked.prompt, answer, said, names, against, shown, spans)

    def __len__(self) -> int:
        return len(self.prompt) + len(self.said)


def _nothing() -> Encoded:
    return Encoded([], [], [], [], [], [])


def joined(prompt: Encoded, said: Encoded) -> Encoded:
    """Prompt and answer as one text, in which no word crosses the border."""
    base = len(prompt.names)
    words = [*prompt.words, *(-1 if word < 0 else base + word for word in said.words)]
    return Encoded(
        [*prompt.ids, *said.ids],
        [*prompt.outside, *said.outside],
        words,
        [*prompt.names, *said.names],
        [*prompt.tokens, *said.tokens],
        [*prompt.special, *said.special],
    )


def laid(
    lifter: Any,
    task: Task,
    answered: Sequence[Answered],
    voice: Voice,
    feeding: Feeding,
    *,
    whole: bool,
    prefix: bool,
    by: str,
) -> Lifted:
    """Every step of every answer as a sample, or every answer as one.

    Raises:
        InputError: prompts of different lengths for a model with an encoder.
    """
    behind = not voice.pair or prefix  # whether the answer's tokens are among the features
    _check_alike(answered, voice)
    lengths = [len(one) if behind else len(one.prompt) for one in answered]
    t = max(lengths)
    embedding: Embedding = lifter.found()
    parts, blocks = list[Part](), list[Lifted]()
    for one, length in zip(answered, lengths, strict=True):
        x, ids = _vectors(lifter, task, one, voice, behind=behind)
        feeding.prompts = {**feeding.prompts, one.number: (ids, x)}
        blocks.append(_block(one, x, ids, length, t, voice, whole=whole, prefix=prefix, by=by))
        parts = _parts(embedding, x, t, lifter, one, voice, behind=behind)
    return _together(blocks, tuple(parts), task.device)


def _check_alike(answered: Sequence[Answered], voice: Voice) -> None:
    sizes = {(len(one.prompt), len(one.said)) for one in answered}
    if voice.pair and len(sizes) > 1:
        raise InputError(
            Code.SHAPE,
            "Prompts for an encoder, and their answers, differ in length",
            got=", ".join(f"{p} and {s} tokens" for p, s in sorted(sizes)[:4]),
            fix="Explain them one by one",
        )


def _vectors(lifter: Any, task: Task, one: Answered, voice: Voice, *, behind: bool) -> tuple[Tensor, Tensor]:
    """(1, channels, t) the vectors of one prompt with its answer, and the ids (1, t) that the model is given."""
    device = task.device
    prompt = torch.tensor([one.prompt.ids], device=device)
    if not voice.pair:
        ids = torch.tensor([[*one.prompt.ids, *one.said.ids]], device=device)
        return lifter.found().vectors(ids), ids
    x = lifter.found().vectors(prompt)
    if behind:
        said = torch.tensor([one.said.ids], device=device)
        x = torch.cat([x, lifter.found("decoder").vectors(said).to(x)], 2)
    return x, prompt


def _parts(
    embedding: Embedding, x: Tensor, t: int, lifter: Any, one: Answered, voice: Voice, *, behind: bool
) -> list[Part]:
    """What stands in for the embedding's output; of a decoder that is explained too, two of them."""
    d, border = x.shape[1], len(one.prompt)
    if not (voice.pair and behind):
        return [_part(TOKENS, embedding, (d, t), None)]
    return [
        _part("prompt", embedding, (d, border), (0, border)),
        _part("answer", lifter.found("decoder"), (d, t - border), (border, t)),
    ]


def _part(name: str, embedding: Embedding, shape: tuple[int, int], places: tuple[int, int] | None) -> Part:
    table = embedding.survey()
    return Part(
        name,
        0,
        shape[0],
        shape,
        layer=embedding.layer,
        channels=-1,
        low=None if table is None else tuple(table.low.tolist()),
        high=None if table is None else tuple(table.high.tolist()),
        places=places,
    )


def _block(
    one: Answered,
    x: Tensor,
    ids: Tensor,
    length: int,
    t: int,
    voice: Voice,
    *,
    whole: bool,
    prefix: bool,
    by: str,
) -> Lifted:
    """The samples of one prompt."""
    m, border, device = len(one.answer), len(one.prompt), x.device
    count = 1 if whole else m
    steps = torch.arange(count, device=device)
    text = joined(one.prompt, one.said) if length > border else one.prompt
    places = torch.arange(t, device=device)
    first = border + int(voice.pair)  # the place behind which a step has seen the answer so far
    seen = torch.full_like(steps, border) if not prefix else first + steps
    inside = places < seen[:, None]
    outside = _padded(torch.tensor(text.outside, device=device), t, True)
    kept = outside | (places >= border) if not prefix else outside
    if one.spans is not None:  # what nobody named stays
        kept = _padded(torch.tensor(one.spans[0], device=device) < 0, t, True)
    about = {
        SAME: torch.full_like(steps, one.number),
        PROMPT: torch.full_like(steps, one.number),
        PLACE: steps,
        END: torch.full_like(steps, border - 1),
        HEAD: torch.full_like(steps, border),
        STEP: torch.full_like(steps, m) if whole else m - steps,
    }
    if not voice.pair:
        about[LENGTH] = torch.full_like(steps, length)
    if not voice.pair or prefix:
        about[SPAN] = torch.full_like(steps, length) if whole else border + int(voice.pair) + steps
    answer = torch.tensor([one.answer], device=device)
    about[ANSWER] = answer if whole else answer[0, :, None]
    if one.against is not None:
        other = torch.tensor([one.against], device=device)
        about[AGAINST] = other if whole else other[0, :, None]
    if voice.pair:
        about[DECODED] = torch.tensor([one.said.ids], device=device).expand(count, -1)
    values: dict[str | int, Tensor] = {
        voice.ids: _padded(ids[0], ids.shape[1] if voice.pair else t, 0).expand(count, -1)
    }
    if voice.attention is not None:
        values[voice.attention] = torch.ones_like(values[voice.ids])
    names = [f"prompt {one.number}"] if whole else [f"{name} ({step})" for step, name in enumerate(one.names)]
    return Lifted(
        x=_padded(x, t, 0.0).expand(count, -1, -1),
        context=Context(values, about),
        names=names,
        units=(
            *_named(one, t, count, device),
            *(_units(kind, text, border, inside, t) for kind in sorted(KINDS, key=lambda kind: kind != by)),
        ),
        fixed=kept.expand(count, 1, t),
        shown=[one.shown] * count,
        target=answer[0] if not whole else None,
        called=[" ".join(one.names)] if whole else list(one.names),
    )


def _named(one: Answered, t: int, count: int, device: torch.device) -> tuple[Units, ...]:
    """Units that a person named, which then are the natural ones."""
    if one.spans is None:
        return ()
    own, called = one.spans
    labels = _padded(torch.tensor(own, device=device), t, -1).expand(count, 1, t)
    return (Units("span", labels, [called] * count),)


def _padded(values: Tensor, t: int, fill: Any) -> Tensor:
    """The same with positions added at the end."""
    more = t - values.shape[-1]
    return torch.nn.functional.pad(values, (0, more), value=fill) if more else values


def _units(kind: str, text: Encoded, border: int, inside: Tensor, t: int) -> Units:
    """Units of the tokens that each sample has seen, over all positions."""
    if kind == "word":
        own, called = text.words, text.names
    elif kind == "token":
        free = [place for place, out in enumerate(text.outside) if not out]
        number = {place: i for i, place in enumerate(free)}
        own = [number.get(place, -1) for place in range(len(text))]
        called = [text.tokens[place] for place in free]
    else:
        own, called = _larger(kind, text, border)
    row = _padded(torch.tensor(own, device=inside.device), t, -1)
    labels = torch.where(inside, row, -1)[:, None]
    counts = labels.flatten(1).amax(1) + 1
    return Units(kind, labels, [called[:count] for count in counts.tolist()])


def _larger(kind: str, text: Encoded, border: int) -> tuple[list[int], list[str]]:
    """(t,) the clause or sentence of every token, none of which crosses the border of prompt and answer."""
    first, called = picked(text, range(border)).larger(kind)
    if border == len(text):
        return first, called
    second, more = picked(text, range(border, len(text))).larger(kind)
    return [*first, *(-1 if one < 0 else one + len(called) for one in second)], [*called, *more]


def _together(blocks: Sequence[Lifted], parts: tuple[Part, ...], device: torch.device) -> Lifted:
    """The samples of all prompts."""
    if len(blocks) == 1:
        (only,) = blocks
        return Lifted(
            only.x,
            only.context,
            only.names,
            parts,
            units=only.units,
            fixed=only.fixed,
            shown=only.shown,
            target=only.target,
            called=only.called,
        )
    about = {k: _stacked([one.context.about[k] for one in blocks]) for k in blocks[0].context.about}
    values = {k: torch.cat([one.context.values[k] for one in blocks]) for k in blocks[0].context.values}
    names = [
        f"prompt {int(n)}: {name}"
        for one in blocks
        for n, name in zip(one.context.about[PROMPT], one.names, strict=True)
    ]
    targets = [one.target for one in blocks if one.target is not None]
    fixed = [one.fixed for one in blocks if one.fixed is not None]
    units = tuple(
        Units(kinds[0].kind, torch.cat([u.labels for u in kinds]), [n for u in kinds for n in u.names])
        for kinds in zip(*(one.units for one in blocks), strict=True)
    )
    return Lifted(
        torch.cat([one.x for one in blocks]),
        Context(values, about),
        names,
        parts,
        units=units,
        fixed=torch.cat(fixed),
        shown=[shown for one in blocks for shown in one.shown],
        target=torch.cat(targets) if targets else None,
        called=[name for one in blocks for name in one.called],
    )


def _stacked(values: Sequence[Tensor]) -> Tensor:
    """Numbers of all samples, those of several tokens filled up with -1."""
    if values[0].ndim < 2 or values[0].dtype == torch.bool or values[0].ndim > 2:
        return torch.cat(list(values))
    longest = max(one.shape[1] for one in values)
    return torch.cat([_padded(one, longest, -1) for one in values])

"""Text tasks: strings, pairs, ids and encodings as vectors of tokens, for models with an embedding."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from abe.checks import COUNT, check_choice, plain
from abe.errors import Code, InputError, SpecError, note
from abe.task.base import Context, Lifted, Task
from abe.task.lifted import Units, suits
from abe.task.outputs import OutputKind, check_kind, class_names
from abe.task.text import padding
from abe.task.text.configured import kind_of, labels_of, longest
from abe.task.text.embedding import Embedding, Signature, find_embedding, named_embedding, vector_of
from abe.task.text.tokens import (
    Encoded,
    Fixed,
    check_ids,
    check_tokenizer,
    encode,
    is_number,
    is_ragged,
    of_all,
    of_ids,
    of_row,
    of_tokens,
    picked,
    token_id,
)
from abe.types import Part

Truncate = Literal["end", "start"] | None
"""What is cut off a text that is too long; None refuses it."""
TOKENS = "tokens"
"""What the explained part of a text task is called."""


def text_task(
    model: nn.Module,
    tokenizer: Any = None,
    *,
    embedding: str | None = None,
    labels: Any = None,
    output: Any = None,
    output_kind: OutputKind = "auto",
    max_length: int | None = None,
    truncate: Truncate = None,
    fixed: Fixed = "special",
) -> Task:
    """A task for a model that reads text: a Hugging Face classifier, or a module of one's own.

    What is explained is the output of the embedding, so that gradients, paths, rules and removals all apply;
    model and tokenizer are used as they are.

    Args:
        model: takes ids (b, t), by the keyword ``input_ids`` or as its first argument, and what else its
            tokenizer gives and its forward names, such as ``attention_mask``.
        tokenizer: any callable ``text -> ids``, or an encoding with ``input_ids``, or an object with
            ``encode``; None where only ids are explained.
        embedding: name of the module that looks tokens up; found by watching one run.
        labels: class names; those of a Hugging Face configuration by default.
        output: where the class scores are, as for `abe.image_task`.
        output_kind: what they are, as for `abe.image_task`.
        max_length: most tokens of a text; by default what model and tokenizer say.
        truncate: ``"end"`` or ``"start"`` cuts off what is too long, and says so; None refuses it.
        fixed: which tokens never move and are in no unit: ``"special"`` ones, such as a class token and
            separators, and padding; or ``"padding"`` alone, so that special tokens are units like others.

    Shape:
        a text, a pair ``(premise, hypothesis)``, a list of either, a ``Path`` of a file with a text per line,
        ids (b, t) or lists of them, or an encoding with ``input_ids``. Explained are vectors
        (b, channels, t); padding and, by default, special tokens are fixed.

    Raises:
        SpecError: unusable settings.
        ModelError: no module, or when first used no embedding, or several.

    Example:
        >>> import torch, abe
        >>> class Bag(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.embed, self.head = torch.nn.Embedding(9, 4), torch.nn.Linear(4, 2)
        ...     def forward(self, ids):
        ...         return self.head(self.embed(ids).sum(1))
        >>> words = ["a", "charming", "journey"]
        >>> task = abe.text_task(Bag(), lambda text: [words.index(word) for word in text.split()])
        >>> found = abe.explain(task, "a charming journey", "gradient_x_input", progress=False)
        >>> [name for name, value in found.by_unit()[0]]
        ['a', 'charming', 'journey']
    """
    check_choice("truncate", truncate, ("end", "start", None))
    check_choice("fixed", fixed, ("special", "padding"))
    check_kind(output_kind)
    check_tokenizer(tokenizer)
    if embedding is not None and not isinstance(embedding, str):
        raise SpecError(
            Code.BAD_PARAMETER, "embedding= is the name of a module", got=type(embedding).__name__
        )
    configuration = getattr(model, "config", None)
    if labels is None:
        labels = labels_of(configuration)
    lifter = TextLifter(
        tokenizer=tokenizer,
        embedding=embedding,
        max_length=None if max_length is None else COUNT.check("max_length", max_length),
        truncate=truncate,
        fixed=fixed,
    )
    return Task(
        model=model,
        modality="text",
        lifter=lifter,
        labels=class_names(labels),
        output=output,
        output_kind=kind_of(configuration) if output_kind == "auto" else output_kind,
        suits={**suits(baseline="reference_token"), **_read_row(tokenizer)},
    )


def _read_row(tokenizer: Any) -> dict[tuple[str, str | int | None], Any]:
    """Attention is read where the model reads the text: at the class token, where there is one."""
    return {} if tokenizer is None or token_id(tokenizer, "cls") is None else {("query", None): 0}


@dataclass(frozen=True)
class TextLifter:
    """Turns texts into (b, channels, t) vectors of their tokens."""

    tokenizer: Any
    embedding: str | None
    max_length: int | None
    truncate: Truncate
    fixed: Fixed = "special"
    ids: str | int | None = None
    """What the model calls the ids, where it takes other inputs too."""
    padded_to: int | None = None
    """Tokens of every text, where the model was trained to read the padding behind a text as well."""
    beside: dict[str | int, Tensor] = field(
        default_factory=dict[str | int, Tensor], repr=False, compare=False
    )
    """Those inputs for one sample, with which the model is run to find its embedding."""
    _found: dict[str, Embedding] = field(default_factory=dict[str, Embedding], repr=False, compare=False)

    def __call__(self, task: Task, raw: Any) -> Lifted:
        texts, padded = self._texts(raw)
        if not texts:
            raise InputError(
                Code.EMPTY_BATCH, "There is nothing to explain", got="no text", expected="at least one"
            )
        names = [f"text {i}" for i in range(len(texts))]
        notes = list[str]()
        for place, name in enumerate(names):
            texts[place] = self._fitting(task, texts[place], name, notes)
            if all(word < 0 for word in texts[place].words):
                raise InputError(
                    Code.EMPTY_BATCH,
                    f"There is nothing to explain in {name}",
                    got="special tokens only" if len(texts[place]) else "an empty text",
                    expected="at least one word",
                )
        return self._laid(task, texts, names, notes, padded=padded)

    # --- what was given -------------------------------------------------------------------------------

    def _texts(self, raw: Any) -> tuple[list[Encoded], Mapping[str, Any] | None]:
        """Every text encoded; and the encoding itself, where one was given with padding of its own."""
        if isinstance(raw, os.PathLike):
            return [self._encoded(line) for line in _lines(Path(raw))], None
        if isinstance(raw, str) or _is_pair(raw):
            return [self._encoded(raw)], None
        if isinstance(raw, Mapping) or hasattr(raw, "input_ids"):
            return self._of_encoding(raw if isinstance(raw, Mapping) else dict(raw))
        if isinstance(raw, np.ndarray) and raw.dtype.kind in "OUS":
            raw = raw.tolist()
        if isinstance(raw, Tensor | np.ndarray):
            return self._of_encoding({"input_ids": raw})
        if hasattr(raw, "to_list"):  # a column of a table
            raw = raw.to_list()
        items = list(raw) if isinstance(raw, Sequence) or hasattr(raw, "__iter__") else [raw]
        if items and all(is_number(one) for one in items):
            return [self._of_ids([int(plain(one)) for one in items])], None
        found = list[Encoded]()
        for item in items:
            if isinstance(item, str) or _is_pair(item):
                found.append(self._encoded(item))
            elif isinstance(item, list | tuple | Tensor | np.ndarray) and all(is_number(i) for i in item):
                found.append(self._of_ids([int(plain(i)) for i in item]))
            else:
                raise InputError(
                    Code.SHAPE,
                    "This is no text",
                    got=f"{type(item).__name__} {item!r}"[:80],
                    expected="a string, a pair of strings, or ids",
                )
        return found, None

    def _encoded(self, text: Any) -> Encoded:
        if self.tokenizer is None:
            raise SpecError(
                Code.BAD_PARAMETER,
                "The task has no tokenizer, so it takes ids only",
                got=repr(text)[:60],
                fix="Pass tokenizer= to text_task",
            )
        text = tuple(text) if isinstance(text, list) else text
        if not (text if isinstance(text, str) else "".join(text)).strip():
            raise InputError(
                Code.EMPTY_BATCH, "There is nothing to explain", got="an empty text", expected="a word"
            )
        return encode(self.tokenizer, text, self.fixed)

    def _of_ids(
        self, ids: Sequence[int], seen: Sequence[int] | None = None, special: Sequence[int] | None = None
    ) -> Encoded:
        return of_ids(self.tokenizer, ids, seen, self.fixed, special)

    def _of_encoding(self, found: Mapping[str, Any]) -> tuple[list[Encoded], Mapping[str, Any] | None]:
        if "input_ids" not in found:
            raise InputError(
                Code.SHAPE, "An encoding holds input_ids", got=f"entries {', '.join(map(str, found))}"
            )
        if is_ragged(found["input_ids"]):
            return [
                of_row(self.tokenizer, found, row, self.fixed) for row in range(len(found["input_ids"]))
            ], None
        ids = torch.as_tensor(found["input_ids"])
        ids = ids[None] if ids.ndim == 1 else ids
        if ids.ndim != 2 or ids.is_floating_point():
            raise InputError(
                Code.SHAPE,
                "Ids of tokens are whole numbers (b, t)",
                got=f"{ids.dtype} of shape {tuple(ids.shape)}",
                fix="Vectors of tokens are what tensor_task explains" if ids.is_floating_point() else None,
            )
        seen = of_tokens("An attention mask", found.get("attention_mask"), ids)
        special = of_tokens("A mask of special tokens", found.get("special_tokens_mask"), ids)
        texts = [
            self._of_ids(
                own.tolist(),
                None if seen is None else seen[i].tolist(),
                None if special is None else special[i].tolist(),
            )
            for i, own in enumerate(ids)
        ]
        return texts, {**found, "input_ids": ids}

    def _fitting(self, task: Task, text: Encoded, name: str, notes: list[str]) -> Encoded:
        """The text, cut to what the model takes."""
        most = self.max_length or longest(task.model, self.tokenizer)
        if most is None or len(text) <= most:
            return text
        if self.truncate is None:
            raise InputError(
                Code.TOO_LONG,
                f"{name.capitalize()} is too long for the model",
                got=f"{len(text)} tokens",
                expected=f"at most {most}",
                fix='Pass truncate="end" or "start" to text_task to cut it, or shorten it',
            )
        spare = len(text) - most
        inside = [place for place, out in enumerate(text.special) if not out]
        cut = set(inside[-spare:] if self.truncate == "end" else inside[:spare])
        kept = [place for place in range(len(text)) if place not in cut]
        notes.append(
            note(
                Code.TRUNCATED,
                f"{name.capitalize()} was cut from {len(text)} to {most} tokens at its {self.truncate}",
            )
        )
        return picked(text, kept)

    # --- what is made of it ---------------------------------------------------------------------------

    def _laid(
        self,
        task: Task,
        texts: list[Encoded],
        names: list[str],
        notes: list[str],
        *,
        padded: Mapping[str, Any] | None,
    ) -> Lifted:
        """Texts side by side: vectors, context, units."""
        signature, device = Signature.of(task.model), task.device
        b, t = len(texts), max([*map(len, texts), self.padded_to or 0])
        pad = token_id(self.tokenizer, "pad")
        ids = torch.full((b, t), 0 if pad is None else pad, dtype=torch.long)
        mask = torch.zeros((b, t), dtype=torch.long)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = torch.tensor(text.ids)
            mask[row, : len(text)] = 1
        called = signature.ids if self.ids is None else self.ids
        values: dict[str | int, Tensor] = {called: ids}
        if padded is not None:
            values |= {k: of_all(k, v, ids.shape) for k, v in padded.items() if k != "input_ids"}
            mask = values.get("attention_mask", mask)
        else:
            shared = [k for k in texts[0].further if all(k in text.further for text in texts)]
            for name in shared:
                values[name] = torch.zeros((b, t), dtype=torch.long)
                for row, text in enumerate(texts):
                    values[name][row, : len(text)] = torch.tensor(text.further[name])
        if signature.attention is not None:
            values[signature.attention] = mask
        for length in ("lengths", "length"):
            if length in signature.takes and length not in values:
                values[length] = mask.sum(1)
        values = {k: v.to(device) for k, v in values.items() if k == called or k in signature.takes}
        known = len(self._found)
        embedding = self.found(task, values, ids.to(device), texts)
        for text in texts:
            if embedding.entries is not None:
                check_ids(text, embedding.entries)
        notes += self._remarks(texts, signature, padded, mask)
        if embedding.elsewhere:
            notes.append(
                note(
                    Code.EMBEDDING,
                    f"The words are also looked up by {embedding.elsewhere}, as by a decoder that is given "
                    "the text once more; that stays as it is, whatever is removed or moved",
                )
            )
        x = embedding.vectors(ids.to(device))
        given, own = padded is None, self.padded_to is None
        ends = padding.ends([len(text) for text in texts], values, mask, signature, free=given and own)
        ends, said, probed = padding.checked(task.model, values, self.beside, ends if own else {})
        return Lifted(
            x=x,
            context=Context(values, {k: v.to(device) for k, v in ends.items()}),
            names=names,
            parts=(_part(embedding, x),),
            notes=tuple(dict.fromkeys([*notes, *said])),
            units=tuple(_units(kind, texts, t, device) for kind in ("word", "token", "clause", "sentence")),
            shown=[text.shown for text in texts],
            rows=int(self.embedding is None and not known) + probed,
        )

    def found(
        self, task: Task, values: Mapping[str | int, Tensor], ids: Tensor, texts: Sequence[Encoded]
    ) -> Embedding:
        """The model's embedding, found at the first text."""
        if "" in self._found and self._found[""].module in set(task.model.modules()):
            return self._found[""]
        if self.embedding is not None:
            self._found[""] = named_embedding(task.model, self.embedding)
            return self._found[""]
        first = {**self.beside, **{k: v[:1] for k, v in values.items()}}
        tables = [m for m in task.model.modules() if isinstance(m, nn.Embedding)]
        if tables:  # ids that no table has would be an error of the model's
            check_ids(texts[0], max(table.num_embeddings for table in tables))
        self._found[""] = find_embedding(task.model, ids[:1], lambda: padding.run(task.model, first))
        return self._found[""]

    def _remarks(
        self, texts: Sequence[Encoded], signature: Signature, padded: Any, mask: Tensor
    ) -> list[str]:
        notes = list[str]()
        unknown = token_id(self.tokenizer, "unk")
        if unknown is not None:
            ids = [one for text in texts for one, out in zip(text.ids, text.special, strict=True) if not out]
            strange = ids.count(unknown)
            if strange:
                share = f"{strange} of {len(ids)} tokens are unknown to the tokenizer"
                notes.append(note(Code.UNKNOWN_WORDS, f"{share}, so the model sees the same vector for each"))
        if signature.attention is None and padded is not None and not bool(mask.bool().all()):
            notes.append(
                note(
                    Code.PADDING_READ,
                    "The model takes no mask, so it reads the padding of the ids it was given as tokens",
                )
            )
        return notes

    # --- vectors that stand for a missing token -------------------------------------------------------

    def vector(self, task: Task, token: str | int) -> Tensor | None:
        """See `abe.task.text.embedding.vector_of`."""
        return vector_of(self._found.get(""), self.tokenizer, task.device, token)

    def sequence(self, task: Task, text: Any) -> tuple[Tensor, Encoded]:
        """(channels, t) the vectors of another text, and its tokens."""
        encoded = self._encoded(text)
        embedding = self._found[""]
        return embedding.vectors(torch.tensor([encoded.ids], device=task.device))[0], encoded


def _part(embedding: Embedding, x: Tensor) -> Part:
    """The explained part: what stands in for the embedding's output, bounded by its table."""
    table = embedding.survey()
    return Part(
        TOKENS,
        0,
        x.shape[1],
        tuple(x.shape[1:]),
        layer=embedding.layer,
        channels=-1,
        low=None if table is None else tuple(table.low.tolist()),
        high=None if table is None else tuple(table.high.tolist()),
    )


def _units(kind: str, texts: Sequence[Encoded], t: int, device: torch.device) -> Units:
    """The units of a kind, laid over all texts."""
    labels = torch.full((len(texts), 1, t), -1, dtype=torch.long)
    names = list[list[str]]()
    for row, text in enumerate(texts):
        own, called = _numbers(text, kind)
        labels[row, 0, : len(text)] = torch.tensor(own)
        names.append(called)
    return Units(kind, labels.to(device), names)


def _numbers(text: Encoded, kind: str) -> tuple[list[int], list[str]]:
    if kind == "word":
        return text.words, text.names
    if kind == "token":
        inside = [place for place, out in enumerate(text.outside) if not out]
        number = {place: i for i, place in enumerate(inside)}
        return [number.get(place, -1) for place in range(len(text))], [text.tokens[place] for place in inside]
    return text.larger(kind)


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise InputError(
            Code.UNREADABLE_TEXT, f"The file of texts cannot be read: {path.name}", got=str(problem)
        ) from problem
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise InputError(Code.EMPTY_BATCH, "There is nothing to explain", got=f"no text in {path.name}")
    return lines


def _is_pair(raw: Any) -> bool:
    return isinstance(raw, tuple) and len(raw) == 2 and all(isinstance(one, str) for one in raw)

"""Language tasks: a prompt becomes one sample for every generated token, or one for a whole answer."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from abe.checks import COUNT, check_choice
from abe.errors import Code, InputError, ModelError, SpecError, note
from abe.instrument.model_state import as_found
from abe.instrument.modes import eager
from abe.objectives import LogProbability
from abe.task.base import Lifted, Task
from abe.task.language.answers import NUMBER, Answered, laid
from abe.task.language.feeding import Feeding
from abe.task.language.generating import Voice, greedy
from abe.task.language.prompts import Asked, Spelling, answer_ids, read
from abe.task.language.reading import Answer, Contrast, Steps, WholeAnswer, contrast_of
from abe.task.language.spans import Alternatives, named
from abe.task.lifted import suits
from abe.task.outputs import OutputKind
from abe.task.text.configured import longest
from abe.task.text.embedding import Embedding, Signature, find_embedding, named_embedding, vector_of
from abe.task.text.tokens import Encoded, Fixed, check_ids, encode, token_id

CACHES = ("past_key_values", "cache")
"""Keywords of what models computed for earlier positions."""
BY = ("word", "token", "clause", "sentence")
"""What can be the natural unit."""
ASKS = ("generate", "against", "prefix", "by", "spans", "slots", "objective")


def language_task(
    model: nn.Module,
    tokenizer: Any = None,
    *,
    embedding: str | None = None,
    output: Any = None,
    output_kind: OutputKind = "logits",
    max_length: int | None = None,
    fixed: Fixed = "special",
    remember: bool = True,
) -> Task:
    """A task for a model that goes on with a text: causal, or with an encoder and a decoder.

    Explained is every generated token by the tokens before it. The answer is the model's own, one most
    probable token after the other, or one that is given; it is run once for all of its tokens.

    Args:
        model: takes ids (b, t), by the keyword ``input_ids`` or as its first argument, and gives scores
            (b, t, vocabulary); with an encoder, by ``decoder_input_ids`` too.
        tokenizer: as for `abe.text_task`; None where only ids are explained.
        embedding: name of the module that looks tokens up; found by watching one run.
        output: where the scores are; found by itself for a tensor or an entry ``logits``.
        output_kind: ``"logits"``, or ``"probabilities"``.
        max_length: most tokens of a prompt with its answer; by default what model and tokenizer say.
        fixed: as for `abe.text_task`: tokens that begin a text or stand for its layout never move; with
            ``"padding"`` they are units like others.
        remember: whether the unchanged beginning of a prompt is computed once for rows without gradients,
            where the model can go on from what it computed (its cache).

    Keywords of `abe.explain`, `abe.compare`, `abe.evaluate`, `abe.attack` and their kin say what is asked:

    =========================  ===============================================================================
    ``(prompt, answer)``       the sample itself: every token of that answer
    ``generate=9``             at most that many tokens of the model's own; one by default
    ``against=" she"``         how much more is said of the answer's token than of this other answer's token
                               at the same step, behind the same tokens; one text, or one each
    ``prefix=False``           explained is the prompt alone, and earlier tokens of the answer are fixed; so
                               it is by default of whole answers and of a model with an encoder
    ``by="sentence"``          what units are by themselves, and in results: ``"word"``, as by default,
                               ``"token"``, ``"clause"`` or ``"sentence"``
    ``spans=["Sarah", …]``     units are these stretches of the prompt: texts that it holds once, places
                               ``(begin, end)`` in its letters, or lists of them that go together
    ``slots=[("a", "b"), …]``  the prompt is a template with ``{}`` for each: what stands there, and what may
                               stand there instead, which ``removal="alternatives"`` puts there
    ``objective="sequence"``   the whole answer is one sample: the sum of its tokens' log-probabilities
    =========================  ===============================================================================

    Shape:
        texts, ``(prompt, answer)`` pairs, chats (lists of messages with ``role`` and ``content``, laid out by
        the tokenizer's template), ids, or a list of these. Explained are vectors (b, channels, t), a sample
        for every generated token; results hold one number per token, (b, 1, t).

    Cost:
        a forward row per generated token where the model goes on by itself, and one to find the embedding,
        once. Methods run the rows of a prompt's steps once for all of them where they are equal: m scores of
        m tokens are one forward and m backward passes.

    Raises:
        SpecError: unusable settings.
        InputError: JOIN for prompt and answer that do not meet at a token's border; TOO_LONG for more tokens
            than the model takes.
        ModelError: no language model, or one that reads later tokens.

    Example:
        >>> import torch, abe
        >>> class Next(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.embed, self.head = torch.nn.Embedding(9, 4), torch.nn.Linear(4, 9)
        ...     def forward(self, ids):
        ...         return self.head(self.embed(ids).cumsum(1))
        >>> words = "the cat sat on a mat and slept .".split()
        >>> class Words:
        ...     vocab = {word: i for i, word in enumerate(words)}
        ...     def __call__(self, text):
        ...         return [self.vocab[word] for word in text.split()]
        >>> task = abe.language_task(Next(), Words())
        >>> found = abe.explain(task, ("the cat sat", " on a mat"), progress=False)
        >>> [name for name, share in found.by_unit()[1]], found.target_names
        (['the', 'cat', 'sat', 'on'], ['on', 'a', 'mat'])
    """
    check_choice("fixed", fixed, ("special", "padding"))
    check_choice("output_kind", output_kind, ("logits", "probabilities"))
    if not isinstance(remember, bool):
        raise SpecError(
            Code.BAD_PARAMETER,
            "remember= is true or false",
            got=type(remember).__name__,
            expected="True or False",
        )
    if embedding is not None and not isinstance(embedding, str):
        raise SpecError(
            Code.BAD_PARAMETER, "embedding= is the name of a module", got=type(embedding).__name__
        )
    lifter = LanguageLifter(
        tokenizer=tokenizer,
        embedding=embedding,
        max_length=None if max_length is None else COUNT.check("max_length", max_length),
        fixed=fixed,
        remember=remember,
        output=output,
    )
    return Task(
        model=model,
        modality="language",
        lifter=lifter,
        output=output,
        output_kind=output_kind,
        suits=suits(baseline="reference_token", removal="attention" if _hides(model) else None),
        asks=ASKS,
        keeps=NUMBER,
        usual=("occlusion", "log_probability"),
        summed=True,
    )


def _hides(model: Any) -> bool:
    """Whether words are taken away by attending to them no more: the model is causal and takes a mask."""
    pair = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    return isinstance(model, nn.Module) and not pair and Signature.of(model).attention is not None


@dataclass(frozen=True)
class LanguageLifter:
    """Turns prompts with their answers into (b, channels, t) vectors, a sample for every step."""

    tokenizer: Any
    embedding: str | None
    max_length: int | None
    fixed: Fixed
    remember: bool
    output: Any = None
    _found: dict[str, Embedding] = field(default_factory=dict[str, Embedding], repr=False, compare=False)

    def __call__(
        self,
        task: Task,
        raw: Any,
        *,
        generate: Any = None,
        against: Any = None,
        prefix: Any = None,
        by: Any = "word",
        spans: Any = None,
        slots: Any = None,
        objective: Any = None,
    ) -> Lifted:
        objective = LogProbability() if objective is None else objective
        whole = isinstance(objective, WholeAnswer)
        check_choice("by", by, BY)
        voice = self.voice(task.model)
        raw, stretches = named(raw, spans, slots)
        asked = read(self.tokenizer, raw, self.fixed, pair=voice.pair)
        most = self._most(generate, asked)
        notes, rows = list[str](), int(not self._found and self.embedding is None)
        given = self._contrasts(against, asked, voice)
        self._find(task, voice, asked[0])
        answered = list[Answered]()
        for number, one in enumerate(asked):
            self._check_fits(task, one, most, number)
            answer = one.answer
            if answer is None:
                answer = greedy(task.model, voice, one.prompt.ids, most, task.device)
                rows += len(answer)
                if len(answer) < most:
                    said = f"The answer to prompt {number} ends after {len(answer)} of {most} tokens"
                    notes.append(note(Code.ANSWER_ENDED, said))
            elif not voice.pair:
                rows += self._check_causal(task, voice, one.prompt.ids, answer)
            own = None
            if stretches is not None:
                own = stretches.labels(self.tokenizer, one.prompt), list(stretches.names)
            answered.append(
                Answered.of(self.tokenizer, number, one, answer, given[number], self.fixed, voice, own)
            )
        alone = whole or voice.pair or stretches is not None
        keep = not alone if prefix is None else bool(prefix)
        self._check_ids(task, answered)
        feeding = Feeding(
            voice, max(len(one.answer) for one in answered), remembers=self.remember and not voice.pair
        )
        if stretches is not None and stretches.instead is not None:
            said = {one.number: one.said.ids for one in answered if not voice.pair}
            texts = dict.fromkeys(range(len(answered)), stretches)
            feeding.alternatives = Alternatives(self.tokenizer, texts, said, self.fixed)
        lifted = laid(self, task, answered, voice, feeding, whole=whole, prefix=keep, by=by)
        return self._settled(lifted, objective, feeding, answered, tuple(notes), rows)

    def _settled(
        self,
        lifted: Lifted,
        objective: Any,
        feeding: Feeding,
        answered: Sequence[Answered],
        notes: tuple[str, ...],
        rows: int,
    ) -> Lifted:
        """How the outputs are read, and which score of them is explained."""
        settles: dict[str, Any] = {"feeds": feeding}
        contrast = answered[0].against is not None
        if isinstance(objective, WholeAnswer):
            reads: Any = Answer(objective.of == "probability")
        elif contrast:
            reads = contrast_of(objective)
            objective = Contrast(of=reads.name)
        else:
            reads = Steps()
        settles["reads"] = reads
        if isinstance(reads, Steps):
            entries = self._found["input"].entries
            settles["labels"] = None if entries is None else Spelling(self.tokenizer, entries)
        else:
            settles |= {"output_kind": "regression", "labels": None}
            lifted = replace(
                lifted, target=torch.zeros(len(lifted.x), dtype=torch.long, device=lifted.x.device)
            )
        return replace(
            lifted,
            notes=(*lifted.notes, *notes),
            rows=rows,
            objective=objective,
            settles=settles,
        )

    # --- the question ---------------------------------------------------------------------------------

    def _most(self, generate: Any, asked: Sequence[Asked]) -> int:
        if generate is None:
            return 1
        if any(one.answer is not None for one in asked):
            raise SpecError(
                Code.BAD_PARAMETER,
                "An answer is given, so none is generated",
                got="generate= beside (prompt, answer)",
                fix="Leave one of them out",
            )
        return COUNT.check("generate", generate)

    def _contrasts(self, against: Any, asked: Sequence[Asked], voice: Voice) -> list[list[int] | None]:
        """The tokens of the other answer to each prompt."""
        if against is None:
            return [None] * len(asked)
        alone = isinstance(against, str) or not isinstance(against, list) or len(asked) == 1
        each = [against] * len(asked) if alone else list(against)
        if (
            len(asked) == 1
            and isinstance(against, list)
            and len(against) == 1
            and isinstance(against[0], str)
        ):
            each = against
        if len(each) != len(asked):
            raise InputError(
                Code.SAMPLES,
                "against= is one other answer for all prompts, or one each",
                got=f"{len(each)} for {len(asked)} prompts",
            )
        return [
            answer_ids(self.tokenizer, one.prompt, one.text, other, pair=voice.pair)
            for one, other in zip(asked, each, strict=True)
        ]

    def _check_fits(self, task: Task, one: Asked, most: int, number: int) -> None:
        limit = self.max_length or longest(task.model, self.tokenizer)
        new = most if one.answer is None else len(one.answer)
        length = len(one.prompt) + new
        if limit is not None and length - 1 > limit:  # nothing is read behind the last token
            raise InputError(
                Code.TOO_LONG,
                f"Prompt {number} is too long for the model with its answer",
                got=f"{len(one.prompt)} tokens and {new} new ones",
                expected=f"at most {limit}",
                fix="Shorten the prompt, or generate fewer tokens",
            )

    def _check_causal(self, task: Task, voice: Voice, prompt: list[int], answer: list[int]) -> int:
        """Refuse a model whose scores at a token change with those behind it; rows that it took to see."""
        if len(answer) < 2 or "causal" in self._found:
            return 0
        with as_found(task.model), eager(task.model), torch.no_grad():
            pair = [
                voice.logits(voice.call(task.model, torch.tensor([ids], device=task.device), {}))[0, at]
                for ids, at in ((prompt, -1), ([*prompt, *answer[:-1]], len(prompt) - 1))
            ]
        scale = float(pair[0].abs().max()) or 1.0
        if float((pair[0] - pair[1]).abs().max()) > 1e-2 * scale:
            raise ModelError(
                Code.UNSUPPORTED,
                "The model's scores at a token depend on those behind it, so it is no causal language model",
                got=type(task.model).__name__,
                fix="Use abe.text_task for a model that reads a text as a whole; explain one token at a time "
                "where the answer is one token",
            )
        self._found["causal"] = self._found["input"]
        return 2

    def _check_ids(self, task: Task, answered: Sequence[Answered]) -> None:
        entries = self._found["input"].entries
        for one in answered if entries is not None else ():
            check_ids(one.prompt, entries or 0)
            check_ids(one.said, entries or 0)

    # --- the model ------------------------------------------------------------------------------------

    def voice(self, model: nn.Module) -> Voice:
        """How the model is called, by its forward and its configuration."""
        signature = Signature.of(model)
        configuration = getattr(model, "config", None)
        pair = bool(getattr(configuration, "is_encoder_decoder", False)) or (
            configuration is None and "decoder_input_ids" in signature.takes
        )
        begins = getattr(configuration, "decoder_start_token_id", None)
        if pair and begins is None:
            begins = (
                token_id(self.tokenizer, "pad")
                if token_id(self.tokenizer, "bos") is None
                else token_id(self.tokenizer, "bos")
            )
        if pair and begins is None:
            raise SpecError(
                Code.TOKENIZER,
                "Nothing says which token a decoder begins with",
                expected="config.decoder_start_token_id, or a tokenizer with a beginning or padding token",
            )
        return Voice(
            ids=signature.ids,
            attention=signature.attention,
            caches=next(
                (name for name in CACHES if "use_cache" in signature.takes and name in signature.takes), None
            )
            if not pair
            else None,
            keeps="logits_to_keep" in signature.takes and not pair,
            pair=pair,
            begins=begins,
            ends=self._ends(model),
            output=self.output,
        )

    def _ends(self, model: nn.Module) -> frozenset[int]:
        found = set[int]()
        holders = (getattr(model, "generation_config", None), getattr(model, "config", None))
        for holder in holders:
            said = getattr(holder, "eos_token_id", None)
            found |= (
                set(said) if isinstance(said, list | tuple) else {said} if isinstance(said, int) else set()
            )
        end = token_id(self.tokenizer, "eos")
        return frozenset(found if end is None else {*found, end})

    def _find(self, task: Task, voice: Voice, first: Asked) -> None:
        """The model's embedding, and its decoder's, found at the first prompt."""
        modules = set(task.model.modules())
        if "input" in self._found and self._found["input"].module in modules:
            return
        self._found.clear()
        if self.embedding is not None:
            self._found["input"] = named_embedding(task.model, self.embedding)
            return
        tables = [m for m in task.model.modules() if isinstance(m, nn.Embedding)]
        if tables:  # ids that no table has would be an error of the model's
            check_ids(first.prompt, max(table.num_embeddings for table in tables))
        ids = torch.tensor([first.prompt.ids], device=task.device)
        decoded = ids.new_tensor([[voice.begins, *first.prompt.ids[:2]]]) if voice.pair else None
        further = {} if decoded is None else {"decoder_input_ids": decoded}

        def run() -> None:
            voice.logits(voice.call(task.model, ids, further))

        self._found["input"] = replace(find_embedding(task.model, ids, run), elsewhere="")
        if decoded is not None:
            self._found["decoder"] = find_embedding(task.model, decoded, run)

    def found(self, name: str = "input") -> Embedding:
        """An embedding that was found: of the tokens, or of a ``"decoder"``'s.

        Raises:
            ModelError: the decoder's was not looked for.
        """
        if name not in self._found:
            raise ModelError(
                Code.EMBEDDING,
                "The module that looks up the tokens of the answer is not known",
                fix="Leave embedding= out, so that both are found; or prefix=False",
            )
        return self._found[name]

    # --- vectors that stand for a missing token -------------------------------------------------------

    def vector(self, task: Task, token: str | int) -> Tensor | None:
        """See `abe.task.text.embedding.vector_of`."""
        return vector_of(self._found.get("input"), self.tokenizer, task.device, token)

    def sequence(self, task: Task, text: Any) -> tuple[Tensor, Encoded]:
        """(channels, t) the vectors of another text, and its tokens."""
        encoded = encode(self.tokenizer, text, self.fixed)
        ids = torch.tensor([encoded.ids], device=task.device)
        return self._found["input"].vectors(ids)[0], encoded

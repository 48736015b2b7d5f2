"""Pair tasks: a photograph and its caption, both explained at once or one of them beside the other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from abe.checks import AtLeast, check_choice, plain
from abe.errors import AbeError, Code, InputError, ModelError, SpecError, TargetError, note
from abe.instrument.model_state import as_found
from abe.instrument.modes import eager
from abe.objectives import Margin
from abe.task.base import Context, Lifted, Task
from abe.task.channels import Numbers
from abe.task.image.lifter import image_task
from abe.task.image.pictures import Fit
from abe.task.lifted import UNITS, pack, suits
from abe.task.outputs import OutputKind
from abe.task.pair.pairs import Given, pairs_of
from abe.task.pair.readers import reader_of
from abe.task.pair.towers import IMAGE, TEXT, Score, Towers, unit, way_of
from abe.task.several import SeveralLifter
from abe.task.text.lifter import TextLifter, Truncate, text_task
from abe.task.text.tokens import Fixed

Explain = Literal["both", "image", "text"]
ASKS = ("caption", "against")
MODALITIES: Mapping[Explain, str] = {"both": "multimodal", "image": "image", "text": "text"}
TRIED = "rows"
"""That each row has a similarity of its own."""


def pair_task(
    model: nn.Module,
    processor: Any = None,
    *,
    image: str | None = None,
    text: str | None = None,
    explain: Explain = "both",
    score: Score = "cosine",
    bounds: tuple[Numbers, Numbers] | None = (0.0, 1.0),
    mean: Numbers | None = None,
    std: Numbers | None = None,
    size: int | tuple[int, int] | None = None,
    fit: Fit | None = None,
    channels: int | None = None,
    embedding: str | None = None,
    max_length: int | None = None,
    truncate: Truncate = None,
    fixed: Fixed = "special",
) -> Task:
    """A task for a model that says how well a caption fits a photograph: CLIP, SigLIP, or your own towers.

    Explained is the similarity of a photograph and its own caption. Each row meets its own partner, whatever
    runs beside it. Model and processor are used as they are.

    Args:
        model: of Hugging Face or open_clip; or any module whose towers ``image`` and ``text`` name; or one
            that takes photographs and ids and returns a similarity per row or both embeddings.
        processor: of Hugging Face, whose image processor says size and normalisation; or a tokenizer of any
            make. None where only ids are explained.
        image: the tower of photographs: a sub-module or a method; found by itself.
        text: the tower of captions.
        explain: ``"both"`` at once, or one side, ``"image"`` or ``"text"``, while the other stays as it is.
        score: ``"cosine"`` of the embeddings, or ``"logit"``, that with the model's own scale and bias.
        bounds: of photographs before normalisation, as for `abe.image_task`, and so the following.
        mean: subtracted inside the task; by default what the processor says.
        std: divided by inside the task.
        size: (height, width) photographs are brought to; by default what the processor says.
        fit: how they are.
        channels: of photographs.
        embedding: name of the module that looks tokens up; found by watching one run.
        max_length: most tokens of a caption.
        truncate: ``"end"`` or ``"start"`` cuts off what is too long, and says so; None refuses it.
        fixed: which tokens never move and are in no unit, as for `abe.text_task`.

    A photograph may come with several captions: ``(photograph, ["a dog", "a cat"])``. Keywords of
    `abe.explain` and its kin say which is asked about:

    =========================  ===========================================================================
    ``caption="a dog"``        that one, by its words or number; by default the one that fits best
    ``against="a cat"``        the caption minus another (``objective="margin"``), or the strongest of several
    ``objective="contrast"``   the caption minus the strongest other of those given with the photograph
    =========================  ===========================================================================

    Shape:
        pairs as ``(photograph, "caption")``, a list of such pairs, ``(photographs, [captions])``, a dict with
        ``"image"`` and ``"text"``, or an encoding with ``pixel_values`` and ``input_ids``. Outputs are
        (n, 1 + k): the similarity to the caption, then to k others. Explained are both inputs packed, which
        ``explanation.part("image")`` and ``part("text")`` give back; of one side, (b, c, h, w) or
        (b, channels, t). Units are patches and words. Other captions are embedded once, by the model as it
        is.

    Raises:
        SpecError: unusable settings.
        InputError: PAIR where photographs and captions do not belong together; TOO_LONG.
        ModelError: no module; OUTPUT_SHAPE for a model that compares all with all.

    Example:
        >>> import torch, abe
        >>> class Two(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.see, self.embed = torch.nn.Linear(12, 4), torch.nn.Embedding(9, 4)
        ...     def forward(self, image, ids):
        ...         return self.see(image.flatten(1)), self.embed(ids).mean(1)
        >>> words = ["a", "red", "boat"]
        >>> task = abe.pair_task(Two(), lambda text: [words.index(word) for word in text.split()])
        >>> found = abe.explain(task, (torch.rand(1, 3, 2, 2), "a red boat"), "ig", progress=False)
        >>> found.part("image").shape, [name for name, share in found.by_unit()[0]][-3:]
        (torch.Size([1, 3, 2, 2]), ['text a', 'text red', 'text boat'])
    """
    check_choice("explain", explain, ("both", "image", "text"))
    check_choice("score", score, ("cosine", "logit"))
    if not isinstance(model, nn.Module):
        raise ModelError(
            Code.NOT_A_MODULE,
            "A task needs a PyTorch module",
            got=type(model).__name__,
            expected="torch.nn.Module",
        )
    reader = reader_of(model, processor)
    towers = Towers(model, way_of(model, image, text, masked=reader.masked), score)
    said = {"bounds": bounds, "mean": mean, "std": std, "size": size, "fit": fit, "channels": channels}
    settings: dict[str, Any] = {
        **reader.image,
        **{name: one for name, one in said.items() if one is not None},
        "bounds": bounds,
    }
    pictures = image_task(towers, **settings)
    longest = reader.longest if max_length is None else max_length
    texts = text_task(
        towers, reader.tokenizer, embedding=embedding, max_length=longest, truncate=truncate, fixed=fixed
    )
    texts.lifter = replace(texts.lifter, ids="input_ids", padded_to=reader.padded_to)
    if reader.read_last:
        texts.suits = {**texts.suits, ("query", None): -1}
    lifter = PairLifter(SeveralLifter({IMAGE: pictures, TEXT: texts}), explain)
    alone = explain == "image"
    return Task(
        model=towers,
        modality=MODALITIES[explain],
        lifter=lifter,
        mean=pictures.mean if alone else None,
        std=pictures.std if alone else None,
        low=pictures.low if alone else None,
        high=pictures.high if alone else None,
        output_kind=_kind(towers),
        input_name=IMAGE if alone else None,
        suits={
            **{"both": suits(baseline="each_part"), "image": {}, "text": texts.suits}[explain],
            ("objective", "contrast"): "margin",
        },
        asks=ASKS,
    )


def _kind(towers: Towers) -> OutputKind:
    """Cosines are plain numbers; logits are those of captions, each on its own where the model has a bias."""
    if towers.score == "cosine":
        return "regression"
    towers.scaled(torch.zeros(1))
    return "multilabel" if isinstance(getattr(towers._inside, "logit_bias", None), Tensor) else "logits"


@dataclass(frozen=True)
class PairLifter:
    """Turns pairs into features: of both inputs, or of one beside the other.

    Attributes:
        several: reads both inputs.
        explain: which are explained.
    """

    several: SeveralLifter
    explain: Explain = "both"
    known: set[str] = field(default_factory=set[str], repr=False, compare=False)
    """What was found out of the model by running it."""

    @property
    def tasks(self) -> Mapping[str | int, Task]:
        """By name, the task of each input alone."""
        return self.several.tasks

    @property
    def texts(self) -> TextLifter:
        """What reads the captions."""
        return self.tasks[TEXT].lifter

    def absent(self, name: str | int) -> Any:
        """The reference of an input where none is said."""
        return self.several.absent(name)

    def vector(self, task: Task, token: str | int) -> Tensor | None:
        """(channels,) the vector of a special token; see `TextLifter.vector`."""
        return self.texts.vector(task, token)

    def sequence(self, task: Task, text: Any) -> Any:
        """(channels, t) the vectors of another text, and its tokens."""
        return self.texts.sequence(task, text)

    def __call__(self, task: Task, raw: Any, *, caption: Any = None, against: Any = None) -> Lifted:
        given = pairs_of(raw)
        if given.ids is not None and (caption is not None or against is not None):
            raise SpecError(
                Code.BAD_PARAMETER,
                "Captions that came as ids are not chosen among by words",
                fix="Pass texts, and a tokenizer to the task",
            )
        notes, rows = list[str](), 0
        chosen, others = self._asked(given, caption, against)
        if chosen is None and given.captions is not None:
            best, rows = self._best(task, given.captions, given)
            chosen = [captions[place] for captions, place in zip(given.captions, best, strict=True)]
            others = _without(given.captions, best)
            told = ", ".join(map(repr, dict.fromkeys(chosen)))
            notes.append(note(Code.CHOSEN_CAPTION, f"Explained is the caption that fits best: {told}"))
        own, _ = self.several.read(
            task, {IMAGE: given.photographs, TEXT: given.ids if chosen is None else chosen}
        )
        _check_numbers(own)
        rows += self._tried(task, own)
        context = self._context(own, task, others)
        lifted = self._joined(task, own)
        shown = own[TEXT].shown
        rows += lifted.rows + sum(map(len, others))
        return replace(
            lifted,
            context=replace(lifted.context, values={**lifted.context.values, **context}),
            notes=tuple(dict.fromkeys([*lifted.notes, *notes])),
            shown=lifted.shown if self.explain == "text" else [{TEXT: one} for one in shown],
            called=_called(chosen, others),
            rows=rows,
            target=torch.zeros(len(lifted.x), dtype=torch.long, device=lifted.x.device) if others else None,
            objective=None if against is None else Margin(b=1) if isinstance(against, str) else Margin(),
        )

    # --- which caption --------------------------------------------------------------------------------

    def _asked(self, given: Given, caption: Any, against: Any) -> tuple[list[str] | None, list[list[str]]]:
        """The explained captions and the others of each photograph; None where the model has to say."""
        if given.captions is None:
            return None, []
        other = _texts("against", against)
        if against is not None:
            places = self._places(given.captions, caption)
            places = [
                0 if len(own) == 1 else place for own, place in zip(given.captions, places, strict=True)
            ]
            if any(place is None for place in places):
                raise _unsaid(given.captions)
            chosen = [
                own[place] for own, place in zip(given.captions, places, strict=True) if place is not None
            ]
            if wrong := [one for one in chosen if one in other]:
                raise TargetError(
                    Code.TARGET_REACHED,
                    "A caption is asked about against itself",
                    got=repr(wrong[0]),
                    fix="Choose another one for against=",
                )
            return chosen, [list(other) for _ in chosen]
        places = self._places(given.captions, caption)
        if any(place is None for place in places):
            return None, []
        settled = [place for place in places if place is not None]
        chosen = [own[place] for own, place in zip(given.captions, settled, strict=True)]
        return chosen, _without(given.captions, settled)

    def _places(self, captions: Sequence[Sequence[str]], caption: Any) -> list[int | None]:
        """Per photograph the number of the caption that is asked about; None where nobody said."""
        if caption is None:
            return [0 if len(own) == 1 else None for own in captions]
        found = list[int | None]()
        for own in captions:
            if isinstance(caption, str):
                if caption not in own:
                    raise TargetError(
                        Code.TARGET_RANGE,
                        f"The caption {caption!r} is not among those of the photograph",
                        expected=", ".join(map(repr, own[:6])),
                    )
                found.append(list(own).index(caption))
                continue
            number = AtLeast(0).check("caption", plain(caption))
            if number >= len(own):
                raise TargetError(
                    Code.TARGET_RANGE, f"There is no caption {number}", expected=f"0 to {len(own) - 1}"
                )
            found.append(number)
        return found

    def _best(self, task: Task, captions: Sequence[Sequence[str]], given: Given) -> tuple[list[int], int]:
        """The caption that fits each photograph best, and how many rows that took."""
        sizes = [len(own) for own in captions]
        first = [own[0] for own in captions]
        own, _ = self.several.read(task, {IMAGE: given.photographs, TEXT: first})
        _check_numbers(own)
        best = list[int]()
        for sample, listed in enumerate(captions):
            x = own[IMAGE].x[sample : sample + 1]
            scores = [self._score(task, x, own[IMAGE], text) for text in listed]
            top = [place for place, one in enumerate(scores) if one == max(scores)]
            if len({listed[place] for place in top}) > 1:
                raise _unsaid([listed])
            best.append(top[0])
        return best, sum(sizes) + own[TEXT].rows

    def _score(self, task: Task, x: Tensor, image: Lifted, text: str) -> float:
        """The similarity of one photograph and one caption."""
        lifted = self.tasks[TEXT].lift(text)
        (part,) = pack({IMAGE: x}, {IMAGE: self.several.settings(IMAGE, image)})[1]
        values = {str(name): one for name, one in lifted.context.values.items()}
        return float(_run(task.model, {IMAGE: part.restored(x), **values})[0, 0])

    def _tried(self, task: Task, own: Mapping[str | int, Lifted]) -> int:
        """Run two rows of a model that takes pairs, which tells whether it compares all with all."""
        towers: Any = task.model
        if towers.way.image or TRIED in self.known:
            return 0
        image = own[IMAGE]
        (part,) = pack({IMAGE: image.x[:1]}, {IMAGE: self.several.settings(IMAGE, image)})[1]
        values = {str(name): one[:1] for name, one in own[TEXT].context.values.items()}
        rows = {IMAGE: part.restored(image.x[:1]), **values}
        _run(task.model, {name: torch.cat([one, one]) for name, one in rows.items()})
        self.known.add(TRIED)
        return 2

    # --- what is made of it ---------------------------------------------------------------------------

    def _context(
        self, own: Mapping[str | int, Lifted], task: Task, others: Sequence[Sequence[str]]
    ) -> dict[str | int, Tensor]:
        """The embeddings of the other captions (b, k, d), where there are any."""
        sizes = {len(one) for one in others}
        if not others or sizes == {0}:
            return {}
        if len(sizes) > 1:
            raise InputError(
                Code.PAIR,
                "Photographs in one call have as many other captions each",
                got=f"{sorted(sizes)}",
                fix="Explain them one by one",
            )
        towers: Any = task.model
        if not towers.way.image:
            raise SpecError(
                Code.UNSUPPORTED,
                "Captions are compared by their embeddings, and this model takes pairs as a whole",
                got=type(towers._inside).__name__,
                fix='Name its towers: pair_task(model, …, image="vision", text="language")',
            )
        flat = [text for one in others for text in one]
        found = [self._embedded(towers, text) for text in dict.fromkeys(flat)]
        known = dict(zip(dict.fromkeys(flat), found, strict=True))
        return {"others": torch.stack([torch.cat([known[text] for text in one]) for one in others])}

    def _embedded(self, towers: Towers, text: str) -> Tensor:
        """(1, d) the embedding of a caption, of length 1."""
        lifted = self.tasks[TEXT].lift(text)
        further = dict(lifted.context.values)
        ids = further.pop("input_ids")
        with as_found(towers), eager(towers), torch.no_grad():
            named = [further.get(name) for name in ("attention_mask", "token_type_ids", "position_ids")]
            return unit(towers.embedded(TEXT, ids, towers.further(*named))).detach()

    def _joined(self, task: Task, own: Mapping[str | int, Lifted]) -> Lifted:
        """Both inputs packed, or one with the other beside it."""
        image, text = own[IMAGE], own[TEXT]
        notes, rows = (*image.notes, *text.notes), image.rows + text.rows
        if self.explain == "image":
            return replace(image, context=Context(text.context.values), notes=notes, rows=rows)
        if self.explain == "text":
            part = pack({IMAGE: image.x}, {IMAGE: self.several.settings(IMAGE, image)})[1][0]
            context = text.context.holding(part, image.x)
            named = (replace(text.parts[0], name=TEXT),)
            return replace(
                text, context=context, names=image.names, parts=named, held=(part,), notes=notes, rows=rows
            )
        lifted = self.several.joined(task, own, {})
        return replace(lifted, context=replace(lifted.context, about=_about(lifted, text)))


def _about(lifted: Lifted, text: Lifted) -> dict[str, Tensor]:
    """What is known of packed pairs, with words and tokens as further units, which photographs are not in."""
    part = next(one for one in lifted.parts if one.name == TEXT)
    found = dict(lifted.context.about)
    for one in text.units:
        if one.kind in ("word", "token"):
            labels = torch.full(lifted.x.shape, -1, dtype=torch.long, device=lifted.x.device)
            block = one.labels.expand(len(lifted.x), *part.shape)
            labels[:, part.start : part.stop] = block.reshape(
                len(labels), *labels[:, part.start : part.stop].shape[1:]
            )
            found[UNITS + one.kind] = labels
    return found


def _run(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """The model on one pair."""
    try:
        with as_found(model), eager(model), torch.no_grad():
            return model(**inputs)
    except AbeError:
        raise
    except Exception as problem:
        raise ModelError(
            Code.MODEL_FAILED,
            "The model's forward raised an exception on a pair",
            got=f"{type(problem).__name__}: {problem}",
            fix="Check that the model takes such photographs and what the tokenizer gives",
        ) from problem


def _check_numbers(own: Mapping[str | int, Lifted]) -> None:
    photographs, captions = len(own[IMAGE].x), len(own[TEXT].x)
    if photographs != captions:
        more = "more" if captions > photographs else "fewer"
        raise InputError(
            Code.PAIR,
            f"There are {more} captions than photographs",
            got=f"{captions} for {photographs}",
            expected="a caption for every photograph",
        )


def _without(captions: Sequence[Sequence[str]], places: Sequence[int]) -> list[list[str]]:
    """Per photograph, the captions that are not asked about."""
    rest = [[*own[:place], *own[place + 1 :]] for own, place in zip(captions, places, strict=True)]
    return rest if any(rest) else []


def _texts(name: str, given: Any) -> list[str]:
    if given is None:
        return []
    listed = [given] if isinstance(given, str) else list(given) if isinstance(given, list | tuple) else []
    if not listed or not all(isinstance(one, str) and one.strip() for one in listed):
        raise SpecError(
            Code.BAD_PARAMETER, f"{name}= is a caption, or a list of captions", got=repr(given)[:60]
        )
    return listed


def _called(chosen: Sequence[str] | None, others: Sequence[Sequence[str]]) -> list[str]:
    """What is explained of every pair, in words; nothing where captions came as ids."""
    if chosen is None:
        return []
    beside = [f" beside {', '.join(map(repr, own))}" for own in others] or [""] * len(chosen)
    return [f"the fit of {caption!r}{more}" for caption, more in zip(chosen, beside, strict=True)]


def _unsaid(captions: Sequence[Sequence[str]]) -> TargetError:
    return TargetError(
        Code.TARGET_MISSING,
        "It is not clear which of several captions is asked about",
        got=", ".join(map(repr, captions[0][:6])),
        fix="Say caption= with its words or number",
    )

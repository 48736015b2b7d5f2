"""Tasks of every kind whose shares are known: their scores are sums of one term for each unit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from abe.explanation import Explanation
from abe.task.array.series import series_task
from abe.task.array.tensor import tensor_task
from abe.task.base import Task
from abe.task.detection import detection_task
from abe.task.image.segmentation import segmentation_task
from abe.task.language.lifter import language_task
from abe.task.pair import pair_task
from abe.task.table.lifter import table_task
from abe.task.text.lifter import text_task
from abe.testing.nets import WIDTH, Attending, weights
from abe.units.arrival import sums_over

_Module = TypeVar("_Module", bound=nn.Module)
TARGET = 1
"""The explained class."""
WORDS = ("[PAD]", "[CLS]", "[SEP]", "[MASK]", "a", "film", "not", "dull", "charm", "##ing")
TEXTS = ("a charming film", "dull not a film", "not dull")
"""The last is shorter than the others, so that it is padded among them."""
CHANNELS, STEPS, WINDOW, ACTIVE = 2, 12, 4, slice(4, 8)
COLOURS = ("red", "green", "blue")
BACKGROUND = {"colour": [0, 0, 0], "age": [1.0, 2.0, 6.0], "height": [0.5, 0.25, 0.0]}
SIDE, BOX, CELL = 6, (slice(2, 6), slice(0, 4)), 2
BOUNDS = (-9.0, 9.0)


@dataclass(frozen=True)
class KnownTask:
    """Samples of one kind, and what each of their units is worth to an additive score.

    Attributes:
        kind: the modality.
        additive: makes the model whose score is a sum over units; linear, with a layer that has positions.
        task: makes the task of a model.
        raw: the samples, one entry each: two of one length, and a shorter one where lengths may differ.
        together: makes the input of several of them.
        shares: of the additive model, per sample, what each unit changes the explained output by.
        attending: makes a model with attention over the same inputs, or None.
        ask: keywords of the question, such as the region that is read.
        target: the explained output.

    Example:
        >>> import abe
        >>> from abe.testing import KNOWN_TASKS
        >>> known = KNOWN_TASKS["text"]
        >>> net = known.additive()
        >>> texts = known.together(known.raw)
        >>> found = abe.explain(known.task(net), texts, "shapley", target=1, progress=False)
        >>> known.far(found, net) < 1e-12
        True
    """

    kind: str
    additive: Callable[[], nn.Module]
    task: Callable[[nn.Module], Task]
    raw: Sequence[Any]
    together: Callable[[Sequence[Any]], Any]
    shares: Callable[[nn.Module], list[list[float]]]
    attending: Callable[[], nn.Module] | None = None
    ask: Callable[[], dict[str, Any]] = dict
    target: int = TARGET

    def far(self, found: Explanation, net: nn.Module) -> float:
        """How far the sums over units are from the known shares of all samples, by the largest share."""
        labels, wanted = found.labels, self.shares(net)
        if labels is None:
            labels = CELL_OF.expand(len(found.attribution), *CELL_OF.shape)
        sums = [own.tolist() for own, _ in sums_over(labels, found.attribution)]
        largest = max(abs(share) for own in wanted for share in own)
        pairs = [zip(own, right, strict=True) for own, right in zip(sums, wanted, strict=True)]
        gaps = [abs(got - share) for own in pairs for got, share in own]
        return max(gaps) / largest


class _Tokenizer:
    """Words of ten entries, one of them in two pieces, between two special tokens."""

    pad_token, cls_token, sep_token, mask_token = WORDS[:4]
    vocab = {word: number for number, word in enumerate(WORDS)}  # noqa: RUF012 - nobody writes into it

    def __call__(self, text: str) -> list[int]:
        pieces = " ".join(["[CLS]", text.replace("charming", "charm ##ing"), "[SEP]"])
        return [self.vocab[piece] for piece in pieces.split()]


class _Turned(nn.Module):
    """Channels where the next layer has them."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, positions) of (n, positions, channels)."""
        return x.movedim(2, 1)


def _layer(layer: _Module, seed: int) -> _Module:
    """A layer with weights of a seed."""
    with torch.no_grad():
        for number, parameter in enumerate(layer.parameters()):
            parameter.copy_(weights(*parameter.shape, seed=seed + number))
    return layer.double()


class Additive(nn.Module):
    """A linear layer at every position, the sum over positions, a linear head.

    Args:
        channels: of the inputs, or of the vectors of an embedding.
        entries: of the embedding; 0 where numbers are given.
        turned: channels come last, as tokens and time steps have them.
        seen: (channels, positions) what counts; everything by default.
    """

    def __init__(
        self, channels: int, *, entries: int = 0, turned: bool = True, seen: Tensor | None = None
    ) -> None:
        super().__init__()
        embedding = [_layer(nn.Embedding(entries, channels), 5)] if entries else []
        self.features = nn.Sequential(*embedding, *([_Turned()] if turned else []))
        self.inner = _layer(nn.Conv1d(channels, 4, 1, bias=False), 6)
        self.head = _layer(nn.Linear(4, 2, bias=False), 7)
        self.seen = seen

    def forward(self, x: Tensor) -> Tensor:
        """(n, 2) scores."""
        inside = self.features(x)
        if self.seen is not None:
            inside = inside * self.seen[:, : inside.shape[2]]
        return self.head(self.inner(inside).sum(2))

    def weight(self) -> Tensor:
        """(channels,) what a number at a position counts."""
        return (self.head.weight @ self.inner.weight[:, :, 0])[TARGET].detach()


def _stacked(samples: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(samples))


def _numbers(values: Tensor) -> list[float]:
    return [float(value) for value in values]


# ---------------------------------------------------------------- texts


def _bag() -> nn.Module:
    return Additive(6, entries=len(WORDS))


def _text_task(model: nn.Module) -> Task:
    return text_task(model, _Tokenizer(), output_kind="logits")


def _text_shares(model: Any) -> list[list[float]]:
    """w · (e − e_mask), summed over the pieces of a word."""
    table = model.features[0].weight.detach()
    worth = ((table - table[WORDS.index("[MASK]")]) @ model.weight()).tolist()
    of = dict(zip(WORDS, worth, strict=True)) | {"charming": worth[8] + worth[9]}
    return [[of[word] for word in text.split()] for text in TEXTS]


def _attending_text() -> nn.Module:
    return _attending(_layer(nn.Embedding(len(WORDS), WIDTH), 8), _Turned())


def _attending(*features: nn.Module) -> nn.Module:
    net = Attending(dtype=torch.float64)
    net.features = nn.Sequential(*features, nn.BatchNorm1d(WIDTH).double())
    return net


# ---------------------------------------------------------------- language models


class AdditiveNext(nn.Module):
    """The next word by a linear layer at every position, the sum over all positions so far, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(_layer(nn.Embedding(len(WORDS), 6), 5), _Turned())
        self.inner = _layer(nn.Conv1d(6, 4, 1, bias=False), 6)
        self.head = _layer(nn.Linear(4, len(WORDS), bias=False), 7)

    def forward(self, ids: Tensor) -> Tensor:
        """(n, t, words) scores."""
        return self.head(self.inner(self.features(ids)).cumsum(2).movedim(1, 2))

    def weight(self) -> Tensor:
        """(channels,) what a number at a position counts."""
        return (self.head.weight @ self.inner.weight[:, :, 0])[TARGET].detach()


PROMPTS = tuple((text, " film") for text in TEXTS)


def _language_task(model: nn.Module) -> Task:
    return language_task(model, _Tokenizer())


# ---------------------------------------------------------------- series and points


def _random(seed: int, *shape: int) -> Tensor:
    return weights(*shape, seed=seed, scale=shape[-1] ** 0.5)


def _window() -> nn.Module:
    seen = torch.zeros(CHANNELS, STEPS, dtype=torch.float64)
    seen[1, ACTIVE] = 1
    return Additive(CHANNELS, seen=seen)


def _series_task(model: nn.Module) -> Task:
    return series_task(model, "btc", window=WINDOW, bounds=BOUNDS, output_kind="logits")


SERIES = (*(_random(11 + i, STEPS, CHANNELS) for i in range(2)), _random(13, STEPS - WINDOW, CHANNELS))
POINTS = tuple(_random(14 + i, 5, 3) for i in range(2))


def _series_shares(model: Any) -> list[list[float]]:
    """w times the sum over the window of what is above the series' mean; windows of all channels in turn."""
    found = list[list[float]]()
    for one in SERIES:
        window = one[ACTIVE, 1] - one[:, 1].mean()
        shares = [0.0] * (CHANNELS * (len(one) // WINDOW))
        shares[CHANNELS * (ACTIVE.start // WINDOW) + 1] = float(window.sum() * model.weight()[1])
        found.append(shares)
    return found


def _attending_series() -> nn.Module:
    return _attending(_Turned(), _layer(nn.Conv1d(CHANNELS, WIDTH, 1), 8))


def _points() -> nn.Module:
    return Additive(3)


def _points_task(model: nn.Module) -> Task:
    return tensor_task(model, "bnc", bounds=BOUNDS, output_kind="logits")


def _points_shares(model: Any) -> list[list[float]]:
    """w · p of every point; bounded arrays have zero for a reference."""
    return [_numbers(one @ model.weight()) for one in POINTS]


def _attending_points() -> nn.Module:
    return _attending(_Turned(), _layer(nn.Conv1d(3, WIDTH, 1), 8))


# ---------------------------------------------------------------- tables


class Columns(nn.Module):
    """A linear score of the vector of a colour and of two numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.colour = _layer(nn.Embedding(len(COLOURS), 3), 9)
        self.head = _layer(nn.Linear(5, 2), 10)

    def forward(self, codes: Tensor, numbers: Tensor) -> Tensor:
        """(n, 2) scores."""
        return self.head(torch.cat([self.colour(codes[:, 0]), numbers], 1))


ROWS = ({"colour": 2, "age": 4.0, "height": 1.0}, {"colour": 1, "age": -1.0, "height": 0.5})


def _table_task(model: nn.Module) -> Task:
    return table_task(
        model,
        background=BACKGROUND,
        categories={"colour": list(COLOURS)},
        bounds=(-10, 10),
        output_kind="logits",
    )


def _table_shares(model: Any) -> list[list[float]]:
    """w · (e − e_red), and w (x − mean) of the numbers; every background row is red."""
    weight = model.head.weight[TARGET].detach()
    vectors = (model.colour.weight.detach() - model.colour.weight[0].detach()) @ weight[:3]
    names = ("age", "height")
    typical = {name: sum(BACKGROUND[name]) / len(BACKGROUND[name]) for name in names}
    return [
        [
            float(vectors[int(row["colour"])]),
            *(float(w) * (row[n] - typical[n]) for n, w in zip(names, weight[3:], strict=True)),
        ]
        for row in ROWS
    ]


# ---------------------------------------------------------------- segmentations


class Places(nn.Module):
    """Two linear scores at every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = _layer(nn.Conv2d(3, 4, 1, bias=False), 14)
        self.head = _layer(nn.Conv2d(4, 2, 1, bias=False), 15)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 2, h, w) scores."""
        return self.head(self.inner(x))

    def weight(self) -> Tensor:
        """(3,) what a colour counts in the score of a pixel."""
        return (self.head.weight[TARGET, :, 0, 0] @ self.inner.weight[:, :, 0, 0]).detach()


PHOTOGRAPHS = tuple(0.05 + 0.9 * torch.sigmoid(_random(16 + i, 3, SIDE, SIDE)) for i in range(2))


def _box() -> dict[str, Any]:
    region = torch.zeros(SIDE, SIDE)
    region[BOX] = 1
    return {"region": region}


def _box_shares(model: Any) -> list[list[float]]:
    """w · x over the number of pixels in the box, 0 outside; summed over cells of two by two."""
    region = _box()["region"].double()
    found = list[list[float]]()
    for photograph in PHOTOGRAPHS:
        pixels = torch.einsum("c,chw->hw", model.weight(), photograph) * region / region.sum()
        found.append(_numbers(pixels.unfold(0, CELL, CELL).unfold(1, CELL, CELL).sum((2, 3)).flatten()))
    return found


def _segmentation(model: nn.Module) -> Task:
    return segmentation_task(model, output_kind="logits")


# ---------------------------------------------------------------- detections


class Detector(Places):
    """Two linear scores at every pixel, with weights above 0."""

    def weight(self) -> Tensor:
        """(3,) what a colour counts in the score of a pixel."""
        inner, head = (layer.weight.detach().abs()[:, :, 0, 0] for layer in (self.inner, self.head))
        return (head @ inner)[TARGET]

    def forward(self, x: Tensor) -> Tensor:
        """(n, 2, h, w) scores."""
        inside = torch.conv2d(x, self.inner.weight.abs())
        return torch.conv2d(inside, self.head.weight.abs())


FRAME, ELSEWHERE = (0.0, 2.0, 4.0, 6.0), (4.0, 0.0, 6.0, 2.0)
"""The explained box, which is `BOX`, and another that does not touch it."""


def _boxes(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Two boxes that stay where they are; each class is as probable as its score is on average inside."""
    boxes = scores.new_tensor([FRAME, ELSEWHERE]).expand(len(scores), 2, 4)
    means = [scores[:, :, BOX[0], BOX[1]].mean((2, 3)), scores[:, :, :2, 4:].mean((2, 3))]
    return boxes, torch.stack(means, 1) / 10


def _detection(model: nn.Module) -> Task:
    return detection_task(model, dense=_boxes)


def _frame() -> dict[str, Any]:
    return {"box": FRAME, "label": TARGET}


def _frame_shares(model: Any) -> list[list[float]]:
    return [[share / 10 for share in own] for own in _box_shares(model)]


# ---------------------------------------------------------------- pairs


class Bilinear(nn.Module):
    """Two towers whose score is the product [u, 1] · [1, v]: what the photograph says, and the caption."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = _layer(nn.Conv2d(3, 4, 1, bias=False), 17)
        self.head = _layer(nn.Linear(4, 1, bias=False), 18)
        self.embedding = _layer(nn.Embedding(len(WORDS), 6), 19)
        self.turned = _Turned()
        self.read = _layer(nn.Conv1d(6, 1, 1, bias=False), 20)

    def forward(self, image: Tensor, input_ids: Tensor) -> Tensor:
        """(n,) scores of pairs."""
        seen = self.head(self.inner(image).sum((2, 3)))
        said = self.read(self.turned(self.embedding(input_ids))).sum(2)
        one = torch.ones_like(seen)
        return (torch.cat([seen, one], 1) * torch.cat([one, said], 1)).sum(1)


def _pair_task(model: nn.Module) -> Task:
    return pair_task(model, _Tokenizer())


def _paired(pairs: Sequence[Any]) -> Any:
    return torch.stack([photograph for photograph, _ in pairs]), [caption for _, caption in pairs]


PAIRS = tuple(zip((one[:, :2, :2].contiguous() for one in PHOTOGRAPHS), TEXTS[:2], strict=True))
"""Photographs so small that their pixels and the words are few enough for all coalitions."""


def _pair_shares(model: Any) -> list[list[float]]:
    """w · x over the patches that the task cuts, then w · (e − e_mask) of every word."""
    colour = (model.head.weight[0] @ model.inner.weight[:, :, 0, 0]).detach()
    table = model.embedding.weight.detach()
    worth = ((table - table[WORDS.index("[MASK]")]) @ model.read.weight[0, :, 0].detach()).tolist()
    of = dict(zip(WORDS, worth, strict=True)) | {"charming": worth[8] + worth[9]}
    lifted = pair_task(model, _Tokenizer()).lift(_paired(PAIRS))
    (part,) = [one for one in lifted.parts if one.name == "image"]
    patches = lifted.units[0].labels[:, part.start : part.stop].view(-1, *part.shape)[:, 0]
    found = list[list[float]]()
    for (photograph, caption), labels in zip(PAIRS, patches, strict=True):
        pixels = torch.einsum("c,chw->hw", colour, photograph).flatten()
        sums = pixels.new_zeros(int(labels.max()) + 1).index_add_(0, labels.flatten(), pixels)
        found.append([*_numbers(sums), *(of[word] for word in caption.split())])
    return found


CELLS = torch.arange((SIDE // CELL) ** 2).view(SIDE // CELL, -1)
CELL_OF = CELLS.repeat_interleave(CELL, 0).repeat_interleave(CELL, 1)[None]
"""(1, h, w) the cell of two by two that each pixel of a photograph is in: the units of photographs here."""

KNOWN_TASKS = {
    one.kind: one
    for one in (
        KnownTask("text", _bag, _text_task, TEXTS, list, _text_shares, _attending_text),
        KnownTask(
            "language",
            AdditiveNext,
            _language_task,
            PROMPTS,
            list,
            _text_shares,
            ask=lambda: {"objective": "logit"},
        ),
        KnownTask("tabular", Columns, _table_task, ROWS, list, _table_shares),
        KnownTask("series", _window, _series_task, SERIES, list, _series_shares, _attending_series),
        KnownTask("tensor", _points, _points_task, POINTS, _stacked, _points_shares, _attending_points),
        KnownTask("segmentation", Places, _segmentation, PHOTOGRAPHS, _stacked, _box_shares, ask=_box),
        KnownTask("detection", Detector, _detection, PHOTOGRAPHS, _stacked, _frame_shares, ask=_frame),
        KnownTask("multimodal", Bilinear, _pair_task, PAIRS, _paired, _pair_shares, target=0),
    )
}
"""One task of each kind, by modality."""

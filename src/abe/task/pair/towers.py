"""Two towers as one module: each row's photograph meets its own caption, whatever runs beside it."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from abe.errors import Code, ModelError, SpecError, suggest
from abe.instrument.inspection import clean_name

Score = Literal["cosine", "logit"]
"""The similarity: the cosine of both embeddings, or that with the scale and bias of the model."""
IMAGE, TEXT = "image", "text"
METHODS = (("get_image_features", "get_text_features"), ("encode_image", "encode_text"))
"""What models call their towers: those of Hugging Face, and those of CLIP and its kin."""
MASKS = ("attention_mask", "mask", "attn_mask")
LEAST = 1e-8
"""Length below which a vector has no direction, as for `torch.nn.functional.cosine_similarity`."""
FURTHER = ("token_type_ids", "position_ids")


@dataclass(frozen=True)
class Way:
    """How a model's towers are run.

    Attributes:
        image, text: a method, or a sub-module by its name; of both nothing where the model takes a pair.
        mask: what the text tower calls the mask that ends attention to a token; None where it takes none.
        further: what else it takes of an encoding.
    """

    image: str
    text: str
    mask: str | None
    further: tuple[str, ...] = ()


def way_of(model: nn.Module, image: str | None, text: str | None, *, masked: bool = True) -> Way:
    """How the towers of a model are run, by their names or by what the model offers.

    Args:
        model: the model.
        image: a sub-module or method; found where None.
        text: the same for captions.
        masked: whether the tokenizer tells what is padding; a model that is to read it takes no mask.

    Raises:
        SpecError: one tower without the other, or a name that the model does not have.
    """
    if (image is None) != (text is None):
        raise SpecError(
            Code.BAD_PARAMETER,
            "A pair has two towers",
            got=f"image={image!r}, text={text!r}",
            fix="Name both, or neither",
        )
    if image is None or text is None:
        image, text = next((pair for pair in METHODS if all(_is_method(model, n) for n in pair)), ("", ""))
    takes = _taken(_runner(model, text))
    masks = [name for name in MASKS if name in takes] if masked else []
    _runner(model, image)
    return Way(image, text, masks[0] if masks else None, tuple(name for name in FURTHER if name in takes))


def _is_method(model: nn.Module, name: str) -> bool:
    return callable(getattr(type(model), name, None))


def _runner(model: nn.Module, name: str) -> Callable[..., Any]:
    """What runs a tower."""
    if not name:
        return model
    modules = {clean_name(called): module for called, module in model.named_modules()}
    if name in modules:
        return modules[name]
    if _is_method(model, name):
        return getattr(model, name)
    raise SpecError(
        Code.BAD_PARAMETER,
        f"The model has no tower called {name!r}",
        expected="the name of a sub-module, or of a method",
        fix=suggest(name, [one for one in modules if one]) or None,
    )


def _taken(run: Callable[..., Any]) -> list[str]:
    """Keywords that a tower names."""
    target = run.forward if isinstance(run, nn.Module) else run
    found = inspect.signature(target).parameters.values()
    return [one.name for one in found if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]


class Towers(nn.Module):
    """(n, 1 + k) similarities of each row's photograph to its own caption, and to k others.

    The block of every photograph with every caption is never made. Names of layers are those of the model.

    Args:
        model: has both towers, or takes a pair.
        way: how they are run.
        score: what the similarity is.
    """

    def __init__(self, model: nn.Module, way: Way, score: Score) -> None:
        super().__init__()
        self._inside = model  # `abe.instrument.inspection.INSIDE`, which no name of a layer shows
        self.way, self.score = way, score
        self.takes = frozenset(
            {IMAGE, "input_ids", "others", *(["attention_mask"] if way.mask else []), *way.further}
        )
        """Keywords that it takes of these; see `Signature.of`."""
        self.train(model.training)

    def forward(
        self,
        image: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        others: Tensor | None = None,
    ) -> Tensor:
        """(n, 1 + k) of photographs (n, c, h, w), ids (n, t) and embeddings of k other captions (n, k, d)."""
        further = self.further(attention_mask, token_type_ids, position_ids)
        if not self.way.image:
            found = self._whole(image, input_ids, further)
            if isinstance(found, Tensor):
                return found
            pictured, said = found
        else:
            pictured = self.embedded(IMAGE, image)
            said = self.embedded(TEXT, input_ids, further)
        if pictured.shape != said.shape:
            raise ModelError(
                Code.OUTPUT_SHAPE,
                "Photographs and captions are not embedded in one space",
                got=f"{tuple(pictured.shape)} and {tuple(said.shape)}",
                expected="two embeddings (n, d) of one size",
            )
        pictured, said = unit(pictured), unit(said)
        similar = (pictured * said).sum(1, keepdim=True)
        if others is not None:
            similar = torch.cat([similar, (pictured[:, None] * others).sum(2)], 1)
        return similar if self.score == "cosine" else self.scaled(similar)

    def embedded(self, side: str, given: Tensor, further: dict[str, Tensor] | None = None) -> Tensor:
        """(n, d) what a tower makes of its input."""
        name = self.way.image if side == IMAGE else self.way.text
        return _vector(_runner(self._inside, name)(given, **(further or {})), len(given), side)

    def scaled(self, similar: Tensor) -> Tensor:
        """The model's own logits of similarities.

        Raises:
            SpecError: it has no scale.
        """
        model: Any = self._inside
        scale, bias = getattr(model, "logit_scale", None), getattr(model, "logit_bias", None)
        if not isinstance(scale, Tensor):
            raise SpecError(
                Code.BAD_PARAMETER,
                'score="logit" reads the logit_scale of the model, and it has none',
                got=type(model).__name__,
                fix='Use score="cosine"',
            )
        similar = similar * scale.exp()
        return similar + bias if isinstance(bias, Tensor) else similar

    def further(self, mask: Tensor | None, types: Tensor | None, places: Tensor | None) -> dict[str, Tensor]:
        """What the text tower takes beside the ids, as it calls it."""
        found = dict(zip(FURTHER, (types, places), strict=True))
        held = {name: one for name, one in found.items() if one is not None and name in self.way.further}
        return held if mask is None or self.way.mask is None else {self.way.mask: mask, **held}

    def _whole(
        self, image: Tensor, ids: Tensor, further: dict[str, Tensor]
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Similarities, or both embeddings, of a model that takes a pair."""
        model: Any = self._inside
        named = {"pixel_values", "input_ids"} <= set(_taken(model))
        found = model(pixel_values=image, input_ids=ids, **further) if named else model(image, ids, **further)
        both = [getattr(found, name, None) for name in ("image_embeds", "text_embeds")]
        if isinstance(found, dict):
            both = [found.get(name) for name in ("image_embeds", "text_embeds")]
        elif isinstance(found, list | tuple) and len(found) == 2:
            both = list(found)
        if all(isinstance(one, Tensor) for one in both):
            return _vector(both[0], len(image), IMAGE), _vector(both[1], len(image), TEXT)
        n = len(image)
        if isinstance(found, Tensor) and tuple(found.shape) in ((n,), (n, 1)):
            return found.view(n, 1)
        block = isinstance(found, Tensor) and found.shape == (n, n)
        raise ModelError(
            Code.OUTPUT_SHAPE,
            "The model compares all photographs with all captions, so that a number belongs to other rows too"
            if block
            else "The model gives neither a similarity per row nor two embeddings",
            got=f"shape {tuple(found.shape)} for {n} pairs"
            if isinstance(found, Tensor)
            else type(found).__name__,
            expected="(n,) similarities, or two embeddings (n, d)",
            fix='Name its towers: pair_task(model, …, image="vision", text="language")',
        )


def unit(vectors: Tensor) -> Tensor:
    """(n, …, d) vectors of length 1; of a vector that is as good as 0, 0."""
    return vectors / vectors.square().sum(-1, keepdim=True).clamp_min(LEAST**2).sqrt()


def _vector(found: Any, n: int, side: str) -> Tensor:
    """(n, d) the embedding inside what a tower returned."""
    if not isinstance(found, Tensor):
        names = ("pooler_output", f"{side}_embeds")
        inside = [found[k] for k in names if k in found] if isinstance(found, dict) else []
        inside = inside or [getattr(found, k) for k in names if getattr(found, k, None) is not None]
        found = inside[0] if inside else found
    if isinstance(found, Tensor) and found.ndim == 2 and len(found) == n:
        return found
    raise ModelError(
        Code.OUTPUT_SHAPE,
        f"The {side} tower gives no embedding per row",
        got=f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__,
        expected=f"({n}, d)",
        fix="Wrap the tower so that it pools its positions",
    )

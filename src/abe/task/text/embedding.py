"""The embedding of a model's tokens: found by watching one run, or named."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from abe.errors import Code, ModelError, SpecError
from abe.instrument.capture import find_layer
from abe.instrument.inspection import clean_name
from abe.instrument.model_state import as_found
from abe.task.text.tokens import token_id

NAMES = ("input_ids", "ids", "tokens", "token_ids", "x", "input", "inputs", "text", "src")
"""What models call ids, where they are not their first argument."""


BLOCK = 4096
"""Vectors of a table that are looked at together."""


@dataclass(frozen=True)
class Survey:
    """The smallest and largest of all vectors of a table in every channel (channels,), and their mean."""

    low: Tensor
    high: Tensor
    mean: Tensor

    def joined(self, other: "Survey") -> "Survey":
        """That of two blocks, whose means are shares of the whole one."""
        low, high = torch.minimum(self.low, other.low), torch.maximum(self.high, other.high)
        return Survey(low, high, self.mean + other.mean)


_SURVEYS: "WeakKeyDictionary[nn.Module, tuple[tuple[int, int], Survey]]" = WeakKeyDictionary()


@dataclass(frozen=True)
class Embedding:
    """Where a model turns ids into vectors.

    Attributes:
        layer: its name, with the number of the call where it is called several times.
        module: it.
        entries: rows of its table, or None where it does not say.
        elsewhere: where else its table is looked up, by other ids made of these, as a decoder does; or "".
    """

    layer: str
    module: nn.Module
    entries: int | None
    elsewhere: str = ""

    def vectors(self, ids: Tensor) -> Tensor:
        """(b, channels, t) the vectors of ids (b, t).

        Raises:
            ModelError: the module that was named looks up no vectors.
        """
        try:
            with torch.no_grad():
                found = self.module(ids)
        except Exception as problem:
            raise self._is_none(f"{type(problem).__name__}: {problem}"[:160]) from problem
        if not isinstance(found, Tensor) or found.shape[:-1] != ids.shape:
            raise self._is_none(f"{type(found).__name__} of shape {tuple(getattr(found, 'shape', ()))}")
        return found.detach().movedim(-1, 1).contiguous()

    def _is_none(self, got: str) -> ModelError:
        return ModelError(
            Code.EMBEDDING,
            f"The module {self.layer!r} is no embedding: called with ids, it gives no vector for each",
            got=got,
            fix="Name the module that looks the tokens up, or leave embedding= out",
        )

    def survey(self) -> "Survey | None":
        """What all vectors of the table have together, as it is now; None where it has no table."""
        weight = getattr(self.module, "weight", None)
        if not isinstance(weight, Tensor) or self.entries is None or weight.ndim != 2:
            return None
        known = _SURVEYS.get(self.module)
        now = (id(weight), weight._version)
        if known is None or known[0] != now:
            known = (now, self._survey(weight.device))
            _SURVEYS[self.module] = known
        return known[1]

    def _survey(self, device: torch.device) -> "Survey":
        found: Survey | None = None
        for ids in torch.arange(self.entries or 0, device=device).split(BLOCK):
            with torch.no_grad():  # not the weight itself: a module may scale what it looks up
                rows = self.module(ids[None])[0].detach()
            own = Survey(rows.amin(0), rows.amax(0), rows.double().sum(0) / (self.entries or 1))
            found = own if found is None else found.joined(own)
        if found is None:
            raise ModelError(Code.EMBEDDING, "The embedding has no entries", got=self.layer)
        return found


def find_embedding(model: nn.Module, ids: Tensor, run: Callable[[], Any]) -> Embedding:
    """The one module that receives exactly the ids (b, t) and gives a vector for each.

    Raises:
        ModelError: there is none, or several; what was found is named.
    """
    seen = list[tuple[str, int, nn.Module]]()
    others = list[tuple[str, nn.Module]]()
    calls = dict[int, int]()
    names = {id(module): clean_name(name) for name, module in model.named_modules()}

    def watch(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        number = calls.get(id(module), 0)
        calls[id(module)] = number + 1
        if not isinstance(output, Tensor) or not output.is_floating_point() or output.ndim != 3:
            return
        for given in (*args, *kwargs.values()):
            if not isinstance(given, Tensor) or given.is_floating_point():
                continue
            if output.shape[:2] == ids.shape == given.shape and torch.equal(given.to(ids), ids):
                seen.append((names[id(module)], number, module))
            else:
                others.append((names[id(module)] + (f"#{number}" if number else ""), module))

    leaves = [module for module in model.modules() if not any(True for _ in module.children())]
    with as_found(model), torch.no_grad():
        handles = [module.register_forward_hook(watch, with_kwargs=True) for module in leaves]
        try:
            run()
        finally:
            for handle in handles:
                handle.remove()
    if len(seen) != 1:
        listed = ", ".join(repr(name) + (f" (call {n})" if calls[id(m)] > 1 else "") for name, n, m in seen)
        raise ModelError(
            Code.EMBEDDING,
            "Several modules look the tokens up" if seen else "No module was found that looks the tokens up",
            got=listed or _hint(model),
            expected="one module that is called with the ids and gives a vector for each",
            fix='Name it, for example text_task(model, tokenizer, embedding="encoder.embed")',
        )
    ((name, number, module),) = seen
    weight = getattr(module, "weight", None)
    shared = [called for called, other in others if other is module or _shares(other, weight)]
    return replace(
        _made(f"{name}#{number}" if calls[id(module)] > 1 else name, module),
        elsewhere=", ".join(map(repr, shared)),
    )


def _shares(module: nn.Module, weight: Any) -> bool:
    return isinstance(weight, Tensor) and getattr(module, "weight", None) is weight


def named_embedding(model: nn.Module, layer: str) -> Embedding:
    """The embedding of that name.

    Raises:
        ModelError: there is no such module.
    """
    modules = {clean_name(name): module for name, module in model.named_modules()}
    module, _ = find_layer(modules, layer)
    return _made(layer, module)


def _made(layer: str, module: nn.Module) -> Embedding:
    entries = getattr(module, "num_embeddings", None)
    return Embedding(layer, module, entries if isinstance(entries, int) else None)


def _hint(model: nn.Module) -> str:
    bags = [name for name, module in model.named_modules() if isinstance(module, nn.EmbeddingBag)]
    if bags:
        return f"the EmbeddingBag {bags[0]!r}, which pools the tokens before anyone can tell them apart"
    tables = [name for name, module in model.named_modules() if isinstance(module, nn.Embedding)]
    return (
        f"embeddings {', '.join(map(repr, tables))}, none called with the ids" if tables else "no embedding"
    )


@dataclass(frozen=True)
class Signature:
    """How a model takes ids and what goes with them.

    Attributes:
        ids: keyword or place of the ids.
        takes: further entries that it takes by keyword.
        attention: the keyword of the mask that ends attention to a token; None where it takes none.
    """

    ids: str | int
    takes: frozenset[str]
    attention: str | None

    @classmethod
    def of(cls, model: nn.Module) -> "Signature":
        """Read from the model's forward; a module around another may say in ``takes`` what that takes."""
        said = getattr(model, "takes", None)
        parameters = dict(inspect.signature(model.forward).parameters)
        named = {
            name
            for name, one in parameters.items()
            if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
        }
        named = named & said if isinstance(said, frozenset) else named
        ids: str | int = "input_ids" if "input_ids" in named else 0
        masks = [name for name in ("attention_mask", "mask", "attn_mask") if name in named]
        return cls(ids, frozenset(named), masks[0] if masks else None)


def vector_of(
    embedding: Embedding | None, tokenizer: Any, device: torch.device, token: str | int
) -> Tensor | None:
    """(channels,) the vector of a special token or an id, or ``"mean"`` of the table; None without it.

    ``"auto"`` is the first there is of mask, padding and mean.

    Raises:
        SpecError: the embedding has no such id.
    """
    if token == "auto":
        found = (vector_of(embedding, tokenizer, device, name) for name in ("mask", "pad", "mean"))
        return next((one for one in found if one is not None), None)
    if embedding is None:
        return None
    if token == "mean":
        table = embedding.survey()
        return None if table is None else table.mean
    number = token if isinstance(token, int) else token_id(tokenizer, token)
    if number is None:
        return None
    if isinstance(token, int) and embedding.entries is not None and token >= embedding.entries:
        raise SpecError(
            Code.BAD_PARAMETER,
            "The model's embedding has no such token",
            got=f"id {token}",
            expected=f"an id from 0 to {embedding.entries - 1}",
        )
    return embedding.vectors(torch.tensor([[number]], device=device))[0, :, 0]

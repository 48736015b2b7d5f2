"""Removals of tokens: their attention ends, they are deleted, or other words stand in their place."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from abe.engines.removal.background import BackgroundRemoval as BackgroundRemoval  # registers itself too
from abe.engines.removal.each_input import EachInput as EachInput  # the same
from abe.engines.removal.interpolate import Interpolate as Interpolate  # the same
from abe.engines.removal.patch_gaussian import PatchGaussian as PatchGaussian  # the same
from abe.engines.removal.removals import Absent, BoundRemoval, Layout
from abe.engines.runtime.problem import Problem
from abe.errors import Code, InputError, SpecError
from abe.registry import removals
from abe.spec import value
from abe.task.language.feeding import PROMPT
from abe.task.lifted import HEAD, LENGTH
from abe.task.text.embedding import Signature
from abe.types import Card, Fed


@removals.register(
    Card(
        name="attention",
        title="End of attention",
        source="covert2021",
        features=("tokens",),
        pitfalls=("A token that nobody attends to still has its place, so others keep theirs.",),
    )
)
@value
class EndOfAttention:
    """Nothing attends to absent tokens any more: their entries of the attention mask become 0."""

    def bind(self, problem: Problem, layout: Layout) -> BoundRemoval:
        name = _signature(problem).attention
        mask = problem.context.values.get(name) if name is not None else None
        if mask is None or name is None:
            raise SpecError(
                Code.UNSUPPORTED,
                "The model takes no attention mask that could end attention to a token",
                got=type(problem.task.model).__name__,
                fix='Choose removal="mask" or "delete"',
            )
        return _Attention(problem, name, mask)


class _Attention:
    draws = 1

    def __init__(self, problem: Problem, name: str, mask: Tensor) -> None:
        self._x, self._name, self._mask = problem.x, name, mask

    def rows(self, absent: Absent) -> Fed:
        keep = _positions(absent.keep, self._x)
        mask = self._mask[absent.owner.to(self._mask.device)]
        return Fed(self._x[absent.owner], {self._name: mask * keep.to(mask)})


@removals.register(
    Card(
        name="delete",
        title="Deletion of tokens",
        source="covert2021",
        features=("tokens",),
        pitfalls=("What is left moves together, which a model that counts positions reads as another text.",),
    )
)
@value
class Deletion:
    """Absent tokens are deleted and the others move up, vectors and all; nothing is tokenised again.

    A text of which nothing is left, or a prompt before its answer, is one padding token (of the reference
    where there is none).
    """

    def bind(self, problem: Problem, layout: Layout) -> BoundRemoval:
        return _Deleted(problem)


class _Deleted:
    draws = 1

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._ids = _signature(problem).ids
        lifter, task = problem.task.lifter, problem.task
        pad = lifter.vector(task, "pad")
        self._empty = lifter.vector(task, "auto") if pad is None else pad
        known = problem.context.about.get(LENGTH)
        head = problem.context.about.get(HEAD)
        self._head = None if head is None else head.to(problem.x.device)
        full = torch.full((len(problem.x),), problem.x.shape[2], device=problem.x.device)
        self._lengths = full if known is None else known.to(problem.x.device)
        mask = _signature(problem).attention
        self._mask = None if mask is None else problem.context.values.get(mask)

    def rows(self, absent: Absent) -> Fed:
        problem, owner = self._problem, absent.owner
        x, t = problem.x[owner], problem.x.shape[2]
        places = torch.arange(t, device=x.device)
        there = places < self._lengths[owner][:, None]
        if self._mask is not None:
            there = there & self._mask[owner.to(self._mask.device)].bool().to(x.device)
        keep = _positions(absent.keep, problem.x) & there
        head = self._lengths if self._head is None else self._head
        nothing = ~(keep & (places < head[owner][:, None])).any(1)
        keep = torch.where((places == 0) & nothing[:, None], True, keep)
        order = (~keep).to(torch.int8).argsort(dim=1, stable=True)
        rows = x.gather(2, order[:, None].expand_as(x))
        length = keep.sum(1)
        rows[nothing, :, 0] = self._empty.to(rows)
        changes = dict[str | int, Tensor]()
        for name, values in problem.context.values.items():
            own = values[owner.to(values.device)]
            if own.ndim > 1 and own.shape[1] == t:
                index = order.to(own.device).view(*order.shape, *[1] * (own.ndim - 2)).expand_as(own)
                changes[name] = own.gather(1, index)
            elif name in ("lengths", "length"):
                changes[name] = length.to(own)
        return Fed(rows, changes, length)


@removals.register(
    Card(
        name="words",
        title="Given words",
        source="covert2021",
        features=("tokens",),
        example={"instead": {"Sarah": "John"}},
    )
)
@value
class GivenWords:
    """Absent words are other words: what if *Sarah* were *John*. Words that are not named stay.

    Args:
        instead: by word, what stands in its place; it has as many tokens.
    """

    instead: Mapping[str, str]

    def bind(self, problem: Problem, layout: Layout) -> BoundRemoval:
        if problem.lifted is None or not problem.lifted.units:
            raise SpecError(Code.UNSUPPORTED, "Only words of a text can be exchanged for others")
        reference = problem.x.clone()
        words = problem.lifted.units[0]
        met = set[str]()
        for sample, names in enumerate(words.names):
            for number, name in enumerate(names):
                if name in self.instead:
                    met.add(name)
                    places = (words.labels[sample, 0] == number).nonzero().flatten()
                    reference[sample][:, places] = self._vectors(problem, name, len(places)).to(reference)
        if strange := [name for name in self.instead if name not in met]:
            raise InputError(
                Code.UNITS,
                f"No text holds the word {strange[0]!r}",
                expected="words as by_unit() names them",
            )
        return _Exchanged(problem.x, reference)

    def _vectors(self, problem: Problem, word: str, tokens: int) -> Tensor:
        vectors, encoded = problem.task.lifter.sequence(problem.task, self.instead[word])
        inside = [place for place, out in enumerate(encoded.special) if not out]
        if len(inside) != tokens:
            raise InputError(
                Code.UNITS,
                f"{self.instead[word]!r} cannot stand in for {word!r}",
                got=f"{len(inside)} tokens for {tokens}",
                fix="Choose a word with as many tokens",
            )
        return vectors[:, torch.tensor(inside, device=vectors.device)]


@removals.register(
    Card(
        name="alternatives",
        title="Alternatives of a template",
        source="miglani2023",
        features=("tokens",),
        pitfalls=("A prompt with other words may have other tokens where nothing was exchanged.",),
    )
)
@value
class FilledOtherwise:
    """Absent slots of a template hold their alternatives; the prompt is tokenised anew, at any length."""

    def bind(self, problem: Problem, layout: Layout) -> BoundRemoval:
        alternatives = getattr(problem.task.feeds, "alternatives", None)
        if alternatives is None:
            raise SpecError(
                Code.UNSUPPORTED,
                "Nothing says what may stand in the place of units",
                fix='Pass a prompt with {} and slots=[("Sarah", "John"), …] to abe.explain',
            )
        return _Filled(problem, alternatives)


class _Filled:
    draws = 1

    def __init__(self, problem: Problem, alternatives: Any) -> None:
        self._problem, self._alternatives = problem, alternatives
        self._signature = _signature(problem)

    def rows(self, absent: Absent) -> Fed:
        if absent.coalition is None:
            raise SpecError(
                Code.UNSUPPORTED,
                "Slots are filled otherwise as a whole",
                got="windows",
                fix='Use units="span"',
            )
        problem, device = self._problem, self._problem.x.device
        numbers = problem.context.about[PROMPT].to(device)[absent.owner].tolist()
        listed = [
            self._alternatives.ids(number, present)
            for number, present in zip(numbers, absent.coalition.tolist(), strict=True)
        ]
        length = torch.tensor([len(ids) for ids in listed], device=device)
        ids = torch.zeros((len(listed), int(length.max())), dtype=torch.long, device=device)
        for row, own in zip(ids, listed, strict=True):
            row[: len(own)] = torch.tensor(own, device=device)
        changes: dict[str | int, Tensor] = {self._signature.ids: ids}
        if self._signature.attention is not None:
            changes[self._signature.attention] = torch.ones_like(ids)
        vectors = problem.task.lifter.found().vectors(ids).to(problem.x)
        return Fed(vectors, changes, length)


class _Exchanged:
    draws = 1

    def __init__(self, x: Tensor, reference: Tensor) -> None:
        self._x, self._reference = x, reference

    def rows(self, absent: Absent) -> Tensor:
        return torch.where(absent.keep, self._x[absent.owner], self._reference[absent.owner])


def _positions(keep: Tensor, x: Tensor) -> Tensor:
    """(n, t) which tokens stay; a token of which some numbers go does not stay."""
    return keep.expand(len(keep), keep.shape[1], x.shape[2]).all(1)


def _signature(problem: Problem) -> Signature:
    """How the model takes its tokens.

    Raises:
        SpecError: the task is about no text.
    """
    task: Any = problem.task
    if task.modality not in ("text", "language") or task.beneath is not None:
        raise SpecError(
            Code.UNSUPPORTED,
            "Only texts have tokens that can be removed so",
            got=f"inputs of the modality {task.modality!r}",
        )
    return Signature.of(task.model)

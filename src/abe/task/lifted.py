"""What lifting makes of raw inputs: features, what belongs to samples beside them, and names of units."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from abe.errors import Code, InputError, SpecError, suggest
from abe.types import Part


@dataclass(frozen=True)
class Context:
    """What belongs to samples beside their features.

    Attributes:
        values: per sample, further inputs that are passed along and not explained.
        about: per sample, what the model is not given: labels of units (`UNITS` and a name), `FIXED`
            positions, a region that the outputs are read over.
        beneath: at a layer, the model's own inputs: features and their context.
    """

    values: Mapping[str | int, Tensor] = field(default_factory=dict)
    about: Mapping[str, Tensor] = field(default_factory=dict)
    beneath: "tuple[Tensor, Context] | None" = None

    @property
    def lengths(self) -> Tensor | None:
        """(b,) how many positions each sample has without padding, where that is known."""
        return self.about.get(LENGTH, self.about.get(OWN))

    @property
    def kinds_of_units(self) -> list[str]:
        """Names of the units that the samples are known to have, the natural one first."""
        return [name.removeprefix(UNITS) for name in self.about if name.startswith(UNITS)]

    def labels(self, kind: str | None = None) -> Tensor | None:
        """(b, 1 or c, *positions) the unit of every position, -1 for none; None where samples have no units.

        Args:
            kind: such as ``"word"``; by default the natural one, which comes first.
        """
        kind = next(iter(self.kinds_of_units), None) if kind is None else kind
        return None if kind is None else self.about.get(UNITS + kind)

    def take(self, owner: Tensor) -> "Context":
        """The context of the given samples, one per row."""
        if not self.values and not self.about and self.beneath is None:
            return self
        below = self.beneath and (_taken(self.beneath[0], owner), self.beneath[1].take(owner))
        values = {k: _taken(v, owner) for k, v in self.values.items()}
        return Context(values, {k: _taken(v, owner) for k, v in self.about.items()}, below)

    def changed(self, values: Mapping[str | int, Tensor], length: Tensor | None = None) -> "Context":
        """The same with other values for some inputs, and with other lengths of the rows."""
        if not values and length is None:
            return self
        about: Mapping[str, Tensor] = self.about
        if length is not None:  # positions are others, so nothing tells which of them matter
            about = {k: v for k, v in about.items() if k != SPAN} | {LENGTH: length}
        return replace(self, values={**self.values, **values}, about=about)

    def cut(self, length: int, full: int) -> "Context":
        """The same with inputs (n, full, …), one entry per position, cut to the first ``length``."""
        along = {k: v.ndim > 1 and v.shape[1] == full for k, v in self.values.items()}
        values = {k: v[:, :length] if along[k] else v for k, v in self.values.items()}
        return replace(self, values=values, about={k: v for k, v in self.about.items() if k != LENGTH})

    def holding(self, part: Part, numbers: Tensor) -> "Context":
        """The same with an input (b, *shape) that stays as it is; see `Task.held`."""
        return replace(self, about={**self.about, f"{HELD}{part.name}": numbers})

    def held(self, part: Part) -> Tensor:
        """(n, *shape) the numbers of an input that stays as it is."""
        return self.about[f"{HELD}{part.name}"]


def _taken(values: Tensor, owner: Tensor) -> Tensor:
    return values[owner.to(values.device)]


UNITS = "units: "
"""Begins keys of `Context.about`, before the name of units: their labels (b, 1 or c, *positions)."""
LENGTH = "length"
"""Key of `Context.about`: (b,) how many positions a row has, where the model is given no others."""
OWN = "own length"
"""Key of `Context.about`: (b,) positions of a row before its padding, where the model is told of it."""
SAME = "same input"
"""Key of `Context.about`: (b,) the number of the input a sample is of, where several samples ask about one.

Such samples have the same features and draw alike, so that their rows are often equal: those are run once.
"""
SPAN = "span"
"""Key of `Context.about`: (b,) how many positions a sample's score depends on, where it is not on all."""
HEAD = "head"
"""Key of `Context.about`: (b,) how many first positions are a prompt, of which something has to stay."""
HELD = "held: "
"""Begins keys of `Context.about`, before the name of an input that stays as it is (b, *shape)."""
FIXED = "fixed"
"""Key of `Context.about`: (b, 1 or c, *positions), true where a reference equals the input."""


@dataclass(frozen=True)
class Units:
    """One way to cut samples into units that people know: words, columns, windows.

    Attributes:
        kind: what they are called: ``"word"``, ``"column"``.
        labels: (b, 1 or c, *positions) the unit of every position, numbered from 0 per sample; -1 is in none.
        names: per sample, a name for every unit.
    """

    kind: str
    labels: Tensor
    names: list[list[str]]


@dataclass(frozen=True)
class Blank:
    """Raw inputs of which no sample was made, because nothing in them answers the question.

    Attributes:
        x: (k, *f) as features.
        names: of these inputs.
    """

    x: Tensor
    names: list[str]


@dataclass(frozen=True)
class Lifted:
    """Raw inputs as features.

    Attributes:
        x: (b, channels, *positions), or (b, D) where there are none.
        context: further inputs.
        names: of the samples.
        parts: where several explained inputs, or layers, lie in ``x``.
        held: further inputs that stay as they are; the context has their numbers.
        called: per sample, what is explained as people call it, where no class has that name.
        notes: what is to be said of how inputs were read.
        units: ways to cut the samples, the natural one first; empty where positions have no names.
        fixed: (b, 1 or c, *positions) positions that never change; by default those in no natural unit.
        shown: per sample, what a person sees: a text, a row, a series; empty where that is ``x``.
        rows: forward rows that lifting took.
        target: (b,) the outputs that the question is about, where it says so; a given target goes first.
        objective: the score that the question asks for, where it does.
        settles: fields of the task that the question settles, such as how outputs are read.
        blank: what holds nothing that is asked about; then there may be no sample at all.
    """

    x: Tensor
    context: Context
    names: list[str]
    parts: tuple[Part, ...] = ()
    notes: tuple[str, ...] = ()
    units: tuple[Units, ...] = ()
    fixed: Tensor | None = None
    shown: list[Any] = field(default_factory=list[Any])
    rows: int = 0
    target: Tensor | None = None
    objective: Any = None
    held: tuple[Part, ...] = ()
    called: list[str] = field(default_factory=list[str])
    settles: Mapping[str, Any] = field(default_factory=dict[str, Any])
    blank: Blank | None = None

    def __post_init__(self) -> None:
        held = {UNITS + one.kind: one.labels for one in self.units}
        fixed = self.fixed
        if fixed is None and self.units and bool((self.units[0].labels < 0).any()):
            fixed = self.units[0].labels < 0
        if fixed is not None:
            held[FIXED] = fixed
        if held:
            about = {**self.context.about, **held}
            object.__setattr__(self, "context", replace(self.context, about=about))

    def plain(self) -> "Lifted":
        """The samples alone, of which nothing is asked and nothing more is to be said."""
        return replace(self, notes=(), rows=0, target=None, objective=None)

    def take(self, rows: Tensor) -> "Lifted":
        """Some of the samples, with all that belongs to them."""
        at = rows.tolist()
        return replace(
            self,
            x=_taken(self.x, rows),
            context=self.context.take(rows),
            names=[self.names[i] for i in at],
            units=tuple(
                Units(one.kind, _taken(one.labels, rows), [one.names[i] for i in at]) for one in self.units
            ),
            fixed=None if self.fixed is None else _taken(self.fixed, rows),
            shown=[self.shown[i] for i in at] if self.shown else [],
            called=[self.called[i] for i in at] if self.called else [],
            rows=0,
            target=None if self.target is None else _taken(self.target, rows),
        )


def said_of(parts: Sequence[Part], given: Mapping[str, Any] | None) -> dict[str, Any]:
    """What is said of explained inputs, by their names.

    Args:
        parts: the inputs.
        given: by name; nothing where nothing is said.

    Raises:
        SpecError: no explained input is called so.
    """
    said = {str(name): one for name, one in (given or {}).items()}
    known = [str(part.name) for part in parts]
    for name in said:
        if name not in known:
            raise SpecError(
                Code.BAD_PARAMETER,
                f"No explained input is called {name!r}",
                expected=", ".join(known),
                fix=suggest(name, known) or None,
            )
    return said


def below(context: Context | None) -> tuple[Tensor, Context]:
    """The model's own inputs, of a context at a layer.

    Raises:
        SpecError: there are none: the method runs inputs of its own.
    """
    if context is None or context.beneath is None:
        raise SpecError(
            Code.UNSUPPORTED,
            "The method runs inputs of its own, and the model cannot run on from a layer without the sample",
            fix="Use it at the input, where iba has a layer= of its own; at a layer, use "
            "meaningful_perturbation or a gradient, rule or removal method",
        )
    return context.beneath


def suits(
    *, baseline: Any, removal: Any = None, unit: Any = "natural"
) -> dict[tuple[str, str | int | None], Any]:
    """What stands for the defaults of methods and metrics that are made for images (`Task.suits`).

    Args:
        baseline: the reference, for zero and for a sample's own mean.
        removal: what absent units show; the reference by default.
        unit: what is removed together, for pixels, grids, patches and superpixels.
    """
    absent = baseline if removal is None else removal
    found: dict[tuple[str, str | int | None], Any] = {}
    for usual in ("zero", "mean"):
        found |= {("baseline", usual): baseline, ("removal", usual): absent}
    found["removal", "noisy_linear"] = baseline  # of metrics, which know no other absence than a reference
    for usual in ("pixel", "grid", "patch", "superpixel"):
        found |= {("units", usual): unit, ("unit", usual): unit}
    return found


def pack(
    blocks: Mapping[str | int, Tensor],
    settings: Mapping[str | int, Mapping[str, Any]] | None = None,
    *,
    flat: bool = False,
) -> tuple[Tensor, tuple[Part, ...]]:
    """Several explained inputs as one tensor: along channels where their positions match, else flat.

    Args:
        blocks: (b, channels, *positions) or (b, D) by name.
        settings: further fields of a `Part` by name.
        flat: also where positions match, as where samples have different numbers of them.

    Raises:
        InputError: they hold different numbers of samples.
    """
    lengths = {len(block) for block in blocks.values()}
    if len(lengths) > 1:
        raise InputError(Code.SHAPE, "The inputs disagree on the number of samples", got=f"{sorted(lengths)}")
    same = not flat and len({tuple(block.shape[2:]) for block in blocks.values()}) == 1
    laid = [block if same else block.flatten(1) for block in blocks.values()]
    parts, start = [], 0
    for (name, block), entries in zip(blocks.items(), laid, strict=True):
        more = (settings or {}).get(name, {})
        parts.append(Part(name, start, start + entries.shape[1], tuple(block.shape[1:]), **more))
        start += entries.shape[1]
    return torch.cat(laid, dim=1), tuple(parts)


def first_of(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """(m,) where each of m different numbers comes first, the smallest first, and (n,) which it is."""
    _, which = numbers.unique(return_inverse=True)
    places = torch.arange(len(numbers), device=numbers.device)
    m = int(which.max()) + 1 if len(which) else 0
    return places.new_full((m,), len(numbers)).scatter_reduce(0, which, places, "amin"), which


def taken(outputs: Any, rows: Tensor) -> Any:
    """Outputs of a model for rows in another order, or some of them several times."""
    if isinstance(outputs, Tensor):
        return outputs[rows.to(outputs.device)]
    if isinstance(outputs, Mapping):
        return {name: taken(one, rows) for name, one in outputs.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(outputs, list | tuple) and outputs and all(isinstance(one, Tensor) for one in outputs):
        return type(outputs)(taken(one, rows) for one in outputs)  # pyright: ignore[reportUnknownVariableType]
    return [outputs[row] for row in rows.tolist()]

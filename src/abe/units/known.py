"""Units that a task knows by name: words of a text, columns of a table, windows of a series.

Their labels come with the samples (`abe.task.lifted.Units`), so such a unit is bound to a problem first.
A position whose label is -1 is in no unit: it never arrives, and no removal takes it away.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Int
from torch import Tensor

from abe.checks import Count
from abe.draws import Draws
from abe.errors import Code, InputError
from abe.registry import units
from abe.spec import value
from abe.task.lifted import FIXED, LENGTH, Context
from abe.types import Card, Features
from abe.units.arrival import Arrival, Map, axes_of, ranked_regions, size_of


@dataclass(frozen=True, eq=False)
class Labelled:
    """Units of some samples by their labels.

    Attributes:
        labels: (b, 1 or c, *positions) the unit of every position, -1 for none.
    """

    labels: Int[Tensor, "b *p"]

    def of(self, samples: Int[Tensor, "m"], x: Features) -> "Labelled":
        """The units of some of the samples."""
        return Labelled(self.labels[samples.to(self.labels.device)])

    def counts(self) -> Int[Tensor, "b"]:
        """(b,) how many units every sample has."""
        return self.labels.flatten(1).amax(1) + 1

    def count(self, shape: Sequence[int]) -> int:
        return int(self.counts().max())

    def ranks(self, attribution: Map, x: Features, *, draws: Draws, ids: Sequence[int]) -> Arrival:
        return ranked_regions(self.partition(x), attribution, x, draws=draws, ids=ids)

    def partition(self, x: Features) -> Int[Tensor, "b *p"]:
        return self.labels.to(x.device)


class Known:
    """A unit whose labels come with the samples; `bind` finds them."""

    kind: ClassVar[str | None] = None
    """What they are called; None for the natural ones of the task."""

    def bind(self, problem: Any) -> Any:
        """The units of a problem's samples.

        Raises:
            InputError: the samples have no such units.
        """
        labels = problem.labels(self.kind)
        if labels is None:
            raise _no_such(self.kind, problem)
        return Labelled(labels)

    def count(self, shape: Sequence[int]) -> int:
        """At most as many as there are positions."""
        return size_of(axes_of(shape))

    def ranks(self, attribution: Map, x: Features, *, draws: Draws, ids: Sequence[int]) -> Arrival:
        raise _unbound(self.kind)

    def partition(self, x: Features) -> Int[Tensor, "b *p"]:
        raise _unbound(self.kind)


def _no_such(kind: str | None, problem: Any) -> InputError:
    known = problem.kinds_of_units
    return InputError(
        Code.UNITS,
        f"These samples have no units called {kind!r}",
        expected=f"one of {', '.join(known)}" if known else "another unit, such as pixel or patch",
    )


def _unbound(kind: str | None) -> InputError:
    return InputError(
        Code.UNITS,
        f"Where units called {kind or 'natural'!r} lie is known to a request, not to an array",
        fix="Bind them first: unit.bind(problem)",
    )


@units.register(
    Card(name="natural", title="Natural unit of the task", source="zhu2025abe"),
)
@value
class Natural(Known):
    """What people call the parts of such inputs: words of a text, columns of a table, windows of a series.

    Where a task has none, every position is one.
    """

    def bind(self, problem: Any) -> Any:
        from abe.units import Pixel

        return Pixel() if problem.labels(None) is None else super().bind(problem)


def _known(name: str, title: str, said: str) -> type[Known]:
    """A unit of one kind, registered."""

    class Kind(Known):
        __doc__ = said
        kind = name

    Kind.__name__ = Kind.__qualname__ = title
    return units.register(Card(name=name, title=title, source="zhu2025abe"))(value(Kind))


Word = _known("word", "Word", "A word of a text, all its pieces together.")
Token = _known("token", "Token", "A piece of a text as the tokenizer cuts it; special tokens are in none.")
Clause = _known("clause", "Clause", "What stands between punctuation marks of a text.")
Sentence = _known("sentence", "Sentence", "A sentence of a text.")
Span = _known("span", "Span", "A stretch of a prompt that is named, or a slot of a template.")
Frame = _known("frame", "Frame", "A frame of a video: all its rows, columns and channels.")
Point = _known("point", "Point", "A point of a cloud, or a node of a graph, with all its numbers.")
Channel = _known("channel", "Channel", "A channel over all positions.")
Piece = _known("piece", "Piece", "What each of several inputs is cut into: cells, windows, columns.")
Input = _known("input", "Input", "One of several inputs, the whole of it.")
Column = _known("column", "Column", "A column of a table; a category with all its numbers.")


class Sized(Known):
    """Units of named axes whose size can be chosen."""

    def bind(self, problem: Any) -> Any:
        size = next((getattr(self, name) for name in ("size", "n") if hasattr(self, name)), None)
        if size is None:
            return super().bind(problem)
        lifter = problem.task.lifter
        if problem.labels(self.kind) is None or not hasattr(lifter, "axes"):
            raise _no_such(self.kind, problem)
        lengths = problem.context.about.get(LENGTH)
        labels = lifter.labels(self.kind, tuple(problem.x.shape[1:]), lengths, size)
        return Labelled(labels.expand(len(problem.x), *labels.shape[1:]))


@units.register(Card(name="window", title="Window of time", source="covert2021"))
@value
class Window(Sized):
    """Steps of time that follow each other, all channels together.

    Args:
        size: steps of a window; by default those of the task, about a twelfth of all.
    """

    size: Count | None = None
    kind: ClassVar[str | None] = "window"


@units.register(Card(name="window_channel", title="Window of a channel", source="covert2021"))
@value
class WindowChannel(Sized):
    """Steps of time that follow each other, of one channel.

    Args:
        size: steps of a window; by default those of the task, about a twelfth of all.
    """

    size: Count | None = None
    kind: ClassVar[str | None] = "window_channel"


@units.register(Card(name="block", title="Block", source="covert2021"))
@value
class Block(Sized):
    """Cells of a volume, a plane or a video, all channels together.

    Args:
        n: cells along each axis; by default three of three axes, four of two.
    """

    n: Count | None = None
    kind: ClassVar[str | None] = "block"


@units.register(Card(name="tube", title="Tube", source="covert2021"))
@value
class Tube(Sized):
    """A place of a video through all its frames.

    Args:
        n: cells along rows and along columns; four by default.
    """

    n: Count | None = None
    kind: ClassVar[str | None] = "tube"


@dataclass(frozen=True)
class Unrun:
    """Samples before anything has run, as units see them.

    Attributes:
        x: (b, *f) the samples.
        context: what belongs to them, such as labels of their units.
        task: the model and how to read it.
    """

    x: Tensor
    context: Context
    task: Any

    def __len__(self) -> int:
        return len(self.x)

    @property
    def shape(self) -> tuple[int, ...]:
        """(*f) of a sample."""
        return tuple(self.x.shape[1:])

    @property
    def kinds_of_units(self) -> list[str]:
        """Names of the units that the samples have."""
        return self.context.kinds_of_units

    @property
    def fixed(self) -> Tensor | None:
        """(b, 1 or c, *positions) where references equal the input."""
        return self.context.about.get(FIXED)

    def labels(self, kind: str | None = None) -> Tensor | None:
        """The units of the samples, as `abe.task.lifted.Context.labels` gives them."""
        return self.context.labels(kind)


def counts_in(unit: Any, samples: Any) -> list[int]:
    """(b,) how many units each sample has.

    Args:
        unit: what is counted.
        samples: `Unrun`, or a problem.
    """
    found = settled(unit, samples)
    if isinstance(found, Labelled):
        return found.counts().tolist()
    return [int(found.count(tuple(samples.x.shape[1:])))] * len(samples.x)


def settled(unit: Any, problem: Any) -> Any:
    """The unit for the samples of a problem: what has ``bind``, such as known units and given regions."""
    return unit.bind(problem) if hasattr(unit, "bind") else unit

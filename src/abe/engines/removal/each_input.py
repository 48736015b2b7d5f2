"""A removal of its own for each of several inputs that are packed together."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from abe.engines.removal.removals import Absent, BoundRemoval, Layout, Removal, Replace
from abe.engines.removal.segments import Segments
from abe.engines.runtime.problem import Problem
from abe.engines.sides import about, is_flat, side
from abe.errors import Code, SpecError
from abe.registry import removals
from abe.spec import value
from abe.task.lifted import said_of
from abe.types import Card, Fed, Part


@removals.register(
    Card(
        name="each_input",
        title="A removal for each input",
        source="covert2021",
        pitfalls=("What two inputs mean together is in neither removal.",),
    )
)
@value
class EachInput:
    """Absent units of every explained input are removed in its own way.

    Args:
        parts: by input, a removal or a baseline: ``{"image": "zero", "text": "attention"}``; inputs that are
            not named show the reference of their kind.
    """

    parts: Mapping[str, Any] | None = None

    def bind(self, problem: Problem, layout: Layout) -> BoundRemoval:
        if not is_flat(problem) or not isinstance(layout, Segments):
            raise SpecError(
                Code.UNSUPPORTED,
                "Only units of several packed inputs are removed in a way of each",
                got=f"inputs of the modality {problem.task.modality!r}",
                fix="Choose another removal, such as zero",
            )
        said = said_of(problem.task.parts, self.parts)
        bound = list[tuple[Part, BoundRemoval]]()
        for part in problem.task.parts:
            removal = _made(said.get(str(part.name), problem.task.lifter.absent(part.name)))
            with about(part.name):
                bound.append((part, removal.bind(side(problem, part.name), _of(layout, part))))
        return _Each(problem.x, tuple(bound))


def _made(obj: Any) -> Removal:
    name = obj[0] if isinstance(obj, tuple) and len(obj) == 2 else obj
    if isinstance(name, str) and name in removals.names():
        return removals.resolve(obj)
    return obj if isinstance(obj, Removal) and not isinstance(obj, type) else Replace(baseline=obj)


def _of(layout: Segments, part: Part) -> Segments:
    """The units as they lie in one input, by the numbers they have in all."""
    labels = layout.labels.expand(len(layout.labels), *layout.shape)
    return Segments(part.of(labels), layout.counts, part.shape)


@dataclass(frozen=True)
class _Each:
    x: Tensor
    bound: tuple[tuple[Part, BoundRemoval], ...]

    @property
    def draws(self) -> int:
        """As many as the input with most has; others begin anew."""
        return max(one.draws for _, one in self.bound)

    def rows(self, absent: Absent) -> Tensor | Fed:
        """Every input's rows beside each other, with what changes beside them."""
        found, changes = list[Tensor](), dict[str | int, Tensor]()
        keep = absent.keep.expand(len(absent.keep), *self.x.shape[1:])
        for part, one in self.bound:
            made = one.rows(Absent(absent.owner, absent.draw % one.draws, part.of(keep)))
            if isinstance(made, Fed):
                if made.length is not None and "attention_mask" not in made.changes:
                    raise SpecError(
                        Code.UNSUPPORTED,
                        "Texts beside other inputs get shorter by a mask, and the model takes none",
                        got=f"a removal of the input {part.name!r} that leaves texts of several lengths",
                        fix='Explain that input alone, or choose another removal, such as "mask"',
                    )
                found.append(made.x.flatten(1))
                changes |= made.changes
            else:
                found.append(made.flatten(1))
        rows = torch.cat(found, 1)
        return Fed(rows, changes) if changes else rows

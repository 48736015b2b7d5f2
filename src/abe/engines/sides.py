"""One of several explained inputs as a request of its own, while the others stay as they are.

Where inputs have positions of different kinds, as a photograph and its caption have, their features are
packed flat. What needs positions then runs on each input in turn: the same engine, on the same model, with
the other inputs held.
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from abe.engines.layers.at_layer import derived
from abe.engines.runtime import lengths
from abe.engines.runtime.problem import Problem
from abe.errors import AbeError, Code, InputError, SpecError
from abe.registry import Method, methods
from abe.task.base import Context, Task
from abe.task.lengths import OF
from abe.task.lifted import FIXED, UNITS
from abe.types import OFFERS, Card, Part, Result

NEIGHBOURS = frozenset({"positions", "image", "tokens"})
"""What a card asks for that packed features do not have."""


def run(method: Method, problem: Problem) -> Result:
    """The result of a method; of one that needs positions, on each of several packed inputs in turn.

    Raises:
        AbeError: one of the inputs cannot be explained so; the error says which.
    """
    card = methods.get(method.name).card if method.name in methods.names() else None
    slides = getattr(method.engine, "slides", False) and is_flat(problem)
    apart = card is not None and (slides or needs_side(card, problem))
    engine = _Apart(method, card) if card is not None and apart else method.engine
    return lengths.run(engine, problem, dict(method.params))


@dataclass(frozen=True)
class _Apart:
    """A method on each of several inputs, of samples that are as long as each other."""

    method: Method
    card: Card

    def run(self, problem: Problem) -> Result:
        problem = problem.predicted()

        def one(part: Part) -> Result:
            view = side(problem, part.name)
            with about(part.name):
                check_side(self.card, view)
                own = self.method.suited(view.task.suits)
                return lengths.run(own.engine, view, dict(own.params))

        return _packed(problem, {part: one(part) for part in problem.task.parts})


def needs_side(card: Card, problem: Problem) -> bool:
    """Whether what a card asks for is there on one input at a time only."""
    return bool(NEIGHBOURS & set(card.features)) and is_flat(problem)


def is_flat(problem: Problem) -> bool:
    """Whether several inputs are packed without their positions."""
    task = problem.task
    return (
        task.beneath is None and len(task.parts) > 1 and problem.x.ndim == 2 and hasattr(task.lifter, "tasks")
    )


def check_side(card: Card, view: Problem) -> None:
    """Refuse an input that does not have what a card asks for.

    Raises:
        SpecError: it has not.
    """
    missing = (set(card.features) & NEIGHBOURS) - set(OFFERS.get(view.task.modality, ()))
    if missing:
        raise SpecError(
            Code.UNSUPPORTED,
            f"{card.name} needs {' and '.join(sorted(missing))}",
            got=f"an input of the modality {view.task.modality!r}",
            fix="Explain the input that it suits alone",
        )


@contextmanager
def about(name: str | int) -> Generator[None]:
    """Says in an error which input it is about."""
    try:
        yield
    except AbeError as problem:
        kind = next(one for one in type(problem).__mro__ if one.__module__ == AbeError.__module__)
        what = f"{problem.what} (input {name!r})"
        raise kind(
            problem.code, what, got=problem.got, expected=problem.expected, fix=problem.fix
        ) from problem


def side(problem: Problem, name: str | int) -> Problem:
    """The request about one of several packed inputs; the others stay as they are.

    Raises:
        InputError: no input is called so.
    """
    parts = {part.name: part for part in problem.task.parts}
    if name not in parts:
        raise InputError(
            Code.SHAPE, f"No explained input is called {name!r}", expected=", ".join(map(repr, parts))
        )
    part = parts[name]
    task = side_task(problem.task, name)
    return replace(
        problem,
        evaluator=derived(problem, task, f"side {name}"),
        x=part.of(problem.x).contiguous(),
        context=_context(problem, part),
        decision=problem.predicted().decision,
        lifted=None,
    )


def side_task(task: Task, name: str | int) -> Task:
    """The task of one of several packed inputs."""
    part = next(one for one in task.parts if one.name == name)
    alone: Task = task.lifter.tasks[name]
    other = copy(task)
    vars(other).pop("_origin", None)
    numbers = (
        {} if part.layer is not None else {key: getattr(alone, key) for key in ("mean", "std", "low", "high")}
    )
    for key, value in numbers.items():
        setattr(other, key, value)
    plain = replace(_first(part), **dict.fromkeys(numbers, None)) if numbers else _first(part)
    other.parts = (plain,)
    other.held = (*task.held, *(_first(one) for one in task.parts if one.name != name))
    other.modality, other.suits = alone.modality, alone.suits
    return other


def _first(part: Part) -> Part:
    """An input that is all of its block."""
    return replace(part, start=0, stop=part.shape[0] if part.shape else part.stop - part.start)


def _context(problem: Problem, part: Part) -> Context:
    """What belongs to the samples, with the other inputs held and units of this one alone."""
    context = problem.context
    kept, units = dict[str, Tensor](), dict[str, Tensor]()
    for key, value in context.about.items():
        if key.startswith(UNITS) or key == FIXED:
            block = part.of(value.expand(len(problem.x), problem.x.shape[1]))
            if key == FIXED:
                kept |= {FIXED: block} if bool(block.any()) else {}
            elif bool((block >= 0).any()):
                units[key] = _anew(block)
        elif OF not in key:
            kept[key] = value
        elif key.partition(OF)[2] == str(part.name):
            kept[key.partition(OF)[0]] = value
    packed = [key for key in units if key in _whole(problem)]
    ordered = {key: units[key] for key in [*(k for k in units if k not in packed), *packed]}
    made = replace(context, about={**kept, **ordered})
    for one in problem.task.parts:
        if one.name != part.name:
            made = made.holding(one, one.of(problem.x))
    return made


def _whole(problem: Problem) -> set[str]:
    """Keys of the units that all inputs have, which come after those of one input."""
    return {UNITS + kind for kind in problem.kinds_of_units[:2]}


def _anew(labels: Tensor) -> Tensor:
    """Labels of every sample numbered from 0, -1 left as it is."""
    rows = list[Tensor]()
    for own in labels:
        inside = own >= 0
        numbers = torch.unique(own[inside], return_inverse=True)[1]
        rows.append(torch.full_like(own, -1).masked_scatter(inside, numbers))
    return torch.stack(rows)


def _packed(problem: Problem, found: Mapping[Part, Result]) -> Result:
    """One result of the inputs' own; what each claims is a diagnostic, as the sum is claimed by none."""

    def laid(values: list[Tensor | None]) -> Tensor | None:
        kept = [one.flatten(1) for one in values if one is not None]
        return torch.cat(kept, 1) if len(kept) == len(found) else None

    maps = [_full(one.attribution, part) for part, one in found.items()]
    diagnostics = {
        f"{part.name}.{key}": one for part, r in found.items() for key, one in r.diagnostics.items()
    }
    diagnostics |= {f"{part.name}.delta": r.delta for part, r in found.items() if r.delta is not None}
    first = next(iter(found.values()))
    return Result(
        torch.cat([one.flatten(1) for one in maps], 1),
        standard_error=laid(
            [None if r.standard_error is None else _full(r.standard_error, p) for p, r in found.items()]
        ),
        warnings=list(dict.fromkeys(text for one in found.values() for text in one.warnings)),
        diagnostics=diagnostics,
        objective=first.objective,
    )


def _full(attribution: Tensor, part: Part) -> Tensor:
    """A map of an input over all its numbers."""
    if attribution.shape[1:] == part.shape:
        return attribution
    return (attribution / part.shape[0]).expand(len(attribution), *part.shape)

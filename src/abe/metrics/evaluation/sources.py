"""Where the maps of an evaluation come from: given explanations, arrays, functions, or methods that run."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from abe import arrays
from abe.api import explain
from abe.errors import Code, InputError, SpecError, TargetError
from abe.explanation import Explanation
from abe.metrics.evaluation.batches import Batch
from abe.per_sample import without_padding
from abe.registry import Method, methods
from abe.task.base import Task
from abe.task.targets import fitted, numbers_of
from abe.types import Draws, Engine, Objective
from abe.units import check_map


@dataclass(frozen=True, kw_only=True)
class Explaining:
    """What a source may need to know beside the lot."""

    task: Task
    objective: Objective
    seed: int
    draws: Draws
    execution: Any
    chunk: int | None
    advance: Callable[[int], None]


@runtime_checkable
class Source(Protocol):
    """Explanations of lots, in order."""

    @property
    def given(self) -> bool:
        """Whether the maps exist already, so that what is wrong with them stops everything."""
        ...

    @property
    def explains(self) -> bool:
        """Whether its method is known and could explain again."""
        ...

    def check(self, lot: Batch) -> None:
        """Refuse what can be seen to be wrong before the model runs."""
        ...

    def explain(self, lot: Batch, target: Tensor, request: Explaining) -> Explanation:
        """The explanation of a lot's samples for their settled targets."""
        ...

    def finish(self, last: Batch) -> None:
        """Refuse maps for more samples than there were up to the last lot."""
        ...


@dataclass(frozen=True)
class SavedMaps:
    """An explanation that was made before, of all samples."""

    name: str
    explanation: Explanation
    given: bool = True

    @property
    def explains(self) -> bool:
        return dict(self.explanation.spec).get("method") in methods.names()

    def check(self, lot: Batch) -> None:
        if lot.alone:
            self.finish(lot)
        part, lengths = self._part(lot), lot.lifted.context.lengths
        theirs = without_padding(part.x, lengths) if part.x.shape == lot.lifted.x.shape else part.x
        arrays.check_inputs(theirs, without_padding(lot.lifted.x, lengths), self.name)
        check_map(part.attribution, lot.lifted.x)

    def explain(self, lot: Batch, target: Tensor, request: Explaining) -> Explanation:
        return self._part(lot)

    def finish(self, last: Batch) -> None:
        _same_number(self.name, len(self.explanation), last.rows.stop)

    def _part(self, lot: Batch) -> Explanation:
        whole = self.explanation
        if not lot.start and len(whole) == len(lot):
            return whole
        if lot.rows.stop > len(whole):
            _same_number(self.name, len(whole), lot.rows.stop)
        return whole[lot.rows]


@dataclass(frozen=True)
class Array:
    """Maps of all samples as an array, one array per class, or a file of either."""

    name: str
    maps: Any
    inputs: Any = None
    given: bool = True
    explains: bool = False

    def check(self, lot: Batch) -> None:
        x = lot.lifted.x
        if self.inputs is not None:
            arrays.check_inputs(self.inputs if lot.alone else self.inputs[lot.rows], x, self.name)
        part = self._part(lot)
        if not arrays.fits(part, x) and arrays.fits(arrays.part(self.maps, slice(0, 1), x), x[:1]):
            held = arrays.length(self.maps, x, lot.rows.stop)
            if lot.alone or held < lot.rows.stop:
                _same_number(self.name, held, lot.rows.stop)
        arrays.as_map(part, x, target=torch.zeros(len(lot), dtype=torch.long))

    def explain(self, lot: Batch, target: Tensor, request: Explaining) -> Explanation:
        return _foreign(self._part(lot), self.name, lot, target, request)

    def finish(self, last: Batch) -> None:
        if not last.alone:
            held = arrays.length(self.maps, last.lifted.x, last.rows.stop)
            _same_number(self.name, held, last.rows.stop)

    def _part(self, lot: Batch) -> Any:
        """All maps for samples that are evaluated at once, whose shape may leave out the batch."""
        return self.maps if lot.alone else arrays.part(self.maps, lot.rows, lot.lifted.x)


@dataclass(frozen=True)
class Function:
    """A function ``(inputs, targets) -> maps`` of somebody else's, called lot by lot."""

    name: str
    function: Callable[[Tensor, Tensor], Any]
    given: bool = False
    explains: bool = False

    def check(self, lot: Batch) -> None:
        """Nothing is known before it is called."""

    def explain(self, lot: Batch, target: Tensor, request: Explaining) -> Explanation:
        return _foreign(self.function(lot.lifted.x.clone(), target.clone()), self.name, lot, target, request)

    def finish(self, last: Batch) -> None:
        """It made as many as there were."""


@dataclass(frozen=True)
class MethodMaps:
    """A method of ABE that explains each lot."""

    method: Method
    given: bool = False
    explains: bool = True

    def check(self, lot: Batch) -> None:
        """The method checks what it needs."""

    def explain(self, lot: Batch, target: Tensor, request: Explaining) -> Explanation:
        lifted = lot.lifted
        explanation = explain(
            request.task,
            replace(lifted, notes=(), rows=0, target=None, objective=None),
            self.method,
            target=target,
            objective=request.objective,
            seed=request.seed,
            ids=lot.ids,
            draws=request.draws,
            execution=request.execution,
            chunk=request.chunk,
            progress=request.advance,
        )
        warnings = [*lifted.notes, *explanation.warnings]
        return replace(explanation, names=list(lifted.names), warnings=warnings)

    def finish(self, last: Batch) -> None:
        """It made as many as there were."""


def named(given: Any) -> dict[str, Source]:
    """Sources by name, from a mapping, a list or iterator of explanations or methods, or one of these.

    Raises:
        SpecError: nothing, or something that is no source of maps.
    """
    if isinstance(given, Mapping):
        found = {str(name): source(str(name), one) for name, one in given.items()}
    else:
        several = isinstance(given, Sequence | Iterator) and not isinstance(given, str)
        listed = list(given) if several else [given]
        found = {}
        for one in listed:
            name = _free(_name(one), found)
            found[name] = source(name, one)
    if not found:
        raise SpecError(
            Code.BAD_PARAMETER, "There is nothing to evaluate", fix="Give at least one explanation"
        )
    return found


def source(name: str, one: Any) -> Source:
    """The source that something stands for; a text is the name of a method, else the path of maps."""
    if (path := _path(one)) is not None:
        if path.is_dir():
            return SavedMaps(name, Explanation.load(path))
        held = arrays.read(path)
        return Array(name, held["maps"], held.get("inputs"))
    if isinstance(one, Explanation):
        return SavedMaps(name, one)
    if isinstance(one, Method | Engine | str):
        return MethodMaps(methods.resolve(one))
    if isinstance(one, tuple) and len(one) == 2 and isinstance(one[0], str) and isinstance(one[1], Mapping):
        return MethodMaps(methods.resolve(one))
    if isinstance(one, list | tuple) and one and all(isinstance(part, Explanation) for part in one):
        return SavedMaps(name, Explanation.join(one))
    if isinstance(one, list | tuple) and one and all(_path(part) is not None for part in one):
        return _joined(name, [source(name, part) for part in one])
    if arrays.is_maps(one):
        return Array(name, one)
    if callable(one):
        return Function(name, one)
    raise SpecError(
        Code.BAD_PARAMETER,
        f"{name!r} is no source of maps",
        got=type(one).__name__,
        expected="an Explanation, an array, a path, a method, or a function (inputs, targets) -> maps",
    )


def _joined(name: str, files: Sequence[Source]) -> Source:
    """The maps of several files, which hold some samples each."""
    saved = [file.explanation for file in files if isinstance(file, SavedMaps)]
    held = [file for file in files if isinstance(file, Array)]
    if len(saved) == len(files):
        return SavedMaps(name, Explanation.join(saved))
    if saved:
        raise SpecError(
            Code.BAD_PARAMETER,
            f"{name!r} is made of folders and of array files",
            expected="one kind",
            fix="Load the folders with Explanation.load",
        )
    inputs = [arrays.as_tensor(file.inputs, "The inputs") for file in held if file.inputs is not None]
    return Array(name, [file.maps for file in held], torch.cat(inputs) if len(inputs) == len(held) else None)


def _path(one: Any) -> Path | None:
    """The path that is meant, if one is: a text that names a method never is one."""
    if isinstance(one, os.PathLike):
        return Path(one)
    if not isinstance(one, str) or one in methods:
        return None
    looks = os.sep in one or Path(one).suffix.lower() in arrays.SUFFIXES
    return Path(one) if looks or os.path.exists(one) else None


def explained_by(task: Task, given: Any, finished: Sequence[Explanation]) -> Tensor | None:
    """The classes that the finished explanations explain, which are compared with each other only."""
    if not finished:
        return None
    first = finished[0].target.cpu()
    for other in finished[1:]:
        if other.target.shape != first.shape or not torch.equal(other.target.cpu(), first):
            raise TargetError(
                Code.TARGET_RANGE,
                "The explanations explain different classes of the same samples",
                got=f"{finished[0].method!r} and {other.method!r}",
                fix="Explain both with the same target=",
            )
    if given is not None:
        entries = (1,) * (first.shape[1] if first.ndim > 1 else 1)
        wanted = fitted(numbers_of(given, task.class_index), len(first), entries, free=True, entry=True).cpu()
        if not torch.equal(wanted, first):
            raise TargetError(
                Code.TARGET_RANGE,
                "The explanations explain other classes than target=",
                got=f"{first.tolist()[:5]} for {wanted.tolist()[:5]}",
                fix="Leave target= out: the explanations hold theirs",
            )
    return first


def _name(one: Any) -> str:
    if (path := _path(one)) is not None:
        return path.stem
    if isinstance(one, Explanation):
        return one.method
    if isinstance(one, str):
        return methods.get(one).name
    if isinstance(one, Method):
        return one.name
    return getattr(one, "__name__", "given")


def _free(name: str, taken: Mapping[str, Any]) -> str:
    if name not in taken:
        return name
    return next(free for k in range(2, len(taken) + 3) if (free := f"{name} ({k})") not in taken)


def _foreign(maps: Any, name: str, lot: Batch, target: Tensor, request: Explaining) -> Explanation:
    made = Explanation.from_array(
        maps,
        lot.lifted.x,
        target=target,
        name=name,
        names=lot.lifted.names,
        ids=lot.ids,
        modality=request.task.modality,
    )
    return replace(made, warnings=list(lot.lifted.notes)) if lot.lifted.notes else made


def _same_number(name: str, maps: int, samples: int) -> None:
    if maps != samples:
        more = "at least " if maps < samples else ""
        raise InputError(
            Code.SAMPLES,
            f"The maps {name!r} are not of the samples that are evaluated",
            got=f"{maps} maps for {more}{samples} samples",
            fix="Give one map per sample, in the order of the data; arrays of equal length in a list are one "
            "per class",
        )

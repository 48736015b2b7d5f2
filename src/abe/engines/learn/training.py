"""Training on the user's data loader: resumable to the last bit, and nothing learnt is lost.

The state after a batch depends on the state before it, the batch, and its number, never on a generator
that would have to be stored. A checkpoint holds weights, moments and the place in the data; going on
skips the batches that were seen, and says so where they are others than before.
"""

import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from abe import schema
from abe.checks import Count, checked_arguments
from abe.draws import SeededDraws, mix
from abe.engines.learn.resume import put_back, state_of
from abe.engines.runtime.evaluator import Evaluator
from abe.engines.runtime.problem import Problem
from abe.engines.runtime.request import pose, running
from abe.engines.runtime.stored import digest, read, write
from abe.errors import Code, InputError, SpecError, StorageError, note
from abe.schema import MisfitError, Natural, need, need_tensor
from abe.storage import as_path
from abe.task.base import Task

BATCH = 32
"""Rows of a tensor that are a batch."""
WEIGHT, MOMENT = "net/{}", "adam/{}/{}"
"""Names of a checkpoint's tensors."""
CHUNK = {"cpu": 8}
"""Rows at a time by device, else `BATCH`: a chunk found by timing would let the clock decide the last bit."""


@runtime_checkable
class Recipe(Protocol):
    """What is learnt."""

    @property
    def rate(self) -> float:
        """Learning rate of Adam."""
        ...

    def build(self, problem: Problem, seed: int) -> nn.Module:
        """The network with its first weights, on the device and in the type of the problem's inputs."""
        ...

    def loss(self, net: nn.Module, problem: Problem, epoch: int) -> Tensor:
        """What Adam descends, for one batch."""
        ...

    def settings(self) -> dict[str, Any]:
        """Everything that two trainings must share to be the same, JSON-able."""
        ...


@dataclass
class Trained:
    """What a training came to.

    Attributes:
        weights: of the network, by name.
        shape: of the inputs, without the batch.
        classes: that the model tells apart.
        epochs: full passes made.
        samples: samples seen.
        notes: what went otherwise than asked, with codes.
    """

    weights: dict[str, Tensor]
    shape: tuple[int, ...]
    classes: int
    epochs: int
    samples: int
    notes: list[str] = field(default_factory=list)


@checked_arguments
def train(
    task: Task,
    data: Any,
    recipe: Recipe,
    *,
    epochs: Count,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    every: Count = 50,
) -> Trained:
    """Train ``recipe`` on ``data``, or go on where ``checkpoint`` was left.

    Args:
        task: whose model; left as found.
        data: a tensor, or an iterable of batches that can be gone through once per epoch: what the task
            takes, alone or with class numbers as ``(batch, target)``. The model's predictions are the
            targets otherwise. To go on exactly, it must give the same batches in the same order again.
        recipe: what is learnt.
        epochs: passes over the data.
        seed: of weights and draws.
        checkpoint: file to keep the state in, and to go on from where it exists.
        every: batches between two checkpoints; one is written after every epoch and failure too.

    Raises:
        InputError: no batch at all, or less than two samples.
        StorageError: the checkpoint is none, or belongs to another training.
    """
    run = _Run(task, recipe, seed, None if checkpoint is None else as_path(checkpoint), every)
    with running(task):
        run.resume()
        for epoch in range(run.epoch, epochs):
            if not run.through(data, epoch):
                break
    return run.finish()


@dataclass(frozen=True)
class _Place:
    """Where a training stands: passes and batches made, samples seen, and the number of what was seen."""

    epoch: Natural
    batch: Natural
    samples: Natural
    length: Natural
    seen: Natural
    classes: Natural


class _Run:
    """One training: the network, its moments, and the place in the data."""

    def __init__(self, task: Task, recipe: Recipe, seed: int, path: Path | None, every: int) -> None:
        self.task, self.recipe, self.seed, self.path, self.every = task, recipe, seed, path, every
        self.epoch = self.batch = self.samples = self.length = 0
        self.seen, self.whole = 0, True
        self.shape: tuple[int, ...] = ()
        self.classes = 0
        self.notes = list(task.assumed)
        self.learner: tuple[nn.Module, torch.optim.Adam] | None = None
        self.stored: dict[str, Tensor] = {}

    def through(self, data: Any, epoch: int) -> bool:
        """One pass over the data; False where it could not be finished."""
        number, seen = 0, mix("epoch", epoch)
        self.length = max(self.length, _promised(data))
        failures: list[str] = []
        with self._kept():
            for number, raw in enumerate(read_batches(data, failures, lambda: self.samples), start=1):
                problem = training_problem(self.task, raw, self.seed)
                self.notes += [text for text in told_by(raw) if text not in self.notes]
                seen = mix(seen, digest({"x": problem.x}))
                if number > self.batch:
                    self._learn(problem, epoch, seen)
                    if self.path is not None and number % self.every == 0:
                        self._save()
                elif number == self.batch and seen != self.seen:
                    what = "The loader gave other batches than before the interruption, so the result differs"
                    say(what, self.notes)
        if failures or number < max(self.length, self.batch):
            self._ended(epoch, number, failures)
            return False
        self._enough()
        self.length, self.epoch, self.batch = number, epoch + 1, 0
        self._save()
        return True

    def _learn(self, problem: Problem, epoch: int, seen: int) -> None:
        shape = tuple(problem.x.shape[1:])
        if self.shape and shape != self.shape:
            raise InputError(
                Code.SHAPE,
                "The loader gave inputs of another shape",
                got=f"{shape} in batch {self.batch + 1} of epoch {epoch + 1}",
                expected=str(self.shape),
            )
        if self.learner is None:
            self.learner = self._build(problem)
        net, adam = self.learner
        parameters = list(net.parameters())
        loss = self.recipe.loss(net, problem, epoch)
        for parameter, slope in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = slope
        self.whole = False  # an interruption from here on must not be written down
        adam.step()
        self.samples, self.batch, self.seen = self.samples + len(problem.x), self.batch + 1, seen
        self.whole = True

    def _build(self, problem: Problem) -> tuple[nn.Module, torch.optim.Adam]:
        """The network and its optimiser, as they were left where something was stored."""
        classes = classes_of(problem)
        if self.stored and self.classes != classes:
            raise self._foreign(f"{self.classes} classes", f"{classes} classes")
        net = self.recipe.build(problem, self.seed)
        adam = torch.optim.Adam(net.parameters(), lr=self.recipe.rate)
        if self.stored:
            try:
                read = put_back(net, adam, self.stored, weight=WEIGHT, moment=MOMENT)
                need(read == set(self.stored), "there are tensors of other networks")
            except MisfitError as misfit:
                raise self._foreign(misfit, "the networks of this training") from misfit
        self.shape, self.classes = tuple(problem.x.shape[1:]), classes
        return net, adam

    @contextmanager
    def _kept(self) -> Generator[None]:
        """The state is written before an exception goes on its way, unless it is half changed."""
        try:
            yield
        except BaseException:
            if self.whole:
                self._save()
            raise

    def _ended(self, epoch: int, number: int, failures: list[str]) -> None:
        if not failures and self.samples > 1:
            of = f" of {self.length}" if self.length else ""
            what = f"The loader ended early, after {number}{of} batches of epoch {epoch + 1}"
            say(f"{what}; what was learnt from {self.samples} samples is kept", self.notes)
        self.notes += failures
        self._save()

    def finish(self) -> Trained:
        """What was learnt."""
        self._enough()
        weights = {k.removeprefix("net/"): v for k, v in self.stored.items() if k.startswith("net/")}
        if self.learner is not None:
            weights = {name: p.detach() for name, p in self.learner[0].named_parameters()}
        return Trained(weights, self.shape, self.classes, self.epoch, self.samples, self.notes)

    def _enough(self) -> None:
        if self.samples < 2:
            raise InputError(
                Code.TRAINING_DATA,
                "There is too little to learn from",
                got=f"{self.samples} samples",
                expected="at least two, a few hundred to be of use",
            )

    def _settings(self) -> dict[str, Any]:
        return {**self.recipe.settings(), "seed": self.seed}

    def _save(self) -> None:
        if self.path is None or self.learner is None:
            return
        place = {one.name: getattr(self, one.name) for one in fields(_Place)}
        described = {"training": self._settings(), "place": place, "shape": list(self.shape)}
        write(self.path, state_of(*self.learner, weight=WEIGHT, moment=MOMENT), described)

    def resume(self) -> None:
        """Take everything from the checkpoint, where there is one."""
        if self.path is None or not self.path.exists():
            return
        described, self.stored = read(self.path)
        asked, found = self._settings(), described.get("training")
        if found != asked:
            kept = found if isinstance(found, Mapping) else {}
            raise self._foreign(
                {k: kept.get(k) for k in asked if kept.get(k) != asked[k]} if kept else "none"
            )
        try:
            place = schema.read(_Place, described.get("place"), "place")
            self.shape = schema.read(tuple[Count, ...], described.get("shape"), "shape")
            need(bool(self.stored), "it holds no tensors")
            for name, tensor in self.stored.items():
                need_tensor(name, tensor, None)
        except MisfitError as problem:
            raise StorageError(
                Code.CORRUPT_FILE, "The checkpoint is damaged", got=f"{self.path}: {problem}"
            ) from problem
        self.epoch, self.batch, self.samples = place.epoch, place.batch, place.samples
        self.length, self.seen, self.classes = place.length, place.seen, place.classes

    def _foreign(self, got: Any, expected: str | None = None) -> StorageError:
        return StorageError(
            Code.FOREIGN_FILE,
            "The checkpoint belongs to another training",
            got=f"{self.path}: {got}",
            expected=expected,
            fix="Choose another file, or the same settings",
        )


def read_batches(data: Any, notes: list[str], learnt: Callable[[], int]) -> Iterator[Any]:
    """The batches of a loader; what it raises once something was learnt is noted and ends them.

    Raises:
        InputError: the loader failed before anything was learnt.
    """
    batches = iter(as_batches(data))
    while True:
        try:
            raw = next(batches)
        except StopIteration:
            return
        except Exception as problem:
            what = f"{type(problem).__name__}: {problem}"
            if not learnt():
                raise InputError(
                    Code.TRAINING_DATA, "The loader failed before its first batch", got=what
                ) from problem
            say(f"The loader failed ({what}); what was learnt before is kept", notes)
            return
        yield raw


def told_by(raw: Any) -> list[str]:
    """What a batch says of how it was read."""
    return list(raw.get("notes", ())) if isinstance(raw, Mapping) and "inputs" in raw else []


def say(what: str, notes: list[str]) -> None:
    """Warn, and keep the text for every explanation to come."""
    text = note(Code.TRAINING_DATA, what)
    notes.append(text)
    warnings.warn(text, stacklevel=2)


def as_batches(data: Any) -> Iterable[Any]:
    """Batches of a tensor, or the loader itself.

    Raises:
        InputError: nothing that can be gone through.
    """
    if isinstance(data, Tensor):
        return data.split(BATCH) if data.ndim else []
    if data is None or isinstance(data, str | dict) or not isinstance(data, Iterable):
        raise InputError(
            Code.TRAINING_DATA,
            "This is no data to learn from",
            got=type(data).__name__,
            expected="a tensor, or an iterable of batches such as a DataLoader",
        )
    return data


def _promised(data: Any) -> int:
    """How many batches the data says it has; 0 where it does not."""
    try:
        return 0 if isinstance(data, Tensor) else len(data)
    except TypeError:
        return 0


def training_problem(task: Task, raw: Any, seed: int) -> Problem:
    """One batch as a request about the model's predictions, or the given classes."""
    target = None
    if isinstance(raw, Mapping) and "inputs" in raw:
        raw, target = raw["inputs"], raw.get("targets", raw.get("labels"))
    elif isinstance(raw, tuple | list) and not getattr(task.lifter, "explained", ()):
        last = raw[-1] if len(raw) else None
        if len(raw) == 2 and _are_numbers(last):
            raw, target = raw
        elif len(raw) == 1 and isinstance(last, Tensor):
            raw = last
    lifted = task.lift(raw)
    task.check(lifted.x)
    evaluator = Evaluator(task, execution="model", chunk=CHUNK.get(task.device.type, BATCH))
    return pose(evaluator, lifted, target, draws=SeededDraws(seed=seed))


def _are_numbers(given: Any) -> bool:
    """Whether these are class numbers, one per sample or in a column."""
    if isinstance(given, Tensor):
        return not given.is_floating_point() and given.ndim < 3
    return isinstance(given, np.ndarray) and given.dtype.kind in "iu" and given.ndim < 3


def classes_of(problem: Problem) -> int:
    """How many classes the model tells apart.

    Raises:
        SpecError: none.
    """
    outputs = problem.known_outputs
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or problem.task.output_kind == "regression":
        raise SpecError(
            Code.UNSUPPORTED,
            "Learning to explain needs a model that tells classes apart",
            got="another kind of output",
        )
    return max(problem.task.classes(outputs), 2)

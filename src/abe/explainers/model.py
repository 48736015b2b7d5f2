"""Two functions of a batch as one module whose output is the classes, and a score that reads the loss.

Which way of running is right is settled on two rows before anything is explained: every row is run alone,
as the functions are, and the first of four ways that gives the same numbers is taken.

==========================  ===========================  ==================================================
modules run                 the loss reads               where
==========================  ===========================  ==================================================
once on all rows            what forward_fn's modules    both functions call the model alike
                            returned
once, and once more for     what its own modules         the loss runs the model in its own way
the loss                    returned
once per row                as the first, as the second  outputs belong to several rows, as similarities of
                                                         all images with all texts
==========================  ===========================  ==================================================
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from abe.engines.instrument.whose import calling
from abe.engines.runtime.work import out_of_memory
from abe.engines.runtime.work import score as score_of
from abe.errors import AbeError, Code, ModelError
from abe.explainers.found import free_name
from abe.explainers.rows import Batch, NoMatchError, Record, Recorder, called, intercepting, one_number
from abe.objectives import Captured, as_objective
from abe.task.base import Task

TICKET = "_rows"
"""The layer by which a score finds the rows that it is about."""
KEPT = 8
"""Chunks of rows whose scores can still be read: engines have two in hand at once."""
ALIKE = 1e-3
"""Share of the largest number up to which rows run together and alone are the same."""
KNOWN = ("logit", "log_probability")
"""Scores that a loss may be the negative of; they need no call of the loss."""
SCALES = (1.0, 5.0, 40.0)
"""Sizes of the outputs on which a loss is compared with these."""
MOST_CLASSES = 5000
"""Classes up to which that is compared."""
MOST_OBJECTS = 100_000
"""Entries of batches that are no tensors which are kept."""


@dataclass
class Way:
    """How the functions are run.

    Attributes:
        apart: rows one by one.
        own: the loss runs its modules itself, beside those of forward_fn.
        scored: the output is the score itself, because forward_fn gives no tensor.
    """

    apart: bool = False
    own: bool = False
    scored: bool = False


class UnknownModuleError(ModelError):
    """The functions run a module that was not found by looking at them."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(
            Code.MODEL_FAILED,
            "The functions run a module that cannot be found by looking at them",
            got=type(module).__name__,
            fix="Let the functions refer to it by a name of their own, and make it outside them",
        )
        self.module = module


class Held:
    """The functions, the modules they mean, and what was settled about them.

    It is one thing for whatever looks into modules or copies them: a copy of the model has the same.
    """

    __slots__ = ("forward", "known", "layout", "ledger", "loss", "means", "objects", "serial", "task", "trial", "way")

    def __init__(
        self,
        loss: Callable[[Any], Any],
        forward: Callable[[Any], Any] | None,
        means: dict[str, nn.Module],
    ) -> None:
        self.loss, self.forward, self.means = loss, forward, means
        self.way = Way()
        self.known: str | None = None
        """The class score that the loss is the negative of."""
        self.trial: Trial | None = None
        self.layout: Any = None
        self.task: Callable[[], Task] = _no_task
        self.ledger: deque[tuple[int, list[Record], Functions]] = deque(maxlen=KEPT)
        self.objects: OrderedDict[int, Any] = OrderedDict()
        self.serial = 0

    def __deepcopy__(self, memo: Any) -> "Held":
        return self

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("functions of a batch are not copied")

    def keep(self, objects: Sequence[Any]) -> range:
        """Numbers by which entries that are no tensors are found again."""
        first = self.serial
        self.serial += len(objects)
        self.objects.update(zip(range(first, self.serial), objects, strict=True))
        while len(self.objects) > MOST_OBJECTS:
            self.objects.popitem(last=False)
        return range(first, self.serial)

    def modules(self) -> list[nn.Module]:
        """All modules of the functions."""
        return [part for module in self.means.values() for part in module.modules()]

    def record(self, batch: Batch, way: Way) -> list[Record]:
        """Run the functions on a batch, by a way of running."""
        found: list[Record] = []
        modules = self.modules()
        for rows in batch.rows() if way.apart else [batch]:
            recorder, answer = Recorder(), None
            if self.forward is not None and not (way.scored and way.own):
                with intercepting(modules, recorder):
                    raw = called(self.forward, rows)
                answer = None if way.scored else self.task().pick(raw, rows.n)
            if way.own:
                recorder = Recorder()
                with intercepting(modules, recorder):
                    called(self.loss, rows)
            found.append(Record(rows, recorder.calls, answer, modules, self.loss))
        return found


def _no_task() -> Task:
    raise RuntimeError("the functions have no task yet")


class Functions(nn.Module):
    """The user's functions as a module, which owns the modules that these refer to.

    Layers are called as in the user's model where a single module has weights; else with the name of the
    variable in front.

    Args:
        held: the functions.
    """

    def __init__(self, held: Held) -> None:
        super().__init__()
        for name, module in held.means.items():
            self.add_module(name, module)
        self.add_module(TICKET, nn.Identity())
        self.held = held
        self._bare = _bare(held.means)

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """All modules by name; those of a single model as it names them."""
        for name, module in super().named_modules(memo, prefix, remove_duplicate):
            inside = bool(self._bare) and f"{name}.".startswith(f"{self._bare}.")
            yield name.removeprefix(self._bare).removeprefix(".") if inside else name, module

    def get_submodule(self, target: str) -> nn.Module:
        """The module that `named_modules` calls so."""
        inside = self._modules.get(self._bare) if target.partition(".")[0] not in self._modules else None
        return super().get_submodule(target) if inside is None else inside.get_submodule(target)

    @calling
    def forward(self, *args: Tensor, **kwargs: Tensor) -> Any:
        """What forward_fn gives; (n, 1) −loss where that is no tensor."""
        held = self.held
        batch: Batch = held.layout.batch(held, args, kwargs)
        with meant(self):
            if held.known is not None and held.forward is not None and not held.way.apart:
                return called(held.forward, batch)
            records = held.record(batch, held.way)
            if held.way.scored:
                return torch.cat([one.scores() for one in records])[:, None]
        with torch._C.DisableTorchFunction():
            held.serial += 1
            ticket = torch.full((batch.n,), held.serial)
        held.ledger.append((held.serial, records, self))
        self.get_submodule(TICKET)(ticket)
        answers = [one.answer for one in records if one.answer is not None]
        return answers[0] if len(answers) == 1 else torch.cat(answers)


def _bare(means: dict[str, nn.Module]) -> str:
    """The name of the only module with weights, if its parts are told from all else without it."""
    keeping = [name for name, module in means.items() if _keeps(module)]
    if len(keeping) != 1:
        return ""
    (name,) = keeping
    return "" if means.keys() & means[name]._modules.keys() else name


@contextmanager
def meant(functions: Functions) -> Generator[None]:
    """The functions refer to the user's modules; where these are copies, the copies stand in for them."""
    swapped: list[tuple[nn.Module, dict[str, Any]]] = []
    try:
        for name, module in functions.held.means.items():
            child = functions._modules[name]
            if child is not None and child is not module:
                swapped.append((module, vars(module)))
                object.__setattr__(module, "__dict__", vars(child))
        yield
    finally:
        for module, own in swapped:
            object.__setattr__(module, "__dict__", own)


class LossScore:
    """s = −loss_fn of a row on its own, read from what its modules returned for all rows.

    Args:
        held: the functions.
    """

    reads_logits = False
    layers = (TICKET,)

    def __init__(self, held: Held) -> None:
        self._held = held

    def __call__(self, outputs: Captured, target: Tensor) -> Tensor:
        """(n,) −loss."""
        with torch._C.DisableTorchFunction():
            serial = int(outputs.layers[TICKET][0])
        records, functions = next((r, f) for number, r, f in self._held.ledger if number == serial)
        parts = list(outputs.outputs.split([one.batch.n for one in records]))
        try:
            with meant(functions):
                return torch.cat([one.scores(part) for one, part in zip(records, parts, strict=True)])
        except AbeError:
            raise
        except NoMatchError as problem:
            raise ModelError(
                Code.MODEL_FAILED,
                "loss_fn calls the model in another way for one row than for the rows it was tried on",
                got=str(problem),
                fix="Let loss_fn call its modules alike for every batch",
            ) from problem
        except Exception as problem:
            if out_of_memory(problem):
                raise
            raise failed("loss_fn", problem) from problem

    def __repr__(self) -> str:
        return f"LossScore({getattr(self._held.loss, '__qualname__', type(self._held.loss).__name__)})"


# --- settling -----------------------------------------------------------------------------------------


def settle(functions: Functions, batch: Batch) -> tuple[Way, Tensor | None]:
    """The way of running that gives what each row gives alone, and the outputs for the rows.

    Args:
        functions: in evaluation mode.
        batch: two rows that differ.

    Raises:
        ModelError: the functions fail on a single row, or give no loss.
        UnknownModuleError: they run a module that is not among those that were found.
    """
    held, task = functions.held, functions.held.task()
    outputs: list[Any] = []
    with _refusing_unknown(functions):
        for row in batch.rows():
            raw = None if held.forward is None else _tried("forward_fn", held.forward, row)
            outputs.append(_picked(task, raw))
        losses = [one_number(_tried("loss_fn", held.loss, row)) for row in batch.rows()]
    scores = -torch.stack(losses)
    scored = any(one is None for one in outputs)
    answers = None if scored else outputs
    for apart in (False, True):
        for own in (False, True):
            way = Way(apart=apart, own=own, scored=scored)
            if (own or held.forward is not None) and _gives(functions, batch, way, answers, scores):
                return way, None if answers is None else torch.cat(answers)
    return Way(apart=True, own=True, scored=scored), None if answers is None else torch.cat(answers)


def _picked(task: Task, raw: Any) -> Tensor | None:
    """The output for one row, as the task reads it; None where there is none."""
    if raw is None:
        return None
    try:
        found = task.pick(raw, 1)
    except ModelError as problem:
        if problem.code is not Code.OUTPUT_TYPE or task.output is not None:
            raise
        return None
    return found if isinstance(found, Tensor) else None


def _gives(
    functions: Functions, batch: Batch, way: Way, answers: list[Tensor] | None, scores: Tensor
) -> bool:
    """Whether a way of running gives these outputs and scores."""
    try:
        records = functions.held.record(batch, way)
        found = torch.cat([one.scores() for one in records])
    except Exception as problem:  # what works for one row alone may fail for two
        if out_of_memory(problem):
            raise
        return False
    alike = _alike(found, scores)
    if answers is None or not alike:
        return alike
    given = [one.answer for one in records]
    if any(one is None or one.shape[1:] != answers[0].shape[1:] for one in given):
        return False
    return _alike(torch.cat([one for one in given if one is not None]), torch.cat(answers))


def _alike(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    one, other = one.double(), other.double()
    return bool((one - other).abs().max() <= ALIKE * other.abs().max().clamp(min=1e-6))


def _tried(name: str, function: Callable[[Any], Any], row: Batch) -> Any:
    try:
        return called(function, row)
    except AbeError:
        raise
    except Exception as problem:
        if out_of_memory(problem):
            raise
        raise failed(name, problem) from problem


def failed(name: str, problem: Exception) -> ModelError:
    """The error about a function of the user's that raised one."""
    return ModelError(
        Code.MODEL_FAILED,
        f"{name} raised an exception",
        got=f"{type(problem).__name__}: {problem}",
        expected=f"{name}(batch) that works on a batch of one sample, built like the one you pass",
    )


@contextmanager
def _refusing_unknown(functions: Functions) -> Generator[None]:
    """Raise UnknownModuleError before a module with weights runs that is not part of the functions."""
    known = {id(module) for module in functions.modules()}

    def before(module: nn.Module, args: Any) -> None:
        if id(module) not in known and _keeps(module):
            raise UnknownModuleError(module)

    handle = register_module_forward_pre_hook(before)
    try:
        yield
    finally:
        handle.remove()


def _keeps(module: nn.Module) -> bool:
    """Whether a module has weights or buffers, which evaluation mode and restoring are about."""
    return next(module.parameters(), None) is not None or next(module.buffers(), None) is not None


def with_module(means: dict[str, nn.Module], module: nn.Module) -> dict[str, nn.Module]:
    """The modules with one more, named after its class; what is part of it is left out."""
    parts = {id(part) for part in module.modules()}
    kept = {name: one for name, one in means.items() if id(one) not in parts}
    return {**kept, free_name(type(module).__name__.lower(), kept): module}


def recognised(held: Held, row: Batch, outputs: Tensor, classes: str | None) -> str | None:
    """The name of the class score that the loss is the negative of, whatever the outputs and classes.

    Compared for every class on random outputs of several sizes. A single output is its own score.

    Args:
        held: the functions, settled.
        row: one sample.
        outputs: (1, C) of the sample.
        classes: name of the entry of the batch with a class per sample.
    """
    count = outputs.shape[1] if outputs.ndim == 2 else 0
    if held.way.own or not 1 <= count <= MOST_CLASSES or (count > 1 and (held.way.apart or classes is None)):
        return None
    (record,) = held.record(row, held.way)
    trial = Trial(record, outputs, classes if count > 1 else None)
    names = KNOWN[: None if count > 1 else 1]
    for number in range(max(count, 2 * len(SCALES))):
        names = trial.agreeing(row, number % count, number, names, held.task())
        if not names:
            return None
    held.trial = trial
    return names[0]


@dataclass
class Trial:
    """A sample on which a loss is compared with class scores.

    Attributes:
        record: of the sample.
        outputs: (1, C) of the sample.
        classes: name of the entry with the class; None where the output is a single one.
    """

    record: Record
    outputs: Tensor
    classes: str | None

    def agreeing(
        self, row: Batch, target: int, number: int, names: Sequence[str], task: Task
    ) -> tuple[str, ...]:
        """Those of the class scores that say the same as the loss of a sample, for another output.

        Args:
            row: the sample.
            target: the class that the loss is asked for.
            number: of the output, which is random.
            names: of the scores.
            task: reads them.
        """
        draws = torch.Generator().manual_seed(number)
        made = torch.randn(self.outputs.shape, generator=draws, dtype=torch.float64).to(self.outputs)
        made = made * SCALES[number % len(SCALES)]
        leaves = dict(row.leaves)
        if self.classes is not None:
            leaves[self.classes] = torch.full_like(leaves[self.classes], target)
        try:
            found = replace(self.record, batch=replace(row, leaves=leaves)).scores(made)
        except Exception:  # a loss may insist on some classes; it is called as it is, then
            return ()
        reading, asked = task.reading(output_kind="logits"), torch.tensor([target], device=made.device)
        scores = {name: score_of(reading, made, as_objective(name), asked) for name in names}
        return tuple(n for n in names if torch.allclose(found, scores[n], rtol=1e-5, atol=1e-6))


def holds(held: Held, name: str, batch: Batch) -> bool:
    """Whether the loss is the negative of this class score for every sample, which may have entries of its own."""
    trial = held.trial
    if trial is None:
        return False
    for number, row in enumerate(batch.rows()):
        given = 0 if trial.classes is None else int(row.leaves[trial.classes].reshape(()))
        target = min(max(given, 0), trial.outputs.shape[1] - 1)
        if not trial.agreeing(row, target, number, (name,), held.task()):
            return False
    return True


def mirrored(rows: Iterable[Tensor]) -> list[Tensor]:
    """(2, …) the first sample of each, and itself back to front: two rows of valid numbers that differ."""
    found: list[Tensor] = []
    for one in rows:
        first = one[:1]
        other = first.flatten(1).flip(1).view_as(first) if first.is_floating_point() and first.ndim > 1 else first
        found.append(torch.cat([first, other]))
    return found

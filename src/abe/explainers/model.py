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
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from abe.engines.runtime.work import out_of_memory
from abe.errors import AbeError, Code, ModelError
from abe.explainers.found import free_name
from abe.explainers.rows import Batch, NoMatchError, Record, Recorder, called, intercepting
from abe.instrument.whose import calling
from abe.objectives import Captured
from abe.task.base import Task

ONLY = "_only"
"""The name of a single module with weights, whose parts are called as if it stood for all."""
TICKET = "_rows"
"""The layer by which a score finds the rows that it is about."""
KEPT = 8
"""Chunks of rows whose scores can still be read: engines have two in hand at once."""
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


class Held:
    """The functions, the modules they mean, and what was settled about them.

    It is one thing for whatever looks into modules or copies them: a copy of the model has the same.
    """

    __slots__ = (
        "forward",
        "known",
        "layout",
        "ledger",
        "loss",
        "means",
        "named",
        "objects",
        "serial",
        "task",
        "trial",
        "way",
    )

    def __init__(
        self,
        loss: Callable[[Any], Any],
        forward: Callable[[Any], Any] | None,
        means: dict[str, nn.Module],
    ) -> None:
        self.loss, self.forward, self.means, self.named = loss, forward, means, means
        self.way = Way()
        self.known: str | None = None
        """The class score that the loss is the negative of."""
        self.trial: Any = None
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
        held.named = _apart(held.means)
        self._bare = ONLY if ONLY in held.named else ""
        for name, module in held.named.items():
            self.add_module(name, module)
        ticket = nn.Identity()
        self.add_module(TICKET, ticket)
        self.training = ticket.training = False  # a note about training mode is about the user's modules
        self.held = held

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Generator[tuple[str, nn.Module], None, None]:
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


def _apart(means: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """The modules, a single one with weights as `ONLY` and the others called unlike its parts."""
    keeping = [name for name, module in means.items() if keeps(module)]
    if len(keeping) != 1:
        return means
    only = means[keeping[0]]
    found = {ONLY: only}
    for name, module in means.items():
        if module is not only:
            found[free_name(name, {**found, **only._modules})] = module
    return found


@contextmanager
def meant(functions: Functions) -> Generator[None]:
    """The functions refer to the user's modules; where these are copies, the copies stand in for them."""
    swapped: list[tuple[nn.Module, dict[str, Any]]] = []
    try:
        for name, module in functions.held.named.items():
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
        kept = [(records, functions) for number, records, functions in self._held.ledger if number == serial]
        if not kept:
            raise RuntimeError("the rows of these outputs are not kept any more")
        records, functions = kept[0]
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


def failed(name: str, problem: Exception) -> ModelError:
    """The error about a function of the user's that raised one."""
    return ModelError(
        Code.MODEL_FAILED,
        f"{name} raised an exception",
        got=f"{type(problem).__name__}: {problem}",
        expected=f"{name}(batch) that works on a batch of one sample, built like the one you pass",
    )


def keeps(module: nn.Module) -> bool:
    """Whether a module has weights or buffers, which evaluation mode and restoring are about."""
    return next(module.parameters(), None) is not None or next(module.buffers(), None) is not None

"""Two functions of a batch as one module whose output is the classes, and a score that reads the loss.

Modules run once on all rows, and the loss reads what forward_fn's modules returned; or once more for a loss
that runs the model in its own way, or where forward_fn gives no classes. Both happen row by row where outputs
belong to several rows, as similarities of all images with all texts do. Which of these ways is right is
settled on two rows before anything is explained (`abe.explainers.settling`).
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from abe.engines.runtime.work import out_of_memory
from abe.errors import AbeError, Code, ModelError
from abe.explainers.batches import Layout
from abe.explainers.found import free_name
from abe.explainers.rows import Calls, Record, called, recorded
from abe.instrument.whose import calling
from abe.objectives import Captured
from abe.task.entries import Entries

ONLY = "_only"
"""The name of a single module with weights, whose parts are called as if it stood for all."""
TICKET = "_rows"
"""The layer by which a score finds the rows that it is about."""
KEPT = 8
"""Chunks of rows whose scores can still be read: engines have two in hand at once."""
MOST_OBJECTS = 100_000
"""Entries of batches that are no tensors which are kept."""


@dataclass(slots=True, eq=False)
class Held:
    """The functions, the modules they mean, and what was settled about them.

    It is one thing for whatever looks into modules or copies them: a copy of the model has the same.

    Attributes:
        loss, forward: the user's functions.
        means, named: the modules that they refer to, by name, and by the names they have in `Functions`.
        pick: finds the output tensor in what forward_fn gives for so many rows.
        classes: whether there is one; else the output is the score itself.
        apart: rows are run one by one.
        own: the loss runs its modules itself, beside those of forward_fn.
        target: the entry of a batch with a class per sample, if any.
        sample: on which the loss is compared with class scores.
        known: the one that the loss is for the samples at hand.
        ledger, objects: by number, chunks that ran, and entries of batches that are no tensors.
    """

    loss: Callable[[Any], Any]
    forward: Callable[[Any], Any] | None
    means: dict[str, nn.Module]
    pick: Callable[[Any, int], Any]
    named: dict[str, nn.Module] = field(default_factory=dict[str, nn.Module])
    classes: bool = False
    apart: bool = False
    own: bool = False
    target: str | None = None
    sample: Record | None = None
    known: str | None = None
    layout: Layout | None = None
    ledger: dict[int, Any] = field(default_factory=dict[int, Any])
    objects: dict[int, Any] = field(default_factory=dict[int, Any])
    serial: int = 0

    def __deepcopy__(self, memo: Any) -> "Held":
        return self

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("functions of a batch are not copied")

    def put(self, store: dict[int, Any], things: Sequence[Any], most: int) -> Tensor:
        """(n,) numbers by which things are found again in a store of the last ``most`` of them."""
        first, self.serial = self.serial, self.serial + len(things)
        store.update(zip(range(first, self.serial), things, strict=True))
        while len(store) > most:
            del store[next(iter(store))]
        return torch.arange(first, self.serial)

    def keep(self, objects: Sequence[Any]) -> Tensor:
        """(n,) numbers of entries that are no tensors."""
        return self.put(self.objects, objects, MOST_OBJECTS)

    def modules(self) -> list[nn.Module]:
        """All modules of the functions."""
        return [part for module in self.means.values() for part in module.modules()]

    def run(self, batch: Entries) -> list[Record]:
        """Run the functions on a batch, in the way that was settled."""
        found, modules = list[Record](), self.modules()
        for rows in batch.rows() if self.apart else [batch]:
            answer, calls = None, Calls()
            if self.forward is not None and self.classes:
                answer, calls = recorded(self.forward, rows, modules)
                answer = self.pick(answer, len(rows))
            if self.own:
                calls = recorded(self.loss, rows, modules)[1]
            found.append(Record(rows, calls, answer))
        return found

    def scores(self, records: Sequence[Record]) -> Tensor:
        """(n,) −loss of each row of some records on its own."""
        modules = self.modules()
        return torch.cat([one.scores(self.loss, modules) for one in records])


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
        self.add_module(TICKET, nn.Identity().eval())
        self.training = False  # a note about training mode is about the user's modules
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
        held, layout = self.held, self.held.layout
        if layout is None:
            raise RuntimeError("no batch was read yet")
        batch = layout.batch(args, kwargs, held.objects)
        with meant(self):
            if held.known is not None and held.forward is not None and not held.apart:
                return called(held.forward, batch)
            records = held.run(batch)
            if not held.classes:
                return held.scores(records)[:, None]
        with torch._C.DisableTorchFunction():
            ticket = held.put(held.ledger, [(records, self)], KEPT).expand(len(batch))
        self.get_submodule(TICKET)(ticket)
        answers = [one.answer for one in records if one.answer is not None]
        return answers[0] if len(answers) == 1 else torch.cat(answers)


def _apart(means: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """The modules, a single one with weights as `ONLY` and the others called unlike its parts."""
    weighty = [module for module in means.values() if keeps(module)]
    if len(weighty) != 1:
        return means
    found = {ONLY: weighty[0]}
    for name, module in means.items():
        if module is not weighty[0]:
            found[free_name(name, {**found, **weighty[0]._modules})] = module
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
            records, functions = self._held.ledger[int(outputs.layers[TICKET][0])]
        parts, modules = outputs.outputs.split([len(one.batch) for one in records]), self._held.modules()
        with naming("loss_fn"), meant(functions):
            pairs = zip(records, parts, strict=True)
            return torch.cat([one.scores(self._held.loss, modules, part) for one, part in pairs])

    def __repr__(self) -> str:
        return f"LossScore({getattr(self._held.loss, '__qualname__', type(self._held.loss).__name__)})"


@contextmanager
def naming(name: str) -> Generator[None]:
    """Errors that a function of the user's raises say which function it was; ours, and of memory, stay."""
    try:
        yield
    except AbeError:
        raise
    except Exception as problem:
        if out_of_memory(problem):
            raise
        raise ModelError(
            Code.MODEL_FAILED,
            f"{name} raised an exception",
            got=f"{type(problem).__name__}: {problem}",
            expected=f"{name}(batch) that works on a batch of one sample, built like the one you pass",
        ) from problem


def keeps(module: nn.Module) -> bool:
    """Whether a module has weights or buffers, which evaluation mode and restoring are about."""
    return next(module.parameters(), None) is not None or next(module.buffers(), None) is not None

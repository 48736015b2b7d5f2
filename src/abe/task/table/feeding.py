"""How a module takes the rows of a table, and where it looks its categories up: settled by trying.

Every way that fits the number of the module's inputs is run on a few rows. One is taken where it alone runs,
looks every category up in an embedding, and gives what the codes give when only the vectors are exchanged.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from abe.errors import AbeError, Code, ModelError, SpecError
from abe.instrument.inspection import clean_name
from abe.instrument.model_state import as_found
from abe.task.base import Context, Task
from abe.task.table.cells import called
from abe.task.table.rows import Columns
from abe.types import Numbers, Part
from abe.words import some

Inputs = Literal["row", "codes", "columns"] | tuple[Literal["codes", "numbers"], Literal["codes", "numbers"]]
"""How rows go in: one tensor (b, columns); codes alone (b, k); one input per column; codes (b, k) and numbers
(b, m), in either order."""
Bounds = tuple[Numbers, Numbers]
SAME = 1e-4
"""Outputs that differ by no more than this part of the largest are the same but for rounding."""


class OneRow(nn.Module):
    """A model that takes whole rows (n, columns), fed with codes and numbers apart.

    Args:
        module: the model.
        places: columns of the codes.
    """

    def __init__(self, module: nn.Module, places: Sequence[int]) -> None:
        super().__init__()
        self.module, self.places = module, tuple(places)
        self.training = module.training

    def forward(self, codes: Tensor, numbers: Tensor) -> Any:
        k, m = codes.shape[1], numbers.shape[1]
        apart = {place: codes[:, i].to(numbers) for i, place in enumerate(self.places)}
        rest = iter(range(m))
        columns = [apart[p] if p in apart else numbers[:, next(rest)] for p in range(k + m)]
        return self.module(torch.stack(columns, dim=1))


@dataclass(frozen=True)
class Slot:
    """One input of the model: codes or numbers of some columns.

    Attributes:
        key: keyword or position in the model's call.
        places: of the columns it holds.
        coded: whether it takes codes of categories.
        flat: it is (b,), for one column.
    """

    key: str | int
    places: tuple[int, ...]
    coded: bool
    flat: bool = False

    def of(self, rows: Tensor) -> Tensor:
        """What goes in, of rows (b, columns)."""
        own = rows[:, list(self.places)]
        own = own.long() if self.coded else own
        return own[:, 0] if self.flat else own


@dataclass(frozen=True)
class Lookup:
    """An embedding of one category, or of all.

    Attributes:
        layer: its name, with the number of the call where it is called several times.
        module: it.
        places: the columns it looks up.
        shift: what it adds to each code.
        flat: whether it is called with (b,).
    """

    layer: str
    module: nn.Module
    places: tuple[int, ...]
    shift: tuple[int, ...]
    flat: bool

    def vectors(self, rows: Tensor) -> Tensor:
        """(b, d, …) the vectors of rows (b, columns), channels first."""
        ids = rows[:, list(self.places)].long() + torch.tensor(self.shift, device=rows.device)
        with torch.no_grad():
            found = self.module(ids[:, 0] if self.flat else ids).detach()
        return found.movedim(-1, 1)

    def check(self, columns: Columns) -> None:
        """Refuse more categories than the table has rows."""
        entries = getattr(self.module, "num_embeddings", None)
        for place, shift in zip(self.places, self.shift, strict=True):
            names = columns.categories[place].names
            if isinstance(entries, int) and len(names) + shift > entries:
                raise SpecError(
                    Code.CATEGORY,
                    f"Column {called(columns.names[place])!r} has more categories than the model's embedding",
                    got=f"{len(names)} names, {entries} rows in {self.layer!r}",
                    fix="Name the categories that the model was trained with, in the order of their codes",
                )


@dataclass(frozen=True)
class Feeding:
    """How rows become features, and features what the model takes.

    Attributes:
        columns: of the table.
        slots: the model's inputs.
        dtype: of the features.
        lookups: its embeddings; their vectors come first in the features.
        bounds: of the numbers, one of each kind per column; None for unbounded ones. Vectors of categories
            have the bounds of their table.
        rows: forward rows that settling it took.
    """

    columns: Columns
    slots: tuple[Slot, ...]
    dtype: torch.dtype
    lookups: tuple[Lookup, ...] = ()
    bounds: Bounds | None = None
    rows: int = 0

    @property
    def plain(self) -> bool:
        """Whether the model takes one tensor of numbers, which then are the features."""
        return len(self.slots) == 1 and not self.slots[0].coded and self.slots[0].key == 0

    def features(self, rows: Tensor) -> Tensor:
        """(b, D) vectors of categories, and numbers, of rows (b, columns)."""
        found = [one.vectors(rows).flatten(1) for one in self.lookups]
        found += [rows[:, list(slot.places)] for slot in self.slots if not slot.coded]
        return torch.cat([block.to(self.dtype) for block in found], dim=1)

    def parts(self, rows: Tensor) -> tuple[Part, ...]:
        """Where every embedding and every input lies in the features."""
        if self.plain and self.bounds is None:
            return ()
        parts, start, met = list[Part](), 0, dict[str, int]()
        for one in self.lookups:
            name = called(self.columns.names[one.places[0]]) if len(one.places) == 1 else "categories"
            met[name] = met.get(name, 0) + 1
            shape = tuple(one.vectors(rows[:1]).shape[1:])
            name = name if met[name] == 1 else f"{name} ({met[name]})"
            low, high = self._reach(one, rows)
            parts.append(_part(name, start, shape, layer=one.layer, channels=-1, low=low, high=high))
            start = parts[-1].stop
        for slot in self.slots:
            if not slot.coded:
                low, high = (None, None) if self.bounds is None else self._ends(slot)
                shape = () if slot.flat else (len(slot.places),)
                parts.append(_part(slot.key, start, shape, low=low, high=high))
                start = parts[-1].stop
        return tuple(parts)

    def _reach(self, one: Lookup, rows: Tensor) -> tuple[Numbers, Numbers]:
        """The smallest and the largest entry of the vectors of all categories, per channel."""
        most = max(len(self.columns.categories[place].names) for place in one.places)
        every = rows[:1].repeat(most, 1)
        for place in one.places:
            codes = torch.arange(most).clamp_max(len(self.columns.categories[place].names) - 1)
            every[:, place] = codes.to(every)
        vectors = one.vectors(every).transpose(0, 1).flatten(1)
        return tuple(vectors.amin(1).tolist()), tuple(vectors.amax(1).tolist())

    def _ends(self, slot: Slot) -> tuple[Numbers, Numbers]:
        low, high = self.bounds or ((), ())
        at = [self.columns.numbers.index(place) for place in slot.places]
        return tuple(low[i] for i in at), tuple(high[i] for i in at)

    def context(self, rows: Tensor) -> Context:
        """The codes, which the model takes beside the features that stand in for what it makes of them."""
        return Context({slot.key: slot.of(rows) for slot in self.slots if slot.coded})

    def places(self, rows: Tensor) -> list[int]:
        """For every feature, the column that it is of."""
        found = list[int]()
        for one in self.lookups:
            shape = one.vectors(rows[:1]).shape[1:]
            if len(one.places) == 1:
                found += [one.places[0]] * shape.numel()
            else:
                found += list(one.places) * shape[0]
        return found + [place for slot in self.slots if not slot.coded for place in slot.places]


def _part(name: str | int, start: int, shape: tuple[int, ...], **more: Any) -> Part:
    return Part(name, start, start + int(np.prod(shape, dtype=int)), shape, **more)


def ways(model: nn.Module, columns: Columns, inputs: Any) -> list[tuple[Slot, ...]]:
    """Every way to feed the model that its signature allows.

    Raises:
        SpecError: ``inputs`` is no such way.
    """
    k, m = tuple(columns.categories), columns.numbers
    keys = _keys(model)
    listed = _listed(columns, model)
    known: dict[Any, Iterable[tuple[Slot, ...]]] = {
        "row": [(Slot(keys[0], m, coded=False),)] if not k else [],
        "codes": [(Slot(keys[0], k, coded=True),)] if not m else [],
        "columns": [] if listed is None else [listed(True), listed(False)],
    }
    if isinstance(model, OneRow):
        known["row"] = [(Slot(0, k, coded=True), Slot(1, m, coded=False))]
    elif k and m and len(keys) > 1:
        coded, plain = Slot(keys[0], k, coded=True), Slot(keys[1], m, coded=False)
        known["codes", "numbers"] = [(coded, plain)]
        known["numbers", "codes"] = [(Slot(keys[0], m, coded=False), Slot(keys[1], k, coded=True))]
    if inputs is not None:
        inputs = tuple(inputs) if isinstance(inputs, list) else inputs
        if not (isinstance(inputs, str | tuple) and known.get(inputs)):
            raise SpecError(
                Code.BAD_PARAMETER,
                "The model cannot be fed so",
                got=f"inputs={inputs!r} for a forward of {some(map(repr, keys))}, {len(k)} categories and "
                f"{len(m)} numbers",
                expected=" or ".join(repr(name) for name, found in known.items() if found),
            )
        return list(known[inputs])
    count = required(model)
    if isinstance(model, OneRow):
        names: list[Any] = ["row"]
    elif count == 1:
        names = ["row", "codes"]
    else:
        names = ["columns"] if count == len(columns.names) else []
        names += [("codes", "numbers"), ("numbers", "codes")] if count == 2 else []
    return [way for name in names for way in known.get(name, ())]


def _keys(model: nn.Module) -> list[str | int]:
    """Keywords of the model's inputs, or their positions where it takes any number."""
    named = [one for one in inspect.signature(model.forward).parameters.values() if one.kind not in (2, 4)]
    return [one.name if i else (0 if one.kind < 2 else one.name) for i, one in enumerate(named)] or [0]


def required(model: nn.Module) -> int:
    """Inputs without a default; one where the model takes any number."""
    named = inspect.signature(model.forward).parameters.values()
    return sum(one.kind not in (2, 4) and one.default is one.empty for one in named) or 1


def _listed(columns: Columns, model: nn.Module) -> Callable[[bool], tuple[Slot, ...]] | None:
    """One input for every column: by its name where all have one, else in order; None where neither fits."""
    names = [called(name) for name in columns.names]
    parameters = inspect.signature(model.forward).parameters.values()
    keys: list[Any] = [one.name for one in parameters if one.kind in (1, 3)]
    if any(one.kind == one.VAR_POSITIONAL for one in parameters):
        keys = list(range(len(names)))
    if set(names) <= set(keys):
        keys = names
    elif len(keys) < len(names) or any(
        name in keys and keys.index(name) != i for i, name in enumerate(names)
    ):
        return None

    def made(flat: bool) -> tuple[Slot, ...]:
        return tuple(Slot(keys[i], (i,), i in columns.categories, flat) for i in range(len(names)))

    return made


def settle(
    task: Task, columns: Columns, rows: Tensor, inputs: Any, embeddings: Mapping[Any, str | Sequence[str]]
) -> Feeding:
    """The one way in which the model takes such rows (b, columns).

    Raises:
        SpecError, ModelError: there is none, or several; what was tried is named.
    """
    tried = ways(task.model, columns, inputs)
    if len(tried) == 1 and not columns.categories:
        return Feeding(columns, tried[0], task.dtype)
    good, failures, spent = list[tuple[Feeding, Any]](), list[Exception](), list[int]()
    for slots in tried:
        try:
            good.append(_tried(task, columns, rows, slots, embeddings, spent))
        except (
            AbeError,
            RuntimeError,
            TypeError,
            ValueError,
            IndexError,
            AttributeError,
            KeyError,
        ) as problem:
            failures.append(problem)
    if good and all(_agree(good[0][1], outputs) for _, outputs in good[1:]):
        return replace(good[0][0], rows=sum(spent))
    told = [one for one in failures if isinstance(one, AbeError) and one.code != Code.MODEL_FAILED]
    if not good and len(told) == 1:
        raise told[0]
    k, m = len(columns.categories), len(columns.numbers)
    raise ModelError(
        Code.MODEL_FAILED if not good else Code.BAD_PARAMETER,
        "It is not clear how the model takes a row"
        if good
        else "No way was found in which the model takes a row",
        got=f"a forward with {required(task.model)} inputs, {k} categories and {m} numbers"
        + (f"; {type(failures[-1]).__name__}: {failures[-1]}"[:200] if failures and not good else ""),
        expected="one tensor (b, columns), codes (b, k) and numbers (b, m), or one input per column",
        fix='Pass inputs="row", ("codes", "numbers"), ("numbers", "codes") or "columns", name the columns '
        "with codes in categories=, or wrap the model in a module that takes one of these",
    ) from (failures[-1] if failures else None)


def _tried(
    task: Task,
    columns: Columns,
    rows: Tensor,
    slots: tuple[Slot, ...],
    embeddings: Mapping[Any, Any],
    spent: list[int],
) -> tuple[Feeding, Any]:
    """This way, with the embeddings that one run shows, and what that gave."""
    probe = _probe(columns, rows)
    given = {slot.key: slot.of(probe if slot.coded else probe.to(task.dtype)) for slot in slots}
    args = [given[key] for key in sorted(key for key in given if isinstance(key, int))]
    kwargs = {key: value for key, value in given.items() if isinstance(key, str)}
    with as_found(task.model), torch.no_grad():
        watched = _Watch(task.model, columns, probe, embeddings)
        spent.append(len(probe))
        with watched:
            outputs = task.pick(task.model(*args, **kwargs), len(probe))
        feeding = Feeding(columns, slots, task.dtype, tuple(watched.found()))
        for one in feeding.lookups:
            one.check(columns)
        if columns.categories:
            spent.append(len(probe))
            _check_exchange(task, feeding, probe, outputs)
    return feeding, outputs


def _agree(one: Any, other: Any) -> bool:
    """Whether two ways to feed a model give the same."""
    tensors = isinstance(one, Tensor) and isinstance(other, Tensor) and one.numel() == other.numel()
    return tensors and torch.allclose(one.flatten(), other.flatten())


def _probe(columns: Columns, rows: Tensor) -> Tensor:
    """A few rows in which every category has a pattern of codes of its own; the first has code 0 in all."""
    k = len(columns.categories)
    digits = max(1, int(k).bit_length())
    probe = rows[:1].repeat(1 + digits, 1)
    for number, (place, category) in enumerate(columns.categories.items(), 1):
        bits = [0, *(number >> digit & 1 for digit in range(digits))]
        probe[:, place] = probe.new_tensor(bits).clamp_max(len(category.names) - 1)
    return probe


class _Watch:
    """Finds the modules that are called with the codes of a column, or of all."""

    def __init__(
        self, model: nn.Module, columns: Columns, probe: Tensor, named: Mapping[Any, str | Sequence[str]]
    ) -> None:
        self._columns, self._model = columns, model
        self._codes = probe[:, list(columns.categories)].long()
        self._names = {id(module): clean_name(name) for name, module in model.named_modules()}
        self._calls: dict[int, int] = {}
        self._seen: list[tuple[nn.Module, int, tuple[int, ...], tuple[int, ...], bool]] = []
        self._named = {
            name: [layers] if isinstance(layers, str) else list(layers) for name, layers in named.items()
        }
        self._handles: list[Any] = []

    def __enter__(self) -> None:
        wanted = [layer for layers in self._named.values() for layer in layers]
        for module in self._model.modules():
            leaf = not any(True for _ in module.children())
            if leaf or self._matches(module, None, wanted):
                self._handles.append(module.register_forward_hook(self._look, with_kwargs=True))

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _matches(self, module: nn.Module, number: int | None, wanted: Iterable[str]) -> bool:
        name = self._names[id(module)]
        for base, _, call in (layer.partition("#") for layer in wanted):
            if name in (base, f"module.{base}") and (not call or number is None or call == str(number)):
                return True
        return False

    def _look(self, module: nn.Module, args: Any, kwargs: Mapping[str, Any], output: Any) -> None:
        number = self._calls.get(id(module), 0)
        self._calls[id(module)] = number + 1
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return
        for ids in (*args, *kwargs.values()):
            if not isinstance(ids, Tensor) or ids.is_floating_point() or len(ids) != len(self._codes):
                continue
            if ids.ndim not in (1, 2) or output.ndim != ids.ndim + 1 or output.shape[: ids.ndim] != ids.shape:
                continue
            found = self._columns_of(ids.reshape(len(ids), -1).long())
            if found is not None:
                self._seen.append((module, number, *found, ids.ndim == 1))

    def _columns_of(self, ids: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """Which columns these are the codes of, and what was added to them."""
        codes = self._codes.to(ids.device)
        places: tuple[int, ...] = tuple(self._columns.categories)
        if ids.shape == codes.shape and len(places) > 1:
            shift = ids - codes
            if bool((shift == shift[:1]).all()):
                return places, tuple(shift[0].tolist())
        if ids.shape[1] != 1:
            return None
        shift = ids - codes
        matches: list[int] = (shift == shift[:1]).all(0).nonzero().flatten().tolist()
        if len(matches) != 1:
            return None
        return (places[matches[0]],), (int(shift[0, matches[0]]),)

    def found(self) -> list[Lookup]:
        """The embeddings, those of every category.

        Raises:
            ModelError: a category is looked up nowhere, or not where somebody said.
        """
        listed = list[Lookup]()
        for place, category in self._columns.categories.items():
            wanted = self._named.get(category.column)
            own = [one for one in self._seen if place in one[2]]
            if wanted is not None:
                own = [one for one in own if self._matches(one[0], one[1], wanted)]
            if not own:
                raise self._nowhere(category.column, wanted)
            for module, number, places, shift, flat in own:
                name = self._names[id(module)]
                layer = f"{name}#{number}" if self._calls[id(module)] > 1 else name
                lookup = Lookup(layer, module, places, shift, flat)
                if lookup not in listed:
                    listed.append(lookup)
        return listed

    def _nowhere(self, column: Any, wanted: Sequence[str] | None) -> ModelError:
        tables = [name for name, one in self._model.named_modules() if isinstance(one, nn.Embedding)]
        return ModelError(
            Code.EMBEDDING,
            f"No module was found that looks up the category {called(column)!r}",
            got=f"none called with its codes among {some(map(repr, wanted or tables)) or 'no embedding'}",
            expected="a module, such as an nn.Embedding, called with its codes, that gives a vector for each",
            fix=f"Name it: embeddings={{{called(column)!r}: …}}; or explain the model from outside, as a "
            "function: table_task(lambda rows: model(…), …)",
        )


def _check_exchange(task: Task, feeding: Feeding, probe: Tensor, outputs: Any) -> None:
    """Refuse a model that reads its codes elsewhere too: vectors alone would not say what a category does.

    Raises:
        ModelError: exchanging the vectors is not exchanging the categories.
    """
    if not isinstance(outputs, Tensor):
        return
    base = probe.clone()
    base[:, list(feeding.columns.categories)] = 0
    fed = task.reading(parts=feeding.parts(probe))
    again = fed.forward(feeding.features(probe), feeding.context(base))
    missed = float((again - outputs).abs().max()) if isinstance(again, Tensor) else 0.0
    if missed <= SAME * max(float(outputs.abs().max()), 1e-12):
        return
    raise ModelError(
        Code.EMBEDDING,
        "The model reads the codes of its categories elsewhere than in the embeddings that were found",
        got=f"outputs that differ by {missed:.3g} where only the vectors of "
        f"{some(repr(one.layer) for one in feeding.lookups)} were exchanged",
        fix="Explain it from outside, as a function of rows: table_task(lambda rows: model(…), …)",
    )

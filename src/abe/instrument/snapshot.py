"""What modules hold at one moment besides the values of their weights, to be compared and put back."""

from collections.abc import Iterable
from operator import is_
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from abe.instrument.model_check import Known
from abe.instrument.standing import Standing

_MISSING = object()


class Difference(NamedTuple):
    """An entry of a table that is another object now.

    Attributes:
        table: the table of a module.
        name: of the entry.
        was: what stood there before.
        kind: ``"attributes"``, ``"parameters"``, ``"buffers"`` or ``"modules"``.
        order: the names in the table before.
    """

    table: dict[str, Any]
    name: str
    was: Any
    kind: str
    order: list[str]

    @property
    def tensor(self) -> bool:
        """Whether a tensor stood or stands there."""
        return isinstance(self.was, Tensor) or isinstance(self.table.get(self.name), Tensor)


class Written(NamedTuple):
    """A tensor whose numbers have changed, with those that it had."""

    tensor: Tensor
    was: Tensor


def put_back(changes: tuple[list[Difference], list[Written]]) -> None:
    """Undo changes: the same objects in all tables, with the numbers that they had."""
    for table, name, was, _, order in changes[0]:
        if was is _MISSING:
            table.pop(name, None)
        elif name in table:
            table[name] = was
        else:
            after = {**table, name: was}
            table.clear()
            table.update({n: after.pop(n) for n in order if n in after} | after)
    with torch.no_grad():
        for tensor, was in changes[1]:
            tensor.copy_(was)


class Snapshot:
    """Attributes, children, and all tensors besides parameters with their numbers.

    Numbers are compared, as version counters miss what is written through ``.data``.

    Args:
        modules: the modules.
        weights: parameters with their numbers too, which costs a copy of all of them.
        standing: how things stand, where somebody has just looked.
        known: what is known of the model, which tells where to look; else all attributes are looked at.
    """

    def __init__(
        self,
        modules: Iterable[nn.Module],
        *,
        weights: bool = False,
        standing: Standing | None = None,
        known: Known | None = None,
    ) -> None:
        self._before = before = standing or Standing(modules)
        buffers = _in_tables(before.modules, "_buffers")
        held = buffers + (_in_tables(before.modules, "_parameters") if weights else [])
        held += before.attributes.held if known is None else known.unsettled(before)
        self._places = None if known is None else known.places
        tensors = {id(one): one for one in held if isinstance(one, Tensor)}
        self._buffers = set(map(id, buffers))
        self._contents = _Contents(list(tensors.values()))

    def differences(self, now: Standing | None = None) -> tuple[list[Difference], list[Written]]:
        """Entries that are other objects now, and tensors that hold other numbers; training flags aside.

        Args:
            now: how things stand, where somebody has just looked.
        """
        found: list[Difference] = []
        moved = not self._before.same(now or Standing(self._before.modules), self._places)
        for kind, table, before in self._before.entries() if moved else ():
            same = len(table) == len(before) and all(map(is_, table.values(), before.values()))
            if same and table.keys() == before.keys():
                continue
            for name in [*before, *(n for n in table if n not in before)]:
                was = before.get(name, _MISSING)
                if name != "training" and table.get(name, _MISSING) is not was:
                    found.append(Difference(table, name, was, kind, [*before]))
        return found, self._contents.written()

    def restore(self, now: Standing, *, set_up: bool) -> None:
        """Put buffers back, and what the model keeps in plain attributes where a tensor is among it.

        Attributes without tensors are counters and the like, which stay. So does everything of a model
        that has set itself up, by hooks or new parts: it may never do so again.

        Args:
            now: how things stand.
            set_up: whether the model has set hooks.
        """
        entries, contents = self.differences(now)
        attributes = [one for one in entries if one.kind == "attributes"]
        buffers = [one for one in entries if one.kind == "buffers" and one.was is not _MISSING]
        plain = [one for one in contents if id(one.tensor) not in self._buffers]
        if set_up or len(entries) > len(attributes) + len(buffers):
            attributes, contents = [], [one for one in contents if id(one.tensor) in self._buffers]
        elif not plain and not any(one.tensor for one in attributes):
            attributes = []
        put_back((buffers + attributes, contents))


def _in_tables(modules: list[nn.Module], name: str) -> list[Any]:
    return [one for module in modules if (table := vars(module).get(name)) for one in table.values()]


class _Contents:
    """The numbers of tensors, which are compared together."""

    def __init__(self, tensors: list[Tensor]) -> None:
        groups: dict[tuple[torch.dtype, torch.device, bool], list[Tensor]] = {}
        self._odd: list[tuple[Tensor, Tensor, int]] = []
        for tensor in tensors:
            if tensor.is_inference() or tensor.is_meta:
                continue  # nothing can be written to them
            if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested or _wrapped(tensor):
                self._odd.append((tensor, tensor.detach().clone(), tensor._version))
            elif tensor.numel() < 2 or 0 not in tensor.stride():
                groups.setdefault((tensor.dtype, tensor.device, tensor.ndim == 0), []).append(tensor)
        self._groups = [(group, _together(group)) for group in groups.values()]

    def written(self) -> list[Written]:
        """Tensors with other numbers than they had."""
        found = [Written(tensor, was) for tensor, was, version in self._odd if tensor._version != version]
        for group, content in self._groups:
            if _same(_together(group), content):
                continue
            for tensor, part in zip(group, content.split([t.numel() for t in group]), strict=True):
                if not _same(tensor.detach().reshape(-1), part):
                    found.append(Written(tensor, part.view(tensor.shape)))
        return found


def _same(one: Tensor, other: Tensor) -> bool:
    """Equal numbers; NaN is the same as NaN."""
    return torch.equal(one, other) or bool(((one == other) | ((one != one) & (other != other))).all())


def _wrapped(tensor: Tensor) -> bool:
    return hasattr(type(tensor), "__tensor_flatten__")


def _together(tensors: list[Tensor]) -> Tensor:
    with torch.no_grad():
        if tensors[0].ndim == 0:
            return torch.stack(tensors)
        return torch.cat([tensor if tensor.ndim == 1 else tensor.reshape(-1) for tensor in tensors])

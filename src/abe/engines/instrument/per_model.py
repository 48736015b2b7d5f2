"""Things remembered of a model for as long as it lives, by identity: modules may define equality."""

from collections.abc import Callable
from threading import Lock
from typing import Any, Generic, TypeVar
from weakref import ref

from torch import nn

_T = TypeVar("_T")


class PerModel(Generic[_T]):
    """One value per living model."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[ref[nn.Module], _T]] = {}
        self._making = Lock()

    def get(self, model: nn.Module) -> _T | None:
        """The value of a model, or None."""
        kept = self._kept.get(id(model))
        return None if kept is None or kept[0]() is not model else kept[1]

    def set(self, model: nn.Module, value: _T) -> _T:
        """Remember a value."""
        key = id(model)
        self._kept[key] = (ref(model, lambda _: self._kept.pop(key, None)), value)
        return value

    def forget(self, model: nn.Module) -> None:
        """There is no value any more."""
        self._kept.pop(id(model), None)

    def of(self, model: nn.Module, make: Callable[[], _T]) -> _T:
        """The value of a model, made where there is none."""
        with self._making:
            kept = self.get(model)
            return self.set(model, make()) if kept is None else kept


def mark(value: Any) -> int:
    """Tells values apart in what is remembered; one that cannot be hashed is the same as itself only."""
    try:
        return hash(value)
    except TypeError:
        return id(value)

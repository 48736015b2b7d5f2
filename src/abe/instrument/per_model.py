"""Things remembered of a model or a part while it lives, by identity: modules may define equality."""

from typing import Any, Generic, TypeVar
from weakref import ref

_T = TypeVar("_T")


class PerModel(Generic[_T]):
    """One value per living model."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[ref[Any], _T]] = {}

    def get(self, model: Any) -> _T | None:
        """The value of a model, or None."""
        kept = self._kept.get(id(model))
        return None if kept is None or kept[0]() is not model else kept[1]

    def set(self, model: Any, value: _T) -> _T:
        """Remember a value."""
        key = id(model)
        self._kept[key] = (ref(model, lambda _: self._kept.pop(key, None)), value)
        return value

    def forget(self, model: Any) -> None:
        """There is no value any more."""
        self._kept.pop(id(model), None)


def mark(value: Any) -> int:
    """Tells values apart in what is remembered; one that cannot be hashed is the same as itself only."""
    try:
        return hash(value)
    except TypeError:
        return id(value)

"""Where the output to explain is, in what a model returns."""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from copy import copy
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

from abe.errors import AbeError, Code, ModelError

Returned = Callable[[Any, int], Any]
"""Makes of what a model returned for so many rows what is read instead."""
_WATCHED: ContextVar[Returned | None] = ContextVar("abe_returned", default=None)


@contextmanager
def watching(watch: Returned) -> Generator[None]:
    """Hand what models return through ``watch``, before a task reads a score of its own out of it."""
    token = _WATCHED.set(watch)
    try:
        yield
    finally:
        _WATCHED.reset(token)


def returned(raw: Any, n: int) -> Any:
    """What a model returned for ``n`` rows, as whoever watches makes it."""
    watch = _WATCHED.get()
    return raw if watch is None else watch(raw, n)


def mapped(raw: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """What a model returned with other tensors: in lists, tuples and mappings, at any depth."""
    if isinstance(raw, Tensor):
        return change(raw)
    if isinstance(raw, Mapping):
        other: Any = copy(raw)
        for name, value in raw.items():
            other[name] = mapped(value, change)
        return other
    if isinstance(raw, list | tuple):
        inner = [mapped(value, change) for value in raw]
        return type(raw)(*inner) if hasattr(raw, "_fields") else type(raw)(inner)
    return raw


def select(raw: Any, output: Any) -> Any:
    """What ``output`` says of what a model returned; the obvious tensor where it is None.

    Raises:
        ModelError: there is no such entry, or it is not clear which tensor is meant.
    """
    if output is None:
        return _find(raw)
    try:
        if callable(output):
            return output(raw)
        if isinstance(output, str) and not isinstance(raw, Mapping):
            return getattr(raw, output)
        return raw[output]
    except AbeError:
        raise
    except Exception as problem:
        if callable(output):
            raise ModelError(
                Code.OUTPUT_TYPE,
                "The output= function raised an exception",
                got=f"{type(problem).__name__}: {problem}",
                expected=f"a function that finds the tensor in {outline(raw)}",
            ) from problem
        raise ModelError(
            Code.OUTPUT_TYPE,
            f"The model's output has no entry {output!r}",
            got=outline(raw),
            fix="Pass output= as a key, an index, an attribute name or a function",
        ) from problem


def _find(raw: Any) -> Any:
    """The obvious output tensor: itself, ``logits``, or the only or first tensor inside."""
    if isinstance(raw, Tensor):
        return raw
    entries = _entries(raw)
    for name in ("logits", "out", "output", "scores"):
        if isinstance(entries.get(name), Tensor):
            return entries[name]
    tensors = [v for v in entries.values() if isinstance(v, Tensor)]
    if len(tensors) == 1 or (tensors and isinstance(raw, tuple | list)):
        return tensors[0]
    raise ModelError(
        Code.OUTPUT_TYPE,
        "It is not clear which part of the model's output to explain",
        got=outline(raw),
        expected="a tensor, or an output with one tensor or an entry 'logits'",
        fix="Pass output= to the task: a key, an index, an attribute name or a function",
    )


def _entries(raw: Any) -> dict[str | int, Any]:
    if isinstance(raw, Mapping):
        return dict(raw)
    if hasattr(raw, "_asdict"):
        return raw._asdict()
    if isinstance(raw, tuple | list):
        return dict(enumerate(raw))
    if is_dataclass(raw) and not isinstance(raw, type):
        return {f.name: getattr(raw, f.name) for f in fields(raw)}
    return {k: v for k, v in getattr(raw, "__dict__", {}).items() if not k.startswith("_")}


def outline(raw: Any) -> str:
    """The type of what a model returned, and what it holds."""
    entries = _entries(raw)
    inner = ", ".join(f"{k}: {type(v).__name__}" for k, v in list(entries.items())[:6])
    return f"{type(raw).__name__}({inner})" if inner else type(raw).__name__

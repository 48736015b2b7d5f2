"""What checks types and shapes while the tests run: jaxtyping where there are shapes, beartype elsewhere.

jaxtyping's own decorator binds and checks every call of every function twice, and compiles a function
within a function anew at each call of the outer one: four fifths of the time of the tests went there.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin

import jaxtyping
from beartype import BeartypeConf, beartype

checked = beartype(
    conf=BeartypeConf(
        is_pep484_tower=True,  # integers are accepted where floats are
        violation_type=jaxtyping.TypeCheckError,
    )
)
_with_shapes = jaxtyping.jaxtyped


def spare() -> None:
    """Let what jaxtyping decorates while it imports a package be decorated by `_decorated`."""
    jaxtyping.jaxtyped = lambda *, typechecker: functools.partial(_decorated, typechecker=typechecker)


def _decorated(what: Any, *, typechecker: Callable[[Any], Any]) -> Any:
    """A function, or a dataclass whose `__init__` is one, with its calls checked."""
    if inspect.isclass(what):
        if dataclasses.is_dataclass(what) and "__init__" in vars(what):
            what.__init__ = _checking(what.__init__, typechecker)
        return what
    if "<locals>" in what.__qualname__ and not _has_shape(what):
        return what
    return _checking(what, typechecker)


def _checking(function: Callable[..., Any], typechecker: Callable[[Any], Any]) -> Callable[..., Any]:
    if _has_shape(function):
        return _with_shapes(function, typechecker=typechecker)
    strict = typechecker(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (function if jaxtyping.config.jaxtyping_disable else strict)(*args, **kwargs)

    return call


def _has_shape(function: Callable[..., Any]) -> bool:
    return any(_is_shape(hint) for hint in inspect.get_annotations(function).values())


def _is_shape(hint: Any) -> bool:
    """Whether an array with a shape is in an annotation, or may be because it is a string."""
    if isinstance(hint, list | tuple):
        return any(map(_is_shape, hint))
    if get_origin(hint) is Literal:
        return False
    array = inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray)
    return array or isinstance(hint, str) or _is_shape(get_args(hint))

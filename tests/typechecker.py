"""What checks types and shapes while the tests run: jaxtyping where there are shapes, beartype everywhere.

jaxtyping's own decorator binds every call's arguments in Python and checks them twice, and compiles a
function within a function anew at each call of the outer one: most of the time of the tests went there.
Here each argument and each result is checked once, in one memory of the shapes' names per call, and what
is never called is never compiled.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

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
    """Let what jaxtyping decorates while it imports a package be decorated by `decorated`."""
    jaxtyping.jaxtyped = lambda *, typechecker: functools.partial(decorated, typechecker=typechecker)


def decorated(what: Any, *, typechecker: Callable[[Any], Any]) -> Any:
    """A function, or a dataclass whose `__init__` is one, with its calls checked."""
    if inspect.isclass(what):
        if dataclasses.is_dataclass(what) and "__init__" in vars(what):
            what.__init__ = _checking(what.__init__, typechecker)
        return what
    if "<locals>" in what.__qualname__ and not _has_shape(what):
        return what
    return _checking(what, typechecker)


def _checking(function: Callable[..., Any], typechecker: Callable[[Any], Any]) -> Callable[..., Any]:
    """The function, checked from its first call on."""
    shaped = _has_shape(function)
    if shaped and inspect.isgeneratorfunction(function):  # its body runs when nobody is in the call any more
        return _with_shapes(function, typechecker=typechecker)
    strict: Callable[..., Any] | None = None

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal strict
        if jaxtyping.config.jaxtyping_disable:
            return function(*args, **kwargs)
        if strict is None:
            strict = typechecker(_spelled_out(function) if shaped else function)
        if not shaped:
            return strict(*args, **kwargs)
        with _with_shapes("context"):
            return strict(*args, **kwargs)

    return call


def _spelled_out(function: Any) -> Callable[..., Any]:
    """The function without text for a type in its annotations; a name not known when it runs is anything."""
    copy = FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    functools.update_wrapper(copy, function)
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__annotations__ = {name: _meaning(hint, function) for name, hint in copy.__annotations__.items()}
    del copy.__wrapped__  # type: ignore[attr-defined]
    return copy


def _meaning(hint: Any, function: Any) -> Any:
    def carrier(value: Any) -> None:
        """Carries one annotation to where all of a function are looked up."""

    carrier.__annotations__ = {"value": hint}
    try:
        return get_type_hints(carrier, function.__globals__, include_extras=True)["value"]
    except NameError:
        return Any


_SHAPED: dict[CodeType, bool] = {}
"""Whether a function's annotations hold a shape, by its code: one within another is made many times."""


def _has_shape(function: Callable[..., Any]) -> bool:
    code = getattr(function, "__code__", None)
    if code is None:
        return _annotated(function)
    if code not in _SHAPED:
        _SHAPED[code] = _annotated(function)
    return _SHAPED[code]


def _annotated(function: Callable[..., Any]) -> bool:
    return any(_is_shape(hint) for hint in inspect.get_annotations(function).values())


def _is_shape(hint: Any) -> bool:
    """Whether an array with a shape is in an annotation, or may be because it is a string."""
    if isinstance(hint, list | tuple):
        return any(map(_is_shape, hint))
    if get_origin(hint) is Literal:
        return False
    array = inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray)
    return array or isinstance(hint, str) or _is_shape(get_args(hint))

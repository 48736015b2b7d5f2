"""Values: frozen dataclasses that print, hash and survive a JSON round trip."""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from functools import wraps
from typing import Any, TypeVar, dataclass_transform

from abe.checks import checks_of
from abe.errors import Code, SpecError, suggest
from abe.sizes import OfRange

_T = TypeVar("_T")
_Class = TypeVar("_Class", bound=type)
_VALUES: dict[str, type] = {}
_TAGS: dict[str, Callable[..., Any]] = {}


def resolved(*, converter: Callable[[Any], _T], default: Any = MISSING) -> _T:
    """A field of a value that keeps what ``converter``, such as ``units.resolve``, makes of what is given."""
    made: Any = field(default=default, metadata={"converter": converter})
    return made


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field, resolved))
def value(cls: _Class) -> _Class:
    """Make ``cls`` a frozen keyword-only dataclass known to `from_spec` by its class name.

    Its fields are checked when it is made, as `abe.checks` reads their annotations; then its own
    ``__post_init__`` checks what concerns several of them.

    Raises:
        SpecError: another class of that name is registered already.
    """
    known = _VALUES.get(cls.__name__)
    if known is not None and known.__module__ != cls.__module__:
        raise SpecError(
            Code.DUPLICATE_NAME,
            f"Two values are called {cls.__name__}",
            got=f"{cls.__module__} and {known.__module__}",
            fix="Rename one of the classes",
        )
    made = dataclass(frozen=True, kw_only=True)(checked(cls))
    for one in fields(made):
        if "converter" in one.metadata:  # what is given is not yet what is kept
            made.__init__.__annotations__[one.name] = Any
    _VALUES[cls.__name__] = made
    return made


def checked(cls: _Class) -> _Class:
    """Check the fields of a dataclass-to-be when it is made, then call its own ``__post_init__``.

    The checks are read once and kept in one tuple. `value` does this by itself.
    """
    checks = dict(checks_of(cls))
    inherited: dict[str, Any] = getattr(cls, "__dataclass_fields__", {})
    for name, made in {**inherited, **vars(cls)}.items():
        if isinstance(made, Field) and not made.init:
            checks.pop(name, None)  # what the class finds out by itself
        elif isinstance(made, Field) and "converter" in made.metadata:
            checks[name] = _converted(made.metadata["converter"])
    if not checks:
        return cls
    own = getattr(cls, "__post_init__", None)
    own = getattr(own, "__wrapped__", own)  # an inherited one: its checks are among these
    pairs = tuple(checks.items())

    def after_init(self: Any) -> None:
        for name, check in pairs:
            given = getattr(self, name)
            kept = check(name, given)
            if kept is not given:
                object.__setattr__(self, name, kept)
        if own is not None:
            own(self)

    made: Any = cls
    made.__post_init__ = after_init if own is None else wraps(own)(after_init)
    return cls


def _converted(converter: Callable[[Any], Any]) -> Callable[[str, Any], Any]:
    return lambda _, given: converter(given)


def restores(tag: str, restore: Callable[..., Any]) -> None:
    """Let ``{tag: name, "params": {…}}`` be restored by ``restore(name, **params)``."""
    _TAGS[tag] = restore


restores("of_range", OfRange)


def to_spec(obj: Any) -> Any:
    """JSON-able description of a value that `from_spec` turns back into an equal one.

    Raises:
        SpecError: ``obj`` holds something that has no name, such as a lambda or a tensor.
    """
    if hasattr(obj, "__spec__"):
        return obj.__spec__()
    if obj is None or isinstance(obj, bool | int | float | str):
        return obj
    if isinstance(obj, tuple | list):
        return [to_spec(item) for item in obj]
    if isinstance(obj, Mapping):
        return {str(key): to_spec(item) for key, item in obj.items()}
    if is_dataclass(obj) and not isinstance(obj, type) and type(obj).__name__ in _VALUES:
        items = {f.name: to_spec(getattr(obj, f.name)) for f in fields(obj)}
        return {"type": type(obj).__name__, **items}
    raise SpecError(
        Code.NOT_A_VALUE,
        "This cannot be written down as a specification",
        got=f"{type(obj).__name__} {str(obj)[:60]!r}",
        expected="numbers, strings, tuples and registered values",
        fix="Give it a name: make it a class with @abe.spec.value and register it",
    )


def describe(obj: Any) -> Any:
    """`to_spec` where possible; anything else becomes ``{"opaque": repr}`` (for manifests)."""
    try:
        return to_spec(obj)
    except SpecError:
        if isinstance(obj, tuple | list):
            return [describe(item) for item in obj]
        if is_dataclass(obj) and not isinstance(obj, type):
            items = {f.name: describe(getattr(obj, f.name)) for f in fields(obj)}
            return {"type": type(obj).__name__, **items}
        return {"opaque": _short(obj)}


def from_spec(spec: Any) -> Any:
    """The value a specification describes. Only registered values are made; nothing is imported.

    Raises:
        SpecError: the specification names a value that is not registered or cannot be restored.
    """
    if isinstance(spec, list | tuple):
        return tuple(from_spec(item) for item in spec)
    if not isinstance(spec, Mapping):
        return spec
    if "opaque" in spec:
        raise SpecError(
            Code.NOT_A_VALUE,
            "This part of the specification only describes something that had no name",
            got=spec["opaque"],
            fix="Pass the object itself again",
        )
    for tag, restore in _TAGS.items():
        if tag in spec and set(spec) <= {tag, "params"}:
            params = {k: from_spec(v) for k, v in spec.get("params", {}).items()}
            return restore(spec[tag], **params)
    if "type" not in spec:
        return {key: from_spec(item) for key, item in spec.items()}
    cls = _VALUES.get(spec["type"])
    if cls is None:
        raise SpecError(
            Code.UNKNOWN_NAME,
            f"No value is called {spec['type']!r}",
            fix=suggest(spec["type"], _VALUES) or "Import the package that defines it first",
        )
    known = {f.name for f in fields(cls)}
    extra = set(spec) - known - {"type"}
    if extra:
        raise SpecError(
            Code.UNKNOWN_PARAMETER,
            f"{spec['type']} has no field {sorted(extra)[0]!r}",
            expected=f"one of {sorted(known)}",
        )
    return cls(**{k: from_spec(v) for k, v in spec.items() if k != "type"})


def _short(obj: Any) -> str:
    shape = getattr(obj, "shape", None)
    if shape is not None:
        return f"{type(obj).__name__}{tuple(shape)}"
    name = getattr(obj, "__qualname__", None)
    return f"{getattr(obj, '__module__', '')}:{name}" if name else f"{type(obj).__name__}"

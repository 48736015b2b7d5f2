"""Names for methods, metrics, objectives, baselines, units, paths, updates, rules and channel weights.

A package of one's own adds entries by an entry point in the group of the kind (``abe.methods``,
``abe.metrics``, …) that names the module to import; importing it runs the decorators.
"""

import inspect
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cache
from hashlib import blake2b
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from abe._rooms import FILLED_BY
from abe.checks import Check, checks_of_call, need_list, plain
from abe.documented import Documented, documented
from abe.errors import Code, SpecError, suggest
from abe.formulas import evaluate
from abe.spec import describe, restores, to_spec
from abe.types import Card, Engine, Fitted
from abe.words import some

_F = TypeVar("_F", bound=Callable[..., Any])
SHOWN = 20
"""Names that an error lists."""
Suits = Mapping[tuple[str, str | int | None], Any]
"""What is used instead of a parameter's default: by the parameter's name and that of the default, or None."""
_SUITS: ContextVar[Suits] = ContextVar("abe.suits")


@contextmanager
def suiting(suits: Suits) -> Generator[None]:
    """Let what is built inside take ``suits`` for defaults that were made for images."""
    token = _SUITS.set(suits)
    try:
        yield
    finally:
        _SUITS.reset(token)


def _suited(name: str, default: Any) -> Any:
    suits = _SUITS.get({})
    called = default[0] if is_pair(default) else default
    known = suits and (called is None or isinstance(called, str | int))
    return suits.get((name, called), default) if known else default


@dataclass(frozen=True, eq=False)
class Method:
    """An attribution method as a value: its name, its parameters, and the engine they compose.

    Printable, hashable, and restored by `abe.spec.from_spec` from its JSON form. Made by
    ``abe.method("ig", steps=100)``.
    """

    name: str
    params: tuple[tuple[str, Any], ...]
    engine: Engine = field(repr=False, compare=False)
    given: tuple[str, ...] = field(default=(), repr=False, compare=False)
    """Parameters that were passed; the others have defaults."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Method) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[Any, ...]:
        return self.name, identity(self.params)

    def __str__(self) -> str:
        inner = ", ".join(f"{k}={v!r}" for k, v in self.params)
        return f"{self.name}({inner})"

    def __spec__(self) -> dict[str, Any]:
        return {"method": self.name, "params": {k: to_spec(v) for k, v in self.params}}

    def describe(self) -> dict[str, Any]:
        """The specification with anything unnamed described instead of refused."""
        return {"method": self.name, "params": {k: describe(v) for k, v in self.params}}

    @property
    def card(self) -> Card:
        """What is known about the method."""
        return methods.get(self.name).card

    def suited(self, suits: Suits) -> "Method":
        """The same with other defaults, where it was made by a name; also of methods inside it."""
        if not suits or self.name not in methods.names():
            return self
        with suiting(suits):
            return methods.build(self.name, **{k: v for k, v in self.params if k in self.given})

    def rows(self, b: int) -> float | None:
        """Forward and backward rows that the card promises for ``b`` samples; None where it promises none."""
        found = self.passes(b)
        return None if found is None else sum(found)

    def passes(self, b: int) -> tuple[float, float] | None:
        """Forward rows and backward rows, as `rows`, apart."""
        passes = self.card.passes if self.name in methods.names() else None
        if passes is None:
            return None
        names = {**dict(self.params), "b": b}
        forward, backward = evaluate(passes.forward, names), evaluate(passes.backward, names)
        return None if forward is None or backward is None else (forward, backward)


def _brief(name: object) -> str:
    """Enough of a name to recognise it."""
    said = repr(name)
    return said if len(said) <= 80 else f"{said[:77]}…"


@dataclass(frozen=True)
class Entry:
    """One registered name of a kind.

    Attributes:
        kind: of entry, such as ``"method"``.
        name: what it is called.
        aliases: what else it is called.
        factory: a function or class that makes it from parameters.
        own: the card it was registered with, with the docstring's sentence and formula.
    """

    kind: str
    name: str
    factory: Callable[..., Any]
    own: Card
    aliases: tuple[str, ...]

    @property
    def card(self) -> Card:
        """What is known about it; a part of a method has title, source and deviations of the method."""
        if not self.own.part_of:
            return self.own
        whole = methods.get(self.own.part_of).card
        return replace(
            self.own,
            title=whole.title,
            source=whole.source,
            formula=self.own.formula or whole.formula,
            family=whole.family,
            differs=whole.differs,
            pitfalls=whole.pitfalls,
        )

    @property
    def documented(self) -> Documented:
        """What help, command line and pages say about it."""
        return documented(self.kind, self.factory, self.own)

    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """The factory's parameters by name."""
        return _signature(self.factory).parameters

    def required(self) -> tuple[str, ...]:
        """Parameters without a default."""
        return tuple(n for n, p in self.parameters().items() if p.default is inspect.Parameter.empty)

    def bind(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """All parameters with defaults filled in; unknown, missing or unfit ones are refused by name."""
        known = self.parameters()
        for name in params:
            if name not in known:
                raise SpecError(
                    Code.UNKNOWN_PARAMETER,
                    f"{self.name} has no parameter {name!r}",
                    expected=f"one of {', '.join(known)}" if known else "no parameters",
                    fix=suggest(name, known) or None,
                )
        missing = [n for n in self.required() if n not in params]
        if missing:
            raise SpecError(
                Code.BAD_PARAMETER,
                f"{self.name} needs the parameter {missing[0]!r}",
                fix=f"Pass {missing[0]}=…{self._where()}",
            )
        checks = _checks_of(self.factory)
        kept = {n: checks[n](n, given) if n in checks else plain(given) for n, given in params.items()}
        return {n: kept[n] if n in kept else _suited(n, p.default) for n, p in known.items()}

    def _where(self) -> str:
        listed = self.kind in ("method", "metric")
        return f"; `abe {self.kind}s {self.name}` explains it" if listed else ""


@cache
def _signature(factory: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(factory)


@cache
def _checks_of(factory: Callable[..., Any]) -> dict[str, Check]:
    return checks_of_call(factory)


_BY_DEFAULT: dict[str, tuple[Entry, Method]] = {}
"""Methods as they are without parameters, which are values, until anything else is registered."""


class Registry:
    """Entries of one kind, found by name or alias; dashes and capitals do not matter."""

    def __init__(self, kind: str, *, plural: str = "") -> None:
        self.kind = kind
        self.group = f"abe.{plural or kind + 's'}"
        self._entries: dict[str, Entry] = {}
        self._aliases: dict[str, str] = {}
        self._loaded = False
        self._read: Callable[[Any], Any] = lambda obj: obj

    def register(self, card: Card, *, aliases: tuple[str, ...] = ()) -> Callable[[_F], _F]:
        """Decorator: enter a factory under ``card.name``, and make one docstring of its own and the card."""

        def enter(factory: _F) -> _F:
            for name in (card.name, *aliases):
                taken = self._aliases.get(canonical(name))
                if taken is not None and not self._same(taken, factory):
                    raise SpecError(
                        Code.DUPLICATE_NAME,
                        f"A {self.kind} called {name!r} is registered already",
                        got=f"{self._entries[taken].factory.__module__}.{taken}",
                        fix="Choose another name",
                    )
            said = documented(self.kind, factory, card)
            formula = card.formula or " ".join(said.sections.get("Formula", ()))
            own = replace(card, summary=said.summary, formula=formula)
            self._entries[card.name] = Entry(self.kind, card.name, factory, own, aliases)
            with suppress(AttributeError, TypeError):  # a factory whose docstring cannot be written keeps it
                factory.__doc__ = said.text()
            for name in (card.name, *aliases):
                self._aliases[canonical(name)] = card.name
            _BY_DEFAULT.clear()
            return factory

        return enter

    def part(self, name: str, *, of: str, aliases: tuple[str, ...] = ()) -> Callable[[_F], _F]:
        """Decorator: enter a value that one method owns, under that method's card and also its name."""
        card = Card(name=name, title="", source="", part_of=of)
        return self.register(card, aliases=aliases if name == of else (of, *aliases))

    def reads(self, read: Callable[[Any], Any]) -> None:
        """Let `resolve` make entries also of what has no name: ``read`` gives back what it does not know."""
        self._read = read

    def get(self, name: str) -> Entry:
        """The entry of a name or alias.

        Raises:
            SpecError: no such name; the nearest one is suggested.
        """
        self._load()
        found = self._aliases.get(canonical(name)) if isinstance(name, str) else None
        if found is None:
            raise SpecError(
                Code.UNKNOWN_NAME,
                f"No {self.kind} is called {_brief(name)}",
                fix=suggest(str(name), self._aliases) or f"Known: {some(self.names(), SHOWN)}",
            )
        return self._entries[found]

    def __contains__(self, name: object) -> bool:
        """Whether this is a name or an alias."""
        self._load()
        return isinstance(name, str) and canonical(name) in self._aliases

    def make(self, name: str, **params: Any) -> Any:
        """Call the factory of ``name`` with checked parameters."""
        entry = self.get(name)
        return entry.factory(**entry.bind(params))

    def resolve(self, obj: Any) -> Any:
        """``obj`` itself, or what a name or a (name, parameters) pair stands for."""
        if isinstance(obj, str):
            return self.make(obj)
        if is_pair(obj):
            return self.make(obj[0], **obj[1])
        return self._read(obj)

    def names(self) -> list[str]:
        """Registered names, in order of registration."""
        self._load()
        return list(self._entries)

    def cards(self) -> dict[str, Card]:
        """Cards by name."""
        self._load()
        return {name: entry.card for name, entry in self._entries.items()}

    def entries(self) -> list[Entry]:
        """All entries."""
        self._load()
        return list(self._entries.values())

    def _same(self, name: str, factory: Callable[..., Any]) -> bool:
        old = self._entries[name].factory
        return (old.__module__, old.__qualname__) == (factory.__module__, factory.__qualname__)

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        try:
            if self.kind in FILLED_BY:
                import_module(FILLED_BY[self.kind])
        except BaseException:
            self._loaded = False
            raise
        for point in entry_points(group=self.group):
            try:
                point.load()
            except Exception as problem:
                warnings.warn(
                    f"The {self.kind} package {point.value!r} could not be loaded: {problem}", stacklevel=2
                )


class MethodRegistry(Registry):
    """The registry of methods; `build` returns a `Method`."""

    def build(self, name: str, **params: Any) -> Method:
        """The method ``name`` with the given parameters, defaults filled in.

        Raises:
            SpecError: unknown name or parameter (the nearest is suggested), or a bad value.
        """
        entry = self.get(name)
        by_default = not params and not _SUITS.get({})
        if by_default and (made := _BY_DEFAULT.get(entry.name)) is not None and made[0] is entry:
            return made[1]
        bound = entry.bind(params)
        frozen = tuple((k, freeze(v)) for k, v in bound.items())
        engine = entry.factory(**dict(frozen))
        method = Method(name=entry.name, params=frozen, engine=engine, given=tuple(params))
        if by_default:
            _BY_DEFAULT[entry.name] = entry, method
        return method

    def resolve(self, obj: Any) -> Method:
        """A `Method` from a name, a (name, parameters) pair, an engine, something fitted, or a method."""
        if isinstance(obj, Method):
            return obj
        if isinstance(obj, str):
            return self.build(obj)
        if is_pair(obj):
            return self.build(obj[0], **obj[1])
        if isinstance(obj, Fitted):
            return self.build(obj.method, fitted=obj)
        if isinstance(obj, Engine):
            return Method(name=type(obj).__name__, params=(("engine", obj),), engine=obj)
        raise SpecError(
            Code.UNKNOWN_NAME,
            "This is not a method",
            got=f"{type(obj).__name__}",
            expected='a name such as "ig", a pair ("ig", {"steps": 100}), or abe.method(...)',
        )


def canonical(name: str) -> str:
    """Spelling under which names are compared."""
    return name.lower().replace("-", "_").replace(" ", "_").replace("²", "2")


def is_pair(obj: Any) -> bool:
    """Whether this is a name with parameters."""
    pair = isinstance(obj, tuple | list) and len(obj) == 2
    named = pair and isinstance(obj[0], str) and isinstance(obj[1], Mapping)
    return named and all(isinstance(name, str) for name in obj[1])


def items_of(name: str, given: Any, *kinds: type, of: str = "values") -> list[Any]:
    """The items of a list of names, pairs or values; one of them alone is a list of one.

    Args:
        name: of the parameter.
        given: what was passed.
        *kinds: values that are items themselves.
        of: what such values are called.

    Raises:
        SpecError: it is no list.
    """
    if isinstance(given, (str, *kinds)) or is_pair(given):
        return [given]
    return need_list(name, given, f"names, (name, parameters) pairs or {of}")


class Frozen(dict[str, Any]):
    """Parameters that cannot change, so that the method that holds them can be hashed."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("these parameters are frozen; make another method")

    def __reduce__(self) -> tuple[Any, ...]:
        """As a whole: pickling and copying would fill it item by item."""
        return Frozen, (dict(self),)

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse  # type: ignore[assignment]


def freeze(obj: Any) -> Any:
    """The same with lists as tuples, dicts as `Frozen` and numbers as Python's own, at any depth."""
    if isinstance(obj, list | tuple) and not hasattr(obj, "_fields"):
        return tuple(freeze(item) for item in obj)
    return Frozen({k: freeze(v) for k, v in obj.items()}) if isinstance(obj, dict) else plain(obj)


def identity(obj: Any) -> Any:
    """What frozen parameters are compared and hashed by: arrays and tensors by what they hold."""
    if isinstance(obj, tuple):
        return tuple(identity(item) for item in obj)
    if isinstance(obj, Frozen):
        return frozenset((k, identity(v)) for k, v in obj.items())
    if isinstance(obj, np.ndarray | Tensor):
        held = obj if isinstance(obj, np.ndarray) else obj.detach().cpu().contiguous()
        raw = held if isinstance(held, np.ndarray) else held.flatten().view(torch.uint8).numpy()
        content = blake2b(np.ascontiguousarray(raw).tobytes(), digest_size=16).hexdigest()
        return type(obj).__name__, str(obj.dtype), tuple(obj.shape), content
    return obj


methods = MethodRegistry("method")
restores("method", methods.build)
metrics = Registry("metric")
objectives = Registry("objective")
baselines = Registry("baseline")
units = Registry("unit")
paths = Registry("path")
updates = Registry("update")
rules = Registry("rule")
channel_weights = Registry("channel_weight")
removals = Registry("removal")
summaries = Registry("summary", plural="summaries")

"""What a number, a name and a set of samples must be: said once, for values and functions alike.

`abe.spec.value` reads the annotations of a class through `checks_of`, `abe.registry` those of a factory and
`checked_arguments` those of a function. What is annotated ``int``, ``float`` or ``bool`` must be such and is
kept as Python's own, whichever library's number it was; a ``Literal`` must be one of its names; ``Annotated``
asks an object that has ``check(name, given)``, as those below. ``| None`` lets None pass, and
``tuple[…, ...]`` checks every item, where one alone stands for a tuple of one.
"""

import cmath
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from inspect import Parameter, get_annotations, signature
from math import inf, nan
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

import numpy as np
import torch
from torch import Tensor

from abe.errors import AbeError, Code, InputError, SpecError, suggest
from abe.sizes import OfRange

Check = Callable[[str, Any], Any]
"""(name, given) -> what is kept; refuses what makes no sense."""
MOST = 10**7
"""Largest count: more rows, steps or draws than anybody waits for, whose numbers still fit in memory."""
SMALLEST, LARGEST = 1e-30, 1e30
"""Sizes of real numbers whose squares and reciprocals are numbers too."""
_P = ParamSpec("_P")
_R = TypeVar("_R")


def plain(given: Any) -> Any:
    """A number of NumPy, PyTorch or ``fractions`` as Python's own; anything else, and a share, as it is."""
    if type(given) in (bool, int, float, OfRange):
        return given
    if isinstance(given, np.generic | np.ndarray | Tensor) and given.ndim == 0:
        given = given.item()
    if isinstance(given, Integral) and not isinstance(given, bool):
        return int(given)
    return _float(given) if isinstance(given, Real) and not isinstance(given, bool) else given


def _float(number: Any) -> float:
    """The number as a float; NaN, which no check lets pass, where it is too large for one."""
    try:
        return float(number)
    except OverflowError:
        return nan


def _is_whole(given: Any) -> bool:
    return isinstance(given, int) and not isinstance(given, bool)


def shown(given: Any) -> str:
    """What a message says of something that should have been a number."""
    if isinstance(given, np.ndarray | Tensor) and given.ndim:
        return f"{type(given).__name__} of shape {tuple(given.shape)}"
    text = repr(given)
    return text if len(text) <= 80 else f"{text[:60]} … ({type(given).__name__})"


def refused(name: str, must: str, given: Any, expected: str | None = None) -> SpecError:
    """The error that a parameter is not what it must be."""
    text = isinstance(given, str) and any(sign.isdigit() for sign in given)
    fix = "Write the number itself, without quotation marks" if text else None
    return SpecError(Code.BAD_PARAMETER, f"{name} {must}", got=shown(given), expected=expected, fix=fix)


@dataclass(frozen=True)
class AtLeast:
    """An integer from ``least`` on.

    Args:
        least: the smallest.
        odd: no even ones.
        most: the largest.
    """

    least: int
    odd: bool = False
    most: int = MOST

    def check(self, name: str, given: Any) -> Any:
        """The number as Python's own, or a refusal."""
        number = plain(given)
        whole = _is_whole(number) and number >= self.least and (not self.odd or number % 2)
        if whole and number <= self.most:
            return number
        least = {0: "an integer from 0 on", 1: "a positive integer"}
        must = "an odd number" if self.odd else least.get(self.least, f"an integer of at least {self.least}")
        raise refused(name, f"must be {must}", given, f"at most {self.most}" if whole else None)


@dataclass(frozen=True)
class Whole:
    """An integer of 64 bits, which is what tensors hold."""

    def check(self, name: str, given: Any) -> Any:
        """The number as Python's own, or a refusal."""
        number = plain(given)
        if _is_whole(number) and -(2**63) <= number < 2**63:
            return number
        raise refused(name, "must be an integer", given, "one of 64 bits" if _is_whole(number) else None)


@dataclass(frozen=True)
class Flag:
    """True or False, also as 1 or 0."""

    def check(self, name: str, given: Any) -> Any:
        """The truth value as Python's own, or a refusal."""
        number = plain(given)
        if isinstance(number, int) and number in (0, 1):
            return bool(number)
        raise SpecError(Code.BAD_PARAMETER, f"{name} must be True or False", got=shown(given))


@dataclass(frozen=True)
class Between:
    """A number of an interval; NaN is in none.

    Args:
        low, high: its ends.
        ends: ``"[]"`` with both, ``"()"`` without, ``"[)"`` and ``"(]"`` with one.
        must: what the refusal says instead of the ends.
        expected: what would be right.
    """

    low: float
    high: float
    ends: Literal["[]", "()", "[)", "(]"] = "[]"
    must: str = ""
    expected: str | None = None

    def check(self, name: str, given: Any) -> Any:
        """The number as Python's own, or a refusal."""
        kept = plain(given)
        if isinstance(kept, int | float) and not isinstance(kept, bool):
            number = _float(kept)
            small = self.low == 0 and self.ends[0] == "(" and number < SMALLEST
            if self.low < number < self.high and not small and abs(number) <= LARGEST:
                return kept
            if (number == self.low and self.ends[0] == "[") or (number == self.high and self.ends[1] == "]"):
                return kept
        low = f"from {self.low:g}" if self.ends[0] == "[" else f"above {self.low:g}"
        high = f"to {self.high:g}" if self.ends[1] == "]" else f"to below {self.high:g}"
        must = self.must or f"must be a number {low} {high}"
        extreme = isinstance(kept, int | float) and not SMALLEST <= abs(_float(kept)) <= LARGEST and kept != 0
        sizes = f"a size from {SMALLEST:g} to {LARGEST:g}"
        raise refused(name, must, given, sizes if extreme and kept == kept else self.expected)


_POSITIVE = "must be a positive number"
SIZE = Between(
    0,
    inf,
    "()",
    _POSITIVE,
    "sizes count in input units before normalisation, for example 8/255",
)
POSITIVE = Between(0, inf, "()", _POSITIVE)
NOT_NEGATIVE = Between(0, inf, "[)", "must be a number from 0 on")
TOLERANCE = Between(0, inf, "(]", _POSITIVE, "for example 0.02 for a residual of 2 %")
FINITE = Between(-inf, inf, "()", "must be a finite number")
COUNT = AtLeast(1)
_PLAIN: dict[Any, Check] = {int: Whole().check, float: FINITE.check, bool: Flag().check}

Count = Annotated[int, COUNT]
CountFrom0 = Annotated[int, AtLeast(0)]
Odd = Annotated[int, AtLeast(1, odd=True)]
Size = Annotated[float, SIZE]
"""A length in input units."""
Positive = Annotated[float, POSITIVE]
NotNegative = Annotated[float, NOT_NEGATIVE]
Probability = Annotated[float, Between(0, 1, "()", "is a probability between 0 and 1")]
"""Neither 0 nor 1."""
Fraction = Annotated[float, Between(0, 1)]
Share = Annotated[float, Between(0, 1, "(]")]
"""Of something, and not nothing."""
Below1 = Annotated[float, Between(0, 1, "[)")]
Tolerance = Annotated[float, TOLERANCE]
Norm = Literal["linf", "l2"]
Variant = Literal["corrected", "published"]


def no_such(what: str, given: Any, known: Iterable[Any]) -> SpecError:
    """The error that says which names there are."""
    names = [str(one) for one in known]
    expected = " or ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)
    return SpecError(
        Code.BAD_PARAMETER,
        f"No such {what}",
        got=shown(given),
        expected=expected,
        fix=suggest(given, names) or None if isinstance(given, str) else None,
    )


def check_choice(what: str, given: Any, known: Iterable[Any]) -> None:
    """Refuse what is none of the known names."""
    _choice(tuple(known), what)("", given)


def listed(samples: Tensor | Iterable[int]) -> str:
    """The first eight numbers of samples, as messages name them; a mask is read as those where it holds."""
    if isinstance(samples, Tensor):
        numbers = samples.nonzero().flatten() if samples.dtype == torch.bool else samples
        samples = numbers[:8].tolist()
    return ", ".join(map(str, list(samples)[:8]))


def published(variant: str) -> bool:
    """Whether the published variant is asked for; anything unknown is refused."""
    check_choice("variant", variant, get_args(Variant))
    return variant == "published"


def check_positive(**sizes: Any) -> None:
    """Refuse sizes that are not positive finite numbers."""
    for name, size in sizes.items():
        SIZE.check(name, size)


def check_norm(norm: Any) -> None:
    """Refuse anything but the two norms."""
    check_choice("norm", norm, get_args(Norm))


def need_places(what: str, x: Tensor, *, axes: Sequence[int] = (1, 2), fix: str | None = None) -> None:
    """Refuse inputs that have not one of these numbers of axes of positions after batch and channels."""
    if x.ndim - 2 not in axes:
        shapes = {1: "(c, t)", 2: "(c, h, w)"}
        raise SpecError(
            Code.UNSUPPORTED,
            what,
            got=f"inputs of shape {tuple(x.shape[1:])}",
            expected=" or ".join(shapes.get(n, "(c, …)") for n in sorted(axes, reverse=True)),
            fix=fix,
        )


def need_image(what: str, x: Tensor, fix: str = "Choose an attack without space, such as pgd or mim") -> None:
    """Refuse inputs without two space axes."""
    need_places(f"{what} needs images", x, axes=(2,), fix=fix)


def outline(given: Any) -> str:
    """What a message says of something that should have been a tensor of some shape."""
    return f"shape {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__


def need_set(what: str, samples: Any, least: int = 2, fix: str | None = None) -> None:
    """Refuse anything but a tensor of several samples."""
    if not isinstance(samples, Tensor) or samples.ndim < 2 or len(samples) < least:
        raise InputError(
            Code.BASELINE_SHAPE,
            f"{what} holds at least {'two samples' if least == 2 else 'one sample'}, the sample axis first",
            got=outline(samples),
            expected=f"(m, *features) with m ≥ {least}",
            fix=fix,
        )


def misfit(samples: Tensor, x: Tensor) -> InputError:
    """The error that background samples have another shape than the input."""
    return InputError(
        Code.BASELINE_SHAPE,
        "The background set does not fit the input",
        got=f"samples of shape {tuple(samples.shape[1:])}",
        expected=f"{tuple(x.shape[1:])}",
        fix="Give samples of the input's shape, before the task's normalisation",
    )


def finite(numbers: Tensor) -> bool:
    """Whether no number is NaN or infinite: one sum tells, unless it overflows."""
    return cmath.isfinite(numbers.detach().sum().item()) or bool(torch.isfinite(numbers).all())


def need_finite_maps(maps: Tensor, fix: str | None = None) -> None:
    """Refuse maps that hold NaN or infinity, and say of which samples."""
    bad = ~torch.isfinite(maps).flatten(1).all(1)
    if bool(bad.any()):
        raise InputError(
            Code.MAP_NOT_FINITE,
            "The map holds NaN or infinite values",
            got=f"sample{'s' if int(bad.sum()) > 1 else ''} {listed(bad)}",
            expected="finite values",
            fix=fix,
        )


def check_reach(
    bounds: tuple[Tensor, Tensor] | None, shape: Sequence[int], norm: Norm = "linf", **sizes: float
) -> None:
    """Refuse sizes that are larger than the distance of any two valid inputs of a shape."""
    if bounds is None:
        return
    span = (bounds[1] - bounds[0]).expand(1, *shape)
    reach = float(span.max()) if norm == "linf" else float(span.flatten().norm())
    for name, size in sizes.items():
        most = (1.0 if norm == "linf" else span.numel() ** 0.5) if isinstance(size, OfRange) else reach
        if size > most * (1 + 1e-6):
            raise SpecError(
                Code.BAD_PARAMETER,
                f"{name} is larger than the range of valid inputs",
                got=f"{size:g}",
                expected=f"at most {most:g} ({norm}), in input units before normalisation",
                fix="For photographs in [0, 1], 8/255 is usual; for 0 to 255 write 8",
            )


def check_count(name: str, number: Any) -> None:
    """Refuse anything but an integer of at least 1."""
    COUNT.check(name, number)


def check_tolerance(tolerance: float | None) -> None:
    """Refuse a tolerance that is not a positive number."""
    if tolerance is not None:
        TOLERANCE.check("tolerance", tolerance)


def checks_of(cls: type) -> dict[str, Check]:
    """The check of every field of a class, and of those it inherits, that has one."""
    kinds = {name: kind for base in reversed(cls.__mro__) for name, kind in get_annotations(base).items()}
    return _checks(kinds)


def checks_of_call(function: Callable[..., Any]) -> dict[str, Check]:
    """The check of every parameter of a function or class that has one."""
    return _checks({name: one.annotation for name, one in signature(function).parameters.items()})


def checked_arguments(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Check what a function is called with, as its annotations ask, before it runs.

    What is annotated with a class of ABE's own must be an object of it.
    """
    checks = _instances(function) | checks_of_call(function)
    parameters = signature(function).parameters.values()
    places = [one.name for one in parameters if one.kind is Parameter.POSITIONAL_OR_KEYWORD]

    @wraps(function)
    def call(*args: _P.args, **given: _P.kwargs) -> _R:
        named: dict[str, Any] = given
        for name in checks.keys() & named.keys():
            named[name] = checks[name](name, named[name])
        placed: Any = [
            checks[name](name, one) if name in checks else one
            for name, one in zip(places, args, strict=False)
        ]
        return function(*placed, *args[len(places) :], **given)  # type: ignore[call-arg]

    return call


_MADE_BY = {
    "Task": "Make one of the model: abe.image_task(model)",
    "Explanation": "Make one by abe.explain, or by abe.Explanation.from_array from maps of elsewhere",
}


def _instances(function: Callable[..., Any]) -> dict[str, Check]:
    kinds = {name: one.annotation for name, one in signature(function).parameters.items()}
    return {name: _instance(kind) for name, kind in kinds.items() if _is_ours(kind)}


def _is_ours(kind: Any) -> bool:
    protocol = getattr(kind, "_is_protocol", False)
    return isinstance(kind, type) and kind.__module__.startswith("abe.") and not protocol


def _instance(kind: type) -> Check:
    def check(name: str, given: Any) -> Any:
        if isinstance(given, kind):
            return given
        raise SpecError(
            Code.BAD_PARAMETER,
            f"{name} must be an abe {kind.__name__}",
            got=type(given).__name__,
            fix=_MADE_BY.get(kind.__name__),
        )

    return check


def _checks(kinds: Mapping[str, Any]) -> dict[str, Check]:
    found = {name: check_of(kind) for name, kind in kinds.items()}
    return {name: check for name, check in found.items() if check is not None}


def check_of(kind: Any, words: str = "") -> Check | None:
    """The check that an annotation asks for; a text in ``Annotated`` says what its names are."""
    origin, args = get_origin(kind), get_args(kind)
    if isinstance(kind, type) and kind in _PLAIN:
        return _PLAIN[kind]
    if origin is Literal:
        return _choice(args, words)
    if origin is Annotated:
        words = next((about for about in args[1:] if isinstance(about, str)), words)
        own = [about.check for about in args[1:] if hasattr(about, "check")]
        return own[0] if own else check_of(args[0], words)
    if origin in (Union, UnionType):
        return _union(args, words)
    if (origin is tuple and len(args) == 2 and args[1] is Ellipsis) or origin is Sequence:
        inner = check_of(args[0], words)
        return None if inner is None else _each(inner)
    return None


def _union(kinds: Sequence[Any], words: str) -> Check | None:
    """The check of one of several kinds; None where one of them can be anything."""
    others = [kind for kind in kinds if kind is not NoneType]
    if any(get_origin(unannotated(kind)) is Literal for kind in others):
        # `Literal[…] | str` is a literal whose callers have a text that no type checker has read.
        others = [kind for kind in others if kind is not str]
    inner = [check for kind in others if (check := check_of(kind, words)) is not None]
    if len(inner) < len(others) or not inner:
        return None
    either = inner[0] if len(inner) == 1 else _either(inner)
    return _optional(either) if NoneType in kinds else either


def unannotated(kind: Any) -> Any:
    """The type without what ``Annotated`` says of it, as listings show it."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return unannotated(args[0])
    if origin in (Union, UnionType):
        return Union[tuple(unannotated(arg) for arg in args)]  # noqa: UP007 - its members are known here only
    return tuple[tuple(unannotated(arg) for arg in args)] if origin is tuple else kind


def _choice(names: tuple[Any, ...], words: str) -> Check:
    def check(name: str, given: Any) -> Any:
        if isinstance(given, np.ndarray | Tensor) or given not in names:
            raise no_such(words or name.replace("_", " "), given, names)
        return given

    return check


def _optional(inner: Check) -> Check:
    def check(name: str, given: Any) -> Any:
        return given if given is None else inner(name, given)

    return check


def _either(inner: Sequence[Check]) -> Check:
    def check(name: str, given: Any) -> Any:
        for one in inner[:-1]:
            try:
                return one(name, given)
            except AbeError:
                continue
        return inner[-1](name, given)

    return check


def _each(inner: Check) -> Check:
    def check(name: str, given: Any) -> Any:
        return tuple(inner(name, one) for one in several(given))

    return check


def need_list(name: str, given: Any, of: str) -> list[Any]:
    """The items of what must be a list or something else that can be gone through.

    Raises:
        SpecError: it is none.
    """
    if isinstance(given, Iterable) and getattr(given, "ndim", 1):
        return list(given)
    raise SpecError(Code.BAD_PARAMETER, f"{name}= is a list", got=shown(given), expected=of)


def several(given: Any) -> Sequence[Any]:
    """The items of a list, an array or a tensor; something else is the only item."""
    if isinstance(given, np.ndarray | Tensor):
        return given.tolist() if given.ndim else [given]
    listed = isinstance(given, Iterable) and not isinstance(given, str | bytes | Mapping)
    return list(given) if listed else [given]

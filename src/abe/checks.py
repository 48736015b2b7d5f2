"""What a number, a name and a set of samples must be: said once, for values and functions alike.

`abe.spec.value` reads the annotations of a class through `checks_of`. A field is checked where its
annotation is a ``Literal``, or ``Annotated`` with an object that has ``check(name, given)``, as those
below; ``| None`` lets None pass, and ``tuple[…, ...]`` checks every item.
"""

import cmath
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from inspect import get_annotations
from math import inf
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import torch
from torch import Tensor

from abe.errors import Code, InputError, SpecError, suggest
from abe.sizes import OfRange

Check = Callable[[str, Any], Any]
"""(name, given) -> what is kept; refuses what makes no sense."""


@dataclass(frozen=True)
class AtLeast:
    """An integer from ``least`` on.

    Args:
        least: the smallest.
        odd: no even ones.
        kind: ``Integral`` takes NumPy's integers too.
    """

    least: int
    odd: bool = False
    kind: type = int

    def check(self, name: str, given: Any) -> Any:
        """``given``, or a refusal."""
        kind = type(given)
        whole = kind is int or (isinstance(given, self.kind) and kind is not bool)
        if whole and given >= self.least and (not self.odd or given % 2):
            return given
        least = {0: "an integer from 0 on", 1: "a positive integer"}
        must = "an odd number" if self.odd else least.get(self.least, f"an integer of at least {self.least}")
        raise SpecError(Code.BAD_PARAMETER, f"{name} must be {must}", got=repr(given))


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
        """``given``, or a refusal."""
        kind = type(given)
        if kind is float or kind is int or (isinstance(given, Real) and kind is not bool):
            number = float(given)
            if self.low < number < self.high:
                return given
            if (number == self.low and self.ends[0] == "[") or (number == self.high and self.ends[1] == "]"):
                return given
        low = f"from {self.low:g}" if self.ends[0] == "[" else f"above {self.low:g}"
        high = f"to {self.high:g}" if self.ends[1] == "]" else f"to below {self.high:g}"
        must = self.must or f"must be a number {low} {high}"
        raise SpecError(Code.BAD_PARAMETER, f"{name} {must}", got=repr(given), expected=self.expected)


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
COUNT = AtLeast(1)

Count = Annotated[int, COUNT]
Counted = Annotated[int, AtLeast(1, kind=Integral)]
"""A count that may be one of NumPy's integers."""
Odd = Annotated[int, AtLeast(1, odd=True, kind=Integral)]
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
        got=repr(given),
        expected=expected,
        fix=suggest(given, names) or None if isinstance(given, str) else None,
    )


def check_choice(what: str, given: Any, known: Iterable[Any]) -> None:
    """Refuse what is none of the known names."""
    names = tuple(known)
    if given not in names:
        raise no_such(what, given, names)


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
    found = {name: check_of(kind) for name, kind in kinds.items()}
    return {name: check for name, check in found.items() if check is not None}


def check_of(kind: Any, words: str = "") -> Check | None:
    """The check that an annotation asks for; a text in ``Annotated`` says what its names are."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return _choice(args, words)
    if origin is Annotated:
        words = next((about for about in args[1:] if isinstance(about, str)), words)
        own = [about.check for about in args[1:] if hasattr(about, "check")]
        return own[0] if own else check_of(args[0], words)
    if origin in (Union, UnionType):
        # `Literal[…] | str` is a literal whose callers have a text that no type checker has read.
        others = [arg for arg in args if arg not in (NoneType, str)]
        inner = check_of(others[0], words) if len(others) == 1 else None
        return _optional(inner) if inner is not None and NoneType in args else inner
    if origin is tuple and len(args) == 2 and args[1] is Ellipsis:
        inner = check_of(args[0], words)
        return None if inner is None else _each(inner)
    return None


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
        if given not in names:
            raise no_such(words or name.replace("_", " "), given, names)
        return given

    return check


def _optional(inner: Check) -> Check:
    def check(name: str, given: Any) -> Any:
        return given if given is None else inner(name, given)

    return check


def _each(inner: Check) -> Check:
    def check(name: str, given: Any) -> Any:
        for one in given:
            inner(name, one)
        return given

    return check

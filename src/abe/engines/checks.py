"""Checks of parameters that several rooms share."""

from collections.abc import Sequence
from math import inf
from typing import Any, Literal

from torch import Tensor

from abe.errors import Code, SpecError

Norm = Literal["linf", "l2"]
Variant = Literal["corrected", "published"]


def published(variant: str) -> bool:
    """Whether the published variant is asked for; anything unknown is refused."""
    if variant not in ("corrected", "published"):
        raise SpecError(
            Code.BAD_PARAMETER, "No such variant", got=repr(variant), expected="corrected or published"
        )
    return variant == "published"


def check_positive(**sizes: Any) -> None:
    """Refuse sizes that are not positive finite numbers."""
    for name, size in sizes.items():
        if not _is_number(size) or not 0 < size < inf:
            raise SpecError(
                Code.BAD_PARAMETER,
                f"{name} must be a positive number",
                got=repr(size),
                expected="sizes count in input units before normalisation, for example 8/255",
            )


def check_not_negative(**sizes: Any) -> None:
    """Refuse anything but finite numbers from 0."""
    for name, size in sizes.items():
        if not _is_number(size) or not 0 <= size < inf:
            raise SpecError(Code.BAD_PARAMETER, f"{name} must be a number from 0 on", got=repr(size))


def _is_number(size: Any) -> bool:
    return isinstance(size, int | float) and not isinstance(size, bool)


def check_norm(norm: Any) -> None:
    """Refuse anything but the two norms."""
    if norm not in ("linf", "l2"):
        raise SpecError(Code.BAD_PARAMETER, "No such norm", got=repr(norm), expected="linf or l2")


def check_reach(
    bounds: tuple[Tensor, Tensor] | None, shape: Sequence[int], norm: Norm = "linf", **sizes: float
) -> None:
    """Refuse sizes that are larger than the distance of any two valid inputs of a shape."""
    if bounds is None:
        return
    span = (bounds[1] - bounds[0]).expand(1, *shape)
    most = float(span.max()) if norm == "linf" else float(span.flatten().norm())
    for name, size in sizes.items():
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
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise SpecError(Code.BAD_PARAMETER, f"{name} must be a positive integer", got=repr(number))


def check_tolerance(tolerance: float | None) -> None:
    """Refuse a tolerance that is not a positive number."""
    if tolerance is not None and not (isinstance(tolerance, int | float) and tolerance > 0):
        raise SpecError(
            Code.BAD_PARAMETER,
            "tolerance must be a positive number",
            got=repr(tolerance),
            expected="for example 0.02 for a residual of 2 %",
        )

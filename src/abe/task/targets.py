"""Targets and labels as users write them, as class numbers per sample."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from abe.arrays import refuse_masked
from abe.errors import AbeError, Code, InputError, TargetError

Index = Callable[[str], int]
"""The number of a class that is given by its name."""


def numbers_of(target: Any, index: Index | None = None) -> Tensor:
    """Class numbers as a user gives them: integers of any type, names, lists, arrays, columns of tables.

    Args:
        target: as given.
        index: finds the number of a name; without, names are refused.

    Raises:
        TargetError: something else, or a name that no class has.
    """
    if isinstance(target, Tensor):
        found = target.detach()
        if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
            raise _bad_type(target)
        return found.long()
    try:
        array = np.asarray(_plain(index, target))
    except (TypeError, ValueError, RuntimeError) as problem:
        if isinstance(problem, AbeError):
            raise
        raise _bad_type(target) from problem
    if array.dtype.kind not in "iu":
        raise _bad_type(target)
    return torch.from_numpy(array.astype(np.int64))


def _plain(index: Index | None, given: Any) -> Any:
    """Nested lists of numbers, names read and arrays opened."""
    if isinstance(given, str):
        if index is None:
            raise TypeError("a name without a task")
        return index(given)
    if isinstance(given, list | tuple | range):
        return [_plain(index, one) for one in given]
    if isinstance(given, Tensor) or hasattr(given, "__array__"):
        refuse_masked(given, "An array of targets")
        array = given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
        return array if array.dtype.kind in "biufc" else _plain(index, array.tolist())
    if isinstance(given, bool):
        raise TypeError("a truth value is no class number")
    return given


def column(numbers: Tensor) -> Tensor:
    """(n,) of a column (n, 1), as many data sets hold their labels; anything else as it is."""
    return numbers[:, 0] if numbers.ndim == 2 and numbers.shape[1] == 1 else numbers


def fitted(
    numbers: Tensor, n: int, shape: tuple[int, ...] = (1,), *, free: bool = False, entry: bool = False
) -> Tensor:
    """(n,) or (n, m) targets from numbers for all samples or one each; a column (n, 1) is one each.

    Args:
        numbers: as given.
        n: samples.
        shape: of the output of one row, with m axes.
        free: an objective of one's own reads them, so they need not name one entry of the output.
        entry: the numbers came as a tuple, which then names one entry where a list is one each.

    Raises:
        TargetError: they are neither one for all nor one each, or do not name one entry.
    """
    numbers, axes = column(numbers), len(shape)
    whole = axes > 1 and tuple(numbers.shape) == (axes,)
    if whole and (not free or entry or axes != n):
        return numbers.expand(n, axes).clone()
    if numbers.ndim and len(numbers) != n:
        raise TargetError(
            Code.TARGET_TYPE,
            "Give one target for all samples or one each",
            got=f"{len(numbers)} targets for {n} samples",
        )
    each = numbers if numbers.ndim else numbers.expand(n).clone()
    named = each.shape[1] if each.ndim == 2 else 1
    if each.ndim > 2 or (not free and named != axes):
        raise TargetError(
            Code.TARGET_TYPE,
            "The target does not name one entry of the output",
            got=f"{named if each.ndim < 3 else tuple(each.shape[1:])} numbers per sample",
            expected=f"{axes}, one per output axis {shape}" if axes > 1 else "one class number",
        )
    return each


def labels_of(given: Any, n: int, index: Index | None = None) -> Tensor:
    """(n,) class numbers of true labels: one for every sample, as numbers, names or a column (n, 1).

    Raises:
        InputError: they are not one for every sample, or no class numbers or names.
    """
    try:
        found = numbers_of(given, index)
    except TargetError as problem:
        raise InputError(
            Code.LABELS,
            "The labels do not fit the samples",
            got=problem.what if isinstance(given, str) or problem.code != Code.TARGET_TYPE else problem.got,
            expected=f"({n},) class numbers or names",
            fix=problem.fix,
        ) from problem
    found = column(found)
    if tuple(found.shape) != (n,):
        raise InputError(
            Code.LABELS,
            "The labels do not fit the samples",
            got=f"shape {tuple(found.shape)}",
            expected=f"({n},) class numbers",
        )
    return found


def _bad_type(target: Any) -> TargetError:
    return TargetError(
        Code.TARGET_TYPE,
        "A target is a class number or name",
        got=f"{type(target).__name__} {str(target)[:40]}",
        expected="an integer, a class name, or one of these per sample",
    )

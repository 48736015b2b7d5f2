"""Numbers of units as a table of pandas, for who works with tables."""

from typing import Any

import numpy as np

from abe.errors import Code, PackageError


def frame(explanation: Any) -> Any:
    """One line per sample and unit: see `abe.Explanation.to_frame`."""
    try:
        import pandas as pd  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise PackageError(
            Code.MISSING_PACKAGE,
            "A DataFrame needs pandas, and it is not installed",
            fix="Run: pip install pandas; by_unit() gives the same numbers without it",
        ) from error
    known = explanation.standard_error is not None
    rows: dict[str, list[Any]] = {name: [] for name in ("sample", "unit", "value")}
    errors: list[float] = []
    for index, listed in enumerate(explanation.by_unit()):
        rows["sample"] += [explanation.names[index]] * len(listed)
        rows["unit"] += [name for name, _ in listed]
        rows["value"] += [value for _, value in listed]
        errors += [float(error) for error in errors_of(explanation, index, len(listed))] if known else []
    return pd.DataFrame({**rows, **({"standard_error": errors} if known else {})})


def errors_of(explanation: Any, index: int, count: int) -> Any:
    """(count,) standard errors of the sums over units.

    Known where a unit has one number or all its numbers have one error, as they have where units are removed
    as a whole; NaN where it depends on how the errors of several numbers go together, which nothing records.
    """
    errors = explanation.standard_error[index].detach().double().cpu().numpy()
    labels = explanation.labels[index].detach().cpu().numpy()
    own = labels[:1] if errors.ndim > 1 and len(errors) == 1 else labels
    where, flat = np.broadcast_to(own, errors.shape).ravel(), errors.ravel()
    found = np.full(count, np.nan)
    for unit in range(len(explanation.unit_names[index])):
        inside = flat[where == unit]
        if len(inside) and np.ptp(inside) <= 1e-6 * np.abs(inside).max():
            found[unit] = inside.sum()
    return found

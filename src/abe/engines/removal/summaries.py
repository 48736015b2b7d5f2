"""Summaries of a game: leave one out, Shapley (exact, by orders, by regression), Owen, Banzhaf, interactions.

Each says which coalitions it has to know and turns their values into one number per unit. Sampled
summaries carry standard errors: of the sampling, and of the completions where there are several.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from abe.checks import COUNT, Probability, refused
from abe.engines.removal import set_functions
from abe.engines.removal.game import Evaluated, Stream, Summarised
from abe.errors import Code, InputError, SpecError
from abe.registry import summaries
from abe.spec import value
from abe.types import Card

EXACT_UNITS = 10
"""Up to this many units all coalitions are evaluated by default: 1,023 rows."""
MOST_UNITS = 16
"""More units than this are never evaluated exhaustively: 65,535 rows."""


@dataclass(frozen=True)
class _Exhaustible:
    """As many units as can be evaluated exhaustively."""

    def check(self, name: str, given: Any) -> int:
        """The number as Python's own, or a refusal."""
        number = COUNT.check(name, given)
        if number > MOST_UNITS:
            raise SpecError(
                Code.BAD_PARAMETER,
                f"At most {MOST_UNITS} units can be evaluated exhaustively",
                got=f"{name} = {number}",
                fix="Use a sampled estimator such as 'permutation' or 'kernel'",
            )
        return number


Exhaustible = Annotated[int, _Exhaustible()]
SAMPLED = 2000
"""Coalitions of a sampled summary where no budget is given."""


Table = tuple[tuple[int, ...], ...] | None
"""Rows of one number per unit that somebody gave, or none."""


def orders_of(given: Any) -> Table:
    """Orders of units (n, u), from nested lists, an array or a tensor.

    Raises:
        SpecError: a row does not hold every unit once.
    """
    return _table("orders", given, "hold every unit once in every row, by its number from 0", _is_order)


def coalitions_of(given: Any) -> Table:
    """Coalitions (m, u), 1 where a unit is there, from nested lists, an array or a tensor.

    Raises:
        SpecError: they are no zeros and ones.
    """
    return _table("coalitions", given, "hold 1 for every unit that is there, else 0", _is_coalition)


def _table(name: str, given: Any, must: str, check: Callable[[np.ndarray], bool]) -> Table:
    if given is None:
        return None
    try:
        rows = np.asarray(given.detach().cpu() if isinstance(given, Tensor) else given)
    except (TypeError, ValueError):
        rows = np.empty(0)
    if rows.ndim != 2 or not rows.size or rows.dtype.kind not in "biuf" or not check(rows):
        raise refused(name, must, given, "an array (rows, units)")
    listed: list[list[int]] = rows.astype(int).tolist()
    return tuple(tuple(row) for row in listed)


def _is_order(rows: np.ndarray) -> bool:
    return bool((np.sort(rows, axis=1) == np.arange(rows.shape[1])).all())


def _is_coalition(rows: np.ndarray) -> bool:
    return bool(np.isin(rows, (0, 1)).all())


def rows_of(given: Table, u: int, what: str) -> Tensor:
    """(n, u) given rows.

    Raises:
        InputError: they are of another number of units.
    """
    if given is None or len(given[0]) != u:
        raise InputError(
            Code.UNITS,
            f"The given {what} are of other units than the sample has",
            got=f"{len((given or ((),))[0])} units",
            expected=f"{u}",
            fix="Choose other units=, or explain samples with as many units together",
        )
    return torch.tensor(given)


@summaries.register(
    Card(
        name="remove_individual",
        title="Remove one",
        source="covert2021",
        formula="a_i = v(N) − v(N ∖ i)",
    ),
    aliases=("leave_one_out",),
)
@value
class RemoveIndividual:
    """What the score loses when a unit is removed from all."""

    @property
    def complete(self) -> bool:
        return False

    def needs(self, u: int) -> int:
        return u

    def coalitions(self, u: int, budget: int | None, stream: Stream) -> Tensor:
        return ~torch.eye(u, dtype=torch.bool)

    def summarise(self, evaluated: Evaluated) -> Summarised:
        return over_completions(evaluated.full - evaluated.values)


@summaries.register(
    Card(
        name="include_individual",
        title="Include one",
        source="covert2021",
        formula="a_i = v(i) − v(∅)",
    ),
)
@value
class IncludeIndividual:
    """What the score gains when a unit is added to none."""

    @property
    def complete(self) -> bool:
        return False

    def needs(self, u: int) -> int:
        return u + (u > 1)

    def coalitions(self, u: int, budget: int | None, stream: Stream) -> Tensor:
        return torch.cat([torch.zeros((1, u), dtype=torch.bool), torch.eye(u, dtype=torch.bool)])

    def summarise(self, evaluated: Evaluated) -> Summarised:
        return over_completions(evaluated.values[1:] - evaluated.empty)


@summaries.register(
    Card(
        name="mean_when_included",
        title="Mean when included",
        source="covert2021",
        formula="a_i = E[v(S) | i ∈ S], S drawn with each unit in it with probability p",
        pitfalls=("Not a difference: units that do nothing get the mean score of all coalitions.",),
    ),
)
@value
class MeanWhenIncluded:
    """The mean score over random coalitions that hold a unit.

    Args:
        p: probability of a unit to stay.
    """

    p: Probability = 0.5

    @property
    def complete(self) -> bool:
        return False

    def needs(self, u: int) -> int:
        return 2 * u

    def coalitions(self, u: int, budget: int | None, stream: Stream) -> Tensor:
        return stream.uniform((SAMPLED if budget is None else budget, u)) < self.p

    def summarise(self, evaluated: Evaluated) -> Summarised:
        inside = evaluated.coalitions.to(evaluated.values)
        mean, error = group_mean(inside, evaluated.values)
        return Summarised(mean.mean(1), together(error, mean))


def over_completions(values: Tensor) -> Summarised:
    """Values (u, k) of k completions: their mean, and its standard error where there are several."""
    k = values.shape[1]
    return Summarised(values.mean(1), mean_error(values.T) if k > 1 else None)


def together(error: Tensor, values: Tensor) -> Tensor:
    """The error of sampling coalitions with that of the completions (u, k) they share."""
    if values.shape[1] < 2:
        return error
    return (error**2 + mean_error(values.T) ** 2).sqrt()


def mean_error(rows: Tensor) -> Tensor:
    """(…) standard error of the mean over the first axis; infinite for a single row."""
    n = len(rows)
    return rows.std(0) / sqrt(n) if n > 1 else torch.full_like(rows[0], torch.inf)


def group_mean(inside: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """(u, k) mean over the coalitions (m, u) that are ``inside``, and the (u,) error of drawing them."""
    n = inside.sum(0).clamp_min(1)[:, None]
    mean = inside.T @ values / n
    centre = values.mean(1, keepdim=True)
    square = inside.T @ centre.square() - n * (inside.T @ centre / n).square()
    variance = square.clamp_min(0) / (n - 1).clamp_min(1)
    return mean, (variance / n).sqrt()[:, 0]


def walks(orders: Tensor) -> Tensor:
    """(n (u − 1) + 2, u) no unit, then every order's coalitions from one unit to all but one, then all."""
    u = orders.shape[1]
    place = orders.argsort(1)
    steps = place[:, None, :] <= torch.arange(u - 1)[None, :, None]
    ends = torch.zeros((2, u), dtype=torch.bool)
    ends[1] = True
    return torch.cat([ends[:1], steps.flatten(0, 1), ends[1:]])


def contributions(evaluated: Evaluated) -> Tensor:
    """(n, u, k) marginal contributions along the orders of `walks`."""
    u = evaluated.coalitions.shape[1]
    steps = evaluated.values[1:-1].unflatten(0, (-1, u - 1))
    first, last = (end.expand(len(steps), 1, -1) for end in (evaluated.empty, evaluated.full))
    gains = torch.cat([first, steps, last], dim=1).diff(dim=1)
    members = evaluated.coalitions[1:-1].unflatten(0, (-1, u - 1)).long()
    place = u - 1 - members.sum(1)  # a unit that is in j of the steps came j places before the last
    return gains.gather(1, place[:, :, None].expand(gains.shape))


def exhaustive(evaluated: Evaluated) -> bool:
    """Whether the rows are all coalitions in the order of a table."""
    u = evaluated.coalitions.shape[1]
    if u > MOST_UNITS or len(evaluated.coalitions) != 2**u:
        return False
    return bool(torch.equal(evaluated.coalitions.cpu(), set_functions.coalitions(u)))


def fits(u: int, budget: int | None, max_units: int) -> bool:
    """Whether all coalitions are to be evaluated."""
    return u <= max_units and (budget is None or 2**u - 1 <= budget)


def all_of(u: int, max_units: int) -> int:
    """2^u − 1, refused where there are too many units."""
    if u > max_units:
        raise SpecError(
            Code.EVALUATIONS,
            f"All coalitions of {u} units are {2**u - 1} evaluations",
            got=f"max_units={max_units}",
            expected=f"at most {max_units} units",
            fix=f"Pass max_units={u} to do it all the same, fewer units, or estimator='permutation'"
            if u <= MOST_UNITS
            else "Use fewer units, or a sampled estimator such as 'permutation' or 'kernel'",
        )
    return 2**u - 1

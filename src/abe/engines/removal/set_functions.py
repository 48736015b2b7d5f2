"""Cooperative games with all 2^u values known: dividends, values of players, interaction indices.

A table holds v(S) at position Σ_{i∈S} 2^i along its first axis; any further axes are games of their
own. All of this is linear algebra in float64, without a model.
"""

from collections.abc import Callable
from fractions import Fraction
from functools import cache
from itertools import combinations
from math import comb, factorial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from abe.checks import check_choice
from abe.errors import Code, SpecError

Table = Float[Tensor, "s *k"]
"""(2^u, …) values of all coalitions."""


def coalitions(u: int) -> Bool[Tensor, "s u"]:
    """(2^u, u) all coalitions in the order of a table."""
    codes = torch.arange(2**u)[:, None]
    return (codes >> torch.arange(u)) & 1 == 1


def codes_of(members: Bool[Tensor, "m u"]) -> Int[Tensor, "m"]:
    """(m,) the place of each coalition in a table."""
    return (members.long() << torch.arange(members.shape[1], device=members.device)).sum(1)


def players(table: Table) -> int:
    """The number of units of a table.

    Raises:
        SpecError: the length is not a power of two.
    """
    u = max(len(table), 1).bit_length() - 1
    if len(table) != 2**u:
        raise SpecError(
            Code.BAD_PARAMETER, "A table holds all coalitions", got=f"{len(table)} values", expected=f"{2**u}"
        )
    return u


def dividends(table: Table) -> Table:
    """(2^u, …) Möbius transform I(S) = Σ_{T⊆S} (−1)^{|S|−|T|} v(T): Harsanyi's dividends."""
    out = table.double().clone()
    for i in range(players(table)):
        pairs = out.view(-1, 2, 2**i, *table.shape[1:])
        pairs[:, 1] -= pairs[:, 0]
    return out


def totals(effects: Table) -> Table:
    """(2^u, …) the inverse: v(S) = Σ_{T⊆S} I(T)."""
    out = effects.double().clone()
    for i in range(players(effects)):
        pairs = out.view(-1, 2, 2**i, *effects.shape[1:])
        pairs[:, 1] += pairs[:, 0]
    return out


def marginals(table: Table, i: int) -> Float[Tensor, "m *k"]:
    """(2^{u−1}, …) v(S ∪ i) − v(S) for every S without i, in the order of the others."""
    pairs = table.double().view(-1, 2, 2**i, *table.shape[1:])
    return (pairs[:, 1] - pairs[:, 0]).flatten(0, 1)


def shapley(table: Table) -> Float[Tensor, "u *k"]:
    """(u, …) φ_i = Σ_{S∌i} |S|! (u−|S|−1)! / u! (v(S∪i) − v(S))."""
    u = players(table)
    return _mean_marginal(table, [factorial(s) * factorial(u - s - 1) / factorial(u) for s in range(u)])


def banzhaf(table: Table) -> Float[Tensor, "u *k"]:
    """(u, …) φ_i = 2^{1−u} Σ_{S∌i} (v(S∪i) − v(S))."""
    u = players(table)
    return _mean_marginal(table, [0.5 ** (u - 1)] * u)


def _mean_marginal(table: Table, by_size: list[float]) -> Tensor:
    u = players(table)
    weight = torch.tensor(by_size, dtype=torch.float64)[coalitions(u - 1).sum(1)] if u else torch.empty(0)
    weight = weight.to(table.device)
    rows = [torch.tensordot(weight, marginals(table, i), dims=1) for i in range(u)]
    return torch.stack(rows) if rows else table.new_zeros((0, *table.shape[1:])).double()


def subsets(u: int, order: int) -> Int[Tensor, "n"]:
    """(n,) places of all sets of 1 … ``order`` units, by size, then in the order of their members."""
    found = [sum(1 << i for i in s) for size in range(1, order + 1) for s in combinations(range(u), size)]
    return torch.tensor(found, dtype=torch.long)


def interactions(table: Table, index: str, order: int) -> tuple[Int[Tensor, "n"], Float[Tensor, "n *k"]]:
    """An interaction index of all sets of 1 … ``order`` units.

    Every index is linear in the dividends, I(S) = Σ_T w(|T|, |S|) m(T) over T ⊇ S.

    Args:
        table: all coalitions' values.
        index: ``"moebius"``, ``"sii"`` (Shapley), ``"k_sii"`` (its efficient form), ``"stii"``
            (Shapley–Taylor), ``"fsii"`` (Faith-Shap), ``"bii"`` (Banzhaf) or ``"fbii"`` (Faith-Banzhaf).
        order: size of the largest sets.

    Returns:
        Places of the sets, and their interactions.

    Raises:
        SpecError: no such index, or more units per set than there are.
    """
    u = players(table)
    check_choice("interaction index", index, WEIGHTS)
    if isinstance(order, bool) or not isinstance(order, int) or order < 1:
        raise SpecError(Code.BAD_PARAMETER, "The order of interactions is at least 1", got=repr(order))
    order = min(order, u)
    sets = subsets(u, order)
    effects = dividends(table)
    sizes = coalitions(u).sum(1)
    weight = torch.tensor(
        [
            [float(WEIGHTS[index](t, s, order)) if t >= s else 0.0 for t in range(u + 1)]
            for s in range(order + 1)
        ],
        dtype=torch.float64,
    ).to(table.device)
    everything = torch.arange(2**u)
    rows: list[Tensor] = []
    for code in sets.tolist():
        above = (everything & code == code).nonzero().flatten()
        w = weight[code.bit_count()][sizes[above].to(weight.device)]
        rows.append(torch.tensordot(w, effects[above.to(effects.device)], dims=1))
    return sets, torch.stack(rows) if rows else effects.new_zeros((0, *table.shape[1:]))


def empty_interaction(table: Table, index: str, order: int) -> Float[Tensor, "*k"]:
    """(…) an interaction index of the empty set.

    It is v(∅) for the Möbius transform and the efficient indices, which share v(all) − v(∅) among the other
    sets; the mean of v over all coalitions for ``"bii"``, over a coalition of random size for ``"sii"``; and
    the constant of the best polynomial for ``"fbii"``.

    Args:
        table: all coalitions' values.
        index: as for `interactions`.
        order: likewise.
    """
    u = players(table)
    check_choice("interaction index", index, WEIGHTS)
    effects = dividends(table)
    if index in EFFICIENT:
        return effects[0]
    by_size = [float(WEIGHTS[index](t, 0, min(order, u))) for t in range(u + 1)]
    weight = torch.tensor(by_size, dtype=torch.float64)[coalitions(u).sum(1)]
    return torch.tensordot(weight.to(effects), effects, dims=1)


def _moebius(t: int, s: int, order: int) -> Fraction:
    return Fraction(int(t == s))


def _sii(t: int, s: int, order: int) -> Fraction:
    return Fraction(1, t - s + 1)


def _bii(t: int, s: int, order: int) -> Fraction:
    return Fraction(1, 2 ** (t - s))


def _stii(t: int, s: int, order: int) -> Fraction:
    """Sets below the largest size keep their own dividend; the largest share what is above them."""
    return Fraction(1, comb(t, order)) if s == order else Fraction(int(t == s))


def _k_sii(t: int, s: int, order: int) -> Fraction:
    """Σ_r B_r C(t−s, r) / (t−s−r+1), r ≤ order − s: interactions of supersets."""
    return sum(
        (bernoulli(r) * comb(t - s, r) * Fraction(1, t - s - r + 1) for r in range(min(order, t) - s + 1)),
        Fraction(0),
    )


def _fsii(t: int, s: int, order: int) -> Fraction:
    """Tsai et al. 2023, Theorem 19: the best polynomial of degree ``order`` under Shapley weights."""
    if t <= order:
        return Fraction(int(t == s))
    sign = (-1) ** (order - s)
    share = Fraction(s, order + s) * comb(order, s)
    return sign * share * Fraction(comb(t - 1, order), comb(t + order - 1, order + s))


def _fbii(t: int, s: int, order: int) -> Fraction:
    """The best polynomial of degree ``order`` under uniform weights."""
    if t <= order:
        return Fraction(int(t == s))
    return (-1) ** (order - s) * Fraction(comb(t - s - 1, order - s), 2 ** (t - s))


@cache
def bernoulli(n: int) -> Fraction:
    """Bernoulli number B_n with B_1 = −1/2."""
    if n == 0:
        return Fraction(1)
    return -sum((comb(n + 1, k) * bernoulli(k) for k in range(n)), Fraction(0)) / (n + 1)


WEIGHTS: dict[str, Callable[[int, int, int], Fraction]] = {
    "moebius": _moebius,
    "sii": _sii,
    "k_sii": _k_sii,
    "stii": _stii,
    "fsii": _fsii,
    "bii": _bii,
    "fbii": _fbii,
}
"""Weight of the dividend of a set of t units in the interaction of s of them, up to an order."""
EFFICIENT = ("k_sii", "stii", "fsii")
"""Indices whose interactions add up to v(all) − v(none)."""

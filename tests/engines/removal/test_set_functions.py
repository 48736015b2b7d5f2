"""Values and interaction indices of small games against their definitions, written out."""

from itertools import combinations, permutations
from math import comb, factorial

import pytest
import torch
from torch import Tensor

from abe.engines.removal import set_functions
from abe.errors import Code, SpecError

EXACT = 1e-9


def table(u: int, seed: int = 0) -> Tensor:
    return torch.randn(2**u, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def code(members) -> int:
    return sum(1 << i for i in members)


def derivative(v: Tensor, s: tuple[int, ...], t: tuple[int, ...]) -> float:
    """Δ_S v(T) = Σ_{L⊆S} (−1)^{|S|−|L|} v(T ∪ L)."""
    return sum(
        (-1) ** (len(s) - size) * float(v[code(t + part)])
        for size in range(len(s) + 1)
        for part in combinations(s, size)
    )


def rest(u: int, s: tuple[int, ...]):
    others = [i for i in range(u) if i not in s]
    return [t for size in range(len(others) + 1) for t in combinations(others, size)]


@pytest.mark.parametrize("u", [1, 2, 5])
def test_values_are_means_over_orders_and_over_coalitions(u):
    v = table(u)
    shapley, banzhaf = torch.zeros(u, dtype=torch.float64), torch.zeros(u, dtype=torch.float64)
    for order in permutations(range(u)):
        for place, i in enumerate(order):
            shapley[i] += derivative(v, (i,), order[:place]) / factorial(u)
    for i in range(u):
        banzhaf[i] = sum(derivative(v, (i,), t) for t in rest(u, (i,))) / 2 ** (u - 1)
    assert float((set_functions.shapley(v) - shapley).abs().max()) < EXACT
    assert float((set_functions.banzhaf(v) - banzhaf).abs().max()) < EXACT


def test_exact_shapley_on_twelve_units_is_brute_force():
    u, v = 12, table(12)
    sizes = torch.tensor([bin(s).count("1") for s in range(2**u)])
    for i in (0, 5, 11):
        without = torch.tensor([s for s in range(2**u) if not s >> i & 1])
        weight = torch.tensor(
            [factorial(int(k)) * factorial(u - int(k) - 1) / factorial(u) for k in sizes[without]],
            dtype=torch.float64,
        )
        assert (
            abs(float((weight * (v[without + 2**i] - v[without])).sum() - set_functions.shapley(v)[i]))
            < EXACT
        )


def test_dividends_are_the_alternating_sums_and_totals_take_them_back():
    u, v = 5, table(5)
    effects = set_functions.dividends(v)
    for size in range(u + 1):
        for s in combinations(range(u), size):
            assert abs(float(effects[code(s)]) - derivative(v, s, ())) < EXACT
    assert float((set_functions.totals(effects) - v).abs().max()) < EXACT
    members = set_functions.coalitions(u)
    sizes = members.sum(1).clamp_min(1)
    shares = torch.stack([effects[members[:, i]] / sizes[members[:, i]] for i in range(u)]).sum(1)
    halves = torch.stack([effects[members[:, i]] * 2.0 ** (1 - sizes[members[:, i]]) for i in range(u)]).sum(
        1
    )
    assert float((set_functions.shapley(v) - shares).abs().max()) < EXACT
    assert float((set_functions.banzhaf(v) - halves).abs().max()) < EXACT


def sii(v: Tensor, u: int, s: tuple[int, ...]) -> float:
    return sum(
        factorial(u - len(t) - len(s)) * factorial(len(t)) / factorial(u - len(s) + 1) * derivative(v, s, t)
        for t in rest(u, s)
    )


def by_definition(index: str, v: Tensor, u: int, s: tuple[int, ...], order: int) -> float:
    if index == "moebius":
        return derivative(v, s, ())
    if index == "sii":
        return sii(v, u, s)
    if index == "bii":
        return sum(derivative(v, s, t) for t in rest(u, s)) / 2 ** (u - len(s))
    if index == "stii":
        if len(s) < order:
            return derivative(v, s, ())
        return order / u * sum(derivative(v, s, t) / comb(u - 1, len(t)) for t in rest(u, s))
    numbers = {0: 1.0, 1: -0.5, 2: 1 / 6, 3: 0.0}  # Bernoulli
    return sum(numbers[len(t)] * sii(v, u, s + t) for t in rest(u, s) if len(s) + len(t) <= order)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("index", ["moebius", "sii", "bii", "stii", "k_sii"])
def test_interactions_by_definition(index, order):
    u, v = 5, table(5, seed=1)
    sets, found = set_functions.interactions(v, index, order)
    assert len(sets) == sum(comb(u, k) for k in range(1, order + 1))
    for place, number in zip(sets.tolist(), found.tolist(), strict=True):
        s = tuple(i for i in range(u) if place >> i & 1)
        assert abs(number - by_definition(index, v, u, s, order)) < EXACT


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("index", ["fsii", "fbii"])
def test_faithful_interactions_are_the_best_polynomial(index, order):
    """Faith-Shap is exact at both ends and least squares under the Shapley kernel; Faith-Banzhaf is plain."""
    u, v = 5, table(5, seed=2)
    members = set_functions.coalitions(u).double()
    sets = [code(s) for k in range(order + 1) for s in combinations(range(u), k)]
    features = torch.stack([members[:, [i for i in range(u) if s >> i & 1]].prod(1) for s in sets], dim=1)
    size = members.sum(1)
    weight = torch.ones_like(size)
    if index == "fsii":
        inner = (size > 0) & (size < u)
        weight = torch.full_like(size, 1e9)
        weight[inner] = torch.tensor(
            [(u - 1) / (comb(u, int(k)) * k * (u - k)) for k in size[inner].tolist()]
        ).double()
    root = weight.sqrt()[:, None]
    best = torch.linalg.lstsq(root * features, root * v[:, None]).solution[:, 0]
    _, found = set_functions.interactions(v, index, order)
    assert float((found - best[1:]).abs().max()) < (1e-6 if index == "fsii" else EXACT)


@pytest.mark.parametrize("index", set_functions.EFFICIENT)
def test_efficient_indices_add_up_and_shared_equally_are_shapley_values(index):
    u, v = 6, table(6, seed=3)
    for order in (1, 2, 3):
        sets, found = set_functions.interactions(v, index, order)
        assert abs(float(found.sum() - (v[-1] - v[0]))) < EXACT
        members = ((sets[:, None] >> torch.arange(u)) & 1).double()
        shared = (members / members.sum(1, keepdim=True)).T @ found
        assert float((shared - set_functions.shapley(v)).abs().max()) < EXACT
    assert float((set_functions.interactions(v, index, 1)[1] - set_functions.shapley(v)).abs().max()) < EXACT


def test_games_side_by_side_are_games_alone():
    several = torch.stack([table(4, seed=s) for s in range(3)], dim=1)
    for found in (
        set_functions.shapley,
        set_functions.banzhaf,
        set_functions.dividends,
        lambda v: set_functions.interactions(v, "sii", 2)[1],
    ):
        for column in range(3):
            torch.testing.assert_close(
                found(several)[:, column], found(several[:, column]), rtol=0, atol=1e-12
            )


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (lambda: set_functions.shapley(torch.zeros(6)), "all coalitions"),
        (lambda: set_functions.interactions(torch.zeros(8), "nii", 2), "interaction index"),
        (lambda: set_functions.interactions(torch.zeros(8), "sii", 0), "order"),
    ],
)
def test_wrong_games_are_refused(wrong, word):
    with pytest.raises(SpecError, match=word) as caught:
        wrong()
    assert caught.value.code is Code.BAD_PARAMETER

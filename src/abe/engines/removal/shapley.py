"""Values of a game of units: Shapley, Owen, Banzhaf, interactions."""

from itertools import combinations
from math import comb, factorial

import torch
from torch import Tensor

from abe.checks import Count
from abe.engines.removal import set_functions
from abe.engines.removal.game import Evaluated, Stream, Summarised
from abe.engines.removal.summaries import (
    EXACT_UNITS,
    MOST_UNITS,
    SAMPLED,
    Exhaustible,
    Table,
    all_of,
    contributions,
    exhaustive,
    fits,
    group_mean,
    mean_error,
    orders_of,
    over_completions,
    rows_of,
    together,
    walks,
)
from abe.errors import Code, SpecError
from abe.registry import summaries
from abe.spec import resolved, value
from abe.types import Card


@summaries.part("shapley", of="shapley")
@value
class ShapleyValue:
    """The mean marginal contribution over all orders, from all coalitions."""

    max_units: Exhaustible = EXACT_UNITS

    @property
    def complete(self) -> bool:
        return True

    def needs(self, u: int) -> int:
        return all_of(u, self.max_units)

    def coalitions(self, u: int, budget: int | None, stream: Stream) -> Tensor:
        all_of(u, self.max_units)
        return set_functions.coalitions(u)

    def summarise(self, evaluated: Evaluated) -> Summarised:
        return over_completions(set_functions.shapley(evaluated.values))


@summaries.part("banzhaf", of="banzhaf")
@value
class BanzhafValue:
    """The mean marginal contribution over all coalitions alike.

    Exact where all coalitions fit, else every sample counts for every unit.

    Formula: φ_i = E[v(S) | i ∈ S] − E[v(S) | i ∉ S], S uniform

    Args:
        max_units: up to this many units all coalitions are evaluated, where the budget holds them.
    """

    max_units: Exhaustible = EXACT_UNITS

    @property
    def complete(self) -> bool:
        return False

    def needs(self, u: int) -> int:
        return min(2**u - 1, 4 * u)

    def coalitions(self, u: int, budget: int | None, stream: Stream) -> Tensor:
        if fits(u, budget, self.max_units):
            return set_functions.coalitions(u)
        return stream.uniform((SAMPLED if budget is None else budget, u)) < 0.5

    def summarise(self, evaluated: Evaluated) -> Summarised:
        if exhaustive(evaluated):
            return over_completions(set_functions.banzhaf(evaluated.values))
        inside = evaluated.coalitions.to(evaluated.values)
        with_, error = group_mean(inside, evaluated.values)
        without, other = group_mean(1 - inside, evaluated.values)
        return Summarised((with_ - without).mean(1), together((error**2 + other**2).sqrt(), with_ - without))


@summaries.register(
    Card(
        name="permutation",
        title="Shapley value by orders",
        source="castro2009; mitchell2022",
        formula="φ_i = E_π[v(before i ∪ i) − v(before i)]",
    ),
)
@value
class PermutationShapley:
    """Marginal contributions along random orders, each walked both ways.

    Args:
        max_units: up to this many units all coalitions are evaluated instead, where the budget holds them.
        orders: (n, u) orders in which the units come, walked as they are, instead of random ones.
    """

    max_units: Exhaustible = 1
    orders: Table = resolved(converter=orders_of, default=None)

    @property
    def complete(self) -> bool:
        return True

    def needs(self, u: int) -> int:
        if self.orders is not None:
            return 1 + len(self.orders) * (u - 1)
        return 1 + 4 * (u - 1) if u > self.max_units else min(2**u - 1, 1 + 4 * (u - 1))

    def coalitions(self, u: int, budget: int | None, stream: Stream) -> Tensor:
        if self.orders is not None:
            return walks(rows_of(self.orders, u, "orders"))
        if fits(u, budget, self.max_units):
            return set_functions.coalitions(u)
        budget = SAMPLED if budget is None else budget
        pairs = max(2, (budget - 1) // (2 * max(u - 1, 1)))
        forward = stream.permutations(pairs, u)
        orders = torch.stack([forward, forward.flip(1)], dim=1).flatten(0, 1)
        return walks(orders)

    def summarise(self, evaluated: Evaluated) -> Summarised:
        if evaluated.coalitions.shape[1] == 1:
            return over_completions((evaluated.full - evaluated.empty)[None])
        if self.orders is not None:
            along = contributions(evaluated)
            return Summarised(along.mean((0, 2)), together(mean_error(along.mean(2)), along.mean(0)))
        if exhaustive(evaluated):
            return over_completions(set_functions.shapley(evaluated.values))
        pairs = contributions(evaluated).unflatten(0, (-1, 2)).mean(1)
        return Summarised(pairs.mean((0, 2)), together(mean_error(pairs.mean(2)), pairs.mean(0)))


@summaries.part("owen", of="owen")
@value
class OwenValue:
    """The Shapley value between groups of units, and within each group.

    Exact where the coalitions that it reads fit the budget, else by random orders walked both ways.

    Args:
        groups: number of groups of neighbouring units, or the units of every group.
    """

    groups: Count | tuple[tuple[int, ...], ...] = 3

    def __post_init__(self) -> None:
        if self.groups == ():
            raise SpecError(Code.BAD_PARAMETER, "There is at least one group", got="groups = ()")

    @property
    def complete(self) -> bool:
        return True

    def needs(self, u: int) -> int:
        return min(self._count(self._blocks(u)) - 1, PermutationShapley().needs(u))

    def coalitions(self, u: int, budget: int | None, stream: Stream) -> Tensor:
        blocks = self._blocks(u)
        budget = SAMPLED if budget is None else budget
        if self._count(blocks) <= min(budget + 1, 2**MOST_UNITS):
            return self._exact(blocks, u)
        pairs = max(2, (budget - 1) // (2 * max(u - 1, 1)))
        label = torch.empty(u, dtype=torch.long)
        for number, block in enumerate(blocks):
            label[list(block)] = number
        between, within = stream.permutations(pairs, len(blocks)), stream.permutations(pairs, u, 1)
        place = between.argsort(1)[:, label] * u + within.argsort(1)
        forward = place.argsort(1)
        return walks(torch.stack([forward, forward.flip(1)], dim=1).flatten(0, 1))

    def summarise(self, evaluated: Evaluated) -> Summarised:
        u = evaluated.coalitions.shape[1]
        blocks, rows = self._blocks(u), evaluated.coalitions.cpu()
        if len(rows) == self._count(blocks) and torch.equal(rows, self._exact(blocks, u)):
            return over_completions(self._values(blocks, evaluated))
        return PermutationShapley().summarise(evaluated)

    def _values(self, blocks: tuple[tuple[int, ...], ...], evaluated: Evaluated) -> Tensor:
        """(u, k) Shapley values of every group's own game, averaged over the groups that come before."""
        place = {row.numpy().tobytes(): i for i, row in enumerate(evaluated.coalitions.cpu())}
        out = evaluated.values.new_zeros((evaluated.coalitions.shape[1], evaluated.values.shape[1]))
        m = len(blocks)
        for k, block in enumerate(blocks):
            others = [b for j, b in enumerate(blocks) if j != k]
            for size in range(m):
                weight = factorial(size) * factorial(m - size - 1) / factorial(m)
                for before in combinations(others, size):
                    rows = _within(block, before, out.shape[0])
                    table = evaluated.values[[place[row.numpy().tobytes()] for row in rows]]
                    out[list(block)] += weight * set_functions.shapley(table)
        return out

    def _blocks(self, u: int) -> tuple[tuple[int, ...], ...]:
        if isinstance(self.groups, int):
            parts = torch.arange(u).tensor_split(min(self.groups, u))
            return tuple(tuple(part.tolist()) for part in parts)
        if sorted(i for block in self.groups for i in block) != list(range(u)):
            raise SpecError(
                Code.BAD_PARAMETER,
                "The groups must hold every unit once",
                got=repr(self.groups),
                expected=f"units 0 to {u - 1}",
            )
        return self.groups

    def _count(self, blocks: tuple[tuple[int, ...], ...]) -> int:
        """Coalitions of whole groups, and of whole groups with a proper part of one more."""
        m = len(blocks)
        return 2**m + sum(2 ** (m - 1) * (2 ** len(block) - 2) for block in blocks)

    def _exact(self, blocks: tuple[tuple[int, ...], ...], u: int) -> Tensor:
        """(m, u) all of these, once."""
        rows = [
            _within(block, before, u)
            for k, block in enumerate(blocks)
            for size in range(len(blocks))
            for before in combinations([b for j, b in enumerate(blocks) if j != k], size)
        ]
        return torch.unique(torch.cat(rows), dim=0)


@summaries.part("kernel", of="kernel_shap")
@value
class KernelShapley:
    """The additive fit under the Shapley kernel that meets v(none) and v(all) exactly.

    Sizes are taken whole from the outside in as long as the budget holds them; what is left is drawn from the
    other sizes in pairs of complements.

    Formula:
        min_φ Σ_S π(S) (v(S) − v(∅) − Σ_{i∈S} φ_i)², π(S) = (u−1) / (C(u,|S|) |S| (u−|S|)), Σφ = v(N) − v(∅)
    """

    @property
    def complete(self) -> bool:
        return True

    def needs(self, u: int) -> int:
        return min(2**u - 1, 2 * u + 5)

    def coalitions(self, u: int, budget: int | None, stream: Stream) -> Tensor:
        budget = SAMPLED if budget is None else budget
        whole, sizes, left = self._plan(u, budget)
        rows = [torch.zeros((1, u), dtype=torch.bool), torch.ones((1, u), dtype=torch.bool), *whole]
        pairs = left // 2
        if sizes and pairs:
            mass = torch.tensor([(u - 1) / (s * (u - s)) for s in sizes], dtype=torch.float64)
            edges = (mass / mass.sum()).cumsum(0)
            which = torch.searchsorted(edges, stream.uniform((pairs,), 0).double()).clamp_max(len(sizes) - 1)
            order = stream.permutations(pairs, u, 1).argsort(1)
            drawn = order < torch.tensor(sizes)[which][:, None]
            rows.append(torch.stack([drawn, ~drawn], dim=1).flatten(0, 1))
        return torch.cat(rows)

    def summarise(self, evaluated: Evaluated) -> Summarised:
        z, u = evaluated.coalitions[2:].double(), evaluated.coalitions.shape[1]
        change = evaluated.full - evaluated.empty
        if u == 1:
            return over_completions(change[None])
        whole = self._whole(z.bool(), u)
        weight = self._weights(z.sum(1), u, whole)
        y = evaluated.values[2:] - evaluated.empty
        inverse = torch.linalg.inv((z.T * weight) @ z)
        ones = inverse.sum(1)
        project = inverse - torch.outer(ones, ones) / ones.sum()
        phi = project @ ((z.T * weight) @ y) + torch.outer(ones / ones.sum(), change)
        if whole == len(z):
            return over_completions(phi)
        residual = (y - z @ phi).mean(1)
        pulls = torch.einsum("mi,ij,mj->m", z, project, z) * weight
        left = 1 - pulls[whole:].unflatten(0, (-1, 2)).sum(1)  # what a pair would miss without itself
        pair = ((z * (weight * residual)[:, None])[whole:]).unflatten(0, (-1, 2)).sum(1)
        pair = pair / left.clamp_min(0.05)[:, None]
        n = len(pair)
        spread = pair - pair.mean(0)
        variance = torch.einsum("ij,nj->ni", project, spread).square().sum(0) * n / max(n - 1, 1)
        return Summarised(phi.mean(1), together(variance.sqrt(), phi))

    def _plan(self, u: int, budget: int) -> tuple[list[Tensor], list[int], int]:
        """Sizes evaluated whole, the others, and how many coalitions are left for these."""
        left, whole = budget - 1, list[Tensor]()
        sizes = list(range(1, u))
        for s in range(1, u // 2 + 1):
            both = [s] if 2 * s == u else [s, u - s]
            needed = sum(comb(u, size) for size in both)
            if needed + (4 if len(sizes) > len(both) else 0) > left:
                break  # what is not taken whole is drawn, in two pairs at least
            whole += [_of_size(u, size) for size in both]
            sizes = [size for size in sizes if size not in both]
            left -= needed
        return whole, sizes, left if sizes else 0

    def _whole(self, rows: Tensor, u: int) -> int:
        """How many rows belong to sizes that were taken whole; the others were drawn."""
        at = 0
        for size in (t for s in range(1, u // 2 + 1) for t in ([s] if 2 * s == u else [s, u - s])):
            block = rows[at : at + comb(u, size)].cpu()
            if len(block) < comb(u, size) or not torch.equal(block, _of_size(u, size)):
                break
            at += len(block)
        return at

    def _weights(self, size: Tensor, u: int, whole: int) -> Tensor:
        """The kernel's mass of every size over its rows; drawn rows share the mass of the other sizes."""
        weight = (u - 1) / (size * (u - size))
        for s in set(size[:whole].long().tolist()):
            weight[:whole][size[:whole] == s] /= comb(u, s)
        taken = set(size[:whole].long().tolist())
        rest = sum((u - 1) / (s * (u - s)) for s in range(1, u) if s not in taken)
        weight[whole:] = rest / max(len(size) - whole, 1)
        return weight


@summaries.part("interactions", of="interactions")
@value
class Interactions:
    """What sets of units do together and no part of them does.

    Every set's interaction is shared by its units. The extras hold ``interaction_sets`` (bit i of a number
    says whether unit i belongs) and ``interactions``; the ``empty_interaction`` is that of no units.

    Args:
        index: one of `abe.engines.removal.set_functions.WEIGHTS`.
        order: size of the largest sets.
    """

    index: str = "k_sii"
    order: Count = 2
    max_units: Exhaustible = EXACT_UNITS

    def __post_init__(self) -> None:
        set_functions.interactions(torch.zeros(2, dtype=torch.float64), self.index, self.order)

    @property
    def complete(self) -> bool:
        return self.index in set_functions.EFFICIENT

    def needs(self, u: int) -> int:
        return all_of(u, self.max_units)

    def coalitions(self, u: int, budget: int | None, stream: Stream) -> Tensor:
        all_of(u, self.max_units)
        return set_functions.coalitions(u)

    def summarise(self, evaluated: Evaluated) -> Summarised:
        sets, found = set_functions.interactions(evaluated.values, self.index, self.order)
        members = ((sets[:, None] >> torch.arange(evaluated.coalitions.shape[1])) & 1).to(found)
        each = (members / members.sum(1, keepdim=True)).T @ found
        own = over_completions(each)
        none = set_functions.empty_interaction(evaluated.values, self.index, self.order)
        own.extras = {
            "interaction_sets": sets,
            "interactions": found.mean(1),
            "empty_interaction": none.mean().reshape(1),
        }
        return own


def _of_size(u: int, size: int) -> Tensor:
    rows = torch.zeros((comb(u, size), u), dtype=torch.bool)
    for row, members in zip(rows, combinations(range(u), size), strict=True):
        row[list(members)] = True
    return rows


def _within(block: tuple[int, ...], before: tuple[tuple[int, ...], ...], u: int) -> Tensor:
    """(2^|block|, u) every part of a group joined to whole groups, in the order of a table."""
    rows = torch.zeros((2 ** len(block), u), dtype=torch.bool)
    rows[:, list(block)] = set_functions.coalitions(len(block))
    rows[:, [i for other in before for i in other]] = True
    return rows

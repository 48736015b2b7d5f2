"""Methods compared by scores on shared samples: the set of the best, ranks, and what cannot be told apart.

Every statement is a test by sign flips: if two methods are exchangeable on each unit, the difference of
their scores is as likely as its negative there. One pattern of signs flips the differences of all methods
together, so that no correction for their dependence is needed. A unit is a sample, or a group of samples
that belong together, such as the frames of one video, whose scores are added.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from abe.checks import check_choice
from abe.errors import Code, InputError, SpecError
from abe.metrics.evaluation.statistics import check_confidence, holm, t_within
from abe.theory.flips import TIE, Flips, limit, steady, student

ENOUGH = 32
"""Units from which the sets keep their promise under skewed scores too (simulated); fewer are approximate."""

Verdict = Literal["better", "worse", "equivalent", "not told apart"]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two methods on the same samples.

    Attributes:
        first, second: their places among the methods.
        difference: mean over samples of first − second, larger scores being better.
        p: that the mean of a unit's difference is as far from 0 by chance, two-sided.
        corrected: after Holm's correction for all pairs.
        p_low, p_high: that the difference is not above −margin, and not below the margin, one-sided.
        equivalent_p: the larger of the two: that the methods are not equivalent.
        equivalent_corrected: after Holm's correction for all pairs.
        verdict: of first against second.
    """

    first: int
    second: int
    difference: float
    p: float
    corrected: float
    p_low: float
    p_high: float
    equivalent_p: float
    equivalent_corrected: float
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """What scores on shared samples say of methods.

    Attributes:
        names: of the methods.
        means: of their scores over the samples used, as they were given.
        samples, units: how many were used.
        exact: whether all patterns of signs were tried.
        t: per method, how clearly the one that beats it most is better.
        p: that no method is better than it.
        best: whether it is in the set of the best, which holds the best method with the confidence asked for.
        pairs: every pair, the first before the second.
        ranks: (first, last) place that a method may have: 1 + methods significantly better, up to all but
            those significantly worse.
        margin: difference of scores that does not matter.
        confidence: of every statement.
    """

    names: tuple[str, ...]
    means: tuple[float, ...]
    samples: int
    units: int
    exact: bool
    t: tuple[float, ...]
    p: tuple[float, ...]
    best: tuple[bool, ...]
    pairs: tuple[Pair, ...]
    ranks: tuple[tuple[int, int], ...]
    margin: float
    confidence: float

    @property
    def leaders(self) -> tuple[str, ...]:
        """Names in the set of the best, the largest mean first."""
        inside = [i for i, held in enumerate(self.best) if held]
        return tuple(self.names[i] for i in sorted(inside, key=lambda i: -self._order(i)))

    @property
    def approximate(self) -> bool:
        """Whether units are so few that skewed scores may break the confidence."""
        return self.units < ENOUGH

    def pair(self, first: str, second: str) -> Pair:
        """What is said of two methods, seen from the first.

        Raises:
            InputError: no such method.
        """
        places = [self._place(name) for name in (first, second)]
        held = {(one.first, one.second): one for one in self.pairs}
        if places[0] < places[1]:
            return held[places[0], places[1]]
        return _reversed(held[places[1], places[0]])

    def _place(self, name: str) -> int:
        if name not in self.names:
            raise InputError(Code.BAD_PARAMETER, f"No method is called {name!r}", got=", ".join(self.names))
        return self.names.index(name)

    def _order(self, i: int) -> float:
        beaten = [
            p.difference if p.first == i else -p.difference for p in self.pairs if i in (p.first, p.second)
        ]
        return sum(beaten)


def rank(
    scores: Float[Tensor, "n k"] | Any,
    names: Sequence[str] | None = None,
    *,
    direction: str = "higher",
    groups: Any = None,
    margin: float | None = None,
    failures: str = "complete",
    studentised: bool = True,
    confidence: float = 0.95,
    seed: int = 0,
) -> Ranking:
    """Which methods may be the best, in which places, and which differ at all.

    The set of the best holds every method j for which "no method is better than j" is kept: the largest
    Student's t of the others' advantages over j, against that of flipped signs. The best method is one j, so
    the set needs no correction over j (Hsu's multiple comparisons with the best; Mogstad, Romano, Shaikh and
    Wilhelm, 2024).

    Args:
        scores: a row per sample, a column per method; NaN where a method failed.
        names: of the methods; their numbers by default.
        direction: which scores are better.
        groups: of the samples, one each: samples of one group count as one unit.
        margin: difference that does not matter; .25 standard deviations of all scores by default.
        failures: ``"complete"`` leaves samples with a NaN out for all methods; ``"worst"`` gives a NaN the
            worst score of the table.
        studentised: whether the set of the best compares Student's t, or plain means, in which noisy
            differences dominate.
        confidence: of the set, and of all pairs together.
        seed: of the patterns of signs, where units are more than `EXACT`.

    Raises:
        InputError: no table of at least two methods and two samples, or scores that are infinite.
        SpecError: unusable settings.
    """
    check_confidence(confidence)
    check_choice("direction", direction, ("higher", "lower"))
    check_choice("failures", failures, ("complete", "worst"))
    table, named = _table(scores, names)
    sign = 1.0 if direction == "higher" else -1.0
    used, rows = _without_gaps(table * sign, failures)
    units, sizes = units_of(used, None if groups is None else _kept_groups(groups, rows, len(table)))
    if margin is None:
        margin = 0.25 * float(used.std()) if used.numel() > 1 else 0.0
    elif not (isinstance(margin, int | float) and 0 <= margin < math.inf):
        raise SpecError(
            Code.BAD_PARAMETER, "margin= is a difference of scores that does not matter", got=repr(margin)
        )
    flips = Flips.of(len(units), seed)
    compared = list(combinations(range(table.shape[1]), 2))
    gaps = torch.stack([units[:, a] - units[:, b] for a, b in compared], 1)
    t, _, p = set_of_best(units, flips, studentised=studentised)
    pairs = _pairs(used, gaps, sizes, compared, flips, margin, 1 - confidence)
    return Ranking(
        names=named,
        means=tuple((used.mean(0) * sign).tolist()),
        samples=len(used),
        units=len(units),
        exact=flips.exact,
        t=tuple(t),
        p=tuple(p),
        best=tuple(one > 1 - confidence for one in p),
        pairs=pairs,
        ranks=_ranks(pairs, table.shape[1]),
        margin=float(margin),
        confidence=confidence,
    )


# --- tests ------------------------------------------------------------------------------------------------


def set_of_best(
    units: Float[Tensor, "g k"], flips: Flips, *, studentised: bool = True
) -> tuple[list[float], list[int], list[float]]:
    """Per method j: the largest advantage of another over it, how many flips reach that, and p.

    Args:
        units: scores, larger ones better.
        flips: patterns of signs.
        studentised: whether an advantage is Student's t, or a plain mean.
    """
    k = units.shape[1]
    order = torch.tensor([(m, j) for j in range(k) for m in range(k) if m != j])
    columns = units[:, order[:, 0]] - units[:, order[:, 1]]

    n = len(columns)
    if studentised:
        columns = steady(columns)
    seen = columns.sum(0).unflatten(0, (k, k - 1)).amax(1)
    if studentised:
        seen = student(seen, n)
        least = limit(seen, n)
    else:
        least = seen - TIE * n * (seen / n).abs().clamp_min(1)
    count = torch.zeros(k, dtype=torch.long)
    for sums in flips.sums(columns):
        count += (sums.unflatten(-1, (k, k - 1)).amax(-1) >= least).sum(0)
    if not studentised:
        seen = seen / n
    return seen.tolist(), count.tolist(), [flips.p(one) for one in count.tolist()]


def against_best(
    units: Float[Tensor, "g k"], flips: Flips
) -> tuple[int, list[float], list[float], list[float]]:
    """The method that looks best against every other: its place, t, p in a single step and by steps down.

    The best is chosen on the same data, so this is another statement than `set_of_best`.

    Args:
        units: scores, larger ones better.
        flips: patterns of signs.
    """
    k = units.shape[1]
    best = int(units.mean(0).argmax())
    others = [m for m in range(k) if m != best]
    columns = steady(units[:, [best]] - units[:, others])
    seen = student(columns.sum(0), len(columns))
    least = limit(seen, len(columns))
    order = sorted(range(k - 1), key=lambda i: (-float(seen[i]), others[i]))
    single, down = torch.zeros(k - 1, dtype=torch.long), torch.zeros(k - 1, dtype=torch.long)
    for sums in flips.sums(columns):
        single += (sums.amax(1, keepdim=True) >= least).sum(0)
        left = sums[:, order].flip(1).cummax(1).values.flip(1)  # the largest of those not yet decided
        down[order] += (left >= least[order]).sum(0)
    ts, ps, steps, worst = [0.0] * k, [1.0] * k, [1.0] * k, 0.0
    for i in order:
        worst = max(worst, flips.p(int(down[i])))
        ts[others[i]], ps[others[i]], steps[others[i]] = float(seen[i]), flips.p(int(single[i])), worst
    return best, ts, ps, steps


def joint_p(tables: Sequence[Float[Tensor, "g k"]], place: int, flips: Flips) -> float:
    """p that no method is better than one in any of several settings, all flipped together.

    The largest Student's t over methods and settings is held against that of flipped signs, which needs no
    correction for the dependence of settings on the same samples (Girardi et al. 2024).

    Args:
        tables: scores of the same units under every setting, larger ones better.
        place: of the method.
        flips: patterns of signs.
    """
    columns = steady(torch.cat([one - one[:, [place]] for one in tables], 1))
    seen = student(columns.sum(0).max()[None], len(columns))
    least = limit(seen, len(columns))
    return flips.p(sum(int((sums.amax(1) >= least).sum()) for sums in flips.sums(columns)))


def behind(
    units: Float[Tensor, "g k"], place: int, flips: Flips, *, level: float
) -> list[tuple[float, float]]:
    """Simultaneous intervals of how far every method lies behind one, per unit.

    All intervals hold together: their half-width is the same multiple of each difference's standard error,
    which the largest of the centred, flipped differences exceeds in a share ``level`` of the patterns.

    Args:
        units: scores, larger ones better.
        place: of the method that the others are held against.
        flips: patterns of signs.
        level: chance that any interval misses.
    """
    n, columns = len(units), units[:, [place]] - units
    means = columns.mean(0)
    centred = columns - means
    spread = steady(centred)
    largest = torch.cat([sums.abs().amax(1) for sums in flips.sums(spread)])
    r = torch.quantile(largest, 1 - level, interpolation="higher")
    error = centred.square().sum(0).div(max(n - 1, 1) * n).sqrt()
    half = student(r[None], n)[0] * error if n > 1 else torch.full_like(means, math.inf)
    half[place] = 0.0
    return list(zip((means - half).tolist(), (means + half).tolist(), strict=True))


# --- pairs and ranks --------------------------------------------------------------------------------------


def _pairs(
    rows: Float[Tensor, "n k"],
    gaps: Float[Tensor, "g m"],
    sizes: Float[Tensor, "g"],
    compared: Sequence[tuple[int, int]],
    flips: Flips,
    margin: float,
    level: float,
) -> tuple[Pair, ...]:
    means = gaps.mean(0)
    p = [flips.p(count) for count in flips.reach(gaps, means.abs(), sides=2)]
    shift = margin * sizes[:, None]
    low, high = (
        [flips.p(count) for count in flips.reach(moved, moved.mean(0), sides=1)]
        for moved in (gaps + shift, shift - gaps)
    )
    same = [max(pair) for pair in zip(low, high, strict=True)]
    corrected, same_corrected = holm(p), holm(same)
    found = []
    for i, (a, b) in enumerate(compared):
        difference = float((rows[:, a] - rows[:, b]).mean())
        verdict: Verdict = "not told apart"
        if corrected[i] <= level and difference != 0:
            verdict = "better" if difference > 0 else "worse"
        elif same_corrected[i] <= level:
            verdict = "equivalent"
        found.append(
            Pair(
                first=a,
                second=b,
                difference=difference,
                p=p[i],
                corrected=corrected[i],
                p_low=low[i],
                p_high=high[i],
                equivalent_p=same[i],
                equivalent_corrected=same_corrected[i],
                verdict=verdict,
            )
        )
    return tuple(found)


def _reversed(pair: Pair) -> Pair:
    other: dict[Verdict, Verdict] = {"better": "worse", "worse": "better"}
    return replace(
        pair,
        first=pair.second,
        second=pair.first,
        difference=-pair.difference,
        p_low=pair.p_high,
        p_high=pair.p_low,
        verdict=other.get(pair.verdict, pair.verdict),
    )


def _ranks(pairs: Sequence[Pair], k: int) -> tuple[tuple[int, int], ...]:
    better, worse = [0] * k, [0] * k
    for pair in pairs:
        if pair.verdict in ("better", "worse"):
            up, down = (pair.first, pair.second) if pair.verdict == "better" else (pair.second, pair.first)
            better[down] += 1
            worse[up] += 1
    return tuple((1 + better[i], k - worse[i]) for i in range(k))


def student_equivalence(rows: Float[Tensor, "n k"], margin: float) -> list[float]:
    """Per pair, p of two one-sided t-tests that the mean difference leaves the margin.

    Args:
        rows: scores.
        margin: difference that does not matter.
    """
    found = []
    for a, b in combinations(range(rows.shape[1]), 2):
        gap = rows[:, a] - rows[:, b]
        found.append(max(_upper(gap + margin), _upper(margin - gap)))
    return found


def _upper(values: Float[Tensor, "n"]) -> float:
    """P(T >= t) of the mean of values."""
    t = float(student(steady(values[:, None]).sum(0), len(values))[0])
    if math.isinf(t):
        return 0.0 if t > 0 else 1.0
    tail = (1 - t_within(abs(t), len(values) - 1)) / 2
    return tail if t > 0 else 1 - tail


# --- what was given ---------------------------------------------------------------------------------------


def _table(scores: Any, names: Sequence[str] | None) -> tuple[Float[Tensor, "n k"], tuple[str, ...]]:
    table = torch.as_tensor(scores).detach().cpu().double()
    if table.ndim != 2 or table.shape[1] < 2 or len(table) < 2:
        raise InputError(
            Code.SHAPE,
            "Methods are compared by a table with a row per sample and a column per method",
            got=f"shape {tuple(table.shape)}",
            expected="at least two of each",
        )
    if bool(table.isinf().any()):
        raise InputError(Code.NOT_FINITE_INPUT, "A score is infinite", fix="Mark failures by NaN")
    named = tuple(map(str, range(table.shape[1]))) if names is None else tuple(map(str, names))
    if len(named) != table.shape[1] or len(set(named)) != len(named):
        raise InputError(
            Code.SHAPE,
            "Every method has a name of its own",
            got=f"{len(set(named))} for {table.shape[1]} columns",
        )
    return table, named


def _without_gaps(
    table: Float[Tensor, "n k"], failures: str
) -> tuple[Float[Tensor, "m k"], Bool[Tensor, "n"]]:
    gap = table.isnan()
    if failures == "worst" and bool(gap.any()) and not bool(gap.all()):
        return torch.where(gap, table[~gap].min(), table), torch.ones(len(table), dtype=torch.bool)
    whole = ~gap.any(1)
    if int(whole.sum()) < 2:
        raise InputError(
            Code.NOT_FINITE_INPUT,
            "Fewer than two samples have a score of every method",
            got=f"{int(whole.sum())} of {len(table)}",
            fix='Leave out the method that fails, or pass failures="worst"',
        )
    return table[whole], whole


def _kept_groups(groups: Any, rows: Bool[Tensor, "n"], n: int) -> list[Any]:
    listed = np.asarray(groups).tolist()
    if len(listed) != n:
        raise InputError(
            Code.SHAPE, "groups= names the group of every sample", got=str(len(listed)), expected=str(n)
        )
    return [one for one, kept in zip(listed, rows.tolist(), strict=True) if kept]


def units_of(
    table: Float[Tensor, "n k"], groups: Sequence[Any] | None
) -> tuple[Float[Tensor, "g k"], Float[Tensor, "g"]]:
    """Scores added up by group, in the order of first samples, and how many samples each holds.

    Args:
        table: scores.
        groups: of the samples, one each; None where every sample is a unit.
    """
    if groups is None:
        return table, torch.ones(len(table), dtype=torch.float64)
    numbers = {one: i for i, one in enumerate(dict.fromkeys(groups))}
    place = torch.tensor([numbers[one] for one in groups])
    sums = torch.zeros(len(numbers), table.shape[1], dtype=table.dtype).index_add_(0, place, table)
    return sums, torch.bincount(place, minlength=len(numbers)).double()

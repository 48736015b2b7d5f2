"""How far a mean can be trusted, and whether two methods differ: bootstrap intervals and paired tests."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import NormalDist
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from abe.checks import Between
from abe.draws import mix
from abe.schema import Gap
from abe.types import Direction

RESAMPLES = 2000
"""Bootstrap samples behind an interval."""
FLIPS = 10_000
"""Sign patterns of a paired test, at least; all of them for up to `EXACT` samples."""
EXACT = 13
NOISE = 1e-6
"""Differences below this share of the values are rounding of float32 and of chunks, and count as none."""
HELD = 4_000_000
"""Numbers held at once while resampling."""

Verdict = Literal["better", "worse", "no difference", "too few samples"]
Interval = tuple[Gap, Gap]
"""Ends of an interval; NaN where there is none."""


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """Whether two methods differ by one metric on the same samples.

    The null hypothesis is that the two could be exchanged on each sample: then every difference is as
    likely as its negative, and p is the share of sign patterns whose mean is as far from 0.

    Attributes:
        metric: name of the metric.
        first, second: the methods.
        n: samples on which both have a value.
        difference: mean of first − second.
        interval: of that mean, by the bootstrap; NaN for fewer than two samples.
        p: of this test alone.
        corrected: p after Holm's correction for all tests of the table.
        verdict: of ``first`` against ``second``, in the metric's direction.
    """

    metric: str
    first: str
    second: str
    n: int
    difference: Gap
    interval: Interval
    p: Gap
    corrected: Gap
    verdict: Verdict

    def reversed(self) -> "PairedTest":
        """The same test seen from the other method."""
        other: dict[Verdict, Verdict] = {"better": "worse", "worse": "better"}
        low, high = self.interval
        return replace(
            self,
            first=self.second,
            second=self.first,
            difference=-self.difference,
            interval=(-high, -low),
            verdict=other.get(self.verdict, self.verdict),
        )


CONFIDENCE = Between(
    *(0.5, 1, "[)", "is the probability that an interval is right"),
    "a number from 0.5 to below 1, such as 0.95",
)


def check_confidence(confidence: float) -> None:
    """Refuse what is no level of confidence."""
    CONFIDENCE.check("Confidence", confidence)


def intervals(columns: Float[Tensor, "b m"], *, seed: int = 0, confidence: float = 0.95) -> list[Interval]:
    """Bootstrap intervals of the mean of each column; NaN where there are fewer than two finite values.

    Percentiles of resampled means, expanded so that few samples get the width of Student's t: the level
    α/2 becomes Φ(−√(n/(n − 1)) t_{1−α/2, n−1}) (Hesterberg 2015). A NaN is a sample to which the metric
    does not apply; it is left out.

    Args:
        columns: one metric of one method each, or differences.
        seed: of the resamples, which all columns share.
        confidence: probability that the interval covers the mean.
    """
    check_confidence(confidence)
    columns = columns.double()
    known = ~columns.isnan()
    count = known.sum(0)
    if len(columns) < 2:
        return [(math.nan, math.nan)] * columns.shape[1]
    total = known.double()
    value = torch.where(known, columns, 0.0)
    means = torch.cat([(c @ value) / (c @ total) for c in _resamples(len(columns), seed)])
    found = []
    for k, n in enumerate(count.tolist()):
        drawn = means[:, k]
        drawn = drawn[~drawn.isnan()]
        if n < 2 or not bool(columns[known[:, k], k].isfinite().all()):
            found.append((math.nan, math.nan))
            continue
        level = NormalDist().cdf(-math.sqrt(n / (n - 1)) * t_quantile((1 + confidence) / 2, n - 1))
        ends = torch.quantile(drawn, torch.tensor([level, 1 - level], dtype=torch.float64))
        found.append((float(ends[0]), float(ends[1])))
    return found


def paired_tests(
    values: Mapping[str, Mapping[str, Float[Tensor, "b"]]],
    directions: Mapping[str, Direction],
    *,
    seed: int = 0,
    confidence: float = 0.95,
) -> list[PairedTest]:
    """Every pair of methods by every metric, with one correction for all of these tests.

    Args:
        values: per method and metric, one number per sample, the samples in one order.
        directions: which way is better, for the metrics to test.
        seed: of sign patterns and resamples.
        confidence: 1 − the chance that any of the tests finds a difference where there is none.
    """
    check_confidence(confidence)
    asked = [(m, a, b) for m in directions for a, b in combinations(values, 2)]
    if not asked:
        return []
    pairs = [_difference(values[a][m], values[b][m]) for m, a, b in asked]
    columns = torch.stack(pairs, 1)
    counts = (~columns.isnan()).sum(0).tolist()
    p = sign_flip(columns, seed=seed, smallest=(1 - confidence) / len(asked))
    corrected = holm(p)
    spans = intervals(columns, seed=seed, confidence=confidence)
    found = []
    for k, (metric, first, second) in enumerate(asked):
        difference = float(columns[:, k].nanmean())
        reachable = 2.0 ** (1 - counts[k]) * len(asked) <= 1 - confidence
        same = bool((columns[:, k].nan_to_num() == 0).all()) and counts[k] > 0
        found.append(
            PairedTest(
                metric=metric,
                first=first,
                second=second,
                n=counts[k],
                difference=difference,
                interval=spans[k],
                p=p[k],
                corrected=corrected[k],
                verdict=_verdict(
                    difference, corrected[k] <= 1 - confidence, reachable or same, directions[metric]
                ),
            )
        )
    return found


def needed(tests: int, confidence: float = 0.95) -> int:
    """Samples with which a difference can be found at all among so many tests: 2^(1 − n) · tests <= α."""
    return math.ceil(1 + math.log2(max(tests, 1) / (1 - confidence)))


def sign_flip(columns: Float[Tensor, "b m"], *, seed: int = 0, smallest: float = 0.05) -> list[float]:
    """p of the mean of each column against symmetry about 0, by flipping signs sample by sample.

    Args:
        columns: differences; NaN is left out.
        seed: of the patterns, where they are too many to try all.
        smallest: a p that must be reachable; sets the number of patterns.
    """
    value = columns.double().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    n, limit = len(value), value.sum(0).abs() * (1 - 1e-9)
    beyond = torch.zeros(value.shape[1], dtype=torch.float64)
    tried = 0
    for signs in _signs(n, seed, max(FLIPS, math.ceil(2 / smallest))):
        beyond += ((signs @ value).abs() >= limit).sum(0)
        tried += len(signs)
    exact = n <= EXACT
    return [float(k / tried if exact else (1 + k) / (1 + tried)) for k in beyond.tolist()]


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for their number by Holm's step-down procedure."""
    order = sorted(range(len(p)), key=p.__getitem__)
    found, worst = [0.0] * len(p), 0.0
    for place, k in enumerate(order):
        worst = max(worst, min(1.0, (len(p) - place) * p[k]))
        found[k] = worst
    return found


def t_quantile(q: float, df: int) -> float:
    """Quantile of Student's t with a whole number of degrees of freedom, q above one half."""
    if df > 1000:  # Cornish and Fisher's first term; exact to 1e-5 from there on
        z = NormalDist().inv_cdf(q)
        return z + (z**3 + z) / (4 * df)
    low, high = 0.0, 1.0
    while t_within(high, df) < 2 * q - 1:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_within(middle, df) < 2 * q - 1 else (low, middle)
    return (low + high) / 2


def t_within(t: float, df: int) -> float:
    """P(|T| <= t) (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(df))
    square, odd = math.cos(angle) ** 2, df % 2
    term = total = math.cos(angle) if odd else 1.0
    for k in range(2 + odd, df - 1, 2):
        term *= square * (k - 1) / k
        total += term
    if not odd:
        return math.sin(angle) * total
    return 2 / math.pi * (angle + (math.sin(angle) * total if df > 1 else 0.0))


def _difference(one: Tensor, other: Tensor) -> Tensor:
    """First minus second per sample; rounding counts as no difference, infinities as no value."""
    one, other = one.double(), other.double()
    gap = one - other
    small = gap.abs() <= NOISE * torch.maximum(one.abs(), other.abs())
    return torch.where(gap.isfinite(), torch.where(small, 0.0, gap), torch.nan)


def _verdict(difference: float, differs: bool, testable: bool, direction: Direction) -> Verdict:
    if not testable:
        return "too few samples"
    if not differs:
        return "no difference"
    return "better" if (difference > 0) == (direction == "higher") else "worse"


def _resamples(n: int, seed: int) -> Iterator[Tensor]:
    """(some, n) how often each sample is drawn, `RESAMPLES` rows in all."""
    generator = _generator(seed, "bootstrap", n)
    rows = max(1, HELD // n)
    for start in range(0, RESAMPLES, rows):
        some = min(rows, RESAMPLES - start)
        drawn = torch.randint(n, (some, n), generator=generator)
        yield torch.zeros(some, n, dtype=torch.float64).scatter_add_(
            1, drawn, torch.ones(1, 1, dtype=torch.float64).expand(some, n)
        )


def _signs(n: int, seed: int, wanted: int) -> Iterator[Tensor]:
    """(some, n) patterns of ±1: all of them where they are few, else drawn."""
    if n <= EXACT:
        patterns = torch.arange(2**n)[:, None] >> torch.arange(n)[None]
        yield 1 - 2 * (patterns & 1).double()
        return
    generator = _generator(seed, "sign flip", n)
    rows = max(1, HELD // n)
    for start in range(0, wanted, rows):
        some = min(rows, wanted - start)
        yield 1 - 2 * torch.randint(2, (some, n), generator=generator).double()


def _generator(seed: int, purpose: str, n: int) -> Any:
    return torch.Generator().manual_seed(mix(seed, purpose, n))

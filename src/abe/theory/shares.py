"""Shares of draws, and what they promise of the probability behind them.

A share of independent draws, such as of masks that keep a prediction, is a statement about one explanation:
no assumption about model or data enters.
"""

import math
from dataclasses import dataclass

from abe.checks import COUNT, Between
from abe.errors import Code, SpecError

CHANCE = Between(
    *(0, 1, "()", "is the probability that a bound is wrong"), "a number between 0 and 1, such as 0.05"
)


@dataclass(frozen=True)
class Share:
    """How often something held among independent draws.

    Attributes:
        count: draws in which it held.
        draws: all of them.
    """

    count: int
    draws: int

    def __post_init__(self) -> None:
        COUNT.check("draws", self.draws)
        if (
            isinstance(self.count, bool)
            or not isinstance(self.count, int)
            or not 0 <= self.count <= self.draws
        ):
            raise SpecError(
                Code.BAD_PARAMETER, "A share counts some of its draws", got=f"{self.count} of {self.draws}"
            )

    @property
    def rate(self) -> float:
        """The share itself."""
        return self.count / self.draws

    def lower(self, delta: float = 0.05, *, statements: int = 1) -> float:
        """What the probability exceeds but for a chance of ``delta`` (Hoeffding 1963).

        Args:
            delta: chance that the bound is wrong.
            statements: bounds that shall all hold together; ``delta`` is divided among them.
        """
        return max(0.0, self.rate - _width(delta / COUNT.check("statements", statements), self.draws))

    def interval(self, delta: float = 0.05) -> tuple[float, float]:
        """Both ends, of which neither is passed but for a chance of ``delta`` (Hoeffding 1963)."""
        half = _width(CHANCE.check("delta", delta) / 2, self.draws)
        return max(0.0, self.rate - half), min(1.0, self.rate + half)

    def exact_lower(self, delta: float = 0.05) -> float:
        """The exact one-sided bound of a binomial share (Clopper, Pearson 1934), never below Hoeffding's."""
        CHANCE.check("delta", delta)
        if self.count == 0:
            return 0.0
        low, high = 0.0, self.rate
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if _at_least(self.count, self.draws, middle) < delta else (low, middle)
        return (low + high) / 2

    def certified(self, threshold: float, delta: float = 0.05) -> bool:
        """Whether `lower` reaches a threshold."""
        return self.lower(delta) >= threshold


def draws_for(half: float, delta: float = 0.05) -> int:
    """Draws with which `Share.interval` is at most ``half`` wide to either side: ln(2/δ) / (2 half²).

    Args:
        half: width to either side.
        delta: chance that the interval misses.
    """
    Between(*(0, 1, "()", "is half the width of an interval of shares"), "a number between 0 and 1").check(
        "half", half
    )
    return math.ceil(math.log(2 / CHANCE.check("delta", delta)) / (2 * half**2))


def _width(delta: float, draws: int) -> float:
    return math.sqrt(math.log(1 / CHANCE.check("delta", delta)) / (2 * draws))


def _at_least(count: int, draws: int, p: float) -> float:
    """P(X >= count) of a binomial number."""
    if p <= 0:
        return 0.0
    ways = [
        math.lgamma(draws + 1) - math.lgamma(k + 1) - math.lgamma(draws - k + 1) for k in range(draws + 1)
    ]
    logs = [ways[k] + k * math.log(p) + (draws - k) * math.log1p(-p) for k in range(count, draws + 1)]
    return math.fsum(map(math.exp, logs))

"""Which method to believe: what can be said of methods by scores on shared samples."""

from abe.theory.ranking import Pair, Ranking, rank

__all__ = ["Pair", "Ranking", "rank"]

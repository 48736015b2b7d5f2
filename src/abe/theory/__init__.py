"""Which method to believe: what can be said of methods by scores on shared samples."""

from abe.theory.criteria import Criterion
from abe.theory.ranking import Pair, Ranking, rank
from abe.theory.recommend import recommend
from abe.theory.recommendation import Candidate, Recommendation, Standing
from abe.theory.shares import Share, draws_for

__all__ = [
    "Candidate",
    "Criterion",
    "Pair",
    "Ranking",
    "Recommendation",
    "Share",
    "Standing",
    "draws_for",
    "rank",
    "recommend",
]

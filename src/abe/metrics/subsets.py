"""Faithfulness as agreement of two numbers over sets of positions: attribution and loss of score.

For sets S of positions, Σ_{i∈S} A_i is compared with s(x) − s(x with S replaced). All rows of all
samples go through the planner; the sets are drawn per sample.
"""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from abe.baselines import as_baseline
from abe.checks import AtLeast, Count, Share
from abe.engines.removal.segments import Segments, segments_of
from abe.engines.runtime.problem import Problem
from abe.errors import Code, SpecError
from abe.imputation import positions, without
from abe.registry import metrics
from abe.spec import value
from abe.types import Baseline, Card, Passes
from abe.units import as_unit, check_map, rank, settled

Members = Callable[[Tensor, Tensor], Tensor]
"""(sample (n,), number (n,)) -> (n, positions) bool: the set with that number."""


def losses(
    problem: Problem,
    attribution: Tensor,
    baseline: Baseline,
    sets: int,
    members: Members,
    unit: str = "pixel",
) -> tuple[Tensor, Tensor]:
    """(b, sets) attribution inside each set, and the score lost when the set is replaced; float64."""
    x, segments = problem.x, _natural(problem, unit)
    flat = _per_feature(attribution, x, unit, segments).double()
    inside = torch.zeros(len(x) * sets, dtype=torch.float64, device=x.device)

    def make(rows: Tensor) -> Tensor:
        sample, number = rows // sets, rows % sets
        chosen = members(sample, number)
        inside[rows] = (flat[sample] * chosen).sum(1)
        if segments is not None:
            mask = ~segments.keep(sample, ~chosen)
        else:
            mask = chosen.view(len(rows), *x.shape[1:]) if unit == "element" else positions(chosen, x)
        return without(problem, baseline, sample, number, mask)

    score = problem.scores(make, problem.everyone.repeat_interleave(sets)).double()
    return inside.view(-1, sets), problem.score.double()[:, None] - score.view(-1, sets)


def grid(x: Tensor, patches: int) -> Int[Tensor, "p"]:
    """(positions,) number of each position's patch, ``patches`` along each axis or fewer."""
    space = x.shape[2:] if x.ndim > 2 else x.shape[1:]
    label = torch.zeros((), dtype=torch.long, device=x.device)
    for axis, n in enumerate(space):
        parts = min(patches, n)
        along = torch.arange(n, device=x.device) * parts // n
        label = label * parts + along.view(*[-1 if i == axis else 1 for i in range(len(space))])
    return label.flatten()


def pearson(a: Float[Tensor, "*b n"], b: Float[Tensor, "*b n"]) -> Float[Tensor, "*b"]:
    """Correlation along the last axis; 0 where one of the two does not vary: it then says nothing."""
    one, other = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    size = one.square().sum(-1).sqrt() * other.square().sum(-1).sqrt()
    noise = 1e-12 * a.abs().amax(-1) * b.abs().amax(-1) * a.shape[-1]
    product = (one * other).sum(-1)
    return torch.where(size > noise, product / size.clamp_min(1e-300), torch.zeros_like(product))


def places(x: Float[Tensor, "*b n"]) -> Float[Tensor, "*b n"]:
    """Ranks along the last axis, equal numbers sharing their mean rank."""
    x = x.contiguous()
    ordered = x.sort(-1).values
    low, high = (torch.searchsorted(ordered, x, right=r).double() for r in (False, True))
    return (low + high - 1) / 2


def _natural(problem: Problem, unit: str) -> Segments | None:
    """The natural units of the samples, where these are asked for and known."""
    known = unit == "natural" and problem.labels() is not None
    return segments_of(settled(as_unit("natural"), problem), problem.x) if known else None


def _per_feature(attribution: Tensor, x: Tensor, unit: str, segments: Segments | None) -> Tensor:
    """(b, features) of the map: summed over channels or units, or every element by itself."""
    maps = check_map(attribution, x)
    if segments is not None:
        return nn.utils.rnn.pad_sequence(segments.sums(maps), batch_first=True)
    if unit != "element" or x.ndim == 2:
        return maps.sum(1).flatten(1)
    return maps.expand_as(x).flatten(1)


Size = Count | Share
"""Positions in a set, or a fraction of all."""


@value
class RandomSets:
    """Correlation over random sets of each size, averaged over sizes.

    Args:
        sizes: positions in a set: numbers, or fractions of all.
        samples: sets per size.
        baseline: what stands for "absent".
        unit: ``"pixel"`` removes all channels of a position together, ``"element"`` single numbers,
            ``"natural"`` words or columns where samples have such.
    """

    sizes: tuple[Size, ...]
    samples: Annotated[int, AtLeast(2)]
    baseline: Baseline
    unit: Literal["pixel", "element", "natural"] | str = "pixel"
    removes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.sizes:
            raise SpecError(Code.BAD_PARAMETER, "Sets have positive sizes", got="sizes = ()")

    def measure(self, problem: Problem, explanation: Any) -> Tensor:
        segments = _natural(problem, self.unit)
        total = _per_feature(explanation.attribution, problem.x, self.unit, segments).shape[1]
        own = torch.tensor([total] * len(problem.x) if segments is None else segments.counts)
        counts = torch.tensor([[_count(size, n) for size in self.sizes] for n in own.tolist()])

        def members(sample: Tensor, number: Tensor) -> Tensor:
            order = problem.draws.permutation("metric.sets", problem.keys(sample, number), total)
            chosen = torch.zeros(len(sample), total, dtype=torch.bool)
            there = order.cpu() < own[sample.cpu()][:, None]
            among = there & (there.cumsum(1) <= counts[sample.cpu(), number.cpu() // self.samples][:, None])
            return chosen.scatter_(1, order, among).to(problem.x.device)

        sets = len(self.sizes) * self.samples
        inside, lost = losses(problem, explanation.attribution, self.baseline, sets, members, self.unit)
        shape = (-1, len(self.sizes), self.samples)
        return pearson(inside.view(shape), lost.view(shape)).mean(1)


@value
class RankedGroups:
    """Correlation over groups of neighbours in rank, each replaced by itself.

    Args:
        groups: how many; fewer where there are fewer positions.
        baseline: what stands for "absent".
        magnitude: compare |attribution| with |loss|, by ranks (Spearman).
    """

    groups: Annotated[int, AtLeast(2)]
    baseline: Baseline
    magnitude: bool = False
    removes: ClassVar[bool] = True

    def measure(self, problem: Problem, explanation: Any) -> Tensor:
        flat = check_map(explanation.attribution, problem.x).sum(1).flatten(1)
        flat = flat.abs() if self.magnitude else flat
        order = rank(flat, draws=problem.draws, ids=problem.ids).long()
        groups = min(self.groups, flat.shape[1])
        group = order * groups // flat.shape[1]

        def members(sample: Tensor, number: Tensor) -> Tensor:
            return group[sample] == number[:, None]

        inside, lost = losses(problem, explanation.attribution, self.baseline, groups, members)
        if self.magnitude:
            return pearson(places(inside.abs()), places(lost.abs()))
        return pearson(inside, lost)


def _count(size: int | float, total: int) -> int:
    return max(1, min(total, round(size * total) if isinstance(size, float) else size))


@metrics.register(
    Card(
        name="faithfulness_correlation",
        title="FAITH CORR",
        source="bhatt2020, Definition 1",
        direction="higher",
        range="[-1, 1]",
        formula="corr over |S| = n of (sum_S A_i, s(x) - s(x without S))",
        passes=Passes(forward="b * (samples + 1)", backward="0"),
        pitfalls=("Random sets of many positions differ little, so the correlation is noisy.",),
    )
)
def faithfulness_correlation(
    *, size: Size = 0.1, samples: int = 100, baseline: Any = "zero", unit: str = "pixel"
) -> RandomSets:
    """Correlation of attribution and loss of score over random sets of positions.

    Args:
        size: positions in a set, or a fraction of all.
        samples: number of sets.
        unit: ``"pixel"`` removes all channels of a position together, ``"element"`` single numbers,
            ``"natural"`` words or columns where samples have such.
    """
    unit = "pixel" if unit == "natural" else unit  # random sets are of positions, whatever the task's units
    return RandomSets(sizes=(size,), samples=samples, baseline=as_baseline(baseline), unit=unit)


@metrics.register(
    Card(
        name="sensitivity_n",
        title="SENS-N",
        source="ancona2018, Definition 3",
        direction="higher",
        range="[-1, 1]",
        formula="mean over n of corr over |S| = n of (sum_S A_i, s(x) - s(x without S))",
        passes=Passes(forward="adaptive", backward="0"),
        pitfalls=("Only methods that are complete for the baseline can reach 1.",),
    )
)
def sensitivity_n(
    *,
    sizes: tuple[Size, ...] = (0.01, 0.05, 0.1, 0.3, 0.6),
    samples: int = 50,
    baseline: Any = "zero",
) -> RandomSets:
    """Correlation of attribution and loss of score over random sets of several sizes.

    Args:
        sizes: positions in a set, or fractions of all.
        samples: number of sets of each size.

    Cost: b · (sizes · samples + 1) forward rows.
    """
    return RandomSets(sizes=tuple(sizes), samples=samples, baseline=as_baseline(baseline))


@metrics.register(
    Card(
        name="faithfulness_estimate",
        title="FAITH EST",
        source="alvarezmelis2018",
        direction="higher",
        pitfalls=("Groups of zeros hold no information; sparse maps leave few groups that do.",),
        range="[-1, 1]",
        formula="corr over groups g, ordered by attribution, of (sum_g A_i, s(x) - s(x without g))",
        passes=Passes(forward="adaptive", backward="0"),
        differs=("Positions are grouped by rank, because single pixels of a photograph change nothing.",),
    )
)
def faithfulness_estimate(*, groups: int = 50, baseline: Any = "zero") -> RankedGroups:
    """Correlation of attribution and loss of score over groups of positions removed one by one.

    Cost: b · (groups + 1) forward rows.
    """
    return RankedGroups(groups=groups, baseline=as_baseline(baseline))


@metrics.register(
    Card(
        name="monotonicity_correlation",
        title="MONO CORR",
        source="nguyen2020",
        direction="higher",
        range="[-1, 1]",
        formula="Spearman over groups g of (|sum_g A_i|, |s(x) - s(x without g)|)",
        passes=Passes(forward="adaptive", backward="0"),
        differs=(
            "One replacement per group by the baseline; the paper averages the squared change over draws.",
        ),
        pitfalls=("Blind to sign: a map and its negative score the same.",),
    )
)
def monotonicity_correlation(*, groups: int = 50, baseline: Any = "zero") -> RankedGroups:
    """Whether groups with larger magnitude change the score more, by ranks.

    Cost: b · (groups + 1) forward rows.
    """
    return RankedGroups(groups=groups, baseline=as_baseline(baseline), magnitude=True)

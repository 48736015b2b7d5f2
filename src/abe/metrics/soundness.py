"""Soundness and completeness of maps over a data set: curves against accuracy and against thresholds.

Soundness adds the most important positions step by step (all others imputed). A step that adds no
accuracy marks the attribution it added as false; the curve is the share of the attribution so far that
is not false, against the accuracy reached. Completeness removes what lies above a threshold and reads
the accuracy that is lost. Both are numbers about a set of samples, not about one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import comb
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from abe.baselines import NoisyLinear, Removal, as_baseline
from abe.engines.batching import Chunk
from abe.errors import Code, InputError, SpecError
from abe.metrics.shared import check_processing, heat
from abe.types import Baseline
from abe.units import rank

Variant = Literal["corrected", "published"]
Gain = Literal["epsilon", "flips"]
START = 0.04
"""Accuracy up to which the published code flags nothing."""
SMALL = 1e-6
"""Added to the published denominators."""
STEP = 0.01
"""Share of the positions per step to which ε belongs."""
RATIOS = tuple(round(0.98 - 0.01 * k, 5) for k in range(96))
THRESHOLDS = tuple(round(0.9 - 0.1 * k, 5) for k in range(9))


@dataclass(frozen=True)
class Soundness:
    """A soundness curve.

    Attributes:
        ratios: (k,) share of positions removed at each step, least important first.
        accuracy: (k,) of the model on what is left.
        sound: (k,) share of the attribution that is left and not false, mean over samples.
        false_steps: (k,) whether a step was flagged.
        name: with everything the curve depends on.
    """

    ratios: Float[Tensor, "k"]
    accuracy: Float[Tensor, "k"]
    sound: Float[Tensor, "k"]
    false_steps: Bool[Tensor, "k"]
    name: str

    def at_levels(self, levels: Sequence[float]) -> list[float | None]:
        """The share at the first step that reaches each accuracy; None past the covered range."""
        found: list[float | None] = []
        for level in levels:
            reached = (self.accuracy >= level).nonzero().flatten()
            found.append(float(self.sound[reached[0]]) if len(reached) else None)
        return found

    @property
    def covered(self) -> tuple[float, float]:
        """Lowest and highest accuracy of the curve; outside it says nothing."""
        return float(self.accuracy.min()), float(self.accuracy.max())


@dataclass(frozen=True)
class Completeness:
    """A completeness curve: accuracy lost when the attribution above each threshold is removed."""

    thresholds: Float[Tensor, "k"]
    lost: Float[Tensor, "k"]
    accuracy: float
    name: str
    removed: Float[Tensor, "k"] = field(repr=False)


def soundness(
    problem: Any,
    explanation: Any,
    labels: Any,
    *,
    ratios: Sequence[float] = RATIOS,
    epsilon: float = 0.01,
    gain: Gain | str = "epsilon",
    variant: Variant | str = "corrected",
    of: str = "positive",
    removal: Any = None,
) -> Soundness:
    """The soundness curve of the maps of a set of samples.

    Args:
        problem: the samples, with counted access to the model.
        explanation: their maps.
        labels: (b,) their true classes.
        ratios: shares of positions removed, falling.
        epsilon: accuracy a step of one per cent must add; scaled with the step unless published.
        gain: ``"epsilon"``, or ``"flips"``: a step counts if significantly more samples become right than
            wrong (one-sided sign test at .05).
        variant: ``"corrected"`` flags a step before it is read; ``"published"`` reads first, compares with
            ``<=``, flags nothing up to an accuracy of .04 and adds 1e-6 to the denominators.
        of: post-processing of the maps: ``"positive"`` or ``"absolute"``.
        removal: what stands for "absent"; noisy linear imputation by default.

    Raises:
        InputError: not one label per sample.
        SpecError: a parameter that has no meaning.

    Cost:
        b · len(ratios) forward rows.
    """
    _check(ratios, variant, gain, of)
    chosen = NoisyLinear() if removal is None else as_baseline(removal)
    truth = _labels(labels, len(problem.x)).to(problem.x.device)
    maps = heat(problem, explanation, of)
    order = rank(maps, draws=problem.draws, ids=problem.ids)
    kept = torch.tensor([maps.shape[1] - int(maps.shape[1] * r) for r in ratios], device=maps.device)

    def removed(sample: Tensor, number: Tensor) -> Tensor:
        return order[sample] >= kept[number][:, None]

    right = _correct(problem, chosen, truth, len(ratios), removed).cpu()
    return curve(
        right,
        _sums(maps, order, kept).cpu(),
        ratios,
        epsilon=epsilon,
        gain=gain,
        variant=variant,
        name=f"soundness[{variant}, {of}, removal={chosen!r}, {gain} {epsilon:g}]",
    )


def curve(
    right: Bool[Tensor, "b k"],
    sums: Float[Tensor, "b k"],
    ratios: Sequence[float],
    *,
    epsilon: float = 0.01,
    gain: Gain | str = "epsilon",
    variant: Variant | str = "corrected",
    name: str = "soundness",
) -> Soundness:
    """The curve from what batches of a data set gave, so that a loader can be streamed.

    Args:
        right: whether each sample is classified right after each step.
        sums: the attribution that is left after each step.
        ratios: shares of positions removed, falling.
        epsilon: see `soundness`.
        gain: see `soundness`.
        variant: see `soundness`.
        name: of the curve.
    """
    published = variant == "published"
    n = len(right)
    sums = sums.double()
    accuracy = right.double().sum(0) / (n + (SMALL if published else 0.0))
    false = torch.zeros(n, dtype=torch.float64)
    sound, flags = torch.zeros(len(ratios), dtype=torch.float64), torch.zeros(len(ratios), dtype=torch.bool)
    for k in range(len(ratios)):
        added = sums[:, k] - (sums[:, k - 1] if k else 0.0)
        before = right[:, k - 1] if k else torch.zeros_like(right[:, 0])
        risen = float(accuracy[k] - (accuracy[k - 1] if k else 0.0))
        if published:
            flags[k] = float(accuracy[k]) > START and risen <= epsilon
        elif gain == "flips":
            flags[k] = not _gained(before, right[:, k])
        else:
            width = (ratios[k - 1] if k else 1.0) - ratios[k]
            flags[k] = risen < epsilon * width / STEP
        if published:  # the flag of this step shows from the next one on
            sound[k] = ((sums[:, k] - false) / (sums[:, k] + SMALL)).mean()
        false = false + added if flags[k] else false
        if not published:
            some = sums[:, k] > 0
            share = torch.where(some, (sums[:, k] - false) / sums[:, k].clamp_min(1e-300), 0.0)
            sound[k] = share[some].mean() if bool(some.any()) else torch.nan
    return Soundness(
        ratios=torch.tensor(list(ratios), dtype=torch.float64),
        accuracy=accuracy,
        sound=sound,
        false_steps=flags,
        name=name,
    )


def completeness(
    problem: Any,
    explanation: Any,
    labels: Any,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    relative: bool = True,
    of: str = "positive",
    removal: Any = None,
) -> Completeness:
    """Accuracy lost when everything above a threshold is removed.

    Args:
        problem: the samples, with counted access to the model.
        explanation: their maps.
        labels: (b,) their true classes.
        thresholds: shares of the map's maximum (or values) strictly above which positions are removed.
        relative: thresholds relative to each map's maximum, as the published code has them; False takes
            them as they are, as the paper does.
        of: post-processing of the maps: ``"positive"`` or ``"absolute"``.
        removal: what stands for "absent"; noisy linear imputation by default.

    Raises:
        InputError: not one label per sample.

    Cost:
        b · (len(thresholds) + 1) forward rows.
    """
    _check(thresholds, "corrected", "epsilon", of)
    chosen = NoisyLinear() if removal is None else as_baseline(removal)
    truth = _labels(labels, len(problem.x)).to(problem.x.device)
    maps = heat(problem, explanation, of)
    bound = torch.tensor([*thresholds, torch.inf], dtype=maps.dtype, device=maps.device)
    top = maps.amax(1, keepdim=True) if relative else torch.ones_like(maps[:, :1])

    def removed(sample: Tensor, number: Tensor) -> Tensor:
        limit = torch.where(bound[number].isinf()[:, None], torch.inf, bound[number][:, None] * top[sample])
        return maps[sample] > limit

    right = _correct(problem, chosen, truth, len(bound), removed).double().mean(0).cpu()
    among = maps[:, None] > bound[None, :-1, None] * top[:, None]
    return Completeness(
        thresholds=bound[:-1].cpu(),
        lost=right[-1] - right[:-1],
        accuracy=float(right[-1]),
        removed=among.double().mean((0, 2)).cpu(),
        name=f"completeness[{'relative' if relative else 'absolute'}, {of}, removal={chosen!r}]",
    )


def hausdorff(one: Float[Tensor, "n d"], other: Float[Tensor, "m d"]) -> float:
    """Symmetric Hausdorff distance of two sets of points, axes unscaled."""
    gaps = torch.cdist(one.double(), other.double())
    return float(torch.maximum(gaps.amin(1).amax(), gaps.amin(0).amax()))


def _correct(problem: Any, removal: Baseline, truth: Tensor, steps: int, removed: Any) -> Bool[Tensor, "b k"]:
    """(b, steps) whether the prediction is right when what ``removed`` says is absent."""
    x = problem.x
    found = torch.zeros(len(x) * steps, dtype=torch.bool, device=x.device)

    def make(rows: Tensor) -> Tensor:
        sample, number = rows // steps, rows % steps
        mask = removed(sample, number).reshape(len(rows), *((1, *x.shape[2:]) if x.ndim > 2 else x.shape[1:]))
        if isinstance(removal, Removal):
            return removal.fill(problem, sample, number, mask)
        return torch.where(mask, removal.rows(problem, sample, number), x[sample])

    def keep(chunk: Chunk) -> None:
        found[chunk.rows] = chunk.outputs.argmax(1) == truth[chunk.owner]

    problem.forward(len(found), make, problem.everyone.repeat_interleave(steps), keep)
    return found.view(-1, steps)


def _sums(maps: Tensor, order: Int[Tensor, "b p"], kept: Tensor) -> Tensor:
    """(b, k) attribution of the first ``kept`` positions in the order."""
    ordered = torch.zeros_like(maps).scatter_(1, order.long(), maps)
    total = torch.cat([torch.zeros_like(maps[:, :1]), ordered.cumsum(1)], 1)
    return total[:, kept]


def _gained(before: Tensor, after: Tensor) -> bool:
    """Whether significantly more samples became right than wrong: P(X >= gained), X binomial at 1/2."""
    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    n = gained + lost
    return n > 0 and sum(comb(n, k) for k in range(gained, n + 1)) / 2**n < 0.05


def _labels(labels: Any, b: int) -> Tensor:
    found = None if labels is None else torch.as_tensor(labels)
    if found is None or found.shape != (b,) or found.is_floating_point():
        raise InputError(
            Code.LABELS,
            "Soundness and completeness need the true class of every sample",
            got="no labels" if found is None else f"labels of shape {tuple(found.shape)}, {found.dtype}",
            expected=f"({b},) class numbers",
        )
    return found.long()


def _check(numbers: Sequence[float], variant: str, gain: str, of: str) -> None:
    check_processing(of)
    wrong = variant not in ("corrected", "published") or gain not in ("epsilon", "flips") or of == "signed"
    if wrong or not numbers or not all(0 <= r <= 1 for r in numbers):
        raise SpecError(
            Code.BAD_PARAMETER,
            "Soundness needs shares from 0 to 1, a known variant, and maps made non-negative",
            got=f"variant {variant!r}, gain {gain!r}, of {of!r}, {list(numbers)[:3]}",
            expected="'corrected' or 'published'; 'epsilon' or 'flips'; 'positive' or 'absolute'",
        )

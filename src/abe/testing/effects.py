"""Where the effects of a function go: the Möbius transform of a score beside that of its attributions.

With v(T) the score of the input whose features outside T show a reference, and A(T) the attribution of that
masked input, the dividends I(S) of v and D_i(S) of A_i say how much of the joint effect of the features S
was given to feature i (reference/theory-and-soundness §3.0: survey Eq. 16, Table VI).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from abe.api import explain
from abe.engines.removal.set_functions import coalitions, dividends
from abe.task.base import Task


@dataclass(frozen=True)
class Allocation:
    """How an attribution allocates effects; all three are 0 for an ideal one.

    Attributes:
        effect: |Σ_i a_i − (v(N) − v(∅))| / Σ|I|: effect completeness.
        correctness: share of |D| given to features outside the set whose effect it is.
        completeness: Σ_S |Σ_{i∈S} D_i(S) − I(S)| / Σ|I|: allocation completeness.
        weights: size of S to the share of I(S) that each of its features gets, by regression.
        misfit: size of S to 1 − R² of that regression.
    """

    effect: float
    correctness: float
    completeness: float
    weights: Mapping[int, float]
    misfit: Mapping[int, float]


def allocation(
    value: Callable[[Bool[Tensor, "m n"]], Float[Tensor, "m"]],
    attribute: Callable[[Bool[Tensor, "m n"]], Float[Tensor, "m n"]],
    n: int,
) -> Allocation:
    """The allocation of an attribution of n features.

    Args:
        value: the score of masked inputs, by which features are kept.
        attribute: the attributions of masked inputs, one number per feature.
        n: number of features; both are asked for all 2^n sets.
    """
    kept = coalitions(n)
    scores, maps = value(kept).double(), attribute(kept).double()
    effects, given = dividends(scores)[1:], dividends(maps)
    total, all_given = effects.abs().sum(), given.abs().sum()
    outside = given.abs()[~kept].sum()
    inside = torch.where(kept, given, 0.0)[1:]
    missed = (inside.sum(1) - effects).abs().sum()
    weights, misfit = _weights(effects, inside, kept[1:])
    return Allocation(
        effect=float((maps[-1].sum() - (scores[-1] - scores[0])).abs() / total),
        correctness=float(outside / all_given),
        completeness=float(missed / total),
        weights=weights,
        misfit=misfit,
    )


def allocation_of(
    task: Task,
    x: Tensor,
    reference: Tensor,
    method: Any,
    *,
    target: int,
    objective: Any = "logit",
    **how: Any,
) -> Allocation:
    """The allocation of a method on every number of one input; the method must use ``reference`` itself.

    Args:
        task: in float64, with biases: without them gradient × input looks perfect.
        x: (1, *f) an input of at most a dozen numbers.
        reference: (1, *f) what absent features show.
        method: name or value, as for `abe.explain`.
        target: the explained class.
        objective: the explained score.
        **how: parameters of the method, when it is a name.
    """
    n = x.numel()

    def masked(kept: Tensor) -> Tensor:
        return torch.where(kept.view(-1, *x.shape[1:]), x, reference)

    def value(kept: Tensor) -> Tensor:
        return explain(task, masked(kept), "gradient", target=target, objective=objective, **plain).score

    def attribute(kept: Tensor) -> Tensor:
        found = explain(task, masked(kept), method, target=target, objective=objective, **plain, **how)
        return found.attribution.flatten(1)

    plain: dict[str, Any] = {"execution": "model", "progress": False}
    return allocation(value, attribute, n)


def _weights(effects: Tensor, inside: Tensor, kept: Tensor) -> tuple[dict[int, float], dict[int, float]]:
    """Least squares through the origin of D_i(S) on I(S), i ∈ S, for every size of S."""
    size = kept.sum(1)
    weights: dict[int, float] = {}
    misfit: dict[int, float] = {}
    for s in range(1, kept.shape[1] + 1):
        given = inside[size == s][kept[size == s]]
        effect = effects[size == s].repeat_interleave(s)
        slope = (given @ effect) / (effect @ effect).clamp_min(1e-300)
        weights[s] = float(slope)
        misfit[s] = float((given - slope * effect).square().sum() / given.square().sum().clamp_min(1e-300))
    return weights, misfit

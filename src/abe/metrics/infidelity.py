"""Infidelity: how far the map is from predicting the change of score under perturbations."""

from typing import Any, ClassVar, Literal, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from abe.baselines import as_baseline
from abe.checks import Between, Count, NotNegative, Positive, Share, check_choice
from abe.engines.runtime.problem import Problem
from abe.errors import Code, SpecError
from abe.registry import metrics
from abe.sizes import OfRange, in_units
from abe.spec import value
from abe.types import Baseline, Card, Passes
from abe.units import check_map

Variant = Literal["corrected", "published", "unscaled", "normalised"]


@runtime_checkable
class Perturber(Protocol):
    """Makes perturbed inputs x′; the perturbation is I = x − x′."""

    def rows(self, problem: Problem, owner: Tensor, draw: Tensor) -> Tensor:
        """(n, *f) the perturbed samples ``owner`` of draws ``draw``."""
        ...


@value
class SquareRemoval:
    """A random square of each sample becomes the baseline (a random stretch where there is one axis).

    Args:
        side: of the square, as a fraction of each axis.
        baseline: what stands for "absent".
    """

    side: Share
    baseline: Baseline

    def rows(self, problem: Problem, owner: Tensor, draw: Tensor) -> Tensor:
        x = problem.x[owner]
        space = x.shape[2:] if x.ndim > 2 else x.shape[1:]
        u = problem.draws.uniform("infidelity.square", problem.keys(owner, draw), (len(space),)).to(x)
        inside = torch.ones(len(x), *space, dtype=torch.bool, device=x.device)
        for axis, n in enumerate(space):
            wide = max(1, round(self.side * n))
            start = (u[:, axis] * (n - wide + 1)).floor().clamp_max(n - wide)
            at = torch.arange(n, device=x.device)
            among = (at >= start[:, None]) & (at < start[:, None] + wide)
            inside &= among.view(len(x), *[n if i == axis else 1 for i in range(len(space))])
        mask = inside[:, None] if x.ndim > 2 else inside
        return torch.where(mask, problem.reference(self.baseline, owner, draw), x)


@value
class NoisyBaseline:
    """A random share of the elements becomes the baseline plus Gaussian noise, kept in bounds.

    Args:
        sigma: of the noise.
        share: of the elements.
        baseline: what stands for "absent".
    """

    sigma: NotNegative
    share: float
    baseline: Baseline

    def rows(self, problem: Problem, owner: Tensor, draw: Tensor) -> Tensor:
        x = problem.x[owner]
        keys, size = problem.keys(owner, draw), x[0].numel()
        count = max(1, round(self.share * size))
        index = problem.draws.permutation("infidelity.index", keys, size)[:, :count].to(x.device)
        noise = problem.draws.normal("infidelity.noise", keys, (count,)).to(x)
        reference = problem.reference(self.baseline, owner, draw).flatten(1).gather(1, index)
        sigma = torch.as_tensor(in_units(self.sigma, problem.limits), dtype=x.dtype, device=x.device)
        noise = noise * sigma.expand_as(x).flatten(1).gather(1, index)
        changed = x.flatten(1).scatter(1, index, reference + noise).view_as(x)
        return _inside(problem, changed)


@value
class LocalGaussian:
    """Gaussian noise on every element; not clipped, so that small perturbations stay symmetric.

    Args:
        sigma: of the noise.
    """

    sigma: NotNegative

    def rows(self, problem: Problem, owner: Tensor, draw: Tensor) -> Tensor:
        x = problem.x[owner]
        noise = problem.draws.normal("infidelity.noise", problem.keys(owner, draw), x.shape[1:]).to(x)
        return x - in_units(self.sigma, problem.limits) * noise


@value
class Infidelity:
    """Mean over perturbations I of (β IᵀA − (s(x) − s(x − I)))².

    Args:
        perturbation: makes x − I.
        samples: perturbations per sample.
        variant: how β is chosen; see `scale`.
    """

    perturbation: Perturber
    samples: Count
    variant: Variant | str = "corrected"
    processing: ClassVar[str] = "signed, every element"
    removes: ClassVar[bool] = True

    def measure(self, problem: Problem, explanation: Any) -> Tensor:
        x, n = problem.x, self.samples
        maps = check_map(explanation.attribution, x).double()
        maps = maps.expand(x.shape) / (x.shape[1] // maps.shape[1]) if x.ndim > 2 else maps[:, 0]
        predicted = torch.zeros(len(x) * n, dtype=torch.float64, device=x.device)

        def make(rows: Tensor) -> Tensor:
            sample = rows // n
            changed = self.perturbation.rows(problem, sample, rows % n)
            predicted[rows] = ((x[sample] - changed).double() * maps[sample]).flatten(1).sum(1)
            return changed

        score = problem.scores(make, problem.everyone.repeat_interleave(n)).double()
        change = problem.score.double()[:, None] - score.view(-1, n)
        return infidelity(predicted.view(-1, n), change, self.variant)


def infidelity(
    predicted: Float[Tensor, "b n"], change: Float[Tensor, "b n"], variant: Variant | str = "corrected"
) -> Float[Tensor, "b"]:
    """(b,) mean of (β · predicted − change)²."""
    return (scale(predicted, change, variant)[:, None] * predicted - change).square().mean(1)


def scale(predicted: Tensor, change: Tensor, variant: Variant | str) -> Tensor:
    """(b,) β: least squares clipped at 0, the published ridge form, either sign without a ridge, or 1.

    With β of either sign a map and its negative score the same; clipped, a map that is no better than
    the opposite sign scores as a zero map. Published: β = mean(Δq) / (mean(q²) + 1e-8).
    """
    check_choice("variant", variant, get_args(Variant))
    if variant == "unscaled":
        return torch.ones_like(predicted[:, 0])
    together, square = (predicted * change).mean(1), predicted.square().mean(1)
    if variant == "published":
        return together / (square + 1e-8)
    safe = torch.where(square > 0, square, torch.ones_like(square))
    return together / safe if variant == "normalised" else (together / safe).clamp_min(0)


def _inside(problem: Problem, x: Tensor) -> Tensor:
    if problem.limits is None:
        return x
    low, high = problem.limits
    return torch.minimum(torch.maximum(x, low), high)


def perturber(name: Any, baseline: Any, size: float | None) -> Perturber:
    """A perturbation from its name and size, or a value with ``rows``."""
    if isinstance(name, Perturber) and not isinstance(name, str | type):
        return name
    if name == "square" and size is not None:
        size = Between(0, 1, "(]").check("size", size)
    if name == "square":
        return SquareRemoval(side=0.25 if size is None else size, baseline=as_baseline(baseline))
    if name == "noisy_baseline":
        return NoisyBaseline(
            sigma=OfRange(0.2) if size is None else size, share=1 / 3, baseline=as_baseline(baseline)
        )
    if name == "gaussian":
        return LocalGaussian(sigma=OfRange(0.05) if size is None else size)
    raise SpecError(
        Code.BAD_PARAMETER,
        "Infidelity has no such perturbation",
        got=repr(name),
        expected="'square', 'noisy_baseline', 'gaussian', or a value with rows",
    )


@metrics.register(
    Card(
        name="infidelity",
        title="INFD",
        source="yeh2019, Definition 2.1; zhu2025abe, Table III",
        direction="lower",
        range="[0, inf)",
        formula="E[(beta I.A - (s(x) - s(x - I)))^2], beta = max(0, E[I.A Delta] / E[(I.A)^2])",
        passes=Passes(forward="b * (samples + 1)", backward="0"),
        differs=(
            "β is clipped at 0 and safe for zero maps; the published form is blind to sign "
            "and depends on the scale of the map.",
        ),
        pitfalls=(
            "In squared units of the score: compare methods on one model only.",
            "I.A reads the map as a slope: a perfect map of contributions w x is not perfect here, w is.",
        ),
    ),
    aliases=("infd",),
)
def infidelity_metric(
    *,
    perturbation: Any = "square",
    size: Positive | None = None,
    samples: int = 100,
    baseline: Any = "zero",
    variant: Variant | str = "corrected",
) -> Infidelity:
    """How badly the map predicts the change of score under perturbations.

    Args:
        perturbation: ``"square"`` removes a random square, ``"noisy_baseline"`` puts noise around the
            baseline on a third of the elements, ``"gaussian"`` adds small noise; or a value.
        size: side of the square as a fraction (.25), or sigma in input units (.2 and .05 of the range).
        samples: perturbations per sample.
        baseline: what stands for "absent", for the first two.
        variant: ``"corrected"``, ``"published"`` (β of either sign, with a ridge), ``"unscaled"`` (β = 1, as
            captum has it) or ``"normalised"`` (β of either sign, as captum has it with ``normalize=True``).
    """
    return Infidelity(perturbation=perturber(perturbation, baseline, size), samples=samples, variant=variant)

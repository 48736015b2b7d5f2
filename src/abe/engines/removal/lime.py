"""Local surrogates: linear fits to the score on coalitions near all units (LIME and kin) or near x (C-LIME).

The coalitions are the rows of one game, so that variants read the same evaluations. Each result says how
well the fit meets them (adherence, a weighted R²) and how much its coefficients depend on which were drawn.
"""

from itertools import combinations
from statistics import NormalDist
from typing import Annotated

import torch
from torch import Tensor

from abe.checks import Between, Count, NotNegative, Positive, Share
from abe.engines.removal import set_functions
from abe.engines.removal.game import (
    Evaluated,
    Stream,
    Summarised,
)
from abe.engines.removal.least_squares import adherence, fit, lasso, least_angles
from abe.engines.removal.summaries import Table, coalitions_of, over_completions, rows_of
from abe.errors import Code, InputError, note
from abe.registry import summaries
from abe.spec import resolved, value

ROWS = 1000
"""Coalitions where no budget is given, as many as lime draws."""
SPARSE_ROWS = 64
"""Coalitions of a sparse fit where no budget is given."""
REPEATS = 10
"""Resamples of the evaluated rows that the stability indices compare."""
WIDTHS = torch.logspace(-1.5, 0.7, 89, dtype=torch.float64)
"""Kernel widths that OptiLIME chooses from: .03 to 5."""


def cosine_kernel(z: Tensor, width: float, *, root: bool = False) -> Tensor:
    """(m,) π(z) = exp(−d²/width²), d = 1 − cos(z, 1) = 1 − √(|z|/u); its root as published code has it."""
    distance = 1 - (z.sum(1) / z.shape[1]).sqrt()
    return torch.exp(-(distance**2) / width**2 * (0.5 if root else 1.0))


class _Local:
    """What linear fits to a sample's neighbours have in common: how many they need, and which."""

    @property
    def complete(self) -> bool:
        return False

    def needs(self, u: int) -> int:
        return u + 2

    def coalitions(self, u: int, budget: int | None, stream: Stream) -> Tensor:
        return neighbours(u, budget, stream)


@summaries.part("lime", of="lime", aliases=("ridge",))
@value
class Ridge(_Local):
    """A ridge regression on random coalitions, weighted by how near they are to all units.

    Formula: min_w Σ_z π(z) (v(z) − w₀ − w·z)² + λ‖w‖², z uniform over coalitions, π by cosine distance

    Args:
        width: of the kernel, in cosine distance.
        root: take the root of the kernel, as published code does.
        given: (m, u) what to fit to, instead of random coalitions.
    """

    width: Positive = 0.25
    penalty: NotNegative = 1.0
    root: bool = False
    given: Table = resolved(converter=coalitions_of, default=None)

    def needs(self, u: int) -> int:
        return u + 2 if self.given is None else len(self.given)

    def coalitions(self, u: int, budget: int | None, stream: Stream) -> Tensor:
        if self.given is None:
            return neighbours(u, budget, stream)
        if len(self.given) < u + 1:
            raise InputError(
                Code.EVALUATIONS,
                f"The given coalitions cannot tell {u} units apart",
                got=f"{len(self.given)} coalitions",
                expected=f"at least {u + 1}",
            )
        return rows_of(self.given, u, "coalitions").bool()

    def summarise(self, evaluated: Evaluated) -> Summarised:
        return ridge(evaluated, self.width, self.penalty, root=self.root)


@summaries.part("sparse", of="sparse_surrogate", aliases=("lasso",))
@value
class Sparse(_Local):
    """A sparse linear fit to random coalitions, every unit there or not as by a coin.

    Formula: min_w Σ_z (v(z) − w₀ − w·z)² / 2n + λ‖w‖₁, z uniform over coalitions

    Args:
        penalty: λ as a share of the smallest one that leaves no unit.
    """

    penalty: Share = 0.05

    def needs(self, u: int) -> int:
        return 2

    def coalitions(self, u: int, budget: int | None, stream: Stream) -> Tensor:
        if budget is not None and budget >= 2**u - 1 and u <= 16:
            return set_functions.coalitions(u)
        return stream.uniform((SPARSE_ROWS if budget is None else budget, u)) < 0.5

    def summarise(self, evaluated: Evaluated) -> Summarised:
        z, y = evaluated.coalitions.double(), evaluated.values.mean(1)
        slope, met, intercept = lasso(z, y, self.penalty)
        chosen = slope.nonzero().flatten()
        return Summarised(
            slope,
            extras={"adherence": met.reshape(1), "intercept": intercept.reshape(1), "chosen": chosen},
        )


@summaries.part("optilime", of="optilime")
@value
class AdherentRidge(_Local):
    """The widest kernel, and so the steadiest fit, that still adheres to the model.

    Formula: max σ such that R²(σ) ≥ target

    Args:
        target: adherence that must be kept.
    """

    target: Share = 0.8
    penalty: NotNegative = 1.0

    def summarise(self, evaluated: Evaluated) -> Summarised:
        z, y = evaluated.coalitions.double(), evaluated.values.mean(1)
        reached = torch.stack([self._reached(z, y, float(width)) for width in WIDTHS])
        good = (reached >= self.target).nonzero().flatten()
        best = int(good[-1]) if len(good) else int(reached.argmax())
        found = ridge(evaluated, float(WIDTHS[best]), self.penalty)
        found.extras["width"] = WIDTHS[best].to(y).reshape(1)
        if not len(good):
            found.warnings.append(
                note(
                    Code.TOLERANCE_NOT_REACHED,
                    f"No kernel width adheres by {self.target}; the best does by {float(reached[best]):.2f}",
                )
            )
        return found

    def _reached(self, z: Tensor, y: Tensor, width: float) -> Tensor:
        """() the adherence; −∞ where the kernel leaves too few rows for as many coefficients."""
        weight = cosine_kernel(z, width)
        rows = weight.sum().square() / weight.square().sum()
        few = float(rows) < min(2 * z.shape[1] + 2, len(z) / 2)
        return torch.full_like(rows, -torch.inf) if few else fit(z, y, weight, self.penalty).adherence


@summaries.part("slime", of="s_lime")
@value
class StableSelection(_Local):
    """Units enter by least angles; rows are added until each choice is significant.

    Formula: next j₁ if Δ = ĉ_{j₁} − ĉ_{j₂} exceeds z_{1−α} standard errors, else n ← n (z_{1−α}/ẑ)²

    Args:
        features: units to choose.
        level: of the test that the chosen unit beats the next.
        start: rows of the first round.
        penalty: λ of the ridge on the chosen units.
    """

    features: Count = 5
    level: Annotated[float, Between(1e-9, 0.5, "[)")] = 0.05
    start: Count = 500
    width: Positive = 0.25
    penalty: NotNegative = 1.0

    def coalitions(self, u: int, budget: int | None, stream: Stream) -> Tensor:
        first = max(self.start, self.needs(u))
        return neighbours(u, first if budget is None else min(first, budget), stream)

    def more(self, evaluated: Evaluated, left: int | None) -> Tensor | None:
        """Further rows until every choice is significant or the budget is spent."""
        n = len(evaluated.coalitions)
        needed = self._select(evaluated)[1]
        left = 20 * self.start - n if left is None else left
        if needed is None or left < 1:
            return None
        extra = min(left, max(needed - n, n // 2))
        return evaluated.stream.uniform((extra, evaluated.coalitions.shape[1]), n) < 0.5

    def summarise(self, evaluated: Evaluated) -> Summarised:
        chosen, needed = self._select(evaluated)
        whole = evaluated.coalitions
        z, y = whole[:, chosen].double(), evaluated.values.mean(1)
        found = fit(z, y, cosine_kernel(whole.double(), self.width), self.penalty)
        out = Summarised(y.new_zeros(whole.shape[1]), y.new_zeros(whole.shape[1]))
        out.values[chosen], errors = found.slope, found.error
        if out.error is not None:
            out.error[chosen] = errors
        out.extras = {
            "adherence": found.adherence.reshape(1),
            "chosen": torch.tensor(chosen),
            "rows": torch.tensor([len(y)]),
        }
        if needed is not None:
            out.warnings.append(
                note(
                    Code.TOLERANCE_NOT_REACHED,
                    f"The choice of units is not significant at level {self.level} within the "
                    f"budget; about {needed} evaluations would be needed",
                )
            )
        return out

    def _select(self, evaluated: Evaluated) -> tuple[list[int], int | None]:
        """The units chosen, and the rows that an insignificant choice would need (None if all are)."""
        z, y = evaluated.coalitions.double(), evaluated.values.mean(1)
        weight = cosine_kernel(z, self.width)
        root, total = weight.sqrt(), weight.sum()
        x = (z - (weight @ z) / total) * root[:, None]
        x = x / x.norm(dim=0).clamp_min(1e-12)
        residual = (y - (weight @ y) / total) * root
        return least_angles(x, residual, min(self.features, x.shape[1]), NormalDist().inv_cdf(1 - self.level))


@summaries.part("baylime", of="baylime")
@value
class BayesianRidge(_Local):
    """A ridge regression whose coefficients have a normal prior, from evidence or a map.

    The error is the posterior's deviation.

    Args:
        precision: λ of the prior, or None to take what the evidence says.
        noise_precision: α of the score around the fit, or None for the same.
    """

    precision: Positive | None = None
    noise_precision: Positive | None = None
    width: Positive = 0.25

    def summarise(self, evaluated: Evaluated) -> Summarised:
        z, y = evaluated.coalitions.double(), evaluated.values.mean(1)
        weight = cosine_kernel(z, self.width)
        centred = z - (weight @ z) / weight.sum()
        target = y - (weight @ y) / weight.sum()
        prior = torch.zeros_like(centred[0]) if evaluated.prior is None else evaluated.prior.to(y)
        mean, covariance, (precision, noise) = self._posterior(centred, target, weight, prior)
        residual = target - centred @ mean
        extras = {
            "adherence": adherence(residual, target, weight).reshape(1),
            "precision": y.new_tensor([precision]),
            "noise_precision": y.new_tensor([noise]),
        }
        return Summarised(mean, covariance.diagonal().clamp_min(0).sqrt(), extras)

    def _posterior(
        self, x: Tensor, y: Tensor, weight: Tensor, prior: Tensor
    ) -> tuple[Tensor, Tensor, tuple[float, float]]:
        """Posterior mean and covariance, precisions by MacKay's fixed point where they are not given."""
        gram, moment, n = (x.T * weight) @ x, (x.T * weight) @ y, float(weight.sum())
        spectrum = torch.linalg.eigvalsh(gram).clamp_min(0)
        variance = float(weight @ y.square()) / n
        noise = self.noise_precision or 1 / max(variance, 1e-12)
        precision = self.precision or 1.0
        identity = torch.eye(len(prior)).to(prior)

        def solved() -> tuple[Tensor, Tensor]:
            covariance = torch.linalg.inv(precision * identity + noise * gram)
            return covariance @ (precision * prior + noise * moment), covariance

        mean, covariance = solved()
        for _ in range(300):
            known = float((noise * spectrum / (precision + noise * spectrum)).sum())
            missed = float(weight @ (y - x @ mean).square())
            old = precision, noise
            if self.precision is None:
                precision = (known + 2e-6) / (float((mean - prior).square().sum()) + 2e-6)
            if self.noise_precision is None:
                noise = (n - known + 2e-6) / (missed + 2e-6)
            mean, covariance = solved()
            if abs(precision / old[0] - 1) + abs(noise / old[1] - 1) < 1e-10:
                break
        return mean, covariance, (precision, noise)


def neighbours(u: int, budget: int | None, stream: Stream) -> Tensor:
    """(m, u) all units, then random coalitions that hold each unit with probability one half."""
    rows = stream.uniform((ROWS if budget is None else budget, u)) < 0.5
    return torch.cat([torch.ones((1, u), dtype=torch.bool), rows])


def ridge(evaluated: Evaluated, width: float, penalty: float, *, root: bool = False) -> Summarised:
    """The weighted ridge with its adherence and stability indices."""
    z, y = evaluated.coalitions.double(), evaluated.values.mean(1)
    weight = cosine_kernel(z, width, root=root)
    found = fit(z, y, weight, penalty)
    several = over_completions(_linear(z, evaluated.values, weight, penalty)).error
    error = found.error if several is None else (found.error**2 + several**2).sqrt()
    extras = {
        "adherence": found.adherence.reshape(1),
        "intercept": found.intercept.reshape(1),
        **stability(z, y, weight, penalty, evaluated.stream),
    }
    return Summarised(found.slope, error, extras)


def stability(z: Tensor, y: Tensor, weight: Tensor, penalty: float, stream: Stream) -> dict[str, Tensor]:
    """Visani's indices over resamples of the evaluated rows, in per cent.

    ``coefficient_stability`` (CSI): share of pairs of fits whose 95 % intervals of a coefficient overlap.
    ``variable_stability`` (VSI): share of the most important half of the units (at most ten) that two
    fits have in common.
    """
    n, u = z.shape
    top = max(1, min(10, u // 2))
    draws = stream.integers(n, (REPEATS, n)).to(z.device)
    fits = [fit(z[rows], y[rows], weight[rows], max(penalty, 1e-6)) for rows in draws]
    low = torch.stack([f.slope - 1.96 * f.error for f in fits])
    high = torch.stack([f.slope + 1.96 * f.error for f in fits])
    chosen = torch.zeros((REPEATS, u), dtype=torch.bool, device=z.device)
    best = torch.stack([f.slope.abs() for f in fits]).argsort(dim=1, descending=True, stable=True)
    chosen.scatter_(1, best[:, :top], True)
    one, other = torch.tensor(list(combinations(range(REPEATS), 2))).T
    overlap = (torch.maximum(low[one], low[other]) <= torch.minimum(high[one], high[other])).double().mean()
    common = (chosen[one] & chosen[other]).double().sum(1).mean() / top
    return {
        "coefficient_stability": 100 * overlap.reshape(1),
        "variable_stability": 100 * common.reshape(1),
    }


def _linear(z: Tensor, values: Tensor, weight: Tensor, penalty: float) -> Tensor:
    """(u, k) the slopes of every completion by itself."""
    total = weight.sum()
    centred = z - (weight @ z) / total
    weighted = centred.T * weight
    target = values - (weight @ values) / total
    gram = weighted @ centred + max(penalty, 1e-12) * torch.eye(z.shape[1]).to(z)
    return torch.linalg.solve(gram, weighted @ target)

"""Weighted least squares, ridge, LASSO and least angles on coalitions."""

from dataclasses import dataclass
from math import ceil

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass
class Fit:
    """A weighted linear fit.

    Attributes:
        slope: (u,) coefficients.
        error: (u,) their standard errors, robust to unequal variances.
        adherence: weighted R².
        intercept: () what the fit says where all columns are zero.
    """

    slope: Float[Tensor, "u"]
    error: Float[Tensor, "u"]
    adherence: Tensor
    intercept: Tensor


def fit(z: Tensor, y: Tensor, weight: Tensor, penalty: float) -> Fit:
    """Ridge regression with a free intercept: min Σ π (y − w₀ − z·w)² + penalty ‖w‖²."""
    total = weight.sum()
    centred, target = z - (weight @ z) / total, y - (weight @ y) / total
    weighted = centred.T * weight
    inverse = torch.linalg.inv(weighted @ centred + max(penalty, 1e-12) * torch.eye(z.shape[1]).to(z))
    slope = inverse @ (weighted @ target)
    residual = target - centred @ slope
    scale = len(z) / max(len(z) - z.shape[1] - 1, 1)
    spread = (inverse @ (weighted * residual)).square().sum(1) * scale
    intercept = (weight @ y - (weight @ z) @ slope) / total
    return Fit(slope, spread.sqrt(), adherence(residual, target, weight), intercept)


def adherence(residual: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """() 1 − Σ π r² / Σ π (y − ȳ)²; 1 where there is nothing to explain."""
    spread = weight @ target.square()
    return 1 - (weight @ residual.square()) / spread if float(spread) > 0 else torch.ones_like(spread)


def least_angles(x: Tensor, residual: Tensor, features: int, quantile: float) -> tuple[list[int], int | None]:
    """Columns of ``x`` (n, u) in the order in which least-angle regression takes them.

    Every choice is tested against the next best column: the difference of their correlations with the
    residual, over its standard error by the central limit theorem.

    Returns:
        The columns, and the rows that the least significant choice needs, None where all are significant.
    """
    n = len(x)
    chosen: list[int] = []
    signs: list[float] = []
    needed: int | None = None
    for _ in range(features):
        correlation = x.T @ residual
        free = correlation.abs().clone()
        free[chosen] = -1
        order = free.argsort(descending=True, stable=True)
        first, second = int(order[0]), int(order[1]) if len(order) > len(chosen) + 1 else None
        if float(free[first]) <= 1e-12:
            break
        if second is not None:
            part = residual * (
                x[:, first] * correlation[first].sign() - x[:, second] * correlation[second].sign()
            )
            ratio = float(part.sum() / (part.std() * n**0.5).clamp_min(1e-300))
            if ratio < quantile:
                rows = ceil(n * min((quantile / max(ratio, 1e-3)) ** 2, 1e6))
                needed = max(rows, needed or 0)
        chosen.append(first)
        signs.append(float(correlation[first].sign()))
        residual = residual - _equiangular_step(x, correlation, chosen, signs)
    return chosen, needed


def _equiangular_step(x: Tensor, correlation: Tensor, chosen: list[int], signs: list[float]) -> Tensor:
    """(n,) the step along the equiangular direction until another column correlates as much."""
    active = x[:, chosen] * x.new_tensor(signs)
    solved = torch.linalg.pinv(active.T @ active).sum(1)
    length = solved.sum().clamp_min(1e-300).rsqrt()
    direction = active @ (solved * length)
    top, along = correlation[chosen].abs().max(), x.T @ direction
    steps = torch.stack([(top - correlation) / (length - along), (top + correlation) / (length + along)])
    steps[:, chosen] = torch.inf
    steps = steps[(steps > 1e-12) & steps.isfinite()]
    size = torch.minimum(steps.min(), top / length) if steps.numel() else top / length
    return size * direction


SWEEPS, SETTLED = 1000, 1e-10
"""Most rounds of coordinate descent, and the change of a coefficient, as a share of the largest, that ends it."""


def lasso(z: Tensor, y: Tensor, penalty: float) -> tuple[Tensor, Tensor, Tensor]:
    """A sparse fit with a free intercept: min Σ (y − w₀ − z·w)² / 2n + λ ‖w‖₁, by coordinate descent.

    Args:
        z: (n, u).
        y: (n,).
        penalty: λ as a share of the smallest one that leaves no coefficient.

    Returns:
        (u,) coefficients, () R², () the intercept.
    """
    n = len(y)
    centred, target = z - z.mean(0), y - y.mean()
    gram, reach = centred.T @ centred / n, centred.T @ target / n
    bound = penalty * reach.abs().max()
    slope = torch.zeros_like(reach)
    for _ in range(SWEEPS):
        before = slope.clone()
        for one in range(len(slope)):
            size = gram[one, one]
            if float(size) <= 0:  # always there, or never: nothing tells what it does
                continue
            free = reach[one] - gram[one] @ slope + size * slope[one]
            slope[one] = torch.sign(free) * (free.abs() - bound).clamp_min(0) / size
        if float((slope - before).abs().max()) <= SETTLED * float(slope.abs().max().clamp_min(1e-300)):
            break
    residual = target - centred @ slope
    met = adherence(residual, target, torch.ones_like(y))
    return slope, met, y.mean() - z.mean(0) @ slope

"""Quadrature rules on [0, 1]: nodes and weights in float64; weights sum to 1 unless named otherwise."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from abe.errors import Code, SpecError
from abe.registry import Registry
from abe.spec import value
from abe.types import Card

Nodes = Float[Tensor, "k"]
MOST_GAUSS = 10_000
"""Nodes of Gauss–Legendre; these take a minute to find."""
quadratures = Registry("quadrature")


def _rule(name: str, title: str, formula: str, *, differs: tuple[str, ...] = ()) -> Any:
    card = Card(name=name, title=title, source="davis1984", formula=formula, differs=differs)
    return quadratures.register(card)


@_rule("gauss_legendre", "Gauss–Legendre", "exact to degree 2k − 1")
@value
class GaussLegendre:
    """k nodes, exact for polynomials of degree 2k − 1."""

    def nodes(self, n: int) -> tuple[Nodes, Nodes]:
        """Nodes in (0, 1) and weights."""
        if _at_least(n, 1) > MOST_GAUSS:
            raise SpecError(
                Code.BAD_PARAMETER,
                "Too many nodes for Gauss–Legendre, whose weights take n³ operations",
                got=f"steps or nodes = {n}",
                expected=f"at most {MOST_GAUSS}",
                fix='Choose quadrature="midpoint", or give tolerance=',
            )
        nodes, weights = np.polynomial.legendre.leggauss(n)
        return torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)


@_rule("left", "Left Riemann sum", "nodes i/k, i = 0 … k − 1; exact to degree 0")
@value
class Left:
    """Nodes i/k, weights 1/k; exact for constants."""

    def nodes(self, n: int) -> tuple[Nodes, Nodes]:
        """Nodes from 0 and weights."""
        return _grid(_at_least(n, 1), 0.0)


@_rule("right", "Right Riemann sum", "nodes (i + 1)/k; exact to degree 0")
@value
class Right:
    """Nodes (i + 1)/k, weights 1/k; exact for constants."""

    def nodes(self, n: int) -> tuple[Nodes, Nodes]:
        """Nodes up to 1 and weights."""
        return _grid(_at_least(n, 1), 1.0)


@_rule("midpoint", "Midpoint rule", "nodes (i + 1/2)/k; exact to degree 1")
@value
class Midpoint:
    """Nodes (i + ½)/k, weights 1/k; exact for degree 1."""

    def nodes(self, n: int) -> tuple[Nodes, Nodes]:
        """Midpoints and weights."""
        return _grid(_at_least(n, 1), 0.5)


@_rule("trapezoid", "Trapezoidal rule", "nodes i/(k − 1), halved ends, weights sum to 1; exact to degree 1")
@value
class Trapezoid:
    """Nodes i/(k − 1) with halved end weights that sum to 1; exact for degree 1."""

    def nodes(self, n: int) -> tuple[Nodes, Nodes]:
        """Nodes including both ends and weights."""
        return torch.linspace(0, 1, _at_least(n, 2), dtype=torch.float64), _halved_ends(n) / (n - 1)


@_rule("simpson", "Simpson's rule", "odd k, weights 1 4 2 … 4 1; exact to degree 3")
@value
class Simpson:
    """Odd number of nodes i/(k − 1), weights 1 4 2 4 … 4 1; exact for degree 3."""

    def nodes(self, n: int) -> tuple[Nodes, Nodes]:
        """Nodes including both ends and weights."""
        if _at_least(n, 3) % 2 == 0:
            raise SpecError(
                Code.BAD_PARAMETER, "Simpson's rule needs an odd number of nodes", got=n, expected=n + 1
            )
        weights = torch.full((n,), 2.0, dtype=torch.float64)
        weights[1::2] = 4.0
        weights[[0, -1]] = 1.0
        return torch.linspace(0, 1, n, dtype=torch.float64), weights / weights.sum()


@_rule("endpoint_mean", "Mean over equidistant points", "nodes i/(k − 1), weights 1/k; exact to degree 1")
@value
class EndpointMean:
    """Plain mean over i/(k − 1) with both ends, as published code uses it; exact for degree 1."""

    def nodes(self, n: int) -> tuple[Nodes, Nodes]:
        """Nodes including both ends and equal weights."""
        weights = torch.full((_at_least(n, 2),), 1.0 / n, dtype=torch.float64)
        return torch.linspace(0, 1, n, dtype=torch.float64), weights


@_rule(
    "published_trapezoid",
    "Trapezoid as published",
    "nodes i/(k − 1), weights 1/k with halved ends: they sum to (k − 1)/k",
    differs=(
        "Weights sum to (k − 1)/k, not to 1, so maps are too small by that factor; kept for comparison.",
    ),
)
@value
class PublishedTrapezoid:
    """Nodes i/(k − 1), weights 1/k with halved ends; they sum to (k − 1)/k instead of 1."""

    def nodes(self, n: int) -> tuple[Nodes, Nodes]:
        """Nodes including both ends and the published weights."""
        return torch.linspace(0, 1, _at_least(n, 2), dtype=torch.float64), _halved_ends(n) / n


def _grid(n: int, offset: float) -> tuple[Nodes, Nodes]:
    nodes = (torch.arange(n, dtype=torch.float64) + offset) / n
    return nodes, torch.full((n,), 1.0 / n, dtype=torch.float64)


def _halved_ends(n: int) -> Nodes:
    weights = torch.ones(n, dtype=torch.float64)
    weights[[0, -1]] = 0.5
    return weights


def _at_least(n: int, least: int) -> int:
    if isinstance(n, bool) or not isinstance(n, int) or n < least:
        raise SpecError(
            Code.BAD_PARAMETER, "Too few nodes for this quadrature", got=repr(n), expected=f"{least} or more"
        )
    return n

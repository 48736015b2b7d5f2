"""Quadrature rules: weights that sum to 1, exact to their degree, and one kept as published."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from abe.engines.path.quadrature import (
    EndpointMean,
    GaussLegendre,
    Left,
    Midpoint,
    PublishedTrapezoid,
    Right,
    Simpson,
    Trapezoid,
    quadratures,
)
from abe.errors import Code, SpecError
from abe.types import Quadrature

DEGREE = {Left: 0, Right: 0, Midpoint: 1, Trapezoid: 1, EndpointMean: 1, Simpson: 3}
LEAST = {Trapezoid: 2, EndpointMean: 2, PublishedTrapezoid: 2, Simpson: 3}
SOUND = [GaussLegendre, *DEGREE]


def nodes_of(rule: type, n: int) -> int:
    """A number of nodes that the rule takes."""
    n = max(n, LEAST.get(rule, 1))
    return n + 1 - n % 2 if rule is Simpson else n


def integral(rule: Quadrature, n: int, coefficients: torch.Tensor) -> float:
    nodes, weights = rule.nodes(n)
    powers = torch.arange(len(coefficients), dtype=torch.float64)
    return float((weights[:, None] * nodes[:, None] ** powers * coefficients).sum())


@pytest.mark.parametrize("rule", SOUND)
@given(n=st.integers(1, 60), data=st.data())
def test_weights_sum_to_one_and_are_exact_to_the_degree(rule: type, n: int, data: st.DataObject) -> None:
    n = nodes_of(rule, n)
    nodes, weights = rule().nodes(n)
    assert nodes.shape == weights.shape == (n,)
    assert nodes.dtype == weights.dtype == torch.float64
    assert bool((nodes.diff() > 0).all())
    assert 0 <= float(nodes[0]) <= float(nodes[-1]) <= 1
    assert float(weights.sum()) == pytest.approx(1, abs=1e-13)
    degree = 2 * n - 1 if rule is GaussLegendre else DEGREE[rule]
    numbers = st.lists(st.floats(-1, 1), min_size=degree + 1, max_size=degree + 1)
    coefficients = torch.tensor(data.draw(numbers), dtype=torch.float64)
    exact = float((coefficients / torch.arange(1, degree + 2)).sum())
    assert integral(rule(), n, coefficients) == pytest.approx(exact, abs=1e-11)


@pytest.mark.parametrize(("rule", "degree"), [*DEGREE.items(), (GaussLegendre, 5)])
def test_the_degree_is_the_largest(rule: type, degree: int) -> None:
    """One degree more and three nodes are wrong."""
    coefficients = torch.zeros(degree + 2, dtype=torch.float64)
    coefficients[-1] = 1
    assert abs(integral(rule(), 3, coefficients) - 1 / (degree + 2)) > 1e-4


@given(n=st.integers(2, 200))
def test_the_published_trapezoid_is_too_small_by_one_node(n: int) -> None:
    """Its weights sum to (n − 1)/n, and it is otherwise the trapezoid: the quirk that is compared with."""
    nodes, weights = PublishedTrapezoid().nodes(n)
    right_nodes, right_weights = Trapezoid().nodes(n)
    assert float(weights.sum()) == pytest.approx((n - 1) / n, abs=1e-13)
    torch.testing.assert_close(weights, right_weights * (n - 1) / n, rtol=1e-14, atol=0)
    assert torch.equal(nodes, right_nodes)


@pytest.mark.parametrize("name", quadratures.names())
def test_errors_fall_as_nodes_are_added(name: str) -> None:
    """A function that no rule integrates exactly: the error at 65 nodes is below that at 9."""

    def error(n: int) -> float:
        nodes, weights = quadratures.make(name).nodes(n)
        return abs(
            float((weights * torch.exp(3 * nodes)).sum()) - float(torch.exp(torch.tensor(3.0)) - 1) / 3
        )

    few, many = error(9), error(65)
    print(name, few, many)
    assert many < 1e-6 if name == "gauss_legendre" else many < few / 5


@pytest.mark.parametrize("name", quadratures.names())
@pytest.mark.parametrize("n", [0, -1, True])
def test_a_wrong_number_of_nodes_is_refused(name: str, n: int) -> None:
    with pytest.raises(SpecError) as refused:
        quadratures.make(name).nodes(n)
    assert refused.value.code is Code.BAD_PARAMETER


def test_simpson_wants_an_odd_number() -> None:
    with pytest.raises(SpecError, match=r"odd.*Expected 51"):
        Simpson().nodes(50)

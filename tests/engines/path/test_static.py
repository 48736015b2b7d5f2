"""Static paths: ends, derivatives, sums, adaptive nodes, and paths of one's own."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import abe
from abe.baselines import Constant, Uniform, Zero
from abe.engines.path.curves import BlurLine, StraightLine, UserPath
from abe.engines.path.quadrature import GaussLegendre, PublishedTrapezoid, Trapezoid
from abe.engines.path.refine import Pieces, refine
from abe.engines.path.static import PathIntegral, integrate
from abe.engines.runtime.shapes import along
from abe.errors import AbeError, Code, InputError, SpecError
from abe.testing import KNOWN, LawBroken, check_path, nets, problem_of, samples, task_of
from abe.types import BoundPath

EASE = 2.0


def ease_in(x: Tensor, alpha: Tensor) -> Tensor:
    """From zero along a straight line, slowly at first."""
    return x * along(alpha**EASE, x)


def bent(x: Tensor, alpha: Tensor) -> Tensor:
    """A curve: even features first."""
    a = along(alpha, x)
    even = torch.zeros_like(x).flatten(1)
    even[:, ::2] = 1
    return x * torch.where(even.view_as(x) == 1, 2 * a - a**2, a**2)


def points_to(x: Tensor, k: int = 4) -> Tensor:
    """(b, k, …) corners from zero to x by a detour."""
    corners = [x * i / (k - 1) + 0.1 * math.sin(math.pi * i / (k - 1)) for i in range(k)]
    corners[-1] = x
    return torch.stack(corners, dim=1)


@pytest.mark.parametrize(
    "path",
    [
        StraightLine(baseline=Zero()),
        StraightLine(baseline=Uniform()),
        BlurLine(max_sigma=4.0),
        BlurLine(max_sigma=0.3),
        ease_in,
        bent,
        points_to(samples(3)),
    ],
    ids=["straight", "uniform", "blur", "little blur", "ease in", "bent", "points"],
)
def test_paths_keep_the_laws(path: Any) -> None:
    """Ends, velocity against finite differences, independent rows, completeness."""
    verdicts = {v.law: v.outcome for v in check_path(path)}
    assert {"ends", "rows", "completeness"} <= {law for law, out in verdicts.items() if out == "holds"}


@settings(max_examples=20)
@given(height=st.integers(1, 9), width=st.integers(1, 9), sigma=st.floats(0.1, 60), alpha=st.floats(0, 1))
def test_a_blur_keeps_the_mean_and_its_velocity_is_a_derivative(
    height: int, width: int, sigma: float, alpha: float
) -> None:
    x = samples(2, shape=(2, height, width))
    bound = BlurLine(max_sigma=sigma).bind(problem_of(_Sum(), x))
    who, at = torch.arange(2), torch.full((2,), alpha, dtype=torch.float64)
    point = bound.point(who, at)
    torch.testing.assert_close(point.mean((2, 3)), x.mean((2, 3)), rtol=0, atol=1e-13)
    assert float(point.amax()) <= float(x.amax()) + 1e-12
    step = 1e-6
    low, high = (at - step).clamp_min(0), (at + step).clamp_max(1)
    slope = (bound.point(who, high) - bound.point(who, low)) / along(high - low, x)
    if 0.001 < alpha < 0.999:
        torch.testing.assert_close(bound.velocity(who, at), slope, rtol=1e-5, atol=1e-7 * (1 + sigma**2))


def test_a_blur_is_a_convolution_with_a_gaussian() -> None:
    """Against a direct sum over mirrored copies of the image."""
    x, sigma = samples(1, shape=(1, 1, 8)), 2.0
    bound = BlurLine(max_sigma=sigma).bind(problem_of(_Sum(), x))
    mirrored = torch.cat([x[0, 0, 0], x[0, 0, 0].flip(0)]).repeat(9)
    at = torch.arange(len(mirrored), dtype=torch.float64)
    start = 4 * 16
    for i in range(8):
        weight = torch.exp(-((at - start - i) ** 2) / (2 * sigma**2))
        expected = float((mirrored * weight).sum() / weight.sum())
        assert float(bound.reference[0, 0, 0, i]) == pytest.approx(expected, abs=1e-9)


class _Sum(nn.Module):
    """Two scores of an image of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        total = x.flatten(1).sum(1) * self.one
        return torch.stack([total, total.square()], dim=1)


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)
@pytest.mark.parametrize("quadrature", [GaussLegendre(), Trapezoid()], ids=["gauss", "trapezoid"])
def test_the_integral_is_the_known_one(known: Any, quadrature: Any) -> None:
    x = samples(3)
    engine = PathIntegral(path=StraightLine(baseline=Zero()), quadrature=quadrature, steps=400)
    found = engine.run(problem_of(known.net(), x)).attribution.flatten(1)[:, :2]
    expected = known.integrated(x.flatten(1)[:, 0], x.flatten(1)[:, 1])
    exact = isinstance(quadrature, GaussLegendre)
    torch.testing.assert_close(found, expected, rtol=1e-11 if exact else 1e-4, atol=1e-12)


def test_the_published_trapezoid_gives_the_share_of_its_weights() -> None:
    problem = problem_of(nets.Linear(), samples(2))
    line = StraightLine(baseline=Zero())
    full = PathIntegral(path=line, quadrature=Trapezoid(), steps=50).run(problem)
    short = PathIntegral(path=line, quadrature=PublishedTrapezoid(), steps=50).run(problem)
    torch.testing.assert_close(short.attribution, full.attribution * 49 / 50, rtol=1e-12, atol=0)


# ---------------------------------------------------------------- refinement


class _Line:
    """A bound straight line from zero."""

    has_velocity = True

    def __init__(self, x: Tensor) -> None:
        self.x, self.reference = x, torch.zeros_like(x)

    def point(self, owner: Tensor, alpha: Tensor) -> Tensor:
        return self.x[owner] * along(alpha, self.x)

    def velocity(self, owner: Tensor, alpha: Tensor) -> Tensor:
        return self.x[owner].clone()


def trapezoid(problem: Any, line: BoundPath, intervals: int) -> Tensor:
    nodes, weights = Trapezoid().nodes(intervals + 1)
    return integrate(problem, line, nodes, weights)


@pytest.mark.parametrize("doublings", [1, 2, 4])
def test_refining_gives_the_plain_trapezoid_of_the_same_nodes(doublings: int) -> None:
    """T_2n = (T_n + M_n) / 2 without an earlier gradient: 2ᵏ intervals after k doublings, cost included."""
    x = samples(2)
    problem, line = problem_of(nets.Smooth(), x), _Line(x)
    who = torch.arange(2)
    pieces = Pieces(
        owner=who,
        group=who,
        start=torch.zeros(2, dtype=torch.float64),
        length=torch.ones(2, dtype=torch.float64),
        gain=torch.full((2,), 1e9, dtype=torch.float64),  # out of reach, so that only `most` ends it
        total=trapezoid(problem, line, 1),
    )
    before = problem.evaluator.cost.backward_rows
    used = refine(problem, line, pieces, torch.full((2,), 1e-9, dtype=torch.float64), most=2**doublings - 1)
    torch.testing.assert_close(pieces.total, trapezoid_of(x, 2**doublings), rtol=1e-12, atol=1e-14)
    assert used.tolist() == [2**doublings - 1] * 2
    assert pieces.intervals.tolist() == [2**doublings] * 2
    assert problem.evaluator.cost.backward_rows - before == int(used.sum())


def trapezoid_of(x: Tensor, intervals: int) -> Tensor:
    return trapezoid(problem_of(nets.Smooth(), x), _Line(x), intervals)


@pytest.mark.parametrize("tolerance", [0.1, 0.01, 1e-4])
@pytest.mark.parametrize(
    "path", [StraightLine(baseline=Zero()), BlurLine(max_sigma=5.0), UserPath(path=bent)]
)
def test_a_tolerance_is_reached_and_its_nodes_are_reported(path: Any, tolerance: float) -> None:
    problem = problem_of(nets.Smooth(scale=12.0), samples(4))
    before = problem.evaluator.cost.backward_rows
    engine = PathIntegral(path=path, steps=8, tolerance=tolerance, max_steps=4096)
    result = engine.run(problem)
    assert result.delta is not None
    missed = (result.delta - result.attribution.flatten(1).sum(1)).abs() / result.delta.abs()
    assert float(missed.max()) <= tolerance * (1 + 1e-6)
    assert int(result.diagnostics["nodes"].sum()) == problem.evaluator.cost.backward_rows - before
    assert result.warnings == []


def test_a_tolerance_is_reached_across_kinks() -> None:
    engine = PathIntegral(path=StraightLine(baseline=Constant(value=0.7)), tolerance=0.002)
    result = engine.run(problem_of(nets.Homogeneous(), samples(6)))
    assert result.delta is not None
    missed = (result.delta - result.attribution.flatten(1).sum(1)).abs() / result.delta.abs()
    print(missed, result.diagnostics["nodes"])
    assert float(missed.max()) <= 0.002 * (1 + 1e-6)
    assert int(result.diagnostics["nodes"].max()) > 9  # the first panels were not enough


def test_finer_tolerances_take_more_nodes_and_each_sample_its_own() -> None:
    x = samples(6)
    x[0] *= 0.05  # an almost linear way
    nodes = []
    for tolerance in (0.05, 1e-3, 1e-5):
        engine = PathIntegral(path=StraightLine(baseline=Zero()), tolerance=tolerance)
        nodes.append(engine.run(problem_of(nets.Smooth(scale=12.0), x)).diagnostics["nodes"])
    assert bool((nodes[0] <= nodes[1]).all())
    assert bool((nodes[1] <= nodes[2]).all())
    assert int(nodes[2][0]) < int(nodes[2][1:].min())


def test_a_tolerance_out_of_reach_is_said() -> None:
    engine = PathIntegral(path=StraightLine(baseline=Zero()), tolerance=1e-12, max_steps=16)
    result = engine.run(problem_of(nets.Smooth(), samples(2)))
    assert [Code.TOLERANCE_NOT_REACHED.value in w for w in result.warnings] == [True]
    assert int(result.diagnostics["nodes"].max()) <= 2 * 16 + 9


# ---------------------------------------------------------------- paths of one's own


def test_functions_and_points_agree_with_the_line_they_follow() -> None:
    x = samples(3)
    problem = problem_of(nets.Smooth(), x)
    line = PathIntegral(path=StraightLine(baseline=Zero()), steps=200).run(problem).attribution
    corners = torch.stack([torch.zeros_like(x), x / 2, x], dim=1)
    for path in (ease_in, corners):
        engine = PathIntegral(path=UserPath(path=path), steps=400)
        found = engine.run(problem).attribution
        torch.testing.assert_close(found, line, rtol=1e-3, atol=1e-4)


def test_every_corner_of_a_polyline_is_a_node() -> None:
    """On a linear model chords are exact whatever the nodes; the corners decide where they run."""
    x = samples(2)
    net = nets.Linear()
    engine = PathIntegral(path=UserPath(path=points_to(x, 4)), steps=7)
    result = engine.run(problem_of(net, x))
    start = points_to(x, 4)[:, 0]
    torch.testing.assert_close(
        result.attribution.flatten(1), (x - start).flatten(1) * net.weight[1].detach(), rtol=1e-10, atol=1e-12
    )
    assert result.diagnostics["nodes"].tolist() == [10, 10]  # 7 segments, rounded up to 3 per side


def not_finite(x: Tensor, alpha: Tensor) -> Tensor:
    return x / along(alpha, x)


def wrong_shape(x: Tensor, alpha: Tensor) -> Tensor:
    return x[:, :1]


def wrong_end(x: Tensor, alpha: Tensor) -> Tensor:
    return x * along(1 - alpha, x)


def no_tensor(x: Tensor, alpha: Tensor) -> Any:
    return x.tolist()


def raises(x: Tensor, alpha: Tensor) -> Tensor:
    raise ZeroDivisionError("mine")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (not_finite, "NaN or infinity"),
        (wrong_shape, "one point per row"),
        (wrong_end, "must end at the input"),
        (no_tensor, "list"),
        (raises, "ZeroDivisionError: mine"),
    ],
)
def test_wrong_functions_are_refused(path: Callable[..., Any], said: str) -> None:
    with pytest.raises(SpecError, match=said) as refused:
        PathIntegral(path=UserPath(path=path), steps=4).run(problem_of(nets.Linear(), samples(2)))
    assert refused.value.code is Code.PATH


@pytest.mark.parametrize(
    ("points", "said"),
    [
        (samples(3)[:, None], "do not fit"),
        (samples(2)[:, None], "at least two"),
        (torch.zeros(2, 4, *nets.SHAPE, dtype=torch.float64), "must end at the input"),
        (torch.zeros(4, 3, 5, 5, dtype=torch.float64), "do not fit"),
    ],
)
def test_wrong_points_are_refused(points: Tensor, said: str) -> None:
    with pytest.raises(SpecError, match=said) as refused:
        UserPath(path=points).bind(problem_of(nets.Linear(), samples(2)))
    assert refused.value.code is Code.PATH


def test_points_with_nan_are_refused() -> None:
    points = points_to(samples(2))
    points[0, 1, 0, 0, 0] = torch.nan
    with pytest.raises(AbeError):
        PathIntegral(path=UserPath(path=points), steps=4).run(problem_of(nets.Linear(), samples(2)))


class OtherShape:
    stochastic = False

    def rows(self, problem: Any, owner: Tensor, draw: Tensor) -> Tensor:
        return problem.x[owner][:, :1]


class NotFinite:
    stochastic = False

    def rows(self, problem: Any, owner: Tensor, draw: Tensor) -> Tensor:
        return problem.x[owner] * torch.inf


@pytest.mark.parametrize(
    ("baseline", "code"), [(OtherShape(), Code.BASELINE_SHAPE), (NotFinite(), Code.NOT_FINITE_INPUT)]
)
def test_wrong_baselines_are_refused(baseline: Any, code: Code) -> None:
    with pytest.raises(InputError) as refused:
        StraightLine(baseline=baseline).bind(problem_of(nets.Linear(), samples(2)))
    assert refused.value.code is code


def test_the_kit_finds_a_velocity_that_is_not_the_derivative() -> None:
    with pytest.raises(LawBroken, match="velocity") as broken:
        check_path(TooFast())
    assert {b.law for b in broken.value.breaches} == {"velocity", "completeness"}


class TooFast:
    def bind(self, problem: Any) -> Any:
        line = _Line(problem.x)
        line.velocity = lambda owner, alpha: 2 * problem.x[owner]
        return line


@pytest.mark.parametrize("bad", [{"steps": 0}, {"steps": 2.0}, {"tolerance": 0}, {"tolerance": -1.0}])
def test_bad_settings_are_refused_before_anything_runs(bad: dict[str, Any]) -> None:
    with pytest.raises((SpecError, TypeError)):
        PathIntegral(path=StraightLine(baseline=Zero()), **bad)


@pytest.mark.parametrize("most", [2, 3, 9, 10, 31, 100])
@pytest.mark.parametrize("path", ["line", "points", "big"])
def test_the_adaptive_rule_never_uses_more_nodes_than_it_may(most, path):
    x = samples(3)
    if path == "line":
        how: Any = ("integrated_gradients", {"tolerance": 1e-9, "max_steps": most})
    elif path == "points":
        points = torch.stack([torch.zeros_like(x), x], 1)
        how = ("path_integral", {"path": points, "tolerance": 1e-9, "max_steps": most})
    else:
        how = ("big", {"radii": (0.5, 3.0), "tolerance": 1e-9, "max_steps": most})
    counted = nets.Watched(nets.Smooth(scale=40).eval())
    found = abe.explain(task_of(counted), x, how, target=0, progress=False, execution="model")
    assert int(found.diagnostics["nodes"].max()) <= most
    assert path == "big" or counted.backward_rows <= 3 * most
    assert any("ABE-TOLERANCE-NOT-REACHED" in w for w in found.warnings)


def test_fewer_nodes_than_a_path_has_are_refused():
    with pytest.raises(AbeError, match="max_steps"):
        abe.method("ig", tolerance=0.1, max_steps=1)
    corners = torch.stack([samples(1)[0] * k / 5 for k in range(6)])
    how = ("path_integral", {"path": corners, "tolerance": 0.1, "max_steps": 4})
    with pytest.raises(AbeError, match="own points"):
        abe.explain(task_of(nets.Smooth().eval()), samples(1), how, target=0, progress=False)

"""Dynamic paths: rules, nodes inside steps, rows that leave, and updates of one's own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import abe
from abe.baselines import Zero
from abe.engines.path.curves import StraightLine
from abe.engines.path.dynamic import UpdatePath
from abe.engines.path.guided import GuidedStep
from abe.engines.path.quadrature import Left, Trapezoid
from abe.engines.path.static import PathIntegral
from abe.engines.path.step import Descent, Point, UserUpdate
from abe.engines.runtime.problem import Problem
from abe.engines.runtime.shapes import along
from abe.errors import Code, SpecError
from abe.testing import LawBroken, check_update, nets, problem_of, samples, task_of


class Quadratic(nn.Module):
    """s₁ = Σ u² / 2 with gradient u; s₀ = 3 − s₁ falls below it where Σ u² > 3."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        score = x.flatten(1).square().sum(1) / 2 * self.one
        return torch.stack([3 - score, score], dim=1)


def halve(point: Point) -> Tensor:
    return point.x / 2


def stay(point: Point) -> Tensor:
    return point.x.clone()


def to_sample(point: Point) -> Tensor:
    """In equal steps from the start to the sample."""
    share = (point.step + 1) / point.steps
    return torch.lerp(point.start, point.sample, share)


def walk(update: Callable[[Point], Any] | Any, x: Tensor, *, net: nn.Module | None = None, **how: Any) -> Any:
    made = update if hasattr(update, "step") else UserUpdate(function=update)
    return UpdatePath(update=made, **how).run(problem_of(net or Quadratic(), x))


def test_rules_on_a_quadratic_by_hand() -> None:
    """From u to u/4 in two halvings: left adds u²(1/2 + 1/8), trapezoid and nodes give (u² − u²/16)/2."""
    x = samples(2, shape=(1, 1, 3))
    square = x.square()
    left = walk(halve, x, steps=2, rule="left")
    torch.testing.assert_close(left.attribution, square * (1 / 2 + 1 / 8), rtol=1e-12, atol=0)
    exact = square * (1 - 1 / 16) / 2
    for how in ({"rule": "trapezoid"}, {"segment_nodes": 1}, {"segment_nodes": 4}, {"tolerance": 1e-3}):
        found = walk(halve, x, steps=2, **how)
        torch.testing.assert_close(found.attribution, exact, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(found.delta, exact.flatten(1).sum(1), rtol=1e-12, atol=0)


@pytest.mark.parametrize("rule", ["left", "trapezoid"])
def test_straight_steps_are_the_static_rule(rule: str) -> None:
    """Moving evenly from zero to the input is the straight line with that quadrature."""
    x, net = samples(3), nets.Smooth()
    moving = walk(to_sample, x, net=net, steps=8, rule=rule, start=Zero())
    quadrature, steps = (Left(), 8) if rule == "left" else (Trapezoid(), 9)
    line = PathIntegral(path=StraightLine(baseline=Zero()), quadrature=quadrature, steps=steps)
    static = line.run(problem_of(net, x))
    torch.testing.assert_close(moving.attribution, static.attribution, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(moving.delta, static.delta, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("tolerance", [0.1, 0.01, 1e-3])
@pytest.mark.parametrize("rule", ["left", "trapezoid"])
def test_a_tolerance_is_reached_under_either_rule(rule: str, tolerance: float) -> None:
    problem = problem_of(nets.Smooth(scale=12.0), samples(4))
    before = problem.evaluator.cost.backward_rows
    engine = UpdatePath(update=Descent(alpha=0.1), steps=4, rule=rule, tolerance=tolerance)
    result = engine.run(problem)
    assert result.delta is not None
    missed = (result.delta - result.attribution.flatten(1).sum(1)).abs() / result.delta.abs()
    assert float(missed.max()) <= tolerance
    assert int(result.diagnostics["nodes"].sum()) <= problem.evaluator.cost.backward_rows - before
    assert result.warnings == []


def test_more_nodes_inside_the_steps_miss_less() -> None:
    x, net = samples(3), nets.Smooth(scale=12.0)
    missed = []
    for nodes in (1, 4, 16):
        found = walk(Descent(alpha=0.1), x, net=net, steps=3, segment_nodes=nodes)
        gap = (found.delta - found.attribution.flatten(1).sum(1)).abs() / found.delta.abs()
        missed.append(float(gap.max()))
    print(missed)
    assert missed[0] > 2 * missed[1] > 4 * missed[2]
    assert missed[2] < 1e-4


def grow(point: Point) -> Tensor:
    return point.x * 1.05


def test_rows_that_stop_leave_the_others_unchanged() -> None:
    """Each row ends when its own label flips, as it does alone; the others go on."""
    x = samples(5, shape=(1, 1, 4))
    x = x * (along(torch.tensor([0.5, 1.4, 1.1, 1.55, 0.8], dtype=torch.float64), x))
    x = (
        x
        / x.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        * torch.tensor([1.0, 1.7, 1.4, 1.72, 1.2]).view(-1, 1, 1, 1)
    )
    problem = unbounded(x)
    engine = UpdatePath(update=UserUpdate(function=grow), steps=9, stop="flip")
    together = engine.run(problem)
    steps = together.diagnostics["steps"].tolist()
    radius = x.flatten(1).norm(dim=1)
    expected = [next((t for t in range(1, 10) if r * 1.05**t > 3**0.5), 9) for r in radius.tolist()]
    assert steps == expected
    assert len(set(steps)) > 2
    alone = torch.cat([engine.run(unbounded(x[i : i + 1])).attribution for i in range(5)])
    torch.testing.assert_close(together.attribution, alone, rtol=1e-12, atol=0)
    growth = torch.tensor([1.05 ** (2 * t) for t in steps], dtype=torch.float64)
    by_hand = -x.square() * along((growth - 1) / 2, x)
    torch.testing.assert_close(together.attribution, by_hand, rtol=1e-10, atol=0)


def unbounded(x: Tensor) -> Any:
    problem = problem_of(Quadratic(), x)
    problem.task.low = problem.task.high = None
    return problem


def test_rows_that_left_cost_nothing() -> None:
    x = samples(3, shape=(1, 1, 4))
    x = x / x.flatten(1).norm(dim=1).view(-1, 1, 1, 1) * torch.tensor([1.0, 1.7, 1.7]).view(-1, 1, 1, 1)
    problem = unbounded(x)
    before = problem.evaluator.cost.backward_rows
    result = UpdatePath(update=UserUpdate(function=grow), steps=20, stop="flip").run(problem)
    steps = result.diagnostics["steps"]
    assert problem.evaluator.cost.backward_rows - before == int(steps.sum()) + 3
    assert torch.equal(result.diagnostics["nodes"], steps + 1)


@dataclass(frozen=True)
class Counting:
    """Carries a number per row from step to step; rows move by it."""

    def step(self, point: Point, state: Mapping[str, Tensor]) -> tuple[Tensor, Mapping[str, Tensor]]:
        count = state.get("count", torch.zeros(len(point.x), dtype=point.x.dtype)) + point.owner + 1
        return point.x * (1 + 0.01 * along(count, point.x)), {"count": count}


def test_the_state_of_a_row_stays_with_it_when_others_leave() -> None:
    x = samples(4, shape=(1, 1, 4))
    x = (
        x
        / x.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        * torch.tensor([1.0, 1.72, 1.2, 1.71]).view(-1, 1, 1, 1)
    )
    result = UpdatePath(update=Counting(), steps=6, stop="flip").run(unbounded(x))
    for i, steps in enumerate(result.diagnostics["steps"].tolist()):
        growth = 1.0
        for t in range(steps):
            growth *= 1 + 0.01 * (t + 1) * (i + 1)
        by_hand = -x[i].square() * (growth**2 - 1) / 2
        torch.testing.assert_close(result.attribution[i], by_hand, rtol=1e-10, atol=0)


def test_the_sum_explains_the_change_towards_the_input_from_either_end() -> None:
    """From the input: s(x) − s(end). From a baseline: s(end) − s(baseline)."""
    x = samples(2, shape=(1, 1, 3))
    away = walk(halve, x, steps=1)
    torch.testing.assert_close(away.delta, x.square().flatten(1).sum(1) * 3 / 8, rtol=1e-12, atol=0)
    towards = walk(to_sample, x, steps=3, start=Zero())
    torch.testing.assert_close(towards.delta, x.square().flatten(1).sum(1) / 2, rtol=1e-12, atol=0)
    assert towards.warnings == []


def test_a_path_that_misses_the_input_or_does_not_move_says_so() -> None:
    x = samples(2, shape=(1, 1, 3))
    short = walk(halve, x, steps=2, start=Zero())
    assert [Code.PATH.value in w for w in short.warnings] == [True]
    still = walk(stay, x, steps=2)
    assert [Code.NO_CHANGE.value in w for w in still.warnings] == [True]
    assert not still.attribution.any()


@pytest.mark.parametrize("fraction", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("max_dist", [0.0, 0.05, 1.0])
def test_guided_steps_arrive_and_stay_in_their_band(fraction: float, max_dist: float) -> None:
    """Every step shrinks the L1 distance to the input by 1/T, inside the band; the last one arrives."""
    x = samples(3)
    seen: list[Tensor] = []
    step = GuidedStep(fraction=fraction, max_dist=max_dist)

    @dataclass(frozen=True)
    class Seen:
        def step(self, point: Point, state: Any) -> Any:
            moved, after = step.step(point, state)
            seen.append(moved)
            return moved, after

    walk(Seen(), x, net=nets.Smooth(), steps=5, rule="left", start=Zero())
    whole = x.flatten(1).sum(1)
    for t, moved in enumerate(seen):
        alpha = (t + 1) / 5
        place = moved / x
        assert float(place.min()) >= max(alpha - max_dist, 0) - 1e-9
        assert float(place.max()) <= min(alpha + max_dist, 1) + 1e-9
        torch.testing.assert_close(
            (x - moved).abs().flatten(1).sum(1), whole * (1 - alpha), rtol=1e-6, atol=1e-8
        )


# ---------------------------------------------------------------- updates of one's own that are wrong


def not_finite(point: Point) -> Tensor:
    return point.x / 0


def wrong_shape(point: Point) -> Tensor:
    return point.x[:, :1]


def out_of_bounds(point: Point) -> Tensor:
    return point.x + 1


def nothing(point: Point) -> Any:
    return None


def raises(point: Point) -> Tensor:
    raise KeyError("mine")


@pytest.mark.parametrize(
    ("update", "said"),
    [
        (not_finite, "NaN or infinity"),
        (wrong_shape, "next point of every row"),
        (out_of_bounds, "left the task's bounds"),
        (nothing, "None"),
        (raises, "KeyError: 'mine'"),
    ],
)
def test_wrong_updates_are_refused(update: Callable[[Point], Any], said: str) -> None:
    with pytest.raises(SpecError, match=said) as refused:
        walk(update, samples(2), net=nets.Linear(), steps=2)
    assert refused.value.code is Code.UPDATE


@dataclass(frozen=True)
class Alone:
    """Returns the points and forgets the state."""

    def step(self, point: Point, state: Any) -> Any:
        return point.x * 0.9


def test_an_update_that_writes_into_its_point_is_refused() -> None:
    """It would take the step out of the sum."""
    with pytest.raises(SpecError, match="wrote into") as refused:
        walk(in_place, samples(2), net=nets.Linear(), steps=2)
    assert refused.value.code is Code.UPDATE


def test_an_update_that_returns_no_state_is_refused_with_its_code() -> None:
    with pytest.raises(SpecError, match="next points and its state") as refused:
        walk(Alone(), samples(2), net=nets.Linear(), steps=2)
    assert refused.value.code is Code.UPDATE


def in_place(point: Point) -> Tensor:
    return point.x.mul_(0.9)


def batch_mean(point: Point) -> Tensor:
    return point.clip(point.x - 0.01 * point.gradient.mean(0, keepdim=True).sign())


def unseeded(point: Point) -> Tensor:
    return point.clip(point.x + 0.01 * torch.randn_like(point.x))


@pytest.mark.parametrize(
    ("update", "law"),
    [(in_place, "points"), (batch_mean, "rows"), (unseeded, "randomness"), (stay, "completeness")],
)
def test_the_kit_finds_what_is_wrong(update: Callable[[Point], Tensor], law: str) -> None:
    with pytest.raises(LawBroken) as broken:
        check_update(update)
    assert law in {b.law for b in broken.value.breaches}


@pytest.mark.parametrize("bad", [{"rule": "right"}, {"steps": 0}, {"segment_nodes": 2, "tolerance": 0.1}])
def test_bad_settings_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises((SpecError, TypeError)):
        UpdatePath(**{"update": Descent(), "steps": 2, **bad})


def test_a_path_that_hangs_on_rounding_runs_on_the_model_itself() -> None:
    task, x = task_of(nets.Convolutional(dtype=torch.float32)), samples(4, dtype=torch.float32)
    how = {"target": 1, "ids": range(4), "progress": False}
    abe.explain(task, x, ("ig", {"steps": 64}), **how)  # enough rows for a copy to be chosen
    found = abe.explain(task, x, "guided_ig", **how)
    assert found.cost.execution == "model"
    own = abe.explain(task, x, "guided_ig", execution="model", **how)
    assert torch.equal(found.attribution, own.attribution)
    assert found.cost.forward_rows == own.cost.forward_rows


@pytest.mark.parametrize("classes", [(1,), (1, 2), (4, 3, 1, 2)])
def test_the_start_is_looked_at_once_and_only_for_what_is_followed(monkeypatch, classes):
    """All runs of a sample begin at it: one pass for the score's gradient and those of the classes."""
    heads: list[int] = []
    real = Problem.gradients

    def watched(self, rows, owner, wanted):
        heads.append(len(wanted))
        return real(self, rows, owner, wanted)

    monkeypatch.setattr(Problem, "gradients", watched)
    net = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(48, 6), torch.nn.Tanh(), torch.nn.Linear(6, 5)
    )
    abe.explain(
        abe.image_task(net.eval()), torch.rand(3, 3, 4, 4), "agi", target=0, classes=classes, progress=False
    )
    assert heads[0] == 1 + len(classes)

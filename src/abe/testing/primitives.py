"""Laws of paths, objectives and updates, the parts that methods are composed of."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn

from abe.engines.path.curves import UserPath
from abe.engines.path.dynamic import UpdatePath
from abe.engines.path.static import PathIntegral
from abe.engines.path.step import Point, Update, UserUpdate
from abe.objectives import as_objective
from abe.registry import Registry, methods, objectives, paths, updates
from abe.spec import describe, from_spec, to_spec
from abe.testing import nets
from abe.testing.bench import problem_of, samples
from abe.testing.draws import RecordedDraws
from abe.testing.laws import Laws, Numbers, Verdict, ensure, run
from abe.testing.methods import COMPLETE, difference
from abe.types import BoundPath, Card, Objective, Path

PATH_LAWS, OBJECTIVE_LAWS, UPDATE_LAWS = Laws(), Laws(), Laws()

EXACT = 1e-12
"""What rounding leaves in float64."""
SLOPE = 1e-6
"""Share by which a velocity may miss the central difference of its points in float64."""
LEAN = 1e-5
"""Step of that difference in alpha."""


@dataclass(frozen=True)
class PrimitiveCase:
    """A path, objective or update under test."""

    kind: str
    value: Any
    card: Card

    @property
    def subject(self) -> str:
        """How messages call it."""
        return f"The {self.kind} {shorten(json.dumps(describe(self.value)), 120)}"


def check_path(path: Any, *, only: str | Sequence[str] | None = None, **params: Any) -> list[Verdict]:
    """Run the laws of a static path: ends, velocity, independent rows, completeness, specification.

    Args:
        path: a registered name, a path value, a function ``(x, alpha) -> points``, or points.
        only: names of laws, to check these alone.
        **params: parameters, when ``path`` is a name.

    Raises:
        LawBroken: what does not hold, with the numbers and how to read them.
    """
    made = _made(paths, path, params)
    bound = made if isinstance(made, Path) else UserPath(path=made)
    return run(PATH_LAWS, PrimitiveCase("path", bound, _card(paths, path, bound)), only)


def check_objective(
    objective: Any, *, only: str | Sequence[str] | None = None, **params: Any
) -> list[Verdict]:
    """Run the laws of an objective: one score per row, no row knows another, higher is more.

    Args:
        objective: a registered name, a value, or a function ``(outputs, target) -> (n,)``.
        only: names of laws, to check these alone.
        **params: parameters, when ``objective`` is a name. Layers are those of the net
            `abe.testing.nets.Smooth`: ``"first"`` and ``"second"``.

    Raises:
        LawBroken: what does not hold, with the numbers and how to read them.
    """
    value = as_objective(_made(objectives, objective, params))
    return run(OBJECTIVE_LAWS, PrimitiveCase("objective", value, _card(objectives, objective, value)), only)


def check_update(update: Any, *, only: str | Sequence[str] | None = None, **params: Any) -> list[Verdict]:
    """Run the laws of an update: valid points, untouched arguments, independent rows, completeness.

    Args:
        update: a registered name, a value with ``step``, or a function ``point -> next points``.
        only: names of laws, to check these alone.
        **params: parameters, when ``update`` is a name.

    Raises:
        LawBroken: what does not hold, with the numbers and how to read them.
    """
    made = _made(updates, update, params)
    value = made if isinstance(made, Update) else UserUpdate(function=made)
    return run(UPDATE_LAWS, PrimitiveCase("update", value, _card(updates, update, value)), only)


def _made(registry: Registry, given: Any, params: dict[str, Any]) -> Any:
    if not isinstance(given, str):
        return registry.resolve(given)
    entry = registry.get(given)
    missing = [name for name in entry.required() if name not in params]
    example = dict(entry.card.example) if missing else {}
    return registry.make(given, **{**example, **params})


def _card(registry: Registry, given: Any, value: Any) -> Card:
    if isinstance(given, str):
        return registry.get(given).card
    found = next((e.card for e in registry.entries() if e.factory is type(value)), None)
    name = type(value).__name__
    return found or Card(name=name, title=name, summary="", source="")


def _spec_law(case: PrimitiveCase) -> Numbers:
    """The specification survives JSON, equal and with the same hash."""
    text = json.dumps(describe(case.value))
    if "opaque" in text:
        return {"described": True}
    back = from_spec(json.loads(json.dumps(to_spec(case.value))))
    return ensure(back == case.value and hash(back) == hash(case.value), restored=repr(back))


for _laws in (PATH_LAWS, OBJECTIVE_LAWS, UPDATE_LAWS):
    _laws.add(
        "spec",
        "`restored` is what came back. Make the class a value with @abe.spec.value and register it; a "
        "function has no name and is only described.",
    )(_spec_law)


# ---------------------------------------------------------------- paths


def _bound(case: PrimitiveCase, b: int = 3) -> tuple[BoundPath, Tensor]:
    x = samples(b)
    return case.value.bind(problem_of(nets.Smooth(), x)), x


def _everyone(x: Tensor) -> Tensor:
    return torch.arange(len(x))


def _gap(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


@PATH_LAWS.add(
    "ends",
    f"`start` and `end` are the largest distances; {EXACT:g} is allowed in float64.",
)
def ends(case: PrimitiveCase) -> Numbers:
    """alpha 0 is the reference and alpha 1 the input."""
    bound, x = _bound(case)
    zero, one = torch.zeros(len(x), dtype=x.dtype), torch.ones(len(x), dtype=x.dtype)
    start = _gap(bound.point(_everyone(x), zero), bound.reference)
    end = _gap(bound.point(_everyone(x), one), x)
    return ensure(max(start, end) <= EXACT, start=start, end=end)


@PATH_LAWS.add(
    "velocity",
    f"`difference` compares with central differences of step {LEAN:g}, as a share of the path's fastest "
    f"change; {SLOPE:g} is allowed. `point_after` must be 0: writing into the velocity must not move the "
    "path.",
    when=lambda case: "" if _bound(case)[0].has_velocity else "it has no velocity, chords are used",
)
def velocity(case: PrimitiveCase) -> Numbers:
    """The velocity is the derivative of the point by alpha."""
    bound, x = _bound(case)
    alpha = torch.tensor([0.2, 0.55, 0.9], dtype=x.dtype)
    who = _everyone(x)
    ahead, behind = bound.point(who, alpha + LEAN), bound.point(who, alpha - LEAN)
    slope = bound.velocity(who, alpha)
    fastest = max(float(slope.abs().max()), _gap(x, bound.reference), 1e-300)
    gap = _gap(slope, (ahead - behind) / (2 * LEAN)) / fastest
    slope.fill_(9.0)
    moved = _gap(bound.point(who, alpha + LEAN), ahead)
    return ensure(gap <= SLOPE and moved == 0, difference=gap, point_after=moved)


@PATH_LAWS.add(
    "rows",
    "`batch` compares points of one sample alone with those among others, `order` the same in another "
    f"order; {EXACT:g} is allowed.",
)
def path_rows(case: PrimitiveCase) -> Numbers:
    """A point depends on its own sample and alpha only."""
    bound, x = _bound(case)
    owner, alpha = torch.tensor([2, 0, 1, 0]), torch.tensor([0.1, 0.7, 0.4, 0.95], dtype=x.dtype)
    together = bound.point(owner, alpha)
    alone = torch.cat([bound.point(owner[i : i + 1], alpha[i : i + 1]) for i in range(4)])
    flipped = bound.point(owner.flip(0), alpha.flip(0)).flip(0)
    batch, order = _gap(together, alone), _gap(together, flipped)
    return ensure(max(batch, order) <= EXACT, batch=batch, order=order)


@PATH_LAWS.add(
    "form",
    "`shape` and `dtype` are those of the points, `finite` whether all numbers are.",
)
def path_form(case: PrimitiveCase) -> Numbers:
    """Points have the input's shape and type and are finite."""
    bound, x = _bound(case)
    points = bound.point(_everyone(x), torch.tensor([0.0, 0.3, 1.0], dtype=x.dtype))
    finite = bool(torch.isfinite(points).all())
    right = points.shape == x.shape and points.dtype == x.dtype and finite
    return ensure(right, shape=tuple(points.shape), dtype=points.dtype, finite=finite)


@PATH_LAWS.add(
    "completeness",
    f"`missed` is the worst share of the change at 400 nodes on a smooth net; {COMPLETE:g} is allowed. More "
    "means that points and velocity do not belong together, or that the path jumps.",
)
def path_completeness(case: PrimitiveCase) -> Numbers:
    """The gradient integrated along it gives the score change between its ends."""
    problem = problem_of(nets.Smooth(), samples(3))
    result = PathIntegral(path=case.value, steps=400).run(problem)
    if result.delta is None:
        return ensure(False, delta=None)
    missed = (result.delta - result.attribution.flatten(1).sum(1)).abs() / result.delta.abs()
    return ensure(float(missed.max()) <= COMPLETE, missed=float(missed.max()))


# ---------------------------------------------------------------- objectives


def _scored(case: PrimitiveCase, net: nn.Module, x: Tensor, target: Any) -> tuple[Tensor, Tensor]:
    """Scores and gradients of rows, by the planner."""
    problem = problem_of(net, x, target=target, objective=case.value)
    scores, gradients = torch.zeros(len(x), dtype=x.dtype), torch.zeros_like(x)

    for chunk in problem.gradient(x, problem.everyone):
        scores[chunk.rows], gradients[chunk.rows] = chunk.scores, chunk.gradients
    return scores, gradients


@OBJECTIVE_LAWS.add(
    "rows",
    "`score` and `gradient` are the largest differences between a row alone and in a batch with other "
    f"targets, as shares of the largest value; {EXACT:g} is allowed. A mean over the batch or a B × B block"
    " breaks it.",
)
def objective_rows(case: PrimitiveCase) -> Numbers:
    """A row's score and gradient depend on that row and its target only."""
    x, targets = samples(4), [1, 0, 3, 1]
    scores, gradients = _scored(case, nets.Smooth(), x, targets)
    alone = [_scored(case, nets.Smooth(), x[i : i + 1], targets[i : i + 1]) for i in range(len(x))]
    apart = torch.cat([s for s, _ in alone]), torch.cat([g for _, g in alone])
    score = _gap(scores, apart[0]) / max(float(scores.abs().max()), 1e-300)
    gradient = _gap(gradients, apart[1]) / max(float(gradients.abs().max()), 1e-300)
    return ensure(max(score, gradient) <= EXACT, score=score, gradient=gradient)


@OBJECTIVE_LAWS.add(
    "gradient",
    "`analytic` and `difference` are the change along one direction; they may differ by 1e-6 of the larger"
    " one.",
)
def objective_gradient(case: PrimitiveCase) -> Numbers:
    """It is differentiable: the gradient agrees with differences of the score."""
    x, net = samples(2), nets.Smooth()
    direction = samples(2, seed=7) - 0.5
    _, gradients = _scored(case, net, x, [1, 3])
    up, _ = _scored(case, net, x + 1e-5 * direction, [1, 3])
    down, _ = _scored(case, net, x - 1e-5 * direction, [1, 3])
    analytic, measured = (gradients * direction).flatten(1).sum(1), (up - down) / 2e-5
    gap = float((analytic - measured).abs().max() / measured.abs().max().clamp_min(1e-300))
    return ensure(gap <= 1e-6, analytic=analytic.tolist(), difference=measured.tolist())


@OBJECTIVE_LAWS.add(
    "finite",
    "`not_finite` lists the scales of the logits at which NaN or infinity came out.",
)
def objective_finite(case: PrimitiveCase) -> Numbers:
    """Scores and gradients are finite for decided and for undecided outputs."""
    bad: list[float] = []
    for scale in (0.0, 1.0, 200.0):
        net = nets.Smooth()
        net.second.requires_grad_(False).weight.mul_(scale)
        net.second.bias.mul_(scale)
        for target in (1, None):  # any class, and the decision
            found = _scored(case, net, samples(3), target)
            if not all(bool(torch.isfinite(numbers).all()) for numbers in found):
                bad.append(scale)
    return ensure(not bad, not_finite=bad)


@OBJECTIVE_LAWS.add(
    "higher_is_more",
    "`scores` belong to rising logits of the explained class and must rise too. Losses are to be negated.",
    when=lambda case: "it reads layers" if case.value.layers else "",
)
def higher_is_more(case: PrimitiveCase) -> Numbers:
    """The score rises with the logit of the target where that is the highest."""
    objective: Objective = case.value
    outputs = torch.tensor([0.3, 1.0, -0.2, 0.1, 0.4], dtype=torch.float64).repeat(4, 1)
    outputs[:, 1] += torch.arange(4, dtype=torch.float64)
    scores = objective(outputs, torch.ones(4, dtype=torch.long))
    return ensure(bool((scores.diff() > 0).all()), scores=scores.tolist())


# ---------------------------------------------------------------- updates


@dataclass(frozen=True)
class _Spy:
    """Lets an update step and keeps what was passed and returned."""

    update: Update
    notes: list[dict[str, Any]]

    def step(self, point: Point, state: Any) -> tuple[Tensor, Any]:
        before = {n: getattr(point, n).clone() for n in ("x", "start", "sample", "gradient", "score")}
        moved, after = self.update.step(point, state)
        touched = [n for n, v in before.items() if not torch.equal(v, getattr(point, n))]
        bounds = point.bounds
        outside = (
            0.0
            if bounds is None
            else float(torch.relu(torch.maximum(bounds[0] - moved, moved - bounds[1])).max())
        )
        rows = {k: len(v) if isinstance(v, Tensor) and v.ndim else -1 for k, v in after.items()}
        wrong = [k for k, n in rows.items() if n != len(moved)]
        self.notes.append(
            {"touched": touched, "outside": outside, "state": wrong, "shape": moved.shape == point.x.shape}
        )
        return moved, after


def _walk(case: PrimitiveCase, x: Tensor, *, update: Any = None, steps: int = 3, **how: Any) -> Any:
    settings = {k: how.pop(k) for k in ("tolerance", "stop", "max_segment_nodes") if k in how}
    engine = UpdatePath(update=update or case.value, steps=steps, **settings)
    return engine.run(problem_of(how.pop("net", None) or nets.Smooth(), x, **how))


@UPDATE_LAWS.add(
    "points",
    "`touched` names arguments that were written into, `outside` is how far points left the bounds, `state` "
    "names entries of the state without one row per point.",
)
def update_points(case: PrimitiveCase) -> Numbers:
    """Steps return one point per row, inside the bounds, and change nothing that they are given."""
    spy = _Spy(case.value, [])
    _walk(case, samples(3), update=spy)
    touched = sorted({name for n in spy.notes for name in n["touched"]})
    state = sorted({name for n in spy.notes for name in n["state"]})
    outside = max(n["outside"] for n in spy.notes)
    shape = all(n["shape"] for n in spy.notes)
    right = not touched and not state and outside <= 1e-6 and shape
    return ensure(right, touched=touched, outside=outside, state=state, shape=shape)


@UPDATE_LAWS.add(
    "rows",
    "`alone`, `order`, `chunk` and `left` are the worst differences as shares of the row's maximum; 1e-8 is "
    "allowed in float64. `left` keeps the first row only, as when the others are done.",
)
def update_rows(case: PrimitiveCase) -> Numbers:
    """A row's path does not depend on the other rows, in any order and chunk, also after some have left."""
    x = samples(4)
    together = _walk(case, x).attribution
    gaps = {
        "alone": difference(together, torch.cat([_walk(case, x[i : i + 1]).attribution for i in range(4)])),
        "order": difference(together.flip(0), _walk(case, x.flip(0)).attribution),
        "chunk": difference(together, _walk(case, x, chunk=1).attribution),
        "left": difference(together[:2], _walk(case, x[:2]).attribution),
    }
    return ensure(max(gaps.values()) <= 1e-8, **gaps)


@UPDATE_LAWS.add(
    "randomness",
    "`repeat` compares two walks of one seed and `replayed` a replay of its draws, bit by bit.",
)
def update_randomness(case: PrimitiveCase) -> Numbers:
    """The same seed takes the same path; all draws pass through the point."""
    x, recorder = samples(2), RecordedDraws()
    first = _walk(case, x, chunk=2, draws=recorder).attribution
    repeat = torch.equal(first, _walk(case, x, chunk=2).attribution)
    replayed = torch.equal(first, _walk(case, x, chunk=2, draws=recorder.replayed()).attribution)
    return ensure(repeat and replayed, repeat=repeat, replayed=replayed)


@UPDATE_LAWS.add(
    "completeness",
    "`missed` is the worst share of the change, `tolerance` what was asked for. `moved` says whether the "
    "update moved at all.",
)
def update_completeness(case: PrimitiveCase) -> Numbers:
    """With a tolerance the map sums to the score change along the path."""
    result = _walk(case, samples(3), tolerance=0.01, steps=4)
    delta = result.delta
    missed = float(
        ((delta - result.attribution.flatten(1).sum(1)).abs() / delta.abs().clamp_min(1e-12)).max()
    )
    moved = bool((delta != 0).all())
    return ensure(missed <= 0.01 and moved, missed=missed, tolerance=0.01, moved=moved)


@UPDATE_LAWS.add(
    "method",
    "`method` is the composition that was run.",
)
def update_method(case: PrimitiveCase) -> Numbers:
    """It can be named in a method, explained with, and written down."""
    made = methods.build("path_attribution", update=case.value, steps=2)
    result = made.engine.run(problem_of(nets.Smooth(), samples(2)))
    return ensure(bool(torch.isfinite(result.attribution).all()), method=str(made))

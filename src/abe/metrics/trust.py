"""How far an attribution can be trusted at the decision boundary: pairs, ground truth, three experiments.

Two points x₁ and x₂ on either side of the boundary, A the label at x₁ and B at x₂. With R = f_A − f_B and
r = x₂ − x₁ the ground truth is −r ⊙ ∇R(x₁): it sums to R(x₁) − R(x₂) up to O(|r|²), and positive supports
the decision at x₁.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from abe.api import explain
from abe.checks import (
    Count,
    Size,
    check_choice,
    check_count,
    check_positive,
    listed,
    need_list,
    published,
)
from abe.draws import sample_ids
from abe.engines.path.adversarial_steps import Leave
from abe.engines.path.boundary import NearestAdversary, bisect, labels
from abe.engines.path.class_targets import class_count
from abe.engines.path.dynamic import UpdatePath
from abe.engines.runtime.problem import Problem
from abe.engines.runtime.request import open_request
from abe.engines.runtime.work import Head, score
from abe.errors import AbeError, Code, InputError, SpecError, note
from abe.metrics.evaluation.statistics import intervals
from abe.metrics.evaluation.table import compact
from abe.objectives import Logit, LogProbability
from abe.progress import staged
from abe.registry import Method, items_of, methods
from abe.sizes import OfRange
from abe.task.base import Lifted, Task
from abe.task.start import Given, entrance
from abe.types import Result

Construction = Literal["sign", "l2", "segment"]
CONSTRUCTIONS: tuple[Construction, ...] = ("sign", "l2", "segment")
ETAS = (OfRange(1 / 255), OfRange(1 / 2550), OfRange(1 / 25500))
DEFAULT = ("gradient_x_input", "gradient", "smoothgrad", "ig", "gig", "mfaba", "agi", "big")
BIAS = (
    "Bias of the construction: with a signed step r = ±η, so the ground truth is η|∇R|, which is nowhere "
    "negative; maps of sizes are near it by construction and maps with signs far, a signed gradient too. "
    "Pairs of l2 favour squares of the gradient alike; segment, the difference of two photographs, knows "
    "nothing of it. Where the validity is not small the points are too far apart for a truth: give smaller "
    "etas."
)


@dataclass(frozen=True)
class Pairs:
    """Points on either side of the boundary.

    Attributes:
        inside, outside: (b, *f) x₁ and x₂.
        a, b: (b,) their labels.
        success: (b,) whether a boundary was found; other rows mean nothing.
        gap: (b,) ‖x₂ − x₁‖∞.
        truth: (b, *f) −r ⊙ ∇R(x₁), or with the published sign +r ⊙ ∇R(x₁).
        validity: (b,) |Σ truth − (R(x₁) − R(x₂))| relative to that change; 0 is exact.
    """

    inside: Tensor
    outside: Tensor
    a: Tensor
    b: Tensor
    success: Tensor
    gap: Tensor
    truth: Tensor
    validity: Tensor


@dataclass
class Trust:
    """What `trust` measured; NaN where a sample has no boundary pair.

    Attributes:
        distances: construction -> method -> (b, 4) distance to the ground truth: cosine, L1, L2, and
            cosine of the magnitudes.
        between: construction -> method -> (b, 4) distance of a method's maps at x₁ and x₂.
        over_eta: method -> (b, e) cosine distance of the maps at x₁ and x₂ of sign pairs at ``etas``.
        pairs: construction -> the pairs.
        etas: sizes η: in input units, or shares of the range as by default.
        failures: method -> why it was left out.
        warnings: samples whose attack never crossed, by construction.
        names: of the samples.
    """

    distances: dict[str, dict[str, Tensor]]
    between: dict[str, dict[str, Tensor]]
    over_eta: dict[str, Tensor]
    pairs: dict[str, Pairs]
    etas: tuple[float, ...]
    failures: dict[str, str]
    names: list[str]
    warnings: list[str] = field(default_factory=list)

    @property
    def caption(self) -> str:
        """How to read the table, with the bias of the construction."""
        valid = ", ".join(f"{k} {_mean(p.validity):.2g}" for k, p in self.pairs.items())
        return (
            "Cosine distances, means over samples ± half of their 95 % bootstrap interval: to the ground "
            "truth (T), and between the maps at x1 for "
            "its label and at x2 for its own (P; the sign counts, two classes pull apart), by construction "
            f"of the pair; lower is nearer. Validity of the ground truth: {valid} (0 is exact). "
            f"{BIAS}"
        )

    def table(self) -> Any:
        """A `rich.table.Table`, nearest to the ground truth first."""
        from rich.box import SIMPLE_HEAD

        from abe.terminal import NotedTable

        table = NotedTable(self.caption, box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
        table.add_column("method")
        for kind in self.pairs:
            table.add_column(f"{kind} T", justify="right")
            table.add_column(f"{kind} P", justify="right")
        for eta in self.etas if self.over_eta else ():
            table.add_column(f"P at 1/{1 / eta:.0f}", justify="right")
        for name in self.ranking:
            cells: list[str] = []
            for kind in self.pairs:
                cells.append(_cell(self.distances[kind][name][:, 0]))
                cells.append(_cell(self.between[kind][name][:, 0]))
            if self.over_eta:
                cells += [_cell(column) for column in self.over_eta[name].T]
            table.add_row(name, *cells)
        return table

    @property
    def ranking(self) -> list[str]:
        """Methods by their mean cosine distance to the ground truth, over constructions."""
        first = next(iter(self.distances.values()), {})
        key = {m: _mean(torch.stack([d[m][:, 0] for d in self.distances.values()])) for m in first}
        return sorted(key, key=lambda name: (key[name] != key[name], key[name]))

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form with per-sample values."""
        return {
            "format": "abe-trust",
            "caption": self.caption,
            "samples": self.names,
            "etas": list(self.etas),
            "methods": self.ranking,
            "to_truth": {k: {m: _list(t) for m, t in d.items()} for k, d in self.distances.items()},
            "between": {k: {m: _list(t) for m, t in d.items()} for k, d in self.between.items()},
            "between_over_eta": {m: _list(t) for m, t in self.over_eta.items()},
            "pairs": {
                k: {
                    "success": p.success.tolist(),
                    "labels": [p.a.tolist(), p.b.tolist()],
                    "gap": _list(p.gap),
                    "validity": _list(p.validity),
                }
                for k, p in self.pairs.items()
            },
            "failures": self.failures,
            "warnings": self.warnings,
        }


@entrance
def trust(
    task: Given,
    photos: Any,
    methods: Sequence[Any] | None = None,
    *,
    constructions: Sequence[str] = CONSTRUCTIONS,
    etas: Sequence[Size] = ETAS,
    steps: Count = 100,
    seed: int = 0,
    variant: str = "corrected",
    progress: bool | Callable[[int], None] = True,
    **asked: Any,
) -> Trust:
    """The three trust experiments: maps at a boundary pair against each other, over η, and the ground truth.

    Args:
        task: the model and how to read it.
        photos: as for `abe.explain`; "segment" pairs every photograph with the next of another label.
        methods: names, pairs or `abe.method` values.
        constructions: ``"sign"`` attack, ``"l2"`` attack, ``"segment"`` between two photographs; each is
            followed by bisection to the first η.
        etas: sizes of the pairs of Experiment 1, shares of the range by default, input units where given as
            plain numbers; the first serves the other two.
        steps: most steps of the sign attack.
        seed: of all draws.
        variant: ``"published"`` gives the ground truth the paper's sign +r ⊙ ∇R(x₁), with which a right map
            has a cosine of −1.
        progress: show a bar after two seconds, or a function called with rows done.
        **asked: what of the samples is asked about, such as a region, where the task asks for it.

    Returns:
        Per-sample values and a table whose caption states the construction's bias.

    Raises:
        SpecError: unknown construction or variant, or a size that is not positive.
        InputError: no construction found a single boundary.
    """
    _check(constructions, etas, steps, variant)
    chosen = _methods(methods)
    count = len(constructions) + len(etas) - 1
    with staged("trust", count * (1 + len(chosen)), progress) as (alive, done):

        def found_at(kind: str, eta: Size) -> Pairs:
            made = make_pairs(problem, kind, eta, steps=steps, variant=variant)
            done()
            return made

        with open_request(task, photos, seed=seed, asked=asked, progress=alive) as problem:
            class_count(problem)
            pairs = {k: found_at(k, etas[0]) for k in constructions}
            finer = [found_at("sign", e) for e in etas[1:]]
        if not any(bool(p.success.any()) for p in pairs.values()):
            raise InputError(
                Code.NOT_CROSSED,
                "No boundary was found for any sample",
                fix="Give more steps, larger sizes, or photographs of other classes",
            )
        found = Trust({}, {}, {}, pairs, tuple(etas), {}, list(problem.names))
        found.warnings = [*task.assumed, *_missing(pairs)]
        every = {**pairs, **{f"{i}": p for i, p in enumerate(finer)}}
        lifted = Lifted(problem.x, problem.context, problem.names, problem.task.parts)
        request = Asked(task, lifted, seed, alive, done)
        maps = {name: _maps(request, method, every, found) for name, method in chosen.items()}
    maps = {name: m for name, m in maps.items() if m is not None}
    for kind, pair in pairs.items():
        found.distances[kind] = {n: _distances(m[kind][0], pair.truth, pair.success) for n, m in maps.items()}
        found.between[kind] = {n: _distances(*m[kind], pair.success) for n, m in maps.items()}
    if "sign" in pairs:
        for name, m in maps.items():
            rows = [found.between["sign"][name][:, 0]]
            rows += [_distances(*m[f"{i}"], p.success)[:, 0] for i, p in enumerate(finer)]
            found.over_eta[name] = torch.stack(rows, 1)
    return found


def make_pairs(
    problem: Problem, construction: str, eta: float, *, steps: int = 100, variant: str = "corrected"
) -> Pairs:
    """Pairs (x₁, x₂) with another label each and ‖x₂ − x₁‖∞ ≤ η, with their ground truth.

    Args:
        problem: the samples, with counted access to the model.
        construction: ``"sign"``, ``"l2"`` or ``"segment"``: how the other label is reached.
        eta: largest distance of a pair, in input units.
        steps: of the search.
        variant: ``"corrected"``, or ``"published"``, which turns the truth's sign.
    """
    x, everyone = problem.x, problem.everyone
    label = labels(problem, x, everyone)
    inside, outside, success = _ends(problem, construction, steps, label)
    ready = success.nonzero().flatten()
    if len(ready):
        near = bisect(problem, inside[ready], outside[ready], ready, label[ready], eta)
        inside[ready], outside[ready] = near
    other = labels(problem, outside, everyone)
    r = outside - inside
    truth, validity = _truth(problem, inside, outside, label, other)
    sign = -1.0 if published(variant) else 1.0
    nan = torch.full_like(validity, torch.nan)
    return Pairs(
        inside=inside,
        outside=outside,
        a=label,
        b=other,
        success=success,
        gap=r.abs().flatten(1).amax(1),
        truth=truth * sign,
        validity=torch.where(success, validity, nan),
    )


def _ends(problem: Problem, construction: str, steps: int, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(b, *f) a point of each label, and (b,) whether there is one on the other side."""
    x = problem.x
    if construction == "segment":
        partner = _partners(label)
        return x.clone(), x[partner].clone(), label[partner] != label
    if construction == "l2":
        found = NearestAdversary().find(problem)
        return x.clone(), found.point, found.success
    last = _LastStep(x)
    own = problem.with_(objective=LogProbability(), target=label)
    walk = UpdatePath(update=last, steps=steps, rule="left", stop="flip")
    result: Result = walk.run(own)
    return last.before, last.after, result.diagnostics["success"]


class _LastStep:
    """A signed ascent of the cross-entropy, 1/255 at a time, that remembers each row's last step."""

    def __init__(self, x: Tensor) -> None:
        self.before, self.after = x.clone(), x.clone()
        self._leave = Leave(alpha=ETAS[0], epsilon=None)

    def step(self, point: Any, state: Any) -> tuple[Tensor, Any]:
        moved, state = self._leave.step(point, state)
        self.before[point.owner], self.after[point.owner] = point.x, moved
        return moved, state


def _partners(label: Tensor) -> Tensor:
    """(b,) the next sample of another label, or the sample itself."""
    n = len(label)
    partner = torch.arange(n, device=label.device)
    for i in range(n):
        partner[i] = next((j % n for j in range(i + 1, i + n) if label[j % n] != label[i]), i)
    return partner


def _truth(problem: Problem, inside: Tensor, outside: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """(b, *f) −r ⊙ ∇R(x₁) and (b,) its relative gap to R(x₁) − R(x₂), R = f_A − f_B."""
    heads = [Head(Logit(), a), Head(Logit(), b)]
    gradient, before = torch.zeros_like(inside), inside.new_zeros(len(inside))
    after = torch.zeros_like(before)

    for chunk in problem.gradients(inside, problem.everyone, heads):
        gradient[chunk.rows] = chunk.gradients[0] - chunk.gradients[1]
        before[chunk.rows] = (chunk.scores[0] - chunk.scores[1]).to(before)
    for chunk in problem.forward(outside, problem.everyone):
        ends = [score(problem.task, chunk.outputs, h.objective, h.target[chunk.rows]) for h in heads]
        after[chunk.rows] = (ends[0] - ends[1]).to(after)
    truth = -(outside - inside) * gradient
    change = before - after
    gap = (truth.flatten(1).sum(1) - change).abs()
    return truth, gap / change.abs().clamp_min(torch.finfo(change.dtype).tiny)


@dataclass(frozen=True)
class Asked:
    """What the maps of all methods share, and whom to tell how far they are."""

    task: Task
    lifted: Lifted
    seed: int
    progress: bool | Callable[[int], None]
    done: Callable[[], None]

    def map(self, method: Method, points: Tensor, target: Tensor, ids: list[int]) -> Tensor:
        """A method's map at other points of the same samples."""
        lifted = replace(self.lifted, x=points)
        return explain(
            self.task, lifted, method, target=target, ids=ids, seed=self.seed, progress=self.progress
        ).attribution


def _maps(
    asked: Asked, method: Method, every: dict[str, Pairs], found: Trust
) -> dict[str, tuple[Tensor, Tensor]] | None:
    """Per set of pairs the maps at x₁ for A and at x₂ for B; the same draws serve both."""
    out: dict[str, tuple[Tensor, Tensor]] = {}
    try:
        for kind, pair in every.items():
            ids = sample_ids(pair.inside)
            inner, outer = (pair.inside, pair.a), (pair.outside, pair.b)
            out[kind] = asked.map(method, *inner, ids), asked.map(method, *outer, ids)
            asked.done()
    except AbeError as problem:
        found.failures[method.name] = str(problem)
        return None
    return out


def _distances(one: Tensor, other: Tensor, valid: Tensor) -> Tensor:
    """(b, 4) 1 − cosine, L1 and L2 after scaling to unit maximum, 1 − cosine of magnitudes; else NaN."""
    one, other = one.flatten(1).double(), other.flatten(1).double()
    cosine = 1 - torch.cosine_similarity(one, other, dim=1, eps=1e-300)
    zero = (one == 0).all(1) | (other == 0).all(1)
    gap = _unit_maximum(one) - _unit_maximum(other)
    size = 1 - torch.cosine_similarity(one.abs(), other.abs(), dim=1, eps=1e-300)
    rows = torch.stack([cosine, gap.abs().sum(1), gap.norm(dim=1), size], 1)
    return torch.where((valid & ~zero)[:, None], rows, torch.nan)


def _unit_maximum(flat: Tensor) -> Tensor:
    return flat / flat.abs().amax(1, keepdim=True).clamp_min(1e-300)


def _methods(given: Sequence[Any] | None) -> dict[str, Method]:
    chosen: dict[str, Method] = {}
    for one in DEFAULT if given is None else items_of("methods", given, Method, of="methods"):
        method = methods.resolve(one)
        name, number = method.name, 2
        while name in chosen:
            name, number = f"{method.name} ({number})", number + 1
        chosen[name] = method
    return chosen


def _check(constructions: Sequence[str], etas: Sequence[float], steps: int, variant: str) -> None:
    check_count("steps", steps)
    of = f"some of {', '.join(CONSTRUCTIONS)}"
    for one in need_list("constructions", constructions, of) or [None]:
        check_choice("construction of boundary pairs", one, CONSTRUCTIONS)
    if not etas:
        raise SpecError(Code.BAD_PARAMETER, "Give at least one eta", got=repr(etas))
    for eta in etas:
        check_positive(eta=eta)
    published(variant)


def _missing(pairs: dict[str, Pairs]) -> list[str]:
    lines: list[str] = []
    for kind, pair in pairs.items():
        lost = (~pair.success).nonzero().flatten().tolist()
        if lost:
            text = f"No boundary pair by {kind} for sample {listed(lost)}"
            lines.append(note(Code.NOT_CROSSED, text))
    return lines


def _mean(values: Tensor) -> float:
    good = values[~values.isnan()]
    return float(good.mean()) if len(good) else float("nan")


def _cell(values: Tensor) -> str:
    """The mean, and below it half of its interval where there is one."""
    mean = _mean(values)
    if mean != mean:
        return "–"
    low, high = intervals(values[:, None])[0]
    return f"{mean:.3f}" if low != low else f"{mean:.3f}\n[dim]±{compact((high - low) / 2)}[/]"


def _list(values: Tensor) -> Any:
    return (
        [None if v != v else v for v in values.tolist()] if values.ndim == 1 else [_list(v) for v in values]
    )

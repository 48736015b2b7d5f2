"""Laws of metrics, and `check_metric`, which runs those that a card allows."""

import json
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from abe.api import explain
from abe.engines.runtime.problem import Problem
from abe.errors import AbeError, Code, InputError, ModelError
from abe.explanation import Explanation
from abe.formulas import evaluate as evaluate_formula
from abe.metrics.evaluation.base import Metric, Score, as_metric
from abe.metrics.evaluation.compare import score
from abe.metrics.evaluation.reexplain import again, layers
from abe.registry import metrics
from abe.spec import from_spec
from abe.task.base import Task
from abe.task.image.lifter import image_task
from abe.testing import nets
from abe.testing.bench import TARGET, samples
from abe.testing.laws import Law, Laws, Numbers, Verdict, always, ensure, run
from abe.testing.snapshot import Snapshot
from abe.types import Card

METRIC_LAWS = Laws()

_Check = TypeVar("_Check", bound=Callable[[Any], Numbers])
ROW = 1e-5
"""The promise for a row alone and in a batch: share of the largest value, float32."""
RANDOM = 50
"""Random maps that the true one is compared with."""
KNOWN = 6
"""Samples on which a map is compared with what is known."""
SEEDS = 12
"""Seeds over which random orders are averaged."""
SIGMAS = 5.0
"""How many standard errors two averages over random orders may differ."""


@dataclass(frozen=True)
class MetricCase:
    """A metric under test."""

    metric: Metric

    @property
    def subject(self) -> str:
        """How messages call it."""
        return f"The metric {self.metric}"

    @property
    def card(self) -> Card:
        """Its card, or an empty one for a value without a name."""
        name = self.metric.name
        return self.metric.card or Card(
            name=name, title=name, summary="", source="", direction=self.metric.direction
        )

    def score(self, net: nn.Module | Task, explanation: Explanation, **how: Any) -> Score:
        """The metric of a finished explanation, by the model itself."""
        how = {"execution": "model", **how}
        if "mask" in self.card.needs:
            how["masks"] = _truth(explanation.x)
        if "label" in self.card.needs:
            how["labels"] = explanation.target
        return score(explanation, _task(net, explanation.x), metric=self.metric, **how)


def law(name: str, reading: str, *, when: Callable[[MetricCase], str] = always) -> Callable[[_Check], _Check]:
    """A law that is checked on the kit's images, where the metric applies to images."""

    def on_images(case: MetricCase) -> str:
        return when(case) if "image" in case.card.modalities else "it does not apply to images"

    return METRIC_LAWS.add(name, reading, when=on_images)


def metric_case(metric: Any, **params: Any) -> MetricCase:
    """A case from a name, value or `Metric`; required parameters come from the card's example."""
    if not isinstance(metric, str):
        return MetricCase(as_metric(metric))
    entry = metrics.get(metric)
    missing = [name for name in entry.required() if name not in params]
    example = dict(entry.card.example) if missing else {}
    return MetricCase(as_metric((metric, {**example, **params})))


def check_metric(metric: Any, *, only: str | Sequence[str] | None = None, **params: Any) -> list[Verdict]:
    """Run every law that a metric's card allows.

    Args:
        metric: a registered name, a metric value, or a `Metric`.
        only: names of laws, to check these alone.
        **params: parameters, when ``metric`` is a name.

    Returns:
        One `Verdict` per law: it holds, it fails as the card declares, or it does not apply.

    Raises:
        LawBroken: what does not hold, with the numbers and how to read them.

    Example:
        >>> [v.outcome for v in check_metric("insertion", only="ranking", step=0.2)]
        ['holds']
    """
    return run(METRIC_LAWS, metric_case(metric, **params), only)


def metric_laws(metric: Any = None, **params: Any) -> list[Law]:
    """The laws that `check_metric` would check; all of them without a metric."""
    if metric is None:
        return list(METRIC_LAWS)
    case = metric_case(metric, **params)
    return [one for one in METRIC_LAWS if not one.applies(case)]


def explained(net: nn.Module | Task, x: Tensor, attribution: Tensor | None = None, **how: Any) -> Explanation:
    """A real explanation of class `TARGET` by gradient × input, with another map where one is given."""
    how = {"execution": "model", "progress": False, "target": TARGET, **how}
    found = explain(_task(net, x), x, "fast_ig", **how)
    return found if attribution is None else with_map(found, attribution)


def with_map(explanation: Explanation, attribution: Tensor) -> Explanation:
    """A copy with another map, whatever its shape: some laws need one that does not fit."""
    other = copy(explanation)
    vars(other).pop("residual", None)
    other.attribution = attribution
    return other


def _task(net: nn.Module | Task, x: Tensor) -> Task:
    if isinstance(net, Task):
        return net
    return image_task(net, channels=x.shape[1], output_kind="logits")


def _truth(x: Tensor) -> Tensor:
    """(b, h, w) where `nets.Evidence` has most of its evidence; the same region for every sample."""
    h, w = x.shape[-2:]
    mask = torch.zeros(len(x), h, w, dtype=torch.bool)
    mask[:, h // 6 : h // 2 + 1, w // 6 : w // 2 + 1] = True
    return mask


def _setting(b: int = 5) -> tuple[nets.Convolutional, Tensor, Tensor]:
    """An ordinary float32 net, samples, and maps without ties."""
    x = samples(b, dtype=torch.float32)
    return nets.Convolutional(), x, samples(b, seed=9, dtype=torch.float32) - 0.5


def _gap(one: Tensor, other: Tensor) -> float:
    """Largest difference as a share of the largest value; NaN equals NaN."""
    one, other = one.double(), other.double()
    same = (one == other) | (one.isnan() & other.isnan())
    size = torch.maximum(one.abs(), other.abs()).nan_to_num().max().clamp_min(1e-300)
    return float(
        torch.where(same, torch.zeros_like(one), (one - other).abs() / size).nan_to_num(nan=9e9).max()
    )


# ---------------------------------------------------------------- rows


_ROW_READING = (
    f"`difference` is the worst one as a share of the largest value; {ROW:g} is allowed in float32. More "
    "means that a sample's number depends on the others: batch means, ties or references that are not "
    "drawn per sample."
)


@law("batch", _ROW_READING)
def batch(case: MetricCase) -> Numbers:
    """A sample alone scores what it scores in a batch, for batches of 1, 2 and more."""
    net, x, maps = _setting()
    task = _task(net, x)
    together = case.score(task, explained(task, x, maps)).values
    gaps = {}
    for size in (1, 2):
        parts = zip(x.split(size), maps.split(size), strict=True)
        apart = torch.cat([case.score(task, explained(task, some, part)).values for some, part in parts])
        gaps[f"difference_{size}"] = _gap(together, apart)
    worst = max(gaps.values())
    return ensure(worst <= ROW, worst, **gaps)


@law("order", _ROW_READING)
def order(case: MetricCase) -> Numbers:
    """Samples in another order score the same in that order."""
    net, x, maps = _setting()
    task = _task(net, x)
    permutation = torch.tensor([3, 0, 4, 2, 1])
    explanation = explained(task, x, maps)
    shuffled = replace(
        explanation,
        attribution=maps[permutation],
        x=x[permutation],
        ids=[explanation.ids[i] for i in permutation.tolist()],
        score=explanation.score[permutation],
        delta=None if explanation.delta is None else explanation.delta[permutation],
    )
    gap = _gap(case.score(task, explanation).values[permutation], case.score(task, shuffled).values)
    return ensure(gap <= ROW, gap, difference=gap)


@law("chunk", _ROW_READING)
def chunk(case: MetricCase) -> Numbers:
    """The number of rows run at once does not matter."""
    net, x, maps = _setting(3)
    task = _task(net, x)
    explanation = explained(task, x, maps)
    whole = case.score(task, explanation).values
    gaps = {f"chunk_{n}": _gap(whole, case.score(task, explanation, chunk=n).values) for n in (1, 3, 4096)}
    worst = max(gaps.values())
    return ensure(worst <= ROW, worst, **gaps)


@law(
    "determinism",
    "`difference` must be 0. Draws have to come from problem.draws.",
)
def determinism(case: MetricCase) -> Numbers:
    """The same maps explained and scored again, with the same seed, score the same."""
    net, x, _ = _setting(3)
    maps = torch.ones_like(x)  # ties everywhere: their order is drawn
    first, again = (case.score(net, explained(net, x, maps), chunk=4).values for _ in range(2))
    gap = _gap(first, again)
    return ensure(gap == 0, difference=gap)


# ---------------------------------------------------------------- meaning


def _evidence(b: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A net that adds up evidence, samples, and the true map: weight ⊙ x."""
    net = nets.Evidence()
    x = samples(b, shape=(nets.CHANNELS, 12, 12))
    return net, x, (net.weight.detach() * x)


def shuffled(maps: Tensor, seed: int) -> Tensor:
    """The same values at other places: every position of a map moves, its channels together."""
    generator = torch.Generator().manual_seed(seed)
    flat = maps.flatten(2)
    orders = torch.stack([torch.randperm(flat.shape[2], generator=generator) for _ in flat])
    return flat.gather(2, orders[:, None].expand_as(flat)).view_as(maps)


def inverted(maps: Tensor) -> Tensor:
    """The same values with the order of positions turned round: the least important becomes the most."""
    flat = maps.flatten(2)
    order = flat.sum(1).argsort(dim=1)
    at = torch.empty_like(order).scatter_(1, order, order.flip(1))
    return flat.gather(2, at[:, None].expand_as(flat)).view_as(maps)


@law(
    "ranking",
    f"`true`, `random` ({RANDOM} maps) and `inverted` (the true map with its ranks turned round) are means, "
    "in the card's direction; what is missed is the larger wrong difference of two, as a share of the "
    "largest of the three where that is above 1. A metric that does not read the map declares that it fails.",
    when=lambda case: (
        "it judges the method by explaining again, not the given map"
        if "method" in case.card.needs
        else ""
        if case.card.direction
        else "the card has no direction"
    ),
)
def ranking(case: MetricCase) -> Numbers:
    """On a function with a known answer the true map beats random ones, and these beat the inverted one."""
    net, x, true = _evidence(KNOWN)
    maps = [true, inverted(true), *(shuffled(true, seed) for seed in range(RANDOM))]
    task = _task(net, x)
    found = case.score(task, explained(task, x.repeat(len(maps), 1, 1, 1), torch.cat(maps))).values
    best, worst, chance = (part.mean().item() for part in found.view(-1, KNOWN).split([1, 1, RANDOM]))
    sign = 1 if case.card.direction == "higher" else -1
    right = sign * best > sign * chance > sign * worst
    missed = max(sign * (chance - best), sign * (worst - chance)) / max(1.0, *map(abs, (best, chance, worst)))
    return ensure(right, missed, true=best, random=chance, inverted=worst, direction=case.card.direction)


@law(
    "constant",
    f"`constant` and `random` are means over {SEEDS} seeds and all samples, `sigmas` their difference in "
    f"standard errors ({SIGMAS:g} allowed). A difference means that ties are broken by position.",
    when=lambda case: (
        "" if case.metric.runs or "mask" in case.card.needs else "it does not read the order of units"
    ),
)
def constant(case: MetricCase) -> Numbers:
    """A constant map scores as a random order."""
    net, x, true = _evidence(KNOWN)
    task = _task(net, x)  # one for all seeds: what a baseline finds out about a model is remembered per task
    flat = [case.score(task, explained(task, x, torch.ones_like(true)), seed=s).values for s in range(SEEDS)]
    chance = [case.score(task, explained(task, x, shuffled(true, s)), seed=s).values for s in range(SEEDS)]
    a, b = (torch.stack(values).mean(1) for values in (flat, chance))
    error = float(((a.var() + b.var()) / SEEDS).sqrt())
    sigmas = abs(float(a.mean() - b.mean())) / max(error, 1e-12)
    return ensure(sigmas <= SIGMAS, constant=float(a.mean()), random=float(b.mean()), sigmas=sigmas)


# ---------------------------------------------------------------- maps


@law(
    "zero_map",
    "`finite` counts finite or not-applicable (NaN) values, `noted` says whether the result names "
    "[ABE-ZERO-MAP].",
)
def zero_map(case: MetricCase) -> Numbers:
    """A zero map is scored; where its order is random, a note says so."""
    net, x, maps = _setting(3)
    found = case.score(net, explained(net, x, torch.zeros_like(maps)))
    usable = int((~found.values.isinf()).sum()) if case.metric.runs else len(found.values)
    noted = any(Code.ZERO_MAP.value in warning for warning in found.warnings)
    return ensure(usable == 3 and (noted or not case.metric.runs), finite=usable, noted=noted)


@law(
    "bad_map",
    f"`nan` and `shape` are what was raised; expected are {Code.MAP_NOT_FINITE.value} and "
    f"{Code.MAP_SHAPE.value}. `rows` is what the model saw before; it must be 0.",
)
def bad_map(case: MetricCase) -> Numbers:
    """A map with NaN or of another shape is refused with its code before the model runs."""
    inner, x, maps = _setting(2)
    explanation = explained(inner, x, maps)
    net = nets.Watched(inner)
    poisoned = maps.clone()
    poisoned[1, 0, 0, 0] = torch.nan
    nan = _refusal(case, net, with_map(explanation, poisoned))
    shape = _refusal(case, net, with_map(explanation, maps[..., :-1]))
    right = nan == Code.MAP_NOT_FINITE.value and shape == Code.MAP_SHAPE.value and net.forward_rows == 0
    return ensure(right, nan=nan, shape=shape, rows=net.forward_rows)


def _refusal(case: MetricCase, net: nn.Module, explanation: Explanation) -> str:
    try:
        case.score(net, explanation)
    except InputError as problem:
        return problem.code.value
    except Exception as problem:
        return f"{type(problem).__name__}: {problem}"
    return "nothing was raised"


@law(
    "channels",
    "`shapes` lists what was refused, with the reason.",
    when=lambda case: "its maps are made by the method" if "method" in case.card.needs else "",
)
def channels(case: MetricCase) -> Numbers:
    """Maps with all channels and with one are both scored, for inputs of three channels and of one."""
    refused: list[str] = []
    for c in (1, 3):
        net = nets.tiny(c)
        x = samples(2, shape=(c, 6, 6), dtype=torch.float32)
        full = samples(2, seed=5, shape=(c, 6, 6), dtype=torch.float32)
        for maps in (full, full.sum(1, keepdim=True), full.sum(1)):
            try:
                values = case.score(net, explained(net, x, maps)).values
            except AbeError as problem:
                refused.append(f"{tuple(maps.shape)} for {tuple(x.shape)}: {problem.code.value}")
            else:
                refused += [f"{tuple(maps.shape)}: {values.tolist()}"] if bool(values.isinf().any()) else []
    return ensure(not refused, refused=refused)


@law(
    "dtype",
    "`float32` and `float64` are the types of the values; both must be float64.",
)
def dtype(case: MetricCase) -> Numbers:
    """Float64 models and maps are scored as well as float32 ones, and values are float64."""
    x, maps = samples(3), samples(3, seed=9) - 0.5
    net = nets.Smooth()
    double = case.score(net, explained(net, x, maps)).values
    net = nets.Smooth().float()
    single = case.score(net, explained(net, x.float(), maps.float())).values
    right = double.dtype == single.dtype == torch.float64
    return ensure(right, float32=single.dtype, float64=double.dtype)


# ---------------------------------------------------------------- traces


@law(
    "cost",
    "`counted` are (forward, backward) rows in the score, `seen` those that went through the model, "
    "`formula` the card's, where `method_forward` and `method_backward` are the rows of explaining once more "
    "and `layers` the modules with weights. Rows that are seen and not counted went past the planner.",
)
def cost(case: MetricCase) -> Numbers:
    """The rows in the result are the rows the model and copies of it saw, and what the formula says."""
    numbers: dict[str, object] = {}
    right = True
    for b in (1, 3):
        inner, x, maps = _setting(b)
        explanation = explained(inner, x, maps)
        net = nets.Watched(inner, copies=True)
        spent = _with_models_in(case, net).score(net, explanation).cost
        counted, seen = (spent.forward_rows, spent.backward_rows), (net.forward_rows, net.backward_rows)
        formula = _formula(case, explanation)
        right = right and counted == seen and (formula is None or formula == counted)
        numbers |= {f"counted_{b}": counted, f"seen_{b}": seen, f"formula_{b}": formula}
    return ensure(right, **numbers)


def _with_models_in(case: MetricCase, net: nets.Watched) -> MetricCase:
    """The case whose parameters that are models are seen by the same watch."""
    models = {k: net.beside(v) for k, v in case.metric.params if isinstance(v, nn.Module)}
    return metric_case(case.metric.name, **{**dict(case.metric.params), **models}) if models else case


class _Once:
    """Explains once more, for what that costs."""

    direction = "higher"

    def measure(self, problem: Problem, explanation: Any) -> Tensor:
        again(problem, explanation)
        return torch.zeros(len(problem.x))


def _formula(case: MetricCase, explanation: Explanation) -> tuple[float, float] | None:
    passes, net = case.card.passes, nets.Convolutional()
    if passes is None:
        return None
    names: dict[str, object] = {**dict(case.metric.params), "b": len(explanation.x)}
    if "method" in case.card.needs:
        once = MetricCase(as_metric(_Once())).score(net, explanation).cost
        names |= {"method_forward": once.forward_rows, "method_backward": once.backward_rows}
        names["layers"] = len(layers(net))
    forward, backward = (evaluate_formula(f, names) for f in (passes.forward, passes.backward))
    return None if forward is None or backward is None else (forward, backward)


@law(
    "restored",
    "`after_success` and `after_failure` name what changed.",
)
def restored(case: MetricCase) -> Numbers:
    """Model, map and process are as before, also after an exception in the model's forward."""
    inner, x, maps = _setting(2)
    explanation = explained(inner, x, maps)
    inner.head.bias.grad = torch.ones_like(inner.head.bias)
    net = nets.Watched(inner).train()
    before, content = Snapshot(net), maps.clone()
    case.score(net, explanation)
    success = before.changes() + ([] if torch.equal(maps, content) else ["the map"])
    failing = nets.Watched(inner, fail_at=1).train()
    before = Snapshot(failing)
    try:
        case.score(failing, explanation)
    except ModelError:
        failure = before.changes()
    else:
        failure = before.changes() + (["no error at all"] if failing.calls else [])
    return ensure(not success and not failure, after_success=success, after_failure=failure)


@METRIC_LAWS.add(
    "spec",
    "`restored` is the metric that came back.",
)
def spec(case: MetricCase) -> Numbers:
    """Name and parameters survive JSON and make an equal metric."""
    text = json.dumps(case.metric.describe())
    if "opaque" in text or case.metric.name not in metrics.names():
        return {"described": True}
    described = json.loads(text)
    params = {name: from_spec(value) for name, value in described["params"].items()}
    back = as_metric((described["metric"], params))
    return ensure(back == case.metric and hash(back) == hash(case.metric), restored=str(back))


@METRIC_LAWS.add(
    "docstring",
    "`missing` lists what is not there; direction, range and formula stand on the card.",
    when=lambda case: "" if case.metric.name in metrics.names() else "it has no factory",
)
def docstring(case: MetricCase) -> Numbers:
    """The docstring says what is measured, which way is better, and what every parameter means."""
    entry = metrics.get(case.metric.name)
    missing = entry.documented.missing(entry.parameters())
    missing += [what for what in ("direction", "range", "formula") if not getattr(entry.card, what)]
    return ensure(not missing, missing=missing)

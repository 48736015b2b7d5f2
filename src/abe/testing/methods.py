"""Laws of attribution methods, and `check_method`, which runs those that a card allows."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from abe.api import explain
from abe.errors import ModelError
from abe.explanation import Explanation
from abe.formulas import evaluate
from abe.registry import Method, methods
from abe.spec import from_spec, to_spec
from abe.testing import nets
from abe.testing.bench import TARGET, samples, task_of
from abe.testing.draws import RecordedDraws
from abe.testing.laws import Law, Laws, Numbers, Verdict, declared_failure, ensure, run
from abe.testing.snapshot import Snapshot
from abe.types import Card

METHOD_LAWS = Laws()
law = METHOD_LAWS.add

TIGHT = 1e-8
"""Two ways to the same number in float64 on nets of this size differ by less than this share."""
ROW = 1e-5
"""The promise for a row alone and in a batch: share of the row's maximum, float32."""
COMPLETE = 1e-4
"""Share of the score change that a complete method may miss at fine settings on a smooth net."""
FINER = 4
"""By what `steps` and `samples` are multiplied for fine settings."""
FEW = 10
"""Most that `REPEATED` are in laws about rows, form and traces, which do not depend on their number."""
REPEATED = ("steps", "samples", "rounds", "search_steps", "layer_steps", "prior_steps")
SOME = 96
"""Evaluations of these laws, for methods with a budget: enough for a linear fit to the nets' positions."""


@dataclass(frozen=True)
class MethodCase:
    """A method under test."""

    method: Method

    @property
    def subject(self) -> str:
        """How messages call it."""
        return f"The method {self.method}"

    @property
    def card(self) -> Card:
        """Its card, or an empty one for a composition without a name."""
        name = self.method.name
        if name in methods.names():
            return methods.get(name).card
        return Card(name=name, title=name, summary="", source="")

    @property
    def params(self) -> dict[str, Any]:
        """Its parameters by name."""
        return dict(self.method.params)

    def finer(self) -> "MethodCase":
        """The same method with `FINER` times the ``steps`` and ``samples`` it has."""
        if self.method.name not in methods.names():
            return self
        params = {
            k: v * FINER + v % 2 if k in ("steps", "samples") and isinstance(v, int) else v
            for k, v in self.params.items()
        }
        return MethodCase(methods.build(self.method.name, **params))

    def coarser(self) -> "MethodCase":
        """The same method with at most `FEW` steps, samples and rounds, and `SOME` evaluations."""
        if self.method.name not in methods.names():
            return self
        params = {
            k: min(v, FEW - v % 2) if k in REPEATED and isinstance(v, int) else v
            for k, v in self.params.items()
        }
        if isinstance(params.get("evaluations"), int):
            params["evaluations"] = min(params["evaluations"], SOME)
        return MethodCase(methods.build(self.method.name, **params))

    def net(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        """A net with all parts that the method needs."""
        needs = self.card.needs
        if "attention" in needs or "cross_attention" in needs:
            return nets.Attending(dtype=dtype)
        if "layer" in needs:
            return nets.Convolutional(dtype=dtype, side=1)
        return nets.Smooth() if dtype == torch.float64 else nets.Convolutional(dtype=dtype)

    def explain(self, net: nn.Module, x: Tensor, **how: Any) -> Explanation:
        """The explanation of class `TARGET`, by the model itself."""
        how = {"target": TARGET, "execution": "model", "progress": False, **how}
        return explain(task_of(net), x, self.method, **how)

    def map(self, net: nn.Module, x: Tensor, **how: Any) -> Tensor:
        """(b, *f) its map."""
        return self.explain(net, x, **how).attribution


def method_case(method: Any, **params: Any) -> MethodCase:
    """A case from a name, value or composition; required parameters come from the card's example."""
    if not isinstance(method, str):
        return MethodCase(methods.resolve(method))
    entry = methods.get(method)
    missing = [name for name in entry.required() if name not in params]
    example = dict(entry.card.example) if missing or "pair" in entry.card.features else {}
    return MethodCase(methods.build(method, **{**example, **params}))


def check_method(method: Any, *, only: str | Sequence[str] | None = None, **params: Any) -> list[Verdict]:
    """Run every law that a method's card allows.

    Args:
        method: a registered name, ``abe.method(...)``, or a composition.
        only: names of laws, to check these alone.
        **params: parameters, when ``method`` is a name.

    Returns:
        One `Verdict` per law: it holds, it fails as the card declares, or it does not apply.

    Raises:
        LawBroken: what does not hold, with the numbers and how to read them.

    Example:
        >>> verdicts = check_method("gradient", only=["dummy", "linearity"])
        >>> [v.outcome for v in verdicts]
        ['holds', 'holds']
    """
    return run(METHOD_LAWS, method_case(method, **params), only)


def method_laws(method: Any = None, **params: Any) -> list[Law]:
    """The laws that `check_method` would check; all of them without a method."""
    if method is None:
        return list(METHOD_LAWS)
    case = method_case(method, **params)
    return [one for one in METHOD_LAWS if not one.applies(case)]


def difference(one: Tensor, other: Tensor) -> float:
    """Largest difference of two maps as a share of the row's maximum, over all rows."""
    size = torch.maximum(one.flatten(1).abs().amax(1), other.flatten(1).abs().amax(1))
    gap = (one - other).flatten(1).abs().amax(1)
    return float(torch.where(gap == 0, torch.zeros_like(gap), gap / size).max())


def claimed(axiom: str) -> Any:
    """Whether a card claims the axiom, or declares that it fails."""

    def applies(case: Any) -> str:
        if axiom in case.card.guarantees or declared_failure(case.card, axiom):
            return ""
        return "the card does not claim it"

    return applies


# ---------------------------------------------------------------- axioms


@law(
    "completeness",
    f"`missed` is the worst |residual| at {FINER} times the given steps and samples, as a share of the "
    f"score change, on smooth float64 nets; up to {COMPLETE:g} is allowed. Not converging points at wrong "
    "weights, a wrong reference score, or a gradient of another score.",
    when=claimed("completeness"),
)
def completeness(case: MethodCase) -> Numbers:
    """The map sums to score(input) − score(reference)."""
    missed = 0.0
    for seed, scale in ((0, 4.0), (1, 12.0)):  # the second is curved more
        found = case.finer().explain(nets.Smooth(seed=seed, scale=scale), samples(2, seed=seed))
        if found.residual is None:
            return ensure(False, delta=None)
        missed = max(missed, float(found.residual.abs().max()))
    return ensure(missed <= COMPLETE, missed, missed=missed)


@law(
    "claim",
    "`delta` says whether the result names a score change to sum to. Without a claim there is no number that "
    "the map should sum to, so Result.delta must be None; with one, users need the residual.",
)
def claim(case: MethodCase) -> Numbers:
    """A residual is reported where completeness is claimed or declared to fail, and nowhere else."""
    expected = not claimed("completeness")(case)
    delta = case.coarser().explain(case.net(), samples(2)).delta
    return ensure((delta is not None) == expected, delta=delta is not None, expected=expected)


@law(
    "linearity",
    f"`difference` is the worst one as a share of the row's maximum; {TIGHT:g} is allowed. A larger one "
    "means that the method's points depend on the model, or that maps are normalised.",
    when=claimed("linearity"),
)
def linearity(case: MethodCase) -> Numbers:
    """The map of a·f + b·g is a times the map of f plus b times the map of g."""
    x, (a, b) = samples(3), (2.0, -0.5)
    f, g = nets.Smooth(seed=0), nets.Smooth(seed=1)
    whole = case.map(nets.Combined(f, g, a, b), x)
    parts = a * case.map(f, x) + b * case.map(g, x)
    gap = difference(whole, parts)
    return ensure(gap <= TIGHT, difference=gap)


@law(
    "dummy",
    "`largest` is the largest attribution of an unread input as a share of the row's maximum; it must be 0"
    " up to 1e-12. `read` must not be 0: a map that is zero everywhere proves nothing.",
    when=claimed("dummy"),
)
def dummy(case: MethodCase) -> Numbers:
    """An input that the model does not read gets 0."""
    mask = torch.ones(nets.SHAPE)
    mask[:, ::2] = 0
    a = case.map(nets.Masked(nets.Smooth(), mask), samples(3)).abs()
    unread, read = float((a * (1 - mask)).max()), float((a * mask).max())
    return ensure(unread <= 1e-12 * read and read > 0, largest=unread / max(read, 1e-300), read=read)


@law(
    "symmetry",
    f"`difference` compares both as a share of the row's maximum; {TIGHT:g} is allowed. The reference must "
    "be equal at both inputs too.",
    when=claimed("symmetry"),
)
def symmetry(case: MethodCase) -> Numbers:
    """Two inputs that the model treats alike and that are equal get the same."""
    one, other = (1, 2), (4, 3)
    x = samples(3)
    x[(slice(None), 0, *other)] = x[(slice(None), 0, *one)]
    a = case.map(nets.Symmetric(nets.Smooth(), one, other), x)
    gap = (a[(slice(None), 0, *one)] - a[(slice(None), 0, *other)]).abs() / a.flatten(1).abs().amax(1)
    return ensure(float(gap.max()) <= TIGHT, difference=float(gap.max()))


@law(
    "implementation_invariance",
    "`difference` is the worst one between a softplus net and the same function with permuted units, a "
    f"split layer and another formula for softplus; {TIGHT:g} of the row's maximum is allowed.",
    when=claimed("implementation_invariance"),
)
def implementation_invariance(case: MethodCase) -> Numbers:
    """Two networks that compute the same function get the same map."""
    x, net = samples(3), nets.Smooth()
    gap = difference(case.map(net, x), case.map(nets.Twin(net), x))
    return ensure(gap <= TIGHT, difference=gap)


@law(
    "sensitivity",
    "`attribution` is what the only input read by a saturated score got, as a share of the score change from "
    "0; it must be at least 0.001. A single gradient at the input fails: it is 0 there.",
    when=claimed("sensitivity"),
)
def sensitivity(case: MethodCase) -> Numbers:
    """An input on which alone the score depends gets something, also where the score is flat."""
    position = (1, 3, 2)
    x = torch.zeros((1, *nets.SHAPE), dtype=torch.float64)
    x[(0, *position)] = 1.0
    net = nets.Saturating(position)
    change = float((net(x) - net(torch.zeros_like(x)))[0, TARGET].detach())
    share = float(case.map(net, x)[(0, *position)]) / change
    return ensure(abs(share) >= 1e-3, attribution=share)


# ---------------------------------------------------------------- rows


def _rows(case: MethodCase) -> tuple[nn.Module, Tensor, Tensor]:
    """An ordinary float32 net, five samples, and their maps in one batch."""
    net, x = case.net(torch.float32), samples(5, dtype=torch.float32)
    return net, x, case.map(net, x)


_ROW_READING = (
    f"`difference` is the worst one as a share of the row's maximum; {ROW:g} is allowed in float32. More "
    "means that a row depends on its neighbours: a mean over the batch, draws that are not keyed by "
    "sample, or batch statistics."
)


@law("batch", _ROW_READING)
def batch(case: MethodCase) -> Numbers:
    """A row alone is the row in a batch."""
    case = case.coarser()
    net, x, together = _rows(case)
    alone = torch.cat([case.map(net, x[i : i + 1]) for i in range(len(x))])
    gap = difference(together, alone)
    return ensure(gap <= ROW, gap, difference=gap)


@law("order", _ROW_READING)
def order(case: MethodCase) -> Numbers:
    """Rows in another order get the same maps in that order."""
    case = case.coarser()
    net, x, together = _rows(case)
    permutation = torch.tensor([3, 0, 4, 2, 1])
    gap = difference(together[permutation], case.map(net, x[permutation]))
    return ensure(gap <= ROW, gap, difference=gap)


@law("chunk", _ROW_READING)
def chunk(case: MethodCase) -> Numbers:
    """The number of rows run at once does not matter."""
    case = case.coarser()
    net, x, together = _rows(case)
    gaps = {f"chunk_{n}": difference(together, case.map(net, x, chunk=n)) for n in (1, 3, 4096)}
    worst = max(gaps.values())
    return ensure(worst <= ROW, worst, **gaps)


# ---------------------------------------------------------------- form


@law(
    "dtype",
    "`float32` and `float64` are the types of maps of models of these types; `shape` is the map's.",
)
def dtype(case: MethodCase) -> Numbers:
    """The map has the input's shape, type and device."""
    case = case.coarser()
    single = case.map(case.net(torch.float32), samples(2, dtype=torch.float32))
    double = case.map(case.net(), samples(2))
    right = single.dtype == torch.float32 and double.dtype == torch.float64
    right = right and single.shape == double.shape == (2, *nets.SHAPE) and double.device.type == "cpu"
    return ensure(right, float32=single.dtype, float64=double.dtype, shape=tuple(double.shape))


@law(
    "determinism",
    "`repeat` compares two runs of one seed, bit by bit; `other_seed` two seeds, `draws` says whether "
    'anything was drawn. A card whose needs name "draws" must draw.',
)
def determinism(case: MethodCase) -> Numbers:
    """The same seed gives the same map; another seed another one exactly where numbers are drawn."""
    case = case.coarser()
    net, x = case.net(), samples(2)
    recorder = RecordedDraws()
    first = case.map(net, x, chunk=4, draws=recorder)
    repeat = bool(torch.equal(first, case.map(net, x, chunk=4, seed=0)))
    other = bool(torch.equal(first, case.map(net, x, chunk=4, seed=1)))
    drawn = bool(recorder.recorded)
    right = repeat and other == (not drawn) and (drawn or "draws" not in case.card.needs)
    return ensure(
        right, repeat="same" if repeat else "differs", other_seed="same" if other else "differs", draws=drawn
    )


@law(
    "randomness",
    "`replayed` compares a run with a replay of its recorded draws, `reseeded` with a run under other global "
    "seeds; both must be the same. `left` counts recorded draws that the replay did not ask for.",
)
def randomness(case: MethodCase) -> Numbers:
    """All randomness passes through Draws."""
    case = case.coarser()
    net, x = case.net(), samples(2)
    recorder = RecordedDraws()
    first = case.map(net, x, chunk=4, draws=recorder)
    replay = recorder.replayed()
    replayed = bool(torch.equal(first, case.map(net, x, chunk=4, draws=replay)))
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002 - put back below
    try:
        torch.default_generator.manual_seed(123)
        np.random.seed(123)  # noqa: NPY002 - the global generator is what must not matter
        random.seed(123)
        reseeded = bool(torch.equal(first, case.map(net, x, chunk=4)))
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])  # noqa: NPY002 - the same
        random.setstate(states[2])
    left = len(replay.left)
    return ensure(replayed and reseeded and left == 0, replayed=replayed, reseeded=reseeded, left=left)


@law(
    "cost",
    "`counted` are (forward, backward) rows in the result, `seen` those that went through the model, "
    "`formula` the card's. Rows that are seen and not counted went past the planner.",
)
def cost(case: MethodCase) -> Numbers:
    """The rows in the result are the rows the model saw, and what the card's formula says."""
    case = case.coarser()
    numbers: dict[str, object] = {}
    right = True
    for b in (1, 3):
        net = nets.Watched(case.net())
        spent = case.explain(net, samples(b)).cost
        counted = (spent.forward_rows, spent.backward_rows)
        seen, formula = (net.forward_rows, net.backward_rows), _formula(case, b)
        right = right and counted == seen and _as_promised(case, formula, counted)
        numbers |= {f"counted_{b}": counted, f"seen_{b}": seen, f"formula_{b}": formula}
    return ensure(right, **numbers)


def _as_promised(case: MethodCase, formula: tuple[float, float] | None, counted: tuple[int, int]) -> bool:
    if formula is None or case.card.passes is None:
        return True
    if case.card.passes.at_most:
        return all(c <= f for c, f in zip(counted, formula, strict=True))
    return formula == counted


def _formula(case: MethodCase, b: int) -> tuple[float, float] | None:
    """What the card promises; None where it promises nothing, or a tolerance or a named layer decides."""
    passes = case.card.passes
    if passes is None or any(case.params.get(name) is not None for name in ("tolerance", "layer")):
        return None
    forward, backward = (evaluate(f, {**case.params, "b": b}) for f in (passes.forward, passes.backward))
    return None if forward is None or backward is None else (forward, backward)


# ---------------------------------------------------------------- traces


@law(
    "restored",
    "`after_success`, `after_failure_<k>` (raised in call k) name what changed. `as_found` restores a model; "
    "something that changes it elsewhere must do the same.",
)
def restored(case: MethodCase) -> Numbers:
    """The model, the input and the process are as before, also after an exception in the model's forward."""
    case = case.coarser()
    changed: dict[str, object] = {}
    net, x = _lived_in(case, None), samples(2, dtype=torch.float32)
    before, content = Snapshot(net), x.clone()
    seen = case.explain(net, x, chunk=4).x  # as many calls each time
    kept = torch.equal(x, content) and (seen.shape != x.shape or torch.equal(seen, content))
    changed["after_success"] = before.changes() + ([] if kept else ["the input"])
    for k in sorted({1, 2, net.calls}):
        if k <= net.calls:
            changed[f"after_failure_{k}"] = _after_failure(case, x, k)
    return ensure(not any(changed.values()), **changed)


def _after_failure(case: MethodCase, x: Tensor, k: int) -> list[str]:
    net = _lived_in(case, k)
    before = Snapshot(net)
    try:
        case.explain(net, x, chunk=4)
    except ModelError:
        return before.changes()
    except Exception as problem:
        return [*before.changes(), f"a {type(problem).__name__} instead of a ModelError"]
    return [*before.changes(), "no error at all"]


def _lived_in(case: MethodCase, fail_at: int | None) -> nets.Watched:
    """A model as users have them: mixed flags, frozen parts, gradients, hooks."""
    inner: Any = case.net(torch.float32)
    net = nets.Watched(inner, fail_at=fail_at)
    net.train()
    inner.features[2].eval()
    inner.head.weight.requires_grad_(False)
    inner.head.bias.grad = torch.ones_like(inner.head.bias)
    inner.features.register_forward_hook(_hook)
    inner.head.register_full_backward_hook(_hook)
    return net


def _hook(*args: object) -> None:
    """Does nothing; its presence is what is checked."""


@law(
    "spec",
    "`restored` is the method that came back. A parameter that has no name (a function, a tensor) cannot "
    "make the trip; the law then asks only for a JSON-able description.",
)
def spec(case: MethodCase) -> Numbers:
    """The specification survives JSON, equal and with the same hash."""
    method = case.method
    described = json.loads(json.dumps(method.describe()))
    if "opaque" in json.dumps(described) or method.name not in methods.names():
        return {"described": True}
    back = from_spec(json.loads(json.dumps(to_spec(method))))
    return ensure(back == method and hash(back) == hash(method), restored=str(back), method=str(method))


@law(
    "docstring",
    "`missing` lists what its author has not written; the card says the rest.",
    when=lambda case: "" if case.method.name in methods.names() else "it has no factory",
)
def docstring(case: MethodCase) -> Numbers:
    """The docstring has one opening sentence, an example, and every parameter that others do not share."""
    entry = methods.get(case.method.name)
    missing = entry.documented.missing(entry.parameters(), example=True)
    return ensure(not missing, missing=missing)

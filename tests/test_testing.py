"""The law kit itself: it finds what is wrong, and keeps the list of declared exceptions honest."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import abe
from abe import registry, testing
from abe.baselines import Zero
from abe.engines.path.gradient import GradientAt
from abe.instrument.twin import twin
from abe.metrics.evaluation.perturbation import Perturbation, PerturbationRun
from abe.objectives import LogProbability
from abe.registry import Entry
from abe.testing import (
    LawBroken,
    ReplayedDraws,
    check_method,
    check_metric,
    check_objective,
    laws,
    nets,
    samples,
)
from abe.testing.methods import METHOD_LAWS
from abe.testing.metrics import METRIC_LAWS
from abe.testing.snapshot import Snapshot
from abe.types import Card, Passes, Result

ORACLES = Path(__file__).parent / "oracles"


def gradient_of(problem: Any) -> Tensor:
    return GradientAt().run(problem).attribution


class BatchMean:
    """Subtracts the mean map of the batch."""

    def run(self, problem: Any) -> Result:
        a = gradient_of(problem)
        return Result(a - a.mean(0, keepdim=True))


class Position:
    """Scales rows by their place in the batch."""

    def run(self, problem: Any) -> Result:
        a = gradient_of(problem)
        return Result(a * (1 + torch.arange(len(a)).view(-1, 1, 1, 1)))


class GlobalNoise:
    """Draws from the global generator."""

    def run(self, problem: Any) -> Result:
        return Result(gradient_of(problem) * torch.rand_like(problem.x))


class PastThePlanner:
    """Calls the model itself."""

    def run(self, problem: Any) -> Result:
        problem.task.model(problem.x)
        return Result(gradient_of(problem))


class Single:
    """Returns float32 whatever it is given."""

    def run(self, problem: Any) -> Result:
        return Result(gradient_of(problem).float())


class Claims:
    """Reports a change that the map has nothing to do with."""

    def run(self, problem: Any) -> Result:
        return Result(gradient_of(problem), problem.score)


class Leaves:
    """Leaves a gradient behind and writes into the input."""

    def run(self, problem: Any) -> Result:
        problem.x.mul_(0.5)
        return Result(gradient_of(problem))


class Swallows:
    """Hides that the model failed."""

    def run(self, problem: Any) -> Result:
        try:
            return Result(gradient_of(problem))
        except abe.AbeError:
            return Result(torch.zeros_like(problem.x))


@pytest.mark.parametrize(
    ("engine", "law"),
    [
        (BatchMean(), "batch"),
        (Position(), "order"),
        (GlobalNoise(), "randomness"),
        (PastThePlanner(), "cost"),
        (Single(), "dtype"),
        (Claims(), "claim"),
        (Leaves(), "restored"),
        (Swallows(), "restored"),
    ],
    ids=lambda part: part if isinstance(part, str) else type(part).__name__,
)
def test_wrong_engines_are_found(engine: Any, law: str) -> None:
    with pytest.raises(LawBroken) as broken:
        check_method(engine, only=law)
    assert broken.value.law == law


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Registers gradient × input under a card with changes, for one test."""

    def register(kind: Any = registry.methods, name: str = "gradient_x_input", **changes: Any) -> str:
        entry = kind.get(name)
        made = Entry("method", "probe", entry.factory, replace(entry.card, name="probe", **changes), ())
        monkeypatch.setitem(kind._entries, "probe", made)
        monkeypatch.setitem(kind._aliases, "probe", "probe")
        return "probe"

    return register


@pytest.mark.parametrize(
    ("axiom", "claim"),
    [("completeness", {"guarantees": ("completeness",)}), ("sensitivity", {"guarantees": ("sensitivity",)})],
)
def test_claims_that_do_not_hold_are_found(card: Any, axiom: str, claim: dict[str, Any]) -> None:
    with pytest.raises(LawBroken) as broken:
        check_method(card(**claim), only=axiom)
    assert broken.value.law == axiom
    assert broken.value.numbers
    assert "1 law" in str(broken.value)
    assert broken.value.reading in str(broken.value)


def test_a_wrong_cost_formula_is_found(card: Any) -> None:
    with pytest.raises(LawBroken, match=r"counted_1=\(1, 1\), seen_1=\(1, 1\), formula_1=\(2"):
        check_method(card(passes=Passes(forward="2 * b", backward="b")), only="cost")


def test_a_declared_failure_must_fail(card: Any) -> None:
    stale = card(guarantees=(), expected_failures={"dummy": "said by somebody"})
    with pytest.raises(LawBroken, match="take it off the list"):
        check_method(stale, only="dummy")


def test_a_declared_failure_that_fails_is_reported_with_its_reason(card: Any) -> None:
    found = check_method(card(expected_failures={"sensitivity": "one gradient"}), only="sensitivity")
    assert [(v.outcome, v.reason) for v in found] == [("fails as declared", "one gradient")]
    assert float(str(found[0].numbers["attribution"])) < 1e-3


@pytest.mark.parametrize(("share", "outcome"), [(0.0, "holds"), (1e-3, "fails as declared"), (0.1, "")])
def test_sometimes_is_accepted_either_way_up_to_its_bound(
    card: Any, monkeypatch: Any, share: float, outcome: str
) -> None:
    """A violation is planted: none, one within what the card allows, one beyond."""
    plain = GradientAt.run

    def off(self: Any, problem: Any) -> Result:
        a = plain(self, problem).attribution
        size = share * a.flatten(1).abs().amax(1).view(-1, 1, 1, 1)
        return Result(a + size * torch.arange(len(a)).view(-1, 1, 1, 1) / len(a))

    monkeypatch.setattr(GradientAt, "run", off)
    probe = card(expected_failures=dict.fromkeys(("batch", "order"), "sometimes, within 1e-2: planted"))
    if outcome:
        assert [v.outcome for v in check_method(probe, only=["batch", "order"])] == [outcome] * 2
        return
    with pytest.raises(LawBroken, match="missed by more than the card allows") as broken:
        check_method(probe, only=["batch", "order"])
    assert [b.law for b in broken.value.breaches] == ["batch", "order"]
    assert all(float(str(b.numbers["missed"])) > 0.05 for b in broken.value.breaches)


class Backwards:
    """Says that higher is better where lower is."""

    direction = "higher"

    def __init__(self, size: float) -> None:
        self.run, self.size = PerturbationRun(direction="deletion"), size

    @property
    def runs(self) -> tuple[PerturbationRun, ...]:
        return (self.run,)

    def summary(self, perturbations: Sequence[Perturbation]) -> Tensor:
        return self.size * perturbations[0].curve("probability").mean(1)


@pytest.mark.parametrize(("size", "outcome"), [(1e-3, "fails as declared"), (1.0, "")])
def test_a_ranking_may_be_missed_up_to_its_bound(
    card: Any, monkeypatch: Any, size: float, outcome: str
) -> None:
    """Higher is said to be better where lower is: by a thousandth of the range, and by all of it."""
    allowed = {"ranking": "sometimes, within 1e-3: planted"}
    probe = card(registry.metrics, "deletion", expected_failures=allowed, direction="higher")
    made = Entry("metric", probe, lambda: Backwards(size), registry.metrics.get(probe).card, ())
    monkeypatch.setitem(registry.metrics._entries, probe, made)
    if outcome:
        assert [v.outcome for v in check_metric(probe, only="ranking")] == [outcome]
    else:
        with pytest.raises(LawBroken, match="missed by more than the card allows"):
            check_metric(probe, only="ranking")


@pytest.mark.parametrize("reason", ["sometimes: perhaps", "sometimes, within: x", "sometimes, within 1e-3:"])
def test_sometimes_without_a_bound_is_refused(card: Any, reason: str) -> None:
    with pytest.raises(ValueError, match="gives no bound"):
        check_method(card(expected_failures={"dummy": reason}), only="dummy")


def test_a_law_without_a_measure_cannot_be_missed_by_a_little(card: Any) -> None:
    probe = card(expected_failures={"sensitivity": "sometimes, within 1e9: one gradient"})
    with pytest.raises(LawBroken, match="missed by more than the card allows"):
        check_method(probe, only="sensitivity")


def test_a_declared_failure_of_no_law_is_refused(card: Any) -> None:
    with pytest.raises(ValueError, match="no law is called 'completness'"):
        check_method(card(expected_failures={"completness": "a slip of the pen"}), only="dummy")


def test_an_exception_is_a_breach_even_where_a_failure_is_declared(card: Any, monkeypatch: Any) -> None:
    probe = card(expected_failures={"linearity": "declared"})

    def fails(self: Any, problem: Any) -> Result:
        raise ZeroDivisionError("mine")

    monkeypatch.setattr(GradientAt, "run", fails)
    with pytest.raises(LawBroken, match="ZeroDivisionError: mine") as broken:
        check_method(probe, only="linearity")
    assert isinstance(broken.value.__cause__, ZeroDivisionError)


def test_laws_are_listed_with_what_they_say() -> None:
    assert [one.name for one in laws()] == METHOD_LAWS.names()
    assert all(one.says.endswith(".") and one.reading for one in [*METHOD_LAWS, *METRIC_LAWS])
    listed = {one.name for one in laws("ig")}
    assert {"completeness", "symmetry", "cost", "restored"} <= listed
    assert "completeness" not in {one.name for one in laws("gradient")}


# ---------------------------------------------------------------- metrics


class Places:
    """Scores by place in the batch."""

    direction = "higher"

    def measure(self, problem: Any, explanation: Any) -> Tensor:
        return torch.arange(float(len(problem.x)))


class FirstPixels:
    """Breaks ties by position: adds a ramp to the map before it ranks."""

    direction = "lower"

    def __init__(self) -> None:
        self.run = PerturbationRun(direction="deletion", baseline=Zero(), unit=Ramp())

    @property
    def runs(self) -> tuple[PerturbationRun, ...]:
        return (self.run,)

    def summary(self, perturbations: Sequence[Perturbation]) -> Tensor:
        return perturbations[0].curve("probability").mean(1)


class Ramp(abe.units.Pixel):
    """Pixels whose ties are settled by where they stand."""

    def ranks(self, attribution: Tensor, x: Tensor, **how: Any) -> Any:
        ramp = torch.linspace(1, 0, attribution[0, 0].numel(), dtype=attribution.dtype)
        return super().ranks(attribution + 1e-6 * ramp.view_as(attribution[0, 0]), x, **how)


class Inverted:
    """Says that lower is better where higher is."""

    direction = "lower"

    def __init__(self) -> None:
        self.run = PerturbationRun(direction="insertion")

    @property
    def runs(self) -> tuple[PerturbationRun, ...]:
        return (self.run,)

    def summary(self, perturbations: Sequence[Perturbation]) -> Tensor:
        return perturbations[0].curve("probability").mean(1)


@pytest.mark.parametrize(
    ("metric", "law"),
    [(Places(), "order"), (Places(), "batch"), (FirstPixels(), "constant"), (Inverted(), "ranking")],
)
def test_wrong_metrics_are_found(metric: Any, law: str) -> None:
    with pytest.raises(LawBroken) as broken:
        check_metric(metric, only=law)
    assert broken.value.law == law


class OnACopy:
    """Runs a copy of the model itself."""

    direction = "higher"

    def measure(self, problem: Any, explanation: Any) -> Tensor:
        return twin(problem.task.model)(problem.x).sum(1).double()


def test_rows_of_copies_that_are_not_counted_are_found() -> None:
    with pytest.raises(LawBroken, match=r"counted_1=\(0, 0\), seen_1=\(1, 0\)"):
        check_metric(OnACopy(), only="cost")


@pytest.mark.parametrize(
    "name", ["mprt", "smooth_mprt", "efficient_mprt", "data_randomisation", "random_logit"]
)
def test_a_wrong_cost_formula_of_explaining_again_is_found(card: Any, name: str) -> None:
    passes = registry.metrics.get(name).card.passes
    wrong = replace(passes, backward=f"{passes.backward} + method_backward")
    with pytest.raises(LawBroken, match="formula_3"):
        check_metric(card(registry.metrics, name, passes=wrong), only="cost")


def test_a_metric_that_reads_no_map_must_say_so(card: Any) -> None:
    with pytest.raises(LawBroken, match="ranking"):
        check_metric(card(registry.metrics, "passes", expected_failures={}), only="ranking")


# ---------------------------------------------------------------- objectives


def mean_free(outputs: Tensor, target: Tensor) -> Tensor:
    chosen = outputs[torch.arange(len(outputs)), target]
    return chosen - outputs.mean()


def loss(outputs: Tensor, target: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(outputs, target, reduction="none")


def odds(outputs: Tensor, target: Tensor) -> Tensor:
    p = outputs.softmax(1)[torch.arange(len(outputs)), target]
    return p / (1 - p)


def rounded(outputs: Tensor, target: Tensor) -> Tensor:
    return LogProbability()(outputs + (outputs.round() - outputs).detach(), target)


@pytest.mark.parametrize(
    ("objective", "law"),
    [(mean_free, "rows"), (loss, "higher_is_more"), (odds, "finite"), (rounded, "gradient")],
)
def test_wrong_objectives_are_found(objective: Any, law: str) -> None:
    with pytest.raises(LawBroken) as broken:
        check_objective(objective, only=law)
    assert broken.value.law == law


# ---------------------------------------------------------------- nets and traces


def test_the_nets_have_their_properties() -> None:
    x = samples(4)
    h = nets.Homogeneous()
    torch.testing.assert_close(h(3.7 * x), 3.7 * h(x), rtol=1e-12, atol=1e-12)
    net = nets.Smooth()
    torch.testing.assert_close(nets.Twin(net)(x), net(x), rtol=1e-11, atol=1e-12)
    assert float((net(x) - nets.Smooth(seed=1)(x)).detach().abs().max()) > 0.1
    one, other = (1, 2), (4, 3)
    swapped = x.clone()
    swapped[:, 0, 1, 2], swapped[:, 0, 4, 3] = x[:, 0, 4, 3], x[:, 0, 1, 2]
    symmetric = nets.Symmetric(net, one, other)
    torch.testing.assert_close(symmetric(swapped), symmetric(x), rtol=1e-12, atol=1e-12)


def test_making_nets_leaves_the_global_generators_alone() -> None:
    states = torch.get_rng_state(), random.getstate()
    for make in (nets.Linear, nets.Homogeneous, nets.Smooth, nets.Convolutional, nets.Evidence):
        make()
    nets.oracle_net("s", ORACLES / "nets" / "s.safetensors")
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()


@pytest.mark.parametrize("name", ["s", "h"])
def test_oracle_nets_are_loaded_as_they_are(name: Any) -> None:
    path = ORACLES / "nets" / f"{name}.safetensors"
    if not path.exists():
        pytest.skip(f"{path.name} is not in tests/oracles")
    net, stored = nets.oracle_net(name, path), load_file(path)
    assert set(dict(net.named_parameters())) == set(stored)
    assert all(torch.equal(p, stored[k]) and p.dtype == torch.float64 for k, p in net.named_parameters())
    assert not net.training
    assert net(torch.rand(2, 3, 32, 32, dtype=torch.float64)).shape == (2, 10)


def spoil(net: nets.Convolutional) -> Mapping[str, Any]:
    """What may be left behind, by what the snapshot must call it."""

    def write() -> None:
        net.calls.data.add_(1)

    return {
        "training flag of head": lambda: net.head.train(not net.head.training),
        "requires_grad of head.bias": lambda: net.head.bias.requires_grad_(False),
        "gradient of head.bias": lambda: setattr(net.head.bias, "grad", torch.zeros_like(net.head.bias)),
        "buffer calls": write,
        "forward_hooks of features": lambda: net.features.register_forward_hook(print),
        "value of head.bias": lambda: net.head.bias.data.mul_(2),
        "torch's global generator": lambda: torch.rand(1),
    }


@pytest.mark.parametrize("what", spoil(nets.Convolutional()))
def test_a_snapshot_names_what_changed(what: str) -> None:
    net = nets.Convolutional()
    before = Snapshot(net)
    assert before.changes() == []
    spoil(net)[what]()
    assert what in before.changes()


def test_exported_names_exist() -> None:
    assert [name for name in testing.__all__ if not hasattr(testing, name)] == []
    assert isinstance(ReplayedDraws({}), abe.types.Draws)
    assert isinstance(testing.RecordedDraws(), abe.types.Draws)


def test_a_composition_without_a_name_is_checked_too() -> None:
    outcomes = {v.law: v.outcome for v in check_method(GradientAt(times_input=True))}
    assert outcomes["cost"] == outcomes["batch"] == "holds"
    assert outcomes["linearity"] == outcomes["docstring"] == "does not apply"
    assert isinstance(testing.methods.method_case(GradientAt()).card, Card)

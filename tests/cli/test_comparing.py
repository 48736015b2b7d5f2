"""What is compared when nobody says what, and how long that is said to take."""

import json
import re
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import abe
from abe import registry
from abe.cli import exits, inputs, quick
from abe.cli.options import ModelOptions
from abe.errors import Code, ModelError
from abe.metrics.evaluation.defaults import chosen_metrics
from abe.metrics.evaluation.foresight import Rows, rows_of, rows_of_method, rows_of_metrics
from abe.task.lifted import Context
from abe.units import Unrun

Run = Callable[..., Any]
MODEL = ("-m", "own_net:make", "--size", "8")
NAMES = [name for name, _ in quick.ONE_OF_EACH.values()]


def unrun(*shape: int) -> Unrun:
    return Unrun(torch.zeros(1, *shape), Context(), None)


def test_every_family_is_in_and_under_its_own_name() -> None:
    cards = registry.methods.cards()
    kinds = {card.family for card in cards.values()} - {"", "wrapper", "outside the survey"}
    assert set(quick.ONE_OF_EACH) == kinds
    for family, (name, params) in quick.ONE_OF_EACH.items():
        assert cards[name].family == cards[quick.OWN.get(name, name)].family == family
        registry.methods.build(name, **params)


def test_one_method_of_every_family_is_the_default(own: Run) -> None:
    result = own("compare", "a.png", "--metrics", "insertion", "--step", "50%", *MODEL, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    tried = {entry["method"] for key in ("ranking", "failures") for entry in found[key]}
    assert tried == set(NAMES) - {"attention_rollout"}
    assert "One method of every family: integrated_gradients, " in result.stderr
    assert "occlusion(units=grid(n=14)), lime(evaluations=500)" in result.stderr
    assert re.search(r"About \d.*: 6 of \d+ methods, 1 metrics, 1 photograph, [\d,]+ passes; ", result.stderr)
    assert "--methods all takes about" in result.stderr
    assert "--fine takes about" in result.stderr
    for place, entry in enumerate(NAMES[:3], 1):
        assert f"{place} of 6: {entry}: INS" in result.stderr


def test_all_is_everything_that_needs_no_more() -> None:
    every = inputs.methods("All")
    assert every == inputs.methods("ig,all")
    assert every is not None
    assert {"integrated_gradients", "lime", "rise", "lrp_epsilon"} < set(every)
    assert "path_integral" not in every


def test_what_is_not_asked_for_is_coarse_and_fine_is_what_compare_does(own: Run) -> None:
    words = ("compare", "a.png", "--methods", "gradient", *MODEL, "--json")
    coarse, fine = (json.loads(own(*words, *more).stdout) for more in ((), ("--fine",)))
    assert [m["metric"] for m in coarse["metrics"]] == list(quick.METRICS)
    assert coarse["step"] == {"units_per_step": 4, "units": 64}  # a twentieth, to whole units
    task = inputs.task_of(ModelOptions(model="own_net:make", size="8"))
    own_defaults = abe.compare(task, ["a.png"], ["gradient"])
    assert [m["metric"] for m in fine["metrics"]] == [m.name for m in own_defaults.metrics]
    assert fine["step"]["units_per_step"] == own_defaults.step == 1


def test_a_photograph_takes_fewer_passes_than_two_minutes_hold() -> None:
    methods = [registry.methods.resolve(item) for item in quick.ONE_OF_EACH.values()]
    chosen = chosen_metrics(quick.METRICS, {"step": quick.STEP})
    rows = rows_of(methods, chosen, unrun(3, 224, 224), 1)
    assert rows.forward + 2 * rows.backward < 3000


def network(size: int = 64) -> abe.Task:
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        *(torch.nn.Conv2d(3, 4, 3, stride=4), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 3), torch.nn.ReLU()),
        *(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 5)),
    )
    return abe.image_task(net, size=size)


def test_rows_are_foreseen_as_they_are_counted() -> None:
    task, x = network(), torch.rand(2, 3, 64, 64)
    defaults = {"unit": "pixel", "baseline": "zero", "step": quick.STEP}
    chosen = chosen_metrics([*quick.METRICS, "f_insertion", "faithfulness_correlation"], defaults)
    asked = [item for item in quick.ONE_OF_EACH.values() if item[0] not in ("attention_rollout", "iba")]
    found = abe.compare(task, x, asked, chosen, execution="model", progress=False)
    assert not found.failures
    for method in map(registry.methods.resolve, asked):
        cost = found.origins[method.name].cost
        foreseen = rows_of_method(method, unrun(3, 64, 64)) * 2
        most = 0 if method.name != "lrp_epsilon" else 1  # a card that says "at most"
        assert 0 <= foreseen.forward - cost.forward_rows <= most
        assert foreseen.backward == cost.backward_rows
    scores = next(iter(found.scores.values()))
    spent = [
        scores[name].cost for name in ("insertion", "deletion", "f_insertion", "faithfulness_correlation")
    ]
    known = 2  # the predictions, which faithfulness_correlation need not make again
    foreseen = rows_of_metrics(chosen, Rows(), unrun(3, 64, 64)) * 2
    assert foreseen.total - known == sum(cost.passes for cost in spent)
    shared = rows_of([], chosen, unrun(3, 64, 64), 2)
    assert (shared.forward, shared.backward) == (found.setup.forward_rows, found.setup.backward_rows)


@pytest.mark.parametrize("name", ["iba", "occlusion_patch", "occlusion", "shapley", "kernel_shap", "rise"])
def test_rows_of_what_promises_nothing_are_near(name: str) -> None:
    params = {"occlusion": {"units": "grid"}, "rise": {"evaluations": 60}}.get(name, {})
    method = abe.method(name, **params)
    spent = abe.explain(network(28), torch.rand(1, 3, 28, 28), method, progress=False).cost.passes
    assert rows_of_method(method, unrun(3, 28, 28)).total == pytest.approx(spent, rel=0.1)


class Slow(torch.autograd.Function):
    """Takes its time on a clock of its own: one unit of it a row forward, two backward."""

    clock = 0.0
    row = 0.01

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        Slow.clock += Slow.row * len(x)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        Slow.clock += 2 * Slow.row * len(gradients[0])
        return gradients[0]


class SlowNet(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = network().model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(Slow.apply(x))


@pytest.mark.parametrize("row", [0.01, 1.0])
def test_the_time_that_is_foretold_is_the_time_it_takes(row: float, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = SimpleNamespace(**{**vars(time), "perf_counter": lambda: Slow.clock})
    for module in ("evaluator", "choose_copy"):
        monkeypatch.setattr(f"abe.engines.runtime.{module}.time", fake)
    monkeypatch.setattr(Slow, "row", row)
    task = abe.image_task(SlowNet(), size=64)
    x = torch.rand(1, 3, 64, 64)
    _, forward, gradient = quick.pace(task, x)
    assert (forward, gradient) == pytest.approx((row, 3 * row), rel=0.01)
    chosen = chosen_metrics(["insertion", "deletion", "gap"], {"step": 0.05})
    methods = ["integrated_gradients", ("occlusion", {"units": "grid"}), ("lime", {"evaluations": 100})]
    told = rows_of(map(registry.methods.resolve, methods), chosen, unrun(3, 64, 64), 1)
    before = Slow.clock
    abe.compare(task, x, methods, chosen, progress=False)
    took = Slow.clock - before  # a slow model was not run long enough to have chosen a copy before
    assert told.seconds(forward, gradient) == pytest.approx(took, rel=0.05 if row < 0.1 else 0.3)


def test_the_sentence_says_time_passes_and_what_else_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick, "pace", lambda *_: (unrun(3, 8, 8), 0.5, 2.0))
    chosen = chosen_metrics(["insertion"], {"step": 0.5})
    others = {"--more": (["gradient"], chosen)}
    task = abe.image_task(torch.nn.Identity())
    said = quick.estimate(task, ["a.png", "b.png"], ["integrated_gradients"], chosen, others)
    # per photograph 50 gradients, two more rows, three of the curve and the prediction
    assert said.startswith("About 3.4 min: 1 of ")
    assert said.endswith("methods, 1 metrics, 2 photographs, 212 passes; --more takes about 8 s.")

    def fail(*_: Any) -> None:
        raise ModelError(Code.NOT_DIFFERENTIABLE, "no gradient")

    monkeypatch.setattr(quick, "pace", fail)
    assert "not known" in quick.estimate(task, ["a.png"], ["occlusion"], chosen, {})


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.01, "1 s"), (42, "42 s"), (100, "1.7 min"), (5000, "83 min"), (7200, "2 h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert quick.duration(seconds) == text


def test_a_method_that_fails_is_told_as_it_does(own: Run) -> None:
    result = own("compare", "a.png", "--methods", "gradient,attention_rollout", "--step", "50%", *MODEL)
    assert result.exit_code == 0
    assert "2 of 2: attention_rollout did not finish [ABE-" in result.stderr


def test_a_mistake_costs_no_estimate(own: Run) -> None:
    result = own("compare", "a.png", "--methods", "gradient", "-m", "own_net:Fails", "--step", "50%")
    assert result.exit_code == exits.MODEL
    assert "wrong day" in result.stderr

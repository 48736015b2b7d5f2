"""What is compared when nobody says what, and how long that is said to take."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from abe import registry
from abe.cli import comparing, exits, inputs
from abe.cli.options import ModelOptions
from abe.errors import Code, ModelError

Run = Callable[..., Any]
MODEL = ("-m", "own_net:make", "--size", "8")


def test_every_family_is_in_and_under_its_own_name() -> None:
    cards = registry.methods.cards()
    kinds = {card.family for card in cards.values()} - {"", "wrapper", "outside the survey"}
    assert set(comparing.ONE_OF_EACH) == kinds
    for family, name in comparing.ONE_OF_EACH.items():
        assert cards[name].family == family
        assert registry.methods.get(name).required() == ()


def test_one_method_of_every_family_is_the_default(own: Run) -> None:
    words = ("compare", "a.png", "--metrics", "insertion", "--step", "50%", *MODEL)
    result = own(*words, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    tried = {entry["method"] for key in ("ranking", "failures") for entry in found[key]}
    assert tried == set(comparing.ONE_OF_EACH.values()) - {"attention_rollout"}
    assert "One method of every family" in result.stderr
    assert "--methods all" in result.stderr
    assert "passes of" in result.stderr


def test_all_is_everything_that_needs_no_more() -> None:
    every = inputs.methods("All")
    assert every == inputs.methods("ig,all")
    assert every is not None
    assert {"integrated_gradients", "lime", "rise", "lrp_epsilon"} < set(every)
    assert "path_integral" not in every


def test_the_estimate_counts_what_is_run(own: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    task = inputs.task_of(ModelOptions(model="own_net:task"))
    said = comparing.estimate(task, ["a.png", "b.png"], ["integrated_gradients"], ["insertion"], 0.5)
    steps, curve = registry.methods.build("ig").rows(1), 3
    assert steps is not None
    assert f"about {2 * (steps + curve):,.0f} passes of" in said
    assert "1 of " in said
    assert "2 photographs" in said

    def fail(*_: Any, **__: Any) -> None:
        raise ModelError(Code.NOT_DIFFERENTIABLE, "no gradient")

    monkeypatch.setattr("abe.api.explain", fail)
    assert "not known" in comparing.estimate(task, ["a.png"], ["occlusion"], None, None)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.01, "1 s"), (42, "42 s"), (100, "1.7 min"), (5000, "83 min"), (7200, "2 h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert comparing._duration(seconds) == text


def test_a_mistake_costs_no_estimate(own: Run) -> None:
    result = own("compare", "a.png", "--methods", "gradient", "-m", "own_net:Fails", "--step", "50%")
    assert result.exit_code == exits.MODEL
    assert "wrong day" in result.stderr

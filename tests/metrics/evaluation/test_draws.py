"""Recorded draws in evaluations: replayed, for all or by name, and refused where they do not fit."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import abe
from abe.draws import SeededDraws
from abe.errors import AbeError, Code
from abe.metrics import score
from abe.testing import RecordedDraws, ReplayedDraws

X = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(1)).double()
IDS = [5, 6]
RANDOM = {
    "infidelity": {"samples": 3},
    "faithfulness_correlation": {"samples": 4},
    "max_sensitivity": {"samples": 2},
    "random_logit": {},
    "insertion": {"baseline": "uniform"},
    "f_deletion": {},
}
"""Metrics that draw: masks, neighbours, other classes, references, colours to begin from."""


def task() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return abe.image_task(
            nn.Sequential(nn.Flatten(), nn.Linear(48, 5), nn.Tanh(), nn.Linear(5, 3)).double().eval()
        )


def explanation(method: str = "gradient") -> abe.Explanation:
    return abe.explain(task(), X, method, target=1, ids=IDS, progress=False)


def recorder(seed: int = 3) -> RecordedDraws:
    return RecordedDraws(SeededDraws(seed=seed))


def compared(draws: Any, seed: int = 0) -> abe.Comparison:
    methods = [("smoothgrad", {"samples": 3}), ("eg", {"samples": 3})]
    metrics = [("infidelity", {"samples": 3}), ("insertion", {"baseline": "uniform"}), "deletion"]
    return abe.compare(task(), X, methods, metrics, draws=draws, seed=seed, ids=IDS, progress=False)


def values(comparison: abe.Comparison) -> Tensor:
    """All scores, but for the rounding of batches of other sizes."""
    rows = sorted(comparison.scores.items())
    return torch.stack([row[name].values for _, row in rows for name in sorted(row)]).mul(1e12).round()


@pytest.mark.parametrize("name", RANDOM)
def test_a_replay_gives_the_recorded_score(name: str):
    made, asked, drawn = explanation(), (name, RANDOM[name]), recorder()
    right = score(made, task(), metric=asked, draws=drawn)
    assert drawn.recorded
    for draws in (drawn.replayed(), {name: drawn.replayed()}):
        assert score(made, task(), metric=asked, draws=draws, seed=9).values.tolist() == right.values.tolist()
    with pytest.raises(AbeError) as caught:
        score(made, task(), metric=asked, draws=ReplayedDraws({"other": {(5, 0): 1.0}}))
    assert caught.value.code is Code.DRAW


def test_each_method_and_metric_has_draws_of_its_own():
    own = {name: recorder(i) for i, name in enumerate(("smoothgrad", "expected_gradients", "infidelity"))}
    right = compared(own)
    purposes = {name: set(one.recorded) for name, one in own.items()}
    assert purposes == {
        "smoothgrad": {"smooth.noise"},
        "expected_gradients": {"baseline.uniform", "expectation.alpha"},
        "infidelity": {"infidelity.square"},
    }
    found = compared({name: one.replayed() for name, one in own.items()})
    assert torch.equal(values(found), values(right))
    assert not torch.equal(values(found), values(compared(None)))
    by_alias = compared({"eg": own["expected_gradients"].replayed()})
    maps = [one.explanations["expected_gradients"].attribution for one in (by_alias, right)]
    assert torch.equal(*maps)


def test_one_record_serves_all():
    drawn = recorder()
    right = compared(drawn)
    assert torch.equal(values(compared(drawn.replayed(), seed=4)), values(right))
    own = ReplayedDraws({"infidelity.square": drawn.recorded["infidelity.square"]})
    given = {"eg": right.explanations["expected_gradients"]}
    again = abe.evaluate(
        task(), given, [("infidelity", {"samples": 3})], draws={"infidelity": own}, ids=IDS, progress=False
    )
    scores = [again.scores["eg"], right.scores["expected_gradients"]]
    assert torch.allclose(*[one["infidelity"].values for one in scores], rtol=1e-9)


def test_what_is_read_along_equal_runs_is_shared_only_with_equal_draws():
    metrics = [("insertion", {"baseline": "uniform"}), ("gap", {"baseline": "uniform"})]
    costs = {}
    for own in (False, True):
        draws = {"insertion": recorder(1)} if own else recorder(1)
        found = abe.compare(task(), X, ["gradient"], metrics, draws=draws, progress=False).scores["gradient"]
        costs[own] = found["insertion"].values.tolist()
        gained = found["gap"]
        alone = abe.compare(
            task(), X, ["gradient"], metrics[1:], draws=None if own else recorder(1), progress=False
        )
        assert torch.allclose(gained.values, alone.scores["gradient"]["gap"].values, atol=1e-9)
    assert costs[False] == pytest.approx(costs[True], abs=1e-9)


ASKED = ("infidelity", {"samples": 3})


def drawn_for(metric: Any = ASKED) -> dict[str, Any]:
    drawn = recorder()
    score(explanation(), task(), metric=metric, draws=drawn)
    return dict(drawn.recorded)


class Odd:
    """Draws of another shape than asked for, or no tensors at all."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def uniform(self, purpose: str, keys: Any, shape: Any) -> Any:
        return self.answer

    normal = integers = permutation = uniform


REFUSED = {
    "unused purpose": (lambda: ReplayedDraws({**drawn_for(), "more": {(5, 0): 1.0}}), Code.DRAW, "'more'"),
    "unused number": (lambda: ReplayedDraws(drawn_for(("infidelity", {"samples": 4}))), Code.DRAW, "2 left"),
    "too few": (lambda: ReplayedDraws(drawn_for(("infidelity", {"samples": 2}))), Code.DRAW, "draw 2"),
    "another shape": (lambda: Odd(torch.zeros(6, 7)), Code.DRAW, r"\(6, 7\).*\(1, 2\)"),
    "no tensor": (lambda: Odd([0.5]), Code.DRAW, "Got list"),
    "a number": (lambda: 5, Code.BAD_PARAMETER, "ReplayedDraws"),
    "the class": (lambda: SeededDraws, Code.BAD_PARAMETER, "ReplayedDraws"),
    "an array by name": (lambda: {"infidelity": torch.zeros(3)}, Code.BAD_PARAMETER, "ReplayedDraws"),
    "nobody": (lambda: {"infidelty": recorder()}, Code.UNKNOWN_NAME, "'infidelity'"),
    "no name": (lambda: {3: recorder()}, Code.UNKNOWN_NAME, "Got 3"),
    "not measured": (lambda: {"deletion": recorder()}, Code.UNKNOWN_NAME, "one of"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_does_not_fit_is_refused(why: str):
    make, code, words = REFUSED[why]
    how: dict[str, Any] = {"draws": make()}
    with pytest.raises(AbeError, match=words) as caught:
        score(explanation(), task(), metric=ASKED, **how)
    assert caught.value.code is code
    how["draws"] = make()
    with pytest.raises(AbeError) as caught:
        abe.evaluate(task(), {"a": explanation()}, [ASKED], progress=False, **how)
    assert caught.value.code is code


BY_NAME = {
    "'smoothgrad' were not asked for": (
        {"s": ("smoothgrad", {"samples": 1})},
        ["complexity"],
        {"smoothgrad": ReplayedDraws({"smooth.noise": {(5, 0): torch.zeros(3, 4, 4), (5, 9): [0.0]}})},
    ),
    "nobody that draws": ({"a": torch.ones_like(X[:1])}, ["complexity"], {"a": recorder()}),
    "a method and a metric alike": ({"infidelity": "smoothgrad"}, [ASKED], {"infidelity": recorder()}),
    "names one of them twice": (["eg"], [ASKED], {"eg": None, "expected_gradients": None}),
}


@pytest.mark.parametrize("words", BY_NAME)
def test_names_that_do_not_tell_whose_draws_they_are(words: str):
    maps, metrics, draws = BY_NAME[words]
    maps = {"smoothgrad": maps["s"]} if "s" in maps else maps
    with pytest.raises(AbeError, match=words):
        abe.evaluate(task(), maps, metrics, data=X[:1], ids=[5], draws=draws, progress=False)


def test_methods_refuse_the_same():
    for draws, code in ((5, Code.BAD_PARAMETER), ({"eg": 1}, Code.BAD_PARAMETER), (Odd([0]), Code.DRAW)):
        with pytest.raises(AbeError) as caught:
            abe.explain(task(), X, "smoothgrad", samples=2, draws=draws, progress=False)
        assert caught.value.code is code

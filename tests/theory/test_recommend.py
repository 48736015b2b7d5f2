"""`abe.recommend`: planted answers, races that are honest about what they saw, wrong requests."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import abe
from abe.errors import Code
from abe.theory import controls, race
from abe.theory.criteria import PRESETS, Criterion, criteria_of
from abe.theory.recommend import seconds_of


class Additive(nn.Module):
    """A score that adds pixels with known weights: gradient × input is exact."""

    def __init__(self) -> None:
        super().__init__()
        draws = torch.Generator().manual_seed(0)
        self.head = nn.Linear(3 * 36, 4, bias=False)
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(4, 108, generator=draws))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1))


TASK = abe.image_task(Additive().eval())
X = torch.rand(32, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def recommended(x: Any = X, *asked: Any, **how: Any) -> Any:
    return abe.recommend(TASK, x, *asked, **{"budget": 600, "progress": False, "settings": {}, **how})


@pytest.fixture(scope="module")
def planted() -> Any:
    methods = ["gradient_x_input", "integrated_gradients", "gradient", ("smoothgrad", {"samples": 4})]
    return recommended(X, methods, ["gap", "infidelity"])


def test_a_perfect_explainer_is_among_the_best_and_its_copy_is_equivalent(planted: Any) -> None:
    assert set(planted.best) == {"gradient_x_input", "integrated_gradients"}
    pair = planted.standings[0].ranking.pair("gradient_x_input", "integrated_gradients")
    assert pair.verdict == "equivalent"
    assert planted.choice in planted.front
    assert planted.call == f'abe.explain(task, x, "{planted.choice}")'


def test_explainers_that_know_nothing_run_along_and_are_not_among_the_best(planted: Any) -> None:
    assert planted.controls == ("random", "edges")
    assert not set(planted.controls) & set(planted.standings[0].ranking.leaders)


def test_what_is_said_in_words_is_what_was_found(planted: Any) -> None:
    said = str(planted)
    assert "equivalent within" in said
    assert planted.choice in said
    assert "32 samples (95 %)" in said
    assert said in planted.table().caption
    assert "believe" in repr(planted)


def test_what_drops_out_says_what_was_seen(planted: Any) -> None:
    out = [one for one in planted.candidates if one.status == "dropped"]
    assert [one.why for one in out] == ["after 16 samples"] * len(out)
    for one in out:
        mean, n = planted.standings[0].before[one.name]
        assert n == 16
        assert mean < max(planted.standings[0].ranking.means)


def test_a_recommendation_is_written_and_drawn(planted: Any, tmp_path: Path) -> None:
    file = planted.save(tmp_path / "choice.json")
    held = json.loads(file.read_text())
    assert held["sentence"] == planted.sentence
    assert held["best"] == list(planted.best)
    planted.plot(tmp_path / "choice.png")
    assert (tmp_path / "choice.png").stat().st_size > 5000
    with pytest.raises(abe.AbeError, match="saved as JSON"):
        planted.save(tmp_path / "choice.txt")


def test_the_same_request_gives_the_same_answer(planted: Any) -> None:
    methods = ["gradient_x_input", "integrated_gradients", "gradient", ("smoothgrad", {"samples": 4})]
    again = recommended(X, methods, ["gap", "infidelity"])
    assert again.standings == planted.standings
    assert again.sentence == planted.sentence


def test_a_metric_to_be_small_is_minimised() -> None:
    found = recommended(X[:16], ["gradient_x_input", "gradient"], ["deletion"])
    assert found.best[0] == "gradient_x_input"
    means = dict(zip(found.standings[0].ranking.names, found.standings[0].ranking.means, strict=True))
    assert means["gradient_x_input"] < means["random"]


def test_a_method_that_fails_never_wins_and_stops_no_other() -> None:
    found = recommended(X[:8], ["gradient_x_input", "grad_cam"], ["gap"])  # no layer with maps
    failed = [one for one in found.candidates if one.status == "failed"]
    assert [one.name for one in failed] == ["grad_cam"]
    assert "grad_cam" not in found.best
    assert failed[0].why


def test_settings_say_where_the_verdict_holds() -> None:
    found = recommended(
        X[:16], ["gradient_x_input", "gradient"], ["gap"], settings={"mean": {"baseline": "mean"}}
    )
    assert set(found.standings[0].agrees) == {"usual", "mean"}
    assert "of 2 settings" in str(found)
    assert 0 <= found.standings[0].joint <= 1


def test_groups_count_once() -> None:
    frames = X[:4].repeat_interleave(4, 0)
    found = recommended(frames, ["gradient_x_input", "gradient"], ["gap"], groups=[i // 4 for i in range(16)])
    assert found.standings[0].ranking.units == 4
    assert len(found.best) == 2  # four films tell nothing apart at 95 %


def test_what_is_measured_of_a_batch_counts_once_a_lot() -> None:
    found = recommended(X[:16], ["gradient_x_input", "gradient"], "realtime")
    assert found.standings[0].criterion == "seconds"
    assert found.standings[0].ranking.units == 1 + -(-(16 - race.PILOT) // race.LOT)
    assert not set(found.controls) & set(found.standings[0].ranking.names)


def test_a_method_that_maximises_a_metric_is_not_judged_by_it() -> None:
    masks = ("meaningful_perturbation", {"steps": 2, "cells": 3})
    found = recommended(X[:8], [masks, "gradient"], ["deletion"])
    graded = {one.name: one.self_graded for one in found.candidates}
    assert graded["meaningful_perturbation"] == ("deletion",)
    assert "meaningful_perturbation" not in found.best


def test_an_interrupted_race_says_what_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    measure, count = race.Race._measure, [0]

    def interrupted(self: Any, *given: Any) -> Any:
        count[0] += 1
        if count[0] > 9:  # two explainers and two controls, in the third block
            raise KeyboardInterrupt
        return measure(self, *given)

    monkeypatch.setattr(race.Race, "_measure", interrupted)
    found = recommended(X, ["gradient_x_input", "integrated_gradients"], ["gap"])
    assert found.interrupted
    assert found.samples == 16
    assert any("Interrupted" in one for one in found.warnings)


def test_a_budget_bounds_the_race() -> None:
    found = recommended(X, ["gradient_x_input", ("smoothgrad", {"samples": 400})], ["gap"], budget=8)
    assert found.seconds < 14  # the last lot may begin within the budget; machines may be slow


@pytest.mark.parametrize(
    ("how", "code", "said"),
    [
        ({"criteria": "faithfull"}, Code.UNKNOWN_NAME, "faithful"),
        ({"criteria": ["gap", "gap"]}, Code.DUPLICATE_NAME, "twice"),
        ({"criteria": ["nothing"]}, Code.UNKNOWN_NAME, "nothing"),
        ({"criteria": "debugging"}, Code.LABELS, "labels="),
        ({"criteria": ["relevance_mass"]}, Code.MASK, "masks="),
        ({"budget": "soon"}, Code.BAD_PARAMETER, "2min"),
        ({"budget": 0}, Code.BAD_PARAMETER, "2min"),
        ({"budget": 1e-3}, Code.BUDGET, "lets"),
        ({"settings": ["mean"]}, Code.BAD_PARAMETER, "settings="),
        ({"settings": {"odd": {"colour": 1}}}, Code.UNKNOWN_PARAMETER, "colour"),
        ({"groups": [1]}, Code.SHAPE, "groups="),
        ({"methods": ["nonsense"]}, Code.UNKNOWN_NAME, "nonsense"),
        ({"methods": []}, Code.BAD_PARAMETER, "method"),
        ({"margin": 2}, Code.BAD_PARAMETER, "share"),
    ],
)
def test_wrong_requests(how: dict[str, Any], code: Code, said: str) -> None:
    asked = {"methods": ["gradient", "gradient_x_input"], "criteria": ["gap"], **how}
    with pytest.raises(abe.AbeError) as caught:
        recommended(X[:8], **asked)
    assert caught.value.code == code
    assert said in str(caught.value)


def test_one_sample_tells_nothing() -> None:
    with pytest.raises(abe.AbeError, match="One sample"):
        recommended(X[:1], ["gradient", "gradient_x_input"], ["gap"])


def test_one_method_by_what_no_control_has_is_refused() -> None:
    with pytest.raises(abe.AbeError, match="told from nothing"):
        recommended(X[:4], ["gradient"], ["seconds"])


def test_all_methods_failing_is_an_error_that_names_one() -> None:
    with pytest.raises(abe.AbeError, match="No method finished"):
        recommended(X[:4], ["grad_cam"], ["gap"])


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("2min", 120), ("1.5 m", 90), ("1h", 3600), (7, 7)]
)
def test_budgets(text: Any, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("name", PRESETS)
def test_presets_can_be_measured(name: str) -> None:
    found = criteria_of(name, TASK)
    assert [one.name for one in found] == list(PRESETS[name])
    assert all(isinstance(one, Criterion) for one in found)


def test_an_edge_detector_finds_an_edge_and_random_maps_follow_samples() -> None:
    x = torch.zeros(1, 3, 8, 8)
    x[..., 4:] = 1
    found = controls.edges(x)[0, 0]
    assert bool((found[:, 3:5] > 0).all())
    assert float(found[:, :3].abs().max()) == 0
    maps = controls.random_maps(X[:3])
    assert torch.equal(maps[[2]], controls.random_maps(X[[2]]))

"""Metrics: names, shared runs, values on known answers, and metrics of a third party."""

import json
import math
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
from tests.metrics.common import evidence_task, mapped, photos, problem

from abe.errors import AbeError, Code
from abe.metrics import Metric, PerturbationRun, area, as_metric
from abe.metrics.evaluation.book import BLOCK, measure
from abe.registry import metrics
from abe.spec import value
from abe.types import Card, Cost

PAIRED = {
    "ins": "insertion",
    "del": "deletion",
    "kl_ins": "kl_insertion",
    "KL-DEL": "kl_deletion",
    "f_ins": "f_insertion",
    "f_del": "f_deletion",
    "lo_ins": "log_odds_insertion",
    "lo_del": "log_odds_deletion",
    "ins_gap": "gap",
    "fps": "explanations_per_second",
}
FROM_RUNS = [
    *("insertion", "deletion", "gap", "kl_insertion", "kl_deletion", "kl_gap"),
    *("f_insertion", "f_deletion", "f_gap", "log_odds_insertion", "log_odds_deletion", "aopc"),
]


def chosen(*names, **defaults) -> list[Metric]:
    return [as_metric(name, defaults={"step": 12, **defaults}) for name in names]


def setting(b: int = 3, **how):
    model, weight = evidence_task()
    x = photos(b)
    return problem(model, x, target=1, **how), mapped(x * weight)


def test_aliases_and_cards():
    for alias, name in PAIRED.items():
        assert as_metric(alias).name == name
    for name in (*FROM_RUNS, "residual", "passes", "seconds", "explanations_per_second"):
        card = metrics.get(name).card
        assert card.direction in ("higher", "lower")
        assert card.formula
        assert card.range
        assert as_metric(name).card is card


def test_one_run_serves_every_metric_that_reads_it():
    """144 pixels in steps of 12: 13 points. Twelve metrics need four runs and one feature search."""
    given, explanation = setting()
    scores = measure(given, explanation, chosen(*FROM_RUNS))
    cost = given.evaluator.cost
    search = 8 * 10
    assert cost.forward_rows == 4 * 3 * 13 + search
    assert cost.backward_rows == search
    assert scores["insertion"].cost.forward_rows == 3 * 13
    assert scores["gap"].cost.forward_rows == 2 * 3 * 13
    for name in FROM_RUNS:
        alone, _ = setting()
        one = measure(alone, explanation, chosen(name))[name]
        torch.testing.assert_close(one.values, scores[name].values, rtol=1e-6, atol=1e-7)


def test_values_are_the_areas_of_the_curves():
    given, explanation = setting()
    scores = measure(given, explanation, chosen(*FROM_RUNS))
    for name in FROM_RUNS:
        score = scores[name]
        assert score.values.shape == (3,)
        assert score.values.dtype == torch.float64
        if "gap" not in name and name != "aopc":
            assert score.curve.shape == (3, 13)
            torch.testing.assert_close(area(score.curve), score.values)
    for pair in ("", "kl_", "f_"):
        gap = scores[f"{pair}insertion"].values - scores[f"{pair}deletion"].values
        torch.testing.assert_close(scores[f"{pair}gap"].values, gap)
    curve = scores["deletion"].curve
    torch.testing.assert_close(scores["aopc"].values, (curve[:, :1] - curve).mean(1))


def test_the_true_map_beats_random_beats_inverted_by_every_metric():
    given, true = setting(6)
    noise = torch.rand(true.attribution.shape, generator=torch.Generator().manual_seed(5))
    tables = [
        measure(given, mapped(m), chosen(*FROM_RUNS)) for m in (true.attribution, noise, -true.attribution)
    ]
    for name in FROM_RUNS:
        sign = 1 if tables[0][name].direction == "higher" else -1
        means = [sign * t[name].mean for t in tables]
        assert means[0] > means[1] > means[2], name


def test_batch_order_and_chunks_do_not_change_a_score():
    b = BLOCK + 3  # over the edge of a block
    model, weight = evidence_task()
    x = photos(b)
    a = (x * weight).round(decimals=1)  # ties
    ids = list(range(50, 50 + b))
    names = chosen(*FROM_RUNS, step=30)
    whole = measure(problem(model, x, target=1, ids=ids), mapped(a), names)
    back = measure(problem(model, x.flip(0), target=1, ids=ids[::-1], chunk=5), mapped(a.flip(0)), names)
    for i in (0, 17, b - 1):
        one = problem(model, x[i : i + 1], target=1, ids=[ids[i]], chunk=1)
        alone = measure(one, mapped(a[i : i + 1]), names)
        for name in FROM_RUNS:
            torch.testing.assert_close(alone[name].values[0], whole[name].values[i], rtol=1e-5, atol=1e-6)
    for name in FROM_RUNS:
        torch.testing.assert_close(back[name].values.flip(0), whole[name].values, rtol=1e-5, atol=1e-6)


def test_a_label_says_what_the_number_depends_on():
    given, explanation = setting()
    asked = [
        as_metric(("insertion", {"unit": ("patch", {"size": 3}), "baseline": 0.5, "step": 4})),
        as_metric("f_deletion"),
        as_metric("passes"),
    ]
    explanation.cost = Cost(forward_rows=30, backward_rows=30, seconds=1.5)
    scores = measure(given, explanation, asked, seed=7)
    assert scores["insertion"].label == (
        "insertion[unit=patch(size=3), baseline=constant(value=0.5), step=4/16, seed=7]"
    )
    assert scores["f_deletion"].label == "f_deletion[unit=pixel, baseline=confusion, step=2/144, seed=7]"
    assert scores["passes"].label == "passes"
    assert scores["insertion"].direction == "higher"
    assert scores["f_deletion"].direction == "lower"
    json.dumps([s.to_dict() for s in scores.values()], allow_nan=False)


def test_efficiency_and_residual_read_the_explanation():
    given, explanation = setting()
    explanation.cost = Cost(forward_rows=30, backward_rows=30, seconds=1.5)
    explanation.residual = torch.tensor([0.1, -0.2, 0.0])
    scores = measure(given, explanation, chosen("passes", "seconds", "fps", "residual"))
    assert scores["passes"].values.tolist() == [20, 20, 20]
    assert scores["seconds"].values.tolist() == [0.5, 0.5, 0.5]
    assert scores["explanations_per_second"].values.tolist() == [2, 2, 2]
    torch.testing.assert_close(scores["residual"].values, torch.tensor([0.1, 0.2, 0.0]).double())
    assert given.evaluator.cost.passes == 0
    explanation.residual = None
    silent = measure(given, explanation, chosen("residual"))["residual"]
    assert math.isnan(silent.mean)
    assert silent.to_dict()["mean"] is None


def test_a_zero_map_is_noted_and_scored_as_a_random_order():
    given, _ = setting()
    scores = measure(given, mapped(torch.zeros_like(given.x)), chosen("insertion", "residual"))
    assert Code.ZERO_MAP.value in scores["insertion"].warnings[0]
    assert len(scores["insertion"].warnings) == 1
    assert scores["residual"].warnings == []


def test_bad_maps_are_refused_before_anything_is_run():
    given, explanation = setting()
    broken = explanation.attribution.clone()
    broken[2, 0, 0, 0] = math.nan
    for attribution, code in ((broken, Code.MAP_NOT_FINITE), (broken[:2], Code.MAP_SHAPE)):
        with pytest.raises(AbeError) as caught:
            measure(given, mapped(attribution), chosen("insertion"))
        assert caught.value.code is code
    assert given.evaluator.cost.passes == 0


def test_unknown_metrics_and_parameters_are_refused_by_name():
    for bad, code in (
        ("insertoin", Code.UNKNOWN_NAME),
        (("insertion", {"stepp": 3}), Code.UNKNOWN_PARAMETER),
        (3.5, Code.UNKNOWN_NAME),
        (("insertion", {"unit": "pixl"}), Code.UNKNOWN_NAME),
    ):
        with pytest.raises(AbeError) as caught:
            as_metric(bad)
        assert caught.value.code is code


# --- a third party's metrics ----------------------------------------------------------------------


@value
class HalfWay:
    """Probability half way along a deletion: reads the run that `deletion` makes anyway."""

    run: PerturbationRun
    direction = "lower"

    @property
    def runs(self) -> tuple[PerturbationRun, ...]:
        return (self.run,)

    def summary(self, perturbations: Sequence) -> torch.Tensor:
        curve = perturbations[0].curve("probability")
        return curve[:, curve.shape[1] // 2]


@value
class Sparsity:
    """Share of the map's mass in its largest entry; runs the model once per sample for nothing."""

    def measure(self, problem, explanation) -> torch.Tensor:
        problem.scores(problem.x, problem.everyone)
        size = explanation.attribution.abs().flatten(1)
        return size.amax(1) / size.sum(1)


@value
class Careless:
    direction = "higher"

    def measure(self, problem, explanation) -> torch.Tensor:
        return explanation.attribution.mean()


def test_third_parties_register_both_kinds(monkeypatch):
    monkeypatch.setattr(metrics, "_entries", dict(metrics._entries))
    monkeypatch.setattr(metrics, "_aliases", dict(metrics._aliases))
    card = {"summary": "s", "source": "petsiuk2018"}

    @metrics.register(Card(name="half_way", title="HALF", **card))
    def half_way(*, step: int | None = None) -> HalfWay:
        return HalfWay(run=PerturbationRun(direction="deletion", step=step))

    @metrics.register(Card(name="sparsity", title="SPARSE", direction="higher", **card))
    def sparsity() -> Sparsity:
        return Sparsity()

    given, explanation = setting()
    scores = measure(given, explanation, chosen("deletion", "half_way", "sparsity"))
    assert given.evaluator.cost.forward_rows == 3 * 13 + 3
    assert scores["sparsity"].cost.forward_rows == 3
    assert scores["half_way"].direction == "lower"
    torch.testing.assert_close(scores["half_way"].values, scores["deletion"].curve[:, 6])


def test_a_metric_value_needs_no_registration_but_a_direction_and_a_shape():
    given, explanation = setting()
    scores = measure(given, explanation, [as_metric(HalfWay(run=PerturbationRun(direction="deletion")))])
    assert list(scores) == ["HalfWay"]
    with pytest.raises(AbeError, match="which way is better"):
        as_metric(Sparsity())
    with pytest.raises(AbeError, match="one number per sample"):
        measure(given, explanation, [as_metric(Careless())])
    with pytest.raises(AbeError):
        as_metric(SimpleNamespace())

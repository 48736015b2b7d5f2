"""`compare` and `score`: shared work, honest ranking, failures that stop nothing."""

import io
import json

import pytest
import torch
from rich.console import Console
from tests.metrics.common import evidence_task, net_s, oracle, photos
from torch import Tensor, nn

import abe.registry
from abe.api import explain, method
from abe.errors import AbeError, Code, InputError
from abe.explanation import Explanation
from abe.metrics import compare, score
from abe.metrics.evaluation.base import Score, as_metric
from abe.metrics.evaluation.comparison import mean_ranks
from abe.metrics.evaluation.defaults import DEFAULT_METRICS
from abe.metrics.evaluation.table import compact
from abe.spec import value
from abe.task import image_task
from abe.types import Card, Result

POINTS = 1024 // 103 + 2  # of a curve in steps of a tenth


@value
class Broken:
    """Refuses, or breaks outright."""

    rude: bool = False

    def run(self, problem) -> Result:
        if self.rude:
            raise ZeroDivisionError("no luck")
        raise InputError(Code.SHAPE, "This method cannot do it")


@value
class Oriented:
    """The known map of the evidence model, times a sign."""

    sign: float = 1.0

    def run(self, problem) -> Result:
        return Result(attribution=self.sign * problem.x * problem.task.model.weight)


@pytest.fixture(autouse=True)
def _toys(monkeypatch):
    """Methods of this test only."""
    registry = abe.registry.methods
    registry.names()
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    monkeypatch.setattr(registry, "_aliases", dict(registry._aliases))
    card = {"title": "t", "summary": "s", "source": "petsiuk2018"}

    @registry.register(Card(name="broken", **card))
    def broken(*, rude: bool) -> Broken:
        return Broken(rude=rude)

    @registry.register(Card(name="oriented", **card))
    def oriented(*, sign: float) -> Oriented:
        return Oriented(sign=sign)


def task():
    return image_task(net_s(torch.float32), labels=[f"class {i}" for i in range(10)])


def images(b: int = 3) -> Tensor:
    return oracle("metric_insdel_rise")["x"][:b].float()


def quick(*args, **how):
    return compare(*args, **{"step": 0.1, "progress": False, "execution": "model", **how})


@pytest.mark.slow
def test_default_is_every_method_that_needs_nothing_more():
    found = quick(task(), images(1), metrics=["gap"], step=0.5)
    entries = abe.registry.methods.entries()
    of_some = {"layer", "attention", "cross_attention", "training", "optimisation"}
    assert set(found.methods) == {
        e.name for e in entries if not e.required() and not of_some & set(e.card.needs)
    }
    assert found.failures == {}


def test_default_metrics_share_their_runs_and_the_confusion_feature():
    found = quick(task(), images(), ["gradient", "fast_ig"])
    assert [m.name for m in found.metrics] == list(DEFAULT_METRICS)
    assert found.rank_by == ("gap", "kl_gap", "f_gap")
    assert found.setup.forward_rows == 3 + 8 * 10
    assert found.setup.backward_rows == 8 * 10
    for scores in found.scores.values():
        assert scores["insertion"].cost.forward_rows == 3 * POINTS
        assert scores["f_gap"].cost.forward_rows == 2 * 3 * POINTS
        assert scores["f_gap"].cost.backward_rows == 0
        assert scores["insertion"].label == "insertion[unit=pixel, baseline=zero, step=103/1024, seed=0]"
        for name in DEFAULT_METRICS:
            assert scores[name].values.shape == (3,)
    assert 0.9 < found.confusion <= 1


def test_ranking_orders_a_known_answer():
    model, _ = evidence_task()
    given = [method("oriented", sign=s) for s in (-1.0, 1.0)] + ["gradient_x_input", "integrated_gradients"]
    found = quick(model, photos(4), given, target=1)
    assert found.methods[-1] == "oriented(sign=-1.0)"
    # on a linear model three methods are the same map, so they share the first rank
    assert {found.ranks[m] for m in found.methods[:3]} == {2.0}
    assert found.ranks["oriented(sign=-1.0)"] == 4.0


def test_ranks_are_means_of_places_with_equals_shared():
    def table(**means: float) -> dict[str, Score]:
        return {
            n: Score(name=n, label=n, direction="higher", values=torch.tensor([m])) for n, m in means.items()
        }

    scores = {
        "a": table(gap=3.0, deletion=0.1),
        "b": table(gap=2.0, deletion=0.1),
        "c": table(gap=1.0, deletion=0.0),
    }
    by = [as_metric("gap"), as_metric("deletion")]
    assert mean_ranks(scores, by) == {"a": 1.75, "b": 2.25, "c": 2.0}
    scores["c"]["gap"].values[0] = torch.nan
    assert mean_ranks(scores, by[:1]) == {"a": 1.0, "b": 2.0, "c": 3.0}


def test_rank_by_is_obeyed_and_checked():
    found = quick(task(), images(2), ["gradient", "fast_ig"], ["insertion", "passes"], rank_by="passes")
    assert found.methods == ["gradient", "fast_ig"]
    assert found.ranks == {"gradient": 1.0, "fast_ig": 2.0}
    assert "ranked by the mean of passes" in found.caption
    unnamed = quick(task(), images(2), ["gradient"], ["insertion", "passes"])
    assert unnamed.rank_by == ("insertion", "passes")
    with pytest.raises(AbeError) as caught:
        quick(task(), images(2), ["gradient"], ["insertion"], rank_by="gap")
    assert caught.value.code is Code.BAD_PARAMETER


def test_a_failing_method_is_listed_and_stops_nothing():
    given = ["gradient", ("broken", {"rude": False}), ("broken", {"rude": True})]
    found = quick(task(), images(2), given, ["gap"])
    assert found.methods == ["gradient"]
    assert found.failures["broken(rude=False)"].code == Code.SHAPE.value
    assert found.failures["broken(rude=True)"].code == "ZeroDivisionError"
    assert [f["method"] for f in found.to_dict()["failures"]] == ["broken(rude=False)", "broken(rude=True)"]
    text = shown(found)
    assert Code.SHAPE.value in text
    assert "no luck" in text


def test_where_every_method_fails_the_first_error_is_raised():
    with pytest.raises(AbeError) as caught:
        quick(task(), images(2), [("broken", {"rude": False}), ("broken", {"rude": True})], ["gap"])
    assert caught.value.code is Code.SHAPE


def test_bad_requests_are_refused_before_computing():
    for how, code in (
        ({"methods": ["gradiant"]}, Code.UNKNOWN_NAME),
        ({"methods": []}, Code.BAD_PARAMETER),
        ({"metrics": ["inss"]}, Code.UNKNOWN_NAME),
        ({"metrics": ["ins", ("ins", {"step": 3})]}, Code.DUPLICATE_NAME),
        ({"unit": "pixl"}, Code.UNKNOWN_NAME),
        ({"baseline": "zeroo"}, Code.UNKNOWN_NAME),
        ({"step": 0}, Code.BAD_PARAMETER),
        ({"target": 10}, Code.TARGET_RANGE),
        ({"ids": [1]}, Code.IDS),
    ):
        rows = []
        with pytest.raises(AbeError) as caught:
            compare(task(), images(2), **{"methods": ["gradient"], "progress": rows.append, **how})
        assert caught.value.code is code, how
        assert sum(rows) <= 2  # at most the prediction


def test_json_is_complete_and_valid():
    found = quick(task(), images(2), ["gradient", "integrated_gradients"])
    text = json.dumps(found.to_dict(curves=True), allow_nan=False)
    back = json.loads(text)
    assert [e["method"] for e in back["ranking"]] == found.methods
    first = back["ranking"][0]
    assert len(first["scores"]["insertion"]["values"]) == 2
    assert len(first["curves"]["insertion"][0]) == POINTS
    assert first["scores"]["residual"]["mean"] is not None or first["method"] == "gradient"
    assert "curves" not in found.to_dict()["ranking"][0]


def shown(found, width: int = 100) -> str:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(found.table())
    return out.getvalue()


def test_the_table_fits_a_terminal():
    found = quick(task(), images(2), ["gradient", "integrated_gradients", "smoothgrad"])
    text = shown(found)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    assert "…" not in text
    for name in found.methods:
        row = next(line for line in lines if f" {name} " in line)
        assert len(row.split()) == 2 + len(DEFAULT_METRICS)
    assert "± half of their 95 % bootstrap interval" in " ".join(text.split())
    assert "too few samples to tell" in " ".join(text.split())


def test_numbers_are_compact():
    shown = {0.634: ".634", -0.1234: "-.123", 0.99996: "1.00", 4.146: "4.15", 12.34: "12.3", 1530.2: "1530"}
    shown |= {
        0.0: ".000",
        0.0004: "4e-4",
        float("nan"): "–",
        float("inf"): "∞",
        0.9999: "1.00",
        9.999: "10.0",
    }
    assert {x: compact(x) for x in shown} == shown


def test_progress_is_called_with_the_rows_that_were_run():
    rows = []
    found = quick(
        task(), images(2), ["gradient", "integrated_gradients"], ["gap", "f_gap"], progress=rows.append
    )
    run = sum(s["gap"].cost.passes + s["f_gap"].cost.passes for s in found.scores.values())
    assert sum(rows) == run + found.setup.passes + sum(e.cost.passes for e in found.explanations.values())


def test_scoring_an_explanation_gives_what_compare_gives(tmp_path):
    x = images()
    found = quick(task(), x, ["integrated_gradients"], ["insertion", "f_deletion"], seed=3)
    alone = explain(task(), x, "integrated_gradients", seed=3, progress=False, execution="model")
    loaded = Explanation.load(alone.save(tmp_path / "saved"))
    for name in ("insertion", "f_deletion"):
        wanted = found.scores["integrated_gradients"][name]
        for explanation in (alone, loaded):
            got = score(explanation, task(), metric=name, step=0.1, execution="model")
            torch.testing.assert_close(got.values, wanted.values, rtol=1e-5, atol=1e-6)
            assert got.label == wanted.label


def test_scores_follow_the_explained_class():
    x = images(2)
    found = quick(task(), x, ["gradient"], ["insertion"], target="class 4")
    with torch.no_grad():
        p = task().model(x).softmax(1)[:, 4]
    torch.testing.assert_close(found.curves["gradient"]["insertion"][:, -1], p.double(), rtol=1e-4, atol=1e-6)
    assert found.target_names == ["class 4", "class 4"]


def test_models_with_probabilities_score_the_same():
    plain = task()
    soft = image_task(nn.Sequential(plain.model, nn.Softmax(dim=1)))
    x = images(2)
    explanation = explain(plain, x, "gradient", progress=False, execution="model")
    for name in ("insertion", "kl_insertion"):
        wanted = score(explanation, plain, metric=name, step=0.1)
        got = score(explanation, soft, metric=name, step=0.1)
        torch.testing.assert_close(got.values, wanted.values, rtol=1e-4, atol=1e-5)


def test_a_model_with_a_second_input():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net_s(torch.float32)

        def forward(self, image: Tensor, gain: Tensor) -> Tensor:
            return self.net(image) * gain

    two = image_task(Two(), explained="image")
    x, gain = images(), torch.tensor([[1.0], [0.5], [2.0]])
    raw = {"image": x, "gain": gain}
    found = quick(two, raw, ["gradient"], ["insertion", "kl_deletion"])
    for i in range(3):
        one = quick(two, {"image": x[i : i + 1], "gain": gain[i : i + 1]}, ["gradient"], ["insertion"])
        wanted = found.scores["gradient"]["insertion"].values[i]
        torch.testing.assert_close(
            one.scores["gradient"]["insertion"].values[0], wanted, rtol=1e-5, atol=1e-6
        )


def test_the_model_is_left_as_found_also_after_a_failure():
    given = task()
    given.model.train()
    given.model[0].eval()
    before = {k: v.clone() for k, v in given.model.state_dict().items()}
    state = torch.get_rng_state()
    quick(given, images(2), ["gradient", ("broken", {"rude": True})], ["f_gap"])
    with pytest.raises(AbeError):
        quick(given, images(2), [("broken", {"rude": False})], ["f_gap"])
    assert [m.training for m in given.model] == [False, *[True] * 7]
    assert all(p.requires_grad and p.grad is None for p in given.model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in given.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_metric_reads_the_score_that_was_explained():
    x = images(2)
    for objective, read in (("probability", lambda out: out.softmax(1)), ("logit", lambda out: out)):
        explanation = explain(
            task(), x, "gradient_x_input", objective=objective, progress=False, execution="model"
        )
        found = score(explanation, task(), metric="completeness_gap", execution="model").values
        with torch.no_grad():
            s, zero = (read(task().model(v)) for v in (x, torch.zeros_like(x)))
        target = explanation.target[:, None]
        change = (s.gather(1, target) - zero.gather(1, target))[:, 0].double()
        missed = (explanation.attribution.double().flatten(1).sum(1) - change).abs() / change.abs()
        torch.testing.assert_close(found, missed, rtol=1e-3, atol=1e-5)

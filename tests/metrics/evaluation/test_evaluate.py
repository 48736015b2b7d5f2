"""`evaluate`: shared rows, streams, foreign maps, honest verdicts, and refusals before computing."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console
from tests.metrics.common import evidence_task, net_s, oracle, photos
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import abe
from abe import Comparison, Explanation
from abe.errors import AbeError, Code
from abe.metrics import score
from abe.metrics.evaluation.defaults import DEFAULT_METRICS
from abe.metrics.evaluation.perturbation import PerturbationRun
from abe.testing.nets import Watched
from abe.units.arrival import Arrival

CURVES = ("insertion", "deletion", "kl_insertion", "kl_deletion", "log_odds_insertion", "log_odds_deletion")


def quick(*args, **how) -> Comparison:
    return abe.evaluate(*args, **{"step": 0.1, "progress": False, "execution": "model", **how})


def evidence(b: int = 20, seed: int = 0):
    """A task with a known answer, samples, and its true maps."""
    task, weight = evidence_task()
    x = photos(b, seed=seed)
    return task, x, x * weight


def noise(like: Tensor, seed: int) -> Tensor:
    return torch.rand(like.shape, generator=torch.Generator().manual_seed(seed))


def small(dtype: torch.dtype = torch.float32):
    return abe.image_task(net_s(dtype), output_kind="logits"), oracle("metric_insdel_rise")["x"].to(dtype)


def refused(code: Code, *args, **how) -> str:
    with pytest.raises(AbeError) as caught:
        quick(*args, **how)
    assert caught.value.code is code, str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- shared work


def test_six_curve_metrics_cost_no_more_rows_than_two():
    """1,024 pixels in steps of 103: 11 points, two runs; the model itself is asked, not the records."""
    task, x = small()
    rows = {}
    for metrics in (CURVES[:2], CURVES, (*CURVES, "gap", "kl_gap", "aopc", "comprehensiveness")):
        watched = Watched(task.model)
        found = quick(replace(task, model=watched), {"a": noise(x, 1), "b": noise(x, 2)}, metrics, data=x)
        rows[len(metrics)] = watched.forward_rows
        counted = found.setup.forward_rows
        counted += sum(s[m].cost.forward_rows for s in found.scores.values() for m in CURVES[:2])
        assert counted == watched.forward_rows
    assert set(rows.values()) == {len(x) + 2 * 2 * len(x) * 11}


@torch.no_grad()
def area_by_hand(net: nn.Module, x: Tensor, maps: Tensor, target: Tensor, *, insert: bool) -> list[float]:
    """Pixels by their sum over channels, in steps of a tenth: one picture after the other, no plan."""
    areas = []
    for one, attribution, wanted in zip(x, maps, target.tolist(), strict=True):
        order = attribution.sum(0).flatten().argsort(descending=True)
        curve = []
        for count in [*range(0, 1024, 103), 1024]:
            inside = torch.zeros(1024, dtype=torch.bool)
            inside[order[:count]] = True
            shown = one * (inside if insert else ~inside).view(32, 32)
            curve.append(float(net(shown[None]).softmax(1)[0, wanted]))
        areas.append((sum(curve) - (curve[0] + curve[-1]) / 2) / (len(curve) - 1))
    return areas


def test_compare_evaluate_and_score_give_what_a_loop_over_pictures_gives():
    """In float64: how many rows go through the model at once changes the last digit, and more in float32."""
    task, x = small(torch.float64)
    compared = abe.compare(
        task, x, ["gradient", "fast_ig"], step=0.1, seed=3, progress=False, execution="model"
    )
    found = quick(task, compared.explanations, seed=3)
    for name, scores in compared.scores.items():
        for metric in DEFAULT_METRICS:
            torch.testing.assert_close(
                found.scores[name][metric].values, scores[metric].values, equal_nan=True
            )
            one, other = found.scores[name][metric].interval, scores[metric].interval
            assert one == (other if other is None else pytest.approx(other, rel=1e-10, nan_ok=True))
        explained = compared.explanations[name]
        for metric in ("insertion", "deletion"):
            right = area_by_hand(
                task.model, x, explained.attribution, explained.target, insert=metric == "insertion"
            )
            one = score(explained, task, metric=metric, step=0.1, execution="model")
            for values in (scores[metric].values, found.scores[name][metric].values, one.values):
                assert values.tolist() == pytest.approx(right, abs=1e-9)
            assert one.interval is not None
    assert repr(found.tests) == repr(compared.tests)
    assert found.methods == compared.methods
    assert found.conclusions == compared.conclusions


def test_every_kind_of_source_gives_the_same_scores(tmp_path):
    task, x, true = evidence(6)
    exact = abe.explain(task, x, "gradient_x_input", target=1, progress=False, execution="model")
    np.save(tmp_path / "maps.npy", true.numpy())
    sources = {
        "explanation": exact,
        "folder": exact.save(tmp_path / "saved"),
        "array": true.movedim(1, -1).numpy(),
        "file": tmp_path / "maps.npy",
        "per class": [torch.zeros_like(true), true],
        "function": lambda inputs, targets: inputs * task.model.weight.detach(),
        "method": ("gradient_x_input", {}),
    }
    found = quick(task, sources, ["insertion", "kl_deletion", "faithfulness_correlation"], data=x, target=1)
    assert found.failures == {}
    for name in sources:
        for metric, kept in found.scores["array"].items():
            torch.testing.assert_close(found.scores[name][metric].values, kept.values, rtol=1e-4, atol=1e-5)
    assert {t.verdict for t in found.tests} == {"no difference"}
    assert set(found.ranks.values()) == {4.0}


def test_a_list_is_named_by_methods():
    task, x, true = evidence(3)
    given = [Explanation.from_array(true * s, x, target=1, name="theirs") for s in (1, -1)]
    assert set(quick(task, given, ["gap"]).methods) == {"theirs", "theirs (2)"}
    assert quick(task, ["ig"], ["gap"], data=x).methods == ["integrated_gradients"]


# ---------------------------------------------------------------- streams


def test_scores_do_not_depend_on_the_batches():
    task, x, true = evidence(13)
    x[5] = x[2]  # twice the same sample
    masks = torch.zeros(13, 12, 12, dtype=torch.bool)
    masks[:, 2:7, 2:7] = True
    metrics = ["insertion", "f_deletion", "faithfulness_correlation", "relevance_mass", "sufficiency"]
    maps = {"true": true, "noise": noise(true, 4), "gradient": "gradient", "flat": torch.ones_like(true)}
    whole = quick(task, maps, metrics, data=x, masks=masks)
    for size in (1, 4, 13):
        batches = DataLoader(TensorDataset(x, torch.ones(13, dtype=torch.long), masks), batch_size=size)
        found = quick(task, maps, metrics, data=batches)
        assert found.names == [f"sample {i}" for i in range(13)]
        for name in maps:
            for metric in metrics:
                torch.testing.assert_close(
                    found.scores[name][metric].values,
                    whole.scores[name][metric].values,
                    rtol=1e-5,
                    atol=1e-6,
                    equal_nan=True,
                )
                kept, other = (f.scores[name][metric].interval for f in (whole, found))
                assert other == pytest.approx(kept, rel=1e-5, abs=1e-6)
        assert [t.verdict for t in found.tests] == [t.verdict for t in whole.tests]


def test_a_stream_holds_one_batch_at_a_time():
    task, x, _ = evidence(12)
    alive: list[int] = []

    def batches():
        import gc
        import weakref

        seen = []
        for part in x.split(2):
            batch = part.clone()
            seen.append(weakref.ref(batch))
            yield {"inputs": batch}
            del batch
            gc.collect()
            alive.append(sum(r() is not None for r in seen))

    found = quick(task, ["gradient"], ["insertion"], data=batches())
    assert max(alive) <= 2
    assert found.explanations == {}
    assert found.curves == {"gradient": {}}
    assert len(found.names) == 12


def test_a_stream_reports_rows_and_bad_batches():
    task, x, true = evidence(8)
    rows: list[float] = []
    quick(task, {"t": true}, ["insertion"], data=iter(x.split(3)), progress=rows.append)
    assert sum(rows) == 8 + 8 * 11
    refused(Code.SAMPLES, task, {"t": true}, ["gap"], data=iter(x[:6].split(3)))
    refused(Code.SAMPLES, task, {"t": true[:5]}, ["gap"], data=iter(x.split(3)))
    refused(Code.EMPTY_BATCH, task, {"t": true}, ["gap"], data=iter([]))
    refused(Code.BAD_PARAMETER, task, {"t": true}, ["gap"], data=iter(x.split(3)), labels=[0] * 8)
    refused(Code.MASK, task, {"t": true}, ["relevance_mass"], data=iter(x.split(3)))
    refused(Code.SHAPE, task, {"t": true}, ["gap"], data=iter([{"inputs": x, "mask": x}]))


# ---------------------------------------------------------------- verdicts


def test_equal_methods_do_not_differ_and_different_ones_do():
    task, x, true = evidence(24)
    maps = {
        "true": true,
        "noise one": noise(true, 1),
        "noise two": noise(true, 2),
        "inverted": -true,
    }
    found = quick(task, maps, ["insertion", "deletion", "kl_insertion"], data=x, target=1)
    for metric in ("insertion", "deletion", "kl_insertion"):
        assert found.test("noise one", "noise two", metric).verdict == "no difference"
        assert found.test("true", "noise one", metric).verdict == "better"
        assert found.test("noise two", "true", metric).verdict == "worse"
        assert found.test("inverted", "noise two", metric).verdict == "worse"
        assert found.leaders(metric) == ["true"]
    both = quick(task, {k: maps[k] for k in ("noise one", "noise two")}, ["insertion"], data=x, target=1)
    assert set(both.leaders("insertion")) == {"noise one", "noise two"}
    (said,) = both.conclusions
    assert "does not differ from it" in said
    assert said in " ".join(shown(both).split())


def test_too_few_samples_are_said_to_be_too_few():
    task, x, true = evidence(4)
    found = quick(task, {"true": true, "inverted": -true}, ["insertion"], data=x, target=1)
    assert found.test("true", "inverted", "insertion").verdict == "too few samples"
    (said,) = found.conclusions
    assert "too few samples to tell (a test needs at least 6)" in said
    single = quick(task, {"true": true[:1], "inverted": -true[:1]}, ["insertion"], data=x[:1], target=1)
    assert single.scores["true"]["insertion"].interval is None
    assert "one sample has no interval" in single.caption


def test_cost_has_neither_interval_nor_test():
    task, x, true = evidence(9)
    found = quick(task, {"ours": "gradient", "theirs": true}, ["insertion", "passes"], data=x)
    assert {t.metric for t in found.tests} == {"insertion"}
    assert found.scores["ours"]["passes"].interval is None
    assert found.scores["ours"]["passes"].mean == 2
    assert np.isnan(found.scores["theirs"]["passes"].mean)  # nobody knows what a foreign map cost


# ---------------------------------------------------------------- results


def shown(found: Comparison, width: int = 100) -> str:
    screen = Console(file=io.StringIO(), width=width)
    screen.print(found.table())
    return screen.file.getvalue()


def test_the_result_says_what_a_number_is(tmp_path):
    task, x, true = evidence(8)
    masks = torch.zeros(8, 12, 12)
    masks[:, 2:7, 2:7] = 1
    metrics = ["insertion", "relevance_mass", "complexity", "average_drop"]
    found = quick(task, {"true": true, "noise": noise(true, 1)}, metrics, data=x, masks=masks)
    data = json.loads(json.dumps(found.to_dict(curves=True), allow_nan=False))
    first = data["ranking"][0]["scores"]
    assert first["insertion"]["processing"] == "signed, summed over each unit"
    assert first["relevance_mass"]["processing"] == "positive part, channels summed"
    assert first["complexity"]["processing"] == "magnitude of every element"
    assert first["relevance_mass"]["label"] == "relevance_mass[of='positive', seed=0]"
    assert first["insertion"]["cost"]["forward_rows"] == 8 * 11
    for entry in first.values():
        assert entry["direction"] in ("higher", "lower")
        assert len(entry["values"]) == 8
        assert entry["interval"][0] <= entry["mean"] <= entry["interval"][1]
    assert len(data["tests"]) == 4
    assert "±" in shown(found)
    found.plot(tmp_path / "scores.png")
    assert (tmp_path / "scores.png").read_bytes()[:4] == b"\x89PNG"


def test_a_result_survives_being_saved(tmp_path):
    task, x, true = evidence(8)
    found = quick(task, {"true": true, "noise": noise(true, 1), "ours": "gradient"}, data=x)
    back = Comparison.load(found.save(tmp_path))
    assert back.to_dict(curves=True) == found.to_dict(curves=True)
    assert repr(back.tests) == repr(found.tests)
    assert shown(back) == shown(found)
    back.plot()
    torch.testing.assert_close(back.curves["true"]["insertion"], found.curves["true"]["insertion"])
    (tmp_path / "comparison.json").write_text("{}")
    with pytest.raises(AbeError) as caught:
        Comparison.load(tmp_path)
    assert caught.value.code is Code.FOREIGN_FILE


# ---------------------------------------------------------------- bad input


def test_what_can_be_seen_is_refused_before_the_model_runs():
    task, x, true = evidence(4)
    watched = Watched(task.model)
    task = replace(task, model=watched, output_kind="logits")
    exact = Explanation.from_array(true, x, target=1, name="exact")
    wrong = replace(exact)
    wrong.attribution = true[..., :-1]
    broken = replace(exact)
    broken.attribution = torch.where(true > 0.01, true, torch.nan)
    says = refused(Code.MAP_SHAPE, task, {"w": wrong}, ["gap"])
    assert "(4, 3, 12, 11)" in says
    refused(Code.MAP_NOT_FINITE, task, {"ok": exact, "b": broken}, ["gap"])
    refused(Code.MAP_SHAPE, task, {"w": true[:, :2]}, ["gap"], data=x)
    refused(Code.MAP_NOT_FINITE, task, {"b": np.full(true.shape, np.nan)}, ["gap"], data=x)
    says = refused(Code.SAMPLES, task, {"e": exact}, ["gap"], data=x.flip(0))
    assert "'e'" in says
    refused(Code.SAMPLES, task, {"e": exact}, ["gap"], data=x[:2])
    refused(Code.SAMPLES, task, {"e": exact, "o": Explanation.from_array(true, x / 2, target=1)}, ["gap"])
    refused(Code.EMPTY_BATCH, task, {"e": true}, ["gap"])
    refused(Code.BAD_PARAMETER, task, {}, ["gap"], data=x)
    refused(Code.BAD_PARAMETER, task, {"e": 3}, ["gap"], data=x)
    refused(Code.BAD_PARAMETER, task, {"e": exact}, [])
    refused(Code.BAD_PARAMETER, task, {"e": exact}, ["gap"], confidence=95)
    refused(Code.MASK, task, {"e": exact}, ["relevance_mass"])
    refused(Code.MASK, task, {"e": exact}, ["relevance_mass"], masks=torch.ones(4, 12, 11))
    refused(Code.LABELS, task, {"e": exact}, ["gap"], labels=[0, 1])
    refused(Code.TARGET_RANGE, task, {"e": exact, "o": Explanation.from_array(true, x, target=0)}, ["gap"])
    refused(Code.TARGET_RANGE, task, {"e": exact}, ["gap"], target=0)
    other = replace(exact, objective="Probability", method="other")
    refused(Code.OBJECTIVE, task, {"e": replace(exact, objective="Logit"), "o": other}, ["gap"])
    says = refused(Code.UNSUPPORTED, task, {"e": exact}, ["max_sensitivity"])
    assert "made elsewhere" in says
    tabular = replace(task, modality="tabular")
    says = refused(Code.UNSUPPORTED, tabular, {"e": exact}, ["irof"])
    assert "'irof'" in says
    refused(Code.UNSUPPORTED, replace(task, output_kind="regression"), {"e": exact}, ["insertion"])
    assert watched.forward_rows == 0


def test_zero_maps_are_scored_and_noted_and_empty_masks_do_not_count():
    task, x, true = evidence(7)
    some = true.clone()
    some[3] = 0
    masks = torch.zeros(7, 12, 12)
    masks[:, 2:7, 2:7] = 1
    masks[0], masks[1] = 0, 1
    found = quick(task, {"true": true, "some": some}, ["insertion", "relevance_mass"], data=x, masks=masks)
    assert any(Code.ZERO_MAP.value in w and "3" in w for w in found.scores["some"]["insertion"].warnings)
    mass = found.scores["true"]["relevance_mass"]
    assert mass.values.isnan().tolist() == [True, True, *[False] * 5]
    assert 0 < mass.mean <= 1
    assert mass.interval is not None
    assert found.test("true", "some", "relevance_mass").n == 5


def test_a_failing_function_is_listed_and_stops_nothing():
    task, x, true = evidence(3)

    def fails(inputs, targets):
        raise ZeroDivisionError("no luck")

    found = quick(task, {"true": true, "fails": fails, "wrong": lambda i, t: i[:, :, 1:]}, ["gap"], data=x)
    assert found.methods == ["true"]
    assert found.failures["fails"].code == "ZeroDivisionError"
    assert found.failures["wrong"].code == Code.MAP_SHAPE.value
    with pytest.raises(ZeroDivisionError):
        quick(task, {"fails": fails}, ["gap"], data=x)


def test_the_objective_is_the_explanations_own():
    task, x = small()
    made = abe.explain(
        task, x, "gradient_x_input", objective="probability", progress=False, execution="model"
    )
    found = quick(task, made, ["completeness_gap"])
    assert found.objective == made.objective
    wanted = quick(task, made, ["completeness_gap"], objective="probability")
    got = found.scores["gradient_x_input"]["completeness_gap"].values
    torch.testing.assert_close(got, wanted.scores["gradient_x_input"]["completeness_gap"].values)
    other = quick(task, made, ["completeness_gap"], objective="logit").scores["gradient_x_input"]
    assert not torch.allclose(other["completeness_gap"].values, got)


def test_metrics_over_one_unit_share_the_order_of_arrival(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sorting the units of a large picture takes as long as some passes."""
    sorted_by: list[str] = []
    order = PerturbationRun.order

    def counted(self: PerturbationRun, *args) -> Arrival:
        sorted_by.append(f"{self.first} {self.direction}")
        return order(self, *args)

    monkeypatch.setattr(PerturbationRun, "order", counted)
    task, x, _ = evidence(2)
    exact = abe.explain(task, x, "gradient_x_input", target=1, progress=False, execution="model")
    quick(task, {"true": exact}, metrics=("insertion", "deletion", "kl_insertion"))
    assert len(sorted_by) == 1

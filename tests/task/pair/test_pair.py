"""Pairs of photograph and caption: each row meets its own, on both sides or one, and what is refused."""

from itertools import combinations
from math import factorial
from typing import Any

import pytest
import torch
from tests.task.pair.nets import Methods, Named, Whole
from tests.task.text.texts import Tokenizer, weights
from torch import Tensor, nn

import abe
from abe.engines.runtime.request import open_request
from abe.errors import AbeError, Code
from abe.task.lifted import FIXED
from abe.testing.snapshot import Snapshot

CAPTIONS = ["a charming film", "dull not a film", "slow"]


def photographs(b: int = 3, size: int = 4) -> Tensor:
    made = torch.Generator().manual_seed(1)
    return torch.rand(b, 3, size, size, generator=made, dtype=torch.float64)


def task_of(net: type[nn.Module] = Named, tokenizer: Any = None, **how: Any) -> abe.Task:
    if net is Named:
        how = {"image": "see", "text": "read", **how}
    return abe.pair_task(weights(net()), Tokenizer() if tokenizer is None else tokenizer, **how)


def explained(raw: Any, method: Any = "ig", task: abe.Task | None = None, **how: Any) -> abe.Explanation:
    return abe.explain(task or task_of(), raw, method, progress=False, **how)


def given(b: int = 3) -> tuple[Tensor, list[str]]:
    return photographs(b), CAPTIONS[:b]


def cosine(net: Any, image: Tensor, caption: str) -> Tensor:
    ids = torch.tensor([Tokenizer()(caption)["input_ids"]])
    return torch.cosine_similarity(net.see(image), net.read(ids, torch.ones_like(ids)), dim=1).detach()


# --- each row meets its own ----------------------------------------------------------------------------


def test_the_score_is_the_cosine_of_the_pair_whatever_the_chunk_and_the_order() -> None:
    task = task_of()
    net: Any = task.model._inside
    x, captions = given()
    wanted = torch.cat([cosine(net, x[i : i + 1], one) for i, one in enumerate(captions)])
    for chunk in (1, 2, 3):
        found = explained((x, captions), "gradient", task, chunk=chunk)
        assert torch.allclose(found.score, wanted, rtol=1e-12, atol=0)
    turned = explained((x.flip(0), captions[::-1]), "gradient", task)
    assert torch.allclose(turned.score.flip(0), wanted, rtol=1e-12, atol=0)
    for i, caption in enumerate(captions):
        alone = explained((x[i : i + 1], caption), "ig", task, steps=3)
        among = explained((x, captions), "ig", task, steps=3)
        assert torch.allclose(among.part("image")[i], alone.part("image")[0], atol=1e-12)
        assert torch.allclose(
            among.part("text")[i, :, : alone.part("text").shape[2]], alone.part("text")[0], atol=1e-12
        )


@pytest.mark.parametrize("how", ["similarity", "embeddings", "named"])
def test_a_model_that_takes_pairs_is_read_per_row(how: str) -> None:
    pair = weights(Whole(how))
    task = abe.pair_task(pair, Tokenizer())
    x, captions = given()
    found = explained((x, captions), "gradient", task)
    wanted = torch.cat([cosine(pair, x[i : i + 1], one) for i, one in enumerate(captions)])
    assert torch.allclose(found.score, wanted, rtol=1e-12, atol=0)


def test_a_model_that_compares_all_with_all_is_refused_also_for_one_pair() -> None:
    task = abe.pair_task(weights(Whole("block")), Tokenizer())
    for raw in (given(), given(1)):
        with pytest.raises(AbeError) as refused:
            explained(raw, "gradient", task)
        assert refused.value.code is Code.OUTPUT_SHAPE
        assert "towers" in str(refused.value)


def test_the_logit_has_the_models_scale_and_bias() -> None:
    x, captions = given()
    plain, scaled = (
        explained((x, captions), "gradient", task_of(score=s)).score for s in ("cosine", "logit")
    )
    net: Any = task_of().model._inside
    assert torch.allclose(scaled, plain * net.logit_scale.exp())
    same = ["slow film", "dull film", "a film"]
    plain, scaled = (
        explained((x, same[:1] * 3), "gradient", task_of(Methods, score=s)).score for s in ("cosine", "logit")
    )
    net = task_of(Methods).model._inside
    assert torch.allclose(scaled, plain * net.logit_scale.exp() + net.logit_bias)


# --- what is explained ---------------------------------------------------------------------------------


def test_special_tokens_and_padding_are_exactly_zero() -> None:
    task, raw = task_of(), given()
    lifted = task.lift(raw)
    fixed = lifted.context.about[FIXED]
    for method in ("ig", "shapley", "deeplift", "occlusion"):
        found = explained(raw, method, task).attribution
        assert not bool(found[fixed.expand_as(found)].any())


def test_paths_and_rules_are_complete() -> None:
    raw = given()
    found = explained(raw, "ig", tolerance=0.01)
    assert float(found.residual.abs().max()) <= 0.01
    assert float(explained(raw, "deeplift").residual_absolute.abs().max()) <= 1e-8


def test_shapley_equals_brute_force() -> None:
    task = task_of()
    net: Any = task.model._inside
    x, caption = photographs(1, 2), "slow film"
    found = explained((x, caption), "shapley", task, evaluations=2**6)
    names = [name for name, _ in found.by_unit()[0]]
    ids = torch.tensor([Tokenizer()(caption)["input_ids"]])
    mask_id = Tokenizer().vocab["[MASK]"]

    def worth(kept: frozenset[int]) -> float:
        image = x.clone().reshape(1, 3, 4)
        said = ids.clone()
        for unit in range(4):
            if unit not in kept:
                image[..., unit] = 0
        for unit in (4, 5):
            if unit not in kept:
                said[0, unit - 3] = mask_id
        seen = net.see(image.view_as(x))
        return float(torch.cosine_similarity(seen, net.read(said, torch.ones_like(said)), dim=1).detach())

    values = []
    for unit in range(6):
        others = [one for one in range(6) if one != unit]
        value = 0.0
        for size in range(6):
            weight = factorial(size) * factorial(5 - size) / factorial(6)
            for held in combinations(others, size):
                kept = frozenset(held)
                value += weight * (worth(kept | {unit}) - worth(kept))
        values.append(value)
    assert len(names) == 6
    assert [value for _, value in found.by_unit()[0]] == pytest.approx(values, abs=1e-12)


@pytest.mark.parametrize("method", ["rise", "grad_cam", "occlusion_patch", "m2ib"])
def test_what_needs_positions_runs_on_each_side_as_on_that_side_alone(method: str) -> None:
    raw = given()
    how: dict[str, Any] = {"rise": {"evaluations": 8, "cells": 2}, "m2ib": {"steps": 2, "samples": 2}}.get(
        method, {}
    )
    both = explained(raw, method, **how)
    for side in ("image", "text"):
        removal = {"removal": "mask"} if (side, method) == ("text", "occlusion_patch") else {}
        alone = explained(raw, method, task_of(explain=side), **how, **removal)
        assert bool(torch.isfinite(both.part(side)).all())
        if method in ("grad_cam", "occlusion_patch"):  # others draw, by the content of what is explained
            assert torch.allclose(both.part(side), alone.attribution, atol=1e-10), side


def test_one_side_that_cannot_is_named() -> None:
    with pytest.raises(AbeError) as refused:
        explained(given(), "chefer")
    assert refused.value.code is Code.NO_ATTENTION
    assert "(input 'image')" in str(refused.value)


def test_each_input_is_removed_in_its_own_way() -> None:
    task = task_of()
    net: Any = task.model._inside
    x, caption = photographs(1), "slow film"
    parts = {"image": "mean", "text": "attention"}
    found = explained(
        (x, caption), "occlusion", task, units="input", removal=("each_input", {"parts": parts})
    )
    ids = torch.tensor([Tokenizer()(caption)["input_ids"]])
    mask = torch.ones_like(ids)
    mask[0, 1:3] = 0
    whole = float(cosine(net, x, caption))
    unread = float(torch.cosine_similarity(net.see(x), net.read(ids, mask), dim=1).detach())
    unseen = float(cosine(net, x.mean((2, 3), keepdim=True).expand_as(x), caption))
    sums = [float(found.part(side).sum()) for side in ("image", "text")]
    assert sums == pytest.approx([whole - unseen, whole - unread], abs=1e-12)
    with pytest.raises(AbeError, match="No explained input is called 'words'"):
        explained((x, caption), "occlusion", task, removal=("each_input", {"parts": {"words": "zero"}}))


def test_metrics_of_one_side_read_that_side_of_both() -> None:
    raw, task = given(), task_of()
    found = explained(raw, "gradient_x_input", task)
    names = ["icd", "ici", "tcd", "tci", ("ins", {"curve": "logit"}), ("del", {"curve": "logit"})]
    both = abe.evaluate(task, {"m": found}, names, data=raw, progress=False).scores["m"]
    assert all(bool(torch.isfinite(one.values).all()) for one in both.values())
    for side, metric, name in (
        ("image", "icd", "image_confidence_drop"),
        ("text", "tcd", "text_confidence_drop"),
    ):
        alone = abe.evaluate(
            task_of(explain=side), {"m": found.part(side)}, [metric], data=raw, progress=False
        ).scores["m"]
        assert torch.allclose(alone[name].values, both[name].values, atol=1e-10)
    masks = torch.zeros(3, 4, 4, dtype=torch.bool)
    masks[:, :2] = True
    mass = abe.evaluate(task, {"m": found}, ["relevance_mass"], data=raw, masks=masks, progress=False)
    heat = found.part("image").sum(1).clamp_min(0)
    wanted = (heat * masks).sum((1, 2)) / heat.sum((1, 2))
    assert torch.allclose(mass.scores["m"]["relevance_mass"].values, wanted)


def test_model_and_tokenizer_are_as_they_were() -> None:
    net, tokenizer = weights(Named()).train(), Tokenizer()
    before, words = Snapshot(net), dict(vars(tokenizer))
    task = abe.pair_task(net, tokenizer, image="see", text="read")
    for method in ("ig", "grad_cam", "lrp_epsilon"):
        explained(given(), method, task)
    assert not before.changes()
    assert vars(tokenizer) == words
    assert net.training


def test_a_held_input_stays_while_the_other_moves() -> None:
    task = task_of(explain="text")
    with open_request(task, given()) as problem:
        rows = torch.zeros_like(problem.x)
        moved = problem.scores(rows, problem.everyone)
        assert not torch.allclose(moved, problem.score)
        assert [part.name for part in problem.task.held] == ["image"]


# --- several captions ----------------------------------------------------------------------------------


def test_the_caption_that_fits_best_is_explained_and_said() -> None:
    task = task_of()
    net: Any = task.model._inside
    x = photographs(1)
    scores = [float(cosine(net, x, one)) for one in CAPTIONS]
    best = CAPTIONS[scores.index(max(scores))]
    found = explained((x, CAPTIONS), "gradient", task)
    assert found.shown == [{"text": best}]
    assert float(found.score[0]) == pytest.approx(max(scores))
    assert any(best in text and Code.CHOSEN_CAPTION in text for text in found.warnings)
    rest = sorted(scores)[:-1]
    margin = explained((x, CAPTIONS), "gradient", task, objective="contrast")
    assert float(margin.score[0]) == pytest.approx(max(scores) - rest[-1])


def test_a_caption_against_another() -> None:
    task = task_of()
    net: Any = task.model._inside
    x = photographs(1)
    wanted = float(cosine(net, x, "slow") - cosine(net, x, "a film"))
    against = explained((x, "slow"), "gradient", task, against="a film")
    chosen = explained((x, ["slow", "a film"]), "gradient", task, caption="slow", objective="contrast")
    numbered = explained((x, ["slow", "a film"]), "gradient", task, caption=0, objective="contrast")
    for found in (against, chosen, numbered):
        assert float(found.score[0]) == pytest.approx(wanted)
        assert found.shown == [{"text": "slow"}]
    three = explained((x, "slow"), "gradient", task, against=["a film", "dull"])
    other = max(float(cosine(net, x, one)) for one in ("a film", "dull"))
    assert float(three.score[0]) == pytest.approx(float(cosine(net, x, "slow")) - other)


# --- what is refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "code", "said"),
    [
        ("a dog", Code.PAIR, "without a photograph"),
        (["a dog", "a cat"], Code.PAIR, "without photographs"),
        (photographs(1), Code.PAIR, "without a caption"),
        ((photographs(2), ["slow", "dull", "a film"]), Code.PAIR, "more captions than photographs"),
        ((photographs(3), ["slow", "dull"]), Code.PAIR, "fewer captions than photographs"),
        ((photographs(2), "slow"), Code.PAIR, "fewer captions than photographs"),
        (("slow", photographs(1)), Code.PAIR, "a photograph and then a caption"),
        ((photographs(1), 7), Code.PAIR, "A caption is a text"),
        ({"image": photographs(1)}, Code.PAIR, "No caption"),
        ({"text": "slow"}, Code.PAIR, "No photograph"),
        ((photographs(1), ""), Code.EMPTY_BATCH, "an empty caption"),
        ((photographs(1), "  "), Code.EMPTY_BATCH, "an empty caption"),
        ([], Code.EMPTY_BATCH, "no pair"),
        ([(photographs(1)[0], "slow"), (photographs(1, 5)[0], "dull")], Code.SHAPE, "one size"),
        ((photographs(1), "slow " * 9), Code.TOO_LONG, "too long"),
    ],
)
def test_bad_pairs_are_refused_by_name(raw: Any, code: Code, said: str) -> None:
    task = task_of(tokenizer=Tokenizer(longest=8))
    with pytest.raises(AbeError) as refused:
        explained(raw, "gradient", task)
    assert refused.value.code is code, str(refused.value)
    assert said in str(refused.value), str(refused.value)


def test_bad_questions_are_refused_by_name() -> None:
    task, x = task_of(), photographs(1)
    for how, code in (
        ({"caption": "a dog"}, Code.TARGET_RANGE),
        ({"caption": 3}, Code.TARGET_RANGE),
        ({"caption": "slow", "against": "slow"}, Code.TARGET_REACHED),
        ({"against": "a film"}, Code.TARGET_MISSING),
        ({"against": 5}, Code.BAD_PARAMETER),
    ):
        with pytest.raises(AbeError) as refused:
            explained((x, ["slow", "dull"]), "gradient", task, **how)
        assert refused.value.code is code, how
    with pytest.raises(AbeError) as refused:
        explained(
            (x, ["slow", "slow film"]), "gradient", abe.pair_task(weights(Whole()), Tokenizer()), caption=0
        )
    assert refused.value.code is Code.UNSUPPORTED


def test_bad_settings_are_refused_by_name() -> None:
    net = weights(Named())
    for how, said in (
        ({"image": "see"}, "two towers"),
        ({"image": "seen", "text": "read"}, "no tower called 'seen'"),
    ):
        with pytest.raises(AbeError, match=said):
            abe.pair_task(net, Tokenizer(), **how)
    with pytest.raises(AbeError, match="logit_scale"):
        abe.pair_task(weights(Whole()), Tokenizer(), score="logit")

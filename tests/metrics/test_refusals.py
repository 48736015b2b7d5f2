"""What users get wrong, for every metric: other modalities, no truth, models and samples that say nothing."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.metrics.common import photos
from torch import Tensor, nn

import abe
from abe import Explanation
from abe.errors import AbeError, Code
from abe.metrics.evaluation.truth import with_truth
from abe.registry import metrics
from abe.testing.bench import problem_of
from abe.testing.metrics import metric_case
from abe.testing.nets import Watched

MODALITIES = ("image", "tabular", "series", "text", "multimodal", "graph")
QUICK: dict[str, Any] = {"step": 0.25, "samples": 3, "groups": 5, "patches": 2, "ratios": (0.9, 0.5, 0.2)}
SIDE = 6
NAMES = tuple(metrics.names())


def asked(name: str) -> tuple[str, dict[str, Any]]:
    """A metric with the parameters it requires, at settings that cost little."""
    known = metrics.get(name).parameters()
    own = dict(metric_case(name).metric.params)
    return name, {**own, **{k: v for k, v in QUICK.items() if k in known}}


class Indifferent(nn.Module):
    """The same prediction for every input."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.score = nn.Linear(1, 2), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.score(self.inner(0 * x.flatten(1).sum(1, keepdim=True)))


def setting(b: int = 3) -> tuple[abe.Task, Watched, Tensor, dict[str, Any]]:
    net = Watched(Indifferent())
    task = abe.image_task(net, channels=3, output_kind="logits")
    x = photos(b, side=SIDE)
    maps = {"given": Explanation.from_array(photos(b, side=SIDE, seed=4) - 0.5, x, target=1, name="given")}
    return task, net, x, maps


def refused(code: Code, *args: Any, **how: Any) -> str:
    with pytest.raises(AbeError) as caught:
        abe.evaluate(*args, progress=False, execution="model", **how)
    assert caught.value.code is code, str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_another_modality_is_refused_before_the_model_runs(name: str) -> None:
    task, net, _, maps = setting()
    card = metrics.get(name).card
    others = [m for m in MODALITIES if m not in card.modalities]
    for modality in others:
        says = refused(Code.UNSUPPORTED, replace(task, modality=modality), maps, [asked(name)])
        assert repr(modality) in says
        assert f"'{name}'" in says
    assert net.forward_rows == 0


@pytest.mark.parametrize("name", [n for n in NAMES if {"mask", "label"} & set(metrics.get(n).card.needs)])
def test_truth_that_is_missing_is_asked_for_before_the_model_runs(name: str) -> None:
    task, net, _, maps = setting()
    needs = metrics.get(name).card.needs
    code, word = (Code.MASK, "masks=") if "mask" in needs else (Code.LABELS, "labels=")
    says = refused(code, task, maps, ["insertion", asked(name)])
    assert word in says
    assert f"'{name}'" in says
    assert net.forward_rows == 0


def explained(name: str, **how: Any) -> Any:
    """One score of a model that reacts to nothing, of its own maps where the metric explains again."""
    task, _, x, maps = setting()
    needs = metrics.get(name).card.needs
    given: Any = ["gradient"] if "method" in needs else maps
    how = {"labels": torch.tensor([1, 0, 1]), "masks": _masks(), **how}
    found = abe.evaluate(
        task, given, [asked(name)], data=x, target=1, progress=False, execution="model", **how
    )
    (scores,) = found.scores.values()
    return scores[name]


def _masks() -> Tensor:
    masks = torch.zeros(3, SIDE, SIDE, dtype=torch.bool)
    masks[:, 1:4, 1:4] = True
    return masks


@pytest.mark.parametrize("name", [n for n in NAMES if "image" in metrics.get(n).card.modalities])
def test_a_model_that_reacts_to_nothing_gives_numbers_or_says_why_not(name: str) -> None:
    score = explained(name)
    assert not bool(score.values.isinf().any()), score.values
    nameless = score.values.isnan().nonzero().flatten().tolist()
    if nameless and name not in ("residual", *TIMED):
        (said,) = [w for w in score.warnings if Code.NO_NUMBER.value in w]
        assert f"for sample {', '.join(map(str, nameless))}:" in said


TIMED = ("passes", "seconds", "explanations_per_second")


@pytest.mark.parametrize("name", [n for n in NAMES if "mask" in metrics.get(n).card.needs])
def test_empty_and_full_masks_have_no_number_and_it_is_said(name: str) -> None:
    masks = _masks()
    masks[0], masks[2] = False, True
    score = explained(name, masks=masks)
    assert score.values.isnan().tolist() == [True, False, True]
    (said,) = [w for w in score.warnings if Code.NO_NUMBER.value in w]
    assert "sample 0, 2" in said
    assert "region" in said
    assert score.mean == score.values[1]


def test_one_sample_has_nobody_to_be_compared_with() -> None:
    task, _, x, maps = setting(1)
    found = abe.evaluate(task, maps, ["sufficiency", "consistency"], data=x, progress=False)
    for score in found.scores["given"].values():
        assert bool(score.values.isnan().all())
        assert Code.NO_NUMBER.value in score.warnings[0]


def test_a_test_that_needs_more_samples_says_so_before_the_model_runs() -> None:
    task, net, _, maps = setting()
    flips = ("soundness", {"gain": "flips"})
    says = refused(Code.SAMPLES, task, maps, ["insertion", flips], labels=[1, 1, 1])
    assert "'soundness'" in says
    assert "at least 5" in says
    assert net.forward_rows == 0


def test_labels_that_are_no_classes_of_the_model_are_refused() -> None:
    task, _, _, maps = setting()
    for wrong in ([1, 1, 7], [1, -1, 0]):
        says = refused(Code.LABELS, task, maps, ["completeness"], labels=wrong)
        assert "3 classes" in says


LOCALISED = [name for name in NAMES if metrics.get(name).card.needs == ("mask",)]


@pytest.mark.parametrize("name", LOCALISED)
def test_regions_of_columns_are_measured_and_boxes_around_them_refused(name: str) -> None:
    """Columns (b, d) have no order, so nothing lies in a box around some of them."""
    x, maps = torch.rand(2, 5), torch.tensor([[4.0, 3.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, 2.0, 3.0]])
    masks = torch.tensor([[True, True, False, False, False]] * 2)
    problem = problem_of(nn.Linear(5, 3), x)
    found = with_truth(Explanation.from_array(maps, x, target=0), masks, None)
    value = metrics.make(*asked(name)[:1], **asked(name)[1])
    if name != "energy_in_box":
        first, second = value.measure(problem, found).tolist()
        assert first > second or (name == "top_k_intersection" and first == second)  # of all five
        return
    with pytest.raises(AbeError, match=r"needs positions.*\(2, 5\).*relevance_mass.*ABE-UNSUPPORTED"):
        value.measure(problem, found)

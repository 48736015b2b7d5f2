"""The score is the loss of every row on its own, whatever a loss does to a batch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import abe
from abe.explainers import IG, SM, Explainer, ExplanationTask

torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
x = torch.rand(4, 3, 8, 8)
y = torch.tensor([0, 3, 1, 3])
WEIGHT = torch.tensor([1.0, 2.0, 3.0, 0.5, 1.0])


def focal(logits: Tensor, y: Tensor) -> Tensor:
    log_p = F.log_softmax(logits, 1).gather(1, y[:, None])[:, 0]
    return -((1 - log_p.exp()).square() * log_p).mean()


LOSSES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "block": (lambda o, t: -torch.diag(o[:, t]).sum(), lambda o, t: o.gather(1, t[:, None])[:, 0]),
    "gather": (lambda o, t: -o.gather(1, t[:, None]).mean(), lambda o, t: o.gather(1, t[:, None])[:, 0]),
    "cross entropy": (F.cross_entropy, lambda o, t: -F.cross_entropy(o, t, reduction="none")),
    "its sum": (
        lambda o, t: F.cross_entropy(o, t, reduction="sum"),
        lambda o, t: -F.cross_entropy(o, t, reduction="none"),
    ),
    "weighted sum": (
        lambda o, t: F.cross_entropy(o, t, weight=WEIGHT, reduction="sum"),
        lambda o, t: -F.cross_entropy(o, t, weight=WEIGHT, reduction="none"),
    ),
    "smoothed": (
        lambda o, t: F.cross_entropy(o, t, label_smoothing=0.1),
        lambda o, t: -F.cross_entropy(o, t, label_smoothing=0.1, reduction="none"),
    ),
    "focal": (focal, lambda o, t: torch.stack([-focal(o[i : i + 1], t[i : i + 1]) for i in range(len(o))])),
    "margin": (
        lambda o, t: F.multi_margin_loss(o, t),
        lambda o, t: -F.multi_margin_loss(o, t, reduction="none"),
    ),
}


def task_of(loss: Callable[[Tensor, Tensor], Tensor]) -> ExplanationTask:
    return ExplanationTask(lambda batch: loss(model(batch[0]), batch[1]), lambda batch: model(batch[0]))


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_over_the_batch_is_read_per_row(name: str) -> None:
    loss, score = LOSSES[name]
    ours = IG(task_of(loss), steps=6)([x, y], progress=False)
    theirs = abe.explain(abe.image_task(model), x, "ig", steps=6, target=y, objective=score, progress=False)
    np.testing.assert_allclose(ours.attribution, theirs.attribution, atol=1e-6)
    np.testing.assert_allclose(ours.score, theirs.score, atol=1e-5)
    np.testing.assert_allclose(ours.delta, theirs.delta, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("block", "Logit"),
        ("gather", "Logit"),
        ("cross entropy", "LogProbability"),
        ("its sum", "LogProbability"),
    ],
)
def test_a_loss_that_is_a_class_score_is_told_and_needs_no_call(name: str, said: str) -> None:
    assert SM(task_of(LOSSES[name][0]))([x, y], progress=False).objective == said


@pytest.mark.parametrize("name", ["weighted sum", "smoothed", "focal", "margin"])
def test_any_other_loss_is_called(name: str) -> None:
    assert "LossScore" in SM(task_of(LOSSES[name][0]))([x, y], progress=False).objective


@pytest.mark.parametrize("name", ["block", "focal"])
@pytest.mark.parametrize(
    "method", ["integrated_gradients", "deeplift", "grad_cam", "guided_backprop", "rise"]
)
def test_the_model_runs_once_on_all_rows_of_a_chunk(name: str, method: str) -> None:
    seen: list[int] = []
    many, classes = x.repeat(8, 1, 1, 1), y.repeat(8)
    params = {"integrated_gradients": {"steps": 4}, "rise": {"evaluations": 8}}.get(method, {})
    task = task_of(LOSSES[name][0])
    given, target = task.prepare([many, classes])
    handle = model.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    try:
        made = abe.explain(
            task.task,
            given,
            method,
            target=target,
            objective=task.objective,
            execution="model",
            chunk=16,
            progress=False,
            **params,
        )
    finally:
        handle.remove()
    assert made.attribution.any()
    assert max(seen) == 16
    assert sum(n > 1 for n in seen) <= made.cost.forward_calls
    assert sum(n == 1 for n in seen) <= 8  # surveys and looks at one row


def test_rows_that_a_model_mixes_run_alone() -> None:
    class Pairs(nn.Module):
        """Similarities of all rows with all others, as CLIP's."""

        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Linear(12, 4), nn.Linear(6, 4)

        def forward(self, image: Tensor, text: Tensor) -> Tensor:
            return self.one(image.flatten(1)) @ self.other(text).T

    pairs = Pairs()
    image, text = torch.rand(3, 3, 2, 2), torch.randn(3, 6)
    task = ExplanationTask(
        lambda batch: -torch.diag(pairs(*batch)).sum(), lambda batch: pairs(*batch), explained=(0,)
    )
    made = SM(task)([image, text], progress=False)
    leaf = image.clone().requires_grad_(True)
    (expected,) = torch.autograd.grad((pairs.one(leaf.flatten(1)) * pairs.other(text)).sum(), leaf)
    np.testing.assert_allclose(made.attribution, expected, atol=1e-6)
    assert any("ABE-COUPLED-ROWS" in warning for warning in made.warnings)


def test_a_loss_with_a_model_of_its_own_is_run_beside_the_classes() -> None:
    other = nn.Sequential(nn.Flatten(), nn.Linear(192, 1))
    task = ExplanationTask(
        lambda batch: (other(batch[0]) ** 2).mean() + model(batch[0])[:, 0].mean(),
        lambda batch: model(batch[0]),
    )
    leaf = x.clone().requires_grad_(True)
    model.eval()
    score = -(other(leaf) ** 2).sum() - model(leaf)[:, 0].sum()
    (expected,) = torch.autograd.grad(score, leaf)
    model.train()
    made = SM(task)([x, y], progress=False)
    np.testing.assert_allclose(made.attribution, expected, atol=1e-5)


def test_a_term_of_the_input_itself_is_part_of_the_score() -> None:
    task = ExplanationTask(
        lambda batch: F.cross_entropy(model(batch[0]), batch[1]) + batch[0].square().sum(),
        lambda batch: model(batch[0]),
    )
    plain = SM(task_of(F.cross_entropy))([x, y], progress=False)
    made = SM(task)([x, y], progress=False)
    np.testing.assert_allclose(made.attribution, plain.attribution - 2 * x, atol=1e-5)


def test_without_a_forward_function_the_score_is_explained_and_classes_are_asked_for() -> None:
    task = ExplanationTask(lambda batch: -torch.diag(model(batch[0])[:, batch[1]]).sum())
    made = IG(task, steps=6)([x, y], progress=False)
    full = IG(task_of(LOSSES["block"][0]), steps=6)([x, y], progress=False)
    np.testing.assert_allclose(made.attribution, full.attribution, atol=1e-6)
    with pytest.raises(abe.AbeError, match="ABE-UNSUPPORTED"):
        Explainer(task, "agi")([x, y], progress=False)


def objects_loss(batch: Any) -> Tensor:
    x, wanted = batch
    outputs = model(x)
    assert len(outputs) == len(wanted)
    return -sum((row[one["label"]] for row, one in zip(outputs, wanted, strict=True)), torch.zeros(()))


def test_a_list_with_an_object_per_sample_goes_with_its_sample() -> None:
    task = ExplanationTask(objects_loss, lambda batch: model(batch[0]))
    made = IG(task, steps=6)([x, [{"label": int(one)} for one in y]], progress=False)
    full = IG(task_of(LOSSES["block"][0]), steps=6)([x, y], progress=False)
    np.testing.assert_allclose(made.attribution, full.attribution, atol=1e-6)


def test_functions_may_write_into_their_batch() -> None:
    def normalised(x: Tensor) -> Tensor:
        x -= 0.5
        x /= 0.2
        return x

    def loss(batch: Any) -> Tensor:
        given = normalised(batch[0])
        return F.cross_entropy(model(given), batch[1], label_smoothing=0.1) + given.square().sum()

    task = ExplanationTask(loss, lambda batch: model(normalised(batch[0])))
    kept = x.clone()
    made = SM(task)([x, y], progress=False)
    assert torch.equal(x, kept)
    model.eval()
    leaf = x.clone().requires_grad_(True)
    given = (leaf - 0.5) / 0.2
    score = -F.cross_entropy(model(given), y, label_smoothing=0.1, reduction="sum") - given.square().sum()
    (expected,) = torch.autograd.grad(score, leaf)
    model.train()
    np.testing.assert_allclose(made.attribution, expected, rtol=1e-4, atol=1e-4)


def test_a_loss_that_keeps_count_sees_one_row_at_a_time() -> None:
    sizes: list[int] = []

    def loss(batch: Any) -> Tensor:
        sizes.append(len(batch[0]))
        return F.cross_entropy(model(batch[0]), batch[1], label_smoothing=0.1)

    SM(ExplanationTask(loss, lambda batch: model(batch[0])))([x, y], progress=False)
    assert set(sizes) == {1}


def test_a_loss_may_be_more_precise_than_the_model() -> None:
    half = nn.Sequential(nn.Flatten(), nn.Linear(192, 5)).bfloat16()
    task = ExplanationTask(
        lambda batch: F.cross_entropy(half(batch[0]).float(), batch[1]), lambda batch: half(batch[0])
    )
    made = SM(task)([x.bfloat16(), y], progress=False)
    assert not task.alone
    leaf = x.bfloat16().requires_grad_(True)
    (expected,) = torch.autograd.grad(-F.cross_entropy(half(leaf).float(), y, reduction="sum"), leaf)
    np.testing.assert_allclose(made.attribution.float(), expected.float(), atol=1e-2)

"""What a batch may be: settled by shapes and counts, or refused with what to do."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from jaxtyping import config
from torch import Tensor, nn

import abe
from abe.explainers import AGI, IG, SM, ExplanationTask, ModelType

torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
x, y = torch.rand(3, 3, 8, 8), torch.tensor([0, 3, 1])


def loss_fn(batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def forward(batch: Any) -> Tensor:
    return model(batch[0])


EXPECTED = SM(ExplanationTask(loss_fn, forward))([x, y], progress=False).attribution


class Named(NamedTuple):
    x: Tensor
    y: Tensor


SAME: dict[str, Any] = {
    "a tuple": (x, y),
    "arrays": [x.numpy(), y.numpy()],
    "a list of numbers": [x, [0, 3, 1]],
    "a tuple of numbers": [x, (0, 3, 1)],
    "small integers": [x, y.to(torch.int64)],
    "a named tuple": Named(x, y),
    "gradients on": [x.clone().requires_grad_(True), y],
    "channels last in memory": [x.contiguous(memory_format=torch.channels_last), y],
    "more entries": [x, y, ["a", "b", "c"], None, {"weights": torch.rand(3)}],
}


@pytest.mark.parametrize("form", SAME)
def test_batches_that_say_the_same(form: str) -> None:
    made = SM(ExplanationTask(loss_fn, forward))(SAME[form], progress=False)
    np.testing.assert_allclose(made.attribution, EXPECTED, atol=1e-6)
    assert made.target.tolist() == [0, 3, 1]


REFUSED: dict[str, tuple[Any, str]] = {
    "nothing": (None, "ABE-SHAPE"),
    "empty": ([], "ABE-SHAPE"),
    "text": ("abc", "ABE-SHAPE"),
    "a tensor alone": (x, "ABE-SHAPE"),
    "one class for all": ([x, 0], "ABE-SHAPE"),
    "too few classes": ([x, y[:2]], "ABE-SHAPE"),
    "an entry without samples": ([x, y, torch.tensor(2.0)], "ABE-SHAPE"),
    "a word": ([x, y, "a"], "ABE-SHAPE"),
    "a class that is not there": ([x, torch.tensor([0, 9, 1])], "ABE-TARGET-RANGE"),
    "pictures in a list": ([list(x), y], "ABE-SHAPE"),
    "bytes": ([(x * 255).byte(), y], "ABE-DTYPE"),
    "out of bounds": ([x * 255, y], "ABE-OUT-OF-BOUNDS"),
    "not finite": ([x * torch.nan, y], "ABE-NOT-FINITE-INPUT"),
    "doubles": ([x.double(), y], "ABE-DTYPE"),
    "no samples": ([x[:0], y[:0]], "ABE-EMPTY-BATCH"),
    "no features": ([x[:, 0, 0, 0], y], "ABE-SHAPE"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_batches_that_are_refused(form: str) -> None:
    batch, code = REFUSED[form]
    with pytest.raises(abe.AbeError, match=code):
        SM(ExplanationTask(loss_fn, forward))(batch)


SETTINGS: dict[str, tuple[Callable[[], Any], str]] = {
    "a kind that is none": (lambda: ExplanationTask(loss_fn, forward, "audio"), "ModelType.NLP"),  # type: ignore[arg-type]
    "an axis that is none": (lambda: ExplanationTask(loss_fn, forward, channels=2), "1 or -1"),
    "bounds that are none": (lambda: ExplanationTask(loss_fn, forward, bounds=(1, 0)), "low below high"),
    "a bound alone": (lambda: ExplanationTask(loss_fn, forward, bounds=1.0), "low below high"),  # type: ignore[arg-type]
    "a task that is none": (lambda: IG(None), "ExplanationTask"),  # type: ignore[arg-type]
    "a class for a task": (lambda: IG(ExplanationTask), "the class ExplanationTask"),  # type: ignore[arg-type]
    "an entry that is none": (
        lambda: SM(ExplanationTask(loss_fn, forward, explained=5))([x, y]),
        "The entry to explain, 5, is not there",
    ),
    "an entry without features": (
        lambda: SM(ExplanationTask(loss_fn, forward, explained=1))([x, y]),
        "needs a batch axis and features",
    ),
    "a loss that is a plain number": (
        lambda: SM(ExplanationTask(lambda batch: loss_fn(batch).item(), forward))([x, y]),
        "Got float",
    ),
    "a loss cut from the input": (
        lambda: SM(ExplanationTask(lambda batch: loss_fn(batch).detach() * 2, None))([x, y]),
        "ABE-NOT-DIFFERENTIABLE",
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_that_are_refused(name: str) -> None:
    call, said = SETTINGS[name]
    config.update("jaxtyping_disable", True)  # as users run it
    try:
        with pytest.raises(abe.AbeError, match=said):
            call()
    finally:
        config.update("jaxtyping_disable", False)


def test_entries_of_a_sample_count_for_it_alone() -> None:
    """The first sample's weight is 1, so that one look at the first sample would take all for 1."""
    weights = torch.tensor([1.0, 2.0, -3.0])
    task = ExplanationTask(
        lambda batch: (batch[2] * F.cross_entropy(model(batch[0]), batch[1], reduction="none")).sum(), forward
    )
    made = SM(task)([x, y, weights], progress=False)
    np.testing.assert_allclose(made.attribution, weights[:, None, None, None] * EXPECTED, atol=1e-6)
    names = SM(ExplanationTask(lambda batch: loss_fn(batch) * len(batch[2][0]), forward))(
        [x, y, ["a", "bb", "ccc"]], progress=False
    )
    scale = torch.tensor([1.0, 2.0, 3.0])
    np.testing.assert_allclose(names.attribution, scale[:, None, None, None] * EXPECTED, atol=1e-6)


def test_a_task_takes_batches_of_other_sizes_and_forms_in_turn() -> None:
    task = ExplanationTask(loss_fn, forward)
    for batch in ([x, y], [x[:1], y[:1]], [x, y, ["a", "b", "c"]], [x[:2], [0, 3]]):
        made = SM(task)(batch, progress=False)
        np.testing.assert_allclose(made.attribution, EXPECTED[: len(batch[0])], atol=1e-6)


def test_a_map_without_its_batch_says_what_is_missing() -> None:
    task = ExplanationTask(loss_fn, forward)
    given, target = task.prepare([x, y])
    made = abe.explain(task.task, given, "gradient", target=target, objective=task.objective, progress=False)
    np.testing.assert_allclose(made.attribution, EXPECTED, atol=1e-6)
    with pytest.raises(abe.AbeError, match=r"not passed along.*no 1"):
        abe.metrics.score(made, task.task, metric="insertion")


def test_images_may_have_other_bounds_or_none() -> None:
    normalised = (x - 0.5) / 0.2
    for bounds in ((-2.5, 2.5), None):
        made = SM(ExplanationTask(loss_fn, forward, bounds=bounds))([normalised, y], progress=False)
        theirs = abe.explain(
            abe.image_task(model, bounds=bounds),
            normalised,
            "gradient",
            target=y,
            objective="log_probability",
            progress=False,
        )
        np.testing.assert_allclose(made.attribution, theirs.attribution, atol=1e-6)


def test_attacks_take_the_task() -> None:
    task = ExplanationTask(loss_fn, forward)
    found = abe.attack(task.task, [x, y], "fgsm", progress=False)
    theirs = abe.attack(abe.image_task(model), x, "fgsm", progress=False)
    np.testing.assert_allclose(found.x_adv, theirs.x_adv, atol=1e-6)


def test_numbers_of_a_regression_are_no_classes() -> None:
    task = ExplanationTask(
        lambda batch: F.mse_loss(model(batch[0])[:, 0], batch[1]), lambda batch: model(batch[0])[:, 0]
    )
    values = torch.randn(3)
    made = IG(task, steps=128)([x, values], progress=False)
    leaf = x.clone().requires_grad_(True)
    (expected,) = torch.autograd.grad(-F.mse_loss(model(leaf)[:, 0], values, reduction="sum"), leaf)
    np.testing.assert_allclose(SM(task)([x, values], progress=False).attribution, expected, atol=1e-5)
    np.testing.assert_allclose(made.residual_absolute, np.zeros(3), atol=2e-2)
    with pytest.raises(abe.AbeError, match="at least two classes"):
        AGI(task)([x, values], progress=False)


@pytest.mark.parametrize("channels", [1, -1])
def test_a_series_lies_as_its_axis_of_channels_says(channels: int) -> None:
    network = nn.Sequential(nn.Conv1d(4, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(54, 3))
    series = torch.randn(3, 4, 9)

    def run(given: Tensor) -> Tensor:
        return network(given if channels == 1 else given.transpose(1, 2))

    task = ExplanationTask(
        lambda batch: F.cross_entropy(run(batch[0]), batch[1]),
        lambda batch: run(batch[0]),
        ModelType.TIMESERIESPREDICTION,
        channels=channels,
    )
    given = series if channels == 1 else series.transpose(1, 2)
    made = SM(task)([given, y % 3], progress=False)
    assert made.attribution.shape == given.shape
    assert made.map().shape == (3, 9)

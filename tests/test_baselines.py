"""Baselines: in input space, in bounds, drawn per sample, and the confusion feature."""

import math

import pytest
import torch
from torch import nn

from abe.baselines import (
    Blur,
    Confusion,
    Constant,
    Dataset,
    Given,
    Mean,
    Noise,
    Uniform,
    Zero,
    as_baseline,
)
from abe.draws import SeededDraws
from abe.engines.runtime.evaluator import Evaluator
from abe.engines.runtime.problem import Problem
from abe.engines.runtime.request import pose
from abe.engines.runtime.targets import Decision
from abe.errors import AbeError, Code
from abe.registry import baselines
from abe.spec import from_spec, to_spec
from abe.task import image_task
from abe.task.base import Context, Lifted

PLAIN = [Zero(), Constant(value=0.3), Constant(value=(0.1, 0.2, 0.3)), Mean(), Blur(), Uniform(), Noise()]


class Colour(nn.Module):
    """Four classes by the mean colour; undecided exactly at ``centre``."""

    def __init__(self, centre: tuple[float, ...]) -> None:
        super().__init__()
        self.centre = nn.Parameter(torch.tensor(centre))
        directions = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, -1.0], [-1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]])
        self.directions = nn.Parameter(8 * directions)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.mean((2, 3)) - self.centre) @ self.directions.T


def images(b: int = 3, seed: int = 1) -> torch.Tensor:
    return torch.rand(b, 3, 9, 10, generator=torch.Generator().manual_seed(seed))


def problem(x: torch.Tensor, task=None, *, seed: int = 0, ids=None, chunk=None) -> Problem:
    task = task or image_task(Colour((0.7, 0.2, 0.4)))
    evaluator = Evaluator(task, execution="model", chunk=chunk)
    ids = ids or list(range(100, 100 + len(x)))
    made = pose(evaluator, Lifted(x, Context(), []), draws=SeededDraws(seed=seed), ids=ids)
    made.decision = Decision(torch.zeros(len(x), dtype=torch.long))
    return made


def rows(baseline, given: Problem, draw: int = 0) -> torch.Tensor:
    return baseline.rows(given, given.everyone, torch.full((len(given.x),), draw))


@pytest.mark.parametrize("baseline", PLAIN, ids=repr)
def test_rows_are_in_bounds_and_stand_alone(baseline):
    x = images()
    whole = rows(baseline, problem(x))
    assert whole.shape == x.shape
    assert whole.dtype == x.dtype
    assert float(whole.min()) >= 0
    assert float(whole.max()) <= 1
    for i in range(3):
        alone = rows(baseline, problem(x[i : i + 1], ids=[100 + i]))
        torch.testing.assert_close(alone[0], whole[i], rtol=0, atol=1e-6)


@pytest.mark.parametrize("baseline", PLAIN, ids=repr)
def test_only_stochastic_baselines_follow_draw_and_seed(baseline):
    x = images()
    first, other, seeded = (rows(baseline, problem(x, seed=s), d) for s, d in ((0, 0), (0, 1), (1, 0)))
    assert torch.equal(first, other) is not baseline.stochastic
    assert torch.equal(first, seeded) is not baseline.stochastic
    assert torch.equal(first, rows(baseline, problem(x)))


def test_zero_is_black_before_normalisation():
    task = image_task(Colour((0.0, 0.0, 0.0)), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    assert not bool(rows(Zero(), problem(images(), task)).any())


def test_constant_mean_and_blur_have_the_values_they_name():
    x = images()
    tiled = rows(Constant(value=(0.1, 0.2, 0.3)), problem(x))
    torch.testing.assert_close(tiled[1, :, 4, 5], torch.tensor([0.1, 0.2, 0.3]))
    torch.testing.assert_close(rows(Mean(), problem(x))[2, 1], x[2, 1].mean().expand(9, 10))
    even = torch.full((1, 3, 9, 10), 0.4)
    torch.testing.assert_close(rows(Blur(), problem(even)), even)  # a flat image stays as it is, borders too
    spot = torch.zeros(1, 3, 31, 31)
    spot[..., 15, 15] = 1
    blurred = rows(Blur(sigma=2.0, kernel=7), problem(spot))[0, 0]
    at = torch.arange(-3, 4.0)
    line = torch.exp(-(at**2) / 8)
    torch.testing.assert_close(blurred[12:19, 12:19], torch.outer(line, line) / line.sum() ** 2)


def test_dataset_draws_from_its_samples():
    background = images(5, seed=7)
    baseline = Dataset(samples=background)
    given = problem(images(40))
    found = rows(baseline, given)
    which = [int((background == row).flatten(1).all(1).nonzero()) for row in found]
    assert set(which) == set(range(5))
    assert baseline == Dataset(samples=background.clone())
    assert baseline != Dataset(samples=background + 1)
    assert hash(baseline) == hash(Dataset(samples=background.clone()))
    assert "opaque" in to_spec(baseline)


def test_given_references():
    x = images()
    assert torch.equal(rows(as_baseline(x[0]), problem(x)), x[:1].expand_as(x))
    assert torch.equal(rows(as_baseline(x.flip(0)), problem(x)), x.flip(0))
    assert torch.equal(rows(as_baseline(0.25), problem(x)), torch.full_like(x, 0.25))


@pytest.mark.parametrize(
    "baseline",
    [
        Constant(value=(0.1, 0.2)),
        Given(reference=torch.zeros(1, 3, 4, 4)),
        Given(reference=torch.zeros(2, 3, 9, 10)),
        Dataset(samples=torch.zeros(2, 4, 9, 10)),
    ],
    ids=repr,
)
def test_references_of_another_shape_are_refused(baseline):
    with pytest.raises(AbeError) as caught:
        rows(baseline, problem(images()))
    assert caught.value.code is Code.BASELINE_SHAPE


def test_bad_baselines_are_refused_by_name():
    for bad, code in (
        ("zeroo", Code.UNKNOWN_NAME),
        (object(), Code.UNKNOWN_NAME),
        (torch.tensor([[float("nan")]]), Code.BASELINE_SHAPE),
        (torch.tensor([[1, 2]]), Code.BASELINE_SHAPE),
        (("blur", {"sigm": 1.0}), Code.UNKNOWN_PARAMETER),
    ):
        with pytest.raises(AbeError) as caught:
            as_baseline(bad)
        assert caught.value.code is code
    for make in (
        lambda: Blur(sigma=-1.0),
        lambda: Blur(kernel=4),
        lambda: Confusion(starts=0),
    ):
        with pytest.raises(AbeError) as caught:
            make()
        assert caught.value.code is Code.BAD_PARAMETER


def test_unbounded_tasks_and_tables_say_what_they_cannot_do():
    task = image_task(Colour((0.5, 0.5, 0.5)), bounds=None)
    for baseline in (Uniform(), Confusion()):
        with pytest.raises(AbeError, match="bounds") as caught:
            rows(baseline, problem(images(), task))
        assert caught.value.code is Code.UNSUPPORTED
    with pytest.raises(AbeError) as caught:
        rows(Blur(), problem(torch.rand(2, 5)))
    assert caught.value.code is Code.UNSUPPORTED


def test_names_and_specs():
    assert baselines.names() == [
        "noisy_linear",
        "zero",
        "constant",
        "mean",
        "blur",
        "uniform",
        "noise",
        "dataset",
        "confusion",
        "background",
        "background_rows",
        "row",
        "each_part",
        "scaled_zero",
        "reference_token",
        "mask",
        "pad",
        "unk",
        "mean_embedding",
        "text",
    ]
    for baseline in (*PLAIN, Confusion(starts=3)):
        assert from_spec(to_spec(baseline)) == baseline
    assert as_baseline("cfa") == Confusion()


# --- the confusion feature ------------------------------------------------------------------------


def test_confusion_finds_the_undecided_colour():
    centre = (0.7, 0.2, 0.4)
    given = problem(images(), image_task(Colour(centre)))
    found = Confusion().feature(given)
    torch.testing.assert_close(found.values, torch.tensor(centre), rtol=0, atol=0.02)
    assert found.confusion > 0.99
    reference = rows(Confusion(), given)
    assert torch.equal(reference, found.values.view(1, 3, 1, 1).expand_as(given.x))
    with torch.no_grad():
        outputs = given.task.model(reference).log_softmax(1)
    assert float(-(outputs.exp() * outputs).sum(1)[0] / math.log(4)) == pytest.approx(
        found.confusion, abs=1e-6
    )


def test_confusion_ascends_the_entropy():
    given = problem(images(), image_task(Colour((0.7, 0.2, 0.4))))
    start = Confusion(steps=1).feature(given).confusion
    more = [Confusion(steps=s).feature(given).confusion for s in (2, 5, 20)]
    assert start < more[0] < more[1]
    assert more[2] > 0.99


def test_confusion_starts_where_normalisation_gives_zero():
    """A thin ridge of undecided colours at the normalised zero is what uniform starts miss."""
    model = Colour((0.0, 0.0, 0.0))
    mean = torch.tensor([0.48, 0.46, 0.41])
    normalised = image_task(model, mean=mean.tolist(), std=0.02)
    found = Confusion(starts=1, steps=1).feature(problem(images(), normalised))
    torch.testing.assert_close(found.values, mean)
    assert found.confusion == pytest.approx(1)
    plain = Confusion(starts=1, steps=1).feature(problem(images(), image_task(model, bounds=(-1, 2))))
    torch.testing.assert_close(plain.values, torch.full((3,), 0.5))


def test_confusion_stays_in_bounds():
    task = image_task(Colour((3.0, -2.0, 0.4)), bounds=(0.2, 0.6))  # the undecided colour is outside
    found = Confusion().feature(problem(0.2 + 0.4 * images(), task)).values
    assert float(found.min()) >= 0.2 - 1e-6
    assert float(found.max()) <= 0.6 + 1e-6


def test_confusion_is_counted_once_and_does_not_depend_on_the_samples():
    task = image_task(Colour((0.7, 0.2, 0.4)))
    cfa = Confusion(starts=4, steps=6)
    one = problem(images(), task)
    first = rows(cfa, one)
    assert (one.evaluator.cost.forward_rows, one.evaluator.cost.backward_rows) == (24, 24)
    two = problem(images(2, seed=9), task, ids=[1, 2])
    assert torch.equal(rows(cfa, two)[0], first[0])
    assert two.evaluator.cost.passes == 0
    assert torch.equal(rows(cfa, problem(images(), image_task(Colour((0.7, 0.2, 0.4))), chunk=3)), first)
    assert not torch.equal(rows(cfa, problem(images(), task, seed=1)), first)


def test_confusion_is_sought_again_when_the_model_changes():
    task = image_task(Colour((0.7, 0.2, 0.4)))
    before = Confusion().feature(problem(images(), task)).values
    with torch.no_grad():
        task.model.centre.copy_(torch.tensor([0.2, 0.6, 0.6]))
    after = Confusion().feature(problem(images(), task)).values
    torch.testing.assert_close(after, torch.tensor([0.2, 0.6, 0.6]), rtol=0, atol=0.02)
    assert not torch.equal(before, after)


def test_confusion_reads_probabilities_as_such():
    model = nn.Sequential(Colour((0.7, 0.2, 0.4)), nn.Softmax(dim=1))
    task = image_task(model, output_kind="probabilities")
    found = Confusion().feature(problem(images(), task))
    torch.testing.assert_close(found.values, torch.tensor([0.7, 0.2, 0.4]), rtol=0, atol=0.02)

"""The studies of soundness run, and the linear one shows the order it must show."""

import pytest
import torch
from studies import soundness, traps
from tests.metrics.common import mapped, problem
from torch import Tensor, nn

from abe.metrics import as_metric
from abe.metrics.shared import LABEL
from abe.metrics.soundness import Completeness, Soundness
from abe.task.base import Task


class Sign(nn.Module):
    """Class 1 where the sum is positive."""

    def forward(self, x: Tensor) -> Tensor:
        total = x.sum(1)
        return torch.stack([-total, total], 1)


def test_the_linear_study_shows_the_order():
    """Soundness: truth = Remove = 1 > Introduce > Random; completeness: truth >= Remove everywhere."""
    found = soundness.linear(trials=3)
    assert [sentence.endswith(": shown.") for sentence in found.findings[:2]] == [True, True], found.rows
    assert len(found.panels["soundness against accuracy"]["ground truth"][1]) == len(soundness.LEVELS)


def test_its_sums_are_what_the_metrics_compute():
    g = torch.Generator().manual_seed(5)
    x, donor = torch.randn(2, 30, soundness.FEATURES, generator=g).double()
    y, maps = x.sum(1).sign(), torch.rand(30, soundness.FEATURES, generator=g).double()
    sound, lost = soundness.judged(maps, x, donor, y)
    labels = (y > 0).long()
    given = problem(Task(model=Sign(), modality="tabular", lifter=None, output_kind="logits"), x, target=0)
    known = mapped(maps, diagnostics={LABEL: labels})
    metric: Soundness = as_metric(("soundness", {"removal": donor})).value
    assert metric.curve(metric.collect(given, known)).at_levels(soundness.LEVELS) == pytest.approx(sound)
    complete: Completeness = as_metric(("completeness", {"removal": donor})).value
    assert complete.curve(given, known).complete.tolist() == pytest.approx(lost)


@pytest.mark.slow
@pytest.mark.parametrize(
    "study", [lambda: soundness.modified(60), traps.retraining, traps.semi_natural], ids=str
)
def test_the_other_studies_show_what_they_must(study):
    found = study()
    shown = [s for s in found.findings if s.endswith("shown.")]
    assert shown
    assert not any("NOT shown" in s for s in shown), found.rows

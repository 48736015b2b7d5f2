"""The studies of soundness run, and the linear one shows the order it must show."""

import json
import re
from functools import partial

import pytest
import torch
from studies import __main__ as command
from studies import soundness, traps
from tests.metrics.common import mapped, problem
from torch import Tensor, nn

from abe.metrics import as_metric
from abe.metrics.evaluation.truth import LABEL
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
    assert all("confirmed in every trial" in sentence for sentence in found.findings[:3]), found.findings
    assert "not confirmed" not in " ".join(found.findings[:3])
    assert len(found.charts[0].lines["ground truth"].y) == len(soundness.LEVELS)


def test_the_command_writes_a_record_and_a_figure(tmp_path, monkeypatch):
    monkeypatch.setattr(soundness, "linear", partial(soundness.linear, trials=2))
    command.main(["soundness-linear", "--out", str(tmp_path)])
    written = json.loads((tmp_path / "soundness-linear.json").read_text("utf-8"))
    assert written["command"] == "python -m studies soundness-linear"
    assert written["study"] == "soundness-linear"
    assert len(written["findings"]) == 4
    drawn = written["values"]["completeness"]["Random"]
    assert all(
        low <= mean <= high for low, mean, high in zip(*(drawn[k] for k in LOW_MEAN_HIGH), strict=True)
    )
    assert (tmp_path / "soundness-linear.png").read_bytes().startswith(b"\x89PNG")


LOW_MEAN_HIGH = ("low", "mean", "high")


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
    "study",
    [partial(soundness.modified, count=20), traps.retraining, traps.semi_natural],
    ids=["modified", "retraining", "semi-natural"],
)
def test_the_other_studies_show_what_they_must(study):
    """Which claims hold is for the record to say; that each is decided by an interval is checked here."""
    found = study()
    assert len(found.findings) >= 3
    assert all(re.search(r": (confirmed|refuted|not decided) \(", f) for f in found.findings), found.findings
    assert sum(": confirmed (" in f for f in found.findings) >= 1, found.findings
    assert all(len(row) == len(table.head) for table in found.tables for row in table.rows)

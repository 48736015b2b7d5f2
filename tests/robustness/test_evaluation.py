"""What a curve of robustness says, and what it cannot be of."""

import math

import pytest
import torch
from torch import nn

import abe
from abe.errors import AbeError, Code
from abe.robustness.evaluation import RobustnessCurve


def test_a_class_at_every_position_is_no_predicted_class() -> None:
    """Its outputs (b, c, h, w) have no one class that could be right, whichever entry is named."""
    task = abe.image_task(nn.Sequential(nn.Conv2d(3, 4, 3)).eval(), output_kind="logits")
    with pytest.raises(AbeError, match="measured by the predicted class") as caught:
        abe.evaluate_robustness(
            task, torch.rand(2, 3, 8, 8), "fgsm", epsilons=(0.1,), label=(1, 2, 3), progress=False
        )
    assert caught.value.code is Code.UNSUPPORTED


@pytest.mark.parametrize(
    ("distance", "median"), [([0.1, 0.4], 0.25), ([0.3, 0.1, 0.2], 0.2), ([0.1, math.inf], math.inf)]
)
def test_the_median_distance_of_a_few_samples(distance: list[float], median: float) -> None:
    size = torch.tensor([*distance, 0.0])
    right = torch.tensor([True] * len(distance) + [False])  # one that was wrong before counts for nothing
    names = [str(i) for i in range(len(size))]
    curve = RobustnessCurve("pgd", "linf", [0.5], right, size, size, torch.ones(len(size)), names)
    assert curve.median_distance == pytest.approx(median)

"""What a curve of robustness cannot be of."""

import pytest
import torch
from torch import nn

import abe
from abe.errors import AbeError, Code


def test_a_class_at_every_position_is_no_predicted_class() -> None:
    """Its outputs (b, c, h, w) have no one class that could be right, whichever entry is named."""
    task = abe.image_task(nn.Sequential(nn.Conv2d(3, 4, 3)).eval(), output_kind="logits")
    with pytest.raises(AbeError, match="measured by the predicted class") as caught:
        abe.evaluate_robustness(
            task, torch.rand(2, 3, 8, 8), "fgsm", epsilons=(0.1,), label=(1, 2, 3), progress=False
        )
    assert caught.value.code is Code.UNSUPPORTED

"""Regressions on images end to end: what is explained, and curves that follow the score itself."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import abe
from abe.errors import AbeError, Code

QUIET: dict[str, Any] = {"progress": False}
X = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


class Weighted(nn.Module):
    """Every output is a weighted sum of all inputs, so that every curve is known."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        torch.manual_seed(outputs)
        self.weight = nn.Parameter(torch.randn(outputs, 48))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T


@pytest.mark.parametrize(("outputs", "target"), [(1, None), (3, 1)])
def test_the_default_comparison_follows_the_score(outputs: int, target: int | None):
    model = Weighted(outputs).eval()
    task = abe.image_task(model, output_kind="regression")
    found = abe.compare(task, X, ["gradient_x_input"], target=target, **QUIET)
    assert not found.failures
    scores = found.scores["gradient_x_input"]
    assert {"insertion", "deletion", "gap", "residual"} <= set(scores)
    exact = (X.flatten(1) * model.weight[target or 0]).view(2, 3, 16).sum(1)
    order = exact.sort(1, descending=True).values.double()
    curve = torch.cat([torch.zeros(2, 1), order.cumsum(1)], 1)
    area = (curve[:, 1:-1].sum(1) + (curve[:, 0] + curve[:, -1]) / 2) / 16
    torch.testing.assert_close(scores["insertion"].values, area.detach(), atol=1e-5, rtol=0)
    deleted = curve[:, -1:] - curve
    area = (deleted[:, 1:-1].sum(1) + (deleted[:, 0] + deleted[:, -1]) / 2) / 16
    torch.testing.assert_close(scores["deletion"].values, area.detach(), atol=1e-5, rtol=0)


def test_what_reads_chances_is_refused_and_says_what_does_not():
    task = abe.image_task(Weighted(1).eval(), output_kind="regression")
    with pytest.raises(AbeError, match=r"curve.*logit") as caught:
        abe.compare(task, X, ["gradient"], ["insertion"], **QUIET)
    assert caught.value.code is Code.UNSUPPORTED
    follows = ("insertion", {"curve": "logit"})
    found = abe.evaluate(task, ["gradient"], [follows], data=X, **QUIET)
    assert not found.failures


def test_several_outputs_need_a_target():
    task = abe.image_task(Weighted(3).eval(), output_kind="regression")
    with pytest.raises(AbeError) as caught:
        abe.compare(task, X, ["gradient"], **QUIET)
    assert caught.value.code is Code.TARGET_MISSING
    assert abe.explain(task, X, "ig", target=2, steps=2, **QUIET).top == [[], []]

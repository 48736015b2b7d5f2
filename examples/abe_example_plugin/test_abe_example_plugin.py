"""The laws that the cards claim, in the package's own test suite: run it with ``pytest``."""

import pytest
import torch

import abe
from abe.testing import check_method, check_metric, check_objective, check_path, check_update, laws, samples


@pytest.mark.parametrize("law", [law.name for law in laws("halfway")])
def test_method(law):
    check_method("halfway", only=law)


def test_path():
    check_path("ease_in")


def test_objective():
    check_objective("contrast")


def test_metric():
    check_metric("early_drop", share=0.1)


def test_update():
    check_update("heavy_ball", alpha=0.05)


class Wavy(torch.nn.Module):
    """A network with an operation that ABE has no rule for."""

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(108, 3).double()

    def forward(self, x):
        return self.head(torch.sinc(3 * x.flatten(1) - 1))


def test_rule():
    task, x = abe.image_task(Wavy(), channels=3, output_kind="logits"), samples(2)
    lifted = abe.explain(task, x, "deeplift", progress=False)
    assert float(lifted.residual.abs().max()) < 1e-8
    shared = abe.explain(task, x, "lrp_epsilon", progress=False).diagnostics
    assert float(shared["closure"].abs().max()) < 1e-4
    named = {line.name: line.rule for line in abe.rule_coverage(task, x, "lrp_epsilon")}
    assert named["sinc"] == "SincRule()"


@pytest.mark.parametrize("law", ["linearity", "implementation_invariance", "batch", "chunk", "spec"])
def test_removal_and_summary(law):
    check_method("removal", only=law, summary="both_ends", removal=("fade", {"share": 0.25}))

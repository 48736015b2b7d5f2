"""The laws that the cards claim, in the package's own test suite: run it with ``pytest``."""

import pytest

from abe.testing import check_method, check_metric, check_objective, check_path, check_update, laws


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


@pytest.mark.parametrize("law", ["linearity", "implementation_invariance", "batch", "chunk", "spec"])
def test_removal_and_summary(law):
    check_method("removal", only=law, summary="both_ends", removal=("fade", {"share": 0.25}))

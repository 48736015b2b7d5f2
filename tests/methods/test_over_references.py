"""One method over many references: the plain mean of its maps, each from one reference."""

from typing import Any

import pytest
import torch
from torch import nn

import abe
from abe.errors import AbeError, Code
from abe.testing import nets, samples, task_of

BACKGROUND = torch.rand(5, 3, 6, 6, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def explained(method: Any, **how: Any) -> abe.Explanation:
    return abe.explain(
        task_of(nets.Convolutional().double()), samples(2), method, progress=False, ids=[0, 1], **how
    )


@pytest.mark.parametrize("base", ["ig", "deeplift", ("ig", {"tolerance": 0.01}), ("guided_ig", {"steps": 5})])
def test_it_is_the_mean_over_every_row_of_a_background(base: Any) -> None:
    found = explained("over_references", base=base, baseline=BACKGROUND)
    name, settings = (base, {}) if isinstance(base, str) else base
    each = [explained((name, {**settings, "baseline": one[None]})) for one in BACKGROUND]
    maps = torch.stack([one.attribution for one in each])
    torch.testing.assert_close(found.attribution, maps.mean(0))
    torch.testing.assert_close(found.standard_error, maps.std(0) / 5**0.5)
    torch.testing.assert_close(found.delta, torch.stack([one.delta for one in each]).mean(0))
    assert found.cost.backward_rows == sum(one.cost.backward_rows for one in each)


def test_deeplift_over_a_background_is_deepshap() -> None:
    found = explained("over_references", base="deeplift", baseline=BACKGROUND)
    known = explained("deepshap", background=BACKGROUND)
    torch.testing.assert_close(found.attribution, known.attribution)
    torch.testing.assert_close(found.standard_error, known.standard_error)


def test_draws_do_not_depend_on_neighbours_and_come_again() -> None:
    both = explained("over_references", base="ig", references=3)
    task, x = task_of(nets.Convolutional().double()), samples(2)
    alone = abe.explain(task, x[1:], "over_references", base="ig", references=3, progress=False, ids=[1])
    torch.testing.assert_close(alone.attribution[0], both.attribution[1])
    assert bool((both.standard_error > 0).any())


def test_at_a_layer_references_are_those_of_the_layer() -> None:
    inner = ("over_references", {"base": "ig", "baseline": "noise", "references": 3})
    found = explained(abe.at_layer(inner, "features"))
    assert found.residual is not None
    assert float(found.residual.abs().max()) < 1e-6


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"base": "ig"}, "no last reference"),
        ({"base": "gradient"}, "starts from a reference"),
        ({"base": 3}, "starts from a reference"),
        ({"base": ("ig", {"baseline": "zero"}), "references": 2}, "said beside the method"),
        ({"base": "ig", "references": 0}, "positive integer"),
    ],
)
def test_bad_requests_say_what_to_do(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(AbeError, match=words) as caught:
        explained("over_references", **settings)
    assert caught.value.code is Code.BAD_PARAMETER


def test_a_single_reference_is_the_method_itself() -> None:
    task = abe.image_task(nn.Sequential(nn.Flatten(), nn.Linear(12, 3).double()))
    x = torch.rand(1, 3, 2, 2, dtype=torch.float64)
    found = abe.explain(task, x, "over_references", base="ig", baseline="zero", progress=False)
    torch.testing.assert_close(found.attribution, abe.explain(task, x, "ig", progress=False).attribution)

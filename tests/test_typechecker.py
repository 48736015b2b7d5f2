"""The check that runs in every other test finds wrong types and wrong shapes."""

import pytest
import torch
from jaxtyping import Float, TypeCheckError, jaxtyped
from torch import Tensor
from typechecker import checked

import abe
from abe.metrics.subsets import pearson

decorated = jaxtyped(typechecker=checked)


def test_shapes_that_do_not_fit_together_are_found() -> None:
    @decorated
    def first(x: Float[Tensor, "b d"], y: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        return x[:, 0] + y if len(y) else x.sum(0)

    assert first(torch.ones(3, 2), torch.ones(3)).tolist() == [2, 2, 2]
    with pytest.raises(TypeCheckError):
        first(torch.ones(3, 2), torch.ones(2))
    with pytest.raises(TypeCheckError):
        first(torch.ones(0, 2), torch.ones(0))


def test_the_package_is_checked() -> None:
    with pytest.raises(TypeCheckError):
        pearson(torch.rand(3, 5), torch.rand(3, 1))
    with pytest.raises(TypeCheckError):
        abe.baselines.Blur(sigma="wide")

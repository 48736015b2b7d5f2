"""The check that runs in every other test finds wrong types and wrong shapes."""

from collections.abc import Iterator

import pytest
import torch
from jaxtyping import Float, TypeCheckError, jaxtyped
from torch import Tensor
from typechecker import checked
from typechecker import decorated as decorated_here

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


def test_what_is_left_for_later_is_checked_all_the_same() -> None:
    def later(x: Float[Tensor, "b d"], y: Float[Tensor, " b"]) -> Iterator[Tensor]:
        yield x + y

    strict = decorated_here(later, typechecker=checked)
    with pytest.raises(TypeCheckError):
        strict(torch.ones(3, 2), torch.ones(2))
    assert len(list(strict(torch.ones(3, 1), torch.ones(3)))) == 1


def test_a_type_in_quotes_is_looked_up_and_anything_where_it_is_not_imported() -> None:
    def quoted(x: "Tensor", *, y: "Nowhere" = 1) -> "Float[Tensor, 'b']":  # type: ignore[name-defined]
        return x

    strict = decorated_here(quoted, typechecker=checked)
    assert strict(torch.ones(3), y="anything").tolist() == [1, 1, 1]
    assert quoted.__annotations__["x"] == "Tensor"
    with pytest.raises(TypeCheckError):
        strict([1.0, 1.0, 1.0])
    with pytest.raises(TypeCheckError):
        strict(torch.ones(3, 1))


def test_names_of_a_shape_hold_within_one_call_only() -> None:
    def halves(x: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        return torch.cat([strict(x[: len(x) // 2]), x[len(x) // 2 :]]) if len(x) > 1 else x

    strict = decorated_here(halves, typechecker=checked)
    assert strict(torch.arange(8.0)).tolist() == list(range(8))

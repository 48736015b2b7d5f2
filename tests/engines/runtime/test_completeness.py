"""Notes on maps that cancel and on maps that miss by far, and where neither is one."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import abe
from abe.engines.runtime.completeness import remarks
from abe.task.base import Context, Lifted, Task
from abe.types import Part


def lift(task: Task, raw: Tensor) -> Lifted:
    return Lifted(raw, Context(), [str(i) for i in range(len(raw))])


def explain(net: nn.Module, x: Tensor, method: Any, **how: Any) -> abe.Explanation:
    task = Task(model=net.eval(), modality="series", lifter=lift, output_kind="regression")
    return abe.explain(task, x, method, progress=False, target=0, **how)


def codes(warnings: list[str]) -> list[str]:
    return [warning.rpartition("[ABE-")[2].rstrip("]") for warning in warnings]


class Opposed(nn.Module):
    """s (x₀ − x₁) of a table, or of two positions of one channel."""

    def __init__(self, scale: float, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1)[:, :1] - x.flatten(1)[:, 1:2]) * self.scale


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", ["integrated_gradients", "deeplift", "shapley", "occlusion"])
def test_terms_that_cancel_are_remarked_on_and_named(method: str, dtype: torch.dtype) -> None:
    """Amounts of 1, 99, 101 and 141 times the change of 3: the bound is 100."""
    x = torch.tensor([[1.0, 0.0], [50.0, 49.0], [51.0, 50.0], [-70.0, -71.0]], dtype=dtype)
    found = explain(Opposed(3.0, dtype), x, method, **({"units": "pixel"} if method == "shapley" else {}))
    if method == "occlusion":  # which claims no sum
        assert codes(found.warnings) == []
        return
    assert codes(found.warnings) == ["CANCELLATION"]
    assert "of sample 2, 3 " in found.warnings[0]
    assert "423 that sum to 3 in sample 3" in found.warnings[0]


def test_channels_of_a_position_are_one_number() -> None:
    """An embedding's entries cancel in any model; what its tokens get is what is read."""
    x = torch.tensor([[[1000.0], [-999.0]], [[500.0], [499.0]]], dtype=torch.float64)
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 1, bias=False)).double()
    net[1].weight.data.fill_(1)
    assert codes(explain(net, x, "ig").warnings) == []
    assert codes(explain(net, x.transpose(1, 2), "ig").warnings) == ["CANCELLATION"]


@pytest.mark.parametrize(("positions", "most"), [(2, 100), (100, 100), (400, 200), (10_000, 1000)])
def test_the_bound_grows_with_what_chance_gives(positions: int, most: int) -> None:
    one = torch.ones(1).double()
    for amount, right in ((0.99 * most, []), (1.01 * most, ["CANCELLATION"])):
        maps = torch.zeros(1, positions, dtype=torch.float64)
        maps[0, 0], maps[0, 1] = (amount + 1) / 2, (1 - amount) / 2
        assert codes(remarks(maps, one, one)) == right
        assert codes(remarks(maps.view(1, 1, 2, -1), one, one)) == right


def test_parts_have_channels_of_their_own() -> None:
    maps, delta = torch.tensor([[1000.0, -999.0, 0.0, 0.0]]).double(), torch.ones(1).double()
    embedding = (Part("text", 0, 2, (2, 1)), Part("table", 2, 4, (2,)))
    assert remarks(maps, delta, delta, embedding) == []
    table = (Part("table", 0, 2, (2,)), Part("text", 2, 4, (2, 1)))
    assert codes(remarks(maps, delta, delta, table)) == ["CANCELLATION"]
    assert codes(remarks(maps, delta, delta)) == ["CANCELLATION"]


class Unmoved(nn.Module):
    """A score that the input does not change, or by rounding only."""

    def __init__(self, offset: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.offset, self.weight = offset, nn.Parameter(torch.ones(2, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.weight) @ torch.tensor([[1.0], [-1.0]], dtype=x.dtype) + self.offset


@pytest.mark.parametrize("offset", [0.0, 1.0, 1e3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", ["integrated_gradients", "deeplift", "expected_gradients"])
def test_a_score_that_does_not_change_is_no_cancellation(
    method: str, dtype: torch.dtype, offset: float
) -> None:
    x = torch.tensor([[3.0, 3.0], [3e4, 3e4]], dtype=dtype)
    x[1, 1] += 8 * torch.finfo(dtype).eps * 3e4
    params = {"baseline": torch.zeros(1, 2, dtype=dtype)} if method == "expected_gradients" else {}
    assert codes(explain(Unmoved(offset, dtype), x, method, **params).warnings) == []


def told(maps: list[list[float]], delta: list[float], score: list[float]) -> list[str]:
    found = torch.tensor(maps, dtype=torch.float64)
    return remarks(found, torch.tensor(delta).double(), torch.tensor(score).double())


@pytest.mark.parametrize(
    ("maps", "delta", "score", "right"),
    [
        ([[2.5, 0.0]], [1.0], [1.0], ["RESIDUAL"]),
        ([[1.9, 0.0]], [1.0], [1.0], []),
        ([[-0.1, 0.0]], [1.0], [1.0], ["RESIDUAL"]),
        ([[0.0, 0.0]], [1.0], [1.0], []),
        ([[1e17, -1e17 + 1e10]], [10.0], [-0.3], ["RESIDUAL"]),
        ([[1e12, -1e12 + 50]], [10.0], [-0.3], ["CANCELLATION", "RESIDUAL"]),
        ([[1e-12, 0.0]], [0.0], [1.0], []),
        ([[0.5, 0.0]], [0.0], [1.0], ["RESIDUAL"]),
        ([[0.0, 0.0]], [0.0], [0.0], []),
        ([[500.0, -500.0]], [1.0], [1.0], ["CANCELLATION"]),
        ([[500.0, -499.0]], [1.0], [90.0], []),
        ([[500.0, -499.0]], [1.0], [40.0], ["CANCELLATION"]),
        ([[500.0, -500.0]], [1e-12], [1.0], []),
        ([[0.5, 0.0]], [0.1], [3.0], []),
        ([[0.8, 0.0]], [0.1], [3.0], ["RESIDUAL"]),
        ([[1e300, 0.0]], [1.0], [1.0], ["RESIDUAL"]),
        ([[1.0, 0.0]], [float("nan")], [1.0], []),
    ],
)
def test_what_is_remarked_on(maps, delta, score, right) -> None:
    assert codes(told(maps, delta, score)) == right


def test_only_the_samples_it_is_true_of_are_named() -> None:
    said = told([[1.0, 0.0], [3.0, 0.0], [9.0, 0.0]], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0])
    assert said[0].startswith(
        "The map of sample 1, 2 misses more than the whole score change: 8 at a change of 1"
    )

"""DeepLIFT with another reference for every sample: complete, and of a batch what each has alone."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import abe

OPERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda y: y.softmax(-1),
    "log_softmax": lambda y: y.log_softmax(-1),
    "logsumexp": lambda y: y.logsumexp(-1, keepdim=True) - y,
    "layer_norm": lambda y: nn.functional.layer_norm(y, y.shape[-1:]),
    "relu": torch.relu,
    "tanh": torch.tanh,
    "product": lambda y: y * y.flip(-1),
}


class Net(nn.Module):
    def __init__(self, operation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.operation = nn.Linear(48, 6), nn.Linear(6, 4), operation

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.operation(self.first(x.flatten(1))))


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_sample_has_its_own_reference(name: str) -> None:
    task = abe.image_task(Net(OPERATIONS[name]).eval().double(), bounds=None, output_kind="logits")
    x, reference = torch.rand(2, 3, 3, 4, 4, dtype=torch.float64)
    target = torch.tensor([0, 1, 3])

    def maps(rows: slice) -> Tensor:
        how = {"baseline": reference[rows], "target": target[rows], "progress": False}
        return abe.explain(task, x[rows], "deeplift", **how).attribution

    found = maps(slice(None))
    rows = torch.arange(3)
    change = (task.model(x) - task.model(reference))[rows, target].detach()
    torch.testing.assert_close(found.flatten(1).sum(1), change)
    torch.testing.assert_close(found, torch.cat([maps(slice(i, i + 1)) for i in range(3)]))

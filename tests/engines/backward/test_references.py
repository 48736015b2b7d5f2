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


def wide(name: str, apart: float) -> tuple[abe.Task, Tensor, Tensor]:
    """A task whose operation meets scores of thousands, inputs, and references whose scores are ``apart``."""
    net = Net(OPERATIONS[name]).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
        net.first.weight.mul_(300)
        top, rival = net.first.weight[:2]
        rival.copy_(top.abs_() + torch.randn(48, generator=generator))  # two scores near each other lead
    x = torch.rand(8, 3, 4, 4, generator=generator)
    change = apart / 1500 * torch.randn(x.shape, generator=generator)
    return abe.image_task(net, bounds=None, output_kind="logits"), x, x + change


@pytest.mark.parametrize("apart", [4.0, 1000.0])
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
def test_scores_far_apart_are_shared_out_all_the_same(name: str, apart: float) -> None:
    """In single precision, where the exponential of a score, or of a difference, is infinite."""
    task, x, reference = wide(name, apart)
    found = abe.explain(task, x, "deeplift", baseline=reference, target=1, progress=False).attribution
    change = (task.model(x) - task.model(reference))[:, 1].detach()
    assert float(change.abs().max()) > 1e-4
    parts = found.abs().flatten(1).sum(1)
    gap = (found.flatten(1).sum(1) - change).abs()
    assert float((gap / (parts + task.model(x)[:, 1].detach().abs())).max()) < 1e-4

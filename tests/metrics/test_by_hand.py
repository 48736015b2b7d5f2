"""Metrics that no recorded number holds, against what one counts by hand in a loop."""

import pytest
import torch
from tests.metrics.common import evidence_task, mapped, photos, problem
from torch import Tensor, nn

from abe.metrics import as_metric
from abe.metrics.evaluation.perturbation import Perturbation
from abe.metrics.evaluation.truth import MASK
from abe.task import image_task

SIDE = 12


def maps(seed: int = 3) -> Tensor:
    """Signed, with many zeros."""
    draws = torch.Generator().manual_seed(seed)
    made = torch.randn(4, 3, SIDE, SIDE, generator=draws, dtype=torch.float64)
    made[..., :4, :] = 0
    return made


def found(metric: object, attribution: Tensor, x: Tensor, **more: object) -> Tensor:
    task, _ = evidence_task()
    return as_metric(metric).value.measure(problem(task, x, target=1), mapped(attribution, **more))


def score(x: Tensor) -> Tensor:
    task, _ = evidence_task()
    return task.model(x)[:, 1].detach()


def close(one: Tensor, right: list[float]) -> None:
    torch.testing.assert_close(one.double(), torch.tensor(right, dtype=torch.float64), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("patches", [2, 3, 6])
@pytest.mark.parametrize("threshold", [0.0, 0.01, 0.3])
def test_non_sensitivity(patches: int, threshold: float) -> None:
    x, attribution, size, right = photos(), maps(), SIDE // patches, []
    for sample, one in zip(x, attribution, strict=True):
        inside, lost = [], []
        for i in range(0, SIDE, size):
            for j in range(0, SIDE, size):
                without = sample.clone()
                without[:, i : i + size, j : j + size] = 0
                inside.append(abs(float(one[:, i : i + size, j : j + size].sum())))
                lost.append(abs(float(score(sample[None]) - score(without[None]))))
        unlike = [
            (a <= threshold * max(inside)) != (b <= threshold * max(lost))
            for a, b in zip(inside, lost, strict=True)
        ]
        right.append(sum(unlike) / len(unlike))
    assert patches == 2 or max(right) > 0
    close(found(("non_sensitivity", {"patches": patches, "threshold": threshold}), attribution, x), right)


@pytest.mark.parametrize("baseline", [0.0, 0.25])
def test_completeness_gap(baseline: float) -> None:
    x, attribution = photos(), maps()
    change = score(x) - score(torch.full_like(x, baseline))
    gap = (attribution.flatten(1).sum(1) - change).abs() / change.abs()
    close(found(("completeness_gap", {"baseline": baseline}), attribution, x), gap.tolist())


@pytest.mark.parametrize("threshold", [0.0, 0.01, 0.5])
def test_effective_complexity(threshold: float) -> None:
    right = [
        sum(abs(v) > threshold * max(map(abs, one)) for v in one) / len(one)
        for one in maps().flatten(1).tolist()
    ]
    close(found(("effective_complexity", {"threshold": threshold}), maps(), photos()), right)


def test_attribution_percentage() -> None:
    mask = torch.zeros(4, SIDE, SIDE, dtype=torch.bool)
    mask[:, 2:9, 3:7] = True
    size = maps().sum(1).abs().flatten(1)  # of a position, its channels together
    right = [
        sum(v for v, i in zip(one, mask[0].flatten().tolist(), strict=True) if i) / sum(one)
        for one in size.tolist()
    ]
    close(found("attribution_percentage", maps(), photos(), diagnostics={MASK: mask}), right)


class Square(nn.Module):
    """Logits (0, c Σ x²): the gradient is 2 c x."""

    def forward(self, x: Tensor) -> Tensor:
        square = 1.5 * x.square().flatten(1).sum(1)
        return torch.stack([torch.zeros_like(square), square], 1)


STABLE = ("average_sensitivity", "max_sensitivity", "local_lipschitz", "continuity")


@pytest.mark.parametrize("name", STABLE)
def test_stability_of_a_gradient_that_is_known(name: str) -> None:
    x, radius, samples = photos(3).double(), 0.03, 4
    task = image_task(Square(), channels=3)
    given = problem(task, x, target=1)
    made = mapped(torch.zeros_like(x), spec={"method": "gradient", "params": {}})
    moves = []
    for k in range(samples):
        keys = given.keys(given.everyone, torch.full((3,), k))
        u = given.draws.uniform("stability.neighbour", keys, x.shape[1:]).double()
        moves.append((radius * (2 * u - 1)).flatten(1))
    right: list[float] = []
    for sample in range(3):
        by = [float(move[sample].norm()) for move in moves]
        ratios = {
            "average_sensitivity": [b / float(x[sample].norm()) for b in by],
            "max_sensitivity": [b / float(x[sample].norm()) for b in by],
            "local_lipschitz": [3.0 for _ in by],
            "continuity": [3 * float(m[sample].abs().sum()) / b for m, b in zip(moves, by, strict=True)],
        }[name]
        right.append(sum(ratios) / samples if name == "average_sensitivity" else max(ratios))
    close(as_metric((name, {"samples": samples, "radius": radius})).value.measure(given, made), right)


@pytest.mark.parametrize("method", ["gradient", "gradient_x_input"])
def test_input_invariance_of_a_gradient_that_is_known(method: str) -> None:
    """The shifted model has the same gradient, so that only a method that reads the input moves."""
    x, shift = photos(3).double(), 0.3
    task, _ = evidence_task()
    given = problem(image_task(task.model.double(), channels=3), x, target=1)
    made = mapped(torch.zeros_like(x), spec={"method": method, "params": {}})
    measured = as_metric(("input_invariance", {"shift": shift})).value.measure(given, made)
    if method == "gradient":
        close(measured, [0, 0, 0])
        return
    weight = task.model.weight.detach().double().expand_as(x)
    right = (shift * weight).flatten(1).norm(dim=1) / (x * weight).flatten(1).norm(dim=1)
    close(measured, right.tolist())


def test_a_probability_that_stays_is_no_fall() -> None:
    curve = torch.tensor([[-3.0, -2.0, -2.0, -2.5], [-1.0, -1.0, -1.0, -1.0], [-1.0, -2.0, -3.0, -4.0]])
    metric = as_metric("monotonicity").value
    run = Perturbation(
        run=metric.runs[0],
        log_probabilities=curve[..., None],
        target=torch.zeros(3, dtype=torch.long),
        step=1,
    )
    close(metric.summary([run]), [2 / 3, 1, 0])

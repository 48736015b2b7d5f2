"""What the perturbations of infidelity show the model."""

from dataclasses import replace

import pytest
import torch
from tests.metrics.common import evidence_task, photos, problem

from abe.metrics.infidelity import perturber


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), None])
def test_noise_around_a_baseline_stays_in_the_tasks_bounds(bounds: tuple[float, float] | None) -> None:
    """A third of the elements become the baseline with noise, cut off at the bounds where there are any."""
    task, _ = evidence_task()
    low, high = bounds or (0.0, 1.0)
    ends = {} if bounds is None else {"low": torch.tensor(low), "high": torch.tensor(high)}
    x = low + (high - low) * photos(2)
    given = problem(replace(task, **{"low": None, "high": None, **ends}), x, target=1)
    size = 0.2 if bounds is None else 0.2 * (high - low)
    changed = perturber("noisy_baseline", "zero", size).rows(given, given.everyone, given.everyone)
    index = given.draws.permutation(
        "infidelity.index", given.keys(given.everyone, given.everyone), x[0].numel()
    )
    noise = given.draws.normal("infidelity.noise", given.keys(given.everyone, given.everyone), (144,)).to(x)
    right = x.flatten(1).scatter(1, index[:, :144], size * noise).view_as(x)
    assert bool((right < 0).any())
    torch.testing.assert_close(changed, right if bounds is None else right.clamp(low, high))

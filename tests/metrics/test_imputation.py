"""Noisy linear imputation against a dense solve of the published system."""

import pytest
import torch
from tests.metrics.common import evidence_task, photos, problem
from torch import Tensor

from abe.engines.removal import neighbour_fill
from abe.errors import Code, SpecError
from abe.imputation import NoisyLinear
from abe.metrics import PerturbationRun


def dense(x: Tensor, holes: Tensor) -> Tensor:
    """(c, h, w) by the definition: one row per missing position, weights dropped outside the image."""
    _, h, w = x.shape
    out = torch.where(holes, torch.zeros_like(x), x).double()
    unknown = [tuple(p) for p in holes.nonzero().tolist()]
    if not unknown or len(unknown) == h * w:
        return out
    number = {p: k for k, p in enumerate(unknown)}
    matrix = torch.zeros(len(unknown), len(unknown), dtype=torch.float64)
    right = torch.zeros(len(unknown), len(x), dtype=torch.float64)
    for (i, j), k in number.items():
        for di in (-1, 0, 1):
            for dj in (-1, 0, 1):
                near = (i + di, j + dj)
                if (di, dj) == (0, 0) or not (0 <= near[0] < h and 0 <= near[1] < w):
                    continue
                weight = 1 / 6 if 0 in (di, dj) else 1 / 12
                matrix[k, k] += weight
                if near in number:
                    matrix[k, number[near]] -= weight
                else:
                    right[k] += weight * x[:, near[0], near[1]].double()
    solved = torch.linalg.solve(matrix, right)
    out[:, holes] = solved.T
    return out


def holes(b: int, h: int, w: int, share: float, *, connected: bool, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    field = torch.rand(b, 1, h, w, generator=generator)
    if connected:
        coarse = torch.rand(b, 1, max(h // 8, 2), max(w // 8, 2), generator=generator)
        field = torch.nn.functional.interpolate(coarse, (h, w), mode="bicubic") + 1e-4 * field
    bound = field.flatten(1).kthvalue(max(1, round(share * h * w)), dim=1).values
    return field <= bound.view(-1, 1, 1, 1)


@pytest.mark.parametrize("size", [(5, 5), (1, 7), (16, 16), (23, 12), (31, 32)], ids=str)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("share", "connected"), [(0.5, False), (0.97, False), (0.5, True), (0.9, True)])
def test_agrees_with_a_dense_solve(size, channels, share, connected):
    x = photos(2, channels, 32)[..., : size[0], : size[1]].contiguous()
    mask = holes(2, *size, share, connected=connected)
    found = neighbour_fill.fill(x, mask)
    wanted = torch.stack([dense(a, m[0]) for a, m in zip(x, mask, strict=True)])
    assert (found.double() - wanted).abs().max() <= 1e-5


def test_nothing_one_and_everything_missing():
    x = photos(3, 3, 9)
    mask = torch.zeros(3, 1, 9, 9, dtype=torch.bool)
    mask[1, 0, 4, 4] = True
    mask[2] = True
    found = neighbour_fill.fill(x, mask)
    assert torch.equal(found[0], x[0])
    torch.testing.assert_close(found[1].double(), dense(x[1], mask[1, 0]), rtol=0, atol=1e-6)
    assert not found[2].any()


def test_a_mask_per_channel_and_rows_that_do_not_meet():
    x = photos(3, 3, 20)
    mask = torch.cat([holes(3, 20, 20, s, connected=True, seed=i) for i, s in enumerate((0.3, 0.6, 0.95))], 1)
    found = neighbour_fill.fill(x, mask)
    for i in range(3):
        alone = neighbour_fill.fill(x[i : i + 1], mask[i : i + 1])[0]
        torch.testing.assert_close(alone, found[i], rtol=0, atol=1e-6)
        for c in range(3):
            wanted = dense(x[i, c : c + 1], mask[i, c])[0]
            assert (found[i, c].double() - wanted).abs().max() <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.5, 0.8, 0.97])
def test_large_connected_holes_are_solved(share):
    """At 224² the definition itself is checked: every missing value is the mean of its neighbours."""
    x = photos(2, 3, 224)
    mask = holes(2, 224, 224, share, connected=True)
    exact = neighbour_fill.fill(x.double(), mask, tolerance=1e-11)
    kernel = torch.tensor([[1.0, 2, 1], [2, 0, 2], [1, 2, 1]], dtype=torch.float64)[None, None] / 12
    planes = exact.view(-1, 1, 224, 224)
    near, degree = (
        torch.nn.functional.conv2d(p, kernel, padding=1) for p in (planes, torch.ones_like(planes))
    )
    rest = (near / degree - planes).view_as(exact)[mask.expand_as(exact)]
    assert rest.abs().max() <= 1e-12
    assert (neighbour_fill.fill(x, mask).double() - exact).abs().max() <= 1e-5


def test_it_fills_the_steps_of_a_run():
    task, weight = evidence_task()
    x = photos(3)
    given = problem(task, x, target=1)
    run = PerturbationRun(direction="deletion", baseline=NoisyLinear(noise=0.0), step=0.25)
    done = run.perform(given, (weight * x))
    order = run.order(given, weight * x, given.everyone).order
    for k in range(5):
        removed = order < 36 * k
        rows = torch.stack([dense(a, m[0]) for a, m in zip(x, removed, strict=True)]).float()
        wanted = given.task.log_probabilities(task.forward(rows)).detach()
        torch.testing.assert_close(done.log_probabilities[:, k], wanted, rtol=1e-4, atol=1e-5)
    assert given.evaluator.cost.forward_rows == 15


def test_noise_lies_on_what_is_removed_only():
    task, _ = evidence_task()
    given = problem(task, photos(2, 3, 12), target=1)
    mask = holes(2, 12, 12, 0.5, connected=False)
    quiet = NoisyLinear(noise=0.0).fill(given, given.everyone, given.everyone, mask)
    loud = NoisyLinear(noise=0.01).fill(given, given.everyone, given.everyone, mask)
    gone = mask.expand_as(quiet)
    assert torch.equal(loud[~gone], given.x[~gone])
    assert 0.008 < float((loud - quiet)[gone].std()) < 0.012


def test_bad_requests_are_refused():
    with pytest.raises(SpecError) as caught:
        NoisyLinear(noise=-1.0)
    assert caught.value.code is Code.BAD_PARAMETER
    task, _ = evidence_task()
    given = problem(task, photos(1), target=1)
    given.x = given.x.flatten(1)
    with pytest.raises(SpecError) as caught:
        NoisyLinear().rows(given, given.everyone, given.everyone)
    assert caught.value.code is Code.UNSUPPORTED

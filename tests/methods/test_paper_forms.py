"""Every method without recorded maps against a slow form written from its definition, in float64."""

import math

import pytest
import torch
from tests.methods.common import miss
from torch import Tensor, nn

import abe
from abe.baselines import Dataset
from abe.engines.path.step import Point, State
from abe.spec import value
from abe.testing.draws import RecordedDraws

EXACT = 1e-12
TARGET = 1


def _net(seed: int = 0) -> nn.Sequential:
    """Smooth, so that slow sums converge: 2 × 8 × 8 inputs, three classes."""
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.Softplus(), nn.Conv2d(4, 4, 3, stride=2), nn.Tanh(), nn.Flatten(),
        nn.Linear(36, 3),
    ).double()  # fmt: skip
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.4)
    return net.eval()


def _x(b: int = 2, seed: int = 1) -> Tensor:
    return torch.rand(b, 2, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _score(net: nn.Module, x: Tensor) -> Tensor:
    return net(x)[:, TARGET].detach()


def _gradient(net: nn.Module, x: Tensor) -> Tensor:
    """One row at a time: nothing here shares code or a batch with what is tested."""
    rows = []
    for row in x:
        leaf = row[None].clone().requires_grad_(True)
        net(leaf)[0, TARGET].backward()
        rows.append(leaf.grad)
    return torch.cat(rows)


def _explain(net: nn.Module, x: Tensor, method, *, bounds=(0, 1), **how) -> abe.Explanation:
    task = abe.image_task(net, bounds=bounds, output_kind="logits")
    return abe.explain(task, x, method, target=TARGET, progress=False, **how)


@pytest.mark.parametrize(
    ("method", "reduce"),
    [
        ("smoothgrad", lambda g: g.mean(1)),
        ("smoothgrad_squared", lambda g: (g**2).mean(1)),
        ("vargrad", lambda g: ((g - g.mean(1, keepdim=True)) ** 2).mean(1)),
    ],
)
def test_noisy_gradients(method, reduce):
    net, x, draws = _net(), _x(), RecordedDraws()
    found = _explain(net, x, method, bounds=(-1, 3), samples=6, sigma=0.1, draws=draws, ids=[5, 6])
    noise = draws.recorded["smooth.noise"]
    gradients = torch.stack(
        [
            torch.stack(
                [_gradient(net, x[i : i + 1] + 0.1 * 4 * noise[5 + i, k].double())[0] for k in range(6)]
            )
            for i in range(2)
        ]
    )
    assert miss(found.attribution, reduce(gradients)) < EXACT
    if method == "smoothgrad":
        error = gradients.std(1, correction=1) / math.sqrt(6)
        assert miss(found.standard_error, error) < 1e-8
    if method == "smoothgrad_squared":
        error = (gradients**2).std(1, correction=1) / math.sqrt(6)
        assert miss(found.standard_error, error) < 1e-8


def test_noise_is_relative_to_the_sample_where_the_task_has_no_bounds():
    net, x, draws = (
        _net(),
        _x() * torch.tensor([1.0, 5.0], dtype=torch.float64).view(-1, 1, 1, 1),
        RecordedDraws(),
    )
    found = _explain(net, x, "smoothgrad", bounds=None, samples=3, sigma=0.2, draws=draws, ids=[0, 1])
    slow = torch.zeros_like(x)
    for i in range(2):
        for k in range(3):
            noise = draws.recorded["smooth.noise"][i, k].double()
            slow[i] += _gradient(net, x[i : i + 1] + 0.2 * (x[i].max() - x[i].min()) * noise)[0] / 3
    assert miss(found.attribution, slow) < EXACT


def test_integrated_gradients_by_a_dense_sum():
    net, x = _net(), _x()
    slow, k = torch.zeros_like(x), 2000
    for i in range(k):
        slow += (x - 0.3) * _gradient(net, 0.3 + (i + 0.5) / k * (x - 0.3)) / k
    found = _explain(net, x, "ig", baseline=0.3, steps=50)
    assert miss(found.attribution, slow) < 1e-6
    assert (found.residual.abs() < 1e-12).all()
    adaptive = _explain(net, x, "ig", baseline=0.3, tolerance=1e-4)
    assert (adaptive.residual.abs() <= 1e-4).all()
    assert miss(adaptive.attribution, slow) < 1e-3


def test_expected_gradients_by_a_loop():
    net, x, draws = _net(), _x(), RecordedDraws()
    background = _x(5, seed=3)
    found = _explain(
        net, x, "eg", baseline=Dataset(samples=background), samples=8, draws=draws, ids=[0, 1], seed=3
    )
    slow, starts, terms = torch.zeros_like(x), torch.zeros(2, dtype=torch.float64), []
    for i in range(2):
        kept = []
        for k in range(8):
            reference = background[int(draws.recorded["baseline.dataset"][i, k])]
            alpha = (k + draws.recorded["expectation.alpha"][i, k].double()) / 8  # one α in each interval
            point = reference + alpha * (x[i] - reference)
            kept.append((x[i] - reference) * _gradient(net, point[None])[0])
            starts[i] += _score(net, reference[None])[0] / 8
        slow[i] = torch.stack(kept).mean(0)
        terms.append(torch.stack(kept).std(0, correction=1) / math.sqrt(8))
    assert miss(found.attribution, slow) < EXACT
    assert miss(found.standard_error, torch.stack(terms)) < 1e-8
    torch.testing.assert_close(found.delta, _score(net, x) - starts, rtol=1e-10, atol=1e-12)


def _guided(net: nn.Module, x: Tensor, start: Tensor, steps: int, fraction: float, max_dist: float) -> Tensor:
    """The published loop, one sample, feature by feature."""
    goal, origin = x.flatten().tolist(), start.flatten().tolist()
    at, out = list(origin), [0.0] * len(goal)
    whole = sum(abs(g - o) for g, o in zip(goal, origin, strict=True))
    for step in range(steps):
        gradient = (
            _gradient(net, torch.tensor(at, dtype=torch.float64).view(1, *x.shape))[0].flatten().tolist()
        )
        size = [abs(g) for g in gradient]
        alpha = (step + 1) / steps
        low, high = max(alpha - max_dist, 0.0), min(alpha + max_dist, 1.0)
        slow = [o + (g - o) * low for g, o in zip(goal, origin, strict=True)]
        fast = [o + (g - o) * high for g, o in zip(goal, origin, strict=True)]
        before, share = list(at), math.inf
        while share > 1:
            for j, (a, o, g) in enumerate(zip(at, origin, goal, strict=True)):
                if g != o and (a - o) / (g - o) < low:
                    at[j] = slow[j]
            left = sum(abs(a - g) for a, g in zip(at, goal, strict=True))
            if math.isclose(left, whole * (1 - alpha), rel_tol=1e-9, abs_tol=1e-9):
                break
            size = [math.inf if a == f else s for a, f, s in zip(at, fast, size, strict=True)]
            threshold = sorted(size)[int(fraction * (len(size) - 1))]
            quiet = [j for j, s in enumerate(size) if s <= threshold and s != math.inf]
            room = sum(abs(at[j] - fast[j]) for j in quiet)
            share = (left - whole * (1 - alpha)) / room if room > 0 else math.inf
            for j in quiet:
                at[j] = fast[j] if share > 1 else at[j] + share * (fast[j] - at[j])
        out = [o + (a - b) * g for o, a, b, g in zip(out, at, before, gradient, strict=True)]
    return torch.tensor(out, dtype=torch.float64).view_as(x)


@pytest.mark.parametrize(("steps", "fraction", "max_dist"), [(7, 0.25, 0.02), (9, 0.1, 0.3), (5, 1.0, 0.0)])
def test_guided_ig_by_its_loop(steps, fraction, max_dist):
    net, x = _net(), _x()
    x[:, 0, :2] = 0.4  # features that are where the baseline is
    found = _explain(net, x, "gig", baseline=0.4, steps=steps, fraction=fraction, max_dist=max_dist)
    slow = [_guided(net, row, torch.full_like(row, 0.4), steps, fraction, max_dist) for row in x]
    assert miss(found.attribution, torch.stack(slow)) < 1e-10


def _blurred(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur with a reflecting border, in Fourier's basis of the image beside its mirror."""
    for axis in (2, 3):
        n = x.shape[axis]
        mirrored = torch.cat([x, x.flip(axis)], axis)
        shape = [1, 1, 1, 1]
        shape[axis] = 2 * n
        frequency = 2 * math.pi * torch.fft.fftfreq(2 * n, dtype=torch.float64).view(shape)
        gain = torch.exp(-0.5 * (sigma * frequency) ** 2)
        x = torch.fft.ifft(torch.fft.fft(mirrored, dim=axis) * gain, dim=axis).real.narrow(axis, 0, n)
    return x


def test_blur_of_the_path_is_a_gaussian_with_reflecting_border():
    x = _x()
    sigma, reach = 1.6, 24
    at = torch.arange(-reach, reach + 1, dtype=torch.float64)
    kernel = torch.exp(-(at**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    turns = [(i + int(d)) % 16 for i in range(8) for d in at]  # … c b a | a b c … h | h g f …
    index = torch.tensor([t if t < 8 else 15 - t for t in turns]).view(8, -1)
    rows = (x[:, :, index] * kernel.view(1, 1, 1, -1, 1)).sum(3)
    slow = (rows[:, :, :, index] * kernel).sum(4)
    torch.testing.assert_close(_blurred(x, sigma), slow, rtol=0, atol=1e-5)  # the sampled kernel aliases


@pytest.mark.slow
def test_blur_ig_by_dense_finite_differences():
    net, x = _net(), _x()
    largest, k = 4.0, 4000
    corner = _blurred(x, largest)
    start, slow = corner, torch.zeros_like(x)
    for i in range(k):
        following = _blurred(x, largest * (1 - (i + 1) / k))
        slow += (following - corner) * _gradient(net, (following + corner) / 2)
        corner = following
    found = _explain(net, x, "blur_ig", max_sigma=largest, steps=60)
    assert miss(found.attribution, slow) < 1e-6
    torch.testing.assert_close(found.delta, _score(net, x) - _score(net, start), rtol=1e-10, atol=1e-12)
    assert (found.residual_absolute.abs() < 1e-8).all()


def _bent(x: Tensor, alpha: Tensor) -> Tensor:
    a = alpha.view(-1, 1, 1, 1)
    return x * a**2 + 0.2 * torch.sin(math.pi * a)


def test_user_path_as_a_function_by_chords():
    net, x, k = _net(), _x(), 40
    nodes = torch.linspace(0, 1, k + 1, dtype=torch.float64)
    points = [_bent(x, a.expand(2)) for a in nodes]
    gradients = [_gradient(net, p) for p in points]
    slow = sum((points[i + 1] - points[i]) * (gradients[i] + gradients[i + 1]) / 2 for i in range(k))
    found = _explain(net, x, "path_integral", path=_bent, steps=k)
    assert miss(found.attribution, slow) < EXACT
    torch.testing.assert_close(found.delta, _score(net, x) - _score(net, torch.zeros_like(x)))
    assert found.diagnostics["nodes"].tolist() == [k + 1, k + 1]


def test_user_path_through_points_visits_every_corner():
    net, x = _net(), _x()
    corners = torch.stack([torch.zeros_like(x), 1 - x, x], dim=1)
    slow = torch.zeros_like(x)
    for begin, end in ((corners[:, 0], corners[:, 1]), (corners[:, 1], corners[:, 2])):
        points = [begin + i / 20 * (end - begin) for i in range(21)]
        gradients = [_gradient(net, p) for p in points]
        slow += sum((points[i + 1] - points[i]) * (gradients[i] + gradients[i + 1]) / 2 for i in range(20))
    found = _explain(net, x, "path_integral", path=corners, steps=40)
    assert miss(found.attribution, slow) < 1e-10


def _walk(net: nn.Module, x: Tensor, step, steps: int, rule: str) -> Tensor:
    """Algorithm 1, one sample at a time; the sum is negated so that it explains s(input) − s(end)."""
    rows = []
    for row in x:
        at, total = row[None], torch.zeros_like(row[None])
        for t in range(steps):
            gradient = _gradient(net, at)
            following = step(at, gradient, t)
            along = gradient if rule == "left" else (gradient + _gradient(net, following)) / 2
            total -= (following - at) * along
            at = following
        rows.append(total[0])
    return torch.stack(rows)


@value
class OwnMomentum:
    """Ascent along accumulated unit gradients; carries a state from step to step."""

    alpha: float = 0.05

    def step(self, point: Point, state: State) -> tuple[Tensor, State]:
        g = point.gradient / point.gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        memory = 0.5 * state["memory"] + g if "memory" in state else g
        return point.clip(point.x - self.alpha * memory), {"memory": memory}


@pytest.mark.parametrize("rule", ["left", "trapezoid"])
def test_algorithm_1_with_a_function(rule):
    net, x = _net(), _x()
    found = _explain(
        net, x, "path_attribution", update=lambda point: point.clip(point.x - 0.03 * point.gradient.sign()),
        steps=6, rule=rule,
    )  # fmt: skip
    slow = _walk(net, x, lambda at, g, t: (at - 0.03 * g.sign()).clamp(0, 1), 6, rule)
    assert miss(found.attribution, slow) < EXACT
    named = _explain(net, x, "path_attribution", update=("descent", {"alpha": 0.03}), steps=6, rule=rule)
    assert torch.equal(named.attribution, found.attribution)


@pytest.mark.parametrize("rule", ["left", "trapezoid"])
def test_algorithm_1_with_a_state(rule):
    net, x = _net(), _x()
    memories: dict[int, Tensor] = {}

    def step(at, g, t):
        memory = g / g.norm() + (0.5 * memories[t - 1] if t else 0)
        memories[t] = memory
        return (at - 0.05 * memory).clamp(0, 1)

    slow = _walk(net, x, step, 5, rule)
    found = _explain(net, x, "path_attribution", update=OwnMomentum(), steps=5, rule=rule)
    assert miss(found.attribution, slow) < EXACT


def test_nodes_inside_the_steps_make_algorithm_1_complete():
    net, x = _net(), _x()
    short = {"update": ("descent", {"alpha": 0.1}), "steps": 5}
    left = _explain(net, x, "path_attribution", rule="left", **short)
    printed = _walk(net, x, lambda at, g, t: (at - 0.1 * g.sign()).clamp(0, 1), 5, "left")
    assert miss(left.attribution, printed) < EXACT
    trapezoid = _explain(net, x, "path_attribution", **short)
    gauss = _explain(net, x, "path_attribution", segment_nodes=8, **short)
    within = _explain(net, x, "path_attribution", tolerance=1e-3, **short)
    assert (left.residual.abs() > 2 * trapezoid.residual.abs()).all()
    assert (gauss.residual.abs() < 1e-9).all()
    assert (within.residual.abs() <= 1e-3).all()
    torch.testing.assert_close(left.delta, gauss.delta)


def test_from_a_baseline_the_sum_is_kept():
    """s(input) − s(reference) from a path that starts at the reference, without a minus."""
    net, x = _net(), _x()
    straight = _explain(
        net, x, "path_attribution", start="zero", steps=10, segment_nodes=5,
        update=lambda point: point.start + (point.step + 1) / point.steps * (point.sample - point.start),
    )  # fmt: skip
    assert miss(straight.attribution, _explain(net, x, "ig", steps=50).attribution) < 1e-9
